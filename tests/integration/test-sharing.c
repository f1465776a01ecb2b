/* SPDX-License-Identifier: MIT */
/*
 * test-sharing.c: device buffers between processes and users: who may accept one and who may not,
 * how long it lives, that nobody ever reads what was another's, and clients that are killed
 * anywhere in all of this.
 *
 *	TEST_SEED=N    the sequence of choices of the killed clients; printed
 *	TEST_KILLS=N   how many are killed
 */
#include "tests/integration/children.h"
#include "tests/integration/client.h"
#include "tests/integration/world.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MIB (1ull << 20)
#define UNIT (2 * MIB)
#define NOBODY 65534u

static const char hello[] = "from the owner", reply[] = "from the grantee";

static struct gpuq_buf *alloc_buf(struct gpuq *g, uint64_t bytes)
{
	const struct gpuq_buf_options options = {.bytes = bytes};
	struct gpuq_buf *buf;

	if (gpuq_buf_alloc(g, &options, &buf) < 0)
		fail_msg("gpuq_buf_alloc: %s", gpuq_error_detail());
	return buf;
}

static void start_daemon(struct harness_daemon **ret_daemon)
{
	static const char *const args[] = {"--socket-mode", "0666", NULL};

	/* The folder of the socket is private to root. */
	assert_int_equal(chmod(harness_tmpdir(), 0711), 0);
	*ret_daemon = harness_daemon_start(args);
}

static void need_root(void)
{
	if (geteuid() != 0)
		harness_skip("only root can take another user id");
}

static void become_nobody(void)
{
	assert_int_equal(setgid(NOBODY), 0);
	assert_int_equal(setuid(NOBODY), 0);
}

/* Handles go this way from one process to the other. */
static void tell_handle(struct child_page *page, uint32_t handle)
{
	page->generation = handle;
	shm_store_release_u32(&page->go, 1);
}

static uint32_t await_handle(const struct child *child)
{
	while (shm_load_acquire_u32(&child->page->go) == 0)
		raw_pause();
	return child->page->generation;
}

/* --- One owner, one grantee ---------------------------------------------------------------- */

/* Accepts what it is told of, answers in it, keeps it until it is told to stop. */
static void grantee_main(struct child *child)
{
	struct gpuq_buf *buf, *again;
	struct client c;
	char text[32];

	if (child->number == NOBODY)
		become_nobody();
	client_open(&c, NULL);
	child_say_ready(child);
	uint32_t handle = await_handle(child);
	if (gpuq_buf_accept(c.g, handle, &buf) < 0)
		fail_msg("gpuq_buf_accept: %s", gpuq_error_detail());
	assert_int_equal(gpuq_buf_accept(c.g, handle, &again), -EALREADY);
	assert_int_equal(gpuq_buf_bytes(buf), UNIT + 1);
	assert_int_equal(gpuq_buf_handle(buf), handle);
	assert_int_equal(gpuq_buf_read(c.ch, buf, 100, text, sizeof(hello)), 0);
	assert_string_equal(text, hello);
	assert_int_equal(gpuq_buf_write(c.ch, buf, UNIT - 5, reply, sizeof(reply)), -GPUQ_EBOUNDS);
	assert_int_equal(gpuq_buf_write(c.ch, buf, 0, reply, sizeof(reply)), 0);
	shm_store_release_u32(&child->page->ready, 2);
	while (!child_should_stop(child))
		raw_pause();
	assert_int_equal(gpuq_buf_read(c.ch, buf, 100, text, sizeof(hello)), 0);
	assert_string_equal(text, hello);
	gpuq_buf_free(buf);
	client_close(&c);
}

static void share_with(uint32_t user)
{
	struct child child = {.run = grantee_main, .number = user};
	struct harness_daemon *daemon;
	struct client c;
	char text[32];

	start_daemon(&daemon);
	const struct world before = world_look(daemon);
	child_start(&child);
	child_await_ready(&child);
	client_open(&c, NULL);
	struct gpuq_buf *buf = alloc_buf(c.g, UNIT + 1);
	assert_int_equal(gpuq_buf_write(c.ch, buf, 100, hello, sizeof(hello)), 0);
	assert_int_equal(gpuq_buf_grant(buf, (uint32_t)child.pid), 0);
	assert_int_equal(gpuq_buf_grant(buf, (uint32_t)child.pid), 0);
	tell_handle(child.page, gpuq_buf_handle(buf));
	raw_await(shm_load_acquire_u32(&child.page->ready) == 2);
	assert_int_equal(gpuq_buf_read(c.ch, buf, 0, text, sizeof(reply)), 0);
	assert_string_equal(text, reply);
	/* It outlives its owner, and the owner's connection. */
	gpuq_buf_free(buf);
	if (user != NOBODY)
		client_close(&c);
	child_stop(&child);
	if (user == NOBODY)
		client_close(&c);
	child_free(&child);
	world_await(daemon, &before);
	harness_daemon_destroy(daemon);
}

