/* SPDX-License-Identifier: MIT */
/* Turns: what is computed when, so that nobody waits for long behind others. */
#include "tests/harness.h"

#include "models/engine_impl.h"
#include "tests/models/engine-rig.h"

#include <time.h>

static void chunks_leave_room_for_decoding(void **state)
{
	struct engine_rig *rig = engine_rig_new(200);
	struct engine_session *slow = rig_session(rig), *other = rig_session(rig),
			      *fast = rig_session(rig);
	int32_t text[FAKE_MAX_TEXT], tokens[FAKE_MAX_TEXT];
	struct engine_stats stats;
	struct ask *a, *b;
	uint32_t n = 0;

	n = rig_advance(rig, fast, text, 0, 1);
	fake_count(tokens, 50, 320);
	a = ask_step(slow, tokens, 320, 1);
	fake_count(tokens, 60, 320);
	b = ask_step(other, tokens, 320, 1);
	ask_submit(rig, a);
	ask_submit(rig, b);
	while (!a->done || !b->done)
		n = rig_advance(rig, fast, text, n, 1);
	engine_stats(rig->engine, &stats);
	/* 20 chunks, and as soon as the first has ended a token between any two. */
	assert_true(n >= 18 && n <= 23);
	assert_true(stats.steps[MODEL_STEP_RESULT] >= 20 + n - 1);
	(void)ask_check(a, text, 0);
	(void)ask_check(b, text, 0);
	ask_free(a);
	ask_free(b);
	engine_session_close(slow);
	engine_session_close(other);
	engine_session_close(fast);
	engine_rig_free(rig);
}

/* Chunks of 2 * 100 us where a decode step takes 100 us, once there is anybody to be held up. */
static void chunks_keep_the_pace_of_decoding(void **state)
{
	struct engine_rig *rig = engine_rig_prepare(64, NULL);
	struct engine_session *s, *other;
	int32_t text[2][FAKE_MAX_TEXT];

	rig->options.pace_percent = 200;
	rig->options.chunk_tokens = 200;
	engine_rig_start(rig);
	s = rig_session(rig);
	other = rig_session(rig);
	assert_int_equal(engine_chunk_tokens(rig->engine), 200);
	(void)rig_advance(rig, s, text[0], 0, 1);
	assert_int_equal(rig->engine->token_ns, 0);
	assert_int_equal(engine_chunk_tokens(rig->engine), ENGINE_DECODE_TOKENS);
	rig->engine->decode_ns = 100000;
	rig->engine->token_ns = 2000;
	assert_int_equal(engine_chunk_tokens(rig->engine), 64);
	rig->engine->token_ns = 1000;
	assert_int_equal(engine_chunk_tokens(rig->engine), 200);
	rig->engine->token_ns = 1000000;
	assert_int_equal(engine_chunk_tokens(rig->engine), ENGINE_DECODE_TOKENS);
	/* Measured, where there is one. */
	fake_count(text[1], 0, 40);
	struct ask *a = ask_step(other, text[1], 40, 1);
	assert_int_equal(ask_run(rig, a), 0);
	ask_free(a);
	assert_true(rig->engine->token_ns != 1000000);
	/* After two chunks in a row nobody decodes any more. */
	rig->engine->token_ns = 1000000;
	rig->engine->n_steps += 2;
	assert_int_equal(engine_chunk_tokens(rig->engine), 200);
	engine_session_close(s);
	engine_session_close(other);
	engine_rig_free(rig);
}

static struct ask *step_at_the_gate(struct engine_session *s)
{
	static const int32_t token = 3;
	const uint64_t seen = shm_load_acquire(&fake_seen.steps);
	struct ask *a = ask_step(s, &token, 1, 1);

	rig_gate(1);
	assert_int_equal(engine_submit(s->engine, &a->r), 0);
	while (shm_load_acquire(&fake_seen.steps) == seen)
		(void)engine_poll(s->engine);
	return a;
}

static void pass_the_gate(struct ask *a)
{
	struct engine *e = a->r.session->engine;

	rig_gate(0);
	while (engine_busy(e))
		(void)engine_poll(e);
	assert_ptr_equal(engine_take_done(e), &a->r);
	assert_int_equal(a->r.status, 0);
	ask_free(a);
}

