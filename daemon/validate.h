/* SPDX-License-Identifier: MIT */
/*
 * validate.h: from a submission to an operator call that is safe to run. The caller has copied
 * the entry into private memory; the argument block is copied here, once.
 */
#ifndef GPUQ_DAEMON_VALIDATE_H
#define GPUQ_DAEMON_VALIDATE_H

#include "daemon/channel.h"

/*
 * Checks the fields that all opcodes share. 0, or -EINVAL, -GPUQ_ESTALE, -GPUQ_EOPCODE.
 */
int validate_entry(const struct channel *ch, const struct wire_sqe *sqe);

/*
 * Builds the call of a WIRE_OP_CALL or WIRE_OP_CAPTURE entry: every tensor lies in the channel's
 * arena or in a buffer, aligned, with a shape and a dtype that the operator takes. A pipeline's
 * shapes are checked when the call is planned. 0, or a negative error; *ret_arg is the argument to
 * blame plus 1, or 0 when it is none: what WIRE_CQE_ARG_SHIFT holds. *ret_pipeline: NULL for an
 * operator.
 */
int validate_call(const struct channel *ch, const struct wire_sqe *sqe, struct op_call *ret_call,
	struct known_pipeline **ret_pipeline, struct buffer_uses *ret_uses, uint32_t *ret_arg);

/* The same for a WIRE_OP_COPY entry. */
int validate_copy(const struct channel *ch, const struct wire_sqe *sqe, struct slot_copy *ret_copy,
	struct buffer_uses *ret_uses);

/*
 * Likewise for sessions of models: which session or model it is, and what only that can tell, is
 * looked up when their turn comes. *ret_logits: an offset in the arena, or WIRE_NOWHERE.
 */
int validate_session(
	const struct channel *ch, const struct wire_sqe *sqe, struct wire_session *ret_order);
int validate_step(const struct channel *ch, const struct wire_sqe *sqe,
	struct engine_request *ret_request, uint64_t *ret_logits, uint32_t *ret_arg);
int validate_generate(const struct channel *ch, const struct wire_sqe *sqe,
	struct engine_request *ret_request, uint32_t *ret_arg);

/*
 * Likewise. What no step of the model can have its engine finds; to blame is then the argument
 * VALIDATE_BLAME_SHAPE + the number of a member of struct engine_shape.
 */
#define VALIDATE_BLAME_SHAPE (1 + GPUQ_MAX_TENSORS)
int validate_shape(const struct channel *ch, const struct wire_sqe *sqe, uint32_t *ret_model,
	struct engine_shape *ret_shape, uint32_t *ret_arg);

#endif
