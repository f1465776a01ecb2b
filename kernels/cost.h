/* SPDX-License-Identifier: MIT */
/*
 * cost.h: how long a call will take on this CPU, on one thread: ns = base + per_work * work for
 * each operator and input type, measured once at start. It decides what is small enough to run
 * at once on the dispatch thread, so it is fitted around 2 us with data in the nearest caches;
 * a call much larger than that may take longer than predicted, never meaningfully shorter.
 */
#ifndef GPUQ_KERNELS_COST_H
#define GPUQ_KERNELS_COST_H

#include "kernels/op.h"

#define COST_MAX_OPS 32

struct cost_line {
	double base_ns;
	double per_work_ns;
};

struct cost_model {
	struct cost_line lines[COST_MAX_OPS][GPUQ_DTYPE_LAST + 1]; /* by the type of input 0 */
};

/* Measures for at most about 20 ms. Returns 0 or -ENOMEM. Not while another thread measures. */
int cost_calibrate(struct cost_model *model);

/*
 * The predicted time of a call that passed op_check(); UINT64_MAX when the operator or its type
 * was not measured. No allocation, no system call. Any thread.
 */
uint64_t cost_predict_ns(const struct cost_model *model, const struct op_call *call);

#endif
