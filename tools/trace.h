/* SPDX-License-Identifier: MIT */
/*
 * trace.h: requests and their stages, put together from what the flight recorder holds, and written
 * as a file in the JSON form of Chrome's trace viewer, which Perfetto opens.
 *
 *	trace_build()   events -> requests, in the order in which they were taken
 *	trace_write()   requests and other events -> slices on tracks, with arrows
 */
#ifndef GPUQ_TOOLS_TRACE_H
#define GPUQ_TOOLS_TRACE_H

#include "tools/recording.h"
#include "tools/snapshot.h"

#include <stdio.h>

/* Times are 0 where they are not known: what happened before the recording, or has not yet. */
struct trace_request {
	uint32_t channel; /* in trace.channels */
	uint64_t ticket;
	uint64_t submitted_ns, taken_ns, given_ns, launched_ns, start_ns, end_ns, posted_ns;
	uint64_t seen_ns; /* at the latest */
	uint64_t trace_id, completion, graph;
	uint32_t op, session, n; /* n: null operations that this stands for, 0: it is another one */
	uint16_t kind;		 /* enum recorder_request; 0: not known */
	bool replayed, is_inline, ended;
	int32_t status;
	uint32_t next; /* 1 + the next one of its channel that is not seen yet */
};

struct trace_channel {
	uint32_t number, generation;
	uint32_t client, client_generation; /* valid where `known` */
	bool known;
	uint32_t first, last; /* requests not seen yet: see trace_request.next */
};

struct trace {
	const struct recording *recording;
	const struct snapshot *snapshot;
	struct stats_graph *graphs; /* as they are now; n_graphs records */
	uint32_t n_graphs;
	struct trace_request *requests;
	uint32_t n_requests, requests_capacity;
	struct trace_channel *channels;
	uint32_t n_channels, channels_capacity;
	uint32_t *index; /* open addressing: 1 + request; by channel and ticket */
	uint32_t index_mask;
	uint64_t first_ns, last_ns; /* of all events */
};

/* 0 or -ENOMEM. The recording and the snapshot live as long as the trace. */
int trace_build(struct trace *ret_trace, const struct recording *recording,
	const struct snapshot *snapshot, struct stats_graph *graphs, uint32_t n_graphs);

/* Frees the records of graphs, too. */
void trace_free(struct trace *t);

/* Lost events of all rings. */
uint64_t trace_lost(const struct trace *t);

/* Writes the file. 0 or -ENOMEM; whether it was written ferror() tells. */
int trace_write(const struct trace *t, FILE *out);

#endif
