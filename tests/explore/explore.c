/* SPDX-License-Identifier: MIT */
/* explore.c: the scheduler and the search; explore.h says what they do. */
#include "explore.h"

#include <assert.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WINDOW 20
#define LOG 48
#define STEPS 4096
#define NO_WORD 0xff
#define UNREAD 0xdeadbeefdeadbeefull /* in a private copy until memory has performed the load */

enum kind {
	OP_LOAD,
	OP_LOAD_INTO,
	OP_STORE,
	OP_FENCE,
	OP_PAUSE,
	OP_BELL,
	OP_SLEEP,
	OP_SILENCE,
	OP_END
};

struct op {
	uint64_t value; /* stored, foreseen or loaded */
	uint8_t kind;	/* enum kind */
	uint8_t word;	/* index of the word or of the bell */
	bool ordered;	/* acquire or release */
};

/* An operation that memory has not performed yet. */
struct issued {
	struct op op;
	int32_t log_at;	   /* the load's place in the log, -1 when its round is over */
	uint32_t local_at; /* where in the private structure the loaded word goes */
};

struct thread_state {
	struct op next; /* where the thread stands: an operation that others can notice */
	const char *failed;
	uint32_t n_window, n_log;
	bool ended;
	bool news; /* another thread changed memory since the last pause */
	struct issued window[WINDOW];
	struct op log[LOG];
	_Alignas(16) uint8_t local[EXPLORE_LOCAL];
};

struct state {
	uint64_t memory[EXPLORE_WORDS];
	uint32_t bells[EXPLORE_BELLS];
	struct thread_state threads[EXPLORE_THREADS];
};

/* How a step of the printed trace came about. */
enum how { ISSUED, AT_ONCE, FORESEEN, PERFORMED };

struct step {
	struct op op;
	uint8_t thread, how;
};

/* Visited states: open addressing, a power of two, at most half full. */
struct seen {
	uint64_t key; /* 0: empty */
	double paths;
};

static struct {
	const struct explore_program *program;
	struct explore_result result;
	struct seen *seen;
	uint64_t capacity, n_seen;
	struct step steps[STEPS];
	uint32_t n_steps;
} search;

/* The round being run. */
static struct {
	struct state *state;
	struct thread_state *thread;
	uint32_t cursor; /* operations of the log passed so far */
	uint32_t fetches[EXPLORE_WORDS];
	jmp_buf out;
	_Alignas(16) uint8_t local[EXPLORE_LOCAL];
} now;

void explore_add_thread(struct explore_program *p, const char *name, bool (*round)(void *),
	const void *local, size_t bytes)
{
	struct explore_thread *t = &p->threads[p->n_threads++];

	assert(p->n_threads <= EXPLORE_THREADS && bytes <= EXPLORE_LOCAL && bytes % 8 == 0);
	*t = (struct explore_thread){.name = name, .round = round, .local_bytes = bytes};
	memcpy(t->local, local, bytes);
}

void explore_add_word(
	struct explore_program *p, const void *at, uint64_t initial, bool hostile, const char *name)
{
	struct explore_word *w = &p->words[p->n_words++];

	assert(p->n_words <= EXPLORE_WORDS);
	*w = (struct explore_word){.at = at, .initial = initial, .hostile = hostile};
	snprintf(w->name, sizeof(w->name), "%s", name);
}

void explore_add_value(struct explore_program *p, uint64_t value)
{
	for (uint32_t i = 0; i < p->n_values; i++)
		if (p->values[i] == value)
			return;
	assert(p->n_values < EXPLORE_VALUES);
	p->values[p->n_values++] = value;
}

