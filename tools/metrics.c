/* SPDX-License-Identifier: MIT */
/*
 * The metrics. What is said of one gpuqd has as many time series as it has devices, operators and
 * models: nothing that a client chooses (names, process ids, pipelines) is a label, so clients
 * cannot make a monitor grow.
 */
#include "tools/metrics.h"

#include "client/gpuq.h"
#include "shm/proto.h"

#include <math.h>
#include <string.h>

enum type { GAUGE, COUNTER, HISTOGRAM };

struct metric;

/* Where samples go: `out`, for this source. */
struct writer {
	FILE *out;
	const struct metrics_source *source;
	const struct snapshot *s;
	const struct metric *metric;
};

struct metric {
	const char *name;
	enum type type;
	const char *help;
	void (*write)(const struct writer *w);
	size_t offset; /* of the field in its record, where `write` wants one */
	double scale;  /* from the field to the metric's unit */
};

#define NS 1e-9

/* --- Samples ------------------------------------------------------------------------------- */

/* A label's value: whatever is no printable ASCII comes from nobody who means well. */
static void write_label(FILE *out, const char *name, const char *value, size_t size)
{
	fprintf(out, "%s=\"", name);
	for (size_t i = 0; i < size && value[i] != '\0'; i++) {
		const char c = value[i];
		if (c == '"' || c == '\\')
			fputc('\\', out);
		fputc(c < 0x20 || c > 0x7e ? '?' : c, out);
	}
	fputc('"', out);
}

/* One label that a record has besides; `name` NULL: none. */
struct label {
	const char *name, *value;
	size_t size;
};

static void sample_label(const struct writer *w, const char *name, const char *value, size_t size)
{
	fputc(',', w->out);
	write_label(w->out, name, value, size);
}

/* Name, the label that every sample has, the record's; more labels and sample_value() follow. */
static void sample_begin(const struct writer *w, const char *suffix, const struct label *label)
{
	fprintf(w->out, "%s%s{", w->metric->name, suffix);
	write_label(w->out, "socket", w->source->socket, STATS_PATH_MAX);
	if (label->name != NULL)
		sample_label(w, label->name, label->value, label->size);
}

static void sample_value(const struct writer *w, double value)
{
	/* Counters as the whole numbers that they are, a time since 1970 to the microsecond. */
	if (value == floor(value) && fabs(value) < 1e15)
		fprintf(w->out, "} %.0f\n", value);
	else
		fprintf(w->out, "} %.15g\n", value);
}

static void write_sample(const struct writer *w, const struct label *label, double value)
{
	if (isnan(value))
		return; /* not known is no sample */
	sample_begin(w, "", label);
	sample_value(w, value);
}

/* --- Histograms ---------------------------------------------------------------------------- */

/* Upper bounds of classic buckets, in ns: three in each power of ten from 100 ns to 10 s. */
static const uint64_t bounds_ns[] = {100, 250, 500, 1000, 2500, 5000, 10000, 25000, 50000, 100000,
	250000, 500000, 1000000, 2500000, 5000000, 10000000, 25000000, 50000000, 100000000,
	250000000, 500000000, 1000000000, 2500000000, 5000000000, 10000000000};

static void write_bucket(
	const struct writer *w, const struct label *label, const char *bound, double count)
{
	sample_begin(w, "_bucket", label);
	sample_label(w, "le", bound, strlen(bound));
	sample_value(w, count);
}

static void write_totals(
	const struct writer *w, const struct label *label, double sum, double count)
{
	write_bucket(w, label, "+Inf", count);
	sample_begin(w, "_sum", label);
	sample_value(w, sum);
	sample_begin(w, "_count", label);
	sample_value(w, count);
}

/* The middle of a bucket of the statistics. */
static double middle_ns(uint32_t bucket)
{
	const double low = (double)hist_bucket_floor(bucket, HIST_STATS_BITS);
	const double next = (double)hist_bucket_floor(bucket + 1, HIST_STATS_BITS);

	return low + (next - 1 - low) / 2;
}

