/* SPDX-License-Identifier: MIT */
/* Sessions and batches, case by case: what is computed with what, and what each gets of it. */
#include "tests/harness.h"

#include "models/engine_impl.h"
#include "tests/models/engine-rig.h"

#include <errno.h>
#include <string.h>

static struct engine_stats stats_of(const struct engine_rig *rig)
{
	struct engine_stats stats;

	engine_stats(rig->engine, &stats);
	return stats;
}

static uint64_t steps_of(const struct engine_rig *rig)
{
	const struct engine_stats s = stats_of(rig);

	return s.steps[0] + s.steps[1] + s.steps[2];
}

/* --- Answers -------------------------------------------------------------------------------- */

static void a_text_in_pieces_of_any_size(void **state)
{
	static const uint32_t pieces[] = {1, 1, 15, 1, 100, 3, 16, 33, 17, 1, 200};
	struct engine_rig *rig = engine_rig_new(64);
	struct engine_session *s = rig_session(rig);
	int32_t text[FAKE_MAX_TEXT];
	uint32_t n = 0;

	for (uint32_t i = 0; i < sizeof(pieces) / sizeof(pieces[0]); i++)
		n = rig_advance(rig, s, text, n, pieces[i]);
	assert_int_equal(stats_of(rig).computed_tokens, n);
	assert_int_equal(stats_of(rig).rows, n);
	engine_session_close(s);
	engine_rig_free(rig);
}

static void answers_of_all_kinds(void **state)
{
	struct engine_rig *rig = engine_rig_new(64);
	struct engine_session *s = rig_session(rig);
	int32_t text[FAKE_MAX_TEXT], tokens[100];
	struct ask *asks[5];
	uint32_t n = 0;

	fake_count(tokens, 5, 100);
	asks[0] = ask_named(ask_step(s, tokens, 70, 20), 64, 8);
	asks[1] = ask_named(ask_step(s, tokens, 3, 1), 0, 3);
	asks[2] = ask_logits(s, tokens, 100, 100);
	asks[3] = ask_step(s, tokens, 40, 0);
	asks[4] = ask_logits(s, tokens, 2, 1);
	for (uint32_t i = 0; i < 5; i++)
		ask_submit(rig, asks[i]);
	for (uint32_t i = 0; i < 5; i++) {
		assert_int_equal(ask_await(rig, asks[i]), 0);
		assert_true(asks[i]->r.started_ns > 0);
		assert_true(asks[i]->r.ended_ns >= asks[i]->r.started_ns);
		n = ask_check(asks[i], text, n);
		ask_free(asks[i]);
	}
	assert_int_equal(stats_of(rig).rows, 20 + 1 + 100 + 1);
	engine_session_close(s);
	engine_rig_free(rig);
}

static void generated_in_parts_or_at_once(void **state)
{
	struct engine_rig *rig = engine_rig_new(64);
	struct engine_session *whole = rig_session(rig), *parts = rig_session(rig);
	int32_t text[FAKE_MAX_TEXT], last;
	struct ask *a, *b;
	int32_t tokens[50];

	fake_count(tokens, 9, 50);
	a = ask_generate(whole, tokens, 50, 40);
	b = ask_generate(parts, tokens, 50, 15);
	ask_submit(rig, a);
	assert_int_equal(ask_run(rig, b), 0);
	assert_int_equal(ask_check(b, text, 0), 50 + 14);
	assert_int_equal(engine_session_tokens(parts), 50 + 14);
	assert_int_equal(ask_await(rig, a), 0);
	assert_memory_equal(a->out, b->out, 15 * sizeof(int32_t));
	memcpy(&last, b->out + 14 * sizeof(last), sizeof(last));
	ask_free(b);
	b = ask_generate(parts, &last, 1, 25);
	assert_int_equal(ask_run(rig, b), 0);
	assert_memory_equal(a->out + 15 * sizeof(int32_t), b->out, 25 * sizeof(int32_t));
	assert_int_equal(ask_check(a, text, 0), 50 + 39);
	assert_int_equal(stats_of(rig).generated_tokens, 80);
	ask_free(a);
	ask_free(b);
	engine_session_close(whole);
	engine_session_close(parts);
	engine_rig_free(rig);
}

/* With so many tokens of so few, one ends the text. */
static void generation_stops_at_the_end_of_a_text(void **state)
{
	struct engine_rig *rig = engine_rig_new(64);
	struct engine_session *s = rig_session(rig);
	int32_t text[FAKE_MAX_TEXT], token = 3;
	struct ask *a = ask_generate(s, &token, 1, 500);

	a->r.stop = true;
	assert_int_equal(ask_run(rig, a), 0);
	(void)ask_check(a, text, 0);
	assert_true(a->r.n_made < 500);
	assert_int_equal(engine_session_tokens(s), a->r.n_made);
	ask_free(a);
	engine_session_close(s);
	engine_rig_free(rig);
}

/* --- Batches -------------------------------------------------------------------------------- */

