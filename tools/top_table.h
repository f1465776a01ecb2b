/* SPDX-License-Identifier: MIT */
/*
 * top_table.h: how rows of the model are shown. A column is a field of a row with a title for
 * people, a key for JSON, and a width; a table is a list of columns. The full-screen view, batch
 * output, JSON and gpuq status all walk the same tables, so a new column or a new table is one
 * entry here.
 */
#ifndef GPUQ_TOOLS_TOP_TABLE_H
#define GPUQ_TOOLS_TOP_TABLE_H

#include "tools/top_model.h"

#include <jansson.h>
#include <stdio.h>

enum column_kind {
	COLUMN_TEXT,	/* char [] */
	COLUMN_COUNT,	/* uint64_t */
	COLUMN_NS,	/* uint64_t, a latency */
	COLUMN_AGE,	/* uint64_t nanoseconds, a long time */
	COLUMN_BYTES,	/* uint64_t */
	COLUMN_RATE,	/* double, per second */
	COLUMN_PERCENT, /* double */
	COLUMN_SECONDS, /* double */
	COLUMN_WATTS,	/* double */
	COLUMN_CELSIUS, /* double */
	COLUMN_HISTORY, /* double [TOP_HISTORY], per second: a sparkline */
};

struct column {
	const char *title; /* NULL: only in JSON and in the details of a row */
	const char *key;   /* with its unit last */
	enum column_kind kind;
	size_t offset; /* of the field in its row */
	uint8_t width;
	uint8_t drop;  /* the greatest go first where the terminal is narrow; 0: never */
	uint8_t grows; /* takes so much of the space that is left; one for each table */
};

struct table {
	const char *key; /* in JSON */
	const char *name;
	size_t row_bytes;
	uint32_t n_columns;
	const struct column *columns;
};

/* By enum top_table_number. */
extern const struct table top_tables[TOP_TABLES];

/* What top_tree() makes. */
extern const struct table top_tree_table;

/* The daemon's values, as a table with one row. */
extern const struct table top_daemon_table;

#define TABLE_COLUMNS_MAX 40
#define TABLE_LINE_MAX 768 /* bytes; of a sparkline three for each place */

/* The columns that fit a width, and how wide each is. */
struct table_plan {
	uint32_t n;
	uint8_t column[TABLE_COLUMNS_MAX];
	uint16_t width[TABLE_COLUMNS_MAX];
};

static inline const void *table_row(const struct table *t, const struct top_rows *rows, uint32_t i)
{
	return (const char *)rows->rows + i * t->row_bytes;
}

/* A row's mark: its first field. */
static inline enum top_mark table_mark(const void *row)
{
	return *(const enum top_mark *)row;
}

/* The number of a column, by its key; -1: there is none. */
int table_column(const struct table *t, const char *key);

void table_plan(const struct table *t, uint32_t width, struct table_plan *ret_plan);

/* Titles and values in a line without trailing spaces. Return `line`. */
const char *table_titles(
	const struct table *t, const struct table_plan *plan, char line[TABLE_LINE_MAX]);
const char *table_line(const struct table *t, const struct table_plan *plan, const void *row,
	char line[TABLE_LINE_MAX]);

/*
 * Sparklines are drawn with block elements where the locale knows them, else in ASCII. Looks at
 * the locale that setlocale() has set.
 */
void table_choose_marks(void);

/* A value as people read it; "-" when it is not known. Returns `text`. */
const char *table_value(const struct column *c, const void *row, char *text, size_t size);

/*
 * Writes the order of the rows by a column (text rises, numbers fall, unknown last; equal rows
 * keep their order), or their own order when column < 0. `order` has rows->n places.
 */
void table_sort(
	const struct table *t, const struct top_rows *rows, int column, uint32_t *ret_order);

/* An object with every column; what is not known is null. NULL when out of memory. */
json_t *table_json(const struct table *t, const void *row);

/* One line of gpuqd's counters. Returns `text`. */
const char *top_summary(const struct top_daemon *daemon, char *text, size_t size);

/* The whole model as text, its tables at most `width` wide. */
void top_print(const struct top_model *model, uint32_t width, FILE *out);

/* The whole model: "daemon" and an array for each table. NULL when out of memory. */
json_t *top_json(const struct top_model *model);

/* --- Numbers ------------------------------------------------------------------------------- */

/* At most 7 characters each: "12345", "1.23M"; "312ns", "1.23us"; "64.0K"; "3m20s". */
void format_count(uint64_t value, char *text, size_t size);
void format_rate(double value, char *text, size_t size);
void format_ns(uint64_t ns, char *text, size_t size);
void format_bytes(uint64_t bytes, char *text, size_t size);
void format_age(uint64_t ns, char *text, size_t size);

#endif
