/* SPDX-License-Identifier: MIT */
/*
 * Graphs in the control process: what was captured is read from the statistics, which the device
 * process writes; administrators' wishes go to the device process. And which devices there are.
 */
#define LOG_TOPIC LOG_GRAPH
#include "daemon/control.h"
#include "daemon/log.h"
#include "shm/atomics.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* --- The hot list -------------------------------------------------------------------------- */

/* The folder for what is kept over a restart. False when there is no place for it. */
static bool state_folder(char *path, size_t size)
{
	const char *state = getenv("XDG_STATE_HOME");
	const char *home = getenv("HOME");
	int n = -1;

	if (state != NULL && state[0] == '/')
		n = snprintf(path, size, "%s/gpuq", state);
	else if (geteuid() == 0)
		n = snprintf(path, size, "/var/lib/gpuq");
	else if (home != NULL && home[0] == '/')
		n = snprintf(path, size, "%s/.local/state/gpuq", home);
	return n > 0 && (size_t)n < size;
}

/* Makes a folder and those above it. */
static int folder_create(char *path)
{
	for (char *end = path + 1; *end != '\0'; end++) {
		if (*end != '/')
			continue;
		*end = '\0';
		int r = mkdir(path, 0700);
		*end = '/';
		if (r < 0 && errno != EEXIST)
			return -errno;
	}
	return mkdir(path, 0700) < 0 && errno != EEXIST ? -errno : 0;
}

void graph_hot_list_prepare(struct control *c)
{
	char folder[sizeof(c->hot_list)], name[STATS_PATH_MAX];
	int r;

	snprintf(c->hot_list, sizeof(c->hot_list), "%s", c->config->hot_list);
	if (strcmp(c->hot_list, "auto") != 0)
		return;
	c->hot_list[0] = '\0';
	r = state_folder(folder, sizeof(folder)) ? folder_create(folder) : -ENOENT;
	stats_name(c->listener.path, name, sizeof(name));
	if (r == 0 &&
		snprintf(c->hot_list, sizeof(c->hot_list), "%s%s.json", folder, name) >=
			(int)sizeof(c->hot_list))
		r = -ENAMETOOLONG;
	if (r == 0)
		return;
	c->hot_list[0] = '\0';
	log_warn("there is no place for the hot list (%s): captured shapes will not be known after "
		 "a restart; set hot_list to a path, or to nothing",
		strerror(-r));
}

/* --- Questions ----------------------------------------------------------------------------- */

/* A user sees what it has used, an administrator all. */
static bool graph_visible(const struct session *s, const struct stats_graph *g, uint64_t id)
{
	if (s->admin)
		return true;
	for (uint32_t i = 0; i < STATS_GRAPH_USERS; i++) {
		if (shm_load_relaxed(&g->users[i]) == stats_graph_user(id, s->uid))
			return true;
	}
	return false;
}

/*
 * The record as it is now. False when the device process uses it for another shape meanwhile: one
 * that the session may not see.
 */
static bool graph_copy(const struct session *s, const struct stats_graph *g, struct msg_graph *m)
{
	const uint64_t id = shm_load_relaxed(&g->id);

	*m = (struct msg_graph){
		.id = id,
		.state = shm_load_acquire_u32(&g->state),
		.kernels = g->kernels,
		.uses = shm_load_relaxed(&g->uses),
		.hits = shm_load_relaxed(&g->hits),
		.bytes = shm_load_relaxed(&g->bytes),
		.capture_ns = shm_load_relaxed(&g->capture_ns),
		.pinned = g->pinned,
		.status = g->status,
	};
	memcpy(m->shape, g->shape, sizeof(m->shape) - 1);
	memcpy(m->reason, g->reason, sizeof(m->reason) - 1);
	shm_fence();
	return shm_load_relaxed(&g->id) == id && m->state != 0 && graph_visible(s, g, id);
}

/* Puts a record in its place among those with the lowest ids so far. */
static uint32_t lowest_add(
	const struct stats_graph **lowest, uint32_t n, const struct stats_graph *g)
{
	uint32_t at = n;

	while (at > 0 && lowest[at - 1]->id > g->id)
		at--;
	if (at == MSG_GRAPHS_MAX)
		return n;
	n = n < MSG_GRAPHS_MAX ? n + 1 : n;
	memmove(&lowest[at + 1], &lowest[at], (n - 1 - at) * sizeof(lowest[0]));
	lowest[at] = g;
	return n;
}

