/* SPDX-License-Identifier: MIT */
/* dispatch-rig.c: the dispatcher under test and the client that the test plays. */
#include "tests/daemon/dispatch-rig.h"

#include "shm/segment.h"

#include <math.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PATIENCE_MS 10000
#define SCORES 7 /* different inputs of a softmax */

static void start_graphs(struct rig *rig, struct clock_line clock)
{
	const struct graphs_options options = {
		.device = rig->device,
		.clock = clock,
		.cost = &rig->cost,
		.stats = &rig->stats.devices[0],
		.records = rig->stats.graphs,
		.max_graphs = rig->stats.header->max_graphs,
		.captures = rig->stats.captures,
		.max_captures = rig->stats.header->max_captures,
		.budget_bytes = 64u << 20,
		.scratch_bytes = 1u << 20,
		.lanes = 2,
		.promote_uses = 3,
		.promote_window_ns = 1000000000u,
		.direct_kernels = UINT32_MAX,
		.stage_bytes = UINT64_MAX,
		.capture_recorder = &rig->recorders[RECORDER_CAPTURE],
		.cold_recorder = &rig->recorders[RECORDER_COLD],
		.wake_fd = rig->wake_fd,
	};
	char why[224];

	assert_int_equal(graphs_create(&options, &rig->graphs, why), 0);
}

static void start_dispatch(struct rig *rig)
{
	rig->wake_fd = bell_eventfd();
	const struct clock_line clock = clock_from_page(rig->page);
	const struct device_options device = {
		.kind = "cpu",
		.workers = rig->workers,
		.clock = clock,
		.wake_fd = rig->wake_fd,
		.faults = rig->faults,
	};

	assert_int_equal(buffer_table_create(RIG_BUFFERS, RIG_USERS, &rig->buffers), 0);
	assert_int_equal(device_open(&device, &rig->device, NULL), 0);
	assert_int_equal(pipeline_table_create(RIG_PIPELINES, &rig->pipelines), 0);
	for (enum recorder_writer w = 0; w < RECORDER_RINGS; w++)
		rig->recorders[w] = stats_recorder(&rig->stats, w);
	start_graphs(rig, clock);
	const struct dispatch_options options = {
		.device = rig->device,
		.graphs = rig->graphs,
		.page = rig->page,
		.stats = rig->stats,
		.ledger = rig->ledger,
		.buffers = rig->buffers,
		.pipelines = rig->pipelines,
		.clock = clock,
		.cost = &rig->cost,
		.max_channels = RIG_CHANNELS,
		.max_in_flight = RIG_IN_FLIGHT,
		.max_buffers = RIG_BUFFERS,
		.max_pipelines = RIG_PIPELINES,
		.max_models = RIG_MODELS,
		.max_clients = RIG_USERS,
		.max_sessions = RIG_SESSIONS,
		.max_sessions_per_client = RIG_CLIENT_SESSIONS,
		.max_sessions_per_user = RIG_USER_SESSIONS,
		.poll_us = 50,
		.ageing_ns = RIG_AGEING_NS,
		.recorder = &rig->recorders[RECORDER_DISPATCH],
		.max_in_flight_per_user = rig->max_in_flight_per_user,
		.max_rate_per_user = rig->max_rate_per_user,
		.inline_max_ns = 1000,
		.wake_fd = rig->wake_fd,
	};
	assert_int_equal(dispatch_create(&options, &rig->dispatch), 0);
	assert_int_equal(dispatch_start(rig->dispatch), 0);
}

