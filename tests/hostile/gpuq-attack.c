/* SPDX-License-Identifier: MIT */
/*
 * gpuq-attack: attackers against a private gpuqd, beside clients that behave. Throughout, gpuqd's
 * processes live on and what the others get is right; after each round, with nobody connected but
 * the landlord, gpuqd holds what it held before; in the end every class has done something.
 *
 *	gpuq-attack [--seconds N] [--seed N] [--attackers N] [--only CLASS] [--json FILE]
 *	gpuq-attack --latency [--seconds N] [--attackers N]
 *
 * --latency: only measures what the attackers cost a client that behaves; see latency.h.
 * --seconds: 5, more under a sanitizer, 120 with TEST_LONG=1; longer where some class had no turn.
 * It runs as one test of the harness, so gpuqd's log is shown when something was wrong. As root,
 * attackers are another user; else that is left out, and said. --seed repeats the choices.
 */
#include "tests/hostile/attackers.h"
#include "tests/hostile/latency.h"
#include "tests/hostile/neighbours.h"
#include "tests/hostile/options.h"
#include "tests/integration/world.h"

#include "shm/clock.h"

#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SECOND_NS 1000000000ull
#define WARM_UP_NS (2 * SECOND_NS)
#define ROUND_NS (20 * SECOND_NS)
#define PATIENCE_NS (20 * SECOND_NS * harness_slowness())
#define STALE_NS (harness_slowness() > 1 ? 30 * SECOND_NS : 15 * SECOND_NS)
#define SLACK_KIB 8192u
#define NEIGHBOURS 2u
#define TRUNCATIONS 12u
#define LOOK_MS 20

static struct {
	uint64_t seconds, seed, attackers;
	uint32_t only; /* 1 + the class */
	bool latency;
	const char *json;
	int progress_fd;
} options = {.attackers = 3};

struct siege {
	struct harness_daemon *daemon;
	struct stats stats;
	pid_t device_pid;
	struct landlord landlord;
	struct attack_common common;
	struct child neighbours[NEIGHBOURS];
	uint32_t n_neighbours;
	uint64_t completed[NEIGHBOURS]; /* when it was last looked at */
	uint64_t moved_ns[NEIGHBOURS];	/* when that last changed */
	uint64_t served[NEIGHBOURS];	/* in all rounds */
	struct attackers attackers;
	struct world before;
	uint64_t start_ns, shown_ns;
	uint32_t rounds;
};

static struct siege siege;

/* --- Starting and ending ------------------------------------------------------------------- */

static void start_all(struct siege *s)
{
	static void (*const bodies[NEIGHBOURS])(struct child *) = {
		neighbour_operators, neighbour_texts};

	for (uint32_t i = 0; i < s->n_neighbours; i++) {
		struct child *child = &s->neighbours[i];
		child->number = i;
		child->seed = options.seed + i;
		child->run = bodies[i];
		child_start(child);
		child_await_ready(child);
		s->completed[i] = 0;
		s->moved_ns[i] = clock_monotonic_ns();
	}
	attackers_start(&s->attackers);
}

static void stop_all(struct siege *s)
{
	attackers_stop(&s->attackers);
	for (uint32_t i = 0; i < s->n_neighbours; i++) {
		child_stop(&s->neighbours[i]);
		s->served[i] += shm_load_acquire(&s->neighbours[i].page->completed);
	}
}

/* --- What must hold ------------------------------------------------------------------------ */

static void check_log(const struct siege *s)
{
	static const char *const words[] = {
		"runtime error:", "Sanitizer", "Assertion", "terminate called"};
	char line[512];
	FILE *f = fopen(s->daemon->log, "re");

	assert_non_null(f);
	while (fgets(line, sizeof(line), f) != NULL) {
		for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
			if (strstr(line, words[i]) != NULL)
				fail_msg("gpuqd says: %s", line);
		}
	}
	fclose(f);
}

/* Both processes are those that began. */
static void check_alive(const struct siege *s)
{
	if (waitpid(s->daemon->pid, NULL, WNOHANG) != 0)
		fail_msg("gpuqd has ended");
	if (s->stats.header == NULL)
		return;
	if (shm_load_relaxed(&s->stats.header->device_restarts) != 0 ||
		(pid_t)s->stats.devices[0].pid != s->device_pid)
		fail_msg("the device process has ended");
}

static void check_neighbours(struct siege *s)
{
	const uint64_t now_ns = clock_monotonic_ns();

	for (uint32_t i = 0; i < s->n_neighbours; i++) {
		const uint64_t completed = shm_load_acquire(&s->neighbours[i].page->completed);

		if (completed != s->completed[i])
			s->moved_ns[i] = now_ns;
		s->completed[i] = completed;
		if (now_ns - s->moved_ns[i] > STALE_NS)
			fail_msg("neighbour %u does not get on", i);
		if (waitpid(s->neighbours[i].pid, NULL, WNOHANG) != 0)
			fail_msg("neighbour %u is not content", i);
	}
}

