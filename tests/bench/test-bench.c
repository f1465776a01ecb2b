/* SPDX-License-Identifier: MIT */
/*
 * test-bench.c: gpuq-bench, briefly: its options, and that each subcommand measures something and
 * keeps it. What it measures is not judged here: the machine is busy with other tests.
 */
#include "tests/harness.h"

#include "shm/hist.h"

#include <jansson.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SAMPLES "300"
#define PER_ROUND (300 / 50 + 1)

/* Runs gpuq-bench with up to six arguments. */
static struct harness_output run(const char *const *args, size_t n)
{
	const char *argv[8] = {harness_program("bench/gpuq-bench")};
	struct harness_output output;

	assert_true(n <= 6);
	for (size_t i = 0; i < n; i++)
		argv[1 + i] = args[i];
	harness_exec(argv, &output);
	return output;
}

static void assert_refused(const char *const *args, size_t n, const char *says)
{
	struct harness_output output = run(args, n);

	assert_int_equal(output.status, 2);
	assert_non_null(strstr(output.err, says));
	assert_string_equal(output.out, "");
	harness_output_free(&output);
}

static void need_two_cpus(void)
{
	cpu_set_t set;

	assert_int_equal(sched_getaffinity(0, sizeof(set), &set), 0);
	if (CPU_COUNT(&set) < 2)
		harness_skip("needs two CPUs");
}

static void need_gpuqd(void)
{
	if (access(getenv("GPUQ_TEST_GPUQD"), X_OK) != 0)
		harness_skip("needs gpuqd");
}

static void test_help_names_every_subcommand(void **state)
{
	const char *const args[] = {"--help"};
	const char *const names[] = {"floor", "ring", "null", "sleep", "pipeline", "op", "idle",
		"death", "overload", "graphs", "memory", "linear", "decode", "prefill", "load",
		"values", "all"};
	struct harness_output output = run(args, 1);

	assert_int_equal(output.status, 0);
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		assert_non_null(strstr(output.out, names[i]));
	harness_output_free(&output);
}

static void test_bad_usage_is_refused(void **state)
{
	assert_refused(NULL, 0, "subcommand is needed");
	assert_refused((const char *const[]){"fast"}, 1, "no subcommand 'fast'");
	assert_refused((const char *const[]){"floor", "ring"}, 2, "unexpected argument 'ring'");
	assert_refused((const char *const[]){"floor", "--samples=ten"}, 2, "'ten'");
	assert_refused((const char *const[]){"floor", "--samples=5"}, 2, "'5'");
	assert_refused((const char *const[]){"floor", "--cpus=0"}, 2, "'0'");
	assert_refused((const char *const[]){"floor", "--cpus=0,99999"}, 2, "'0,99999'");
	assert_refused((const char *const[]){"idle", "--seconds=-1"}, 2, "'-1'");
	assert_refused((const char *const[]){"floor", "--loud"}, 2, "--help");
}

static void test_missing_gpuqd_is_an_error(void **state)
{
	const char *const args[] = {"idle", "--gpuqd=/nowhere/gpuqd"};
	struct harness_output output = run(args, 2);

	assert_int_equal(output.status, 1);
	assert_non_null(strstr(output.err, "cannot run /nowhere/gpuqd"));
	harness_output_free(&output);
}

/* Runs a subcommand with few samples, so many seconds, one more argument; returns what it kept. */
static json_t *measure_for(const char *subcommand, const char *seconds, const char *argument)
{
	char path[300], json[320];
	json_error_t error;

	snprintf(path, sizeof(path), "%s/result.json", harness_tmpdir());
	snprintf(json, sizeof(json), "--json=%s", path);
	const char *const args[] = {subcommand, "--samples=" SAMPLES, seconds, json, argument};
	struct harness_output output = run(args, 5);

	if (output.status != 0)
		fprintf(stderr, "%s%s", output.out, output.err);
	assert_int_equal(output.status, 0);
	assert_non_null(strstr(output.out, "====== summary ======"));
	harness_output_free(&output);
	json_t *root = json_load_file(path, 0, &error);
	assert_non_null(root);
	assert_string_equal(json_string_value(json_object_get(root, "program")), "gpuq-bench");
	assert_true(json_is_string(json_object_get(json_object_get(root, "machine"), "kernel")));
	return root;
}

static json_t *measure_with(const char *subcommand, const char *argument)
{
	return measure_for(subcommand, "--seconds=1", argument);
}

