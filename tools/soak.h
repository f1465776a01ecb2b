/* SPDX-License-Identifier: MIT */
/*
 * soak.h: what the sources of gpuq-soak share.
 *
 *   gpuq-soak.c     options, the run, its verdict
 *   soak_daemon.c   the gpuqd that is tortured
 *   soak_client.c   the life of a client process: mixed work whose results are known
 *   soak_job.c      operators with their results
 *   soak_reaper.c   who starts, kills, stops and starves these
 *   soak_report.c   progress, histogram, JSON
 *
 * A client has a slot, with a page that it shares with the reaper: it says there what it is doing
 * before it does that. So what it was doing when it died is known exactly.
 */
#ifndef GPUQ_TOOLS_SOAK_H
#define GPUQ_TOOLS_SOAK_H

#include "gpuq.h"
#include "tools/tool.h"
#include "tools/world.h"

#include "shm/atomics.h"

#include <stdlib.h>
#include <time.h>

#define SOAK_SLOTS 64u
#define SOAK_PROMPTS 4u
#define SOAK_GENERATE 12u
#define SOAK_MODEL "soak"
#define SOAK_CHECKPOINTS 64u

/* Less than a second. */
static inline void soak_sleep_us(uint32_t us)
{
	const struct timespec t = {.tv_nsec = (long)us * 1000};

	(void)nanosleep(&t, NULL);
}

/* What a client is doing. */
enum soak_state {
	SOAK_CONNECTING,
	SOAK_OPENING,	 /* a channel */
	SOAK_IDLE,	 /* has one, and nothing in flight */
	SOAK_SUBMITTING, /* in the middle of a batch */
	SOAK_WAITING,	 /* for completions */
	SOAK_UNREAD,	 /* has completions, and leaves them unread */
	SOAK_PIPELINE,	 /* registering one, or taking it back */
	SOAK_BUFFER,	 /* allocating, filling, freeing one */
	SOAK_GRANTING,	 /* one to another client */
	SOAK_ACCEPTING,	 /* one from another client */
	SOAK_GENERATING, /* text; not without a model */
	SOAK_CLOSING,	 /* a channel or the connection */
	SOAK_STATES,
};

extern const char *const soak_state_names[SOAK_STATES];

struct soak_page {
	uint32_t state; /* enum soak_state */
	uint32_t wish;	/* 1 + the state in which it is to linger; 0: none */
	uint32_t lingers;
	uint32_t stop;	  /* the reaper asks for an orderly end */
	uint32_t stops;	  /* it has been stopped so often: what took long then was not gpuqd */
	uint32_t started; /* it has said what it is doing */
	uint32_t pid;
	uint64_t completed, checked, cancelled, tokens;
	uint64_t connects, pipelines, buffers, grants, accepts, late_accepts;
	uint64_t longest_ns; /* from a submission to its completion */
	uint64_t rescues;
	/* The last buffer granted to the client of each slot: its handle and what is in it. */
	uint64_t offers[SOAK_SLOTS];
	uint64_t seen[SOAK_SLOTS]; /* of the offers by each to us */
	char complaint[256];
};

/* What all clients may know. */
struct soak_common {
	char socket[108];
	uint64_t bound_ns; /* nobody waits longer */
	uint32_t slots;
	bool has_model;
	/* What the model makes of each prompt. */
	uint32_t n_tokens[SOAK_PROMPTS];
	int32_t tokens[SOAK_PROMPTS][SOAK_GENERATE];
	struct soak_page pages[SOAK_SLOTS];
};

/* --- Reproducible choices ------------------------------------------------------------------ */

struct soak_random {
	unsigned short state[3];
};

struct soak_random soak_random_seed(uint64_t seed, uint64_t stream);

/* 0 .. n - 1 */
static inline uint32_t soak_below(struct soak_random *rng, uint32_t n)
{
	return (uint32_t)nrand48(rng->state) % n;
}

/* --- soak_daemon.c ------------------------------------------------------------------------- */

