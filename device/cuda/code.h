/* SPDX-License-Identifier: MIT */
/*
 * code.h: between the CUDA driver and the kernels that it runs. The kernels' side defines
 * cuda_codes[]; the driver finds the code of a struct device_kernel there by its name. The same
 * launch() serves direct launches, whose arguments are known, and captures, whose arguments lie
 * in a parameter block that the kernel reads when it runs.
 */
#ifndef GPUQ_DEVICE_CUDA_CODE_H
#define GPUQ_DEVICE_CUDA_CODE_H

#include "device/work.h"

#include <cuda_runtime_api.h>
#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Device memory of one stream or one executable, zeroed when that is made: what the blocks of one
 * launch share. Launches that use it run one after another. Kernels leave the counters at 0.
 */
#define CUDA_TICKETS 2048
#define CUDA_PARTIALS 18432
struct cuda_scratch {
	float partials[CUDA_PARTIALS];	/* sums of parts; on a boundary of 8 bytes */
	uint32_t arrived;		/* blocks that have ended; for cuda_complete() */
	uint32_t tickets[CUDA_TICKETS]; /* likewise, for parts of a grid */
};

/*
 * Who watches a launch besides its completion word: the driver itself, which must know how many
 * launches have ended, whatever their words are used for by then.
 */
struct cuda_watch {
	uint64_t *ended; /* pinned; takes the number, after the word; NULL: nobody watches */
	uint64_t number;
};

/* The parameter block of an executable, in device memory. */
struct cuda_block {
	struct device_args args;
	struct cuda_watch watch;
	uint64_t carried[DEVICE_MAX_CARRIED / sizeof(uint64_t)]; /* see device_args.carried */
};

/* The arguments of a kernel. */
struct cuda_args {
	const struct device_args *block; /* of a struct cuda_block; NULL: what follows counts */
	struct device_args direct;
	struct cuda_watch watch;
	struct cuda_scratch *scratch; /* device memory */
};

/*
 * An executable of one kernel. Setting its node to the same kernel with other arguments and
 * launching it is more than a microsecond faster than launching the kernel; setting it to another
 * kernel is slower (docs/cuda-notes.md).
 */
#define CUDA_LAUNCHERS 4
struct cuda_launcher {
	cudaGraphExec_t exec;
	cudaGraph_t graph;
	cudaGraphNode_t node;
	const void *kernel; /* that the node is set to */
	uint32_t blocks, threads, shared_bytes;
	uint32_t misses; /* kernels in a row that were others */
};

/* Where kernels go. */
struct cuda_target {
	cudaStream_t stream;
	struct cuda_launcher *launchers; /* CUDA_LAUNCHERS of the stream's; NULL in a capture */
	/* Each kernel may be started before the one before it has ended: cuda_await(). */
	bool programmatic;
};

struct cuda_command;

struct cuda_code {
	const char *name;

	/*
	 * Launches the kernel, and whatever else the work takes, by cuda_run() or into the stream.
	 * Returns 0, -EOPNOTSUPP when there is no form for the shape, or as cuda_error() says.
	 * Neither allocates nor waits.
	 */
	int (*launch)(const struct device_kernel *kernel, const struct cuda_args *args,
		const struct cuda_target *to);

	/*
	 * Makes a command for the resident kernel (resident.h) of it, all but its completion.
	 * args has no block. -EOPNOTSUPP when the shape is not for one block. NULL: none is.
	 */
	int (*command)(const struct device_kernel *kernel, const struct cuda_args *args,
		struct cuda_command *ret_command);

	/* Loads everything that launch() may need; called once for each device that is opened. */
	int (*touch)(void);

	/* device_records_badly() of device.h; NULL: never. */
	bool (*records_badly)(const struct device_kernel *kernel);
};

extern const struct cuda_code *const cuda_codes[];
extern const uint32_t cuda_codes_count;

/* Completes the launch of args when all before it in the stream has ended: a kernel of its own. */
int cuda_signal(const struct cuda_args *args, const struct cuda_target *to);

/*
 * Launches a kernel, which calls cuda_await() (signal.cuh); blocks and threads are in one
 * dimension. shared_bytes: of each block, besides those that the kernel declares.
 */
int cuda_run(const struct cuda_target *to, const void *kernel, uint32_t blocks, uint32_t threads,
	uint32_t shared_bytes, void **args);

/*
 * 0, -ENOMEM, -GPUQ_EDEVICE for what ends a context, or another negative error; the thread's last
 * error is none afterwards.
 */
int cuda_error(cudaError_t err);

#ifdef __cplusplus
}
#endif
#endif
