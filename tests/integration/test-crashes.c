/* SPDX-License-Identifier: MIT */
/*
 * test-crashes.c: the dispatcher's process dies again and again, at any moment, also while it
 * takes over from the one before. What the ledger says then is right: every entry completes
 * exactly once. The client is this process; it plays two channels by hand, so that a life of the
 * dispatcher can be as short as a few entries, and a second has hundreds of them.
 *
 *	TEST_SEED=N    what is submitted, and when the deaths come; printed
 *	TEST_KILLS=N   how many
 */
#include "tests/integration/wire-client.h"

#include "daemon/dispatch_impl.h"
#include "shm/segment.h"
#include "tests/kernels/random.h"

#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#define KILLS 1500u
#define WALKS 25u
#define WALK_ENTRIES 6u
#define MAX_STEPS 200000u
#define CHANNELS 2u
#define ENTRIES 16u
#define IN_FLIGHT 24u /* slots: fewer than the channels could use */
#define ARENA_BYTES (1u << 20)
#define SMALL 8u       /* elements that dispatch itself works on */
#define LARGE 8000u    /* elements that a worker gets */
#define CHECK_EACH 25u /* deaths between two looks whether anything was lost */

/* One channel, and what is in flight there. */
struct line {
	struct wire_client client;
	struct devlink_msg msg;
	int fds[3];
	uint64_t waiting[ENTRIES]; /* user_data; 0: the place is free */
	uint64_t serial;
};

struct crashes {
	struct wire_page *page;
	struct stats stats;
	void *ledger;
	struct cost_model cost;
	struct line lines[CHANNELS];
	uint32_t op;
	bool recover;
	struct random rng;
	uint64_t completed, lost;
};

/* --- The process that dies ----------------------------------------------------------------- */

static struct graphs *create_graphs(
	struct crashes *t, struct device *device, int wake_fd, struct clock_line clock)
{
	const struct graphs_options options = {
		.device = device,
		.clock = clock,
		.cost = &t->cost,
		.stats = &t->stats.devices[0],
		.records = t->stats.graphs,
		.max_graphs = t->stats.header->max_graphs,
		.captures = t->stats.captures,
		.max_captures = t->stats.header->max_captures,
		.scratch_bytes = WIRE_PAGE_SIZE,
		.lanes = 2,
		.promote_uses = UINT32_MAX,
		.direct_kernels = UINT32_MAX,
		.stage_bytes = UINT64_MAX,
		.wake_fd = wake_fd,
	};
	struct graphs *g;
	char why[224];

	if (graphs_create(&options, &g, why) < 0)
		_exit(1);
	return g;
}

static struct dispatch *create_dispatch(struct crashes *t)
{
	const struct clock_line clock = clock_from_page(t->page);
	const struct device_options device = {
		.kind = "cpu", .workers = 1, .clock = clock, .wake_fd = bell_eventfd()};
	struct dispatch_options options = {
		.page = t->page,
		.stats = t->stats,
		.ledger = t->ledger,
		.clock = clock,
		.cost = &t->cost,
		.max_channels = CHANNELS,
		.max_in_flight = IN_FLIGHT,
		.poll_us = 50,
		.wake_fd = device.wake_fd,
	};
	struct dispatch *d;

	if (device_open(&device, &options.device, NULL) < 0)
		_exit(1);
	options.graphs = create_graphs(t, options.device, device.wake_fd, clock);
	if (dispatch_create(&options, &d) < 0)
		_exit(1);
	return d;
}

static struct channel *create_channel(struct crashes *t, uint32_t i)
{
	struct devlink_msg msg = t->lines[i].msg;
	struct channel *ch;

	msg.recover = t->recover;
	if (channel_create(&msg, t->lines[i].fds, &((struct ledger_channel *)t->ledger)[i],
		    &t->stats.channels[i], &ch) < 0)
		_exit(1);
	return ch;
}

static void serve(struct crashes *t) __attribute__((noreturn));

static void serve(struct crashes *t)
{
	struct dispatch *d = create_dispatch(t);

	if (dispatch_start(d) < 0)
		_exit(1);
	for (uint32_t i = 0; i < CHANNELS; i++)
		dispatch_add(d, create_channel(t, i), t->recover);
	for (;;)
		pause();
}

