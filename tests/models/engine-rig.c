/* SPDX-License-Identifier: MIT */
/* A model whose answers anybody can compute, and an engine over it. */
#include "tests/harness.h"

#include "kernels/launch.h"
#include "tests/models/engine-rig.h"

#include <math.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define PATIENCE_NS 15000000000ull

struct fake_seen fake_seen;
uint64_t fake_is_closed;

static uint64_t (*caches[FAKE_LAYERS])[KV_BLOCK_TOKENS];
static uint32_t cache_blocks; /* block 0 included */

/* --- The model ------------------------------------------------------------------------------ */

static uint64_t mix(uint64_t digest, uint64_t value)
{
	digest = (digest ^ value) * 0x9e3779b97f4a7c15u;
	return digest ^ digest >> 29;
}

static uint64_t cell(uint32_t layer, int32_t token, uint64_t position)
{
	return mix(mix(layer + 1, (uint64_t)token), position);
}

/* The digest of the first n tokens of a text. */
static uint64_t digest_of(const int32_t *text, uint64_t n)
{
	uint64_t digest = 0;

	for (uint64_t i = 0; i < n; i++) {
		for (uint32_t l = 0; l < FAKE_LAYERS; l++)
			digest = mix(digest, cell(l, text[i], i));
	}
	return digest;
}

static float logit(uint64_t digest, int32_t token)
{
	return token < 0 || token >= (int32_t)FAKE_VOCAB
		? -INFINITY
		: (float)(mix(digest, (uint64_t)token) % 100000);
}

static int32_t candidate(uint64_t digest, uint32_t k)
{
	return (int32_t)((digest + k) % FAKE_VOCAB);
}

static int32_t sampled(uint64_t digest, float temperature, const int64_t seed[2])
{
	return (int32_t)(mix(mix(mix(digest, (uint64_t)seed[0]), (uint64_t)seed[1]),
				 (uint64_t)(int64_t)(temperature * 8)) %
		FAKE_VOCAB);
}

/* --- Its operators -------------------------------------------------------------------------- */

static uint64_t *slot_of(const struct op_call *call, uint32_t layer, int32_t row, int32_t position)
{
	const struct tensor *table = &call->in[MODEL_TABLE];
	const int32_t *blocks = table->data;
	const uint64_t column = (uint64_t)position / KV_BLOCK_TOKENS;
	int32_t block;

	if (row < 0 || (uint64_t)row >= table->dims[0] || position < 0 || column >= table->dims[1])
		return NULL;
	block = blocks[(uint64_t)row * table->dims[1] + column];
	if (block < 0 || (uint32_t)block >= cache_blocks)
		return NULL;
	return &caches[layer][block][position % KV_BLOCK_TOKENS];
}

/* A capture's warm-up: all is zero. */
static bool is_warm_up(const struct op_call *call)
{
	const int32_t *table = call->in[MODEL_TABLE].data;

	return table[0] == 0;
}

/* What fills a step up has no blocks. */
static bool is_nobodys(const struct op_call *call, int32_t row)
{
	const struct tensor *table = &call->in[MODEL_TABLE];

	return row >= 0 && (uint64_t)row < table->dims[0] &&
		((const int32_t *)table->data)[(uint64_t)row * table->dims[1]] == 0;
}

static void fake_write(const struct op_call *call)
{
	const int32_t *tokens = call->in[MODEL_TOKENS].data, *rows = call->in[MODEL_ROWS].data;
	const int32_t *positions = call->in[MODEL_POSITIONS].data;

	for (uint64_t n = 0; n < call->in[MODEL_TOKENS].dims[0]; n++) {
		if (is_nobodys(call, rows[n]))
			continue;
		for (uint32_t l = 0; l < FAKE_LAYERS; l++) {
			uint64_t *slot = slot_of(call, l, rows[n], positions[n]);

			if (slot == NULL || (char *)slot < (char *)caches[l][1])
				fake_seen.wrong++;
			else
				*slot = cell(l, tokens[n], (uint64_t)positions[n]);
		}
	}
}

