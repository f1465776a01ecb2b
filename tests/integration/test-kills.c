/* SPDX-License-Identifier: MIT */
/*
 * test-kills.c: clients are killed a thousand times, in every state that a client can be in, while
 * two others work. What gpuqd holds at the end is what it held at the beginning.
 *
 * A victim takes up the pose that it was given, says so, and is killed a moment later, several at
 * once. What it is counted as is what gpuqd's statistics say of its channel: the same before and
 * after the kill, or it has moved on meanwhile and counts for no state.
 *
 *	TEST_SEED=N    the sequence of choices; printed
 *	TEST_KILLS=N   how many; a tenth under a sanitizer, ten times as many in the long form
 */
#include "tests/integration/children.h"
#include "tests/integration/client.h"
#include "tests/integration/wire-client.h"
#include "tests/integration/world.h"

#include "shm/clock.h"
#include "shm/segment.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define KILLS 1000u
#define VICTIMS 8u
#define SURVIVORS 2u
#define ENTRIES 8u
#define ARENA_BYTES 65536u
#define READY_NS (10 * SECOND_NS * harness_slowness())

enum pose {
	HANDSHAKE, /* connected, or welcomed and not acknowledged */
	OPENING,   /* has asked for a channel */
	IDLE,
	PUBLISHED, /* entries that gpuqd has not taken */
	EXECUTING,
	UNREAD, /* completions that it has not taken */
	ANYWHERE,
	POSES,
};

static const char *const names[POSES] = {
	"handshake", "opening", "idle", "published", "executing", "unread", "anywhere"};

/* Of a hundred victims so many are given each pose. */
static const uint32_t weights[POSES] = {14, 10, 12, 18, 18, 14, 14};

static char socket_path[200];

static uint64_t setting(const char *name, uint64_t otherwise)
{
	const char *text = getenv(name);

	return text != NULL ? strtoull(text, NULL, 0) : otherwise;
}

/* --- Victims ------------------------------------------------------------------------------- */

static void wait_for_death(struct child *child) __attribute__((noreturn));

static void wait_for_death(struct child *child)
{
	child_say_ready(child);
	for (;;)
		pause();
}

static void pose_handshake(struct child *child, struct random *rng)
{
	struct msg_hello hello = raw_hello(WIRE_ABI_OLDEST, WIRE_ABI);
	uint64_t how_far = random_below(rng, 3);
	struct raw_answer a;
	int fd = raw_connect(socket_path);

	if (how_far > 0)
		raw_send(fd, &hello, MSG_HELLO, sizeof(hello), 1);
	if (how_far > 1)
		assert_true(raw_receive(fd, &a));
	wait_for_death(child);
}

static void pose_opening(struct child *child, struct random *rng)
{
	struct msg_open open = raw_open(ARENA_BYTES);
	struct raw_answer a;
	int fd = raw_client(socket_path);

	raw_send(fd, &open, MSG_OPEN, sizeof(open), 3);
	if (random_below(rng, 2) == 0)
		assert_true(raw_receive(fd, &a));
	wait_for_death(child);
}

/* A channel that the test can find in the statistics. */
static void open_victim(struct child *child, struct wire_client *c, uint64_t arena_bytes)
{
	wire_client_open(c, socket_path, WIRE_ABI, ENTRIES, arena_bytes);
	child->page->channel = c->channel;
	child->page->generation = c->generation;
}

static void pose_idle(struct child *child, struct random *rng)
{
	struct wire_client c;

	open_victim(child, &c, ARENA_BYTES);
	for (uint64_t n = random_below(rng, 20); n > 0; n--) {
		wire_client_check_works(&c);
		child->page->submitted++;
	}
	wait_for_death(child);
}

static void publish_nulls(struct child *child, struct wire_client *c, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		const struct wire_sqe sqe = wire_client_entry(c, WIRE_OP_NULL, i);
		wire_client_publish(c, &sqe);
		child->page->submitted++;
	}
}

