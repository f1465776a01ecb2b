/* SPDX-License-Identifier: MIT */
/*
 * test-bad-input.c: whatever a client asks for, gpuqd refuses what is wrong by name, the same
 * channel goes on working, and another client notices nothing.
 */
#include "shm/segment.h"
#include "tests/integration/children.h"
#include "tests/integration/client.h"
#include "tests/integration/wire-client.h"
#include "tests/integration/world.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define ENTRIES 16u
#define ARENA_BYTES (1u << 20)
#define NEIGHBOUR_JOBS 8u

/* --- A neighbour, who works all the time --------------------------------------------------- */

static void neighbour_main(struct child *child)
{
	struct random rng = {child->seed};
	struct client c;
	struct load load;

	client_open(&c, NULL);
	load_create(&load, &c, JOB_KINDS, 16, NEIGHBOUR_JOBS, &rng);
	child_say_ready(child);
	while (!child_should_stop(child)) {
		assert_true(load_submit(&load) >= 0);
		assert_true(load_take(&load, PATIENCE_NS) > 0);
		shm_store_release(&child->page->completed, load.completed);
	}
	assert_int_equal(load_finish(&load), 0);
	assert_int_equal(gpuq_rescues(c.ch), 0);
	load_destroy(&load);
	client_close(&c);
}

struct street {
	struct harness_daemon *daemon;
	struct child neighbour;
};

static void street_start(struct street *s)
{
	s->daemon = harness_daemon_start(NULL);
	s->neighbour = (struct child){.run = neighbour_main, .seed = 1};
	child_start(&s->neighbour);
	child_await_ready(&s->neighbour);
}

/* The neighbour completes more than it has so far. */
static void street_check(const struct street *s)
{
	uint64_t before = shm_load_acquire(&s->neighbour.page->completed);

	for (unsigned int ms = 0; ms < 10000 * harness_slowness(); ms += 5) {
		if (shm_load_acquire(&s->neighbour.page->completed) > before)
			return;
		raw_pause();
	}
	fail_msg("the neighbour does not get on");
}

/* What gpuqd holds now, for world_await(): of work, as much as the neighbour may have there. */
static struct world street_look(const struct street *s)
{
	struct world w = world_look(s->daemon);

	w.in_flight = w.queued = w.executing = NEIGHBOUR_JOBS;
	return w;
}

static void street_end(struct street *s)
{
	child_stop(&s->neighbour);
	child_free(&s->neighbour);
	struct world w = world_look(s->daemon);
	assert_int_equal(w.device_restarts, 0);
	harness_daemon_destroy(s->daemon);
}

/* --- Through the public interface ---------------------------------------------------------- */

/* What a call is made of; a test spoils it. */
struct request {
	const char *op;
	struct gpuq_tensor in[3], out[1];
	struct gpuq_param param;
	uint32_t n_in, n_params;
};

static struct gpuq_tensor matrix(void *data, uint64_t rows, uint64_t columns)
{
	return (struct gpuq_tensor){
		.data = data, .dtype = GPUQ_F32, .rank = 2, .dims = {rows, columns}};
}

/* y[2,4] = x[2,8] w[4,8]: all of it in `data`. */
static struct request good_gemv(float *data)
{
	return (struct request){
		.op = "gemv_batched",
		.in = {matrix(data, 2, 8), matrix(data + 16, 4, 8)},
		.out = {matrix(data + 48, 2, 4)},
		.n_in = 2,
	};
}

static struct request good_softmax(float *data)
{
	return (struct request){
		.op = "softmax",
		.in = {matrix(data, 2, 8)},
		.out = {matrix(data + 16, 2, 8)},
		.param = {"temperature", GPUQ_PARAM_F64, {.f64 = 0.5}},
		.n_in = 1,
		.n_params = 1,
	};
}

static int request_create(struct client *c, const struct request *r, struct gpuq_call **ret_call)
{
	return gpuq_call_create(
		c->ch, r->op, r->in, r->n_in, r->out, 1, &r->param, r->n_params, ret_call);
}

