/* SPDX-License-Identifier: MIT */
/*
 * tour.h: a client that does everything once that a client can do, for tests that let somebody die
 * on the way. It checks every result that it gets.
 */
#ifndef GPUQ_TESTS_INTEGRATION_TOUR_H
#define GPUQ_TESTS_INTEGRATION_TOUR_H

#include "tests/integration/client.h"

/*
 * Goes through all of it. Returns 0 or the first error that a call of the library or a completion
 * had, having closed everything; fails the test when something is wrong that no death explains.
 * model: its name in gpuqd; NULL: none is loaded.
 */
int tour(const char *model);

/* True for what may come back when the device process dies meanwhile. */
bool tour_lost_device(int error);

/* True for what may come back when gpuqd dies meanwhile. */
bool tour_lost_gpuqd(int error);

#endif
