/* SPDX-License-Identifier: MIT */
/*
 * The screen, from top to bottom: a line about gpuqd, a line of its counters, the names of all
 * tables, one block for each table that has room (a bar of titles, then rows), a line of keys. One
 * table has the focus: it scrolls, sorts, and gets the lines that the others do not need.
 */
#include "tools/top_view_impl.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MIN_LINES 6
#define MIN_COLUMNS 30
#define DELAY_MIN_S 0.1
#define DELAY_MAX_S 3600.0
#define TOP_LINES 3    /* above the tables */
#define DETAIL_NAME 20 /* places of a name in the details of a row */
#define DETAIL_MAX 256 /* bytes of a line there */
#define DETAIL_LINES (TABLE_COLUMNS_MAX + 16)

enum { PAIR_BAR = 1, PAIR_FOCUS, PAIR_GOOD, PAIR_WARN, PAIR_BAD };
/* The rows of a table that are to be seen, in their order. */
struct visible {
	const struct table *table;
	struct top_rows rows;
	uint32_t n, *order;
	void *made; /* rows that were made for this drawing */
};

/* --- Terminal ------------------------------------------------------------------------------ */

static void open_colours(struct top_view *v)
{
	const char *no_color = getenv("NO_COLOR");

	v->colour = (no_color == NULL || no_color[0] == '\0') && has_colors();
	if (!v->colour)
		return;
	start_color();
	use_default_colors();
	init_pair(PAIR_BAR, COLOR_BLACK, COLOR_WHITE);
	init_pair(PAIR_FOCUS, COLOR_BLACK, COLOR_CYAN);
	init_pair(PAIR_GOOD, COLOR_GREEN, -1);
	init_pair(PAIR_WARN, COLOR_YELLOW, -1);
	init_pair(PAIR_BAD, COLOR_RED, -1);
}

int top_view_open(struct top_view **ret_view)
{
	struct top_view *v;

	if (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO))
		return -ENOTTY;
	v = calloc(1, sizeof(*v));
	if (v == NULL)
		return -ENOMEM;
	v->screen = newterm(NULL, stdout, stdin);
	if (v->screen == NULL) {
		free(v);
		return -ENOTTY;
	}
	v->focus = TOP_CHANNELS;
	for (int i = 0; i < TOP_TABLES; i++)
		v->tables[i].sort = -1;
	/* Of these most are seldom used. */
	v->tables[TOP_OPS].sort = table_column(&top_tables[TOP_OPS], "calls");
	v->tables[TOP_GRAPHS].sort = table_column(&top_tables[TOP_GRAPHS], "uses");
	cbreak();
	noecho();
	keypad(stdscr, TRUE);
	set_escdelay(25);
	curs_set(0);
	open_colours(v);
	*ret_view = v;
	return 0;
}

void top_view_close(struct top_view *v)
{
	if (v == NULL)
		return;
	endwin();
	delscreen(v->screen);
	free(v);
}

double top_view_delay_s(const struct top_view *v)
{
	return v->delay_s;
}

void top_view_set_delay_s(struct top_view *v, double delay_s)
{
	v->delay_s = fmin(fmax(delay_s, DELAY_MIN_S), DELAY_MAX_S);
}

bool top_view_paused(const struct top_view *v)
{
	return v->paused;
}

/* --- Drawing ------------------------------------------------------------------------------- */

static attr_t mark_attr(const struct top_view *v, enum top_mark mark)
{
	switch (mark) {
	case TOP_DIM:
		return A_DIM;
	case TOP_GOOD:
		return v->colour ? COLOR_PAIR(PAIR_GOOD) : A_NORMAL;
	case TOP_WARN:
		return v->colour ? COLOR_PAIR(PAIR_WARN) : A_BOLD;
	case TOP_BAD:
		return A_BOLD | (v->colour ? COLOR_PAIR(PAIR_BAD) : A_NORMAL);
	default:
		return A_NORMAL;
	}
}

/* How many bytes of a text fill so many places: a sparkline has several for each. */
static int bytes_of(const char *text, int places)
{
	int n = 0;

	for (; text[n] != '\0'; n++) {
		bool begins = ((unsigned char)text[n] & 0xc0) != 0x80;
		if (begins && places-- == 0)
			break;
	}
	return n;
}

/* A whole line: the text, cut to the screen, and the attributes to its end. */
static void put_line(int y, attr_t attr, const char *text)
{
	attrset(attr);
	mvhline(y, 0, ' ', COLS);
	mvaddnstr(y, 0, text, bytes_of(text, COLS));
	attrset(A_NORMAL);
}

static void put_right(int y, attr_t attr, const char *text)
{
	int n = (int)strlen(text);

	if (n == 0 || n >= COLS)
		return;
	attrset(attr);
	mvaddnstr(y, COLS - n, text, n);
	attrset(A_NORMAL);
}

