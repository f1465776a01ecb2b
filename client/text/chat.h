/* SPDX-License-Identifier: MIT */
/* chat.h: what a turn of a chat looks like to the model, apart from any session. */
#ifndef GPUQ_TEXT_CHAT_H
#define GPUQ_TEXT_CHAT_H

#include "client/text/gpuq-text.h"

#define CHAT_PARTS_MAX 8u

/* What the user says, and what goes before it. */
struct chat_turn {
	enum gpuq_chat_format format;
	bool first;
	bool open;	     /* the answer before it has not come to its end */
	const char *system;  /* of the first turn; NULL: none */
	const char *message; /* bytes of it; UTF-8 */
	size_t bytes;
};

/* Everything up to where the model begins its answer, in order; returns how many parts. */
uint32_t chat_parts(const struct chat_turn *turn, struct gpuq_text_part *parts);

/* The token that ends an answer, as the file writes it. */
const char *chat_end(enum gpuq_chat_format format);

#endif