static uint64_t fake_digest(const struct op_call *call, uint64_t answer)
{
	const int32_t token = ((const int32_t *)call->in[MODEL_LAST].data)[answer];
	const int32_t row = ((const int32_t *)call->in[MODEL_ROWS].data)[token];
	const int32_t position = ((const int32_t *)call->in[MODEL_POSITIONS].data)[token];
	uint64_t digest = 0;

	if ((uint64_t)position >= call->in[MODEL_CONTEXT].dims[0])
		fake_seen.wrong++;
	for (int32_t i = 0; i <= position; i++) {
		for (uint32_t l = 0; l < FAKE_LAYERS; l++) {
			const uint64_t *slot = slot_of(call, l, row, i);

			digest = mix(digest, slot == NULL ? 0 : *slot);
		}
	}
	return digest;
}

static float temperature_of(const struct op_call *call, uint64_t answer)
{
	return ((const float *)call->in[MODEL_TEMPERATURES].data)[answer];
}

static void put_stats(const struct op_call *call, float *stats, uint64_t answer, uint64_t digest)
{
	stats[2 * answer] = temperature_of(call, answer);
	stats[2 * answer + 1] = (float)(digest % 1009);
}

static void answer_result(const struct op_call *call, uint64_t i, uint64_t digest)
{
	const uint64_t m = call->in[MODEL_IDS].dims[1];
	const int32_t *ids = (const int32_t *)call->in[MODEL_IDS].data + i * m;

	for (uint32_t k = 0; k < FAKE_TOP_K; k++) {
		const int32_t token = candidate(digest, k);

		((int32_t *)call->out[1].data)[i * FAKE_TOP_K + k] = token;
		((float *)call->out[0].data)[i * FAKE_TOP_K + k] = logit(digest, token);
	}
	put_stats(call, call->out[2].data, i, digest);
	for (uint64_t j = 0; j < m; j++)
		((float *)call->out[3].data)[i * m + j] = logit(digest, ids[j]);
}

static void answer_rows(const struct op_call *call, uint64_t i, uint64_t digest)
{
	for (int32_t v = 0; v < (int32_t)FAKE_VOCAB; v++)
		((float *)call->out[0].data)[i * FAKE_VOCAB + (uint64_t)v] = logit(digest, v);
	put_stats(call, call->out[1].data, i, digest);
}

static void answer_sample(const struct op_call *call, uint64_t i, uint64_t digest)
{
	const int64_t *seed = (const int64_t *)call->in[MODEL_SEEDS].data + 2 * i;
	const int32_t token = sampled(digest, temperature_of(call, i), seed);

	((int32_t *)call->out[0].data)[i] = token;
	((float *)call->out[1].data)[i] = -logit(digest, token);
}

static void see(const struct op_call *call)
{
	fake_seen.tokens = call->in[MODEL_TOKENS].dims[0];
	fake_seen.sessions = call->in[MODEL_TABLE].dims[0];
	fake_seen.rows = call->in[MODEL_LAST].dims[0];
	fake_seen.context = call->in[MODEL_CONTEXT].dims[0];
	shm_store_release(&fake_seen.steps, fake_seen.steps + 1);
}

static void fake_run(const struct op_call *call,
	void (*answer)(const struct op_call *call, uint64_t i, uint64_t digest))
{
	const struct timespec nap = {.tv_nsec = 100000};

	if (is_warm_up(call))
		return;
	see(call);
	while (shm_load_acquire(&fake_is_closed) != 0)
		nanosleep(&nap, NULL);
	fake_write(call);
	for (uint64_t i = 0; i < call->in[MODEL_LAST].dims[0]; i++)
		answer(call, i, fake_digest(call, i));
}

static void cpu_result(const struct op_call *call, uint64_t begin, uint64_t end)
{
	fake_run(call, answer_result);
}