static void draw_header(const struct top_view *v, const struct top_model *m)
{
	const struct top_daemon *d = &m->daemon;
	char line[TABLE_LINE_MAX];

	top_headline(d, line, sizeof(line));
	put_line(0, A_BOLD | mark_attr(v, d->mark), line);
	if (v->paused)
		put_right(0, A_REVERSE, " PAUSED ");
	else if ((int)(strlen(line) + strlen(d->socket) + 2) < COLS)
		put_right(0, A_NORMAL, d->socket);
	if (m->trouble[0] != '\0')
		put_line(1, mark_attr(v, TOP_BAD), m->trouble);
	else
		put_line(1, A_NORMAL, top_summary(d, line, sizeof(line)));
}

/* Keeps the selection inside the rows and the window around the selection. */
static void clamp(struct table_view *tv, uint32_t n, uint32_t window)
{
	tv->shown = window;
	if (tv->selected >= n)
		tv->selected = n > 0 ? n - 1 : 0;
	if (tv->selected < tv->first)
		tv->first = tv->selected;
	if (window > 0 && tv->selected >= tv->first + window)
		tv->first = tv->selected - window + 1;
	if (tv->first + window > n)
		tv->first = n - window;
}

static void draw_bar(
	const struct top_view *v, int y, uint32_t number, const char *titles, uint32_t n)
{
	const struct table_view *tv = &v->tables[number];
	bool focus = number == v->focus;
	attr_t attr = A_REVERSE | (focus ? A_BOLD : A_NORMAL);
	char hidden[40];

	if (v->colour)
		attr = COLOR_PAIR(focus ? PAIR_FOCUS : PAIR_BAR);
	put_line(y, attr, titles);
	if (tv->shown >= n)
		return;
	snprintf(hidden, sizeof(hidden), " %u-%u/%u", tv->first + 1, tv->first + tv->shown, n);
	put_right(y, attr | A_BOLD, hidden);
}

/* One block: `lines` of them from y on, the bar included. */
static void draw_table(
	struct top_view *v, const struct visible *all, uint32_t number, int y, uint32_t lines)
{
	const struct visible *s = &all[number];
	struct table_view *tv = &v->tables[number];
	char line[TABLE_LINE_MAX];
	struct table_plan plan;

	table_plan(s->table, (uint32_t)COLS, &plan);
	clamp(tv, s->n, lines - 1 < s->n ? lines - 1 : s->n);
	draw_bar(v, y, number, table_titles(s->table, &plan, line), s->n);
	for (uint32_t i = 0; i < tv->shown; i++) {
		const void *row = table_row(s->table, &s->rows, s->order[tv->first + i]);
		bool selected = number == v->focus && tv->first + i == tv->selected;

		put_line(y + 1 + (int)i,
			mark_attr(v, table_mark(row)) | (selected ? A_REVERSE : A_NORMAL),
			table_line(s->table, &plan, row, line));
	}
}

/* Of the rows of a table, what a reader's eye should be drawn to most. */
static enum top_mark worst_mark(const struct visible *s)
{
	enum top_mark worst = TOP_PLAIN;

	for (uint32_t i = 0; i < s->n; i++) {
		enum top_mark mark = table_mark(table_row(s->table, &s->rows, s->order[i]));
		if (mark >= TOP_WARN && mark > worst)
			worst = mark;
	}
	return worst;
}

/* How much is said of each table in the line of their names. */
enum tabs { TABS_NAMES, TABS_KEYS, TABS_COUNTS };

static int tab_text(enum tabs form, const struct visible *all, uint32_t i, char *text, size_t size)
{
	const char *name = top_tables[i].name;

	switch (form) {
	case TABS_NAMES:
		return snprintf(text, size, "%s", name);
	case TABS_KEYS:
		return snprintf(text, size, "%u %s", i + 1, name);
	default:
		return snprintf(text, size, "%u %s (%u)", i + 1, name, all[i].n);
	}
}

static int tab_gap(enum tabs form)
{
	return form == TABS_NAMES ? 1 : 3;
}

/* The form that says most of those that fit; what is wrong with the last table is not cut off. */
static enum tabs widest_tabs(const struct visible *all)
{
	char text[48];

	for (enum tabs form = TABS_COUNTS; form > TABS_NAMES; form--) {
		int width = -tab_gap(form);
		for (uint32_t i = 0; i < TOP_TABLES; i++)
			width += tab_text(form, all, i, text, sizeof(text)) + tab_gap(form);
		if (width <= COLS)
			return form;
	}
	return TABS_NAMES;
}

