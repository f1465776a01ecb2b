/* SPDX-License-Identifier: MIT */
/*
 * client.h: clients of a real gpuqd that know what must come back. A job is one call with its
 * result known; a load keeps jobs in flight on one channel and accounts for each: every
 * submission completes exactly once, with the right values or with a status that the load was
 * told to expect. Every function fails the running test when something is not as it must be.
 */
#ifndef GPUQ_TESTS_INTEGRATION_CLIENT_H
#define GPUQ_TESTS_INTEGRATION_CLIENT_H

#include "client/gpuq.h"
#include "tests/harness.h"
#include "tests/kernels/random.h"

#define SECOND_NS 1000000000ull

/* Longer than anything takes that is going to happen at all. */
#define PATIENCE_NS (20 * SECOND_NS * harness_slowness())

struct client {
	struct gpuq *g;
	struct gpuq_channel *ch;
};

/* Connects and opens a channel; options may be NULL. */
void client_open(struct client *c, const struct gpuq_channel_options *options);
void client_close(struct client *c);

/* Submits a null operation and waits for it. */
void client_check_works(struct client *c);

enum job_kind {
	JOB_NULL,
	JOB_GEMV,
	JOB_SOFTMAX,
	JOB_PRICE,
	JOB_KINDS,
};

struct job {
	struct gpuq_call *call; /* NULL: the null operation */
	float *y;
	double *want; /* [n], what y must become */
	uint32_t n;
};

/* Sizes up to about 24 run inline, from 200 on workers. */
void job_create(struct job *job, struct gpuq_channel *ch, enum job_kind kind, uint32_t size,
	struct random *rng);
void job_destroy(struct job *job);

/* Forgets the last result, so that the next one cannot be taken for it. */
void job_clear(struct job *job);

/* The result is there and right. */
void job_check(const struct job *job);

#define LOAD_MAX 32u

struct load {
	struct client *client;
	struct job jobs[LOAD_MAX];
	uint64_t in_flight[LOAD_MAX]; /* user_data of what uses the job; 0: none */
	bool cancelled[LOAD_MAX];     /* and a cancellation of it was asked for */
	uint32_t n;
	uint32_t cancels;		 /* cancellations in flight */
	uint64_t serial;		 /* of the next submission */
	uint64_t submitted, completed;	 /* cancellations counted too */
	uint64_t lost, refused, stopped; /* of these, -GPUQ_EDEVICE, -GPUQ_EDRAIN, -ECANCELED */
	bool may_lose;			 /* -GPUQ_EDEVICE is no failure */
	bool may_drain;			 /* -GPUQ_EDRAIN is none */
};

/* n jobs of one kind, or of all kinds in turn when `kind` is JOB_KINDS. */
void load_create(struct load *load, struct client *client, enum job_kind kind, uint32_t size,
	uint32_t n, struct random *rng);
void load_destroy(struct load *load);

/* Submits every job that is not in flight. Returns what gpuq_submit() returned last, or 0. */
int load_submit(struct load *load);

/* Asks to cancel one that is in flight, if there is one that this was not asked for yet. */
void load_cancel(struct load *load, struct random *rng);

/* Takes completions that are there, or waits for some. Returns how many, or the error. */
int load_take(struct load *load, uint64_t timeout_ns);

/* Takes completions until nothing is in flight. Returns 0 or the error that ended it. */
int load_finish(struct load *load);

/*
 * A client in a process of its own (children.h), which has a load until it is told to stop, while
 * device processes come and go. Afterwards its connection is the same and nothing is lost any more.
 */
struct child;
void load_child_main(struct child *child);

#endif
