/* SPDX-License-Identifier: MIT */
/* dispatch-rig.c: the dispatcher under test and the client that the test plays. */
#include "tests/daemon/dispatch-rig.h"

#include "shm/segment.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PATIENCE_MS 10000

static void start_dispatch(struct rig *rig)
{
	rig->wake_fd = bell_eventfd();
	const struct clock_line clock = clock_from_page(rig->page);
	const struct device_options device = {
		.workers = 1, .clock = clock, .wake_fd = rig->wake_fd};

	assert_int_equal(device_open_cpu(&device, &rig->device), 0);
	const struct dispatch_options options = {
		.device = rig->device,
		.page = rig->page,
		.stats = rig->stats,
		.ledger = rig->ledger,
		.clock = clock,
		.cost = &rig->cost,
		.max_channels = RIG_CHANNELS,
		.max_in_flight = RIG_IN_FLIGHT,
		.poll_us = 50,
		.wake_fd = rig->wake_fd,
	};
	assert_int_equal(dispatch_create(&options, &rig->dispatch), 0);
	assert_int_equal(dispatch_start(rig->dispatch), 0);
}

void rig_start(struct rig *rig)
{
	struct clock_line clock;
	char name[300];
	int fd;

	memset(rig, 0, sizeof(*rig));
	rig->page = aligned_alloc(WIRE_PAGE_SIZE, sizeof(*rig->page));
	memset(rig->page, 0, sizeof(*rig->page));
	clock_calibrate(&clock);
	clock_publish(rig->page, &clock);
	rig->ledger = calloc(1, ledger_bytes(RIG_CHANNELS, RIG_IN_FLIGHT));
	snprintf(name, sizeof(name), "%s/rig", harness_tmpdir());
	assert_int_equal(stats_create(name, 1, RIG_CHANNELS, op_count, &rig->stats, &fd), 0);
	close(fd);
	char object[STATS_PATH_MAX];
	stats_name(name, object, sizeof(object));
	shm_unlink(object);
	assert_int_equal(cost_calibrate(&rig->cost), 0);
	start_dispatch(rig);
}

static void stop_dispatch(struct rig *rig)
{
	dispatch_destroy(rig->dispatch);
	device_close(rig->device);
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

static void give_channel(struct rig_client *c)
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
	dispatch_add(rig->dispatch, c->channel, m->recover != 0);
	rig_expect(rig, DISPATCH_ADDED, c);
}

void rig_open(struct rig *rig, struct rig_client *c, uint32_t number, uint64_t start, uint32_t abi)
{
	const struct wire_layout l = wire_layout(RIG_ENTRIES, RIG_ENTRIES, RIG_ARENA);

	memset(c, 0, sizeof(*c));
	c->rig = rig;
	c->generation = number + 7;
	c->msg = (struct devlink_msg){
		.type = DEVLINK_ADD,
		.channel = number,
		.generation = c->generation,
		.abi = abi,
		.sq_entries = RIG_ENTRIES,
		.cq_entries = RIG_ENTRIES,
		.arena_bytes = RIG_ARENA,
		.start = start,
	};
	c->bytes = l.segment_bytes;
	c->fds[0] = segment_create("rig", c->bytes);
	c->fds[1] = c->event_fd = bell_eventfd();
	assert_int_equal(bell_pipe(&c->pipe_fd, &c->fds[2]), 0);
	assert_int_equal(segment_map(c->fds[0], c->bytes, true, &c->base), 0);
	char *base = c->base;
	struct wire_ring *sq = (void *)(base + WIRE_SQ_RING), *cq = (void *)(base + WIRE_CQ_RING);
	sq->prod = sq->cons = sq->wake_at = start;
	cq->prod = cq->cons = cq->wake_at = start;
	c->sq = (struct ring_producer){sq, start, start, start, RIG_ENTRIES};
	c->cq = (struct ring_consumer){cq, start, start, RIG_ENTRIES};
	c->sqes = (void *)(base + l.sqe_offset);
	c->cqes = (void *)(base + l.cqe_offset);
	c->arena = base + l.arena_offset;
	give_channel(c);
}

void rig_close(struct rig_client *c)
{
	dispatch_remove(c->rig->dispatch, c->channel);
	rig_expect(c->rig, DISPATCH_REMOVED, c);
	channel_destroy(c->channel);
	for (int i = 0; i < 3; i++)
		close(c->fds[i]);
	close(c->pipe_fd);
	munmap(c->base, c->bytes);
}

void rig_forget(struct rig_client *c)
{
	c->channel->in_flight = 0;
	channel_destroy(c->channel);
}

void rig_reopen(struct rig_client *c)
{
	c->msg.recover = 1;
	give_channel(c);
}

void rig_expect(struct rig *rig, enum dispatch_event_type type, const struct rig_client *c)
{
	struct pollfd p = {.fd = dispatch_event_fd(rig->dispatch), .events = POLLIN};
	struct dispatch_event event;

	while (!dispatch_take_event(rig->dispatch, &event)) {
		uint64_t count;
		assert_int_equal(poll(&p, 1, PATIENCE_MS), 1);
		assert_int_equal(read(p.fd, &count, sizeof(count)), sizeof(count));
	}
	assert_int_equal(event.type, type);
	assert_ptr_equal(event.channel, c != NULL ? c->channel : NULL);
}

struct wire_sqe rig_entry(const struct rig_client *c, uint16_t opcode, uint64_t user_data)
{
	return (struct wire_sqe){
		.opcode = opcode, .user_data = user_data, .generation = c->generation};
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