/* Runs it to its end. Returns the completion's status, and the sentence about it. */
static int request_run(struct client *c, const struct request *r, char *text, size_t size)
{
	struct gpuq_completion done;
	struct gpuq_call *call;

	if (request_create(c, r, &call) < 0)
		fail_msg("gpuq_call_create: %s", gpuq_error_detail());
	const struct gpuq_submission s = {.call = call, .user_data = 5};
	assert_int_equal(gpuq_submit(c->ch, &s, 1), 1);
	assert_int_equal(gpuq_wait(c->ch, &done, 1, PATIENCE_NS), 1);
	assert_int_equal(done.user_data, 5);
	gpuq_explain(call, &done, text, size);
	gpuq_call_destroy(call);
	return done.status;
}

/* gpuqd refuses the request; the sentence begins with `words`. */
static void check_refused(struct street *street, struct client *c, const struct request *r,
	int status, const char *words)
{
	char text[256];
	int got = request_run(c, r, text, sizeof(text));

	if (got != status)
		fail_msg(
			"%s, expected %s: %s", gpuq_error_name(got), gpuq_error_name(status), text);
	if (strncmp(text, words, strlen(words)) != 0)
		fail_msg("\"%s\" does not begin with \"%s\"", text, words);
	client_check_works(c);
	street_check(street);
}

static float *arena_floats(struct client *c, size_t n)
{
	void *data;

	assert_int_equal(gpuq_alloc(c->ch, n * sizeof(float), &data), 0);
	memset(data, 0, n * sizeof(float));
	return data;
}

static void test_tensors(void **state)
{
	struct street street;
	struct client c;
	struct request r;
	char text[256];

	street_start(&street);
	client_open(&c, NULL);
	float *data = arena_floats(&c, 64);
#define REFUSED(change, status, words)                         \
	do {                                                   \
		r = good_gemv(data);                           \
		change;                                        \
		check_refused(&street, &c, &r, status, words); \
	} while (0)
	REFUSED(r.in[0].dtype = GPUQ_I64, -GPUQ_EDTYPE, "gemv_batched: input x: ");
	REFUSED(r.in[1].dtype = GPUQ_F16, -GPUQ_EDTYPE, "gemv_batched: input w: ");
	REFUSED(r.out[0].dtype = GPUQ_I8, -GPUQ_EDTYPE, "gemv_batched: output y: ");
	REFUSED(r.in[0].rank = 1, -GPUQ_ERANK, "gemv_batched: input x: ");
	REFUSED(r.in[1] = ((struct gpuq_tensor){data, GPUQ_F32, 4, {1, 1, 4, 8}}), -GPUQ_ERANK,
		"gemv_batched: input w: ");
	REFUSED(r.in[1].dims[1] = 7, -GPUQ_ESHAPE, "gemv_batched: input w: ");
	REFUSED(r.out[0].dims[0] = 3, -GPUQ_ESHAPE, "gemv_batched: output y: ");
	REFUSED((r.in[2] = matrix(data, 5, 1), r.in[2].rank = 1, r.n_in = 3), -GPUQ_ESHAPE,
		"gemv_batched: input bias: ");
	REFUSED(r.in[0].dims[0] = UINT64_MAX / 2, -GPUQ_EOVERFLOW, "gemv_batched: input x: ");
	REFUSED((r.in[1].dims[0] = 1ull << 32, r.in[1].dims[1] = 1ull << 32), -GPUQ_EOVERFLOW,
		"gemv_batched: input w: ");
	REFUSED((r.in[0].dims[0] = 0, r.in[0].dims[1] = UINT64_MAX), -GPUQ_EOVERFLOW,
		"gemv_batched: input x: ");
	REFUSED(r.in[0].dims[0] = ARENA_BYTES, -GPUQ_EBOUNDS, "gemv_batched: input x: ");
	REFUSED(r.out[0].dims[1] = 1ull << 40, -GPUQ_EBOUNDS, "gemv_batched: output y: ");
	REFUSED(r.in[0].data = (char *)data + 2, -GPUQ_EALIGN, "gemv_batched: input x: ");
	REFUSED(r.out[0].data = (char *)data + 1, -GPUQ_EALIGN, "gemv_batched: output y: ");
	REFUSED(memset(&r.in[1], 0, sizeof(r.in[1])), -GPUQ_EMISSING, "gemv_batched: input w: ");
	r = good_gemv(data);
	assert_int_equal(request_run(&c, &r, text, sizeof(text)), 0);
	assert_string_equal(text, "gemv_batched: success");
	client_close(&c);
	street_end(&street);
}

