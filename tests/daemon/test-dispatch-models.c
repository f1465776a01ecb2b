/* SPDX-License-Identifier: MIT */
/*
 * test-dispatch-models.c: dispatch and the sessions of models: what is refused, whose a session
 * is, the order of what is asked of it, and its end with its channel, its model or the device.
 */
#include "tests/daemon/dispatch-rig.h"
#include "tests/daemon/fake-engine.h"

#include "shm/segment.h"

#include <math.h>
#include <poll.h>
#include <string.h>

#define HANDLE (5u << 16 | 1u) /* of the model */
#define TOKENS 4096u	       /* in the arena */
#define IDS 8192u
#define OUT 16384u
#define LOGITS 32768u

/* --- A model in a dispatcher --------------------------------------------------------------- */

struct world {
	struct rig rig;
	struct engine engine;
	struct kv_client accounts[RIG_USERS];
	struct known_model model;
};

/* Asks for it only. */
static void world_add_model(struct world *w, uint32_t n_warm)
{
	memset(&w->engine, 0, sizeof(w->engine));
	memset(w->accounts, 0, sizeof(w->accounts));
	w->engine.queued.end = &w->engine.queued.first;
	w->engine.done.end = &w->engine.done.first;
	w->model = (struct known_model){
		.handle = HANDLE,
		.engine = &w->engine,
		.vocab = VOCAB,
		.accounts = w->accounts,
		.stats = &w->rig.stats.models[1],
		.warm = {{.context = 64}},
		.n_warm = n_warm,
	};
	dispatch_add_model(w->rig.dispatch, &w->model);
}

static void world_model(struct world *w)
{
	world_add_model(w, 0);
	const struct dispatch_event event = rig_next_event(&w->rig);
	assert_int_equal(event.type, DISPATCH_MODEL_ADDED);
	assert_ptr_equal(event.model, &w->model);
}

/* A model, and a client of it. */
static void world_start(struct world *w, struct rig_client *c)
{
	memset(w, 0, sizeof(*w));
	rig_start(&w->rig);
	world_model(w);
	rig_open(&w->rig, c, 0, 0, WIRE_ABI);
}

static void remove_model(struct world *w, bool force, enum dispatch_event_type type)
{
	dispatch_remove_model(w->rig.dispatch, &w->model, force);
	const struct dispatch_event event = rig_next_event(&w->rig);
	assert_int_equal(event.type, type);
	assert_ptr_equal(event.model, &w->model);
}

/* The last client goes; everything that sessions had is back. */
static void world_stop(struct world *w, struct rig_client *last)
{
	rig_close(last);
	remove_model(w, false, DISPATCH_MODEL_REMOVED);
	assert_int_equal(w->engine.n_open, 0);
	assert_int_equal(w->engine.n_queued, 0);
	assert_int_equal(w->accounts[0].used_blocks, 0);
	rig_stop(&w->rig);
}

static void hold(struct world *w, bool held)
{
	shm_store_release(&w->engine.hold, held);
	bell_ring_eventfd(w->rig.wake_fd);
}

static void await(const uint64_t *word, uint64_t value)
{
	for (int i = 0; shm_load_acquire(word) != value; i++) {
		assert_true(i < 10000);
		poll(NULL, 0, 1);
	}
}

/* --- Entries ------------------------------------------------------------------------------- */

/* Writes an argument block into place `block` of the arena's beginning. */
static struct wire_sqe entry(struct rig_client *c, uint16_t opcode, uint64_t user_data,
	uint32_t session, const void *args, uint32_t bytes)
{
	struct wire_sqe sqe = rig_entry(c, opcode, user_data);

	sqe.session = session;
	sqe.args_offset = (uint32_t)(user_data % RIG_ENTRIES) * 128;
	sqe.args_bytes = bytes;
	memcpy(c->arena + sqe.args_offset, args, bytes);
	return sqe;
}

static int act(struct rig_client *c, uint32_t session, struct wire_session order)
{
	const struct wire_sqe sqe = entry(c, WIRE_OP_SESSION, 0, session, &order, sizeof(order));

	rig_submit(c, &sqe);
	return rig_complete(c).status;
}

static uint32_t open_session(struct rig_client *c)
{
	int r = act(c, 0, (struct wire_session){.action = WIRE_SESSION_OPEN, .model = HANDLE});

	assert_true(r > 0);
	return (uint32_t)r;
}

