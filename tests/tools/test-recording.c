/* SPDX-License-Identifier: MIT */
/*
 * test-recording.c: the flight recorder as its readers see it: whole, overwritten, written at that
 * very moment, left by a writer that was killed, and taken up by the next one.
 */
#include "tests/harness.h"

#include "tools/recording.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define EVENTS 64u /* of dispatch's ring */

struct object {
	struct stats stats;
	int fd;
};

static void create(struct object *o, uint64_t events)
{
	const struct stats_sizes sizes = {.clients = 1,
		.channels = 1,
		.ops = 1,
		.graphs = 1,
		.captures = 1,
		.models = 1,
		.sessions = 1,
		.pipelines = 1,
		.recorder_events = events};

	assert_int_equal(stats_create_private(&sizes, &o->stats, &o->fd), 0);
}

static void destroy(struct object *o)
{
	stats_close(&o->stats);
	close(o->fd);
}

/* Every field of an event tells its number, so that a torn one shows. */
static void put(struct recorder *r)
{
	const uint64_t n = r->next;
	const struct recorder_event e = {
		.kind = RECORDER_SEEN,
		.time_ns = n,
		.ticket = n,
		.channel = (uint32_t)n,
		.generation = (uint32_t)n,
		.words = {n, n, n, n},
	};

	recorder_put(r, &e);
}

static void put_many(struct recorder *r, uint64_t n)
{
	for (uint64_t i = 0; i < n; i++)
		put(r);
}

static void check(const struct recorder_event *e, uint64_t n)
{
	bool whole = e->kind == RECORDER_SEEN && e->time_ns == n && e->ticket == n &&
		e->channel == (uint32_t)n && e->generation == (uint32_t)n;

	for (uint32_t i = 0; i < 4; i++)
		whole = whole && e->words[i] == n;
	if (!whole)
		fail_msg("event %llu is torn: kind %u time %llu ticket %llu words %llu %llu",
			(unsigned long long)n, e->kind, (unsigned long long)e->time_ns,
			(unsigned long long)e->ticket, (unsigned long long)e->words[0],
			(unsigned long long)e->words[3]);
}

static struct recording open_recording(const struct object *o)
{
	struct recording r;

	assert_int_equal(recording_open(dup(o->fd), o->stats.header, &r), 0);
	return r;
}

/* A ring holds these events, and has lost so many. */
static void expect(const struct recording *r, enum recorder_writer writer, uint64_t first,
	uint64_t n, uint64_t lost)
{
	const struct recording_ring *ring = &r->rings[writer];

	if (ring->n != n || ring->lost != lost)
		fail_msg("%llu events and %llu lost, not %llu and %llu",
			(unsigned long long)ring->n, (unsigned long long)ring->lost,
			(unsigned long long)n, (unsigned long long)lost);
	for (uint64_t i = 0; i < n; i++)
		check(&ring->events[i], first + i);
}

static void nothing_is_recorded_when_it_is_off(void **state)
{
	struct recording r;
	struct object o;

	create(&o, 0);
	struct recorder writer = stats_recorder(&o.stats, RECORDER_DISPATCH);
	put_many(&writer, 3);
	recorder_put(NULL, &(struct recorder_event){0});
	assert_int_equal(recording_open(dup(o.fd), o.stats.header, &r), -ENODATA);
	destroy(&o);
}

static void rings_lie_inside_the_object(void **state)
{
	struct object o;

	assert_int_equal(recorder_ring_events(RECORDER_DISPATCH, 1), RECORDER_MIN_EVENTS);
	assert_int_equal(recorder_ring_events(RECORDER_DISPATCH, 100000), 131072);
	assert_int_equal(recorder_ring_events(RECORDER_CAPTURE, 131072), 8192);
	create(&o, 1000);
	assert_int_equal(o.stats.header->recorder_events, 1024);
	/* Rings lie behind each other, and the last one ends before the next table. */
	const uint64_t bytes = recorder_ring_offset(RECORDER_RINGS, 1024);
	assert_int_equal(bytes, 4 * 128 + 64 * (1024 + 3 * 64));
	assert_true(o.stats.header->recorder_offset + bytes <= o.stats.header->ops_offset);
	/* What an object says of itself is not believed beyond its size. */
	o.stats.header->recorder_events = 1u << 22;
	assert_false(stats_header_valid(o.stats.header, o.stats.bytes));
	o.stats.header->recorder_events = UINT64_MAX / 64;
	assert_false(stats_header_valid(o.stats.header, o.stats.bytes));
	o.stats.header->recorder_events = 1000;
	assert_false(stats_header_valid(o.stats.header, o.stats.bytes));
	o.stats.header->recorder_events = 1024;
	assert_true(stats_header_valid(o.stats.header, o.stats.bytes));
	destroy(&o);
}

static void the_last_events_are_there(void **state)
{
	struct object o;

	create(&o, EVENTS);
	struct recorder writer = stats_recorder(&o.stats, RECORDER_DISPATCH);
	struct recorder other = stats_recorder(&o.stats, RECORDER_CONTROL);
	put_many(&writer, 5);
	put_many(&other, 2);
	struct recording r = open_recording(&o);
	assert_int_equal(recording_read(&r), 0);
	expect(&r, RECORDER_DISPATCH, 0, 5, 0);
	expect(&r, RECORDER_CONTROL, 0, 2, 0);
	expect(&r, RECORDER_CAPTURE, 0, 0, 0);
	recording_close(&r);
	/* The record that would be written next may be half written: it is left out. */
	put_many(&writer, 1000);
	r = open_recording(&o);
	assert_int_equal(recording_read(&r), 0);
	expect(&r, RECORDER_DISPATCH, 1005 - EVENTS + 1, EVENTS - 1, 0);
	recording_close(&r);
	destroy(&o);
}

