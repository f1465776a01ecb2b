/* SPDX-License-Identifier: MIT */
/* The tables, and how their rows become text and JSON. */
#include "tools/top_table.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIELD(type, field) offsetof(struct type, field)
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static const struct column device_columns[] = {
	{"DEVICE", "device", COLUMN_COUNT, FIELD(top_device, number), 6},
	{"KIND", "kind", COLUMN_TEXT, FIELD(top_device, kind), 5, 5},
	{"STATE", "state", COLUMN_TEXT, FIELD(top_device, state), 8},
	{"RATE/s", "rate_per_s", COLUMN_RATE, FIELD(top_device, rate), 7},
	{"QUEUED", "queued", COLUMN_COUNT, FIELD(top_device, queued), 6, 1},
	{"EXEC", "executing", COLUMN_COUNT, FIELD(top_device, executing), 5, 2},
	{"BUSY", "busy_percent", COLUMN_PERCENT, FIELD(top_device, busy_percent), 5, 1},
	{"FAILED", "failed", COLUMN_COUNT, FIELD(top_device, failed), 6, 1},
	{"REPLAYS", "graph_hits", COLUMN_COUNT, FIELD(top_device, graph_hits), 7, 5},
	{"CAPTS", "graph_captures", COLUMN_COUNT, FIELD(top_device, graph_captures), 5, 6},
	{"GRAPHS", "graph_bytes", COLUMN_BYTES, FIELD(top_device, graph_bytes), 6, 6},
	{"EPOCH", "epoch", COLUMN_COUNT, FIELD(top_device, epoch), 5, 3},
	{"PID", "pid", COLUMN_COUNT, FIELD(top_device, pid), 7, 4},
	{NULL, "completed", COLUMN_COUNT, FIELD(top_device, completed)},
	{NULL, "workers", COLUMN_COUNT, FIELD(top_device, workers)},
	{NULL, "active_channels", COLUMN_COUNT, FIELD(top_device, active_channels)},
	{NULL, "inline_runs", COLUMN_COUNT, FIELD(top_device, inline_runs)},
	{NULL, "worker_runs", COLUMN_COUNT, FIELD(top_device, worker_runs)},
	{NULL, "sleeps", COLUMN_COUNT, FIELD(top_device, sleeps)},
	{NULL, "doorbells", COLUMN_COUNT, FIELD(top_device, doorbells)},
	{NULL, "rescues", COLUMN_COUNT, FIELD(top_device, rescues)},
	{NULL, "poisoned", COLUMN_COUNT, FIELD(top_device, poisoned)},
	{NULL, "hints", COLUMN_COUNT, FIELD(top_device, hints)},
	{NULL, "false_hints", COLUMN_COUNT, FIELD(top_device, false_hints)},
	{NULL, "graph_misses", COLUMN_COUNT, FIELD(top_device, graph_misses)},
	{NULL, "graph_failures", COLUMN_COUNT, FIELD(top_device, graph_failures)},
	{NULL, "graph_evictions", COLUMN_COUNT, FIELD(top_device, graph_evictions)},
	{NULL, "graph_budget", COLUMN_BYTES, FIELD(top_device, graph_budget)},
	{NULL, "captures_stopped", COLUMN_COUNT, FIELD(top_device, captures_stopped)},
	{"NAME", "name", COLUMN_TEXT, FIELD(top_device, name), 8, 6, true},
};