static void test_parameters(void **state)
{
	struct street street;
	struct client c;
	struct request r;
	char text[256];

	street_start(&street);
	client_open(&c, NULL);
	float *data = arena_floats(&c, 64);
#undef REFUSED
#define REFUSED(change)                                                                           \
	do {                                                                                      \
		r = good_softmax(data);                                                           \
		change;                                                                           \
		check_refused(&street, &c, &r, -GPUQ_EPARAM, "softmax: parameter temperature: "); \
	} while (0)
	REFUSED(r.param.value.f64 = 0);
	REFUSED(r.param.value.f64 = -1);
	REFUSED(r.param.value.f64 = __builtin_nan(""));
	REFUSED(r.param.value.f64 = __builtin_inf());
	REFUSED(r.param.type = GPUQ_PARAM_I64);
	REFUSED(r.param.type = 77);
	r = good_softmax(data);
	assert_int_equal(request_run(&c, &r, text, sizeof(text)), 0);
	client_close(&c);
	street_end(&street);
}

/* What the library sees by itself never reaches gpuqd. */
static void test_calls_that_cannot_be_made(void **state)
{
	struct street street;
	struct gpuq_call *call;
	struct client c;
	struct request r;
	float outside[64];

	street_start(&street);
	client_open(&c, NULL);
	float *data = arena_floats(&c, 64);
#undef REFUSED
#define REFUSED(change, status, words)                                               \
	do {                                                                         \
		r = good_softmax(data);                                              \
		change;                                                              \
		assert_int_equal(request_create(&c, &r, &call), status);             \
		if (strstr(gpuq_error_detail(), words) == NULL)                      \
			fail_msg("\"%s\" lacks \"%s\"", gpuq_error_detail(), words); \
		client_check_works(&c);                                              \
		street_check(&street);                                               \
	} while (0)
	REFUSED(r.op = "matmul", -GPUQ_EOP, "matmul");
	REFUSED(r.op = "", -GPUQ_EOP, "");
	REFUSED(r.n_in = 3, -GPUQ_EARGS, "softmax");
	REFUSED(r.in[0].dtype = 99, -GPUQ_EDTYPE, "x");
	REFUSED(r.in[0].rank = 9, -GPUQ_ERANK, "x");
	REFUSED(r.in[0].data = outside, -GPUQ_EBOUNDS, "x");
	REFUSED(r.out[0].data = (char *)data - ARENA_BYTES, -GPUQ_EBOUNDS, "y");
	REFUSED(r.param.name = "heat", -GPUQ_EPARAM, "heat");
	client_close(&c);
	street_end(&street);
}

static void test_arena_exhausted(void **state)
{
	const struct gpuq_channel_options options = {.arena_bytes = 65536};
	struct street street;
	struct gpuq_call *call;
	struct client c;
	struct request r;
	void *rest, *more;

	street_start(&street);
	client_open(&c, &options);
	float *data = arena_floats(&c, 64);
	assert_int_equal(gpuq_alloc(c.ch, 65536 - 256, &rest), 0);
	assert_int_equal(gpuq_alloc(c.ch, 1, &more), -ENOSPC);
	r = good_gemv(data);
	assert_int_equal(request_create(&c, &r, &call), -ENOSPC);
	assert_int_equal(gpuq_alloc(c.ch, 65537, &more), -GPUQ_ETOOBIG);
	assert_non_null(strstr(gpuq_error_detail(), "65536"));
	client_check_works(&c);
	street_check(&street);
	assert_int_equal(gpuq_free(c.ch, rest), 0);
	assert_int_equal(request_create(&c, &r, &call), 0);
	client_close(&c);
	street_end(&street);
}

