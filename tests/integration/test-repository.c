/* SPDX-License-Identifier: MIT */
/*
 * test-repository.c: a folder of models with versions (gpuqd --models): which are served, what a
 * failing one does to the others, and how they come and go while sessions are open.
 */
#include "tests/daemon/raw.h"
#include "tests/integration/tiny-model.h"
#include "tests/models/rig.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct tiny_world source; /* one good model */
static char repository[200];

/* A version of a model is a link to a folder; NULL: an empty folder. */
static void put(const char *name, const char *version, const char *to)
{
	char path[300];

	snprintf(path, sizeof(path), "%s/%s", repository, name);
	if (version != NULL) {
		(void)mkdir(path, 0700);
		snprintf(path, sizeof(path), "%s/%s/%s", repository, name, version);
	}
	assert_int_equal(to != NULL ? symlink(to, path) : mkdir(path, 0700), 0);
}

static void drop(const char *name, const char *version)
{
	char path[300];

	snprintf(path, sizeof(path), "%s/%s%s%s", repository, name, version != NULL ? "/" : "",
		version != NULL ? version : "");
	assert_int_equal(remove(path), 0);
}

static void settings(const char *name, const char *text)
{
	char path[300];

	snprintf(path, sizeof(path), "%s/%s/model.conf", repository, name);
	FILE *f = fopen(path, "we");
	assert_non_null(f);
	fputs(text, f);
	assert_int_equal(fclose(f), 0);
}

static void make_repository(void)
{
	char link[64];

	source.rng = (struct random){(uint64_t)getpid()};
	source.dir_fd = random_model(&tiny_config, GPUQ_F32, &source.rng);
	snprintf(link, sizeof(link), "/proc/self/fd/%d", source.dir_fd);
	const ssize_t n = readlink(link, source.dir, sizeof(source.dir) - 1);
	assert_true(n > 0);
	source.dir[n] = '\0';
	snprintf(repository, sizeof(repository), "%s/models", harness_tmpdir());
	assert_int_equal(mkdir(repository, 0700), 0);
}

static void serve(void)
{
	const char *const args[] = {"--models", repository, "--kv-bytes", "1M", NULL};

	source.daemon = harness_daemon_start(args);
}

static void reload(void)
{
	assert_int_equal(kill(source.daemon->pid, SIGHUP), 0);
}

/* What a client finds by that name; the name "" when there is nothing. */
static struct gpuq_model_info find(struct client *c, const char *name)
{
	struct gpuq_model_info m = {.state = 0};

	if (gpuq_model_find(c->g, name, &m) < 0)
		m = (struct gpuq_model_info){.state = 0};
	return m;
}

static bool is(struct client *c, const char *asked, const char *name, uint32_t state)
{
	const struct gpuq_model_info m = find(c, asked);

	return strcmp(m.name, name) == 0 && m.state == state;
}

static bool is_gone(struct client *c, const char *name)
{
	return find(c, name).state == 0;
}

static struct gpuq_session *open_named(struct client *c, const char *name)
{
	struct gpuq_session *s = NULL;

	if (gpuq_session_open(c->ch, name, &s) < 0)
		fail_msg("%s: %s", name, gpuq_error_detail());
	return s;
}

/* The session's model computes. */
static void expect_works(struct client *c, struct gpuq_session *s)
{
	const struct gpuq_step_options o = {.max_tokens = 3, .max_rows = 1, .top_k = 1};
	const int32_t tokens[] = {1, 2, 3};
	struct gpuq_call *step = tiny_step_create(s, &o);
	const struct gpuq_completion done = tiny_run_step(c, step, tokens, 3, 1);

	tiny_expect_status(step, &done, 0);
	gpuq_call_destroy(step);
}

static void end(struct client *c)
{
	client_close(c);
	tiny_stop(&source);
}

