/* SPDX-License-Identifier: MIT */
/* attackers.h: the processes of attackers, started and ended together. */
#ifndef GPUQ_TESTS_HOSTILE_ATTACKERS_H
#define GPUQ_TESTS_HOSTILE_ATTACKERS_H

#include "tests/hostile/attack.h"

struct attackers {
	const struct attack_common *common;
	struct attack_page *pages; /* [ATTACKERS_MAX], shared with them */
	struct child children[ATTACKERS_MAX];
	uint32_t n;
};

/* Only one set at a time. */
void attackers_create(struct attackers *s, const struct attack_common *common, uint32_t n);
void attackers_start(struct attackers *s);

/* Fails the test when one has ended of itself, with what it complains of. */
void attackers_check(struct attackers *s);

/* Asks them to end, and waits (bounded) for that. Fails the test as attackers_check() does. */
void attackers_stop(struct attackers *s);

/* What all have done of a class, in all their lives. */
uint64_t attackers_deeds(const struct attackers *s, uint32_t class);

#endif
