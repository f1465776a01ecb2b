/* SPDX-License-Identifier: MIT */
/*
 * test-examples.c: the examples do with a real gpuqd what they say, several of them at once, and
 * say what is wrong when there is none or when a file is spoilt.
 */
#include "tests/harness.h"

#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define SECONDS "0.2"
#define N_PRODUCERS 4

#define FILES_MAX 4

/* The command line of an example on files of its data. */
struct command {
	const char *argv[FILES_MAX + 3];
	char paths[FILES_MAX + 1][300];
};

static void command_fill(struct command *c, const char *program, const char *const *files)
{
	char path[64];
	int n = 0;

	snprintf(path, sizeof(path), "client/%s", program);
	snprintf(c->paths[0], sizeof(c->paths[0]), "%s", harness_program(path));
	for (; n < FILES_MAX && files[n] != NULL; n++) {
		snprintf(path, sizeof(path), "client/examples/data/%s", files[n]);
		snprintf(c->paths[n + 1], sizeof(c->paths[0]), "%s", harness_source(path));
	}
	for (int i = 0; i <= n; i++)
		c->argv[i] = c->paths[i];
	c->argv[n + 1] = SECONDS;
	c->argv[n + 2] = NULL;
}

static const char **score_arguments(void)
{
	static const char *const files[] = {"prices.csv", "weights.csv", NULL};
	static struct command c;

	command_fill(&c, "score", files);
	return c.argv;
}

static const char **classify_arguments(void)
{
	static const char *const files[] = {"x.npy", "w.npy", "bias.npy", "labels.npy"};
	static struct command c;

	command_fill(&c, "classify", files);
	return c.argv;
}

static void expect(const char *const *argv, int status, const char *out, const char *err)
{
	struct harness_output output;

	harness_exec(argv, &output);
	assert_int_equal(output.status, status);
	assert_non_null(strstr(output.out, out));
	assert_non_null(strstr(output.err, err));
	harness_output_free(&output);
}

static void test_softmax(void **state)
{
	struct harness_daemon *d = harness_daemon_start(NULL);
	const char *argv[] = {harness_program("client/softmax"), NULL};

	expect(argv, 0, "0.0321 0.0871 0.2369 0.6439\n", "");
	harness_daemon_destroy(d);
}

static void test_score(void **state)
{
	struct harness_daemon *d = harness_daemon_start(NULL);

	expect(score_arguments(), 0, "10 days of 64 assets with 32 features; all right", "");
	harness_daemon_destroy(d);
}

static void test_classify(void **state)
{
	struct harness_daemon *d = harness_daemon_start(NULL);

	expect(classify_arguments(), 0, "every probability is right", "");
	expect(classify_arguments(), 0, "accuracy of the classifier 97.2 %", "");
	harness_daemon_destroy(d);
}

static void test_pipeline(void **state)
{
	struct harness_daemon *d = harness_daemon_start(NULL);
	const char *argv[] = {harness_program("client/pipeline"), SECONDS, NULL};
	struct harness_output output;
	unsigned long long hits = 0, uses = 0;

	harness_exec(argv, &output);
	assert_int_equal(output.status, 0);
	assert_non_null(strstr(output.out, "pipeline: every probability is right\n"));
	const char *shape =
		strstr(output.out, "classifier x[32,64]f32 w[10,64]f32 -> p[32,10]f32: ");
	assert_non_null(shape);
	assert_int_equal(sscanf(strrchr(shape, ':'), ": 2 kernels, %llu of %llu", &hits, &uses), 2);
	assert_true(hits > 0 && hits == uses);
	harness_output_free(&output);
	harness_daemon_destroy(d);
}

static void test_pipeline_without_a_graph(void **state)
{
	static const char *const args[] = {
		"--device", "cpu", "--test-faults", "capture_end:1+=EIO", NULL};
	struct harness_daemon *d = harness_daemon_start(args);
	const char *argv[] = {harness_program("client/pipeline"), SECONDS, NULL};
	struct harness_output output;

	harness_exec(argv, &output);
	assert_int_equal(output.status, 0);
	assert_non_null(strstr(output.out, "the shape could not be captured"));
	assert_non_null(strstr(output.out, "pipeline: every probability is right\n"));
	assert_non_null(strstr(output.out, " 2 kernels, 0 of "));
	harness_output_free(&output);
	harness_daemon_destroy(d);
}

static void test_four_producers_at_once(void **state)
{
	struct harness_daemon *d = harness_daemon_start(NULL);
	const char **argv[] = {score_arguments(), classify_arguments()};
	pid_t pids[N_PRODUCERS];
	int status;

	for (int i = 0; i < N_PRODUCERS; i++)
		pids[i] = harness_spawn(argv[i % 2], -1, -1);
	for (int i = 0; i < N_PRODUCERS; i++) {
		assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
		assert_int_equal(status, 0);
	}
	harness_daemon_destroy(d);
}

static void test_without_gpuqd(void **state)
{
	expect(score_arguments(), 1, "", "score: no daemon at ");
}

static void test_spoilt_files(void **state)
{
	const char **score = score_arguments(), **classify = classify_arguments();

	score[1] = "/nowhere.csv";
	expect(score, 1, "", "score: /nowhere.csv: cannot be read\n");
	score[1] = classify[1];
	expect(score, 1, "", "x.npy: line 2");
	classify[1] = classify[4];
	expect(classify, 1, "", "labels.npy: not a vector or matrix of <f4 in C order\n");
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_softmax),
		HARNESS_TEST(test_score),
		HARNESS_TEST(test_classify),
		HARNESS_TEST(test_pipeline),
		HARNESS_TEST(test_pipeline_without_a_graph),
		HARNESS_TEST(test_four_producers_at_once),
		HARNESS_TEST(test_without_gpuqd),
		HARNESS_TEST(test_spoilt_files),
	};

	return harness_run("examples", tests, sizeof(tests) / sizeof(tests[0]));
}
