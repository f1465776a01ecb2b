/* SPDX-License-Identifier: MIT */
/*
 * top_view_impl.h: the full-screen view from inside:
 *
 *   top_view.c  the terminal, and what is drawn
 *   top_keys.c  what keys do
 */
#ifndef GPUQ_TOOLS_TOP_VIEW_IMPL_H
#define GPUQ_TOOLS_TOP_VIEW_IMPL_H

#include "tools/top_table.h"
#include "tools/top_view.h"

#include <ncurses.h>

enum overlay { NO_OVERLAY, HELP, DETAILS };

/* What is being typed into the last line. */
enum entry_kind { NO_ENTRY, ENTRY_DELAY, ENTRY_FILTER };

struct table_view {
	int sort; /* column, or -1 */
	bool reverse;
	char filter[32]; /* only rows that contain it; "": all */
	uint32_t selected, first;
	uint32_t shown; /* rows on the screen at the last drawing */
	uint32_t n;	/* rows that passed the filter, then */
};

struct top_view {
	SCREEN *screen;
	bool colour, paused;
	bool tree; /* clients by user, with their channels */
	enum overlay overlay;
	uint32_t focus;
	double delay_s;
	enum entry_kind entering;
	char entry[32]; /* what has been typed */
	struct table_view tables[TOP_TABLES];
};

/* The description of the rows that a block shows. */
static inline const struct table *top_view_table(const struct top_view *v, uint32_t number)
{
	return v->tree && number == TOP_CLIENTS ? &top_tree_table : &top_tables[number];
}

/* Does what a key asks for. */
enum top_action top_view_key(struct top_view *view, int key);

#endif
