/* SPDX-License-Identifier: MIT */
/* measure.c: contenders take turns; their samples become histograms. */
#include "bench/bench.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define SILENCE_S 120 /* a round that takes longer will never end */

void sleep_ns(uint64_t ns)
{
	struct timespec ts = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};

	while (nanosleep(&ts, &ts) < 0 && errno == EINTR)
		;
}

int sample_apart(const struct clock_line *clock, uint64_t *ret_ns, uint64_t n, uint64_t gap_ns,
	int (*trip)(void *), void *arg)
{
	for (uint64_t i = 0; i < n; i++) {
		sleep_ns(gap_ns);
		uint64_t start_ns = clock_now_ns(clock);
		int r = trip(arg);
		if (r < 0)
			return r;
		ret_ns[i] = clock_now_ns(clock) - start_ns;
	}
	return 0;
}

static void silence(int signal_number)
{
	static const char text[] = "gpuq-bench: no answer from the other side; giving up\n";

	(void)!write(STDERR_FILENO, text, sizeof(text) - 1);
	_exit(1);
}

void watchdog(bool on)
{
	signal(SIGALRM, silence);
	alarm(on ? SILENCE_S : 0);
}

/* --- The second process -------------------------------------------------------------------- */

static _Noreturn void pair_child(const struct bench *b, struct contender *c, int go_fd)
{
	uint64_t n;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	cpus_pin(0, b->server_cpu, b->server_cpu);
	while (read(go_fd, &n, sizeof(n)) == sizeof(n))
		if (c->serve(c->state, n) < 0)
			break;
	_exit(0);
}

pid_t pair_fork(const struct bench *b, void (*run)(void *state), void *state)
{
	pid_t pid = fork();

	if (pid != 0)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	cpus_pin(0, b->server_cpu, b->server_cpu);
	run(state);
	_exit(0);
}