void rig_start_workers(struct rig *rig, uint32_t workers)
{
	struct clock_line clock;
	char name[300];
	int fd;

	memset(rig, 0, sizeof(*rig));
	rig->workers = workers;
	rig->page = aligned_alloc(WIRE_PAGE_SIZE, sizeof(*rig->page));
	memset(rig->page, 0, sizeof(*rig->page));
	clock_calibrate(&clock);
	clock_publish(rig->page, &clock);
	rig->ledger = calloc(1, ledger_bytes(RIG_CHANNELS, RIG_IN_FLIGHT));
	snprintf(name, sizeof(name), "%s/rig", harness_tmpdir());
	assert_int_equal(stats_create(name,
				 &(struct stats_sizes){.clients = 1,
					 .channels = RIG_CHANNELS,
					 .ops = op_count,
					 .graphs = 64,
					 .captures = 64,
					 .models = RIG_MODELS,
					 .sessions = RIG_SESSIONS,
					 .pipelines = RIG_PIPELINES,
					 .recorder_events = RIG_EVENTS},
				 &rig->stats, &fd),
		0);
	close(fd);
	char object[STATS_PATH_MAX];
	stats_name(name, object, sizeof(object));
	shm_unlink(object);
	assert_int_equal(cost_calibrate(&rig->cost), 0);
	start_dispatch(rig);
}

void rig_start(struct rig *rig)
{
	rig_start_workers(rig, 2);
}

static void stop_dispatch(struct rig *rig)
{
	/* After a fault the cache still has works in the dispatcher's memory. */
	if (rig->failed)
		graphs_destroy(rig->graphs);
	dispatch_destroy(rig->dispatch);
	if (!rig->failed)
		graphs_destroy(rig->graphs);
	rig->failed = false;
	device_close(rig->device);
	buffer_table_destroy(rig->buffers);
	pipeline_table_destroy(rig->pipelines);
	close(rig->wake_fd);
}

void rig_stop(struct rig *rig)
{
	stop_dispatch(rig);
	stats_close(&rig->stats);
	free(rig->ledger);
	free(rig->page);
}

void rig_restart(struct rig *rig)
{
	stop_dispatch(rig);
	start_dispatch(rig);
}

struct dispatch_event rig_next_event(struct rig *rig)
{
	struct pollfd p = {.fd = dispatch_event_fd(rig->dispatch), .events = POLLIN};
	struct dispatch_event event;

	while (!dispatch_take_event(rig->dispatch, &event)) {
		uint64_t count;
		assert_int_equal(poll(&p, 1, PATIENCE_MS), 1);
		assert_int_equal(read(p.fd, &count, sizeof(count)), sizeof(count));
	}
	return event;
}

void rig_expect(struct rig *rig, enum dispatch_event_type type, const struct rig_client *c)
{
	const struct dispatch_event event = rig_next_event(rig);

	assert_int_equal(event.type, type);
	assert_ptr_equal(event.channel, c != NULL ? c->channel : NULL);
}

