/* SPDX-License-Identifier: MIT */
/*
 * reaper.h: a thread of a device process that gives back to the driver what nothing uses any more.
 * Such calls may take long, or never come back: the link thread does not wait for them. The ledger
 * says what the reaper is at, so a call that hangs is a wedge to the control process's watchdog.
 */
#ifndef GPUQ_DAEMON_REAPER_H
#define GPUQ_DAEMON_REAPER_H

#include "daemon/devlink.h"

#include <sys/queue.h>

/* Part of what is to be reaped. */
struct reaping {
	void (*reap)(void *context, struct reaping *reaping);
	TAILQ_ENTRY(reaping) link;
};

struct reaper;

/* `context` is given to all that is done. 0 or a negative errno. */
int reaper_create(void *context, struct ledger_pulse *pulse, struct reaper **ret_reaper);

/* Has reap() called, in order, on the reaper's thread; it owns what the reaping is part of. */
void reaper_give(struct reaper *r, struct reaping *reaping);

/* Waits until nothing is left to be done, for some time. False: something hangs. */
bool reaper_finish(struct reaper *r, uint64_t timeout_ns);

#endif