/* The names of all tables. */
static void draw_tabs(const struct top_view *v, const struct visible *all)
{
	const enum tabs form = widest_tabs(all);
	char text[48];
	int x = 0;

	put_line(TOP_LINES - 1, A_NORMAL, "");
	for (uint32_t i = 0; i < TOP_TABLES && x < COLS; i++) {
		attr_t attr = mark_attr(v, all[i].n == 0 ? TOP_DIM : worst_mark(&all[i]));
		const int width = tab_text(form, all, i, text, sizeof(text));

		attrset(i == v->focus ? A_BOLD | A_UNDERLINE : attr);
		mvaddnstr(TOP_LINES - 1, x, text, COLS - x);
		attrset(A_NORMAL);
		x += width + tab_gap(form);
	}
}

static void draw_keys(const struct top_view *v)
{
	const struct table_view *tv = &v->tables[v->focus];
	const struct table *t = top_view_table(v, v->focus);
	char line[TABLE_LINE_MAX];

	if (v->entering == ENTRY_DELAY)
		snprintf(line, sizeof(line), "seconds between updates: %s_", v->entry);
	else if (v->entering == ENTRY_FILTER)
		snprintf(line, sizeof(line), "only %s with: %s_", t->name, v->entry);
	else
		snprintf(line, sizeof(line),
			"q quit  h help  tab %s  s sort %s%s  f filter %s  t %s  p %s  n %.3gs",
			t->name, tv->sort < 0 ? "-" : t->columns[tv->sort].title,
			tv->reverse ? " reversed" : "", tv->filter[0] == '\0' ? "-" : tv->filter,
			v->tree ? "list" : "tree", v->paused ? "go on" : "pause", v->delay_s);
	put_line(LINES - 1, A_DIM, line);
}

/* A box of text in the middle of the screen; as much of it as fits. */
static void draw_box(const char *const *lines, int n)
{
	int width = 0;

	for (int i = 0; i < n; i++) {
		int w = (int)strlen(lines[i]);
		width = w > width ? w : width;
	}
	width = width + 4 < COLS ? width + 4 : COLS;
	int height = n + 2 < LINES ? n + 2 : LINES;
	WINDOW *w = newwin(height, width, (LINES - height) / 2, (COLS - width) / 2);
	if (w == NULL)
		return;
	for (int i = 0; i < height - 2; i++)
		mvwaddnstr(w, i + 1, 2, lines[i], width - 4);
	box(w, 0, 0);
	wnoutrefresh(w);
	delwin(w);
}

static void draw_help(void)
{
	static const char *const lines[] = {
		"tab, left, right, 1-9  another table",
		"up, down, j, k         select a row (also page up and down, home, end)",
		"enter                  everything about the selected row",
		"s, S                   sort by the next column, the one before; r reverses",
		"f                      show only rows that contain a text; escape: all",
		"t                      clients as a tree of users, clients, channels",
		"p, space               pause, go on",
		"n                      seconds between updates",
		"q                      quit",
		"",
		"DEPTH  published, not taken yet   FLIGHT  taken, not completed yet",
		"QUE    from submission to the start of execution (50 %, 99 %)",
		"EXE    execution itself           FAILED  since the start",
		"TTFT   from a prompt to its first token   GAP  from token to token",
		"Rates and times are of the last interval; '-' is not known.",
	};

	draw_box(lines, (int)(sizeof(lines) / sizeof(lines[0])));
}

/* How many bytes of a value go into one line: up to a space, where there is one. */
static int bytes_of_line(const char *value, int places)
{
	const int n = bytes_of(value, places);
	int space = n;

	if (value[n] == '\0')
		return n;
	while (space > 0 && value[space] != ' ')
		space--;
	return space > 0 ? space : n;
}

/* The unit of a key is that of JSON; here the value names its own. */
static int bytes_of_name(const char *key)
{
	static const char *const units[] = {"_ns", "_bytes"};
	const size_t n = strlen(key);

	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
		const size_t unit = strlen(units[i]);
		if (n > unit && strcmp(key + n - unit, units[i]) == 0)
			return (int)(n - unit);
	}
	return (int)n;
}

/* Adds the lines of one column. Returns how many there are then. */
static int add_detail(char (*lines)[DETAIL_MAX], int n, const char *key, const char *value)
{
	const int places = COLS - 4 - DETAIL_NAME - 1;
	int name = bytes_of_name(key);

	do {
		const int bytes = bytes_of_line(value, places);
		snprintf(lines[n++], DETAIL_MAX, "%-*.*s %.*s", DETAIL_NAME, name, key, bytes,
			value);
		name = 0;
		value += bytes;
		value += strspn(value, " ");
	} while (*value != '\0' && n < DETAIL_LINES);
	return n;
}

