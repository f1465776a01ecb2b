/* SPDX-License-Identifier: MIT */
/* test-connect.c: finding gpuqd, the handshake in good and in bad company, discovery. */
#include "tests/client/rig.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static void test_what_a_connection_knows(void **state)
{
	struct fake *fake = fake_new();
	struct gpuq_limits limits;
	struct gpuq *g;

	fake_start(fake);
	assert_int_equal(gpuq_connect(&(struct gpuq_options){.name = "me"}, &g), 0);
	fake_expect(&fake->control->acks, 1);
	assert_string_equal(fake->control->client_name, "me");
	assert_string_equal(gpuq_version(), "0.1.0");
	assert_string_equal(gpuq_server_version(g), "0.0.fake");
	assert_string_equal(gpuq_socket_path(g), fake->socket);
	assert_int_equal(gpuq_abi(g), WIRE_ABI);
	assert_int_equal(gpuq_op_count(g), 2);
	assert_int_equal(gpuq_device_count(g), 1);
	gpuq_limits(g, &limits);
	assert_int_equal(limits.max_entries, 1024);
	assert_int_equal(limits.max_arena_bytes, 1u << 26);
	assert_int_equal(gpuq_alive(g), 0);
	gpuq_disconnect(g);
	gpuq_disconnect(NULL);
	fake_destroy(fake);
}

static void test_the_programs_name_is_the_default(void **state)
{
	struct fake *fake = fake_new();
	struct gpuq *g;

	fake_start(fake);
	assert_int_equal(gpuq_connect(NULL, &g), 0);
	assert_string_equal(fake->control->client_name, program_invocation_short_name);
	gpuq_disconnect(g);
	fake_destroy(fake);
}

static void test_the_sentence_names_every_path(void **state)
{
	struct gpuq *g = NULL;
	char expected[300];

	/* /run/gpuq/gpuq-0 may be there on this machine, but not inside a directory of ours. */
	unsetenv("GPUQ_SOCKET");
	if (access("/run/gpuq/gpuq-0", F_OK) == 0)
		harness_skip("/run/gpuq/gpuq-0 exists");
	assert_int_equal(gpuq_connect(NULL, &g), -ENOENT);
	snprintf(expected, sizeof(expected),
		"no daemon at %s/gpuq-0, /run/gpuq/gpuq-0; start gpuqd or set GPUQ_SOCKET",
		harness_tmpdir());
	assert_string_equal(gpuq_error_detail(), expected);
	assert_null(g);

	unsetenv("XDG_RUNTIME_DIR");
	assert_int_equal(gpuq_connect(NULL, &g), -ENOENT);
	assert_string_equal(gpuq_error_detail(),
		"no daemon at /run/gpuq/gpuq-0; start gpuqd or set GPUQ_SOCKET");

	setenv("GPUQ_SOCKET", "/nowhere/at-all", 1);
	assert_int_equal(gpuq_connect(NULL, &g), -ENOENT);
	assert_string_equal(gpuq_error_detail(),
		"no daemon at /nowhere/at-all; start gpuqd or set GPUQ_SOCKET");

	assert_int_equal(gpuq_connect(&(struct gpuq_options){.socket = "/other"}, &g), -ENOENT);
	assert_string_equal(
		gpuq_error_detail(), "no daemon at /other; start gpuqd or set GPUQ_SOCKET");

	assert_int_equal(
		gpuq_connect(&(struct gpuq_options){.socket = "/other", .admin = true}, &g),
		-ENOENT);
	assert_string_equal(
		gpuq_error_detail(), "no daemon at /other-admin; start gpuqd or set GPUQ_SOCKET");
}

static void test_the_variable_comes_first(void **state)
{
	struct fake *fake = fake_new();
	char *directory = strdup(harness_tmpdir());
	struct gpuq *g;

	fake_start(fake);
	setenv("GPUQ_SOCKET", fake->socket, 1);
	setenv("XDG_RUNTIME_DIR", "/nowhere", 1);
	assert_int_equal(gpuq_connect(NULL, &g), 0);
	gpuq_disconnect(g);
	/* An empty one counts as none. */
	setenv("GPUQ_SOCKET", "", 1);
	setenv("XDG_RUNTIME_DIR", directory, 1);
	assert_int_equal(gpuq_connect(NULL, &g), 0);
	gpuq_disconnect(g);
	free(directory);
	fake_destroy(fake);
}

