/* SPDX-License-Identifier: MIT */
/*
 * consumer.c: a program from elsewhere that uses an installed gpuq; compiled as C and as C++.
 * Everything public is named once, so that it must be declared, exported and linkable.
 */
#include <gpuq.h>

#include <stdio.h>
#include <string.h>

/* Takes the address of every function; never called with these arguments. */
static int all_there(void)
{
	int n = 0;

	n += gpuq_connect != 0 && gpuq_disconnect != 0 && gpuq_alive != 0;
	n += gpuq_server_version != 0 && gpuq_socket_path != 0 && gpuq_abi != 0;
	n += gpuq_admin_stop != 0 && gpuq_op_count != 0 && gpuq_device_count != 0;
	n += gpuq_limits != 0 && gpuq_op_info != 0 && gpuq_op_find != 0;
	n += gpuq_device_info != 0 && gpuq_channel_open != 0 && gpuq_channel_close != 0;
	n += gpuq_channel_adopt != 0 && gpuq_channel_gpuq != 0 && gpuq_alloc != 0;
	n += gpuq_free != 0 && gpuq_call_create != 0 && gpuq_call_destroy != 0;
	n += gpuq_submit != 0 && gpuq_cancel != 0 && gpuq_poll != 0;
	n += gpuq_wait != 0 && gpuq_wait_space != 0 && gpuq_in_flight != 0;
	n += gpuq_completion_fd != 0 && gpuq_arm != 0 && gpuq_rescues != 0;
	n += gpuq_explain != 0;
	return n == 11;
}

int main(void)
{
	struct gpuq_tensor tensor = {0};
	struct gpuq_submission submission = {0};
	struct gpuq_options options = {0};
	struct gpuq *g = NULL;

	tensor.dtype = GPUQ_F32;
	submission.user_data = GPUQ_FOREVER;
	options.socket = "/nowhere/gpuq";
	if (!all_there() || strcmp(gpuq_version(), EXPECTED_VERSION) != 0)
		return 1;
	if (gpuq_connect(&options, &g) != -ENOENT || g != NULL)
		return 2;
	if (strcmp(gpuq_error_name(-GPUQ_EGONE), "GPUQ_EGONE") != 0)
		return 3;
	printf("%s\n", gpuq_error_detail());
	return tensor.dtype == GPUQ_F32 && submission.user_data == UINT64_MAX ? 0 : 4;
}
