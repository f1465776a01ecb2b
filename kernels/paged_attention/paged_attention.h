/* SPDX-License-Identifier: MIT */
/* paged_attention.h: what the forms of paged_attention share. */
#ifndef GPUQ_KERNELS_PAGED_ATTENTION_PAGED_ATTENTION_H
#define GPUQ_KERNELS_PAGED_ATTENTION_PAGED_ATTENTION_H

#include "kernels/kv.h"

enum attention_input {
	ATTENTION_Q,
	ATTENTION_CACHE,
	ATTENTION_TABLE,
	ATTENTION_POSITIONS,
	ATTENTION_ROWS,
	ATTENTION_CONTEXT,
};

enum attention_output { ATTENTION_Y, ATTENTION_PARTS };
enum attention_param { ATTENTION_SCALE, ATTENTION_WINDOW };

#define ATTENTION_PART 256	/* positions of a part in the output `parts`, */
#define ATTENTION_PARTS_ROWS 64 /* which more rows than these do not have */
#define ATTENTION_ITEMS 64	/* query heads that a unit of the CPU form takes at once, */
#define ATTENTION_SUMS 8192	/* as long as they have no more columns in all */

/* Tokens of a sequence that a row sees: begin..end-1, or none: both are 0. */
struct attention_span {
	int32_t row; /* of the table */
	uint64_t begin, end;
};

/* Of row n, its index values read once. No position from C or 16 L on is in it. */
struct attention_span attention_span_of(const struct op_call *call, uint64_t n);

/* The factor of the scores. */
double attention_scale(const struct op_call *call);

/* What a unit of the CPU form is: so many rows for so many heads of keys. */
struct attention_cut {
	uint64_t rows, heads;
	uint64_t parts; /* of the heads of keys */
};

struct attention_cut attention_cut_of(const struct op_call *call);

#endif
