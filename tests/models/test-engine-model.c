/* SPDX-License-Identifier: MIT */
/*
 * Small models with random weights behind an engine: the logits of a text do not depend on how it
 * came there: at once or token by token, in chunks of any size, beside others, after it lost its
 * blocks, after an opening that another session had computed. Where the model is deterministic
 * they are the same bits, and always they are those of a plain forward pass.
 */
#include "tests/models/random-model.h"
#include "tests/models/rig.h"

#include "models/engine.h"
#include "tests/graphs/rig.h"

#include <math.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TEXT 150u
#define KV_BLOCKS 26u /* of 416 tokens */
#define NEIGHBOURS 3u

static struct random rng = {.state = 7};

static const struct model_config llama = {
	.architecture = MODEL_LLAMA,
	.vocab = 131,
	.hidden = 48,
	.layers = 2,
	.intermediate = 80,
	.heads = 6,
	.kv_heads = 2,
	.head_dim = 10,
	.max_positions = 400,
	.norm_eps = 1e-5,
	.rope = {.theta = 10000, .factor = 1},
};

/* How a text is given to an engine. */
struct way {
	const char *name;
	uint32_t chunk_tokens, bucket_tokens;
	uint32_t piece; /* tokens of a request */
	uint32_t neighbours;
	uint32_t opening; /* so many tokens are there already, without answers */
	bool few_shapes;
	bool bully; /* between two pieces another session takes all blocks */
};

static const struct way ways[] = {
	{.name = "at once", .chunk_tokens = 256, .bucket_tokens = 64, .piece = TEXT},
	{.name = "in chunks", .chunk_tokens = 17, .bucket_tokens = 16, .piece = TEXT},
	{.name = "by token", .chunk_tokens = 64, .bucket_tokens = 64, .piece = 1},
	{.name = "beside others",
		.chunk_tokens = 64,
		.bucket_tokens = 64,
		.piece = 1,
		.neighbours = NEIGHBOURS},
	{.name = "beside others in few shapes",
		.chunk_tokens = 64,
		.bucket_tokens = 16,
		.piece = 1,
		.neighbours = NEIGHBOURS,
		.few_shapes = true},
	{.name = "in pieces beside others",
		.chunk_tokens = 33,
		.bucket_tokens = 1,
		.piece = 7,
		.neighbours = NEIGHBOURS},
	{.name = "after preemption",
		.chunk_tokens = 64,
		.bucket_tokens = 64,
		.piece = 19,
		.bully = true},
	{.name = "after an opening",
		.chunk_tokens = 64,
		.bucket_tokens = 64,
		.piece = 5,
		.opening = 100},
};

struct setting {
	struct rig *rig;
	struct model *model;
	struct engine *engine;
	struct kv_client client;
	const struct way *way;
};

struct neighbour {
	struct engine_request r; /* comes first */
	int32_t tokens[40];
	char out[8 * 20];
	bool under_way;
};

/* Every second way where a sanitizer makes kernels thirty times slower. */
static uint32_t way_step(void)
{
	return harness_slowness() > 1 && !harness_long() ? 2 : 1;
}

/* --- Driving an engine ---------------------------------------------------------------------- */

static void start(struct setting *s, const struct way *way)
{
	const struct engine_options options = {
		.device = s->rig->options.device,
		.graphs = s->rig->g,
		.model = engine_model_of(s->model),
		.max_sessions = 8,
		.max_batch = 16,
		.chunk_tokens = way->chunk_tokens,
		.bucket_tokens = way->bucket_tokens,
		.few_shapes = way->few_shapes,
		.gather_percent = 50,
	};

	s->way = way;
	assert_int_equal(engine_create(&options, &s->engine), 0);
}

static struct engine_session *open_session(struct setting *s)
{
	struct engine_session *session;

	assert_int_equal(engine_session_open(s->engine, &s->client, 1, &session), 0);
	return session;
}

/* Lets neighbours generate for as long as the request takes. */
static void run(struct setting *s, struct engine_request *r, struct neighbour *neighbours)
{
	const uint64_t until_ns = clock_monotonic_ns() + 15000000000ull * harness_slowness();
	struct engine_request *done = NULL;

	assert_int_equal(engine_submit(s->engine, r), 0);
	while (done != r) {
		for (uint32_t i = 0; i < s->way->neighbours; i++) {
			if (!neighbours[i].under_way)
				assert_int_equal(engine_submit(s->engine, &neighbours[i].r), 0);
			neighbours[i].under_way = true;
		}
		if (!engine_poll(s->engine))
			sched_yield();
		while ((done = engine_take_done(s->engine)) != NULL && done != r) {
			assert_true(done->status == 0 || done->status == -GPUQ_ECONTEXT);
			((struct neighbour *)(void *)done)->under_way = false;
		}
		assert_true(clock_monotonic_ns() < until_ns);
	}
	assert_int_equal(r->status, 0);
}

