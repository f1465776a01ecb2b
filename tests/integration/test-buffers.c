/* SPDX-License-Identifier: MIT */
/*
 * test-buffers.c: device buffers as one client uses them: filled, read, given to every operator,
 * exported, freed, lost with the device process; and everything that must be refused.
 */
#include "tests/integration/client.h"
#include "tests/integration/world.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MIB (1ull << 20)
#define UNIT (2 * MIB)

static struct gpuq_buf *alloc_buf(struct gpuq *g, uint64_t bytes)
{
	const struct gpuq_buf_options options = {.bytes = bytes};
	struct gpuq_buf *buf;

	if (gpuq_buf_alloc(g, &options, &buf) < 0)
		fail_msg("gpuq_buf_alloc: %s", gpuq_error_detail());
	return buf;
}

/* Submits a call and returns its completion. */
static struct gpuq_completion run(struct client *c, struct gpuq_call *call)
{
	const struct gpuq_submission s = {.call = call, .user_data = 77};
	struct gpuq_completion done;

	assert_int_equal(gpuq_submit(c->ch, &s, 1), 1);
	assert_int_equal(gpuq_wait(c->ch, &done, 1, PATIENCE_NS), 1);
	assert_int_equal(done.user_data, 77);
	return done;
}

static void fill(uint8_t *data, uint64_t n, uint64_t seed)
{
	for (uint64_t i = 0; i < n; i++)
		data[i] = (uint8_t)((i + seed) * 2654435761u >> 13);
}

/* --- Copies -------------------------------------------------------------------------------- */

static void test_zero_at_first(void **state)
{
	struct harness_daemon *daemon = harness_daemon_start(NULL);
	struct client c;
	uint8_t data[4096];

	client_open(&c, NULL);
	struct gpuq_buf *buf = alloc_buf(c.g, sizeof(data));
	assert_int_equal(gpuq_buf_bytes(buf), sizeof(data));
	assert_int_equal(gpuq_buf_device(buf), 0);
	assert_int_not_equal(gpuq_buf_handle(buf), 0);
	memset(data, 1, sizeof(data));
	assert_int_equal(gpuq_buf_read(c.ch, buf, 0, data, sizeof(data)), 0);
	for (size_t i = 0; i < sizeof(data); i++)
		assert_int_equal(data[i], 0);
	gpuq_buf_free(buf);
	client_close(&c);
	harness_daemon_destroy(daemon);
}

/* Larger than the arena, at odd places, while other submissions complete. */
static void test_write_and_read(void **state)
{
	static uint8_t data[5 * MIB + 12345], back[sizeof(data)];
	const struct gpuq_channel_options options = {.arena_bytes = 256 << 10};
	struct harness_daemon *daemon = harness_daemon_start(NULL);
	const struct gpuq_submission null = {.user_data = 5};
	struct gpuq_completion done[4];
	struct client c;

	client_open(&c, &options);
	struct gpuq_buf *buf = alloc_buf(c.g, sizeof(data) + 7);
	fill(data, sizeof(data), 1);
	for (uint32_t i = 0; i < 3; i++)
		assert_int_equal(gpuq_submit(c.ch, &null, 1), 1);
	assert_int_equal(gpuq_buf_write(c.ch, buf, 7, data, sizeof(data)), 0);
	assert_int_equal(gpuq_buf_read(c.ch, buf, 7, back, sizeof(data)), 0);
	assert_memory_equal(back, data, sizeof(data));
	/* Theirs were kept. */
	assert_int_equal(gpuq_poll(c.ch, done, 4), 3);
	assert_int_equal(done[2].user_data, 5);
	/* A range in the middle, and nothing else. */
	assert_int_equal(gpuq_buf_write(c.ch, buf, 1000, "gpuq", 4), 0);
	memcpy(data + 993, "gpuq", 4);
	assert_int_equal(gpuq_buf_read(c.ch, buf, 7, back, sizeof(data)), 0);
	assert_memory_equal(back, data, sizeof(data));
	assert_int_equal(gpuq_buf_write(c.ch, buf, 0, NULL, 0), 0);
	assert_int_equal(gpuq_in_flight(c.ch), 0);
	gpuq_buf_free(buf);
	client_close(&c);
	harness_daemon_destroy(daemon);
}