/* What is neither memory nor a counter. */
static bool same_holdings(const struct world *a, const struct world *b)
{
	return world_is_back(a, b, UINT64_MAX) && world_is_back(b, a, UINT64_MAX);
}

/*
 * Nobody is connected but the landlord: everything comes back. What takes long on a slow machine
 * goes on changing; what is lost stays as it is.
 */
static void check_accounts(struct siege *s)
{
	const uint64_t slack_kib = harness_slowness() > 1 ? UINT64_MAX : SLACK_KIB;
	struct world last = s->before, now = world_read(s->daemon->pid, &s->stats);
	uint64_t changed_ns = clock_monotonic_ns();

	while (!world_is_back(&now, &s->before, slack_kib)) {
		if (!same_holdings(&now, &last))
			changed_ns = clock_monotonic_ns();
		if (clock_monotonic_ns() - changed_ns > STALE_NS) {
			world_print("before", &s->before);
			world_print("now", &now);
			fail_msg("gpuqd does not come back to where it was");
		}
		raw_pause();
		last = now;
		now = world_read(s->daemon->pid, &s->stats);
	}
}

/* --- Classes ------------------------------------------------------------------------------- */

static uint64_t deeds(const struct siege *s, uint32_t class)
{
	return attackers_deeds(&s->attackers, class);
}

static bool wanted(uint32_t class)
{
	return options.only == 0 || options.only == class + 1;
}

/* The first class that has done nothing yet; ATTACK_CLASSES: there is none. */
static uint32_t idle_class(const struct siege *s)
{
	for (uint32_t i = 0; i < ATTACK_CLASSES; i++) {
		if (wanted(i) && deeds(s, i) == 0)
			return i;
	}
	return ATTACK_CLASSES;
}

static void show_progress(struct siege *s, uint64_t every_ns)
{
	const uint64_t now_ns = clock_monotonic_ns();
	uint64_t all = 0;

	if (now_ns - s->shown_ns < every_ns)
		return;
	s->shown_ns = now_ns;
	for (uint32_t i = 0; i < ATTACK_CLASSES; i++)
		all += deeds(s, i);
	dprintf(options.progress_fd, "%s%4.0f of %llu s: %llu deeds, neighbours served %llu%s",
		isatty(options.progress_fd) ? "\r" : "",
		(double)(now_ns - s->start_ns) / (double)SECOND_NS,
		(unsigned long long)options.seconds, (unsigned long long)all,
		(unsigned long long)(s->served[0] + s->served[1] + s->completed[0] +
			s->completed[1]),
		isatty(options.progress_fd) ? "" : "\n");
}

static void watch(struct siege *s, uint64_t ns)
{
	const uint64_t start_ns = clock_monotonic_ns();
	const struct timespec look = {.tv_nsec = LOOK_MS * 1000000l};

	while (clock_monotonic_ns() - start_ns < ns) {
		check_alive(s);
		check_neighbours(s);
		attackers_check(&s->attackers);
		show_progress(s, isatty(options.progress_fd) ? SECOND_NS : 30 * SECOND_NS);
		(void)nanosleep(&look, NULL);
	}
}

static void one_round(struct siege *s, uint64_t ns)
{
	start_all(s);
	watch(s, ns);
	stop_all(s);
	check_alive(s);
	landlord_check(&s->landlord);
	check_log(s);
}

/* --- The last act -------------------------------------------------------------------------- */

/*
 * The user that gpuqd runs as truncates its statistics. There is nothing to count with any more:
 * clients are served, and it ends well.
 */
static void truncate_statistics(struct siege *s)
{
	char name[STATS_PATH_MAX];
	struct random rng = {options.seed};
	off_t bytes = (off_t)s->stats.bytes;

	stats_close(&s->stats);
	s->stats.header = NULL;
	stats_name(s->daemon->socket, name, sizeof(name));
	for (uint32_t i = 0; i < TRUNCATIONS; i++) {
		int object = shm_open(name, O_RDWR | O_CLOEXEC, 0);

		/* gpuqd may have made it anew in between. */
		if (object >= 0) {
			assert_int_equal(
				ftruncate(object, (off_t)random_below(&rng, (uint64_t)bytes)), 0);
			if (i % 2 == 0)
				assert_int_equal(ftruncate(object, bytes), 0);
			close(object);
			shm_count(&s->attackers.pages[0].deeds[ATTACK_STATISTICS], 1);
		}
		int fd = raw_client(s->daemon->socket);
		raw_open_plain(fd);
		close(fd);
		landlord_check(&s->landlord);
		check_alive(s);
	}
	assert_int_equal(kill(s->device_pid, 0), 0);
}

