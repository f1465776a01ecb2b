/* SPDX-License-Identifier: MIT */
/* neighbours.h: clients that behave, beside attackers: what they get must be right throughout. */
#ifndef GPUQ_TESTS_HOSTILE_NEIGHBOURS_H
#define GPUQ_TESTS_HOSTILE_NEIGHBOURS_H

#include "tests/integration/children.h"

/* Bodies of children; each counts in page->completed. */
void neighbour_operators(struct child *child);
void neighbour_texts(struct child *child);

#endif
