/* SPDX-License-Identifier: MIT */
/*
 * device.h: what a device is, as far as dispatch needs one: something that runs work beside the
 * calling thread and reports each end through a completion word. It knows nothing of clients,
 * channels or operators. Today there is the CPU device (device/cpu/).
 *
 * Threads: device_launch() and device_sleep_prepare() belong to one thread, dispatch.
 */
#ifndef GPUQ_DEVICE_DEVICE_H
#define GPUQ_DEVICE_DEVICE_H

#include "shm/atomics.h"
#include "shm/clock.h"

#include <stdbool.h>

/*
 * The completion word of one launch, in gpuqd's private memory. `word` becomes the launch's value
 * (release) after everything the work wrote; the times are valid then.
 */
struct device_completion {
	uint64_t word;
	uint64_t started_ns, ended_ns;
};

/* Work: run(arg, begin, end) over disjoint ranges that together are 0 .. units-1. */
struct device_work {
	void (*run)(const void *arg, uint64_t begin, uint64_t end);
	const void *arg;
	uint64_t units;
	uint64_t predicted_ns; /* of the whole; decides into how many pieces it is cut */
};

struct device_options {
	uint32_t workers; /* 0: one for each CPU but the dispatcher's, at least 1 */
	struct clock_line clock;
	int wake_fd; /* eventfd that is rung when work ends while dispatch sleeps */
};

struct device;

/* Opens the CPU device and starts its workers. Returns 0 or a negative errno. */
int device_open_cpu(const struct device_options *options, struct device **ret_device);

/* Stops the workers; work in flight is finished first. NULL is fine. */
void device_close(struct device *device);

uint32_t device_workers(const struct device *device);

/* "AMD EPYC ..., 1 worker" */
const char *device_name(const struct device *device);

/*
 * Starts work. `completion` and what `work->arg` points to stay in place until the word has
 * become `value`. Never blocks and never allocates; -EAGAIN when the device is full.
 */
int device_launch(struct device *device, const struct device_work *work,
	struct device_completion *completion, uint64_t value);

static inline bool device_done(const struct device_completion *completion, uint64_t value)
{
	return shm_load_acquire(&completion->word) == value;
}

/*
 * Between true and false, wake_fd is rung at every end of work. The caller looks at all its
 * completion words after this returns and before it sleeps.
 */
void device_sleep_prepare(struct device *device, bool asleep);

#endif