/* As submissions: many at once, each with its completion, cancelled ones and late ones too. */
static void test_copies_as_calls(void **state)
{
	enum { N = 32, BYTES = 10000 };
	const struct gpuq_channel_options options = {.arena_bytes = 4 * MIB};
	struct harness_daemon *daemon = harness_daemon_start(NULL);
	struct gpuq_call *to[N], *from[N];
	struct gpuq_completion done;
	uint8_t *a[N], *b[N];
	struct client c;

	client_open(&c, &options);
	struct gpuq_buf *buf = alloc_buf(c.g, N * BYTES);
	for (uint32_t i = 0; i < N; i++) {
		assert_int_equal(gpuq_alloc(c.ch, BYTES, (void **)&a[i]), 0);
		assert_int_equal(gpuq_alloc(c.ch, BYTES, (void **)&b[i]), 0);
		fill(a[i], BYTES, i);
		memset(b[i], 0, BYTES);
		assert_int_equal(gpuq_buf_copy_create(
					 c.ch, buf, i * BYTES, a[i], BYTES, GPUQ_TO_BUFFER, &to[i]),
			0);
		assert_int_equal(gpuq_buf_copy_create(c.ch, buf, i * BYTES, b[i], BYTES,
					 GPUQ_FROM_BUFFER, &from[i]),
			0);
	}
	for (uint32_t turn = 0; turn < 2; turn++) {
		for (uint32_t i = 0; i < N; i++) {
			const struct gpuq_submission s = {
				.call = turn == 0 ? to[i] : from[i], .user_data = i};
			assert_int_equal(gpuq_submit(c.ch, &s, 1), 1);
		}
		for (uint32_t i = 0; i < N; i++) {
			assert_int_equal(gpuq_wait(c.ch, &done, 1, PATIENCE_NS), 1);
			assert_int_equal(done.status, 0);
		}
	}
	for (uint32_t i = 0; i < N; i++)
		assert_memory_equal(a[i], b[i], BYTES);
	/* One that is late before it starts. */
	const struct gpuq_submission late = {.call = to[0], .timeout_ns = 1};
	assert_int_equal(gpuq_submit(c.ch, &late, 1), 1);
	assert_int_equal(gpuq_wait(c.ch, &done, 1, PATIENCE_NS), 1);
	assert_int_equal(done.status, -ETIMEDOUT);
	for (uint32_t i = 0; i < N; i++) {
		gpuq_call_destroy(to[i]);
		gpuq_call_destroy(from[i]);
	}
	gpuq_buf_free(buf);
	client_close(&c);
	harness_daemon_destroy(daemon);
}

/* --- Operators ----------------------------------------------------------------------------- */

/* Moves a tensor of the arena into a buffer, at an offset of its own. */
static void move_tensor(
	struct client *c, struct gpuq_tensor *t, const struct gpuq_buf *buf, uint64_t offset)
{
	uint64_t n = 4;

	for (uint32_t i = 0; i < t->rank; i++)
		n *= t->dims[i];
	assert_int_equal(gpuq_buf_write(c->ch, buf, offset, t->data, n), 0);
	t->data = NULL;
	t->buffer = buf;
	t->offset = offset;
}

static float *floats(struct client *c, uint64_t n, double base)
{
	float *x;

	assert_int_equal(gpuq_alloc(c->ch, n * sizeof(*x), (void **)&x), 0);
	for (uint64_t i = 0; i < n; i++)
		x[i] = (float)(base + (double)(i % 7) / 8);
	return x;
}

struct every_op {
	const char *name;
	uint32_t n_in;
	struct gpuq_tensor in[2], out;
};

static struct gpuq_tensor f32(float *data, uint32_t rank, uint64_t d0, uint64_t d1, uint64_t d2)
{
	return (struct gpuq_tensor){
		.data = data, .dtype = GPUQ_F32, .rank = rank, .dims = {d0, d1, d2}};
}

