/* SPDX-License-Identifier: MIT */
/*
 * soak_client.c: the life of a client. It does one thing after another, at random, says before each
 * what it is about to do, and checks all that comes back: each completion once, with the right
 * values, soon enough. It may be killed, stopped or starved at any instruction.
 */
#include "tools/soak.h"

#include "shm/clock.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#define BATCH 16u
#define CANCEL_BIT (1ull << 63)
#define MAX_PRIORITIES 4u
#define BUFFER_WORDS 4096u
#define PROMPT_TOKENS 4u
#define LINGER_US 3000u

const char *const soak_state_names[SOAK_STATES] = {
	[SOAK_CONNECTING] = "connecting",
	[SOAK_OPENING] = "opening",
	[SOAK_IDLE] = "idle",
	[SOAK_SUBMITTING] = "submitting",
	[SOAK_WAITING] = "waiting",
	[SOAK_UNREAD] = "unread",
	[SOAK_PIPELINE] = "pipeline",
	[SOAK_BUFFER] = "buffer",
	[SOAK_GRANTING] = "granting",
	[SOAK_ACCEPTING] = "accepting",
	[SOAK_GENERATING] = "generating",
	[SOAK_CLOSING] = "closing",
};

struct life {
	struct soak_common *common;
	struct soak_page *page;
	uint32_t slot;
	struct soak_random rng;
	struct gpuq *g;
	struct gpuq_channel *ch;
	uint64_t serial; /* of the next submission */
};

struct batch {
	uint32_t n, in_flight, cancels;
	uint64_t user_data[BATCH]; /* 0: it has completed */
	bool cancelled[BATCH];
	struct soak_job jobs[BATCH];
	uint64_t start_ns;
	uint32_t stops; /* when it was submitted */
};

struct soak_random soak_random_seed(uint64_t seed, uint64_t stream)
{
	uint64_t mixed = (seed * 0x9e3779b97f4a7c15u) ^ (stream * 0xbf58476d1ce4e5b9u);

	return (struct soak_random){{(unsigned short)mixed, (unsigned short)(mixed >> 16),
		(unsigned short)(mixed >> 32)}};
}

