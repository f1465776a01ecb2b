/* SPDX-License-Identifier: MIT */
/*
 * dot.cuh: dot products of many rows: each row is read once, so memory decides. Two forms:
 *
 * - short rows (up to 4 KiB): some lanes of a warp share a row, and each takes
 *   several, whose loads are all under way before the first is used. Small calls are
 *   read in place over the bus: one trip of it.
 * - long rows: a block takes 1 or 4 rows; where rows are few, several blocks share them and the
 *   one that ends last adds up their sums, always in the same order.
 *
 * No product passes through more than 70 additions that round: a lane of the short form makes 64
 * at most, then 5 between lanes and the bias; the long form adds its few products to a compensated
 * sum, then 5 between lanes, 3 between warps, and 5 between blocks.
 */
#ifndef GPUQ_KERNELS_CUDA_DOT_CUH
#define GPUQ_KERNELS_CUDA_DOT_CUH

#include "kernels/cuda/arg.cuh"

/*
 * Output r belongs to place r % period of group r / period; a period of 0 is endless. The bias is
 * that of the place. Vectors are those of the place or the group; with vec_shared both are 0.
 */
struct dot_task {
	struct arg rows, vecs, bias, out;
	uint64_t n;	   /* elements of a row */
	uint64_t count;	   /* outputs */
	uint32_t period;   /* see above */
	bool rows_repeat;  /* the row is that of the place, else each output has one */
	bool vec_shared;   /* all outputs have one vector: the period is 0, vec_by_place false */
	bool vec_by_place; /* see above */
	bool has_bias;
	bool wide; /* outputs are f32 */
};

/*
 * Launches dot products of inputs of the dtype. Returns as launch() of struct cuda_code; more
 * outputs than INT_MAX are -EOPNOTSUPP.
 */
int dot_launch(const struct dot_task *task, uint32_t dtype, const struct device_kernel *kernel,
	const struct cuda_args *args, const struct cuda_target *to);

/* The same for the resident kernel; returns as command() of struct cuda_code. */
int dot_command(const struct dot_task *task, uint32_t dtype, struct cuda_command *command);

/* Loads the kernels. */
int dot_touch(void);

#endif