static void test_ring_full(void **state)
{
	const struct gpuq_channel_options options = {.sq_entries = 8, .cq_entries = 16};
	struct gpuq_submission many[17] = {0};
	struct gpuq_completion done[17];
	struct street street;
	struct client c;

	street_start(&street);
	client_open(&c, &options);
	for (uint32_t round = 0; round < 20; round++) {
		uint32_t n = 0;
		while (n < 16) {
			int r = gpuq_submit(c.ch, many, 17);
			assert_true(r > 0 || r == -EAGAIN);
			n += r > 0 ? (uint32_t)r : 0;
		}
		assert_int_equal(gpuq_submit(c.ch, many, 1), -EAGAIN);
		street_check(&street);
		for (n = 0; n < 16;) {
			int r = gpuq_wait(c.ch, done, 17, PATIENCE_NS);
			assert_true(r > 0);
			n += (uint32_t)r;
		}
		assert_int_equal(gpuq_in_flight(c.ch), 0);
		client_check_works(&c);
	}
	client_close(&c);
	street_end(&street);
}

static void expect_no_daemon(const char *path)
{
	char sentence[400];
	struct gpuq *g;

	snprintf(sentence, sizeof(sentence), "no daemon at %s; start gpuqd or set GPUQ_SOCKET",
		path);
	assert_true(gpuq_connect(&(struct gpuq_options){.socket = path}, &g) < 0);
	assert_string_equal(gpuq_error_detail(), sentence);
}

/* Before the first start, after an end, and after a crash that left the socket behind. */
static void test_no_daemon(void **state)
{
	char path[300];

	snprintf(path, sizeof(path), "%s/gpuq-0", harness_tmpdir());
	expect_no_daemon(path);
	struct harness_daemon *daemon = harness_daemon_start(NULL);
	assert_int_equal(harness_daemon_stop(daemon), 0);
	expect_no_daemon(path);
	harness_daemon_destroy(daemon);
	daemon = harness_daemon_start(NULL);
	harness_daemon_kill(daemon);
	assert_int_equal(access(path, F_OK), 0);
	expect_no_daemon(path);
	harness_daemon_destroy(daemon);
}

/* --- By hand ------------------------------------------------------------------------------- */

/* The next completion is this error, for the entry with this user_data. */
static void expect_error(struct street *street, struct wire_client *c, uint64_t user_data,
	int status, uint32_t blame)
{
	const struct wire_cqe cqe = wire_client_complete(c);

	assert_int_equal(cqe.user_data, user_data);
	assert_int_equal(cqe.status, status);
	assert_int_equal(cqe.flags >> WIRE_CQE_ARG_SHIFT, blame);
	wire_client_check_works(c);
	street_check(street);
}

static void test_entries(void **state)
{
	struct street street;
	struct wire_client c;
	struct wire_sqe sqe;

	street_start(&street);
	wire_client_open(&c, street.daemon->socket, WIRE_ABI, ENTRIES, ARENA_BYTES);
	uint32_t op = wire_client_op(&c, "softmax");
#undef REFUSED
#define REFUSED(change, status)                              \
	do {                                                 \
		sqe = wire_client_softmax(&c, op, 64, 8, 3); \
		change;                                      \
		wire_client_submit(&c, &sqe);                \
		expect_error(&street, &c, 3, status, 0);     \
	} while (0)
	REFUSED(sqe.opcode = 77, -GPUQ_EOPCODE);
	REFUSED(sqe.flags = 1, -EINVAL);
	REFUSED(sqe.flags = 0x8000, -EINVAL);
	REFUSED(sqe.reserved = 1ull << 63, -EINVAL);
	REFUSED(sqe.session = 1, -EINVAL);
	REFUSED(sqe.max_completions = 2, -EINVAL);
	REFUSED(sqe.generation++, -GPUQ_ESTALE);
	REFUSED(sqe.args_bytes = 0, -GPUQ_EARGS);
	REFUSED(sqe.args_bytes += 8, -GPUQ_EARGS);
	REFUSED(sqe.args_bytes = UINT32_MAX - 7, -GPUQ_EARGS);
	REFUSED(sqe.args_offset += 4, -GPUQ_EALIGN);
	REFUSED(sqe.args_offset = ARENA_BYTES, -GPUQ_EBOUNDS);
	REFUSED(sqe.args_offset = UINT32_MAX - 7, -GPUQ_EBOUNDS);
	REFUSED((void)0, 0);
	wire_client_close(&c);
	street_end(&street);
}