static int close_session(struct rig_client *c, uint32_t session)
{
	return act(c, session, (struct wire_session){.action = WIRE_SESSION_CLOSE});
}

static const struct wire_step good_step = {
	.n_tokens = 3,
	.rows = 2,
	.top_k = 4,
	.n_ids = 3,
	.tokens_offset = TOKENS,
	.ids_offset = IDS,
	.out_offset = OUT,
	.logits_offset = WIRE_NOWHERE,
	.temperature = 1,
};

static const struct wire_generate good_generate = {
	.n_tokens = 1,
	.n_generate = 5,
	.tokens_offset = TOKENS,
	.out_offset = OUT,
	.flags = WIRE_GENERATE_STOP,
	.seed = 40,
};

static void submit_step(struct rig_client *c, uint32_t session, uint64_t user_data)
{
	const struct wire_sqe sqe =
		entry(c, WIRE_OP_STEP, user_data, session, &good_step, sizeof(good_step));

	rig_submit(c, &sqe);
}

static struct wire_cqe run_step(
	struct rig_client *c, uint32_t session, const struct wire_step *step)
{
	const struct wire_sqe sqe = entry(c, WIRE_OP_STEP, 1, session, step, sizeof(*step));

	rig_submit(c, &sqe);
	return rig_complete(c);
}

static struct wire_cqe run_generate(
	struct rig_client *c, uint32_t session, const struct wire_generate *generate)
{
	const struct wire_sqe sqe =
		entry(c, WIRE_OP_GENERATE, 1, session, generate, sizeof(*generate));

	rig_submit(c, &sqe);
	return rig_complete(c);
}

static void expect(const struct wire_cqe *cqe, int status, uint32_t blame)
{
	if (cqe->status != status || cqe->flags >> WIRE_CQE_ARG_SHIFT != blame)
		fail_msg("status %d, blame %u, expected %d, %u", cqe->status,
			cqe->flags >> WIRE_CQE_ARG_SHIFT, status, blame);
}

/* --- What the statistics say --------------------------------------------------------------- */

static void test_sessions_are_counted(void **state)
{
	const struct wire_step one = {.n_tokens = 1,
		.rows = 1,
		.tokens_offset = TOKENS,
		.out_offset = OUT,
		.ids_offset = IDS,
		.logits_offset = WIRE_NOWHERE,
		.temperature = 1};
	struct rig_client c;
	struct world w;

	world_start(&w, &c);
	const struct stats_model *m = w.model.stats;
	const uint32_t session = open_session(&c), other = open_session(&c);
	const struct stats_session *s = &w.rig.stats.sessions[session & 0xffff];

	assert_int_equal(s->state, 1);
	assert_int_equal(s->model, HANDLE);
	assert_int_equal(s->answers, 0);
	memset(c.arena + TOKENS, 0, 12);
	struct wire_cqe cqe = run_step(&c, session, &good_step); /* a prompt of 3 tokens */
	expect(&cqe, 0, 0);
	cqe = run_step(&c, session, &one);
	expect(&cqe, 0, 0);
	cqe = run_generate(&c, session, &good_generate); /* makes 4 */
	expect(&cqe, 4, 0);
	memset(c.arena + TOKENS, 0xff, 4);
	cqe = run_step(&c, session, &one);
	expect(&cqe, -GPUQ_ETOKEN, 1);
	assert_int_equal(s->prompt_tokens, 3);
	assert_int_equal(s->answers, 1 + 1 + 4);
	assert_int_equal(s->failed, 1);
	assert_int_equal(s->tokens, 4);
	assert_int_equal(s->kv_blocks, 1);
	assert_int_equal(hist_total(m->first_token_hist, HIST_STATS_BITS), 1);
	assert_int_equal(hist_total(m->gap_hist, HIST_STATS_BITS), 5);
	assert_int_equal(close_session(&c, session), 0);
	assert_int_equal(s->state, 0);
	assert_int_equal(w.rig.stats.sessions[other & 0xffff].state, 1);
	world_stop(&w, &c);
}

/* --- What comes back ----------------------------------------------------------------------- */

