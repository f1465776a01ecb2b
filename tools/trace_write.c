/* SPDX-License-Identifier: MIT */
/*
 * trace_write.c: a trace as JSON. Everything is a complete slice ("X") on a track, so nothing can
 * be left open. Slices of one track must nest: what may overlap, requests of a channel or work on
 * the device, is spread over as many tracks as are needed, the first free one each time.
 */
#include "tools/trace.h"

#include "gpuq.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Groups of tracks, which the format calls processes; those of clients come behind. */
enum group { GROUP_DISPATCH = 1, GROUP_DEVICE, GROUP_GRAPHS, GROUP_MODELS, GROUP_CONTROL, GROUPS };

#define STAGES 6

/* Tracks of one kind that take turns: the end of the last slice on each. */
struct lanes {
	int group;
	char name[80];
	uint32_t first; /* tracks before this one are others' */
	uint32_t n, capacity;
	uint64_t *ends_ns;
	uint32_t *tracks;
};

struct writer {
	const struct trace *t;
	FILE *out;
	bool any; /* event written */
	uint32_t n_tracks;
	struct lanes replays, launches, copies, inline_runs, captures, firsts;
	struct lanes *channels; /* [n_channels] */
	struct lanes *models;	/* [snapshot's models] */
	int err;
};

/* --- Pieces of JSON ------------------------------------------------------------------------ */

/* Names come from clients: any bytes. */
static void put_text(struct writer *w, const char *text)
{
	putc('"', w->out);
	for (; *text != '\0'; text++) {
		const unsigned char c = (unsigned char)*text;
		if (c == '"' || c == '\\')
			fprintf(w->out, "\\%c", c);
		else
			putc(c < ' ' || c > '~' ? '?' : c, w->out);
	}
	putc('"', w->out);
}

/* Microseconds since the first event. */
static void put_time(struct writer *w, const char *key, uint64_t ns)
{
	fprintf(w->out, ",\"%s\":%" PRIu64 ".%03" PRIu64, key, ns / 1000, ns % 1000);
}

static void begin(struct writer *w, const char *type, int group, uint32_t track, const char *name)
{
	fprintf(w->out, "%s\n{\"ph\":\"%s\",\"pid\":%d,\"tid\":%u,\"name\":", w->any ? "," : "",
		type, group, track);
	put_text(w, name);
	w->any = true;
}

/* What began before the first event begins with that. */
static uint64_t since_first(const struct writer *w, uint64_t at_ns)
{
	return at_ns > w->t->first_ns ? at_ns - w->t->first_ns : 0;
}

static void begin_at(struct writer *w, const char *type, int group, uint32_t track,
	const char *name, uint64_t at_ns)
{
	begin(w, type, group, track, name);
	put_time(w, "ts", since_first(w, at_ns));
}

/* A slice, open for arguments; finish() ends it. */
static void begin_slice(struct writer *w, const struct lanes *lanes, uint32_t lane,
	const char *name, uint64_t from_ns, uint64_t to_ns)
{
	begin_at(w, "X", lanes->group, lanes->tracks[lane], name, from_ns);
	put_time(w, "dur", to_ns > from_ns ? since_first(w, to_ns) - since_first(w, from_ns) : 0);
}

static void finish(struct writer *w)
{
	fputs("}", w->out);
}

static void put_meta(
	struct writer *w, const char *what, int group, uint32_t track, const char *name)
{
	begin(w, "M", group, track, what);
	fputs(",\"args\":{\"name\":", w->out);
	put_text(w, name);
	fputs("}}", w->out);
	if (strcmp(what, "thread_name") != 0)
		return;
	begin(w, "M", group, track, "thread_sort_index");
	fprintf(w->out, ",\"args\":{\"sort_index\":%u}}", track);
}

/* --- Tracks -------------------------------------------------------------------------------- */

