/* SPDX-License-Identifier: MIT */
/* gpuq-top without a terminal: snapshots, differences, states, tables, layout. */
#include "tests/harness.h"

#include "tests/tools/synthetic.h"
#include "tools/top_table.h"
#include "tools/top_view.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define SECOND_NS 1000000000ull

static struct synthetic s;
static struct snapshot_source source;
static char why[512];

static const char *socket_path(void)
{
	static char path[256];

	snprintf(path, sizeof(path), "%s/gpuq-0", harness_tmpdir());
	return path;
}

static void start(uint32_t clients, uint32_t channels)
{
	assert_int_equal(synthetic_create(&s, socket_path(), clients, channels), 0);
	assert_int_equal(snapshot_source_init(&source, socket_path()), 0);
}

/* Takes a snapshot into the model as if it were this long after the one before. */
static void update(struct top_model *m, uint64_t later_ns)
{
	struct snapshot *snapshot;

	assert_int_equal(snapshot_take(&source, &snapshot, why, sizeof(why)), 0);
	if (m->last != NULL)
		snapshot->taken_ns = m->last->taken_ns + later_ns;
	assert_int_equal(top_model_update(m, snapshot), 0);
}

static const struct top_channel *channel(const struct top_model *m, uint32_t i)
{
	assert_true(i < m->rows[TOP_CHANNELS].n);
	return (const struct top_channel *)m->rows[TOP_CHANNELS].rows + i;
}

static const struct top_client *client(const struct top_model *m, uint32_t i)
{
	assert_true(i < m->rows[TOP_CLIENTS].n);
	return (const struct top_client *)m->rows[TOP_CLIENTS].rows + i;
}

/* A bucket of the statistics is 6 % wide. */
static void assert_near(uint64_t value, uint64_t expected)
{
	if (value < expected - expected / 16 || value > expected + expected / 16)
		fail_msg("%llu is not near %llu", (unsigned long long)value,
			(unsigned long long)expected);
}

static void first_snapshot_shows_totals_and_no_rates(void **state)
{
	struct top_model m = {0};

	start(2, 3);
	synthetic_traffic(&s, 100, 500, 7000);
	update(&m, 0);
	assert_int_equal(m.daemon.liveness, TOP_SERVING);
	assert_int_equal(m.daemon.pid, getpid());
	assert_true(isnan(m.daemon.rate) && isnan(m.daemon.interval_s));
	assert_int_equal(m.rows[TOP_DEVICES].n, 1);
	assert_int_equal(m.rows[TOP_CLIENTS].n, 2);
	assert_int_equal(m.rows[TOP_CHANNELS].n, 3);
	assert_int_equal(m.rows[TOP_OPS].n, 2);
	assert_true(isnan(channel(&m, 0)->rate));
	assert_near(channel(&m, 0)->queue.p50, 500);
	assert_near(channel(&m, 0)->execute.p99, 7000);
	assert_int_equal(channel(&m, 2)->pid, getpid());
	assert_string_equal(channel(&m, 1)->name, "pricer");
	top_model_finish(&m);
	synthetic_destroy(&s);
}

static const struct top_llm *llm(const struct top_model *m)
{
	assert_int_equal(m->rows[TOP_MODELS].n, 1);
	return m->rows[TOP_MODELS].rows;
}

static void models_have_rates(void **state)
{
	struct top_model m = {0};

	start(1, 1);
	synthetic_traffic(&s, 100, 500, 7000);
	update(&m, 0);
	assert_string_equal(llm(&m)->name, "small");
	assert_string_equal(llm(&m)->state, "ready");
	assert_int_equal(llm(&m)->sessions, 3);
	assert_int_equal(llm(&m)->computed_tokens, 100);
	assert_true(llm(&m)->kv_percent == 25);
	assert_true(isnan(llm(&m)->token_rate));
	synthetic_traffic(&s, 40, 500, 7000);
	update(&m, 2000000000);
	assert_true(fabs(llm(&m)->token_rate - 20) < 1e-9);
	assert_true(fabs(llm(&m)->step_rate - 10) < 1e-9);
	/* Another model in its place. */
	s.stats.models[1].handle++;
	synthetic_traffic(&s, 40, 500, 7000);
	update(&m, 2000000000);
	assert_true(isnan(llm(&m)->token_rate));
	top_model_finish(&m);
	synthetic_destroy(&s);
}

