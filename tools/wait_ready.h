/* SPDX-License-Identifier: MIT */
/* wait_ready.h: waits until a gpuqd serves, with its models. */
#ifndef GPUQ_TOOLS_WAIT_READY_H
#define GPUQ_TOOLS_WAIT_READY_H

#include "tools/command.h"

/*
 * Waits until gpuqd serves and none of its models is being loaded, for at most that long (INFINITY:
 * for ever). EXIT_FAIL, with complaints, when that does not come true or a model could not be
 * loaded.
 */
int wait_ready(const struct invocation *v, double timeout_s);

#endif
