/* SPDX-License-Identifier: MIT */
/*
 * test-trace.c: gpuq trace against a real gpuqd with operators, a pipeline and a model: that every
 * stage of every request is there, and that the file is one which trace viewers understand: slices
 * of a track nest, tracks have names, arrows lead from a submission to its completion.
 */
#include "tests/integration/classify.h"
#include "tests/integration/tiny-model.h"
#include "tests/integration/world.h"

#include "shm/clock.h"

#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define N_NULLS 100u
#define N_CALLS 40u /* of each operator, and of the pipeline */
#define N_STEPS 12u
#define PROMPT 96u
#define SMALL_ID 77u /* trace ids */
#define LARGE_ID (1ull << 40)
#define REFUSED_ID 99u
#define FAILED_ID 100u

/* --- What is in a file ------------------------------------------------------------------------ */

struct slice {
	json_int_t group, track;
	int64_t from_ns, to_ns;
	const char *name;
	json_int_t trace_id; /* 0: none */
	const char *error;   /* NULL: none */
};

struct name {
	json_int_t group, track;
	const char *what, *text;
};

struct file {
	json_t *json, *events;
	struct slice *slices;
	struct name *names;
	size_t n, n_names;
};

static int64_t ns_of(const json_t *event, const char *key)
{
	const json_t *value = json_object_get(event, key);

	if (!json_is_number(value))
		fail_msg("an event without %s", key);
	return (int64_t)(json_number_value(value) * 1000 + 0.5);
}

static const char *text_of(const json_t *event, const char *key)
{
	const char *text = json_string_value(json_object_get(event, key));

	if (text == NULL || text[0] == '\0')
		fail_msg("an event without %s", key);
	return text;
}

static json_int_t number_of(const json_t *event, const char *key)
{
	if (!json_is_integer(json_object_get(event, key)))
		fail_msg("an event without %s", key);
	return json_integer_value(json_object_get(event, key));
}

/* By track; of those that begin at once the longer one is first: it holds the others. */
static int compare(const void *a, const void *b)
{
	const struct slice *x = a, *y = b;

	if (x->group != y->group)
		return x->group < y->group ? -1 : 1;
	if (x->track != y->track)
		return x->track < y->track ? -1 : 1;
	if (x->from_ns != y->from_ns)
		return x->from_ns < y->from_ns ? -1 : 1;
	return x->to_ns > y->to_ns ? -1 : x->to_ns < y->to_ns;
}

static void read_event(struct file *f, const json_t *event)
{
	const char *type = text_of(event, "ph");

	if (strcmp(type, "X") == 0) {
		const json_t *args = json_object_get(event, "args");
		const int64_t from_ns = ns_of(event, "ts");
		f->slices[f->n++] = (struct slice){
			number_of(event, "pid"),
			number_of(event, "tid"),
			from_ns,
			from_ns + ns_of(event, "dur"),
			text_of(event, "name"),
			json_integer_value(json_object_get(args, "trace_id")),
			json_string_value(json_object_get(args, "error")),
		};
	} else if (strcmp(type, "M") == 0 && strstr(text_of(event, "name"), "_name") != NULL) {
		f->names[f->n_names++] = (struct name){
			number_of(event, "pid"),
			number_of(event, "tid"),
			text_of(event, "name"),
			text_of(json_object_get(event, "args"), "name"),
		};
	}
}

static void read_file(struct file *f, const char *path)
{
	json_error_t error;
	json_t *event;
	size_t i;

	*f = (struct file){.json = json_load_file(path, 0, &error)};
	if (f->json == NULL)
		fail_msg("%s:%d: %s", path, error.line, error.text);
	f->events = json_object_get(f->json, "traceEvents");
	assert_true(json_is_array(f->events));
	f->slices = calloc(json_array_size(f->events) + 1, sizeof(*f->slices));
	f->names = calloc(json_array_size(f->events) + 1, sizeof(*f->names));
	json_array_foreach(f->events, i, event) read_event(f, event);
	qsort(f->slices, f->n, sizeof(*f->slices), compare);
}

static void free_file(struct file *f)
{
	free(f->slices);
	free(f->names);
	json_decref(f->json);
}

/* Whether a track (or, track -1, a group) has a name; with this beginning, if one is given. */
static bool has_name(const struct file *f, const char *what, json_int_t group, json_int_t track,
	const char *text)
{
	for (size_t i = 0; i < f->n_names; i++) {
		const struct name *m = &f->names[i];
		if (strcmp(m->what, what) == 0 && m->group == group &&
			(track < 0 || m->track == track) &&
			(text == NULL || strncmp(m->text, text, strlen(text)) == 0))
			return true;
	}
	return false;
}

