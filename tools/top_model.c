/* SPDX-License-Identifier: MIT */
/* From two snapshots to rows: differences, rates, quantiles, states. */
#include "tools/top_impl.h"

#include "shm/clock.h"
#include "tools/top_table.h"

#include <errno.h>
#include <math.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Text from the object: whatever is no printable ASCII could be meant for the terminal. */
void top_take_text(char *to, size_t size, const char *from, size_t from_size)
{
	size_t n = 0;

	for (; n + 1 < size && n < from_size && from[n] != '\0'; n++)
		to[n] = from[n] < 0x20 || from[n] > 0x7e ? '?' : from[n];
	to[n] = '\0';
}

void top_set_state(
	char state[TOP_STATE_MAX], enum top_mark *mark, const char *text, enum top_mark new_mark)
{
	snprintf(state, TOP_STATE_MAX, "%s", text);
	*mark = new_mark;
}

/* Growth of a counter, or TOP_UNKNOWN when it cannot be told. */
static uint64_t growth(uint64_t now, const uint64_t *before)
{
	return before == NULL || now < *before ? TOP_UNKNOWN : now - *before;
}

double top_rate(const struct top_update *u, uint64_t now, const uint64_t *before)
{
	uint64_t grown = growth(now, before);

	return grown == TOP_UNKNOWN || u->seconds <= 0 ? NAN : (double)grown / u->seconds;
}

/* Adds what a histogram has gained. */
static void add_gain(uint64_t *sum, const uint64_t *now, const uint64_t *before)
{
	for (uint32_t i = 0; i < STATS_HIST_BUCKETS; i++) {
		uint64_t gain = before == NULL ? now[i] : growth(now[i], &before[i]);
		sum[i] += gain == TOP_UNKNOWN ? 0 : gain;
	}
}

static struct top_latency latency_of(const uint64_t *counts)
{
	if (hist_total(counts, HIST_STATS_BITS) == 0)
		return (struct top_latency){TOP_UNKNOWN, TOP_UNKNOWN};
	return (struct top_latency){
		.p50 = hist_quantile(counts, HIST_STATS_BITS, 0.50),
		.p99 = hist_quantile(counts, HIST_STATS_BITS, 0.99),
	};
}

struct top_latency top_latency_gain(const uint64_t *now, const uint64_t *before)
{
	uint64_t gain[STATS_HIST_BUCKETS] = {0};

	add_gain(gain, now, before);
	return latency_of(gain);
}

/* The row of the same record in the snapshot before, or NULL. */
const void *top_row_of(const struct snapshot_table *before, uint32_t record, size_t row_bytes)
{
	uint32_t low = 0, high = before->n;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;
		if (before->records[middle] < record)
			low = middle + 1;
		else
			high = middle;
	}
	if (low == before->n || before->records[low] != record)
		return NULL;
	return (const char *)before->rows + low * row_bytes;
}

static const struct stats_channel *channel_before(
	const struct top_update *u, const struct stats_channel *c, uint32_t record)
{
	const struct stats_channel *b =
		u->before == NULL ? NULL : top_row_of(&u->before->channels, record, sizeof(*b));

	return b != NULL && b->generation == c->generation ? b : NULL;
}

/* --- Devices ------------------------------------------------------------------------------- */

static void device_state(struct top_device *row, const struct stats_device *d)
{
	switch (d->state) {
	case STATS_DEVICE_STARTING:
		return top_set_state(row->state, &row->mark, "starting", TOP_WARN);
	case STATS_DEVICE_READY:
		return top_set_state(row->state, &row->mark, "ready", TOP_PLAIN);
	case STATS_DEVICE_DRAINING:
		return top_set_state(row->state, &row->mark, "draining", TOP_WARN);
	case STATS_DEVICE_GONE:
		return top_set_state(row->state, &row->mark, "gone", TOP_BAD);
	default:
		return top_set_state(row->state, &row->mark, "?", TOP_BAD);
	}
}

static uint64_t whole(double value)
{
	return isnan(value) ? TOP_UNKNOWN : (uint64_t)value;
}

