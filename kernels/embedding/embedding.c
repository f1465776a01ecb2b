/* SPDX-License-Identifier: MIT */
/*
 * embedding: looks tokens up in a table.
 *
 *   tokens [T] i32, table [V,D] -> y [T,D]
 *   y[t,d] = table[tokens[t],d]
 *
 * The table is f32, f16 or bf16; y is f32 or of the table's type. Empty tensors are fine. A token
 * outside 0..V-1 gives a row of zeros: tokens may change while they are read, so each is read
 * once and looked at then. Results are exact; a NaN stays one, though not with the same bits.
 */
#include "kernels/element.h"
#include "kernels/isa.h"
#include "kernels/ops.h"
#include "kernels/work.h"

static int infer(struct op_call *call, uint32_t *ret_arg)
{
	const struct tensor *tokens = &call->in[0], *table = &call->in[1];
	struct tensor *y = &call->out[0];

	if (tokens->rank != 1 || table->rank != 2) {
		*ret_arg = tokens->rank != 1 ? 0 : 1;
		return -GPUQ_ERANK;
	}
	if (!dtype_fits_output(y->dtype, table->dtype)) {
		*ret_arg = GPUQ_MAX_INPUTS;
		return -GPUQ_EDTYPE;
	}
	y->rank = 2;
	y->dims[0] = tokens->dims[0];
	y->dims[1] = table->dims[1];
	return 0;
}

/* A unit is one token. */
static uint64_t units(const struct op_call *call)
{
	return call->in[1].dims[1] == 0 ? 0 : call->in[0].dims[0];
}

static uint64_t work(const struct op_call *call)
{
	return work_mul(units(call), work_add(work_round_up(call->in[1].dims[1], 16), 16));
}

static void example(struct op_call *call, uint64_t scale)
{
	call->in[0].rank = 1;
	call->in[0].dims[0] = scale;
	call->in[1].rank = 2;
	call->in[1].dims[0] = 64;
	call->in[1].dims[1] = 256;
}

static void reference(const struct op_call *call)
{
	const struct tensor *table = &call->in[1], *y = &call->out[0];
	const int32_t *tokens = call->in[0].data;
	const uint64_t n = table->dims[1];

	for (uint64_t i = 0; i < units(call); i++) {
		const bool known = tokens[i] >= 0 && (uint64_t)tokens[i] < table->dims[0];

		for (uint64_t d = 0; d < n; d++)
			element_set(y->data, y->dtype, i * n + d,
				known ? element_get(table->data, table->dtype,
						(uint64_t)tokens[i] * n + d)
				      : 0);
	}
}

ISA_RUN(ISA_FORMS(embedding))

const struct op op_embedding = {
	.name = "embedding",
	.summary = "Looks tokens up in a table of vectors.",
	.formula = "y[t,d] = table[tokens[t],d], 0 for a token outside the table",
	.n_inputs = 2,
	.n_outputs = 1,
	.inputs = {{"tokens", "[T]", GPUQ_DTYPE_BIT(GPUQ_I32)}, {"table", "[V,D]", FLOAT_DTYPES}},
	.outputs = {{"y", "[T,D]", FLOAT_DTYPES}},
	.infer = infer,
	.units = units,
	.work = work,
	.example = example,
	.reference = reference,
	.cpu = cpu,
};