static void test_share(void **state)
{
	share_with(0);
}

static void test_share_with_another_user(void **state)
{
	need_root();
	share_with(NOBODY);
}

/* --- What was not granted ------------------------------------------------------------------ */

/* Tries handles around the one that it is told. */
static void stranger_main(struct child *child)
{
	struct gpuq_buf *buf;
	struct client c;

	if (child->number == NOBODY)
		become_nobody();
	client_open(&c, NULL);
	child_say_ready(child);
	uint32_t handle = await_handle(child);
	for (uint32_t i = 0; i < 64; i++) {
		assert_int_equal(gpuq_buf_accept(c.g, handle + i, &buf), -GPUQ_EBUFFER);
		assert_int_equal(gpuq_buf_accept(c.g, handle + (i << 16), &buf), -GPUQ_EBUFFER);
	}
	client_close(&c);
}

static void test_strangers(void **state)
{
	struct child children[2] = {{.run = stranger_main},
		{.run = stranger_main, .number = geteuid() == 0 ? NOBODY : 0}};
	struct harness_daemon *daemon;
	struct client c, second;

	start_daemon(&daemon);
	client_open(&c, NULL);
	struct gpuq_buf *buf = alloc_buf(c.g, 1), *again;
	for (uint32_t i = 0; i < 2; i++) {
		child_start(&children[i]);
		child_await_ready(&children[i]);
		tell_handle(children[i].page, gpuq_buf_handle(buf));
		child_wait(&children[i]);
		child_free(&children[i]);
	}
	/* Another connection of the same process is a stranger too, until it is granted. */
	client_open(&second, NULL);
	assert_int_equal(gpuq_buf_accept(second.g, gpuq_buf_handle(buf), &again), -GPUQ_EBUFFER);
	assert_int_equal(gpuq_buf_grant(buf, (uint32_t)getpid()), 0);
	assert_int_equal(gpuq_buf_accept(second.g, gpuq_buf_handle(buf), &again), 0);
	gpuq_buf_free(again);
	/* A share that was given up must be granted anew. */
	assert_int_equal(gpuq_buf_accept(second.g, gpuq_buf_handle(buf), &again), -GPUQ_EBUFFER);
	/* And a grant is for the connections of that moment. */
	assert_int_equal(gpuq_buf_grant(buf, (uint32_t)getpid()), 0);
	client_close(&second);
	client_open(&second, NULL);
	assert_int_equal(gpuq_buf_accept(second.g, gpuq_buf_handle(buf), &again), -GPUQ_EBUFFER);
	client_close(&second);
	client_close(&c);
	harness_daemon_destroy(daemon);
}

static void test_grant_refused(void **state)
{
	static const char *const args[] = {"--max-clients-per-user", "80", NULL};
	struct harness_daemon *daemon = harness_daemon_start(args);
	struct gpuq *many[70];
	struct client c;

	client_open(&c, NULL);
	struct gpuq_buf *buf = alloc_buf(c.g, 1);
	assert_int_equal(gpuq_buf_grant(buf, 0), -ESRCH);
	assert_int_equal(gpuq_buf_grant(buf, 1), -ESRCH);
	assert_non_null(strstr(gpuq_error_detail(), "no process 1 is connected"));
	for (uint32_t i = 0; i < 70; i++)
		assert_int_equal(gpuq_connect(NULL, &many[i]), 0);
	assert_int_equal(gpuq_buf_grant(buf, (uint32_t)getpid()), -GPUQ_ELIMIT);
	for (uint32_t i = 0; i < 70; i++)
		gpuq_disconnect(many[i]);
	gpuq_buf_free(buf);
	client_close(&c);
	harness_daemon_destroy(daemon);
}

/* --- Who pays ------------------------------------------------------------------------------ */

static int try_alloc(struct gpuq *g, uint64_t bytes)
{
	const struct gpuq_buf_options options = {.bytes = bytes};
	struct gpuq_buf *buf;
	int r = gpuq_buf_alloc(g, &options, &buf);

	if (r == 0)
		gpuq_buf_free(buf);
	return r;
}

