/* SPDX-License-Identifier: MIT */
/* time_ops.h: the timing half of check_ops. */
#ifndef GPUQ_TESTS_KERNELS_TIME_OPS_H
#define GPUQ_TESTS_KERNELS_TIME_OPS_H

/*
 * Prints ns per call of every form at the reference shapes and at some others, those whose names
 * begin with prefix; returns 0 or 1.
 */
int time_ops(const char *prefix);

#endif