/* Two engines of a device: what one computes of prompts keeps the pace of the other. */
static void chunks_keep_the_pace_of_other_engines(void **state)
{
	struct engine_rig *rig = engine_rig_prepare(64, NULL);
	struct engine_pace pace = {0};
	struct engine_session *s, *t;
	struct engine *other;

	rig->options.pace = &pace;
	rig->options.pace_percent = 200;
	rig->options.chunk_tokens = 200;
	engine_rig_start(rig);
	assert_int_equal(engine_create(&rig->options, &other), 0);
	s = rig_session(rig);
	rig->engine->token_ns = 2000;
	assert_int_equal(engine_session_open(other, &rig->client, 1, &t), 0);
	assert_int_equal(engine_chunk_tokens(rig->engine), 200);
	other->decode_ns = 100000;
	other->turns[MODEL_STEP_RESULT].took_ns = 5000000000u;
	const uint64_t before_ns = clock_monotonic_ns();
	struct ask *a = step_at_the_gate(t);
	assert_int_equal(engine_chunk_tokens(rig->engine), 64);
	/* Whoever waits for a step looks when it is due; the other engine has none. */
	assert_in_range(
		engine_due_ns(other), before_ns + 5000000000u, clock_monotonic_ns() + 5000000000u);
	assert_true(engine_due_ns(rig->engine) == UINT64_MAX);
	/* It was disturbed, and is no measure of the pace. */
	pace.launches++;
	clock_nanosleep(CLOCK_MONOTONIC, 0, &(struct timespec){.tv_nsec = 1000000}, NULL);
	pass_the_gate(a);
	assert_int_equal(other->decode_ns, 100000);
	/* Long ago. */
	other->decoded_ns = 0;
	assert_int_equal(engine_chunk_tokens(rig->engine), 200);
	pass_the_gate(step_at_the_gate(t));
	assert_int_not_equal(other->decode_ns, 100000);
	engine_session_close(t);
	assert_int_equal(engine_chunk_tokens(rig->engine), 200);
	engine_session_close(s);
	engine_destroy(other);
	engine_rig_free(rig);
}

/* Whoever is of the second priority has a turn while those of the first go on and on. */
static void lower_priorities_are_not_starved(void **state)
{
	struct engine_rig *rig = engine_rig_new(200);
	struct engine_session *s[5];
	int32_t text[FAKE_MAX_TEXT], tokens[480];
	struct ask *a[5];

	fake_count(tokens, 5, 480);
	for (uint32_t i = 0; i < 5; i++)
		s[i] = rig_session(rig);
	/* Chunks: 15 for each of the first two, one for the third. */
	for (uint32_t i = 0; i < 3; i++) {
		a[i] = ask_step(s[i], tokens + i, i < 2 ? 470 : 20, 1);
		a[i]->r.priority = i / 2;
		ask_submit(rig, a[i]);
	}
	assert_int_equal(ask_await(rig, a[2]), 0);
	assert_false(a[0]->done && a[1]->done);
	for (uint32_t i = 0; i < 3; i++) {
		assert_int_equal(ask_await(rig, a[i]), 0);
		(void)ask_check(a[i], text, 0);
		ask_free(a[i]);
		assert_int_equal(engine_session_truncate(s[i], 0), 0);
	}
	/* Decode steps: four fill one. */
	for (uint32_t i = 0; i < 5; i++) {
		a[i] = ask_generate(s[i], tokens + i, 1, i < 4 ? 60 : 1);
		a[i]->r.priority = i / 4;
		ask_submit(rig, a[i]);
	}
	assert_int_equal(ask_await(rig, a[4]), 0);
	assert_false(a[0]->done || a[1]->done || a[2]->done || a[3]->done);
	for (uint32_t i = 0; i < 5; i++) {
		assert_int_equal(ask_await(rig, a[i]), 0);
		(void)ask_check(a[i], text, 0);
		ask_free(a[i]);
		engine_session_close(s[i]);
	}
	engine_rig_free(rig);
}

/* --- Users ----------------------------------------------------------------------------------- */

#define MANY 6u /* sessions of user 1; user 2 has one */

static struct engine_session *session_of_user(struct engine_rig *rig, uint64_t user)
{
	struct engine_session *s;

	assert_int_equal(engine_session_open(rig->engine, &rig->client, user, &s), 0);
	return s;
}

/* Gives user 1 what it wants; only then user 2. */
static void ask_all(struct engine_rig *rig, struct engine_session *s[MANY + 1],
	struct ask *a[MANY + 1], uint32_t n_tokens, uint32_t n_generate)
{
	int32_t tokens[FAKE_MAX_TEXT];

	for (uint32_t i = 0; i <= MANY; i++) {
		fake_count(tokens, (int32_t)i, n_tokens);
		s[i] = session_of_user(rig, i < MANY ? 1 : 2);
		a[i] = n_generate > 0 ? ask_generate(s[i], tokens, n_tokens, n_generate)
				      : ask_step(s[i], tokens, n_tokens, 1);
		ask_submit(rig, a[i]);
	}
}

