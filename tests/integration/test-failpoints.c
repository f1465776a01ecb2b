/* SPDX-License-Identifier: MIT */
/*
 * test-failpoints.c: processes die at every place that a build with the option `failpoints` has:
 * wherever a client, gpuqd's control process or its device process has just done a step that
 * another depends on. Afterwards all is back, and everything works.
 *
 * The tables of docs/wire.md say what is left at each of these places and who repairs it: every row
 * is named here with the place that stands for it.
 *
 * Every place of a client is tried at its first, its last and a middle pass; of those of gpuqd's
 * processes all that stand for a row, and in each run some of the others.
 *
 *	TEST_PLACE=NAME   only the places whose names begin so
 *	TEST_LONG=1       all places, and every pass of a client
 */
#include "tests/integration/tour.h"
#include "tests/integration/world.h"

#include "daemon/devlink.h"
#include "shm/clock.h"
#include "shm/failpoint.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define FIRED_MS 5000u
#define GRACE_MS 100u
#define TOURS 3		     /* before anybody dies */
#define DEATHS_OF_A_GPUQD 4u /* of its device process; it takes the next one for hopeless */

static struct failpoint_page *page;
static const char *model; /* NULL: none */

/* --- The rows of docs/wire.md -------------------------------------------------------------- */

struct table_row {
	const char *text;
	struct failpoint place; /* passed in a tour */
	const char *test;	/* or what else tests it: a function here, or another test's file */
};

static const struct table_row table[] = {
	{"connected, before MSG_HELLO", {"client.connected"}},
	{"sent MSG_HELLO", {"client.sent", MSG_HELLO}},
	{"read MSG_WELCOME, before MSG_ACK", {"client.answered", MSG_HELLO}},
	{"sent MSG_OPEN", {"client.sent", MSG_OPEN}},
	{"been sent MSG_OPENED, not read it", {""}, "test_descriptors_are_never_read"},
	{"written into the arena", {"client.block"}},
	{"written an entry, before storing `prod`", {"client.entry"}},
	{"stored `prod`, before ringing the bell", {"client.published"}},
	{"rung the bell", {"client.rung"}},
	{"stored a wish to be woken, before sleeping", {"client.wish"}},
	{"copied a completion, before storing `cons`", {"client.copied"}},
	{"asked for a buffer, before the answer", {"client.sent", MSG_BUFFER_ALLOC}},
	{"been granted a buffer, not accepted it", {""}, "test_a_grant_is_never_taken"},
	{"accepted a buffer", {"client.acknowledged", MSG_BUFFER_ACCEPT}},
	{"been sent a buffer's descriptor", {""}, "test_descriptors_are_never_read"},
	{"sent MSG_CLOSE", {"client.sent", MSG_CLOSE}},
	{"sent some pieces of a definition", {"client.answered", MSG_PIPELINE}},
	{"sent the last piece", {"client.sent", MSG_PIPELINE}},
	{"submitted a call of a pipeline", {"client.published"}},
	{"opened sessions, or has steps under way", {"client.published"}},
	{"sent MSG_ADMIN_LOAD", {""}, "test_a_load_goes_on"},
	{"submitted WIRE_OP_CAPTURE or WIRE_OP_SHAPE", {"client.published"}},
	/* The device process. */
	{"been given a channel, before answering", {"device.told", DEVLINK_ADD}},
	{"read `prod`, copied entries, before the commit", {"dispatch.copied", WIRE_OP_NULL}},
	{"committed them as accepted", {"dispatch.noted"}},
	{"executed an operator, in whole or in part", {"dispatch.executed"}},
	{"written a completion, before the commit", {"dispatch.written"}},
	{"committed a completion, before storing `prod`", {"dispatch.committed"}},
	{"stored `prod`, before ringing the bell", {"dispatch.published"}},
	{"stored `cons`, before anything else", {"dispatch.released"}},
	{"been told to remove a channel", {"device.told", DEVLINK_REMOVE}},
	{"been given a pipeline, before or after answering", {"device.answered", DEVLINK_PIPELINE}},
	{"captured shapes", {""}, "tests/graphs/test-hot-list.c"},
	{"seen that the device has failed", {""}, "test_a_failed_device"},
	{"been asked for a buffer, before answering", {"device.told", DEVLINK_BUFFER}},
	{"been given a model, before or after answering", {"device.told", DEVLINK_MODEL}},
	{"opened sessions", {"dispatch.session", WIRE_SESSION_OPEN}},
	{"allocated buffers", {"device.answered", DEVLINK_BUFFER}},
	{"been told that a holder leaves, or that a buffer goes",
		{"device.told", DEVLINK_BUFFER_REVOKE}},
	{"stored a wish to be woken", {"dispatch.wish"}},
	/* The control process. */
	{"taken the lock, before the socket", {"control.locked"}},
	{"bound the socket", {"control.bound"}},
	{"made the statistics object, before its magic", {"control.stats_made"}},
	{"published the statistics", {"control.stats_formatted"}},
	{"made a segment, not sent it", {"control.segment_made"}},
	{"sent a segment", {"control.answered", MSG_OPENED}},
	{"sent a goodbye", {""}, "test_a_goodbye"},
};
#define ROWS (sizeof(table) / sizeof(table[0]))