/* Small ones run on dispatch's thread, large ones on workers. */
static void run_in_arena_and_buffer(struct client *c, struct every_op *op)
{
	uint64_t n = op->out.dims[0] * op->out.dims[1];
	float *want = op->out.data, *got = malloc(n * sizeof(*got));
	struct gpuq_buf *buf = alloc_buf(c->g, 8 * MIB);
	struct gpuq_call *call;

	assert_non_null(got);
	assert_int_equal(
		gpuq_call_create(c->ch, op->name, op->in, op->n_in, &op->out, 1, NULL, 0, &call),
		0);
	assert_int_equal(run(c, call).status, 0);
	gpuq_call_destroy(call);
	for (uint32_t i = 0; i < op->n_in; i++)
		move_tensor(c, &op->in[i], buf, 64 + i * 4 * MIB);
	op->out.data = NULL;
	op->out.buffer = buf;
	op->out.offset = 7 * MIB;
	assert_int_equal(
		gpuq_call_create(c->ch, op->name, op->in, op->n_in, &op->out, 1, NULL, 0, &call),
		0);
	assert_int_equal(run(c, call).status, 0);
	assert_int_equal(gpuq_buf_read(c->ch, buf, 7 * MIB, got, n * sizeof(*got)), 0);
	assert_memory_equal(got, want, n * sizeof(*got));
	gpuq_call_destroy(call);
	gpuq_buf_free(buf);
	free(got);
}

static void test_every_operator(void **state)
{
	static const uint64_t sizes[] = {8, 400};
	const struct gpuq_channel_options options = {.arena_bytes = 64 * MIB};
	struct harness_daemon *daemon = harness_daemon_start(NULL);
	struct client c;

	client_open(&c, &options);
	for (uint32_t i = 0; i < 2; i++) {
		uint64_t n = sizes[i];
		struct every_op ops[] = {
			{"softmax", 1, {f32(floats(&c, n * n, 0), 2, n, n, 0)},
				f32(floats(&c, n * n, 9), 2, n, n, 0)},
			{"gemv_batched", 2,
				{f32(floats(&c, 4 * n, 1), 2, 4, n, 0),
					f32(floats(&c, n * n, 2), 2, n, n, 0)},
				f32(floats(&c, 4 * n, 9), 2, 4, n, 0)},
			{"price_vectors", 2,
				{f32(floats(&c, 2 * n * 16, 1), 3, 2, n, 16),
					f32(floats(&c, 16, 2), 1, 16, 0, 0)},
				f32(floats(&c, 2 * n, 9), 2, 2, n, 0)},
		};
		for (uint32_t k = 0; k < sizeof(ops) / sizeof(ops[0]); k++)
			run_in_arena_and_buffer(&c, &ops[k]);
	}
	client_close(&c);
	harness_daemon_destroy(daemon);
}

/* A pipeline whose tensors all lie in one buffer, as in the arena; one is missing, then found. */
static void test_pipeline(void **state)
{
	enum { N = 48 };
	static const struct gpuq_pipeline_tensor tensors[] = {
		{"x", GPUQ_PIPELINE_INPUT, GPUQ_F32, 2, {4, N}},
		{"w", GPUQ_PIPELINE_INPUT, GPUQ_F32, 2, {N, N}},
		{"scores", GPUQ_PIPELINE_INNER, GPUQ_F32},
		{"p", GPUQ_PIPELINE_OUTPUT, GPUQ_F32},
	};
	static const struct gpuq_pipeline_step steps[] = {
		{.op = "gemv_batched", .inputs = {"x", "w"}, .outputs = {"scores"}},
		{.op = "softmax", .inputs = {"scores"}, .outputs = {"p"}},
	};
	struct harness_daemon *daemon = harness_daemon_start(NULL);
	struct gpuq_pipeline *pipeline;
	struct gpuq_call *call;
	float got[4 * N];
	struct client c;

	client_open(&c, NULL);
	if (gpuq_pipeline_create(c.g, 0, "classify", tensors, 4, steps, 2, &pipeline) < 0)
		fail_msg("%s", gpuq_error_detail());
	struct gpuq_tensor in[] = {
		f32(floats(&c, 4 * N, 0), 2, 4, N, 0), f32(floats(&c, N * N, 1), 2, N, N, 0)};
	struct gpuq_tensor out = f32(floats(&c, 4 * N, 9), 2, 4, N, 0);
	const float *want = out.data;
	assert_int_equal(gpuq_pipeline_call_create(c.ch, pipeline, in, 2, &out, 1, &call), 0);
	assert_int_equal(run(&c, call).status, 0);
	gpuq_call_destroy(call);
	struct gpuq_buf *buf = alloc_buf(c.g, UNIT), *gone = alloc_buf(c.g, 1);
	move_tensor(&c, &in[0], buf, 0);
	move_tensor(&c, &in[1], buf, 65536);
	out.data = NULL;
	out.buffer = buf;
	out.offset = MIB;
	assert_int_equal(gpuq_pipeline_call_create(c.ch, pipeline, in, 2, &out, 1, &call), 0);
	/* Often enough to be captured, and beyond. */
	for (uint32_t i = 0; i < 50; i++) {
		memset(got, 0, sizeof(got));
		assert_int_equal(gpuq_buf_write(c.ch, buf, MIB, got, sizeof(got)), 0);
		assert_int_equal(run(&c, call).status, 0);
		assert_int_equal(gpuq_buf_read(c.ch, buf, MIB, got, sizeof(got)), 0);
		assert_memory_equal(got, want, sizeof(got));
	}
	gpuq_call_destroy(call);
	in[1].buffer = gone;
	in[1].offset = 0;
	assert_int_equal(gpuq_pipeline_call_create(c.ch, pipeline, in, 2, &out, 1, &call), 0);
	struct gpuq_completion done = run(&c, call);
	assert_int_equal(done.status, -GPUQ_EBOUNDS);
	gpuq_buf_free(gone);
	done = run(&c, call);
	assert_int_equal(done.status, -GPUQ_EBUFFER);
	char text[256];
	assert_non_null(strstr(gpuq_explain(call, &done, text, sizeof(text)), "input w:"));
	gpuq_call_destroy(call);
	gpuq_buf_free(buf);
	client_close(&c);
	harness_daemon_destroy(daemon);
}

