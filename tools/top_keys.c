/* SPDX-License-Identifier: MIT */
/* What keys do in the full-screen view. The next drawing shows it. */
#include "tools/top_view_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEY_ESCAPE 27

/* Sorts by the next column that has a title (or the one before); after the last by none. */
static void next_sort(struct top_view *v, int step)
{
	const struct table *t = top_view_table(v, v->focus);
	struct table_view *tv = &v->tables[v->focus];

	do {
		tv->sort += step;
		if (tv->sort < -1)
			tv->sort = (int)t->n_columns - 1;
	} while (tv->sort >= 0 && tv->sort < (int)t->n_columns &&
		t->columns[tv->sort].title == NULL);
	if (tv->sort == (int)t->n_columns)
		tv->sort = -1;
}

static void move_selection(struct top_view *v, int64_t by)
{
	struct table_view *tv = &v->tables[v->focus];
	int64_t last = (int64_t)tv->n - 1;
	int64_t to = (int64_t)tv->selected + by;

	to = to > last ? last : to;
	tv->selected = to < 0 ? 0 : (uint32_t)to;
}

static bool move_key(struct top_view *v, int key)
{
	const struct table_view *tv = &v->tables[v->focus];
	int64_t page = tv->shown > 1 ? tv->shown - 1 : 1;

	switch (key) {
	case KEY_UP:
	case 'k':
		move_selection(v, -1);
		return true;
	case KEY_DOWN:
	case 'j':
		move_selection(v, 1);
		return true;
	case KEY_PPAGE:
		move_selection(v, -page);
		return true;
	case KEY_NPAGE:
		move_selection(v, page);
		return true;
	case KEY_HOME:
		move_selection(v, INT32_MIN);
		return true;
	case KEY_END:
		move_selection(v, INT32_MAX);
		return true;
	default:
		return false;
	}
}

/* --- Typing -------------------------------------------------------------------------------- */

static void begin_entry(struct top_view *v, enum entry_kind kind)
{
	v->entering = kind;
	v->entry[0] = '\0';
	if (kind == ENTRY_FILTER)
		snprintf(v->entry, sizeof(v->entry), "%s", v->tables[v->focus].filter);
}

static bool can_be_typed(const struct top_view *v, int key)
{
	if (v->entering == ENTRY_DELAY)
		return (key >= '0' && key <= '9') || key == '.';
	return key >= 0x20 && key <= 0x7e;
}

static void end_entry(struct top_view *v)
{
	double delay_s = strtod(v->entry, NULL);

	if (v->entering == ENTRY_DELAY && delay_s > 0)
		top_view_set_delay_s(v, delay_s);
	v->entering = NO_ENTRY;
}

/* A key while something is being typed. A filter takes effect at once. */
static void entry_key(struct top_view *v, int key)
{
	size_t n = strlen(v->entry);

	if (key == '\n' || key == KEY_ENTER) {
		end_entry(v);
		return;
	}
	if (key == KEY_ESCAPE) {
		v->entry[0] = '\0';
	} else if (can_be_typed(v, key) && n + 1 < sizeof(v->entry)) {
		v->entry[n] = (char)key;
		v->entry[n + 1] = '\0';
	} else if ((key == KEY_BACKSPACE || key == 127 || key == '\b') && n > 0) {
		v->entry[n - 1] = '\0';
	}
	if (v->entering == ENTRY_FILTER)
		memcpy(v->tables[v->focus].filter, v->entry, sizeof(v->entry));
	if (key == KEY_ESCAPE)
		v->entering = NO_ENTRY;
}

/* --- The rest ------------------------------------------------------------------------------ */

static void toggle_tree(struct top_view *v)
{
	struct table_view *tv = &v->tables[TOP_CLIENTS];

	v->tree = !v->tree;
	v->focus = TOP_CLIENTS;
	tv->sort = -1; /* another table has other columns */
	tv->selected = tv->first = 0;
}

static bool focus_key(struct top_view *v, int key)
{
	switch (key) {
	case '\t':
	case KEY_RIGHT:
		v->focus = (v->focus + 1) % TOP_TABLES;
		return true;
	case KEY_BTAB:
	case KEY_LEFT:
		v->focus = (v->focus + TOP_TABLES - 1) % TOP_TABLES;
		return true;
	default:
		if (key < '1' || key >= '1' + TOP_TABLES)
			return false;
		v->focus = (uint32_t)(key - '1');
		return true;
	}
}

static bool sort_key(struct top_view *v, int key)
{
	switch (key) {
	case 's':
	case '>':
		next_sort(v, 1);
		return true;
	case 'S':
	case '<':
		next_sort(v, -1);
		return true;
	case 'r':
		v->tables[v->focus].reverse = !v->tables[v->focus].reverse;
		return true;
	default:
		return false;
	}
}

/* A key that changes what is looked at. */
static void look_key(struct top_view *v, int key)
{
	if (focus_key(v, key) || sort_key(v, key))
		return;
	switch (key) {
	case 'h':
	case '?':
		v->overlay = HELP;
		break;
	case '\n':
	case KEY_ENTER:
		v->overlay = DETAILS;
		break;
	case 'f':
	case '/':
		begin_entry(v, ENTRY_FILTER);
		break;
	case 'n':
		begin_entry(v, ENTRY_DELAY);
		break;
	case 't':
		toggle_tree(v);
		break;
	default:
		break;
	}
}

enum top_action top_view_key(struct top_view *v, int key)
{
	if (key == KEY_RESIZE)
		return TOP_NOTHING; /* everything is drawn anew after any key */
	if (v->entering != NO_ENTRY) {
		entry_key(v, key);
		return TOP_NOTHING;
	}
	if (key == 'q')
		return TOP_QUIT;
	if (move_key(v, key))
		return TOP_NOTHING;
	if (v->overlay != NO_OVERLAY) {
		v->overlay = NO_OVERLAY; /* any other key puts it away */
		return TOP_NOTHING;
	}
	if (key == 'p' || key == ' ') {
		v->paused = !v->paused;
		return TOP_REFRESH;
	}
	look_key(v, key);
	return TOP_NOTHING;
}
