/* SPDX-License-Identifier: MIT */
/* Guarded memory; see guard.h. */
#include "tests/kernels/guard.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MARGIN ((size_t)256)
#define PATTERN 0x5a

void guard_create(struct guard *g, size_t bytes)
{
	const size_t page = (size_t)sysconf(_SC_PAGESIZE);
	char *p;

	*g = (struct guard){.size = (bytes + page - 1) / page * page};
	p = mmap(NULL, g->size + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED || mprotect(p + page, g->size, PROT_READ | PROT_WRITE) != 0) {
		perror("guard_create");
		exit(1);
	}
	g->base = p + page;
}

void guard_destroy(struct guard *g)
{
	const size_t page = (size_t)sysconf(_SC_PAGESIZE);

	munmap(g->base - page, g->size + 2 * page);
}

static size_t margin_below(const struct guard *g)
{
	const size_t room = (size_t)(g->placed - g->base);

	return room < MARGIN ? room : MARGIN;
}

static size_t margin_above(const struct guard *g)
{
	const size_t room = g->size - (size_t)(g->placed - g->base) - g->bytes;

	return room < MARGIN ? room : MARGIN;
}

void *guard_place(struct guard *g, size_t bytes, enum guard_side side, size_t offset)
{
	const size_t slack = g->size - bytes;

	if (bytes > g->size) {
		fprintf(stderr, "guard_place: %zu bytes do not fit %zu\n", bytes, g->size);
		exit(1);
	}
	g->bytes = bytes;
	g->placed = g->base;
	if (side == GUARD_END)
		g->placed += slack;
	else if (side == GUARD_INSIDE)
		g->placed += offset < slack ? offset : slack;
	memset(g->placed - margin_below(g), PATTERN, margin_below(g));
	memset(g->placed + bytes, PATTERN, margin_above(g));
	return g->placed;
}

static bool all_pattern(const char *p, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (p[i] != PATTERN)
			return false;
	}
	return true;
}

bool guard_intact(const struct guard *g)
{
	const size_t below = margin_below(g);

	return all_pattern(g->placed - below, below) &&
		all_pattern(g->placed + g->bytes, margin_above(g));
}
