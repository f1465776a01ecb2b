/* SPDX-License-Identifier: MIT */
/* list_options.c: prints what can be completed. */
#include "tools/list_options.h"

#include <stdio.h>
#include <string.h>

bool list_options_wanted(int argc, char *const *argv)
{
	return argc == 2 && strcmp(argv[1], "--list-options") == 0;
}

void list_options(const struct option *longs)
{
	for (; longs->name != NULL; longs++)
		printf("--%s%s\n", longs->name, longs->has_arg == no_argument ? "" : "=");
}
