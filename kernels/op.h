/* SPDX-License-Identifier: MIT */
/*
 * op.h: what an operator is. One folder per operator holds its spec (a `struct op`), its
 * reference (plain C, double accumulation), its fast CPU form and its CUDA form. The
 * table of all operators is kernels/registry.c; an operator's number on the wire is its place
 * in that table for the life of one gpuqd, so clients look it up by name.
 */
#ifndef GPUQ_KERNELS_OP_H
#define GPUQ_KERNELS_OP_H

#include "device/tensor.h"

#define OP_EXAMPLE_INDEX 63

/* A tensor argument in an operator's spec. */
struct op_tensor {
	const char *name;  /* "x" */
	const char *shape; /* for people: "[B,I]" */
	uint32_t dtypes;   /* mask of GPUQ_DTYPE_BIT */
	bool optional;
	bool in_out; /* of an input: the operator writes it too, where it lies */
};

/* A scalar argument in an operator's spec. */
struct op_param {
	const char *name;
	const char *doc;
	uint32_t type; /* enum gpuq_param_type */
	double preset; /* value when the request does not give one */
	double min, max;
};

union op_value {
	double f64;
	int64_t i64;
};

/* One request for an operator, validated step by step: see op_check(). */
struct op_call {
	const struct op *op;
	uint32_t place; /* 1 + the operator's number where that is known, else 0 */
	struct tensor in[GPUQ_MAX_INPUTS];
	struct tensor out[GPUQ_MAX_OUTPUTS];
	union op_value params[GPUQ_MAX_PARAMS];
};

struct op {
	const char *name;
	const char *summary; /* one line for people */
	const char *formula; /* "y[b,o] = sum_i w[o,i] x[b,i] + bias[o]" */
	uint32_t n_inputs, n_outputs, n_params;
	struct op_tensor inputs[GPUQ_MAX_INPUTS];
	struct op_tensor outputs[GPUQ_MAX_OUTPUTS];
	struct op_param params[GPUQ_MAX_PARAMS];

	/*
	 * Checks that ranks and dimensions of the inputs fit each other and the given dtypes, and
	 * writes rank and dims (not dtype, not data) of every output. Called after the generic
	 * checks of op_check(), so present dtypes are allowed ones and sizes do not overflow.
	 * Returns 0, or a negative gpuq error and in *ret_arg the argument to blame: the place of
	 * an input, or GPUQ_MAX_INPUTS + the place of an output. Never looks at data.
	 */
	int (*infer)(struct op_call *call, uint32_t *ret_arg);

	/*
	 * Independent units of work (rows, or rows by blocks of columns): workers take disjoint
	 * ranges of them. 0 when there is nothing to write, whatever the other dimensions are.
	 */
	uint64_t (*units)(const struct op_call *call);

	/*
	 * Cost of the whole call in multiply-adds or their equivalent, memory traffic included;
	 * feeds the latency model. Saturates at UINT64_MAX.
	 */
	uint64_t (*work)(const struct op_call *call);

	/*
	 * Writes rank and dims of every required input for a typical call whose work grows about
	 * linearly with scale (1 or more); dtypes and data are the caller's. For calibration, where
	 * every i32 is OP_EXAMPLE_INDEX: indices that count have to be valid with that.
	 */
	void (*example)(struct op_call *call, uint64_t scale);

	/* The whole call in plain C with double accumulation. The truth in every test. */
	void (*reference)(const struct op_call *call);

	/*
	 * Units begin..end-1, as fast as this CPU can. No allocation, no lock, no system call, at
	 * most 64 KiB of stack. Every output element is accumulated in one order that depends on
	 * the shape and the CPU only, so the result does not depend on how the units are split.
	 */
	void (*cpu)(const struct op_call *call, uint64_t begin, uint64_t end);
};

/* All operators, in the order of their numbers. */
extern const struct op *const op_table[];
extern const uint32_t op_count;

/* The operator with this name, or NULL; its number in *ret_index when that is not NULL. */
const struct op *op_find(const char *name, uint32_t *ret_index);

/*
 * Checks a call whose op, tensors (dtype, rank, dims; data ignored) and params are filled in:
 * required inputs and all outputs present (-GPUQ_EMISSING), nothing in places that the operator
 * does not have (-GPUQ_EARGS), dtypes allowed (-GPUQ_EDTYPE), ranks <= GPUQ_MAX_RANK
 * (-GPUQ_ERANK), sizes that do not overflow (-GPUQ_EOVERFLOW), params finite and within their
 * range (-GPUQ_EPARAM), shapes (infer), and that each given output has the inferred shape
 * (-GPUQ_ERANK, -GPUQ_ESHAPE). An output whose rank is UINT32_MAX takes the inferred shape.
 * Returns 0, or a negative gpuq error with the argument to blame in *ret_arg (as in infer;
 * GPUQ_MAX_TENSORS + place for a param); the call is then as it was, and so is *ret_arg after
 * success. An op that is NULL is -GPUQ_EOP, blamed on argument 0. Touches no tensor data. Any
 * thread.
 */
int op_check(struct op_call *call, uint32_t *ret_arg);

#endif
