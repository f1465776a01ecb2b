/* SPDX-License-Identifier: MIT */
/* unicode.h: normalisation forms and lower case. Time and memory are linear in the text. */
#ifndef GPUQ_TEXT_UNICODE_H
#define GPUQ_TEXT_UNICODE_H

#include "client/text/text.h"

enum unicode_form { UNICODE_NFC, UNICODE_NFD, UNICODE_NFKC, UNICODE_NFKD };

/* Appends `in` in a normalisation form. -ENOMEM. */
int unicode_normalize(enum unicode_form form, struct span in, struct bytes *out);

/* Appends `in` in lower case, character by character. -ENOMEM. */
int unicode_lowercase(struct span in, struct bytes *out);

#endif
