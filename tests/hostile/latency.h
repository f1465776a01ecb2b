/* SPDX-License-Identifier: MIT */
/* latency.h: what attackers cost a client that behaves, and what burning as much CPU does. */
#ifndef GPUQ_TESTS_HOSTILE_LATENCY_H
#define GPUQ_TESTS_HOSTILE_LATENCY_H

#include "tests/hostile/attackers.h"

/*
 * In turns, attackers and processes that spin for as long as these did, for `seconds` in all; a
 * client of null operations measures throughout. Prints p50, p99 and the ratio to fd.
 */
void latency_measure(struct attackers *attackers, uint64_t seconds, int fd);

#endif