static void differences_are_of_the_interval(void **state)
{
	struct top_model m = {0};

	start(2, 3);
	synthetic_traffic(&s, 100000, 500, 7000);
	update(&m, 0);
	synthetic_traffic(&s, 50, 9000, 200);
	s.stats.channels[1].failed += 3;
	s.stats.devices[0].graph_hits = 40;
	s.stats.devices[0].graph_bytes = 3 << 20;
	update(&m, 2 * SECOND_NS);
	assert_true(channel(&m, 0)->rate == 25.0);
	assert_near(channel(&m, 0)->queue.p50, 9000); /* not the 100,000 of before */
	assert_near(channel(&m, 0)->queue.p99, 9000);
	assert_near(channel(&m, 0)->execute.p50, 200);
	assert_int_equal(channel(&m, 1)->failed, 3);
	assert_true(m.daemon.rate == 75.0 && m.daemon.interval_s == 2.0);
	assert_true(client(&m, 0)->rate == 50.0); /* channels 0 and 2 */
	assert_near(client(&m, 0)->execute.p99, 200);
	const struct top_device *d = m.rows[TOP_DEVICES].rows;
	assert_true(fabs(d->busy_percent - 100.0 * 150 * 200 / 2e9) < 1e-9);
	assert_true(d->graph_hits == 40 && d->graph_bytes == 3 << 20);

	update(&m, SECOND_NS); /* nothing happened: a rate of 0, and no latency to tell */
	assert_true(channel(&m, 0)->rate == 0.0);
	assert_true(channel(&m, 0)->queue.p50 == TOP_UNKNOWN);
	assert_true(client(&m, 0)->queue.p99 == TOP_UNKNOWN);
	top_model_finish(&m);
	synthetic_destroy(&s);
}

static const void *row_at(const struct top_model *m, enum top_table_number table, uint32_t i)
{
	assert_true(i < m->rows[table].n);
	return table_row(&top_tables[table], &m->rows[table], i);
}

static void sessions_and_pipelines_have_rates(void **state)
{
	struct top_model m = {0};

	start(2, 2);
	update(&m, 0);
	synthetic_traffic(&s, 40, 500, 7000);
	update(&m, 2 * SECOND_NS);
	const struct top_session *session = row_at(&m, TOP_SESSIONS, 0);
	assert_string_equal(session->model, "small");
	assert_string_equal(session->name, "scorer");
	assert_int_equal(session->pid, getpid());
	assert_true(session->token_rate == 20);
	assert_int_equal(session->first_token_ns, 3000000);
	assert_true(session->longest_ns == TOP_UNKNOWN);
	const struct top_pipeline *pipeline = row_at(&m, TOP_PIPELINES, 0);
	assert_string_equal(pipeline->name, "preprocess");
	assert_true(pipeline->rate == 20);
	assert_near(pipeline->execute.p50, 7000);
	assert_near(llm(&m)->first_token.p50, 21000);
	assert_near(llm(&m)->gap.p99, 7000);
	/* Others in their place. */
	s.stats.sessions[0].handle++;
	s.stats.pipelines[0].handle++;
	s.stats.clients[0].generation++;
	update(&m, SECOND_NS);
	session = row_at(&m, TOP_SESSIONS, 0);
	assert_true(isnan(session->token_rate) && session->pid == TOP_UNKNOWN);
	assert_true(isnan(((const struct top_pipeline *)row_at(&m, TOP_PIPELINES, 0))->rate));
	top_model_finish(&m);
	synthetic_destroy(&s);
}