/* The greatest number is the newest; one that fails is told of, and keeps nobody waiting. */
static void test_newest(void **state)
{
	struct client c;

	make_repository();
	put("a", "2", source.dir);
	put("a", "10", source.dir);
	put("a", "010", NULL);
	put("a", "new", NULL);
	put("empty", "1", NULL);
	put("none", NULL, NULL);
	put("plain", NULL, source.dir);
	put(".hidden", "1", source.dir);
	put("a,b", "1", source.dir);
	serve();
	TINY_GPUQ(1, "model none could not be loaded", "status", "--wait-ready", "60");
	TINY_GPUQ(1, "model empty:1 could not be loaded", "status", "--wait-ready");
	client_open(&c, &tiny_channel);
	assert_true(is(&c, "a", "a:10", GPUQ_MODEL_READY));
	assert_true(is(&c, "a:10", "a:10", GPUQ_MODEL_READY));
	assert_true(is_gone(&c, "a:2"));
	assert_true(is(&c, "plain", "plain", GPUQ_MODEL_READY));
	assert_true(is(&c, "empty", "empty:1", GPUQ_MODEL_FAILED));
	assert_non_null(strstr(find(&c, "none").why, "has neither versions"));
	struct gpuq_model_info m;
	assert_int_equal(gpuq_model_info(c.g, 4, &m), -ENOENT);
	struct gpuq_session *s = open_named(&c, "a");
	expect_works(&c, s);
	gpuq_session_close(s);
	end(&c);
}

/* A newer version is used when it is ready; sessions of the older one go on. */
static void test_new_version(void **state)
{
	struct client c;

	make_repository();
	put("a", "1", source.dir);
	put("idle", "1", source.dir);
	put("plain", NULL, source.dir);
	serve();
	TINY_GPUQ(0, "", "status", "--wait-ready", "60");
	client_open(&c, &tiny_channel);
	struct gpuq_session *old = open_named(&c, "a");
	put("a", "2", NULL);
	put("idle", "2", NULL);
	reload();
	raw_await(is(&c, "a:2", "a:2", GPUQ_MODEL_FAILED));
	raw_await(is(&c, "idle:2", "idle:2", GPUQ_MODEL_FAILED));
	assert_true(is(&c, "a", "a:1", GPUQ_MODEL_READY));
	assert_true(is(&c, "idle", "idle:1", GPUQ_MODEL_READY));
	drop("a", "2");
	put("a", "2", source.dir);
	drop("plain", NULL);
	reload();
	raw_await(is(&c, "a", "a:2", GPUQ_MODEL_READY));
	raw_await(is_gone(&c, "plain"));
	/* The older one has a session. */
	expect_works(&c, old);
	struct gpuq_session *new = open_named(&c, "a");
	expect_works(&c, new);
	expect_works(&c, old);
	assert_false(is_gone(&c, "a:1"));
	gpuq_session_close(old);
	raw_await(is_gone(&c, "a:1"));
	expect_works(&c, new);
	gpuq_session_close(new);
	end(&c);
}

/* Settings choose the version, and what is captured before anybody asks. */
static void test_settings(void **state)
{
	struct client c;

	make_repository();
	put("a", "1", source.dir);
	put("a", "2", source.dir);
	settings("a", "version = 1\nquant = int8\nwarm = 1x64 generate:2x64 9999x1\n");
	put("b", "1", source.dir);
	settings("b", "quant = int4\n");
	serve();
	client_open(&c, &tiny_channel);
	if (strstr(find(&c, "a").why, "libinih") != NULL)
		harness_skip("gpuqd was built without libinih");
	raw_await(is(&c, "a", "a:1", GPUQ_MODEL_READY));
	const struct gpuq_model_info m = find(&c, "a");
	assert_true(m.int8 && !m.deterministic);
	assert_int_equal(m.shapes_captured, 2);
	assert_int_equal(m.captured_batches, 3);
	assert_true(is(&c, "b", "b", GPUQ_MODEL_FAILED));
	assert_non_null(strstr(find(&c, "b").why, "/b/model.conf:1: quant of a model is 'int4'"));
	/* Back to the newest: the other way round works as well. */
	settings("a", "quant = int8\n");
	settings("b", "");
	reload();
	raw_await(is(&c, "a", "a:2", GPUQ_MODEL_READY));
	raw_await(is(&c, "b", "b:1", GPUQ_MODEL_READY));
	raw_await(is_gone(&c, "a:1"));
	settings("a", "version = 1\n");
	reload();
	raw_await(is(&c, "a", "a:1", GPUQ_MODEL_READY));
	raw_await(is_gone(&c, "a:2"));
	end(&c);
}

/* What an administrator unloads stays away until the folder is looked at again. */
static void test_administrator(void **state)
{
	struct client c;

	make_repository();
	put("a", "1", source.dir);
	put("b", "1", source.dir);
	serve();
	client_open(&c, &tiny_channel);
	raw_await(is(&c, "a", "a:1", GPUQ_MODEL_READY));
	raw_await(is(&c, "b", "b:1", GPUQ_MODEL_READY));
	TINY_GPUQ(0, "", "unload", "a:1");
	assert_true(is_gone(&c, "a"));
	TINY_GPUQ(0, "mine is ready", "load", "mine", source.dir);
	drop("b", "1");
	put("b", "2", source.dir);
	reload();
	raw_await(is(&c, "a", "a:1", GPUQ_MODEL_READY));
	raw_await(is(&c, "b", "b:2", GPUQ_MODEL_READY));
	assert_true(is(&c, "mine", "mine", GPUQ_MODEL_READY));
	end(&c);
}