/* The statistics have narrower buckets: each goes whole to where its middle is. */
static void write_hist(const struct writer *w, const struct label *label, const uint64_t *counts)
{
	double count = 0, sum = 0;
	uint32_t i = 0;
	char bound[24];

	for (size_t k = 0; k < sizeof(bounds_ns) / sizeof(bounds_ns[0]); k++) {
		for (; i < STATS_HIST_BUCKETS && middle_ns(i) <= (double)bounds_ns[k]; i++) {
			count += (double)counts[i];
			sum += (double)counts[i] * middle_ns(i);
		}
		snprintf(bound, sizeof(bound), "%.9g", (double)bounds_ns[k] * NS);
		write_bucket(w, label, bound, count);
	}
	for (; i < STATS_HIST_BUCKETS; i++) {
		count += (double)counts[i];
		sum += (double)counts[i] * middle_ns(i);
	}
	write_totals(w, label, sum * NS, count);
}

/* --- One value, or a histogram, of each record --------------------------------------------- */

static const void *field(const struct writer *w, const void *record)
{
	return (const char *)record + w->metric->offset;
}

static double field_value(const struct writer *w, const void *record)
{
	return (double)*(const uint64_t *)field(w, record) * w->metric->scale;
}

static void write_header(const struct writer *w)
{
	write_sample(w, &(struct label){NULL}, field_value(w, &w->s->header));
}

static const struct stats_device *device_at(const struct writer *w, uint32_t i)
{
	return (const struct stats_device *)w->s->devices.rows + i;
}

/* The number of a device as a label; `text` keeps it. */
static struct label device_label(const struct writer *w, uint32_t i, char text[12])
{
	snprintf(text, 12, "%u", w->s->devices.records[i]);
	return (struct label){"device", text, 12};
}

static void write_devices(const struct writer *w)
{
	char text[12];

	for (uint32_t i = 0; i < w->s->devices.n; i++) {
		const struct label label = device_label(w, i, text);
		write_sample(w, &label, field_value(w, device_at(w, i)));
	}
}

static void write_device_hists(const struct writer *w)
{
	char text[12];

	for (uint32_t i = 0; i < w->s->devices.n; i++) {
		const struct label label = device_label(w, i, text);
		write_hist(w, &label, field(w, device_at(w, i)));
	}
}

/* Of a reading of the device, as far as it is known. */
static void write_hardware(const struct writer *w)
{
	char text[12];

	for (uint32_t i = 0; i < w->s->devices.n; i++) {
		const struct label label = device_label(w, i, text);
		const uint32_t number = w->s->devices.records[i];
		if (number < WIRE_MAX_DEVICES)
			write_sample(w, &label, *(const double *)field(w, &w->s->hardware[number]));
	}
}

static const struct stats_op *op_at(const struct writer *w, uint32_t i)
{
	return (const struct stats_op *)w->s->ops.rows + i;
}

static struct label op_label(const struct stats_op *op)
{
	return (struct label){"operator", op->name, sizeof(op->name)};
}

static void write_ops(const struct writer *w)
{
	for (uint32_t i = 0; i < w->s->ops.n; i++) {
		const struct label label = op_label(op_at(w, i));
		write_sample(w, &label, field_value(w, op_at(w, i)));
	}
}

/* Only of those that were used: there are many, and each has many buckets. */
static void write_op_hists(const struct writer *w)
{
	for (uint32_t i = 0; i < w->s->ops.n; i++) {
		const struct label label = op_label(op_at(w, i));
		if (op_at(w, i)->calls > 0)
			write_hist(w, &label, field(w, op_at(w, i)));
	}
}

static const struct stats_model *model_at(const struct writer *w, uint32_t i)
{
	return (const struct stats_model *)w->s->models.rows + i;
}

static struct label model_label(const struct stats_model *m)
{
	return (struct label){"model", m->name, sizeof(m->name)};
}

static void write_models(const struct writer *w)
{
	for (uint32_t i = 0; i < w->s->models.n; i++) {
		const struct label label = model_label(model_at(w, i));
		write_sample(w, &label, field_value(w, model_at(w, i)));
	}
}

static void write_model_hists(const struct writer *w)
{
	for (uint32_t i = 0; i < w->s->models.n; i++) {
		const struct label label = model_label(model_at(w, i));
		write_hist(w, &label, field(w, model_at(w, i)));
	}
}

/* --- What is no plain field ---------------------------------------------------------------- */

static void write_build(const struct writer *w)
{
	const struct stats_header *h = &w->s->header;

	write_sample(w, &(struct label){"version", h->version_text, sizeof(h->version_text)}, 1);
}

static void write_serving(const struct writer *w)
{
	write_sample(w, &(struct label){NULL}, w->s->header.state == WIRE_SERVING);
}

