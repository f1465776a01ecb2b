/* SPDX-License-Identifier: MIT */
/*
 * rig.c: a device and the graph cache on it in this process, without gpuqd: this thread is the
 * one that serves. It asks the cache for captures in the background, or captures by itself
 * between two requests, as a server without a capture thread does.
 */
#include "bench/graphs.h"

#include "graphs/graphs.h"
#include "kernels/launch.h"
#include "kernels/ops.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define MAX_EXECS 128 /* kept by the inline storm until the round is over */
#define MAX_CAPTURES 4096u
#define MAX_GRAPHS 2048u
#define SPINS 2000 /* then the CPU is given to others between looks */
#define ANSWER_NS 20000000000u

/* A work of the cache, with what must live as long. */
struct request {
	struct graph_work work;
	struct op_call call;
	bool running;
};

struct rig {
	struct bench *b;
	struct device *device;
	struct graphs *graphs;
	struct cost_model cost;
	struct stats_device stats;
	struct stats_graph *records;
	struct stats_capture *captures;
	uint64_t captures_seen; /* number of the last capture taken over into a round */
	int wake_fd;

	struct device_completion *words; /* [0] the hot one's, then the storm's */
	float *memory;			 /* pinned: x, w, y */
	float *scratch;			 /* of the inline storm: two matrices */
	struct chain hot, storms[STORM_CHAINS];
	struct request hot_request, storm[STORM_WORKS];
	const struct chain *storming;
	uint64_t next_rows;

	/* Captures on this thread. */
	struct device_stream *stream;
	struct op_launch *launches;
	struct device_exec *execs[MAX_EXECS];
	uint32_t n_execs;
	uint64_t next_inline_ns;
};

static uint64_t now_ns(const struct rig *r)
{
	return clock_now_ns(&r->b->clock);
}

/* --- Requests ------------------------------------------------------------------------------ */

static void request_prepare(
	struct rig *r, struct request *q, struct device_completion *word, const struct chain *c)
{
	*q = (struct request){.work = {.call = &q->call, .pipeline = c->pipeline}};
	q->work.completion = word;
	q->work.args.completion = word;
	q->work.args.value = word->word;
}

static void request_shape(struct rig *r, struct request *q, const struct chain *c, uint64_t rows)
{
	float *x = r->memory, *w = x + CHAIN_ROWS * CHAIN_WIDTH, *y = w + CHAIN_WIDTH * CHAIN_WIDTH;
	uint64_t value = q->work.args.value;

	chain_call(c, rows, &q->call);
	q->call.in[0].data = x;
	q->call.in[1].data = w;
	q->call.out[0].data = y;
	q->work.pipeline = c->pipeline;
	op_args(&q->work.args, &q->call);
	q->work.args.completion = q->work.completion;
	q->work.args.value = value;
}

static bool request_done(const struct request *q)
{
	return device_done(q->work.completion, q->work.args.value);
}

/* Hands it to the cache, which runs it or only captures its shape. */
static int request_start(struct rig *r, struct request *q, bool capture)
{
	int e;

	q->work.args.value++;
	q->work.completion->status = 0;
	do
		e = capture ? graphs_precapture(r->graphs, &q->work)
			    : graphs_launch(r->graphs, &q->work);
	while (e == -EAGAIN);
	q->running = e == 0;
	return e;
}

static int request_finish(struct rig *r, struct request *q)
{
	(void)graphs_finish(r->graphs, &q->work, clock_now_ns(&r->b->clock));
	q->running = false;
	return (int)q->work.completion->status;
}

static int request_await(struct rig *r, struct request *q)
{
	uint64_t end_ns = 0;

	for (uint32_t spins = 0; !request_done(q); spins++) {
		if (spins < SPINS) {
			shm_pause();
			continue;
		}
		if (end_ns == 0)
			end_ns = now_ns(r) + ANSWER_NS;
		if (now_ns(r) > end_ns)
			return -ETIMEDOUT;
		sched_yield();
	}
	return request_finish(r, q);
}

static int request_run(struct rig *r, struct request *q, bool capture)
{
	int e = request_start(r, q, capture);

	return e < 0 ? e : request_await(r, q);
}

static int rig_replay(void *state)
{
	struct rig *r = state;

	return request_run(r, &r->hot_request, false);
}

/* --- Captures in the background ------------------------------------------------------------ */

static int storm_next(struct rig *r, struct request *q)
{
	r->next_rows = r->next_rows % STORM_ROWS + 1;
	request_shape(r, q, r->storming, r->next_rows);
	return request_start(r, q, true);
}