/* gpuqd takes nothing: it was not told, or there is no room for completions. */
static void pose_published(struct child *child, struct random *rng)
{
	struct wire_client c;

	open_victim(child, &c, ARENA_BYTES);
	if (random_below(rng, 3) != 0) {
		publish_nulls(child, &c, ENTRIES);
		bell_ring_eventfd(c.doorbell_fd);
		while (ring_refresh(&c.cq) < (int)ENTRIES)
			sched_yield();
	}
	publish_nulls(child, &c, 1 + (uint32_t)random_below(rng, ENTRIES));
	wait_for_death(child);
}

#define LONG_BATCH 1024u
#define LONG_SIDE 512u
#define LONG_PROBES 32u

/* Writes a gemv that takes milliseconds, and returns its entry. */
static struct wire_sqe long_entry(struct wire_client *c, const float **ret_y)
{
	const uint64_t x = 4096, w = x + 4ull * LONG_BATCH * LONG_SIDE;
	const uint64_t y = w + 4ull * LONG_SIDE * LONG_SIDE;
	const struct wire_tensor t = {
		.dtype = GPUQ_F32, .rank = 2, .dims = {LONG_BATCH, LONG_SIDE}};
	struct wire_sqe sqe = wire_client_entry(c, WIRE_OP_CALL, 1);

	sqe.args_bytes = sizeof(struct wire_call) + 4 * sizeof(struct wire_tensor);
	*wire_client_call(c, &sqe) =
		(struct wire_call){.op = wire_client_op(c, "gemv_batched"), .n_in = 3, .n_out = 1};
	struct wire_tensor *tensors = wire_client_tensors(c, &sqe);
	tensors[0] = tensors[1] = tensors[3] = t;
	tensors[1].dims[0] = LONG_SIDE;
	tensors[0].offset = x;
	tensors[1].offset = w;
	tensors[3].offset = y;
	*ret_y = (const float *)(c->arena + y);
	return sqe;
}

/* How many of some outputs that were not 0 have become so. */
static uint32_t count_written(const float *y)
{
	const uint32_t *words = (const uint32_t *)y;
	uint32_t n = 0;

	for (uint32_t i = 0; i < LONG_PROBES; i++)
		n += shm_load_relaxed_u32(&words[i * LONG_BATCH / LONG_PROBES * LONG_SIDE]) == 0;
	return n;
}

static void pose_executing(struct child *child, struct random *rng)
{
	uint64_t far = random_below(rng, LONG_PROBES / 4);
	struct wire_client c;
	const float *y;

	open_victim(child, &c, 6ull << 20);
	const struct wire_sqe sqe = long_entry(&c, &y);
	for (uint32_t i = 0; i < LONG_PROBES; i++)
		((float *)y)[i * LONG_BATCH / LONG_PROBES * LONG_SIDE] = 1;
	wire_client_submit(&c, &sqe);
	child->page->submitted++;
	/* From its first result on it executes; how far it is to get is the kill's choice. */
	while (count_written(y) <= far)
		sched_yield();
	wait_for_death(child);
}

static void pose_unread(struct child *child, struct random *rng)
{
	uint32_t n = 1 + (uint32_t)random_below(rng, ENTRIES);
	struct wire_client c;

	open_victim(child, &c, ARENA_BYTES);
	publish_nulls(child, &c, n);
	bell_ring_eventfd(c.doorbell_fd);
	while (ring_refresh(&c.cq) < (int)n)
		sched_yield();
	wait_for_death(child);
}

/* Does everything that a client may do, over and over. */
static void pose_anywhere(struct child *child, struct random *rng)
{
	struct gpuq_channel_options options = {.sq_entries = 64, .arena_bytes = 4ull << 20};
	struct client c;
	struct load load;

	child_say_ready(child);
	for (;;) {
		options.priority = (uint32_t)random_below(rng, 4);
		client_open(&c, &options);
		load_create(&load, &c, JOB_KINDS, 1 + (uint32_t)random_below(rng, 200), 8, rng);
		for (uint64_t n = random_below(rng, 30); n > 0; n--) {
			assert_true(load_submit(&load) >= 0);
			load_cancel(&load, rng);
			assert_true(load_take(&load, PATIENCE_NS) > 0);
		}
		load_destroy(&load);
		client_close(&c);
	}
}

