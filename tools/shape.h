/* SPDX-License-Identifier: MIT */
/*
 * shape.h: works out an operator's shapes from the shape texts in its description.
 *
 *	text    := form { ( '|' | 'or' ) form }	alternatives: "[O,I] or [B,O,I]"
 *	form    := '[' [ '..' ] { sum } ']' [ 'without' tensor ]
 *						comma-separated; ".." is any leading dimensions
 *	sum     := product { '+' product }	"D+2"
 *	product := factor { factor }		"2F", "(H+2G)D"
 *	factor  := symbol | number | '(' sum ')' | 'ceil(' sum '/' number ')'
 *
 * The inputs' dimensions bind the symbols; the bound symbols give the outputs' dimensions. A
 * symbol means the same number everywhere in one call, and so does "..". A form "without" a tensor
 * is for calls that do not have it.
 */
#ifndef GPUQ_TOOLS_SHAPE_H
#define GPUQ_TOOLS_SHAPE_H

#include "gpuq-types.h"

#include <stddef.h>

#define SHAPE_SYMBOLS_MAX 32

struct shape_symbol {
	char name[GPUQ_NAME_MAX];
	char tensor[GPUQ_NAME_MAX]; /* that bound it */
	uint64_t value;
};

/* What is known so far; starts as zeros. */
struct shape_env {
	uint32_t n_symbols;
	struct shape_symbol symbols[SHAPE_SYMBOLS_MAX];
	char leading_tensor[GPUQ_NAME_MAX]; /* that bound ".."; empty: nobody yet */
	uint32_t leading_rank;
	uint64_t leading[GPUQ_MAX_RANK];
	uint32_t n_absent;
	const char *absent[GPUQ_MAX_INPUTS]; /* tensors that the call does not have */
};

/*
 * Binds the symbols of `text` to the dimensions of a tensor: the first form that fits. Returns
 * 0, or -EINVAL with the reason in `why`: no form has this rank, or a symbol is bound to another
 * number already (both tensors and both numbers are named); -EAGAIN, with a reason too: a dimension
 * is made of several unknown symbols, which other tensors may bind. env is then unchanged.
 */
int shape_bind(struct shape_env *env, const char *tensor, const char *text, uint32_t rank,
	const uint64_t *dims, char *why, size_t why_size);

/*
 * Dimensions of a tensor from the symbols bound so far: of the first form that is fully known.
 * Returns 0, or -EINVAL with the reason in `why`.
 */
int shape_infer(const struct shape_env *env, const char *tensor, const char *text,
	uint32_t *ret_rank, uint64_t ret_dims[GPUQ_MAX_RANK], char *why, size_t why_size);

/* "[3,4]". Returns `text`. */
const char *shape_text(uint32_t rank, const uint64_t *dims, char *text, size_t size);

#endif
