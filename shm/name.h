/* SPDX-License-Identifier: MIT */
/* name.h: the names that clients give, which are shown to people on terminals and in logs. */
#ifndef GPUQ_SHM_NAME_H
#define GPUQ_SHM_NAME_H

#include <stdbool.h>
#include <stddef.h>

/*
 * Text of at least one character that ends within `size` bytes, as UTF-8 and without anything
 * that could steer a terminal or turn a line around: control characters, separators of lines,
 * marks of direction.
 */
bool name_is_printable(const char *name, size_t size);

#endif