#define STEP                                                                              \
	"tokens[2]i32 positions[2]i32 rows[2]i32 table[1,4]i32 context[64]u8 last[1]i32 " \
	"temperatures[1]f32 -> logits[1,2000]f32 stats[1,2]f32"

static void graphs_and_errors_are_told(void **state)
{
	struct top_model m = {0};

	start(2, 2);
	update(&m, 0);
	const struct top_graph *graph = row_at(&m, TOP_GRAPHS, 0);
	assert_string_equal(graph->state, "captured");
	assert_string_equal(graph->shape, "gemv_batched f32[16,64]");
	assert_true(graph->hit_percent == 90 && graph->bytes == 40960);
	graph = row_at(&m, TOP_GRAPHS, 1);
	assert_true(graph->bytes == TOP_UNKNOWN && graph->capture_ns == TOP_UNKNOWN);
	graph = row_at(&m, TOP_GRAPHS, 2);
	assert_string_equal(graph->reason, "too large");
	snprintf(s.stats.graphs[1].shape, sizeof(s.stats.graphs[1].shape), "small %s", STEP);
	update(&m, SECOND_NS);
	graph = row_at(&m, TOP_GRAPHS, 1);
	assert_string_equal(graph->shape, "small: 2 tokens of 1 text, context 64, logits");
	assert_string_equal(graph->definition, "small " STEP);
	assert_int_equal(m.rows[TOP_ERRORS].n, 3);
	const struct top_error *error = row_at(&m, TOP_ERRORS, 0);
	assert_string_equal(error->source, "control");
	assert_string_equal(error->text, "a message was cut off");
	error = row_at(&m, TOP_ERRORS, 1);
	assert_string_equal(error->error, "GPUQ_ESHAPE");
	assert_string_equal(error->subject, "softmax");
	assert_string_equal(error->source, "device");
	assert_non_null(strstr(error->text, "dimension"));
	assert_int_equal(error->count, 3);
	assert_true(error->first_ns < 3600 * SECOND_NS && error->last_ns <= error->first_ns);
	top_model_finish(&m);
	synthetic_destroy(&s);
}

/* The rates of a channel, drawn; another channel in its record starts anew. */
static void channels_have_a_history(void **state)
{
	const struct table *t = &top_tables[TOP_CHANNELS];
	const struct column *column = &t->columns[table_column(t, "rate_history_per_s")];
	struct top_model m = {0};
	char text[64];

	start(1, 1);
	update(&m, 0);
	for (uint64_t n = 0; n <= 700; n += 100) {
		synthetic_traffic(&s, n, 500, 500);
		update(&m, SECOND_NS);
	}
	assert_string_equal(
		table_value(column, channel(&m, 0), text, sizeof(text)), "    _.:-=+*#");
	s.stats.channels[0].generation++;
	update(&m, SECOND_NS);
	assert_string_equal(
		table_value(column, channel(&m, 0), text, sizeof(text)), "            ");
	update(&m, SECOND_NS);
	assert_string_equal(
		table_value(column, channel(&m, 0), text, sizeof(text)), "           _");
	top_model_finish(&m);
	synthetic_destroy(&s);
}

static const struct top_node *node(const struct top_rows *rows, uint32_t i)
{
	assert_true(i < rows->n);
	return (const struct top_node *)rows->rows + i;
}

static void clients_are_a_tree(void **state)
{
	struct top_rows rows;
	struct top_model m = {0};

	start(3, 4);
	s.stats.clients[1].uid = 4000000000u; /* nobody of that number has a name */
	synthetic_traffic(&s, 10, 500, 500);
	s.stats.channels[0].depth = 3;
	s.stats.channels[3].depth = 4;
	update(&m, 0);
	assert_int_equal(top_tree(&m, &rows), 0);
	assert_int_equal(rows.n, 2 + 3 + 4);
	assert_int_equal(node(&rows, 0)->clients, 2);
	assert_int_equal(node(&rows, 0)->channels, 3);
	assert_int_equal(node(&rows, 0)->depth, 7);
	assert_near(node(&rows, 0)->queue.p99, 500);
	assert_non_null(strstr(node(&rows, 1)->label, "scorer ("));
	assert_string_equal(node(&rows, 2)->label, "   |- channel 0");
	assert_string_equal(node(&rows, 3)->label, "   `- channel 3");
	assert_string_equal(node(&rows, 4)->label, "   camera (1002)");
	assert_string_equal(node(&rows, 6)->label, "4000000000");
	assert_string_equal(node(&rows, 8)->label, "   `- channel 1");
	free(rows.rows);
	top_model_finish(&m);
	synthetic_destroy(&s);
}

