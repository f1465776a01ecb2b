/* SPDX-License-Identifier: MIT */
/* What the control process publishes: the daemon page and its part of the statistics object. */
#define LOG_TOPIC LOG_STATS
#include "daemon/control.h"
#include "daemon/log.h"
#include "kernels/op.h"
#include "shm/atomics.h"
#include "shm/probe.h"
#include "shm/robust.h"
#include "shm/segment.h"
#include "shm/wait.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define STALLED_NS 1000000000u
#define IDLE_LOOKS 32u /* at clients with nothing to do, in one tick */

static int page_create(struct control *c)
{
	void *base;

	c->page_fd = segment_create("gpuq-page", sizeof(struct wire_page));
	if (c->page_fd < 0)
		return c->page_fd;
	int r = segment_map(c->page_fd, sizeof(struct wire_page), true, &base);
	if (r < 0)
		return r;
	c->page = base;
	c->page_ro_fd = segment_readonly_fd(c->page_fd);
	if (c->page_ro_fd < 0)
		return c->page_ro_fd;
	clock_calibrate(&c->clock);
	clock_publish(c->page, &c->clock);
	c->page->abi = WIRE_ABI;
	c->page->state = WIRE_STARTING;
	c->page->cpus = wait_shared_cpus();
	shm_store_release_u32(&c->page->magic, WIRE_MAGIC);
	/* From here on, clients see in the page that this thread has ended. */
	return robust_take(&c->page->owner);
}

static void stats_fill(struct control *c)
{
	struct stats_header *h = c->stats.header;

	h->control_pid = (uint32_t)getpid();
	h->control_uid = geteuid();
	h->started_realtime_ns = c->started_realtime_ns;
	h->ticks_base = c->clock.ticks_base;
	h->ns_base = c->clock.ns_base;
	h->mult = c->clock.mult;
	h->shift = c->clock.shift;
	h->cpus = c->page->cpus;
	h->heartbeat_ns = clock_now_ns(&c->clock);
	snprintf(h->version_text, sizeof(h->version_text), "%s", GPUQ_VERSION);
	for (uint32_t i = 0; i < op_count; i++) {
		snprintf(c->stats.ops[i].name, GPUQ_NAME_MAX, "%s", op_table[i]->name);
		c->stats.ops[i].state = 1;
	}
	/* Last: who sees a state sees all of the above. */
	shm_store_release_u32(&h->state, shm_load_relaxed_u32(&c->page->state));
}

static struct stats_sizes record_counts(const struct control *c)
{
	return (struct stats_sizes){
		.clients = c->n_sessions,
		.channels = (uint32_t)c->config->max_channels,
		.ops = op_count,
		.graphs = (uint32_t)c->config->max_graphs,
		.captures = CONTROL_CAPTURES,
		.models = (uint32_t)c->config->max_models,
		.sessions = (uint32_t)(c->config->max_models > 0 ? c->config->max_sessions : 0),
		.pipelines = (uint32_t)c->config->max_pipelines,
		.recorder_events = c->config->trace_events,
	};
}

static int object_create(struct control *c, struct stats *ret_stats, int *ret_fd)
{
	const struct stats_sizes sizes = record_counts(c);
	int r = stats_create(c->listener.path, &sizes, ret_stats, ret_fd);

	if (r == -EPERM)
		log_error("the statistics object of %s belongs to another user; remove it from "
			  "/dev/shm",
			c->listener.path);
	else if (r < 0)
		log_error("the statistics object cannot be made: %s%s", strerror(-r),
			r == -ENOSPC
				? "; make /dev/shm larger, or lower max_channels or trace_events"
				: r == -EROFS || r == -EACCES || r == -ENOENT
				? "; /dev/shm has to be there, and writable"
				: "");
	else if (fchmod(*ret_fd, (mode_t)c->config->stats_mode) < 0)
		log_warn("the statistics object stays its owner's alone: %s", strerror(errno));
	return r;
}

int control_publish(struct control *c)
{
	struct timespec now;
	int r = page_create(c);

	if (r < 0) {
		log_error("the daemon page cannot be made (set_robust_list, memfd_create): %s%s",
			strerror(-r), control_hint(r));
		return r;
	}
	clock_gettime(CLOCK_REALTIME, &now);
	c->started_realtime_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
	r = object_create(c, &c->stats, &c->stats_fd);
	if (r < 0)
		return r;
	stats_fill(c);
	c->recorder = stats_recorder(&c->stats, RECORDER_CONTROL);
	return stats_survive_truncation(&c->stats);
}

void control_record(struct control *c, enum recorder_kind kind, const struct session *s)
{
	const struct recorder_event e = {
		.kind = (uint16_t)kind,
		.time_ns = clock_now_ns(&c->clock),
		.channel = s->index,
		.generation = s->generation,
		.words = {(uint64_t)s->pid, s->uid},
	};

	if (kind == RECORDER_CLIENT)
		PROBE3(client, s->index, s->pid, s->uid);
	else
		PROBE3(client_end, s->index, s->pid, s->uid);
	recorder_put(&c->recorder, &e);
}

