/* SPDX-License-Identifier: MIT */
/* Shapes of steps: the memory of their tensors, calls of a shape, and wishes for the next ones. */
#include "kernels/launch.h"
#include "models/engine_impl.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#define ALIGN 256u
#define FEW_BUCKETS 8u	     /* of one length; longer ones beyond */
#define COMPLETION_WISHES 3u /* the first; before them: the step, copies of blocks and of rows */

static uint64_t round_up(uint64_t n, uint64_t to)
{
	return (n + to - 1) / to * to;
}

/* --- Memory --------------------------------------------------------------------------------- */

struct pinned {
	void **place;
	uint64_t bytes;
};

static int take(struct engine *e, const struct pinned *tensors, uint32_t n)
{
	struct engine_buffers *b = &e->buffers;
	uint64_t bytes = 0, at = 0;
	int err;

	for (uint32_t i = 0; i < n; i++)
		bytes += round_up(tensors[i].bytes, ALIGN);
	err = device_alloc(e->options.device, DEVICE_PINNED, bytes, &b->pinned);
	if (err != 0)
		return err;
	memset(b->pinned, 0, bytes);
	for (uint32_t i = 0; i < n; i++) {
		*tensors[i].place = (char *)b->pinned + at;
		at += round_up(tensors[i].bytes, ALIGN);
	}
	return 0;
}

int engine_buffers_create(struct engine *e)
{
	struct engine_buffers *b = &e->buffers;
	const uint64_t n = 4ull * e->max_tokens, r = 4ull * e->options.max_batch;
	const uint64_t k = e->model->top_k;
	const struct pinned tensors[] = {
		{(void **)&b->completions,
			(COMPLETION_WISHES + ENGINE_WISHES) * sizeof(*b->completions)},
		{(void **)&b->tokens, n},
		{(void **)&b->positions, n},
		{(void **)&b->rows, n},
		{(void **)&b->table, r * e->max_blocks},
		{(void **)&b->last, r},
		{(void **)&b->temperatures, r},
		{(void **)&b->ids, r * ENGINE_MAX_IDS},
		{(void **)&b->seeds, r * 4},
		{(void **)&b->values, r * k},
		{(void **)&b->candidates, r * k},
		{(void **)&b->stats, r * 2},
		{(void **)&b->named, r * ENGINE_MAX_IDS},
		{(void **)&b->sampled, r},
		{(void **)&b->logprob, r},
	};
	int err = take(e, tensors, sizeof(tensors) / sizeof(tensors[0]));

	if (err == 0)
		err = device_alloc(e->options.device, DEVICE_WORK, r * e->model->vocab, &b->logits);
	if (err != 0)
		return err;
	e->kv_copying.completion = &b->completions[1];
	e->rows.copying.completion = &b->completions[2];
	return 0;
}

void engine_buffers_destroy(struct engine *e)
{
	device_free(e->options.device, DEVICE_PINNED, e->buffers.pinned);
	device_free(e->options.device, DEVICE_WORK, e->buffers.logits);
}

/* --- Calls ---------------------------------------------------------------------------------- */

uint32_t engine_context(const struct engine *e, uint32_t tokens)
{
	const uint64_t most = (uint64_t)e->max_blocks * KV_BLOCK_TOKENS;
	uint64_t bucket = e->options.bucket_tokens, context;

	/* Buckets of one token are wanted as they are. */
	while (e->options.few_shapes && bucket > 1 && tokens > FEW_BUCKETS * bucket)
		bucket *= 2;
	context = round_up(tokens, bucket);
	return (uint32_t)(context < most ? context : most);
}

static uint32_t round_sessions(const struct engine *e, uint32_t sessions)
{
	uint32_t n = 1;

	if (!e->options.few_shapes)
		return sessions;
	while (n < sessions)
		n *= 2;
	if (n >= 4 && sessions <= n / 4 * 3)
		n = n / 4 * 3;
	return n < e->options.max_batch ? n : e->options.max_batch;
}

bool engine_round_sessions(const struct engine *e, struct engine_shape *s)
{
	if (s->tokens != s->sessions || s->tokens != s->rows)
		return false;
	s->tokens = s->sessions = s->rows = round_sessions(e, s->sessions);
	return true;
}