/* The first alone, the others together in the step after it. */
static void ask_behind_the_first(struct engine_rig *rig, struct ask **a, uint32_t n)
{
	uint64_t steps = seen(&fake_seen.steps);

	rig_gate(1);
	ask_submit(rig, a[0]);
	rig_await_steps(rig, steps + 1);
	for (uint32_t i = 1; i < n; i++)
		ask_submit(rig, a[i]);
	rig_gate(0);
	rig_await_steps(rig, steps + 2);
}

static void sessions_share_a_step(void **state)
{
	struct engine_rig *rig = engine_rig_new(64);
	struct engine_session *s[6];
	struct ask *a[6];
	int32_t text[FAKE_MAX_TEXT], tokens[6] = {1, 2, 3, 4, 5, 6};

	for (uint32_t i = 0; i < 6; i++) {
		s[i] = rig_session(rig);
		a[i] = ask_step(s[i], tokens, i + 1, 1);
	}
	ask_behind_the_first(rig, a, 6);
	assert_int_equal(fake_seen.sessions, 4);
	assert_int_equal(fake_seen.tokens, 2 + 3 + 4 + 5);
	assert_int_equal(fake_seen.rows, 4);
	for (uint32_t i = 0; i < 6; i++) {
		assert_int_equal(ask_await(rig, a[i]), 0);
		assert_int_equal(ask_check(a[i], text, 0), i + 1);
		ask_free(a[i]);
		engine_session_close(s[i]);
	}
	assert_int_equal(steps_of(rig), 3);
	engine_rig_free(rig);
}

/*
 * Five sessions in a step that six share, which is nobody's sixth. Its row was somebody's in the
 * step before: what stood there must harm nobody's text.
 */
static void steps_of_few_shapes(void **state)
{
	struct engine_rig *rig = engine_rig_prepare(64, NULL);
	struct engine_session *s[7];
	struct ask *a[7];
	int32_t text[7][FAKE_MAX_TEXT], token = 5;
	uint32_t n[7] = {0};

	rig->options.few_shapes = true;
	rig->options.max_batch = 7;
	engine_rig_start(rig);
	for (uint32_t i = 0; i < 7; i++)
		s[i] = rig_session(rig);
	for (uint32_t round = 0; round < 3; round++) {
		const uint32_t batch = round < 2 ? 6 : 5;
		if (round == 2) {
			/* What the sixth row has is of a text that is no more. */
			assert_int_equal(engine_session_truncate(s[6], 1), 0);
			n[6] = rig_advance(rig, s[6], text[6], 1, 1);
		}
		for (uint32_t i = 0; i <= batch; i++) {
			token++;
			a[i] = ask_step(s[i], &token, 1, 1);
		}
		ask_behind_the_first(rig, a, batch + 1);
		assert_int_equal(fake_seen.sessions, 6);
		assert_int_equal(fake_seen.tokens, 6);
		assert_int_equal(fake_seen.rows, 6);
		for (uint32_t i = 0; i <= batch; i++) {
			assert_int_equal(ask_await(rig, a[i]), 0);
			n[i] = ask_check(a[i], text[i], n[i]);
			ask_free(a[i]);
		}
	}
	assert_int_equal(stats_of(rig).computed_tokens, 7 + 7 + 1 + 6);
	for (uint32_t i = 0; i < 7; i++)
		n[i] = rig_advance(rig, s[i], text[i], n[i], 1);
	/* Of 16 tokens there would be nine buckets. */
	(void)rig_advance(rig, s[0], text[0], n[0], 8 * 16);
	assert_int_equal(fake_seen.context, 10 * 16);
	for (uint32_t i = 0; i < 7; i++)
		engine_session_close(s[i]);
	engine_rig_free(rig);
}

/* All kinds, chunks and long drafts at once; each gets its own. */
static void mixed_work_side_by_side(void **state)
{
	struct engine_rig *rig = engine_rig_new(200);
	struct engine_session *s[8];
	struct ask *a[8];
	int32_t text[FAKE_MAX_TEXT], tokens[200];

	for (uint32_t i = 0; i < 8; i++) {
		s[i] = rig_session(rig);
		fake_count(tokens, (int32_t)i * 10, 200);
		if (i % 3 == 0)
			a[i] = ask_generate(s[i], tokens, 1 + i * 20, 20 + i);
		else if (i % 3 == 1)
			a[i] = ask_step(s[i], tokens, 5 + i * 22, 4 + i);
		else
			a[i] = ask_logits(s[i], tokens, 7 + i * 21, 7);
		ask_submit(rig, a[i]);
	}
	for (uint32_t i = 0; i < 8; i++) {
		assert_int_equal(ask_await(rig, a[i]), 0);
		(void)ask_check(a[i], text, 0);
		ask_free(a[i]);
		engine_session_close(s[i]);
	}
	engine_rig_free(rig);
}

