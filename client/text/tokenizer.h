/* SPDX-License-Identifier: MIT */
/* tokenizer.h: a loaded tokenizer, as the encoder and the decoder see it. */
#ifndef GPUQ_TEXT_TOKENIZER_H
#define GPUQ_TEXT_TOKENIZER_H

#include "client/text/added.h"
#include "client/text/bpe.h"
#include "client/text/decoder.h"
#include "client/text/gpuq-text.h"
#include "client/text/normalizer.h"
#include "client/text/postprocessor.h"
#include "client/text/pretokenizer.h"

struct gpuq_tokenizer {
	struct normalizer normalizer;
	struct pretokenizer pretokenizer;
	struct bpe bpe;
	struct added added;
	struct postprocessor postprocessor;
	struct decoder decoder;
};

#endif
