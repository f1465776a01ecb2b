/* SPDX-License-Identifier: MIT */
/*
 * death.c: how soon gpuqd knows that a client was killed, and how soon everything of it is back.
 * Detected is the first of two: the hint, with which dispatch stops serving it, and the proof,
 * which begins the reclaim. gpuqd writes both times into its statistics; this process only kills.
 */
#include "bench/bench.h"

#include "client/gpuq.h"
#include "shm/stats.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#define KILLS_SMALL 300u
#define KILLS_LARGE 60u
#define MIB (1ull << 20)
#define LARGE (1ull << 30)
#define DEPTH 8u	  /* calls in flight */
#define WORK_N (1u << 18) /* elements of each: about a millisecond */
#define PATIENCE_NS 10000000000u
#define LOOK_NS 200000u
#define ALIVE_NS 3000000u /* a victim works for up to this long */
#define DETECT_P50_MS 0.2
#define DETECT_P99_MS 5.0
#define BACK_MS 5.0

struct victim_kind {
	const char *name;
	uint64_t resident;
	bool executing; /* operators on workers; else null operations */
};

/* Of each kill, in ns; in the order of the columns. */
enum { DETECT, HINT, PROOF, BACK, TIMES };

struct deaths {
	uint64_t *ns[TIMES];
	uint32_t n, hinted;
};

/* --- The victim ---------------------------------------------------------------------------- */

static struct gpuq_call *create_work(struct gpuq_channel *ch)
{
	struct gpuq_tensor in = {.dtype = GPUQ_F32, .rank = 1, .dims = {WORK_N}}, out = in;
	struct gpuq_call *call = NULL;
	const size_t bytes = WORK_N * sizeof(float);

	if (gpuq_alloc(ch, bytes, &in.data) < 0 || gpuq_alloc(ch, bytes, &out.data) < 0)
		return NULL;
	memset(in.data, 0, bytes);
	if (gpuq_call_create(ch, "softmax", &in, 1, &out, 1, NULL, 0, &call) < 0)
		return NULL;
	return call;
}

/* Keeps `depth` submissions in flight for ever. */
static void work(struct gpuq_channel *ch, struct gpuq_call *call, uint32_t depth, int ready_fd)
{
	const struct gpuq_submission s = {.call = call};
	struct gpuq_completion done;
	int r = 0;

	for (uint32_t i = 0; i < depth && r >= 0; i++)
		r = gpuq_submit(ch, &s, 1);
	if (write(ready_fd, &r, sizeof(r)) != sizeof(r))
		return;
	while (r >= 0) {
		r = gpuq_wait(ch, &done, 1, PATIENCE_NS);
		if (r == 1)
			r = gpuq_submit(ch, &s, 1);
	}
}