/* --- Refusals ------------------------------------------------------------------------------ */

/* The status with which a softmax of [n] fails, x at `offset` of the buffer. */
static int softmax_status(
	struct client *c, const struct gpuq_buf *buf, uint64_t offset, uint64_t n, char text[256])
{
	struct gpuq_tensor x = {.dtype = GPUQ_F32, .rank = 1, .dims = {n}, .buffer = buf};
	struct gpuq_tensor y = x;
	struct gpuq_call *call;

	x.offset = offset;
	y.buffer = NULL;
	assert_int_equal(gpuq_alloc(c->ch, 64, &y.data), 0);
	int r = gpuq_call_create(c->ch, "softmax", &x, 1, &y, 1, NULL, 0, &call);
	if (r == 0) {
		const struct gpuq_completion done = run(c, call);
		gpuq_explain(call, &done, text, 256);
		gpuq_call_destroy(call);
		r = done.status;
	}
	gpuq_free(c->ch, y.data);
	return r;
}

static void test_bounds(void **state)
{
	struct harness_daemon *daemon = harness_daemon_start(NULL);
	char text[256] = "", data[16] = "";
	struct gpuq_call *call;
	struct client c, other;

	client_open(&c, NULL);
	client_open(&other, NULL);
	struct gpuq_buf *buf = alloc_buf(c.g, 100);
	assert_int_equal(softmax_status(&c, buf, 84, 4, text), 0);
	assert_int_equal(softmax_status(&c, buf, 88, 4, text), -GPUQ_EBOUNDS);
	assert_non_null(strstr(text, "softmax: input x:"));
	/* The allocation is larger, and that is nobody's business. */
	assert_int_equal(softmax_status(&c, buf, 96, 16, text), -GPUQ_EBOUNDS);
	assert_int_equal(softmax_status(&c, buf, 2, 4, text), -GPUQ_EALIGN);
	assert_int_equal(softmax_status(&c, buf, 0, 1ull << 61, text), -GPUQ_EOVERFLOW);
	assert_int_equal(softmax_status(&c, buf, 104, 1, text), -GPUQ_EBOUNDS);
	assert_int_equal(softmax_status(&c, buf, UINT64_MAX - 3, 4, text), -GPUQ_EBOUNDS);
	/* A buffer of another connection. */
	assert_int_equal(softmax_status(&other, buf, 0, 4, text), -GPUQ_EBUFFER);
	assert_int_equal(gpuq_buf_write(other.ch, buf, 0, data, 1), -GPUQ_EBUFFER);
	/* Both at once. */
	const struct gpuq_tensor both = {
		.data = data, .buffer = buf, .dtype = GPUQ_F32, .rank = 1, .dims = {1}};
	assert_int_equal(
		gpuq_call_create(c.ch, "softmax", &both, 1, &both, 1, NULL, 0, &call), -EINVAL);
	/* Copies. */
	assert_int_equal(gpuq_buf_write(c.ch, buf, 90, data, 11), -GPUQ_EBOUNDS);
	assert_int_equal(gpuq_buf_read(c.ch, buf, 101, data, 0), -GPUQ_EBOUNDS);
	assert_int_equal(gpuq_buf_read(c.ch, buf, 8, data, UINT64_MAX), -GPUQ_EBOUNDS);
	assert_int_equal(
		gpuq_buf_copy_create(c.ch, buf, 0, data, 16, GPUQ_TO_BUFFER, &call), -GPUQ_EBOUNDS);
	gpuq_buf_free(buf);
	gpuq_buf_free(NULL);
	client_close(&other);
	client_close(&c);
	harness_daemon_destroy(daemon);
}

