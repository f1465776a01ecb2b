/* SPDX-License-Identifier: MIT */
/* The program gpuq, alone and with a gpuqd: every command, every kind of bad input, results. */
#include "tests/harness.h"

#include "tools/dtype.h"
#include "tools/npy.h"

#include <jansson.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DIMS(...)           \
	(const uint64_t[])  \
	{                   \
		__VA_ARGS__ \
	}

static char why[256];

static void run_gpuq(const char *const *arguments, struct harness_output *out)
{
	const char *argv[32] = {harness_program("tools/gpuq")};
	int n = 1;

	while (*arguments != NULL)
		argv[n++] = *arguments++;
	harness_exec(argv, out);
}

#define GPUQ(out, ...) run_gpuq((const char *const[]){__VA_ARGS__, NULL}, out)

/* Runs, expects this exit code and this part of standard error, and prints nothing else. */
static void expect_refused(int status, const char *message, const char *const *arguments)
{
	struct harness_output out;

	run_gpuq(arguments, &out);
	if (out.status != status || strstr(out.err, message) == NULL)
		fail_msg("wanted %d '%s', got %d '%s'", status, message, out.status, out.err);
	assert_string_equal(out.out, "");
	harness_output_free(&out);
}

#define REFUSED(status, message, ...) \
	expect_refused(status, message, (const char *const[]){__VA_ARGS__, NULL})

/* Runs, expects success, and returns what it printed as JSON. */
static json_t *json_of(const char *const *arguments)
{
	struct harness_output out;
	json_error_t error;

	run_gpuq(arguments, &out);
	if (out.status != 0)
		fail_msg("%s: %d %s", arguments[0], out.status, out.err);
	json_t *document = json_loads(out.out, 0, &error);
	if (document == NULL)
		fail_msg("%s: %s in: %s", arguments[0], error.text, out.out);
	harness_output_free(&out);
	return document;
}

#define JSON(...) json_of((const char *const[]){__VA_ARGS__, NULL})

/* --- Files --------------------------------------------------------------------------------- */

/* "x=/tmp/.../x.npy"; static, eight at a time. */
static const char *assign(const char *name, const char *file)
{
	static char texts[8][400];
	static int next;
	char *text = texts[next++ % 8];

	snprintf(text, sizeof(texts[0]), "%s=%s/%s", name, harness_tmpdir(), file);
	return text;
}

static const char *path_of(const char *file)
{
	return assign("p", file) + 2;
}

static void save(
	const char *file, uint32_t dtype, uint32_t rank, const uint64_t *dims, const void *data)
{
	assert_int_equal(npy_write(path_of(file), dtype, rank, dims, data, why, sizeof(why)), 0);
}

/* Saves n numbers from -1 to 1, and leaves them in `values`. */
static void save_random(const char *file, uint32_t rank, const uint64_t *dims, float *values)
{
	uint64_t n = 1;

	for (uint32_t i = 0; i < rank; i++)
		n *= dims[i];
	for (uint64_t i = 0; i < n; i++)
		values[i] = (float)rand() / (float)RAND_MAX * 2 - 1;
	save(file, GPUQ_F32, rank, dims, values);
}

static void load(const char *file, uint32_t rank, const uint64_t *dims, uint32_t dtype, void *data)
{
	struct npy npy;
	int fd = npy_open(path_of(file), &npy, why, sizeof(why));

	if (fd < 0)
		fail_msg("%s: %s", file, why);
	assert_int_equal(npy.dtype, dtype);
	assert_int_equal(npy.rank, rank);
	assert_memory_equal(npy.dims, dims, rank * sizeof(*dims));
	assert_int_equal(npy_read(fd, &npy, dtype, data, why, sizeof(why)), 0);
	close(fd);
}

static void assert_close(const float *y, const double *expected, size_t n, double tolerance)
{
	for (size_t i = 0; i < n; i++) {
		if (!(fabs((double)y[i] - expected[i]) <= tolerance))
			fail_msg("element %zu is %g, not %g", i, (double)y[i], expected[i]);
	}
}

/* --- Without a daemon ---------------------------------------------------------------------- */

static void without_a_daemon_the_places_are_named(void **state)
{
	static const char *const commands[][2] = {{"status"}, {"devices"}, {"ops"}, {"graphs"},
		{"graphs", "--all"}, {"graphs", "--stop"}, {"ping"}, {"run", "softmax"}, {"stop"}};
	char expected[400];

	unsetenv("GPUQ_SOCKET");
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		bool admin = strcmp(commands[i][0], "stop") == 0 ||
			(strcmp(commands[i][0], "graphs") == 0 && commands[i][1] != NULL);

		snprintf(expected, sizeof(expected),
			"gpuq: no daemon at %s/gpuq-0%s, /run/gpuq/gpuq-0%s; start gpuqd or set "
			"GPUQ_SOCKET\n",
			getenv("XDG_RUNTIME_DIR"), admin ? "-admin" : "", admin ? "-admin" : "");
		REFUSED(1, expected, commands[i][0], commands[i][1]);
		REFUSED(1, "no daemon at /nowhere/s", "-s", "/nowhere/s", commands[i][0],
			commands[i][1]);
		REFUSED(1, "no daemon at /nowhere/t", commands[i][0], "--socket", "/nowhere/t",
			commands[i][1]);
	}
}

