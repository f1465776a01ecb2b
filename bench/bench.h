/* SPDX-License-Identifier: MIT */
/*
 * bench.h: the common machinery of gpuq-bench.
 *
 * A measurement compares contenders. Each is a pair of processes, never of threads, pinned to
 * two CPUs: this process asks from the first, a forked one (or gpuqd) answers on the second. All
 * contenders of a table take turns in many short rounds, A B C A B C, so that a change of the
 * machine's mood (frequency, neighbours, a virtual CPU that moves to another cache) meets all of
 * them alike, and each round's samples are compared with the first contender's in that round.
 */
#ifndef GPUQ_BENCH_BENCH_H
#define GPUQ_BENCH_BENCH_H

#include "device/device.h"
#include "shm/clock.h"
#include "shm/hist.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define BENCH_MAX_CHECKS 128
#define BENCH_ROUNDS 50
#define BENCH_BUCKETS HIST_BUCKETS(HIST_BENCH_BITS)

/* A target and what was measured against it. */
struct check {
	char what[112];
	double value, limit; /* limit: NAN when there is none */
	bool at_least;	     /* the value must reach the limit instead of staying below */
	bool judged;	     /* false: reported only */
	bool pass;
};

struct bench {
	int client_cpu, server_cpu;
	uint64_t samples; /* 0: the measurement's own default */
	double seconds;	  /* likewise */
	const char *gpuqd, *socket, *python;
	const char *device;		/* "cpu", "cuda", "cuda:N" */
	const char *plot, *trace;	/* files to write; NULL: none */
	const char *shape;		/* of language models: see llm_shapes */
	const char *weights;		/* "bf16" or "int8" */
	const char *folder;		/* where the model lies; NULL: made for the time being */
	const char *tokens, *out;	/* of bench_values(): a list, and a folder */
	const char *gpuqd_arguments[3]; /* more of them; NULL ends the list */
	bool many_cpus;			/* gpuqd may use all CPUs */
	const char *command;		/* this program's command line */
	struct clock_line clock;
	uint64_t clock_step_ns; /* smallest difference that the clock shows */
	double clock_cost_ns;
	json_t *rows;
	struct check checks[BENCH_MAX_CHECKS];
	uint32_t n_checks;
	uint64_t seed; /* of the noise that spreads samples over a step of the clock */
};

/* What was measured of one contender. */
struct series {
	uint64_t *ns;	 /* histogram of nanoseconds */
	uint64_t *milli; /* histogram of thousandths of the first contender's p50 in that round */
	uint64_t total, max_ns;
	double round_p50_ns[BENCH_ROUNDS];
	uint32_t rounds;
};

struct contender {
	const char *name;
	void *state;
	/* In the second process: answers n times. NULL when gpuqd answers, or nobody needs to. */
	int (*serve)(void *state, uint64_t n);
	/* Asks n times and notes each duration. 0 or a negative error. */
	int (*run)(void *state, const struct clock_line *clock, uint64_t *ret_ns, uint64_t n);
	void (*close)(void *state); /* gives the state back; may be NULL */
	uint64_t per_round;	    /* samples */
	uint64_t settle_ns; /* the other side needs this long to fall asleep after a round */
	struct series series;
	pid_t pid;
	int go_fd;
};

/* --- measure.c ----------------------------------------------------------------------------- */

/*
 * Lets the contenders take turns for `rounds` (at most BENCH_ROUNDS) rounds after one to warm up.
 * Their series are filled; contenders_free() ends them. 0 or a negative error, already told.
 */
int contenders_measure(struct bench *b, struct contender *set, uint32_t n, uint32_t rounds);
void contenders_free(struct contender *set, uint32_t n);

/*
 * Adds the samples of one round, which are sorted. *unit_ns is the first contender's p50 of this
 * round; 0: this is the first one's. `keep` is false in a round to warm up. 0 or -ENOMEM.
 */