static void test_results(void **state)
{
	struct wire_step step = good_step;
	struct rig_client c;
	struct world w;

	world_start(&w, &c);
	uint32_t session = open_session(&c);
	memcpy(c.arena + TOKENS, &(int32_t[]){7, 8, 9}, 12);
	struct wire_cqe cqe = run_step(&c, session, &step);
	expect(&cqe, 0, 0);
	const struct wire_row *row = (void *)(c.arena + OUT + wire_row_bytes(4, 3));
	assert_int_equal(row->n_candidates, 4);
	assert_int_equal(((const int32_t *)(row + 1))[3], 7);
	cqe = run_step(&c, session, &step);
	expect(&cqe, 0, 0);
	assert_float_equal(row->lse, 3, 0);
	step.top_k = step.n_ids = 0;
	step.logits_offset = LOGITS;
	step.temperature = 0.25f;
	cqe = run_step(&c, session, &step);
	expect(&cqe, 0, 0);
	assert_float_equal(((const float *)(c.arena + LOGITS))[VOCAB], 0.25, 0);
	cqe = run_generate(&c, session, &good_generate);
	expect(&cqe, 4, 0);
	assert_int_equal(((const int32_t *)(c.arena + OUT))[4], 44);
	/* Nothing wanted, nothing written: the offsets do not count. */
	step = (struct wire_step){.n_tokens = 1,
		.tokens_offset = TOKENS,
		.out_offset = 1,
		.logits_offset = WIRE_NOWHERE};
	cqe = run_step(&c, session, &step);
	expect(&cqe, 0, 0);
	world_stop(&w, &c);
}

static void test_sessions(void **state)
{
	const struct wire_session fork = {.action = WIRE_SESSION_FORK};
	struct wire_session cut = {.action = WIRE_SESSION_TRUNCATE, .tokens = 3};
	struct rig_client c, other;
	struct wire_cqe cqe;
	struct world w;

	world_start(&w, &c);
	rig_open(&w.rig, &other, 1, 0, WIRE_ABI);
	uint32_t session = open_session(&c);
	cqe = run_step(&c, session, &good_step);
	expect(&cqe, 0, 0);
	int second = act(&c, session, fork);
	assert_true(second > 0 && (uint32_t)second != session);
	assert_int_equal(w.engine.sessions[1].n_tokens, 3);
	assert_int_equal(act(&c, (uint32_t)second, cut), 0);
	cut.tokens = 4;
	assert_int_equal(act(&c, (uint32_t)second, cut), -EINVAL);
	/* It is this channel's alone. */
	cqe = run_step(&other, session, &good_step);
	expect(&cqe, -GPUQ_ESESSION, 0);
	assert_int_equal(act(&other, session, fork), -GPUQ_ESESSION);
	assert_int_equal(close_session(&other, session), -GPUQ_ESESSION);
	assert_int_equal(close_session(&c, session), 0);
	assert_int_equal(close_session(&c, session), -GPUQ_ESESSION);
	cqe = run_step(&c, session, &good_step);
	expect(&cqe, -GPUQ_ESESSION, 0);
	cqe = run_step(&c, 0, &good_step);
	expect(&cqe, -GPUQ_ESESSION, 0);
	cqe = run_step(&c, UINT32_MAX, &good_step);
	expect(&cqe, -GPUQ_ESESSION, 0);
	/* One in its place has another handle. */
	assert_true(open_session(&c) != session);
	assert_int_equal(w.engine.n_open, 2);
	rig_close(&other);
	world_stop(&w, &c);
}

static void test_limits(void **state)
{
	uint32_t sessions[RIG_CLIENT_SESSIONS];
	const struct wire_session more = {.action = WIRE_SESSION_OPEN, .model = HANDLE};
	const struct wire_session fork = {.action = WIRE_SESSION_FORK};
	struct rig_client c, other;
	struct world w;

	world_start(&w, &c);
	for (uint32_t i = 0; i < RIG_CLIENT_SESSIONS; i++)
		sessions[i] = open_session(&c);
	assert_int_equal(act(&c, 0, more), -GPUQ_ELIMIT);
	assert_int_equal(act(&c, sessions[0], fork), -GPUQ_ELIMIT);
	/* Another client of this user may have one more, another user what is left. */
	rig_open(&w.rig, &other, 1, 0, WIRE_ABI);
	other.channel->client = 1;
	(void)open_session(&other);
	assert_int_equal(act(&other, 0, more), -GPUQ_ELIMIT);
	other.channel->uid++;
	(void)open_session(&other);
	assert_int_equal(act(&other, 0, more), -GPUQ_ELIMIT);
	rig_close(&other);
	assert_int_equal(w.accounts[1].used_blocks, 0);
	assert_int_equal(close_session(&c, sessions[1]), 0);
	(void)open_session(&c);
	world_stop(&w, &c);
}

