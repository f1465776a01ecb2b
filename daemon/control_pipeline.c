/* SPDX-License-Identifier: MIT */
/*
 * Pipelines in the control process: definitions come in pieces, are checked here, where the client
 * can be told what is wrong, and then given to the device process, and to each of its successors.
 * What it has is called a registration here. The definition's bytes count in the client's memory.
 */
#define LOG_TOPIC LOG_GRAPH
#include "daemon/control.h"
#include "daemon/log.h"
#include "graphs/pipeline.h"
#include "shm/atomics.h"
#include "shm/segment.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define GENERATIONS 0x7fffu

static uint32_t handle_of(const struct registration *p)
{
	return WIRE_PIPELINE | p->generation << 16 | p->index;
}

/* --- To the device process ----------------------------------------------------------------- */

static int write_all(int fd, const void *data, size_t bytes)
{
	for (size_t at = 0; at < bytes;) {
		ssize_t n = pwrite(fd, (const char *)data + at, bytes - at, (off_t)at);
		if (n < 0 && errno != EINTR)
			return -errno;
		at += n > 0 ? (size_t)n : 0;
	}
	return 0;
}

static int definition_send(struct control *c, const struct registration *p)
{
	const struct devlink_msg m = {
		.type = DEVLINK_PIPELINE,
		.handle = handle_of(p),
		.client = p->session->index,
		.client_generation = p->session->generation,
		.bytes = p->bytes,
	};
	int fd = segment_memfd("gpuq-pipeline");

	if (fd < 0)
		return fd;
	int r = write_all(fd, p->definition, p->bytes);
	if (r == 0)
		r = device_send(c, &m, &fd, 1);
	close(fd);
	return r;
}

static int registration_send(struct control *c, struct owed *owed)
{
	struct registration *p =
		(struct registration *)((char *)owed - offsetof(struct registration, owed));
	const struct devlink_msg gone = {.type = DEVLINK_PIPELINE_REMOVE, .handle = handle_of(p)};
	int r;

	if (p->add) {
		r = definition_send(c, p);
		p->add = r < 0;
		return r < 0 ? r : 1;
	}
	if (!p->remove)
		return 0;
	r = device_send(c, &gone, NULL, 0);
	p->remove = r < 0;
	return r < 0 ? r : 1;
}

void registration_hand_over(struct control *c)
{
	for (uint32_t i = 0; i < c->config->max_pipelines; i++) {
		struct registration *p = &c->registrations[i];

		if (p->state == REGISTRATION_FREE)
			continue;
		p->add = true;
		p->remove = p->state == REGISTRATION_REMOVING;
		device_tell(c, &p->owed);
	}
}

/* --- The table ----------------------------------------------------------------------------- */

int registration_table_create(struct control *c)
{
	c->registrations = calloc(c->config->max_pipelines, sizeof(*c->registrations));
	if (c->registrations == NULL)
		return -ENOMEM;
	TAILQ_INIT(&c->free_registrations);
	for (uint32_t i = 0; i < c->config->max_pipelines; i++) {
		struct registration *p = &c->registrations[i];

		p->index = i;
		p->owed.send = registration_send;
		TAILQ_INSERT_TAIL(&c->free_registrations, p, in_list);
	}
	return 0;
}

void registration_table_destroy(struct control *c)
{
	for (uint32_t i = 0; c->registrations != NULL && i < c->config->max_pipelines; i++)
		free(c->registrations[i].definition);
	for (uint32_t i = 0; c->sessions != NULL && i < c->n_sessions; i++)
		free(c->sessions[i].draft.bytes);
	free(c->registrations);
}

static void count(struct control *c, struct session *s, uint32_t n)
{
	s->n_registrations += n;
	c->n_registrations += n;
	shm_store_relaxed(&c->stats.header->pipelines, c->n_registrations);
}

