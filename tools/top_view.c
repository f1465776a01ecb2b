/* SPDX-License-Identifier: MIT */
/*
 * The screen, from top to bottom: a line about gpuqd, a line of its counters, one block for each
 * table (a bar of titles, then rows), a line of keys. One table has the focus: it scrolls, sorts,
 * and gets the lines that the others do not need.
 */
#include "tools/top_view.h"

#include "tools/top_table.h"

#include <errno.h>
#include <locale.h>
#include <math.h>
#include <ncurses.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MIN_LINES 5
#define MIN_COLUMNS 30
#define DELAY_MIN_S 0.1
#define DELAY_MAX_S 3600.0
#define KEY_ESCAPE 27

enum { PAIR_BAR = 1, PAIR_FOCUS, PAIR_GOOD, PAIR_WARN, PAIR_BAD };
enum overlay { NO_OVERLAY, HELP, DETAILS };

struct table_view {
	int sort; /* column, or -1 */
	uint32_t selected, first;
	uint32_t shown; /* rows on the screen at the last drawing */
};

struct top_view {
	SCREEN *screen;
	bool colour, paused;
	enum overlay overlay;
	uint32_t focus;
	double delay_s;
	bool entering;	/* a new delay is being typed */
	char entry[16]; /* what has been typed of it */
	struct table_view tables[TOP_TABLES];
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
	setlocale(LC_CTYPE, "");
	v->screen = newterm(NULL, stdout, stdin);
	if (v->screen == NULL) {
		free(v);
		return -ENOTTY;
	}
	v->focus = TOP_CHANNELS;
	for (int i = 0; i < TOP_TABLES; i++)
		v->tables[i].sort = -1;
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

/* A whole line: the text, cut to the screen, and the attributes to its end. */
static void put_line(int y, attr_t attr, const char *text)
{
	attrset(attr);
	mvhline(y, 0, ' ', COLS);
	mvaddnstr(y, 0, text, COLS);
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

static void draw_bar(const struct top_view *v, int y, uint32_t table, const char *titles,
	const struct top_rows *rows)
{
	const struct table_view *tv = &v->tables[table];
	bool focus = table == v->focus;
	attr_t attr = A_REVERSE | (focus ? A_BOLD : A_NORMAL);
	char hidden[40];

	if (v->colour)
		attr = COLOR_PAIR(focus ? PAIR_FOCUS : PAIR_BAR);
	put_line(y, attr, titles);
	if (tv->shown >= rows->n)
		return;
	snprintf(
		hidden, sizeof(hidden), " %u-%u/%u", tv->first + 1, tv->first + tv->shown, rows->n);
	put_right(y, attr | A_BOLD, hidden);
}

/* One block: `lines` of them from y on, the bar included. */
static void draw_table(
	struct top_view *v, const struct top_model *m, uint32_t table, int y, uint32_t lines)
{
	const struct table *t = &top_tables[table];
	const struct top_rows *rows = &m->rows[table];
	struct table_view *tv = &v->tables[table];
	uint32_t *order = calloc(rows->n + 1, sizeof(*order));
	char line[TABLE_LINE_MAX];
	struct table_plan plan;

	if (order == NULL)
		return;
	table_sort(t, rows, tv->sort, order);
	table_plan(t, (uint32_t)COLS, &plan);
	clamp(tv, rows->n, lines - 1 < rows->n ? lines - 1 : rows->n);
	draw_bar(v, y, table, table_titles(t, &plan, line), rows);
	for (uint32_t i = 0; i < tv->shown; i++) {
		const void *row = table_row(t, rows, order[tv->first + i]);
		bool selected = table == v->focus && tv->first + i == tv->selected;

		put_line(y + 1 + (int)i,
			mark_attr(v, table_mark(row)) | (selected ? A_REVERSE : A_NORMAL),
			table_line(t, &plan, row, line));
	}
	free(order);
}

static void draw_keys(const struct top_view *v)
{
	const struct table_view *tv = &v->tables[v->focus];
	const struct table *t = &top_tables[v->focus];
	char line[TABLE_LINE_MAX];

	if (v->entering)
		snprintf(line, sizeof(line), "seconds between updates: %s_", v->entry);
	else
		snprintf(line, sizeof(line), "q quit  h help  tab %s  s sort %s  p %s  n %.3gs",
			t->name, tv->sort < 0 ? "-" : t->columns[tv->sort].title,
			v->paused ? "go on" : "pause", v->delay_s);
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
		"tab, shift-tab   the next, the previous table",
		"arrows, j, k     select a row (also page up and down, home, end)",
		"enter            everything about the selected row",
		"s                sort by the next column, largest first",
		"p, space         pause, go on",
		"n                seconds between updates",
		"q                quit",
		"",
		"DEPTH  published, not taken yet   FLIGHT  taken, not completed yet",
		"QUE    from submission to the start of execution (50 %, 99 %)",
		"EXE    execution itself           FAILED  since the start",
		"Rates and times are of the last interval; '-' is not known.",
	};

	draw_box(lines, (int)(sizeof(lines) / sizeof(lines[0])));
}

/* Every column of the selected row, the ones that did not fit the screen too. */
static void draw_details(const struct top_view *v, const struct top_model *m)
{
	const struct table *t = &top_tables[v->focus];
	const struct top_rows *rows = &m->rows[v->focus];
	const struct table_view *tv = &v->tables[v->focus];
	char text[TABLE_COLUMNS_MAX][200], value[160];
	const char *lines[TABLE_COLUMNS_MAX];
	uint32_t *order = calloc(rows->n + 1, sizeof(*order));

	if (order == NULL || rows->n == 0) {
		free(order);
		return;
	}
	table_sort(t, rows, tv->sort, order);
	const void *row = table_row(t, rows, order[tv->selected]);
	for (uint32_t i = 0; i < t->n_columns; i++) {
		snprintf(text[i], sizeof(text[i]), "%-16s %s", t->columns[i].key,
			table_value(&t->columns[i], row, value, sizeof(value)));
		lines[i] = text[i];
	}
	free(order);
	draw_box(lines, (int)t->n_columns);
}

void top_view_draw(struct top_view *v, const struct top_model *m)
{
	uint32_t rows[TOP_TABLES], lines[TOP_TABLES];
	int y = 2;

	erase();
	if (LINES < MIN_LINES || COLS < MIN_COLUMNS) {
		mvaddnstr(0, 0, "terminal too small", COLS);
		refresh();
		return;
	}
	draw_header(v, m);
	for (int i = 0; i < TOP_TABLES; i++)
		rows[i] = m->rows[i].n;
	top_layout((uint32_t)LINES - 3, rows, TOP_TABLES, v->focus, lines);
	for (uint32_t i = 0; i < TOP_TABLES; i++) {
		if (lines[i] > 0)
			draw_table(v, m, i, y, lines[i]);
		y += (int)lines[i];
	}
	draw_keys(v);
	wnoutrefresh(stdscr);
	if (v->overlay == HELP)
		draw_help();
	else if (v->overlay == DETAILS)
		draw_details(v, m);
	doupdate();
}

/* --- Keys ---------------------------------------------------------------------------------- */

/* Sorts by the next column that has a title; after the last by none. */
static void next_sort(struct top_view *v)
{
	const struct table *t = &top_tables[v->focus];
	struct table_view *tv = &v->tables[v->focus];

	do {
		tv->sort++;
	} while (tv->sort < (int)t->n_columns && t->columns[tv->sort].title == NULL);
	if (tv->sort == (int)t->n_columns)
		tv->sort = -1;
}

static void move_selection(struct top_view *v, const struct top_model *m, int64_t by)
{
	struct table_view *tv = &v->tables[v->focus];
	int64_t last = (int64_t)m->rows[v->focus].n - 1;
	int64_t to = (int64_t)tv->selected + by;

	to = to > last ? last : to;
	tv->selected = to < 0 ? 0 : (uint32_t)to;
}

/* A key while a new delay is being typed. */
static void entry_key(struct top_view *v, int key)
{
	size_t n = strlen(v->entry);

	if ((key >= '0' && key <= '9') || key == '.') {
		if (n + 1 < sizeof(v->entry)) {
			v->entry[n] = (char)key;
			v->entry[n + 1] = '\0';
		}
	} else if ((key == KEY_BACKSPACE || key == 127 || key == '\b') && n > 0) {
		v->entry[n - 1] = '\0';
	} else if (key == '\n' || key == KEY_ENTER) {
		double delay_s = strtod(v->entry, NULL);

		v->entering = false;
		if (delay_s > 0)
			top_view_set_delay_s(v, delay_s);
	} else if (key == KEY_ESCAPE) {
		v->entering = false;
	}
}

static bool move_key(struct top_view *v, const struct top_model *m, int key)
{
	const struct table_view *tv = &v->tables[v->focus];
	int64_t page = tv->shown > 1 ? tv->shown - 1 : 1;

	switch (key) {
	case KEY_UP:
	case 'k':
		move_selection(v, m, -1);
		return true;
	case KEY_DOWN:
	case 'j':
		move_selection(v, m, 1);
		return true;
	case KEY_PPAGE:
		move_selection(v, m, -page);
		return true;
	case KEY_NPAGE:
		move_selection(v, m, page);
		return true;
	case KEY_HOME:
		move_selection(v, m, INT32_MIN);
		return true;
	case KEY_END:
		move_selection(v, m, INT32_MAX);
		return true;
	default:
		return false;
	}
}

/* A key that changes what is looked at. */
static void look_key(struct top_view *v, int key)
{
	switch (key) {
	case 'h':
	case '?':
		v->overlay = HELP;
		break;
	case '\n':
	case KEY_ENTER:
		v->overlay = DETAILS;
		break;
	case '\t':
		v->focus = (v->focus + 1) % TOP_TABLES;
		break;
	case KEY_BTAB:
		v->focus = (v->focus + TOP_TABLES - 1) % TOP_TABLES;
		break;
	case 's':
		next_sort(v);
		break;
	case 'n':
		v->entering = true;
		v->entry[0] = '\0';
		break;
	default:
		break;
	}
}

static enum top_action handle_key(struct top_view *v, const struct top_model *m, int key)
{
	if (key == KEY_RESIZE)
		return TOP_NOTHING; /* everything is drawn anew after any key */
	if (v->entering) {
		entry_key(v, key);
		return TOP_NOTHING;
	}
	if (key == 'q')
		return TOP_QUIT;
	if (move_key(v, m, key))
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

enum top_action top_view_wait(struct top_view *v, const struct top_model *m, int timeout_ms)
{
	timeout(timeout_ms);
	int key = getch();
	if (key == ERR)
		return TOP_NOTHING;
	enum top_action action = handle_key(v, m, key);
	top_view_draw(v, m);
	return action;
}