int series_add(
	struct bench *b, struct series *s, uint64_t *ns, uint64_t n, bool keep, double *unit_ns);

/* The value below which `fraction` of the series lies, in the first contender's p50. */
double series_ratio(const struct series *s, double fraction);
uint64_t series_quantile_ns(const struct series *s, double fraction);

/* For qsort(): ascending. */
int compare_ns(const void *a, const void *b);
int compare_double(const void *a, const void *b);

/* Median of the rounds' p50s, finer than the clock's step. */
double series_typical_ns(const struct series *s);

/* Samples of each round, of as many in total as the user wants or else the preset. */
static inline uint64_t per_round(const struct bench *b, uint64_t preset, uint32_t rounds)
{
	return (b->samples > 0 ? b->samples : preset) / rounds + 1;
}

/* The same for rows that sleep, a hundred times slower: no more than the preset. */
static inline uint64_t per_round_at_most(const struct bench *b, uint64_t preset, uint32_t rounds)
{
	return (b->samples > 0 && b->samples < preset ? b->samples : preset) / rounds + 1;
}

/* n times trip(), each timed from the end of the one before; trip is to be inlined. */
static inline __attribute__((always_inline)) int sample_back_to_back(const struct clock_line *clock,
	uint64_t *ret_ns, uint64_t n, int (*trip)(void *), void *arg)
{
	uint64_t last_ns = clock_now_ns(clock);

	for (uint64_t i = 0; i < n; i++) {
		int r = trip(arg);
		if (r < 0)
			return r;
		uint64_t now_ns = clock_now_ns(clock);
		ret_ns[i] = now_ns - last_ns;
		last_ns = now_ns;
	}
	return 0;
}

/* n times trip(), each after a pause in which both sides fall asleep. */
int sample_apart(const struct clock_line *clock, uint64_t *ret_ns, uint64_t n, uint64_t gap_ns,
	int (*trip)(void *), void *arg);

void sleep_ns(uint64_t ns);

/* Ends this program with a message when nobody feeds it for two minutes. */
void watchdog(bool on);

/* A second process, pinned to the second CPU, that runs until it is ended. -1: see errno. */
pid_t pair_fork(const struct bench *b, void (*run)(void *state), void *state);
void pair_end(pid_t pid);

/* --- machine.c ----------------------------------------------------------------------------- */

/*
 * The first CPU that this process may use and the first other one, of another core if there is
 * one; the same one twice when there is no other.
 */
void cpus_default(int *ret_first, int *ret_second);

/* How many these were at the start of this program. */
uint32_t cpus_count(void);

/* Pins a thread (0: the calling one) to up to two CPUs, or lets it use all. 0 or -errno. */
int cpus_pin(pid_t tid, int first, int second);
int cpus_free(pid_t tid);

/* What the numbers depend on, for people and for the JSON file. */
json_t *machine_describe(const struct bench *b);
void machine_print(const json_t *machine);

/* Runnable threads in the whole system now, this one included. */
uint32_t machine_running(void);

/* --- report.c ------------------------------------------------------------------------------ */