static void run_alone(struct setting *s, struct engine_request *r)
{
	static const struct way alone = {.name = "alone"};
	const struct way *way = s->way;

	s->way = &alone;
	run(s, r, NULL);
	s->way = way;
}

/* Gives tokens to a session that wants no answers. */
static void give(
	struct setting *s, struct engine_session *session, const int32_t *tokens, uint32_t n)
{
	struct engine_request r = {.session = session, .tokens = tokens, .n_tokens = n};

	run_alone(s, &r);
}

static void end_neighbours(struct setting *s, struct neighbour *neighbours)
{
	struct engine_request *done;

	for (uint32_t i = 0; i < s->way->neighbours; i++)
		engine_session_close(neighbours[i].r.session);
	while (engine_busy(s->engine))
		(void)engine_poll(s->engine);
	while ((done = engine_take_done(s->engine)) != NULL)
		;
}

static void random_text(int32_t *tokens, uint32_t n, uint32_t vocab)
{
	for (uint32_t i = 0; i < n; i++)
		tokens[i] = (int32_t)random_below(&rng, vocab);
}

static void make_neighbours(struct setting *s, struct neighbour *neighbours)
{
	memset(neighbours, 0, NEIGHBOURS * sizeof(*neighbours));
	for (uint32_t i = 0; i < s->way->neighbours; i++) {
		struct neighbour *n = &neighbours[i];

		random_text(n->tokens, 40, llama.vocab);
		n->r = (struct engine_request){
			.kind = i == 1 ? ENGINE_STEP : ENGINE_GENERATE,
			.session = open_session(s),
			.tokens = n->tokens,
			.n_tokens = 1 + 13 * i,
			.rows = i == 1,
			.n_generate = 2 + i,
			.temperature = 1,
			.out = n->out,
			.out_bytes = sizeof(n->out),
		};
	}
}

static void bully(struct setting *s, struct engine_session *session, const int32_t *tokens)
{
	assert_int_equal(engine_session_truncate(session, 0), 0);
	give(s, session, tokens, 390);
}

/* --- Logits --------------------------------------------------------------------------------- */

/* Logits of the text's tokens but for those of the opening, which it gets before. */
static void get_logits(struct setting *s, const int32_t *text, float *ret_logits)
{
	const struct way *way = s->way;
	const uint32_t vocab = model_config(s->model)->vocab;
	struct engine_session *session, *other = open_session(s);
	struct neighbour neighbours[NEIGHBOURS];
	int32_t bullying[390];
	struct wire_row rows[TEXT];

	random_text(bullying, 390, vocab);
	make_neighbours(s, neighbours);
	if (way->opening > 0)
		give(s, other, text, way->opening);
	session = open_session(s);
	if (way->opening > 0)
		give(s, session, text, way->opening);
	for (uint32_t at = way->opening; at < TEXT; at += way->piece) {
		const uint32_t n = TEXT - at < way->piece ? TEXT - at : way->piece;
		struct engine_request r = {.session = session,
			.tokens = text + at,
			.n_tokens = n,
			.rows = n,
			.out = rows,
			.out_bytes = sizeof(rows),
			.device_logits = ret_logits + (uint64_t)at * vocab};

		run(s, &r, neighbours);
		if (way->bully)
			bully(s, other, bullying);
	}
	end_neighbours(s, neighbours);
	engine_session_close(session);
	engine_session_close(other);
}

static void check_way(struct setting *s, const int32_t *text, float *ret_logits)
{
	struct engine_stats stats;

	get_logits(s, text, ret_logits);
	engine_stats(s->engine, &stats);
	assert_true(stats.kv.preemptions > 0 || !s->way->bully);
	if (s->way->opening > 0)
		assert_int_equal(stats.kv.shared_tokens, s->way->opening / 16 * 16);
	assert_int_equal(stats.sessions, 0);
	assert_int_equal(stats.kv.free_blocks + stats.kv.cached_blocks, KV_BLOCKS);
	assert_int_equal(s->client.used_blocks, 0);
}

static double distance(const float *x, const double *y, uint64_t n)
{
	double difference = 0, size = 0;

	for (uint64_t i = 0; i < n; i++) {
		difference += (x[i] - y[i]) * (x[i] - y[i]);
		size += y[i] * y[i];
	}
	return sqrt(difference / size);
}

static void open_model(struct setting *s, int dir, bool deterministic)
{
	const struct model_options options = {
		.deterministic = deterministic, .kv_blocks = KV_BLOCKS};
	struct model_why why;

	*s = (struct setting){.rig = rig_new(NULL), .client.max_blocks = UINT32_MAX};
	assert_int_equal(
		model_load(s->rig->options.device, s->rig->g, dir, &options, NULL, &s->model, &why),
		0);
}

