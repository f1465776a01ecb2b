/* SPDX-License-Identifier: MIT */
/*
 * guard.h: memory between two pages that nobody may touch, so that a kernel that reads or writes
 * beside its tensor faults instead of getting away with it.
 */
#ifndef GPUQ_TESTS_KERNELS_GUARD_H
#define GPUQ_TESTS_KERNELS_GUARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct guard {
	char *base;
	size_t size; /* usable bytes, whole pages */
	char *placed;
	size_t bytes;
};

enum guard_side {
	GUARD_START, /* right after the page below */
	GUARD_END,   /* right before the page above */
	GUARD_INSIDE,
};

/* At least `bytes` usable bytes; ends the program when there is no memory. */
void guard_create(struct guard *g, size_t bytes);
void guard_destroy(struct guard *g);

/*
 * Room for `bytes`; offset (a multiple of the element) counts for GUARD_INSIDE only. Fills the
 * bytes around it with a pattern that guard_intact() looks for.
 */
void *guard_place(struct guard *g, size_t bytes, enum guard_side side, size_t offset);

/* True when nothing within 256 bytes of the placed room was written. */
bool guard_intact(const struct guard *g);

#endif