/* A progress message on standard error. */
void progress(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* A failure on standard error, `error` negative or 0 for none. */
void complain(int error, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Prints a table of contenders, the first one being `unit` ("F"), and keeps it for JSON. */
void report_table(struct bench *b, const char *title, const char *unit, const struct contender *set,
	uint32_t n);

/* States a target, prints whether it was met and keeps it for the summary. */
void report_check(struct bench *b, double value, double limit, const char *format, ...)
	__attribute__((format(printf, 4, 5)));
void report_check_at_least(struct bench *b, double value, double limit, const char *format, ...)
	__attribute__((format(printf, 4, 5)));

/* The same where the machine may not be one that the target is about: then it is not judged. */
void report_check_if(struct bench *b, bool judged, double value, double limit, const char *format,
	...) __attribute__((format(printf, 5, 6)));

/* A figure for the summary that has no target. */
void report_figure(struct bench *b, double value, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* A line on standard output beside the tables. */
void report_line(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Keeps a result that is no series. Takes the reference. */
void report_json(struct bench *b, const char *title, json_t *value);

void report_summary(const struct bench *b);

/* Writes everything to a file. 0 or a negative errno. */
int report_write(const struct bench *b, json_t *machine, const char *path);

/* --- daemon.c ------------------------------------------------------------------------------ */

/* A gpuqd to measure: a private one, or somebody's (--socket), which is left as it is. */
struct daemon {
	char directory[64]; /* of the private one's socket and log */
	char socket[108];
	pid_t pid, device_pid;
	bool private;
};

/*
 * Starts (or finds) gpuqd; its dispatcher is pinned to the second CPU, and on a CPU device that is
 * not to have `many_cpus` its other threads to both. 0 or a told error.
 */
int daemon_start(const struct bench *b, struct daemon *ret_daemon);
void daemon_stop(struct daemon *d);

/* Pins the dispatcher of a private gpuqd to a CPU, or lets it use all. */
void daemon_pin(const struct daemon *d, int cpu);
void daemon_free(const struct daemon *d);

/* CPU time that gpuqd's processes have used, and times that its dispatcher went to sleep. */
uint64_t daemon_cpu_ns(const struct daemon *d);
uint64_t daemon_sleeps(const struct daemon *d);

/* --- client.c ------------------------------------------------------------------------------ */

struct gpuq;
struct gpuq_channel;

/* A connection with one channel. */
struct client {
	struct gpuq *gpuq;
	struct gpuq_channel *channel;
	uint64_t next; /* user data of the next submission */
};

/* 0 or a told error. */
int client_open(const struct daemon *d, struct client *ret_client);
void client_close(struct client *c);

/* Null operation, seen by gpuq_wait(), by polling, or by an event loop that sleeps. */
int client_null_wait(void *client);
int client_null_poll(void *client);
int client_null_event(void *client);

/* A process that holds idle channels and otherwise sleeps. */
struct crowd {
	pid_t pid;
	int ask_fd, answer_fd;
};

int crowd_start(const struct daemon *d, struct crowd *ret_crowd);

/*
 * Opens `channels` channels on as few connections as their limits allow, or, when `connections`
 * is true, each on one of its own. Opening 0 closes all. 0 or a told error.
 */
int crowd_open(struct crowd *c, uint32_t channels, bool connections);
void crowd_stop(struct crowd *c);

/* --- contenders that tables put beside their own; each owns its state until freed ------------ */

int floor_contender(struct contender *c, bool pauses);
int ring_contender(struct contender *c);

/* Entries per second through bare rings with 256 in flight, from the client's CPU, for `ns`. */
int ring_rate(const struct bench *b, uint64_t ns, double *ret_per_second);

/* Two processes that block in read() for each other. */
enum ipc_kind { IPC_UNIX, IPC_PIPE, IPC_EVENTFD, IPC_BELLS };
#define IPC_KINDS 3 /* those of the null table; IPC_BELLS is an eventfd there, a pipe back */

/* gap_ns: pause before each sample. */
int ipc_contender(struct contender *c, enum ipc_kind kind, uint64_t gap_ns);

/* -ENOENT when the machine has no ZeroMQ. */
int zmq_contender(struct contender *c);

/* --- bandwidth.c --------------------------------------------------------------------------- */

/* So many bytes, in units of a piece, from pointers[0], or from there to pointers[1]. */
struct bandwidth {
	uint64_t bytes, piece;
};

/* Reads or copies on the CPU device; keeps a pointer to `b` until it is launched. */
struct device_kernel bandwidth_kernel(const struct bandwidth *b, bool copies);

/* --- blas.c -------------------------------------------------------------------------------- */

/* Looks for OpenBLAS, which then uses so many threads. -ENOENT: there is none. */
int blas_open(uint32_t threads);

/* y = x times the transposed w: x [rows, inputs], w [outputs, inputs], y [rows, outputs]. */
void blas_linear(
	const float *x, const float *w, float *y, uint64_t rows, uint64_t outputs, uint64_t inputs);

/* --- child.c ------------------------------------------------------------------------------- */

/* Runs a program, looked for in PATH, and returns the JSON that it prints; NULL: none. */
json_t *child_json(const char *const *argv);

/* --- fio.c --------------------------------------------------------------------------------- */

/*
 * Has fio read a file, from the page cache or from the disk: how much it read, of whole blocks, and
 * how long that took by its own account. -ENOENT: there is no fio; -EIO: it could not read so.
 */
int fio_read(const char *path, bool from_disk, uint64_t *ret_bytes, uint64_t *ret_ns);

/* --- python.c ------------------------------------------------------------------------------ */

/*
 * Runs a Python program with at most 12 arguments, the last one followed by NULL, and returns the
 * JSON that it prints. NULL, having said why, when it did not run or answers {"error": REASON}.
 */
json_t *python_measure(
	const struct bench *b, const char *what, const char *program, const char *const *arguments);

/* --- torch.c ------------------------------------------------------------------------------- */

/* Times the operators of bench_op() in PyTorch. NULL, having said why, when that cannot be done. */
json_t *torch_measure(const struct bench *b);

/*
 * The row of one operator measured in a way ("ops", "cuda_eager", "cuda_graph"), in units of
 * `unit_ns`. -ENOENT when it was not measured.
 */
int torch_row(const json_t *torch, const char *way, const char *title, double unit_ns,
	struct contender *ret_row);

/* --- raw.c: operators on a device, by this process itself ------------------------------------- */

struct op_call;
struct raw;
struct raw_call;

/* Says which device it is, to people and in the JSON file. */
void report_device(struct bench *b, struct device *device);

int raw_open(struct bench *b, struct raw **ret_raw); /* 0 or a told error */
void raw_close(struct raw *r);			     /* NULL is fine */

int raw_alloc(struct raw *r, enum device_memory kind, uint64_t bytes, void **ret_data);
void raw_free(struct raw *r, enum device_memory kind, void *data); /* NULL is fine */

/* Between the device's memory and any of this process; wait. */
int raw_write(struct raw *r, void *to, const void *from, uint64_t bytes);
int raw_read(struct raw *r, void *to, const void *from, uint64_t bytes);

struct device *raw_device(struct raw *r);

/* How fast a large copy brings the host's pinned memory to the device: the bus. */
int raw_copy_rate(struct raw *r, double *ret_bytes_per_us);

/* A checked call on memory of either kind, which stays until the end. */
int raw_call_create(struct raw *r, const struct op_call *call, struct raw_call **ret_call);
void raw_call_destroy(struct raw_call *c); /* NULL is fine */

/* One launch, seen to end: of the kernel, or of a graph of the one kernel. */
int raw_direct(void *call);
int raw_replay(void *call);

/* --- the subcommands: 0, or a negative error already told ------------------------------------ */

int bench_floor(struct bench *b);
int bench_ring(struct bench *b);
int bench_null(struct bench *b);
int bench_sleep(struct bench *b);
int bench_pipeline(struct bench *b);
int bench_op(struct bench *b);
int bench_idle(struct bench *b);
int bench_death(struct bench *b);
int bench_overload(struct bench *b);
int bench_graphs(struct bench *b);
int bench_memory(struct bench *b);
int bench_attention(struct bench *b);
int bench_linear(struct bench *b);
int bench_decode(struct bench *b);
int bench_prefill(struct bench *b);
int bench_load(struct bench *b);
int bench_generate(struct bench *b); /* only where the feature `text` is built */
int bench_trace(struct bench *b);
int bench_values(struct bench *b);

#endif