static void wrong_usage_is_refused(void **state)
{
	REFUSED(2, "gpuq: no command; see gpuq --help", NULL);
	REFUSED(2, "gpuq: unknown command 'nonsense'", "nonsense");
	REFUSED(2, "gpuq: unrecognized option '--nonsense'", "--nonsense");
	REFUSED(2, "gpuq: unrecognized option '--nonsense'", "ping", "--nonsense");
	REFUSED(2, "Try 'gpuq ping --help'", "ping", "--nonsense");
	REFUSED(2, "gpuq: unexpected argument 'more'", "status", "more");
	REFUSED(2, "gpuq: unexpected argument 'more'", "devices", "more");
	REFUSED(2, "gpuq: unexpected argument 'more'", "ops", "softmax", "more");
	REFUSED(2, "gpuq: unexpected argument 'more'", "run", "softmax", "more");
	REFUSED(2, "gpuq: unexpected argument 'more'", "stop", "more");
	REFUSED(2, "'restart'", "device");
	REFUSED(2, "'restart'", "device", "nonsense");
	REFUSED(2, "gpuq: --drain: 'x'", "device", "restart", "--drain", "x");
	REFUSED(2, "gpuq: --count: '0'", "ping", "-n", "0");
	REFUSED(2, "gpuq: --count: '1e3'", "ping", "-n", "1e3");
	REFUSED(2, "gpuq: --device: '-1'", "ping", "--device=-1");
	REFUSED(2, "gpuq: --repeat: '0'", "run", "softmax", "--repeat", "0");
	REFUSED(2, "gpuq: --timeout: '0'", "run", "softmax", "--timeout", "0");
	REFUSED(2, "gpuq: --timeout: 'x'", "stop", "--timeout", "x");
	REFUSED(2, "gpuq: unexpected argument 'more'", "graphs", "more");
	REFUSED(2, "gpuq: --evict: '0'", "graphs", "--evict", "0");
	REFUSED(2, "gpuq: --evict: 'some'", "graphs", "--evict", "some");
	REFUSED(2, "exclude each other", "graphs", "--stop", "--resume");
	REFUSED(2, "exclude each other", "graphs", "--evict", "all", "--stop");
	REFUSED(2, "gpuq: only one of", "graphs", "--stop", "--json");
	REFUSED(2, "gpuq: only one of", "graphs", "--watch", "--json");
	REFUSED(2, "gpuq: which operator?", "run");
	REFUSED(2, "gpuq: --in 'x' is not NAME=VALUE", "run", "softmax", "--in", "x");
	REFUSED(2, "gpuq: --out 'y=' is not NAME=VALUE", "run", "softmax", "--out", "y=");
	REFUSED(2, "gpuq: --param '=1' is not NAME=VALUE", "run", "softmax", "--param", "=1");
	REFUSED(2, "gpuq: --in x is given twice", "run", "softmax", "--in", "x=a", "--in", "x=b");
	REFUSED(2, "longer than any", "run", "softmax", "--in",
		"a-name-that-is-far-too-long-for-a-tensor=x.npy");
}

static void help_tells_of_every_command(void **state)
{
	static const char *const commands[] = {
		"status", "devices", "device", "ops", "graphs", "ping", "run", "stop"};
	struct harness_output out, one;
	char expected[64];

	GPUQ(&out, "--help");
	assert_int_equal(out.status, 0);
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		assert_non_null(strstr(out.out, commands[i]));
		GPUQ(&one, commands[i], "--help");
		assert_int_equal(one.status, 0);
		snprintf(expected, sizeof(expected), "Usage: gpuq %s", commands[i]);
		assert_non_null(strstr(one.out, expected));
		assert_non_null(strstr(one.out, "--socket"));
		harness_output_free(&one);
	}
	harness_output_free(&out);
	GPUQ(&out, "--version");
	assert_int_equal(out.status, 0);
	assert_non_null(strstr(out.out, "linked with libgpuq-client "));
	assert_null(strstr(out.out, "connected"));
	harness_output_free(&out);
}

/* On the smallest terminal that is still common. */
static void assert_fits(const char *text)
{
	for (const char *end; *text != '\0'; text = end + (*end == '\n')) {
		end = strchrnul(text, '\n');
		if (end - text > 80)
			fail_msg("%d columns: %.*s", (int)(end - text), (int)(end - text), text);
	}
}

static void help_fits_80_columns(void **state)
{
	static const char *const programs[] = {"daemon/gpuqd", "tools/gpuq-top",
		"tools/gpuq-exporter", "tools/gpuq-soak", "tools/gpuq", "bench/gpuq-bench"};
	static const char *const commands[] = {"status", "devices", "device", "ops", "graphs",
		"models", "load", "unload", "precapture", "logits", "ping", "run", "stop", "trace",
		"generate", "chat", "tokenize", "detokenize"};
	struct harness_output out;

	for (size_t i = 0; i < sizeof(programs) / sizeof(programs[0]); i++) {
		const char *argv[] = {harness_program(programs[i]), "--help", NULL};

		if (access(argv[0], X_OK) < 0)
			continue; /* left out of this build */
		harness_exec(argv, &out);
		assert_int_equal(out.status, 0);
		assert_fits(out.out);
		harness_output_free(&out);
	}
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		GPUQ(&out, commands[i], "--help");
		assert_fits(out.out);
		harness_output_free(&out);
	}
}

/* --- With a daemon ------------------------------------------------------------------------- */

