/* SPDX-License-Identifier: MIT */
/*
 * test-soak.c: gpuq-soak: a thousand kills without a fault, and that it tells when there is one.
 * Fewer kills under a sanitizer, whose allocator and slowness say little of gpuqd.
 */
#include "tests/harness.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define KILLS 1000u
#define STATES 12u

/* Runs gpuq-soak with some arguments, the last of them NULL. */
static struct harness_output run(const char *const *args)
{
	const char *argv[16] = {harness_program("tools/gpuq-soak")};
	struct harness_output output;

	for (size_t i = 0; args[i] != NULL; i++)
		argv[1 + i] = args[i];
	harness_exec(argv, &output);
	return output;
}

static void expect(const char *const *args, int status, const char *says)
{
	struct harness_output output = run(args);

	if (output.status != status ||
		(strstr(output.err, says) == NULL && strstr(output.out, says) == NULL))
		fail_msg("status %d, must be %d; \"%s\" in\n%s%s", output.status, status, says,
			output.out, output.err);
	harness_output_free(&output);
}

static void test_usage(void **state)
{
	expect((const char *const[]){"--help", NULL}, 0, "--kills");
	expect((const char *const[]){"--kills=none", NULL}, 2, "--kills");
	expect((const char *const[]){"--clients=65", NULL}, 2, "--clients");
	expect((const char *const[]){"--clients=2", "--steady=2", NULL}, 2, "--steady");
	expect((const char *const[]){"now", NULL}, 2, "'now'");
	expect((const char *const[]){"--gpuqd=/nowhere/gpuqd", NULL}, 1, "/nowhere/gpuqd");
	expect((const char *const[]){"--json=/nowhere/x", "--kills=1", NULL}, 1, "/nowhere/x");
}

/* What a fault of the device does to a client is told, with what that was doing. */
static void test_a_fault_is_told(void **state)
{
	setenv("GPUQ_TEST_FAULTS", "work:200=GPUQ_EDEVICE", 1);
	expect((const char *const[]){"--kills=1000", "--bound=60", NULL}, 1, "WRONG: client");
	unsetenv("GPUQ_TEST_FAULTS");
}

static json_int_t count(const json_t *o, const char *key)
{
	const json_t *value = json_object_get(o, key);

	assert_true(json_is_integer(value));
	return json_integer_value(value);
}

/* What was checked was also done. */
static void check_report(const char *path, json_int_t kills)
{
	json_error_t error;
	json_t *report = json_load_file(path, 0, &error);
	const json_t *counts = json_object_get(report, "counts");
	const json_t *states = json_object_get(report, "died_while");
	const char *key;
	json_t *value;

	assert_non_null(report);
	assert_string_equal(json_string_value(json_object_get(report, "schema")), "gpuq-soak/1");
	assert_true(json_is_true(json_object_get(report, "ok")));
	assert_true(count(report, "killed") >= kills);
	assert_int_equal(count(report, "rescues"), 0);
	assert_true(count(report, "stopped") > 0 && count(report, "starved") > 0);
	assert_int_equal(json_object_size(states), STATES);
	json_object_foreach((json_t *)states, key, value)
	{
		if (kills >= (json_int_t)KILLS && json_integer_value(value) < 50)
			fail_msg("only %d died while %s", (int)json_integer_value(value), key);
	}
	json_object_foreach((json_t *)counts, key, value)
	{
		if (json_integer_value(value) == 0 && kills >= (json_int_t)KILLS)
			fail_msg("no %s", key);
	}
	json_decref(report);
}

static void test_kills(void **state)
{
	const uint32_t slowness = harness_slowness();
	const uint32_t kills = slowness > 1 ? KILLS / 10 : harness_long() ? 10 * KILLS : KILLS;
	char number[32], path[300], json[320], model[300];

	snprintf(number, sizeof(number), "--kills=%u", kills);
	snprintf(path, sizeof(path), "%s/soak.json", harness_tmpdir());
	snprintf(json, sizeof(json), "--json=%s", path);
	snprintf(model, sizeof(model), "--model=%s", harness_source("models/tiny"));
	const char *const args[] = {number, json, model, "--bound", slowness > 1 ? "60" : "20",
		"--slack", slowness > 1 ? "100000" : "8", NULL};
	expect(args, 0, "nothing was wrong");
	check_report(path, kills);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_usage),
		HARNESS_TEST_LONG(test_a_fault_is_told, 60),
		HARNESS_TEST_LONG(test_kills, 600),
	};

	return harness_run("soak", tests, sizeof(tests) / sizeof(tests[0]));
}