static void those_of_the_last_step_are_awaited(void **state)
{
	struct engine_rig *rig = engine_rig_prepare(64, NULL);
	struct engine_session *s[3];
	struct ask *a[3];
	int32_t text[FAKE_MAX_TEXT], token = 1;
	uint64_t steps;

	rig->options.gather_percent = 1u << 31;
	engine_rig_start(rig);
	for (uint32_t i = 0; i < 3; i++) {
		s[i] = rig_session(rig);
		a[i] = ask_step(s[i], &token, 1, 1);
	}
	ask_submit(rig, a[0]);
	ask_submit(rig, a[1]);
	assert_int_equal(ask_await(rig, a[0]), 0);
	assert_int_equal(ask_await(rig, a[1]), 0);
	steps = steps_of(rig);
	ask_submit(rig, a[0]);
	ask_submit(rig, a[2]);
	for (uint32_t i = 0; i < 100; i++)
		rig_turn(rig);
	assert_int_equal(steps_of(rig), steps);
	assert_true(engine_wake_ns(rig->engine) > 0 && engine_busy(rig->engine));
	ask_submit(rig, a[1]);
	assert_int_equal(ask_await(rig, a[1]), 0);
	assert_int_equal(fake_seen.sessions, 3);
	/* Whoever is gone is not awaited. */
	ask_submit(rig, a[0]);
	ask_submit(rig, a[1]);
	rig_turn(rig);
	assert_int_equal(steps_of(rig), steps + 1);
	engine_session_close(s[2]);
	assert_int_equal(ask_await(rig, a[0]), 0);
	assert_int_equal(fake_seen.sessions, 2);
	assert_int_equal(ask_await(rig, a[1]), 0);
	for (uint32_t i = 0; i < 3; i++) {
		text[0] = text[1] = token;
		if (i < 2)
			(void)ask_check(a[i], text, 2);
		ask_free(a[i]);
	}
	engine_session_close(s[0]);
	engine_session_close(s[1]);
	engine_rig_free(rig);
}

/* Who was late is not counted twice, and does not hold up the steps after. */
static void latecomers_are_forgotten(void **state)
{
	struct engine_rig *rig = engine_rig_prepare(64, NULL);
	struct engine_session *s[2];
	struct ask *a[2];
	int32_t token = 1;

	rig->options.gather_percent = 0;
	engine_rig_start(rig);
	const struct engine_turn *turn = &rig->engine->turns[MODEL_STEP_RESULT];
	for (uint32_t i = 0; i < 2; i++) {
		s[i] = rig_session(rig);
		a[i] = ask_step(s[i], &token, 1, 1);
		ask_submit(rig, a[i]);
	}
	assert_int_equal(ask_await(rig, a[0]), 0);
	assert_int_equal(ask_await(rig, a[1]), 0);
	assert_int_equal(turn->missing, 2);
	assert_int_equal(ask_run(rig, a[0]), 0);
	assert_int_equal(turn->missing, 1);
	ask_submit(rig, a[1]);
	assert_int_equal(turn->missing, 1);
	ask_submit(rig, a[0]);
	assert_int_equal(turn->missing, 0);
	assert_int_equal(ask_await(rig, a[0]), 0);
	assert_int_equal(ask_await(rig, a[1]), 0);
	engine_session_close(s[0]);
	assert_int_equal(turn->missing, 1);
	engine_session_close(s[1]);
	assert_int_equal(turn->missing, 0);
	ask_free(a[0]);
	ask_free(a[1]);
	engine_rig_free(rig);
}

static uint32_t known_shapes(const struct engine_rig *rig)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < RIG_GRAPHS; i++)
		n += shm_load_acquire_u32(&rig->graphs->records[i].state) == MSG_GRAPH_CAPTURED;
	return n;
}

static void the_next_shapes_are_captured_ahead(void **state)
{
	struct engine_rig *rig = engine_rig_new(64);
	struct engine_session *s = rig_session(rig);
	int32_t text[FAKE_MAX_TEXT];
	uint32_t n = rig_advance(rig, s, text, 0, 1);

	/* Two sessions, and a context of 32; the shape itself is used once only. */
	while (known_shapes(rig) < 2)
		rig_turn(rig);
	n = rig_advance(rig, s, text, n, 14);
	n = rig_advance(rig, s, text, n, 1);
	n = rig_advance(rig, s, text, n, 1);
	assert_int_equal(fake_seen.context, 32);
	assert_true(seen(&rig->graphs->stats.graph_hits) >= 1);
	while (known_shapes(rig) < 4)
		rig_turn(rig);
	engine_session_close(s);
	engine_rig_free(rig);
}

/* --- Blocks --------------------------------------------------------------------------------- */

static void equal_openings_are_computed_once(void **state)
{
	struct engine_rig *rig = engine_rig_new(64);
	struct engine_session *a = rig_session(rig), *b = rig_session(rig), *c;
	int32_t text[FAKE_MAX_TEXT], tokens[120];
	struct ask *ask;

	fake_count(tokens, 0, 120);
	(void)rig_advance(rig, a, text, 0, 100);
	ask = ask_step(b, tokens, 120, 10);
	assert_int_equal(ask_run(rig, ask), 0);
	(void)ask_check(ask, text, 0);
	assert_int_equal(stats_of(rig).kv.shared_tokens, 96);
	assert_int_equal(stats_of(rig).computed_tokens, 100 + 24);
	ask_free(ask);
	/* Not where an answer is wanted, and not for another salt. */
	assert_int_equal(engine_session_open(rig->engine, &rig->client, 2, &c), 0);
	engine_session_close(b);
	b = rig_session(rig);
	ask = ask_step(b, tokens, 100, 30);
	assert_int_equal(ask_run(rig, ask), 0);
	(void)ask_check(ask, text, 0);
	assert_int_equal(stats_of(rig).kv.shared_tokens, 96 + 64);
	ask_free(ask);
	ask = ask_step(c, tokens, 100, 1);
	assert_int_equal(ask_run(rig, ask), 0);
	assert_int_equal(stats_of(rig).kv.shared_tokens, 96 + 64);
	ask_free(ask);
	engine_session_close(a);
	engine_session_close(b);
	engine_session_close(c);
	engine_rig_free(rig);
}