static void device_hardware(struct top_device *row, const struct hardware_reading *r)
{
	row->utilization_percent = 100 * r->utilization;
	row->memory_used_bytes = whole(r->memory_used_bytes);
	row->memory_bytes = whole(r->memory_bytes);
	row->power_w = r->power_w;
	row->temperature_c = r->temperature_c;
}

static void make_device(const struct top_update *u, uint32_t i, struct top_device *row)
{
	const struct stats_device *d = (const struct stats_device *)u->now->devices.rows + i;
	const struct stats_device *b = u->before == NULL
		? NULL
		: top_row_of(&u->before->devices, u->now->devices.records[i], sizeof(*b));
	struct hardware_reading reading = hardware_unknown();

	if (b != NULL && b->epoch != d->epoch)
		b = NULL;
	*row = (struct top_device){
		.number = u->now->devices.records[i],
		.pid = d->pid,
		.epoch = d->epoch,
		.workers = d->workers,
		.active_channels = d->active_channels,
		.queued = d->queued,
		.executing = d->executing,
		.completed = d->completed,
		.failed = d->failed,
		.inline_runs = d->inline_runs,
		.graph_hits = d->graph_hits,
		.graph_misses = d->graph_misses,
		.graph_captures = d->graph_captures,
		.graph_failures = d->graph_failures,
		.graph_evictions = d->graph_evictions,
		.graph_bytes = d->graph_bytes,
		.graph_budget = d->graph_budget,
		.captures_stopped = d->captures_stopped,
		.worker_runs = d->worker_runs,
		.sleeps = d->sleeps,
		.doorbells = d->doorbells,
		.rescues = d->rescues,
		.poisoned = d->poisoned,
		.hints = d->hints,
		.false_hints = d->false_hints,
		.rate = top_rate(u, d->completed, b == NULL ? NULL : &b->completed),
		.busy_percent = top_rate(u, d->busy_ns, b == NULL ? NULL : &b->busy_ns) / 1e7,
	};
	device_state(row, d);
	/* The object may say that there are more. */
	if (row->number < WIRE_MAX_DEVICES)
		reading = u->now->hardware[row->number];
	device_hardware(row, &reading);
	TAKE_TEXT(row->kind, d->kind);
	TAKE_TEXT(row->name, d->name);
	TAKE_TEXT(row->uuid, d->uuid);
	TAKE_TEXT(row->driver, d->driver);
}

/* --- Channels ------------------------------------------------------------------------------ */

static void channel_state(struct top_channel *row, const struct stats_channel *c)
{
	switch (c->state) {
	case STATS_CHANNEL_OPEN:
		if (c->held_ns != 0)
			return top_set_state(row->state, &row->mark, "held", TOP_WARN);
		if (c->parked != 0)
			return top_set_state(row->state, &row->mark, "parked", TOP_DIM);
		return top_set_state(row->state, &row->mark, "open", TOP_PLAIN);
	case STATS_CHANNEL_POISONED:
		return top_set_state(row->state, &row->mark, "poisoned", TOP_BAD);
	case STATS_CHANNEL_CLOSING:
		return top_set_state(row->state, &row->mark, "closing", TOP_DIM);
	default:
		return top_set_state(row->state, &row->mark, "?", TOP_BAD);
	}
}

const struct stats_client *top_client_of(
	const struct snapshot *s, uint32_t record, uint32_t generation)
{
	const struct stats_client *client = top_row_of(&s->clients, record, sizeof(*client));

	return client != NULL && client->generation == generation ? client : NULL;
}

