/* SPDX-License-Identifier: MIT */
/*
 * top_impl.h: how rows are made, for the files that make them:
 *
 *   top_model.c  devices, clients, channels, the daemon; the model itself
 *   top_work.c   operators, pipelines, graphs, models, sessions, errors
 */
#ifndef GPUQ_TOOLS_TOP_IMPL_H
#define GPUQ_TOOLS_TOP_IMPL_H

#include "tools/top_model.h"

/* What all rows of one update share. `before` is NULL when there is nothing to compare with. */
struct top_update {
	const struct snapshot *now, *before;
	enum top_liveness liveness;
	double seconds;
	uint64_t clock_ns; /* now, or when a dead gpuqd was last seen */
	struct top_rows rows[TOP_TABLES];
	struct top_history *history; /* the model's */
	uint32_t n_history;
};

/* Text from the object: whatever is no printable ASCII could be meant for the terminal. */
void top_take_text(char *to, size_t size, const char *from, size_t from_size);

#define TAKE_TEXT(to, from) top_take_text(to, sizeof(to), from, sizeof(from))

void top_set_state(
	char state[TOP_STATE_MAX], enum top_mark *mark, const char *text, enum top_mark new_mark);

/* Growth of a counter in a second; NAN when it cannot be told. */
double top_rate(const struct top_update *u, uint64_t now, const uint64_t *before);

/* What a histogram has gained; all of it when `before` is NULL. */
struct top_latency top_latency_gain(const uint64_t *now, const uint64_t *before);

/* The row of a record, or NULL when it is not in use. */
const void *top_row_of(const struct snapshot_table *table, uint32_t record, size_t row_bytes);

/* The client of this generation in a record, or NULL. */
const struct stats_client *top_client_of(
	const struct snapshot *s, uint32_t record, uint32_t generation);

/* A user's name, or number where there is none. */
void top_user_name(uint32_t uid, char *text, size_t size);

/* Time from then to now on gpuqd's clock. */
static inline uint64_t top_age(const struct top_update *u, uint64_t then_ns)
{
	return then_ns == 0 ? TOP_UNKNOWN : u->clock_ns > then_ns ? u->clock_ns - then_ns : 0;
}

/* The rows of one record each, all of top_work.c. */
void top_make_llm(const struct top_update *u, uint32_t i, struct top_llm *row);
void top_make_op(const struct top_update *u, uint32_t i, struct top_op *row);
void top_make_error(const struct top_update *u, uint32_t i, struct top_error *row);
void top_make_session(const struct top_update *u, uint32_t i, struct top_session *row);
void top_make_pipeline(const struct top_update *u, uint32_t i, struct top_pipeline *row);
void top_make_graph(const struct top_update *u, uint32_t i, struct top_graph *row);

#endif