/* Another channel in the same record, and a counter that went back, have nothing to compare. */
static void reused_records_start_anew(void **state)
{
	struct top_model m = {0};

	start(2, 3);
	synthetic_traffic(&s, 1000, 500, 7000);
	update(&m, 0);
	s.stats.channels[0].generation++;
	s.stats.channels[0].completed = 5;
	s.stats.channels[1].completed = 7;
	update(&m, SECOND_NS);
	assert_true(isnan(channel(&m, 0)->rate));
	assert_near(channel(&m, 0)->queue.p50, 500);
	assert_true(isnan(channel(&m, 1)->rate));
	assert_true(channel(&m, 2)->rate == 0.0);
	s.stats.devices[0].epoch++;
	s.stats.devices[0].completed = 0;
	update(&m, SECOND_NS);
	assert_true(isnan(m.daemon.rate));
	top_model_finish(&m);
	synthetic_destroy(&s);
}

static void clients_have_states(void **state)
{
	struct top_model m = {0};

	start(5, 5);
	update(&m, 0);
	s.stats.channels[1].parked = 1;
	synthetic_traffic(&s, 10, 500, 500);
	s.stats.clients[2].state = STATS_CLIENT_STALLED;
	s.stats.clients[3].state = STATS_CLIENT_DEAD;
	s.stats.clients[3].ended_ns = s.stats.header->heartbeat_ns;
	s.stats.clients[4].state = STATS_CLIENT_DEAD;
	s.stats.clients[4].ended_ns = 0; /* long ago: out of sight */
	s.stats.channels[4].state = STATS_CHANNEL_CLOSED;
	update(&m, SECOND_NS);
	assert_int_equal(m.rows[TOP_CLIENTS].n, 4);
	assert_int_equal(m.rows[TOP_CHANNELS].n, 4);
	assert_string_equal(client(&m, 0)->state, "running");
	assert_string_equal(client(&m, 1)->state, "idle");
	assert_string_equal(client(&m, 2)->state, "stalled");
	assert_string_equal(client(&m, 3)->state, "ended");
	assert_string_equal(channel(&m, 1)->state, "parked");
	top_model_finish(&m);
	synthetic_destroy(&s);
}

/* By the word of its library a client has ended; there is no proof yet. */
static void dying_clients_are_shown(void **state)
{
	struct top_model m = {0};

	start(2, 2);
	s.stats.channels[1].held_ns = 1;
	update(&m, 0);
	assert_string_equal(channel(&m, 0)->state, "open");
	assert_string_equal(channel(&m, 1)->state, "held");
	assert_string_equal(client(&m, 1)->state, "dying");
	assert_string_not_equal(client(&m, 0)->state, "dying");
	s.stats.clients[1].state = STATS_CLIENT_DEAD;
	s.stats.clients[1].ended_ns = s.stats.header->heartbeat_ns;
	update(&m, SECOND_NS);
	assert_string_equal(client(&m, 1)->state, "ended");
	top_model_finish(&m);
	synthetic_destroy(&s);
}

