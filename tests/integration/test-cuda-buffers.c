/* SPDX-License-Identifier: MIT */
/*
 * test-cuda-buffers.c: device buffers of a gpuqd that drives a real GPU, and libgpuq-cuda with the
 * real driver: what one side writes the other reads, in both forms. Each CUDA client is a process
 * of its own, since a driver leaves descriptors open.
 */
#include "client/cuda/driver.h"
#include "client/cuda/gpuq-cuda.h"
#include "tests/integration/children.h"
#include "tests/integration/client.h"
#include "tests/integration/world.h"

#include <dlfcn.h>
#include <string.h>

#define BYTES (3u << 20)
#define WHOLE (4u << 20)

static const uint32_t forms[] = {GPUQ_BUF_FD, GPUQ_BUF_IPC};

static void fill(uint8_t *data, uint64_t n, uint64_t seed)
{
	for (uint64_t i = 0; i < n; i++)
		data[i] = (uint8_t)((i + seed) * 2654435761u >> 13);
}

/* Copies of the driver, in the primary context that is made current. */
struct copies {
	CUresult (*from)(void *to, CUdeviceptr data, size_t bytes);
	CUresult (*to)(CUdeviceptr data, const void *from, size_t bytes);
};

static void find(void *library, const char *symbol, void *ret_function)
{
	void *found = dlsym(library, symbol);

	assert_non_null(found);
	memcpy(ret_function, &found, sizeof(found));
}

static struct copies use_gpu(const struct gpuq_cuda *cuda)
{
	void *library = dlopen("libcuda.so.1", RTLD_NOW);
	CUresult (*set_current)(CUcontext context);
	CUresult (*retain)(CUcontext * context, CUdevice device);
	struct copies copies;
	CUcontext context;

	assert_non_null(library);
	find(library, "cuMemcpyDtoH_v2", &copies.from);
	find(library, "cuMemcpyHtoD_v2", &copies.to);
	find(library, "cuCtxSetCurrent", &set_current);
	find(library, "cuDevicePrimaryCtxRetain", &retain);
	assert_int_equal(retain(&context, gpuq_cuda_ordinal(cuda)), CUDA_SUCCESS);
	assert_int_equal(set_current(context), CUDA_SUCCESS);
	return copies;
}

static void open_buffer(struct gpuq_buf *buf, struct gpuq_cuda **ret_cuda, CUdeviceptr *ret_data)
{
	void *data;

	if (gpuq_cuda_open(buf, ret_cuda, &data) < 0)
		fail_msg("gpuq_cuda_open: %s", gpuq_cuda_error_detail());
	*ret_data = (uintptr_t)data;
}

/* --- One client ---------------------------------------------------------------------------- */

static void check_both_ways(struct client *c, uint32_t form)
{
	static uint8_t a[WHOLE], b[WHOLE];
	const struct gpuq_buf_options options = {.bytes = BYTES, .form = form};
	struct gpuq_cuda *cuda;
	struct gpuq_buf *buf;
	CUdeviceptr data;

	if (gpuq_buf_alloc(c->g, &options, &buf) < 0)
		fail_msg("gpuq_buf_alloc: %s", gpuq_error_detail());
	open_buffer(buf, &cuda, &data);
	const struct copies gpu = use_gpu(cuda);
	/* All of the allocation is zeros, also what nobody asked for. */
	memset(a, 1, WHOLE);
	assert_int_equal(gpu.from(a, data, WHOLE), CUDA_SUCCESS);
	assert_memory_equal(a, b, WHOLE);
	fill(a, BYTES, form);
	assert_int_equal(gpuq_buf_write(c->ch, buf, 0, a, BYTES), 0);
	assert_int_equal(gpu.from(b, data, BYTES), CUDA_SUCCESS);
	assert_memory_equal(a, b, BYTES);
	fill(a, BYTES, form + 9);
	assert_int_equal(gpu.to(data, a, BYTES), CUDA_SUCCESS);
	assert_int_equal(gpuq_buf_read(c->ch, buf, 0, b, BYTES), 0);
	assert_memory_equal(a, b, BYTES);
	memset(b, 0, WHOLE);
	gpuq_cuda_close(cuda);
	gpuq_buf_free(buf);
}

