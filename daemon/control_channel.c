/* SPDX-License-Identifier: MIT */
/* Channels in the control process: memory and bells are made here, and taken back here. */
#define LOG_TOPIC LOG_RING
#include "daemon/control.h"
#include "daemon/log.h"
#include "shm/atomics.h"
#include "shm/failpoint.h"
#include "shm/segment.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* First that it is there, then that it goes. */
static int channel_send(struct control *c, struct owed *owed)
{
	struct channel *ch = (struct channel *)((char *)owed - offsetof(struct channel, owed));
	const int fds[3] = {ch->segment_fd, ch->eventfd, ch->pipe_write};
	struct devlink_msg m = {.channel = ch->index, .generation = ch->generation};
	int r;

	if (ch->add) {
		m.type = DEVLINK_ADD;
		m.abi = ch->session->abi;
		m.sq_entries = ch->sq_entries;
		m.cq_entries = ch->cq_entries;
		m.arena_bytes = ch->arena_bytes;
		m.start = ch->start;
		m.priority = ch->priority;
		m.recover = ch->recover;
		m.client = ch->session->index;
		m.client_generation = ch->session->generation;
		m.uid = ch->session->uid;
		m.weight = ch->session->weight;
		r = device_send(c, &m, fds, 3);
		ch->add = r < 0;
		return r < 0 ? r : 1;
	}
	if (!ch->remove)
		return 0;
	m.type = DEVLINK_REMOVE;
	r = device_send(c, &m, NULL, 0);
	ch->remove = r < 0;
	return r < 0 ? r : 1;
}

void channel_hand_over(struct control *c)
{
	for (uint32_t i = 0; i < c->config->max_channels; i++) {
		struct channel *ch = &c->channels[i];

		if (ch->state != CHANNEL_ADDING && ch->state != CHANNEL_OPEN &&
			ch->state != CHANNEL_REMOVING)
			continue;
		ch->add = true;
		ch->recover = ch->state != CHANNEL_ADDING;
		ch->remove = ch->state == CHANNEL_REMOVING;
		device_tell(c, &ch->owed);
	}
}

void memory_limits_set(struct control *c)
{
	c->max_total_bytes = c->config->max_total_bytes;
	if (c->max_total_bytes == 0)
		c->max_total_bytes =
			(uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE) / 2;
	c->max_user_bytes = c->config->max_user_bytes;
	if (c->max_user_bytes == 0)
		c->max_user_bytes = c->max_total_bytes / 2;
}

int channel_table_create(struct control *c)
{
	c->channels = calloc(c->config->max_channels, sizeof(*c->channels));
	if (c->channels == NULL)
		return -ENOMEM;
	TAILQ_INIT(&c->free_channels);
	for (uint32_t i = 0; i < c->config->max_channels; i++) {
		struct channel *ch = &c->channels[i];

		ch->index = i;
		ch->owed.send = channel_send;
		ch->segment_fd = ch->eventfd = ch->pipe_read = ch->pipe_write = -1;
		TAILQ_INSERT_TAIL(&c->free_channels, ch, in_list);
	}
	memory_limits_set(c);
	/* Lets tests begin close to where indices wrap. */
	const char *start = getenv("GPUQ_TEST_START_INDEX");
	if (start != NULL)
		c->start_index = strtoull(start, NULL, 0);
	return 0;
}

/* --- Opening ------------------------------------------------------------------------------- */

static bool ring_size_valid(uint32_t n)
{
	return n >= WIRE_MIN_ENTRIES && n <= WIRE_MAX_ENTRIES && (n & (n - 1)) == 0;
}

/*
 * What a request asks for can be granted by anybody. Writes the reason when not. While a device
 * process is being replaced, requests wait for the new one: see device_hand_over().
 */
static int open_check(const struct control *c, const struct msg_open *m, char text[MSG_TEXT_MAX])
{
	int r = device_check_request(c, m->device, text);

	if (r < 0)
		return r;
	if (!ring_size_valid(m->sq_entries) || !ring_size_valid(m->cq_entries) ||
		m->cq_entries < m->sq_entries) {
		snprintf(text, MSG_TEXT_MAX,
			"ring sizes %u and %u: both must be powers of two from %u to %u, the "
			"second not below the first",
			m->sq_entries, m->cq_entries, WIRE_MIN_ENTRIES, WIRE_MAX_ENTRIES);
		return -EINVAL;
	}
	if (m->priority >= MSG_PRIORITIES || m->flags != 0 || m->reserved != 0) {
		snprintf(text, MSG_TEXT_MAX,
			"priority %u or flags %#x are unknown; priorities are 0 to %u, flags 0",
			m->priority, m->flags, MSG_PRIORITIES - 1);
		return -EINVAL;
	}
	return 0;
}