static void sessions_that_do_not_fit_take_turns(void **state)
{
	struct engine_rig *rig = engine_rig_new(10);
	struct engine_session *s[3];
	struct ask *a[3];
	int32_t text[3][FAKE_MAX_TEXT], tokens[100];
	uint32_t n[3] = {0, 0, 0};

	for (uint32_t i = 0; i < 3; i++)
		s[i] = rig_session(rig);
	for (uint32_t round = 0; round < 6; round++) {
		for (uint32_t i = 0; i < 3; i++) {
			fake_count(tokens, (int32_t)(i * 30 + round), 100);
			a[i] = round % 2 == 0 ? ask_step(s[i], tokens, 18, 3)
					      : ask_generate(s[i], tokens, 2, 3);
			a[i]->r.priority = i == 1;
			ask_submit(rig, a[i]);
		}
		for (uint32_t i = 0; i < 3; i++) {
			assert_int_equal(ask_await(rig, a[i]), 0);
			n[i] = ask_check(a[i], text[i], n[i]);
			ask_free(a[i]);
		}
	}
	assert_true(stats_of(rig).kv.preemptions > 0);
	for (uint32_t i = 0; i < 3; i++)
		engine_session_close(s[i]);
	engine_rig_free(rig);
}

static void who_came_first_keeps_its_blocks(void **state)
{
	struct engine_rig *rig = engine_rig_new(10);
	struct engine_session *first = rig_session(rig), *second = rig_session(rig);
	int32_t text[FAKE_MAX_TEXT], tokens[150];
	struct ask *a, *b;

	fake_count(tokens, 0, 150);
	a = ask_step(first, tokens, 150, 1);
	b = ask_generate(second, tokens + 1, 100, 3);
	rig_gate(1);
	ask_submit(rig, a);
	rig_await_steps(rig, 1);
	ask_submit(rig, b);
	rig_gate(0);
	assert_int_equal(ask_await(rig, a), 0);
	assert_int_equal(ask_await(rig, b), 0);
	/* The first one, when it had what it wanted. */
	assert_int_equal(stats_of(rig).kv.preemptions, 1);
	assert_int_equal(stats_of(rig).computed_tokens, 150 + 102);
	(void)ask_check(a, text, 0);
	(void)ask_check(b, text, 0);
	ask_free(a);
	ask_free(b);
	engine_session_close(first);
	engine_session_close(second);
	engine_rig_free(rig);
}

/* One that waits for blocks does not have its kind go first. */
static void who_waits_for_blocks_holds_up_nobody(void **state)
{
	struct engine_rig *rig = engine_rig_new(20);
	struct engine_session *s[3];
	struct ask *a[3];
	int32_t text[FAKE_MAX_TEXT], tokens[300];

	fake_count(tokens, 0, 300);
	for (uint32_t i = 0; i < 3; i++)
		s[i] = rig_session(rig);
	a[0] = ask_step(s[0], tokens, 200, 1);
	a[1] = ask_generate(s[1], tokens + 30, 150, 1);
	a[2] = ask_generate(s[2], tokens + 60, 90, 1);
	a[2]->r.priority = 2;
	rig_gate(1);
	ask_submit(rig, a[0]);
	rig_await_steps(rig, 1);
	ask_submit(rig, a[1]);
	ask_submit(rig, a[2]);
	rig_gate(0);
	assert_int_equal(ask_await(rig, a[2]), 0);
	assert_true(stats_of(rig).steps[MODEL_STEP_RESULT] >= 3);
	assert_false(a[1]->done);
	for (uint32_t i = 0; i < 3; i++) {
		assert_int_equal(ask_await(rig, a[i]), 0);
		(void)ask_check(a[i], text, 0);
		ask_free(a[i]);
		engine_session_close(s[i]);
	}
	engine_rig_free(rig);
}

/* What a cancelled request had begun to compute again makes no difference to the session. */
static void canceled_while_it_is_computed_again(void **state)
{
	struct engine_rig *rig = engine_rig_new(8);
	struct engine_session *s = rig_session(rig), *other = rig_session(rig), *fork;
	int32_t text[FAKE_MAX_TEXT], tokens[120];
	struct ask *a;
	uint32_t n = rig_advance(rig, s, text, 0, 100);

	fake_count(tokens, 50, 120);
	a = ask_step(other, tokens, 120, 1);
	assert_int_equal(ask_run(rig, a), 0);
	ask_free(a);
	a = ask_step(s, tokens, 1, 1);
	rig_gate(1);
	ask_submit(rig, a);
	rig_await_steps(rig, seen(&fake_seen.steps) + 1);
	assert_true(engine_cancel(rig->engine, &a->r));
	rig_gate(0);
	assert_int_equal(ask_await(rig, a), -ECANCELED);
	ask_free(a);
	assert_int_equal(engine_session_fork(s, &fork), 0);
	engine_session_close(s);
	(void)rig_advance(rig, fork, text, n, 10);
	engine_session_close(fork);
	engine_session_close(other);
	engine_rig_free(rig);
}

