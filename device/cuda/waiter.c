/* SPDX-License-Identifier: MIT */
/*
 * waiter.c: wakes dispatch when work ends while it sleeps. It looks at the words that launches
 * leave in pinned memory, at intervals that grow with the time for which nothing has ended: for an
 * eighth of that time, 20 us to 1 ms. A blocking wait of CUDA takes 40 us to return, and can wait
 * for one stream only. With nothing in flight it sleeps until there is a launch.
 */
#include "device/cuda/module.h"

#include <unistd.h>

#define INTERVAL_MIN_NS UINT64_C(20000)
#define INTERVAL_MAX_NS UINT64_C(1000000)
#define CHECK_NS UINT64_C(20000000) /* between two questions whether the context is whole */

static void ring(const struct cuda_device *d)
{
	const uint64_t one = 1;

	if (write(d->base.options.wake_fd, &one, sizeof(one)) < 0)
		return; /* it is full: dispatch wakes up anyway */
}

/* Something has ended since dispatch last knew; from here on it knows. */
static bool look(struct cuda_device *d)
{
	const uint32_t n = shm_load_acquire_u32(&d->n_places);
	bool news = false;

	for (uint32_t i = 0; i < n; i++) {
		uint64_t number = shm_load_acquire(&d->ended[i].number);
		news |= number != d->places[i].seen;
		d->places[i].seen = number;
	}
	return news;
}

static bool in_flight(const struct cuda_device *d)
{
	const uint32_t n = shm_load_acquire_u32(&d->n_places);

	for (uint32_t i = 0; i < n; i++)
		if (shm_load_acquire(&d->ended[i].number) != shm_load_acquire(&d->places[i].given))
			return true;
	return false;
}

static void wait_ns(struct cuda_device *d, uint64_t ns)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	ns += (uint64_t)until.tv_nsec;
	until.tv_sec += (time_t)(ns / 1000000000u);
	until.tv_nsec = (long)(ns % 1000000000u);
	pthread_cond_timedwait(&d->waiter_wake, &d->waiter_lock, &until);
}

/* Waits for a launch. The partner of the fence is in cuda_waiter_kick(). */
static void park(struct cuda_device *d)
{
	shm_store_release_u32(&d->parked, 1);
	shm_fence();
	if (!in_flight(d)) {
		/* All has ended by now, maybe after the last look: nobody may miss that. */
		if (look(d))
			ring(d);
		else
			pthread_cond_wait(&d->waiter_wake, &d->waiter_lock);
	}
	shm_store_release_u32(&d->parked, 0);
}

/* Watches until dispatch is awake again. With waiter_lock. */
static void watch(struct cuda_device *d)
{
	uint64_t since_ns = clock_monotonic_ns(), checked_ns = since_ns, now_ns, interval_ns;

	while (d->asleep && !d->closing && shm_load_acquire(&d->base.failed) == 0) {
		now_ns = clock_monotonic_ns();
		if (look(d)) {
			ring(d);
			since_ns = now_ns;
		}
		if (!in_flight(d)) {
			park(d);
			since_ns = checked_ns = clock_monotonic_ns();
			continue;
		}
		if (now_ns - checked_ns > CHECK_NS) {
			checked_ns = now_ns;
			if (cuda_check(&d->base) < 0)
				break;
		}
		interval_ns = (now_ns - since_ns) / 8;
		wait_ns(d,
			interval_ns < INTERVAL_MIN_NS		? INTERVAL_MIN_NS
				: interval_ns > INTERVAL_MAX_NS ? INTERVAL_MAX_NS
								: interval_ns);
	}
}

static void *waiter_main(void *arg)
{
	struct cuda_device *d = arg;

	pthread_mutex_lock(&d->waiter_lock);
	while (!d->closing) {
		if (d->asleep)
			watch(d);
		/* After a fault nothing ends any more: dispatch is to see that. */
		if (shm_load_acquire(&d->base.failed) != 0) {
			ring(d);
			d->asleep = false;
		}
		if (!d->asleep && !d->closing)
			pthread_cond_wait(&d->waiter_wake, &d->waiter_lock);
	}
	pthread_mutex_unlock(&d->waiter_lock);
	return NULL;
}

void cuda_sleep_prepare(struct device *device, bool asleep)
{
	struct cuda_device *d = cuda_device(device);

	pthread_mutex_lock(&d->waiter_lock);
	d->asleep = asleep;
	if (asleep) {
		/* The words of what is known to have ended are there for the caller to see. */
		look(d);
		pthread_cond_signal(&d->waiter_wake);
	}
	pthread_mutex_unlock(&d->waiter_lock);
}

void cuda_waiter_kick(struct cuda_device *d)
{
	/* The launch was counted before: either it is seen by park(), or this sees `parked`. */
	shm_fence();
	if (shm_load_acquire_u32(&d->parked) == 0)
		return;
	pthread_mutex_lock(&d->waiter_lock);
	pthread_cond_signal(&d->waiter_wake);
	pthread_mutex_unlock(&d->waiter_lock);
}

int cuda_waiter_start(struct cuda_device *d)
{
	pthread_condattr_t attributes;
	int r;

	pthread_mutex_init(&d->waiter_lock, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&d->waiter_wake, &attributes);
	pthread_condattr_destroy(&attributes);
	r = -pthread_create(&d->waiter, NULL, waiter_main, d);
	if (r < 0) {
		pthread_cond_destroy(&d->waiter_wake);
		pthread_mutex_destroy(&d->waiter_lock);
	}
	return r;
}

void cuda_waiter_stop(struct cuda_device *d)
{
	pthread_mutex_lock(&d->waiter_lock);
	d->closing = true;
	pthread_cond_signal(&d->waiter_wake);
	pthread_mutex_unlock(&d->waiter_lock);
	pthread_join(d->waiter, NULL);
	pthread_cond_destroy(&d->waiter_wake);
	pthread_mutex_destroy(&d->waiter_lock);
}
