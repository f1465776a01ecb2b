/* SPDX-License-Identifier: MIT */
/*
 * test-ledger.c: a device process that dies after any of its stores, and its successor too.
 *
 * Channel and dispatch run as they are built, pass by pass, on a ledger and rings that are
 * write-protected: each store faults, is stepped over, and the memory as it is then is kept. That
 * is all that a successor finds. From every such state a second life recovers and finishes the
 * work, watched in the same way, and from every state of that one a third. In the end each entry
 * must have been completed exactly once, counting what the client has read before each death.
 */
#include "daemon/dispatch_impl.h"
#include "shm/segment.h"
#include "tests/harness.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#define ENTRIES 8u /* of both rings, and the most that a script submits */
#define NUMBER 1u  /* of the channel, among */
#define CHANNELS 2u
#define GENERATION 5u
#define SLOTS 4u    /* one holds a stranger's note, and one is kept for other channels */
#define ARENA 4096u /* for each entry: */
#define BLOCK 256u  /* struct block */
#define STATES 2000u
#define TRAP_FLAG 0x100

struct block {
	struct wire_call call;
	struct wire_tensor tensors[2];
	float x[4], y[4];
};
_Static_assert(sizeof(struct block) <= BLOCK && ENTRIES * BLOCK <= ARENA, "block");

/* What the client knows. It outlives every device process. */
struct client {
	uint32_t submitted, read; /* entries, completions */
	uint32_t seen;		  /* completions that were ever published, and what they were: */
	struct wire_cqe looks[ENTRIES];
	uint32_t times[ENTRIES]; /* that each entry was completed */
	int status[ENTRIES];
};

/* All that is left after a death. */
struct state {
	uint8_t shared[WIRE_ENTRIES - WIRE_SQ_RING + ENTRIES * (64 + 32)];
	struct ledger_channel channels[CHANNELS];
	struct ledger_entry entries[SLOTS];
	struct client client;
	uint32_t executed; /* mask of entries */
	uint32_t deaths;
};

struct history {
	struct state *states;
	uint32_t n;
};

/* The device: its work ends when the test says so. */
struct device {
	struct device_completion *completions[2];
	uint64_t values[2];
	uint32_t n;
};

struct world {
	const char *script; /* the kinds of entries; '|' where the client waits for all before */
	char kinds[ENTRIES + 1];
	uint32_t n;
	uint64_t start;
	struct devlink_msg msg;
	int fds[2]; /* segment, eventfd */
	char *base, *arena;
	struct wire_ring *sq, *cq;
	struct wire_sqe *sqes;
	struct wire_cqe *cqes;
	struct ledger_channel *ledger;
	struct ledger_entry *entries;
	struct client client;
	uint32_t deaths;
	struct dispatch_options options;
	struct cost_model cost;
	bool recalibrates; /* every second life finds slow what is fast in others, and vice versa */
	struct device device;
	uint64_t lives;
};

void device_info(struct device *device, struct device_info *ret_info)
{
	*ret_info = (struct device_info){.workers = 1};
}

int device_alloc(struct device *device, enum device_memory kind, uint64_t bytes, void **ret_data)
{
	*ret_data = calloc(1, bytes);
	return *ret_data == NULL ? -ENOMEM : 0;
}

void device_free(struct device *device, enum device_memory kind, void *data)
{
	free(data);
}

/* It has two, of no other use than to be told apart from none. */
int device_stream_create(struct device *device, uint32_t priority, struct device_stream **ret)
{
	*ret = (struct device_stream *)device;
	return 0;
}

void device_stream_destroy(struct device_stream *stream)
{
}

void device_sleep_prepare(struct device *device, bool asleep)
{
}

/* In place of the graph cache, which holds two works of any shape. */
int graphs_launch(struct graphs *g, struct graph_work *w)
{
	struct device *device = (struct device *)g;

	if (device->n == 2)
		return -EAGAIN;
	w->call->op->cpu(w->call, 0, w->call->op->units(w->call));
	device->completions[device->n] = w->completion;
	device->values[device->n++] = w->args.value;
	return 0;
}

uint64_t graphs_finish(struct graphs *g, struct graph_work *w, uint64_t now_ns)
{
	return 0;
}

uint64_t graphs_key(const struct op_call *call)
{
	return 1;
}

/* Nothing is cold in it. */
bool graphs_cold_room(const struct graphs *g, uint32_t priority)
{
	return true;
}