static void print_step(const struct step *s, uint32_t number)
{
	static const char *const verbs[][4] = {
		[OP_LOAD] = {"", "loads", "foresees", "loads, as foreseen,"},
		[OP_LOAD_INTO] = {"begins to copy", "", "", "copies"},
		[OP_STORE] = {"issues the store", "stores, unheard,", "", "stores"},
		[OP_FENCE] = {"", "passes a fence", "", ""},
		[OP_PAUSE] = {"", "spins", "", ""},
		[OP_BELL] = {"", "rings the bell", "", ""},
		[OP_SLEEP] = {"", "is woken by its bell", "", ""},
		[OP_SILENCE] = {"", "silences its bell", "", ""},
	};
	const char *order = s->op.kind == OP_LOAD ? " (acquire)" : " (release)";

	printf("  %3u  %-10s %s", number, search.program->threads[s->thread].name,
		verbs[s->op.kind][s->how]);
	if (s->op.kind <= OP_STORE)
		printf(" %s", search.program->words[s->op.word].name);
	if (s->op.kind <= OP_STORE && s->op.value != UNREAD)
		printf(" = %" PRId64, (int64_t)s->op.value);
	puts(s->op.ordered ? order : "");
}

static void violation(const char *what)
{
	search.result.violated = what;
	printf("violation in %s: %s\n", search.program->name, what);
	for (uint32_t i = 0; i < search.n_steps; i++)
		print_step(&search.steps[i], i + 1);
}

static void record(const struct thread_state *t, struct op op, enum how how)
{
	assert(search.n_steps < STEPS);
	search.steps[search.n_steps++] =
		(struct step){op, (uint8_t)(t - now.state->threads), (uint8_t)how};
}

static uint64_t mix(uint64_t h, uint64_t v)
{
	h = (h ^ v) * 0x9e3779b97f4a7c15ull;
	return h ^ (h >> 29) ^ (h >> 47);
}

static uint64_t op_hash(uint64_t h, const struct op *op)
{
	return mix(mix(h, op->value), (uint64_t)op->kind << 16 | op->word << 8 | op->ordered);
}

static uint64_t thread_hash(uint64_t h, const struct thread_state *t, size_t local_bytes)
{
	uint64_t v;

	h = mix(h, (uint64_t)t->n_window << 32 | t->n_log << 2 | t->ended << 1 | t->news);
	h = mix(h, (uintptr_t)t->failed);
	for (uint32_t i = 0; i < t->n_window; i++) {
		const struct issued *w = &t->window[i];
		h = op_hash(mix(h, (uint64_t)w->log_at << 32 | w->local_at), &w->op);
	}
	for (uint32_t i = 0; i < t->n_log; i++)
		h = op_hash(h, &t->log[i]);
	for (size_t i = 0; i < local_bytes; i += sizeof(v)) {
		memcpy(&v, &t->local[i], sizeof(v));
		h = mix(h, v);
	}
	return h;
}

static uint64_t state_hash(const struct state *s)
{
	const struct explore_program *p = search.program;
	uint64_t h = 1;

	for (uint32_t i = 0; i < p->n_words; i++)
		h = mix(h, s->memory[i]);
	for (uint32_t i = 0; i < EXPLORE_BELLS; i++)
		h = mix(h, s->bells[i]);
	for (uint32_t i = 0; i < p->n_threads; i++)
		h = thread_hash(h, &s->threads[i], p->threads[i].local_bytes);
	return h != 0 ? h : 1;
}

static struct seen *seen_place(struct seen *table, uint64_t capacity, uint64_t key)
{
	uint64_t i = key & (capacity - 1);

	while (table[i].key != 0 && table[i].key != key)
		i = (i + 1) & (capacity - 1);
	return &table[i];
}

static void seen_grow(void)
{
	uint64_t capacity = search.capacity ? search.capacity * 2 : 1 << 12;
	struct seen *table = calloc(capacity, sizeof(*table));

	if (table == NULL)
		abort();
	for (uint64_t i = 0; i < search.capacity; i++)
		if (search.seen[i].key != 0)
			*seen_place(table, capacity, search.seen[i].key) = search.seen[i];
	free(search.seen);
	search.seen = table;
	search.capacity = capacity;
}

/* False when the state has been visited; *ret_paths are those that were found from there. */
static bool seen_add(uint64_t key, double *ret_paths)
{
	if (search.n_seen * 2 >= search.capacity)
		seen_grow();
	struct seen *at = seen_place(search.seen, search.capacity, key);
	if (at->key == key) {
		*ret_paths = at->paths;
		return false;
	}
	at->key = key;
	search.n_seen++;
	return true;
}