static int lanes_add(struct writer *w, struct lanes *lanes)
{
	char name[120];

	if (lanes->n == lanes->capacity) {
		const uint32_t more = lanes->capacity == 0 ? 8 : lanes->capacity * 2;
		uint64_t *ends_ns = realloc(lanes->ends_ns, more * sizeof(*ends_ns));
		if (ends_ns == NULL)
			return -ENOMEM;
		lanes->ends_ns = ends_ns;
		uint32_t *tracks = realloc(lanes->tracks, more * sizeof(*tracks));
		if (tracks == NULL)
			return -ENOMEM;
		lanes->tracks = tracks;
		lanes->capacity = more;
	}
	lanes->ends_ns[lanes->n] = 0;
	lanes->tracks[lanes->n] = ++w->n_tracks;
	if (lanes->n == 0)
		snprintf(name, sizeof(name), "%s", lanes->name);
	else
		snprintf(name, sizeof(name), "%s (%u)", lanes->name, lanes->n + 1);
	put_meta(w, "thread_name", lanes->group, w->n_tracks, name);
	return (int)lanes->n++;
}

/* The first one that is free at from_ns; it is not until to_ns, then. Negative: no memory. */
static int lanes_take(struct writer *w, struct lanes *lanes, uint64_t from_ns, uint64_t to_ns)
{
	int lane = -1;

	for (uint32_t i = 0; i < lanes->n && lane < 0; i++)
		lane = lanes->ends_ns[i] <= from_ns ? (int)i : -1;
	if (lane < 0)
		lane = lanes_add(w, lanes);
	if (lane < 0)
		w->err = lane;
	else
		lanes->ends_ns[lane] = to_ns;
	return lane;
}

static void lanes_free(struct lanes *lanes)
{
	free(lanes->ends_ns);
	free(lanes->tracks);
}

/* --- Names --------------------------------------------------------------------------------- */

static const struct stats_graph *graph_of(const struct trace *t, uint64_t id)
{
	for (uint32_t i = 0; i < t->n_graphs && id != 0; i++) {
		if (t->graphs[i].state != 0 && t->graphs[i].id == id)
			return &t->graphs[i];
	}
	return NULL;
}

static const char *shape_of(const struct trace *t, uint64_t id)
{
	const struct stats_graph *g = graph_of(t, id);

	return g == NULL ? NULL : g->shape;
}

static const char *op_name(const struct trace *t, uint32_t op)
{
	const struct snapshot_table *ops = &t->snapshot->ops;

	for (uint32_t i = 0; i < ops->n; i++) {
		if (ops->records[i] == op)
			return ((const struct stats_op *)ops->rows)[i].name;
	}
	return NULL;
}

static void name_request(
	const struct trace *t, const struct trace_request *r, char *name, size_t size)
{
	static const char *const kinds[] = {
		"request", "call", "pipeline", "copy", "session", "step", "capture"};
	const char *op = op_name(t, r->op);

	if (r->n > 0)
		snprintf(name, size, r->n == 1 ? "null" : "null x%u", r->n);
	else if (r->kind == RECORDER_CALL && op != NULL)
		snprintf(name, size, "%.*s", GPUQ_NAME_MAX, op);
	else
		snprintf(name, size, "%s",
			kinds[r->kind < sizeof(kinds) / sizeof(kinds[0]) ? r->kind : 0]);
}

static const struct stats_client *client_of(const struct trace *t, const struct trace_channel *ch)
{
	const struct snapshot_table *clients = &t->snapshot->clients;
	const struct stats_client *rows = clients->rows;

	for (uint32_t i = 0; i < clients->n && ch->known; i++) {
		if (clients->records[i] == ch->client &&
			rows[i].generation == ch->client_generation)
			return &rows[i];
	}
	return NULL;
}

/* --- Requests ------------------------------------------------------------------------------ */

struct stage {
	const char *name;
	uint64_t from_ns, to_ns;
};

/* What is not known is left out; the clocks of two CPUs may differ by some ns. */
static uint32_t find_stages(
	const struct trace *t, const struct trace_request *r, struct stage stages[STAGES])
{
	const bool ran = r->end_ns > r->start_ns;
	const struct {
		const char *name;
		uint64_t end_ns;
	} steps[STAGES] = {
		{"in the ring", r->taken_ns},
		{"queued", r->is_inline ? 0 : r->given_ns},
		{"launch", ran && !r->is_inline ? r->start_ns : 0},
		{r->is_inline ? "run" : "device", ran ? r->end_ns : 0},
		{r->status < 0 ? "refusal" : "completion", r->posted_ns},
		/* Of null operations that is known too late to be of use. */
		{"until seen", r->n == 0 ? r->seen_ns : 0},
	};
	uint64_t at_ns = r->submitted_ns;
	uint32_t n = 0;

	for (uint32_t i = 0; i < STAGES; i++) {
		if (at_ns == 0)
			at_ns = steps[i].end_ns;
		if (steps[i].end_ns <= at_ns)
			continue;
		stages[n++] = (struct stage){steps[i].name, at_ns, steps[i].end_ns};
		at_ns = steps[i].end_ns;
	}
	/* Taken and not heard of again: it lasts. */
	if (!r->ended && at_ns != 0 && at_ns < t->last_ns)
		stages[n++] = (struct stage){"unfinished", at_ns, t->last_ns};
	return n;
}