/* What an owner has freed and others keep counts for its user, and for no connection. */
static void test_orphans_count(void **state)
{
	static const char *const args[] = {
		"--max-client-bytes", "8M", "--max-user-bytes", "12M", NULL};
	struct harness_daemon *daemon = harness_daemon_start(args);
	struct client owner, grantee;
	struct gpuq_buf *kept;

	client_open(&owner, NULL);
	client_open(&grantee, NULL);
	for (uint32_t i = 0; i < 3; i++) {
		struct gpuq_buf *buf = alloc_buf(owner.g, 6 * MIB);
		assert_int_equal(gpuq_buf_grant(buf, (uint32_t)getpid()), 0);
		assert_int_equal(gpuq_buf_accept(grantee.g, gpuq_buf_handle(buf), &kept), 0);
		assert_int_equal(try_alloc(owner.g, 2 * MIB), -GPUQ_ELIMIT);
		assert_non_null(strstr(gpuq_error_detail(), "max_client_bytes"));
		gpuq_buf_free(buf);
		assert_int_equal(try_alloc(owner.g, 2 * MIB), 0);
		assert_int_equal(try_alloc(owner.g, 4 * MIB), -GPUQ_ELIMIT);
		assert_non_null(strstr(gpuq_error_detail(), "max_user_bytes"));
		gpuq_buf_free(kept);
	}
	client_close(&grantee);
	client_close(&owner);
	harness_daemon_destroy(daemon);
}

/* --- Neighbours and predecessors ----------------------------------------------------------- */

#define BUFFERS 24u
#define SECRET 0xa5

/*
 * Sets all memory of a buffer to one byte after it has found `expected` there: where the CPU can
 * map it through an export, since that reaches what lies behind the part that a client may use.
 */
static void fill_memory(struct client *c, struct gpuq_buf *buf, uint8_t expected, uint8_t byte)
{
	static uint8_t wanted[UNIT], filled[UNIT], got[UNIT];
	struct gpuq_buf_export export;
	struct stat st;

	memset(wanted, expected, UNIT);
	memset(filled, byte, UNIT);
	assert_int_equal(gpuq_buf_export(buf, &export), 0);
	assert_int_equal(export.whole_bytes, UNIT);
	if (harness_on_gpu()) {
		assert_int_equal(gpuq_buf_read(c->ch, buf, 0, got, UNIT), 0);
		assert_memory_equal(got, wanted, UNIT);
		assert_int_equal(gpuq_buf_write(c->ch, buf, 0, filled, UNIT), 0);
	} else {
		/* The descriptor is one of this buffer, and of nothing else. */
		assert_int_equal(fstat(export.fd, &st), 0);
		assert_int_equal(st.st_size, UNIT);
		void *map = mmap(NULL, UNIT, PROT_READ | PROT_WRITE, MAP_SHARED, export.fd, 0);
		assert_true(map != MAP_FAILED);
		assert_memory_equal(map, wanted, UNIT);
		memcpy(map, filled, UNIT);
		munmap(map, UNIT);
	}
	close(export.fd);
}

/* Fills buffers with a pattern; some it frees, some go with it. */
static void secretive_main(struct child *child)
{
	const struct gpuq_channel_options options = {.arena_bytes = 4 * MIB};
	struct client c;

	client_open(&c, &options);
	for (uint32_t i = 0; i < BUFFERS; i++) {
		struct gpuq_buf *buf = alloc_buf(c.g, harness_on_gpu() ? UNIT : 1000);
		fill_memory(&c, buf, 0, SECRET);
		if (i % 2 == 0)
			gpuq_buf_free(buf);
	}
	child_say_ready(child);
	while (!child_should_stop(child))
		raw_pause();
	client_close(&c);
}

/* Everything that it can reach of many buffers is zero, at their beginning and afterwards. */
static void curious_main(struct child *child)
{
	static const uint8_t zeros[UNIT];
	static uint8_t got[UNIT];
	struct gpuq_buf *bufs[BUFFERS];
	struct client c;

	become_nobody();
	client_open(&c, NULL);
	for (uint32_t i = 0; i < BUFFERS; i++) {
		bufs[i] = alloc_buf(c.g, UNIT);
		assert_int_equal(gpuq_buf_read(c.ch, bufs[i], 0, got, UNIT), 0);
		assert_memory_equal(got, zeros, UNIT);
		/* Writes to one show up in no other. */
		fill_memory(&c, bufs[i], 0, (uint8_t)(i + 1));
	}
	for (uint32_t i = 0; i < BUFFERS; i++) {
		assert_int_equal(gpuq_buf_read(c.ch, bufs[i], UNIT - 1, got, 1), 0);
		assert_int_equal(got[0], i + 1);
		gpuq_buf_free(bufs[i]);
	}
	client_close(&c);
}

static void test_nobody_reads_another(void **state)
{
	struct child secretive = {.run = secretive_main}, curious = {.run = curious_main};
	struct harness_daemon *daemon;

	need_root();
	start_daemon(&daemon);
	for (uint32_t turn = 0; turn < 3; turn++) {
		child_start(&secretive);
		child_await_ready(&secretive);
		/* Once as its neighbour, once as its successor. */
		child_start(&curious);
		child_wait(&curious);
		if (turn % 2 == 0)
			child_stop(&secretive);
		else
			child_kill(&secretive);
		child_start(&curious);
		child_wait(&curious);
	}
	child_free(&secretive);
	child_free(&curious);
	harness_daemon_destroy(daemon);
}

