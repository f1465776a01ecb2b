/* SPDX-License-Identifier: MIT */
/*
 * notice.c: a thread that does nothing but hold the robust words of a connection's channels. When
 * the process ends, in whatever way, the kernel marks them before it takes the memory apart, which
 * may take it tens of milliseconds; the hang-up of the socket comes after that. The thread is the
 * library's own because a program's threads may use the kernel's list of robust words themselves,
 * and may end without the process.
 */
#include "client/client.h"
#include "shm/segment.h"

#include <signal.h>
#include <stdlib.h>

#define STACK_BYTES (128u << 10)
#define ABI_WITH_NOTICE 4u

struct notice {
	struct robust_words words;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool started, stop;
	int error;
};

static struct robust_entry *entry_of(const struct gpuq_channel *ch)
{
	return (struct robust_entry *)((char *)ch->segment - WIRE_PAGE_SIZE);
}

static void *notice_main(void *arg)
{
	struct notice *n = arg;

	pthread_mutex_lock(&n->lock);
	n->error = robust_begin(&n->words,
		WIRE_PAGE_SIZE + WIRE_NOTICE + (long)offsetof(struct wire_notice, owner));
	n->started = true;
	pthread_cond_broadcast(&n->changed);
	while (!n->stop)
		pthread_cond_wait(&n->changed, &n->lock);
	pthread_mutex_unlock(&n->lock);
	return NULL;
}

/* Signals are for the program's own threads. */
static int start_thread(struct notice *n)
{
	sigset_t all, before;
	pthread_attr_t attr;
	int r = pthread_attr_init(&attr);

	if (r != 0)
		return -r;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	(void)pthread_attr_setstacksize(&attr, STACK_BYTES);
	r = pthread_create(&n->thread, &attr, notice_main, n);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attr);
	return -r;
}

static void notice_free(struct notice *n)
{
	pthread_cond_destroy(&n->changed);
	pthread_mutex_destroy(&n->lock);
	free(n);
}

static void stop_thread(struct notice *n)
{
	pthread_mutex_lock(&n->lock);
	n->stop = true;
	pthread_cond_broadcast(&n->changed);
	pthread_mutex_unlock(&n->lock);
	pthread_join(n->thread, NULL);
}

static struct notice *notice_begin(void)
{
	struct notice *n = calloc(1, sizeof(*n));

	if (n == NULL)
		return NULL;
	pthread_mutex_init(&n->lock, NULL);
	pthread_cond_init(&n->changed, NULL);
	if (start_thread(n) < 0) {
		notice_free(n);
		return NULL;
	}
	pthread_mutex_lock(&n->lock);
	while (!n->started)
		pthread_cond_wait(&n->changed, &n->lock);
	pthread_mutex_unlock(&n->lock);
	if (n->error < 0) {
		stop_thread(n);
		notice_free(n);
		return NULL;
	}
	return n;
}

void notice_add(struct gpuq_channel *ch)
{
	struct gpuq *g = ch->gpuq;

	if (g->welcome.abi < ABI_WITH_NOTICE)
		return;
	if (g->notice == NULL)
		g->notice = notice_begin();
	if (g->notice == NULL)
		return;
	robust_add(&g->notice->words, entry_of(ch));
	ch->noticed = true;
}

void notice_remove(struct gpuq_channel *ch)
{
	if (ch->noticed)
		robust_remove(&ch->gpuq->notice->words, entry_of(ch));
	ch->noticed = false;
}

void notice_end(struct gpuq *g)
{
	if (g->notice == NULL)
		return;
	/* A forked child has the memory and not the thread. */
	if (guard_forked(g->guard)) {
		free(g->notice);
		return;
	}
	stop_thread(g->notice);
	notice_free(g->notice);
}
