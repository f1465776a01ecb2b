/* SPDX-License-Identifier: MIT */
/*
 * arena.c: the arena is cut into units of ARENA_ALIGN bytes, and each unit has a record in a
 * private table. A piece keeps its length in the record of its first unit and, so that the piece
 * behind it finds it when both are free, in that of its last. Free pieces form a treap ordered by
 * (length, place), which gives the best fit. The table is reserved, not committed: only the pages
 * for units where pieces begin or end take memory.
 */
#include "client/arena.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/mman.h>

#define USED 0x80000000u
#define NONE UINT32_MAX

struct unit {
	uint32_t units;	      /* length of the piece that begins here, | USED; 0: none begins */
	uint32_t back;	      /* length of the free piece that ends here; 0: none */
	uint32_t left, right; /* in the treap, while free */
};

struct arena {
	uint32_t n_units;
	uint32_t root;
	struct unit units[];
};

static uint64_t table_bytes(uint64_t n_units)
{
	return sizeof(struct arena) + n_units * sizeof(struct unit);
}

/* Heap order of the treap: a hash of the place, so that no pattern of use can unbalance it. */
static uint32_t priority(uint32_t at)
{
	at = (at ^ (at >> 16)) * 0x7feb352du;
	at = (at ^ (at >> 15)) * 0x846ca68bu;
	return at ^ (at >> 16);
}

/* Is the free piece at `a` before (units, at) in the order of the treap? */
static bool before(const struct arena *arena, uint32_t a, uint32_t units, uint32_t at)
{
	uint32_t a_units = arena->units[a].units;

	return a_units < units || (a_units == units && a < at);
}

/* Parts the tree `node` into what comes before (units, at) and the rest. */
static void split(struct arena *arena, uint32_t node, uint32_t units, uint32_t at,
	uint32_t *ret_left, uint32_t *ret_right)
{
	while (node != NONE) {
		if (before(arena, node, units, at)) {
			*ret_left = node;
			ret_left = &arena->units[node].right;
			node = *ret_left;
		} else {
			*ret_right = node;
			ret_right = &arena->units[node].left;
			node = *ret_right;
		}
	}
	*ret_left = NONE;
	*ret_right = NONE;
}

/* Joins two trees of which all of `left` comes before all of `right`. */
static void join(struct arena *arena, uint32_t left, uint32_t right, uint32_t *ret_node)
{
	while (left != NONE && right != NONE) {
		if (priority(left) > priority(right)) {
			*ret_node = left;
			ret_node = &arena->units[left].right;
			left = *ret_node;
		} else {
			*ret_node = right;
			ret_node = &arena->units[right].left;
			right = *ret_node;
		}
	}
	*ret_node = left != NONE ? left : right;
}

static void put_free(struct arena *arena, uint32_t at, uint32_t units)
{
	uint32_t *link = &arena->root;
	struct unit *piece = &arena->units[at];

	while (*link != NONE && priority(*link) > priority(at)) {
		struct unit *node = &arena->units[*link];
		link = before(arena, *link, units, at) ? &node->right : &node->left;
	}
	piece->units = units;
	split(arena, *link, units, at, &piece->left, &piece->right);
	*link = at;
	arena->units[at + units - 1].back = units;
}

static void take_free(struct arena *arena, uint32_t at)
{
	uint32_t *link = &arena->root;
	struct unit *piece = &arena->units[at];
	uint32_t units = piece->units;

	while (*link != at) {
		struct unit *node = &arena->units[*link];
		link = before(arena, *link, units, at) ? &node->right : &node->left;
	}
	join(arena, piece->left, piece->right, link);
	piece->units = 0;
	arena->units[at + units - 1].back = 0;
}

int arena_create(uint64_t bytes, struct arena **ret_arena)
{
	uint64_t n_units = bytes / ARENA_ALIGN;
	struct arena *arena = mmap(NULL, table_bytes(n_units), PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (arena == MAP_FAILED)
		return -errno;
	arena->n_units = (uint32_t)n_units;
	arena->root = NONE;
	if (n_units > 0)
		put_free(arena, 0, arena->n_units);
	*ret_arena = arena;
	return 0;
}

void arena_destroy(struct arena *arena)
{
	if (arena != NULL)
		munmap(arena, table_bytes(arena->n_units));
}

static uint32_t best_fit(const struct arena *arena, uint64_t units)
{
	uint32_t best = NONE;

	for (uint32_t node = arena->root; node != NONE;) {
		if (arena->units[node].units < units) {
			node = arena->units[node].right;
		} else {
			best = node;
			node = arena->units[node].left;
		}
	}
	return best;
}

int arena_alloc(struct arena *arena, uint64_t bytes, uint64_t *ret_offset)
{
	uint64_t units = bytes / ARENA_ALIGN + (bytes % ARENA_ALIGN != 0 || bytes == 0);
	uint32_t at = best_fit(arena, units);

	if (at == NONE)
		return -ENOSPC;
	uint32_t had = arena->units[at].units;
	take_free(arena, at);
	arena->units[at].units = (uint32_t)units | USED;
	if (had > units)
		put_free(arena, at + (uint32_t)units, had - (uint32_t)units);
	*ret_offset = (uint64_t)at * ARENA_ALIGN;
	return 0;
}

int arena_free(struct arena *arena, uint64_t offset)
{
	uint64_t at = offset / ARENA_ALIGN;

	if (offset % ARENA_ALIGN != 0 || at >= arena->n_units ||
		(arena->units[at].units & USED) == 0)
		return -EINVAL;
	uint32_t begin = (uint32_t)at;
	uint32_t end = begin + (arena->units[at].units & ~USED);
	arena->units[at].units = 0;
	if (begin > 0 && arena->units[begin - 1].back != 0) {
		begin -= arena->units[begin - 1].back;
		take_free(arena, begin);
	}
	if (end < arena->n_units && (arena->units[end].units & USED) == 0) {
		uint32_t behind = arena->units[end].units;
		take_free(arena, end);
		end += behind;
	}
	put_free(arena, begin, end - begin);
	return 0;
}

uint64_t arena_largest(const struct arena *arena)
{
	uint32_t node = arena->root;

	if (node == NONE)
		return 0;
	while (arena->units[node].right != NONE)
		node = arena->units[node].right;
	return (uint64_t)arena->units[node].units * ARENA_ALIGN;
}

uint64_t arena_capacity(const struct arena *arena)
{
	return (uint64_t)arena->n_units * ARENA_ALIGN;
}