/* No test here cancels, captures, or has a pipeline. */
bool graphs_cancel(struct graphs *g, struct graph_work *w)
{
	return false;
}

int graphs_precapture(struct graphs *g, struct graph_work *w)
{
	return -EOPNOTSUPP;
}

const struct op *pipeline_op(const struct pipeline *p)
{
	return NULL;
}

/* No test here copies, or has a buffer. */
int device_copy(struct device_stream *stream, void *to, const void *from, uint64_t bytes)
{
	return -EOPNOTSUPP;
}

int device_signal(struct device_stream *stream, const struct device_args *args)
{
	return -EOPNOTSUPP;
}

int device_stream_wait(struct device_stream *stream)
{
	return -EOPNOTSUPP;
}

int device_export_create(struct device *device, enum device_export_form form, uint64_t bytes,
	struct device_export *ret_export)
{
	return -EOPNOTSUPP;
}

void device_export_destroy(struct device *device, const struct device_export *export)
{
}

/* Nor is there a model. */
int engine_session_open(struct engine *engine, struct kv_client *client, uint64_t salt,
	struct engine_session **ret_session)
{
	return -EOPNOTSUPP;
}

void engine_session_weigh(struct engine_session *session, uint32_t weight)
{
}

int engine_session_fork(struct engine_session *session, struct engine_session **ret_session)
{
	return -EOPNOTSUPP;
}

int engine_session_truncate(struct engine_session *session, uint32_t tokens)
{
	return -EOPNOTSUPP;
}

void engine_session_close(struct engine_session *session)
{
}

uint32_t engine_session_tokens(const struct engine_session *session)
{
	return 0;
}

uint32_t engine_session_blocks(const struct engine_session *session)
{
	return 0;
}

int engine_submit(struct engine *engine, struct engine_request *request)
{
	return -EOPNOTSUPP;
}

bool engine_cancel(struct engine *engine, struct engine_request *request)
{
	return false;
}

bool engine_poll(struct engine *engine)
{
	return false;
}

struct engine_request *engine_take_done(struct engine *engine)
{
	return NULL;
}

uint64_t engine_due_ns(const struct engine *e)
{
	return UINT64_MAX;
}

uint64_t engine_oldest_ns(const struct engine *engine)
{
	return UINT64_MAX;
}

uint64_t engine_wake_ns(const struct engine *engine)
{
	return UINT64_MAX;
}

void engine_fail(struct engine *engine)
{
}

void engine_stats(const struct engine *engine, struct engine_stats *ret_stats)
{
}

/* The work launched last ends first: not in the order of the entries. */
static void finish_one(struct device *device)
{
	device->n--;
	shm_store_release(&device->completions[device->n]->word, device->values[device->n]);
}

/* --- States ------------------------------------------------------------------------------- */

static struct block *block_of(struct world *w, uint32_t entry)
{
	return (struct block *)(w->arena + entry * BLOCK);
}

static void save(struct world *w, struct state *ret)
{
	memcpy(ret->shared, w->base + WIRE_SQ_RING, sizeof(ret->shared));
	memcpy(ret->channels, w->ledger, sizeof(ret->channels));
	memcpy(ret->entries, w->entries, sizeof(ret->entries));
	ret->client = w->client;
	ret->deaths = w->deaths;
	ret->executed = 0;
	for (uint32_t i = 0; i < w->n; i++)
		ret->executed |= (uint32_t)(block_of(w, i)->y[0] > 0) << i;
}

static void restore(struct world *w, const struct state *s)
{
	memcpy(w->base + WIRE_SQ_RING, s->shared, sizeof(s->shared));
	memcpy(w->ledger, s->channels, sizeof(s->channels));
	memcpy(w->entries, s->entries, sizeof(s->entries));
	w->client = s->client;
	w->deaths = s->deaths;
	for (uint32_t i = 0; i < w->n; i++)
		block_of(w, i)->y[0] = s->executed >> i & 1 ? 1.0f : 0.0f;
}

static void keep(struct world *w, struct history *h)
{
	if (h->n == STATES)
		abort();
	save(w, &h->states[h->n++]);
}

/* --- Watching every store ----------------------------------------------------------------- */

static struct {
	struct world *world;
	struct history *history;
	char *rings; /* dispatch's mapping of the pages before the arena */
} watch;

