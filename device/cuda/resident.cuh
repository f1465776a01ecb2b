/* SPDX-License-Identifier: MIT */
/* resident.cuh: the device's half of resident.h: how commands are waited for, and lives. */
#ifndef GPUQ_DEVICE_CUDA_RESIDENT_CUH
#define GPUQ_DEVICE_CUDA_RESIDENT_CUH

#include "device/cuda/resident.h"
#include "device/cuda/signal.cuh"

#define ALL_THREADS 0xffffffffu /* of a warp */

static_assert(CUDA_COMMAND_WORDS < CUDA_SLOT_WORDS, "the last lane looks whether to leave");

/* Also makes sure that nothing that was read earlier is taken for what is read later. */
static __device__ inline uint64_t cuda_load_acquire(const uint64_t *from)
{
	uint64_t value;

	asm volatile("ld.acquire.sys.global.u64 %0, [%1];"
		     : "=l"(value)
		     : "l"(__cvta_generic_to_global(from))
		     : "memory");
	return value;
}

static __device__ inline uint64_t cuda_time_ns(void)
{
	uint64_t now_ns;

	asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now_ns));
	return now_ns;
}

/* One life; in shared memory, where it costs no registers. Thread 0 writes it. */
struct cuda_life {
	uint64_t number; /* of this life */
	uint64_t due;	 /* the number of the next command */
	uint64_t last;	 /* that of the last command that may be this life's; 0: not known yet */
	uint64_t began_ns, idle_since_ns;
};

/*
 * From here on another life may be started, which serves what this one does not find. What was
 * put before, of which there is no more than the ring holds, this one does find.
 */
static __device__ inline void cuda_life_end(struct cuda_life &life, struct cuda_ring *ring)
{
	__syncwarp(); /* Every lane has read what changes now. */
	if (threadIdx.x == 0) {
		life.last = life.due - 1 + CUDA_RESIDENT_DEPTH;
		cuda_store_release(&ring->left, life.number);
		__threadfence_system();
	}
	__syncwarp();
}

/* Whether it is time to leave. A command is there, or part of it, unless `empty`. */
static __device__ inline bool cuda_life_is_over(const struct cuda_life &life, bool told, bool empty)
{
	const uint64_t now_ns = cuda_time_ns();

	return life.last == 0 &&
		(now_ns - life.began_ns > CUDA_RESIDENT_LIFE_NS ||
			(empty && (told || now_ns - life.idle_since_ns > CUDA_RESIDENT_IDLE_NS)));
}

/* By warp 0: waits for a command and leaves its words there. False: this life is over. */
static __device__ inline bool cuda_life_poll(
	struct cuda_life &life, struct cuda_ring *ring, uint32_t *ret_words)
{
	const uint32_t lane = threadIdx.x, all = (1u << CUDA_COMMAND_WORDS) - 1;
	const uint64_t *slot = ring->slots[life.due % CUDA_RESIDENT_DEPTH];
	const uint64_t *from = lane < CUDA_COMMAND_WORDS ? &slot[lane] : &ring->leave;
	const uint32_t due = (uint32_t)life.due;
	uint32_t here = 0;

	while (here != all && (life.last == 0 || life.due <= life.last)) {
		const uint64_t word = cuda_load_acquire(from);
		const bool told =
			__shfl_sync(ALL_THREADS, (uint32_t)word, CUDA_SLOT_WORDS - 1) != 0;

		here = __ballot_sync(ALL_THREADS, lane < CUDA_COMMAND_WORDS && word >> 32 == due);
		if (here == all && lane < CUDA_COMMAND_WORDS)
			ret_words[lane] = (uint32_t)word;
		if (here == 0 && life.last != 0)
			break;
		if (__shfl_sync(ALL_THREADS, cuda_life_is_over(life, told, here == 0), 0))
			cuda_life_end(life, ring);
	}
	return here == all;
}

static __device__ inline void cuda_life_begin(
	struct cuda_life &life, struct cuda_ring *ring, const uint64_t *ended)
{
	life.number = cuda_load_acquire(&ring->left) + 1;
	life.due = cuda_load_acquire(ended) + 1;
	life.last = 0;
	life.began_ns = life.idle_since_ns = cuda_time_ns();
	cuda_store_release(&ring->arrived, life.number);
}

/*
 * The body of the kernel, for one block. serve(command) runs with all threads; what they have
 * written before it returns is there when the word is.
 */
template <typename Serve>
static __device__ inline void cuda_reside(struct cuda_ring *ring, uint64_t *ended, Serve serve)
{
	__shared__ __align__(8) uint32_t words[CUDA_COMMAND_WORDS];
	__shared__ struct cuda_life life;
	const struct cuda_command &command = *(const struct cuda_command *)words;

	if (threadIdx.x == 0)
		cuda_life_begin(life, ring, ended);
	__syncthreads();
	while (__syncthreads_or(
		threadIdx.x < CUDA_SLOT_WORDS && cuda_life_poll(life, ring, words))) {
		serve(command);
		__syncthreads();
		if (threadIdx.x == 0) {
			cuda_store_words({ended, life.due}, command.completion, command.value);
			life.due++;
			life.idle_since_ns = cuda_time_ns();
		}
		__syncwarp();
	}
}

#endif