/* Every column of the selected row, the ones that did not fit the screen too. */
static void draw_details(const struct top_view *v, const struct visible *all)
{
	const struct visible *s = &all[v->focus];
	const struct table_view *tv = &v->tables[v->focus];
	char text[DETAIL_LINES][DETAIL_MAX], value[176];
	const char *lines[DETAIL_LINES];
	int n = 0;

	if (s->n == 0)
		return;
	const void *row = table_row(s->table, &s->rows, s->order[tv->selected]);
	for (uint32_t i = 0; i < s->table->n_columns && n < DETAIL_LINES; i++) {
		const struct column *c = &s->table->columns[i];
		n = add_detail(text, n, c->key, table_value(c, row, value, sizeof(value)));
	}
	for (int i = 0; i < n; i++)
		lines[i] = text[i];
	draw_box(lines, n);
}

/* --- All of it ----------------------------------------------------------------------------- */

static bool passes(const struct table *t, const void *row, const char *filter)
{
	char value[176];

	for (uint32_t i = 0; i < t->n_columns; i++) {
		const struct column *c = &t->columns[i];
		if (c->kind != COLUMN_HISTORY &&
			strcasestr(table_value(c, row, value, sizeof(value)), filter) != NULL)
			return true;
	}
	return false;
}

/* Operators that nobody has called are left out, but for who looks at them all. */
static bool is_idle(const struct top_view *v, uint32_t number, const void *row)
{
	return number == TOP_OPS && v->focus != TOP_OPS && ((const struct top_op *)row)->calls == 0;
}

static void reverse(uint32_t *order, uint32_t n)
{
	for (uint32_t i = 0; i < n / 2; i++) {
		uint32_t kept = order[i];
		order[i] = order[n - 1 - i];
		order[n - 1 - i] = kept;
	}
}

/* Which rows of a table are shown, in which order. False: no memory. */
static bool look_at(
	struct top_view *v, const struct top_model *m, uint32_t number, struct visible *s)
{
	struct table_view *tv = &v->tables[number];

	s->table = top_view_table(v, number);
	s->rows = m->rows[number];
	if (s->table == &top_tree_table) {
		if (top_tree(m, &s->rows) < 0)
			return false;
		s->made = s->rows.rows;
	}
	s->order = calloc(s->rows.n + 1, sizeof(*s->order));
	if (s->order == NULL)
		return false;
	table_sort(s->table, &s->rows, tv->sort, s->order);
	for (uint32_t i = 0; i < s->rows.n; i++) {
		const void *row = table_row(s->table, &s->rows, s->order[i]);
		if (!is_idle(v, number, row) &&
			(tv->filter[0] == '\0' || passes(s->table, row, tv->filter)))
			s->order[s->n++] = s->order[i];
	}
	if (tv->reverse)
		reverse(s->order, s->n);
	tv->n = s->n;
	return true;
}

static void draw_tables(struct top_view *v, const struct visible *all)
{
	uint32_t rows[TOP_TABLES], lines[TOP_TABLES];
	int y = TOP_LINES;

	for (int i = 0; i < TOP_TABLES; i++)
		rows[i] = all[i].n;
	top_layout((uint32_t)(LINES - TOP_LINES - 1), rows, TOP_TABLES, TOP_FIRST_EXTRA, v->focus,
		lines);
	for (uint32_t i = 0; i < TOP_TABLES; i++) {
		if (lines[i] > 0)
			draw_table(v, all, i, y, lines[i]);
		y += (int)lines[i];
	}
}

static void draw_all(struct top_view *v, const struct top_model *m, const struct visible *all)
{
	draw_header(v, m);
	draw_tabs(v, all);
	draw_tables(v, all);
	draw_keys(v);
	wnoutrefresh(stdscr);
	if (v->overlay == HELP)
		draw_help();
	else if (v->overlay == DETAILS)
		draw_details(v, all);
	doupdate();
}

void top_view_draw(struct top_view *v, const struct top_model *m)
{
	struct visible all[TOP_TABLES] = {0};
	bool complete = true;

	erase();
	if (LINES < MIN_LINES || COLS < MIN_COLUMNS) {
		mvaddnstr(0, 0, "terminal too small", COLS);
		refresh();
		return;
	}
	for (uint32_t i = 0; i < TOP_TABLES && complete; i++)
		complete = look_at(v, m, i, &all[i]);
	if (complete)
		draw_all(v, m, all);
	for (uint32_t i = 0; i < TOP_TABLES; i++) {
		free(all[i].order);
		free(all[i].made);
	}
}

enum top_action top_view_wait(struct top_view *v, const struct top_model *m, int timeout_ms)
{
	timeout(timeout_ms);
	int key = getch();
	if (key == ERR)
		return TOP_NOTHING;
	enum top_action action = top_view_key(v, key);
	top_view_draw(v, m);
	return action;
}