/* A socket file that nobody listens on is passed over, like one that is not there. */
static void test_stale_socket(void **state)
{
	struct fake *fake = fake_new();
	struct gpuq *g;

	fake_start(fake);
	fake_kill(fake);
	assert_int_equal(
		gpuq_connect(&(struct gpuq_options){.socket = fake->socket}, &g), -ECONNREFUSED);
	assert_detail("no daemon at ");
	fake_destroy(fake);
}

static void test_permissions(void **state)
{
	struct fake *fake = fake_new();
	struct gpuq *g;

	if (geteuid() == 0) {
		/* Root may connect to anything, so somebody else has to try. */
		chmod(harness_tmpdir(), 0755);
	}
	fake_start(fake);
	chmod(fake->socket, 0);
	fflush(NULL);
	pid_t pid = fork();
	if (pid == 0) {
		if (geteuid() == 0 && setuid(65534) < 0)
			_exit(77);
		int r = gpuq_connect(&(struct gpuq_options){.socket = fake->socket}, &g);
		_exit(r == -EACCES && strstr(gpuq_error_detail(), "permissions") ? 0 : 1);
	}
	int status;
	waitpid(pid, &status, 0);
	assert_int_equal(status, 0);
	fake_destroy(fake);
}

static void test_too_long_a_path(void **state)
{
	struct gpuq *g;
	char path[200];

	memset(path, 'x', sizeof(path) - 1);
	path[sizeof(path) - 1] = '\0';
	assert_int_equal(gpuq_connect(&(struct gpuq_options){.socket = path}, &g), -ENAMETOOLONG);
	assert_detail("too long");
}

/* Somebody listens, but accepts nobody and its backlog is full. */
static void test_nobody_accepts(void **state)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	const struct gpuq_options options = {.timeout_ns = RIG_SECOND_NS / 10};
	int fds[3];
	struct gpuq *g;

	snprintf(address.sun_path, sizeof(address.sun_path), "%s/gpuq-0", harness_tmpdir());
	for (int i = 0; i < 3; i++) {
		fds[i] = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0);
		if (i > 0) {
			(void)!connect(fds[i], (struct sockaddr *)&address, sizeof(address));
			continue;
		}
		assert_int_equal(bind(fds[0], (struct sockaddr *)&address, sizeof(address)), 0);
		assert_int_equal(listen(fds[0], 0), 0);
	}
	assert_int_equal(gpuq_connect(&options, &g), -ETIMEDOUT);
	assert_detail("does not answer");
	for (int i = 0; i < 3; i++)
		close(fds[i]);
}

static const struct bad_handshake {
	enum fake_fault fault;
	int status; /* that the fake refuses with */
	int expected;
	const char *words;
} bad_handshakes[] = {
	{FAKE_SILENT, 0, -ETIMEDOUT, "did not answer within 200 ms"},
	{FAKE_LATE, 0, -ETIMEDOUT, "did not answer"},
	{FAKE_REFUSE, -GPUQ_EABI, -GPUQ_EABI, "the fake refuses; try another"},
	{FAKE_REFUSE, -GPUQ_ELIMIT, -GPUQ_ELIMIT, "the fake refuses"},
	{FAKE_REFUSE, 5, -GPUQ_EPROTO, "the fake refuses"},
	{FAKE_HANG_UP, 0, -GPUQ_EGONE, "without a word"},
	{FAKE_GOODBYE, -GPUQ_EDRAIN, -GPUQ_EGONE, "the fake has had enough"},
	{FAKE_MALFORMED, 0, -GPUQ_EPROTO, "malformed"},
	{FAKE_WRONG_LENGTH, 0, -GPUQ_EPROTO, "malformed"},
	{FAKE_WRONG_TYPE, 0, -GPUQ_EPROTO, "answered with message 8"},
	{FAKE_NO_FD, 0, -GPUQ_EPROTO, "0 descriptors"},
	{FAKE_MANY_FDS, 0, -GPUQ_EPROTO, "malformed"},
	{FAKE_UNSEALED, 0, -GPUQ_EPROTO, "a daemon page that could shrink"},
	{FAKE_SMALL, 0, -GPUQ_EPROTO, "a daemon page of a wrong size"},
	{FAKE_NO_MAGIC, 0, -GPUQ_EPROTO, "something else"},
	{FAKE_LIES, 0, -GPUQ_EABI, "version 99"},
};

