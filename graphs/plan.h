/* SPDX-License-Identifier: MIT */
/*
 * plan.h: what one exact shape of a sequence (an operator or a pipeline) is for a device: kernels
 * in their order, where each finds its tensors, and how much scratch memory the tensors between
 * them need. Pure logic: no device is touched.
 *
 * Tensors of the call are taken from device_args at each launch (pointers[] as op_args() fills
 * them in). Inner tensors lie in scratch memory; two share bytes only when the last reader of one
 * comes before the writer of the other. Their addresses, those of a pipeline's constants, and the
 * parameters of its steps are fixed in the kernels' op_launch.
 */
#ifndef GPUQ_GRAPHS_PLAN_H
#define GPUQ_GRAPHS_PLAN_H

#include "graphs/pipeline.h"
#include "kernels/cost.h"
#include "kernels/launch.h"

#include <sys/queue.h>

#define PLAN_ALIGN 256u
#define PLAN_MAX_BYTES (1ull << 46) /* of scratch memory */

struct plan_kernel {
	struct op_launch launch;
	uint64_t units;
	uint64_t predicted_ns;
};

struct plan {
	uint64_t refs; /* plan_create() makes it 1; the owners count */
	uint32_t n_kernels;
	uint64_t scratch_bytes;
	uint64_t predicted_ns;
	uint64_t bytes;	   /* of this struct */
	struct plan *next; /* these two are the owner's */
	LIST_ENTRY(plan) link;
	struct plan_kernel kernels[];
};

/*
 * Plans a call: of an operator (pipeline NULL) that passed op_check(), or of a pipeline whose
 * interface is call->op. Inner tensors lie from scratch_base on, which is aligned to PLAN_ALIGN
 * and not NULL; nothing is written there. cost may be NULL: nothing is predicted then.
 *
 * The errors of op_check() when the shapes do not fit the steps, with 1 + the argument of the call
 * that is to blame in *ret_blame, or 0 when an inner tensor is; -ENOMEM; -GPUQ_EOVERFLOW: the
 * inner tensors are larger than any memory.
 */
int plan_create(const struct pipeline *pipeline, const struct op_call *call, void *scratch_base,
	const struct cost_model *cost, struct plan **ret_plan, uint32_t *ret_blame);

/* What the device is given of it; it reads the plan until the kernel has ended. */
struct device_kernel plan_device_kernel(const struct plan_kernel *kernel, bool signal);

/* Inner tensors lie from `to` on, where they lay from `from` on; constants stay. */
void plan_move(struct plan *plan, const void *from, void *to);

/* NULL is fine. */
void plan_destroy(struct plan *plan);

#endif
