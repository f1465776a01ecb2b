/* SPDX-License-Identifier: MIT */
/* scenarios.h: what main.c runs, and which variant of the code under test it is built with. */
#ifndef GPUQ_EXPLORE_SCENARIOS_H
#define GPUQ_EXPLORE_SCENARIOS_H

#include "explore.h"

#ifndef SIDES_H
#define SIDES_H "sides.h"
#endif
#ifndef RING_H
#define RING_H "shm/ring.h"
#endif

/* Scenario number i of each kind. False when there are not so many. */
bool scenario_rings(uint32_t i, struct explore_program *ret_program);
bool scenario_hostile(uint32_t i, struct explore_program *ret_program);

#endif