static void questions_are_answered(void **state)
{
	struct harness_daemon *daemon = harness_daemon_start(NULL);
	struct harness_output out;
	json_t *d, *list;
	const char *text;
	int n, first;

	d = JSON("status", "--json");
	assert_int_equal(json_unpack(d, "{s:{s:s, s:i}}", "daemon", "state", &text, "pid", &n), 0);
	assert_string_equal(text, "serving");
	assert_int_equal(n, daemon->pid);
	json_decref(d);
	GPUQ(&out, "status");
	assert_int_equal(out.status, 0);
	assert_non_null(strstr(out.out, "serving"));
	harness_output_free(&out);

	d = JSON("devices", "--json");
	assert_int_equal(json_unpack(d, "{s:[{s:s}]}", "devices", "kind", &text), 0);
	assert_string_equal(text, "cpu");
	assert_int_equal(
		json_unpack(d, "{s:[{s:s, s:b}]}", "present", "kind", &text, "usable", &n), 0);
	assert_string_equal(text, "cpu");
	assert_true(n);
	json_decref(d);
	GPUQ(&out, "devices");
	assert_int_equal(out.status, 0);
	assert_non_null(strstr(out.out, "0  cpu     ready"));
	assert_non_null(strstr(out.out, "Found on this machine:\n   cpu     usable"));
	harness_output_free(&out);

	d = JSON("ops", "--json");
	assert_int_equal(json_unpack(d, "{s:o}", "ops", &list), 0);
	assert_true(json_array_size(list) >= 3);
	json_decref(d);
	d = JSON("ops", "--json", "softmax");
	assert_int_equal(json_unpack(d, "{s:[{s:s}]}", "ops", "name", &text), 0);
	assert_string_equal(text, "softmax");
	json_decref(d);
	d = JSON("ops", "--json", "kv_append");
	assert_int_equal(json_unpack(d, "{s:[{s:[{s:b},o,o,o,{s:b}]}]}", "ops", "inputs", "in_out",
				 &first, &list, &list, &list, "in_out", &n),
		0);
	assert_true(!first && n);
	json_decref(d);
	REFUSED(1, "gpuq: gpuqd has no operator \"nope\"", "ops", "nope");

	d = JSON("ping", "--json", "-n", "100");
	assert_int_equal(json_unpack(d, "{s:{s:i}}", "round_trip_ns", "count", &n), 0);
	assert_int_equal(n, 100);
	json_decref(d);
	/* The warm-up's and the others; the device counts them all, after the channel is closed. */
	d = JSON("status", "--json");
	assert_int_equal(json_unpack(d, "{s:{s:i}}", "daemon", "completed", &n), 0);
	assert_int_equal(n, 200);
	json_decref(d);
	REFUSED(1, "none with number 9", "ping", "--device", "9");

	GPUQ(&out, "--version");
	assert_non_null(strstr(out.out, "connected to gpuqd "));
	harness_output_free(&out);
	harness_daemon_destroy(daemon);
}

static void a_dead_daemon_leaves_its_last_state(void **state)
{
	struct harness_daemon *daemon = harness_daemon_start(NULL);
	struct harness_output out;
	char expected[64];

	snprintf(expected, sizeof(expected), "last state, gpuqd %d is gone", daemon->pid);
	harness_daemon_kill(daemon);
	GPUQ(&out, "status");
	assert_int_equal(out.status, 1);
	assert_non_null(strstr(out.out, expected));
	assert_non_null(strstr(out.err, "gpuq: last state"));
	assert_non_null(strstr(out.err, "start gpuqd"));
	harness_output_free(&out);
	REFUSED(1, "no daemon at", "ping");
	harness_daemon_destroy(daemon);
	daemon = harness_daemon_start(NULL); /* it takes the object over, and away at its end */
	harness_daemon_destroy(daemon);
}

static void device_restart_waits_for_the_next_process(void **state)
{
	struct harness_daemon *daemon = harness_daemon_start(NULL);
	json_t *told = JSON("device", "restart", "--json");

	assert_string_equal(
		json_string_value(json_object_get(told, "schema")), "gpuq-device-restart/1");
	assert_int_equal(json_integer_value(json_object_get(told, "epoch")), 2);
	json_decref(told);
	REFUSED(1, "there is no device 3", "device", "restart", "--device", "3");
	harness_daemon_destroy(daemon);
}

static void stop_waits_for_the_end(void **state)
{
	struct harness_daemon *daemon = harness_daemon_start(NULL);
	struct harness_output out;

	GPUQ(&out, "stop");
	assert_int_equal(out.status, 0);
	assert_string_equal(out.err, "");
	harness_output_free(&out);
	REFUSED(1, "no daemon at", "ping");
	assert_int_equal(harness_daemon_stop(daemon), 0);
	harness_daemon_destroy(daemon);
}

/* --- Operators ----------------------------------------------------------------------------- */