static json_t *measure(const char *subcommand)
{
	return measure_with(subcommand, "--python=/nowhere/python");
}

static json_int_t count_samples(const json_t *histogram)
{
	json_int_t sum = 0;
	const json_t *bucket;
	size_t i;

	json_array_foreach(histogram, i, bucket) sum +=
		json_integer_value(json_array_get(bucket, 1));
	return sum;
}

/* A row's histograms hold all its samples, and its percentiles are in order. */
static void assert_row(const json_t *row)
{
	json_int_t samples = json_integer_value(json_object_get(row, "samples"));
	json_int_t p50 = json_integer_value(json_object_get(row, "p50_ns"));
	json_int_t p99 = json_integer_value(json_object_get(row, "p99_ns"));
	json_int_t max = json_integer_value(json_object_get(row, "max_ns"));

	assert_true(samples > 0);
	assert_int_equal(count_samples(json_object_get(row, "histogram_ns")), samples);
	assert_int_equal(count_samples(json_object_get(row, "histogram_in_units")), samples);
	assert_true(p50 > 0 && p50 <= p99 && p99 <= max + max / 100);
}

static void assert_rows(const json_t *root, size_t n)
{
	const json_t *rows = json_object_get(root, "rows"), *row;
	size_t i;

	assert_int_equal(json_array_size(rows), n);
	json_array_foreach(rows, i, row) assert_row(row);
}

static void test_floor_keeps_its_histograms(void **state)
{
	need_two_cpus();
	json_t *root = measure("floor");

	assert_rows(root, 2);
	const json_t *row = json_array_get(json_object_get(root, "rows"), 0);
	assert_int_equal(json_integer_value(json_object_get(row, "samples")), PER_ROUND * 50);
	/* The floor is its own unit. */
	double ratio = json_real_value(json_object_get(row, "p50_in_units"));
	assert_true(ratio > 0.8 && ratio < 1.25);
	json_decref(root);
}

static void test_ring_states_its_target(void **state)
{
	need_two_cpus();
	json_t *root = measure("ring");
	const json_t *checks = json_object_get(root, "checks");

	assert_rows(root, 3);
	assert_int_equal(json_array_size(checks), 1);
	double value = json_real_value(json_object_get(json_array_get(checks, 0), "value"));
	double limit = json_real_value(json_object_get(json_array_get(checks, 0), "limit"));
	bool pass = json_is_true(json_object_get(json_array_get(checks, 0), "pass"));
	assert_int_equal(pass, value <= limit);
	json_decref(root);
}

static void test_sleep_measures_gpuqd(void **state)
{
	need_gpuqd();
	json_t *root = measure("sleep");

	assert_rows(root, 3);
	json_decref(root);
}

static uint32_t count_rows(const json_t *root, const char *name)
{
	const json_t *row;
	uint32_t n = 0;
	size_t i;

	json_array_foreach(json_object_get(root, "rows"), i, row) n +=
		strcmp(json_string_value(json_object_get(row, "name")), name) == 0;
	return n;
}

static void test_trace_compares_all_work(void **state)
{
	need_two_cpus();
	need_gpuqd();
	json_t *root = measure("trace");

	/* Of a null operation and three operators, one at a time and many. */
	assert_rows(root, 4 * 2 * 3);
	assert_int_equal(count_rows(root, "recorder on"), 4 * 2);
	assert_int_equal(json_array_size(json_object_get(root, "checks")), 4 * 2);
	json_decref(root);
}

static void test_op_agrees_with_the_kernels(void **state)
{
	need_two_cpus();
	need_gpuqd();
	json_t *root = measure("op");

	/* Four operators, six rows each; a row is only measured after both ways agreed. */
	assert_rows(root, 24);
	assert_int_equal(count_rows(root, "through gpuqd"), 4);
	assert_int_equal(count_rows(root, "through gpuqd, in buffers"), 4);
	json_decref(root);
}

/* Every kill is noticed, and everything comes back. */
static void test_death_counts_every_kill(void **state)
{
	need_gpuqd();
	json_t *root = measure_with("death", "--samples=100");
	const json_t *rows = json_object_get(root, "rows"), *row;
	size_t i;

	assert_int_equal(json_array_size(rows), 4);
	json_array_foreach(rows, i, row)
	{
		const json_t *value = json_object_get(row, "value");
		json_int_t kills = json_integer_value(json_object_get(value, "kills"));
		const json_t *detected = json_object_get(value, "detected_ns");
		const json_t *proof = json_object_get(value, "proof_ns");
		assert_int_equal(kills, i < 2 ? 100 : 10);
		assert_int_equal(json_array_size(detected), kills);
		assert_int_equal(json_array_size(json_object_get(value, "back_ns")), kills);
		/* Sorted: the first notice is never after the proof. */
		for (json_int_t k = 0; k < kills; k++)
			assert_true(json_integer_value(json_array_get(detected, (size_t)k)) <=
				json_integer_value(json_array_get(proof, (size_t)k)));
	}
	json_decref(root);
}

