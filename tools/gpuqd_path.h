/* SPDX-License-Identifier: MIT */
/* gpuqd_path.h: where the gpuqd is that a tool starts for itself. */
#ifndef GPUQ_TOOLS_GPUQD_PATH_H
#define GPUQ_TOOLS_GPUQD_PATH_H

#include <stddef.h>

/*
 * The one that was given (NULL: none), else that beside this program, installed or in a build
 * folder, else "gpuqd", to be looked for in PATH.
 */
void gpuqd_path(const char *given, char *path, size_t size);

#endif