static void cpu_rows(const struct op_call *call, uint64_t begin, uint64_t end)
{
	fake_run(call, answer_rows);
}

static void cpu_sample(const struct op_call *call, uint64_t begin, uint64_t end)
{
	fake_run(call, answer_sample);
}

static uint64_t one_unit(const struct op_call *call)
{
	return 1;
}

static const struct op fake_ops[] = {
	{.name = "fake-result",
		.n_inputs = 8,
		.n_outputs = 4,
		.units = one_unit,
		.cpu = cpu_result},
	{.name = "fake-rows", .n_inputs = 7, .n_outputs = 2, .units = one_unit, .cpu = cpu_rows},
	{.name = "fake-sample",
		.n_inputs = 8,
		.n_outputs = 2,
		.units = one_unit,
		.cpu = cpu_sample},
};

/* --- In the place of kernels/registry.c ----------------------------------------------------- */

const struct op *const op_table[] = {&fake_ops[0], &fake_ops[1], &fake_ops[2]};
const uint32_t op_count = MODEL_STEPS;

const struct device_code *op_code(const struct op *op)
{
	static const struct device_code codes[] = {{"fake-result", op_launch_cpu},
		{"fake-rows", op_launch_cpu}, {"fake-sample", op_launch_cpu}};

	return &codes[op - fake_ops];
}

const struct op *op_find(const char *name, uint32_t *ret_index)
{
	return NULL;
}

/* --- The rig -------------------------------------------------------------------------------- */

static struct engine_model fake_model(struct engine_rig *rig, uint32_t kv_blocks)
{
	static const int32_t eos = FAKE_EOS;
	struct engine_model m = {
		.vocab = FAKE_VOCAB,
		.top_k = FAKE_TOP_K,
		.kv_blocks = kv_blocks,
		.max_session_tokens = FAKE_MAX_TEXT,
		.caches = rig->caches,
		.n_caches = FAKE_LAYERS,
		.block_bytes = sizeof(caches[0][0]),
		.eos = &eos,
		.eos_count = 1,
	};

	for (uint32_t i = 0; i < MODEL_STEPS; i++)
		m.steps[i].op = &fake_ops[i];
	return m;
}

struct engine_rig *engine_rig_prepare(uint32_t kv_blocks, const char *faults)
{
	struct engine_rig *rig = calloc(1, sizeof(*rig));

	assert_non_null(rig);
	rig->graphs = rig_prepare(faults);
	if (graphs_create(&rig->graphs->options, &rig->graphs->g, rig->graphs->why) != 0) {
		rig_free(rig->graphs);
		free(rig);
		return NULL;
	}
	rig->client.max_blocks = UINT32_MAX;
	cache_blocks = kv_blocks + 1;
	for (uint32_t i = 0; i < FAKE_LAYERS; i++) {
		caches[i] = calloc(cache_blocks, sizeof(caches[0][0]));
		assert_non_null(caches[i]);
		rig->caches[i] = caches[i];
	}
	rig->options = (struct engine_options){
		.device = rig->graphs->options.device,
		.graphs = rig->graphs->g,
		.model = fake_model(rig, kv_blocks),
		.max_sessions = 8,
		.max_batch = 4,
		.chunk_tokens = 32,
		.bucket_tokens = 16,
		.gather_percent = 10,
	};
	return rig;
}

void engine_rig_start(struct engine_rig *rig)
{
	assert_int_equal(engine_create(&rig->options, &rig->engine), 0);
}

struct engine_rig *engine_rig_new(uint32_t kv_blocks)
{
	struct engine_rig *rig = engine_rig_prepare(kv_blocks, NULL);

	engine_rig_start(rig);
	return rig;
}