static void test_idle_reads_the_time_of_gpuqd(void **state)
{
	need_gpuqd();
	json_t *root = measure("idle");
	const json_t *row = json_array_get(json_object_get(root, "rows"), 0);
	const json_t *value = json_object_get(row, "value");

	assert_int_equal(json_integer_value(json_object_get(value, "clients")), 100);
	assert_true(json_real_value(json_object_get(value, "seconds")) >= 1);
	assert_true(json_real_value(json_object_get(value, "cpu_percent")) < 100);
	json_decref(root);
}

/* --- Graphs -------------------------------------------------------------------------------- */

#define TRACKS 3 /* of a process: 0 is its name's, 1 replays, 2 captures */
#define PROCESSES 4

/* The slices of a trace as far as they have been read, in microseconds. */
struct trace {
	double end_us[PROCESSES][TRACKS];
	uint32_t slices[PROCESSES][TRACKS];
	uint32_t names[PROCESSES][TRACKS];
	double replays_us[20000][2]; /* of process 2: while captures run in the background */
	double captures_us[5000][2];
};

/* One event of the Chrome trace format: a name, or a slice behind the last one of its track. */
static void read_event(struct trace *t, const json_t *event)
{
	double ts_us, dur_us;
	const char *ph, *name;
	int pid, tid;

	assert_int_equal(json_unpack((json_t *)event, "{s:s, s:s, s:i, s:i}", "ph", &ph, "name",
				 &name, "pid", &pid, "tid", &tid),
		0);
	assert_true(pid >= 1 && pid < PROCESSES && tid >= 0 && tid < TRACKS);
	if (strcmp(ph, "M") == 0) {
		assert_true(strcmp(name, tid == 0 ? "process_name" : "thread_name") == 0);
		assert_int_equal(
			json_unpack((json_t *)event, "{s:{s:s}}", "args", "name", &name), 0);
		t->names[pid][tid]++;
		return;
	}
	assert_string_equal(ph, "X");
	assert_string_equal(name, tid == 1 ? "replay" : "capture");
	assert_int_equal(
		json_unpack((json_t *)event, "{s:F, s:F}", "ts", &ts_us, "dur", &dur_us), 0);
	assert_true(dur_us >= 0 && ts_us >= t->end_us[pid][tid] - 0.01);
	t->end_us[pid][tid] = ts_us + dur_us;
	uint32_t n = t->slices[pid][tid]++;
	if (pid != 2)
		return;
	double(*list)[2] = tid == 1 ? t->replays_us : t->captures_us;
	assert_true(n < (tid == 1 ? 20000 : 5000));
	list[n][0] = ts_us;
	list[n][1] = ts_us + dur_us;
}

/* Some capture ran while some replay did. */
static bool tracks_overlap(const struct trace *t)
{
	for (uint32_t c = 0; c < t->slices[2][2]; c++) {
		for (uint32_t i = 0; i < t->slices[2][1]; i++) {
			if (t->replays_us[i][0] < t->captures_us[c][1] &&
				t->captures_us[c][0] < t->replays_us[i][1])
				return true;
		}
	}
	return false;
}

static void assert_trace(const char *path)
{
	struct trace *t = calloc(1, sizeof(*t));
	json_error_t error;
	json_t *root = json_load_file(path, 0, &error);
	const json_t *events = json_object_get(root, "traceEvents"), *event;
	size_t i;

	assert_non_null(t);
	assert_true(json_is_array(events));
	json_array_foreach(events, i, event) read_event(t, event);
	for (int pid = 1; pid < PROCESSES; pid++) {
		for (int tid = 0; tid < TRACKS; tid++)
			assert_int_equal(t->names[pid][tid], 1);
		assert_true(t->slices[pid][1] > 0);
	}
	assert_int_equal(t->slices[1][2], 0); /* quiet */
	assert_true(t->slices[2][2] > 0 && t->slices[3][2] > 0);
	assert_true(tracks_overlap(t));
	json_decref(root);
	free(t);
}