/* Takes the draft's definition over. */
static void registration_create(struct control *c, struct session *s, uint32_t serial)
{
	struct registration *p = TAILQ_FIRST(&c->free_registrations);

	TAILQ_REMOVE(&c->free_registrations, p, in_list);
	p->generation = p->generation % GENERATIONS + 1;
	p->state = REGISTRATION_ADDING;
	p->serial = serial;
	p->answer = p->closing = p->remove = false;
	p->definition = s->draft.bytes;
	p->bytes = s->draft.total;
	p->session = s;
	s->draft = (struct draft){0};
	LIST_INSERT_HEAD(&s->registrations, p, of_session);
	count(c, s, 1);
	p->add = true;
	device_tell(c, &p->owed);
}

/* The device process knows nothing of it any more, or never did. */
static void registration_free(struct control *c, struct registration *p)
{
	struct session *s = p->session;

	device_forget(c, &p->owed);
	memory_give(c, s, p->bytes);
	free(p->definition);
	p->definition = NULL;
	LIST_REMOVE(p, of_session);
	p->state = REGISTRATION_FREE;
	p->session = NULL;
	TAILQ_INSERT_TAIL(&c->free_registrations, p, in_list);
	count(c, s, (uint32_t)-1);
	session_release(c, s);
}

/* The registration that a handle means, whoever it belongs to; NULL when there is none. */
static struct registration *registration_find(struct control *c, uint32_t handle)
{
	uint32_t index = handle & 0xffffu;
	struct registration *p = index < c->config->max_pipelines ? &c->registrations[index] : NULL;

	if (p == NULL || p->state == REGISTRATION_FREE || handle_of(p) != handle)
		return NULL;
	return p;
}

/* --- A definition -------------------------------------------------------------------------- */

static void draft_forget(struct control *c, struct session *s)
{
	if (s->draft.bytes == NULL)
		return;
	memory_give(c, s, s->draft.total);
	free(s->draft.bytes);
	s->draft = (struct draft){0};
}

/* In all connections, those that are being closed included. */
static uint32_t user_registrations(const struct control *c, uid_t uid)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < c->n_sessions; i++) {
		if (c->sessions[i].state != SESSION_FREE && c->sessions[i].uid == uid)
			n += c->sessions[i].n_registrations;
	}
	return n;
}

/* Whether there is room for one more. Writes the reason when not. */
static int room_check(
	const struct control *c, const struct session *s, uint32_t bytes, char text[MSG_TEXT_MAX])
{
	const struct config *config = c->config;

	if (bytes > MSG_PIPELINE_MAX_BYTES) {
		snprintf(text, MSG_TEXT_MAX, "a definition of %u bytes; at most %u are possible",
			bytes, MSG_PIPELINE_MAX_BYTES);
		return -GPUQ_ELIMIT;
	}
	if (s->n_registrations >= config->max_pipelines_per_client)
		return limit_reached(
			text, "max_pipelines_per_client", config->max_pipelines_per_client);
	if (user_registrations(c, s->uid) >= config->max_pipelines_per_user)
		return limit_reached(
			text, "max_pipelines_per_user", config->max_pipelines_per_user);
	if (TAILQ_EMPTY(&c->free_registrations))
		return limit_reached(text, "max_pipelines", config->max_pipelines);
	return memory_check(c, s, bytes, text);
}

static int draft_begin(
	struct control *c, struct session *s, const struct msg_pipeline *m, char text[MSG_TEXT_MAX])
{
	draft_forget(c, s);
	int r = device_check_request(c, m->device, text);
	if (r == 0)
		r = room_check(c, s, m->total_bytes, text);
	if (r < 0)
		return r;
	s->draft.bytes = calloc(1, m->total_bytes + 1u);
	if (s->draft.bytes == NULL) {
		snprintf(text, MSG_TEXT_MAX, "gpuqd has no memory for a definition");
		return -ENOMEM;
	}
	s->draft.total = m->total_bytes;
	memory_take(c, s, m->total_bytes);
	return 0;
}

static int draft_add(struct session *s, const struct msg_pipeline *m, char text[MSG_TEXT_MAX])
{
	struct draft *d = &s->draft;

	if (d->bytes == NULL || m->total_bytes != d->total || m->offset != d->have ||
		m->bytes > d->total - d->have || m->bytes == 0) {
		snprintf(text, MSG_TEXT_MAX,
			"a piece of %u bytes at %u of %u, where %u of %u have come", m->bytes,
			m->offset, m->total_bytes, d->have, d->total);
		return -GPUQ_EPIPELINE;
	}
	memcpy(d->bytes + d->have, m->piece, m->bytes);
	d->have += m->bytes;
	return 0;
}

