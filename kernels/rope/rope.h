/* SPDX-License-Identifier: MIT */
/*
 * rope.h: what the forms of rope share, and the operators that turn as it does: its parameters,
 * which are their first ones, and the frequency of a pair of columns.
 */
#ifndef GPUQ_KERNELS_ROPE_ROPE_H
#define GPUQ_KERNELS_ROPE_ROPE_H

#include "kernels/op.h"

enum rope_param {
	ROPE_THETA,
	ROPE_SCALING,
	ROPE_FACTOR,
	ROPE_LOW_FREQ_FACTOR,
	ROPE_HIGH_FREQ_FACTOR,
	ROPE_ORIGINAL_LENGTH,
	ROPE_N_PARAMS,
};

#define ROPE_PARAMS                                                                                \
	[ROPE_THETA] = {"theta", "base of the frequencies", GPUQ_PARAM_F64, 10000, 1, 1e12},       \
	[ROPE_SCALING] = {"scaling", "0 none, 1 linear, 2 llama3", GPUQ_PARAM_I64, 0, 0, 2},       \
	[ROPE_FACTOR] = {"factor", "divides scaled frequencies", GPUQ_PARAM_F64, 1, 1e-3, 1e6},    \
	[ROPE_LOW_FREQ_FACTOR] = {"low_freq_factor",                                               \
		"llama3: scaled are wavelengths from original_length over this", GPUQ_PARAM_F64,   \
		1, 1e-3, 1e6},                                                                     \
	[ROPE_HIGH_FREQ_FACTOR] = {"high_freq_factor",                                             \
		"llama3: kept are wavelengths below original_length over this", GPUQ_PARAM_F64, 4, \
		1e-3, 1e6},                                                                        \
	[ROPE_ORIGINAL_LENGTH] = {"original_length", "llama3: context of the first training",      \
		GPUQ_PARAM_I64, 8192, 1, 1 << 30}

/*
 * Radians by which a step of one position turns a pair of the columns of a head, scaling included.
 */
double rope_frequency(const union op_value *params, uint64_t pair, uint64_t columns);

#endif