void pair_end(pid_t pid)
{
	if (pid <= 0)
		return;
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static int pair_start(const struct bench *b, struct contender *c)
{
	int fds[2];

	c->go_fd = -1;
	if (c->serve == NULL)
		return 0;
	if (pipe(fds) < 0)
		return -errno;
	c->pid = fork();
	if (c->pid == 0) {
		close(fds[1]);
		pair_child(b, c, fds[0]);
	}
	close(fds[0]);
	c->go_fd = fds[1];
	return c->pid < 0 ? -errno : 0;
}

static void pair_stop(struct contender *c)
{
	pair_end(c->pid);
	c->pid = 0;
	if (c->serve != NULL && c->go_fd >= 0)
		close(c->go_fd);
	c->go_fd = -1;
}

/* --- Samples ------------------------------------------------------------------------------- */

int compare_ns(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static uint64_t below(const uint64_t *sorted, uint64_t n, double limit)
{
	uint64_t low = 0, high = n;

	while (low < high) {
		uint64_t middle = low + (high - low) / 2;
		if ((double)sorted[middle] < limit)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/*
 * The median of sorted samples, with those that share a step of the clock spread evenly over it:
 * where the clock ticks every 10 ns, a plain median of 100 ns could be off by a tenth.
 */
static double fine_median(const uint64_t *sorted, uint64_t n, uint64_t step_ns)
{
	double low = (double)sorted[n / 2] - (double)step_ns / 2;
	uint64_t before = below(sorted, n, low);
	uint64_t inside = below(sorted, n, low + (double)step_ns) - before;

	return low + (double)step_ns * ((double)n / 2 - (double)before) / (double)inside;
}

/* xorshift; only spreads samples over a clock step. */
static double random_unit(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return (double)(*seed >> 11) / 9007199254740992.0;
}

static void series_fold(
	struct bench *b, struct series *s, const uint64_t *ns, uint64_t n, double unit_ns)
{
	for (uint64_t i = 0; i < n; i++) {
		double spread = (random_unit(&b->seed) - 0.5) * (double)b->clock_step_ns;
		double milli = 1000.0 * ((double)ns[i] + spread) / unit_ns;

		hist_add(s->ns, HIST_BENCH_BITS, ns[i]);
		hist_add(s->milli, HIST_BENCH_BITS, milli > 0 ? (uint64_t)milli : 0);
		s->max_ns = ns[i] > s->max_ns ? ns[i] : s->max_ns;
	}
	s->total += n;
}

static int series_prepare(struct series *s)
{
	if (s->ns == NULL)
		s->ns = calloc(BENCH_BUCKETS, sizeof(uint64_t));
	if (s->milli == NULL)
		s->milli = calloc(BENCH_BUCKETS, sizeof(uint64_t));
	return s->ns != NULL && s->milli != NULL ? 0 : -ENOMEM;
}

int series_add(
	struct bench *b, struct series *s, uint64_t *ns, uint64_t n, bool keep, double *unit_ns)
{
	if (n == 0)
		return 0;
	if (series_prepare(s) < 0)
		return -ENOMEM;
	qsort(ns, n, sizeof(*ns), compare_ns);
	double p50_ns = fine_median(ns, n, b->clock_step_ns);
	if (*unit_ns == 0)
		*unit_ns = p50_ns;
	if (!keep)
		return 0;
	if (s->rounds < BENCH_ROUNDS)
		s->round_p50_ns[s->rounds++] = p50_ns;
	series_fold(b, s, ns, n, *unit_ns);
	return 0;
}

double series_ratio(const struct series *s, double fraction)
{
	return (double)hist_quantile(s->milli, HIST_BENCH_BITS, fraction) / 1000.0;
}

uint64_t series_quantile_ns(const struct series *s, double fraction)
{
	return hist_quantile(s->ns, HIST_BENCH_BITS, fraction);
}

int compare_double(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

double series_typical_ns(const struct series *s)
{
	double sorted[BENCH_ROUNDS];

	if (s->rounds == 0)
		return 0;
	memcpy(sorted, s->round_p50_ns, s->rounds * sizeof(*sorted));
	qsort(sorted, s->rounds, sizeof(*sorted), compare_double);
	return sorted[s->rounds / 2];
}

/* --- Rounds -------------------------------------------------------------------------------- */

/* State of contenders_measure(). */
struct turns {
	struct bench *b;
	uint64_t *ns;
};

static uint64_t warm_samples(const struct contender *c)
{
	return c->per_round / 10 + 1;
}

/* One contender's turn; *unit_ns is the first contender's p50 of this round. */
static int take_turn(struct turns *t, struct contender *c, bool keep, double *unit_ns)
{
	uint64_t warm = warm_samples(c), n = warm + c->per_round;

	watchdog(true);
	if (c->serve != NULL && write(c->go_fd, &n, sizeof(n)) != sizeof(n))
		return -EPIPE;
	int r = c->run(c->state, &t->b->clock, t->ns, n);
	if (r < 0)
		return r;
	if (c->settle_ns > 0)
		sleep_ns(c->settle_ns);
	return series_add(t->b, &c->series, t->ns + warm, c->per_round, keep, unit_ns);
}

static int take_turns(struct turns *t, struct contender *set, uint32_t n, uint32_t rounds)
{
	for (uint32_t round = 0; round <= rounds; round++) {
		double unit_ns = 0;

		progress("%s: round %u/%u", set[n - 1].name, round, rounds);
		for (uint32_t i = 0; i < n; i++) {
			int r = take_turn(t, &set[i], round > 0, &unit_ns);
			if (r < 0) {
				complain(r, "%s failed in round %u", set[i].name, round);
				return r;
			}
		}
	}
	return 0;
}

static int prepare(struct bench *b, struct contender *set, uint32_t n, struct turns *ret_turns)
{
	uint64_t most = 0;

	for (uint32_t i = 0; i < n; i++) {
		uint64_t all = warm_samples(&set[i]) + set[i].per_round;
		most = all > most ? all : most;
		if (series_prepare(&set[i].series) < 0)
			return -ENOMEM;
		int r = pair_start(b, &set[i]);
		if (r < 0)
			return r;
	}
	ret_turns->b = b;
	ret_turns->ns = calloc(most, sizeof(uint64_t));
	return ret_turns->ns != NULL ? 0 : -ENOMEM;
}

int contenders_measure(struct bench *b, struct contender *set, uint32_t n, uint32_t rounds)
{
	struct turns turns = {0};

	signal(SIGPIPE, SIG_IGN);
	cpus_pin(0, b->client_cpu, b->client_cpu);
	int r = prepare(b, set, n, &turns);
	if (r < 0)
		complain(r, "cannot start the second process");
	else
		r = take_turns(&turns, set, n, rounds < BENCH_ROUNDS ? rounds : BENCH_ROUNDS);
	watchdog(false);
	for (uint32_t i = 0; i < n; i++)
		pair_stop(&set[i]);
	free(turns.ns);
	return r;
}

void contenders_free(struct contender *set, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		free(set[i].series.ns);
		free(set[i].series.milli);
		if (set[i].close != NULL)
			set[i].close(set[i].state);
		set[i] = (struct contender){0};
	}
}
