/* SPDX-License-Identifier: MIT */
/*
 * pace.c: the background thread's pauses (device_set_background()). Two things are felt by those
 * who launch meanwhile. While an executable is instantiated, uploaded for the first time or
 * destroyed, their launches wait for the driver's lock: that is to be a small share of the time,
 * so that few replays in a hundred meet it. And whatever a second thread calls makes the driver's
 * own short locks busy: p99 grows by a fifth beside a thread that never stops, so it works for a
 * quarter of the time only. While nobody launches there are no pauses.
 */
#include "device/cuda/module.h"

#include <time.h>

#define HOLD_SHARE 300u /* one in so much of the time is held */
#define HOLD_PAUSE_MAX_NS UINT64_C(100000000)
#define WORK_NS UINT64_C(50000)	       /* in one go; a pause cannot be shorter either */
#define PAUSE_FACTOR 3u		       /* so much longer than the work before it */
#define SERVING_NS UINT64_C(250000000) /* after a launch */

static bool is_background(const struct cuda_device *d)
{
	return shm_load_relaxed(&d->base.background) == (uint64_t)pthread_self();
}

/* Somebody has launched lately. The background thread itself launches nothing that is counted. */
static bool others_serve(struct cuda_device *d, uint64_t now_ns)
{
	const uint32_t n = shm_load_acquire_u32(&d->n_places);
	uint64_t given = 0;

	for (uint32_t i = 0; i < n; i++)
		given += shm_load_relaxed(&d->places[i].given);
	if (given != d->pace.given) {
		d->pace.given = given;
		d->pace.serving_until_ns = now_ns + SERVING_NS;
	}
	return now_ns < d->pace.serving_until_ns;
}

static void pause_for(struct cuda_device *d, uint64_t now_ns, uint64_t ns)
{
	const struct timespec time = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};

	if (others_serve(d, now_ns)) {
		nanosleep(&time, NULL);
		now_ns = clock_monotonic_ns();
	}
	d->pace.since_ns = now_ns;
}

void cuda_pace(struct cuda_device *d)
{
	uint64_t now_ns, worked_ns;

	if (!is_background(d))
		return;
	now_ns = clock_monotonic_ns();
	worked_ns = now_ns - d->pace.since_ns;
	/* Where it is much more the thread has had nothing to do. */
	if (worked_ns >= WORK_NS)
		pause_for(d, now_ns,
			PAUSE_FACTOR * (worked_ns < 4 * WORK_NS ? worked_ns : 4 * WORK_NS));
}

void cuda_pace_held(struct cuda_device *d, uint64_t since_ns)
{
	uint64_t now_ns, pause_ns;

	if (!is_background(d))
		return;
	now_ns = clock_monotonic_ns();
	pause_ns = HOLD_SHARE * (now_ns - since_ns);
	pause_for(d, now_ns, pause_ns < HOLD_PAUSE_MAX_NS ? pause_ns : HOLD_PAUSE_MAX_NS);
}