/* --- What is refused ----------------------------------------------------------------------- */

#define INPUT(n) (1u + (n))
#define OUTPUT(n) (1u + GPUQ_MAX_INPUTS + (n))
#define PARAM(n) (1u + GPUQ_MAX_TENSORS + (n))

static void test_refused_steps(void **state)
{
	struct rig_client c;
	struct wire_cqe cqe;
	struct world w;

	world_start(&w, &c);
	uint32_t session = open_session(&c);
#define REFUSED(change, error, blame)            \
	do {                                     \
		struct wire_step s = good_step;  \
		change;                          \
		cqe = run_step(&c, session, &s); \
		expect(&cqe, error, blame);      \
	} while (0)
	REFUSED(s.n_tokens = 0, -GPUQ_ETOKEN, PARAM(0));
	REFUSED(s.rows = 4, -GPUQ_EPARAM, PARAM(1));
	REFUSED(s.top_k = WIRE_STEP_MAX_CANDIDATES + 1, -GPUQ_EPARAM, PARAM(2));
	REFUSED(s.n_ids = WIRE_STEP_MAX_IDS + 1, -GPUQ_EPARAM, PARAM(3));
	REFUSED(s.flags = 1, -EINVAL, 0);
	REFUSED(s.reserved[1] = 1, -EINVAL, 0);
	REFUSED(s.tokens_offset = TOKENS + 2, -GPUQ_EALIGN, INPUT(0));
	REFUSED(s.tokens_offset = RIG_ARENA - 8, -GPUQ_EBOUNDS, INPUT(0));
	REFUSED(s.tokens_offset = UINT64_MAX - 3, -GPUQ_EBOUNDS, INPUT(0));
	REFUSED(s.n_tokens = UINT32_MAX, -GPUQ_EBOUNDS, INPUT(0));
	REFUSED(s.ids_offset = IDS + 1, -GPUQ_EALIGN, INPUT(1));
	REFUSED(s.ids_offset = RIG_ARENA - 4, -GPUQ_EBOUNDS, INPUT(1));
	REFUSED(s.out_offset = OUT + 4, -GPUQ_EALIGN, OUTPUT(0));
	REFUSED(s.out_offset = RIG_ARENA - 64, -GPUQ_EBOUNDS, OUTPUT(0));
	REFUSED(s.out_offset = UINT64_MAX - 7, -GPUQ_EBOUNDS, OUTPUT(0));
	REFUSED(s.logits_offset = LOGITS, -GPUQ_EPARAM, PARAM(2));
	REFUSED((s.top_k = 0, s.logits_offset = LOGITS), -GPUQ_EPARAM, PARAM(3));
	REFUSED((s.top_k = s.n_ids = 0, s.logits_offset = LOGITS + 2), -GPUQ_EALIGN, OUTPUT(1));
	REFUSED((s.top_k = s.n_ids = 0, s.logits_offset = RIG_ARENA - 2 * VOCAB * 4 + 4),
		-GPUQ_EBOUNDS, OUTPUT(1));
	REFUSED((s.top_k = s.n_ids = 0, s.logits_offset = UINT64_MAX - 3), -GPUQ_EBOUNDS,
		OUTPUT(1));
#undef REFUSED
	/* The token is looked at when its turn has come. */
	memcpy(c.arena + TOKENS, &(int32_t){-1}, 4);
	cqe = run_step(&c, session, &good_step);
	expect(&cqe, -GPUQ_ETOKEN, INPUT(0));
	world_stop(&w, &c);
}