/* Counters of the whole go on, as far as they are still there; the rest is known. */
static void totals_carry(struct control *c, struct stats_header *to)
{
	const struct stats_header *from = c->stats.header;
	uint64_t live = 0;

	to->accepted = shm_load_relaxed(&from->accepted);
	to->refused = shm_load_relaxed(&from->refused);
	to->protocol_errors = shm_load_relaxed(&from->protocol_errors);
	to->deaths = shm_load_relaxed(&from->deaths);
	to->accept_exhausted = shm_load_relaxed(&from->accept_exhausted);
	to->device_restarts = shm_load_relaxed(&from->device_restarts);
	for (uint32_t i = 0; i < c->n_sessions; i++)
		live += c->sessions[i].state == SESSION_LIVE;
	to->clients = live;
	to->channels = c->n_channels;
	to->segment_bytes = c->segment_bytes;
	to->buffers = c->n_buffers;
	to->buffer_bytes = c->buffer_bytes;
	to->pipelines = c->n_registrations;
}

/* Writes the records of everything that is there. */
static void records_fill(struct control *c)
{
	for (uint32_t i = 0; i < c->n_sessions; i++) {
		if (c->sessions[i].state == SESSION_LIVE)
			session_show(c, &c->sessions[i]);
	}
	for (uint32_t i = 0; i < c->config->max_channels; i++) {
		const struct channel *ch = &c->channels[i];

		if (ch->state != CHANNEL_FREE && ch->state != CHANNEL_ALLOCATING)
			channel_show(c, ch);
	}
	for (uint32_t i = 0; i < c->config->max_models; i++) {
		if (c->models[i].state != 0)
			model_show(c, &c->models[i]);
	}
}

int control_repair_stats(struct control *c)
{
	struct stats fresh;
	int fd;

	if (!stats_damaged(&c->stats, c->stats_fd))
		return 0;
	log_warn("the statistics object was truncated, removed or damaged: making it anew");
	int r = object_create(c, &fresh, &fd);
	if (r < 0) {
		/* Work goes on without readers; the next device process tries again. */
		const struct stats_sizes sizes = record_counts(c);
		r = stats_create_private(&sizes, &fresh, &fd);
	}
	if (r < 0) {
		log_error("no memory for statistics: %s", strerror(-r));
		return r;
	}
	totals_carry(c, fresh.header);
	stats_close(&c->stats);
	close(c->stats_fd);
	c->stats = fresh;
	c->stats_fd = fd;
	r = stats_survive_truncation(&c->stats);
	stats_fill(c);
	c->recorder = stats_recorder(&c->stats, RECORDER_CONTROL);
	records_fill(c);
	return r;
}

void control_unpublish(struct control *c)
{
	char name[STATS_PATH_MAX];

	if (c->stats.header == NULL)
		return;
	stats_name(c->listener.path, name, sizeof(name));
	shm_unlink(name);
	stats_close(&c->stats);
}

void control_set_state(struct control *c, enum wire_state state)
{
	shm_store_release_u32(&c->page->state, state);
	shm_store_release_u32(&c->stats.header->state, state);
}

void control_count_error(struct control *c, int status, const char *what, const char *text)
{
	stats_count_error(
		&c->stats, STATS_ERRORS_OF_CONTROL, status, what, text, clock_now_ns(&c->clock));
}

bool control_process_stopped(pid_t pid)
{
	char text[512], path[32];

	snprintf(path, sizeof(path), "/proc/%ld/stat", (long)pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	ssize_t n = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (n <= 0)
		return false;
	text[n] = '\0';
	/* The state follows the name, which may itself contain brackets. */
	const char *end = strrchr(text, ')');
	return end != NULL && end[1] == ' ' && (end[2] == 'T' || end[2] == 't');
}

/*
 * A client that is stopped, or should do something and does not. Those with nothing to do are many:
 * they are looked at in turns.
 */
static bool session_stalled(const struct control *c, const struct session *s, uint64_t now_ns)
{
	const uint64_t turns = 1 + shm_load_relaxed(&c->stats.header->clients) / IDLE_LOOKS;
	const bool was =
		shm_load_relaxed_u32(&c->stats.clients[s->index].state) == STATS_CLIENT_STALLED;
	const struct channel *ch;
	bool pending = false;

	LIST_FOREACH (ch, &s->channels, of_session) {
		const struct stats_channel *record = &c->stats.channels[ch->index];
		uint64_t unread = shm_load_relaxed(&record->unread);
		uint64_t active_ns = shm_load_relaxed(&record->last_active_ns);

		if (ch->state != CHANNEL_OPEN)
			continue;
		if (unread > 0 && now_ns > active_ns && now_ns - active_ns > STALLED_NS)
			return true;
		pending = pending || unread > 0 || shm_load_relaxed(&record->in_flight) > 0 ||
			shm_load_relaxed(&record->depth) > 0;
	}
	if (!pending && !was && (s->index + c->ticks) % turns != 0)
		return false;
	return s->pid > 0 && control_process_stopped(s->pid);
}

void control_tick(struct control *c)
{
	uint64_t now_ns = clock_now_ns(&c->clock);

	shm_store_relaxed(&c->stats.header->heartbeat_ns, now_ns);
	c->ticks++;
	for (uint32_t i = 0; i < c->n_sessions; i++) {
		const struct session *s = &c->sessions[i];

		if (s->state != SESSION_LIVE)
			continue;
		bool stalled = session_stalled(c, s, now_ns);
		shm_store_release_u32(&c->stats.clients[i].state,
			stalled ? STATS_CLIENT_STALLED : STATS_CLIENT_CONNECTED);
	}
	for (int admin = 0; admin < 2; admin++) {
		if (c->accept_later[admin]) {
			c->accept_later[admin] = false;
			session_listen(c, admin);
		}
	}
	if (c->device.start_later)
		device_replace(c);
	device_pump(c);
	model_tick(c);
	service_show(c);
	log_tick();
}
