/* SPDX-License-Identifier: MIT */
/*
 * dispatch.h: the thread that serves the rings. It scans the active channels, copies and
 * validates entries, runs small operators itself, hands larger ones to the graph cache, and
 * posts completions. Between start and end it neither allocates nor blocks, except to sleep when
 * there is nothing to do.
 *
 * The link thread of the device process gives it channels and takes them back through a mailbox.
 */
#ifndef GPUQ_DAEMON_DISPATCH_H
#define GPUQ_DAEMON_DISPATCH_H

#include "daemon/channel.h"
#include "daemon/models.h"
#include "graphs/graphs.h"

struct dispatch;

struct dispatch_options {
	struct device *device;
	struct graphs *graphs;
	struct wire_page *page;
	struct stats stats;
	void *ledger;
	struct buffer_table *buffers;
	struct pipeline_table *pipelines;
	struct clock_line clock;
	const struct cost_model *cost; /* NULL: nothing is run by dispatch itself */
	uint32_t slot;		       /* of the device, in page and statistics */
	uint32_t max_channels, max_in_flight, max_buffers, max_pipelines;
	uint32_t max_models; /* 0: none, and then the next four are of no importance */
	uint32_t max_clients, max_sessions, max_sessions_per_client, max_sessions_per_user;
	uint32_t poll_us;
	uint64_t ageing_ns;				    /* see share.h */
	uint32_t max_in_flight_per_user, max_rate_per_user; /* 0: any */
	struct recorder *recorder; /* dispatch's; NULL: nothing is recorded */
	uint64_t inline_max_ns;	   /* dispatch itself runs what is predicted to be this short */
	int wake_fd;		   /* eventfd, also given to the device */
};

enum dispatch_event_type {
	DISPATCH_ADDED,	   /* the channel is in the scan */
	DISPATCH_REMOVED,  /* nothing refers to it any more: destroy it */
	DISPATCH_POISONED, /* it broke a rule; it stays until it is removed */
	DISPATCH_DRAINED,
	DISPATCH_BUFFER_REMOVED, /* nothing refers to it any more: destroy it */
	DISPATCH_PIPELINE_ADDED,
	DISPATCH_PIPELINE_REMOVED, /* likewise */
	DISPATCH_MODEL_ADDED,
	DISPATCH_MODEL_BUSY,	/* it was to be removed, but has sessions: it stays */
	DISPATCH_MODEL_REMOVED, /* nothing refers to it any more: free it */
	DISPATCH_FAILED,	/* the device has; everybody is answered, nothing more is done */
};

struct dispatch_event {
	enum dispatch_event_type type;
	union {
		struct channel *channel;
		struct buffer *buffer;
		struct known_pipeline *pipeline;
		struct known_model *model;
	};
};

/* Makes a dispatcher; its thread is started by dispatch_start(). 0 or a negative errno. */
int dispatch_create(const struct dispatch_options *options, struct dispatch **ret_dispatch);
int dispatch_start(struct dispatch *d);

/* Stops the thread and frees everything but the channels given to it. NULL is fine. */
void dispatch_destroy(struct dispatch *d);

/*
 * Requests by the link thread. None waits; each has one event as its answer. At most one ADD and
 * one REMOVE of each channel, buffer, pipeline and model are under way, so the mailbox cannot
 * overflow.
 */
void dispatch_add(struct dispatch *d, struct channel *ch, bool recover);
void dispatch_remove(struct dispatch *d, struct channel *ch);
void dispatch_remove_buffer(struct dispatch *d, struct buffer *buffer);
void dispatch_add_pipeline(struct dispatch *d, struct known_pipeline *pipeline);
void dispatch_remove_pipeline(struct dispatch *d, struct known_pipeline *pipeline);
void dispatch_add_model(struct dispatch *d, struct known_model *model);
/* force: its sessions are ended, with -GPUQ_EMODEL for what is under way. */
void dispatch_remove_model(struct dispatch *d, struct known_model *model, bool force);
void dispatch_drain(struct dispatch *d);

/*
 * Takes nothing more, so that a successor can; DISPATCH_DRAINED is the answer, when nothing is in
 * flight. Once.
 */
void dispatch_pause(struct dispatch *d);

/* The device has failed: DISPATCH_FAILED is the answer. Once. */
void dispatch_fail(struct dispatch *d);

/* Something is in flight, or was a moment ago. */
bool dispatch_is_busy(const struct dispatch *d);

/* Takes one event; false when there is none. dispatch_event_fd() becomes readable with one. */
bool dispatch_take_event(struct dispatch *d, struct dispatch_event *ret_event);
int dispatch_event_fd(const struct dispatch *d);

#endif