static void make_channel(const struct top_update *u, uint32_t i, struct top_channel *row)
{
	const struct stats_channel *c = (const struct stats_channel *)u->now->channels.rows + i;
	const struct stats_channel *b = channel_before(u, c, u->now->channels.records[i]);
	const struct stats_client *client = top_client_of(u->now, c->client, c->client_generation);

	*row = (struct top_channel){
		.record = u->now->channels.records[i],
		.client = client == NULL ? TOP_UNKNOWN : c->client,
		.pid = client == NULL ? TOP_UNKNOWN : client->pid,
		.device = c->device,
		.priority = c->priority,
		.sq_entries = c->sq_entries,
		.cq_entries = c->cq_entries,
		.arena_bytes = c->arena_bytes,
		.depth = c->depth,
		.in_flight = c->in_flight,
		.unread = c->unread,
		.completed = c->completed,
		.failed = c->failed,
		.cancelled = c->cancelled,
		.expired = c->expired,
		.rescues = c->rescues,
		.rate = top_rate(u, c->completed, b == NULL ? NULL : &b->completed),
		.queue = top_latency_gain(c->queue_hist, b == NULL ? NULL : b->queue_hist),
		.execute = top_latency_gain(c->execute_hist, b == NULL ? NULL : b->execute_hist),
	};
	memcpy(row->rates, u->history[row->record].rates, sizeof(row->rates));
	channel_state(row, c);
	if (client != NULL)
		TAKE_TEXT(row->name, client->name);
}

static void forget(struct top_history *h, uint32_t generation)
{
	h->generation = generation;
	for (int i = 0; i < TOP_HISTORY; i++)
		h->rates[i] = NAN;
}

/* Room for the history of every channel; of those that are new there is none yet. */
static int history_grow(struct top_model *model, const struct snapshot_table *channels)
{
	const uint32_t n = channels->n == 0 ? 0 : channels->records[channels->n - 1] + 1;
	struct top_history *history;

	if (n <= model->n_history)
		return 0;
	history = realloc(model->history, n * sizeof(*history));
	if (history == NULL)
		return -ENOMEM;
	model->history = history;
	for (; model->n_history < n; model->n_history++)
		forget(&history[model->n_history], 0);
	return 0;
}

/* Adds the interval that has just ended. */
static void history_add(const struct top_update *u)
{
	const struct stats_channel *c = u->now->channels.rows;

	for (uint32_t i = 0; i < u->now->channels.n; i++) {
		const uint32_t record = u->now->channels.records[i];
		const struct stats_channel *b = channel_before(u, &c[i], record);
		struct top_history *h = &u->history[record];

		if (h->generation != c[i].generation)
			forget(h, c[i].generation);
		memmove(h->rates, h->rates + 1, (TOP_HISTORY - 1) * sizeof(h->rates[0]));
		h->rates[TOP_HISTORY - 1] =
			top_rate(u, c[i].completed, b == NULL ? NULL : &b->completed);
	}
}

static bool channel_shown(const struct top_update *u, uint32_t i)
{
	const struct stats_channel *c = (const struct stats_channel *)u->now->channels.rows + i;

	return c->state != STATS_CHANNEL_CLOSED;
}

/* --- Clients ------------------------------------------------------------------------------- */

/* What a client's channels add up to. */
struct client_sums {
	bool compared; /* one of its channels has a rate */
	bool active;
	bool held;
	uint64_t queue[STATS_HIST_BUCKETS], execute[STATS_HIST_BUCKETS];
};

static void add_channel(
	const struct top_update *u, uint32_t i, struct top_client *row, struct client_sums *sums)
{
	const struct stats_channel *c = (const struct stats_channel *)u->now->channels.rows + i;
	const struct stats_channel *b = channel_before(u, c, u->now->channels.records[i]);
	double rate = top_rate(u, c->completed, b == NULL ? NULL : &b->completed);

	row->depth += c->depth;
	row->in_flight += c->in_flight;
	row->unread += c->unread;
	row->completed += c->completed;
	row->failed += c->failed;
	if (!isnan(rate)) {
		row->rate += rate;
		sums->compared = true;
	}
	/* With nothing to compare with, what happened in the last second counts. */
	bool recent = u->clock_ns - c->last_active_ns < 1000000000u && c->completed > 0;
	sums->active |= c->depth > 0 || c->in_flight > 0 || (isnan(rate) ? recent : rate > 0);
	sums->held |= c->held_ns != 0;
	add_gain(sums->queue, c->queue_hist, b == NULL ? NULL : b->queue_hist);
	add_gain(sums->execute, c->execute_hist, b == NULL ? NULL : b->execute_hist);
}

