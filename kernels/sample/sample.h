/* SPDX-License-Identifier: MIT */
/*
 * sample.h: what the forms of sample share: the arguments' places and the generator.
 *
 * Philox 4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") makes four
 * words of a 64-bit key and a 128-bit counter. Token v takes word v / 16 % 4 of the block that
 * v / 64 * 16 + v % 16 counts: 16 blocks side by side then give 64 tokens in their order, on any
 * width of vectors up to 16.
 */
#ifndef GPUQ_KERNELS_SAMPLE_SAMPLE_H
#define GPUQ_KERNELS_SAMPLE_SAMPLE_H

#include "kernels/op.h"

enum sample_input { SAMPLE_LOGITS, SAMPLE_TEMPERATURES, SAMPLE_SEEDS };
enum sample_output { SAMPLE_TOKEN, SAMPLE_LOGPROB };

#define SAMPLE_GROUP 64	 /* tokens that are drawn together */
#define SAMPLE_BLOCKS 16 /* of the generator, for a group */

#define PHILOX_ROUNDS 10
#define PHILOX_MULTIPLIER_0 0xd2511f53u
#define PHILOX_MULTIPLIER_1 0xcd9e8d57u
#define PHILOX_KEY_STEP_0 0x9e3779b9u
#define PHILOX_KEY_STEP_1 0xbb67ae85u

/* Turns the counter into the words that it stands for. */
static inline void philox(uint32_t counter[4], uint64_t key)
{
	uint32_t key0 = (uint32_t)key, key1 = (uint32_t)(key >> 32);

	for (int round = 0; round < PHILOX_ROUNDS; round++) {
		const uint64_t a = (uint64_t)counter[0] * PHILOX_MULTIPLIER_0;
		const uint64_t b = (uint64_t)counter[2] * PHILOX_MULTIPLIER_1;

		counter[0] = (uint32_t)(b >> 32) ^ counter[1] ^ key0;
		counter[1] = (uint32_t)b;
		counter[2] = (uint32_t)(a >> 32) ^ counter[3] ^ key1;
		counter[3] = (uint32_t)a;
		key0 += PHILOX_KEY_STEP_0;
		key1 += PHILOX_KEY_STEP_1;
	}
}

/* The random word of a token. */
static inline uint32_t sample_word(uint64_t seed, uint64_t step, uint64_t token)
{
	uint32_t counter[4] = {
		(uint32_t)(token / SAMPLE_GROUP * SAMPLE_BLOCKS + token % SAMPLE_BLOCKS), 0,
		(uint32_t)step, (uint32_t)(step >> 32)};

	philox(counter, seed);
	return counter[token % SAMPLE_GROUP / SAMPLE_BLOCKS];
}

#endif
