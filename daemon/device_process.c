/* SPDX-License-Identifier: MIT */
/*
 * device_process.c: the link thread of a device process. It talks with the control process,
 * maps channels for dispatch and unmaps them after it: everything that may take long and must
 * not happen on the dispatch thread.
 */
#define LOG_TOPIC LOG_DEVICE
#include "daemon/device_process.h"

#include "daemon/dispatch.h"
#include "daemon/link_message.h"
#include "daemon/log.h"
#include "shm/failpoint.h"
#include "shm/segment.h"
#include "shm/wait.h"

#include <errno.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define INLINE_NS 2000u
#define INLINE_CROWDED_NS 5000u
#define MAX_PRESENT 17u /* devices of a machine */

#define CUDA_LANES 8u

/* Between two looks at the device's health, and how long dispatch may take to hear of it. */
#define CHECK_BUSY_MS 100
#define CHECK_IDLE_MS 500
#define FAIL_MS 300
#define END_MS 200 /* in which what was in flight a moment ago ends */
#define MMAP_BYTES (256 << 10)

struct link {
	struct dispatch *dispatch;
	struct device *device;
	struct device_info info;
	struct channel **channels;	   /* by number */
	struct known_pipeline **pipelines; /* by the number in their handles */
	struct pipeline_table *table;	   /* the same, dispatch's */
	struct graphs *graphs;
	struct models *models;
	struct buffer_table *buffers;
	struct devlink_start start;
	struct wire_page *page;
	struct stats stats;
	struct recorder recorders[RECORDER_RINGS];
	struct ledger_channel *ledger;
	struct ledger_pulse *pulse;
	struct reaper *reaper;
	struct cost_model cost;
};

/* A channel that is lost: what a dead process noted about it would keep slots for ever. */
static void forget_notes(struct link *l, const struct devlink_msg *msg)
{
	struct ledger_entry *entries = (void *)(l->ledger + l->start.max_channels);

	for (uint32_t i = 0; msg->recover && i < l->start.max_in_flight; i++) {
		if (ledger_entry_is_of(&entries[i], msg->channel, msg->generation))
			shm_store_release_u32(&entries[i].generation, 0);
	}
}

/*
 * Makes the arena reachable for the device, in place. Away from captures: host memory must not be
 * registered while one is under way.
 */
static int arena_register(struct link *l, struct channel *ch)
{
	uint64_t bytes = ch->bytes - (uint64_t)(ch->arena - (char *)ch->base);
	void *base;

	if (bytes == 0)
		return 0;
	graphs_quiet_begin(l->graphs);
	int r = device_register(l->device, ch->arena, bytes, &base);
	graphs_quiet_end(l->graphs);
	if (r == 0)
		ch->device_arena = base;
	return r;
}

static void arena_unregister(struct link *l, struct channel *ch)
{
	if (ch->bytes == (uint64_t)(ch->arena - (char *)ch->base))
		return;
	graphs_quiet_begin(l->graphs);
	device_unregister(l->device, ch->arena);
	graphs_quiet_end(l->graphs);
}

static int channel_take(struct link *l, const struct devlink_msg *msg, const int fds[LINK_FDS],
	struct channel **ret_channel)
{
	struct channel *ch;
	int r = channel_create(
		msg, fds, &l->ledger[msg->channel], &l->stats.channels[msg->channel], &ch);

	if (r < 0)
		return r;
	r = arena_register(l, ch);
	if (r < 0) {
		channel_destroy(ch);
		return r;
	}
	*ret_channel = ch;
	return 0;
}

static void on_add(struct link *l, const struct devlink_msg *msg, const int fds[LINK_FDS], int n)
{
	struct channel *ch;

	if (n != LINK_FDS || msg->channel >= l->start.max_channels) {
		link_close_all(fds, n);
		link_answer(DEVLINK_POISONED, msg->channel, msg->generation);
		return;
	}
	int r = channel_take(l, msg, fds, &ch);
	if (r < 0) {
		log_error("channel %u cannot be taken over: %s", msg->channel, strerror(-r));
		forget_notes(l, msg);
		link_answer(DEVLINK_POISONED, msg->channel, msg->generation);
		return;
	}
	l->channels[msg->channel] = ch;
	dispatch_add(l->dispatch, ch, msg->recover != 0);
}

