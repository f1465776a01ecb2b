/* SPDX-License-Identifier: MIT */
/* rope.h: what the forms of rope share: the frequency of a pair of columns. */
#ifndef GPUQ_KERNELS_ROPE_ROPE_H
#define GPUQ_KERNELS_ROPE_ROPE_H

#include "kernels/op.h"

/* Radians by which a step of one position turns pair i, scaling included. */
double rope_frequency(const struct op_call *call, uint64_t i);

#endif
