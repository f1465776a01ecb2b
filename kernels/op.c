/* SPDX-License-Identifier: MIT */
/* The checks that every operator shares: whatever passes them is safe to hand to a kernel. */
#include "kernels/op.h"

#include <math.h>
#include <string.h>

static bool dtype_allowed(const struct op_tensor *spec, uint32_t dtype)
{
	return dtype <= GPUQ_DTYPE_LAST && (spec->dtypes & GPUQ_DTYPE_BIT(dtype)) != 0;
}

/* An output may leave its shape to infer() by a rank of UINT32_MAX. */
static int check_tensor(const struct op_tensor *spec, const struct tensor *t, bool shape_given)
{
	uint64_t elements, bytes;

	if (!tensor_present(t))
		return spec->optional ? 0 : -GPUQ_EMISSING;
	if (!dtype_allowed(spec, t->dtype))
		return -GPUQ_EDTYPE;
	return shape_given ? tensor_size(t, &elements, &bytes) : 0;
}

static int check_inputs(const struct op_call *call, uint32_t *ret_arg)
{
	for (uint32_t i = 0; i < GPUQ_MAX_INPUTS; i++) {
		const struct tensor *t = &call->in[i];
		int err = 0;

		if (i < call->op->n_inputs)
			err = check_tensor(&call->op->inputs[i], t, true);
		else if (tensor_present(t))
			err = -GPUQ_EARGS;
		if (err != 0) {
			*ret_arg = i;
			return err;
		}
	}
	return 0;
}

static int check_outputs(const struct op_call *call, uint32_t *ret_arg)
{
	for (uint32_t i = 0; i < GPUQ_MAX_OUTPUTS; i++) {
		const struct tensor *t = &call->out[i];
		int err = 0;

		if (i < call->op->n_outputs)
			err = check_tensor(&call->op->outputs[i], t, t->rank != UINT32_MAX);
		else if (tensor_present(t))
			err = -GPUQ_EARGS;
		if (err != 0) {
			*ret_arg = GPUQ_MAX_INPUTS + i;
			return err;
		}
	}
	return 0;
}

/* False for NaN and the infinities too: every comparison below must hold. */
static bool param_in_range(const struct op_param *spec, union op_value value)
{
	const double v = spec->type == GPUQ_PARAM_I64 ? (double)value.i64 : value.f64;

	return isfinite(v) && v >= spec->min && v <= spec->max;
}

static int check_params(const struct op_call *call, uint32_t *ret_arg)
{
	for (uint32_t i = 0; i < call->op->n_params; i++) {
		if (param_in_range(&call->op->params[i], call->params[i]))
			continue;
		*ret_arg = GPUQ_MAX_TENSORS + i;
		return -GPUQ_EPARAM;
	}
	return 0;
}

static int check_output_shape(const struct tensor *given, const struct tensor *inferred)
{
	uint64_t elements, bytes;

	if (given->rank == UINT32_MAX)
		return tensor_size(inferred, &elements, &bytes);
	if (given->rank != inferred->rank)
		return -GPUQ_ERANK;
	for (uint32_t i = 0; i < given->rank; i++) {
		if (given->dims[i] != inferred->dims[i])
			return -GPUQ_ESHAPE;
	}
	return 0;
}

static int check_shapes(struct op_call *call, uint32_t *ret_arg)
{
	struct tensor given[GPUQ_MAX_OUTPUTS];
	int err;

	memcpy(given, call->out, sizeof(given));
	err = call->op->infer(call, ret_arg);
	for (uint32_t i = 0; err == 0 && i < call->op->n_outputs; i++) {
		err = check_output_shape(&given[i], &call->out[i]);
		if (err != 0)
			*ret_arg = GPUQ_MAX_INPUTS + i;
	}
	if (err != 0)
		memcpy(call->out, given, sizeof(given));
	return err;
}

int op_check(struct op_call *call, uint32_t *ret_arg)
{
	uint32_t arg = 0;
	int err = call->op == NULL ? -GPUQ_EOP : 0;

	if (err == 0)
		err = check_inputs(call, &arg);
	if (err == 0)
		err = check_outputs(call, &arg);
	if (err == 0)
		err = check_params(call, &arg);
	if (err == 0)
		err = check_shapes(call, &arg);
	if (err != 0)
		*ret_arg = arg;
	return err;
}