/* --- The report ---------------------------------------------------------------------------- */

static void write_report(const struct siege *s, const char *outcome)
{
	FILE *f = options.json != NULL ? fopen(options.json, "we") : NULL;
	const double seconds = (double)(clock_monotonic_ns() - s->start_ns) / (double)SECOND_NS;

	if (f == NULL)
		return;
	fprintf(f,
		"{\"seed\": %llu, \"seconds\": %.1f, \"attackers\": %llu, \"stranger\": %s, "
		"\"rounds\": %u, \"outcome\": \"%s\",\n \"neighbours\": {\"operators\": %llu, "
		"\"texts\": %llu},\n \"deeds\": {",
		(unsigned long long)options.seed, seconds, (unsigned long long)options.attackers,
		s->common.stranger ? "true" : "false", s->rounds, outcome,
		(unsigned long long)s->served[0], (unsigned long long)s->served[1]);
	for (uint32_t i = 0; i < ATTACK_CLASSES; i++)
		fprintf(f, "%s\"%s\": %llu", i == 0 ? "" : ", ", attack_classes[i].name,
			(unsigned long long)deeds(s, i));
	fprintf(f, "}}\n");
	fclose(f);
}

static void print_report(const struct siege *s)
{
	dprintf(options.progress_fd, "%sseed %llu, %u rounds%s\n",
		isatty(options.progress_fd) ? "\n" : "", (unsigned long long)options.seed,
		s->rounds, s->common.stranger ? "" : "; attackers were gpuqd's own user");
	for (uint32_t i = 0; i < ATTACK_CLASSES; i++)
		dprintf(options.progress_fd, "  %-20s %12llu %s\n", attack_classes[i].name,
			(unsigned long long)deeds(s, i), attack_classes[i].deeds);
}

/* --- The run ------------------------------------------------------------------------------- */

/* Whether there is another user here who reaches the socket. */
static bool strangers_possible(const char *socket)
{
	int status = 1;
	pid_t pid = fork();

	if (pid == 0)
		_exit(attack_become_stranger() && access(socket, W_OK) == 0 ? 0 : 1);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status == 0;
}

static void begin(struct siege *s)
{
	char model[600];
	const char *const args[] = {ATTACK_FLAGS, TEST_HAS_MODEL ? model : NULL, NULL};

	snprintf(model, sizeof(model), "--model=" ATTACK_MODEL "=%s,deterministic=yes",
		harness_source("models/tiny"));
	assert_int_equal(chmod(harness_tmpdir(), 0755), 0);
	s->daemon = harness_daemon_start(args);
	s->stats = raw_stats(s->daemon);
	s->device_pid = (pid_t)s->stats.devices[0].pid;
	landlord_open(&s->landlord, s->daemon->socket, TEST_HAS_MODEL);
	landlord_check(&s->landlord);
	s->n_neighbours = TEST_HAS_MODEL ? 2 : 1;
	s->common = (struct attack_common){
		.seed = options.seed,
		.only = options.only,
		.stranger = strangers_possible(s->daemon->socket),
		.estate = s->landlord.estate,
	};
	memcpy(s->common.socket, s->daemon->socket, sizeof(s->common.socket));
	attackers_create(&s->attackers, &s->common, (uint32_t)options.attackers);
	s->start_ns = clock_monotonic_ns();
}

/* Notes what gpuqd holds when the landlord alone is there, and idle. */
static void await_quiet(struct siege *s)
{
	struct world *w = &s->before;

	do {
		raw_pause();
		*w = world_read(s->daemon->pid, &s->stats);
		if (clock_monotonic_ns() - s->start_ns > WARM_UP_NS + PATIENCE_NS)
			fail_msg("clients of the warm-up are still there");
	} while (w->clients > 1 || w->channels > 1 || w->dying > 0 || w->in_flight > 0 ||
		w->executing > 0 || w->kv_used > 0);
	if (w->buffers != 1 || w->pipelines != 1)
		fail_msg("the landlord has %llu buffers and %llu pipelines",
			(unsigned long long)w->buffers, (unsigned long long)w->pipelines);
}