static void test_argument_blocks(void **state)
{
	struct street street;
	struct wire_client c;
	struct wire_sqe sqe;
	struct wire_call *call;
	struct wire_tensor *t;

	street_start(&street);
	wire_client_open(&c, street.daemon->socket, WIRE_ABI, ENTRIES, ARENA_BYTES);
	uint32_t op = wire_client_op(&c, "softmax");
#undef REFUSED
#define REFUSED(change, status, blame)                       \
	do {                                                 \
		sqe = wire_client_softmax(&c, op, 64, 8, 3); \
		call = wire_client_call(&c, &sqe);           \
		t = wire_client_tensors(&c, &sqe);           \
		change;                                      \
		wire_client_submit(&c, &sqe);                \
		expect_error(&street, &c, 3, status, blame); \
	} while (0)
	REFUSED(call->op = 1000, -GPUQ_EOP, 0);
	REFUSED(call->op = UINT32_MAX, -GPUQ_EPIPELINE, 0);
	REFUSED(call->n_in = UINT16_MAX, -GPUQ_EARGS, 0);
	REFUSED(call->n_out = 0, -GPUQ_EARGS, 0);
	REFUSED(call->n_params = 9, -GPUQ_EARGS, 0);
	REFUSED(call->reserved0 = 1, -EINVAL, 0);
	REFUSED(call->reserved1 = 1, -EINVAL, 0);
	REFUSED(call->reserved2[0] = 1, -EINVAL, 0);
	REFUSED(t[0].offset = ARENA_BYTES - 4, -GPUQ_EBOUNDS, 1);
	REFUSED(t[0].offset = UINT64_MAX - 3, -GPUQ_EBOUNDS, 1);
	REFUSED(t[1].offset = 1ull << 63, -GPUQ_EBOUNDS, 1 + GPUQ_MAX_INPUTS);
	REFUSED(t[0].dims[0] = UINT64_MAX / 4, -GPUQ_EOVERFLOW, 1);
	REFUSED(t[0].dims[0] = ARENA_BYTES, -GPUQ_EBOUNDS, 1);
	REFUSED(t[0].buffer = 1, -GPUQ_EBUFFER, 1);
	REFUSED(t[0].offset += 1, -GPUQ_EALIGN, 1);
	REFUSED(t[0].dtype = UINT16_MAX, -GPUQ_EDTYPE, 1);
	REFUSED(t[0].rank = UINT16_MAX, -GPUQ_ERANK, 1);
	REFUSED(t[0].dims[1] = 1, -EINVAL, 1);
	REFUSED((void)(call + t->rank), 0, 0);
	wire_client_close(&c);
	street_end(&street);
}

/* An index that cannot be shuts that connection, with a sentence, and nothing else. */
static void test_impossible_index(void **state)
{
	static const uint64_t lies[] = {ENTRIES + 1, 1ull << 63, UINT64_MAX};
	struct street street;
	struct wire_client c;
	struct raw_answer a;

	street_start(&street);
	const struct world before = street_look(&street);
	for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
		wire_client_open(&c, street.daemon->socket, WIRE_ABI, ENTRIES, ARENA_BYTES);
		wire_client_check_works(&c);
		c.sq.prod += lies[i];
		ring_publish(&c.sq);
		bell_ring_eventfd(c.doorbell_fd);
		assert_true(raw_receive(c.fd, &a));
		assert_int_equal(a.h.type, MSG_GOODBYE);
		assert_int_equal(a.goodbye.status, -GPUQ_EPOISONED);
		assert_non_null(strstr(a.goodbye.text, "ring indices"));
		raw_expect_end(c.fd);
		street_check(&street);
		wire_client_close(&c);
	}
	world_await(street.daemon, &before);
	street_end(&street);
}

