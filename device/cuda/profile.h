/* SPDX-License-Identifier: MIT */
/*
 * profile.h: what the CUDA device does, as ranges of NVTX for a profiler (Nsight Systems), in the
 * domain "gpuq". Where the toolkit has no headers of NVTX 3, these are nothing.
 *
 * Without a profiler a range costs a load of `profile_domain` and a branch: it is NULL then, since
 * NVTX makes no domains for nobody, and nothing more is looked at, no name is put together, no
 * function called. A profiler is there from the start of the process, or not at all.
 *
 * Ranges of a thread nest: each profile_begin() has its profile_end(), by the same thread.
 */
#ifndef GPUQ_DEVICE_CUDA_PROFILE_H
#define GPUQ_DEVICE_CUDA_PROFILE_H

#include <stddef.h>

#ifdef GPUQ_NVTX
/* A struct of NVTX's; NULL: nobody looks. */
extern void *profile_domain;

/* Once, before all others: it looks for a profiler, which may take milliseconds. */
void profile_open(void);

void profile_push(const char *what, const char *name);
void profile_pop(void);

/* "what name"; `name` may be NULL. */
static inline void profile_begin(const char *what, const char *name)
{
	if (__builtin_expect(profile_domain != NULL, 0))
		profile_push(what, name);
}

static inline void profile_end(void)
{
	if (__builtin_expect(profile_domain != NULL, 0))
		profile_pop();
}
#else
static inline void profile_open(void)
{
}

static inline void profile_begin(const char *what, const char *name)
{
}

static inline void profile_end(void)
{
}
#endif

#endif
