/* SPDX-License-Identifier: MIT */
/* price_vectors, the fast form: dot products of the rows of prices. */
#include "kernels/dot.h"

void ISA_PASTE(price_vectors_cpu, KERNELS_ISA)(
	const struct op_call *call, uint64_t begin, uint64_t end)
{
	const struct tensor *prices = &call->in[0], *weights = &call->in[1], *out = &call->out[0];
	const uint64_t assets = prices->dims[1],
		       row_bytes = prices->dims[2] * v_size(prices->dtype);
	/* One asset has one row of weights, which all batches share. */
	const bool shared = weights->rank == 1 || assets == 1;

	while (begin < end) {
		/* Rows until the weights start over. */
		const uint64_t asset = shared ? 0 : begin % assets;
		const uint64_t rest = shared ? end : assets - asset;
		const uint64_t count = end - begin < rest ? end - begin : rest;
		const struct dot_rows d = {
			.rows = (const char *)prices->data + begin * row_bytes,
			.vecs = (const char *)weights->data + asset * row_bytes,
			.row_bytes = row_bytes,
			.vec_bytes = shared ? 0 : row_bytes,
			.n = prices->dims[2],
		};
		const struct dot_out scores = {
			.y = (char *)out->data + begin * v_size(out->dtype),
			.dtype = out->dtype,
		};

		dot_run(&d, &scores, count, prices->dtype);
		begin += count;
	}
}