static bool watched(const void *at)
{
	const char *p = at, *ledger = (char *)watch.world->ledger;

	return (p >= watch.rings && p < watch.rings + 3 * WIRE_PAGE_SIZE) ||
		(p >= ledger && p < ledger + WIRE_PAGE_SIZE);
}

static void protect(int prot)
{
	mprotect(watch.rings, 3 * WIRE_PAGE_SIZE, prot);
	mprotect(watch.world->ledger, WIRE_PAGE_SIZE, prot);
}

/* Lets one instruction pass. */
static void step(ucontext_t *context, bool on)
{
#ifdef __x86_64__
	greg_t *flags = &context->uc_mcontext.gregs[REG_EFL];

	*flags = on ? *flags | TRAP_FLAG : *flags & ~TRAP_FLAG;
#endif
}

static void on_store(int number, siginfo_t *info, void *context)
{
	if (!watched(info->si_addr)) {
		signal(SIGSEGV, SIG_DFL);
		return;
	}
	protect(PROT_READ | PROT_WRITE);
	step(context, true);
}

static void on_stepped(int number, siginfo_t *info, void *context)
{
	step(context, false);
	keep(watch.world, watch.history);
	protect(PROT_READ);
}

static void watch_begin(struct world *w, struct history *h, struct channel *ch)
{
	const struct sigaction store = {.sa_sigaction = on_store, .sa_flags = SA_SIGINFO},
			       stepped = {.sa_sigaction = on_stepped, .sa_flags = SA_SIGINFO};

	if (h == NULL)
		return;
	watch.world = w;
	watch.history = h;
	watch.rings = ch->base;
	sigaction(SIGSEGV, &store, NULL);
	sigaction(SIGTRAP, &stepped, NULL);
	keep(w, h);
	protect(PROT_READ);
}

static void watch_end(struct history *h)
{
	if (h == NULL)
		return;
	protect(PROT_READ | PROT_WRITE);
	signal(SIGSEGV, SIG_DFL);
	signal(SIGTRAP, SIG_DFL);
}

/* --- The client --------------------------------------------------------------------------- */

/* Looks at what is published. It may be read now or much later, and must be the same. */
static void client_look(struct world *w)
{
	struct client *c = &w->client;
	uint64_t published = shm_load_acquire(&w->cq->prod) - w->start;

	assert_in_range(published, c->seen, c->submitted);
	for (; c->seen < published; c->seen++)
		c->looks[c->seen] = w->cqes[ring_slot(w->start + c->seen, ENTRIES)];
}

static void client_read(struct world *w)
{
	struct client *c = &w->client;

	client_look(w);
	for (; c->read < c->seen; c->read++) {
		const struct wire_cqe *cqe = &w->cqes[ring_slot(w->start + c->read, ENTRIES)];

		assert_memory_equal(cqe, &c->looks[c->read], sizeof(*cqe));
		assert_true(cqe->user_data < c->submitted);
		c->times[cqe->user_data]++;
		c->status[cqe->user_data] = cqe->status;
		if ((cqe->flags & WIRE_CQE_NOT_STARTED) != 0)
			assert_true(block_of(w, (uint32_t)cqe->user_data)->y[0] == 0);
	}
	shm_store_release(&w->cq->cons, w->start + c->read);
}

static struct wire_sqe build_entry(struct world *w, uint32_t i)
{
	struct wire_sqe sqe = {.user_data = i, .generation = GENERATION};
	struct block *b = block_of(w, i);
	uint32_t op;

	if (w->kinds[i] == 'n')
		return sqe;
	if (w->kinds[i] == 'c') {
		sqe.opcode = WIRE_OP_CANCEL;
		for (uint32_t k = 0; k < i; k++)
			sqe.target = w->kinds[k] == 's' ? k : sqe.target;
		return sqe;
	}
	assert_non_null(op_find("softmax", &op));
	*b = (struct block){.call = {.op = op, .n_in = 1, .n_out = 1}};
	for (uint32_t t = 0; t < 2; t++)
		b->tensors[t] = (struct wire_tensor){.dtype = GPUQ_F32, .rank = 1, .dims = {4}};
	b->tensors[0].offset = (uint64_t)((char *)b->x - w->arena);
	b->tensors[1].offset = (uint64_t)((char *)b->y - w->arena);
	if (w->kinds[i] == 's') /* slow: see calibrate() */
		b->tensors[0].dtype = GPUQ_F16;
	if (w->kinds[i] == 'r')
		b->call.op = op_count;
	sqe.opcode = WIRE_OP_CALL;
	sqe.args_offset = i * BLOCK;
	sqe.args_bytes = offsetof(struct block, x);
	return sqe;
}