struct soak_daemon {
	char directory[64], log[96];
	pid_t pid;
	struct stats stats;
};

/* gpuqd: NULL: the one beside this program, or in PATH. Complains; 0 or a negative error. */
int soak_daemon_start(struct soak_daemon *d, const char *gpuqd, const char *device,
	const char *model, struct soak_common *common);
/* Asks it to end; false when it does not end well, having complained. */
bool soak_daemon_stop(struct soak_daemon *d);
void soak_daemon_print_log(const struct soak_daemon *d);

/* --- soak_job.c ---------------------------------------------------------------------------- */

enum soak_kind { SOAK_NULL, SOAK_GEMV, SOAK_SOFTMAX, SOAK_PRICE, SOAK_CLASSIFY, SOAK_KINDS };

/* A call and what it must give. Its tensors lie in the channel's arena. */
struct soak_job {
	struct gpuq_call *call; /* NULL: the null operation */
	void *memory;
	float *y;
	double *want, *scale; /* an element may differ by so much of its scale */
	uint32_t n;
};

/* Room that any job may need in an arena. */
#define SOAK_JOB_BYTES (96u << 10)

/* pipeline: of SOAK_CLASSIFY. 0 or a negative error of the library. */
int soak_job_create(struct soak_job *job, struct gpuq_channel *ch, enum soak_kind kind,
	struct gpuq_pipeline *pipeline, struct soak_random *rng);
/* The index of the first wrong element, or -1. */
int soak_job_check(const struct soak_job *job);
void soak_job_destroy(struct soak_job *job, struct gpuq_channel *ch);

/* y = softmax(w x) */
int soak_pipeline_create(struct gpuq *g, struct gpuq_pipeline **ret_pipeline);

/* --- soak_client.c ------------------------------------------------------------------------- */

/* The process of a slot: works until it is told to stop, or something is wrong. */
_Noreturn void soak_client_main(struct soak_common *common, uint32_t slot, uint64_t seed);

/* Makes what the model says known to all. Complains. */
int soak_learn(struct soak_common *common);

/* --- soak_reaper.c ------------------------------------------------------------------------- */

enum soak_plan { SOAK_KILL, SOAK_KILL_STOPPED, SOAK_STOP, SOAK_STARVE, SOAK_LET_END };

struct soak_slot {
	pid_t pid; /* 0: none */
	bool steady;
	bool stopped;
	enum soak_plan plan;
	uint64_t at_ns; /* when the next part of the plan is due */
	uint32_t steps; /* of the plan, still to come */
	uint32_t wish;	/* 1 + the state in which it is to die */
	bool waits;	/* for it to come by there; it had come so often before: */
	uint32_t lingers;
};

struct soak {
	struct soak_common *common;
	struct soak_daemon daemon;
	struct soak_slot slots[SOAK_SLOTS];
	struct world before;
	uint64_t seed, lives, kills, killed, least;
	uint64_t slack_kib;
	uint32_t n_slots, n_steady;
	struct soak_random rng;
	uint64_t stops, starvations, ends;
	uint64_t died_in[SOAK_STATES];
	uint64_t steady_rescues; /* of those that nobody harms: by gpuqd's count and by their own */
	struct world checkpoints[SOAK_CHECKPOINTS];
	uint64_t checkpoint_kills[SOAK_CHECKPOINTS];
	uint32_t n_checkpoints;
	uint64_t start_ns, shown_ns;
	bool wrong; /* somebody has complained */
	char complaint[512];
	volatile int *interrupted;
};

/* Kills as many as wanted, with a look at the accounts now and then. */
void soak_reap(struct soak *s);

/* Notes the first thing that went wrong. */
void soak_wrong(struct soak *s, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* --- soak_report.c ------------------------------------------------------------------------- */

void soak_progress(struct soak *s, bool last);
void soak_print(const struct soak *s);
/* 0 or -1, having complained. */
int soak_write(const struct soak *s, const char *path);

#endif
