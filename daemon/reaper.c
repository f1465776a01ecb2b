/* SPDX-License-Identifier: MIT */
/* reaper.c: see reaper.h. */
#include "daemon/reaper.h"

#include "shm/atomics.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <time.h>

struct reaper {
	void *context;
	struct ledger_pulse *pulse;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	TAILQ_HEAD(, reaping) queue;
	bool busy;	 /* with one that is not in the queue any more */
	uint64_t serial; /* of these */
};

/* One after another. The lock is held, but for the calls. */
static void reap_all(struct reaper *r)
{
	struct reaping *first;

	while ((first = TAILQ_FIRST(&r->queue)) != NULL) {
		TAILQ_REMOVE(&r->queue, first, link);
		r->busy = true;
		/* Another number for each: the watchdog looks for how long it is the same. */
		shm_store_relaxed(&r->pulse->reaping, ++r->serial);
		pthread_mutex_unlock(&r->lock);
		first->reap(r->context, first);
		pthread_mutex_lock(&r->lock);
		shm_store_relaxed(&r->pulse->reaping, 0);
		r->busy = false;
	}
	pthread_cond_broadcast(&r->changed);
}

/* It ends with the process. */
static void *reaper_main(void *arg)
{
	struct reaper *r = arg;

	prctl(PR_SET_NAME, "gpuqd-reaper");
	pthread_mutex_lock(&r->lock);
	for (;;) {
		reap_all(r);
		pthread_cond_wait(&r->changed, &r->lock);
	}
	return NULL;
}

int reaper_create(void *context, struct ledger_pulse *pulse, struct reaper **ret_reaper)
{
	struct reaper *r = calloc(1, sizeof(*r));
	pthread_t thread;

	if (r == NULL)
		return -ENOMEM;
	r->context = context;
	r->pulse = pulse;
	shm_store_relaxed(&pulse->reaping, 0);
	TAILQ_INIT(&r->queue);
	pthread_mutex_init(&r->lock, NULL);
	pthread_cond_init(&r->changed, NULL);
	const int error = pthread_create(&thread, NULL, reaper_main, r);
	if (error != 0) {
		free(r);
		return -error;
	}
	pthread_detach(thread);
	*ret_reaper = r;
	return 0;
}

void reaper_give(struct reaper *r, struct reaping *reaping)
{
	pthread_mutex_lock(&r->lock);
	TAILQ_INSERT_TAIL(&r->queue, reaping, link);
	pthread_cond_broadcast(&r->changed);
	pthread_mutex_unlock(&r->lock);
}

bool reaper_finish(struct reaper *r, uint64_t timeout_ns)
{
	struct timespec end;
	int error = 0;

	clock_gettime(CLOCK_REALTIME, &end);
	timeout_ns += (uint64_t)end.tv_nsec;
	end.tv_sec += (time_t)(timeout_ns / 1000000000u);
	end.tv_nsec = (long)(timeout_ns % 1000000000u);
	pthread_mutex_lock(&r->lock);
	while (error == 0 && (r->busy || !TAILQ_EMPTY(&r->queue)))
		error = pthread_cond_timedwait(&r->changed, &r->lock, &end);
	pthread_mutex_unlock(&r->lock);
	return error == 0;
}