/* Submits up to the next '|'. */
static void client_submit(struct world *w)
{
	const char *rest = w->script;

	for (uint32_t i = 0; i < w->client.submitted || *rest == '|'; rest++)
		i += *rest != '|';
	for (; *rest != '|' && *rest != 0; rest++) {
		uint32_t i = w->client.submitted++;
		w->sqes[ring_slot(w->start + i, ENTRIES)] = build_entry(w, i);
	}
	shm_store_release(&w->sq->prod, w->start + w->client.submitted);
}

/* --- Lives -------------------------------------------------------------------------------- */

static void serve(struct world *w, struct dispatch *d, struct channel *ch, struct history *h)
{
	for (;;) {
		d->budget = PASS_BUDGET;
		int taken = dispatch_channel_pass(d, ch);

		assert_true(taken >= 0);
		dispatch_run(d);
		if (w->device.n > 0) {
			finish_one(&w->device);
			continue;
		}
		if (taken > 0 || ch->in_flight > 0)
			continue;
		if (w->client.submitted == w->n)
			break;
		client_read(w);
		client_submit(w);
		if (h != NULL)
			keep(w, h);
	}
}

/* What dispatch executes itself, and what it leaves to the device. */
static void calibrate(struct world *w)
{
	const struct cost_line fast = {1, 0.01}, slow = {1e6, 0.01};
	const bool swapped = w->recalibrates && w->deaths % 2 == 1;
	uint32_t op;

	assert_non_null(op_find("softmax", &op));
	w->cost.lines[op][GPUQ_F32] = swapped ? slow : fast;
	w->cost.lines[op][GPUQ_F16] = swapped ? fast : slow;
}

/* A device process from its start until everything is done. The history is NULL: unwatched. */
static void live(struct world *w, struct history *h)
{
	struct dispatch *d;
	struct channel *ch;
	struct pollfd bell = {.events = POLLIN};
	int fds[3] = {dup(w->fds[0]), dup(w->fds[1]), -1};

	w->lives++;
	calibrate(w);
	w->msg.recover = w->deaths > 0;
	assert_int_equal(bell_pipe(&bell.fd, &fds[2]), 0);
	assert_int_equal(channel_create(&w->msg, fds, &w->ledger[NUMBER],
				 &w->options.stats.channels[NUMBER], &ch),
		0);
	ch->device_stats = &w->options.stats.devices[0];
	watch_begin(w, h, ch);
	if (w->msg.recover)
		channel_recover(ch, w->entries, SLOTS);
	assert_int_equal(ch->state, CHANNEL_OPEN);
	assert_int_equal(dispatch_create(&w->options, &d), 0);
	d->channels[NUMBER] = ch;
	d->n_channels = 1;
	ch->share = share_join(&d->shares, w->msg.uid, w->msg.weight);
	serve(w, d, ch, h);
	watch_end(h);
	dispatch_destroy(d);
	channel_destroy(ch);
	/* The client sleeps until all is done. A predecessor may have died before it rang. */
	assert_int_equal(poll(&bell, 1, 0), 1);
	close(bell.fd);
}

static void check_status(const struct world *w, uint32_t i)
{
	int status = w->client.status[i];
	bool lost = w->deaths > 0 && status == -GPUQ_EDEVICE;

	switch (w->kinds[i]) {
	case 'n':
		assert_int_equal(status, 0);
		break;
	case 'r':
		assert_int_equal(status, -GPUQ_EOP);
		break;
	case 'c':
		assert_true(status == 0 || status == -EALREADY || status == -ENOENT);
		break;
	case 's':
		assert_true(status == 0 || status == -ECANCELED || lost);
		break;
	default:
		assert_true(status == 0 || lost);
	}
}

/* Everything was completed once, and the ledger has no notes but the stranger's. */
static void check_end(struct world *w)
{
	client_read(w);
	for (uint32_t i = 0; i < w->n; i++) {
		if (w->client.times[i] != 1)
			fail_msg("\"%s\" from %#llx, %u deaths: entry %u completed %u times",
				w->script, (unsigned long long)w->start, w->deaths, i,
				w->client.times[i]);
		check_status(w, i);
	}
	assert_int_equal(w->sq->cons, w->start + w->n);
	assert_int_equal(w->cq->prod, w->start + w->n);
	for (uint32_t i = 0; i < SLOTS; i++)
		assert_int_equal(w->entries[i].generation, i == 2 ? GENERATION : 0);
}

