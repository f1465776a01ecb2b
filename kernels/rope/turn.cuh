/* SPDX-License-Identifier: MIT */
/*
 * turn.cuh: rotary positions in CUDA, for the operators that turn (rope.h): a pair's frequency,
 * and the cosine and sine of its angle.
 */
#ifndef GPUQ_KERNELS_ROPE_TURN_CUH
#define GPUQ_KERNELS_ROPE_TURN_CUH

#include "kernels/cuda/arg.cuh"

extern "C" {
#include "kernels/rope/rope.h"
}

/* Parameters, as the kernel finds them. */
struct turn_args {
	struct arg params[ROPE_N_PARAMS];
};

struct turn_params {
	double log2_theta, factor, low, high, length;
	int64_t scaling;
};

struct turn {
	float cosine, sine;
};

static inline struct turn_args turn_args_of(
	const struct cuda_args *args, const struct op_launch *op)
{
	struct turn_args turns;

	for (uint32_t i = 0; i < ROPE_N_PARAMS; i++)
		turns.params[i] = arg_param(args, &op->call.params[i], op->params[i]);
	return turns;
}

/* They are fixed: turns can be made without a trip to memory, before the kernel's turn. */
static __device__ inline bool turn_params_known(const struct turn_args &args)
{
	bool known = true;

#pragma unroll
	for (uint32_t i = 0; i < ROPE_N_PARAMS; i++)
		known = known && args.params[i].index == OP_FIXED;
	return known;
}

static __device__ inline struct turn_params turn_params_of(
	const struct turn_args &args, const struct device_args *block)
{
	return (struct turn_params){
		.log2_theta = log2(arg_f64(block, args.params[ROPE_THETA])),
		.factor = arg_f64(block, args.params[ROPE_FACTOR]),
		.low = arg_f64(block, args.params[ROPE_LOW_FREQ_FACTOR]),
		.high = arg_f64(block, args.params[ROPE_HIGH_FREQ_FACTOR]),
		.length = (double)arg_i64(block, args.params[ROPE_ORIGINAL_LENGTH]),
		.scaling = arg_i64(block, args.params[ROPE_SCALING]),
	};
}

/*
 * In turns, not radians, by a step of one position; see rope.c. Products are rounded by themselves
 * here and below: where the compiler joins them with sums, it does so as the code around allows,
 * and different operators are to turn by the same bits.
 */
static __device__ inline double turn_frequency(
	const struct turn_params &p, uint64_t pair, uint64_t columns)
{
	const double inverse_2pi = 0.15915494309189533577;
	const double log2_f = __dmul_rn(-2.0 * (double)pair / (double)columns, p.log2_theta);
	const double f = __dmul_rn(exp2(log2_f), inverse_2pi);
	/* Wavelengths that the first training has seen in full. */
	const double waves = __dmul_rn(p.length, f);

	if (p.scaling == 0 || (p.scaling == 2 && waves > p.high))
		return f;
	if (p.scaling == 1 || waves <= p.low)
		return f / p.factor;
	const double share = (waves - p.low) / (p.high - p.low);

	return fma(share, f, (1 - share) * f / p.factor);
}

/* Of a position: sincospi() takes any number of half turns without a table of pi. */
static __device__ inline struct turn turn_of(int32_t position, double frequency)
{
	double sine, cosine;

	sincospi(2 * __dmul_rn((double)position, frequency), &sine, &cosine);
	return (struct turn){(float)cosine, (float)sine};
}

static __device__ inline void turn_pair(float *left, float *right, const struct turn &t)
{
	const float a = *left, b = *right;

	*left = fmaf(a, t.cosine, -(b * t.sine));
	*right = fmaf(b, t.cosine, a * t.sine);
}

#endif