static void check_nesting(const struct file *f)
{
	const struct slice *open[16];
	size_t depth = 0;

	for (size_t i = 0; i < f->n; i++) {
		const struct slice *s = &f->slices[i];
		assert_true(s->from_ns >= 0 && s->to_ns >= s->from_ns);
		while (depth > 0 &&
			(open[depth - 1]->group != s->group || open[depth - 1]->track != s->track ||
				open[depth - 1]->to_ns <= s->from_ns))
			depth--;
		if (depth > 0 && s->to_ns > open[depth - 1]->to_ns)
			fail_msg("%s %" PRId64 "..%" PRId64 " does not nest in %s %" PRId64
				 "..%" PRId64,
				s->name, s->from_ns, s->to_ns, open[depth - 1]->name,
				open[depth - 1]->from_ns, open[depth - 1]->to_ns);
		assert_true(depth < 16);
		open[depth++] = s;
	}
}

static void check_tracks(const struct file *f)
{
	for (size_t i = 0; i < f->n; i++) {
		const struct slice *s = &f->slices[i];
		if (i > 0 && s[-1].group == s->group && s[-1].track == s->track)
			continue;
		if (!has_name(f, "process_name", s->group, -1, NULL) ||
			!has_name(f, "thread_name", s->group, s->track, NULL))
			fail_msg("track %d of group %d has no name", (int)s->track, (int)s->group);
	}
}

static bool in_a_slice(const struct file *f, const json_t *event)
{
	const int64_t at_ns = ns_of(event, "ts");

	for (size_t i = 0; i < f->n; i++) {
		const struct slice *s = &f->slices[i];
		if (s->group == number_of(event, "pid") && s->track == number_of(event, "tid") &&
			s->from_ns <= at_ns && at_ns <= s->to_ns)
			return true;
	}
	return false;
}

/* Arrows: each has a begin and an end, in this order, all its points lie in slices. */
static uint32_t check_arrows(const struct file *f)
{
	const size_t n = json_array_size(f->events);
	int64_t *from_ns = calloc(n + 1, sizeof(*from_ns)), *to_ns = calloc(n + 1, sizeof(*to_ns));
	uint32_t arrows = 0;
	json_t *event;
	size_t i;

	json_array_foreach(f->events, i, event)
	{
		const char *type = text_of(event, "ph");
		if (strchr("stf", type[0]) == NULL)
			continue;
		const json_int_t id = number_of(event, "id");
		assert_true(id > 0 && (size_t)id <= n);
		if (!in_a_slice(f, event))
			fail_msg("arrow %d: '%s' is in no slice", (int)id, type);
		if (type[0] == 's') {
			assert_int_equal(from_ns[id], 0);
			from_ns[id] = 1 + ns_of(event, "ts");
		} else {
			assert_true(from_ns[id] != 0 && 1 + ns_of(event, "ts") >= from_ns[id]);
		}
		if (type[0] == 'f') {
			assert_int_equal(to_ns[id], 0);
			to_ns[id] = 1;
			arrows++;
		}
	}
	for (i = 0; i <= n; i++)
		assert_true((from_ns[i] != 0) == (to_ns[i] != 0));
	free(from_ns);
	free(to_ns);
	return arrows;
}

/* Slices with this name, on tracks whose name begins so. */
static uint32_t count(const struct file *f, const char *name, const char *track)
{
	uint32_t n = 0;

	for (size_t i = 0; i < f->n; i++) {
		const struct slice *s = &f->slices[i];
		n += (name == NULL || strncmp(s->name, name, strlen(name)) == 0) &&
			has_name(f, "thread_name", s->group, s->track, track);
	}
	return n;
}

static void expect_count(const struct file *f, const char *name, const char *track, uint32_t least)
{
	const uint32_t n = count(f, name, track);

	if (n < least)
		fail_msg("%u slices %s on tracks %s, not %u", n,
			name != NULL ? name : "of any name", track, least);
}