static void on_remove(struct link *l, const struct devlink_msg *msg)
{
	struct channel *ch =
		msg->channel < l->start.max_channels ? l->channels[msg->channel] : NULL;

	/* One that could not be mapped was never known to dispatch. */
	if (ch == NULL)
		link_answer(DEVLINK_REMOVED, msg->channel, msg->generation);
	else
		dispatch_remove(l->dispatch, ch);
}

/* Makes a pipeline of the definition in a memfd. */
static int pipeline_load(int fd, uint64_t bytes, struct pipeline **ret, char why[PIPELINE_MAX_WHY])
{
	void *definition;
	int r = segment_map(fd, bytes, false, &definition);

	if (r < 0) {
		snprintf(
			why, PIPELINE_MAX_WHY, "its definition cannot be mapped: %s", strerror(-r));
		return r;
	}
	r = pipeline_create(definition, bytes, ret, why);
	munmap(definition, bytes);
	return r;
}

/* Likewise, for dispatch. */
static int pipeline_know(struct link *l, const struct devlink_msg *msg, int fd,
	struct known_pipeline **ret, char why[PIPELINE_MAX_WHY])
{
	struct known_pipeline *known = calloc(1, sizeof(*known));
	struct pipeline *p = NULL;
	int r = known == NULL ? -ENOMEM : pipeline_load(fd, msg->bytes, &p, why);

	if (r == 0)
		known->pipeline = graphs_intern(l->graphs, p);
	if (r == 0 && known->pipeline == NULL)
		r = -ENOMEM;
	if (r < 0) {
		pipeline_unref(p);
		free(known);
		return r;
	}
	known->handle = msg->handle;
	known->client = msg->client;
	known->client_generation = msg->client_generation;
	*ret = known;
	return 0;
}

/* Its record, or NULL where the statistics have none. */
static struct stats_pipeline *pipeline_record(struct link *l, uint32_t place)
{
	return place < l->stats.header->max_pipelines ? &l->stats.pipelines[place] : NULL;
}

static void pipeline_show(struct link *l, const struct known_pipeline *known)
{
	struct stats_pipeline *s = pipeline_record(l, pipeline_place(known->handle));
	uint64_t bytes;
	const struct wire_pipeline *definition = pipeline_blob(known->pipeline, &bytes);

	if (s == NULL)
		return;
	memset(s, 0, sizeof(*s));
	s->handle = known->handle;
	s->client = known->client;
	s->client_generation = known->client_generation;
	s->steps = definition->n_steps;
	memcpy(s->name, definition->name, sizeof(s->name));
	shm_store_release_u32(&s->state, 1);
}

static void pipeline_hide(struct link *l, uint32_t place)
{
	struct stats_pipeline *s = pipeline_record(l, place);

	if (s != NULL)
		shm_store_release_u32(&s->state, 0);
}

static void on_pipeline(
	struct link *l, const struct devlink_msg *msg, const int fds[LINK_FDS], int n)
{
	struct devlink_msg refusal = {.type = DEVLINK_PIPELINE, .handle = msg->handle};
	uint32_t place = pipeline_place(msg->handle);

	_Static_assert(sizeof(refusal.text) >= PIPELINE_MAX_WHY, "room for the reason");
	if (n != 1 || place >= l->start.max_pipelines || l->pipelines[place] != NULL)
		refusal.status = -GPUQ_EPIPELINE;
	else
		refusal.status = pipeline_know(l, msg, fds[0], &l->pipelines[place], refusal.text);
	link_close_all(fds, n);
	if (refusal.status < 0) {
		link_send(&refusal);
		return;
	}
	pipeline_show(l, l->pipelines[place]);
	dispatch_add_pipeline(l->dispatch, l->pipelines[place]);
}

static void answer_pipeline(enum devlink_type type, uint32_t handle)
{
	const struct devlink_msg a = {.type = type, .handle = handle};

	link_send(&a);
}