static void test_refused_generations(void **state)
{
	struct rig_client c;
	struct wire_cqe cqe;
	struct world w;

	world_start(&w, &c);
	uint32_t session = open_session(&c);
#define REFUSED(change, error, blame)                   \
	do {                                            \
		struct wire_generate g = good_generate; \
		change;                                 \
		cqe = run_generate(&c, session, &g);    \
		expect(&cqe, error, blame);             \
	} while (0)
	REFUSED(g.n_tokens = 0, -GPUQ_ETOKEN, PARAM(0));
	REFUSED(g.n_generate = 0, -GPUQ_EPARAM, PARAM(1));
	REFUSED(g.temperature = -1, -GPUQ_EPARAM, PARAM(2));
	REFUSED(g.temperature = NAN, -GPUQ_EPARAM, PARAM(2));
	REFUSED(g.temperature = INFINITY, -GPUQ_EPARAM, PARAM(2));
	REFUSED(g.flags = 2, -EINVAL, 0);
	REFUSED(g.reserved[0] = 1, -EINVAL, 0);
	REFUSED(g.tokens_offset = TOKENS + 1, -GPUQ_EALIGN, INPUT(0));
	REFUSED(g.tokens_offset = RIG_ARENA, -GPUQ_EBOUNDS, INPUT(0));
	REFUSED(g.out_offset = OUT + 2, -GPUQ_EALIGN, OUTPUT(0));
	REFUSED(g.n_generate = UINT32_MAX, -GPUQ_EBOUNDS, OUTPUT(0));
#undef REFUSED
	world_stop(&w, &c);
}

static void test_refused_sessions(void **state)
{
	struct wire_session order = {.action = WIRE_SESSION_OPEN, .model = HANDLE};
	struct rig_client c, old;
	struct wire_sqe sqe;
	struct world w;

	world_start(&w, &c);
	uint32_t session = open_session(&c);
	assert_int_equal(act(&c, session, order), -EINVAL);
	order.model = HANDLE + 1;
	assert_int_equal(act(&c, 0, order), -GPUQ_EMODEL);
	order.model = HANDLE + (1u << 16);
	assert_int_equal(act(&c, 0, order), -GPUQ_EMODEL);
	order.model = UINT32_MAX;
	assert_int_equal(act(&c, 0, order), -GPUQ_EMODEL);
	order = (struct wire_session){.action = WIRE_SESSION_FORK, .model = HANDLE};
	assert_int_equal(act(&c, session, order), -EINVAL);
	order = (struct wire_session){.action = WIRE_SESSION_FORK, .tokens = 1};
	assert_int_equal(act(&c, session, order), -EINVAL);
	order = (struct wire_session){.action = WIRE_SESSION_CLOSE, .reserved = {[4] = 1}};
	assert_int_equal(act(&c, session, order), -EINVAL);
	order = (struct wire_session){.action = 0};
	assert_int_equal(act(&c, session, order), -EINVAL);
	order.action = WIRE_SESSION_CLOSE + 1;
	assert_int_equal(act(&c, session, order), -EINVAL);
	/* Blocks of another size, and a session where there is none. */
	sqe = entry(&c, WIRE_OP_STEP, 0, session, &good_step, sizeof(good_step) - 8);
	rig_submit(&c, &sqe);
	assert_int_equal(rig_complete(&c).status, -GPUQ_EARGS);
	sqe = rig_entry(&c, WIRE_OP_NULL, 0);
	sqe.session = session;
	rig_submit(&c, &sqe);
	assert_int_equal(rig_complete(&c).status, -EINVAL);
	/* Version 2 knows none of it. */
	rig_open(&w.rig, &old, 1, 0, 2);
	order = (struct wire_session){.action = WIRE_SESSION_OPEN, .model = HANDLE};
	assert_int_equal(act(&old, 0, order), -GPUQ_EOPCODE);
	rig_close(&old);
	world_stop(&w, &c);
}

/* --- Wishes for captures ------------------------------------------------------------------- */

static const struct wire_shape good_shape = {
	.model = HANDLE,
	.kind = WIRE_SHAPE_GENERATE,
	.tokens = 1,
	.batch = 1,
	.rows = 1,
	.context = 8,
};

static void submit_shape(struct rig_client *c, uint64_t user_data, const struct wire_shape *shape)
{
	const struct wire_sqe sqe = entry(c, WIRE_OP_SHAPE, user_data, 0, shape, sizeof(*shape));

	rig_submit(c, &sqe);
}

static void shape_refused(struct rig_client *c, struct wire_shape shape, int status, uint32_t blame)
{
	submit_shape(c, 1, &shape);
	const struct wire_cqe cqe = rig_complete(c);
	expect(&cqe, status, blame);
}

static void shapes_world_start(struct world *w, struct rig_client *c)
{
	world_start(w, c);
	w->engine.pipeline = rig_pipeline(&w->rig);
}

