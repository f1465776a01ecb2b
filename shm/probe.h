/* SPDX-License-Identifier: MIT */
/*
 * probe.h: static probes, for bpftrace, SystemTap and the like: each is an instruction that does
 * nothing, and a note in the file that says where it is and where its arguments are. The provider
 * is "gpuq"; docs/bpftrace/README.md lists them. Where sys/sdt.h is not there they are nothing.
 *
 * Arguments are what is there anyway: they are evaluated whether somebody looks or not.
 */
#ifndef GPUQ_SHM_PROBE_H
#define GPUQ_SHM_PROBE_H

#ifdef GPUQ_PROBES
#include <sys/sdt.h>
#define PROBE1(name, a) DTRACE_PROBE1(gpuq, name, a)
#define PROBE2(name, a, b) DTRACE_PROBE2(gpuq, name, a, b)
#define PROBE3(name, a, b, c) DTRACE_PROBE3(gpuq, name, a, b, c)
#define PROBE5(name, a, b, c, d, e) DTRACE_PROBE5(gpuq, name, a, b, c, d, e)
#define PROBE6(name, a, b, c, d, e, f) DTRACE_PROBE6(gpuq, name, a, b, c, d, e, f)
#else
#define PROBE1(name, a) ((void)(a))
#define PROBE2(name, a, b) ((void)(a), (void)(b))
#define PROBE3(name, a, b, c) ((void)(a), (void)(b), (void)(c))
#define PROBE5(name, a, b, c, d, e) ((void)(a), (void)(b), (void)(c), (void)(d), (void)(e))
#define PROBE6(name, a, b, c, d, e, f) \
	((void)(a), (void)(b), (void)(c), (void)(d), (void)(e), (void)(f))
#endif

#endif
