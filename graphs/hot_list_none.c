/* SPDX-License-Identifier: MIT */
/* In place of hot_list.c where there is no jansson: no list is kept. */
#include "graphs/impl.h"

#include <stdio.h>

void hot_list_load(struct graphs *g, char why[224])
{
	why[0] = '\0';
	if (g->options.hot_list != NULL)
		snprintf(why, 224,
			"The list of hot shapes is not kept: gpuqd was built without jansson.");
}

int hot_list_save(struct graphs *g)
{
	return 0;
}