static bool of_a_model(const struct failpoint *f)
{
	return strcmp(f->name, "dispatch.session") == 0 ||
		(strcmp(f->name, "device.told") == 0 && f->number == DEVLINK_MODEL);
}

/* --- Places -------------------------------------------------------------------------------- */

static void arm(const struct failpoint *place, uint32_t count, enum failpoint_action action)
{
	page->place = *place;
	page->count = count;
	page->action = action;
	page->fired = 0;
	shm_store_release_u32(&page->armed, 1);
}

static void disarm(void)
{
	shm_store_release_u32(&page->armed, 0);
}

static bool fired_within(uint32_t ms)
{
	for (uint32_t i = 0; i < ms * harness_slowness(); i++) {
		if (shm_load_acquire_u32(&page->fired) != 0)
			return true;
		poll(NULL, 0, 1);
	}
	return false;
}

static const struct failpoint *find(const char *name, uint32_t number)
{
	for (uint32_t i = 0; i < page->n_seen && i < FAILPOINT_SEEN_MAX; i++) {
		const struct failpoint *f = &page->seen[i];
		if (f->number == number && strcmp(f->name, name) == 0)
			return f;
	}
	return NULL;
}

static bool has_row(const struct failpoint *f)
{
	for (uint32_t i = 0; i < ROWS; i++) {
		if (table[i].place.number == f->number && strcmp(table[i].place.name, f->name) == 0)
			return true;
	}
	return false;
}

/*
 * Those of some processes that a tour has passed, without repetitions. Where each costs a start of
 * gpuqd, those with a row in the tables and one in `share` of the others, unless it is a long run.
 */
static uint32_t places_of(const char *const *prefixes, uint32_t share, struct failpoint *ret_places)
{
	const char *only = getenv("TEST_PLACE");
	uint32_t n = 0, turn = (uint32_t)getpid();

	for (uint32_t i = 0; i < page->n_seen && i < FAILPOINT_SEEN_MAX; i++) {
		const struct failpoint *f = &page->seen[i];
		bool wanted = false;
		for (uint32_t k = 0; prefixes[k] != NULL; k++)
			wanted |= strncmp(f->name, prefixes[k], strlen(prefixes[k])) == 0;
		/* A child of the device process tells these, which nobody waits for. */
		if (f->number == DEVLINK_PRESENT && strncmp(f->name, "device.", 7) == 0)
			wanted = false;
		if (only != NULL && strncmp(f->name, only, strlen(only)) != 0)
			wanted = false;
		if (!wanted || find(f->name, f->number) != f)
			continue;
		if (has_row(f) || only != NULL || harness_long() || turn++ % share == 0)
			ret_places[n++] = *f;
	}
	return n;
}

/* --- gpuqd and tours ----------------------------------------------------------------------- */

/* "NAME=FOLDER" of the model. */
static const char *model_option(void)
{
	static char text[400];

	snprintf(text, sizeof(text), "%s=%s", model, harness_source("models/tiny"));
	return text;
}

static void await_model(const struct harness_daemon *d)
{
	struct stats s = raw_stats(d);

	raw_await(s.devices[0].state == STATS_DEVICE_READY);
	raw_await(model == NULL || s.models[0].state == MSG_MODEL_READY);
	stats_close(&s);
}