int limit_reached(char text[MSG_TEXT_MAX], const char *name, uint64_t limit)
{
	snprintf(text, MSG_TEXT_MAX,
		"the limit %s (%llu) is reached; raise it in gpuqd.conf, or ask for less", name,
		(unsigned long long)limit);
	return -GPUQ_ELIMIT;
}

/* What a user has in all connections, those that are being closed included. */
struct user_share {
	uint64_t bytes, channels;
};

static struct user_share user_share(const struct control *c, uid_t uid)
{
	struct user_share share = {0};
	const struct buffer *b;

	for (uint32_t i = 0; i < c->n_sessions; i++) {
		const struct session *s = &c->sessions[i];

		if (s->state == SESSION_FREE || s->uid != uid)
			continue;
		share.bytes += s->bytes;
		share.channels += s->n_channels;
	}
	TAILQ_FOREACH (b, &c->orphans, in_list)
		share.bytes += b->uid == uid ? b->whole_bytes : 0;
	return share;
}

int memory_check(
	const struct control *c, const struct session *s, uint64_t bytes, char text[MSG_TEXT_MAX])
{
	if (s->bytes + bytes > c->config->max_client_bytes)
		return limit_reached(text, "max_client_bytes", c->config->max_client_bytes);
	if (user_share(c, s->uid).bytes + bytes > c->max_user_bytes)
		return limit_reached(text, "max_user_bytes", c->max_user_bytes);
	if (c->total_bytes + bytes > c->max_total_bytes)
		return limit_reached(text, "max_total_bytes", c->max_total_bytes);
	return 0;
}

void memory_take(struct control *c, struct session *s, uint64_t bytes)
{
	s->bytes += bytes;
	c->total_bytes += bytes;
	shm_store_relaxed(&c->stats.clients[s->index].segment_bytes, s->bytes);
}

void memory_give(struct control *c, struct session *s, uint64_t bytes)
{
	s->bytes -= bytes;
	c->total_bytes -= bytes;
	shm_store_relaxed(&c->stats.clients[s->index].segment_bytes, s->bytes);
}

/* There is room for one more channel of these sizes. */
static int limits_check(const struct control *c, const struct session *s, uint64_t arena_bytes,
	uint64_t segment_bytes, char text[MSG_TEXT_MAX])
{
	const struct config *config = c->config;

	if (arena_bytes > config->max_arena_bytes)
		return limit_reached(text, "max_arena_bytes", config->max_arena_bytes);
	if (s->n_channels >= config->max_channels_per_client)
		return limit_reached(
			text, "max_channels_per_client", config->max_channels_per_client);
	if (user_share(c, s->uid).channels >= config->max_channels_per_user)
		return limit_reached(text, "max_channels_per_user", config->max_channels_per_user);
	if (TAILQ_EMPTY(&c->free_channels))
		return limit_reached(text, "max_channels", config->max_channels);
	return memory_check(c, s, segment_bytes, text);
}

static void account(struct control *c, struct channel *ch, bool add)
{
	uint32_t n = add ? 1 : -1u;

	if (add)
		memory_take(c, ch->session, ch->segment_bytes);
	else
		memory_give(c, ch->session, ch->segment_bytes);
	c->segment_bytes += add ? ch->segment_bytes : -ch->segment_bytes;
	ch->session->n_channels += n;
	c->n_channels += n;
	shm_store_relaxed(&c->stats.clients[ch->session->index].channels, ch->session->n_channels);
	shm_store_relaxed(&c->stats.header->channels, c->n_channels);
	shm_store_relaxed(&c->stats.header->segment_bytes, c->segment_bytes);
}

static struct channel *channel_take(
	struct control *c, struct session *s, const struct msg_open *m, uint64_t segment_bytes)
{
	struct channel *ch = TAILQ_FIRST(&c->free_channels);

	TAILQ_REMOVE(&c->free_channels, ch, in_list);
	ch->state = CHANNEL_ALLOCATING;
	if (++ch->generation == 0)
		ch->generation = 1; /* 0 stands for nobody in the ledger */
	ch->serial = m->h.serial;
	ch->answer = ch->closing = false;
	ch->sq_entries = m->sq_entries;
	ch->cq_entries = m->cq_entries;
	ch->priority = m->priority;
	ch->arena_bytes = m->arena_bytes;
	ch->segment_bytes = segment_bytes;
	ch->start = c->start_index;
	ch->session = s;
	LIST_INSERT_HEAD(&s->channels, ch, of_session);
	account(c, ch, true);
	return ch;
}

/* Everything of the channel is back: its record is free. */
static void channel_free(struct control *c, struct channel *ch)
{
	struct session *s = ch->session;
	int *fds[] = {&ch->segment_fd, &ch->eventfd, &ch->pipe_read, &ch->pipe_write};

	for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++) {
		if (*fds[i] >= 0)
			close(*fds[i]);
		*fds[i] = -1;
	}
	account(c, ch, false);
	LIST_REMOVE(ch, of_session);
	ch->state = CHANNEL_FREE;
	ch->session = NULL;
	TAILQ_INSERT_TAIL(&c->free_channels, ch, in_list);
	session_release(c, s);
}