static void client_state(
	struct top_client *row, const struct stats_client *c, const struct client_sums *sums)
{
	if (c->state == STATS_CLIENT_DEAD)
		return top_set_state(row->state, &row->mark, "ended", TOP_DIM);
	if (c->state == STATS_CLIENT_CONNECTED && sums->held)
		return top_set_state(row->state, &row->mark, "dying", TOP_WARN);
	if (c->state == STATS_CLIENT_STALLED)
		return top_set_state(row->state, &row->mark, "stalled", TOP_WARN);
	if (c->state != STATS_CLIENT_CONNECTED)
		return top_set_state(row->state, &row->mark, "?", TOP_BAD);
	if (sums->active)
		return top_set_state(row->state, &row->mark, "running", TOP_GOOD);
	top_set_state(row->state, &row->mark, "idle", TOP_PLAIN);
}

void top_user_name(uint32_t uid, char *text, size_t size)
{
	const struct passwd *pw = getpwuid(uid);

	if (pw != NULL)
		top_take_text(text, size, pw->pw_name, strlen(pw->pw_name));
	else
		snprintf(text, size, "%u", uid);
}

static void make_client(const struct top_update *u, uint32_t i, struct top_client *row)
{
	const struct stats_client *c = (const struct stats_client *)u->now->clients.rows + i;
	const struct stats_channel *channels = u->now->channels.rows;
	struct client_sums sums = {0};

	*row = (struct top_client){
		.record = u->now->clients.records[i],
		.pid = c->pid,
		.uid = c->uid,
		.channels = c->channels,
		.segment_bytes = c->segment_bytes,
		.age_ns = u->clock_ns > c->connected_ns ? u->clock_ns - c->connected_ns : 0,
	};
	for (uint32_t k = 0; k < u->now->channels.n; k++) {
		if (channels[k].client == row->record &&
			channels[k].client_generation == c->generation &&
			channels[k].state != STATS_CHANNEL_CLOSED)
			add_channel(u, k, row, &sums);
	}
	if (!sums.compared)
		row->rate = u->before != NULL && c->channels == 0 ? 0 : NAN;
	row->queue = latency_of(sums.queue);
	row->execute = latency_of(sums.execute);
	client_state(row, c, &sums);
	top_user_name(c->uid, row->user, sizeof(row->user));
	TAKE_TEXT(row->name, c->name);
}

static bool client_lives(const struct top_update *u, uint32_t i)
{
	const struct stats_client *c = (const struct stats_client *)u->now->clients.rows + i;

	return c->state != STATS_CLIENT_DEAD;
}

/* A client stays for a while after its end, so that a crash can be seen. */
static bool client_mourned(const struct top_update *u, uint32_t i)
{
	const struct stats_client *c = (const struct stats_client *)u->now->clients.rows + i;

	return c->state == STATS_CLIENT_DEAD && u->clock_ns < c->ended_ns + TOP_DEAD_SHOWN_NS;
}

/* --- The daemon ---------------------------------------------------------------------------- */

static enum top_liveness liveness_of(const struct top_update *u)
{
	const struct snapshot *s = u->now;
	bool moved = u->before != NULL && !u->before->process_exists &&
		u->before->header.heartbeat_ns != s->header.heartbeat_ns;

	if (s->header.state == WIRE_STOPPED)
		return TOP_STOPPED;
	/* In another PID namespace there never was such a process, but its heart beats. */
	if (!s->process_exists && !moved)
		return TOP_GONE;
	if (snapshot_silent_ns(s) >= SNAPSHOT_SILENT_NS)
		return TOP_SILENT;
	switch (s->header.state) {
	case WIRE_STARTING:
		return TOP_STARTING;
	case WIRE_DRAINING:
		return TOP_DRAINING;
	default:
		return TOP_SERVING;
	}
}