static void test_freed_handle(void **state)
{
	struct harness_daemon *daemon = harness_daemon_start(NULL);
	struct gpuq_call *copy;
	struct client c;
	char *data;

	client_open(&c, NULL);
	struct gpuq_buf *buf = alloc_buf(c.g, 100);
	assert_int_equal(gpuq_alloc(c.ch, 100, (void **)&data), 0);
	assert_int_equal(gpuq_buf_copy_create(c.ch, buf, 0, data, 100, GPUQ_FROM_BUFFER, &copy), 0);
	assert_int_equal(run(&c, copy).status, 0);
	uint32_t handle = gpuq_buf_handle(buf);
	gpuq_buf_free(buf);
	assert_int_equal(run(&c, copy).status, -GPUQ_EBUFFER);
	/* The record may be used again, the handle is another. */
	for (uint32_t i = 0; i < 100; i++) {
		buf = alloc_buf(c.g, 1);
		assert_int_not_equal(gpuq_buf_handle(buf), handle);
		assert_int_equal(run(&c, copy).status, -GPUQ_EBUFFER);
		gpuq_buf_free(buf);
	}
	assert_int_equal(gpuq_buf_accept(c.g, handle, &buf), -GPUQ_EBUFFER);
	gpuq_call_destroy(copy);
	client_close(&c);
	harness_daemon_destroy(daemon);
}

static int try_alloc(struct gpuq *g, uint64_t bytes, uint32_t device, uint32_t form)
{
	const struct gpuq_buf_options options = {.bytes = bytes, .device = device, .form = form};
	struct gpuq_buf *buf;
	int r = gpuq_buf_alloc(g, &options, &buf);

	if (r == 0)
		gpuq_buf_free(buf);
	return r;
}

static void test_limits(void **state)
{
	static const char *const args[] = {"--max-client-bytes", "10M", "--max-user-bytes", "16M",
		"--max-buffers", "6", "--max-buffers-per-user", "5", NULL};
	struct harness_daemon *daemon = harness_daemon_start(args);
	struct gpuq_buf *bufs[6];
	struct client c, other;

	client_open(&c, NULL);
	client_open(&other, NULL);
	assert_int_equal(try_alloc(c.g, 0, 0, 0), -EINVAL);
	assert_int_equal(try_alloc(c.g, 1, 0, 3), -EINVAL);
	assert_int_equal(try_alloc(c.g, 1, 1, 0), -GPUQ_ENODEV);
	if (!harness_on_gpu()) {
		assert_int_equal(try_alloc(c.g, 1, 0, GPUQ_BUF_IPC), -EOPNOTSUPP);
		assert_non_null(strstr(gpuq_error_detail(), "ask for another"));
	}
	assert_int_equal(try_alloc(c.g, UINT64_MAX, 0, 0), -GPUQ_ELIMIT);
	assert_int_equal(try_alloc(c.g, 9 * MIB, 0, 0), -GPUQ_ELIMIT);
	assert_non_null(strstr(gpuq_error_detail(), "max_client_bytes"));
	/* Whole units count, whatever was asked for. */
	for (uint32_t i = 0; i < 4; i++)
		bufs[i] = alloc_buf(c.g, 1);
	assert_int_equal(try_alloc(c.g, 1, 0, 0), -GPUQ_ELIMIT);
	assert_int_equal(try_alloc(other.g, 6 * MIB, 0, 0), -GPUQ_ELIMIT);
	assert_non_null(strstr(gpuq_error_detail(), "max_user_bytes"));
	bufs[4] = alloc_buf(other.g, 1);
	assert_int_equal(try_alloc(other.g, 1, 0, 0), -GPUQ_ELIMIT);
	assert_non_null(strstr(gpuq_error_detail(), "max_buffers_per_user"));
	/* What was freed is back when that returns. */
	for (uint32_t i = 0; i < 50; i++) {
		gpuq_buf_free(bufs[0]);
		bufs[0] = alloc_buf(c.g, UNIT);
	}
	for (uint32_t i = 0; i < 5; i++)
		gpuq_buf_free(bufs[i]);
	client_close(&other);
	client_close(&c);
	harness_daemon_destroy(daemon);
}