static void gemv_is_right(void **state)
{
	enum { B = 5, I = 33, O = 7 };
	struct harness_daemon *daemon = harness_daemon_start(NULL);
	float x[B * I], w[B * O * I], bias[O], y[B * O];
	double shared[B * O], own[B * O];

	save_random("x.npy", 2, DIMS(B, I), x);
	save_random("bias.npy", 1, DIMS(O), bias);
	save_random("w3.npy", 3, DIMS(B, O, I), w);
	save("w2.npy", GPUQ_F32, 2, DIMS(O, I), w); /* the first of them */
	for (int b = 0; b < B; b++) {
		for (int o = 0; o < O; o++) {
			shared[b * O + o] = (double)bias[o];
			own[b * O + o] = 0;
			for (int i = 0; i < I; i++) {
				double xi = (double)x[b * I + i];
				shared[b * O + o] += (double)w[o * I + i] * xi;
				own[b * O + o] += (double)w[(b * O + o) * I + i] * xi;
			}
		}
	}
	json_decref(JSON("run", "gemv_batched", "--in", assign("x", "x.npy"), "--in",
		assign("w", "w2.npy"), "--in", assign("bias", "bias.npy"), "--out",
		assign("y", "y.npy"), "--json"));
	load("y.npy", 2, DIMS(B, O), GPUQ_F32, y);
	assert_close(y, shared, B * O, 1e-4);
	json_decref(JSON("run", "gemv_batched", "--in", assign("x", "x.npy"), "--in",
		assign("w", "w3.npy"), "--out", assign("y", "y.npy"), "--json"));
	load("y.npy", 2, DIMS(B, O), GPUQ_F32, y);
	assert_close(y, own, B * O, 1e-4);
	harness_daemon_destroy(daemon);
}

static void softmax_is_right(void **state)
{
	enum { N = 3, M = 2, D = 10 };
	struct harness_daemon *daemon = harness_daemon_start(NULL);
	float x[N * M * D], y[N * M * D];
	double expected[N * M * D];
	uint16_t half[N * M * D];
	json_t *d;
	int repeat, count;

	save_random("x.npy", 3, DIMS(N, M, D), x);
	for (int row = 0; row < N * M; row++) {
		double sum = 0;

		for (int i = 0; i < D; i++)
			sum += exp((double)x[row * D + i] / 0.5);
		for (int i = 0; i < D; i++)
			expected[row * D + i] = exp((double)x[row * D + i] / 0.5) / sum;
	}
	d = JSON("run", "softmax", "--in", assign("x", "x.npy"), "--param", "temperature=0.5",
		"--repeat", "20", "--out", assign("y", "y.npy"), "--json");
	assert_int_equal(
		json_unpack(d, "{s:i, s:{s:i}}", "repeat", &repeat, "executed_ns", "count", &count),
		0);
	assert_true(repeat == 20 && count == 20);
	json_decref(d);
	load("y.npy", 3, DIMS(N, M, D), GPUQ_F32, y);
	assert_close(y, expected, N * M * D, 1e-6);

	/* The same with 16-bit floats; bf16 comes back as f32. */
	json_decref(JSON("run", "softmax", "--in", assign("x", "x.npy"), "--param",
		"temperature=0.5", "--dtype", "x=f16", "--dtype", "y=f16", "--out",
		assign("y", "half.npy"), "--json"));
	load("half.npy", 3, DIMS(N, M, D), GPUQ_F16, half);
	for (int i = 0; i < N * M * D; i++)
		y[i] = f32_from_f16(half[i]);
	assert_close(y, expected, N * M * D, 4e-3);
	json_decref(JSON("run", "softmax", "--in", assign("x", "x.npy"), "--param",
		"temperature=0.5", "--dtype", "x=bf16", "--dtype", "y=bf16", "--out",
		assign("y", "brain.npy"), "--json"));
	load("brain.npy", 3, DIMS(N, M, D), GPUQ_F32, y);
	assert_close(y, expected, N * M * D, 3e-2);
	harness_daemon_destroy(daemon);
}

static void price_vectors_is_right(void **state)
{
	enum { B = 4, A = 6, F = 17 };
	struct harness_daemon *daemon = harness_daemon_start(NULL);
	float prices[B * A * F], weights[A * F], scores[B * A];
	double expected[B * A];

	save_random("prices.npy", 3, DIMS(B, A, F), prices);
	save_random("weights.npy", 2, DIMS(A, F), weights);
	for (int i = 0; i < B * A; i++) {
		expected[i] = 0;
		for (int f = 0; f < F; f++)
			expected[i] += (double)prices[i * F + f] * (double)weights[i % A * F + f];
	}
	json_decref(JSON("run", "price_vectors", "--in", assign("prices", "prices.npy"), "--in",
		assign("weights", "weights.npy"), "--out", assign("scores", "scores.npy"),
		"--json"));
	load("scores.npy", 2, DIMS(B, A), GPUQ_F32, scores);
	assert_close(scores, expected, B * A, 1e-4);
	harness_daemon_destroy(daemon);
}

/* Integers, a parameter that is a dimension, outputs that only some calls have. */
static void step_result_is_right(void **state)
{
	const float logits[] = {0, 3, -1, 3, 2, 1, 5, 0, 0, 4};
	const int32_t ids[] = {4, -1, 5};
	struct harness_daemon *daemon = harness_daemon_start(NULL);
	float values[6], named[6];
	int32_t tokens[6];
	json_t *d, *outputs;

	save("logits.npy", GPUQ_F32, 2, DIMS(2, 5), logits);
	save("ids.npy", GPUQ_I32, 1, DIMS(3), ids);
	json_decref(JSON("run", "step_result", "--in", assign("logits", "logits.npy"), "--in",
		assign("ids", "ids.npy"), "--param", "K=3", "--out", assign("values", "v.npy"),
		"--out", assign("tokens", "t.npy"), "--out", assign("named", "n.npy"), "--json"));
	load("v.npy", 2, DIMS(2, 3), GPUQ_F32, values);
	load("t.npy", 2, DIMS(2, 3), GPUQ_I32, tokens);
	load("n.npy", 2, DIMS(2, 3), GPUQ_F32, named);
	assert_memory_equal(values, ((float[]){3, 3, 2, 5, 4, 1}), sizeof(values));
	assert_memory_equal(tokens, ((int32_t[]){1, 3, 4, 1, 4, 0}), sizeof(tokens));
	assert_memory_equal(named, ((float[]){2, -INFINITY, -INFINITY, 4, -INFINITY, -INFINITY}),
		sizeof(named));
	d = JSON("run", "step_result", "--in", assign("logits", "logits.npy"), "--param", "K=1",
		"--json");
	assert_int_equal(json_unpack(d, "{s:o}", "outputs", &outputs), 0);
	assert_int_equal(json_array_size(outputs), 3);
	json_decref(d);
	REFUSED(1, "parameter K: ", "run", "step_result", "--in", assign("logits", "logits.npy"));
	REFUSED(1, "output named: ", "run", "step_result", "--in", assign("logits", "logits.npy"),
		"--in", assign("ids", "ids.npy"), "--param", "K=2");
	harness_daemon_destroy(daemon);
}

