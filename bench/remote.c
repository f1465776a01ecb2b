/* SPDX-License-Identifier: MIT */
/*
 * remote.c: the same from process to process: this one asks gpuqd for the hot shape, a second
 * client asks for captures of other shapes, in the rounds in which it is told to.
 */
#include "bench/graphs.h"

#include "client/gpuq.h"
#include "shm/stats.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define ANSWER_NS 20000000000u
#define HOT_REPLAYS 1000u /* so that no other shape is used more */

/* A pipeline of gpuqd, and tensors in a channel's arena. */
struct remote_chain {
	struct gpuq_pipeline *pipeline;
	float *x, *w, *y;
};

struct remote {
	struct daemon daemon;
	struct client client;
	struct remote_chain hot;
	struct gpuq_call *call;
	struct stats stats; /* gpuqd's, where captures are noted */
	uint64_t captures_seen;
	pid_t stormer;
	int order_fd, answer_fd;
};

/* --- Pipelines ----------------------------------------------------------------------------- */

static void fill_tensors(
	struct gpuq_pipeline_tensor *tensors, char (*names)[GPUQ_NAME_MAX], uint32_t kernels)
{
	tensors[0] = (struct gpuq_pipeline_tensor){
		"x", GPUQ_PIPELINE_INPUT, GPUQ_F32, 2, {1, CHAIN_WIDTH}};
	tensors[1] = (struct gpuq_pipeline_tensor){
		"w", GPUQ_PIPELINE_INPUT, GPUQ_F32, 2, {CHAIN_WIDTH, CHAIN_WIDTH}};
	tensors[2] = (struct gpuq_pipeline_tensor){
		.name = "y", .role = GPUQ_PIPELINE_OUTPUT, .dtype = GPUQ_F32};
	for (uint32_t i = 0; i + 1 < kernels; i++) {
		snprintf(names[i], sizeof(names[i]), "t%u", i);
		tensors[3 + i] = (struct gpuq_pipeline_tensor){
			.name = names[i], .role = GPUQ_PIPELINE_INNER, .dtype = GPUQ_F32};
	}
}

/* The pipeline of chain.c, as a client describes it. */
static int register_chain(struct gpuq *g, uint32_t kernels, struct gpuq_pipeline **ret_pipeline)
{
	char(*names)[GPUQ_NAME_MAX] = calloc(kernels, sizeof(*names));
	struct gpuq_pipeline_tensor *tensors = calloc(kernels + 2, sizeof(*tensors));
	struct gpuq_pipeline_step *steps = calloc(kernels, sizeof(*steps));
	char name[GPUQ_NAME_MAX];
	int r = -ENOMEM;

	snprintf(name, sizeof(name), "chain-%u", kernels);
	if (names != NULL && tensors != NULL && steps != NULL) {
		fill_tensors(tensors, names, kernels);
		for (uint32_t i = 0; i < kernels; i++) {
			steps[i].op = i % 2 == 0 ? "gemv_batched" : "softmax";
			steps[i].inputs[0] = i == 0 ? "x" : names[i - 1];
			steps[i].inputs[1] = i % 2 == 0 ? "w" : NULL;
			steps[i].outputs[0] = i == kernels - 1 ? "y" : names[i];
		}
		r = gpuq_pipeline_create(
			g, 0, name, tensors, kernels + 2, steps, kernels, ret_pipeline);
	}
	free(names);
	free(tensors);
	free(steps);
	return r;
}

static int open_chain(const struct client *c, uint32_t kernels, struct remote_chain *ret_chain)
{
	uint64_t matrix = CHAIN_ROWS * CHAIN_WIDTH * sizeof(float);
	uint64_t square = CHAIN_WIDTH * CHAIN_WIDTH * sizeof(float);
	struct remote_chain chain = {0};
	int r = register_chain(c->gpuq, kernels, &chain.pipeline);

	if (r == 0)
		r = gpuq_alloc(c->channel, matrix, (void **)&chain.x);
	if (r == 0)
		r = gpuq_alloc(c->channel, square, (void **)&chain.w);
	if (r == 0)
		r = gpuq_alloc(c->channel, matrix, (void **)&chain.y);
	if (r < 0) {
		complain(0, "a pipeline of %u kernels: %s", kernels, gpuq_error_detail());
		return r;
	}
	memset(chain.x, 0, matrix);
	memset(chain.w, 0, square);
	*ret_chain = chain;
	return 0;
}