static const struct column client_columns[] = {
	{"CLIENT", "pid", COLUMN_COUNT, FIELD(top_client, pid), 7},
	{"USER", "user", COLUMN_TEXT, FIELD(top_client, user), 8, 5},
	{"NAME", "name", COLUMN_TEXT, FIELD(top_client, name), 10, 1, true},
	{"STATE", "state", COLUMN_TEXT, FIELD(top_client, state), 8},
	{"CHAN", "channels", COLUMN_COUNT, FIELD(top_client, channels), 4, 6},
	{"DEPTH", "depth", COLUMN_COUNT, FIELD(top_client, depth), 5, 7},
	{"FLIGHT", "in_flight", COLUMN_COUNT, FIELD(top_client, in_flight), 6, 4},
	{"RATE/s", "rate_per_s", COLUMN_RATE, FIELD(top_client, rate), 7},
	{"QUE50", "queue_p50_ns", COLUMN_NS, FIELD(top_client, queue.p50), 6, 8},
	{"QUE99", "queue_p99_ns", COLUMN_NS, FIELD(top_client, queue.p99), 6, 3},
	{"EXE50", "execute_p50_ns", COLUMN_NS, FIELD(top_client, execute.p50), 6, 8},
	{"EXE99", "execute_p99_ns", COLUMN_NS, FIELD(top_client, execute.p99), 6, 3},
	{"FAILED", "failed", COLUMN_COUNT, FIELD(top_client, failed), 6, 2},
	{"MEM", "segment_bytes", COLUMN_BYTES, FIELD(top_client, segment_bytes), 5, 9},
	{"AGE", "age_ns", COLUMN_AGE, FIELD(top_client, age_ns), 6, 9},
	{NULL, "record", COLUMN_COUNT, FIELD(top_client, record)},
	{NULL, "uid", COLUMN_COUNT, FIELD(top_client, uid)},
	{NULL, "unread", COLUMN_COUNT, FIELD(top_client, unread)},
	{NULL, "completed", COLUMN_COUNT, FIELD(top_client, completed)},
};

static const struct column channel_columns[] = {
	{"CHANNEL", "channel", COLUMN_COUNT, FIELD(top_channel, record), 7},
	{"PID", "pid", COLUMN_COUNT, FIELD(top_channel, pid), 7, 1},
	{"NAME", "name", COLUMN_TEXT, FIELD(top_channel, name), 6, 6, true},
	{"DEV", "device", COLUMN_COUNT, FIELD(top_channel, device), 3, 9},
	{"PRI", "priority", COLUMN_COUNT, FIELD(top_channel, priority), 3, 9},
	{"STATE", "state", COLUMN_TEXT, FIELD(top_channel, state), 8, 5},
	{"DEPTH", "depth", COLUMN_COUNT, FIELD(top_channel, depth), 5, 1},
	{"FLIGHT", "in_flight", COLUMN_COUNT, FIELD(top_channel, in_flight), 6, 1},
	{"UNREAD", "unread", COLUMN_COUNT, FIELD(top_channel, unread), 6, 8},
	{"RATE/s", "rate_per_s", COLUMN_RATE, FIELD(top_channel, rate), 7},
	{"QUE50", "queue_p50_ns", COLUMN_NS, FIELD(top_channel, queue.p50), 6, 4},
	{"QUE99", "queue_p99_ns", COLUMN_NS, FIELD(top_channel, queue.p99), 6, 2},
	{"EXE50", "execute_p50_ns", COLUMN_NS, FIELD(top_channel, execute.p50), 6, 4},
	{"EXE99", "execute_p99_ns", COLUMN_NS, FIELD(top_channel, execute.p99), 6, 2},
	{"FAILED", "failed", COLUMN_COUNT, FIELD(top_channel, failed), 6, 3},
	{"ARENA", "arena_bytes", COLUMN_BYTES, FIELD(top_channel, arena_bytes), 5, 10},
	{NULL, "client", COLUMN_COUNT, FIELD(top_channel, client)},
	{NULL, "sq_entries", COLUMN_COUNT, FIELD(top_channel, sq_entries)},
	{NULL, "cq_entries", COLUMN_COUNT, FIELD(top_channel, cq_entries)},
	{NULL, "completed", COLUMN_COUNT, FIELD(top_channel, completed)},
	{NULL, "cancelled", COLUMN_COUNT, FIELD(top_channel, cancelled)},
	{NULL, "expired", COLUMN_COUNT, FIELD(top_channel, expired)},
	{NULL, "rescues", COLUMN_COUNT, FIELD(top_channel, rescues)},
};