/*
 * The crash rule: what is published or executed is committed. What a client that outlives gpuqd
 * sees as not released has not been executed: see client/fate.c.
 */
static void check_state(const struct world *w, const struct state *s)
{
	const struct ledger_channel *l = &s->channels[NUMBER];
	const struct wire_ring *sq = (const void *)s->shared;
	const struct wire_ring *cq = (const void *)(s->shared + WIRE_CQ_RING - WIRE_SQ_RING);
	const uint64_t cons = l->commit[l->which].sq_cons - w->start;
	const uint64_t prod = l->commit[l->which].cq_prod - w->start;

	assert_true(cons <= w->n && prod <= w->n);
	assert_true(sq->cons - w->start <= cons);
	assert_true(cq->prod - w->start <= prod);
	assert_int_equal(s->executed >> cons, 0);
	assert_int_equal(s->executed >> (sq->cons - w->start), 0);
}

/*
 * One life from this state on, and all lives after its deaths. At a death the client reads what
 * is there or it does not, both after the first one and in turns after the others.
 */
static void explore(struct world *w, const struct state *from, uint32_t deaths)
{
	struct history h = {0};
	struct state *next = malloc(sizeof(*next));

	assert_non_null(next);
	if (deaths > 0)
		h.states = malloc(STATES * sizeof(*h.states));
	restore(w, from);
	live(w, deaths > 0 ? &h : NULL);
	check_end(w);
	for (uint32_t i = 0; i < 2 * h.n; i++) {
		struct state *s = &h.states[i / 2];

		if (s->deaths > 0 && (i % 4 == 1 || i % 4 == 2))
			continue;
		check_state(w, s);
		restore(w, s);
		w->deaths++;
		if (i % 2 == 0)
			client_look(w);
		else
			client_read(w);
		save(w, next);
		explore(w, next, deaths - 1);
	}
	free(h.states);
	free(next);
}

/* --- Tests -------------------------------------------------------------------------------- */