static int create_call(const struct client *c, const struct remote_chain *chain, uint64_t rows,
	struct gpuq_call **ret_call)
{
	const struct gpuq_tensor in[] = {
		{.data = chain->x, .dtype = GPUQ_F32, .rank = 2, .dims = {rows, CHAIN_WIDTH}},
		{.data = chain->w,
			.dtype = GPUQ_F32,
			.rank = 2,
			.dims = {CHAIN_WIDTH, CHAIN_WIDTH}},
	};
	const struct gpuq_tensor out = {
		.data = chain->y, .dtype = GPUQ_F32, .rank = 2, .dims = {rows, CHAIN_WIDTH}};

	return gpuq_pipeline_call_create(c->channel, chain->pipeline, in, 2, &out, 1, ret_call);
}

static int await(const struct client *c, struct gpuq_completion *ret_done)
{
	int r = gpuq_wait(c->channel, ret_done, 1, ANSWER_NS);

	return r < 0 ? r : ret_done->status;
}

/* --- The second client --------------------------------------------------------------------- */

struct stormer {
	struct client client;
	struct gpuq *admin; /* NULL: this user is no administrator */
	struct remote_chain chains[STORM_CHAINS];
	struct gpuq_call *calls[STORM_WORKS];
	uint64_t next_rows;
};

static int storm_ask(struct stormer *s, const struct remote_chain *chain, uint32_t place)
{
	s->next_rows = s->next_rows % STORM_ROWS + 1;
	gpuq_call_destroy(s->calls[place]);
	s->calls[place] = NULL;
	int r = create_call(&s->client, chain, s->next_rows, &s->calls[place]);
	return r < 0 ? r : gpuq_precapture(s->client.channel, s->calls[place], place);
}

static bool told(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	return poll(&p, 1, 0) != 0;
}

/* Makes all shapes new again but the hot one, which clients cannot pin. */
static int evict_storm(struct stormer *s)
{
	struct gpuq_graph_info infos[64];
	const int page = sizeof(infos) / sizeof(infos[0]);
	uint64_t after = 0;
	int n = s->admin == NULL ? 0 : page;

	while (n == page) {
		n = gpuq_graphs(s->admin, 0, after, infos, (uint32_t)page);
		for (int i = 0; i < n; i++) {
			after = infos[i].id;
			if (infos[i].state != GPUQ_GRAPH_CAPTURED ||
				infos[i].kernels == HOT_KERNELS)
				continue;
			int r = gpuq_admin_evict(s->admin, 0, infos[i].id);
			if (r < 0 && r != -ENOENT)
				return r;
		}
	}
	return n < 0 ? n : 0;
}

/* Asks for one shape after the other until the next order is there. */
static int storm_until_told(struct stormer *s, const struct remote_chain *chain, int order_fd)
{
	uint32_t in_flight = 0;
	int r = 0;

	for (; in_flight < STORM_WORKS && r >= 0; in_flight++)
		r = storm_ask(s, chain, in_flight);
	while (r >= 0 && in_flight > 0) {
		struct gpuq_completion done;

		r = await(&s->client, &done);
		if (r < 0 || told(order_fd))
			in_flight--;
		else
			r = storm_ask(s, chain, (uint32_t)done.user_data);
	}
	return r;
}

static int stormer_open(struct stormer *s, const struct daemon *d)
{
	const struct gpuq_options admin = {
		.socket = d->socket, .admin = true, .name = "gpuq-bench"};
	int r = client_open(d, &s->client);

	for (uint32_t i = 0; i < STORM_CHAINS && r == 0; i++)
		r = open_chain(&s->client, storm_kernels[i], &s->chains[i]);
	/* Without it shapes stay captured, and only their first capture is seen. */
	if (r == 0 && gpuq_connect(&admin, &s->admin) < 0)
		s->admin = NULL;
	return r;
}

/* The pipeline of so many kernels, NULL for 0. */
static const struct remote_chain *find_chain(const struct stormer *s, uint32_t kernels)
{
	for (uint32_t i = 0; i < STORM_CHAINS; i++)
		if (storm_kernels[i] == kernels)
			return &s->chains[i];
	return NULL;
}

/* Answers each order when it is ready for what it says; storms until the next one. */
static _Noreturn void stormer_child(const struct daemon *d, int order_fd, int answer_fd)
{
	static struct stormer s;
	const struct remote_chain *chain = NULL;
	uint32_t kernels;
	int r;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	r = stormer_open(&s, d);
	while (write(answer_fd, &r, sizeof(r)) == sizeof(r)) {
		if (r == 0 && chain != NULL)
			r = storm_until_told(&s, chain, order_fd);
		if (read(order_fd, &kernels, sizeof(kernels)) != sizeof(kernels))
			break;
		chain = find_chain(&s, kernels);
		if (r == 0 && chain != NULL)
			r = evict_storm(&s);
		if (r < 0)
			complain(r, "captures through gpuqd: %s", gpuq_error_detail());
	}
	_exit(0);
}

