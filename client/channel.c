/* SPDX-License-Identifier: MIT */
/* channel.c: opening, handing on and closing channels, and how they end on their own. */
#include "client/client.h"
#include "shm/segment.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEFAULT_SQ_ENTRIES 256u
#define DEFAULT_ARENA_BYTES (1ull << 20)

static bool power_of_two(uint32_t n)
{
	return n != 0 && (n & (n - 1)) == 0;
}

static uint32_t smaller(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

/* Fills in the defaults, none of which exceeds what gpuqd allows. */
static struct gpuq_channel_options complete(
	const struct gpuq *g, const struct gpuq_channel_options *options)
{
	struct gpuq_channel_options o = {0};

	if (options != NULL)
		o = *options;
	if (o.sq_entries == 0)
		o.sq_entries = smaller(DEFAULT_SQ_ENTRIES, g->welcome.max_entries);
	if (o.cq_entries == 0)
		o.cq_entries = o.sq_entries <= g->welcome.max_entries / 2 ? 2 * o.sq_entries
									  : o.sq_entries;
	if (o.arena_bytes == 0)
		o.arena_bytes = g->welcome.max_arena_bytes < DEFAULT_ARENA_BYTES
			? g->welcome.max_arena_bytes
			: DEFAULT_ARENA_BYTES;
	return o;
}

static int check_options(const struct gpuq *g, const struct gpuq_channel_options *o)
{
	uint32_t max_entries = smaller(g->welcome.max_entries, WIRE_MAX_ENTRIES);
	uint64_t max_arena = g->welcome.max_arena_bytes;

	if (o->device >= g->welcome.n_devices || o->device >= WIRE_MAX_DEVICES)
		return fail(-GPUQ_ENODEV, "gpuqd has %u devices and none with number %u",
			g->welcome.n_devices, o->device);
	if (o->priority >= MSG_PRIORITIES)
		return fail(-EINVAL, "priority %u: it must be 0 .. %u", o->priority,
			MSG_PRIORITIES - 1);
	if (!power_of_two(o->sq_entries) || !power_of_two(o->cq_entries) ||
		o->sq_entries < WIRE_MIN_ENTRIES || o->cq_entries < o->sq_entries)
		return fail(-EINVAL,
			"sq_entries %u, cq_entries %u: both must be powers of two, at least %u, "
			"and cq_entries not smaller",
			o->sq_entries, o->cq_entries, WIRE_MIN_ENTRIES);
	if (o->cq_entries > max_entries)
		return fail(
			-GPUQ_ELIMIT, "cq_entries %u: gpuqd allows %u", o->cq_entries, max_entries);
	if (o->arena_bytes > max_arena || o->arena_bytes > WIRE_MAX_ARENA)
		return fail(-GPUQ_ELIMIT, "an arena of %llu bytes: gpuqd allows %llu",
			(unsigned long long)o->arena_bytes, (unsigned long long)max_arena);
	return 0;
}

static void flights_reset(struct gpuq_channel *ch)
{
	for (uint32_t i = 0; i < ch->cq_entries; i++) {
		ch->flights[i].token = FLIGHT_FREE;
		/* The stack hands out slot 0 first. */
		ch->free_slots[i] = (uint16_t)(ch->cq_entries - 1 - i);
	}
	ch->n_free = ch->cq_entries;
}

/* The private half of a channel. */
static struct gpuq_channel *channel_new(struct gpuq *g, const struct gpuq_channel_options *o)
{
	struct gpuq_channel *ch =
		aligned_alloc(WIRE_LINE, (sizeof(*ch) + WIRE_LINE - 1) / WIRE_LINE * WIRE_LINE);

	if (ch == NULL)
		return NULL;
	*ch = (struct gpuq_channel){
		.gpuq = g,
		.page = g->page,
		.clock = clock_from_page(g->page),
		.cq_entries = o->cq_entries,
		.device = o->device,
		.options = *o,
		.epoch = gpuq_epoch(g),
		.spin_cpus = smaller(g->shared_cpus, g->page->cpus),
		.trace_mask = g->welcome.abi >= 2 ? UINT64_MAX : 0,
		.null_call = {.channel = ch, .opcode = WIRE_OP_NULL, .references = 1},
		.cancel_call = {.channel = ch, .opcode = WIRE_OP_CANCEL, .references = 1},
		.doorbell_fd = -1,
		.bell_fd = -1,
	};
	struct guard *guard = NULL;
	int r = guard_create(&guard);
	ch->guard = guard;
	ch->flights = aligned_alloc(WIRE_LINE, o->cq_entries * sizeof(*ch->flights));
	ch->free_slots = calloc(o->cq_entries, sizeof(*ch->free_slots));
	ch->kept = calloc(o->cq_entries, sizeof(*ch->kept));
	if (r < 0 || ch->flights == NULL || ch->free_slots == NULL || ch->kept == NULL ||
		arena_create(o->arena_bytes, &ch->arena) < 0) {
		channel_free(ch);
		return NULL;
	}
	flights_reset(ch);
	return ch;
}

/* Maps what gpuqd sent; from here on the descriptors of the bells are the channel's. */
static int map_channel(struct gpuq_channel *ch, const struct msg_opened *m, int segment_fd,
	const struct gpuq_channel_options *o)
{
	struct wire_layout l = wire_layout(o->sq_entries, o->cq_entries, o->arena_bytes);
	struct stat st;
	int r;

	ch->id = m->channel;
	ch->generation = m->generation;
	if (m->sq_entries != o->sq_entries || m->cq_entries != o->cq_entries ||
		m->arena_bytes != o->arena_bytes || m->segment_bytes != l.segment_bytes)
		return fail_plain(-GPUQ_EPROTO, "gpuqd opened a channel of other sizes");
	if (fstat(ch->bell_fd, &st) < 0 || !S_ISFIFO(st.st_mode))
		return fail_plain(-GPUQ_EPROTO, "gpuqd sent something else for the bell");
	r = session_check_memory(segment_fd, l.segment_bytes, "a channel segment");
	if (r < 0)
		return r;
	/* A child shares no ring with its parent, not even by mistake. */
	r = segment_map_behind_page(segment_fd, l.segment_bytes, &ch->segment);
	if (r < 0)
		return fail(r, "mapping a channel of %llu bytes: %s",
			(unsigned long long)l.segment_bytes, strerror(-r));
	ch->segment_bytes = l.segment_bytes;
	uint8_t *base = ch->segment;
	ch->header = ch->segment;
	ch->sqes = (struct wire_sqe *)(base + l.sqe_offset);
	ch->cqes = (const struct wire_cqe *)(base + l.cqe_offset);
	ch->arena_base = base + l.arena_offset;
	return ch->header->magic == WIRE_MAGIC
		? 0
		: fail_plain(-GPUQ_EPROTO, "gpuqd sent something else for a channel segment");
}

static void start_rings(struct gpuq_channel *ch, const struct msg_opened *m)
{
	uint8_t *base = ch->segment;
	uint64_t max_completions = ch->gpuq->welcome.abi >= 2 ? 1 : 0;

	ch->sq = (struct ring_producer){
		.ring = (struct wire_ring *)(base + WIRE_SQ_RING),
		.prod = m->start,
		.published = m->start,
		.cons = m->start,
		.entries = m->sq_entries,
	};
	ch->cq = (struct ring_consumer){
		.ring = (struct wire_ring *)(base + WIRE_CQ_RING),
		.cons = m->start,
		.prod = m->start,
		.entries = m->cq_entries,
	};
	ch->tail_word = m->generation | max_completions << 32;
}

/* Tells gpuqd. Its answer comes when nothing of the channel is in flight any more. */
static int tell_close(struct gpuq *g, uint32_t id, uint32_t generation)
{
	struct msg_close request = {
		.h = {.type = MSG_CLOSE, .bytes = sizeof(request)},
		.channel = id,
		.generation = generation,
	};
	const struct session_answer want = {MSG_CLOSED, sizeof(struct msg_close), 0};
	struct session_message answer;

	return session_request(g, &request.h, want, &answer);
}

static int request_open(struct gpuq_channel *ch, const struct gpuq_channel_options *o)
{
	struct msg_open request = {
		.h = {.type = MSG_OPEN, .bytes = sizeof(request)},
		.device = o->device,
		.priority = o->priority,
		.sq_entries = o->sq_entries,
		.cq_entries = o->cq_entries,
		.arena_bytes = o->arena_bytes,
	};
	const struct session_answer want = {MSG_OPENED, sizeof(struct msg_opened), 3};
	struct session_message answer;
	int r = session_request(ch->gpuq, &request.h, want, &answer);

	if (r < 0)
		return r;
	ch->doorbell_fd = answer.fds[1];
	ch->bell_fd = answer.fds[2];
	r = map_channel(ch, &answer.opened, answer.fds[0], o);
	close(answer.fds[0]);
	if (r == 0)
		start_rings(ch, &answer.opened);
	return r;
}

static void link_channel(struct gpuq *g, struct gpuq_channel *ch)
{
	struct wire_header *header = ch->segment;

	pthread_mutex_lock(&g->lock);
	/* Opened by a gpuqd that was replaced before the channel was known here. */
	if (ch->epoch != g->epoch && shm_load_relaxed(&header->closed) == 0)
		shm_store_release(&header->closed, GPUQ_EGONE);
	ch->next = g->channels;
	ch->link = &g->channels;
	if (ch->next != NULL)
		ch->next->link = &ch->next;
	g->channels = ch;
	notice_add(ch);
	pthread_mutex_unlock(&g->lock);
}

static void unlink_channel(struct gpuq_channel *ch)
{
	if (ch->link == NULL)
		return;
	*ch->link = ch->next;
	if (ch->next != NULL)
		ch->next->link = ch->link;
}

int gpuq_channel_open(struct gpuq *g, const struct gpuq_channel_options *options,
	struct gpuq_channel **ret_channel)
{
	int r = session_check(g);

	if (r < 0)
		return r;
	struct gpuq_channel_options o = complete(g, options);
	r = check_options(g, &o);
	if (r < 0)
		return r;
	struct gpuq_channel *ch = channel_new(g, &o);
	if (ch == NULL)
		return fail_plain(-ENOMEM, "no memory for a channel");
	r = request_open(ch, &o);
	if (r < 0) {
		gpuq_channel_close(ch);
		return r;
	}
	link_channel(g, ch);
	*ret_channel = ch;
	return 0;
}

int channel_open_twin(const struct gpuq_channel *ch, struct gpuq_channel **ret_twin)
{
	const struct gpuq_channel_options *o = &ch->options;
	int r = check_options(ch->gpuq, o);

	if (r < 0)
		return r;
	struct gpuq_channel *twin = channel_new(ch->gpuq, o);
	if (twin == NULL)
		return fail_plain(-ENOMEM, "no memory for a channel");
	r = request_open(twin, o);
	if (r < 0) {
		gpuq_channel_close(twin);
		return r;
	}
	*ret_twin = twin;
	return 0;
}

/* What says where the twin's rings stand, all of it relative to a segment at the same place. */
static void take_state(struct gpuq_channel *ch, const struct gpuq_channel *twin)
{
	ch->id = twin->id;
	ch->generation = twin->generation;
	ch->tail_word = twin->tail_word;
	ch->trace_mask = twin->trace_mask;
	ch->clock = twin->clock;
	ch->spin_cpus = twin->spin_cpus;
	ch->sq = twin->sq;
	ch->sq.ring = (struct wire_ring *)((uint8_t *)ch->segment + WIRE_SQ_RING);
	ch->cq = twin->cq;
	ch->cq.ring = (struct wire_ring *)((uint8_t *)ch->segment + WIRE_CQ_RING);
	ch->gone = 0;
	ch->gone_text = NULL;
	ch->bell_rung = false;
	ch->usual_ns = 0;
	ch->epoch = twin->epoch;
}

int channel_become(struct gpuq_channel *ch, struct gpuq_channel *twin)
{
	struct gpuq *g = ch->gpuq;
	int r = 0;

	pthread_mutex_lock(&g->lock);
	notice_remove(ch);
	if (dup3(twin->doorbell_fd, ch->doorbell_fd, O_CLOEXEC) < 0 ||
		dup3(twin->bell_fd, ch->bell_fd, O_CLOEXEC) < 0)
		r = -errno;
	if (r == 0)
		r = segment_move_behind_page(twin->segment, twin->segment_bytes, ch->segment);
	if (r == 0) {
		twin->segment = NULL;
		take_state(ch, twin);
		flights_reset(ch);
		notice_add(ch);
		channel_free(twin);
	}
	pthread_mutex_unlock(&g->lock);
	if (r == 0)
		return 0;
	gpuq_channel_close(twin);
	return fail(r, "giving a channel new rings: %s", strerror(-r));
}

void channel_free(struct gpuq_channel *ch)
{
	unlink_channel(ch);
	while (ch->calls != NULL) {
		struct gpuq_call *call = ch->calls;
		ch->calls = call->next;
		pipeline_unref(call->pipeline);
		free(call->model);
		free(call);
	}
	sessions_free(ch);
	overtaken_free(ch->overtaken);
	/* In a child the segment's addresses may belong to something else by now. */
	if (ch->segment != NULL && !guard_forked(ch->guard)) {
		notice_remove(ch);
		segment_unmap_behind_page(ch->segment, ch->segment_bytes);
	}
	if (ch->doorbell_fd >= 0)
		close(ch->doorbell_fd);
	if (ch->bell_fd >= 0)
		close(ch->bell_fd);
	arena_destroy(ch->arena);
	guard_destroy((struct guard *)ch->guard);
	free(ch->kept);
	free(ch->free_slots);
	free(ch->flights);
	free(ch);
}

void gpuq_channel_close(struct gpuq_channel *ch)
{
	if (ch == NULL)
		return;
	struct gpuq *g = ch->gpuq;
	if (guard_forked(ch->guard)) {
		/* The lock may have been held when the child came to be; nobody else is here. */
		channel_free(ch);
		return;
	}
	/* Fails when gpuqd has ended, and then there is nothing to tell. */
	if (ch->bell_fd >= 0)
		(void)tell_close(g, ch->id, ch->generation);
	pthread_mutex_lock(&g->lock);
	channel_free(ch);
	pthread_mutex_unlock(&g->lock);
}

int channel_refuse(const struct gpuq_channel *ch)
{
	if (guard_forked(ch->guard))
		return fail_plain(-GPUQ_EFORK, gpuq_strerror(GPUQ_EFORK));
	return fail_plain(-GPUQ_ETHREAD, gpuq_strerror(GPUQ_ETHREAD));
}

int gpuq_channel_adopt(struct gpuq_channel *ch)
{
	if (guard_forked(ch->guard))
		return channel_refuse(ch);
	/* gpuq_reconnect() of other threads looks at it. */
	shm_store_relaxed(&((struct guard *)ch->guard)->owner, thread_self());
	return 0;
}

/* The reason stays what it was first. */
static void note_gone(struct gpuq_channel *ch, int error, const char *text)
{
	if (ch->gone != 0)
		return;
	ch->gone = error;
	ch->gone_text = text;
}

int channel_lost(struct gpuq_channel *ch)
{
	uint64_t closed = shm_load_relaxed(&ch->header->closed);

	if (closed != 0) {
		int error = closed <= GPUQ_ERROR_LAST ? -(int)closed : -GPUQ_EGONE;
		note_gone(ch, error, gpuq_strerror(error));
	}
	if (ch->gone_text != NULL)
		return fail_plain(ch->gone, ch->gone_text);
	ch->gone = session_gone(ch->gpuq, ch->epoch);
	return ch->gone;
}

int channel_poison(struct gpuq_channel *ch)
{
	/* They also are when gpuqd has taken the memory back, and then it has said why. */
	if (!header_shut(ch->header))
		note_gone(ch, -GPUQ_EPOISONED,
			"the words of the ring are impossible: something in this process wrote "
			"over them; close the channel");
	return channel_lost(ch);
}

int channel_end(struct gpuq_channel *ch)
{
	if (ch->cq.ring != &ch->ended_ring)
		overtaken_note(ch);
	for (uint32_t i = 0; i < ch->cq_entries; i++)
		if (ch->flights[i].token != FLIGHT_FREE)
			call_release(ch->flights[i].call);
	flights_reset(ch);
	/* gpuqd's device process may live on for a moment: nobody looks at its ring any more. */
	ch->ended_ring = (struct wire_ring){.prod = ch->cq.cons, .cons = ch->cq.cons};
	ch->cq.prod = ch->cq.cons;
	ch->cq.ring = &ch->ended_ring;
	return channel_lost(ch);
}

struct gpuq *gpuq_channel_gpuq(const struct gpuq_channel *ch)
{
	return ch->gpuq;
}

uint64_t gpuq_rescues(const struct gpuq_channel *ch)
{
	return ch->rescues;
}

int gpuq_alloc(struct gpuq_channel *ch, size_t bytes, void **ret_data)
{
	uint64_t offset;

	if (!channel_owned(ch))
		return channel_refuse(ch);
	if (bytes > arena_capacity(ch->arena))
		return fail(-GPUQ_ETOOBIG,
			"%zu bytes can never be had from an arena of %llu; open the channel with a "
			"larger one",
			bytes, (unsigned long long)arena_capacity(ch->arena));
	if (arena_alloc(ch->arena, bytes, &offset) < 0)
		return fail_plain(-ENOSPC,
			"no free piece of the arena is large enough now; free something, or wait "
			"with gpuq_wait_space()");
	*ret_data = ch->arena_base + offset;
	return 0;
}

int gpuq_free(struct gpuq_channel *ch, void *data)
{
	if (!channel_owned(ch))
		return channel_refuse(ch);
	if (data == NULL)
		return 0;
	/* A pointer from elsewhere becomes an offset that no piece has. */
	if (arena_free(ch->arena, (uintptr_t)data - (uintptr_t)ch->arena_base) < 0)
		return fail_plain(-EINVAL,
			"not a pointer that gpuq_alloc() returned for this channel, or already "
			"given back");
	return 0;
}
