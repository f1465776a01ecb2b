/* SPDX-License-Identifier: MIT */
/* text.h: the parts of `gpuq-bench generate` that deal with text. */
#ifndef GPUQ_BENCH_TEXT_H
#define GPUQ_BENCH_TEXT_H

#include "bench/llm.h"

/* --- text_data.c --------------------------------------------------------------------------- */

/*
 * Writes a tokenizer.json for a model with random weights, unless the folder has one: as Llama 3's,
 * with merges that make words of its letters. 0 or a negative errno.
 */
int text_write_tokenizer(const struct llm_folder *folder, uint32_t vocab);

/*
 * Fills a text of exactly so many bytes, ASCII: words of a lexicon, common ones often, with
 * punctuation, numbers and lines. Equal seeds give equal texts.
 */
void text_fill(char *to, size_t bytes, uint64_t seed);

/* --- tokenize.c ---------------------------------------------------------------------------- */

/* The folder's tokenizer beside Hugging Face's library, both on one thread. 0 or a told error. */
int text_compare_tokenizers(struct bench *b, const struct llm_folder *folder);

#endif