static void shapes_world_stop(struct world *w)
{
	graphs_release(w->rig.graphs, w->engine.pipeline);
	rig_stop(&w->rig);
}

static void test_refused_shapes(void **state)
{
	struct rig_client c, old;
	struct wire_shape shape;
	struct wire_sqe sqe;
	struct world w;

	shapes_world_start(&w, &c);
#define REFUSED(change, status, blame)                   \
	do {                                             \
		shape = good_shape;                      \
		change;                                  \
		shape_refused(&c, shape, status, blame); \
	} while (0)
	REFUSED((void)0, 0, 0);
	REFUSED(shape.model = HANDLE + 1, -GPUQ_EMODEL, 0);
	REFUSED(shape.model = HANDLE + (1u << 16), -GPUQ_EMODEL, 0);
	REFUSED(shape.model = UINT32_MAX, -GPUQ_EMODEL, 0);
	REFUSED(shape.kind = 0, -GPUQ_EPARAM, PARAM(0));
	REFUSED(shape.kind = WIRE_SHAPE_GENERATE + 1, -GPUQ_EPARAM, PARAM(0));
	REFUSED(shape.context = 0, -GPUQ_EPARAM, PARAM(5));
	REFUSED(shape.reserved = 1, -EINVAL, 0);
#undef REFUSED
	sqe = entry(&c, WIRE_OP_SHAPE, 0, 0, &good_shape, sizeof(good_shape) - 8);
	rig_submit(&c, &sqe);
	assert_int_equal(rig_complete(&c).status, -GPUQ_EARGS);
	sqe = entry(&c, WIRE_OP_SHAPE, 0, open_session(&c), &good_shape, sizeof(good_shape));
	rig_submit(&c, &sqe);
	assert_int_equal(rig_complete(&c).status, -EINVAL);
	rig_open(&w.rig, &old, 1, 0, 3);
	submit_shape(&old, 0, &good_shape);
	assert_int_equal(rig_complete(&old).status, -GPUQ_EOPCODE);
	rig_close(&old);
	rig_close(&c);
	remove_model(&w, false, DISPATCH_MODEL_REMOVED);
	shapes_world_stop(&w);
}

/* A model is not gone while a capture of it is waited for, and nobody waits for long. */
static void test_model_removed_under_wishes(void **state)
{
	struct wire_shape shape = good_shape;
	struct rig_client c;
	struct world w;

	shapes_world_start(&w, &c);
	graphs_quiet_begin(w.rig.graphs);
	for (uint32_t i = 0; i < 3; i++) {
		shape.context = 8 + i;
		submit_shape(&c, i, &shape);
	}
	await(&c.channel->stats->in_flight, 3);
	struct wire_sqe cancel = rig_entry(&c, WIRE_OP_CANCEL, 10);
	cancel.target = 1;
	rig_submit(&c, &cancel);
	for (uint32_t i = 0; i < 2; i++) {
		const struct wire_cqe cqe = rig_complete(&c);
		assert_int_equal(cqe.status, cqe.user_data == 10 ? 0 : -ECANCELED);
	}
	dispatch_remove_model(w.rig.dispatch, &w.model, false);
	for (uint32_t i = 0; i < 2; i++)
		assert_int_equal(rig_complete(&c).status, -GPUQ_EMODEL);
	assert_int_equal(rig_next_event(&w.rig).type, DISPATCH_MODEL_REMOVED);
	graphs_quiet_end(w.rig.graphs);
	rig_close(&c);
	shapes_world_stop(&w);
}

/* --- Order, cancellation ------------------------------------------------------------------- */

/* What a session has no room for waits with its channel, and what is behind it, too. */
static void test_order(void **state)
{
	enum { N = ENGINE_MAX_QUEUED + 4 };
	const struct wire_session close = {.action = WIRE_SESSION_CLOSE};
	struct wire_sqe sqe;
	struct rig_client c;
	struct world w;

	world_start(&w, &c);
	uint32_t session = open_session(&c);
	hold(&w, true);
	for (uint32_t i = 0; i < N; i++)
		submit_step(&c, session, i);
	sqe = entry(&c, WIRE_OP_SESSION, N, session, &close, sizeof(close));
	rig_submit(&c, &sqe);
	await(&w.engine.n_queued, ENGINE_MAX_QUEUED);
	assert_true(rig_quiet(&c));
	hold(&w, false);
	for (uint32_t i = 0; i <= N; i++) {
		const struct wire_cqe cqe = rig_complete(&c);
		/* The last ones are the engine's, or not even that, when the session is closed. */
		assert_true(cqe.status == 0 || cqe.status == -ECANCELED);
		assert_true(cqe.status == 0 || cqe.user_data >= ENGINE_MAX_QUEUED);
	}
	assert_int_equal(w.engine.n_open, 0);
	world_stop(&w, &c);
}