static const struct column llm_columns[] = {
	{"MODEL", "name", COLUMN_TEXT, FIELD(top_llm, name), 16, 0, true},
	{"STATE", "state", COLUMN_TEXT, FIELD(top_llm, state), 9, 4},
	{"SESSNS", "sessions", COLUMN_COUNT, FIELD(top_llm, sessions), 6},
	{"TOKENS", "computed_tokens", COLUMN_COUNT, FIELD(top_llm, computed_tokens), 7, 2},
	{"TOK/s", "token_rate_per_s", COLUMN_RATE, FIELD(top_llm, token_rate), 7},
	{"STEP/s", "step_rate_per_s", COLUMN_RATE, FIELD(top_llm, step_rate), 7, 1},
	{"KV", "kv_percent", COLUMN_PERCENT, FIELD(top_llm, kv_percent), 4},
	{"MEM", "bytes", COLUMN_BYTES, FIELD(top_llm, bytes), 5, 3},
	{NULL, "architecture", COLUMN_TEXT, FIELD(top_llm, architecture)},
	{NULL, "max_sessions", COLUMN_COUNT, FIELD(top_llm, max_sessions)},
	{NULL, "max_tokens", COLUMN_COUNT, FIELD(top_llm, max_tokens)},
	{NULL, "loaded_bytes", COLUMN_BYTES, FIELD(top_llm, loaded_bytes)},
	{NULL, "total_bytes", COLUMN_BYTES, FIELD(top_llm, total_bytes)},
	{NULL, "kv_blocks", COLUMN_COUNT, FIELD(top_llm, kv_blocks)},
	{NULL, "kv_free_blocks", COLUMN_COUNT, FIELD(top_llm, kv_free_blocks)},
	{NULL, "kv_cached_blocks", COLUMN_COUNT, FIELD(top_llm, kv_cached_blocks)},
	{NULL, "prompt_tokens", COLUMN_COUNT, FIELD(top_llm, prompt_tokens)},
	{NULL, "shared_tokens", COLUMN_COUNT, FIELD(top_llm, shared_tokens)},
	{NULL, "generated_tokens", COLUMN_COUNT, FIELD(top_llm, generated_tokens)},
	{NULL, "steps", COLUMN_COUNT, FIELD(top_llm, steps)},
	{NULL, "rows", COLUMN_COUNT, FIELD(top_llm, rows)},
	{NULL, "evictions", COLUMN_COUNT, FIELD(top_llm, evictions)},
	{NULL, "preemptions", COLUMN_COUNT, FIELD(top_llm, preemptions)},
};

static const struct column op_columns[] = {
	{"OPERATOR", "name", COLUMN_TEXT, FIELD(top_op, name), 16, 0, true},
	{"CALLS", "calls", COLUMN_COUNT, FIELD(top_op, calls), 7, 1},
	{"RATE/s", "rate_per_s", COLUMN_RATE, FIELD(top_op, rate), 7},
	{"EXE50", "execute_p50_ns", COLUMN_NS, FIELD(top_op, execute.p50), 6},
	{"EXE99", "execute_p99_ns", COLUMN_NS, FIELD(top_op, execute.p99), 6},
	{"FAILED", "failed", COLUMN_COUNT, FIELD(top_op, failed), 6},
};

