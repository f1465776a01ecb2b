/* SPDX-License-Identifier: MIT */
/* How rows of tables become text and JSON. */
#include "tools/top_table.h"

#include <langinfo.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int table_column(const struct table *t, const char *key)
{
	for (uint32_t i = 0; i < t->n_columns; i++) {
		if (strcmp(t->columns[i].key, key) == 0)
			return (int)i;
	}
	return -1;
}

/* --- Values -------------------------------------------------------------------------------- */

static bool is_real(const struct column *c)
{
	return c->kind == COLUMN_RATE || c->kind == COLUMN_PERCENT || c->kind == COLUMN_SECONDS ||
		c->kind == COLUMN_WATTS || c->kind == COLUMN_CELSIUS;
}

static const char *text_of(const struct column *c, const void *row)
{
	return (const char *)row + c->offset;
}

static uint64_t integer_of(const struct column *c, const void *row)
{
	return *(const uint64_t *)((const char *)row + c->offset);
}

static double real_of(const struct column *c, const void *row)
{
	return *(const double *)((const char *)row + c->offset);
}

static const double *history_of(const struct column *c, const void *row)
{
	return (const double *)((const char *)row + c->offset);
}

/* Integers and floating point on one scale; NAN when not known. */
static double number_of(const struct column *c, const void *row)
{
	if (c->kind == COLUMN_HISTORY)
		return history_of(c, row)[TOP_HISTORY - 1];
	if (is_real(c))
		return real_of(c, row);
	return integer_of(c, row) == TOP_UNKNOWN ? NAN : (double)integer_of(c, row);
}

static const char *const ascii_marks[] = {"_", ".", ":", "-", "=", "+", "*", "#"};
static const char *const block_marks[] = {
	"\u2581", "\u2582", "\u2583", "\u2584", "\u2585", "\u2586", "\u2587", "\u2588"};
static const char *const *marks = ascii_marks;
#define N_MARKS 8

void table_choose_marks(void)
{
	marks = strcmp(nl_langinfo(CODESET), "UTF-8") == 0 ? block_marks : ascii_marks;
}

/* Each interval beside the busiest one of this row; a space where nothing is known. */
static void draw_history(const double *rates, char *text, size_t size)
{
	double most = 0;
	size_t used = 0;

	for (int i = 0; i < TOP_HISTORY; i++)
		most = rates[i] > most ? rates[i] : most; /* NAN is not */
	for (int i = 0; i < TOP_HISTORY && used + 4 < size; i++) {
		int level = rates[i] > 0 ? (int)(rates[i] / most * (N_MARKS - 1) + 0.5) : 0;

		used += (size_t)snprintf(
			text + used, size - used, "%s", isnan(rates[i]) ? " " : marks[level]);
	}
}

const char *table_value(const struct column *c, const void *row, char *text, size_t size)
{
	if (c->kind == COLUMN_HISTORY) {
		text[0] = '\0';
		draw_history(history_of(c, row), text, size);
		return text;
	}
	if (c->kind != COLUMN_TEXT && isnan(number_of(c, row))) {
		snprintf(text, size, "-");
		return text;
	}
	switch (c->kind) {
	case COLUMN_TEXT:
		snprintf(text, size, "%s", text_of(c, row)[0] == '\0' ? "-" : text_of(c, row));
		break;
	case COLUMN_COUNT:
		format_count(integer_of(c, row), text, size);
		break;
	case COLUMN_NS:
		format_ns(integer_of(c, row), text, size);
		break;
	case COLUMN_AGE:
		format_age(integer_of(c, row), text, size);
		break;
	case COLUMN_BYTES:
		format_bytes(integer_of(c, row), text, size);
		break;
	case COLUMN_RATE:
		format_rate(real_of(c, row), text, size);
		break;
	case COLUMN_PERCENT:
		snprintf(text, size, "%.0f%%", real_of(c, row));
		break;
	case COLUMN_SECONDS:
		snprintf(text, size, "%.1fs", real_of(c, row));
		break;
	case COLUMN_WATTS:
		snprintf(text, size, "%.0fW", real_of(c, row));
		break;
	case COLUMN_CELSIUS:
		snprintf(text, size, "%.0fC", real_of(c, row));
		break;
	case COLUMN_HISTORY:
		break; /* above */
	}
	return text;
}

/* --- Lines --------------------------------------------------------------------------------- */

static uint32_t width_of(const struct table *t, uint8_t drop_below)
{
	uint32_t width = 0;

	for (uint32_t i = 0; i < t->n_columns; i++) {
		if (t->columns[i].title != NULL && t->columns[i].drop < drop_below)
			width += t->columns[i].width + 1u;
	}
	return width - (width > 0);
}

void table_plan(const struct table *t, uint32_t width, struct table_plan *ret_plan)
{
	uint8_t drop_below = UINT8_MAX;

	while (drop_below > 1 && width_of(t, drop_below) > width)
		drop_below--;
	uint32_t natural = width_of(t, drop_below);
	uint32_t left = width > natural ? width - natural : 0;
	ret_plan->n = 0;
	for (uint32_t i = 0; i < t->n_columns; i++) {
		const struct column *c = &t->columns[i];
		if (c->title == NULL || c->drop >= drop_below)
			continue;
		ret_plan->column[ret_plan->n] = (uint8_t)i;
		ret_plan->width[ret_plan->n] = c->width;
		ret_plan->width[ret_plan->n] += (uint16_t)(left < c->grows ? left : c->grows);
		ret_plan->n++;
	}
}