static void on_pipeline_remove(struct link *l, const struct devlink_msg *msg)
{
	uint32_t place = pipeline_place(msg->handle);

	/* Not there: one that was refused. */
	if (place < l->start.max_pipelines && l->pipelines[place] != NULL)
		dispatch_remove_pipeline(l->dispatch, l->pipelines[place]);
	else
		answer_pipeline(DEVLINK_PIPELINE_REMOVED, msg->handle);
}

/*
 * Not on the reaper as channels and buffers are: no driver is called, and with 1,024 registered it
 * takes 2 to 5 us. What was captured of it the capture thread ends. There it would wait behind what
 * may hang, and nothing of the client's pipelines would come back until then.
 */
static void on_pipeline_removed(struct link *l, struct known_pipeline *known)
{
	uint32_t handle = known->handle;

	pipeline_hide(l, pipeline_place(handle));
	l->pipelines[pipeline_place(handle)] = NULL;
	graphs_release(l->graphs, known->pipeline);
	free(known);
	answer_pipeline(DEVLINK_PIPELINE_REMOVED, handle);
}

/* --- Buffers ------------------------------------------------------------------------------- */

static void explain_alloc(struct devlink_msg *m, const struct device_info *info, uint64_t bytes)
{
	if (m->status == -EOPNOTSUPP)
		snprintf(m->text, sizeof(m->text),
			"device %.32s exports no memory in this form; ask for another", info->kind);
	else
		snprintf(m->text, sizeof(m->text), "a buffer of %llu bytes on device %.32s: %s",
			(unsigned long long)bytes, info->kind,
			m->status == -ENOMEM		     ? "it has not so much memory left"
				: m->status == -GPUQ_EDEVICE ? "the device has failed"
							     : strerror(-m->status));
}

static void on_buffer(struct link *l, const struct devlink_msg *msg)
{
	const bool lost = msg->status == -GPUQ_ELOST;
	struct devlink_msg a = {.type = DEVLINK_BUFFER, .handle = msg->handle};
	struct buffer *b;

	graphs_quiet_begin(l->graphs);
	a.status = buffer_create(l->buffers, l->device, msg->handle,
		(enum device_export_form)msg->form, msg->bytes, lost, &b);
	graphs_quiet_end(l->graphs);
	if (a.status < 0) {
		explain_alloc(&a, &l->info, msg->bytes);
		link_send(&a);
		return;
	}
	if (lost)
		return;
	memcpy(a.ipc, b->export.ipc, sizeof(a.ipc));
	memcpy(a.uuid, l->info.uuid, sizeof(a.uuid));
	memcpy(a.driver, l->info.driver, sizeof(a.driver));
	if (b->export.fd < 0) {
		link_send(&a);
		return;
	}
	/* It lives in the control process from here on. */
	link_send_fd(&a, b->export.fd);
	close(b->export.fd);
	b->export.fd = -1;
}

static void on_buffer_permit(struct link *l, const struct devlink_msg *msg)
{
	const struct devlink_msg a = {
		.type = msg->type,
		.handle = msg->handle,
		.client = msg->client,
	};
	struct buffer *b = buffer_get(l->buffers, msg->handle);

	/* Not there: one that was lost, and for whose record there was no memory. */
	if (b != NULL)
		buffer_permit(l->buffers, b, msg->client, msg->type == DEVLINK_BUFFER_GRANT);
	link_send(&a);
}

static void answer_buffer_removed(uint32_t handle)
{
	const struct devlink_msg a = {.type = DEVLINK_BUFFER_REMOVED, .handle = handle};

	link_send(&a);
}

static void on_buffer_remove(struct link *l, const struct devlink_msg *msg)
{
	struct buffer *b = buffer_get(l->buffers, msg->handle);

	if (b == NULL)
		answer_buffer_removed(msg->handle);
	else
		dispatch_remove_buffer(l->dispatch, b);
}

/* --- Models -------------------------------------------------------------------------------- */

static void answer_model(enum devlink_type type, uint32_t handle, int status, const char *why)
{
	struct devlink_msg a = {.type = type, .handle = handle, .status = status};

	snprintf(a.text, sizeof(a.text), "%.223s", why);
	link_send(&a);
}