static void write_stalled(const struct writer *w)
{
	const struct stats_client *c = w->s->clients.rows;
	uint32_t n = 0;

	for (uint32_t i = 0; i < w->s->clients.n; i++)
		n += c[i].state == STATS_CLIENT_STALLED;
	write_sample(w, &(struct label){NULL}, n);
}

/* The sum of a field over all open channels. */
static void write_channels(const struct writer *w)
{
	const struct stats_channel *c = w->s->channels.rows;
	double sum = 0;

	for (uint32_t i = 0; i < w->s->channels.n; i++)
		sum += c[i].state == STATS_CHANNEL_CLOSED ? 0 : field_value(w, &c[i]);
	write_sample(w, &(struct label){NULL}, sum);
}

/* By what they are, whatever they happened to: subjects may be names that clients chose. */
static void write_errors(const struct writer *w)
{
	const struct stats_error *e = w->s->errors.rows;

	for (uint32_t i = 0; i < w->s->errors.n; i++) {
		const char *name = gpuq_error_name(e[i].status);
		double count = 0;
		bool told = false;

		for (uint32_t k = 0; k < w->s->errors.n; k++) {
			const bool same = strcmp(gpuq_error_name(e[k].status), name) == 0;
			told = told || (same && k < i);
			count += same ? (double)e[k].count : 0;
		}
		if (!told)
			write_sample(w, &(struct label){"error", name, strlen(name)}, count);
	}
}

static void write_device_info(const struct writer *w)
{
	char text[12];

	for (uint32_t i = 0; i < w->s->devices.n; i++) {
		const struct stats_device *d = device_at(w, i);
		const struct label label = device_label(w, i, text);

		sample_begin(w, "", &label);
		sample_label(w, "kind", d->kind, sizeof(d->kind));
		sample_label(w, "name", d->name, sizeof(d->name));
		sample_label(w, "uuid", d->uuid, sizeof(d->uuid));
		sample_label(w, "driver", d->driver, sizeof(d->driver));
		sample_value(w, 1);
	}
}

static void write_device_ready(const struct writer *w)
{
	char text[12];

	for (uint32_t i = 0; i < w->s->devices.n; i++) {
		const struct label label = device_label(w, i, text);
		write_sample(w, &label, device_at(w, i)->state == STATS_DEVICE_READY);
	}
}

static void write_graphs(const struct writer *w)
{
	static const char *const states[] = {
		[MSG_GRAPH_COLD] = "cold",
		[MSG_GRAPH_QUEUED] = "queued",
		[MSG_GRAPH_CAPTURING] = "capturing",
		[MSG_GRAPH_CAPTURED] = "captured",
		[MSG_GRAPH_DIRECT] = "direct",
		[MSG_GRAPH_FAILED] = "failed",
	};
	const struct stats_graph *g = w->s->graphs.rows;

	for (uint32_t state = 1; state < sizeof(states) / sizeof(states[0]); state++) {
		uint32_t n = 0;
		for (uint32_t i = 0; i < w->s->graphs.n; i++)
			n += g[i].state == state;
		write_sample(w, &(struct label){"state", states[state], 16}, n);
	}
}

static void write_model_ready(const struct writer *w)
{
	for (uint32_t i = 0; i < w->s->models.n; i++) {
		const struct label label = model_label(model_at(w, i));
		write_sample(w, &label, model_at(w, i)->state == MSG_MODEL_READY);
	}
}

static void write_kv_blocks(const struct writer *w)
{
	for (uint32_t i = 0; i < w->s->models.n; i++) {
		const struct stats_model *m = model_at(w, i);
		const struct label label = model_label(m);
		const uint64_t idle = m->kv_free_blocks + m->kv_cached_blocks;
		const struct {
			const char *state;
			uint64_t n;
		} parts[] = {
			{"used", m->kv_blocks > idle ? m->kv_blocks - idle : 0},
			{"cached", m->kv_cached_blocks},
			{"free", m->kv_free_blocks},
		};

		for (size_t k = 0; k < sizeof(parts) / sizeof(parts[0]); k++) {
			sample_begin(w, "", &label);
			sample_label(w, "state", parts[k].state, 16);
			sample_value(w, (double)parts[k].n);
		}
	}
}