static void set_liveness(struct top_daemon *d, enum top_liveness liveness)
{
	static const struct {
		const char *name;
		enum top_mark mark;
	} states[] = {
		[TOP_STARTING] = {"starting", TOP_WARN},
		[TOP_SERVING] = {"serving", TOP_GOOD},
		[TOP_DRAINING] = {"draining", TOP_WARN},
		[TOP_STOPPED] = {"stopped", TOP_WARN},
		[TOP_GONE] = {"gone", TOP_BAD},
		[TOP_SILENT] = {"silent", TOP_BAD},
	};

	d->liveness = liveness;
	top_set_state(d->state, &d->mark, states[liveness].name, states[liveness].mark);
}

/* Sums over the devices, whose counters only say something for the same epoch. */
static void add_devices(const struct top_update *u, struct top_daemon *d)
{
	const struct stats_device *devices = u->now->devices.rows;

	d->rate = u->now->devices.n > 0 ? 0 : NAN;
	d->fail_rate = d->rate;
	for (uint32_t i = 0; i < u->now->devices.n; i++) {
		const struct stats_device *b = u->before == NULL
			? NULL
			: top_row_of(&u->before->devices, u->now->devices.records[i], sizeof(*b));

		if (b != NULL && b->epoch != devices[i].epoch)
			b = NULL;
		d->completed += devices[i].completed;
		d->failed += devices[i].failed;
		d->rate += top_rate(u, devices[i].completed, b == NULL ? NULL : &b->completed);
		d->fail_rate += top_rate(u, devices[i].failed, b == NULL ? NULL : &b->failed);
	}
}

static void make_daemon(const struct top_update *u, struct top_daemon *ret_daemon)
{
	const struct stats_header *h = &u->now->header;
	struct top_daemon d = {
		.pid = h->control_pid,
		.uid = h->control_uid,
		.cpus = h->cpus,
		.uptime_ns = u->now->realtime_ns > h->started_realtime_ns
			? u->now->realtime_ns - h->started_realtime_ns
			: 0,
		.silent_ns = snapshot_silent_ns(u->now),
		.clients = h->clients,
		.channels = h->channels,
		.segment_bytes = h->segment_bytes,
		.accepted = h->accepted,
		.refused = h->refused,
		.protocol_errors = h->protocol_errors,
		.deaths = h->deaths,
		.accept_exhausted = h->accept_exhausted,
		.device_restarts = h->device_restarts,
		.interval_s = u->before == NULL ? NAN : u->seconds,
	};

	TAKE_TEXT(d.version, h->version_text);
	TAKE_TEXT(d.socket, h->socket_path);
	add_devices(u, &d);
	set_liveness(&d, u->liveness);
	*ret_daemon = d;
}

const char *top_headline(const struct top_daemon *d, char *text, size_t size)
{
	char up[16], silent[16];

	format_age(d->uptime_ns, up, sizeof(up));
	format_age(d->silent_ns, silent, sizeof(silent));
	switch (d->liveness) {
	case TOP_GONE:
		snprintf(text, size, "last state, gpuqd %llu is gone (last seen %s ago)",
			(unsigned long long)d->pid, silent);
		break;
	case TOP_STOPPED:
		snprintf(text, size, "last state, gpuqd %llu was stopped (%s ago)",
			(unsigned long long)d->pid, silent);
		break;
	case TOP_SILENT:
		snprintf(text, size, "gpuqd %llu gives no sign of life for %s",
			(unsigned long long)d->pid, silent);
		break;
	default:
		snprintf(text, size, "gpuqd %s, pid %llu, %s for %s", d->version,
			(unsigned long long)d->pid, d->state, up);
	}
	return text;
}

/* --- The model ----------------------------------------------------------------------------- */

static void free_rows(struct top_rows rows[TOP_TABLES])
{
	for (int i = 0; i < TOP_TABLES; i++)
		free(rows[i].rows);
}

/* Fills one table with a row for each record that is shown (all when `shown` is NULL). */
#define MAKE_ROWS(u, number, records, type, make, shown)         \
	for (uint32_t i_ = 0; i_ < (records)->n; i_++) {         \
		struct top_rows *r_ = &(u)->rows[number];        \
		if (shown(u, i_))                                \
			make(u, i_, (type *)r_->rows + r_->n++); \
	}