static void victim_main(struct child *child)
{
	static void (*const poses[POSES])(struct child *, struct random *) = {
		pose_handshake,
		pose_opening,
		pose_idle,
		pose_published,
		pose_executing,
		pose_unread,
		pose_anywhere,
	};
	struct random rng = {child->seed};

	child->page->generation = 0;
	poses[child->number](child, &rng);
}

/* --- Survivors ----------------------------------------------------------------------------- */

static void survivor_main(struct child *child)
{
	struct gpuq_channel_options options = {.arena_bytes = 8ull << 20};
	struct random rng = {child->seed};
	struct client c;
	struct load load;

	client_open(&c, &options);
	/* The first one's jobs run on dispatch's own thread, the second one's on workers too. */
	load_create(&load, &c, JOB_KINDS, child->number == 0 ? 16 : 200, 16, &rng);
	child_say_ready(child);
	while (!child_should_stop(child)) {
		assert_true(load_submit(&load) >= 0);
		load_cancel(&load, &rng);
		assert_true(load_take(&load, PATIENCE_NS) > 0);
	}
	assert_int_equal(load_finish(&load), 0);
	assert_int_equal(gpuq_rescues(c.ch), 0);
	child->page->completed = load.completed;
	load_destroy(&load);
	client_close(&c);
}

/* --- The killer ---------------------------------------------------------------------------- */

struct killer {
	struct harness_daemon *daemon;
	struct stats stats;
	struct child victims[VICTIMS], survivors[SURVIVORS];
	uint64_t since_ns[VICTIMS]; /* when it was started */
	uint64_t kills, started, done;
	uint64_t seed;
	struct random delays;
	uint32_t posed[POSES], died_in[POSES], moved_on;
};

static enum pose choose_pose(struct random *rng)
{
	uint64_t at = random_below(rng, 100);
	uint32_t pose = 0;

	while (at >= weights[pose])
		at -= weights[pose++];
	return (enum pose)pose;
}

/* The choices depend on seed and number alone, whatever the order in which victims die. */
static void start_victim(struct killer *k, uint32_t i)
{
	struct random rng = {k->seed << 32 | k->started};
	struct child *v = &k->victims[i];

	v->run = victim_main;
	v->number = choose_pose(&rng);
	v->seed = random_u64(&rng);
	child_start(v);
	k->started++;
	k->since_ns[i] = clock_monotonic_ns();
}

/* What gpuqd says of a victim's channel; POSES when it fits nothing. */
static enum pose look_at(const struct killer *k, const struct child *v)
{
	const struct stats_channel *s = &k->stats.channels[v->page->channel];
	uint64_t consumed = shm_load_relaxed(&s->consumed);
	uint64_t completed = shm_load_relaxed(&s->completed);

	if (v->number == HANDSHAKE || v->number == OPENING || v->number == ANYWHERE)
		return (enum pose)v->number;
	if (s->generation != v->page->generation)
		return POSES;
	if (consumed < v->page->submitted)
		return PUBLISHED;
	if (completed < v->page->submitted)
		return EXECUTING;
	return v->number == UNREAD || v->number == IDLE ? (enum pose)v->number : POSES;
}

static void kill_victim(struct killer *k, struct child *v)
{
	enum pose before = look_at(k, v);

	child_kill(v);
	k->posed[v->number]++;
	if (before == look_at(k, v) && before != POSES)
		k->died_in[before]++;
	else
		k->moved_on++;
	k->done++;
}

/* Kills those that are ready, together. */
static void kill_ready(struct killer *k)
{
	for (uint32_t i = 0; i < VICTIMS; i++) {
		struct child *v = &k->victims[i];
		if (v->pid == 0)
			continue;
		if (shm_load_acquire_u32(&v->page->ready) != 0)
			kill_victim(k, v);
		else if (clock_monotonic_ns() - k->since_ns[i] > READY_NS)
			fail_msg("a victim in the pose \"%s\" is never ready", names[v->number]);
	}
}

static void kill_all(struct killer *k)
{
	while (k->done < k->kills) {
		for (uint32_t i = 0; i < VICTIMS; i++) {
			if (k->victims[i].pid == 0 && k->started < k->kills)
				start_victim(k, i);
		}
		/* Some are killed at once, some after a while in which all get further. */
		usleep((useconds_t)(random_below(&k->delays, 4) * random_below(&k->delays, 2000)));
		kill_ready(k);
	}
}

