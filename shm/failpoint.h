/* SPDX-License-Identifier: MIT */
/*
 * failpoint.h: places where a test lets a process die. They exist in builds for tests only (the
 * option `failpoints`); elsewhere they are nothing.
 *
 * Processes that have GPUQ_FAILPOINTS in their environment, the path of a file of the size of
 * struct failpoint_page, look there: whoever comes to the place that is armed, for the count-th
 * time, is killed or stops at once, and nobody after that. A place is a name and a number, which is
 * the type of a message, or 0.
 */
#ifndef GPUQ_SHM_FAILPOINT_H
#define GPUQ_SHM_FAILPOINT_H

#include <stdint.h>

#define FAILPOINT_NAME_MAX 28
#define FAILPOINT_SEEN_MAX 512

struct failpoint {
	char name[FAILPOINT_NAME_MAX];
	uint32_t number;
	uint32_t passes;
};

enum failpoint_action { FAILPOINT_KILL = 0, FAILPOINT_STOP = 1 };

struct failpoint_page {
	uint32_t armed; /* 1: at `place` */
	uint32_t count; /* how often it is still to be passed */
	uint32_t action;
	uint32_t fired; /* pid of the process that died or stopped there; written before */
	struct failpoint place;
	/* Places that were ever passed; with repetitions when processes come at one time. */
	uint32_t n_seen;
	struct failpoint seen[FAILPOINT_SEEN_MAX];
};

#ifdef GPUQ_FAILPOINTS
void failpoint_pass(const char *name, uint32_t number);
#define FAILPOINT_OF(name, number) failpoint_pass(name, number)
#else
#define FAILPOINT_OF(name, number) ((void)0)
#endif
#define FAILPOINT(name) FAILPOINT_OF(name, 0)

#endif