static pid_t start_server(struct crashes *t)
{
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		serve(t);
	}
	t->recover = true;
	return pid;
}

static void kill_server(pid_t pid)
{
	int status;

	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

/* --- The client ---------------------------------------------------------------------------- */

static void make_line(struct line *l, uint32_t number)
{
	const struct wire_layout layout = wire_layout(ENTRIES, ENTRIES, ARENA_BYTES);
	/* The indices of one channel wrap. */
	const struct msg_opened opened = {
		.channel = number,
		.generation = 7 + number,
		.sq_entries = ENTRIES,
		.cq_entries = ENTRIES,
		.arena_bytes = ARENA_BYTES,
		.start = number == 0 ? 0 : UINT64_MAX - 1000,
	};

	l->fds[0] = segment_create("crashes", layout.segment_bytes);
	l->fds[1] = bell_eventfd();
	assert_int_equal(bell_pipe(&l->client.bell_fd, &l->fds[2]), 0);
	l->client.doorbell_fd = l->fds[1];
	l->client.bytes = layout.segment_bytes;
	assert_int_equal(segment_map(l->fds[0], layout.segment_bytes, true, &l->client.base), 0);
	wire_client_attach(&l->client, &opened);
	for (uint32_t at = WIRE_SQ_RING; at <= WIRE_CQ_RING; at += WIRE_CQ_RING - WIRE_SQ_RING) {
		struct wire_ring *ring = (void *)((char *)l->client.base + at);
		ring->prod = ring->cons = ring->wake_at = opened.start;
	}
	((struct wire_header *)l->client.base)->magic = WIRE_MAGIC;
	l->msg = (struct devlink_msg){
		.type = DEVLINK_ADD,
		.channel = number,
		.generation = opened.generation,
		.abi = WIRE_ABI,
		.weight = 1,
		.sq_entries = ENTRIES,
		.cq_entries = ENTRIES,
		.arena_bytes = ARENA_BYTES,
		.start = opened.start,
	};
}

static void free_line(struct line *l)
{
	munmap(l->client.base, l->client.bytes);
	close(l->client.bell_fd);
	for (int i = 0; i < 3; i++)
		close(l->fds[i]);
}

/* A null operation, a small or a large call, or a cancellation; place says what memory is free. */
static struct wire_sqe choose_entry(struct crashes *t, struct line *l, uint32_t place)
{
	uint64_t user_data = ++l->serial * ENTRIES + place;
	uint32_t at = place * (ARENA_BYTES / ENTRIES) & ~63u;
	struct wire_sqe sqe;

	switch (random_below(&t->rng, 4)) {
	case 0:
		return wire_client_entry(&l->client, WIRE_OP_NULL, user_data);
	case 1:
		return wire_client_softmax(&l->client, t->op, at, SMALL, user_data);
	case 2:
		return wire_client_softmax(&l->client, t->op, at, LARGE, user_data);
	default:
		sqe = wire_client_entry(&l->client, WIRE_OP_CANCEL, user_data);
		sqe.target = l->waiting[random_below(&t->rng, ENTRIES)];
		return sqe;
	}
}

/* Submits at most `most`, as many as have a place. */
static void submit_some(struct crashes *t, struct line *l, uint64_t most)
{
	for (uint32_t i = 0; i < ENTRIES && most > 0; i++) {
		if (l->waiting[i] != 0)
			continue;
		const struct wire_sqe sqe = choose_entry(t, l, i);
		l->waiting[i] = sqe.user_data;
		wire_client_submit(&l->client, &sqe);
		most--;
	}
}

static void take_one(struct crashes *t, struct line *l, const struct wire_cqe *cqe)
{
	uint64_t *waiting = &l->waiting[cqe->user_data % ENTRIES];

	if (cqe->user_data == 0 || *waiting != cqe->user_data)
		fail_msg("channel %u: a completion of %llu, which is not in flight",
			l->client.channel, (unsigned long long)cqe->user_data);
	*waiting = 0;
	t->completed++;
	if (cqe->status == -GPUQ_EDEVICE)
		t->lost++;
	else if (cqe->status != 0 && cqe->status != -ECANCELED && cqe->status != -EALREADY &&
		cqe->status != -ENOENT)
		fail_msg("channel %u: status %d", l->client.channel, cqe->status);
}

static void take_all(struct crashes *t)
{
	struct wire_cqe cqe;

	for (uint32_t i = 0; i < CHANNELS; i++) {
		while (wire_client_poll(&t->lines[i].client, &cqe))
			take_one(t, &t->lines[i], &cqe);
	}
}

static bool anything_waits(const struct crashes *t)
{
	for (uint32_t i = 0; i < CHANNELS; i++) {
		for (uint32_t k = 0; k < ENTRIES; k++) {
			if (t->lines[i].waiting[k] != 0)
				return true;
		}
	}
	return false;
}

/* While a dispatcher lives, everything completes. */
static void finish_all(struct crashes *t)
{
	uint64_t deadline_ns = clock_monotonic_ns() + 10000000000ull * harness_slowness();

	while (anything_waits(t)) {
		take_all(t);
		if (clock_monotonic_ns() > deadline_ns)
			fail_msg("an entry is never completed");
		sched_yield();
	}
}

static void spin(uint64_t ns)
{
	uint64_t start_ns = clock_monotonic_ns();

	while (clock_monotonic_ns() - start_ns < ns)
		shm_pause();
}

/* Waits until something completes: the dispatcher works. */
static void await_life(struct crashes *t)
{
	uint64_t before = t->completed;

	while (anything_waits(t) && t->completed == before) {
		take_all(t);
		sched_yield();
	}
}

/* The dispatcher is to die while it takes over, or in the midst of work. */
static void work_a_while(struct crashes *t)
{
	if (random_below(&t->rng, 3) == 0) {
		usleep((useconds_t)random_below(&t->rng, 1000));
		return;
	}
	await_life(t);
	for (uint64_t i = random_below(&t->rng, 50); i > 0; i--) {
		submit_some(t, &t->lines[random_below(&t->rng, CHANNELS)],
			1 + random_below(&t->rng, ENTRIES));
		spin(random_below(&t->rng, 20000));
		take_all(t);
	}
	for (uint32_t i = 0; i < CHANNELS; i++)
		submit_some(t, &t->lines[i], ENTRIES);
	spin(random_below(&t->rng, 100000));
}

/* --- The test ------------------------------------------------------------------------------ */

/* A dispatcher that lives long enough settles everything, and nothing comes twice. */
static void settle(struct crashes *t)
{
	pid_t pid = start_server(t);

	finish_all(t);
	usleep(1000);
	take_all(t);
	kill_server(pid);
}

static void crashes_create(struct crashes *t)
{
	const int prot = PROT_READ | PROT_WRITE, flags = MAP_SHARED | MAP_ANONYMOUS;
	char name[300], object[STATS_PATH_MAX];
	struct clock_line clock;
	int fd;

	t->page = mmap(NULL, sizeof(*t->page), prot, flags, -1, 0);
	t->ledger = mmap(NULL, ledger_bytes(CHANNELS, IN_FLIGHT), prot, flags, -1, 0);
	assert_true(t->page != MAP_FAILED && t->ledger != MAP_FAILED);
	clock_calibrate(&clock);
	clock_publish(t->page, &clock);
	snprintf(name, sizeof(name), "%s/crashes", harness_tmpdir());
	assert_int_equal(stats_create(name,
				 &(struct stats_sizes){.clients = 1,
					 .channels = CHANNELS,
					 .ops = op_count,
					 .graphs = 64,
					 .captures = 64},
				 &t->stats, &fd),
		0);
	close(fd);
	stats_name(name, object, sizeof(object));
	shm_unlink(object);
	assert_int_equal(cost_calibrate(&t->cost), 0);
	assert_non_null(op_find("softmax", &t->op));
	for (uint32_t i = 0; i < CHANNELS; i++)
		make_line(&t->lines[i], i);
	/* Only what has been taken over once has a ledger. */
	for (uint32_t i = 0; i < CHANNELS; i++)
		submit_some(t, &t->lines[i], 1);
	settle(t);
}

static void crashes_destroy(struct crashes *t)
{
	for (uint32_t i = 0; i < CHANNELS; i++)
		free_line(&t->lines[i]);
	stats_close(&t->stats);
	munmap(t->ledger, ledger_bytes(CHANNELS, IN_FLIGHT));
	munmap(t->page, sizeof(*t->page));
}

static uint64_t setting(const char *name, uint64_t otherwise)
{
	const char *text = getenv(name);

	return text != NULL ? strtoull(text, NULL, 0) : otherwise;
}

static void print_sums(const struct crashes *t)
{
	print_message("%llu completions, %llu of these lost\n", (unsigned long long)t->completed,
		(unsigned long long)t->lost);
}

static void test_dispatcher_dies_at_any_moment(void **state)
{
	uint64_t kills = setting("TEST_KILLS", harness_long() ? 20 * KILLS : KILLS);
	struct crashes t = {.rng.state = setting("TEST_SEED", (uint64_t)getpid())};

	print_message("TEST_SEED=%llu\n", (unsigned long long)t.rng.state);
	crashes_create(&t);
	for (uint64_t i = 0; i < kills / harness_slowness(); i++) {
		if (i % CHECK_EACH == 0)
			settle(&t);
		pid_t pid = start_server(&t);
		work_a_while(&t);
		kill_server(pid);
	}
	settle(&t);
	print_sums(&t);
	assert_true(t.lost > 0);
	crashes_destroy(&t);
}

/* --- Step by step -------------------------------------------------------------------------- */

/*
 * One thread does by hand what the dispatcher does: takes over, then serves one channel once. It
 * is stopped before the part that is looked at.
 */
static void walk(struct crashes *t, bool stop_at_recovery) __attribute__((noreturn));

static void walk(struct crashes *t, bool stop_at_recovery)
{
	struct dispatch *d = create_dispatch(t);
	struct channel *ch = create_channel(t, 0);

	ch->device_stats = d->stats;
	if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0)
		_exit(77);
	if (stop_at_recovery)
		raise(SIGSTOP);
	channel_recover(ch, d->ledger_entries, IN_FLIGHT);
	if (stop_at_recovery)
		_exit(0);
	raise(SIGSTOP);
	dispatch_channel_pass(d, ch);
	while (d->n_queued + d->n_executing > 0)
		dispatch_run(d);
	_exit(0);
}