static void both_ways_main(struct child *child)
{
	const struct gpuq_channel_options options = {.arena_bytes = 8u << 20};
	struct client c;

	client_open(&c, &options);
	for (uint32_t turn = 0; turn < 3; turn++)
		for (uint32_t i = 0; i < 2; i++)
			check_both_ways(&c, forms[i]);
	client_close(&c);
}

static struct harness_daemon *start_on_gpu(void)
{
	static const char *const args[] = {"--device", "cuda", NULL};

	if (dlopen("libcuda.so.1", RTLD_NOW) == NULL)
		harness_skip("no NVIDIA driver is here");
	return harness_daemon_start(args);
}

static void test_both_ways(void **state)
{
	struct child child = {.run = both_ways_main};
	struct harness_daemon *daemon = start_on_gpu();

	child_start(&child);
	child_wait(&child);
	child_free(&child);
	harness_daemon_destroy(daemon);
}

/* --- An operator between two CUDA processes ------------------------------------------------- */

#define N 1000u

/* Accepts the buffer, reads what softmax has left in its second half. */
static void reader_main(struct child *child)
{
	float y[N];
	struct gpuq_cuda *cuda;
	struct gpuq_buf *buf;
	CUdeviceptr data;
	struct client c;
	double sum = 0;

	client_open(&c, NULL);
	child_say_ready(child);
	while (shm_load_acquire_u32(&child->page->go) == 0)
		raw_pause();
	assert_int_equal(gpuq_buf_accept(c.g, child->page->generation, &buf), 0);
	open_buffer(buf, &cuda, &data);
	assert_int_equal(use_gpu(cuda).from(y, data + sizeof(y), sizeof(y)), CUDA_SUCCESS);
	for (uint32_t i = 0; i < N; i++)
		sum += (double)y[i];
	assert_true(sum > 0.999 && sum < 1.001);
	assert_true(y[N - 1] > y[0]);
	gpuq_cuda_close(cuda);
	gpuq_buf_free(buf);
	client_close(&c);
}

static void run_softmax(struct client *c, struct gpuq_buf *buf)
{
	const struct gpuq_tensor x = {.buffer = buf, .dtype = GPUQ_F32, .rank = 1, .dims = {N}};
	struct gpuq_tensor y = x;
	struct gpuq_completion done;
	struct gpuq_call *call;
	float scores[N];

	y.offset = sizeof(scores);
	for (uint32_t i = 0; i < N; i++)
		scores[i] = (float)i / N;
	assert_int_equal(gpuq_buf_write(c->ch, buf, 0, scores, sizeof(scores)), 0);
	assert_int_equal(gpuq_call_create(c->ch, "softmax", &x, 1, &y, 1, NULL, 0, &call), 0);
	const struct gpuq_submission s = {.call = call};
	assert_int_equal(gpuq_submit(c->ch, &s, 1), 1);
	assert_int_equal(gpuq_wait(c->ch, &done, 1, PATIENCE_NS), 1);
	assert_int_equal(done.status, 0);
	gpuq_call_destroy(call);
}

static void test_share(void **state)
{
	struct child child = {.run = reader_main};
	struct harness_daemon *daemon = start_on_gpu();
	struct client c;

	client_open(&c, NULL);
	for (uint32_t i = 0; i < 2; i++) {
		const struct gpuq_buf_options options = {
			.bytes = 2 * N * sizeof(float), .form = forms[i]};
		struct gpuq_buf *buf;
		child_start(&child);
		child_await_ready(&child);
		assert_int_equal(gpuq_buf_alloc(c.g, &options, &buf), 0);
		run_softmax(&c, buf);
		assert_int_equal(gpuq_buf_grant(buf, (uint32_t)child.pid), 0);
		child.page->generation = gpuq_buf_handle(buf);
		shm_store_release_u32(&child.page->go, 1);
		child_wait(&child);
		gpuq_buf_free(buf);
	}
	child_free(&child);
	client_close(&c);
	harness_daemon_destroy(daemon);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST_LONG(test_both_ways, 60),
		HARNESS_TEST_LONG(test_share, 60),
	};

	return harness_run("cuda-buffers", tests, sizeof(tests) / sizeof(tests[0]));
}