static void test_bad_handshakes(void **state)
{
	const struct gpuq_options options = {.timeout_ns = RIG_SECOND_NS / 5};
	struct fake *fake = fake_new();
	struct gpuq *g = NULL;

	fake_start(fake);
	shm_store_relaxed(&fake->control->fault_at, MSG_HELLO);
	for (size_t i = 0; i < sizeof(bad_handshakes) / sizeof(bad_handshakes[0]); i++) {
		const struct bad_handshake *b = &bad_handshakes[i];
		bool slow = b->fault == FAKE_SILENT || b->fault == FAKE_LATE;
		shm_store_relaxed(&fake->control->fault_status, (uint64_t)b->status);
		shm_store_release(&fake->control->fault, b->fault);
		int r = gpuq_connect(slow ? &options : NULL, &g);
		if (r != b->expected)
			fail_msg("handshake %zu: %d instead of %d: %s", i, r, b->expected,
				gpuq_error_detail());
		assert_detail(b->words);
		assert_null(g);
	}
	shm_store_release(&fake->control->fault, FAKE_OLD_SERIAL);
	assert_int_equal(gpuq_connect(NULL, &g), 0);
	gpuq_disconnect(g);
	fake_destroy(fake);
}

static void test_an_older_gpuqd(void **state)
{
	struct fake *fake = fake_new();
	struct rig rig;

	fake->control->abi = 1;
	fake_start(fake);
	rig_start_on(&rig, fake, NULL);
	assert_int_equal(gpuq_abi(rig.g), 1);
	const struct gpuq_submission s = {.user_data = 3, .trace_id = 77};
	assert_int_equal(gpuq_submit(rig.ch, &s, 1), 1);
	rig_wait(&rig, 3);
	/* Fields that version 1 does not know stay zero. */
	assert_int_equal(rig.control->last.trace_id, 0);
	assert_int_equal(rig.control->last.max_completions, 0);
	rig_stop(&rig);
}

static void test_discovery(void **state)
{
	struct gpuq_device_info device;
	struct gpuq_op_info op;
	struct rig rig;

	rig_start(&rig, NULL);
	assert_int_equal(gpuq_op_find(rig.g, "copy", &op), 0);
	assert_int_equal(op.index, 0);
	assert_int_equal(op.n_inputs, 2);
	assert_string_equal(op.inputs[0].name, "x");
	assert_string_equal(op.inputs[1].shape, "[N]");
	assert_false(op.inputs[0].optional);
	assert_true(op.inputs[1].optional);
	assert_int_equal(op.inputs[0].dtypes, GPUQ_DTYPE_BIT(GPUQ_U8));
	assert_string_equal(op.params[0].name, "scale");
	assert_true(op.params[0].preset == 1.0 && op.params[0].max == 2.0);
	assert_int_equal(gpuq_op_info(rig.g, 1, &op), 0);
	assert_string_equal(op.name, "fail");
	assert_int_equal(gpuq_op_find(rig.g, "fail", &op), 0);
	/* Each was asked for once. */
	assert_int_equal(rig.control->queries, 2);
	memset(&op, 0x5a, sizeof(op));
	assert_int_equal(gpuq_op_info(rig.g, 2, &op), -GPUQ_EOP);
	assert_int_equal(gpuq_op_find(rig.g, "nothing", &op), -GPUQ_EOP);
	assert_detail("no operator \"nothing\"");
	assert_int_equal(op.index, 0x5a5a5a5a);
	assert_int_equal(gpuq_device_info(rig.g, 0, &device), 0);
	assert_true(device.ready && device.epoch == 3);
	assert_string_equal(device.kind, "fake");
	assert_int_equal(gpuq_device_info(rig.g, 1, &device), -GPUQ_ENODEV);
	rig_stop(&rig);
}

static void test_bad_discovery(void **state)
{
	struct gpuq_op_info op;
	struct rig rig;

	rig_start(&rig, NULL);
	shm_store_relaxed(&rig.control->fault_at, MSG_OP_QUERY);
	shm_store_release(&rig.control->fault, FAKE_BAD_COUNT);
	assert_int_equal(gpuq_op_info(rig.g, 0, &op), -GPUQ_EPROTO);
	shm_store_release(&rig.control->fault, FAKE_MANY_FDS);
	assert_int_equal(gpuq_op_info(rig.g, 0, &op), -GPUQ_EPROTO);
	shm_store_release(&rig.control->fault, FAKE_NO_FAULT);
	assert_int_equal(gpuq_op_info(rig.g, 0, &op), 0);
	rig_stop(&rig);
}