/* Elements behind the last value are 0. */
struct array {
	const char *name;
	uint32_t dtype, rank;
	uint64_t dims[5];
	float values[8];
};

static void save_array(const struct array *a, const char *file)
{
	char data[128 * sizeof(int64_t)] = {0};

	for (size_t i = 0; i < sizeof(a->values) / sizeof(a->values[0]); i++) {
		if (a->dtype == GPUQ_F32)
			((float *)data)[i] = a->values[i];
		else if (a->dtype == GPUQ_I32)
			((int32_t *)data)[i] = (int32_t)a->values[i];
		else if (a->dtype == GPUQ_I64)
			((int64_t *)data)[i] = (int64_t)a->values[i];
	}
	save(file, a->dtype, a->rank, a->dims, data);
}

static void assert_array(const struct array *a, const char *file)
{
	float data[8] = {0};

	load(file, a->rank, a->dims, a->dtype, data);
	for (uint64_t i = 0; i < sizeof(data) / sizeof(data[0]); i++) {
		const float v = a->dtype == GPUQ_I32 ? (float)((int32_t *)data)[i] : data[i];

		if (!(fabsf(v - a->values[i]) <= 1e-3f))
			fail_msg("%s: element %lu is %g", file, i, (double)v);
	}
}

/* Those that have no test of their own here, on what a look tells the result of. */
static const struct example {
	const char *op;
	struct array inputs[3], output;
} examples[] = {
	{"embedding",
		{{"tokens", GPUQ_I32, 1, {2}, {1, 0}},
			{"table", GPUQ_F32, 2, {2, 2}, {1, 2, 3, 4}}},
		{"y", GPUQ_F32, 2, {2, 2}, {3, 4, 1, 2}}},
	{"rmsnorm", {{"x", GPUQ_F32, 2, {1, 2}, {3, 3}}, {"weight", GPUQ_F32, 1, {2}, {1, 2}}},
		{"y", GPUQ_F32, 2, {1, 2}, {1, 2}}},
	{"linear",
		{{"x", GPUQ_F32, 2, {1, 2}, {3, 4}}, {"w", GPUQ_F32, 2, {2, 2}, {1, 1, 0, 2}},
			{"bias", GPUQ_F32, 1, {2}, {10, 20}}},
		{"y", GPUQ_F32, 2, {1, 2}, {17, 28}}},
	{"rope", {{"x", GPUQ_F32, 3, {1, 1, 2}, {1, 2}}, {"positions", GPUQ_I32, 1, {1}, {0}}},
		{"y", GPUQ_F32, 3, {1, 1, 2}, {1, 2}}},
	{"swiglu", {{"gate", GPUQ_F32, 2, {1, 4}, {100, 50, 3, 4}}},
		{"y", GPUQ_F32, 2, {1, 2}, {300, 200}}},
	{"swiglu", {{"gate", GPUQ_F32, 2, {1, 2}, {100, 50}}, {"up", GPUQ_F32, 2, {1, 2}, {3, 4}}},
		{"y", GPUQ_F32, 2, {1, 2}, {300, 200}}},
	{"argmax", {{"x", GPUQ_F32, 2, {1, 3}, {1, 3, 2}}}, {"index", GPUQ_I32, 1, {1}, {1}}},
	{"sample",
		{{"logits", GPUQ_F32, 2, {1, 3}, {1, 3, 2}},
			{"temperatures", GPUQ_F32, 1, {1}, {0}},
			{"seeds", GPUQ_I64, 2, {1, 2}, {7, 0}}},
		{"token", GPUQ_I32, 1, {1}, {1}}},
};

static void run_example(const struct example *e)
{
	const char *arguments[16] = {"run", e->op, "--json"};
	char file[GPUQ_NAME_MAX + 4];
	int n = 3;

	for (uint32_t i = 0; i < 3 && e->inputs[i].name != NULL; i++) {
		snprintf(file, sizeof(file), "%s.npy", e->inputs[i].name);
		save_array(&e->inputs[i], file);
		arguments[n++] = "--in";
		arguments[n++] = assign(e->inputs[i].name, file);
	}
	arguments[n++] = "--out";
	arguments[n++] = assign(e->output.name, "out.npy");
	json_decref(json_of(arguments));
	assert_array(&e->output, "out.npy");
}

static void examples_are_right(void **state)
{
	struct harness_daemon *daemon = harness_daemon_start(NULL);

	for (size_t i = 0; i < sizeof(examples) / sizeof(examples[0]); i++)
		run_example(&examples[i]);
	harness_daemon_destroy(daemon);
}