/* Everything has come: does it make sense? */
static int draft_check(const struct draft *d, char text[MSG_TEXT_MAX])
{
	struct pipeline *pipeline;
	int r = pipeline_create(d->bytes, d->total, &pipeline, text);

	_Static_assert(MSG_TEXT_MAX >= PIPELINE_MAX_WHY, "room for the reason");
	if (r == 0)
		pipeline_unref(pipeline);
	return r;
}

void registration_piece(struct control *c, struct session *s, const struct msg_pipeline *m)
{
	struct msg_pipeline_handle more = {.handle = 0};
	char text[MSG_TEXT_MAX] = "";
	int r = m->offset == 0 ? draft_begin(c, s, m, text) : 0;

	if (r == 0)
		r = draft_add(s, m, text);
	bool whole = r == 0 && s->draft.have == s->draft.total;
	if (whole)
		r = draft_check(&s->draft, text);
	if (whole && r == 0)
		r = room_check(c, s, 0, text);
	if (r < 0) {
		draft_forget(c, s);
		session_refuse(c, s, m->h.serial, r, "%s", text);
	} else if (whole) {
		registration_create(c, s, m->h.serial);
	} else {
		session_send(c, s, &more, MSG_PIPELINE_OK, sizeof(more), m->h.serial, NULL, 0);
	}
}

/* --- Coming and going ---------------------------------------------------------------------- */

static void registration_remove(struct control *c, struct registration *p)
{
	p->state = REGISTRATION_REMOVING;
	p->remove = true;
	device_tell(c, &p->owed);
}

void registration_added(struct control *c, const struct devlink_msg *m)
{
	struct registration *p = registration_find(c, m->handle);
	struct msg_pipeline_handle answer = {.handle = m->handle};

	if (p == NULL)
		return;
	if (m->status < 0)
		log_limited(LOG_LEVEL_ERROR, "the device process refused a pipeline: %.*s",
			(int)sizeof(m->text), m->text);
	/* One that a new device process has been told of: its calls are refused when it failed. */
	if (p->state != REGISTRATION_ADDING)
		return;
	if (m->status < 0) {
		session_refuse(
			c, p->session, p->serial, m->status, "%.*s", (int)sizeof(m->text), m->text);
		registration_free(c, p);
	} else if (p->closing) {
		registration_remove(c, p);
	} else {
		p->state = REGISTRATION_OPEN;
		session_send(c, p->session, &answer, MSG_PIPELINE_OK, sizeof(answer), p->serial,
			NULL, 0);
	}
}

void registration_removed(struct control *c, const struct devlink_msg *m)
{
	struct registration *p = registration_find(c, m->handle);
	struct msg_pipeline_handle answer = {.handle = 0};

	if (p == NULL || p->state != REGISTRATION_REMOVING)
		return;
	if (p->answer && p->session->state == SESSION_LIVE)
		session_send(c, p->session, &answer, MSG_PIPELINE_OK, sizeof(answer), p->serial,
			NULL, 0);
	registration_free(c, p);
}

void registration_close_request(struct control *c, struct session *s, const void *msg)
{
	const struct msg_pipeline_handle *m = msg;
	struct registration *p = registration_find(c, m->handle);

	if (p == NULL || p->session != s || p->state != REGISTRATION_OPEN) {
		session_refuse(c, s, m->h.serial, -GPUQ_EPIPELINE,
			"there is no pipeline %#x of this connection", m->handle);
		return;
	}
	p->serial = m->h.serial;
	p->answer = true;
	registration_remove(c, p);
}

bool registration_close_all(struct control *c, struct session *s)
{
	struct registration *p;

	draft_forget(c, s);
	LIST_FOREACH (p, &s->registrations, of_session) {
		p->closing = true;
		if (p->state == REGISTRATION_OPEN)
			registration_remove(c, p);
	}
	return s->n_registrations == 0;
}