static void test_graphs_measures_beside_captures(void **state)
{
	char path[300], trace[320];

	need_two_cpus();
	need_gpuqd();
	snprintf(path, sizeof(path), "%s/trace.json", harness_tmpdir());
	snprintf(trace, sizeof(trace), "--trace=%s", path);
	json_t *root = measure_with("graphs", trace);
	const json_t *checks = json_object_get(root, "checks"), *check;
	size_t i;

	/* Three sizes of captures: two rows through gpuqd; four of new shapes; three of replays. */
	assert_int_equal(json_array_size(json_object_get(root, "rows")), 1 + 27);
	const json_t *device = json_array_get(json_object_get(root, "rows"), 6);
	assert_string_equal(json_string_value(json_object_get(device, "table")), "device");
	json_array_remove(json_object_get(root, "rows"), 6);
	assert_rows(root, 27);
	json_array_foreach(checks, i, check)
	{
		const char *what = json_string_value(json_object_get(check, "what"));

		if (strstr(what, "replays that overlap") != NULL)
			assert_true(json_real_value(json_object_get(check, "value")) >= 300);
	}
	json_decref(root);
	assert_trace(path);
}

static void test_a_drawing_needs_matplotlib(void **state)
{
	const char *const args[] = {"graphs", "--samples=100", "--plot=x.svg", "--python=/nowhere"};

	need_two_cpus();
	need_gpuqd();
	struct harness_output output = run(args, 4);
	assert_int_equal(output.status, 1);
	assert_non_null(strstr(output.err, "cannot run /nowhere"));
	assert_non_null(strstr(output.err, "x.svg is not drawn (see --python)"));
	harness_output_free(&output);
}

static const json_t *find_table(const json_t *root, const char *name)
{
	const json_t *row;
	size_t i;

	json_array_foreach(json_object_get(root, "rows"), i, row)
	{
		if (strcmp(json_string_value(json_object_get(row, "table")), name) == 0)
			return json_object_get(row, "value");
	}
	return NULL;
}

/* What has no llama.cpp and hardly any model must still measure itself. */
static void test_decode_serves_one_and_many(void **state)
{
	need_gpuqd();
	json_t *root = measure_with("decode", "--shape=tiny");
	const json_t *clients = find_table(root, "clients"), *row;
	size_t i;

	assert_int_equal(json_array_size(clients), 6); /* 1, 2, 4, 8, 16, 32 */
	json_array_foreach(clients, i, row)
		assert_true(json_real_value(json_object_get(row, "tokens_per_s")) > 0);
	json_decref(root);
}

/* Each policy writes texts; which draws need the row is told. */
static void test_generate_writes_by_all_policies(void **state)
{
	const char *const help[] = {"--help"};
	struct harness_output output = run(help, 1);
	const bool built = strstr(output.out, "generate") != NULL;

	harness_output_free(&output);
	if (!built)
		harness_skip("needs libgpuq-text");
	need_gpuqd();
	json_t *root = measure_for("generate", "--seconds=0.2", "--shape=tiny");
	const json_t *policies = find_table(root, "policies"), *row;
	size_t i;

	assert_int_equal(json_array_size(policies), 8);
	json_array_foreach(policies, i, row)
	{
		const json_int_t draws = json_integer_value(json_object_get(row, "draws"));
		const json_int_t rows = json_integer_value(json_object_get(row, "full_rows"));

		assert_true(draws > 0);
		assert_true(json_real_value(json_object_get(row, "token_ns")) > 0);
		const double outside = json_real_value(json_object_get(row, "outside_percent"));
		assert_true(outside > 0 && outside < 100);
		assert_in_range(rows, i == 7 ? draws : 0, i == 0 ? 0 : draws);
	}
	json_decref(root);
}

/* The folder is kept: the second run finds the file of the first one. */
static void test_load_reads_what_it_wrote(void **state)
{
	char folder[300], argument[320], file[330];
	struct stat st[2];

	need_gpuqd();
	snprintf(folder, sizeof(folder), "%s/model", harness_tmpdir());
	snprintf(argument, sizeof(argument), "--folder=%s", folder);
	snprintf(file, sizeof(file), "%s/model.safetensors", folder);
	const char *const args[] = {"load", "--shape=tiny", argument};
	for (uint32_t i = 0; i < 2; i++) {
		struct harness_output output = run(args, 3);

		assert_int_equal(output.status, 0);
		assert_non_null(strstr(output.out, "to the first token"));
		assert_int_equal(stat(file, &st[i]), 0);
		harness_output_free(&output);
	}
	assert_int_equal(st[0].st_ino, st[1].st_ino);
	assert_memory_equal(&st[0].st_mtim, &st[1].st_mtim, sizeof(st[0].st_mtim));
}

