/* SPDX-License-Identifier: MIT */
/*
 * kv_attention: kv_append, then paged_attention: what a layer makes of its new tokens, in one.
 *
 *   qkv, positions, rows, table, cache, q_norm, k_norm: kv_append's inputs; context:
 *   paged_attention's; params theta to eps: kv_append's; window: paged_attention's, whose scale is
 *   1/sqrt(D)
 *   -> y [N,H,D] f32: what attention makes of q; q [N,H,D] f32: kv_append's output; parts [...] f32
 *   (optional): working memory, as paged_attention's
 *
 * All that these two say holds, and their bits are what comes of it, but for this: where N is S or
 * less, rows are taken to be of different sequences. A row sees its own token then, but where
 * another row's token goes, which its own sequence may have at a place too, it sees that or what
 * was there before.
 *
 * The form for the CPU is one unit: workers do not wait for each other, so none could see what
 * another one has to put into the cache. The two operators by themselves are better there.
 */
#include "kernels/kv_attention/kv_attention.h"
#include "kernels/element.h"
#include "kernels/ops.h"
#include "kernels/work.h"

#include <string.h>

struct op_call kv_attention_append(const struct op_call *call)
{
	struct op_call append = {.op = &op_kv_append};

	memcpy(append.in, call->in, KV_ATTENTION_CONTEXT * sizeof(append.in[0]));
	memcpy(append.params, call->params, KV_ATTENTION_WINDOW * sizeof(append.params[0]));
	append.out[0] = call->out[KV_ATTENTION_Q];
	return append;
}

struct op_call kv_attention_attend(const struct op_call *call)
{
	struct op_call attend = {.op = &op_paged_attention};

	attend.in[ATTENTION_Q] = call->out[KV_ATTENTION_Q];
	for (uint32_t i = ATTENTION_Q + 1; i <= ATTENTION_CONTEXT; i++)
		attend.in[i] = call->in[kv_attention_inputs[i]];
	attend.params[ATTENTION_WINDOW] = call->params[KV_ATTENTION_WINDOW];
	attend.out[ATTENTION_Y] = call->out[KV_ATTENTION_Y];
	attend.out[ATTENTION_PARTS] = call->out[KV_ATTENTION_PARTS];
	return attend;
}

static int infer(struct op_call *call, uint32_t *ret_arg)
{
	struct op_call append = kv_attention_append(call), attend;
	int err = op_kv_append.infer(&append, ret_arg);

	if (err != 0)
		return err;
	tensor_shape_as(&call->out[KV_ATTENTION_Q], &append.out[0]);
	attend = kv_attention_attend(call);
	err = op_paged_attention.infer(&attend, ret_arg);
	if (err != 0) {
		*ret_arg = kv_attention_inputs[*ret_arg];
		return err;
	}
	tensor_shape_as(&call->out[KV_ATTENTION_Y], &attend.out[ATTENTION_Y]);
	if (tensor_present(&call->out[KV_ATTENTION_PARTS]))
		tensor_shape_as(&call->out[KV_ATTENTION_PARTS], &attend.out[ATTENTION_PARTS]);
	return 0;
}

static uint64_t units(const struct op_call *call)
{
	return call->in[APPEND_QKV].dims[0] != 0;
}

static uint64_t work(const struct op_call *call)
{
	const struct op_call append = kv_attention_append(call);
	const struct op_call attend = kv_attention_attend(call);

	return work_add(op_kv_append.work(&append), op_paged_attention.work(&attend));
}

static void example(struct op_call *call, uint64_t scale)
{
	const uint64_t context = OP_EXAMPLE_INDEX + 1;

	op_kv_append.example(call, scale);
	tensor_set_shape(&call->in[KV_ATTENTION_CONTEXT], 1, &context);
}

static void reference(const struct op_call *call)
{
	const struct op_call append = kv_attention_append(call);
	const struct op_call attend = kv_attention_attend(call);

	op_kv_append.reference(&append);
	op_paged_attention.reference(&attend);
}

static void cpu(const struct op_call *call, uint64_t begin, uint64_t end)
{
	const struct op_call append = kv_attention_append(call);
	const struct op_call attend = kv_attention_attend(call);

	if (begin == end)
		return;
	op_kv_append.cpu(&append, 0, op_kv_append.units(&append));
	op_paged_attention.cpu(&attend, 0, op_paged_attention.units(&attend));
}

const struct op op_kv_attention = {
	.name = "kv_attention",
	.summary = "Puts keys and values of new tokens into a paged cache and attends to it.",
	.formula = "q = kv_append(qkv, positions, rows, table, cache, q_norm, k_norm); "
		   "y = paged_attention(q, cache, table, positions, rows, context)",
	.n_inputs = KV_ATTENTION_INPUTS,
	.n_outputs = 3,
	.n_params = KV_ATTENTION_PARAMS,
	.inputs = {APPEND_INPUTS,
		[KV_ATTENTION_CONTEXT] = {"context", "[C]", GPUQ_DTYPE_BIT(GPUQ_U8)}},
	.outputs = {[KV_ATTENTION_Y] = {"y", "[N,H,D]", GPUQ_DTYPE_BIT(GPUQ_F32)},
		[KV_ATTENTION_Q] = {"q", "[N,H,D]", GPUQ_DTYPE_BIT(GPUQ_F32)},
		[KV_ATTENTION_PARTS] = {"parts", "[N,H,ceil(C/256),D+2]", GPUQ_DTYPE_BIT(GPUQ_F32),
			.optional = true}},
	.params = {APPEND_PARAMS,
		[KV_ATTENTION_WINDOW] = {"window", "tokens that each sees; 0: all before it",
			GPUQ_PARAM_I64, 0, 0, 1ll << 31}},
	.infer = infer,
	.units = units,
	.work = work,
	.example = example,
	.reference = reference,
	.cpu = cpu,
};