static void print_histogram(const struct killer *k, uint64_t ns)
{
	print_message(
		"%llu killed in %.1f s, died in:\n", (unsigned long long)k->done, (double)ns / 1e9);
	for (uint32_t i = 0; i < POSES; i++)
		print_message(
			"  %-10s %5u (of %u that were to)\n", names[i], k->died_in[i], k->posed[i]);
	print_message("  %-10s %5u\n", "moved on", k->moved_on);
}

static void start_survivors(struct killer *k)
{
	for (uint32_t i = 0; i < SURVIVORS; i++) {
		k->survivors[i] = (struct child){.run = survivor_main, .number = i, .seed = i};
		child_start(&k->survivors[i]);
		child_await_ready(&k->survivors[i]);
	}
}

static void stop_survivors(struct killer *k)
{
	for (uint32_t i = 0; i < SURVIVORS; i++) {
		child_stop(&k->survivors[i]);
		print_message("survivor %u: %llu completions\n", i,
			(unsigned long long)k->survivors[i].page->completed);
		child_free(&k->survivors[i]);
	}
}

/* What only first uses bring into memory is there. */
static void warm_up(const struct harness_daemon *daemon)
{
	struct world empty = world_look(daemon);
	struct random rng = {1};
	struct client c;
	struct load load;

	for (uint32_t i = 0; i < 2; i++) {
		client_open(&c, NULL);
		load_create(&load, &c, JOB_KINDS, 100, 8, &rng);
		assert_true(load_submit(&load) >= 0);
		assert_int_equal(load_finish(&load), 0);
		load_destroy(&load);
		client_close(&c);
	}
	world_await(daemon, &empty);
}

static void check_histogram(const struct killer *k)
{
	/* Of few, chance decides. */
	uint64_t least = k->kills >= KILLS ? k->kills / 20 : 1;

	for (uint32_t i = 0; i < POSES; i++) {
		if (k->died_in[i] < least)
			fail_msg("only %u died in the state \"%s\"", k->died_in[i], names[i]);
	}
}

static void test_kills(void **state)
{
	/*
	 * The records of so few channels are all in memory soon; and more workers are done before
	 * anybody can be killed.
	 */
	static const char *const args[] = {
		"--max-channels", "64", "--workers", "1", "--log", "warn", NULL};
	struct killer k = {.daemon = harness_daemon_start(args)};
	uint64_t otherwise = harness_long() ? 10 * KILLS : KILLS;

	k.kills = setting("TEST_KILLS", harness_slowness() > 1 ? otherwise / 10 : otherwise);
	k.seed = setting("TEST_SEED", (uint64_t)getpid());
	k.delays.state = k.seed;
	print_message("TEST_SEED=%llu\n", (unsigned long long)k.seed);
	memcpy(socket_path, k.daemon->socket, sizeof(socket_path));
	k.stats = raw_stats(k.daemon);
	warm_up(k.daemon);
	const struct world before = world_look(k.daemon);

	start_survivors(&k);
	uint64_t start_ns = clock_monotonic_ns();
	kill_all(&k);
	print_histogram(&k, clock_monotonic_ns() - start_ns);
	stop_survivors(&k);
	world_await(k.daemon, &before);
	const struct world after = world_look(k.daemon);
	world_print("before", &before);
	world_print("after", &after);
	assert_int_equal(after.device_restarts, 0);
	assert_int_equal(after.poisoned, 0);
	/* All of these had a channel open. */
	assert_true(after.deaths >=
		k.posed[IDLE] + k.posed[PUBLISHED] + k.posed[EXECUTING] + k.posed[UNREAD]);
	check_histogram(&k);

	for (uint32_t i = 0; i < VICTIMS; i++)
		child_free(&k.victims[i]);
	stats_close(&k.stats);
	harness_daemon_destroy(k.daemon);
}

int main(void)
{
	static const struct harness_test tests[] = {HARNESS_TEST_LONG(test_kills, 300)};

	return harness_run("kills", tests, sizeof(tests) / sizeof(tests[0]));
}
