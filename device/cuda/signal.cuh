/* SPDX-License-Identifier: MIT */
/*
 * signal.cuh: how a kernel ends: its last block stores the completion word, so that no other
 * command is needed.
 *
 * Order: what the threads of a block wrote happens before the barrier; thread 0 passes it on by a
 * fence and the counter; the block that counts last has then seen all others' writes, and its
 * release at system scope carries them to the CPU, whose acquire of the word is the partner.
 */
#ifndef GPUQ_DEVICE_CUDA_SIGNAL_CUH
#define GPUQ_DEVICE_CUDA_SIGNAL_CUH

#include "device/cuda/code.h"

/* What a kernel is given to complete its launch; `arrived` is NULL when it is not the last. */
struct cuda_completion {
	const struct device_args *block; /* as in struct cuda_args */
	struct device_completion *completion;
	uint64_t value;
	struct cuda_watch watch;
	uint32_t *arrived;
};

static inline struct cuda_completion cuda_completion(
	const struct device_kernel *kernel, const struct cuda_args *args)
{
	return (struct cuda_completion){args->block, args->direct.completion, args->direct.value,
		args->watch, kernel->signal ? &args->scratch->arrived : NULL};
}

/*
 * In a recording each kernel may be started while the one before it still runs (cuda_run()), so
 * that its blocks are in their places when that ends. The next one may be started from here on, in
 * all blocks.
 */
static __device__ inline void cuda_let_next(void)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
	asm volatile("griddepcontrol.launch_dependents;");
#endif
}

/*
 * All kernels before this one have ended. Before that it touches nothing but constants and the
 * block of arguments. Each thread of each kernel comes here: one that ended earlier than its
 * predecessor would end the wait of its successor for both.
 */
static __device__ inline void cuda_await(void)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
	asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

static __device__ inline void cuda_begin(void)
{
	cuda_let_next();
	cuda_await();
}

static __device__ inline void cuda_store_release(uint64_t *to, uint64_t value)
{
	asm volatile("st.release.sys.global.u64 [%0], %1;" ::"l"(__cvta_generic_to_global(to)),
		     "l"(value)
		     : "memory");
}

/* The last of `count` callers to come, which then sees what all others wrote before they came. */
static __device__ inline bool cuda_last_of(uint32_t *counter, uint32_t count)
{
	uint32_t before;

	asm volatile("atom.add.acq_rel.gpu.global.u32 %0, [%1], 1;"
		     : "=r"(before)
		     : "l"(__cvta_generic_to_global(counter))
		     : "memory");
	if (before + 1 != count)
		return false;
	*counter = 0;
	return true;
}

/*
 * Who sees the number also sees the word, so nobody sleeps for a word that is there. Nothing goes
 * to the host before the word: its release would have to wait for that.
 */
static __device__ inline void cuda_store_words(
	const struct cuda_watch &watch, struct device_completion *completion, uint64_t value)
{
	if (completion != NULL)
		cuda_store_release(&completion->word, value);
	if (watch.ended != NULL)
		cuda_store_release(watch.ended, watch.number);
}

/* The last thing that every thread of every block does. The grid and its blocks are 1-D. */
static __device__ inline void cuda_complete(const struct cuda_completion &c)
{
	if (c.arrived == NULL)
		return;
	__syncthreads();
	if (threadIdx.x != 0 || (gridDim.x > 1 && !cuda_last_of(c.arrived, gridDim.x)))
		return;
	if (c.block == NULL) {
		cuda_store_words(c.watch, c.completion, c.value);
	} else {
		const struct cuda_block *block = (const struct cuda_block *)c.block;
		cuda_store_words(block->watch, block->args.completion, block->args.value);
	}
}

#endif
