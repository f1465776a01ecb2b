/* SPDX-License-Identifier: MIT */
/*
 * rig.h: a device under test and what every test of it needs. The device is the one that
 * GPUQ_TEST_DEVICE names ("cpu" unless set); where it cannot be opened the test is skipped with
 * the reason. Work is made of operators, which every device has, of copies and of fills.
 */
#ifndef GPUQ_TESTS_DEVICE_RIG_H
#define GPUQ_TESTS_DEVICE_RIG_H

#include "device/device.h"
#include "kernels/launch.h"
#include "tests/harness.h"

#define RIG_WORDS 256u
#define RIG_CELLS 4096u
#define RIG_POISON -12345.0f

struct rig {
	struct device *device;
	struct device_info info;
	bool cuda;
	int wake_fd;
	struct device_stream *stream, *other; /* two of normal priority */
	struct device_completion *words;
	uint64_t value; /* of the last launch */
	float *cells;	/* pinned; RIG_POISON at first */
	char *heavy;	/* work memory, so large that filling it takes a while */
	uint64_t heavy_bytes;
};

/* Opens the device, or skips the test. */
void rig_open(struct rig *rig, const char *faults);

/* Destroys what rig_open() made and closes the device. */
void rig_close(struct rig *rig);

/* What is of no use to the next test of the same process. */
void rig_poison(struct rig *rig);

/* Options for the device under test. */
struct device_options rig_options(const struct rig *rig, const char *faults);

/* Arguments without pointers, with this word and the next value. */
struct device_args rig_args(struct rig *rig, uint32_t word);

/* Waits until the word has the value; fails the test when that takes too long. */
void rig_await(struct rig *rig, uint32_t word, uint64_t value);

/* The same for the end of everything in the stream. */
void rig_finish(struct rig *rig, struct device_stream *stream);

/* Fills the heavy memory so many times. */
void rig_load(struct rig *rig, struct device_stream *stream, uint32_t times);

/*
 * y = w x + b over single numbers, as a gemv whose addresses are all fixed; a test may change
 * launch.in (x, w, b) and launch.out (y) before it is launched or recorded.
 */
struct affine {
	struct op_launch launch;
	struct device_kernel kernel;
};
void affine_init(struct affine *a, float *x, float *w, float *b, float *y);

/*
 * A chain of nodes from cell 0 to cell n: cell i+1 = i - cell i, so the end tells whether all ran
 * in their order. The last one signals. With `args` launched, else recorded. When `ends` is set
 * the chain begins at pointers[0] and ends at pointers[1] instead. Returns the first error.
 */
int rig_chain(struct rig *rig, struct device_stream *stream, uint32_t n, bool ends,
	const struct device_args *args);
float rig_chain_end(uint32_t n, float from);

/* Captures such a chain with ends and makes an executable of it. */
struct device_exec *rig_chain_exec(struct rig *rig, struct device_stream *stream, uint32_t n);

/* The device serves: a launch works in a stream made for it. */
void rig_check_usable(struct rig *rig);

#endif
