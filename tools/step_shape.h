/* SPDX-License-Identifier: MIT */
/*
 * step_shape.h: the shape of a language model's step by what makes it large and what it gives,
 * instead of by its dozen tensors: "tiny: 4 tokens of 2 texts, context 64, 16 ids".
 */
#ifndef GPUQ_TOOLS_STEP_SHAPE_H
#define GPUQ_TOOLS_STEP_SHAPE_H

#include <stdbool.h>
#include <stddef.h>

/*
 * Reads the shape that gpuqd gives a graph and writes the short form; false, and nothing written,
 * where it is no step's. What a long name leaves no room for in gpuqd's text is not told.
 */
bool step_shape_text(const char *shape, char *text, size_t size);

#endif