static uint8_t word_index(const void *p)
{
	for (uint32_t i = 0; i < search.program->n_words; i++)
		if (search.program->words[i].at == p)
			return (uint8_t)i;
	explore_fail("an access outside the ring");
}

/* The next operation of the log; NULL when the round has come to where its thread stands. */
static const struct op *logged(enum kind kind, uint8_t word)
{
	if (now.cursor == now.thread->n_log)
		return NULL;
	const struct op *op = &now.thread->log[now.cursor++];
	/* A round that does not repeat itself depends on more than its structure and its loads. */
	assert(op->kind == kind && op->word == word);
	return op;
}

static void append(struct thread_state *t, struct op op)
{
	assert(t->n_log < LOG);
	t->log[t->n_log++] = op;
}

static void stand_at(struct op op)
{
	now.thread->next = op;
	longjmp(now.out, 1);
}

static void issue(struct op op, int32_t log_at, uint32_t local_at)
{
	struct thread_state *t = now.thread;

	assert(t->n_window < WINDOW);
	t->window[t->n_window++] = (struct issued){op, log_at, local_at};
	record(t, op, op.kind == OP_LOAD ? FORESEEN : ISSUED);
}

uint64_t explore_load(const uint64_t *p, bool acquire)
{
	uint8_t word = word_index(p);
	const struct op *op = logged(OP_LOAD, word);

	now.fetches[word]++;
	if (op == NULL)
		stand_at((struct op){.kind = OP_LOAD, .word = word, .ordered = acquire});
	return op->value;
}

void explore_store(uint64_t *p, uint64_t v, bool release)
{
	struct op op = {.kind = OP_STORE, .word = word_index(p), .value = v, .ordered = release};

	if (logged(OP_STORE, op.word) != NULL)
		return;
	append(now.thread, op);
	now.cursor++;
	if (search.program->words[op.word].hostile)
		record(now.thread, op, AT_ONCE);
	else
		issue(op, -1, 0);
}

void explore_load_into(uint64_t *dst, const uint64_t *src)
{
	struct op op = {.kind = OP_LOAD_INTO, .word = word_index(src), .value = UNREAD};
	const struct op *done = logged(OP_LOAD_INTO, op.word);
	size_t at = (size_t)((uint8_t *)dst - now.local);

	assert(at + sizeof(*dst) <= EXPLORE_LOCAL);
	*dst = done != NULL ? done->value : UNREAD;
	if (done != NULL)
		return;
	append(now.thread, op);
	now.cursor++;
	issue(op, (int32_t)now.thread->n_log - 1, (uint32_t)at);
}

void explore_fence(void)
{
	struct op op = {.kind = OP_FENCE, .word = NO_WORD};

	if (logged(OP_FENCE, NO_WORD) == NULL)
		stand_at(op);
}

void explore_pause(void)
{
	if (logged(OP_PAUSE, NO_WORD) == NULL)
		stand_at((struct op){.kind = OP_PAUSE, .word = NO_WORD});
}

void explore_bell(uint32_t bell)
{
	if (logged(OP_BELL, (uint8_t)bell) == NULL)
		stand_at((struct op){.kind = OP_BELL, .word = (uint8_t)bell});
}

void explore_sleep(uint32_t bell)
{
	if (logged(OP_SLEEP, (uint8_t)bell) == NULL)
		stand_at((struct op){.kind = OP_SLEEP, .word = (uint8_t)bell});
}

void explore_silence(uint32_t bell)
{
	if (logged(OP_SILENCE, (uint8_t)bell) == NULL)
		stand_at((struct op){.kind = OP_SILENCE, .word = (uint8_t)bell});
}

void explore_fail(const char *why)
{
	now.thread->failed = why;
	now.thread->ended = true;
	longjmp(now.out, 1);
}

uint32_t explore_fetches(const void *word)
{
	return now.fetches[word_index(word)];
}