/* So does one that was given its old blocks back, and waited for more. */
static void canceled_before_it_has_all_its_blocks(void **state)
{
	struct engine_rig *rig = engine_rig_new(6);
	struct engine_session *s = rig_session(rig), *other = rig_session(rig), *fork;
	int32_t text[FAKE_MAX_TEXT], tokens[80];
	uint32_t n = rig_advance(rig, s, text, 0, 64);
	struct ask *a, *b;

	fake_count(tokens, 10, 80);
	b = ask_step(other, tokens, 80, 1);
	assert_int_equal(ask_run(rig, b), 0);
	ask_free(b);
	assert_int_equal(engine_session_truncate(other, 20), 0);
	a = ask_step(s, tokens, 20, 1);
	b = ask_generate(other, tokens, 1, 4);
	rig_gate(1);
	ask_submit(rig, b);
	rig_await_steps(rig, seen(&fake_seen.steps) + 1);
	ask_submit(rig, a);
	rig_gate(0);
	rig_await_steps(rig, seen(&fake_seen.steps) + 1);
	assert_true(engine_cancel(rig->engine, &a->r));
	assert_int_equal(ask_await(rig, a), -ECANCELED);
	assert_int_equal(engine_session_fork(s, &fork), 0);
	assert_int_equal(ask_await(rig, b), 0);
	ask_free(a);
	ask_free(b);
	engine_session_close(other);
	engine_session_close(s);
	(void)rig_advance(rig, fork, text, n, 10);
	engine_session_close(fork);
	engine_rig_free(rig);
}

static void a_greedy_client_is_refused_alone(void **state)
{
	struct engine_rig *rig = engine_rig_new(64);
	struct kv_client greedy = {.max_blocks = 5};
	struct engine_session *g, *fork = NULL, *s = rig_session(rig);
	int32_t text[FAKE_MAX_TEXT], other[FAKE_MAX_TEXT];
	struct ask *a;

	assert_int_equal(engine_session_open(rig->engine, &greedy, 1, &g), 0);
	(void)rig_advance(rig, g, text, 0, 70);
	fake_count(other, 70, 20);
	a = ask_step(g, other, 20, 1);
	assert_int_equal(ask_run(rig, a), -GPUQ_EKV);
	assert_int_equal(engine_session_tokens(g), 70);
	ask_free(a);
	a = ask_generate(g, other, 1, 30);
	assert_int_equal(ask_run(rig, a), -GPUQ_EKV);
	assert_int_equal(a->r.n_made, 10);
	assert_int_equal(engine_session_tokens(g), 70);
	ask_free(a);
	assert_int_equal(engine_session_fork(g, &fork), -GPUQ_EKV);
	assert_null(fork);
	(void)rig_advance(rig, s, other, 0, 200);
	(void)rig_advance(rig, g, text, 70, 10);
	engine_session_close(g);
	assert_int_equal(greedy.used_blocks, 0);
	engine_session_close(s);
	engine_rig_free(rig);
}

/* --- Refusals ------------------------------------------------------------------------------- */

static int refusal(struct engine_rig *rig, struct ask *a)
{
	const int err = engine_submit(rig->engine, &a->r);

	ask_free(a);
	return err;
}

static void what_cannot_be_is_refused(void **state)
{
	struct engine_rig *rig = engine_rig_new(16);
	struct engine_session *s = rig_session(rig), *more[8], *none = NULL;
	int32_t text[FAKE_MAX_TEXT], tokens[FAKE_MAX_TEXT + 1];
	struct ask *a;

	fake_count(tokens, 0, FAKE_MAX_TEXT);
	assert_int_equal(refusal(rig, ask_step(s, tokens, 0, 0)), -GPUQ_ETOKEN);
	a = ask_step(s, tokens, 4, 1);
	a->r.n_tokens = FAKE_MAX_TEXT + 1;
	assert_int_equal(refusal(rig, a), -GPUQ_ECONTEXT);
	assert_int_equal(refusal(rig, ask_step(s, tokens, 4, 5)), -GPUQ_EPARAM);
	assert_int_equal(refusal(rig, ask_generate(s, tokens, 4, 0)), -GPUQ_EPARAM);
	a = ask_step(s, tokens, 4, 4);
	a->r.out_bytes--;
	assert_int_equal(refusal(rig, a), -GPUQ_EPARAM);
	a = ask_logits(s, tokens, 4, 4);
	assert_int_equal(refusal(rig, ask_named(a, 1, 0)), -GPUQ_EPARAM);
	assert_int_equal(refusal(rig, ask_named(ask_step(s, tokens, 4, 4), 65, 0)), -GPUQ_EPARAM);
	a = ask_step(s, tokens, 4, 1);
	a->r.priority = MSG_PRIORITIES;
	assert_int_equal(refusal(rig, a), -GPUQ_EPARAM);
	for (uint32_t i = 0; i < 7; i++)
		more[i] = rig_session(rig);
	assert_int_equal(engine_session_open(rig->engine, &rig->client, 1, &none), -GPUQ_ELIMIT);
	assert_int_equal(engine_session_fork(s, &none), -GPUQ_ELIMIT);
	assert_int_equal(engine_session_truncate(s, 1), -EINVAL);
	for (uint32_t i = 0; i < 7; i++)
		engine_session_close(more[i]);
	(void)rig_advance(rig, s, text, 0, 10);
	engine_session_close(s);
	engine_rig_free(rig);
}

