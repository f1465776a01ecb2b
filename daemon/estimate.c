/* SPDX-License-Identifier: MIT */
/* estimate.c: what works took, in a table without chains. */
#include "daemon/estimate.h"

#include <stddef.h>

/*
 * A run above what is expected of nearly all raises that by a half at most, one below lowers it by
 * a 400th: it stays where about one in two hundred is above, however far those are.
 */
#define UP 2u
#define DOWN 400u
#define DOUBT 64u /* of the estimate goes with each doubt */

static struct estimate *place(struct estimate *table, uint64_t key)
{
	return &table[(key ^ key >> 32) & (ESTIMATES - 1)];
}

static const struct estimate *find(const struct estimate *table, uint64_t key)
{
	const struct estimate *e = place((struct estimate *)table, key);

	return e->key == key && key != 0 ? e : NULL;
}

static uint64_t towards(uint64_t mean, uint64_t value)
{
	return value > mean ? mean + (value - mean) / 8 : mean - (mean - value) / 8;
}

static uint64_t least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

void estimate_add(struct estimate *table, uint64_t key, uint64_t device_ns, uint64_t run_ns)
{
	struct estimate *e = place(table, key);

	if (key == 0)
		return;
	if (e->key != key) {
		*e = (struct estimate){.key = key, .device_ns = device_ns, .run_ns = run_ns};
		return;
	}
	e->doubts = 0;
	e->device_ns = towards(e->device_ns, device_ns);
	e->run_ns = run_ns > e->run_ns ? least(run_ns, e->run_ns + e->run_ns / UP + 1)
				       : e->run_ns - least(e->run_ns - run_ns, e->run_ns / DOWN);
}

uint64_t estimate_device_ns(const struct estimate *table, uint64_t key, uint64_t unknown_ns)
{
	const struct estimate *e = find(table, key);

	return e != NULL ? e->device_ns : unknown_ns;
}

uint64_t estimate_run_ns(const struct estimate *table, uint64_t key)
{
	const struct estimate *e = find(table, key);

	return e != NULL ? e->run_ns : 0;
}

void estimate_doubt(struct estimate *table, uint64_t key)
{
	struct estimate *e = place(table, key);

	if (e->key != key)
		return;
	if (e->doubts < ESTIMATE_DOUBTS)
		e->doubts++;
	else
		e->run_ns -= e->run_ns / DOUBT;
}