/* Asks for the next shape as soon as one is captured. */
static int storm_step(struct rig *r)
{
	for (uint32_t i = 0; i < STORM_WORKS; i++) {
		struct request *q = &r->storm[i];
		if (q->running && !request_done(q))
			continue;
		int e = q->running ? request_finish(r, q) : 0;
		if (e == 0)
			e = storm_next(r, q);
		if (e < 0)
			return e;
	}
	return 0;
}

static int storm_end(struct rig *r)
{
	int first = 0;

	for (uint32_t i = 0; i < STORM_WORKS; i++) {
		int e = r->storm[i].running ? request_await(r, &r->storm[i]) : 0;
		first = first < 0 ? first : e;
	}
	return first;
}

/* --- Captures on this thread --------------------------------------------------------------- */

static int chain_record(struct rig *r, uint32_t kernels, uint64_t rows, bool capture)
{
	const struct device_args args = {.completion = NULL};
	float *buffers[2] = {r->scratch, r->scratch + CHAIN_ROWS * CHAIN_WIDTH};
	float *w = r->memory + CHAIN_ROWS * CHAIN_WIDTH;
	int e = 0;

	for (uint32_t i = 0; i < kernels && e == 0; i++) {
		bool gemv = i % 2 == 0;
		struct op_launch *l = &r->launches[i];
		struct op_call call = {.op = gemv ? &op_gemv_batched : &op_softmax};
		uint32_t arg;

		call.in[0] = (struct tensor){.data = buffers[i % 2],
			.dtype = GPUQ_F32,
			.rank = 2,
			.dims = {rows, CHAIN_WIDTH}};
		if (gemv)
			call.in[1] = (struct tensor){.data = w,
				.dtype = GPUQ_F32,
				.rank = 2,
				.dims = {CHAIN_WIDTH, CHAIN_WIDTH}};
		call.out[0] = (struct tensor){
			.data = buffers[1 - i % 2], .dtype = GPUQ_F32, .rank = UINT32_MAX};
		if (!gemv)
			call.params[0].f64 = call.op->params[0].preset;
		e = op_check(&call, &arg);
		if (e < 0)
			break;
		op_launch_init(l, &call);
		l->call = call;
		memset(l->in, OP_FIXED, sizeof(l->in));
		memset(l->out, OP_FIXED, sizeof(l->out));
		memset(l->params, OP_FIXED, sizeof(l->params));
		const struct device_kernel kernel = {.code = op_code(call.op),
			.shape = l,
			.shape_bytes = sizeof(*l),
			.signal = capture && i == kernels - 1,
			.units = call.op->units(&call),
			.predicted_ns = cost_predict_ns(&r->cost, &call)};
		e = device_launch(r->stream, &kernel, capture ? NULL : &args);
		if (e == -EAGAIN) {
			/* The stream is full of the kernels before it. */
			e = device_stream_wait(r->stream);
			i--;
		}
	}
	return e;
}

/* Runs it once, as the first request of a shape does, then captures it. */
static int capture_here(struct rig *r, uint32_t kernels, uint64_t rows)
{
	struct device_graph *graph = NULL;
	struct device_exec *exec;
	int e = chain_record(r, kernels, rows, false);

	if (e == 0)
		e = device_stream_wait(r->stream);
	if (e == 0)
		e = device_capture_begin(r->stream);
	if (e < 0)
		return e;
	e = chain_record(r, kernels, rows, true);
	int ended = device_capture_end(r->stream, &graph);
	e = e < 0 ? e : ended;
	if (e == 0)
		e = device_exec_create(r->device, graph, &exec);
	if (ended == 0)
		device_graph_destroy(graph);
	if (e < 0)
		return e;
	r->execs[r->n_execs++] = exec;
	return device_exec_upload(exec, r->stream);
}

static void destroy_execs(struct rig *r)
{
	if (r->stream != NULL)
		(void)device_stream_wait(r->stream);
	while (r->n_execs > 0)
		device_exec_destroy(r->execs[--r->n_execs]);
}

/* A third of the time at most, so that requests that have waited are served in between. */
static int inline_step(struct rig *r, struct round *round)
{
	uint64_t begin_ns = now_ns(r);

	if (begin_ns < r->next_inline_ns || r->n_execs == MAX_EXECS)
		return 0;
	r->next_rows = r->next_rows % STORM_ROWS + 1;
	int e = capture_here(r, r->storming->kernels, r->next_rows);
	uint64_t end_ns = now_ns(r);

	round_capture(round, begin_ns, end_ns, r->storming->kernels);
	r->next_inline_ns = end_ns + 2 * (end_ns - begin_ns);
	return e;
}

