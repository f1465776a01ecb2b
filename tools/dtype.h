/* SPDX-License-Identifier: MIT */
/*
 * dtype.h: element types as the tools see them: their names, their sizes, and the conversions
 * between f32 and the two 16-bit floats (NumPy knows no bf16, so files hold f32 in its place).
 */
#ifndef GPUQ_TOOLS_DTYPE_H
#define GPUQ_TOOLS_DTYPE_H

#include "gpuq-types.h"

#include <stddef.h>

/* Bytes of one element; 0 for a value that is no dtype. */
size_t dtype_bytes(uint32_t dtype);

/* Lower-case name ("f32"), or "?" for a value that is no dtype. */
const char *dtype_text(uint32_t dtype);

/* The dtype with this name, or 0. */
uint32_t dtype_parse(const char *name);

/* Writes the names in a mask of GPUQ_DTYPE_BIT, "f32, f16, bf16". Returns `text`. */
const char *dtype_mask_text(uint32_t mask, char *text, size_t size);

/* Round to nearest, ties to even; NaN stays NaN, what is too large becomes infinity. */
uint16_t f16_from_f32(float value);
uint16_t bf16_from_f32(float value);

/* Exact. */
float f32_from_f16(uint16_t half);
float f32_from_bf16(uint16_t bits);

#endif