/* One token of two heads: it is put into the cache, and attends to what is there of it. */
static void attention_over_a_cache_is_right(void **state)
{
	static const struct array inputs[] = {
		{"qkv", GPUQ_F32, 2, {1, 8}, {1, 2, 3, 4, 5, 6, 7, 8}},
		{"positions", GPUQ_I32, 1, {1}, {0}},
		{"rows", GPUQ_I32, 1, {1}, {0}},
		{"table", GPUQ_I32, 2, {1, 1}, {1}},
		{"cache", GPUQ_F32, 5, {2, 2, 1, 16, 2}, {0}},
	};
	const struct array q = {"q", GPUQ_F32, 3, {1, 2, 2}, {1, 2, 3, 4}};
	const struct array y = {"y", GPUQ_F32, 3, {1, 2, 2}, {7, 8, 7, 8}};
	struct harness_daemon *daemon = harness_daemon_start(NULL);
	float cache[128], both[128], parts[8];
	uint8_t context[16] = {0};
	char file[GPUQ_NAME_MAX + 4];

	for (size_t i = 0; i < sizeof(inputs) / sizeof(inputs[0]); i++) {
		snprintf(file, sizeof(file), "%s.npy", inputs[i].name);
		save_array(&inputs[i], file);
	}
	json_decref(JSON("run", "kv_append", "--in", assign("qkv", "qkv.npy"), "--in",
		assign("positions", "positions.npy"), "--in", assign("rows", "rows.npy"), "--in",
		assign("table", "table.npy"), "--in", assign("cache", "cache.npy"), "--out",
		assign("q", "q.npy"), "--out", assign("cache", "after.npy"), "--json"));
	assert_array(&q, "q.npy");
	load("after.npy", 5, inputs[4].dims, GPUQ_F32, cache);
	assert_memory_equal(&cache[64], ((float[]){5, 6}), 8);
	assert_memory_equal(&cache[96], ((float[]){7, 8}), 8);
	save("context.npy", GPUQ_U8, 1, DIMS(16), context);
	json_decref(JSON("run", "paged_attention", "--in", assign("q", "q.npy"), "--in",
		assign("cache", "after.npy"), "--in", assign("table", "table.npy"), "--in",
		assign("positions", "positions.npy"), "--in", assign("rows", "rows.npy"), "--in",
		assign("context", "context.npy"), "--out", assign("y", "y.npy"), "--out",
		assign("parts", "parts.npy"), "--json"));
	assert_array(&y, "y.npy");
	load("parts.npy", 4, DIMS(1, 2, 1, 4), GPUQ_F32, parts);
	json_decref(JSON("run", "kv_attention", "--in", assign("qkv", "qkv.npy"), "--in",
		assign("positions", "positions.npy"), "--in", assign("rows", "rows.npy"), "--in",
		assign("table", "table.npy"), "--in", assign("cache", "cache.npy"), "--in",
		assign("context", "context.npy"), "--out", assign("y", "both.npy"), "--out",
		assign("cache", "both-after.npy"), "--json"));
	assert_array(&y, "both.npy");
	load("both-after.npy", 5, inputs[4].dims, GPUQ_F32, both);
	assert_memory_equal(both, cache, sizeof(cache));
	REFUSED(1, "kv_append has no output 'k'; it has: q, cache", "run", "kv_append", "--out",
		"k=k.npy");
	harness_daemon_destroy(daemon);
}

static bool is_tested(const char *op)
{
	static const char *const others[] = {"gemv_batched", "softmax", "price_vectors",
		"step_result", "kv_append", "paged_attention", "kv_attention"};
	bool found = false;

	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
		found |= strcmp(op, others[i]) == 0;
	for (size_t i = 0; i < sizeof(examples) / sizeof(examples[0]); i++)
		found |= strcmp(op, examples[i].op) == 0;
	return found;
}

static void no_operator_is_left_out(void **state)
{
	struct harness_daemon *daemon = harness_daemon_start(NULL);
	json_t *d = JSON("ops", "--json"), *op;
	size_t i;

	json_array_foreach(json_object_get(d, "ops"), i, op)
	{
		const char *name = json_string_value(json_object_get(op, "name"));

		if (!is_tested(name))
			fail_msg("no test here runs %s", name);
	}
	assert_true(i > 0);
	json_decref(d);
	harness_daemon_destroy(daemon);
}

/* As a GPU does whose module lacks the operator. */
static void a_device_without_the_operator_says_so(void **state)
{
	static const char *const faults[] = {"--test-faults", "launch:1+=EOPNOTSUPP", NULL};
	struct harness_daemon *daemon = harness_daemon_start(faults);
	static float x[4 * 50000];
	json_t *d;
	int restarts;

	save("x.npy", GPUQ_F32, 2, DIMS(4, 50000), x);
	REFUSED(1, "argmax: this device has no form of that", "run", "argmax", "--in",
		assign("x", "x.npy"));
	REFUSED(1, "argmax: this device has no form of that", "run", "argmax", "--in",
		assign("x", "x.npy"), "--capture");
	d = JSON("status", "--json");
	assert_int_equal(json_unpack(d, "{s:{s:i}}", "daemon", "device_restarts", &restarts), 0);
	assert_int_equal(restarts, 0);
	json_decref(d);
	harness_daemon_destroy(daemon);
}