/* All of it comes back when the device process has to be replaced. */
static void test_device_ends(void **state)
{
	struct client c;

	make_repository();
	put("a", "1", source.dir);
	serve();
	client_open(&c, &tiny_channel);
	raw_await(is(&c, "a", "a:1", GPUQ_MODEL_READY));
	struct stats stats = raw_stats(source.daemon);
	const pid_t device = (pid_t)stats.devices[0].pid;
	put("a", "2", source.dir);
	assert_int_equal(kill(device, SIGKILL), 0);
	reload();
	raw_await(stats.devices[0].pid != (uint32_t)device);
	stats_close(&stats);
	raw_await(is(&c, "a", "a:2", GPUQ_MODEL_READY));
	raw_await(is_gone(&c, "a:1"));
	end(&c);
}

/* A folder that cannot be read is told of; what was served before goes on. */
static void test_no_folder(void **state)
{
	char away[300];
	struct client c;

	make_repository();
	put("a", "1", source.dir);
	snprintf(away, sizeof(away), "%s.away", repository);
	assert_int_equal(rename(repository, away), 0);
	serve();
	TINY_GPUQ(0, "", "status", "--wait-ready", "60");
	client_open(&c, &tiny_channel);
	assert_true(is_gone(&c, "a"));
	assert_int_equal(rename(away, repository), 0);
	reload();
	raw_await(is(&c, "a", "a:1", GPUQ_MODEL_READY));
	assert_int_equal(rename(repository, away), 0);
	reload();
	struct gpuq_session *s = open_named(&c, "a");
	expect_works(&c, s);
	gpuq_session_close(s);
	end(&c);
}

/* The same for models that the configuration names one by one. */
static void test_sections(void **state)
{
	static const char *const configs[] = {
		"[model a]\ndir = %s\n[model b]\ndir = %s\n",
		"[model b]\ndir = %s\nquant = int8\n[model c]\ndir = %s\nwarm = 2x64\n",
	};
	char path[300];
	const char *const args[] = {"-c", path, "--kv-bytes", "1M", NULL};
	struct client c;

	make_repository();
	snprintf(path, sizeof(path), "%s/gpuqd.conf", harness_tmpdir());
	const char *const check[] = {
		harness_program("daemon/gpuqd"), "-c", path, "--check-config", NULL};
	struct harness_output o;
	for (int i = 0; i < 2; i++) {
		FILE *f = fopen(path, "we");
		assert_non_null(f);
		fprintf(f, configs[i], source.dir, source.dir);
		assert_int_equal(fclose(f), 0);
		if (i == 1) {
			reload();
			break;
		}
		harness_exec(check, &o);
		if (strstr(o.err, "libinih") != NULL)
			harness_skip("gpuqd was built without libinih");
		harness_output_free(&o);
		source.daemon = harness_daemon_start(args);
		client_open(&c, &tiny_channel);
		raw_await(is(&c, "a", "a", GPUQ_MODEL_READY));
		raw_await(is(&c, "b", "b", GPUQ_MODEL_READY));
		assert_false(find(&c, "b").int8);
	}
	raw_await(is_gone(&c, "a"));
	raw_await(is(&c, "b", "b", GPUQ_MODEL_READY) && find(&c, "b").int8);
	raw_await(is(&c, "c", "c", GPUQ_MODEL_READY));
	assert_int_equal(find(&c, "c").captured_batches, 2);
	end(&c);
}

static void test_nobody_to_wait_for(void **state)
{
	TINY_GPUQ(1, "not ready after 0.2 s: no daemon at", "status", "--wait-ready", "0.2");
	TINY_GPUQ(2, "--wait-ready", "status", "--wait-ready", "soon");
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_newest),
		HARNESS_TEST(test_new_version),
		HARNESS_TEST(test_settings),
		HARNESS_TEST(test_administrator),
		HARNESS_TEST(test_device_ends),
		HARNESS_TEST(test_no_folder),
		HARNESS_TEST(test_sections),
		HARNESS_TEST(test_nobody_to_wait_for),
	};

	return harness_run("repository", tests, sizeof(tests) / sizeof(tests[0]));
}