/* How many sequences decode steps had. */
static void write_batches(const struct writer *w)
{
	for (uint32_t i = 0; i < w->s->models.n; i++) {
		const struct stats_model *m = model_at(w, i);
		const struct label label = model_label(m);
		double count = 0, sum = 0;

		for (uint32_t k = 0; k < STATS_MODEL_BATCHES; k++) {
			const uint32_t size = k + 1;
			char bound[12];

			count += (double)m->batches[k];
			sum += (double)m->batches[k] * size;
			snprintf(bound, sizeof(bound), "%u", size);
			if ((size & (size - 1)) == 0)
				write_bucket(w, &label, bound, count);
		}
		write_totals(w, &label, sum, count);
	}
}

/* --- The table ----------------------------------------------------------------------------- */

#define OF(record, member) offsetof(struct record, member)

static const struct metric metrics[] = {
	{"gpuq_build_info", GAUGE, "1; the label is gpuqd's version.", write_build},
	{"gpuq_start_time_seconds", GAUGE, "When gpuqd started, in seconds since 1970.",
		write_header, OF(stats_header, started_realtime_ns), NS},
	{"gpuq_serving", GAUGE, "1 while gpuqd takes work; 0 while it starts or drains.",
		write_serving},
	{"gpuq_clients", GAUGE, "Connections now.", write_header, OF(stats_header, clients), 1},
	{"gpuq_clients_stalled", GAUGE,
		"Of these, stopped, traced, or leaving completions unread for a second.",
		write_stalled},
	{"gpuq_channels", GAUGE, "Open channels now.", write_header, OF(stats_header, channels), 1},
	{"gpuq_shared_memory_bytes", GAUGE, "Memory of channels, shared with clients.",
		write_header, OF(stats_header, segment_bytes), 1},
	{"gpuq_buffers", GAUGE, "Device buffers now.", write_header, OF(stats_header, buffers), 1},
	{"gpuq_buffer_memory_bytes", GAUGE, "Device memory of these.", write_header,
		OF(stats_header, buffer_bytes), 1},
	{"gpuq_pipelines", GAUGE, "Registered pipelines now.", write_header,
		OF(stats_header, pipelines), 1},
	{"gpuq_connections_total", COUNTER, "Connections that were accepted.", write_header,
		OF(stats_header, accepted), 1},
	{"gpuq_connections_refused_total", COUNTER,
		"Connections that were refused: a limit, a wrong version, a broken handshake.",
		write_header, OF(stats_header, refused), 1},
	{"gpuq_accept_exhausted_total", COUNTER,
		"Times that no descriptor was left for a connection.", write_header,
		OF(stats_header, accept_exhausted), 1},
	{"gpuq_protocol_errors_total", COUNTER, "Messages of clients that broke the protocol.",
		write_header, OF(stats_header, protocol_errors), 1},
	{"gpuq_client_deaths_total", COUNTER, "Clients that ended without disconnecting.",
		write_header, OF(stats_header, deaths), 1},
	{"gpuq_device_restarts_total", COUNTER,
		"Device processes that took the place of one that had failed.", write_header,
		OF(stats_header, device_restarts), 1},
	{"gpuq_submissions_waiting", GAUGE, "Submissions in rings that dispatch has not taken yet.",
		write_channels, OF(stats_channel, depth), 1},
	{"gpuq_submissions_in_flight", GAUGE, "Submissions taken and not completed yet.",
		write_channels, OF(stats_channel, in_flight), 1},
	{"gpuq_completions_unread", GAUGE, "Completions that clients have not read yet.",
		write_channels, OF(stats_channel, unread), 1},
	{"gpuq_errors_total", COUNTER,
		"Errors that clients were told, or that ended a device process, by their name.",
		write_errors},

	{"gpuq_device_info", GAUGE, "1; the labels say what the device is.", write_device_info},
	{"gpuq_device_ready", GAUGE, "1 while the device takes work.", write_device_ready},
	{"gpuq_device_utilization_ratio", GAUGE,
		"Busy part of the time, of the GPU as NVML tells it, of all CPUs of the machine.",
		write_hardware, OF(hardware_reading, utilization), 1},
	{"gpuq_device_memory_used_bytes", GAUGE,
		"Memory in use, by whomever, of the GPU or of the machine.", write_hardware,
		OF(hardware_reading, memory_used_bytes), 1},
	{"gpuq_device_memory_bytes", GAUGE, "Memory of the GPU or of the machine.", write_hardware,
		OF(hardware_reading, memory_bytes), 1},
	{"gpuq_device_power_watts", GAUGE, "Power that the device draws, where it tells.",
		write_hardware, OF(hardware_reading, power_w), 1},
	{"gpuq_device_temperature_celsius", GAUGE, "Temperature, where the device tells it.",
		write_hardware, OF(hardware_reading, temperature_c), 1},
	{"gpuq_requests_total", COUNTER, "Requests that were completed, failed ones included.",
		write_devices, OF(stats_device, completed), 1},
	{"gpuq_requests_failed_total", COUNTER, "Of these, with an error.", write_devices,
		OF(stats_device, failed), 1},
	{"gpuq_requests_inline_total", COUNTER, "Requests whose operator dispatch ran by itself.",
		write_devices, OF(stats_device, inline_runs), 1},
	{"gpuq_requests_queued", GAUGE, "Requests accepted that wait for their turn.",
		write_devices, OF(stats_device, queued), 1},
	{"gpuq_requests_executing", GAUGE, "Requests that the device has.", write_devices,
		OF(stats_device, executing), 1},
	{"gpuq_queue_seconds", HISTOGRAM, "From submission to the start of execution.",
		write_device_hists, OF(stats_device, queue_hist), 1},
	{"gpuq_launch_seconds", HISTOGRAM,
		"That dispatch spent to give a request, or a step of a model, to the device: "
		"not of what it ran by itself.",
		write_device_hists, OF(stats_device, launch_hist), 1},
	{"gpuq_execute_seconds", HISTOGRAM,
		"Execution of operators, pipelines and steps of models that succeeded.",
		write_device_hists, OF(stats_device, execute_hist), 1},
	{"gpuq_request_seconds", HISTOGRAM, "From submission to completion.", write_device_hists,
		OF(stats_device, total_hist), 1},
	{"gpuq_device_busy_seconds_total", COUNTER,
		"Time spent executing operators, summed over threads.", write_devices,
		OF(stats_device, busy_ns), NS},
	{"gpuq_dispatch_sleeps_total", COUNTER,
		"Times that dispatch found nothing to do and slept.", write_devices,
		OF(stats_device, sleeps), 1},
	{"gpuq_dispatch_doorbells_total", COUNTER,
		"Bells of clients that woke it or their channel.", write_devices,
		OF(stats_device, doorbells), 1},
	{"gpuq_dispatch_rescues_total", COUNTER,
		"Work found that a bell should have announced; a stopped client, or a defect.",
		write_devices, OF(stats_device, rescues), 1},
	{"gpuq_channels_poisoned_total", COUNTER,
		"Channels shut because their client broke a rule of the rings.", write_devices,
		OF(stats_device, poisoned), 1},
	{"gpuq_graph_hits_total", COUNTER, "Requests served by a captured graph.", write_devices,
		OF(stats_device, graph_hits), 1},
	{"gpuq_graph_misses_total", COUNTER,
		"Requests served kernel by kernel because no graph was there.", write_devices,
		OF(stats_device, graph_misses), 1},
	{"gpuq_graph_captures_total", COUNTER, "Graphs that were captured.", write_devices,
		OF(stats_device, graph_captures), 1},
	{"gpuq_graph_capture_failures_total", COUNTER, "Captures that failed.", write_devices,
		OF(stats_device, graph_failures), 1},
	{"gpuq_graph_evictions_total", COUNTER, "Graphs dropped to make room.", write_devices,
		OF(stats_device, graph_evictions), 1},
	{"gpuq_graph_memory_bytes", GAUGE, "Memory that captured graphs take.", write_devices,
		OF(stats_device, graph_bytes), 1},
	{"gpuq_graph_memory_limit_bytes", GAUGE, "Memory that they may take now.", write_devices,
		OF(stats_device, graph_budget), 1},
	{"gpuq_graph_captures_stopped", GAUGE, "1 while an administrator keeps captures stopped.",
		write_devices, OF(stats_device, captures_stopped), 1},
	{"gpuq_graphs", GAUGE, "Exact shapes that are known, by the state of their graph.",
		write_graphs},

	{"gpuq_operator_calls_total", COUNTER, "Calls of the operator, failed ones included.",
		write_ops, OF(stats_op, calls), 1},
	{"gpuq_operator_failures_total", COUNTER, "Of these, with an error.", write_ops,
		OF(stats_op, failed), 1},
	{"gpuq_operator_execute_seconds", HISTOGRAM,
		"Execution of the operator, once it has been called.", write_op_hists,
		OF(stats_op, execute_hist), 1},

	{"gpuq_model_ready", GAUGE, "1 while the model takes requests.", write_model_ready},
	{"gpuq_model_memory_bytes", GAUGE, "Device memory of weights, cache and working memory.",
		write_models, OF(stats_model, bytes), 1},
	{"gpuq_model_sessions", GAUGE, "Open sessions.", write_models, OF(stats_model, sessions),
		1},
	{"gpuq_model_sessions_limit", GAUGE, "Sessions that may be open.", write_models,
		OF(stats_model, max_sessions), 1},
	{"gpuq_model_kv_blocks", GAUGE,
		"Blocks of the KV cache: used by sessions, cached for equal openings, free.",
		write_kv_blocks},
	{"gpuq_model_prompt_tokens_total", COUNTER, "Tokens that clients gave.", write_models,
		OF(stats_model, prompt_tokens), 1},
	{"gpuq_model_computed_tokens_total", COUNTER,
		"Tokens that went through the model, those of preempted sessions again.",
		write_models, OF(stats_model, computed_tokens), 1},
	{"gpuq_model_shared_tokens_total", COUNTER,
		"Tokens that needed no computation: their opening was in the cache.", write_models,
		OF(stats_model, shared_tokens), 1},
	{"gpuq_model_generated_tokens_total", COUNTER, "Tokens that the device drew by itself.",
		write_models, OF(stats_model, generated_tokens), 1},
	{"gpuq_model_steps_total", COUNTER, "Steps on the device.", write_models,
		OF(stats_model, steps), 1},
	{"gpuq_model_answers_total", COUNTER, "Rows of candidates or logits that steps gave.",
		write_models, OF(stats_model, rows), 1},
	{"gpuq_model_kv_evictions_total", COUNTER, "Cached blocks that were given up for others.",
		write_models, OF(stats_model, evictions), 1},
	{"gpuq_model_preemptions_total", COUNTER,
		"Sessions whose blocks were taken, to be computed again.", write_models,
		OF(stats_model, preemptions), 1},
	{"gpuq_model_decode_step_seconds", HISTOGRAM,
		"Steps that add a token to each of some texts.", write_model_hists,
		OF(stats_model, decode_hist), 1},
	{"gpuq_model_prompt_step_seconds", HISTOGRAM, "Steps that compute a part of a prompt.",
		write_model_hists, OF(stats_model, chunk_hist), 1},
	{"gpuq_model_decode_sequences", HISTOGRAM, "Sequences in a decode step.", write_batches},
	{"gpuq_model_time_to_first_token_seconds", HISTOGRAM,
		"From the submission of a prompt to its first answer.", write_model_hists,
		OF(stats_model, first_token_hist), 1},
	{"gpuq_model_inter_token_seconds", HISTOGRAM,
		"From one token of a text to the next, the client's own time included.",
		write_model_hists, OF(stats_model, gap_hist), 1},
};

