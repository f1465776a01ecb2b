/* SPDX-License-Identifier: MIT */
/*
 * fault.h: makes calls of a device fail on purpose. For tests only: device_options.faults is NULL
 * everywhere else.
 *
 *	alloc:1=ENOMEM,exec_create:2+=ENOMEM,exec_launch:5=GPUQ_EDEVICE
 *
 * Each part is CALL:N=ERROR: the N-th time that CALL is made (counted from 1) it does nothing and
 * returns the error; with N+ also every later time. Calls are those of struct device_driver that
 * return an error, by their names there (open and check too), and "work", whose error counts for
 * nothing: the N-th piece of work that the CPU device runs, whatever was recorded, fails the
 * device, as a kernel would that writes where it must not. On a GPU such a kernel is launched
 * before the N-th launch in a stream, of a kernel or an executable. GPUQ_EDEVICE fails the device
 * for good: from then on no completion word is written, as with a real fault. HANG: the call never
 * comes back.
 */
#ifndef GPUQ_DEVICE_FAULT_H
#define GPUQ_DEVICE_FAULT_H

#include <stdint.h>

enum fault_call {
	FAULT_OPEN,
	FAULT_CHECK,
	FAULT_ALLOC,
	FAULT_REGISTER_HOST,
	FAULT_UNREGISTER_HOST,
	FAULT_EXPORT_CREATE,
	FAULT_STREAM_CREATE,
	FAULT_STREAM_QUERY,
	FAULT_STREAM_WAIT,
	FAULT_EVENT_CREATE,
	FAULT_EVENT_RECORD,
	FAULT_EVENT_AWAIT,
	FAULT_EVENT_QUERY,
	FAULT_LAUNCH,
	FAULT_LAUNCH_INLINE,
	FAULT_COPY,
	FAULT_FILL,
	FAULT_SIGNAL,
	FAULT_CAPTURE_BEGIN,
	FAULT_CAPTURE_END,
	FAULT_EXEC_CREATE,
	FAULT_EXEC_UPLOAD,
	FAULT_EXEC_LAUNCH,
	FAULT_WORK,
	FAULT_CALLS,
};

struct fault;

/* Reads the text; NULL or "" makes NULL, which injects nothing. -EINVAL, -ENOMEM. */
int fault_create(const char *text, struct fault **ret_fault);
void fault_destroy(struct fault *fault); /* NULL is fine */

/* Counts one call: 0, or the negative error that it is to return. Any thread. NULL is fine. */
int fault_check(struct fault *fault, enum fault_call call);

#endif