static void put_request_args(struct writer *w, const struct trace_request *r)
{
	fprintf(w->out, ",\"args\":{\"ticket\":%" PRIu64, r->ticket);
	if (r->trace_id != 0)
		fprintf(w->out, ",\"trace_id\":%" PRIu64, r->trace_id);
	if (r->session != 0)
		fprintf(w->out, ",\"session\":%u", r->session);
	if (r->graph != 0)
		fprintf(w->out, ",\"graph\":%" PRIu64 ",\"replayed\":%s", r->graph,
			r->replayed ? "true" : "false");
	if (r->status < 0) {
		fputs(",\"error\":", w->out);
		put_text(w, gpuq_error_name(r->status));
	}
	fputs("}", w->out);
	finish(w);
}

/* An arrow: "s" where it begins, "t" on its way, "f" where it ends, inside slices each. */
static void put_arrow(struct writer *w, const char *type, const struct lanes *lanes, uint32_t lane,
	uint64_t id, uint64_t at_ns)
{
	begin_at(w, type, lanes->group, lanes->tracks[lane], "request", at_ns);
	fprintf(w->out, ",\"cat\":\"request\",\"id\":%" PRIu64 "%s", id,
		type[0] == 'f' ? ",\"bp\":\"e\"" : "");
	finish(w);
}

static struct lanes *device_lanes(struct writer *w, const struct trace_request *r)
{
	if (r->is_inline)
		return &w->inline_runs;
	if (r->kind == RECORDER_COPY)
		return &w->copies;
	return r->replayed ? &w->replays : &w->launches;
}

/* What the device did for it, with the arrow's way through. Steps of models are on their own. */
static void put_device(
	struct writer *w, const struct trace_request *r, const char *name, uint64_t arrow)
{
	const char *shape = shape_of(w->t, r->graph);
	struct lanes *lanes = device_lanes(w, r);

	if (r->end_ns <= r->start_ns || r->kind == RECORDER_MODEL_STEP || r->kind == RECORDER_WISH)
		return;
	const int lane = lanes_take(w, lanes, r->start_ns, r->end_ns);
	if (lane < 0)
		return;
	begin_slice(w, lanes, (uint32_t)lane, shape != NULL ? shape : name, r->start_ns, r->end_ns);
	put_request_args(w, r);
	if (arrow != 0)
		put_arrow(w, "t", lanes, (uint32_t)lane, arrow, r->start_ns);
}

static void put_request(struct writer *w, uint32_t number)
{
	const struct trace_request *r = &w->t->requests[number];
	struct lanes *lanes = &w->channels[r->channel];
	struct stage stages[STAGES + 1];
	const uint32_t n = find_stages(w->t, r, stages);
	char name[GPUQ_NAME_MAX + 16];

	if (n == 0)
		return;
	const int lane = lanes_take(w, lanes, stages[0].from_ns, stages[n - 1].to_ns);
	if (lane < 0)
		return;
	name_request(w->t, r, name, sizeof(name));
	begin_slice(w, lanes, (uint32_t)lane, name, stages[0].from_ns, stages[n - 1].to_ns);
	put_request_args(w, r);
	for (uint32_t i = 0; i < n; i++) {
		begin_slice(w, lanes, (uint32_t)lane, stages[i].name, stages[i].from_ns,
			stages[i].to_ns);
		finish(w);
	}
	const uint64_t arrow = r->ended && n > 1 ? number + 1 : 0;
	if (arrow != 0)
		put_arrow(w, "s", lanes, (uint32_t)lane, arrow, stages[0].from_ns);
	put_device(w, r, name, arrow);
	if (arrow != 0)
		put_arrow(w, "f", lanes, (uint32_t)lane, arrow, stages[n - 1].from_ns);
}

