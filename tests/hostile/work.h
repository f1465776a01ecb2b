/* SPDX-License-Identifier: MIT */
/*
 * work.h: entries of every kind on a channel whose memory is mapped, for attackers: what they write
 * over must be read by gpuqd at that moment. Nothing here believes what it finds in the memory, and
 * nothing fails a test; where the rings go wrong the channel's life is over.
 *
 * The arena begins with the argument blocks, one for each form, WORK_BLOCK_BYTES apart. Tensors lie
 * against its end, so that a look behind the last one leaves the arena.
 */
#ifndef GPUQ_TESTS_HOSTILE_WORK_H
#define GPUQ_TESTS_HOSTILE_WORK_H

#include "tests/integration/wire-client.h"
#include "tests/kernels/random.h"

#define WORK_ARENA (256u << 10)
#define WORK_BLOCKS 20u /* at most */
#define WORK_BLOCK_BYTES 2048u
#define WORK_DATA (WORK_BLOCKS * WORK_BLOCK_BYTES) /* tensors lie behind it */
#define WORK_SESSIONS 4u

/* Where indices, lengths and tokens are in the arena. */
struct work_range {
	uint32_t offset, words; /* of 4 bytes */
};

struct work {
	struct wire_client *client;
	struct random *rng;
	uint32_t model, buffer; /* handles; 0: there is none */
	uint32_t n_blocks, n_calls, sessions[WORK_SESSIONS];
	uint32_t bytes[WORK_BLOCKS]; /* of each block */
	uint16_t opcodes[WORK_BLOCKS];
	uint64_t right[WORK_BLOCKS][WORK_BLOCK_BYTES / 8];
	struct work_range indices[2 * WORK_BLOCKS];
	uint32_t n_indices;
	uint64_t focus; /* 1 + a block that most entries are about; 0: none. Any thread's. */
	uint64_t submitted, completed, failed;
	int odd_status; /* one that no client may get */
};

/* Lays out what there is for such a channel; its models and buffers are named before. */
void work_begin(struct work *w);

/* Puts the argument blocks back to what they should be. */
void work_restore(struct work *w);

/* Submits one entry at random. False: the ring is full, or gone. */
bool work_submit(struct work *w);

/* Takes the completions that are there. False: what the ring says is impossible. */
bool work_take(struct work *w);

/* A value that is wrong in an interesting way, or just wrong. */
uint64_t work_wrong(struct random *rng);

/*
 * Writes of another process, as far as this one's ThreadSanitizer knows: of kernels' payloads the
 * wire says that they may change at any time.
 */
void work_scribble(void *at, uint64_t value);
void work_scribble_u32(void *at, uint32_t value);

#endif