/* Every matrix in every type. */
static void test_linear_knows_all_matrices(void **state)
{
	static const char *const titles[] = {"qkv [128, 64] f32, m = 1: bytes/s over read",
		"o [64, 64] f16, m = 2: bytes/s over read",
		"gate_up [256, 64] bf16, m = 8: bytes/s over read",
		"down [64, 128] int8, m = 1: bytes/s over read",
		"head [2048, 64] int8, m = 8: bytes/s over read"};
	const char *const args[] = {"linear", "--shape=tiny", "--samples=100"};
	struct harness_output output = run(args, 3);

	assert_int_equal(output.status, 0);
	for (size_t i = 0; i < sizeof(titles) / sizeof(titles[0]); i++)
		assert_non_null(strstr(output.out, titles[i]));
	harness_output_free(&output);
}

/* The least of what a .npy file of f32 [rows, columns] may have. */
static void assert_file(const char *folder, const char *name, uint64_t rows, uint64_t columns)
{
	char path[300];
	struct stat st;

	snprintf(path, sizeof(path), "%s/%s.npy", folder, name);
	if (stat(path, &st) < 0)
		fail_msg("there is no %s", path);
	assert_true((uint64_t)st.st_size >= 4 * rows * columns + 64);
}

static void test_values_are_written(void **state)
{
	char folder[200], out[250], model[300];
	const char *const args[] = {
		"values", model, "--tokens=1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17", out};
	const char *const bad_token[] = {"values", model, "--tokens=1,173", out};
	const char *const no_list[] = {"values", model, "--tokens=1,,2", out};
	struct harness_output output;

	snprintf(model, sizeof(model), "--folder=%s", harness_source("tests/parity/data/qwen3"));
	snprintf(folder, sizeof(folder), "%s/values", harness_tmpdir());
	snprintf(out, sizeof(out), "--out=%s", folder);
	output = run(args, 4);
	assert_int_equal(output.status, 0);
	assert_non_null(strstr(output.out, "25 values of 17 tokens"));
	harness_output_free(&output);
	assert_file(folder, "tokens", 17, 1);
	assert_file(folder, "embedding", 17, 48);
	assert_file(folder, "layer.0.q", 17, 4 * 32);
	assert_file(folder, "layer.1.k", 17, 2 * 32);
	assert_file(folder, "layer.1.out", 17, 48);
	assert_file(folder, "logits", 17, 173);
	output = run(bad_token, 4);
	assert_int_equal(output.status, 1);
	assert_non_null(strstr(output.err, "tokens 0 to 172"));
	harness_output_free(&output);
	output = run(no_list, 4);
	assert_int_equal(output.status, 1);
	assert_non_null(strstr(output.err, "'1,,2' is no list"));
	harness_output_free(&output);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_help_names_every_subcommand),
		HARNESS_TEST(test_bad_usage_is_refused),
		HARNESS_TEST(test_missing_gpuqd_is_an_error),
		HARNESS_TEST_LONG(test_floor_keeps_its_histograms, 60),
		HARNESS_TEST_LONG(test_ring_states_its_target, 60),
		HARNESS_TEST_LONG(test_sleep_measures_gpuqd, 60),
		HARNESS_TEST_LONG(test_trace_compares_all_work, 60),
		HARNESS_TEST_LONG(test_op_agrees_with_the_kernels, 60),
		HARNESS_TEST_LONG(test_death_counts_every_kill, 120),
		HARNESS_TEST_LONG(test_idle_reads_the_time_of_gpuqd, 60),
		HARNESS_TEST_LONG(test_graphs_measures_beside_captures, 120),
		HARNESS_TEST_LONG(test_a_drawing_needs_matplotlib, 120),
		HARNESS_TEST_LONG(test_decode_serves_one_and_many, 120),
		HARNESS_TEST_LONG(test_generate_writes_by_all_policies, 120),
		HARNESS_TEST_LONG(test_load_reads_what_it_wrote, 60),
		HARNESS_TEST_LONG(test_linear_knows_all_matrices, 120),
		HARNESS_TEST(test_values_are_written),
	};

	return harness_run("bench", tests, sizeof(tests) / sizeof(tests[0]));
}