void engine_rig_free(struct engine_rig *rig)
{
	if (rig->engine != NULL) {
		struct engine_stats stats;

		assert_false(engine_busy(rig->engine));
		assert_null(engine_take_done(rig->engine));
		engine_stats(rig->engine, &stats);
		assert_int_equal(stats.sessions, 0);
		assert_int_equal(stats.kv.free_blocks + stats.kv.cached_blocks, stats.kv.blocks);
		assert_int_equal(rig->client.used_blocks, 0);
	}
	assert_int_equal(fake_seen.wrong, 0);
	engine_destroy(rig->engine);
	rig_free(rig->graphs);
	for (uint32_t i = 0; i < FAKE_LAYERS; i++)
		free(rig->caches[i]);
	free(rig);
}

struct engine_session *rig_session(struct engine_rig *rig)
{
	struct engine_session *s;

	assert_int_equal(engine_session_open(rig->engine, &rig->client, 1, &s), 0);
	return s;
}

void rig_gate(uint64_t closed)
{
	shm_store_release(&fake_is_closed, closed);
}

/* --- Requests ------------------------------------------------------------------------------- */

void fake_count(int32_t *tokens, int32_t first, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		tokens[i] = (first + (int32_t)i) % (int32_t)FAKE_VOCAB;
}

static struct ask *new_ask(struct engine_session *s, const int32_t *tokens, uint32_t n)
{
	struct ask *a = calloc(1, sizeof(*a));

	assert_non_null(a);
	memcpy(a->tokens, tokens, n * sizeof(*tokens));
	a->r.session = s;
	a->r.tokens = a->tokens;
	a->r.n_tokens = n;
	a->r.temperature = 0.5f;
	return a;
}

static struct ask *with_room(struct ask *a, uint64_t bytes)
{
	free(a->out);
	a->out = malloc(bytes);
	memset(a->out, 0xee, bytes);
	a->r.out = a->out;
	a->r.out_bytes = bytes;
	return a;
}

struct ask *ask_step(struct engine_session *s, const int32_t *tokens, uint32_t n, uint32_t rows)
{
	struct ask *a = new_ask(s, tokens, n);

	a->r.rows = rows;
	return ask_named(a, 3, 0);
}

struct ask *ask_named(struct ask *a, uint32_t top_k, uint32_t n_ids)
{
	for (uint32_t i = 0; i < n_ids; i++)
		a->ids[i] = (int32_t)i * 31 - 20;
	a->r.ids = a->ids;
	a->r.top_k = top_k;
	a->r.n_ids = n_ids;
	return with_room(a, a->r.rows * wire_row_bytes(top_k, n_ids));
}

struct ask *ask_logits(struct engine_session *s, const int32_t *tokens, uint32_t n, uint32_t rows)
{
	struct ask *a = new_ask(s, tokens, n);

	a->r.rows = rows;
	ask_named(a, 0, 0);
	a->logits = malloc((uint64_t)rows * FAKE_VOCAB * sizeof(float));
	a->r.device_logits = a->logits;
	return a;
}

struct ask *ask_generate(
	struct engine_session *s, const int32_t *tokens, uint32_t n, uint32_t n_generate)
{
	struct ask *a = new_ask(s, tokens, n);

	a->r.kind = ENGINE_GENERATE;
	a->r.n_generate = n_generate;
	a->r.seed = 0x1234567890abcdef;
	return with_room(a, 8ull * n_generate);
}

void ask_free(struct ask *a)
{
	free(a->out);
	free(a->logits);
	free(a);
}

void ask_submit(struct engine_rig *rig, struct ask *a)
{
	a->done = false;
	assert_int_equal(engine_submit(rig->engine, &a->r), 0);
}

void rig_turn(struct engine_rig *rig)
{
	struct engine_request *r;

	if (!engine_poll(rig->engine))
		sched_yield();
	/* As gpuqd's dispatch does it. */
	if (device_check(rig->options.device) != 0)
		engine_fail(rig->engine);
	while ((r = engine_take_done(rig->engine)) != NULL)
		((struct ask *)(void *)r)->done = true;
}

static uint64_t patience(void)
{
	return clock_monotonic_ns() + PATIENCE_NS * harness_slowness();
}