/* --- Killed anywhere ----------------------------------------------------------------------- */

#define KILLS 160u
#define VICTIMS 6u
#define HELD 4u

/* What victims tell each other; written and read anyhow. */
static struct {
	uint32_t pids[VICTIMS];
	uint32_t handles[VICTIMS];
} * board;

static uint64_t setting(const char *name, uint64_t otherwise)
{
	const char *text = getenv(name);

	return text != NULL ? strtoull(text, NULL, 0) : otherwise;
}

/* One thing out of all that a client can do with buffers; most errors are somebody's death. */
static void step(struct client *c, struct gpuq_buf **buf, uint32_t number, struct random *rng)
{
	uint32_t other = (uint32_t)random_below(rng, VICTIMS);
	const struct gpuq_buf_options options = {.bytes = 1 + random_below(rng, 3 * MIB)};
	struct gpuq_buf_export export;
	static char data[1 << 16];

	if (*buf == NULL && random_below(rng, 2) == 0) {
		(void)gpuq_buf_alloc(c->g, &options, buf);
		return;
	}
	if (*buf == NULL) {
		(void)gpuq_buf_accept(c->g, shm_load_acquire_u32(&board->handles[other]), buf);
		return;
	}
	switch (random_below(rng, 5)) {
	case 0:
		(void)gpuq_buf_grant(*buf, shm_load_acquire_u32(&board->pids[other]));
		shm_store_release_u32(&board->handles[number], gpuq_buf_handle(*buf));
		break;
	case 1:
		if (gpuq_buf_export(*buf, &export) == 0)
			close(export.fd);
		break;
	case 2:
		gpuq_buf_free(*buf);
		*buf = NULL;
		break;
	default:
		(void)gpuq_buf_write(c->ch, *buf, 0, data,
			gpuq_buf_bytes(*buf) < sizeof(data) ? gpuq_buf_bytes(*buf) : sizeof(data));
	}
}

static void victim_main(struct child *child)
{
	struct gpuq_buf *bufs[HELD] = {NULL};
	struct random rng = {child->seed};
	struct client c;

	shm_store_release_u32(&board->pids[child->number], (uint32_t)getpid());
	child_say_ready(child);
	client_open(&c, NULL);
	for (;;)
		step(&c, &bufs[random_below(&rng, HELD)], child->number, &rng);
}

static void kill_victims(struct harness_daemon *daemon, struct random *rng, uint64_t kills)
{
	struct child children[VICTIMS];
	uint32_t device_kills = 0;

	for (uint32_t i = 0; i < VICTIMS; i++) {
		children[i] = (struct child){.run = victim_main, .number = i, .seed = i};
		child_start(&children[i]);
	}
	for (uint64_t n = 0; n < kills; n++) {
		struct child *victim = &children[random_below(rng, VICTIMS)];
		usleep((useconds_t)random_below(rng, 8000));
		child_await_ready(victim);
		child_kill(victim);
		victim->seed = random_u64(rng);
		child_start(victim);
		/* A few times the device process too. */
		if (n % (kills / 4) == kills / 8 && device_kills++ < 3) {
			pid_t pid = world_device_pid(daemon);
			if (pid != 0)
				kill(pid, SIGKILL);
		}
	}
	for (uint32_t i = 0; i < VICTIMS; i++) {
		child_await_ready(&children[i]);
		child_kill(&children[i]);
		child_free(&children[i]);
	}
}

static void test_killed_anywhere(void **state)
{
	struct harness_daemon *daemon = harness_daemon_start(NULL);
	const struct world before = world_look(daemon);
	uint64_t seed = setting("TEST_SEED", (uint64_t)getpid());
	struct random rng = {seed};

	print_message("TEST_SEED=%llu\n", (unsigned long long)seed);
	board = mmap(
		NULL, sizeof(*board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(board != MAP_FAILED);
	kill_victims(daemon, &rng, setting("TEST_KILLS", KILLS / harness_slowness()));
	raw_await(world_device_pid(daemon) != 0);
	world_await(daemon, &before);
	munmap(board, sizeof(*board));
	harness_daemon_destroy(daemon);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_share),
		HARNESS_TEST(test_share_with_another_user),
		HARNESS_TEST(test_strangers),
		HARNESS_TEST(test_grant_refused),
		HARNESS_TEST(test_orphans_count),
		HARNESS_TEST_LONG(test_nobody_reads_another, 60),
		HARNESS_TEST_LONG(test_killed_anywhere, 60),
	};

	return harness_run("integration-sharing", tests, sizeof(tests) / sizeof(tests[0]));
}