static void on_model(struct link *l, const struct devlink_msg *msg, const int fds[LINK_FDS], int n)
{
	int r = n == 1 ? models_load(l->models, msg, fds[0]) : -EINVAL;

	if (n != 1)
		link_close_all(fds, n);
	if (r < 0)
		answer_model(DEVLINK_MODEL, msg->handle, r,
			r == -ENOSYS ? "this gpuqd was built without libjansson and reads no models"
				     : strerror(-r));
}

static void on_model_remove(struct link *l, const struct devlink_msg *msg)
{
	struct known_model *k = models_find(l->models, msg->handle);

	if (k == NULL) {
		answer_model(DEVLINK_MODEL_REMOVED, msg->handle, 0, "");
	} else if (k->state == MODEL_LOADING) {
		models_cancel(l->models, k);
	} else if (k->state == MODEL_SERVING) {
		k->state = MODEL_REMOVING;
		dispatch_remove_model(l->dispatch, k, msg->id != 0);
	}
}

/* The loader is through with a model. */
static void on_model_done(struct link *l, struct known_model *k)
{
	const bool unwanted = shm_load_relaxed(&k->cancel) != 0;
	const uint32_t handle = k->handle;

	if (k->state == MODEL_LOADING && k->status == 0 && !unwanted) {
		k->state = MODEL_SERVING;
		dispatch_add_model(l->dispatch, k);
		return;
	}
	if (k->state == MODEL_LOADING && k->status == 0) {
		models_free(l->models, k);
		return;
	}
	if (k->state == MODEL_LOADING && !unwanted)
		answer_model(DEVLINK_MODEL, handle, k->status, k->why.text);
	const bool gone = unwanted || k->state == MODEL_FREEING;
	models_forget(l->models, k);
	if (gone)
		answer_model(DEVLINK_MODEL_REMOVED, handle, 0, "");
}

static void take_models(struct link *l)
{
	struct known_model *k;
	uint64_t count;
	ssize_t got = read(models_event_fd(l->models), &count, sizeof(count));

	(void)got;
	while ((k = models_take(l->models)) != NULL)
		on_model_done(l, k);
}

/* --- Events and messages ------------------------------------------------------------------- */

static void reap_buffer(void *context, struct reaping *reaping)
{
	struct link *l = context;
	struct buffer *b = (struct buffer *)((char *)reaping - offsetof(struct buffer, reaping));
	uint32_t handle = b->handle;

	graphs_quiet_begin(l->graphs);
	buffer_destroy(l->device, b);
	graphs_quiet_end(l->graphs);
	answer_buffer_removed(handle);
}

static void on_buffer_removed(struct link *l, struct buffer *b)
{
	b->reaping.reap = reap_buffer;
	reaper_give(l->reaper, &b->reaping);
}

static void __attribute__((noreturn)) end_failed(void)
{
	FAILPOINT("device.failed");
	(void)link_fail_because("the device has failed, with what ran on it", "");
	_exit(EXIT_FAILURE);
}

static void reap_channel(void *context, struct reaping *reaping)
{
	struct channel *ch =
		(struct channel *)((char *)reaping - offsetof(struct channel, reaping));
	uint32_t number = ch->number, generation = ch->generation;

	arena_unregister(context, ch);
	channel_destroy(ch);
	link_answer(DEVLINK_REMOVED, number, generation);
}

static void on_removed(struct link *l, struct channel *ch)
{
	l->channels[ch->number] = NULL;
	ch->reaping.reap = reap_channel;
	reaper_give(l->reaper, &ch->reaping);
}

static void on_event(struct link *l, const struct dispatch_event *event)
{
	switch (event->type) {
	case DISPATCH_ADDED:
		link_answer(DEVLINK_ADDED, event->channel->number, event->channel->generation);
		break;
	case DISPATCH_POISONED:
		link_answer(DEVLINK_POISONED, event->channel->number, event->channel->generation);
		break;
	case DISPATCH_REMOVED:
		on_removed(l, event->channel);
		break;
	case DISPATCH_DRAINED:
		link_answer(DEVLINK_DRAINED, 0, 0);
		break;
	case DISPATCH_BUFFER_REMOVED:
		on_buffer_removed(l, event->buffer);
		break;
	case DISPATCH_PIPELINE_ADDED:
		answer_pipeline(DEVLINK_PIPELINE, event->pipeline->handle);
		break;
	case DISPATCH_PIPELINE_REMOVED:
		on_pipeline_removed(l, event->pipeline);
		break;
	case DISPATCH_MODEL_ADDED:
		answer_model(DEVLINK_MODEL, event->model->handle, 0, "");
		break;
	case DISPATCH_MODEL_BUSY:
		event->model->state = MODEL_SERVING;
		answer_model(DEVLINK_MODEL_REMOVED, event->model->handle, -EBUSY, "");
		break;
	case DISPATCH_MODEL_REMOVED:
		models_free(l->models, event->model);
		break;
	case DISPATCH_FAILED:
		end_failed();
	}
}