/* All of this operator, and no others, carry the id that the client gave them. */
static void expect_trace_id(
	const struct file *f, const char *name, uint64_t id, uint32_t n, const char *error)
{
	uint32_t found = 0;

	for (size_t i = 0; i < f->n; i++) {
		const struct slice *s = &f->slices[i];
		if ((uint64_t)s->trace_id != id ||
			!has_name(f, "thread_name", s->group, s->track, "channel"))
			continue;
		found++;
		if (strcmp(s->name, name) != 0)
			fail_msg("%s has the trace id of %s", s->name, name);
		if ((s->error == NULL) != (error == NULL) ||
			(error != NULL && strcmp(s->error, error) != 0))
			fail_msg("%s: the error is %s, not %s", name, s->error, error);
	}
	if (found != n)
		fail_msg("%u requests %s have their trace id, not %u", found, name, n);
}

static void check_file(struct file *f, const char *path)
{
	read_file(f, path);
	check_nesting(f);
	check_tracks(f);
}

/* --- Work ------------------------------------------------------------------------------------- */

static const char *path_of(const char *name)
{
	static char path[300];

	snprintf(path, sizeof(path), "%s/%s", harness_tmpdir(), name);
	return path;
}

static void run_job(struct client *c, struct job *job, uint64_t trace_id)
{
	const struct gpuq_submission s = {.call = job->call, .trace_id = trace_id};
	struct gpuq_completion done;

	job_clear(job);
	assert_int_equal(gpuq_submit(c->ch, &s, 1), 1);
	assert_int_equal(gpuq_wait(c->ch, &done, 1, PATIENCE_NS), 1);
	assert_int_equal(done.status, 0);
	job_check(job);
}

static void run_in_vain(struct client *c, struct gpuq_call *step, uint64_t trace_id, int status)
{
	const struct gpuq_submission s = {.call = step, .trace_id = trace_id};
	struct gpuq_completion done;

	assert_int_equal(gpuq_submit(c->ch, &s, 1), 1);
	assert_int_equal(gpuq_wait(c->ch, &done, 1, PATIENCE_NS), 1);
	assert_int_equal(done.status, status);
}

/* One that dispatch refuses, having more rows than tokens, and one that fails in the model. */
static void run_wrong(struct client *c, struct gpuq_call *step)
{
	const int32_t no_token = TINY_VOCAB;

	assert_int_equal(gpuq_step_set(step, &no_token, 1, 2), 0);
	run_in_vain(c, step, REFUSED_ID, -GPUQ_EPARAM);
	assert_int_equal(gpuq_step_set(step, &no_token, 1, 1), 0);
	run_in_vain(c, step, FAILED_ID, -GPUQ_ETOKEN);
}

static void run_jobs(struct client *c, struct job *small, struct job *large)
{
	for (uint32_t i = 0; i < N_CALLS; i++) {
		run_job(c, small, SMALL_ID);
		run_job(c, large, LARGE_ID);
	}
	for (uint32_t i = 0; i < N_NULLS; i++)
		client_check_works(c);
}

static void run_operators(struct client *c, struct random *rng)
{
	struct job small, large;

	job_create(&small, c->ch, JOB_SOFTMAX, 8, rng);
	job_create(&large, c->ch, JOB_GEMV, 300, rng);
	run_jobs(c, &small, &large);
	job_destroy(&small);
	job_destroy(&large);
}

/* Until it was replayed, too, as steps of the model may have been before. */
static void run_pipeline(const struct tiny_world *w, struct client *c, struct random *rng)
{
	struct gpuq_pipeline *p = classify_register(c->g, "classify");
	struct stats stats = raw_stats(w->daemon);
	const uint64_t hits = shm_load_relaxed(&stats.devices[0].graph_hits);
	const uint64_t start_ns = clock_monotonic_ns();
	struct classify job;

	classify_create(&job, c->ch, p, 4, 16, 32);
	for (uint32_t i = 0; i < N_CALLS || shm_load_relaxed(&stats.devices[0].graph_hits) == hits;
		i++) {
		classify_run(&job, rng);
		if (clock_monotonic_ns() - start_ns > PATIENCE_NS)
			fail_msg("the pipeline is never replayed");
	}
	classify_destroy(&job);
	gpuq_pipeline_destroy(p);
	stats_close(&stats);
}

static void run_model(struct client *c, struct random *rng)
{
	const struct gpuq_step_options options = {.max_tokens = PROMPT, .max_rows = 2, .top_k = 4};
	struct gpuq_session *s = tiny_session_open(c);
	struct gpuq_call *step = tiny_step_create(s, &options);
	int32_t tokens[PROMPT];

	for (uint32_t i = 0; i < N_STEPS; i++) {
		tiny_text(rng, tokens, PROMPT);
		const struct gpuq_completion done =
			tiny_run_step(c, step, tokens, i == 0 ? PROMPT : 1, 1);
		tiny_expect_status(step, &done, 0);
	}
	run_wrong(c, step);
	gpuq_call_destroy(step);
	gpuq_session_close(s);
}

