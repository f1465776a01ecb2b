/* SPDX-License-Identifier: MIT */
/* price_vectors, the fast form: dot products of VL rows of prices at a time. */
#include "kernels/dot.h"
#include "kernels/isa.h"

/* Where score i of the call goes. */
static struct dot_out out_at(const struct op_call *call, uint64_t i)
{
	const struct tensor *out = &call->out[0];

	return (struct dot_out){
		.y = (char *)out->data + i * dtype_size(out->dtype), .dtype = out->dtype};
}

/* Scores begin..end-1, all against the same weights. */
V_INLINE void score_shared(const struct op_call *call, uint64_t begin, uint64_t end, uint32_t dtype)
{
	const uint64_t n = call->in[0].dims[2], row_bytes = n * v_size(dtype);
	const struct dot_out out = out_at(call, begin);
	const struct dot_rows d = {
		.rows = (const char *)call->in[0].data + begin * row_bytes,
		.vecs = call->in[1].data,
		.row_bytes = row_bytes,
		.n = n,
	};

	dot_run(&d, &out, end - begin, true, dtype);
}

/* Scores begin..end-1, each asset against its own weights. */
V_INLINE void score_paired(const struct op_call *call, uint64_t begin, uint64_t end, uint32_t dtype)
{
	const uint64_t n_assets = call->in[0].dims[1], n = call->in[0].dims[2];
	const uint64_t row_bytes = n * v_size(dtype);

	while (begin < end) {
		const uint64_t asset = begin % n_assets;
		const uint64_t rest = n_assets - asset,
			       count = end - begin < rest ? end - begin : rest;
		const struct dot_out out = out_at(call, begin);
		const struct dot_rows d = {
			.rows = (const char *)call->in[0].data + begin * row_bytes,
			.vecs = (const char *)call->in[1].data + asset * row_bytes,
			.row_bytes = row_bytes,
			.vec_bytes = row_bytes,
			.n = n,
		};

		dot_run(&d, &out, count, false, dtype);
		begin += count;
	}
}

V_INLINE void score(const struct op_call *call, uint64_t begin, uint64_t end, uint32_t dtype)
{
	/* One asset has one row of weights, which all batches share. */
	if (call->in[1].rank == 1 || call->in[0].dims[1] == 1)
		score_shared(call, begin, end, dtype);
	else
		score_paired(call, begin, end, dtype);
}

void ISA_PASTE(price_vectors_cpu, KERNELS_ISA)(
	const struct op_call *call, uint64_t begin, uint64_t end)
{
	switch (call->in[0].dtype) {
	case GPUQ_F32:
		score(call, begin, end, GPUQ_F32);
		break;
	case GPUQ_F16:
		score(call, begin, end, GPUQ_F16);
		break;
	default:
		score(call, begin, end, GPUQ_BF16);
		break;
	}
}