static int map_shared(struct link *l)
{
	uint64_t bytes = ledger_bytes(l->start.max_channels, l->start.max_in_flight);
	int r = segment_map(DEVLINK_FD_PAGE, sizeof(*l->page), true, (void **)&l->page);

	if (r == 0)
		r = stats_map(DEVLINK_FD_STATS, &l->stats);
	if (r == 0)
		r = segment_map(DEVLINK_FD_LEDGER, bytes, true, (void **)&l->ledger);
	if (r == 0)
		l->pulse = ledger_pulse(l->ledger, l->start.max_channels, l->start.max_in_flight);
	if (r == 0)
		r = stats_survive_truncation(&l->stats);
	for (enum recorder_writer w = 0; r == 0 && w < RECORDER_RINGS; w++)
		l->recorders[w] = stats_recorder(&l->stats, w);
	return r;
}

static void publish_device(struct link *l, const struct device_info *info)
{
	struct stats_device *s = &l->stats.devices[l->start.device];

	s->pid = (uint32_t)getpid();
	s->epoch = l->page->devices[l->start.device].epoch;
	s->workers = info->workers;
	memcpy(s->kind, info->kind, sizeof(s->kind));
	snprintf(s->name, sizeof(s->name), "%s", info->name);
	snprintf(s->uuid, sizeof(s->uuid), "%s", info->uuid);
	snprintf(s->driver, sizeof(s->driver), "%s", info->driver);
	s->memory_bytes = info->total_bytes;
	for (uint32_t i = 0; i < op_count && i < l->stats.header->max_ops; i++) {
		snprintf(l->stats.ops[i].name, GPUQ_NAME_MAX, "%s", op_table[i]->name);
		shm_store_release_u32(&l->stats.ops[i].state, 1);
	}
	/* s->state is the control process's: it says READY when it has heard of it. */
}

/*
 * What dispatch itself runs. A worker that has a CPU of its own beside dispatch and a client takes
 * work over in a fraction of a microsecond. Where CPUs are fewer, somebody must be woken or give
 * way first, and that takes longer than a longer operator keeps the others waiting.
 */
static uint64_t inline_limit_ns(const struct device_info *info)
{
	return info->workers + 2 <= wait_shared_cpus() ? INLINE_NS : INLINE_CROWDED_NS;
}

static bool is_cpu(const struct link *l)
{
	return strcmp(l->info.kind, "cpu") == 0;
}

/* Two for each worker: one of priority 0, one for the others. */
static uint32_t count_lanes(const struct link *l)
{
	uint32_t n = is_cpu(l) ? 2 * l->info.workers : CUDA_LANES;

	return n < 2 ? 2 : n < GRAPHS_MAX_LANES ? n : GRAPHS_MAX_LANES;
}

