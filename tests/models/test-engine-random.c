/* SPDX-License-Identifier: MIT */
/*
 * Thousands of random operations on an engine whose cache is too small for all, beside texts that
 * know nothing of blocks, batches and chunks: each answer must be the one that the session's own
 * text has, whatever the others do, and what goes wrong must have its reason in the request.
 */
#include "tests/harness.h"

#include "tests/models/engine-rig.h"

#include <errno.h>
#include <string.h>

#define OPERATIONS 12000u
#define SESSIONS 8u
#define BLOCKS 40u
#define CLIENTS 3u

struct twin {
	struct engine_session *session; /* NULL: closed */
	struct kv_client *client;
	int32_t text[FAKE_MAX_TEXT + 1];
	uint32_t n;
	struct ask *asks[ENGINE_MAX_QUEUED];
	uint32_t n_asks;
};

/* What may become of an ask, besides what its text decides; by its address. */
struct fate {
	bool canceled, late, bad_token;
};

static struct engine_rig *rig;
static struct kv_client clients[CLIENTS];
static struct twin twins[SESSIONS];
static struct fate fates[SESSIONS][ENGINE_MAX_QUEUED];
static struct random rng = {2024};
static uint64_t ended[4]; /* well, canceled or late, refused for their text, for room */

static uint32_t below(uint32_t n)
{
	return (uint32_t)random_below(&rng, n);
}

/* --- Answers -------------------------------------------------------------------------------- */

static bool too_long(const struct twin *t, const struct engine_request *r)
{
	const uint32_t more = r->kind == ENGINE_GENERATE ? r->n_generate - 1 : 0;

	return t->n + r->n_tokens + more > FAKE_MAX_TEXT;
}

static void check_end(struct twin *t, const struct ask *a, const struct fate *fate)
{
	const int status = a->r.status;

	if (status == -ECANCELED || status == -ETIMEDOUT) {
		assert_true(status == -ECANCELED ? fate->canceled : fate->late);
		ended[1]++;
		return;
	}
	assert_false(fate->late);
	if (status == 0) {
		assert_false(fate->bad_token || too_long(t, &a->r));
		t->n = ask_check(a, t->text, t->n);
		ended[0]++;
	} else if (status == -GPUQ_EKV) {
		assert_true(t->client->max_blocks < BLOCKS);
		ended[3]++;
	} else {
		assert_true(status == -GPUQ_ETOKEN
				? fate->bad_token
				: status == -GPUQ_ECONTEXT && too_long(t, &a->r));
		ended[2]++;
	}
}

static void remove_first(uint32_t i)
{
	struct twin *t = &twins[i];

	ask_free(t->asks[0]);
	t->n_asks--;
	memmove(&t->asks[0], &t->asks[1], t->n_asks * sizeof(t->asks[0]));
	memmove(&fates[i][0], &fates[i][1], t->n_asks * sizeof(fates[i][0]));
}

static void settle(void)
{
	rig_turn(rig);
	for (uint32_t i = 0; i < SESSIONS; i++) {
		/* Those of one session end in the order of their coming, but for canceled ones. */
		for (uint32_t j = 0; j < twins[i].n_asks; j++) {
			const struct ask *a = twins[i].asks[j];

			assert_true(j == 0 || !a->done || twins[i].asks[j - 1]->done ||
				a->r.status == -ECANCELED || a->r.status == -ETIMEDOUT);
		}
		while (twins[i].n_asks > 0 && twins[i].asks[0]->done) {
			check_end(&twins[i], twins[i].asks[0], &fates[i][0]);
			remove_first(i);
		}
	}
}

static void settle_all(struct twin *t)
{
	const uint64_t until_ns = clock_monotonic_ns() + 15000000000ull * harness_slowness();

	while (t->n_asks > 0) {
		settle();
		assert_true(clock_monotonic_ns() < until_ns);
	}
}

/* --- Operations ----------------------------------------------------------------------------- */

static void open_twin(struct twin *t)
{
	t->client = &clients[below(CLIENTS)];
	t->n = 0;
	const int err = engine_session_open(rig->engine, t->client, 1 + below(2), &t->session);

	/* A closed session keeps its place until its step has ended. */
	assert_true(err == 0 || err == -GPUQ_ELIMIT);
}

static uint32_t any_length(void)
{
	return 1 + below(below(4) == 0 ? 150 : below(2) == 0 ? 20 : 2);
}

/* Openings are often equal; where texts have forked, they differ. */
static void any_tokens(int32_t *tokens, uint32_t first, uint32_t n)
{
	fake_count(tokens, (int32_t)first, n);
	if (below(3) == 0)
		tokens[below(n)] = (int32_t)below(FAKE_VOCAB);
}

static struct ask *any_ask(struct twin *t)
{
	int32_t tokens[FAKE_MAX_TEXT];
	const uint32_t n = any_length(), kind = below(6);
	const uint32_t rows = below(3) == 0 ? 1 + below(n) : 1;

	any_tokens(tokens, t->n, n);
	if (kind == 0)
		return ask_generate(t->session, tokens, n, 1 + below(30));
	if (kind == 1)
		return ask_logits(t->session, tokens, n, rows);
	if (kind == 2)
		return ask_named(ask_step(t->session, tokens, n, rows), below(20), below(9));
	return ask_step(t->session, tokens, n, below(10) == 0 ? 0 : rows);
}