static void trace(const char *name)
{
	TINY_GPUQ(0, name[0] == '-' ? "traceEvents" : "requests of", "trace", "--output",
		name[0] == '-' ? name : path_of(name));
}

/* Of the histogram; they are counted before their end is told. */
static void expect_launches(const struct tiny_world *w, uint64_t least)
{
	struct stats stats = raw_stats(w->daemon);

	assert_true(hist_total(stats.devices[0].launch_hist, HIST_STATS_BITS) >= least);
	stats_close(&stats);
}

/* --- Tests ------------------------------------------------------------------------------------ */

static void every_stage_is_there(void **state)
{
	struct tiny_world w;
	struct client c;
	struct file f;

	/* The ring holds all of it, whatever else is recorded. */
	tiny_start(&w, false, (const char *const[]){"--trace-events", "131072", NULL});
	tiny_client_open(&c);
	run_model(&c, &w.rng);
	expect_launches(&w, N_STEPS);
	run_pipeline(&w, &c, &w.rng);
	run_operators(&c, &w.rng);
	trace("trace.json");
	check_file(&f, path_of("trace.json"));
	expect_count(&f, "null", "channel", N_NULLS);
	expect_count(&f, "softmax", "channel", N_CALLS);
	expect_count(&f, "gemv", "channel", N_CALLS);
	expect_trace_id(&f, "softmax", SMALL_ID, N_CALLS, NULL);
	expect_trace_id(&f, "gemv_batched", LARGE_ID, N_CALLS, NULL);
	expect_trace_id(&f, "request", REFUSED_ID, 1, "GPUQ_EPARAM");
	expect_trace_id(&f, "step", FAILED_ID, 1, "GPUQ_ETOKEN");
	expect_count(&f, "pipeline", "channel", N_CALLS);
	expect_count(&f, "step", "channel", N_STEPS);
	expect_count(&f, "session", "channel", 1);
	expect_count(&f, "in the ring", "channel", N_NULLS + 3 * N_CALLS);
	expect_count(&f, "device", "channel", N_CALLS + N_STEPS);
	expect_count(&f, "completion", "channel", N_CALLS + N_STEPS);
	expect_count(&f, "until seen", "channel", N_CALLS + N_STEPS - 2);
	expect_count(&f, NULL, "replay", 1);
	expect_count(&f, NULL, "launched without graph", 1);
	expect_count(&f, NULL, "capture", 1);
	expect_count(&f, "tiny: 96 tokens of 1 text, context ", "cold launch", 1);
	expect_count(&f, "decode", "steps of tiny", N_STEPS - 1);
	expect_count(&f, "prompt", "steps of tiny", 1);
	expect_count(&f, "launch", "steps of tiny", N_STEPS);
	assert_true(check_arrows(&f) >= N_CALLS + N_STEPS);
	free_file(&f);
	client_close(&c);
	tiny_stop(&w);
}

static pid_t start_load(uint64_t seed)
{
	pid_t pid = fork();

	if (pid == 0) {
		struct random rng = {seed};
		struct job small, large;
		struct client c;
		client_open(&c, NULL);
		job_create(&small, c.ch, JOB_SOFTMAX, 8, &rng);
		job_create(&large, c.ch, JOB_GEMV, 300, &rng);
		for (;;) {
			run_jobs(&c, &small, &large);
			usleep(10000);
		}
	}
	assert_true(pid > 0);
	return pid;
}

/* Recorded while it happens. */
static void a_time_is_recorded(void **state)
{
	struct harness_daemon *daemon = harness_daemon_start(NULL);
	struct stats stats = raw_stats(daemon);
	const uint64_t start_ns = clock_monotonic_ns();
	const pid_t load = start_load(1);
	uint32_t n = 0;
	struct file f;

	raw_await(shm_load_relaxed(&stats.devices[0].completed) > 0);
	/* The load may not have run just then, on a busy machine. */
	while (n == 0 && clock_monotonic_ns() - start_ns < PATIENCE_NS) {
		TINY_GPUQ(0, "requests of", "trace", "-t", "0.2", "-o", path_of("trace.json"));
		check_file(&f, path_of("trace.json"));
		n = count(&f, "softmax", "channel 0");
		free_file(&f);
	}
	if (n == 0)
		fail_msg("nothing of the load is recorded");
	kill(load, SIGKILL);
	assert_int_equal(waitpid(load, NULL, 0), load);
	stats_close(&stats);
	harness_daemon_destroy(daemon);
}