/* The channel cannot be made: nobody but us has seen it yet. */
static void open_fail(struct control *c, struct channel *ch, int error)
{
	struct session *s = ch->session;

	if (!ch->closing) {
		s->fds = FDS_NONE;
		session_refuse(c, s, ch->serial, error, "gpuqd has no %s for a channel: %s",
			error == -ENOMEM ? "memory" : "descriptors", strerror(-error));
	}
	channel_free(c, ch);
}

void channel_open(struct control *c, struct session *s, const struct msg_open *m)
{
	char text[MSG_TEXT_MAX];
	struct wire_layout l = {0};

	int r = open_check(c, m, text);
	if (r == 0) {
		/* The arena first: the layout's sums cannot overflow below this limit. */
		if (m->arena_bytes <= c->config->max_arena_bytes)
			l = wire_layout(m->sq_entries, m->cq_entries, m->arena_bytes);
		r = limits_check(c, s, m->arena_bytes, l.segment_bytes, text);
	}
	if (r < 0) {
		session_refuse(c, s, m->h.serial, r, "%s", text);
		return;
	}
	struct channel *ch = channel_take(c, s, m, l.segment_bytes);
	s->fds = FDS_ASKED;
	ch->segment_fd = segment_memfd("gpuq-channel");
	if (ch->segment_fd < 0) {
		open_fail(c, ch, ch->segment_fd);
		return;
	}
	/* Gigabytes take a second to allocate: in the background. */
	struct io_uring_sqe *sqe = control_sqe(c);
	io_uring_prep_fallocate(sqe, ch->segment_fd, 0, 0, (off_t)ch->segment_bytes);
	control_tag(sqe, OP_ALLOCATE, ch->index);
}

static int header_write(const struct channel *ch)
{
	const struct wire_layout l = wire_layout(ch->sq_entries, ch->cq_entries, ch->arena_bytes);
	struct wire_ring *ring;
	void *base;

	int r = segment_map(ch->segment_fd, WIRE_ENTRIES, true, &base);
	if (r < 0)
		return r;
	*(struct wire_header *)base = (struct wire_header){
		.magic = WIRE_MAGIC,
		.abi = ch->session->abi,
		.segment_bytes = l.segment_bytes,
		.sq_entries = ch->sq_entries,
		.cq_entries = ch->cq_entries,
		.sqe_offset = (uint32_t)l.sqe_offset,
		.cqe_offset = (uint32_t)l.cqe_offset,
		.arena_offset = l.arena_offset,
		.arena_bytes = ch->arena_bytes,
		.channel = ch->index,
		.generation = ch->generation,
		.start = ch->start,
	};
	for (uint32_t at = WIRE_SQ_RING; at <= WIRE_CQ_RING; at += WIRE_CQ_RING - WIRE_SQ_RING) {
		ring = (struct wire_ring *)((char *)base + at);
		ring->prod = ring->cons = ring->wake_at = ch->start;
	}
	munmap(base, WIRE_ENTRIES);
	return 0;
}

static void channel_state_show(struct control *c, const struct channel *ch, uint32_t state)
{
	shm_store_release_u32(&c->stats.channels[ch->index].state, state);
}

void channel_show(struct control *c, const struct channel *ch)
{
	struct stats_channel *record = &c->stats.channels[ch->index];

	shm_store_release_u32(&record->state, 0);
	memset(record, 0, sizeof(*record));
	record->client = ch->session->index;
	record->client_generation = ch->session->generation;
	record->generation = ch->generation;
	record->device = c->device.index;
	record->priority = ch->priority;
	record->sq_entries = ch->sq_entries;
	record->cq_entries = ch->cq_entries;
	record->arena_bytes = ch->arena_bytes;
	if (ch->state == CHANNEL_OPEN)
		channel_state_show(c, ch, STATS_CHANNEL_OPEN);
	else if (ch->state == CHANNEL_REMOVING || ch->state == CHANNEL_PUNCHING)
		channel_state_show(c, ch, STATS_CHANNEL_CLOSING);
}

static void channel_punch(struct control *c, struct channel *ch)
{
	struct io_uring_sqe *sqe = control_sqe(c);

	ch->state = CHANNEL_PUNCHING;
	io_uring_prep_fallocate(sqe, ch->segment_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
		(off_t)ch->segment_bytes);
	control_tag(sqe, OP_PUNCH, ch->index);
}