static void end_all(
	struct engine_rig *rig, struct engine_session *s[MANY + 1], struct ask *a[MANY + 1])
{
	int32_t text[FAKE_MAX_TEXT];

	for (uint32_t i = 0; i <= MANY; i++) {
		assert_int_equal(ask_await(rig, a[i]), 0);
		(void)ask_check(a[i], text, 0);
		ask_free(a[i]);
		engine_session_close(s[i]);
	}
}

/* Four chunks of 32 tokens each: user 2 has every second one. */
static void many_sessions_have_one_users_chunks(void **state)
{
	struct engine_rig *rig = engine_rig_new(200);
	struct engine_session *s[MANY + 1];
	struct ask *a[MANY + 1];

	ask_all(rig, s, a, 128, 0);
	assert_int_equal(ask_await(rig, a[MANY]), 0);
	assert_in_range(rig->engine->n_steps, 4, 9);
	for (uint32_t i = 0; i < MANY; i++) {
		assert_false(a[i]->done);
		/* Its own sessions take turns. */
		assert_in_range(kv_committed(s[i]->kv), 0, 32);
	}
	end_all(rig, s, a);
	engine_rig_free(rig);
}

/* Batches of four: one place of each is user 2's. */
static void many_sessions_have_one_users_places(void **state)
{
	struct engine_rig *rig = engine_rig_new(200);
	struct engine_session *s[MANY + 1];
	struct ask *a[MANY + 1];

	ask_all(rig, s, a, 1, 40);
	assert_int_equal(ask_await(rig, a[MANY]), 0);
	assert_in_range(rig->engine->n_steps, 40, 42);
	for (uint32_t i = 0; i < MANY; i++)
		assert_in_range(a[i]->r.n_made, 40 * 3 / MANY - 2, 42 * 3 / MANY + 2);
	end_all(rig, s, a);
	engine_rig_free(rig);
}

/* Of eight chunks user 1 has six. */
static void users_take_turns_by_weight(void **state)
{
	struct engine_rig *rig = engine_rig_new(200);
	struct engine_session *s[MANY + 1];
	struct ask *a[MANY + 1];

	ask_all(rig, s, a, 256, 0);
	engine_session_weigh(s[0], 3);
	while (rig->engine->n_steps < 9)
		rig_turn(rig);
	/* The ninth may have begun. */
	assert_in_range(kv_committed(s[MANY]->kv), 64, 96);
	end_all(rig, s, a);
	engine_rig_free(rig);
}

/* Whoever comes has not saved up what others had before, but for one chunk. */
static void who_was_idle_has_saved_one_step(void **state)
{
	struct engine_rig *rig = engine_rig_new(200);
	struct engine_session *s = session_of_user(rig, 1), *late = session_of_user(rig, 2);
	int32_t text[FAKE_MAX_TEXT], tokens[FAKE_MAX_TEXT];
	struct ask *a, *b;

	fake_count(tokens, 0, 480);
	a = ask_step(s, tokens, 480, 1);
	ask_submit(rig, a);
	while (rig->engine->n_steps < 8)
		rig_turn(rig);
	b = ask_step(late, tokens + 1, 128, 1);
	ask_submit(rig, b);
	const uint32_t had = kv_committed(s->kv);
	assert_int_equal(ask_await(rig, b), 0);
	assert_in_range(kv_committed(s->kv) - had, 64, 192);
	assert_int_equal(ask_await(rig, a), 0);
	(void)ask_check(a, text, 0);
	(void)ask_check(b, text, 0);
	ask_free(a);
	ask_free(b);
	engine_session_close(s);
	engine_session_close(late);
	engine_rig_free(rig);
}

/* --- What dispatch can do at once ----------------------------------------------------------- */

#define LONG_TEXT 30000u /* three of these are more than ENGINE_LOOKUP_TOKENS */

static void submit_long(struct engine_rig *rig, struct engine_session *s, struct engine_request *r,
	const int32_t *tokens)
{
	*r = (struct engine_request){.session = s, .tokens = tokens, .n_tokens = LONG_TEXT};
	assert_int_equal(engine_submit(rig->engine, r), 0);
}

static void await_all(struct engine_rig *rig)
{
	struct engine_request *r;

	while (engine_busy(rig->engine))
		(void)engine_poll(rig->engine);
	while ((r = engine_take_done(rig->engine)) != NULL)
		assert_int_equal(r->status, 0);
}