/* Of those that fail when their turn comes the text is as before. */
static void failures_leave_the_text_as_it_was(void **state)
{
	struct engine_rig *rig = engine_rig_new(16);
	struct engine_session *s = rig_session(rig);
	int32_t text[FAKE_MAX_TEXT], tokens[FAKE_MAX_TEXT];
	struct ask *a[5];
	uint32_t n = rig_advance(rig, s, text, 0, 20);

	fake_count(tokens, 0, FAKE_MAX_TEXT);
	tokens[30] = FAKE_VOCAB;
	a[0] = ask_step(s, tokens, 40, 1);
	tokens[30] = -1;
	a[1] = ask_step(s, tokens, 40, 1);
	tokens[30] = 1;
	a[2] = ask_step(s, tokens, FAKE_MAX_TEXT - 19, 1);
	a[3] = ask_generate(s, tokens, 1, FAKE_MAX_TEXT - 19);
	a[4] = ask_step(s, tokens, 16 * 16 - 19, 1); /* one block more than there are */
	for (uint32_t i = 0; i < 5; i++) {
		static const int expected[] = {
			-GPUQ_ETOKEN, -GPUQ_ETOKEN, -GPUQ_ECONTEXT, -GPUQ_ECONTEXT, -GPUQ_EKV};

		assert_int_equal(ask_run(rig, a[i]), expected[i]);
		assert_int_equal(a[i]->r.started_ns, 0);
		assert_int_equal(engine_session_tokens(s), n);
		ask_free(a[i]);
	}
	n = rig_advance(rig, s, text, n, 16 * 16 - 20);
	engine_session_close(s);
	engine_rig_free(rig);
}

static bool refused(struct engine_options o)
{
	struct engine *e = NULL;
	const int err = engine_create(&o, &e);

	engine_destroy(e);
	return err == -EINVAL && e == NULL;
}

static void options_are_checked(void **state)
{
	struct engine_rig *rig = engine_rig_prepare(16, NULL);
	struct engine_options o;

#define REFUSED(change) (o = rig->options, (change), refused(o))
	assert_true(REFUSED(o.max_batch = ENGINE_MAX_BATCH + 1));
	assert_true(REFUSED(o.max_batch = 0));
	assert_true(REFUSED(o.chunk_tokens = 0));
	assert_true(REFUSED(o.bucket_tokens = 0));
	assert_true(REFUSED(o.max_sessions = 0));
	assert_true(REFUSED(o.model.vocab = 0));
	assert_true(REFUSED(o.model.kv_blocks = 0));
	assert_true(REFUSED(o.model.max_session_tokens = 0));
	engine_rig_start(rig);
	engine_rig_free(rig);
}

/* --- Under way ------------------------------------------------------------------------------ */

static void requests_of_a_session_run_in_order(void **state)
{
	struct engine_rig *rig = engine_rig_new(64);
	struct engine_session *s = rig_session(rig), *none = NULL;
	int32_t text[FAKE_MAX_TEXT], tokens[40];
	struct ask *a[ENGINE_MAX_QUEUED];
	uint32_t n = 0;

	fake_count(tokens, 0, 40);
	rig_gate(1);
	for (uint32_t i = 0; i < ENGINE_MAX_QUEUED; i++) {
		a[i] = i % 2 == 0 ? ask_step(s, tokens, 40, 2) : ask_generate(s, tokens, 3, 5);
		ask_submit(rig, a[i]);
	}
	assert_int_equal(refusal(rig, ask_step(s, tokens, 1, 1)), -GPUQ_ELIMIT);
	assert_int_equal(engine_session_truncate(s, 0), -EBUSY);
	assert_int_equal(engine_session_fork(s, &none), -EBUSY);
	/* The third goes, and nobody else notices. */
	assert_true(engine_cancel(rig->engine, &a[2]->r));
	rig_turn(rig);
	assert_true(a[2]->done && a[2]->r.status == -ECANCELED);
	rig_gate(0);
	for (uint32_t i = 0; i < ENGINE_MAX_QUEUED; i++) {
		if (i != 2) {
			assert_int_equal(ask_await(rig, a[i]), 0);
			assert_true(i + 1 == ENGINE_MAX_QUEUED || !a[i + 1]->done || i == 1);
			n = ask_check(a[i], text, n);
		}
	}
	for (uint32_t i = 0; i < ENGINE_MAX_QUEUED; i++) {
		assert_false(engine_cancel(rig->engine, &a[i]->r));
		ask_free(a[i]);
	}
	assert_int_equal(engine_session_tokens(s), n);
	engine_session_close(s);
	engine_rig_free(rig);
}

