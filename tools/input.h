/* SPDX-License-Identifier: MIT */
/* input.h: whole texts that commands read. */
#ifndef GPUQ_TOOLS_INPUT_H
#define GPUQ_TOOLS_INPUT_H

#include <stddef.h>

/*
 * All of a file, or of standard input when path is NULL or "-"; a zero stands behind it. The text
 * is the caller's to free. EXIT_OK, or EXIT_FAIL with a message.
 */
int input_read(const char *path, char **ret_text, size_t *ret_bytes);

#endif