static void outputs_that_are_not_saved_are_shown(void **state)
{
	struct harness_daemon *daemon = harness_daemon_start(NULL);
	const float x[2] = {0, 0};
	struct harness_output out;

	save("x.npy", GPUQ_F32, 1, DIMS(2), x);
	GPUQ(&out, "run", "softmax", "--in", assign("x", "x.npy"));
	assert_int_equal(out.status, 0);
	assert_non_null(strstr(out.out, "0.5 0.5"));
	assert_non_null(strstr(out.out, "round trip"));
	harness_output_free(&out);
	save("none.npy", GPUQ_F32, 2, DIMS(0, 4), NULL); /* nothing in, nothing out, no trouble */
	GPUQ(&out, "run", "softmax", "--in", assign("x", "none.npy"));
	assert_int_equal(out.status, 0);
	assert_non_null(strstr(out.out, "[0,4]"));
	harness_output_free(&out);
	harness_daemon_destroy(daemon);
}

/* --- Graphs -------------------------------------------------------------------------------- */

/* The only shape in the list. */
static json_t *only_graph(json_t **ret_document)
{
	json_t *list;

	*ret_document = JSON("graphs", "--json");
	assert_int_equal(json_unpack(*ret_document, "{s:o}", "graphs", &list), 0);
	assert_int_equal(json_array_size(list), 1);
	return json_array_get(list, 0);
}

static void graphs_are_listed_and_administered(void **state)
{
	struct harness_daemon *daemon = harness_daemon_start(NULL);
	const float x[4] = {0, 1, 2, 3};
	struct harness_output out;
	const char *shape, *graph_state;
	char id[32];
	json_int_t number;
	json_t *d, *g;

	GPUQ(&out, "graphs");
	assert_int_equal(out.status, 0);
	assert_non_null(strstr(out.out, "0 shapes, 0 captured"));
	assert_non_null(strstr(out.out, "small calls need no graph"));
	harness_output_free(&out);

	/* One kernel: direct, or captured where the device is faster that way. */
	save("x.npy", GPUQ_F32, 2, DIMS(2, 2), x);
	json_decref(JSON("run", "softmax", "--in", assign("x", "x.npy"), "--capture", "--repeat",
		"3", "--json"));
	g = only_graph(&d);
	assert_int_equal(json_unpack(g, "{s:s, s:s, s:I}", "shape", &shape, "state", &graph_state,
				 "id", &number),
		0);
	assert_non_null(strstr(shape, "softmax"));
	assert_non_null(strstr(shape, "[2,2]"));
	assert_true(strcmp(graph_state, "direct") == 0 || strcmp(graph_state, "captured") == 0);
	json_decref(d);
	GPUQ(&out, "graphs", "--all");
	assert_int_equal(out.status, 0);
	assert_non_null(strstr(out.out, "softmax"));
	assert_non_null(strstr(out.out, "1 shape, "));
	harness_output_free(&out);

	static const char *const acts[] = {"--stop", "--resume", "--evict=all"};
	for (size_t i = 0; i < sizeof(acts) / sizeof(acts[0]); i++) {
		GPUQ(&out, "graphs", acts[i]);
		if (out.status != 0)
			fail_msg("%s: %d %s", acts[i], out.status, out.err);
		harness_output_free(&out);
	}
	snprintf(id, sizeof(id), "%lld", (long long)number);
	GPUQ(&out, "graphs", "--evict", id);
	assert_int_equal(out.status, 0);
	harness_output_free(&out);
	REFUSED(1, "no", "graphs", "--evict", "18446744073709551615");
	REFUSED(1, "9", "graphs", "--device", "9");
	harness_daemon_destroy(daemon);
}

/* --- Bad input ----------------------------------------------------------------------------- */

static void arguments_are_refused_by_name(void **state)
{
	struct harness_daemon *daemon = harness_daemon_start(NULL);
	float values[64];

	save_random("a.npy", 2, DIMS(4, 8), values);
	save_random("b.npy", 2, DIMS(3, 7), values);
	save_random("v.npy", 1, DIMS(8), values);
	save("i.npy", GPUQ_I32, 2, DIMS(4, 8), values);
	const char *xa = assign("x", "a.npy"), *wb = assign("w", "b.npy");

	REFUSED(1, "gpuqd has no operator \"gemm\"", "run", "gemm", "--in", xa);
	REFUSED(1, "gpuq: gemv_batched: I is 8 in x but 7 in w", "run", "gemv_batched", "--in", xa,
		"--in", wb);
	REFUSED(1, "w is [8] and has to be [O,I]", "run", "gemv_batched", "--in", xa, "--in",
		assign("w", "v.npy"));
	REFUSED(1, "input w of gemv_batched is missing; give --in w=", "run", "gemv_batched",
		"--in", xa);
	REFUSED(1, "gemv_batched has no input 'q'; it has: x, w, bias", "run", "gemv_batched",
		"--in", assign("q", "a.npy"));
	REFUSED(1, "softmax has no output 'z'; it has: y", "run", "softmax", "--in", xa, "--out",
		assign("z", "z.npy"));
	REFUSED(1, "input x is i32; softmax takes f32", "run", "softmax", "--in",
		assign("x", "i.npy"));
	REFUSED(1, "softmax has no parameter 'heat'; it has: temperature", "run", "softmax", "--in",
		xa, "--param", "heat=1");
	REFUSED(1, "--param temperature=hot is not a number", "run", "softmax", "--in", xa,
		"--param", "temperature=hot");
	REFUSED(1, "--param temperature=-1 is not between", "run", "softmax", "--in", xa, "--param",
		"temperature=-1");
	REFUSED(1, "--param temperature=nan", "run", "softmax", "--in", xa, "--param",
		"temperature=nan");
	REFUSED(1, "--dtype x=f64: no such element type", "run", "softmax", "--in", xa, "--dtype",
		"x=f64");
	REFUSED(1, "only f32 can become", "run", "softmax", "--in", assign("x", "i.npy"), "--dtype",
		"x=f16");
	REFUSED(1, "output y is i8; softmax takes", "run", "softmax", "--in", xa, "--dtype",
		"y=i8");
	REFUSED(1, "--dtype k: softmax has no tensor of that name", "run", "softmax", "--in", xa,
		"--dtype", "k=f16");
	REFUSED(1, "/nowhere/y.npy: No such file", "run", "softmax", "--in", xa, "--out",
		"y=/nowhere/y.npy");
	harness_daemon_destroy(daemon);
}