/* --- The server ---------------------------------------------------------------------------- */

static int rig_begin(void *state, enum mode mode, uint32_t kernels)
{
	struct rig *r = state;

	r->storming = NULL;
	for (uint32_t i = 0; i < STORM_CHAINS; i++)
		if (r->storms[i].kernels == kernels)
			r->storming = &r->storms[i];
	r->captures_seen = shm_load_acquire(&r->stats.capture_count);
	r->next_inline_ns = 0;
	if (mode != BACKGROUND)
		return 0;
	/* So that all shapes are new again; the hot one is pinned. */
	int e = graphs_evict(r->graphs, 0);
	return e < 0 ? e : storm_step(r);
}

static int rig_between(void *state, enum mode mode, struct round *round)
{
	struct rig *r = state;

	if (mode == QUIET)
		return 0;
	return mode == BACKGROUND ? storm_step(r) : inline_step(r, round);
}

static int rig_end(void *state, enum mode mode, struct round *round)
{
	struct rig *r = state;
	int e = mode == BACKGROUND ? storm_end(r) : 0;

	round_captures(round, r->captures, MAX_CAPTURES, &r->captures_seen,
		shm_load_acquire(&r->stats.capture_count));
	destroy_execs(r);
	return e;
}

void rig_server(struct rig *r, struct server *ret_server)
{
	*ret_server = (struct server){
		.name = "in process",
		.state = r,
		.clock = r->b->clock,
		.replay = rig_replay,
		.begin = rig_begin,
		.end = rig_end,
		.between = rig_between,
	};
}

/* --- Cold shapes --------------------------------------------------------------------------- */

static int timed(struct rig *r, struct request *q, uint64_t *ret_ns)
{
	uint64_t begin_ns = now_ns(r);
	int e = request_run(r, q, false);

	*ret_ns = now_ns(r) - begin_ns;
	return e;
}

int rig_cold(struct rig *r, uint32_t kernels, uint64_t rows, struct cold *ret_cold)
{
	struct span spans[STORM_WORKS];
	struct round round = {.captures = spans, .max_captures = STORM_WORKS};
	struct request *q = &r->storm[0];
	struct cold cold = {0};
	int e = rig_begin(r, QUIET, kernels);

	if (e == 0 && r->storming == NULL)
		e = -EINVAL;
	if (e < 0)
		return e;
	request_shape(r, q, r->storming, rows);
	e = timed(r, q, &cold.first_ns);
	if (e == 0)
		e = timed(r, q, &cold.second_ns);
	if (e == 0)
		e = request_run(r, q, true);
	/* The first replay brings the executable into the caches. */
	for (uint32_t i = 0; i < 2 && e == 0; i++)
		e = timed(r, q, &cold.replay_ns);
	round_captures(&round, r->captures, MAX_CAPTURES, &r->captures_seen,
		shm_load_acquire(&r->stats.capture_count));
	if (e == 0 && round.n_captures == 0)
		e = -ENODATA;
	if (e < 0)
		return e;
	cold.capture_ns = spans[0].end_ns - spans[0].begin_ns;
	*ret_cold = cold;
	return 0;
}

/* --- Beginning and end --------------------------------------------------------------------- */

static int open_device(struct rig *r)
{
	const struct device_options options = {.kind = r->b->device,
		.resident = true,
		.clock = r->b->clock,
		.wake_fd = r->wake_fd};
	char why[192] = "";
	int e = device_open(&options, &r->device, why);

	if (e < 0)
		complain(e, "device %s: %s", r->b->device, why);
	else
		report_device(r->b, r->device);
	return e;
}

static int allocate(struct rig *r)
{
	uint64_t matrix = CHAIN_ROWS * CHAIN_WIDTH * sizeof(float);
	uint64_t bytes = 2 * matrix + CHAIN_WIDTH * CHAIN_WIDTH * sizeof(float);
	void *words = NULL, *memory = NULL, *scratch = NULL;
	int e = device_alloc(r->device, DEVICE_PINNED,
		(1 + STORM_WORKS) * sizeof(struct device_completion), &words);

	if (e == 0)
		e = device_alloc(r->device, DEVICE_PINNED, bytes, &memory);
	if (e == 0)
		e = device_alloc(r->device, DEVICE_WORK, 2 * matrix, &scratch);
	if (e == 0)
		e = device_stream_create(r->device, DEVICE_PRIORITY_NORMAL, &r->stream);
	r->words = words;
	r->memory = memory;
	r->scratch = scratch;
	r->records = calloc(MAX_GRAPHS, sizeof(*r->records));
	r->captures = calloc(MAX_CAPTURES, sizeof(*r->captures));
	r->launches = calloc(PIPELINE_MAX_STEPS, sizeof(*r->launches));
	if (e == 0 && (r->records == NULL || r->captures == NULL || r->launches == NULL))
		e = -ENOMEM;
	if (e < 0)
		return e;
	memset(words, 0, (1 + STORM_WORKS) * sizeof(struct device_completion));
	memset(memory, 0, bytes);
	return 0;
}

