/* SPDX-License-Identifier: MIT */
/* writer.h: what a chat needs of a writer beyond its public functions. */
#ifndef GPUQ_TEXT_WRITER_H
#define GPUQ_TEXT_WRITER_H

#include "client/text/gpuq-text.h"

/* As gpuq_writer_read() without flags, for parts: see gpuq_encode_parts(). */
int64_t writer_read_parts(
	struct gpuq_writer *writer, const struct gpuq_text_part *parts, uint32_t n);

/* A token that ends a text beside those of the model. */
void writer_set_end(struct gpuq_writer *writer, uint32_t token);

/* Whether the text's last token is this one. */
bool writer_ends_with(const struct gpuq_writer *writer, uint32_t token);

#endif