static void close_model(struct setting *s)
{
	model_destroy(s->model);
	rig_free(s->rig);
}

/* All ways give the logits of a plain forward pass; the same bits, if that is promised. */
static void check_model(const struct model_config *c, uint32_t dtype, bool same_bits, double bound)
{
	const int dir = random_model(c, dtype, &rng);
	const uint64_t all = (uint64_t)TEXT * c->vocab;
	float *logits = malloc(all * sizeof(*logits)), *first = malloc(all * sizeof(*first));
	int32_t text[TEXT];
	struct setting s;

	random_text(text, TEXT, c->vocab);
	double *expected = reference_logits(dir, text, TEXT);
	open_model(&s, dir, same_bits);
	for (uint32_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i += way_step()) {
		const uint64_t skip = (uint64_t)ways[i].opening * c->vocab;

		start(&s, &ways[i]);
		check_way(&s, text, logits);
		const double d = distance(logits + skip, expected + skip, all - skip);
		print_message("%s: relative L2 %.2g, at most %.2g\n", ways[i].name, d, bound);
		assert_true(d <= bound);
		if (i == 0)
			memcpy(first, logits, all * sizeof(*first));
		else if (same_bits)
			assert_memory_equal(
				first + skip, logits + skip, (all - skip) * sizeof(*first));
		engine_destroy(s.engine);
	}
	close_model(&s);
	free(expected);
	free(first);
	free(logits);
	close(dir);
}

static void the_same_bits_in_every_way(void **state)
{
	check_model(&llama, GPUQ_F32, true, 1e-5);
}

static void the_same_bits_with_windows_and_halves(void **state)
{
	struct model_config mistral = llama, qwen3 = llama;

	mistral.architecture = MODEL_MISTRAL;
	mistral.window = 37;
	mistral.windowed[1] = true;
	check_model(&mistral, GPUQ_F16, true, 2e-3);
	qwen3.architecture = MODEL_QWEN3;
	qwen3.qk_norm = true;
	qwen3.head_dim = 16;
	check_model(&qwen3, GPUQ_BF16, true, 2e-2);
}

static void near_enough_without_the_promise(void **state)
{
	check_model(&llama, GPUQ_F32, false, 1e-5);
}

/* --- Tokens --------------------------------------------------------------------------------- */

#define MADE 48u

/* The greatest logit each time, chosen by the client. */
static void by_steps(struct setting *s, const int32_t *text, uint32_t n, int32_t *ret_made)
{
	struct engine_session *session = open_session(s);
	struct {
		struct wire_row row;
		int32_t token;
		float value;
	} out;

	for (uint32_t i = 0; i < MADE; i++) {
		struct engine_request r = {
			.session = session,
			.tokens = i == 0 ? text : &ret_made[i - 1],
			.n_tokens = i == 0 ? n : 1,
			.rows = 1,
			.top_k = 1,
			.out = &out,
			.out_bytes = sizeof(out),
		};

		run_alone(s, &r);
		ret_made[i] = out.token;
	}
	engine_session_close(session);
}

static void by_generation(struct setting *s, const int32_t *text, uint32_t n, int32_t *ret_made)
{
	struct neighbour neighbours[NEIGHBOURS];
	int32_t out[2 * MADE];
	struct engine_request r = {
		.kind = ENGINE_GENERATE,
		.session = open_session(s),
		.tokens = text,
		.n_tokens = n,
		.n_generate = MADE,
		.out = out,
		.out_bytes = sizeof(out),
	};

	make_neighbours(s, neighbours);
	run(s, &r, neighbours);
	memcpy(ret_made, out, MADE * sizeof(*ret_made));
	end_neighbours(s, neighbours);
	engine_session_close(r.session);
}

static void greedy_tokens_in_every_way(void **state)
{
	const int dir = random_model(&llama, GPUQ_F32, &rng);
	int32_t text[TEXT], first[MADE], made[MADE];
	struct setting s;

	random_text(text, TEXT, llama.vocab);
	open_model(&s, dir, true);
	for (uint32_t i = 0; i < 5; i += way_step()) {
		start(&s, &ways[i]);
		by_steps(&s, text, TEXT, made);
		if (i == 0)
			memcpy(first, made, sizeof(first));
		assert_memory_equal(first, made, sizeof(first));
		by_generation(&s, text, TEXT, made);
		assert_memory_equal(first, made, sizeof(first));
		engine_destroy(s.engine);
	}
	close_model(&s);
	close(dir);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(the_same_bits_in_every_way),
		HARNESS_TEST(the_same_bits_with_windows_and_halves),
		HARNESS_TEST(near_enough_without_the_promise),
		HARNESS_TEST(greedy_tokens_in_every_way),
	};

	return harness_run("models-engine-model", tests, sizeof(tests) / sizeof(tests[0]));
}