/* The round is over: what it did to its structure holds, and its log is not needed any more. */
static void commit(bool more)
{
	struct thread_state *t = now.thread;

	assert(now.cursor == t->n_log);
	memcpy(t->local, now.local, sizeof(now.local));
	t->n_log = 0;
	for (uint32_t i = 0; i < t->n_window; i++)
		t->window[i].log_at = -1;
	t->ended = !more;
}

/* Runs a thread on, from what its log says, to the next operation that others can notice. */
static void advance(struct state *s, uint32_t thread)
{
	const struct explore_thread *body = &search.program->threads[thread];

	now.state = s;
	now.thread = &s->threads[thread];
	while (!now.thread->ended) {
		now.cursor = 0;
		memset(now.fetches, 0, sizeof(now.fetches));
		memcpy(now.local, now.thread->local, sizeof(now.local));
		if (setjmp(now.out) != 0)
			break;
		commit(body->round(now.local));
	}
	if (now.thread->ended)
		now.thread->next = (struct op){.kind = OP_END, .word = NO_WORD};
}

static bool foresees(const struct thread_state *t)
{
	for (uint32_t i = 0; i < t->n_window; i++)
		if (t->window[i].op.kind == OP_LOAD)
			return true;
	return false;
}

/* May memory perform this operation of the window now? */
static bool performable(const struct state *s, const struct thread_state *t, uint32_t k)
{
	const struct op *op = &t->window[k].op;

	if (op->ordered)
		return k == 0;
	for (uint32_t i = 0; i < k; i++)
		if (t->window[i].op.word == op->word)
			return false;
	return op->kind != OP_LOAD || s->memory[op->word] == op->value;
}

static void perform(struct state *s, uint32_t thread, uint32_t k)
{
	struct thread_state *t = &s->threads[thread];
	struct issued w = t->window[k];

	t->n_window--;
	memmove(&t->window[k], &t->window[k + 1], (t->n_window - k) * sizeof(w));
	if (w.op.kind == OP_STORE) {
		s->memory[w.op.word] = w.op.value;
		for (uint32_t i = 0; i < search.program->n_threads; i++)
			s->threads[i].news |= i != thread;
	} else if (w.op.kind == OP_LOAD_INTO) {
		w.op.value = s->memory[w.op.word];
		if (w.log_at >= 0)
			t->log[w.log_at].value = w.op.value;
		else
			memcpy(&t->local[w.local_at], &w.op.value, sizeof(w.op.value));
	}
	now.state = s;
	record(t, w.op, PERFORMED);
}

/* Can the thread do its next operation, other than a load? */
static bool can_go_on(const struct state *s, const struct thread_state *t)
{
	switch (t->next.kind) {
	case OP_FENCE:
		return t->n_window == 0;
	case OP_PAUSE:
		return t->news;
	case OP_BELL:
	case OP_SILENCE:
		return !foresees(t);
	case OP_SLEEP:
		return !foresees(t) && s->bells[t->next.word] > 0;
	default:
		return false;
	}
}

static void go_on(struct state *s, uint32_t thread)
{
	struct thread_state *t = &s->threads[thread];

	if (t->next.kind == OP_PAUSE)
		t->news = false;
	if (t->next.kind == OP_BELL)
		s->bells[t->next.word]++;
	if (t->next.kind == OP_SILENCE)
		s->bells[t->next.word] = 0;
	now.state = s;
	record(t, t->next, AT_ONCE);
	append(t, t->next);
	advance(s, thread);
}

static double visit(const struct state *s, uint32_t thread);

static double load_with(const struct state *s, uint32_t thread, uint64_t value, bool foreseen)
{
	struct state child = *s;
	struct thread_state *t = &child.threads[thread];
	struct op op = t->next;

	op.value = value;
	append(t, op);
	now.state = &child;
	now.thread = t;
	if (foreseen)
		issue(op, (int32_t)t->n_log - 1, 0);
	else
		record(t, op, AT_ONCE);
	advance(&child, thread);
	return visit(&child, thread);
}