/* --- Other events -------------------------------------------------------------------------- */

static void put_instant(
	struct writer *w, enum group group, const struct recorder_event *e, const char *name)
{
	begin_at(w, "i", group, 0, name, e->time_ns);
	fprintf(w->out, ",\"s\":\"p\",\"args\":{\"pid\":%" PRIu64 ",\"status\":%d}", e->words[0],
		e->status);
	finish(w);
}

/* A slice from the last event of one kind to the next one of another; of a thread's ring. */
static void put_pairs(
	struct writer *w, enum recorder_writer writer, enum recorder_kind kind, struct lanes *lanes)
{
	const struct recording_ring *ring = &w->t->recording->rings[writer];
	const struct recorder_event *first = NULL;

	for (uint64_t i = 0; i < ring->n; i++) {
		const struct recorder_event *e = &ring->events[i];
		const char *shape = shape_of(w->t, e->words[0]);

		if (e->kind == kind)
			first = e;
		if (e->kind != kind + 1 || first == NULL)
			continue;
		const int lane = lanes_take(w, lanes, first->time_ns, e->time_ns);
		if (lane < 0)
			return;
		begin_slice(w, lanes, (uint32_t)lane, shape != NULL ? shape : "a shape",
			first->time_ns, e->time_ns);
		fprintf(w->out, ",\"args\":{\"graph\":%" PRIu64 ",\"status\":%d}", e->words[0],
			e->status);
		finish(w);
		first = NULL;
	}
}

static void put_step(struct writer *w, const struct recorder_event *e)
{
	const struct snapshot_table *models = &w->t->snapshot->models;
	const struct stats_model *rows = models->rows;

	for (uint32_t i = 0; i < models->n; i++) {
		if (rows[i].handle != e->channel)
			continue;
		struct lanes *lanes = &w->models[i];
		const uint64_t launched_ns = e->words[0] + (e->words[3] >> 32);
		const int lane = lanes_take(w, lanes, e->words[0], e->time_ns);
		if (lane < 0)
			return;
		begin_slice(w, lanes, (uint32_t)lane, e->ticket != 0 ? "decode" : "prompt",
			e->words[0], e->time_ns);
		fprintf(w->out,
			",\"args\":{\"sequences\":%u,\"tokens\":%" PRIu64 ",\"graph\":%" PRIu64
			",\"replayed\":%s,\"status\":%d}",
			e->what, e->words[1], e->words[2],
			(e->words[3] & RECORDER_REPLAYED) != 0 ? "true" : "false", e->status);
		finish(w);
		begin_slice(w, lanes, (uint32_t)lane, "launch", e->words[0], launched_ns);
		finish(w);
	}
}

static void put_others(struct writer *w)
{
	const struct recording_ring *dispatch = &w->t->recording->rings[RECORDER_DISPATCH];
	const struct recording_ring *control = &w->t->recording->rings[RECORDER_CONTROL];

	for (uint64_t i = 0; i < dispatch->n; i++) {
		const struct recorder_event *e = &dispatch->events[i];
		if (e->kind == RECORDER_STEP)
			put_step(w, e);
		else if (e->kind == RECORDER_DEVICE)
			put_instant(w, GROUP_DISPATCH, e, "the device process begins");
	}
	for (uint64_t i = 0; i < control->n; i++) {
		const struct recorder_event *e = &control->events[i];
		if (e->kind == RECORDER_CLIENT)
			put_instant(w, GROUP_CONTROL, e, "a client connects");
		else if (e->kind == RECORDER_CLIENT_END)
			put_instant(w, GROUP_CONTROL, e, "a client ends");
		else if (e->kind == RECORDER_DEVICE_END)
			put_instant(w, GROUP_CONTROL, e, "the device process ends");
	}
	put_pairs(w, RECORDER_CAPTURE, RECORDER_CAPTURING, &w->captures);
	put_pairs(w, RECORDER_COLD, RECORDER_COLD_LAUNCH, &w->firsts);
}

/* --- The file ------------------------------------------------------------------------------ */