static struct harness_daemon *start_gpuqd(void)
{
	const char *args[] = {"--hot-list", "", "--log", "warn", "--kv-bytes", "1M",
		model != NULL ? "--model" : NULL, model_option(), NULL};

	struct harness_daemon *d = harness_daemon_start(args);
	await_model(d);
	return d;
}

static void begin(void)
{
	char path[300];

	snprintf(path, sizeof(path), "%s/failpoints", harness_tmpdir());
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, sizeof(*page)), 0);
	page = mmap(NULL, sizeof(*page), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_true(page != MAP_FAILED);
	close(fd);
	setenv("GPUQ_FAILPOINTS", path, 1);
#ifdef TEST_MODEL
	model = "tiny";
#endif
}

/* A client in a process of its own makes the tour; its exit status is the error. */
static pid_t start_tour(void)
{
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid > 0)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	int r = tour(model);
	if (r == 0)
		_exit(0);
	if (tour_lost_device(r))
		_exit(1);
	if (tour_lost_gpuqd(r))
		_exit(2);
	print_message("a tour ended with %s: %s\n", gpuq_error_name(r), gpuq_error_detail());
	_exit(3);
}

enum { FINE = 0, LOST_DEVICE = 1, LOST_GPUQD = 2, KILLED = 128 + SIGKILL };