static int stormer_answer(const struct remote *r)
{
	int answer = -EPIPE;

	if (read(r->answer_fd, &answer, sizeof(answer)) != sizeof(answer))
		return -EPIPE;
	return answer;
}

static int stormer_start(struct remote *r)
{
	int order[2], answer[2];

	if (pipe(order) < 0)
		return -errno;
	if (pipe(answer) < 0) {
		close(order[0]);
		close(order[1]);
		return -errno;
	}
	r->stormer = fork();
	if (r->stormer == 0) {
		close(order[1]);
		close(answer[0]);
		stormer_child(&r->daemon, order[0], answer[1]);
	}
	close(order[0]);
	close(answer[1]);
	r->order_fd = order[1];
	r->answer_fd = answer[0];
	return r->stormer < 0 ? -errno : stormer_answer(r);
}

/* 0 kernels: no more. Waits until it is so. */
static int stormer_order(const struct remote *r, uint32_t kernels)
{
	if (write(r->order_fd, &kernels, sizeof(kernels)) != sizeof(kernels))
		return -EPIPE;
	return stormer_answer(r);
}

/* --- The server ---------------------------------------------------------------------------- */

static int remote_replay(void *state)
{
	struct remote *r = state;
	const struct gpuq_submission s = {.call = r->call};
	struct gpuq_completion done;
	int e = gpuq_submit(r->client.channel, &s, 1);

	return e < 0 ? e : await(&r->client, &done);
}

static const uint64_t *capture_count(const struct remote *r)
{
	return &r->stats.devices[0].capture_count;
}

static int remote_begin(void *state, enum mode mode, uint32_t kernels)
{
	struct remote *r = state;

	r->captures_seen = shm_load_acquire(capture_count(r));
	return mode == BACKGROUND ? stormer_order(r, kernels) : 0;
}

static int remote_between(void *state, enum mode mode, struct round *round)
{
	return 0;
}

static int remote_end(void *state, enum mode mode, struct round *round)
{
	struct remote *r = state;
	int e = mode == BACKGROUND ? stormer_order(r, 0) : 0;

	round_captures(round, r->stats.captures, r->stats.header->max_captures, &r->captures_seen,
		shm_load_acquire(capture_count(r)));
	return e;
}

void remote_server(struct remote *r, struct server *ret_server)
{
	const struct stats_header *h = r->stats.header;

	*ret_server = (struct server){
		.name = "through gpuqd",
		.state = r,
		.clock = {h->ticks_base, h->ns_base, h->mult, h->shift},
		.replay = remote_replay,
		.begin = remote_begin,
		.end = remote_end,
		.between = remote_between,
	};
}

static int make_hot(struct remote *r)
{
	struct gpuq_completion done;
	int e = open_chain(&r->client, HOT_KERNELS, &r->hot);

	if (e == 0)
		e = create_call(&r->client, &r->hot, HOT_ROWS, &r->call);
	if (e == 0)
		e = gpuq_precapture(r->client.channel, r->call, 0);
	if (e == 0)
		e = await(&r->client, &done);
	for (uint32_t i = 0; i < HOT_REPLAYS && e == 0; i++)
		e = remote_replay(r);
	if (e < 0)
		complain(e, "the hot shape: %s", gpuq_error_detail());
	return e;
}

int remote_create(struct bench *b, struct remote **ret_remote)
{
	struct remote *r = calloc(1, sizeof(*r));

	if (r == NULL)
		return -ENOMEM;
	r->order_fd = r->answer_fd = -1;
	int e = daemon_start(b, &r->daemon);
	if (e == 0)
		e = stats_open(r->daemon.socket, false, &r->stats);
	if (e == 0)
		e = stormer_start(r);
	if (e == 0)
		e = client_open(&r->daemon, &r->client);
	if (e == 0)
		e = make_hot(r);
	if (e < 0) {
		complain(e, "captures through gpuqd cannot be measured");
		remote_destroy(r);
		return e;
	}
	cpus_pin(0, b->client_cpu, b->client_cpu);
	*ret_remote = r;
	return 0;
}

void remote_destroy(struct remote *r)
{
	if (r == NULL)
		return;
	pair_end(r->stormer);
	if (r->order_fd >= 0)
		close(r->order_fd);
	if (r->answer_fd >= 0)
		close(r->answer_fd);
	client_close(&r->client);
	stats_close(&r->stats);
	daemon_stop(&r->daemon);
	free(r);
}