static void map_world(struct world *w)
{
	const struct wire_layout l = wire_layout(ENTRIES, ENTRIES, ARENA);
	void *base;

	assert_int_equal(l.arena_offset, 3 * WIRE_PAGE_SIZE);
	w->fds[0] = segment_create("ledger", l.segment_bytes);
	w->fds[1] = bell_eventfd();
	assert_int_equal(segment_map(w->fds[0], l.segment_bytes, true, &base), 0);
	w->base = base;
	w->arena = w->base + l.arena_offset;
	w->sq = (void *)(w->base + WIRE_SQ_RING);
	w->cq = (void *)(w->base + WIRE_CQ_RING);
	w->sqes = (void *)(w->base + l.sqe_offset);
	w->cqes = (void *)(w->base + l.cqe_offset);
	w->ledger = mmap(
		NULL, WIRE_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(w->ledger, MAP_FAILED);
	w->entries = (void *)(w->ledger + CHANNELS);
}

static void start_world(struct world *w)
{
	struct wire_page *page = aligned_alloc(WIRE_PAGE_SIZE, sizeof(*page));

	memset(w, 0, sizeof(*w));
	map_world(w);
	memset(page, 0, sizeof(*page));
	w->options = (struct dispatch_options){
		.device = &w->device,
		.graphs = (struct graphs *)&w->device,
		.page = page,
		.ledger = w->ledger,
		.cost = &w->cost,
		.max_channels = CHANNELS,
		.max_in_flight = SLOTS,
		.inline_max_ns = 2000,
		.wake_fd = bell_eventfd(),
	};
	clock_calibrate(&w->options.clock);
	char name[300], object[STATS_PATH_MAX];
	int fd;
	snprintf(name, sizeof(name), "%s/ledger", harness_tmpdir());
	assert_int_equal(stats_create(name,
				 &(struct stats_sizes){.clients = 1,
					 .channels = CHANNELS,
					 .ops = op_count,
					 .graphs = 64,
					 .captures = 64},
				 &w->options.stats, &fd),
		0);
	close(fd);
	stats_name(name, object, sizeof(object));
	shm_unlink(object);
}

static void stop_world(struct world *w)
{
	const struct stats_device *stats = &w->options.stats.devices[0];

	print_message("%llu lives\n", (unsigned long long)w->lives);
	assert_true(shm_load_relaxed(&stats->inline_runs) > 0);
	assert_true(shm_load_relaxed(&stats->worker_runs) > 0);
	stats_close(&w->options.stats);
	close(w->options.wake_fd);
	close(w->fds[0]);
	close(w->fds[1]);
	free(w->options.page);
}

/* A script from its beginning, in a ring that holds completions of its own entries already. */
static void run_script(struct world *w, const char *script, uint64_t start, uint32_t deaths)
{
	struct state *first = malloc(sizeof(*first));

	w->script = script;
	w->start = start;
	w->n = 0;
	for (const char *s = script; *s != 0; s++) {
		if (*s != '|')
			w->kinds[w->n++] = *s;
	}
	assert_true(w->n <= ENTRIES);
	w->msg = (struct devlink_msg){
		.channel = NUMBER,
		.generation = GENERATION,
		.abi = WIRE_ABI,
		.weight = 1,
		.sq_entries = ENTRIES,
		.cq_entries = ENTRIES,
		.arena_bytes = ARENA,
		.start = start,
	};
	w->deaths = 0;
	memset(&w->client, 0, sizeof(w->client));
	memset(w->arena, 0, ARENA);
	for (uint32_t i = 0; i < ENTRIES; i++)
		w->cqes[i] = (struct wire_cqe){.user_data = i % w->n};
	w->sq->prod = w->sq->cons = w->sq->wake_at = start;
	w->cq->prod = w->cq->cons = start;
	w->cq->wake_at = start + w->n;
	memset(w->entries, 0, SLOTS * sizeof(*w->entries));
	w->entries[2] = (struct ledger_entry){99, start, UINT64_MAX, !NUMBER, GENERATION};
	w->ledger[NUMBER].commit[0].sq_cons = w->ledger[NUMBER].commit[1].sq_cons = start;
	w->ledger[NUMBER].commit[0].cq_prod = w->ledger[NUMBER].commit[1].cq_prod = start;
	save(w, first);
	explore(w, first, deaths);
	free(first);
}

static void run_scripts(
	const char *const *scripts, uint64_t start, uint32_t deaths, bool recalibrates)
{
	struct world *w = malloc(sizeof(*w));

#ifndef __x86_64__
	harness_skip("steps over stores on x86-64 only");
#endif
	start_world(w);
	w->recalibrates = recalibrates;
	for (; *scripts != NULL; scripts++)
		run_script(w, *scripts, start, deaths);
	stop_world(w);
	free(w);
}

/* With waiting for slots, with a full ring, with a client that waits in between. */
static void test_deaths(void **state)
{
	static const char *const scripts[] = {"n", "nnnnnnnn", "iiiiiiii", "ssssssss", "nisrnisn",
		"ssc|ssci", "sn|is|ri|c", "cs|ic|nnnn", NULL};

	run_scripts(scripts, 0, 1, false);
}

/* Every pair of deaths. */
static void test_deaths_of_successors(void **state)
{
	static const char *const scripts[] = {"nis", "sni", "i|sn", "ssc", "s|s", "r|i", NULL};

	run_scripts(scripts, 0, 2, false);
}

/* An entry that its first life began to execute itself goes to the device in the second. */
static void test_deaths_with_other_costs(void **state)
{
	static const char *const scripts[] = {"i", "s", "ni", "is", "si", "n|sn", NULL};

	run_scripts(scripts, 0, 2, true);
}

/* Indices wrap after the first entry, and after the second. */
static void test_deaths_at_the_wrap(void **state)
{
	static const char *const once[] = {
		"nnnnnnnn", "iiiiiiii", "ssssssss", "nisrnisn", "ssc|ssci", "r|sn|isi", NULL};
	static const char *const twice[] = {"nis", "sni", "i|sn", "ssc", NULL};

	run_scripts(once, UINT64_MAX, 1, false);
	run_scripts(once, UINT64_MAX - 1, 1, false);
	run_scripts(twice, UINT64_MAX, 2, false);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST_LONG(test_deaths, 60),
		HARNESS_TEST_LONG(test_deaths_of_successors, 60),
		HARNESS_TEST_LONG(test_deaths_with_other_costs, 60),
		HARNESS_TEST_LONG(test_deaths_at_the_wrap, 60),
	};

	return harness_run("ledger", tests, sizeof(tests) / sizeof(tests[0]));
}