static bool has_instant(const struct file *f, const char *name)
{
	json_t *event;
	size_t i;

	json_array_foreach(f->events, i, event)
	{
		if (strcmp(text_of(event, "ph"), "i") == 0 &&
			strcmp(text_of(event, "name"), name) == 0)
			return true;
	}
	return false;
}

static void copy_object(const struct stats *stats, const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, stats->header, stats->bytes), stats->bytes);
	close(fd);
}

/* Of the device process, whose successor goes on in the same rings; and then of all. */
static void a_crash_leaves_it(void **state)
{
	struct harness_daemon *daemon = harness_daemon_start(NULL);
	struct stats stats = raw_stats(daemon);
	struct random rng = {7};
	struct client c;
	struct file f;

	client_open(&c, NULL);
	run_operators(&c, &rng);
	const uint64_t restarts = shm_load_relaxed(&stats.header->device_restarts);
	kill(world_device_pid(daemon), SIGKILL);
	raw_await(shm_load_relaxed(&stats.header->device_restarts) > restarts);
	raw_await(world_device_pid(daemon) != 0);
	run_operators(&c, &rng);
	client_close(&c);
	raw_await(shm_load_relaxed(&stats.header->clients) == 0);
	copy_object(&stats, path_of("object"));
	harness_daemon_kill(daemon);
	trace("dead.json");
	check_file(&f, path_of("dead.json"));
	expect_count(&f, "softmax", "channel", 2 * N_CALLS);
	expect_count(&f, "null", "channel", 2 * N_NULLS);
	assert_true(has_instant(&f, "the device process ends"));
	assert_true(has_instant(&f, "a client connects"));
	assert_true(has_instant(&f, "a client ends"));
	free_file(&f);
	char object[300], out[300];
	snprintf(object, sizeof(object), "%s", path_of("object"));
	snprintf(out, sizeof(out), "%s", path_of("copy.json"));
	TINY_GPUQ(0, "requests of", "trace", "--file", object, "-o", out);
	check_file(&f, out);
	expect_count(&f, "softmax", "channel", 2 * N_CALLS);
	free_file(&f);
	stats_close(&stats);
	harness_daemon_destroy(daemon);
}

static void what_cannot_be_is_refused(void **state)
{
	char out[300];

	snprintf(out, sizeof(out), "%s", path_of("trace.json"));
	TINY_GPUQ(2, "--output FILE", "trace");
	TINY_GPUQ(2, "exclude each other", "trace", "-o", out, "--file", out, "-t", "1");
	TINY_GPUQ(2, "exclude each other", "trace", "-o", out, "--file", out, "-s", out);
	TINY_GPUQ(2, "--time", "trace", "-o", out, "-t", "0");
	TINY_GPUQ(2, "unexpected argument", "trace", "-o", out, "more");
	TINY_GPUQ(1, "no daemon at /nowhere/s", "trace", "-o", out, "-s", "/nowhere/s");
	TINY_GPUQ(1, "No such file", "trace", "-o", out, "--file", "/nowhere/at/all");
	TINY_GPUQ(1, "damaged", "trace", "-o", out, "--file", "/proc/self/exe");
	struct harness_daemon *daemon =
		harness_daemon_start((const char *const[]){"--trace-events", "0", NULL});
	TINY_GPUQ(1, "the flight recorder is off", "trace", "-o", out);
	assert_int_equal(access(out, F_OK), -1);
	harness_daemon_destroy(daemon);
	daemon = harness_daemon_start(NULL);
	TINY_GPUQ(1, "/nowhere/at/all", "trace", "-o", "/nowhere/at/all");
	TINY_GPUQ(1, "No space left", "trace", "-o", "/dev/full");
	trace("-");
	harness_daemon_destroy(daemon);
}

int main(void)
{
	const struct harness_test tests[] = {
		HARNESS_TEST(every_stage_is_there),
		HARNESS_TEST(a_time_is_recorded),
		HARNESS_TEST(a_crash_leaves_it),
		HARNESS_TEST(what_cannot_be_is_refused),
	};

	return harness_run("integration-trace", tests, sizeof(tests) / sizeof(tests[0]));
}
