/* SPDX-License-Identifier: MIT */
/*
 * arg.cuh: the arguments of an operator's kernel: known when it is launched, or read from the
 * parameter block when it runs.
 */
#ifndef GPUQ_KERNELS_CUDA_ARG_CUH
#define GPUQ_KERNELS_CUDA_ARG_CUH

#include "device/cuda/signal.cuh"

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <errno.h>
#include <limits.h>

extern "C" {
#include "kernels/launch.h"
}

/* A tensor's address or the bits of a parameter. */
struct arg {
	uint64_t value;
	uint32_t index; /* in the block, or OP_FIXED: `value` counts */
};

static inline struct arg arg_tensor(
	const struct cuda_args *args, const struct tensor *tensor, uint8_t from)
{
	if (from == OP_FIXED)
		return (struct arg){(uint64_t)(uintptr_t)tensor->data, OP_FIXED};
	if (args->block != NULL)
		return (struct arg){0, from};
	return (struct arg){(uint64_t)(uintptr_t)args->direct.pointers[from], OP_FIXED};
}

static inline struct arg arg_param(
	const struct cuda_args *args, const union op_value *value, uint8_t from)
{
	if (from == OP_FIXED)
		return (struct arg){(uint64_t)value->i64, OP_FIXED};
	if (args->block != NULL)
		return (struct arg){0, from};
	return (struct arg){args->direct.scalars[from], OP_FIXED};
}

/* The address, where it is known before the kernel runs; else NULL. */
static inline void *arg_known(struct arg arg)
{
	return arg.index == OP_FIXED ? (void *)(uintptr_t)arg.value : NULL;
}

/* Nothing in the sequence writes these inputs: they may be read before cuda_await(). */
static inline bool stay_constant(const struct op_launch *op, uint32_t inputs)
{
	return (op->constants & inputs) == inputs;
}

/* A word of the block, which may be read before cuda_await(): not from an older L1 cache. */
static __device__ inline uint64_t arg_word(const void *word)
{
	return __ldcg((const unsigned long long *)word);
}

/* Told to be in global memory, the compiler has the faster instructions for what is there. */
static __device__ inline char *arg_pointer(const struct device_args *block, struct arg arg)
{
	const uint64_t address =
		arg.index == OP_FIXED ? arg.value : arg_word(&block->pointers[arg.index]);

	return (char *)__cvta_global_to_generic(address);
}

static __device__ inline int64_t arg_i64(const struct device_args *block, struct arg arg)
{
	return (int64_t)(arg.index == OP_FIXED ? arg.value : arg_word(&block->scalars[arg.index]));
}

static __device__ inline double arg_f64(const struct device_args *block, struct arg arg)
{
	return __longlong_as_double(arg_i64(block, arg));
}

/* Element i of a client's tensor of integers, read once: it may change. */
template <typename T> static __device__ inline T index_at(const T *indices, uint64_t i)
{
	return ((const volatile T *)indices)[i];
}

/* cuda_run() of a kernel with its arguments, which are converted as for any call. */
template <typename T> struct as {
	using type = T;
};
template <typename... P>
static int run_shared(const struct cuda_target *to, void (*kernel)(P...), uint32_t blocks,
	uint32_t threads, uint32_t shared_bytes, typename as<P>::type... args)
{
	void *values[] = {(void *)&args...};

	return cuda_run(to, (const void *)kernel, blocks, threads, shared_bytes, values);
}

template <typename... P>
static int run(const struct cuda_target *to, void (*kernel)(P...), uint32_t blocks,
	uint32_t threads, typename as<P>::type... args)
{
	return run_shared(to, kernel, blocks, threads, 0, args...);
}

/* Nothing to compute: only the end of the launch may be left to tell. */
static inline int launch_nothing(const struct device_kernel *kernel, const struct cuda_args *args,
	const struct cuda_target *to)
{
	return kernel->signal ? cuda_signal(args, to) : 0;
}

static inline uint64_t blocks_of(uint64_t count, uint64_t per_block)
{
	return count / per_block + (count % per_block != 0);
}

/*
 * Threads of a block when so many are wanted: one block where that is enough, which needs not count
 * how many have ended; else blocks of a size of which a multiprocessor takes several.
 */
#define BLOCK_MAX 1024u
#define BLOCK_USUAL 256u
static inline uint32_t threads_for(uint64_t wanted)
{
	return wanted <= BLOCK_MAX ? (uint32_t)blocks_of(wanted, 32) * 32 : BLOCK_USUAL;
}

/* Loads a kernel now, so that its first launch does not. */
template <typename Kernel> static int touch_kernel(Kernel *kernel)
{
	cudaFuncAttributes attributes;

	return cuda_error(cudaFuncGetAttributes(&attributes, kernel));
}

/* Calls f of each type of float element until one fails. */
template <typename F> static int touch_types(F f)
{
	int err = f(float());

	if (err == 0)
		err = f(__half());
	return err != 0 ? err : f(__nv_bfloat16());
}

#endif