/* A device that has no memory says so; nothing is counted, and the next one may have some. */
static void test_no_memory(void **state)
{
	static const char *const args[] = {"--max-client-bytes", "6M", "--test-faults",
		"export_create:1=ENOMEM,export_create:2=EIO", NULL};
	struct harness_daemon *daemon = harness_daemon_start(args);
	struct client c;

	client_open(&c, NULL);
	assert_int_equal(try_alloc(c.g, 4 * MIB, 0, 0), -ENOMEM);
	assert_non_null(strstr(gpuq_error_detail(), "it has not so much memory left"));
	assert_int_equal(try_alloc(c.g, 4 * MIB, 0, 0), -EIO);
	assert_int_equal(try_alloc(c.g, 4 * MIB, 0, 0), 0);
	client_check_works(&c);
	client_close(&c);
	harness_daemon_destroy(daemon);
}

/* --- Exports ------------------------------------------------------------------------------- */

/* A GPU's memory is opened by libgpuq-cuda: tests/integration/test-cuda-buffers.c. */
static void need_mappable(void)
{
	if (harness_on_gpu())
		harness_skip("memory of a GPU cannot be mapped by the CPU");
}

static void test_export(void **state)
{
	need_mappable();
	struct harness_daemon *daemon = harness_daemon_start(NULL);
	struct gpuq_buf_export export;
	struct client c;
	char data[8];

	client_open(&c, NULL);
	struct gpuq_buf *buf = alloc_buf(c.g, 3 * MIB);
	assert_int_equal(gpuq_buf_export(buf, &export), 0);
	assert_int_equal(export.form, GPUQ_BUF_FD);
	assert_int_equal(export.bytes, 3 * MIB);
	assert_int_equal(export.whole_bytes, 4 * MIB);
	assert_string_equal(export.uuid, "");
	assert_int_not_equal(export.pid_namespace, 0);
	char *map =
		mmap(NULL, export.whole_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, export.fd, 0);
	assert_true(map != MAP_FAILED);
	/* Both ways. */
	assert_int_equal(gpuq_buf_write(c.ch, buf, 5, "to map", 7), 0);
	assert_string_equal(map + 5, "to map");
	memcpy(map + 3 * MIB - 8, "by map", 7);
	assert_int_equal(gpuq_buf_read(c.ch, buf, 3 * MIB - 8, data, 7), 0);
	assert_string_equal(data, "by map");
	/* Many times, and no descriptor stays behind. */
	for (uint32_t i = 0; i < 50; i++) {
		struct gpuq_buf_export again;
		assert_int_equal(gpuq_buf_export(buf, &again), 0);
		close(again.fd);
	}
	munmap(map, export.whole_bytes);
	close(export.fd);
	gpuq_buf_free(buf);
	client_close(&c);
	harness_daemon_destroy(daemon);
}

