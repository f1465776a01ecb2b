/* SPDX-License-Identifier: MIT */
/* rig.h: a fake gpuqd with a connection and a channel on it: where most client tests start. */
#ifndef GPUQ_TESTS_CLIENT_RIG_H
#define GPUQ_TESTS_CLIENT_RIG_H

#include "client/gpuq.h"
#include "tests/client/fake.h"
#include "tests/harness.h"

#include <string.h>

#define RIG_SECOND_NS 1000000000ull
/* Longer than anything takes that is going to happen at all. */
#define RIG_LONG_NS (15 * RIG_SECOND_NS)

struct rig {
	struct fake *fake;
	struct fake_control *control;
	struct gpuq *g;
	struct gpuq_channel *ch;
	/* For copy calls: `bytes` of each. */
	uint8_t *x, *y;
	uint64_t bytes;
};

/* options may be NULL. */
void rig_start(struct rig *rig, const struct gpuq_channel_options *options);

/* On a fake that the test has prepared and started; rig_stop() destroys it. */
void rig_start_on(struct rig *rig, struct fake *fake, const struct gpuq_channel_options *options);

void rig_stop(struct rig *rig);

/* A call of "copy" from rig->x to rig->y, or of "fail". */
struct gpuq_call *rig_copy(struct rig *rig);
struct gpuq_call *rig_fail(struct rig *rig, int64_t status, int64_t blame);

/* Submits one with this user_data; the call may be NULL. */
int rig_submit(struct rig *rig, struct gpuq_call *call, uint64_t user_data);

/* Waits for one completion and checks whose it is. */
struct gpuq_completion rig_wait(struct rig *rig, uint64_t user_data);

/* Polls, patiently, until gpuq_poll() returns something else than 0. */
int rig_poll(struct gpuq_channel *ch, struct gpuq_completion *ret_completions, uint32_t max);

/* The last failure's sentence contains `words`. */
#define assert_detail(words)                                                    \
	do {                                                                    \
		if (strstr(gpuq_error_detail(), words) == NULL)                 \
			fail_msg("\"%s\" is not in the sentence \"%s\"", words, \
				gpuq_error_detail());                           \
	} while (0)

#endif
