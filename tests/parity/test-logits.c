/* SPDX-License-Identifier: MIT */
/*
 * test-logits.c: the models of tests/parity/data loaded by a gpuqd, and `gpuq logits` of them
 * against what Hugging Face transformers computed.
 */
#include "tests/harness.h"

#include "tests/parity/expected.h"
#include "tools/npy.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const uint32_t lengths[] = {1, 8, 300};

static void run_gpuq(const char *const *args)
{
	const char *argv[12] = {harness_program("tools/gpuq")};
	struct harness_output output;

	for (uint32_t i = 0; args[i] != NULL; i++)
		argv[1 + i] = args[i];
	harness_exec(argv, &output);
	if (output.status != 0)
		fail_msg("gpuq %s: %s", args[0], output.err);
	harness_output_free(&output);
}

static char *join(const int32_t *tokens, uint64_t n)
{
	char *text = malloc(12 * n + 1);
	size_t length = 0;

	assert_non_null(text);
	for (uint64_t i = 0; i < n; i++)
		length += (size_t)snprintf(
			text + length, 13, "%s%d", i > 0 ? "," : "", (int)tokens[i]);
	return text;
}

static float *read_rows(const char *path, uint64_t rows, uint64_t columns)
{
	float *data = malloc(rows * columns * sizeof(*data));
	struct npy npy;
	char why[200];
	int fd = npy_open(path, &npy, why, sizeof(why));

	if (fd < 0)
		fail_msg("%s: %s", path, why);
	assert_non_null(data);
	assert_int_equal(npy.rank, 2);
	assert_int_equal(npy.dims[0], rows);
	assert_int_equal(npy.dims[1], columns);
	assert_int_equal(npy_read(fd, &npy, GPUQ_F32, data, why, sizeof(why)), 0);
	close(fd);
	return data;
}

/* Of the long text, the rows whose logits are known come to the front. */
static void pick_rows(const struct expected *e, float *logits, uint64_t n, uint64_t columns)
{
	uint64_t n_positions;
	int32_t *positions = expected_read(e, "positions", &n_positions, NULL);

	assert_int_equal(n, n_positions);
	for (uint64_t i = 0; i < n; i++)
		memmove(logits + i * columns, logits + (uint64_t)positions[i] * columns,
			columns * sizeof(*logits));
	free(positions);
}

static void check_text(const struct expected *e, uint32_t length)
{
	char name[20], path[300], *text;
	uint64_t n, rows, columns;
	int32_t *tokens;
	float *right, *logits;

	snprintf(name, sizeof(name), "text.%u", length);
	tokens = expected_read(e, name, &n, NULL);
	snprintf(name, sizeof(name), "logits.%u", length);
	right = expected_read(e, name, &rows, &columns);
	text = join(tokens, n);
	snprintf(path, sizeof(path), "%s/logits.npy", harness_tmpdir());
	run_gpuq((const char *[]){"logits", "-m", e->name, "--tokens", text, "--out", path, NULL});
	logits = read_rows(path, n, columns);
	if (rows < n)
		pick_rows(e, logits, rows, columns);
	expected_near(e, name, logits, right, rows * columns,
		e->bf16 ? PARITY_BF16_BOUND : PARITY_F32_BOUND);
	free(logits);
	free(text);
	free(right);
	free(tokens);
}

static void test_logits_of_all_models(void **state)
{
	static const char *const args[] = {"--kv-bytes", "1000000", NULL};
	struct harness_daemon *daemon = harness_daemon_start(args);

	for (uint32_t i = 0; i < PARITY_MODELS; i++) {
		struct expected e;
		char path[400];

		expected_open(&e, parity_models[i]);
		snprintf(path, sizeof(path), "%s/%s", harness_source("tests/parity/data"), e.name);
		run_gpuq((const char *[]){"load", e.name, path, NULL});
		for (size_t k = 0; k < sizeof(lengths) / sizeof(lengths[0]); k++)
			check_text(&e, lengths[k]);
		run_gpuq((const char *[]){"unload", e.name, NULL});
		expected_close(&e);
	}
	harness_daemon_destroy(daemon);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST_LONG(test_logits_of_all_models, 60),
	};

	return harness_run("parity-logits", tests, sizeof(tests) / sizeof(tests[0]));
}