static const struct column daemon_columns[] = {
	{NULL, "state", COLUMN_TEXT, FIELD(top_daemon, state)},
	{NULL, "pid", COLUMN_COUNT, FIELD(top_daemon, pid)},
	{NULL, "uid", COLUMN_COUNT, FIELD(top_daemon, uid)},
	{NULL, "version", COLUMN_TEXT, FIELD(top_daemon, version)},
	{NULL, "socket", COLUMN_TEXT, FIELD(top_daemon, socket)},
	{NULL, "uptime_ns", COLUMN_AGE, FIELD(top_daemon, uptime_ns)},
	{NULL, "silent_ns", COLUMN_AGE, FIELD(top_daemon, silent_ns)},
	{NULL, "cpus", COLUMN_COUNT, FIELD(top_daemon, cpus)},
	{NULL, "clients", COLUMN_COUNT, FIELD(top_daemon, clients)},
	{NULL, "channels", COLUMN_COUNT, FIELD(top_daemon, channels)},
	{NULL, "segment_bytes", COLUMN_BYTES, FIELD(top_daemon, segment_bytes)},
	{NULL, "completed", COLUMN_COUNT, FIELD(top_daemon, completed)},
	{NULL, "failed", COLUMN_COUNT, FIELD(top_daemon, failed)},
	{NULL, "rate_per_s", COLUMN_RATE, FIELD(top_daemon, rate)},
	{NULL, "fail_rate_per_s", COLUMN_RATE, FIELD(top_daemon, fail_rate)},
	{NULL, "accepted", COLUMN_COUNT, FIELD(top_daemon, accepted)},
	{NULL, "refused", COLUMN_COUNT, FIELD(top_daemon, refused)},
	{NULL, "protocol_errors", COLUMN_COUNT, FIELD(top_daemon, protocol_errors)},
	{NULL, "deaths", COLUMN_COUNT, FIELD(top_daemon, deaths)},
	{NULL, "accept_exhausted", COLUMN_COUNT, FIELD(top_daemon, accept_exhausted)},
	{NULL, "device_restarts", COLUMN_COUNT, FIELD(top_daemon, device_restarts)},
	{NULL, "interval_s", COLUMN_SECONDS, FIELD(top_daemon, interval_s)},
};

#define TABLE(key, name, type, columns)                                  \
	{                                                                \
		key, name, sizeof(struct type), COUNT(columns), columns, \
	}

const struct table top_tables[TOP_TABLES] = {
	[TOP_DEVICES] = TABLE("devices", "devices", top_device, device_columns),
	[TOP_CLIENTS] = TABLE("clients", "clients", top_client, client_columns),
	[TOP_CHANNELS] = TABLE("channels", "channels", top_channel, channel_columns),
	[TOP_MODELS] = TABLE("models", "models", top_llm, llm_columns),
	[TOP_OPS] = TABLE("ops", "operators", top_op, op_columns),
};

const struct table top_daemon_table = TABLE("daemon", "daemon", top_daemon, daemon_columns);

/* --- Values -------------------------------------------------------------------------------- */

static bool is_real(const struct column *c)
{
	return c->kind == COLUMN_RATE || c->kind == COLUMN_PERCENT || c->kind == COLUMN_SECONDS;
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

/* Integers and floating point on one scale; NAN when not known. */
static double number_of(const struct column *c, const void *row)
{
	if (is_real(c))
		return real_of(c, row);
	return integer_of(c, row) == TOP_UNKNOWN ? NAN : (double)integer_of(c, row);
}

const char *table_value(const struct column *c, const void *row, char *text, size_t size)
{
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
		if (c->grows)
			ret_plan->width[ret_plan->n] += (uint16_t)(left < 22 ? left : 22);
		ret_plan->n++;
	}
}

/* Appends one value, cut to its width; text to the left, numbers to the right. */
static size_t append(
	const struct column *c, uint16_t width, const char *value, char *line, size_t used)
{
	int w = c->kind == COLUMN_TEXT ? -(int)width : (int)width;

	used += (size_t)snprintf(line + used, TABLE_LINE_MAX - used, "%s%*.*s", used > 0 ? " " : "",
		w, width, value);
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
		used = append(c, plan->width[i], c->title, line, used);
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

static json_t *value_json(const struct column *c, const void *row)
{
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