int ask_await(struct engine_rig *rig, struct ask *a)
{
	const uint64_t until_ns = patience();

	while (!a->done) {
		rig_turn(rig);
		assert_true(clock_monotonic_ns() < until_ns);
	}
	return a->r.status;
}

int ask_run(struct engine_rig *rig, struct ask *a)
{
	ask_submit(rig, a);
	return ask_await(rig, a);
}

void rig_await_steps(struct engine_rig *rig, uint64_t steps)
{
	const uint64_t until_ns = patience();

	while (shm_load_acquire(&fake_seen.steps) < steps) {
		rig_turn(rig);
		assert_true(clock_monotonic_ns() < until_ns);
	}
}

/* --- Their results -------------------------------------------------------------------------- */

static void check_record(const struct ask *a, uint32_t number, uint64_t digest)
{
	const struct engine_request *r = &a->r;
	const char *at = a->out + number * wire_row_bytes(r->top_k, r->n_ids);
	const uint32_t n = r->top_k < FAKE_TOP_K ? r->top_k : FAKE_TOP_K;
	const struct wire_row *row = (const void *)at;
	const int32_t *tokens = (const void *)(row + 1);
	const float *values = (const void *)(tokens + r->top_k), *named = values + r->top_k;

	assert_true(row->lse == r->temperature && row->entropy == (float)(digest % 1009));
	assert_int_equal(row->n_candidates, n);
	for (uint32_t k = 0; k < r->top_k; k++) {
		assert_int_equal(tokens[k], k < n ? candidate(digest, k) : -1);
		assert_true(values[k] == (k < n ? logit(digest, tokens[k]) : -INFINITY));
	}
	for (uint32_t i = 0; i < r->n_ids; i++)
		assert_true(named[i] == logit(digest, a->ids[i]));
	for (int32_t v = 0; a->logits != NULL && v < (int32_t)FAKE_VOCAB; v++)
		assert_true(a->logits[number * FAKE_VOCAB + (uint32_t)v] == logit(digest, v));
}

static uint32_t check_generated(const struct ask *a, int32_t *text, uint32_t n)
{
	const struct engine_request *r = &a->r;
	const int32_t *made = (const void *)a->out;
	const float *logprobs = (const float *)(const void *)a->out + r->n_generate;

	assert_true(r->n_made > 0 && r->n_made <= r->n_generate);
	for (uint32_t i = 0; i < r->n_made; i++) {
		const int64_t seed[2] = {(int64_t)r->seed, n};
		const uint64_t digest = digest_of(text, n);

		assert_int_equal(made[i], sampled(digest, r->temperature, seed));
		assert_true(logprobs[i] == -logit(digest, made[i]));
		assert_true(i + 1 == r->n_made || !r->stop || made[i] != FAKE_EOS);
		text[n++] = made[i];
	}
	assert_true(r->n_made == r->n_generate || (r->stop && text[n - 1] == FAKE_EOS));
	return n - 1;
}

uint32_t ask_check(const struct ask *a, int32_t *text, uint32_t n)
{
	const struct engine_request *r = &a->r;
	const uint32_t first = n + r->n_tokens - r->rows;

	assert_int_equal(r->status, 0);
	memcpy(text + n, a->tokens, r->n_tokens * sizeof(*text));
	n += r->n_tokens;
	if (r->kind == ENGINE_GENERATE)
		return check_generated(a, text, n);
	for (uint32_t i = 0; i < r->rows; i++)
		check_record(a, i, digest_of(text, first + i + 1));
	return n;
}

uint32_t rig_advance(
	struct engine_rig *rig, struct engine_session *s, int32_t *text, uint32_t at, uint32_t n)
{
	int32_t tokens[FAKE_MAX_TEXT];

	fake_count(tokens, (int32_t)at, n);
	struct ask *a = ask_step(s, tokens, n, n);

	assert_int_equal(ask_run(rig, a), 0);
	at = ask_check(a, text, at);
	assert_int_equal(engine_session_tokens(s), at);
	ask_free(a);
	return at;
}