/* A child plays gpuqd and dies; its object stays. */
static void last_state_of_a_dead_daemon(void **state)
{
	struct top_model m = {0};
	char line[256];
	pid_t child = fork();

	if (child == 0) {
		if (synthetic_create(&s, socket_path(), 2, 2) < 0)
			_exit(1);
		synthetic_traffic(&s, 10, 500, 500);
		_exit(0);
	}
	assert_int_equal(waitpid(child, NULL, 0), child);
	assert_int_equal(snapshot_source_init(&source, socket_path()), 0);
	for (int i = 0; i < 2; i++) {
		update(&m, SECOND_NS);
		assert_int_equal(m.daemon.liveness, TOP_GONE);
		top_headline(&m.daemon, line, sizeof(line));
		assert_non_null(strstr(line, "last state, gpuqd "));
		assert_non_null(strstr(line, " is gone"));
		assert_true(isnan(m.daemon.rate)); /* not 0: nobody counts any more */
		assert_near(channel(&m, 0)->queue.p50, 500);
	}
	/* A successor takes its place, and nothing is compared across. */
	start(1, 1);
	update(&m, SECOND_NS);
	assert_int_equal(m.daemon.liveness, TOP_SERVING);
	assert_true(isnan(channel(&m, 0)->rate));
	top_model_finish(&m);
	synthetic_destroy(&s);
}

static void states_of_the_daemon_are_told_apart(void **state)
{
	struct top_model m = {0};
	char line[256];

	start(1, 1);
	s.stats.header->state = WIRE_DRAINING;
	update(&m, 0);
	assert_int_equal(m.daemon.liveness, TOP_DRAINING);
	s.stats.header->state = WIRE_STARTING;
	update(&m, SECOND_NS);
	assert_int_equal(m.daemon.liveness, TOP_STARTING);
	s.stats.header->state = WIRE_SERVING;
	/* The machine may have started less than a minute ago. */
	s.stats.header->heartbeat_ns = 1;
	update(&m, SECOND_NS);
	assert_int_equal(m.daemon.liveness, TOP_SILENT);
	assert_non_null(strstr(top_headline(&m.daemon, line, sizeof(line)), "no sign of life"));
	s.stats.header->state = WIRE_STOPPED;
	update(&m, SECOND_NS);
	assert_int_equal(m.daemon.liveness, TOP_STOPPED);
	top_model_finish(&m);
	synthetic_destroy(&s);
}

/* No process of that number was ever seen, but the heart beats: another PID namespace. */
static void a_beating_heart_counts_without_a_process(void **state)
{
	struct top_model m = {0};

	start(1, 1);
	s.stats.header->control_pid = INT32_MAX;
	update(&m, 0);
	assert_int_equal(m.daemon.liveness, TOP_GONE);
	s.stats.header->heartbeat_ns++;
	update(&m, SECOND_NS);
	assert_int_equal(m.daemon.liveness, TOP_SERVING);
	top_model_finish(&m);
	synthetic_destroy(&s);
}

static void cut_and_removed_objects_keep_the_last_state(void **state)
{
	struct top_model m = {0};
	struct snapshot *snapshot;

	start(2, 2);
	update(&m, 0);
	uint64_t whole = s.stats.bytes;
	static const uint64_t cuts[] = {0, 10, 4096, 5000};
	for (size_t i = 0; i < sizeof(cuts) / sizeof(cuts[0]); i++) {
		assert_int_equal(ftruncate(s.fd, (off_t)cuts[i]), 0);
		int r = snapshot_take(&source, &snapshot, why, sizeof(why));
		assert_int_equal(r, -EPROTO);
		assert_non_null(strstr(why, "damaged"));
		top_model_fail(&m, why);
	}
	assert_true(cuts[3] < whole);
	assert_int_equal(m.rows[TOP_CLIENTS].n, 2);
	assert_int_equal(m.daemon.liveness, TOP_SERVING); /* this process lives */
	shm_unlink(s.name);
	assert_int_equal(snapshot_take(&source, &snapshot, why, sizeof(why)), -ENOENT);
	assert_non_null(strstr(why, "no daemon at "));
	assert_non_null(strstr(why, "; start gpuqd or set GPUQ_SOCKET"));
	top_model_finish(&m);
	synthetic_destroy(&s);
}

