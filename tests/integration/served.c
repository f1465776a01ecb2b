/* SPDX-License-Identifier: MIT */
/* served.c: see served.h. */
#include "tests/integration/served.h"
#include "shm/clock.h"
#include "tests/integration/client.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct random served_seed(void)
{
	const char *text = getenv("TEST_SEED");
	struct random rng = {text != NULL ? strtoull(text, NULL, 0) : (uint64_t)getpid()};

	print_message("TEST_SEED=%llu\n", (unsigned long long)rng.state);
	return rng;
}

void served_dir(int dir_fd, char *ret_path, size_t size)
{
	char link[64];

	snprintf(link, sizeof(link), "/proc/self/fd/%d", dir_fd);
	const ssize_t n = readlink(link, ret_path, size - 1);
	assert_true(n > 0);
	ret_path[n] = '\0';
}

void served_await(struct gpuq *g, const char *name)
{
	const uint64_t start_ns = clock_monotonic_ns();
	struct gpuq_model_info m;

	do {
		if (gpuq_model_find(g, name, &m) < 0)
			fail_msg("%s", gpuq_error_detail());
		if (m.state == GPUQ_MODEL_FAILED)
			fail_msg("%s", m.why);
		if (clock_monotonic_ns() - start_ns > PATIENCE_NS)
			fail_msg("%s is never ready", name);
		usleep(2000);
	} while (m.state != GPUQ_MODEL_READY);
}