static int cancel(struct rig_client *c, uint64_t target)
{
	struct wire_sqe sqe = rig_entry(c, WIRE_OP_CANCEL, 1000);
	struct wire_cqe cqe;

	sqe.target = target;
	rig_submit(c, &sqe);
	do
		cqe = rig_complete(c);
	while (cqe.user_data != 1000);
	return cqe.status;
}

static void test_cancel(void **state)
{
	struct rig_client c;
	struct world w;

	world_start(&w, &c);
	uint32_t session = open_session(&c);
	hold(&w, true);
	for (uint32_t i = 0; i < 3; i++)
		submit_step(&c, session, i);
	await(&w.engine.n_queued, 3);
	assert_int_equal(cancel(&c, 0), -EALREADY);
	assert_int_equal(cancel(&c, 2), 0);
	assert_int_equal(cancel(&c, 77), -ENOENT);
	await(&w.engine.n_queued, 2);
	hold(&w, false);
	int cancelled = 0;
	/* The answer to the cancellation may have come before or after its target's. */
	for (uint32_t i = 0; i < 2; i++)
		cancelled += rig_complete(&c).status == -ECANCELED;
	assert_true(cancelled <= 1);
	world_stop(&w, &c);
}

/* --- Ends ---------------------------------------------------------------------------------- */

/* A channel that goes leaves nothing, whatever it had under way. */
static void test_channel_removed(void **state)
{
	struct rig_client c, other;
	struct world w;

	world_start(&w, &c);
	rig_open(&w.rig, &other, 1, 0, WIRE_ABI);
	uint32_t session = open_session(&c), theirs = open_session(&other);
	hold(&w, true);
	for (uint32_t i = 0; i < ENGINE_MAX_QUEUED + 2; i++)
		submit_step(&c, session, i);
	submit_step(&other, theirs, 1);
	await(&w.engine.n_queued, ENGINE_MAX_QUEUED + 1);
	rig_close(&c);
	assert_int_equal(w.engine.n_open, 1);
	assert_int_equal(w.engine.n_queued, 1);
	hold(&w, false);
	assert_int_equal(rig_complete(&other).status, 0);
	world_stop(&w, &other);
}

static void test_model_removed(void **state)
{
	struct rig_client c;
	struct wire_cqe cqe;
	struct world w;

	world_start(&w, &c);
	uint32_t session = open_session(&c), idle = open_session(&c);
	remove_model(&w, false, DISPATCH_MODEL_BUSY);
	cqe = run_step(&c, session, &good_step);
	expect(&cqe, 0, 0);
	hold(&w, true);
	submit_step(&c, session, 1);
	submit_step(&c, session, 2);
	await(&w.engine.n_queued, 2);
	remove_model(&w, true, DISPATCH_MODEL_REMOVED);
	for (uint32_t i = 0; i < 2; i++) {
		cqe = rig_complete(&c);
		expect(&cqe, -GPUQ_EMODEL, 0);
	}
	assert_int_equal(w.engine.n_open, 0);
	cqe = run_step(&c, idle, &good_step);
	expect(&cqe, -GPUQ_EMODEL, 0);
	assert_int_equal(
		act(&c, 0, (struct wire_session){.action = WIRE_SESSION_OPEN, .model = HANDLE}),
		-GPUQ_EMODEL);
	assert_int_equal(close_session(&c, idle), 0);
	assert_int_equal(close_session(&c, idle), -GPUQ_ESESSION);
	/* Another one in its place. */
	world_model(&w);
	uint32_t again = open_session(&c);
	cqe = run_step(&c, again, &good_step);
	expect(&cqe, 0, 0);
	world_stop(&w, &c);
}