static bool is_stopped_by(int status, int signal)
{
	return WIFSTOPPED(status) && WSTOPSIG(status) == signal;
}

/* Kills it after so many instructions. Returns how many it came to before its end. */
static uint64_t walk_and_die(struct crashes *t, bool stop_at_recovery, uint64_t steps)
{
	pid_t pid = fork();
	int status;
	uint64_t i;

	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		walk(t, stop_at_recovery);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
		harness_skip("ptrace() is not allowed here");
	if (!is_stopped_by(status, SIGSTOP))
		fail_msg("status %#x", status);
	for (i = 0; i < steps; i++) {
		assert_int_equal(ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL), 0);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		if (!is_stopped_by(status, SIGTRAP))
			break;
	}
	if (WIFSTOPPED(status))
		kill_server(pid);
	else
		assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	take_all(t);
	return i;
}

/* Dies within its work, its successors within the take-over, and the last one settles it all. */
static void test_dispatcher_dies_at_every_step(void **state)
{
	uint64_t walks = setting("TEST_KILLS", harness_long() ? 20 * WALKS : WALKS);
	struct crashes t = {.rng.state = setting("TEST_SEED", (uint64_t)getpid())};

	print_message("TEST_SEED=%llu\n", (unsigned long long)t.rng.state);
	crashes_create(&t);
	submit_some(&t, &t.lines[0], WALK_ENTRIES);
	uint64_t pass_steps = walk_and_die(&t, false, MAX_STEPS);
	uint64_t recovery_steps = walk_and_die(&t, true, MAX_STEPS);
	print_message("a pass has %llu instructions, a take-over %llu\n",
		(unsigned long long)pass_steps, (unsigned long long)recovery_steps);
	for (uint64_t i = 0; i < walks / harness_slowness(); i++) {
		settle(&t);
		submit_some(&t, &t.lines[0], WALK_ENTRIES);
		walk_and_die(&t, false, random_below(&t.rng, pass_steps));
		for (uint32_t k = 0; k < 3; k++)
			walk_and_die(&t, true, random_below(&t.rng, recovery_steps));
	}
	settle(&t);
	print_sums(&t);
	crashes_destroy(&t);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST_LONG(test_dispatcher_dies_at_any_moment, 300),
		HARNESS_TEST_LONG(test_dispatcher_dies_at_every_step, 300),
	};

	return harness_run("crashes", tests, sizeof(tests) / sizeof(tests[0]));
}
