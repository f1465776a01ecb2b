/* SPDX-License-Identifier: MIT */
/*
 * test-dispatch-hostile.c: dispatch between a client that obeys and one that writes anything
 * anywhere at any time. The first sees right results only, each once. The second, as long as its
 * indices are right, has one completion with a typed status for each entry, whatever was in it;
 * with wrong indices it is poisoned.
 *
 * All three share one mapping of each channel, so that ThreadSanitizer sees the real accesses:
 * everything that dispatch reads of a channel it must read atomically. Payloads are exempt, as
 * the wire says: kernels read them while they change. In a siege the attacks of gpuq-attack on
 * memory are made the same way.
 */
#include "tests/daemon/dispatch-rig.h"
#include "tests/hostile/segment.h"

#include "shm/clock.h"
#include "shm/segment.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PLACES 8u /* of the honest client: */
#define PLACE_BYTES 65536u
#define BLOCKS 4u /* of the hostile one; see make_blocks() */
#define BLOCK_AT (RIG_ARENA / 2)
#define BLOCK_WORDS (sizeof(struct rig_softmax) / 8)
#define LARGE 7000u	     /* elements: for a worker */
#define SMALL 8u	     /* for dispatch itself */
#define ENOUGH_ENTRIES 2000u /* of the hostile client */
#define PATIENCE_ROUNDS 100000u
#define SPOILERS 2u	   /* of a channel under siege */
#define LIFE_NS 100000000u /* of such a channel */

/* Two calls of the hostile client may write to the same place. */
const char *__tsan_default_suppressions(void);
__attribute__((visibility("default"))) const char *__tsan_default_suppressions(void)
{
	return "race:kernels/\n";
}

#ifdef __SANITIZE_THREAD__

/* Of the runtime. */
int __tsan_get_report_data(void *report, const char **description, int *count, int *stacks,
	int *accesses, int *places, int *mutexes, int *threads, int *tids, void **sleep_trace,
	unsigned long trace_size);
int __tsan_get_report_mop(void *report, unsigned long number, int *tid, void **address, int *size,
	int *write, int *atomic, void **trace, unsigned long trace_size);

/*
 * The runtime asks this whether a report is suppressed. What it keeps of a thread is short: of an
 * access that lies further back it knows no stack, so that the line above does not match, though it
 * was a kernel's. Such a report says nothing; code that is at fault comes here with its stack, too.
 */
bool tsan_on_report(void *report, bool suppressed) __asm__(
	"_ZN6__tsan8OnReportEPKNS_10ReportDescEb");
__attribute__((visibility("default"))) bool tsan_on_report(void *report, bool suppressed)
{
	void *sleep_trace[1], *trace[1], *address;
	int n_accesses = 0, tid, size, write, atomic, unused[6];
	const char *description;

	__tsan_get_report_data(report, &description, &unused[0], &unused[1], &n_accesses,
		&unused[2], &unused[3], &unused[4], &unused[5], sleep_trace, 1);
	for (int i = 0; i < n_accesses && !suppressed; i++) {
		trace[0] = NULL;
		__tsan_get_report_mop(
			report, (unsigned long)i, &tid, &address, &size, &write, &atomic, trace, 1);
		suppressed = trace[0] == NULL;
	}
	return suppressed;
}

#endif