/* A descriptor that is cut, punched or kept takes nothing from gpuqd. */
static void test_hostile_descriptor(void **state)
{
	need_mappable();
	struct harness_daemon *daemon = harness_daemon_start(NULL);
	struct gpuq_buf_export export;
	struct client c;
	char data[64];

	client_open(&c, NULL);
	struct gpuq_buf *buf = alloc_buf(c.g, UNIT);
	assert_int_equal(gpuq_buf_export(buf, &export), 0);
	assert_int_equal(gpuq_buf_write(c.ch, buf, 0, "content", 8), 0);
	assert_int_equal(ftruncate(export.fd, 0), -1);
	assert_int_equal(ftruncate(export.fd, 2 * UNIT), -1);
	assert_int_equal(
		fallocate(export.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, UNIT), 0);
	assert_int_equal(gpuq_buf_read(c.ch, buf, 0, data, sizeof(data)), 0);
	for (size_t i = 0; i < sizeof(data); i++)
		assert_int_equal(data[i], 0);
	char *map = mmap(NULL, UNIT, PROT_READ | PROT_WRITE, MAP_SHARED, export.fd, 0);
	assert_true(map != MAP_FAILED);
	memset(map, 0x5a, UNIT);
	gpuq_buf_free(buf);
	/* Its pages are gone, whoever still has them mapped. */
	assert_int_equal(map[UNIT - 1], 0);
	client_check_works(&c);
	munmap(map, UNIT);
	close(export.fd);
	client_close(&c);
	harness_daemon_destroy(daemon);
}

/* --- Ends ---------------------------------------------------------------------------------- */

/* What is not freed goes with the connection, also while it is used. */
static void test_connection_frees(void **state)
{
	const struct gpuq_channel_options options = {.arena_bytes = 8 * MIB};
	struct harness_daemon *daemon = harness_daemon_start(NULL);
	const struct world before = world_look(daemon);
	struct gpuq_call *copy;
	struct client c;
	void *data;

	for (uint32_t i = 0; i < 20; i++) {
		client_open(&c, &options);
		struct gpuq_buf *buf = alloc_buf(c.g, 4 * MIB);
		alloc_buf(c.g, 1);
		assert_int_equal(gpuq_alloc(c.ch, 4 * MIB, &data), 0);
		assert_int_equal(
			gpuq_buf_copy_create(c.ch, buf, 0, data, 4 * MIB, GPUQ_TO_BUFFER, &copy),
			0);
		const struct gpuq_submission s = {.call = copy};
		assert_int_equal(gpuq_submit(c.ch, &s, 1), 1);
		if (i % 2 == 0)
			gpuq_buf_free(buf);
		client_close(&c);
	}
	world_await(daemon, &before);
	harness_daemon_destroy(daemon);
}

static void test_device_process_ends(void **state)
{
	struct harness_daemon *daemon = harness_daemon_start(NULL);
	const struct world before = world_look(daemon);
	struct gpuq_buf_export export;
	struct gpuq_call *copy;
	char text[256], *data;
	struct client c;

	client_open(&c, NULL);
	struct gpuq_buf *kept = alloc_buf(c.g, 100), *freed = alloc_buf(c.g, 100);
	assert_int_equal(gpuq_alloc(c.ch, 100, (void **)&data), 0);
	assert_int_equal(
		gpuq_buf_copy_create(c.ch, kept, 0, data, 100, GPUQ_FROM_BUFFER, &copy), 0);
	for (uint32_t life = 0; life < 3; life++) {
		pid_t last = world_device_pid(daemon);
		kill(last, SIGKILL);
		if (life == 1)
			gpuq_buf_free(freed); /* perhaps while there is none */
		(void)world_await_device(daemon, last);
		assert_int_equal(run(&c, copy).status, -GPUQ_ELOST);
		assert_int_equal(softmax_status(&c, kept, 0, 4, text), -GPUQ_ELOST);
		assert_int_equal(gpuq_buf_write(c.ch, kept, 0, data, 4), -GPUQ_ELOST);
		assert_int_equal(gpuq_buf_read(c.ch, kept, 0, data, 4), -GPUQ_ELOST);
		assert_int_equal(gpuq_buf_export(kept, &export), -GPUQ_ELOST);
		assert_int_equal(gpuq_buf_grant(kept, (uint32_t)getpid()), -GPUQ_ELOST);
		/* The same connection goes on with others. */
		struct gpuq_buf *fresh = alloc_buf(c.g, 100);
		assert_int_equal(gpuq_buf_write(c.ch, fresh, 0, data, 100), 0);
		gpuq_buf_free(fresh);
	}
	gpuq_buf_free(kept);
	assert_int_equal(run(&c, copy).status, -GPUQ_EBUFFER);
	gpuq_call_destroy(copy);
	client_close(&c);
	world_await(daemon, &before);
	harness_daemon_destroy(daemon);
}