/* The only channel segment that this process has mapped. */
static void *find_segment(void)
{
	FILE *f = fopen("/proc/self/maps", "re");
	char line[512];
	void *base = NULL;

	assert_non_null(f);
	while (fgets(line, sizeof(line), f) != NULL) {
		if (strstr(line, "memfd:gpuq-channel") != NULL)
			assert_int_equal(sscanf(line, "%p-", &base), 1);
	}
	fclose(f);
	assert_non_null(base);
	return base;
}

/*
 * A program that writes over its rings, and looks only when gpuqd has taken them back: it hears
 * why from a poll and from a submission alike, though neither asks the system for anything.
 */
static void test_own_rings_overwritten(void **state)
{
	const struct gpuq_submission s = {.user_data = 1};
	struct gpuq_completion done;
	struct street street;
	struct client c;

	street_start(&street);
	const struct world before = street_look(&street);
	for (uint32_t i = 0; i < 4; i++) {
		client_open(&c, NULL);
		if (i % 2 == 0)
			client_check_works(&c);
		struct wire_ring *sq = (void *)((char *)find_segment() + WIRE_SQ_RING);
		shm_store_release(&sq->prod, 1ull << 40);
		world_await(street.daemon, &before);
		int r = i < 2 ? gpuq_poll(c.ch, &done, 1) : gpuq_submit(c.ch, &s, 1);
		assert_int_equal(r, -GPUQ_EPOISONED);
		if (strstr(gpuq_error_detail(), "ring indices") == NULL)
			fail_msg("no reason: %s", gpuq_error_detail());
		client_close(&c);
		street_check(&street);
	}
	street_end(&street);
}

/* --- Versions ------------------------------------------------------------------------------ */

static void test_other_version(void **state)
{
	static const uint32_t versions[][2] = {{WIRE_ABI + 1, WIRE_ABI + 9}, {0, 0}};
	struct street street;

	street_start(&street);
	for (size_t i = 0; i < 2; i++) {
		struct msg_hello hello = raw_hello(versions[i][0], versions[i][1]);
		int fd = raw_connect(street.daemon->socket);
		raw_send(fd, &hello, MSG_HELLO, sizeof(hello), 1);
		raw_expect_error(fd, -GPUQ_EABI, "update the older one");
		raw_expect_end(fd);
		close(fd);
		street_check(&street);
	}
	street_end(&street);
}

/* A client of the version before: its entries have two fields less, and everything works. */
static void test_older_version_works(void **state)
{
	struct street street;
	struct wire_client c;
	struct wire_cqe cqe;

	street_start(&street);
	wire_client_open(&c, street.daemon->socket, WIRE_ABI_OLDEST, ENTRIES, ARENA_BYTES);
	uint32_t op = wire_client_op(&c, "softmax");
	wire_client_check_works(&c);
	for (uint64_t n = 8; n <= 80000; n *= 100) {
		struct wire_sqe sqe = wire_client_softmax(&c, op, 0, n, n);
		float *x = (float *)(c.arena + wire_client_tensors(&c, &sqe)[0].offset);
		float *y = (float *)(c.arena + wire_client_tensors(&c, &sqe)[1].offset);
		x[0] = 1.0f;
		wire_client_submit(&c, &sqe);
		cqe = wire_client_complete(&c);
		assert_int_equal(cqe.user_data, n);
		assert_int_equal(cqe.status, 0);
		assert_float_equal(y[0] / y[n - 1], 2.718282f, 1e-3f);
		sqe.trace_id = 1;
		wire_client_submit(&c, &sqe);
		expect_error(&street, &c, n, -EINVAL, 0);
	}
	wire_client_close(&c);
	street_end(&street);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_tensors),
		HARNESS_TEST(test_parameters),
		HARNESS_TEST(test_calls_that_cannot_be_made),
		HARNESS_TEST(test_arena_exhausted),
		HARNESS_TEST(test_ring_full),
		HARNESS_TEST(test_no_daemon),
		HARNESS_TEST(test_entries),
		HARNESS_TEST(test_argument_blocks),
		HARNESS_TEST(test_impossible_index),
		HARNESS_TEST(test_own_rings_overwritten),
		HARNESS_TEST(test_other_version),
		HARNESS_TEST(test_older_version_works),
	};

	return harness_run("bad input", tests, sizeof(tests) / sizeof(tests[0]));
}
