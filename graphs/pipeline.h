/* SPDX-License-Identifier: MIT */
/*
 * pipeline.h: a named sequence of operators with tensors passed between them on the device. A
 * client registers one; to the rest of gpuqd it then looks like an operator: its interface is a
 * `struct op` without parameters, whose tensors have exactly the registered types and whose
 * shapes are checked by the plan of each call (graphs/plan.h), not by op_check().
 *
 * Pure logic: no device, no thread. A pipeline never changes once it is made; references are
 * counted, so an entry of the graph cache outlives the client that registered the pipeline.
 */
#ifndef GPUQ_GRAPHS_PIPELINE_H
#define GPUQ_GRAPHS_PIPELINE_H

#include "kernels/op.h"
#include "shm/proto.h"

#define PIPELINE_MAX_STEPS 1024
#define PIPELINE_MAX_TENSORS 3072
#define PIPELINE_MAX_WHY 224

struct pipeline;

/*
 * Makes a pipeline of a definition: struct wire_pipeline and what follows it, see shm/proto.h.
 * Steps are sorted so that each comes after those whose results it reads, otherwise as given.
 * All operators are checked with the shapes that follow from those of the inputs.
 *
 * -GPUQ_EPIPELINE: the definition has a wrong size, a number of a tensor that is not there, a
 * tensor written twice or never, an input written (a step's own too, where its operator does
 * that), a step that reads its own result by any way;
 * -GPUQ_ELIMIT: too many steps or tensors; -GPUQ_EOP and the errors of op_check(): a step makes no
 * sense; -ENOMEM. `why` has one sentence that names the step and the tensor. Any thread.
 */
int pipeline_create(const void *blob, uint64_t bytes, struct pipeline **ret_pipeline,
	char why[PIPELINE_MAX_WHY]);

/*
 * Makes a pipeline of gpuqd's own, with constants: tensors at fixed addresses of the device, such
 * as the weights of a model. They are the tensors after inputs and outputs of the definition, which
 * has their shapes; constants[] are their addresses. Steps run as given: each comes after those
 * whose results it reads (-GPUQ_EPIPELINE).
 *
 * Such a pipeline equals no other, and the hot list leaves it out: addresses mean nothing to the
 * next process. What is captured runs once with its constants and with zeros for all inputs. Their
 * memory stays until graphs_release() has returned.
 */
int pipeline_create_internal(const void *blob, uint64_t bytes, void *const *constants,
	uint32_t n_constants, struct pipeline **ret_pipeline, char why[PIPELINE_MAX_WHY]);

/*
 * Gives a pipeline with constants scratch memory of its own, aligned to 256 bytes, in the place of
 * that of lanes: a model's steps need much, and one of them runs at a time. Of all pipelines with
 * the same memory works never run beside each other. Before graphs_intern(); it stays as constants
 * do.
 */
void pipeline_set_scratch(struct pipeline *p, void *data, uint64_t bytes);

/* NULL: it has none of its own. */
void *pipeline_scratch(const struct pipeline *p, uint64_t *ret_bytes);

/*
 * Whose steps the works of a pipeline are, for the records of its shapes: a model's handle, and the
 * inputs whose first dimensions are the tokens, the sequences and the context of a step. model 0:
 * nobody's. Before graphs_intern().
 */
struct pipeline_label {
	uint32_t model;
	uint16_t tokens, batch, context;
};
void pipeline_set_label(struct pipeline *p, const struct pipeline_label *label);
const struct pipeline_label *pipeline_label(const struct pipeline *p);

struct pipeline *pipeline_ref(struct pipeline *p);
/* The last reference frees it. NULL is fine. Any thread. */
void pipeline_unref(struct pipeline *p);

/* The caller's reference is the only one: nobody can make others meanwhile. */
bool pipeline_is_last(const struct pipeline *p);

/* The definitions say the same, names and first shapes included. False where one has constants. */
bool pipeline_equal(const struct pipeline *a, const struct pipeline *b);

bool pipeline_has_constants(const struct pipeline *p);

/* Differs between any two pipelines of this process; see graphs_intern() for equal ones. */
uint64_t pipeline_id(const struct pipeline *p);

/* The interface; lives as long as the pipeline. */
const struct op *pipeline_op(const struct pipeline *p);

/* How many steps read one of its inputs. */
uint32_t pipeline_readers(const struct pipeline *p, uint32_t input);

/* The definition, what has no meaning in it being zero, and its size. */
const void *pipeline_blob(const struct pipeline *p, uint64_t *ret_bytes);

/* Steps in the order in which they run; tensor numbers as in the definition. */
struct pipeline_step {
	const struct op *op;
	uint16_t in[GPUQ_MAX_INPUTS]; /* WIRE_PIPELINE_NONE: absent */
	uint16_t out[GPUQ_MAX_OUTPUTS];
	union op_value params[GPUQ_MAX_PARAMS];
};
const struct pipeline_step *pipeline_steps(const struct pipeline *p, uint32_t *ret_count);

/*
 * Fills in the dtypes of all tensors, shapes of inputs and constants (others have rank UINT32_MAX:
 * unknown), and the addresses of constants.
 */
void pipeline_tensors(const struct pipeline *p, struct tensor *ret_tensors, uint32_t *ret_count);

/*
 * Checks one step with its tensors as they are known so far, and writes the shapes of its results
 * into them. Results of op_check(); *ret_call is the step's checked call, data included.
 */
int pipeline_check_step(const struct pipeline_step *step, struct tensor *tensors,
	struct op_call *ret_call, uint32_t *ret_arg);

#endif