uint32_t engine_table_columns(uint32_t context)
{
	return (context + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS;
}

uint32_t engine_ids(uint32_t ids)
{
	uint32_t power = 1;

	while (power < ids)
		power *= 2;
	return power;
}

static struct tensor vector(uint32_t dtype, uint64_t n, void *data)
{
	return (struct tensor){.dtype = dtype, .rank = 1, .dims = {n}, .data = data};
}

static struct tensor matrix(uint32_t dtype, uint64_t rows, uint64_t columns, void *data)
{
	return (struct tensor){.dtype = dtype, .rank = 2, .dims = {rows, columns}, .data = data};
}

static void init_inputs(
	const struct engine_buffers *b, const struct engine_shape *s, struct tensor *in)
{
	in[MODEL_TOKENS] = vector(GPUQ_I32, s->tokens, b->tokens);
	in[MODEL_POSITIONS] = vector(GPUQ_I32, s->tokens, b->positions);
	in[MODEL_ROWS] = vector(GPUQ_I32, s->tokens, b->rows);
	in[MODEL_TABLE] = matrix(GPUQ_I32, s->sessions, engine_table_columns(s->context), b->table);
	in[MODEL_CONTEXT] = vector(GPUQ_U8, s->context, NULL);
	in[MODEL_LAST] = vector(GPUQ_I32, s->rows, b->last);
	in[MODEL_TEMPERATURES] = vector(GPUQ_F32, s->rows, b->temperatures);
	if (s->kind == MODEL_STEP_RESULT)
		in[MODEL_IDS] = matrix(GPUQ_I32, s->rows, s->ids, b->ids);
	else if (s->kind == MODEL_STEP_SAMPLE)
		in[MODEL_SEEDS] = matrix(GPUQ_I64, s->rows, 2, b->seeds);
}

void engine_call_init(
	const struct engine *e, const struct engine_shape *s, struct op_call *ret_call)
{
	const struct engine_buffers *b = &e->buffers;
	struct tensor *out = ret_call->out;

	memset(ret_call, 0, sizeof(*ret_call));
	ret_call->op = e->model->steps[s->kind].op;
	init_inputs(b, s, ret_call->in);
	switch (s->kind) {
	case MODEL_STEP_RESULT:
		out[0] = matrix(GPUQ_F32, s->rows, e->model->top_k, b->values);
		out[1] = matrix(GPUQ_I32, s->rows, e->model->top_k, b->candidates);
		out[2] = matrix(GPUQ_F32, s->rows, 2, b->stats);
		out[3] = matrix(GPUQ_F32, s->rows, s->ids, b->named);
		break;
	case MODEL_STEP_ROWS:
		out[0] = matrix(GPUQ_F32, s->rows, e->model->vocab, b->logits);
		out[1] = matrix(GPUQ_F32, s->rows, 2, b->stats);
		break;
	default:
		out[0] = vector(GPUQ_I32, s->rows, b->sampled);
		out[1] = vector(GPUQ_F32, s->rows, b->logprob);
		break;
	}
}

static void carry(struct graph_work *w, uint32_t input, uint32_t *used)
{
	const struct tensor *t = &w->call->in[input];
	uint64_t elements, bytes;

	if (t->data == NULL || tensor_size(t, &elements, &bytes) != 0 ||
		bytes > DEVICE_MAX_CARRIED - *used)
		return;
	w->args.carried[input] = (uint16_t)bytes;
	*used += device_carried_room((uint32_t)bytes);
}

void engine_work_init(const struct engine *e, enum model_step kind, const struct op_call *call,
	uint32_t completion, struct graph_work *w)
{
	struct device_completion *c = &e->buffers.completions[completion];
	uint32_t used = 0;

	memset(w, 0, sizeof(*w));
	w->call = call;
	w->pipeline = e->model->steps[kind].pipeline;
	op_args(&w->args, call);
	w->args.completion = c;
	w->args.value = c->word + 1;
	w->completion = c;
	w->uid = e->uid;
	/* Every layer reads these. */
	w->in_host = 1u << MODEL_POSITIONS | 1u << MODEL_ROWS | 1u << MODEL_TABLE;
	/* The table may take all the room, and is as well copied when it is large. */
	for (uint32_t i = 0; i < MODEL_INPUTS; i++) {
		if (i != MODEL_TABLE)
			carry(w, i, &used);
	}
	carry(w, MODEL_TABLE, &used);
}

#define SHAPE_MEMBERS 6u

/* The number of the first member that no step can have; SHAPE_MEMBERS: there is none. */
static uint32_t find_bad(const struct engine *e, const struct engine_shape *s)
{
	const uint64_t context = s->context;
	const bool fine[SHAPE_MEMBERS] = {
		s->kind < MODEL_STEPS,
		s->tokens >= 1 && s->tokens <= e->max_tokens,
		s->sessions >= 1 && s->sessions <= e->options.max_batch && s->sessions <= s->tokens,
		s->rows >= 1 && s->rows <= e->options.max_batch && s->rows <= s->tokens,
		s->ids <= (s->kind == MODEL_STEP_RESULT ? ENGINE_MAX_IDS : 0),
		context <= e->model->max_session_tokens && context * s->sessions >= s->tokens,
	};
	uint32_t i = 0;

	while (i < SHAPE_MEMBERS && fine[i])
		i++;
	return i;
}

/* As steps of that shape are made. */
static void shape_round(const struct engine *e, struct engine_shape *shape)
{
	engine_round_sessions(e, shape);
	shape->context = engine_context(e, shape->context);
	shape->ids = engine_ids(shape->ids);
}

int engine_precapture_init(const struct engine *e, const struct engine_shape *s,
	struct op_call *ret_call, struct graph_work *ret_work, uint32_t *ret_bad)
{
	struct engine_shape shape = *s;

	*ret_bad = find_bad(e, s);
	if (*ret_bad < SHAPE_MEMBERS)
		return -GPUQ_EPARAM;
	shape_round(e, &shape);
	engine_call_init(e, &shape, ret_call);
	memset(ret_work, 0, sizeof(*ret_work));
	ret_work->call = ret_call;
	ret_work->pipeline = e->model->steps[shape.kind].pipeline;
	op_args(&ret_work->args, ret_call);
	return 0;
}

/* --- Wishes --------------------------------------------------------------------------------- */

/* The shape has been wished for not long ago; if not, it is now. */
static bool is_known(struct engine *e, const struct engine_shape *s)
{
	const uint64_t number =
		((uint64_t)s->context << 32 | s->ids << 16 | s->rows << 4 | (uint32_t)s->kind) + 1;
	const uint64_t place = number * 0x9e3779b97f4a7c15 >> 32 & (ENGINE_KNOWN_WISHES - 1);
	const bool known = e->known_wishes[place] == number;

	e->known_wishes[place] = number;
	return known;
}

/* False: too many are wished for at once. */
static bool wish(
	struct engine *e, const struct engine_shape *shape, uint32_t priority, uint64_t deadline_ns)
{
	for (uint32_t i = 0; i < ENGINE_WISHES; i++) {
		struct engine_wish *w = &e->wishes[i];

		if (w->busy)
			continue;
		if (is_known(e, shape))
			return true;
		engine_call_init(e, shape, &w->call);
		engine_work_init(e, shape->kind, &w->call, COMPLETION_WISHES + i, &w->work);
		w->work.priority = priority;
		w->work.deadline_ns = deadline_ns;
		w->busy = graphs_precapture(e->options.graphs, &w->work) == 0;
		return true;
	}
	return false;
}

/* Shapes as they are captured; what fits no step is dropped. */
void engine_warm(
	struct engine *e, const struct engine_shape *shapes, uint32_t n, uint64_t deadline_ns)
{
	e->warm_deadline_ns = deadline_ns;
	for (uint32_t i = 0; i < n && e->n_warm < ENGINE_MAX_WARM; i++) {
		struct engine_shape shape = shapes[i];

		if (find_bad(e, &shape) == SHAPE_MEMBERS) {
			shape_round(e, &shape);
			e->warm[e->n_warm++] = shape;
		}
	}
}

bool engine_warming(const struct engine *e)
{
	bool any = e->warm_at < e->n_warm;

	for (uint32_t i = 0; e->n_warm > 0 && i < ENGINE_WISHES; i++)
		any = any || e->wishes[i].busy;
	return any;
}

void engine_wish_next(struct engine *e, const struct engine_shape *shape, uint32_t priority)
{
	struct engine_shape more = *shape, longer = *shape;

	longer.context = engine_context(e, shape->context + 1);
	if (longer.context > shape->context)
		(void)wish(e, &longer, priority, 0);
	more.tokens = more.sessions = more.rows = round_sessions(e, shape->rows + 1);
	if (more.rows > shape->rows)
		(void)wish(e, &more, priority, 0);
}

bool engine_wishes_go_on(struct engine *e)
{
	bool progress = false;

	for (uint32_t i = 0; i < ENGINE_WISHES; i++) {
		struct engine_wish *w = &e->wishes[i];

		if (!w->busy || !device_done(w->work.completion, w->work.args.value))
			continue;
		/* Whether there is a graph or not makes no difference here. */
		(void)graphs_finish(e->options.graphs, &w->work, engine_now_ns(e));
		w->busy = false;
		progress = true;
	}
	while (e->warm_at < e->n_warm && wish(e, &e->warm[e->warm_at], 0, e->warm_deadline_ns)) {
		e->warm_at++;
		progress = true;
	}
	return progress;
}

void engine_warm_end(struct engine *e)
{
	e->warm_at = e->n_warm;
	for (uint32_t i = 0; i < ENGINE_WISHES; i++) {
		if (e->wishes[i].busy)
			(void)graphs_cancel(e->options.graphs, &e->wishes[i].work);
	}
}

void engine_wishes_end(struct engine *e)
{
	const struct timespec nap = {.tv_nsec = 200000};

	engine_warm_end(e);
	for (uint32_t i = 0; i < ENGINE_WISHES; i++) {
		struct engine_wish *w = &e->wishes[i];

		while (w->busy) {
			(void)engine_wishes_go_on(e);
			if (w->busy)
				nanosleep(&nap, NULL);
		}
	}
}
