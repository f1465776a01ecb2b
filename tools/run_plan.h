/* SPDX-License-Identifier: MIT */
/*
 * run_plan.h: from the command line of `gpuq run` to tensors: which file is which input, their
 * element types, the shapes of the outputs, the parameters, the memory that all of it takes.
 * Everything that can be refused before memory is asked for is refused here, by name.
 */
#ifndef GPUQ_TOOLS_RUN_PLAN_H
#define GPUQ_TOOLS_RUN_PLAN_H

#include "gpuq.h"
#include "tools/npy.h"

#define ASSIGNMENTS_MAX 32

/* "NAME=VALUE" from the command line. */
struct assignment {
	char name[GPUQ_NAME_MAX];
	const char *value;
};

struct assignments {
	uint32_t n;
	struct assignment list[ASSIGNMENTS_MAX];
};

/* What was asked for. */
struct run_request {
	const char *op;
	struct assignments inputs, outputs, params, dtypes;
};

struct run_tensor {
	const struct gpuq_op_tensor *info;
	const char *path;  /* an input's file; NULL: none */
	const char *saved; /* where it is saved afterwards; NULL: nowhere */
	int fd;		   /* of an input's file; -1: none */
	struct npy npy;	   /* its header */
	uint64_t bytes;	   /* in the arena */
	struct gpuq_tensor tensor;
};

struct run_plan {
	struct gpuq_op_info op;
	struct run_tensor inputs[GPUQ_MAX_INPUTS], outputs[GPUQ_MAX_OUTPUTS];
	uint32_t n_params;
	struct gpuq_param params[GPUQ_MAX_PARAMS];
	uint64_t arena_bytes;
};

/*
 * Reads "NAME=VALUE"; complains about anything else, with the option's name. Returns 0, or
 * -EINVAL.
 */
int assignments_add(struct assignments *a, const char *option, const char *text);

/*
 * Opens the files and works everything out but the tensors' places. `op` is what gpuqd says of
 * the operator, max_arena_bytes its limit. Returns 0, or -EINVAL after a complaint. The plan has
 * to be finished either way.
 */
int run_plan_make(const struct run_request *request, const struct gpuq_op_info *op,
	uint64_t max_arena_bytes, struct run_plan *ret_plan);

/* Closes the files. */
void run_plan_finish(struct run_plan *plan);

#endif
