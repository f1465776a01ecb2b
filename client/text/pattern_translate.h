/* SPDX-License-Identifier: MIT */
/* pattern_translate.h: from Oniguruma's syntax to PCRE2's. */
#ifndef GPUQ_TEXT_PATTERN_TRANSLATE_H
#define GPUQ_TEXT_PATTERN_TRANSLATE_H

#include "client/text/text.h"

/*
 * Appends to `out` what PCRE2 reads as Oniguruma reads `regex`. Returns 0, -ENOTSUP with the name
 * of what cannot be said, -EINVAL for what has no end, -EFBIG, or -ENOMEM.
 */
int pattern_translate(struct span regex, struct bytes *out);

#endif