/* Every word of the header changed: refused or read, never a step outside. */
static void damaged_headers_are_survived(void **state)
{
	static const uint32_t values[] = {0, 1, 7, 0x7fffffff, 0xffffffff};
	uint32_t *words;

	start(2, 2);
	words = (uint32_t *)s.stats.header;
	for (size_t i = 0; i < sizeof(struct stats_header) / 4; i++) {
		uint32_t kept = words[i];

		for (size_t k = 0; k < sizeof(values) / sizeof(values[0]); k++) {
			struct top_model m = {0};
			struct snapshot *snapshot;

			words[i] = values[k];
			if (snapshot_take(&source, &snapshot, why, sizeof(why)) == 0) {
				assert_int_equal(top_model_update(&m, snapshot), 0);
				json_decref(top_json(&m));
			}
			top_model_finish(&m);
		}
		words[i] = kept;
	}
	synthetic_destroy(&s);
}

/* The object says that there are more devices than there can be. */
static void more_devices_than_there_can_be(void **state)
{
	struct top_model m = {0};

	start(20, 20);
	s.stats.header->max_devices = WIRE_MAX_DEVICES + 4;
	for (uint32_t i = 0; i < WIRE_MAX_DEVICES + 4; i++) {
		assert_true(
			(char *)&s.stats.devices[i + 1] <= (char *)s.stats.header + s.stats.bytes);
		s.stats.devices[i].state = STATS_DEVICE_READY;
	}
	update(&m, 0);
	assert_int_equal(m.rows[TOP_DEVICES].n, WIRE_MAX_DEVICES + 4);
	assert_true(isnan(((const struct top_device *)row_at(&m, TOP_DEVICES, 11))->power_w));
	top_model_finish(&m);
	synthetic_destroy(&s);
}

static void hostile_names_are_made_harmless(void **state)
{
	struct top_model m = {0};
	json_t *document;

	start(1, 1);
	memset(s.stats.clients[0].name, 0x1b, GPUQ_NAME_MAX); /* and no end */
	memset(s.stats.header->socket_path, 0xff, STATS_PATH_MAX);
	update(&m, 0);
	assert_string_equal(client(&m, 0)->name, "???????????????????????????????");
	document = top_json(&m);
	assert_non_null(document);
	json_decref(document);
	top_model_finish(&m);
	synthetic_destroy(&s);
}

static void places_follow_the_environment(void **state)
{
	struct snapshot *snapshot;
	char file[300];

	unsetenv("GPUQ_SOCKET");
	setenv("XDG_RUNTIME_DIR", "/nowhere", 1);
	assert_int_equal(snapshot_source_init(&source, NULL), 0);
	assert_int_equal(source.n_places, 2);
	assert_string_equal(source.places[0], "/nowhere/gpuq-0");
	assert_string_equal(source.places[1], "/run/gpuq/gpuq-0");
	unsetenv("XDG_RUNTIME_DIR");
	assert_int_equal(snapshot_source_init(&source, NULL), 0);
	assert_int_equal(source.n_places, 1);
	setenv("GPUQ_SOCKET", "/a/b", 1);
	assert_int_equal(snapshot_source_init(&source, NULL), 0);
	assert_string_equal(source.places[0], "/a/b");
	assert_int_equal(snapshot_source_init(&source, "/c"), 0);
	assert_string_equal(source.places[0], "/c");

	start(1, 1);
	snprintf(file, sizeof(file), "/dev/shm%s", s.name);
	assert_int_equal(snapshot_source_file(&source, file), 0);
	assert_int_equal(snapshot_take(&source, &snapshot, why, sizeof(why)), 0);
	snapshot_free(snapshot);
	assert_int_equal(snapshot_source_file(&source, "/dev/null"), 0);
	assert_int_equal(snapshot_take(&source, &snapshot, why, sizeof(why)), -EPROTO);
	synthetic_destroy(&s);
}

/* --- Tables -------------------------------------------------------------------------------- */