static void large_inputs_are_refused_with_the_limit(void **state)
{
	static const char *const options[] = {"--max-arena-bytes", "1M", NULL};
	struct harness_daemon *daemon = harness_daemon_start(options);
	float *values = calloc(300000, sizeof(*values));

	assert_non_null(values);
	save("large.npy", GPUQ_F32, 1, DIMS(300000), values);
	REFUSED(1, "gives a channel at most 1048576; make them smaller or raise max_arena_bytes",
		"run", "softmax", "--in", assign("x", "large.npy"));
	save("small.npy", GPUQ_F32, 1, DIMS(100000), values);
	json_decref(JSON("run", "softmax", "--in", assign("x", "small.npy"), "--json"));
	free(values);
	harness_daemon_destroy(daemon);
}

/* A file of these bytes and, after them, zeros. */
static void save_raw(const char *file, const char *dict, size_t zeros)
{
	FILE *f = fopen(path_of(file), "wb");
	size_t n = strlen(dict) + 1;

	assert_non_null(f);
	fwrite("\x93NUMPY\1\0", 1, 8, f);
	fputc((int)(n & 0xff), f);
	fputc((int)(n >> 8), f);
	fprintf(f, "%s\n", dict);
	for (size_t i = 0; i < zeros; i++)
		fputc(0, f);
	fclose(f);
}

static void files_are_refused_by_name(void **state)
{
	static const struct {
		const char *dict;
		size_t zeros;
		const char *reason;
	} cases[] = {
		{"{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3), }", 24, "Fortran order"},
		{"{'descr': '>f4', 'fortran_order': False, 'shape': (2, 3), }", 24, "big-endian"},
		{"{'descr': '|O', 'fortran_order': False, 'shape': (2,), }", 16, "Python objects"},
		{"{'descr': '<U3', 'fortran_order': False, 'shape': (2,), }", 24, "unicode"},
		{"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,), }", 8,
			"structured"},
		{"{'descr': '<f8', 'fortran_order': False, 'shape': (2,), }", 16, "no dtype '<f8'"},
		{"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", 23, "truncated"},
		{"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", 25,
			"1 bytes follow the last element"},
		{"{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296), }", 8,
			"overflows"},
		{"{'descr': '<f4', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,1), }", 4,
			"more than 8 dimensions"},
		{"not a dict", 4, "not a dict"},
	};
	struct harness_daemon *daemon = harness_daemon_start(NULL);
	char expected[256];

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		save_raw("bad.npy", cases[i].dict, cases[i].zeros);
		snprintf(expected, sizeof(expected), "gpuq: %s: ", path_of("bad.npy"));
		REFUSED(1, expected, "run", "softmax", "--in", assign("x", "bad.npy"));
		REFUSED(1, cases[i].reason, "run", "softmax", "--in", assign("x", "bad.npy"));
	}
	REFUSED(1, "absent.npy: No such file", "run", "softmax", "--in", assign("x", "absent.npy"));
	REFUSED(1, "not a regular file", "run", "softmax", "--in", "x=/dev/null");
	REFUSED(1, "not a .npy file", "run", "softmax", "--in", "x=/proc/self/exe");
	harness_daemon_destroy(daemon);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(without_a_daemon_the_places_are_named),
		HARNESS_TEST(wrong_usage_is_refused),
		HARNESS_TEST(help_tells_of_every_command),
		HARNESS_TEST(help_fits_80_columns),
		HARNESS_TEST(questions_are_answered),
		HARNESS_TEST(a_dead_daemon_leaves_its_last_state),
		HARNESS_TEST(device_restart_waits_for_the_next_process),
		HARNESS_TEST(stop_waits_for_the_end),
		HARNESS_TEST(gemv_is_right),
		HARNESS_TEST(softmax_is_right),
		HARNESS_TEST(price_vectors_is_right),
		HARNESS_TEST(step_result_is_right),
		HARNESS_TEST(examples_are_right),
		HARNESS_TEST(attention_over_a_cache_is_right),
		HARNESS_TEST(no_operator_is_left_out),
		HARNESS_TEST(a_device_without_the_operator_says_so),
		HARNESS_TEST(outputs_that_are_not_saved_are_shown),
		HARNESS_TEST(graphs_are_listed_and_administered),
		HARNESS_TEST(arguments_are_refused_by_name),
		HARNESS_TEST(large_inputs_are_refused_with_the_limit),
		HARNESS_TEST(files_are_refused_by_name),
	};

	return harness_run("gpuq", tests, sizeof(tests) / sizeof(tests[0]));
}