void channel_allocated(struct control *c, struct channel *ch, int result)
{
	int r = result == -ENOSPC ? -ENOMEM : result;

	FAILPOINT("control.segment_made");
	if (r >= 0 && ch->closing) {
		channel_punch(c, ch);
		return;
	}
	if (r >= 0)
		r = segment_seal(ch->segment_fd);
	if (r >= 0)
		r = header_write(ch);
	if (r >= 0)
		r = ch->eventfd = bell_eventfd();
	if (r >= 0)
		r = bell_pipe(&ch->pipe_read, &ch->pipe_write);
	if (r < 0) {
		open_fail(c, ch, r);
		return;
	}
	channel_show(c, ch);
	ch->state = CHANNEL_ADDING;
	ch->add = true;
	ch->recover = false;
	device_tell(c, &ch->owed);
}

static void channel_remove(struct control *c, struct channel *ch)
{
	ch->state = CHANNEL_REMOVING;
	ch->remove = true;
	channel_state_show(c, ch, STATS_CHANNEL_CLOSING);
	device_tell(c, &ch->owed);
}

void channel_added(struct control *c, struct channel *ch)
{
	struct session *s = ch->session;

	if (ch->state != CHANNEL_ADDING)
		return; /* one that a new device process has taken over */
	if (ch->closing) {
		channel_remove(c, ch);
		return;
	}
	struct msg_opened m = {
		.channel = ch->index,
		.generation = ch->generation,
		.segment_bytes = ch->segment_bytes,
		.sq_entries = ch->sq_entries,
		.cq_entries = ch->cq_entries,
		.arena_bytes = ch->arena_bytes,
		.start = ch->start,
	};
	const int fds[] = {ch->segment_fd, ch->eventfd, ch->pipe_read};
	ch->state = CHANNEL_OPEN;
	channel_state_show(c, ch, STATS_CHANNEL_OPEN);
	s->fds = FDS_SENT;
	s->fds_messages++;
	session_send(c, s, &m, MSG_OPENED, sizeof(m), ch->serial, fds, 3);
	close(ch->pipe_read);
	ch->pipe_read = -1;
}

/* --- Closing ------------------------------------------------------------------------------- */

void channel_close(struct control *c, struct channel *ch)
{
	ch->closing = true;
	if (ch->state == CHANNEL_OPEN)
		channel_remove(c, ch);
	/* Otherwise something is under way, and looks at `closing` when it is done. */
}

void channel_close_request(struct control *c, struct session *s, const struct msg_close *m)
{
	struct channel *ch = m->channel < c->config->max_channels ? &c->channels[m->channel] : NULL;

	if (ch == NULL || ch->session != s || ch->generation != m->generation ||
		ch->state != CHANNEL_OPEN) {
		session_refuse(c, s, m->h.serial, -EINVAL,
			"channel %u, generation %u, is not open in this connection", m->channel,
			m->generation);
		return;
	}
	ch->serial = m->h.serial;
	ch->answer = true;
	channel_close(c, ch);
}

void channel_removed(struct control *c, struct channel *ch)
{
	if (ch->state != CHANNEL_REMOVING) {
		log_error("the device process removed channel %u, which it was not told to",
			ch->index);
		return;
	}
	/* A descriptor may linger in some process: the pages go now. */
	channel_punch(c, ch);
}

void channel_punched(struct control *c, struct channel *ch, int result)
{
	struct msg_close m = {.channel = ch->index, .generation = ch->generation};
	struct session *s = ch->session;
	bool answer = ch->answer && s->state == SESSION_LIVE;

	if (result < 0)
		log_error("channel %u: its memory cannot be given back: %s", ch->index,
			strerror(-result));
	channel_state_show(c, ch, STATS_CHANNEL_CLOSED);
	/* Who hears that it is closed has its share back, and the statistics say so. */
	channel_free(c, ch);
	if (answer)
		session_send(c, s, &m, MSG_CLOSED, sizeof(m), ch->serial, NULL, 0);
}

void channel_poisoned(struct control *c, struct channel *ch)
{
	struct session *s = ch->session;
	char text[MSG_TEXT_MAX];

	if (ch->state == CHANNEL_ADDING) {
		/* Not a word has been written there yet: the device process could not map it. */
		s->fds = FDS_NONE;
		session_refuse(c, s, ch->serial, -ENOMEM,
			"the device process cannot map the channel; ask for less");
		ch->closing = true;
		channel_remove(c, ch);
		return;
	}
	if (ch->state != CHANNEL_OPEN)
		return;
	snprintf(text, sizeof(text),
		"channel %u broke a rule of the wire (its ring indices): a bug in the client, or "
		"something wrote over its shared memory",
		ch->index);
	log_limited(LOG_LEVEL_WARN, "client %u (%s, pid %ld): %s", s->index, s->name, (long)s->pid,
		text);
	session_goodbye(c, s, -GPUQ_EPOISONED, text);
	channel_state_show(c, ch, STATS_CHANNEL_POISONED);
}