static int start_graphs(struct link *l, struct clock_line clock, int wake_fd)
{
	const struct graphs_options options = {
		.device = l->device,
		.clock = clock,
		.cost = is_cpu(l) ? &l->cost : NULL,
		.device_index = l->start.device,
		.stats = &l->stats.devices[l->start.device],
		.records = l->stats.graphs,
		.max_graphs = l->stats.header->max_graphs,
		.captures = l->stats.captures,
		.max_captures = l->stats.header->max_captures,
		.budget_bytes = l->start.graph_bytes,
		.user_bytes = l->start.graph_bytes_per_user > 0 ? l->start.graph_bytes_per_user
								: l->start.graph_bytes / 4 * 3,
		.scratch_bytes = l->start.scratch_bytes,
		.lanes = count_lanes(l),
		.promote_uses = l->start.promote_uses,
		.promote_window_ns = l->start.promote_window_ms * 1000000ull,
		.pinned = l->start.pinned,
		.direct_kernels = UINT32_MAX,
		.stage_bytes = is_cpu(l) ? UINT64_MAX : GRAPHS_STAGE_BYTES,
		.staging_bytes = is_cpu(l) ? 0 : GRAPHS_STAGING_BYTES,
		.hot_list = l->start.hot_list[0] != '\0' ? l->start.hot_list : NULL,
		.capture_recorder = &l->recorders[RECORDER_CAPTURE],
		.cold_recorder = &l->recorders[RECORDER_COLD],
		.wake_fd = wake_fd,
	};
	char why[224] = "";
	int r = graphs_create(&options, &l->graphs, why);

	if (r == 0 && why[0] != '\0')
		log_warn("the hot list %s is not used: %s", l->start.hot_list, why);
	return r;
}

static int start_device(struct link *l, struct clock_line clock, int wake_fd)
{
	const struct device_options options = {
		.kind = l->start.kind,
		.workers = l->start.workers,
		.resident = l->start.resident != 0,
		.clock = clock,
		.wake_fd = wake_fd,
		.faults = l->start.faults[0] != '\0' ? l->start.faults : NULL,
	};
	char why[192] = "";
	int r = device_open(&options, &l->device, why);

	if (r < 0)
		return link_fail_because(why[0] != '\0' ? why : strerror(-r), "");
	/* Of the first device process: that of its successors is no news. */
	if (why[0] != '\0' && l->start.list_devices)
		log_info("CUDA is not used: %s", why);
	device_info(l->device, &l->info);
	r = is_cpu(l) ? cost_calibrate(&l->cost) : 0;
	if (r < 0)
		return link_fail("cannot measure the operators", r);
	r = start_graphs(l, clock, wake_fd);
	return r < 0 ? link_fail("cannot make the graph cache", r) : 0;
}

static int start_dispatch(struct link *l, struct clock_line clock, int wake_fd)
{
	const struct dispatch_options options = {
		.device = l->device,
		.graphs = l->graphs,
		.page = l->page,
		.stats = l->stats,
		.ledger = l->ledger,
		.buffers = l->buffers,
		.pipelines = l->table,
		.clock = clock,
		.cost = is_cpu(l) ? &l->cost : NULL,
		.slot = l->start.device,
		.max_channels = l->start.max_channels,
		.max_in_flight = l->start.max_in_flight,
		.max_buffers = l->start.max_buffers,
		.max_pipelines = l->start.max_pipelines,
		.max_models = l->start.max_models,
		.max_clients = l->start.max_clients,
		.max_sessions = l->start.max_sessions,
		.max_sessions_per_client = l->start.max_sessions_per_client,
		.max_sessions_per_user = l->start.max_sessions_per_user,
		.poll_us = l->start.poll_us,
		.ageing_ns = l->start.ageing_ms * 1000000ull,
		.recorder = &l->recorders[RECORDER_DISPATCH],
		.max_in_flight_per_user = l->start.max_in_flight_per_user,
		.max_rate_per_user = l->start.max_rate_per_user,
		.inline_max_ns = inline_limit_ns(&l->info),
		.wake_fd = wake_fd,
	};
	int r = dispatch_create(&options, &l->dispatch);

	if (r < 0)
		return r;
	publish_device(l, &l->info);
	return dispatch_start(l->dispatch);
}

static int start_models(struct link *l, struct clock_line clock)
{
	const struct models_options options = {
		.device = l->device,
		.graphs = l->graphs,
		.clock = clock,
		.stats = l->stats.models,
		.recorder = &l->recorders[RECORDER_DISPATCH],
		.launch_hist = l->stats.devices[l->start.device].launch_hist,
		.max_models = l->start.max_models,
		.max_clients = l->start.max_clients,
		.max_sessions = l->start.max_sessions,
		.kv_bytes = l->start.kv_bytes,
		.kv_blocks_per_client = l->start.kv_blocks_per_client,
		.kv_blocks_per_user = l->start.kv_blocks_per_user,
		.kv_bucket = l->start.kv_bucket,
		.few_shapes = !is_cpu(l),
		.prefill_chunk = l->start.prefill_chunk,
	};

	return models_create(&options, &l->models);
}