static bool always_shown(const struct top_update *u, uint32_t i)
{
	return true;
}

static int make_rows(struct top_update *u)
{
	const struct snapshot *s = u->now;
	const struct snapshot_table *const records[TOP_TABLES] = {&s->devices, &s->clients,
		&s->channels, &s->models, &s->ops, &s->errors, &s->sessions, &s->pipelines,
		&s->graphs};

	for (int i = 0; i < TOP_TABLES; i++) {
		/* + 1: no rows is not out of memory */
		u->rows[i].rows = calloc(records[i]->n + 1, top_tables[i].row_bytes);
		if (u->rows[i].rows == NULL)
			return -ENOMEM;
	}
	MAKE_ROWS(u, TOP_DEVICES, &s->devices, struct top_device, make_device, always_shown);
	/* Who is there before who was. */
	MAKE_ROWS(u, TOP_CLIENTS, &s->clients, struct top_client, make_client, client_lives);
	MAKE_ROWS(u, TOP_CLIENTS, &s->clients, struct top_client, make_client, client_mourned);
	MAKE_ROWS(u, TOP_CHANNELS, &s->channels, struct top_channel, make_channel, channel_shown);
	MAKE_ROWS(u, TOP_MODELS, &s->models, struct top_llm, top_make_llm, always_shown);
	MAKE_ROWS(u, TOP_OPS, &s->ops, struct top_op, top_make_op, always_shown);
	MAKE_ROWS(u, TOP_ERRORS, &s->errors, struct top_error, top_make_error, always_shown);
	MAKE_ROWS(
		u, TOP_SESSIONS, &s->sessions, struct top_session, top_make_session, always_shown);
	MAKE_ROWS(u, TOP_PIPELINES, &s->pipelines, struct top_pipeline, top_make_pipeline,
		always_shown);
	MAKE_ROWS(u, TOP_GRAPHS, &s->graphs, struct top_graph, top_make_graph, always_shown);
	return 0;
}

/* A snapshot to compare with, unless it is of another gpuqd. */
static void compare_with(struct top_update *u, const struct snapshot *before)
{
	if (before == NULL || before->object != u->now->object ||
		u->now->taken_ns <= before->taken_ns)
		return;
	u->before = before;
	u->seconds = (double)(u->now->taken_ns - before->taken_ns) / 1e9;
}

int top_model_update(struct top_model *model, struct snapshot *snapshot)
{
	struct top_update u = {.now = snapshot, .clock_ns = snapshot->clock_ns};

	compare_with(&u, model->last);
	u.liveness = liveness_of(&u);
	if (u.liveness == TOP_GONE || u.liveness == TOP_STOPPED) {
		/* Nothing moves any more: rates are unknown, not 0, and quantiles are of all. */
		u.before = NULL;
		u.clock_ns = snapshot->header.heartbeat_ns;
	}
	if (history_grow(model, &snapshot->channels) < 0) {
		snapshot_free(snapshot);
		return -ENOMEM;
	}
	u.history = model->history;
	u.n_history = model->n_history;
	history_add(&u);
	if (make_rows(&u) < 0) {
		free_rows(u.rows);
		snapshot_free(snapshot);
		return -ENOMEM;
	}
	make_daemon(&u, &model->daemon);
	free_rows(model->rows);
	memcpy(model->rows, u.rows, sizeof(u.rows));
	snapshot_free(model->last);
	model->last = snapshot;
	model->trouble[0] = '\0';
	return 0;
}

void top_model_fail(struct top_model *model, const char *why)
{
	snprintf(model->trouble, sizeof(model->trouble), "%s", why);
	if (model->last == NULL)
		return;
	model->daemon.silent_ns =
		snapshot_silent_ns(model->last) + clock_monotonic_ns() - model->last->taken_ns;
	if (model->daemon.liveness != TOP_STOPPED && !snapshot_process_exists(model->last))
		set_liveness(&model->daemon, TOP_GONE);
}

void top_model_finish(struct top_model *model)
{
	free_rows(model->rows);
	free(model->history);
	snapshot_free(model->last);
	*model = (struct top_model){0};
}