/* Appends a text, cut to its width; text to the left, numbers to the right. */
static size_t append_cell(
	const struct column *c, uint16_t width, const char *value, char *line, size_t used)
{
	int w = c->kind == COLUMN_TEXT ? -(int)width : (int)width;

	used += (size_t)snprintf(line + used, TABLE_LINE_MAX - used, "%s%*.*s", used > 0 ? " " : "",
		w, width, value);
	return used < TABLE_LINE_MAX ? used : TABLE_LINE_MAX - 1;
}

/* Likewise a value. */
static size_t append(
	const struct column *c, uint16_t width, const char *value, char *line, size_t used)
{
	if (c->kind != COLUMN_HISTORY)
		return append_cell(c, width, value, line, used);
	/* Its bytes are more than its places, of which it takes all. */
	used += (size_t)snprintf(
		line + used, TABLE_LINE_MAX - used, "%s%s", used > 0 ? " " : "", value);
	return used < TABLE_LINE_MAX ? used : TABLE_LINE_MAX - 1;
}

static const char *trimmed(char *line)
{
	size_t n = strlen(line);

	while (n > 0 && line[n - 1] == ' ')
		line[--n] = '\0';
	return line;
}

const char *table_titles(
	const struct table *t, const struct table_plan *plan, char line[TABLE_LINE_MAX])
{
	size_t used = 0;

	line[0] = '\0';
	for (uint32_t i = 0; i < plan->n; i++) {
		const struct column *c = &t->columns[plan->column[i]];
		used = append_cell(c, plan->width[i], c->title, line, used);
	}
	return trimmed(line);
}

const char *table_line(const struct table *t, const struct table_plan *plan, const void *row,
	char line[TABLE_LINE_MAX])
{
	char value[160];
	size_t used = 0;

	line[0] = '\0';
	for (uint32_t i = 0; i < plan->n; i++) {
		const struct column *c = &t->columns[plan->column[i]];
		used = append(
			c, plan->width[i], table_value(c, row, value, sizeof(value)), line, used);
	}
	return trimmed(line);
}

/* --- Order --------------------------------------------------------------------------------- */

struct sorting {
	const struct table *table;
	const struct top_rows *rows;
	const struct column *column;
};

static int compare(const void *pa, const void *pb, void *context)
{
	const struct sorting *s = context;
	uint32_t a = *(const uint32_t *)pa, b = *(const uint32_t *)pb;
	const void *row_a = table_row(s->table, s->rows, a);
	const void *row_b = table_row(s->table, s->rows, b);
	int order = 0;

	if (s->column->kind == COLUMN_TEXT) {
		order = strcmp(text_of(s->column, row_a), text_of(s->column, row_b));
	} else {
		double x = number_of(s->column, row_a), y = number_of(s->column, row_b);
		x = isnan(x) ? -INFINITY : x;
		y = isnan(y) ? -INFINITY : y;
		order = (x < y) - (x > y);
	}
	return order != 0 ? order : (a > b) - (a < b);
}

void table_sort(const struct table *t, const struct top_rows *rows, int column, uint32_t *ret_order)
{
	struct sorting s = {t, rows, column < 0 ? NULL : &t->columns[column]};

	for (uint32_t i = 0; i < rows->n; i++)
		ret_order[i] = i;
	if (s.column != NULL)
		qsort_r(ret_order, rows->n, sizeof(*ret_order), compare, &s);
}

/* --- JSON ---------------------------------------------------------------------------------- */

static json_t *history_json(const double *rates)
{
	json_t *array = json_array();

	for (int i = 0; i < TOP_HISTORY; i++) {
		json_t *value = isnan(rates[i]) ? json_null() : json_real(rates[i]);
		if (json_array_append_new(array, value) < 0) {
			json_decref(array);
			return NULL;
		}
	}
	return array;
}

static json_t *value_json(const struct column *c, const void *row)
{
	if (c->kind == COLUMN_HISTORY)
		return history_json(history_of(c, row));
	if (c->kind == COLUMN_TEXT)
		return text_of(c, row)[0] == '\0' ? json_null() : json_string(text_of(c, row));
	if (isnan(number_of(c, row)))
		return json_null();
	if (is_real(c))
		return json_real(real_of(c, row));
	return json_integer((json_int_t)integer_of(c, row));
}

json_t *table_json(const struct table *t, const void *row)
{
	json_t *object = json_object();

	for (uint32_t i = 0; i < t->n_columns; i++) {
		if (json_object_set_new(
			    object, t->columns[i].key, value_json(&t->columns[i], row)) < 0) {
			json_decref(object);
			return NULL;
		}
	}
	return object;
}

static json_t *rows_json(const struct table *t, const struct top_rows *rows)
{
	json_t *array = json_array();

	for (uint32_t i = 0; i < rows->n; i++) {
		if (json_array_append_new(array, table_json(t, table_row(t, rows, i))) < 0) {
			json_decref(array);
			return NULL;
		}
	}
	return array;
}

json_t *top_json(const struct top_model *model)
{
	uint64_t time_ns = model->last == NULL ? 0 : model->last->realtime_ns;
	json_t *document = json_pack("{s:s, s:f, s:o, s:o?}", "schema", "gpuq-stats/1", "time_s",
		(double)time_ns / 1e9, "daemon", table_json(&top_daemon_table, &model->daemon),
		"trouble", model->trouble[0] == '\0' ? NULL : json_string(model->trouble));

	for (int i = 0; i < TOP_TABLES && document != NULL; i++) {
		if (json_object_set_new(document, top_tables[i].key,
			    rows_json(&top_tables[i], &model->rows[i])) < 0) {
			json_decref(document);
			document = NULL;
		}
	}
	return document;
}