/* Requests that fall between two device processes are answered by the next one. */
static void test_alloc_between_device_processes(void **state)
{
	struct harness_daemon *daemon = harness_daemon_start(NULL);
	const struct world before = world_look(daemon);
	struct client c;

	client_open(&c, NULL);
	for (uint32_t i = 0; i < 4; i++) {
		pid_t last = world_device_pid(daemon);
		kill(last, SIGKILL);
		struct gpuq_buf *buf = alloc_buf(c.g, UNIT);
		gpuq_buf_free(buf);
		(void)world_await_device(daemon, last);
	}
	client_close(&c);
	world_await(daemon, &before);
	harness_daemon_destroy(daemon);
}

struct waiting {
	pthread_t thread;
	struct gpuq *g;
	struct gpuq_buf *buf;
};

static void *free_main(void *arg)
{
	struct waiting *w = arg;

	gpuq_buf_free(w->buf);
	return NULL;
}

static void *alloc_main(void *arg)
{
	struct waiting *w = arg;

	w->buf = alloc_buf(w->g, UNIT);
	return NULL;
}

/* The device process has been asked and dies without an answer. */
static void test_dies_before_it_answers(void **state)
{
	struct harness_daemon *daemon = harness_daemon_start(NULL);
	const struct world before = world_look(daemon);
	struct client c;

	client_open(&c, NULL);
	for (uint32_t i = 0; i < 3; i++) {
		struct waiting frees = {.g = c.g, .buf = alloc_buf(c.g, UNIT)}, allocs = {.g = c.g};
		pid_t last = world_device_pid(daemon);
		kill(last, SIGSTOP);
		/* One at a time on one connection, so either may be the one that was sent. */
		pthread_create(&frees.thread, NULL, free_main, &frees);
		pthread_create(&allocs.thread, NULL, alloc_main, &allocs);
		usleep(20000);
		kill(last, SIGKILL);
		pthread_join(frees.thread, NULL);
		pthread_join(allocs.thread, NULL);
		(void)world_await_device(daemon, last);
		gpuq_buf_free(allocs.buf);
	}
	client_close(&c);
	world_await(daemon, &before);
	harness_daemon_destroy(daemon);
}

static void test_many(void **state)
{
	static const char *const args[] = {
		"--max-client-bytes", "4G", "--max-user-bytes", "4G", NULL};
	enum { ALL = 1000, AT_ONCE = 100 };
	struct harness_daemon *daemon = harness_daemon_start(args);
	const struct world before = world_look(daemon);
	struct gpuq_buf *bufs[AT_ONCE] = {NULL};
	struct client c;
	uint32_t got;

	client_open(&c, NULL);
	for (uint32_t i = 0; i < ALL; i++) {
		gpuq_buf_free(bufs[i % AT_ONCE]);
		bufs[i % AT_ONCE] = alloc_buf(c.g, 1000);
		assert_int_equal(gpuq_buf_write(c.ch, bufs[i % AT_ONCE], 996, &i, 4), 0);
	}
	for (uint32_t i = ALL - AT_ONCE; i < ALL; i++) {
		assert_int_equal(gpuq_buf_read(c.ch, bufs[i % AT_ONCE], 996, &got, 4), 0);
		assert_int_equal(got, i);
		gpuq_buf_free(bufs[i % AT_ONCE]);
	}
	client_close(&c);
	world_await(daemon, &before);
	harness_daemon_destroy(daemon);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_zero_at_first),
		HARNESS_TEST(test_write_and_read),
		HARNESS_TEST(test_copies_as_calls),
		HARNESS_TEST(test_every_operator),
		HARNESS_TEST(test_pipeline),
		HARNESS_TEST(test_bounds),
		HARNESS_TEST(test_freed_handle),
		HARNESS_TEST(test_limits),
		HARNESS_TEST(test_no_memory),
		HARNESS_TEST(test_export),
		HARNESS_TEST(test_hostile_descriptor),
		HARNESS_TEST(test_connection_frees),
		HARNESS_TEST(test_device_process_ends),
		HARNESS_TEST(test_alloc_between_device_processes),
		HARNESS_TEST(test_dies_before_it_answers),
		HARNESS_TEST_LONG(test_many, 60),
	};

	return harness_run("integration-buffers", tests, sizeof(tests) / sizeof(tests[0]));
}
