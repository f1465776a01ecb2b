/* SPDX-License-Identifier: MIT */
/* estimate.c: means and spreads of what works took, in a table without chains. */
#include "daemon/estimate.h"

#include <stddef.h>

/* Spreads above the mean: as far as retransmission timers go, for the same reason. */
#define SPREADS 4u
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

void estimate_add(struct estimate *table, uint64_t key, uint64_t device_ns, uint64_t run_ns)
{
	struct estimate *e = place(table, key);

	if (key == 0)
		return;
	if (e->key != key) {
		*e = (struct estimate){key, device_ns, run_ns, run_ns / 2};
		return;
	}
	const uint64_t distance_ns = run_ns > e->run_ns ? run_ns - e->run_ns : e->run_ns - run_ns;
	e->device_ns = towards(e->device_ns, device_ns);
	e->run_ns = towards(e->run_ns, run_ns);
	e->spread_ns = towards(e->spread_ns, distance_ns);
}

uint64_t estimate_device_ns(const struct estimate *table, uint64_t key, uint64_t unknown_ns)
{
	const struct estimate *e = find(table, key);

	return e != NULL ? e->device_ns : unknown_ns;
}

uint64_t estimate_run_ns(const struct estimate *table, uint64_t key)
{
	const struct estimate *e = find(table, key);

	return e != NULL ? e->run_ns + SPREADS * e->spread_ns : 0;
}

void estimate_doubt(struct estimate *table, uint64_t key)
{
	struct estimate *e = place(table, key);

	if (e->key != key)
		return;
	e->run_ns -= e->run_ns / DOUBT;
	e->spread_ns -= e->spread_ns / DOUBT;
}
