/* SPDX-License-Identifier: MIT */
/* rig.h: tokenizers for tests: those of data/, and small ones that a test writes itself. */
#ifndef GPUQ_TESTS_TEXT_RIG_H
#define GPUQ_TESTS_TEXT_RIG_H

#include "tests/harness.h"

#include "client/text/gpuq-text.h"

/* The tokenizers that make-tokenizers.py makes. */
extern const char *const rig_names[];
#define RIG_N_NAMES 9

/* "tests/text/data/NAME.EXTENSION" in the source tree. Static. */
const char *rig_path(const char *name, const char *extension);

/* Loads data/NAME.json; fails the test when that fails. */
struct gpuq_tokenizer *rig_load(const char *name);

/* Loads what the test wrote. Quotes may be written as '. */
struct gpuq_tokenizer *rig_parse(const char *json);

/* Like rig_parse(), but expects this error, and a part of its sentence. */
void rig_refuse(int error, const char *part, const char *json);

struct gpuq_encoder *rig_encoder(const struct gpuq_tokenizer *tokenizer);
struct gpuq_decoder *rig_decoder(const struct gpuq_tokenizer *tokenizer, uint32_t flags);

/* Encodes; expects these ids: "3 17 4". */
void rig_encode(
	const struct gpuq_tokenizer *tokenizer, const char *text, uint32_t flags, const char *ids);

/* The sentence of the last error has this part. */
void rig_detail(const char *part);

#endif
