/* SPDX-License-Identifier: MIT */
/*
 * llm_local.c: a language model in this process: device, graph cache, model and engine as gpuqd
 * has them, and this thread in the place of dispatch. What gpuqd and its clients add is measured
 * against it.
 */
#include "bench/llm.h"

#include "models/engine.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define MAX_GRAPHS 256u
#define SCRATCH_BYTES (64u << 20)
#define LANES 2u
#define SPIN_NS 50000u /* as gpuqd polls before it sleeps */
#define DUE_NS 250000u

struct llm_local {
	struct bench *b;
	struct device *device;
	struct graphs *graphs;
	struct model *model;
	struct engine *engine;
	struct engine_session *session;
	struct kv_client client;
	struct cost_model cost;
	struct stats_device stats;
	struct stats_graph *records;
	struct stats_capture capture;
	int wake_fd;
};

static int open_graphs(struct llm_local *l)
{
	const bool cpu = strcmp(l->b->device, "cpu") == 0;
	const struct graphs_options options = {
		.device = l->device,
		.clock = l->b->clock,
		.cost = cpu ? &l->cost : NULL,
		.stats = &l->stats,
		.records = l->records,
		.max_graphs = MAX_GRAPHS,
		.captures = &l->capture,
		.max_captures = 1,
		.budget_bytes = 256u << 20,
		.scratch_bytes = SCRATCH_BYTES,
		.lanes = LANES,
		.promote_uses = 3,
		.promote_window_ns = 1000000000u,
		.direct_kernels = UINT32_MAX,
		.stage_bytes = cpu ? UINT64_MAX : GRAPHS_STAGE_BYTES,
		.staging_bytes = cpu ? 0 : GRAPHS_STAGING_BYTES,
		.wake_fd = l->wake_fd,
	};
	char why[224];
	int e = cpu ? cost_calibrate(&l->cost) : 0;

	if (e == 0)
		e = graphs_create(&options, &l->graphs, why);
	if (e < 0)
		complain(e, "the graph cache cannot be made");
	return e;
}

static int open_engine(struct llm_local *l, int dir_fd, const struct model_options *options)
{
	struct model_why why = {""};
	int e = model_load(l->device, l->graphs, dir_fd, options, NULL, &l->model, &why);

	if (e < 0) {
		complain(e, "loading the model: %s", why.text);
		return e;
	}
	const struct engine_options engine = {
		.device = l->device,
		.graphs = l->graphs,
		.clock = l->b->clock,
		.model = engine_model_of(l->model),
		.max_sessions = 1,
		.max_batch = 1,
		.chunk_tokens = 256,
		.bucket_tokens = 64,
		.gather_percent = 10,
	};
	e = engine_create(&engine, &l->engine);
	if (e == 0)
		e = llm_local_restart(l);
	if (e < 0)
		complain(e, "the engine cannot be made");
	return e;
}

int llm_local_open(struct bench *b, int dir_fd, const struct model_options *model, uint32_t workers,
	struct llm_local **ret_local)
{
	struct llm_local *l = calloc(1, sizeof(*l));
	char why[192] = "";
	int e;

	if (l == NULL)
		return -ENOMEM;
	l->b = b;
	l->client.max_blocks = UINT32_MAX;
	l->records = calloc(MAX_GRAPHS, sizeof(*l->records));
	l->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	const struct device_options options = {.kind = b->device,
		.workers = workers,
		.clock = b->clock,
		.resident = true,
		.wake_fd = l->wake_fd};
	e = l->records == NULL ? -ENOMEM : device_open(&options, &l->device, why);
	if (e < 0)
		complain(e, "device %s in this process: %s", b->device, why);
	if (e == 0)
		e = open_graphs(l);
	if (e == 0)
		e = open_engine(l, dir_fd, model);
	if (e < 0) {
		llm_local_close(l);
		return e;
	}
	*ret_local = l;
	return 0;
}

void llm_local_close(struct llm_local *l)
{
	if (l == NULL)
		return;
	engine_destroy(l->engine);
	model_destroy(l->model);
	graphs_destroy(l->graphs);
	device_close(l->device);
	free(l->records);
	if (l->wake_fd >= 0)
		close(l->wake_fd);
	free(l);
}

const struct model *llm_local_model(const struct llm_local *l)
{
	return l->model;
}

int llm_local_restart(struct llm_local *l)
{
	engine_session_close(l->session);
	l->session = NULL;
	return engine_session_open(l->engine, &l->client, 0, &l->session);
}

/*
 * How long to sleep for the device to ring, as dispatch does when it has polled for a while; 0: a
 * step is about to end.
 */
static int sleep_ms(const struct llm_local *l)
{
	const uint64_t due_ns = engine_due_ns(l->engine), now_ns = clock_now_ns(&l->b->clock);

	if (due_ns == UINT64_MAX || now_ns >= due_ns + DUE_NS)
		return 10;
	return now_ns + DUE_NS >= due_ns ? 0 : (int)((due_ns - DUE_NS - now_ns) / 1000000);
}

static void await_ring(struct llm_local *l)
{
	struct pollfd p = {.fd = l->wake_fd, .events = POLLIN};
	const int ms = sleep_ms(l);
	uint64_t count;

	if (ms == 0)
		return;
	device_sleep_prepare(l->device, true);
	if (!engine_poll(l->engine) && engine_wake_ns(l->engine) == UINT64_MAX)
		(void)poll(&p, 1, ms);
	device_sleep_prepare(l->device, false);
	if (read(l->wake_fd, &count, sizeof(count)) < 0)
		return; /* it had not rung */
}

static struct engine_request *await_done(struct llm_local *l)
{
	uint64_t idle_ns = clock_now_ns(&l->b->clock);

	/* Yields from the start: the workers may need this CPU. */
	for (;;) {
		struct engine_request *done = engine_take_done(l->engine);

		if (done != NULL)
			return done;
		if (engine_poll(l->engine))
			idle_ns = clock_now_ns(&l->b->clock);
		else if (clock_now_ns(&l->b->clock) - idle_ns > SPIN_NS)
			await_ring(l);
		else
			sched_yield();
	}
}

int llm_local_step(
	struct llm_local *l, const int32_t *tokens, uint32_t n_tokens, int32_t *ret_token)
{
	struct {
		struct wire_row row;
		int32_t token;
		float value;
	} out;
	struct engine_request request = {
		.kind = ENGINE_STEP,
		.session = l->session,
		.tokens = tokens,
		.n_tokens = n_tokens,
		.temperature = 1,
		.out = &out,
		.out_bytes = sizeof(out),
		.rows = 1,
		.top_k = 1,
	};
	int e = engine_submit(l->engine, &request);

	if (e == 0)
		e = await_done(l)->status;
	if (e == 0)
		*ret_token = out.token;
	return e;
}