void graph_query(struct control *c, struct session *s, const void *msg)
{
	const struct msg_graph_query *q = msg;
	const struct stats_graph *lowest[MSG_GRAPHS_MAX];
	uint32_t n = 0, visible = 0;
	struct msg_graphs m = {.count = 0};

	if (q->device != c->device.index) {
		session_refuse(c, s, q->h.serial, -GPUQ_ENODEV, "there is no device %u", q->device);
		return;
	}
	for (uint32_t i = 0; i < c->config->max_graphs; i++) {
		const struct stats_graph *g = &c->stats.graphs[i];
		const uint64_t id = shm_load_relaxed(&g->id);

		if (shm_load_acquire_u32(&g->state) == 0 || g->device != q->device ||
			id <= q->after || !graph_visible(s, g, id))
			continue;
		n = lowest_add(lowest, n, g);
		visible++;
	}
	m.more = visible > n;
	for (uint32_t i = 0; i < n; i++)
		m.count += graph_copy(s, lowest[i], &m.graphs[m.count]);
	session_send(c, s, &m, MSG_GRAPHS, sizeof(m), q->h.serial, NULL, 0);
}

void graph_present(struct control *c, const struct devlink_msg *m)
{
	struct device *d = &c->device;

	if (m->index >= m->count || m->index >= DEVICE_MAX_PRESENT)
		return;
	d->present[m->index] = *m;
	d->n_present = m->count < DEVICE_MAX_PRESENT ? m->count : DEVICE_MAX_PRESENT;
}

void graph_present_query(struct control *c, struct session *s, const void *msg)
{
	const struct msg_query *q = msg;
	struct msg_present m = {.index = q->index, .count = c->device.n_present};

	if (q->index < m.count) {
		const struct devlink_msg *p = &c->device.present[q->index];
		m.status = p->status;
		memcpy(m.kind, p->kind, sizeof(m.kind) - 1);
		memcpy(m.name, p->name, sizeof(m.name) - 1);
		memcpy(m.uuid, p->uuid, sizeof(m.uuid) - 1);
		memcpy(m.why, p->text, sizeof(m.why) - 1);
	}
	session_send(c, s, &m, MSG_PRESENT, sizeof(m), q->h.serial, NULL, 0);
}

/* --- Wishes -------------------------------------------------------------------------------- */

static int captures_send(struct control *c, struct owed *owed)
{
	const struct devlink_msg m = {.type = DEVLINK_CAPTURE, .id = c->device.captures_stopped};

	if (!c->device.tell_captures)
		return 0;
	int r = device_send(c, &m, NULL, 0);
	c->device.tell_captures = r < 0;
	return r;
}

static void captures_tell(struct control *c)
{
	c->device.captures.send = captures_send;
	c->device.tell_captures = true;
	device_tell(c, &c->device.captures);
}

void graph_hand_over(struct control *c)
{
	/* Captures go on by themselves. */
	if (c->device.captures_stopped)
		captures_tell(c);
}

/* False when an administrator's wish cannot be granted; then it has been refused. */
static bool wish_granted(struct control *c, struct session *s, const struct msg_header *h,
	uint32_t device, const char *what)
{
	if (!session_may_administer(c, s, h->serial, what))
		return false;
	if (device == c->device.index)
		return true;
	session_refuse(c, s, h->serial, -GPUQ_ENODEV, "there is no device %u", device);
	return false;
}

static void wish_answer(struct control *c, struct session *s, uint32_t serial)
{
	struct msg_header answer;

	session_send(c, s, &answer, MSG_ADMIN_OK, sizeof(answer), serial, NULL, 0);
}

void graph_capture_request(struct control *c, struct session *s, const void *msg)
{
	const struct msg_admin_capture *m = msg;
	if (!wish_granted(c, s, &m->h, m->device, "a stop of captures"))
		return;
	if (m->stop > 1) {
		session_refuse(
			c, s, m->h.serial, -EINVAL, "stop is %u, and must be 0 or 1", m->stop);
		return;
	}
	c->device.captures_stopped = m->stop != 0;
	captures_tell(c);
	wish_answer(c, s, m->h.serial);
}

static bool graph_known(const struct control *c, uint64_t id)
{
	for (uint32_t i = 0; i < c->config->max_graphs; i++) {
		const struct stats_graph *g = &c->stats.graphs[i];

		if (shm_load_acquire_u32(&g->state) != 0 && shm_load_relaxed(&g->id) == id)
			return true;
	}
	return false;
}

void graph_evict_request(struct control *c, struct session *s, const void *msg)
{
	const struct msg_admin_evict *m = msg;
	const struct devlink_msg evict = {.type = DEVLINK_EVICT, .id = m->id};

	if (!wish_granted(c, s, &m->h, m->device, "an eviction"))
		return;
	if (m->id != 0 && !graph_known(c, m->id)) {
		session_refuse(c, s, m->h.serial, -ENOENT, "there is no shape %llu",
			(unsigned long long)m->id);
		return;
	}
	/* One that is not ready has captured nothing. */
	int r = c->device.state == DEVICE_READY ? device_send(c, &evict, NULL, 0) : 0;
	if (r < 0)
		session_refuse(c, s, m->h.serial, r, "the device process cannot be told: %s",
			strerror(-r));
	else
		wish_answer(c, s, m->h.serial);
}