/* Four sessions give a text that is there already: the fourth is looked up in the next step. */
static void long_openings_are_looked_up_by_and_by(void **state)
{
	struct engine_rig *rig = engine_rig_prepare(3 * LONG_TEXT / KV_BLOCK_TOKENS, NULL);
	struct engine_session *s[4];
	static int32_t tokens[LONG_TEXT];
	struct engine_request r[4];

	rig->options.model.max_session_tokens = LONG_TEXT;
	rig->options.chunk_tokens = 1000;
	engine_rig_start(rig);
	fake_count(tokens, 0, LONG_TEXT);
	for (uint32_t i = 0; i < 4; i++)
		s[i] = rig_session(rig);
	submit_long(rig, s[0], &r[0], tokens);
	await_all(rig);
	assert_int_equal(engine_session_truncate(s[0], 0), 0);
	for (uint32_t i = 0; i < 4; i++)
		submit_long(rig, s[i], &r[i], tokens);
	assert_true(engine_poll(rig->engine));
	assert_int_equal(rig->engine->step.n_parts, 3);
	await_all(rig);
	for (uint32_t i = 0; i < 4; i++)
		engine_session_close(s[i]);
	engine_rig_free(rig);
}

/* A text that finds no room is not looked at again before there may be some. */
static void who_waits_for_room_costs_nothing(void **state)
{
	struct engine_rig *rig = engine_rig_new(10);
	struct engine_session *has = rig_session(rig), *waits = rig_session(rig);
	int32_t text[FAKE_MAX_TEXT], tokens[100];
	const int32_t *copied = rig->engine->tokens;
	struct ask *a, *b;

	fake_count(tokens, 0, 100);
	a = ask_generate(has, tokens, 100, 50);
	ask_submit(rig, a);
	rig_await_steps(rig, 1);
	b = ask_step(waits, tokens + 1, 99, 1);
	ask_submit(rig, b);
	while (!waits->waits_for_room)
		rig_turn(rig);
	assert_int_equal(copied[0], 1);
	fake_count(rig->engine->tokens, 70, 1);
	const uint64_t steps = shm_load_acquire(&fake_seen.steps);
	rig_await_steps(rig, steps + 20);
	assert_false(a->done);
	assert_int_equal(copied[0], 70);
	assert_int_equal(ask_await(rig, a), 0);
	(void)ask_check(a, text, 0);
	assert_int_equal(ask_await(rig, b), 0);
	(void)ask_check(b, text, 0);
	ask_free(a);
	ask_free(b);
	engine_session_close(has);
	engine_session_close(waits);
	engine_rig_free(rig);
}

/* What is missing is in the step that is being gathered: it is there after that. */
static void who_is_kept_from_room_by_a_step_has_it_next(void **state)
{
	struct engine_rig *rig = engine_rig_new(10);
	struct engine_session *low = rig_session(rig), *high = rig_session(rig);
	int32_t text[FAKE_MAX_TEXT], tokens[150];
	struct ask *a, *b;

	fake_count(tokens, 0, 150);
	a = ask_generate(low, tokens, 150, 10);
	a->r.priority = 1;
	ask_submit(rig, a);
	while (a->r.n_made == 0)
		rig_turn(rig);
	b = ask_generate(high, tokens + 1, 10, 1);
	ask_submit(rig, b);
	rig->engine->passed_over[true][1] = ENGINE_MAX_PASSED_OVER;
	assert_int_equal(ask_await(rig, b), 0);
	assert_false(a->done);
	assert_int_equal(ask_await(rig, a), 0);
	(void)ask_check(a, text, 0);
	(void)ask_check(b, text, 0);
	ask_free(a);
	ask_free(b);
	engine_session_close(low);
	engine_session_close(high);
	engine_rig_free(rig);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(chunks_leave_room_for_decoding),
		HARNESS_TEST(chunks_keep_the_pace_of_decoding),
		HARNESS_TEST(chunks_keep_the_pace_of_other_engines),
		HARNESS_TEST(lower_priorities_are_not_starved),
		HARNESS_TEST(many_sessions_have_one_users_chunks),
		HARNESS_TEST(many_sessions_have_one_users_places),
		HARNESS_TEST(users_take_turns_by_weight),
		HARNESS_TEST(who_was_idle_has_saved_one_step),
		HARNESS_TEST(long_openings_are_looked_up_by_and_by),
		HARNESS_TEST(who_waits_for_room_costs_nothing),
		HARNESS_TEST(who_is_kept_from_room_by_a_step_has_it_next),
	};

	return harness_run("models-engine-turns", tests, sizeof(tests) / sizeof(tests[0]));
}