static void canceled_between_two_chunks(void **state)
{
	struct engine_rig *rig = engine_rig_new(64);
	struct engine_session *s = rig_session(rig);
	int32_t text[FAKE_MAX_TEXT], tokens[100];
	uint32_t n = rig_advance(rig, s, text, 0, 20);
	struct ask *a;

	fake_count(tokens, 50, 100);
	for (uint32_t kind = 0; kind < 3; kind++) {
		const uint64_t steps = seen(&fake_seen.steps);

		if (kind < 2)
			a = ask_step(s, tokens, 100, 1);
		else
			a = ask_generate(s, tokens, 2, 20);
		rig_gate(1);
		ask_submit(rig, a);
		rig_await_steps(rig, steps + 1);
		if (kind == 1)
			a->r.deadline_ns = 1;
		else
			assert_true(engine_cancel(rig->engine, &a->r));
		assert_false(a->done);
		rig_gate(0);
		assert_int_equal(ask_await(rig, a), kind == 1 ? -ETIMEDOUT : -ECANCELED);
		assert_int_equal(fake_seen.steps, steps + 1);
		assert_int_equal(engine_session_tokens(s), n);
		ask_free(a);
	}
	/* The last step cannot be called back. */
	rig_gate(1);
	a = ask_step(s, tokens, 2, 1);
	ask_submit(rig, a);
	rig_await_steps(rig, seen(&fake_seen.steps) + 1);
	assert_false(engine_cancel(rig->engine, &a->r));
	rig_gate(0);
	assert_int_equal(ask_await(rig, a), 0);
	(void)ask_check(a, text, n);
	ask_free(a);
	engine_session_close(s);
	engine_rig_free(rig);
}

static void deadlines_of_what_has_not_started(void **state)
{
	struct engine_rig *rig = engine_rig_new(64);
	struct engine_session *s = rig_session(rig), *other = rig_session(rig);
	int32_t token = 1;
	struct ask *a = ask_step(s, &token, 1, 1), *b = ask_step(s, &token, 1, 1),
		   *c = ask_step(other, &token, 1, 1);

	b->r.deadline_ns = 1;
	c->r.deadline_ns = 1;
	rig_gate(1);
	ask_submit(rig, a);
	rig_await_steps(rig, 1);
	ask_submit(rig, b);
	ask_submit(rig, c);
	assert_int_equal(engine_wake_ns(rig->engine), 1);
	assert_int_equal(ask_await(rig, b), -ETIMEDOUT);
	assert_int_equal(ask_await(rig, c), -ETIMEDOUT);
	assert_int_equal(engine_wake_ns(rig->engine), UINT64_MAX);
	rig_gate(0);
	assert_int_equal(ask_await(rig, a), 0);
	ask_free(a);
	ask_free(b);
	ask_free(c);
	engine_session_close(s);
	engine_session_close(other);
	engine_rig_free(rig);
}

#define HOUR_NS 3600000000000u

/* The rest of a test runs as if steps had taken very long lately. */
static void expect_long_steps(struct engine_rig *rig)
{
	rig->engine->expected_step_ns = HOUR_NS;
	rig->engine->expected_token_ns = HOUR_NS;
}

/* A request of this session that has so many hours, and whether it is in time. */
static void expect_in_time(struct engine_rig *rig, struct ask *a, uint64_t hours, int status)
{
	const uint64_t steps = seen(&fake_seen.steps);

	a->r.deadline_ns = engine_now_ns(rig->engine) + hours * HOUR_NS;
	ask_submit(rig, a);
	assert_int_equal(ask_await(rig, a), status);
	if (status != 0)
		assert_int_equal(seen(&fake_seen.steps), steps);
	ask_free(a);
}

/* What steps took lately says which requests cannot end in time: they cost nothing. */
static void deadlines_that_cannot_be_met(void **state)
{
	struct engine_rig *rig = engine_rig_new(64);
	struct engine_session *s = rig_session(rig);
	int32_t text[FAKE_MAX_TEXT], tokens[100];
	uint32_t n = rig_advance(rig, s, text, 0, 20);

	fake_count(tokens, 50, 100);
	expect_long_steps(rig);
	expect_in_time(rig, ask_step(s, tokens, 1, 1), 0, -ETIMEDOUT);
	expect_in_time(rig, ask_step(s, tokens, 100, 1), 60, -GPUQ_EDEADLINE);
	expect_in_time(rig, ask_generate(s, tokens, 1, 20), 10, -GPUQ_EDEADLINE);
	assert_int_equal(engine_session_tokens(s), n);
	/* Refused ones make it doubted; this is far from that. */
	assert_true(rig->engine->expected_step_ns > HOUR_NS / 2);
	expect_in_time(rig, ask_generate(s, tokens, 1, 20), 24, 0);
	expect_long_steps(rig);
	expect_in_time(rig, ask_step(s, tokens, 1, 1), 2, 0);
	/* That took no hour, and it is believed in the end that others will not. */
	for (uint32_t i = 0; rig->engine->expected_step_ns > HOUR_NS / 4; i++) {
		assert_true(i < 100);
		expect_in_time(rig, ask_step(s, tokens, 1, 1), 2, 0);
	}
	engine_session_close(s);
	engine_rig_free(rig);
}

