/* SPDX-License-Identifier: MIT */
/*
 * What dispatch writes into the flight recorder (shm/recorder.h), each an event beside what it
 * tells of. No clock is read here that has not been read anyway, but for channels that come and go;
 * and of what is as short as a null operation there is one event for a pass.
 */
#include "daemon/dispatch_impl.h"

#include "kernels/op.h"
#include "shm/probe.h"

#include <unistd.h>

/* Channels whose clients' indices are looked at in one tick: a client has just written each. */
#define SEEN_AT_ONCE 2u

/* Calls of pipelines, and what is no call, have none. */
static uint32_t record_of(const struct op_call *call)
{
	return call->place > 0 ? call->place - 1 : RECORDER_NO_OP;
}

static enum recorder_request request_of(const struct slot *slot)
{
	if (slot->capture)
		return RECORDER_WISH;
	switch (slot->kind) {
	case SLOT_COPY:
		return RECORDER_COPY;
	case SLOT_SESSION:
		return RECORDER_SESSION;
	case SLOT_STEP:
		return RECORDER_MODEL_STEP;
	default:
		return slot->pipeline != NULL ? RECORDER_PIPELINE : RECORDER_CALL;
	}
}

static struct recorder_event event_of(
	enum recorder_kind kind, const struct channel *ch, uint64_t ticket, uint64_t time_ns)
{
	return (struct recorder_event){
		.kind = (uint16_t)kind,
		.time_ns = time_ns,
		.ticket = ticket,
		.channel = ch->number,
		.generation = ch->generation,
	};
}

void record_taken(struct dispatch *d, const struct slot *slot, uint64_t trace_id, uint64_t now_ns)
{
	const uint64_t session = slot->kind == SLOT_STEP ? slot->session : 0;
	struct recorder_event e =
		event_of(RECORDER_TAKEN, slot->channel, slot->ledger->seq, now_ns);

	e.what = (uint16_t)request_of(slot);
	e.words[0] = slot->submit_ns;
	e.words[1] = trace_id;
	e.words[2] = slot->deadline_ns;
	e.words[3] = record_of(&slot->call) | session << 32;
	PROBE5(taken, e.channel, e.ticket, e.what, e.words[0], now_ns);
	recorder_put(d->o.recorder, &e);
}

void record_given(struct dispatch *d, const struct slot *slot, uint64_t end_ns)
{
	struct recorder_event e =
		event_of(RECORDER_GIVEN, slot->channel, slot->ledger->seq, slot->started_ns);

	e.words[0] = end_ns;
	/* Of a cold shape another thread finds it out. */
	if (slot->kind == SLOT_CALL && slot->work.replayed)
		e.words[1] = slot->work.graph_id;
	PROBE3(given, e.channel, e.ticket, e.time_ns);
	recorder_put(d->o.recorder, &e);
}

void record_ended(
	struct dispatch *d, const struct slot *slot, int status, const struct times *times)
{
	/* When the device is lost another thread may be at the work still, finding its graph. */
	const bool had_graph =
		slot->kind == SLOT_CALL && slot->value != 0 && status != -GPUQ_EDEVICE;

	slot->channel->look_again = true;
	struct recorder_event e =
		event_of(RECORDER_ENDED, slot->channel, slot->ledger->seq, times->now_ns);

	e.status = status;
	e.words[0] = times->start_ns;
	e.words[1] = times->end_ns;
	e.words[2] = slot->channel->cq.prod - 1;
	e.words[3] = had_graph ? slot->work.graph_id : 0;
	e.what = had_graph && slot->work.replayed ? RECORDER_REPLAYED : 0;
	PROBE6(ended, e.channel, e.ticket, status, times->start_ns, times->end_ns, e.what);
	recorder_put(d->o.recorder, &e);
}

void record_inline(struct dispatch *d, const struct channel *ch, const struct wire_sqe *sqe,
	const struct op_call *call, uint64_t start_ns, uint64_t end_ns)
{
	struct recorder_event e = event_of(RECORDER_INLINE, ch, ch->sq.cons - 1, start_ns);

	e.what = (uint16_t)record_of(call);
	e.words[0] = sqe->submit_ns;
	e.words[1] = end_ns;
	e.words[2] = ch->cq.prod - 1;
	e.words[3] = sqe->trace_id;
	PROBE6(run, e.channel, e.ticket, call->op->name, e.words[0], start_ns, end_ns);
	recorder_put(d->o.recorder, &e);
}

void record_refused(struct dispatch *d, const struct channel *ch, const struct wire_sqe *sqe,
	int status, uint64_t now_ns)
{
	struct recorder_event e = event_of(RECORDER_REFUSED, ch, ch->sq.cons - 1, now_ns);

	e.status = status;
	e.words[0] = sqe->submit_ns;
	e.words[2] = ch->cq.prod - 1;
	e.words[3] = sqe->trace_id;
	PROBE3(refused, e.channel, e.ticket, status);
	recorder_put(d->o.recorder, &e);
}

void record_batch(struct dispatch *d, const struct channel *ch, uint32_t taken, uint64_t now_ns)
{
	struct recorder_event e = event_of(RECORDER_BATCH, ch, ch->sq.cons - taken, now_ns);

	e.what = (uint16_t)d->n_null;
	e.words[0] = now_ns - d->first_queued_ns;
	e.words[1] = now_ns - d->same_queued_ns;
	e.words[2] = ch->cq.prod;
	e.words[3] = taken;
	d->n_null = 0;
	PROBE5(batch, e.channel, e.ticket, e.what, taken, now_ns);
	recorder_put(d->o.recorder, &e);
}

void record_channel(struct dispatch *d, const struct channel *ch, bool ended)
{
	struct recorder_event e = event_of(
		ended ? RECORDER_CHANNEL_END : RECORDER_CHANNEL, ch, 0, clock_now_ns(&d->o.clock));

	e.words[0] = ch->client | (uint64_t)ch->client_generation << 32;
	e.words[1] = ch->priority;
	recorder_put(d->o.recorder, &e);
}

static void look_at_client(struct dispatch *d, struct channel *ch, uint64_t now_ns)
{
	const uint64_t seen = shm_load_relaxed(&ch->cq.ring->cons);
	struct recorder_event e = event_of(RECORDER_SEEN, ch, seen, now_ns);

	ch->seen = seen;
	ch->look_again = false;
	PROBE3(seen, e.channel, seen, now_ns);
	recorder_put(d->o.recorder, &e);
}

/* It has completions that its client was not known to have read. */
static bool is_unseen(const struct channel *ch)
{
	return ch->seen != ch->cq.published;
}

void record_seen(struct dispatch *d, uint64_t now_ns)
{
	if (d->o.recorder == NULL)
		return;
	for (uint32_t i = 0; i < SEEN_AT_ONCE && i < d->n_active; i++) {
		struct channel *ch = d->active[d->seen_at++ % d->n_active];
		if (is_unseen(ch))
			look_at_client(d, ch, now_ns);
	}
}

void record_seen_of(struct dispatch *d, struct channel *ch, uint64_t now_ns)
{
	if (d->o.recorder != NULL && is_unseen(ch))
		look_at_client(d, ch, now_ns);
}

void record_start(struct dispatch *d)
{
	const struct recorder_event e = {
		.kind = RECORDER_DEVICE,
		.time_ns = clock_now_ns(&d->o.clock),
		.words = {(uint64_t)getpid(), shm_load_relaxed(&d->page->epoch)},
	};

	recorder_put(d->o.recorder, &e);
}