static void *ask_often(void *arg)
{
	struct gpuq_device_info device;
	struct gpuq_op_info op;
	struct gpuq *g = arg;

	for (int i = 0; i < 100; i++) {
		assert_int_equal(gpuq_op_info(g, 1, &op), 0);
		assert_string_equal(op.name, "fail");
		assert_int_equal(gpuq_device_info(g, 0, &device), 0);
		assert_string_equal(device.kind, "fake");
	}
	return NULL;
}

static void test_many_threads_ask(void **state)
{
	pthread_t threads[4];
	struct rig rig;

	rig_start(&rig, NULL);
	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, ask_often, rig.g), 0);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	rig_stop(&rig);
}

static void test_admin(void **state)
{
	struct fake *fake = fake_new();
	struct gpuq *g;

	/* The administrative socket is another path, and says no on the ordinary one. */
	strncat(fake->socket, MSG_ADMIN_SUFFIX, sizeof(fake->socket) - strlen(fake->socket) - 1);
	fake_start(fake);
	assert_int_equal(gpuq_connect(&(struct gpuq_options){.admin = true}, &g), 0);
	assert_int_equal(gpuq_admin_stop(g), 0);
	fake_expect(&fake->control->stops, 1);
	shm_store_relaxed(&fake->control->fault_at, MSG_ADMIN_STOP);
	shm_store_relaxed(&fake->control->fault_status, (uint64_t)-EPERM);
	shm_store_release(&fake->control->fault, FAKE_REFUSE);
	assert_int_equal(gpuq_admin_stop(g), -EPERM);
	gpuq_disconnect(g);
	fake_destroy(fake);
}

/* A request that timed out is answered after all: the next one is not confused by that. */
static void test_late_answers(void **state)
{
	const struct gpuq_options options = {.timeout_ns = RIG_SECOND_NS / 5};
	struct fake *fake = fake_new();
	struct gpuq_device_info device;
	struct gpuq_channel *ch;
	struct gpuq *g;

	fake_start(fake);
	assert_int_equal(gpuq_connect(&options, &g), 0);
	shm_store_relaxed(&fake->control->fault_at, MSG_OPEN);
	shm_store_release(&fake->control->fault, FAKE_LATE);
	assert_int_equal(gpuq_channel_open(g, NULL, &ch), -ETIMEDOUT);
	fake_expect(&fake->control->opens, 1);
	/* The channel that was opened for nobody is given back, and its descriptors are closed. */
	assert_int_equal(gpuq_device_info(g, 0, &device), 0);
	fake_expect(&fake->control->closes, 1);
	assert_int_equal(gpuq_device_info(g, 0, &device), 0);
	assert_int_equal(device.epoch, 3);
	gpuq_disconnect(g);
	fake_destroy(fake);
}

static void test_a_connection_in_a_child(void **state)
{
	struct gpuq_device_info device;
	struct rig rig;
	struct gpuq *g;
	int status;

	rig_start(&rig, NULL);
	fflush(NULL);
	pid_t pid = fork();
	if (pid == 0) {
		bool fine = gpuq_device_info(rig.g, 0, &device) == -GPUQ_EFORK &&
			gpuq_connect(NULL, &g) == 0 && gpuq_device_info(g, 0, &device) == 0;
		if (fine) {
			gpuq_disconnect(g);
			gpuq_disconnect(rig.g);
		}
		_exit(fine ? 0 : 1);
	}
	waitpid(pid, &status, 0);
	assert_int_equal(status, 0);
	assert_int_equal(gpuq_device_info(rig.g, 0, &device), 0);
	assert_int_equal(rig_submit(&rig, NULL, 9), 1);
	rig_wait(&rig, 9);
	rig_stop(&rig);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_what_a_connection_knows),
		HARNESS_TEST(test_the_programs_name_is_the_default),
		HARNESS_TEST(test_the_sentence_names_every_path),
		HARNESS_TEST(test_the_variable_comes_first),
		HARNESS_TEST(test_stale_socket),
		HARNESS_TEST(test_permissions),
		HARNESS_TEST(test_too_long_a_path),
		HARNESS_TEST(test_nobody_accepts),
		HARNESS_TEST(test_bad_handshakes),
		HARNESS_TEST(test_an_older_gpuqd),
		HARNESS_TEST(test_discovery),
		HARNESS_TEST(test_bad_discovery),
		HARNESS_TEST(test_many_threads_ask),
		HARNESS_TEST(test_admin),
		HARNESS_TEST(test_late_answers),
		HARNESS_TEST(test_a_connection_in_a_child),
	};

	return harness_run("client-connect", tests, sizeof(tests) / sizeof(tests[0]));
}