static _Noreturn void victim_main(
	const struct daemon *d, const struct victim_kind *kind, int ready_fd)
{
	const struct gpuq_options options = {.socket = d->socket, .name = "victim"};
	const struct gpuq_channel_options channel = {.arena_bytes = 4 * MIB};
	struct gpuq *g;
	struct gpuq_channel *ch;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	char *memory = mmap(
		NULL, kind->resident, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		_exit(1);
	/* In pages of the usual size: what takes long is giving back many. */
	(void)madvise(memory, kind->resident, MADV_NOHUGEPAGE);
	for (uint64_t at = 0; at < kind->resident; at += WIRE_PAGE_SIZE)
		memory[at] = 1;
	if (gpuq_connect(&options, &g) < 0 || gpuq_channel_open(g, &channel, &ch) < 0)
		_exit(1);
	struct gpuq_call *call = kind->executing ? create_work(ch) : NULL;
	if (call != NULL || !kind->executing)
		work(ch, call, kind->executing ? DEPTH : 1, ready_fd);
	_exit(1);
}

/* 0 when it works, or a negative error. */
static int victim_start(const struct daemon *d, const struct victim_kind *kind, pid_t *ret_pid)
{
	int fds[2], r = -EPIPE;

	if (pipe(fds) < 0)
		return -errno;
	*ret_pid = fork();
	if (*ret_pid == 0)
		victim_main(d, kind, fds[1]);
	close(fds[1]);
	if (*ret_pid < 0 || read(fds[0], &r, sizeof(r)) != sizeof(r))
		r = -EPIPE;
	close(fds[0]);
	return r < 0 ? r : 0;
}

/* --- One kill ------------------------------------------------------------------------------ */

static const struct stats_client *find_client(const struct stats *stats, pid_t pid)
{
	for (uint32_t i = 0; i < stats->header->max_clients; i++) {
		const struct stats_client *client = &stats->clients[i];
		if (client->state == STATS_CLIENT_CONNECTED && client->pid == (uint32_t)pid)
			return client;
	}
	return NULL;
}

static const struct stats_channel *find_channel(
	const struct stats *stats, const struct stats_client *client)
{
	for (uint32_t i = 0; i < stats->header->max_channels; i++) {
		const struct stats_channel *ch = &stats->channels[i];
		if (ch->state == STATS_CHANNEL_OPEN && &stats->clients[ch->client] == client &&
			ch->client_generation == client->generation)
			return ch;
	}
	return NULL;
}

static uint64_t since(uint64_t from_ns, uint64_t to_ns)
{
	return to_ns > from_ns ? to_ns - from_ns : 0;
}

/* What gpuqd has written about the end of a client that was killed at kill_ns. */
static void note_times(struct deaths *deaths, const struct stats_client *client,
	const struct stats_channel *ch, uint64_t kill_ns)
{
	uint64_t proof_ns = shm_load_relaxed(&client->ended_ns);
	uint64_t hint_ns = shm_load_relaxed(&ch->held_ns);
	uint64_t drained_ns = shm_load_relaxed(&ch->drained_ns);
	uint64_t reclaimed_ns = shm_load_relaxed(&client->reclaimed_ns);
	uint64_t first_ns = hint_ns != 0 && hint_ns < proof_ns ? hint_ns : proof_ns;

	deaths->ns[DETECT][deaths->n] = since(kill_ns, first_ns);
	deaths->ns[PROOF][deaths->n] = since(kill_ns, proof_ns);
	deaths->ns[BACK][deaths->n] =
		since(drained_ns > proof_ns ? drained_ns : proof_ns, reclaimed_ns);
	if (hint_ns != 0)
		deaths->ns[HINT][deaths->hinted++] = since(kill_ns, hint_ns);
	deaths->n++;
}

static int kill_one(struct bench *b, const struct stats *stats, pid_t pid, struct deaths *deaths)
{
	const struct stats_header *h = stats->header;
	const struct clock_line clock = {h->ticks_base, h->ns_base, h->mult, h->shift};
	const struct stats_client *client = find_client(stats, pid);
	const struct stats_channel *ch = client != NULL ? find_channel(stats, client) : NULL;

	if (ch == NULL)
		return -ENOENT;
	b->seed = b->seed * 6364136223846793005u + 1442695040888963407u;
	sleep_ns(1 + (b->seed >> 33) % ALIVE_NS);
	uint64_t kill_ns = clock_now_ns(&clock);
	kill(pid, SIGKILL);
	while (shm_load_acquire(&client->reclaimed_ns) == 0) {
		if (clock_now_ns(&clock) - kill_ns > PATIENCE_NS)
			return -ETIMEDOUT;
		/* The dying process needs this CPU. */
		sleep_ns(LOOK_NS);
	}
	note_times(deaths, client, ch, kill_ns);
	return 0;
}

/* --- Tables -------------------------------------------------------------------------------- */

static double quantile_ms(const uint64_t *sorted_ns, uint32_t n, double fraction)
{
	return n == 0 ? NAN : (double)sorted_ns[(uint32_t)(fraction * (n - 1) + 0.5)] / 1e6;
}

static json_t *samples_json(const uint64_t *ns, uint32_t n)
{
	json_t *array = json_array();

	for (uint32_t i = 0; i < n; i++)
		json_array_append_new(array, json_integer((json_int_t)ns[i]));
	return array;
}

static void report_kind(struct bench *b, const struct victim_kind *kind, struct deaths *deaths)
{
	static const char *const names[TIMES] = {
		"detected", "  by the hint", "proof", "all back, after proof and last kernel"};
	char title[80];

	printf("\n====== death: %s, %u killed ======\n", kind->name, deaths->n);
	printf("%-38s %10s %10s %10s\n", "ms", "p50", "p99", "max");
	for (uint32_t i = 0; i < TIMES; i++) {
		uint32_t n = i == HINT ? deaths->hinted : deaths->n;
		const uint64_t *ns = deaths->ns[i];
		qsort(deaths->ns[i], n, sizeof(*ns), compare_ns);
		if (n > 0)
			printf("%-38s %10.3f %10.3f %10.3f\n", names[i], quantile_ms(ns, n, 0.5),
				quantile_ms(ns, n, 0.99), quantile_ms(ns, n, 1));
	}
	printf("the hint came before the proof for %u of %u\n", deaths->hinted, deaths->n);
	snprintf(title, sizeof(title), "death: %s", kind->name);
	report_json(b, title,
		json_pack("{s:i,s:o,s:o,s:o,s:o}", "kills", (int)deaths->n, "detected_ns",
			samples_json(deaths->ns[DETECT], deaths->n), "hint_ns",
			samples_json(deaths->ns[HINT], deaths->hinted), "proof_ns",
			samples_json(deaths->ns[PROOF], deaths->n), "back_ns",
			samples_json(deaths->ns[BACK], deaths->n)));
	report_check(b, quantile_ms(deaths->ns[DETECT], deaths->n, 0.5), DETECT_P50_MS,
		"%s: detected, p50 in ms", title);
	report_check(b, quantile_ms(deaths->ns[DETECT], deaths->n, 0.99), DETECT_P99_MS,
		"%s: detected, p99 in ms", title);
	report_check(b, quantile_ms(deaths->ns[BACK], deaths->n, 0.99), BACK_MS,
		"%s: all back, p99 in ms", title);
}

static int kill_many(struct bench *b, const struct daemon *d, const struct stats *stats,
	const struct victim_kind *kind, struct deaths *deaths)
{
	uint64_t most = kind->resident < LARGE ? KILLS_SMALL : KILLS_LARGE;
	uint64_t wanted = kind->resident < LARGE ? b->samples : b->samples / 10;
	uint64_t kills = wanted > 0 && wanted < most ? wanted : most;
	int r = 0;

	for (uint32_t i = 0; i < TIMES; i++) {
		deaths->ns[i] = calloc(kills, sizeof(uint64_t));
		r = deaths->ns[i] == NULL ? -ENOMEM : r;
	}
	for (uint64_t i = 0; i < kills && r == 0; i++) {
		pid_t pid = 0;
		progress("death: %s, %llu of %llu", kind->name, (unsigned long long)i + 1,
			(unsigned long long)kills);
		r = victim_start(d, kind, &pid);
		if (r == 0)
			r = kill_one(b, stats, pid, deaths);
		pair_end(pid);
	}
	progress("%s", "");
	return r;
}

static int measure_kind(struct bench *b, const struct daemon *d, const struct stats *stats,
	const struct victim_kind *kind)
{
	struct deaths deaths = {0};
	int r = kill_many(b, d, stats, kind, &deaths);

	if (r == 0)
		report_kind(b, kind, &deaths);
	else
		complain(r, "death: %s: cannot be measured", kind->name);
	for (uint32_t i = 0; i < TIMES; i++)
		free(deaths.ns[i]);
	return r;
}

int bench_death(struct bench *b)
{
	static const struct victim_kind kinds[] = {
		{"1 MiB resident, null operations", MIB, false},
		{"1 MiB resident, operators executing", MIB, true},
		{"1 GiB resident, null operations", LARGE, false},
		{"1 GiB resident, operators executing", LARGE, true},
	};
	struct daemon daemon;
	struct stats stats = {0};
	int r = daemon_start(b, &daemon);

	if (r < 0)
		return r;
	r = stats_open(daemon.socket, false, &stats);
	if (r < 0)
		complain(r, "the statistics of gpuqd cannot be read");
	/*
	 * Victims die on the other CPU than dispatch's: on that one the kernel may let it wait for
	 * milliseconds behind a process whose memory it is taking apart.
	 */
	cpus_pin(0, b->client_cpu, b->client_cpu);
	for (uint32_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]) && r == 0; i++)
		r = measure_kind(b, &daemon, &stats, &kinds[i]);
	stats_close(&stats);
	daemon_stop(&daemon);
	return r;
}