static int end_of(pid_t pid)
{
	int status;

	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

static void check_tour(const struct failpoint *place)
{
	int end = end_of(start_tour());

	if (end != FINE)
		fail_msg("after a death at %s %u a tour ends with %d", place->name, place->number,
			end);
}

static bool is_empty(const struct world *w)
{
	return w->clients == 0 && w->dying == 0 && w->channels == 0 && w->segment_bytes == 0 &&
		w->buffers == 0 && w->pipelines == 0 && w->sessions == 0 && w->in_flight == 0;
}

static bool holds_nothing(const struct harness_daemon *d)
{
	struct world w = world_look(d);

	return is_empty(&w);
}

static struct world await_empty(const struct harness_daemon *d)
{
	struct world w;

	raw_await((w = world_look(d), is_empty(&w)));
	return w;
}

/* Everything that a tour passes is seen, and what only first uses need is in memory. */
static struct world first_tours(const struct harness_daemon *d)
{
	for (int i = 0; i < TOURS; i++)
		assert_int_equal(end_of(start_tour()), FINE);
	return await_empty(d);
}

/* --- Clients ------------------------------------------------------------------------------- */

static void kill_client_at(const struct failpoint *place, uint32_t count)
{
	arm(place, count, FAILPOINT_KILL);
	int end = end_of(start_tour());
	disarm();
	/* How often it sleeps and rings depends on how fast gpuqd is. */
	if (end == FINE && count > 1)
		return;
	if (end != KILLED || page->fired == 0)
		fail_msg("a client that was to die at %s %u (%u) ended with %d", place->name,
			place->number, count, end);
}

/* The first, one in the middle, the last. */
static uint32_t next_pass(uint32_t k, uint32_t passes)
{
	if (k == 1 && passes > 2)
		return passes / 2 + 1;
	return k < passes ? passes : passes + 1;
}

static void test_clients_die_everywhere(void **state)
{
	static const char *const prefixes[] = {"client.", NULL};
	static struct failpoint places[FAILPOINT_SEEN_MAX];

	begin();
	struct harness_daemon *d = start_gpuqd();
	struct world before = first_tours(d);
	uint32_t n = places_of(prefixes, 1, places);

	for (uint32_t i = 0; i < n; i++) {
		/* What is submitted differs from one pass to the next. */
		uint32_t passes = places[i].passes / TOURS;
		bool each = harness_long() || strcmp(places[i].name, "client.published") == 0;
		for (uint32_t k = 1; k <= passes; k = each ? k + 1 : next_pass(k, passes)) {
			kill_client_at(&places[i], k);
			world_await(d, &before);
		}
	}
	check_tour(&places[0]);
	print_message("%u places of clients\n", n);
	harness_daemon_destroy(d);
}

/* A client that has asked and does not read: the answer, with descriptors, waits in its queue. */
static void test_descriptors_are_never_read(void **state)
{
	static const struct failpoint places[] = {
		{"client.sent", MSG_OPEN}, {"client.sent", MSG_BUFFER_EXPORT}};
	int status;

	begin();
	struct harness_daemon *d = start_gpuqd();
	struct world before = first_tours(d);

	for (size_t i = 0; i < 2; i++) {
		uint32_t answered =
			find("control.answered", i == 0 ? MSG_OPENED : MSG_BUFFER)->passes;
		arm(&places[i], 1, FAILPOINT_STOP);
		pid_t pid = start_tour();
		assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
		assert_true(WIFSTOPPED(status));
		disarm();
		raw_await(find("control.answered", i == 0 ? MSG_OPENED : MSG_BUFFER)->passes >
			answered);
		kill(pid, SIGKILL);
		assert_int_equal(end_of(pid), KILLED);
		world_await(d, &before);
		check_tour(&places[i]);
	}
	harness_daemon_destroy(d);
}

static const struct stats_client *client_of(const struct stats *s, pid_t pid)
{
	for (uint32_t i = 0; i < s->header->max_clients; i++) {
		if (s->clients[i].state == STATS_CLIENT_CONNECTED &&
			s->clients[i].pid == (uint32_t)pid)
			return &s->clients[i];
	}
	return NULL;
}

/* Whom a buffer was granted dies, and its owner lives: nothing is left of the one. */
static void test_a_grant_is_never_taken(void **state)
{
	const struct gpuq_buf_options options = {.bytes = 4096};
	const struct stats_client *grantee;
	struct gpuq_buf *buf;
	struct gpuq *g;
	struct client owner;

	begin();
	struct harness_daemon *d = start_gpuqd();
	client_open(&owner, NULL);
	assert_int_equal(gpuq_buf_alloc(owner.g, &options, &buf), 0);
	pid_t pid = fork();
	if (pid == 0) {
		(void)gpuq_connect(NULL, &g);
		pause();
		_exit(1);
	}
	struct stats s = raw_stats(d);
	raw_await((grantee = client_of(&s, pid)) != NULL);
	assert_int_equal(gpuq_buf_grant(buf, (uint32_t)pid), 0);
	kill(pid, SIGKILL);
	assert_int_equal(end_of(pid), KILLED);
	raw_await(shm_load_acquire(&grantee->reclaimed_ns) != 0);
	assert_int_equal(gpuq_buf_grant(buf, (uint32_t)pid), -ESRCH);
	stats_close(&s);
	gpuq_buf_free(buf);
	client_close(&owner);
	(void)await_empty(d);
	harness_daemon_destroy(d);
}

/* --- Device processes ---------------------------------------------------------------------- */

/* A tour, and what gpuqd still does after it; whether its device process has come to the place. */
static bool dies_in_a_tour(struct harness_daemon *d, const struct failpoint *place)
{
	int end = end_of(start_tour());

	if (end != FINE && end != LOST_DEVICE)
		fail_msg("with a death at %s %u a tour ends with %d", place->name, place->number,
			end);
	raw_await(shm_load_acquire_u32(&page->fired) != 0 || holds_nothing(d));
	return shm_load_acquire_u32(&page->fired) != 0;
}

/*
 * The device process dies there: in a tour, or when it starts. To some places it comes in few
 * tours, or only with another estimate of what operators take, or just as it is killed here. The
 * next one is ready then.
 */
static void kill_device_at(struct harness_daemon *d, const struct failpoint *place)
{
	const uint64_t start_ns = clock_monotonic_ns();
	pid_t killed = 0, pid;

	arm(place, 1, FAILPOINT_KILL);
	if (!dies_in_a_tour(d, place)) {
		killed = world_device_pid(d);
		if (killed > 0)
			kill(killed, SIGKILL);
		while (!fired_within(FIRED_MS / 10) && !dies_in_a_tour(d, place)) {
			if (clock_monotonic_ns() - start_ns > PATIENCE_NS)
				fail_msg("no device process comes to %s %u", place->name,
					place->number);
		}
	}
	disarm();
	raw_await((pid = world_device_pid(d)) > 0 && pid != killed && pid != (pid_t)page->fired);
	await_model(d);
}

static void test_device_processes_die_everywhere(void **state)
{
	static const char *const prefixes[] = {"device.", "dispatch.", NULL};
	static struct failpoint places[FAILPOINT_SEEN_MAX];

	begin();
	struct harness_daemon *d = start_gpuqd();
	struct world before = first_tours(d);
	uint32_t n = places_of(prefixes, 3, places);

	for (uint32_t i = 0; i < n; i++) {
		if (world_look(d).device_restarts + 2 > DEATHS_OF_A_GPUQD) {
			harness_daemon_destroy(d);
			d = start_gpuqd();
			before = first_tours(d);
		}
		kill_device_at(d, &places[i]);
		check_tour(&places[i]);
		/* Another process: its memory says nothing. */
		struct world now;
		raw_await((now = world_look(d), world_is_back(&now, &before, UINT64_MAX)));
	}
	print_message("%u places of device processes\n", n);
	harness_daemon_destroy(d);
}

/* --- Control processes --------------------------------------------------------------------- */

/* A gpuqd that dies while it starts. */
static void die_at_start(const struct harness_daemon *d)
{
	const char *const argv[] = {getenv("GPUQ_TEST_GPUQD"), "--socket", d->socket,
		"--device=cpu", "--log=error", model != NULL ? "--model" : NULL, model_option(),
		NULL};
	pid_t pid = harness_spawn(argv, -1, -1);

	if (end_of(pid) != KILLED || page->fired == 0)
		fail_msg("a gpuqd that was to die at %s %u did not", page->place.name,
			page->place.number);
}

static struct harness_daemon *kill_control_at(
	struct harness_daemon *d, const struct failpoint *place)
{
	arm(place, 1, FAILPOINT_KILL);
	int end = end_of(start_tour());
	/* What gpuqd does when the client has gone belongs to the tour. */
	const bool in_tour = fired_within(GRACE_MS);
	if (end != FINE && !(in_tour && end == LOST_GPUQD))
		fail_msg("with a death at %s %u a tour ends with %d", place->name, place->number,
			end);
	harness_daemon_kill(d);
	if (!in_tour)
		die_at_start(d);
	disarm();
	free(d);
	return start_gpuqd();
}

static void test_control_processes_die_everywhere(void **state)
{
	static const char *const prefixes[] = {"control.", NULL};
	static struct failpoint places[FAILPOINT_SEEN_MAX];

	begin();
	struct harness_daemon *d = start_gpuqd();
	(void)first_tours(d);
	uint32_t n = places_of(prefixes, 4, places);

	for (uint32_t i = 0; i < n; i++) {
		d = kill_control_at(d, &places[i]);
		check_tour(&places[i]);
		(void)await_empty(d);
	}
	print_message("%u places of control processes\n", n);
	harness_daemon_destroy(d);
}

/* --- What no tour comes by ----------------------------------------------------------------- */

/* It dies when it has told everybody, before it can say why. */
static void test_a_failed_device(void **state)
{
	static const struct failpoint place = {"dispatch.lost_all"};
	const char *const args[] = {"--test-faults", "work:1=GPUQ_EDEVICE", "--log", "error", NULL};

	begin();
	model = NULL;
	struct harness_daemon *d = harness_daemon_start(args);
	arm(&place, 1, FAILPOINT_KILL);
	assert_int_equal(end_of(start_tour()), LOST_DEVICE);
	assert_true(fired_within(FIRED_MS));
	disarm();
	check_tour(&place);
	harness_daemon_destroy(d);
}

/* It dies when it has said goodbye to the first of two. */
static void test_a_goodbye(void **state)
{
	static const struct failpoint place = {"control.answered", MSG_GOODBYE};
	struct client c, other;

	begin();
	struct harness_daemon *d = start_gpuqd();
	client_open(&c, NULL);
	client_open(&other, NULL);
	arm(&place, 1, FAILPOINT_KILL);
	kill(d->pid, SIGTERM);
	assert_true(fired_within(FIRED_MS));
	disarm();
	harness_daemon_kill(d);
	assert_int_equal(gpuq_alive(c.g), -GPUQ_EGONE);
	assert_int_equal(gpuq_alive(other.g), -GPUQ_EGONE);
	client_close(&c);
	client_close(&other);
	free(d);
	d = start_gpuqd();
	check_tour(&place);
	harness_daemon_destroy(d);
}

#ifdef TEST_MODEL
/* The administrator who has asked for it dies; it is loaded all the same. */
static void test_a_load_goes_on(void **state)
{
	static const struct failpoint place = {"client.sent", MSG_ADMIN_LOAD};
	const struct gpuq_options admin = {.admin = true};
	const struct gpuq_load_options load = {
		.name = "again", .dir = harness_source("models/tiny")};
	struct gpuq *g;

	begin();
	struct harness_daemon *d = start_gpuqd();
	arm(&place, 1, FAILPOINT_KILL);
	pid_t pid = fork();
	if (pid == 0) {
		if (gpuq_connect(&admin, &g) == 0)
			(void)gpuq_admin_load(g, &load);
		_exit(1);
	}
	assert_int_equal(end_of(pid), KILLED);
	disarm();
	struct stats s = raw_stats(d);
	raw_await(s.models[1].state == MSG_MODEL_READY);
	stats_close(&s);
	assert_int_equal(gpuq_connect(&admin, &g), 0);
	assert_int_equal(gpuq_admin_unload(g, "again", false), 0);
	gpuq_disconnect(g);
	(void)await_empty(d);
	check_tour(&place);
	harness_daemon_destroy(d);
}
#endif

/* --- The tables ---------------------------------------------------------------------------- */

/* The first cells of the tables of crash windows, in order. */
static uint32_t read_rows(char rows[][128], uint32_t max)
{
	char line[512];
	bool inside = false;
	uint32_t n = 0;
	FILE *f = fopen(harness_source("docs/wire.md"), "re");

	assert_non_null(f);
	while (fgets(line, sizeof(line), f) != NULL) {
		if (strncmp(line, "## ", 3) == 0)
			inside = strcmp(line, "## Crash windows\n") == 0;
		const char *end = strstr(line + 2, " |");
		if (!inside || strncmp(line, "| ", 2) != 0 || end == NULL ||
			strncmp(line, "| after it has", 14) == 0)
			continue;
		assert_true(n < max);
		snprintf(rows[n++], 128, "%.*s", (int)(end - line - 2), line + 2);
	}
	fclose(f);
	return n;
}

/*
 * What gpuqd runs on the dispatch thread must be short by its own measure, which other load can
 * make so long that nothing is.
 */
static bool may_be_missed(const struct harness_daemon *d, const struct failpoint *f)
{
	struct stats s = raw_stats(d);
	uint64_t runs = shm_load_relaxed(&s.devices[0].inline_runs);

	stats_close(&s);
	return runs == 0 &&
		(strcmp(f->name, "dispatch.noted") == 0 ||
			strcmp(f->name, "dispatch.executed") == 0);
}

static void test_every_row_has_a_test(void **state)
{
	static char rows[2 * ROWS][128];

	begin();
	struct harness_daemon *d = start_gpuqd();
	(void)first_tours(d);
	uint32_t n = read_rows(rows, 2 * ROWS);
	for (uint32_t i = 0; i < n && i < ROWS; i++)
		assert_string_equal(rows[i], table[i].text);
	assert_int_equal(n, ROWS);
	for (uint32_t i = 0; i < ROWS; i++) {
		const struct failpoint *f = &table[i].place;
		if (table[i].test != NULL && strchr(table[i].test, '/') != NULL)
			assert_int_equal(access(harness_source(table[i].test), R_OK), 0);
		if (table[i].test == NULL && (model != NULL || !of_a_model(f)) &&
			find(f->name, f->number) == NULL && !may_be_missed(d, f))
			fail_msg("\"%s\": a tour does not come to %s %u", table[i].text, f->name,
				f->number);
	}
	harness_daemon_destroy(d);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST_LONG(test_every_row_has_a_test, 60),
		HARNESS_TEST_LONG(test_clients_die_everywhere, 300),
		HARNESS_TEST_LONG(test_descriptors_are_never_read, 60),
		HARNESS_TEST_LONG(test_a_grant_is_never_taken, 60),
		HARNESS_TEST_LONG(test_device_processes_die_everywhere, 300),
		HARNESS_TEST_LONG(test_control_processes_die_everywhere, 300),
		HARNESS_TEST_LONG(test_a_failed_device, 60),
		HARNESS_TEST_LONG(test_a_goodbye, 60),
#ifdef TEST_MODEL
		HARNESS_TEST_LONG(test_a_load_goes_on, 60),
#endif
	};

	return harness_run("failpoints", tests, sizeof(tests) / sizeof(tests[0]));
}