/* A dispatcher that died with sessions: what it had under way is lost, its handles mean nothing. */
static void test_successor(void **state)
{
	struct rig_client c;
	struct wire_cqe cqe;
	struct world w;

	world_start(&w, &c);
	uint32_t session = open_session(&c);
	hold(&w, true);
	submit_step(&c, session, 9);
	await(&w.engine.n_queued, 1);
	rig_restart(&w.rig);
	world_model(&w);
	rig_reopen(&c);
	cqe = rig_complete(&c);
	expect(&cqe, -GPUQ_EDEVICE, 0);
	assert_int_equal(cqe.user_data, 9);
	cqe = run_step(&c, session, &good_step);
	expect(&cqe, -GPUQ_ESESSION, 0);
	uint32_t again = open_session(&c);
	assert_true(again != session);
	cqe = run_step(&c, session, &good_step);
	expect(&cqe, -GPUQ_ESESSION, 0);
	world_stop(&w, &c);
}

static void test_device_failed(void **state)
{
	struct rig_client c;
	struct wire_cqe cqe;
	struct world w;

	world_start(&w, &c);
	uint32_t session = open_session(&c);
	hold(&w, true);
	for (uint32_t i = 0; i < ENGINE_MAX_QUEUED + 2; i++)
		submit_step(&c, session, i);
	await(&w.engine.n_queued, ENGINE_MAX_QUEUED);
	dispatch_fail(w.rig.dispatch);
	for (uint32_t i = 0; i < ENGINE_MAX_QUEUED + 2; i++) {
		cqe = rig_complete(&c);
		expect(&cqe, -GPUQ_EDEVICE, 0);
	}
	const struct dispatch_event event = rig_next_event(&w.rig);
	assert_int_equal(event.type, DISPATCH_FAILED);
	assert_int_equal(w.engine.failed, 1);
	w.rig.failed = true;
	rig_restart(&w.rig);
	world_model(&w);
	rig_reopen(&c);
	(void)open_session(&c);
	world_stop(&w, &c);
}

/* A model whose shapes are captured first is told of when they are, or when it is removed. */
static void test_warming(void **state)
{
	struct rig_client c;
	struct world w;

	memset(&w, 0, sizeof(w));
	rig_start(&w.rig);
	rig_open(&w.rig, &c, 0, 0, WIRE_ABI);
	for (int removed = 0; removed < 2; removed++) {
		world_add_model(&w, 2);
		await(&w.engine.warming, 2);
		/* Dispatch has looked at it since, and said nothing. */
		struct dispatch_event none;
		for (int i = 0; i < 3; i++) {
			const struct wire_sqe sqe = rig_entry(&c, WIRE_OP_NULL, 0);
			rig_submit(&c, &sqe);
			assert_int_equal(rig_complete(&c).status, 0);
		}
		assert_false(dispatch_take_event(w.rig.dispatch, &none));
		if (removed) {
			remove_model(&w, false, DISPATCH_MODEL_ADDED);
		} else {
			shm_store_release(&w.engine.warming, 0);
			bell_ring_eventfd(w.rig.wake_fd);
			const struct dispatch_event event = rig_next_event(&w.rig);
			assert_int_equal(event.type, DISPATCH_MODEL_ADDED);
			assert_int_equal(close_session(&c, open_session(&c)), 0);
			dispatch_remove_model(w.rig.dispatch, &w.model, false);
		}
		const struct dispatch_event event = rig_next_event(&w.rig);
		assert_int_equal(event.type, DISPATCH_MODEL_REMOVED);
	}
	rig_close(&c);
	rig_stop(&w.rig);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_sessions_are_counted),
		HARNESS_TEST(test_results),
		HARNESS_TEST(test_sessions),
		HARNESS_TEST(test_limits),
		HARNESS_TEST(test_refused_steps),
		HARNESS_TEST(test_refused_generations),
		HARNESS_TEST(test_refused_sessions),
		HARNESS_TEST(test_refused_shapes),
		HARNESS_TEST(test_model_removed_under_wishes),
		HARNESS_TEST(test_order),
		HARNESS_TEST(test_cancel),
		HARNESS_TEST(test_channel_removed),
		HARNESS_TEST(test_model_removed),
		HARNESS_TEST(test_warming),
		HARNESS_TEST(test_successor),
		HARNESS_TEST(test_device_failed),
	};

	return harness_run("dispatch-models", tests, sizeof(tests) / sizeof(tests[0]));
}