static int create_graphs(struct rig *r)
{
	const struct graphs_options options = {
		.device = r->device,
		.clock = r->b->clock,
		.cost = &r->cost,
		.stats = &r->stats,
		.records = r->records,
		.max_graphs = MAX_GRAPHS,
		.captures = r->captures,
		.max_captures = MAX_CAPTURES,
		.budget_bytes = 256u << 20,
		.scratch_bytes = 4u << 20,
		.lanes = 4,
		.promote_uses = 3,
		.promote_window_ns = 1000000000u,
		.pinned = 1,
		.direct_kernels = UINT32_MAX,
		.stage_bytes = UINT64_MAX,
		.wake_fd = r->wake_fd,
	};
	char why[224] = "";
	int e = graphs_create(&options, &r->graphs, why);

	if (e < 0)
		complain(e, "the graph cache cannot be made");
	return e;
}

static int create_chain(struct rig *r, uint32_t kernels, struct chain *ret_chain)
{
	struct chain chain;
	int e = chain_create(kernels, &chain);

	if (e < 0)
		return e;
	struct pipeline *interned = graphs_intern(r->graphs, chain.pipeline);
	if (interned == NULL) {
		pipeline_unref(chain.pipeline);
		return -ENOMEM;
	}
	chain.pipeline = interned;
	*ret_chain = chain;
	return 0;
}

static int create_chains(struct rig *r)
{
	int e = create_chain(r, HOT_KERNELS, &r->hot);

	for (uint32_t i = 0; i < STORM_CHAINS && e == 0; i++)
		e = create_chain(r, storm_kernels[i], &r->storms[i]);
	if (e < 0)
		return e;
	request_prepare(r, &r->hot_request, &r->words[0], &r->hot);
	for (uint32_t i = 0; i < STORM_WORKS; i++)
		request_prepare(r, &r->storm[i], &r->words[1 + i], &r->storms[0]);
	/* The hot shape is captured for good before anything is measured. */
	request_shape(r, &r->hot_request, &r->hot, HOT_ROWS);
	e = request_run(r, &r->hot_request, true);
	if (e == 0)
		e = request_run(r, &r->hot_request, false);
	return e < 0 ? e : graphs_pin(r->graphs, r->hot_request.work.graph_id, true);
}

int rig_create(struct bench *b, struct rig **ret_rig)
{
	struct rig *r = calloc(1, sizeof(*r));
	int e = r == NULL ? -ENOMEM : 0;

	if (e == 0) {
		r->b = b;
		r->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
		e = cost_calibrate(&r->cost);
	}
	if (e == 0)
		e = open_device(r);
	if (e == 0)
		e = allocate(r);
	if (e == 0)
		e = create_graphs(r);
	if (e == 0)
		e = create_chains(r);
	if (e < 0) {
		complain(e, "the cache in this process cannot be measured");
		rig_destroy(r);
		return e;
	}
	/* Now that the threads of device and cache are there, which go where the kernel wants. */
	cpus_pin(0, b->client_cpu, b->client_cpu);
	*ret_rig = r;
	return 0;
}

void rig_destroy(struct rig *r)
{
	if (r == NULL)
		return;
	destroy_execs(r);
	graphs_destroy(r->graphs);
	pipeline_unref(r->hot.pipeline);
	for (uint32_t i = 0; i < STORM_CHAINS; i++)
		pipeline_unref(r->storms[i].pipeline);
	device_stream_destroy(r->stream);
	if (r->device != NULL) {
		device_free(r->device, DEVICE_PINNED, r->words);
		device_free(r->device, DEVICE_PINNED, r->memory);
		device_free(r->device, DEVICE_WORK, r->scratch);
	}
	device_close(r->device);
	if (r->wake_fd >= 0)
		close(r->wake_fd);
	free(r->records);
	free(r->captures);
	free(r->launches);
	free(r);
}