/* Every value that the thread's next operation, a load, can return. */
static double visit_loads(const struct state *s, uint32_t thread)
{
	const struct explore_program *p = search.program;
	const struct thread_state *t = &s->threads[thread];
	const struct op *op = &t->next;
	uint32_t mark = search.n_steps;
	double paths = 0;

	for (uint32_t i = t->n_window; i-- > 0;) {
		if (t->window[i].op.word != op->word)
			continue;
		if (t->window[i].op.kind != OP_STORE)
			return 0; /* in program order: not before the earlier load */
		return load_with(s, thread, t->window[i].op.value, false);
	}
	bool hostile = p->words[op->word].hostile;
	if (!hostile)
		paths += load_with(s, thread, s->memory[op->word], false);
	for (uint32_t i = 0; i < p->n_values && (hostile || !op->ordered); i++) {
		if (search.result.violated != NULL)
			break;
		search.n_steps = mark;
		if (hostile || p->values[i] != s->memory[op->word])
			paths += load_with(s, thread, p->values[i], !hostile);
	}
	return paths;
}

/* All that one thread can do next. */
static double visit_thread(const struct state *s, uint32_t thread)
{
	const struct thread_state *t = &s->threads[thread];
	uint32_t mark = search.n_steps;
	double paths = 0;

	for (uint32_t k = 0; k < t->n_window && search.result.violated == NULL; k++) {
		if (!performable(s, t, k))
			continue;
		struct state child = *s;
		search.n_steps = mark;
		perform(&child, thread, k);
		paths += visit(&child, thread);
	}
	if (search.result.violated != NULL)
		return paths;
	search.n_steps = mark;
	if (t->next.kind == OP_LOAD)
		return paths + visit_loads(s, thread);
	if (can_go_on(s, t)) {
		struct state child = *s;
		go_on(&child, thread);
		paths += visit(&child, thread);
	}
	return paths;
}

static void end_of_path(const struct state *s)
{
	const struct explore_program *p = search.program;
	void *local[EXPLORE_THREADS];
	const char *wrong = NULL;

	for (uint32_t i = 0; i < p->n_threads; i++) {
		/* A load that foresaw what never came: no machine runs this. */
		if (foresees(&s->threads[i]))
			return;
		local[i] = (void *)(uintptr_t)s->threads[i].local;
		if (!s->threads[i].ended)
			wrong = s->threads[i].next.kind == OP_SLEEP ? "a thread sleeps for ever"
								    : "a thread spins for ever";
	}
	search.result.ends++;
	for (uint32_t i = 0; i < p->n_threads; i++)
		if (s->threads[i].failed != NULL)
			wrong = s->threads[i].failed;
	if (wrong == NULL)
		wrong = p->check(local);
	if (wrong != NULL)
		violation(wrong);
}

/* Searches everything that can follow. Returns the number of ways to an end. */
static double visit(const struct state *s, uint32_t thread)
{
	uint64_t key = state_hash(s);
	uint32_t n = search.program->n_threads, mark = search.n_steps;
	uint64_t before = search.result.transitions++;
	double paths = 0;

	if (!seen_add(key, &paths))
		return paths;
	search.result.states++;
	for (uint32_t i = 0; i < n && search.result.violated == NULL; i++) {
		search.n_steps = mark;
		paths += visit_thread(s, (thread + i) % n);
	}
	if (search.result.violated != NULL)
		return paths;
	search.n_steps = mark;
	if (search.result.transitions == before + 1) {
		end_of_path(s);
		paths = 1;
	}
	seen_place(search.seen, search.capacity, key)->paths = paths;
	return paths;
}

struct explore_result explore_run(const struct explore_program *p)
{
	static struct state start;

	memset(&search, 0, sizeof(search));
	memset(&start, 0, sizeof(start));
	search.program = p;
	for (uint32_t i = 0; i < p->n_words; i++)
		start.memory[i] = p->words[i].initial;
	for (uint32_t i = 0; i < p->n_threads; i++) {
		memcpy(start.threads[i].local, p->threads[i].local, EXPLORE_LOCAL);
		advance(&start, i);
	}
	search.result.paths = visit(&start, 0);
	free(search.seen);
	search.seen = NULL;
	return search.result;
}