static void name_groups(struct writer *w)
{
	static const char *const names[GROUPS] = {NULL, "gpuqd: dispatch", "gpuqd: device",
		"gpuqd: graphs", "gpuqd: models", "gpuqd: control"};

	for (int i = 1; i < GROUPS; i++)
		put_meta(w, "process_name", i, 0, names[i]);
}

/* A group for each client, with its channels; those of which nothing is known have one, too. */
static void name_channel(struct writer *w, uint32_t number)
{
	const struct trace_channel *ch = &w->t->channels[number];
	const struct stats_client *client = client_of(w->t, ch);
	struct lanes *lanes = &w->channels[number];
	char name[GPUQ_NAME_MAX + 64];

	snprintf(lanes->name, sizeof(lanes->name), "channel %u", ch->number);
	lanes->group = GROUPS + (int)number;
	for (uint32_t i = 0; i < number && ch->known; i++) {
		const struct trace_channel *other = &w->t->channels[i];
		if (other->known && other->client == ch->client &&
			other->client_generation == ch->client_generation) {
			lanes->group = w->channels[i].group;
			return;
		}
	}
	if (client != NULL)
		snprintf(name, sizeof(name), "client %.*s (pid %u, user %u)", GPUQ_NAME_MAX,
			client->name, client->pid, client->uid);
	else
		snprintf(name, sizeof(name), "a client");
	put_meta(w, "process_name", lanes->group, 0, name);
}

static void set_lanes(struct lanes *lanes, enum group group, const char *name)
{
	lanes->group = group;
	snprintf(lanes->name, sizeof(lanes->name), "%s", name);
}

static int prepare(struct writer *w)
{
	const struct snapshot_table *models = &w->t->snapshot->models;

	w->channels = calloc(w->t->n_channels + 1, sizeof(*w->channels));
	w->models = calloc(models->n + 1, sizeof(*w->models));
	if (w->channels == NULL || w->models == NULL)
		return -ENOMEM;
	set_lanes(&w->replays, GROUP_DEVICE, "replay");
	set_lanes(&w->launches, GROUP_DEVICE, "launched without graph");
	set_lanes(&w->copies, GROUP_DEVICE, "copy");
	set_lanes(&w->inline_runs, GROUP_DISPATCH, "run by dispatch");
	set_lanes(&w->captures, GROUP_GRAPHS, "capture");
	set_lanes(&w->firsts, GROUP_GRAPHS, "cold launch");
	for (uint32_t i = 0; i < models->n; i++) {
		const struct stats_model *m = &((const struct stats_model *)models->rows)[i];
		w->models[i].group = GROUP_MODELS;
		snprintf(w->models[i].name, sizeof(w->models[i].name), "steps of %.*s",
			GPUQ_NAME_MAX, m->name);
	}
	return 0;
}

static void release(struct writer *w)
{
	struct lanes *const single[] = {
		&w->replays, &w->launches, &w->copies, &w->inline_runs, &w->captures, &w->firsts};

	for (size_t i = 0; i < sizeof(single) / sizeof(single[0]); i++)
		lanes_free(single[i]);
	for (uint32_t i = 0; i < w->t->n_channels && w->channels != NULL; i++)
		lanes_free(&w->channels[i]);
	for (uint32_t i = 0; i < w->t->snapshot->models.n && w->models != NULL; i++)
		lanes_free(&w->models[i]);
	free(w->channels);
	free(w->models);
}

int trace_write(const struct trace *t, FILE *out)
{
	struct writer w = {.t = t, .out = out};

	w.err = prepare(&w);
	if (w.err == 0) {
		fputs("{\"displayTimeUnit\":\"ns\",\"otherData\":{\"schema\":\"gpuq-trace/1\","
		      "\"gpuqd\":",
			out);
		put_text(&w, t->snapshot->header.version_text);
		fprintf(out, ",\"first_ns\":%" PRIu64 ",\"lost\":%" PRIu64 "},\"traceEvents\":[",
			t->first_ns, trace_lost(t));
		name_groups(&w);
		for (uint32_t i = 0; i < t->n_channels; i++)
			name_channel(&w, i);
		for (uint32_t i = 0; i < t->n_requests && w.err == 0; i++)
			put_request(&w, i);
		put_others(&w);
		fputs("\n]}\n", out);
	}
	release(&w);
	return w.err;
}