static void ask(uint32_t i)
{
	struct twin *t = &twins[i];
	struct fate fate = {.late = below(40) == 0, .bad_token = below(40) == 0};

	if (t->n_asks == ENGINE_MAX_QUEUED)
		return;
	struct ask *a = any_ask(t);
	a->r.priority = below(3);
	a->r.deadline_ns = fate.late ? 1 : below(2) == 0 ? UINT64_MAX - 1 : 0;
	a->r.temperature = (float)(1 + below(4)) / 4;
	a->r.stop = below(2) == 0;
	if (fate.bad_token)
		a->tokens[below(a->r.n_tokens)] = below(2) == 0 ? -1 : (int32_t)FAKE_VOCAB;
	ask_submit(rig, a);
	fates[i][t->n_asks] = fate;
	t->asks[t->n_asks++] = a;
}

static void cancel(uint32_t i)
{
	struct twin *t = &twins[i];

	if (t->n_asks == 0)
		return;
	const uint32_t which = below(t->n_asks);
	if (engine_cancel(rig->engine, &t->asks[which]->r)) {
		fates[i][which].canceled = true;
		/* It ends so, even if its results are there by then. */
		if (which == 0) {
			settle_all(t);
			assert_true(ended[1] > 0);
		}
	}
}

static void close_twin(uint32_t i)
{
	struct twin *t = &twins[i];

	engine_session_close(t->session);
	t->session = NULL;
	for (uint32_t j = 0; j < t->n_asks; j++)
		fates[i][j].canceled = true;
	settle_all(t);
}

static void fork_twin(struct twin *from)
{
	struct twin *to = &twins[below(SESSIONS)];

	if (to->session != NULL)
		return;
	const int err = engine_session_fork(from->session, &to->session);
	assert_int_equal(err == -EBUSY, from->n_asks > 0);
	if (err == 0) {
		to->client = from->client;
		to->n = from->n;
		memcpy(to->text, from->text, sizeof(to->text));
	} else if (err == -GPUQ_EKV) {
		assert_true(from->client->max_blocks < BLOCKS);
	}
}

static void truncate_twin(struct twin *t)
{
	const uint32_t n = below(2) == 0 ? below(t->n + 1) : t->n - below(t->n < 5 ? 1 : 5);
	const int err = engine_session_truncate(t->session, n);

	assert_int_equal(err, t->n_asks > 0 ? -EBUSY : 0);
	if (err == 0)
		t->n = n;
}

static void operate(uint32_t i)
{
	struct twin *t = &twins[i];
	const uint32_t kind = below(100);

	if (t->session == NULL) {
		if (t->n_asks == 0)
			open_twin(t);
		return;
	}
	if (kind < 2)
		close_twin(i);
	else if (kind < 8)
		fork_twin(t);
	else if (kind < 20)
		truncate_twin(t);
	else if (kind < 25)
		cancel(i);
	else
		ask(i);
	if (t->n_asks == 0 && t->session != NULL)
		assert_int_equal(engine_session_tokens(t->session), t->n);
}

static void operations_with(bool few_shapes)
{
	const uint32_t n = OPERATIONS / harness_slowness();
	struct engine_stats stats;

	rig = engine_rig_prepare(BLOCKS, NULL);
	rig->options.pace_percent = 200;
	rig->options.few_shapes = few_shapes;
	rig->options.max_batch = few_shapes ? 8 : rig->options.max_batch;
	engine_rig_start(rig);
	for (uint32_t i = 0; i < CLIENTS; i++)
		clients[i].max_blocks = i == 0 ? UINT32_MAX : 15 + 8 * i;
	for (uint32_t i = 0; i < n; i++) {
		operate(below(SESSIONS));
		for (uint32_t turns = below(6); turns > 0; turns--)
			settle();
	}
	for (uint32_t i = 0; i < SESSIONS; i++)
		settle_all(&twins[i]);
	engine_stats(rig->engine, &stats);
	print_message("%lu well, %lu canceled or late, %lu refused, %lu without room; "
		      "%lu preemptions, %lu shared of %lu\n",
		ended[0], ended[1], ended[2], ended[3], stats.kv.preemptions,
		stats.kv.shared_tokens, stats.kv.appended_tokens);
	/* They have been everywhere. */
	assert_true(ended[0] > n / 20 && ended[1] > n / 200 && ended[2] > n / 1000 &&
		ended[3] > n / 200);
	assert_true(stats.kv.preemptions > n / 200 && stats.kv.shared_tokens > n / 10);
	for (uint32_t i = 0; i < SESSIONS; i++)
		engine_session_close(twins[i].session);
	for (uint32_t i = 0; i < CLIENTS; i++)
		assert_int_equal(clients[i].used_blocks, 0);
	engine_rig_free(rig);
}

static void thousands_of_operations(void **state)
{
	operations_with(false);
}

static void the_same_with_few_shapes(void **state)
{
	operations_with(true);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST_LONG(thousands_of_operations, 60),
		HARNESS_TEST_LONG(the_same_with_few_shapes, 60),
	};

	return harness_run("models-engine-random", tests, sizeof(tests) / sizeof(tests[0]));
}