static void who_follows_misses_nothing_uncounted(void **state)
{
	struct object o;

	create(&o, EVENTS);
	struct recorder writer = stats_recorder(&o.stats, RECORDER_DISPATCH);
	put_many(&writer, 100);
	struct recording r = open_recording(&o);
	assert_int_equal(recording_skip(&r), 0);
	assert_int_equal(recording_read(&r), 0);
	expect(&r, RECORDER_DISPATCH, 0, 0, 0);
	for (uint32_t i = 0; i < 10; i++) {
		put_many(&writer, 40);
		assert_int_equal(recording_read(&r), 0);
	}
	expect(&r, RECORDER_DISPATCH, 100, 400, 0);
	put_many(&writer, 200);
	assert_int_equal(recording_read(&r), 0);
	assert_int_equal(r.rings[RECORDER_DISPATCH].n, 400 + EVENTS - 1);
	assert_int_equal(r.rings[RECORDER_DISPATCH].lost, 200 - (EVENTS - 1));
	check(&r.rings[RECORDER_DISPATCH].events[400], 700 - (EVENTS - 1));
	recording_close(&r);
	destroy(&o);
}

/* Writes as fast as it can, until it is killed or has written enough. */
static pid_t start_writer(const struct object *o, uint64_t n)
{
	pid_t pid = fork();

	if (pid == 0) {
		struct recorder writer = stats_recorder(&o->stats, RECORDER_DISPATCH);
		put_many(&writer, n);
		_exit(0);
	}
	assert_true(pid > 0);
	return pid;
}

static uint64_t written(const struct object *o)
{
	return stats_recorder(&o->stats, RECORDER_DISPATCH).next;
}

/* Numbers rise, every event is whole, and those that are missing are counted. */
static void check_followed(const struct recording_ring *ring)
{
	uint64_t missing = 0, next = 0;

	for (uint64_t i = 0; i < ring->n; i++) {
		const uint64_t n = ring->events[i].ticket;
		if (n < next)
			fail_msg("event %llu comes again", (unsigned long long)n);
		check(&ring->events[i], n);
		missing += n - next;
		next = n + 1;
	}
	assert_int_equal(missing, ring->lost);
}

static void no_event_is_torn(void **state)
{
	const uint64_t n = 1000000 / harness_slowness();
	struct object o;

	create(&o, EVENTS);
	struct recording r = open_recording(&o);
	assert_int_equal(recording_skip(&r), 0);
	pid_t pid = start_writer(&o, n);
	while (written(&o) < n)
		assert_int_equal(recording_read(&r), 0);
	assert_int_equal(recording_read(&r), 0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	check_followed(&r.rings[RECORDER_DISPATCH]);
	assert_int_equal(r.rings[RECORDER_DISPATCH].n + r.rings[RECORDER_DISPATCH].lost, n);
	recording_close(&r);
	destroy(&o);
}

/* Killed anywhere, it leaves nothing that is torn; and its successor goes on behind it. */
static void a_killed_writer_leaves_whole_events(void **state)
{
	struct object o;

	create(&o, EVENTS);
	for (uint32_t i = 1; i <= 20; i++) {
		const uint64_t before = written(&o);
		pid_t pid = start_writer(&o, UINT64_MAX);
		while (written(&o) < before + 2 * EVENTS)
			usleep(50 * i);
		kill(pid, SIGKILL);
		assert_int_equal(waitpid(pid, NULL, 0), pid);
		const uint64_t end = written(&o);
		struct recording r = open_recording(&o);
		assert_int_equal(recording_read(&r), 0);
		expect(&r, RECORDER_DISPATCH, end - EVENTS + 1, EVENTS - 1, 0);
		recording_close(&r);
	}
	destroy(&o);
}

/* Somebody has cut the file meanwhile. */
static void a_cut_object_is_refused(void **state)
{
	char path[300];
	struct object o;

	create(&o, EVENTS);
	struct recorder writer = stats_recorder(&o.stats, RECORDER_DISPATCH);
	put_many(&writer, 5);
	snprintf(path, sizeof(path), "%s/copy", harness_tmpdir());
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(write(fd, o.stats.header, o.stats.bytes), o.stats.bytes);
	struct recording r;
	assert_int_equal(recording_open(fd, o.stats.header, &r), 0);
	assert_int_equal(ftruncate(fd, (off_t)o.stats.header->recorder_offset), 0);
	assert_int_equal(recording_read(&r), -EPROTO);
	recording_close(&r);
	destroy(&o);
}

int main(void)
{
	const struct harness_test tests[] = {
		HARNESS_TEST(nothing_is_recorded_when_it_is_off),
		HARNESS_TEST(rings_lie_inside_the_object),
		HARNESS_TEST(the_last_events_are_there),
		HARNESS_TEST(who_follows_misses_nothing_uncounted),
		HARNESS_TEST(no_event_is_torn),
		HARNESS_TEST(a_killed_writer_leaves_whole_events),
		HARNESS_TEST(a_cut_object_is_refused),
	};

	return harness_run("tools-recording", tests, sizeof(tests) / sizeof(tests[0]));
}