static _Noreturn void wrong(struct life *l, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

static _Noreturn void wrong(struct life *l, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(l->page->complaint, sizeof(l->page->complaint), format, args);
	va_end(args);
	_exit(1);
}

static void need(struct life *l, int r, const char *what)
{
	if (r < 0)
		wrong(l, "%s: %s: %s", what, gpuq_error_name(r), gpuq_error_detail());
}

/* Says what comes next; dawdles where the reaper wants a death. */
static void enter(struct life *l, enum soak_state state)
{
	shm_store_release_u32(&l->page->state, state);
	shm_store_release_u32(&l->page->started, 1);
	if (shm_load_relaxed_u32(&l->page->wish) != 1 + (uint32_t)state)
		return;
	shm_fetch_add_u32(&l->page->lingers, 1);
	soak_sleep_us(soak_below(&l->rng, LINGER_US));
}

/* --- Connection and channel ---------------------------------------------------------------- */

static void connect_life(struct life *l)
{
	const struct gpuq_options options = {
		.socket = l->common->socket,
		.name = "gpuq-soak",
		.timeout_ns = l->common->bound_ns,
	};

	enter(l, SOAK_CONNECTING);
	need(l, gpuq_connect(&options, &l->g), "connect");
	l->page->connects++;
}

static void open_channel(struct life *l)
{
	const struct gpuq_channel_options options = {
		.priority = soak_below(&l->rng, MAX_PRIORITIES),
		.sq_entries = 16u << soak_below(&l->rng, 3),
		.cq_entries = 64,
		.arena_bytes = (BATCH + 4) * SOAK_JOB_BYTES,
	};

	enter(l, SOAK_OPENING);
	need(l, gpuq_channel_open(l->g, &options, &l->ch), "open a channel");
	enter(l, SOAK_IDLE);
}

static void close_channel(struct life *l)
{
	enter(l, SOAK_CLOSING);
	if (gpuq_in_flight(l->ch) != 0)
		wrong(l, "%u submissions never completed", gpuq_in_flight(l->ch));
	l->page->rescues += gpuq_rescues(l->ch);
	gpuq_channel_close(l->ch);
}

static void act_channel(struct life *l)
{
	close_channel(l);
	open_channel(l);
}

static void act_connection(struct life *l)
{
	close_channel(l);
	gpuq_disconnect(l->g);
	connect_life(l);
	open_channel(l);
}

static void act_idle(struct life *l)
{
	enter(l, SOAK_IDLE);
	soak_sleep_us(soak_below(&l->rng, 3000));
}

/* --- Batches ------------------------------------------------------------------------------- */

static void submit_batch(struct life *l, struct batch *b)
{
	b->stops = shm_load_relaxed_u32(&l->page->stops);
	b->start_ns = clock_monotonic_ns();
	for (uint32_t i = 0; i < b->n; i++) {
		const struct gpuq_submission s = {
			.call = b->jobs[i].call, .user_data = ++l->serial * BATCH + i};
		enter(l, SOAK_SUBMITTING);
		int r = gpuq_submit(l->ch, &s, 1);
		if (r != 1)
			need(l, r < 0 ? r : -EPROTO, "submit");
		b->user_data[i] = s.user_data;
		b->in_flight++;
	}
}

static void cancel_one(struct life *l, struct batch *b)
{
	uint32_t i = soak_below(&l->rng, b->n);

	int r = gpuq_cancel(l->ch, b->user_data[i], b->user_data[i] | CANCEL_BIT);

	if (r == -EAGAIN)
		return; /* the ring is full of what it would cancel */
	need(l, r, "cancel");
	b->cancelled[i] = true;
	b->cancels++;
	b->in_flight++;
}

static void take_cancellation(struct life *l, struct batch *b, const struct gpuq_completion *c)
{
	if (b->cancels == 0)
		wrong(l, "a cancellation completed twice");
	if (c->status != 0 && c->status != -EALREADY && c->status != -ENOENT)
		wrong(l, "a cancellation ended with %s", gpuq_error_name(c->status));
	b->cancels--;
	b->in_flight--;
}

/* How long it took, unless it was stopped meanwhile. */
static void note_wait(struct life *l, const struct batch *b)
{
	uint64_t ns = clock_monotonic_ns() - b->start_ns;

	if (shm_load_relaxed_u32(&l->page->stops) == b->stops && ns > l->page->longest_ns)
		shm_store_relaxed(&l->page->longest_ns, ns);
}

static void take_one(struct life *l, struct batch *b, const struct gpuq_completion *c)
{
	uint32_t i = (uint32_t)(c->user_data % BATCH);
	char text[160];

	l->page->completed++;
	if ((c->user_data & CANCEL_BIT) != 0)
		return take_cancellation(l, b, c);
	if (i >= b->n || b->user_data[i] != c->user_data)
		wrong(l, "a completion of %llx, which is not in flight",
			(unsigned long long)c->user_data);
	b->user_data[i] = 0;
	b->in_flight--;
	if (c->status == -ECANCELED && b->cancelled[i]) {
		l->page->cancelled++;
		return;
	}
	if (c->status < 0)
		wrong(l, "a call ended with %s",
			gpuq_explain(b->jobs[i].call, c, text, sizeof(text)));
	int at = soak_job_check(&b->jobs[i]);
	if (at >= 0)
		wrong(l, "element %d of %u is %g, must be %g", at, b->jobs[i].n,
			(double)b->jobs[i].y[at], b->jobs[i].want[at]);
	l->page->checked++;
}

static void take_batch(struct life *l, struct batch *b)
{
	struct gpuq_completion done[8];

	while (b->in_flight > 0) {
		uint32_t stops = shm_load_relaxed_u32(&l->page->stops);
		enter(l, SOAK_WAITING);
		int n = gpuq_wait(l->ch, done, 8, l->common->bound_ns);
		if (n == -ETIMEDOUT && shm_load_relaxed_u32(&l->page->stops) != stops)
			continue;
		need(l, n, "wait");
		for (int i = 0; i < n; i++)
			take_one(l, b, &done[i]);
		note_wait(l, b);
	}
	int n = gpuq_poll(l->ch, done, 8);
	if (n != 0)
		wrong(l, "%d more completions than submissions", n);
}

static void run_batch(struct life *l, uint32_t n, enum soak_kind kind, struct gpuq_pipeline *p)
{
	struct batch b = {.n = n};

	for (uint32_t i = 0; i < n; i++) {
		enum soak_kind k = kind != SOAK_KINDS
			? kind
			: (enum soak_kind)soak_below(&l->rng, SOAK_CLASSIFY);
		need(l, soak_job_create(&b.jobs[i], l->ch, k, p, &l->rng), "create a call");
	}
	submit_batch(l, &b);
	if (soak_below(&l->rng, 4) == 0)
		cancel_one(l, &b);
	if (kind == SOAK_NULL) {
		enter(l, SOAK_UNREAD);
		soak_sleep_us(soak_below(&l->rng, 1000));
	}
	take_batch(l, &b);
	for (uint32_t i = 0; i < n; i++)
		soak_job_destroy(&b.jobs[i], l->ch);
}

static void act_nulls(struct life *l)
{
	run_batch(l, 1 + soak_below(&l->rng, BATCH), SOAK_NULL, NULL);
}

static void act_calls(struct life *l)
{
	run_batch(l, 1 + soak_below(&l->rng, BATCH), SOAK_KINDS, NULL);
}

static void act_pipeline(struct life *l)
{
	struct gpuq_pipeline *p;

	enter(l, SOAK_PIPELINE);
	need(l, soak_pipeline_create(l->g, &p), "register a pipeline");
	run_batch(l, 1 + soak_below(&l->rng, BATCH / 2), SOAK_CLASSIFY, p);
	enter(l, SOAK_PIPELINE);
	gpuq_pipeline_destroy(p);
	l->page->pipelines++;
}

/* --- Buffers ------------------------------------------------------------------------------- */

static void check_buffer(struct life *l, const struct gpuq_buf *buf, uint32_t pattern)
{
	static uint32_t words[BUFFER_WORDS];

	memset(words, 0, sizeof(words));
	need(l, gpuq_buf_read(l->ch, buf, 0, words, sizeof(words)), "read a buffer");
	for (uint32_t i = 0; i < BUFFER_WORDS; i++) {
		if (words[i] != pattern + i)
			wrong(l, "word %u of a buffer is %x, must be %x", i, words[i], pattern + i);
	}
}

/* Lets another client have it, if there is one. */
static void grant(struct life *l, const struct gpuq_buf *buf, uint32_t pattern)
{
	uint32_t to = soak_below(&l->rng, l->common->slots);
	uint32_t pid = shm_load_acquire_u32(&l->common->pages[to].pid);

	if (to == l->slot || pid == 0)
		return;
	enter(l, SOAK_GRANTING);
	int r = gpuq_buf_grant(buf, pid);
	/* It may just be dead, or between two connections. */
	if (r == -ESRCH)
		return;
	need(l, r, "grant a buffer");
	uint64_t offer = (uint64_t)pattern << 32 | gpuq_buf_handle(buf);
	shm_store_release(&l->page->offers[to], offer);
	l->page->grants++;
	for (uint32_t i = soak_below(&l->rng, 30);
		i > 0 && shm_load_relaxed(&l->common->pages[to].seen[l->slot]) != offer; i--)
		soak_sleep_us(500);
}

static void act_buffer(struct life *l)
{
	static uint32_t words[BUFFER_WORDS];
	const struct gpuq_buf_options options = {.bytes = sizeof(words)};
	uint32_t pattern = 1 + soak_below(&l->rng, UINT32_MAX / 2);
	struct gpuq_buf *buf;

	enter(l, SOAK_BUFFER);
	need(l, gpuq_buf_alloc(l->g, &options, &buf), "allocate a buffer");
	for (uint32_t i = 0; i < BUFFER_WORDS; i++)
		words[i] = pattern + i;
	need(l, gpuq_buf_write(l->ch, buf, 0, words, sizeof(words)), "write a buffer");
	if (soak_below(&l->rng, 4) != 0)
		grant(l, buf, pattern);
	enter(l, SOAK_BUFFER);
	check_buffer(l, buf, pattern);
	gpuq_buf_free(buf);
	l->page->buffers++;
}

static void accept_from(struct life *l, uint32_t from)
{
	uint64_t offer = shm_load_acquire(&l->common->pages[from].offers[l->slot]);
	struct gpuq_buf *buf;

	if (offer == l->page->seen[from])
		return;
	shm_store_release(&l->page->seen[from], offer);
	enter(l, SOAK_ACCEPTING);
	int r = gpuq_buf_accept(l->g, (uint32_t)offer, &buf);
	/* It was freed meanwhile, or was for one that had this slot or connection before. */
	if (r == -GPUQ_EBUFFER) {
		l->page->late_accepts++;
		return;
	}
	need(l, r, "accept a buffer");
	check_buffer(l, buf, (uint32_t)(offer >> 32));
	enter(l, SOAK_ACCEPTING);
	gpuq_buf_free(buf);
	l->page->accepts++;
}

static void act_accept(struct life *l)
{
	for (uint32_t i = 0; i < l->common->slots; i++)
		accept_from(l, i);
}

/* --- Text ---------------------------------------------------------------------------------- */

static void prompt(uint32_t number, int32_t tokens[PROMPT_TOKENS])
{
	for (uint32_t i = 0; i < PROMPT_TOKENS; i++)
		tokens[i] = (int32_t)(3 + 7 * number + 2 * i);
}

/* What the model makes of a prompt; 0 or a negative error. */
static int generate(struct gpuq_channel *ch, uint32_t number, uint64_t bound_ns,
	int32_t *ret_tokens, uint32_t *ret_n)
{
	const struct gpuq_generate_options options = {
		.max_tokens = PROMPT_TOKENS, .max_generate = SOAK_GENERATE};
	struct gpuq_session *session;
	struct gpuq_completion done;
	struct gpuq_call *call;
	int32_t tokens[PROMPT_TOKENS];
	const int32_t *made;
	const float *logprobs;
	int r = gpuq_session_open(ch, SOAK_MODEL, &session);

	if (r < 0)
		return r;
	prompt(number, tokens);
	r = gpuq_generate_create(session, &options, &call);
	if (r == 0)
		r = gpuq_generate_set(call, tokens, PROMPT_TOKENS, SOAK_GENERATE, 1);
	const struct gpuq_submission s = {.call = call};
	if (r == 0)
		r = gpuq_submit(ch, &s, 1);
	if (r == 1)
		r = gpuq_wait(ch, &done, 1, bound_ns);
	if (r == 1)
		r = done.status < 0 ? done.status : gpuq_generate_result(call, &made, &logprobs);
	if (r == 0) {
		*ret_n = (uint32_t)done.status;
		memcpy(ret_tokens, made, *ret_n * sizeof(*made));
	}
	if (r == 0)
		gpuq_call_destroy(call);
	gpuq_session_close(session);
	return r;
}

static void act_generate(struct life *l)
{
	const struct soak_common *c = l->common;
	uint32_t k = soak_below(&l->rng, SOAK_PROMPTS), n = 0;
	int32_t tokens[SOAK_GENERATE];

	if (!c->has_model)
		return;
	enter(l, SOAK_GENERATING);
	/* Stops are shorter than the bound: it holds with them, too. */
	need(l, generate(l->ch, k, 2 * c->bound_ns, tokens, &n), "generate");
	if (n != c->n_tokens[k] || memcmp(tokens, c->tokens[k], n * sizeof(tokens[0])) != 0)
		wrong(l, "%u tokens after prompt %u are not those of before", n, k);
	l->page->tokens += n;
}

int soak_learn(struct soak_common *common)
{
	const struct gpuq_options options = {.socket = common->socket, .name = "gpuq-soak"};
	struct gpuq *g;
	struct gpuq_channel *ch;
	int r = gpuq_connect(&options, &g);

	if (r < 0) {
		complain("%s", gpuq_error_detail());
		return r;
	}
	r = gpuq_channel_open(g, NULL, &ch);
	for (uint32_t i = 0; i < SOAK_PROMPTS && r == 0; i++)
		r = generate(ch, i, GPUQ_FOREVER, common->tokens[i], &common->n_tokens[i]);
	if (r < 0)
		complain("the model cannot be used: %s: %s", gpuq_error_name(r),
			gpuq_error_detail());
	gpuq_disconnect(g);
	return r;
}

/* --- A life -------------------------------------------------------------------------------- */

_Noreturn void soak_client_main(struct soak_common *common, uint32_t slot, uint64_t seed)
{
	static void (*const acts[])(struct life *) = {act_idle, act_nulls, act_calls, act_calls,
		act_calls, act_pipeline, act_buffer, act_buffer, act_accept, act_accept, act_accept,
		act_generate, act_channel, act_connection};
	struct life l = {.common = common, .page = &common->pages[slot], .slot = slot};

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	l.rng = soak_random_seed(seed, slot);
	connect_life(&l);
	shm_store_release_u32(&l.page->pid, (uint32_t)getpid());
	open_channel(&l);
	while (shm_load_acquire_u32(&l.page->stop) == 0)
		acts[soak_below(&l.rng, sizeof(acts) / sizeof(acts[0]))](&l);
	close_channel(&l);
	gpuq_disconnect(l.g);
	_exit(0);
}
