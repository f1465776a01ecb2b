/* SPDX-License-Identifier: MIT */
/*
 * main.c: runs every scenario and prints what each covered. Exits with 1 and the interleaving
 * when one is violated. With --expect TEXT, for mutated code: exits with 0 when some scenario is
 * violated in just that way, so that a mutation is noticed for the right reason.
 */
#include "scenarios.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum verdict { HOLDS, EXPECTED, VIOLATED };

static enum verdict run_all(
	bool (*scenario)(uint32_t, struct explore_program *), const char *expected)
{
	static struct explore_program program;
	enum verdict verdict = HOLDS;

	for (uint32_t i = 0; scenario(i, &program); i++) {
		struct explore_result r = explore_run(&program);
		printf("%-54s %8" PRIu64 " states %9" PRIu64 " transitions %7" PRIu64
		       " ends %8.2g paths\n",
			program.name, r.states, r.transitions, r.ends, r.paths);
		fflush(stdout);
		if (r.violated == NULL)
			continue;
		if (expected != NULL && strcmp(r.violated, expected) == 0)
			return EXPECTED;
		verdict = VIOLATED;
	}
	return verdict;
}

int main(int argc, char **argv)
{
	const char *expected = argc == 3 && strcmp(argv[1], "--expect") == 0 ? argv[2] : NULL;
	enum verdict verdict = run_all(scenario_hostile, expected);

	if (verdict != EXPECTED) {
		enum verdict honest = run_all(scenario_rings, expected);
		verdict = honest != HOLDS ? honest : verdict;
	}
	if (expected == NULL)
		return verdict != HOLDS;
	if (verdict != EXPECTED)
		printf("no scenario noticed the mutation: %s\n", expected);
	return verdict != EXPECTED;
}