static int make_tables(struct link *l)
{
	int r = buffer_table_create(l->start.max_buffers, l->start.max_clients, &l->buffers);

	if (r == 0)
		r = pipeline_table_create(l->start.max_pipelines, &l->table);
	l->channels = calloc(l->start.max_channels, sizeof(struct channel *));
	l->pipelines = calloc(l->start.max_pipelines, sizeof(struct known_pipeline *));
	if (l->channels == NULL || l->pipelines == NULL)
		r = -ENOMEM;
	return r;
}

/* Opens the device and starts dispatch. Returns 0 or what link_fail() returned. */
static int start(struct link *l)
{
	int wake_fd = bell_eventfd();
	int r = map_shared(l);

	if (r < 0)
		return link_fail("cannot map shared memory", r);
	const struct clock_line clock = clock_from_page(l->page);
	r = start_device(l, clock, wake_fd);
	if (r != 0)
		return r;
	r = make_tables(l);
	if (r == 0)
		r = start_models(l, clock);
	if (r == 0)
		r = reaper_create(l, l->pulse, &l->reaper);
	if (r == 0)
		r = start_dispatch(l, clock, wake_fd);
	return r < 0 ? link_fail("cannot start dispatch", r) : 0;
}

/* Tells what the machine has, usable or not. */
static void tell_present(void)
{
	struct device_present present[MAX_PRESENT];
	uint32_t n = device_list(present, MAX_PRESENT);

	for (uint32_t i = 0; i < n; i++) {
		struct devlink_msg m = {.type = DEVLINK_PRESENT,
			.index = i,
			.count = n,
			.status = present[i].status};
		memcpy(m.kind, present[i].kind, sizeof(m.kind));
		memcpy(m.name, present[i].name, sizeof(m.name));
		memcpy(m.uuid, present[i].uuid, sizeof(m.uuid));
		memcpy(m.text, present[i].why, sizeof(present[i].why));
		link_send(&m);
	}
}

/* A driver that was asked once keeps memory and threads: where none is needed a child asks. */
static void tell_present_by_child(void)
{
	pid_t pid = fork();

	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		tell_present();
		_exit(EXIT_SUCCESS);
	}
	if (pid > 0)
		waitpid(pid, NULL, 0);
	else
		log_warn("what devices there are is not known: %s", strerror(errno));
}

static void on_message(
	struct link *l, const struct devlink_msg *msg, const int fds[LINK_FDS], int n)
{
	switch (msg->type) {
	case DEVLINK_ADD:
		on_add(l, msg, fds, n);
		break;
	case DEVLINK_REMOVE:
		on_remove(l, msg);
		break;
	case DEVLINK_PIPELINE:
		on_pipeline(l, msg, fds, n);
		break;
	case DEVLINK_PIPELINE_REMOVE:
		on_pipeline_remove(l, msg);
		break;
	case DEVLINK_DRAIN:
		dispatch_drain(l->dispatch);
		break;
	case DEVLINK_PAUSE:
		dispatch_pause(l->dispatch);
		break;
	case DEVLINK_BUFFER:
		on_buffer(l, msg);
		break;
	case DEVLINK_BUFFER_GRANT:
	case DEVLINK_BUFFER_REVOKE:
		on_buffer_permit(l, msg);
		break;
	case DEVLINK_BUFFER_REMOVE:
		on_buffer_remove(l, msg);
		break;
	case DEVLINK_MODEL:
		on_model(l, msg, fds, n);
		break;
	case DEVLINK_MODEL_REMOVE:
		on_model_remove(l, msg);
		break;
	case DEVLINK_CAPTURE:
		if (msg->id != 0)
			graphs_stop_captures(l->graphs);
		else
			graphs_resume_captures(l->graphs);
		break;
	case DEVLINK_EVICT:
		/* A shape that is gone meanwhile has nothing to drop. */
		(void)graphs_evict(l->graphs, msg->id);
		break;
	case DEVLINK_LOG:
		log_configure(msg->text);
		break;
	default:
		link_close_all(fds, n);
	}
}