static void lines_fit_their_width(void **state)
{
	char line[TABLE_LINE_MAX], titles[TABLE_LINE_MAX];
	struct top_model m = {0};
	struct table_plan plan;

	start(4, 4);
	synthetic_traffic(&s, UINT32_MAX, 999, 999999);
	update(&m, 0);
	for (int t = 0; t < TOP_TABLES; t++) {
		for (uint32_t width = 30; width <= 250; width++) {
			table_plan(&top_tables[t], width, &plan);
			table_titles(&top_tables[t], &plan, titles);
			table_line(&top_tables[t], &plan, table_row(&top_tables[t], &m.rows[t], 0),
				line);
			if (width >= 60) /* what is never dropped needs less than that */
				assert_true(strlen(titles) <= width && strlen(line) <= width);
			assert_true(plan.n > 0);
		}
	}
	/* What the README promises of a narrow terminal. */
	table_plan(&top_tables[TOP_CHANNELS], 80, &plan);
	table_titles(&top_tables[TOP_CHANNELS], &plan, titles);
	static const char *const needed[] = {
		"DEPTH", "RATE/s", "QUE50", "QUE99", "EXE50", "EXE99", "FAILED"};
	for (size_t i = 0; i < sizeof(needed) / sizeof(needed[0]); i++)
		assert_non_null(strstr(titles, needed[i]));
	top_model_finish(&m);
	synthetic_destroy(&s);
}

static void rows_are_sorted(void **state)
{
	struct top_op rows[] = {
		{.name = "c", .rate = 5},
		{.name = "a", .rate = NAN},
		{.name = "d", .rate = 0},
		{.name = "b", .rate = 70},
	};
	const struct top_rows all = {4, rows};
	const struct table *t = &top_tables[TOP_OPS];
	uint32_t order[4];

	table_sort(t, &all, -1, order);
	assert_memory_equal(order, ((uint32_t[]){0, 1, 2, 3}), sizeof(order));
	table_sort(t, &all, table_column(t, "name"), order);
	assert_memory_equal(order, ((uint32_t[]){1, 3, 0, 2}), sizeof(order));
	table_sort(t, &all, table_column(t, "rate_per_s"), order);
	assert_memory_equal(order, ((uint32_t[]){3, 0, 2, 1}), sizeof(order));
}

static void json_has_null_for_what_is_unknown(void **state)
{
	const struct top_op row = {
		.name = "x", .calls = 3, .rate = NAN, .execute = {TOP_UNKNOWN, 12}};
	json_t *object = table_json(&top_tables[TOP_OPS], &row);

	assert_true(json_is_null(json_object_get(object, "rate_per_s")));
	assert_true(json_is_null(json_object_get(object, "execute_p50_ns")));
	assert_int_equal(json_integer_value(json_object_get(object, "execute_p99_ns")), 12);
	assert_int_equal(json_integer_value(json_object_get(object, "calls")), 3);
	json_decref(object);
}

static void numbers_are_short(void **state)
{
	char text[16];

	format_count(99999, text, sizeof(text));
	assert_string_equal(text, "99999");
	format_count(100000, text, sizeof(text));
	assert_string_equal(text, "100k");
	format_count(1234567, text, sizeof(text));
	assert_string_equal(text, "1.23M");
	format_count(999999, text, sizeof(text));
	assert_string_equal(text, "1.00M");
	format_rate(0, text, sizeof(text));
	assert_string_equal(text, "0");
	format_rate(0.5, text, sizeof(text));
	assert_string_equal(text, "0.50");
	format_rate(99960, text, sizeof(text));
	assert_string_equal(text, "100k");
	format_ns(999, text, sizeof(text));
	assert_string_equal(text, "999ns");
	format_ns(1500, text, sizeof(text));
	assert_string_equal(text, "1.50us");
	format_ns(90ull * SECOND_NS, text, sizeof(text));
	assert_string_equal(text, "90.0s");
	format_bytes(1 << 20, text, sizeof(text));
	assert_string_equal(text, "1.00M");
	format_age(3725ull * SECOND_NS, text, sizeof(text));
	assert_string_equal(text, "1h02m");
	format_age(59ull * SECOND_NS, text, sizeof(text));
	assert_string_equal(text, "59s");
}

