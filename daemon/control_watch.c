/* SPDX-License-Identifier: MIT */
/*
 * control_watch.c: the watchdog. A device process that ends is heard of; one that lives and does
 * not get on is not. So it shows signs of life in the ledger, and is killed when they stay the same
 * for too long: then its end is an end like any other.
 */
#define LOG_TOPIC LOG_DEVICE
#include "daemon/control.h"
#include "daemon/log.h"
#include "shm/atomics.h"
#include "shm/segment.h"

#include <signal.h>

#define LOOKS 4u /* at least, within a limit */
#define LOOK_MIN_MS 20u
#define LOOK_MAX_MS 1000u
/* Looks that are so far apart say nothing: this process was stopped, or had no CPU, itself. */
#define TOO_LATE_NS 3000000000ull

static const char *const threads[WATCHES] = {
	[WATCH_DISPATCH] = "its dispatch thread does not move",
	[WATCH_LINK] = "its link thread does not move",
	[WATCH_OLDEST] = "an operator or a step of a model does not end",
	[WATCH_REAPING] = "the driver takes something back and does not end",
};

static struct __kernel_timespec look_interval(const struct config *config)
{
	const uint64_t limits_ms[] = {config->watchdog_ms, config->operator_timeout_ms};
	uint64_t ms = LOOK_MAX_MS;

	for (uint32_t i = 0; i < 2; i++) {
		if (limits_ms[i] > 0 && limits_ms[i] / LOOKS < ms)
			ms = limits_ms[i] / LOOKS;
	}
	ms = ms < LOOK_MIN_MS ? LOOK_MIN_MS : ms;
	return (struct __kernel_timespec){
		.tv_sec = (long long)(ms / 1000), .tv_nsec = (long long)(ms % 1000 * 1000000)};
}

int watch_create(struct control *c)
{
	const uint32_t channels = (uint32_t)c->config->max_channels;
	const uint32_t in_flight = (uint32_t)c->config->max_in_flight;
	void *ledger;
	int r = segment_map(c->device.ledger_fd, ledger_bytes(channels, in_flight), false, &ledger);

	if (r < 0)
		return r;
	c->device.pulse = ledger_pulse(ledger, channels, in_flight);
	c->watch = look_interval(c->config);
	return 0;
}

static uint64_t word_now(const struct ledger_pulse *p, uint32_t which)
{
	switch (which) {
	case WATCH_DISPATCH:
		return shm_load_relaxed(&p->dispatch);
	case WATCH_LINK:
		return shm_load_relaxed(&p->link);
	case WATCH_REAPING:
		return shm_load_relaxed(&p->reaping);
	default:
		return shm_load_relaxed(&p->oldest);
	}
}

/* For how long the word has been the same; 0 also when that is as it should be. */
static uint64_t same_for_ns(struct device *d, uint32_t which, uint64_t now_ns, bool anew)
{
	struct watched *w = &d->watched[which];
	const uint64_t word = word_now(d->pulse, which);
	const bool at_nothing = which >= WATCH_OLDEST && word == 0;

	if (anew || word != w->seen || at_nothing)
		*w = (struct watched){word, now_ns};
	return now_ns - w->since_ns;
}

void watch_device(struct control *c)
{
	struct device *d = &c->device;
	const uint64_t now_ns = clock_monotonic_ns();
	const bool spare = c->config->watchdog_stopped[0] == 's';
	/* One that is being opened may take its time: a driver does. */
	const bool anew = d->state != DEVICE_READY || now_ns - d->watched_ns > TOO_LATE_NS ||
		(spare && d->pid != 0 && control_process_stopped(d->pid));

	d->watched_ns = now_ns;
	for (uint32_t i = 0; i < WATCHES; i++) {
		const uint64_t limit_ms =
			i == WATCH_OLDEST ? c->config->operator_timeout_ms : c->config->watchdog_ms;
		const uint64_t same_ns = same_for_ns(d, i, now_ns, anew);
		if (limit_ms == 0 || same_ns <= limit_ms * 1000000u || d->pid == 0)
			continue;
		log_error("the device process (pid %ld) is wedged: %s for %llu ms; killing it",
			(long)d->pid, threads[i], (unsigned long long)(same_ns / 1000000u));
		kill(d->pid, SIGKILL);
		/* Its end may take a moment. */
		d->watched_ns = 0;
		return;
	}
}