static void take_events(struct link *l)
{
	struct dispatch_event event;
	uint64_t count;
	ssize_t got = read(dispatch_event_fd(l->dispatch), &count, sizeof(count));

	(void)got;
	while (dispatch_take_event(l->dispatch, &event))
		on_event(l, &event);
}

/*
 * A device that has failed writes no completion word any more: somebody must look. Dispatch then
 * answers everybody, unless it is stuck itself; the successor does it then.
 */
static void check_device(struct link *l)
{
	struct pollfd p = {.fd = dispatch_event_fd(l->dispatch), .events = POLLIN};
	uint64_t until_ns = clock_monotonic_ns() + FAIL_MS * 1000000ull;

	if (device_check(l->device) != -GPUQ_EDEVICE)
		return;
	dispatch_fail(l->dispatch);
	while (clock_monotonic_ns() < until_ns) {
		(void)poll(&p, 1, FAIL_MS);
		take_events(l);
	}
	end_failed();
}

/* Serves the link until it ends. */
static void serve(struct link *l)
{
	struct pollfd polls[3] = {
		{.fd = DEVLINK_FD_LINK, .events = POLLIN},
		{.fd = dispatch_event_fd(l->dispatch), .events = POLLIN},
		{.fd = models_event_fd(l->models), .events = POLLIN},
	};
	uint64_t checked_ns = clock_monotonic_ns();
	struct devlink_msg msg;
	int fds[LINK_FDS], n;

	for (;;) {
		bool busy = dispatch_is_busy(l->dispatch);
		if (poll(polls, 3, busy ? CHECK_BUSY_MS : CHECK_IDLE_MS) < 0 && errno != EINTR)
			return;
		shm_store_relaxed(&l->pulse->link, clock_monotonic_ns());
		if (clock_monotonic_ns() - checked_ns > CHECK_BUSY_MS * 1000000ull) {
			check_device(l);
			checked_ns = clock_monotonic_ns();
		}
		take_events(l);
		take_models(l);
		if ((polls[0].revents & (POLLIN | POLLHUP)) == 0)
			continue;
		if (!link_receive(&msg, fds, &n))
			return;
		FAILPOINT_OF("device.told", msg.type);
		on_message(l, &msg, fds, n);
	}
}

/* An orderly end keeps the hot list. With work in flight there is nothing to wait for. */
static void end_graphs(struct link *l)
{
	const struct timespec nap = {.tv_nsec = 1000000};

	for (int i = 0; i < END_MS && dispatch_is_busy(l->dispatch); i++)
		nanosleep(&nap, NULL);
	if (dispatch_is_busy(l->dispatch) || !reaper_finish(l->reaper, END_MS * 1000000ull))
		return;
	dispatch_destroy(l->dispatch);
	models_destroy(l->models);
	graphs_destroy(l->graphs);
}

int device_process_main(void)
{
	static struct link l;

	prctl(PR_SET_NAME, "gpuqd-device");
	/*
	 * What is large goes back to the system when it is freed: otherwise glibc learns from what
	 * a model frees to keep as much in each thread's heap, for models to come.
	 */
	(void)mallopt(M_MMAP_THRESHOLD, MMAP_BYTES);
	signal(SIGPIPE, SIG_IGN);
	/* The control process decides when to end; a terminal's Ctrl-C reaches it too. */
	signal(SIGINT, SIG_IGN);
	signal(SIGTERM, SIG_IGN);
	if (recv(DEVLINK_FD_LINK, &l.start, sizeof(l.start), MSG_TRUNC) != sizeof(l.start) ||
		l.start.version != DEVLINK_VERSION)
		return link_fail_because("it is of another version than the control process", "");
	log_configure(l.start.log);
	/* No thread runs yet. */
	const bool by_child = strcmp(l.start.kind, "cpu") == 0;
	if (l.start.list_devices && by_child)
		tell_present_by_child();
	int r = start(&l);
	if (r != 0)
		return r;
	if (l.start.list_devices && !by_child)
		tell_present();
	link_answer(DEVLINK_READY, 0, 0);
	serve(&l);
	end_graphs(&l);
	/* Threads and mappings end with the process; nothing outlives it. */
	_exit(EXIT_SUCCESS);
}