/* Moves the mapping between two pages that nobody may touch. */
static void guard(struct channel *ch)
{
	char *room = mmap(NULL, ch->bytes + 2ull * WIRE_PAGE_SIZE, PROT_NONE,
		MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_ptr_not_equal(room, MAP_FAILED);
	char *base = room + WIRE_PAGE_SIZE;
	ptrdiff_t by = base - (char *)ch->base;
	assert_ptr_equal(
		mremap(ch->base, ch->bytes, ch->bytes, MREMAP_MAYMOVE | MREMAP_FIXED, base), base);
	ch->base = base;
	ch->sq.ring = (void *)((char *)ch->sq.ring + by);
	ch->cq.ring = (void *)((char *)ch->cq.ring + by);
	ch->sqes = (const void *)((const char *)ch->sqes + by);
	ch->cqes = (void *)((char *)ch->cqes + by);
	ch->arena += by;
	ch->device_arena += by;
	if (ch->notice != NULL)
		ch->notice = (const void *)((const char *)ch->notice + by);
}

static void unguard(const struct channel *ch)
{
	munmap((char *)ch->base - WIRE_PAGE_SIZE, WIRE_PAGE_SIZE);
	munmap((char *)ch->base + ch->bytes, WIRE_PAGE_SIZE);
}

/*
 * A channel that dispatch does not have yet. The client uses the same mapping: ThreadSanitizer
 * tells memory by its virtual address.
 */
static void make_channel(struct rig_client *c)
{
	struct rig *rig = c->rig;
	const struct devlink_msg *m = &c->msg;
	int fds[3];

	for (int i = 0; i < 3; i++)
		fds[i] = dup(c->fds[i]);
	struct ledger_channel *ledger = rig->ledger;
	assert_int_equal(channel_create(m, fds, &ledger[m->channel],
				 &rig->stats.channels[m->channel], &c->channel),
		0);
	guard(c->channel);
	c->base = c->channel->base;
	c->sq.ring = c->channel->sq.ring;
	c->cq.ring = c->channel->cq.ring;
	c->sqes = (void *)((char *)c->base + WIRE_ENTRIES);
	c->cqes = c->channel->cqes;
	c->arena = c->channel->arena;
}

static void give_channel(struct rig_client *c)
{
	dispatch_add(c->rig->dispatch, c->channel, c->msg.recover != 0);
	rig_expect(c->rig, DISPATCH_ADDED, c);
}

void rig_open(struct rig *rig, struct rig_client *c, uint32_t number, uint64_t start, uint32_t abi)
{
	const struct wire_layout l = wire_layout(RIG_ENTRIES, RIG_ENTRIES, RIG_ARENA);

	memset(c, 0, sizeof(*c));
	c->rig = rig;
	c->generation = number + 7;
	if (rig->weights[number] == 0)
		rig->weights[number] = 1;
	c->msg = (struct devlink_msg){
		.type = DEVLINK_ADD,
		.channel = number,
		.generation = c->generation,
		.abi = abi,
		.uid = rig->uids[number],
		.weight = rig->weights[number],
		.priority = rig->priorities[number],
		.sq_entries = RIG_ENTRIES,
		.cq_entries = RIG_ENTRIES,
		.arena_bytes = RIG_ARENA,
		.start = start,
	};
	c->fds[0] = segment_create("rig", l.segment_bytes);
	c->fds[1] = c->event_fd = bell_eventfd();
	assert_int_equal(bell_pipe(&c->pipe_fd, &c->fds[2]), 0);
	c->sq = (struct ring_producer){NULL, start, start, start, RIG_ENTRIES};
	c->cq = (struct ring_consumer){NULL, start, start, RIG_ENTRIES};
	make_channel(c);
	c->sq.ring->prod = c->sq.ring->cons = c->sq.ring->wake_at = start;
	c->cq.ring->prod = c->cq.ring->cons = c->cq.ring->wake_at = start;
	give_channel(c);
}

void rig_close(struct rig_client *c)
{
	struct dispatch_event event;

	dispatch_remove(c->rig->dispatch, c->channel);
	/* It may have been poisoned before it was removed. */
	do {
		event = rig_next_event(c->rig);
		assert_ptr_equal(event.channel, c->channel);
	} while (event.type == DISPATCH_POISONED);
	assert_int_equal(event.type, DISPATCH_REMOVED);
	unguard(c->channel);
	channel_destroy(c->channel);
	for (int i = 0; i < 3; i++)
		close(c->fds[i]);
	close(c->pipe_fd);
}

void rig_reopen(struct rig_client *c)
{
	struct channel *dead = c->channel;

	c->msg.recover = 1;
	make_channel(c);
	give_channel(c);
	dead->in_flight = 0;
	unguard(dead);
	channel_destroy(dead);
}

struct wire_sqe rig_entry(const struct rig_client *c, uint16_t opcode, uint64_t user_data)
{
	return (struct wire_sqe){
		.opcode = opcode, .user_data = user_data, .generation = c->generation};
}

struct wire_sqe rig_softmax(struct rig_client *c, uint32_t at, uint64_t n, uint64_t user_data)
{
	const uint64_t data = at + sizeof(struct rig_softmax), bytes = n * sizeof(float);
	struct rig_softmax *block = (void *)(c->arena + at);
	float *x = (void *)(c->arena + data);
	struct wire_sqe sqe = rig_entry(c, WIRE_OP_CALL, user_data);
	uint32_t number = 0;

	assert_non_null(op_find("softmax", &number));
	*block = (struct rig_softmax){
		.call = {.op = number, .n_in = 1, .n_out = 1},
		.x = {.offset = data, .dtype = GPUQ_F32, .rank = 1, .dims = {n}},
		.y = {.offset = data + bytes, .dtype = GPUQ_F32, .rank = 1, .dims = {n}},
	};
	for (uint64_t i = 0; i < n; i++)
		x[i] = (float)((i + user_data) % SCORES);
	memset(x + n, 0, bytes);
	sqe.args_offset = at;
	sqe.args_bytes = sizeof(*block);
	return sqe;
}

struct definition {
	struct wire_pipeline head;
	struct wire_pipeline_tensor tensors[3];
	struct wire_pipeline_step steps[2];
};

static struct definition define(void)
{
	struct definition d = {
		.head = {"twice", 1, 1, 3, 2},
		.tensors = {{"x", GPUQ_F32, 1, {8}}, {"y", GPUQ_F32, 0, {0}},
			{"mid", GPUQ_F32, 0, {0}}},
	};
	uint32_t softmax = 0;

	assert_non_null(op_find("softmax", &softmax));
	for (uint32_t i = 0; i < 2; i++) {
		memset(d.steps[i].in, 0xff, sizeof(d.steps[i].in));
		memset(d.steps[i].out, 0xff, sizeof(d.steps[i].out));
		d.steps[i].op = softmax;
	}
	d.steps[0].in[0] = 0;
	d.steps[0].out[0] = d.steps[1].in[0] = 2;
	d.steps[1].out[0] = 1;
	return d;
}

struct pipeline *rig_pipeline(struct rig *rig)
{
	const struct definition d = define();
	struct pipeline *p = NULL;
	char why[PIPELINE_MAX_WHY];

	if (pipeline_create(&d, sizeof(d), &p, why) < 0)
		fail_msg("%s", why);
	return graphs_intern(rig->graphs, p);
}

void rig_check_softmax(struct rig_client *c, const struct wire_sqe *sqe)
{
	const struct rig_softmax *block = (void *)(c->arena + sqe->args_offset);
	const float *x = (void *)(c->arena + block->x.offset);
	const float *y = (void *)(c->arena + block->y.offset);
	double sum = 0, y_of[SCORES];

	for (uint32_t i = 0; i < SCORES; i++)
		y_of[i] = exp(i);
	for (uint64_t i = 0; i < block->x.dims[0]; i++)
		sum += y_of[(int)x[i]];
	for (uint64_t i = 0; i < block->x.dims[0]; i++)
		assert_float_equal(y[i], y_of[(int)x[i]] / sum, 2e-5 * y_of[(int)x[i]] / sum);
}

void rig_write(struct rig_client *c, const struct wire_sqe *sqe)
{
	shm_copy_out(&c->sqes[ring_slot(c->sq.prod, RIG_ENTRIES)], sqe, sizeof(*sqe) / 8);
	c->sq.prod++;
}

void rig_publish(struct rig_client *c)
{
	ring_publish(&c->sq);
	if (ring_wake_wanted(&c->sq))
		bell_ring_eventfd(c->event_fd);
}

void rig_submit(struct rig_client *c, const struct wire_sqe *sqe)
{
	rig_write(c, sqe);
	rig_publish(c);
}

struct wire_cqe rig_complete(struct rig_client *c)
{
	struct pollfd p = {.fd = c->pipe_fd, .events = POLLIN};
	struct wire_cqe cqe;

	while (c->cq.cons == c->cq.prod && ring_refresh(&c->cq) == 0) {
		bell_drain_pipe(c->pipe_fd);
		if (ring_sleep_prepare(&c->cq, 1) == 0)
			assert_int_equal(poll(&p, 1, PATIENCE_MS), 1);
	}
	shm_copy_in(&cqe, &c->cqes[ring_slot(c->cq.cons, RIG_ENTRIES)], sizeof(cqe) / 8);
	c->cq.cons++;
	ring_release(&c->cq);
	return cqe;
}

bool rig_quiet(struct rig_client *c)
{
	return c->cq.cons == c->cq.prod && ring_refresh(&c->cq) == 0;
}