/* At every size: nothing beyond the screen, the focus is seen, no line lies idle. */
static void layout_fills_and_never_overflows(void **state)
{
	static const uint32_t shapes[][4] = {
		{1, 4, 7, 3}, {0, 0, 0, 0}, {8, 1000, 1000, 3}, {1, 0, 40, 0}, {1, 1, 1, 1}};

	for (size_t k = 0; k < sizeof(shapes) / sizeof(shapes[0]); k++) {
		uint32_t wanted = 4 + shapes[k][0] + shapes[k][1] + shapes[k][2] + shapes[k][3];

		for (uint32_t lines = 2; lines < 100; lines++) {
			for (uint32_t focus = 0; focus < 4; focus++) {
				uint32_t got[4], sum = 0;

				top_layout(lines, shapes[k], 4, 4, focus, got);
				for (uint32_t i = 0; i < 4; i++) {
					sum += got[i];
					assert_true(got[i] <= 1 + shapes[k][i]);
				}
				assert_true(sum <= lines);
				assert_true(got[focus] >= (shapes[k][focus] > 0 ? 2 : 1));
				if (lines >= 8)
					assert_true(sum == (lines < wanted ? lines : wanted));
			}
		}
	}
}

/* Tables that are shown when there is room get it last, and the one in focus at once. */
static void layout_has_room_for_more(void **state)
{
	static const uint32_t rows[4] = {1, 3, 2, 4};
	uint32_t got[4];

	top_layout(6, rows, 4, 2, 0, got);
	assert_memory_equal(got, ((uint32_t[]){2, 4, 0, 0}), sizeof(got));
	top_layout(8, rows, 4, 2, 0, got);
	assert_memory_equal(got, ((uint32_t[]){2, 4, 2, 0}), sizeof(got));
	top_layout(14, rows, 4, 2, 0, got);
	assert_memory_equal(got, ((uint32_t[]){2, 4, 3, 5}), sizeof(got));
	top_layout(10, rows, 4, 2, 3, got);
	assert_memory_equal(got, ((uint32_t[]){2, 3, 0, 5}), sizeof(got));
	top_layout(5, rows, 4, 2, 3, got);
	assert_memory_equal(got, ((uint32_t[]){0, 0, 0, 5}), sizeof(got));
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(first_snapshot_shows_totals_and_no_rates),
		HARNESS_TEST(models_have_rates),
		HARNESS_TEST(differences_are_of_the_interval),
		HARNESS_TEST(sessions_and_pipelines_have_rates),
		HARNESS_TEST(graphs_and_errors_are_told),
		HARNESS_TEST(channels_have_a_history),
		HARNESS_TEST(clients_are_a_tree),
		HARNESS_TEST(reused_records_start_anew),
		HARNESS_TEST(clients_have_states),
		HARNESS_TEST(dying_clients_are_shown),
		HARNESS_TEST(last_state_of_a_dead_daemon),
		HARNESS_TEST(states_of_the_daemon_are_told_apart),
		HARNESS_TEST(a_beating_heart_counts_without_a_process),
		HARNESS_TEST(cut_and_removed_objects_keep_the_last_state),
		HARNESS_TEST(damaged_headers_are_survived),
		HARNESS_TEST(more_devices_than_there_can_be),
		HARNESS_TEST(hostile_names_are_made_harmless),
		HARNESS_TEST(places_follow_the_environment),
		HARNESS_TEST(lines_fit_their_width),
		HARNESS_TEST(rows_are_sorted),
		HARNESS_TEST(json_has_null_for_what_is_unknown),
		HARNESS_TEST(numbers_are_short),
		HARNESS_TEST(layout_fills_and_never_overflows),
		HARNESS_TEST(layout_has_room_for_more),
	};

	return harness_run("tools-top", tests, sizeof(tests) / sizeof(tests[0]));
}