static void closed_with_requests_under_way(void **state)
{
	struct engine_rig *rig = engine_rig_new(64);
	struct engine_session *s = rig_session(rig), *other = rig_session(rig);
	int32_t text[FAKE_MAX_TEXT], tokens[100];
	struct ask *a[3], *b;

	fake_count(tokens, 0, 100);
	b = ask_step(other, tokens, 50, 50);
	for (uint32_t i = 0; i < 3; i++)
		a[i] = i == 0 ? ask_logits(s, tokens, 100, 100) : ask_step(s, tokens, 10, 1);
	rig_gate(1);
	for (uint32_t i = 0; i < 3; i++)
		ask_submit(rig, a[i]);
	rig_await_steps(rig, 1);
	ask_submit(rig, b);
	engine_session_close(s);
	rig_turn(rig);
	assert_true(a[1]->done && a[2]->done && !a[0]->done);
	assert_true(rig->client.used_blocks > 0);
	rig_gate(0);
	assert_int_equal(ask_await(rig, a[0]), -ECANCELED);
	assert_int_equal(ask_await(rig, b), 0);
	assert_int_equal(ask_check(b, text, 0), 50);
	for (uint32_t i = 0; i < 3; i++) {
		assert_int_equal(a[i]->r.status, -ECANCELED);
		ask_free(a[i]);
	}
	ask_free(b);
	assert_int_equal(rig->client.used_blocks, 4);
	engine_session_close(other);
	engine_session_close(NULL);
	engine_rig_free(rig);
}

static void forks_and_cuts_go_their_own_ways(void **state)
{
	struct engine_rig *rig = engine_rig_new(64);
	struct engine_session *a = rig_session(rig), *b, *c;
	int32_t text[3][FAKE_MAX_TEXT];
	uint32_t n = rig_advance(rig, a, text[0], 0, 70), m;
	struct ask *ask;
	int32_t tokens[] = {90, 80, 70, 60};

	assert_int_equal(engine_session_fork(a, &b), 0);
	assert_int_equal(engine_session_fork(b, &c), 0);
	memcpy(text[1], text[0], sizeof(text[0]));
	memcpy(text[2], text[0], sizeof(text[0]));
	ask = ask_step(b, tokens, 4, 4);
	assert_int_equal(ask_run(rig, ask), 0);
	m = ask_check(ask, text[1], n);
	ask_free(ask);
	assert_int_equal(engine_session_truncate(c, 37), 0);
	ask = ask_generate(c, tokens, 4, 20);
	assert_int_equal(ask_run(rig, ask), 0);
	(void)ask_check(ask, text[2], 37);
	ask_free(ask);
	n = rig_advance(rig, a, text[0], n, 30);
	(void)rig_advance(rig, b, text[1], m, 7);
	assert_int_equal(engine_session_truncate(a, 0), 0);
	(void)rig_advance(rig, a, text[0], 0, 20);
	engine_session_close(a);
	engine_session_close(b);
	engine_session_close(c);
	engine_rig_free(rig);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(a_text_in_pieces_of_any_size),
		HARNESS_TEST(answers_of_all_kinds),
		HARNESS_TEST(generated_in_parts_or_at_once),
		HARNESS_TEST(generation_stops_at_the_end_of_a_text),
		HARNESS_TEST(sessions_share_a_step),
		HARNESS_TEST(steps_of_few_shapes),
		HARNESS_TEST(mixed_work_side_by_side),
		HARNESS_TEST(those_of_the_last_step_are_awaited),
		HARNESS_TEST(latecomers_are_forgotten),
		HARNESS_TEST(the_next_shapes_are_captured_ahead),
		HARNESS_TEST(equal_openings_are_computed_once),
		HARNESS_TEST(sessions_that_do_not_fit_take_turns),
		HARNESS_TEST(who_came_first_keeps_its_blocks),
		HARNESS_TEST(who_waits_for_blocks_holds_up_nobody),
		HARNESS_TEST(canceled_while_it_is_computed_again),
		HARNESS_TEST(canceled_before_it_has_all_its_blocks),
		HARNESS_TEST(a_greedy_client_is_refused_alone),
		HARNESS_TEST(what_cannot_be_is_refused),
		HARNESS_TEST(failures_leave_the_text_as_it_was),
		HARNESS_TEST(options_are_checked),
		HARNESS_TEST(requests_of_a_session_run_in_order),
		HARNESS_TEST(canceled_between_two_chunks),
		HARNESS_TEST(deadlines_of_what_has_not_started),
		HARNESS_TEST(deadlines_that_cannot_be_met),
		HARNESS_TEST(closed_with_requests_under_way),
		HARNESS_TEST(forks_and_cuts_go_their_own_ways),
	};

	return harness_run("models-engine", tests, sizeof(tests) / sizeof(tests[0]));
}