static void besiege(struct siege *s)
{
	/* What only first uses bring into memory is there afterwards. */
	one_round(s, WARM_UP_NS);
	await_quiet(s);
	const uint64_t end_ns = clock_monotonic_ns() + options.seconds * SECOND_NS;
	/* A busy machine may need longer until every class has had its turn. */
	const uint64_t latest_ns = end_ns + 4 * PATIENCE_NS;
	for (uint64_t now_ns = 0; now_ns < end_ns; now_ns = clock_monotonic_ns()) {
		const uint64_t left_ns = end_ns - (now_ns == 0 ? clock_monotonic_ns() : now_ns);

		one_round(s, left_ns < ROUND_NS ? left_ns : ROUND_NS);
		check_accounts(s);
		s->rounds++;
	}
	while (idle_class(s) < ATTACK_CLASSES && clock_monotonic_ns() < latest_ns)
		one_round(s, SECOND_NS);
}

static void test_attack(void **state)
{
	struct siege *s = &siege;

	begin(s);
	write_report(s, "failed");
	besiege(s);
	if (wanted(ATTACK_STATISTICS))
		truncate_statistics(s);
	if (idle_class(s) < ATTACK_CLASSES)
		fail_msg("nothing was done of %s", attack_classes[idle_class(s)].name);
	landlord_close(&s->landlord);
	assert_int_equal(harness_daemon_stop(s->daemon), 0);
	check_log(s);
	harness_daemon_destroy(s->daemon);
	print_report(s);
	write_report(s, "passed");
}

/* --- Latency ---------------------------------------------------------------------------------- */

static void test_latency(void **state)
{
	struct siege *s = &siege;

	begin(s);
	latency_measure(&s->attackers, options.seconds, options.progress_fd);
	check_alive(s);
	stats_close(&s->stats);
	landlord_close(&s->landlord);
	harness_daemon_destroy(s->daemon);
}

/* --- Options ------------------------------------------------------------------------------- */

static int usage(void)
{
	fprintf(stderr,
		"usage: gpuq-attack [--seconds N] [--seed N] [--attackers 1..%u] "
		"[--only CLASS] [--json FILE] [--latency]\nclasses:",
		ATTACKERS_MAX);
	for (uint32_t i = 0; i < ATTACK_CLASSES; i++)
		fprintf(stderr, " %s", attack_classes[i].name);
	fprintf(stderr, "\n");
	return 2;
}

static bool take_only(const char *name)
{
	for (uint32_t i = 0; i < ATTACK_CLASSES; i++) {
		if (strcmp(name, attack_classes[i].name) == 0)
			options.only = 1 + i;
	}
	return options.only != 0;
}

static bool take_number(const char *text, uint64_t least, uint64_t most, uint64_t *ret)
{
	char *end;
	uint64_t v = strtoull(text, &end, 0);

	if (*text == '\0' || *end != '\0' || v < least || v > most)
		return false;
	*ret = v;
	return true;
}

static bool take_options(int argc, char **argv)
{
	static const struct option longs[] = {{"seconds", required_argument, NULL, 's'},
		{"seed", required_argument, NULL, 'r'}, {"attackers", required_argument, NULL, 'a'},
		{"only", required_argument, NULL, 'o'}, {"json", required_argument, NULL, 'j'},
		{"latency", no_argument, NULL, 'l'}, {NULL, 0, NULL, 0}};
	bool good = true;
	int option;

	while (good && (option = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		switch (option) {
		case 's':
			good = take_number(optarg, 1, 1000000, &options.seconds);
			break;
		case 'r':
			good = take_number(optarg, 0, UINT64_MAX, &options.seed);
			break;
		case 'a':
			good = take_number(optarg, 1, ATTACKERS_MAX, &options.attackers);
			break;
		case 'o':
			good = take_only(optarg);
			break;
		case 'j':
			options.json = optarg;
			break;
		case 'l':
			options.latency = true;
			break;
		default:
			good = false;
		}
	}
	return good && optind == argc;
}

int main(int argc, char **argv)
{
	static const struct harness_test attack[] = {HARNESS_TEST(test_attack)};
	static const struct harness_test latency[] = {HARNESS_TEST(test_latency)};
	char text[32];

	options.seed = (uint64_t)time(NULL);
	options.seconds = harness_long() ? 120 : harness_slowness() > 1 ? 75 : 5;
	if (!take_options(argc, argv))
		return usage();
	/* By hand it needs no environment. */
	setenv("GPUQ_TEST_BUILD", TEST_BUILD, 0);
	setenv("GPUQ_TEST_SOURCE", TEST_SOURCE, 0);
	setenv("GPUQ_TEST_GPUQD", TEST_BUILD "/daemon/gpuqd", 0);
	snprintf(text, sizeof(text), "%llu",
		(unsigned long long)(options.seconds + 300) * harness_slowness());
	setenv("TEST_TIMEOUT", text, 0);
	options.progress_fd = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
	dprintf(options.progress_fd, "seed %llu\n", (unsigned long long)options.seed);
	return harness_run("attack", options.latency ? latency : attack, 1);
}