static uint64_t random_word(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

/* --- The honest client -------------------------------------------------------------------- */

struct honest {
	struct rig_client client;
	struct wire_sqe calls[PLACES]; /* in flight in this place, when busy */
	bool busy[PLACES];
	uint64_t submitted, completed;
};

static void honest_complete(struct honest *h)
{
	const struct wire_cqe cqe = rig_complete(&h->client);
	const uint32_t place = cqe.user_data % PLACES;

	assert_true(cqe.user_data < h->submitted);
	assert_true(h->busy[place]);
	assert_int_equal(cqe.user_data, h->calls[place].user_data);
	assert_int_equal(cqe.status, 0);
	if (h->calls[place].opcode == WIRE_OP_CALL)
		rig_check_softmax(&h->client, &h->calls[place]);
	h->busy[place] = false;
	h->completed++;
}

static void honest_submit(struct honest *h)
{
	const uint64_t i = h->submitted++;
	const uint32_t place = i % PLACES;

	while (h->busy[place])
		honest_complete(h);
	if (i % 4 == 0)
		h->calls[place] = rig_entry(&h->client, WIRE_OP_NULL, i);
	else
		h->calls[place] = rig_softmax(
			&h->client, place * PLACE_BYTES, i % 4 == 1 ? LARGE : SMALL + i % 50, i);
	h->busy[place] = true;
	rig_submit(&h->client, &h->calls[place]);
}

static void honest_finish(struct honest *h)
{
	while (h->completed < h->submitted)
		honest_complete(h);
	assert_true(rig_quiet(&h->client));
}

/* --- The hostile client ------------------------------------------------------------------- */

struct hostile {
	struct rig_client client;
	union {
		struct rig_softmax block;
		uint64_t words[BLOCK_WORDS];
	} right[BLOCKS];
	uint64_t seed;
	bool lies; /* about indices too */
	uint64_t submitted, completed;
	int odd_status; /* one that no client may get */
	uint64_t stop;
};

/* Small and large calls whose tensors begin and end where the arena does. */
static void make_blocks(struct hostile *h)
{
	static const struct {
		uint32_t n, x, y;
	} calls[BLOCKS] = {
		{SMALL, 0, 65536},
		{LARGE, 0, RIG_ARENA - LARGE * 4},
		{SMALL, RIG_ARENA - SMALL * 4, 65536},
		{LARGE, RIG_ARENA - LARGE * 4, 131072},
	};

	for (uint32_t i = 0; i < BLOCKS; i++) {
		struct rig_softmax *block = &h->right[i].block;

		rig_softmax(&h->client, BLOCK_AT, calls[i].n, i);
		memcpy(block, h->client.arena + BLOCK_AT, sizeof(*block));
		block->x.offset = calls[i].x;
		block->y.offset = calls[i].y;
	}
	for (uint32_t i = 0; i < BLOCKS; i++)
		memcpy(h->client.arena + BLOCK_AT + i * sizeof(struct rig_softmax),
			&h->right[i].block, sizeof(struct rig_softmax));
}

/* A value that is wrong in an interesting way, or just wrong. */
static uint64_t wrong_word(struct hostile *h)
{
	static const uint64_t words[] = {0, 1, 4, UINT64_MAX, 1ull << 63, RIG_ARENA, RIG_ARENA - 4,
		SMALL, LARGE, UINT32_MAX, 1ull << 32, (uint64_t)GPUQ_F16 << 32 | 1ull << 48};
	const uint64_t at = random_word(&h->seed) % (2 * sizeof(words) / sizeof(words[0]));

	return at < sizeof(words) / sizeof(words[0]) ? words[at] : random_word(&h->seed);
}

static void spoil_arguments(struct hostile *h)
{
	const uint64_t r = random_word(&h->seed);
	uint64_t *blocks = (void *)(h->client.arena + BLOCK_AT);
	const uint64_t word = (r >> 8) % BLOCK_WORDS;
	/* Mostly a word of another block that is right: calls that run, and that almost do. */
	const uint64_t value =
		r % 8 == 0 ? wrong_word(h) : h->right[(r >> 16) % BLOCKS].words[word];

	shm_store_relaxed(&blocks[(r >> 24) % BLOCKS * BLOCK_WORDS + word], value);
}

static void spoil_entry(struct hostile *h)
{
	const uint64_t r = random_word(&h->seed);
	uint64_t *entries = (void *)h->client.sqes;

	shm_store_relaxed(&entries[r % (RIG_ENTRIES * sizeof(struct wire_sqe) / 8)], wrong_word(h));
}

/* Of this ThreadSanitizer shall know nothing, as if it came from another process. */
__attribute__((no_sanitize_thread)) static void scribble(void *at, uint64_t value)
{
	*(volatile uint64_t *)at = value;
}

static void spoil_payload(struct hostile *h)
{
	uint64_t *arena = (void *)h->client.arena;

	for (uint32_t i = 0; i < 16; i++) {
		const uint64_t at = random_word(&h->seed) % (65536 / 8);

		/* Where x lies, at both ends of the arena. */
		scribble(&arena[i % 2 == 0 ? at : RIG_ARENA / 8 - 1 - at], random_word(&h->seed));
	}
}

/* Any of the six words, near where it should be or far away. */
static void spoil_index(struct hostile *h)
{
	const uint64_t r = random_word(&h->seed);
	struct wire_ring *ring = r % 2 == 0 ? h->client.sq.ring : h->client.cq.ring;
	uint64_t *const words[] = {&ring->prod, &ring->cons, &ring->wake_at};
	uint64_t *word = words[(r >> 8) % 3];
	const uint64_t value = (r >> 16) % 8 == 0
		? wrong_word(h)
		: shm_load_relaxed(word) + (r >> 24) % (2 * RIG_ENTRIES) - RIG_ENTRIES;

	shm_store_relaxed(word, value);
}

/* False when the ring is full. */
static bool hostile_submit(struct hostile *h)
{
	const uint64_t r = random_word(&h->seed);

	if (h->client.sq.prod - shm_load_acquire(&h->client.sq.ring->cons) >= RIG_ENTRIES)
		return false;
	const uint16_t opcode = r % 16 == 0 ? WIRE_OP_CANCEL : WIRE_OP_CALL;
	struct wire_sqe sqe = rig_entry(&h->client, opcode, (r >> 8) % 4);
	if (opcode == WIRE_OP_CALL) {
		const uint32_t k = (uint32_t)(r >> 16) % BLOCKS;

		sqe.args_offset = BLOCK_AT + k * (uint32_t)sizeof(struct rig_softmax);
		sqe.args_bytes = sizeof(struct rig_softmax);
		/* Often right at first. */
		if (r >> 62 != 0)
			shm_copy_out(
				h->client.arena + sqe.args_offset, h->right[k].words, BLOCK_WORDS);
	}
	rig_submit(&h->client, &sqe);
	h->submitted++;
	return true;
}

static bool status_is_typed(int status)
{
	switch (-status) {
	case 0:
	case EINVAL:
	case ETIMEDOUT:
	case ECANCELED:
	case EALREADY:
	case ENOENT:
		return true;
	default:
		return -status >= GPUQ_ESTALE && -status <= GPUQ_ECAPTURE;
	}
}

static void hostile_complete(struct hostile *h)
{
	struct ring_consumer *cq = &h->client.cq;
	struct wire_cqe cqe;

	for (int n = ring_refresh(cq); n > 0; n--) {
		shm_copy_in(
			&cqe, &h->client.cqes[ring_slot(cq->cons++, RIG_ENTRIES)], sizeof(cqe) / 8);
		if (!status_is_typed(cqe.status))
			h->odd_status = cqe.status;
		h->completed++;
	}
	ring_release(cq);
}

static void *hostile_main(void *arg)
{
	struct hostile *h = arg;

	for (uint32_t i = 0;
		shm_load_relaxed(&h->stop) == 0 || (!h->lies && h->submitted < ENOUGH_ENTRIES);
		i++) {
		const bool submitted = hostile_submit(h);

		/* Spoiled too often, no call would ever be right. */
		if (submitted || i % 8 == 0) {
			spoil_arguments(h);
			spoil_entry(h);
			if (i % 4 == 0)
				spoil_payload(h);
		}
		if (!h->lies)
			hostile_complete(h);
		else if (i % 16 == 15)
			spoil_index(h);
		if (!submitted)
			sched_yield();
	}
	for (uint32_t i = 0; !h->lies && i < PATIENCE_ROUNDS && h->completed < h->submitted; i++) {
		hostile_complete(h);
		usleep(100);
	}
	return NULL;
}

/* --- Tests -------------------------------------------------------------------------------- */

/* The honest client makes so many calls while the hostile one does what it does. */
static void run_together(struct honest *honest, struct hostile *hostile, uint32_t calls)
{
	pthread_t thread;

	make_blocks(hostile);
	assert_int_equal(pthread_create(&thread, NULL, hostile_main, hostile), 0);
	for (uint32_t i = 0; i < calls; i++)
		honest_submit(honest);
	honest_finish(honest);
	shm_store_relaxed(&hostile->stop, 1);
	pthread_join(thread, NULL);
}

static void test_anything_in_entries(void **state)
{
	struct honest *honest = calloc(1, sizeof(*honest));
	struct hostile *hostile = calloc(1, sizeof(*hostile));
	struct rig rig;

	rig_start(&rig);
	rig_open(&rig, &honest->client, 0, UINT64_MAX - 99, WIRE_ABI);
	rig_open(&rig, &hostile->client, 1, UINT64_MAX - 99, WIRE_ABI);
	hostile->seed = 0x9e3779b97f4a7c15;
	run_together(honest, hostile, harness_long() ? 20000 : 1000);
	print_message("%llu hostile entries, %llu failed\n", (unsigned long long)hostile->submitted,
		(unsigned long long)shm_load_relaxed(&rig.stats.channels[1].failed));
	assert_true(hostile->submitted > 0);
	assert_int_equal(hostile->completed, hostile->submitted);
	assert_int_equal(hostile->odd_status, 0);
	rig_close(&hostile->client);
	rig_close(&honest->client);
	assert_int_equal(shm_load_relaxed(&rig.stats.devices[0].poisoned), 0);
	rig_stop(&rig);
	free(hostile);
	free(honest);
}

static void test_anything_in_indices(void **state)
{
	const uint32_t rounds = harness_long() ? 200 : 12;
	struct honest *honest = calloc(1, sizeof(*honest));
	struct rig rig;

	rig_start(&rig);
	rig_open(&rig, &honest->client, 0, 0, WIRE_ABI);
	for (uint32_t i = 0; i < rounds; i++) {
		struct hostile *hostile = calloc(1, sizeof(*hostile));

		rig_open(&rig, &hostile->client, 1, i * (UINT64_MAX / 8), WIRE_ABI);
		hostile->seed = i + 1;
		hostile->lies = true;
		run_together(honest, hostile, 60);
		/* If it has been lucky, its luck ends here. */
		shm_store_release(
			&hostile->client.sq.ring->prod, i * (UINT64_MAX / 8) + (1ull << 62));
		bell_ring_eventfd(hostile->client.event_fd);
		rig_expect(&rig, DISPATCH_POISONED, &hostile->client);
		rig_close(&hostile->client);
		free(hostile);
	}
	assert_int_equal(shm_load_relaxed(&rig.stats.devices[0].poisoned), rounds);
	rig_close(&honest->client);
	rig_stop(&rig);
	free(honest);
}

/* --- A siege ------------------------------------------------------------------------------ */

/* A channel under attack: one thread submits, two write over what it has submitted. */
struct besieged {
	struct rig_client client;
	struct wire_client wire; /* the same, as the attacks see it */
	struct work work;
	struct random rng;
	struct segment_assault assaults[SPOILERS];
	uint64_t stop;
};

static void *besieged_main(void *arg)
{
	struct besieged *b = arg;

	while (shm_load_relaxed(&b->stop) == 0) {
		if (work_submit(&b->work))
			continue;
		if (!work_take(&b->work))
			break;
		sched_yield();
	}
	return NULL;
}

static void besieged_open(struct besieged *b, struct rig *rig, uint64_t life)
{
	memset(b, 0, sizeof(*b));
	rig_open(rig, &b->client, 1, life * (UINT64_MAX / 8), WIRE_ABI);
	b->wire = (struct wire_client){
		.channel = b->client.msg.channel,
		.generation = b->client.generation,
		.sq = b->client.sq,
		.cq = b->client.cq,
		.sqes = b->client.sqes,
		.cqes = b->client.cqes,
		.arena = b->client.arena,
		.arena_bytes = RIG_ARENA,
		.doorbell_fd = b->client.event_fd,
		.bell_fd = b->client.pipe_fd,
		.base = b->client.base,
		.bytes = b->client.channel->bytes,
	};
	b->rng.state = life;
	b->work = (struct work){.client = &b->wire, .rng = &b->rng};
	work_begin(&b->work);
}

/* One life of a channel under these attacks, beside an honest client. Returns what was done. */
static uint64_t siege(struct rig *rig, struct honest *honest, uint64_t life)
{
	const enum segment_attack first = (enum segment_attack)(life % (SEGMENT_INDICES + 1));
	struct besieged *b = calloc(1, sizeof(*b));
	pthread_t threads[SPOILERS + 1];
	uint64_t deeds = 0;

	besieged_open(b, rig, life);
	assert_int_equal(pthread_create(&threads[SPOILERS], NULL, besieged_main, b), 0);
	for (uint32_t i = 0; i < SPOILERS; i++) {
		b->assaults[i] = (struct segment_assault){
			.attack = i == 0 ? first : SEGMENT_PAYLOADS,
			.work = &b->work,
			.rng = {life * SPOILERS + i},
		};
		assert_int_equal(
			pthread_create(&threads[i], NULL, segment_spoil_main, &b->assaults[i]), 0);
	}
	const uint64_t end_ns = clock_monotonic_ns() + LIFE_NS;
	while (clock_monotonic_ns() < end_ns)
		honest_submit(honest);
	honest_finish(honest);
	shm_store_relaxed(&b->stop, 1);
	for (uint32_t i = 0; i < SPOILERS; i++)
		shm_store_relaxed(&b->assaults[i].stop, 1);
	for (uint32_t i = 0; i <= SPOILERS; i++)
		pthread_join(threads[i], NULL);
	for (uint32_t i = 0; i < SPOILERS; i++)
		deeds += b->assaults[i].deeds;
	if ((first == SEGMENT_ARGUMENTS || first == SEGMENT_PAYLOADS) && b->work.odd_status != 0)
		fail_msg("a completion with the status %d", b->work.odd_status);
	rig_close(&b->client);
	free(b);
	return deeds;
}

/* TEST_SECONDS says how long. */
static void test_siege(void **state)
{
	const char *text = getenv("TEST_SECONDS");
	const uint64_t seconds = text != NULL ? strtoull(text, NULL, 10)
		: harness_long()	      ? 120
		: harness_slowness() > 1      ? 20
					      : 2;
	const uint64_t start_ns = clock_monotonic_ns();
	struct honest *honest = calloc(1, sizeof(*honest));
	uint64_t life = 0, deeds = 0;
	struct rig rig;

	rig_start(&rig);
	rig_open(&rig, &honest->client, 0, 0, WIRE_ABI);
	/* Each attack has its turn however slow the machine is. */
	for (; life <= SEGMENT_INDICES || clock_monotonic_ns() - start_ns < seconds * 1000000000;
		life++) {
		const uint64_t done = siege(&rig, honest, life);

		assert_true(done > 0);
		deeds += done;
	}
	print_message("%llu lives, %llu deeds, %llu honest calls\n", (unsigned long long)life,
		(unsigned long long)deeds, (unsigned long long)honest->completed);
	rig_close(&honest->client);
	rig_stop(&rig);
	free(honest);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST_LONG(test_anything_in_entries, 60),
		HARNESS_TEST_LONG(test_anything_in_indices, 60),
		HARNESS_TEST_LONG(test_siege, 240),
	};

	return harness_run("dispatch-hostile", tests, sizeof(tests) / sizeof(tests[0]));
}
