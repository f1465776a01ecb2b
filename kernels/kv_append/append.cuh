/* SPDX-License-Identifier: MIT */
/* append.cuh: what the operators share in CUDA that put new tokens into the cache. */
#ifndef GPUQ_KERNELS_APPEND_CUH
#define GPUQ_KERNELS_APPEND_CUH

#include "kernels/cuda/kv.cuh"
#include "kernels/rope/turn.cuh"

extern "C" {
#include "kernels/kv_append/kv_append.h"
}

struct append_task {
	struct arg qkv, positions, rows, table, cache, q_norm, k_norm, q, eps;
	struct turn_args turns;
	struct kv_shape kv;
	uint64_t heads;			     /* of queries */
	uint32_t shares;		     /* blocks of a row */
	uint32_t q_norm_dtype, k_norm_dtype; /* 0: there are no norms */
	bool early; /* positions, rows and table may be read before cuda_await() */
};

/* Where the first key of a token goes; -1: nowhere. */
static __device__ inline int64_t slot_of(const struct append_task &task,
	const struct device_args *block, int32_t row, int32_t position)
{
	const int32_t *table = (const int32_t *)arg_pointer(block, task.table);
	int64_t found = -1;

	if (position >= 0)
		found = kv_find(task.kv, table, row, (uint64_t)position / KV_TOKENS);
	return found < 0 ? -1
			 : (int64_t)(kv_begin(task.kv, (uint64_t)found, KV_KEYS, 0) +
				   (uint64_t)position % KV_TOKENS * task.kv.columns);
}

static inline struct append_task append_task_of(
	const struct op_launch *op, const struct cuda_args *args)
{
	const struct tensor *in = op->call.in, *q = &op->call.out[0];
	struct append_task task = {};

	task.qkv = arg_tensor(args, &in[APPEND_QKV], op->in[APPEND_QKV]);
	task.positions = arg_tensor(args, &in[APPEND_POSITIONS], op->in[APPEND_POSITIONS]);
	task.rows = arg_tensor(args, &in[APPEND_ROWS], op->in[APPEND_ROWS]);
	task.table = arg_tensor(args, &in[APPEND_TABLE], op->in[APPEND_TABLE]);
	task.cache = arg_tensor(args, &in[APPEND_CACHE], op->in[APPEND_CACHE]);
	task.q_norm_dtype = in[APPEND_Q_NORM].dtype;
	task.k_norm_dtype = in[APPEND_K_NORM].dtype;
	if (task.q_norm_dtype != 0) {
		task.q_norm = arg_tensor(args, &in[APPEND_Q_NORM], op->in[APPEND_Q_NORM]);
		task.k_norm = arg_tensor(args, &in[APPEND_K_NORM], op->in[APPEND_K_NORM]);
	}
	task.q = arg_tensor(args, q, op->out[0]);
	task.turns = turn_args_of(args, op);
	task.eps = arg_param(args, &op->call.params[APPEND_EPS], op->params[APPEND_EPS]);
	task.kv = kv_shape_of(&in[APPEND_TABLE], &in[APPEND_CACHE]);
	task.heads = q->dims[1];
	task.early =
		stay_constant(op, 1u << APPEND_POSITIONS | 1u << APPEND_ROWS | 1u << APPEND_TABLE);
	return task;
}

#endif
