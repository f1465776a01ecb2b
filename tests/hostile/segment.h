/* SPDX-License-Identifier: MIT */
/*
 * segment.h: attacks through a channel's memory: one thread submits entries that are right, another
 * writes over them, their arguments, their payloads or the rings' indices. They work on the mapping
 * of a client process and on that of a dispatcher in the same process alike.
 */
#ifndef GPUQ_TESTS_HOSTILE_SEGMENT_H
#define GPUQ_TESTS_HOSTILE_SEGMENT_H

#include "tests/hostile/work.h"

enum segment_attack {
	SEGMENT_ANYWHERE,  /* every byte, the rings' indices too */
	SEGMENT_ENTRIES,   /* every byte but these: the channel lives on */
	SEGMENT_ARGUMENTS, /* argument blocks and entries */
	SEGMENT_PAYLOADS,  /* indices, lengths and tokens that kernels read */
	SEGMENT_INDICES,   /* of the rings: a little off, and far off */
};

struct segment_assault {
	enum segment_attack attack;
	struct work *work;
	struct random rng;	     /* of the thread that spoils */
	uint64_t deeds;		     /* words that were written */
	uint32_t block, word, flips; /* SEGMENT_ARGUMENTS: what is spoiled, so often still */
	uint64_t stop;
};

/* Writes some words. */
void segment_spoil(struct segment_assault *a);

/* A thread that does so until `stop`: see pthread_create(). */
void *segment_spoil_main(void *assault);

#endif