/* --- All of it ----------------------------------------------------------------------------- */

static void write_title(FILE *out, const struct metric *m)
{
	static const char *const types[] = {"gauge", "counter", "histogram"};

	fprintf(out, "# HELP %s %s\n# TYPE %s %s\n", m->name, m->help, m->name, types[m->type]);
}

static bool is_alive(const struct metrics_source *source)
{
	return source->snapshot != NULL && snapshot_alive(source->snapshot);
}

void metrics_write(const struct metrics_source *sources, uint32_t n_sources, FILE *out)
{
	static const struct metric up = {
		"gpuq_up", GAUGE, "1 while gpuqd gives signs of life; else nothing more is told."};

	write_title(out, &up);
	for (uint32_t i = 0; i < n_sources; i++) {
		const struct writer w = {out, &sources[i], sources[i].snapshot, &up};
		write_sample(&w, &(struct label){NULL}, is_alive(&sources[i]));
	}
	for (size_t k = 0; k < sizeof(metrics) / sizeof(metrics[0]); k++) {
		write_title(out, &metrics[k]);
		for (uint32_t i = 0; i < n_sources; i++) {
			const struct writer w = {
				out, &sources[i], sources[i].snapshot, &metrics[k]};
			if (is_alive(&sources[i]))
				metrics[k].write(&w);
		}
	}
}
