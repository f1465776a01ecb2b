/* SPDX-License-Identifier: MIT */
/*
 * test-cuda.c: libgpuq-cuda with a driver of the tests' own (fake-libcuda.c): both forms, every
 * call that fails and what is left behind, and the sentences. tests/gpu has the real driver.
 */
#include "client/cuda/gpuq-cuda.h"
#include "tests/client/cuda/fake-libcuda.h"
#include "tests/harness.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define BYTES (2u << 20)
#define GPU "GPU-abababab-abab-abab-abab-ababababab"

static const char *program;

/* The driver that the library loads: NULL where it is not the tests'. */
static struct fake_cuda *fake(void)
{
	/* Never closed, as the library does not close it. */
	void *library = dlopen("libcuda.so.1", RTLD_NOW);
	void *found = library != NULL ? dlsym(library, "fake_cuda_state") : NULL;
	fake_cuda_state_fn *function;

	if (found == NULL)
		harness_skip("libcuda.so.1 is not that of the tests: run this with `meson test`");
	memcpy(&function, &found, sizeof(function));
	return function();
}

static void expect_nothing_left(const struct fake_cuda *f)
{
	assert_int_equal(f->contexts, 0);
	assert_int_equal(f->pushed, 0);
	assert_int_equal(f->imported, 0);
	assert_int_equal(f->reserved, 0);
	assert_int_equal(f->mapped, 0);
	assert_int_equal(f->opened, 0);
}

static uint64_t own_namespace(void)
{
	struct stat st;

	assert_int_equal(stat("/proc/self/ns/pid", &st), 0);
	return (uint64_t)st.st_ino;
}

/* As gpuqd would export memory of the second GPU. */
static struct gpuq_buf_export export_fd(void)
{
	struct gpuq_buf_export e = {.form = GPUQ_BUF_FD,
		.bytes = 1000,
		.whole_bytes = BYTES,
		.uuid = GPU "01",
		.driver = "12.8"};

	e.fd = memfd_create("exported", MFD_CLOEXEC);
	assert_true(e.fd >= 0);
	assert_int_equal(ftruncate(e.fd, BYTES), 0);
	return e;
}

static struct gpuq_buf_export export_ipc(const void *data)
{
	struct gpuq_buf_export e = {.form = GPUQ_BUF_IPC,
		.fd = -1,
		.bytes = 1000,
		.whole_bytes = BYTES,
		.uuid = GPU "00",
		.driver = "12.8",
		.pid_namespace = own_namespace()};

	memcpy(e.ipc, &data, sizeof(data));
	return e;
}

static void test_descriptor(void **state)
{
	struct gpuq_buf_export e = export_fd();
	struct fake_cuda *f = fake();
	struct gpuq_cuda *cuda, *again;
	void *data, *other;

	assert_int_equal(pwrite(e.fd, "shared", 7, 5), 7);
	if (gpuq_cuda_import(&e, &cuda, &data) < 0)
		fail_msg("%s", gpuq_cuda_error_detail());
	close(e.fd);
	assert_string_equal((char *)data + 5, "shared");
	assert_int_equal(gpuq_cuda_ordinal(cuda), 1);
	assert_int_equal(f->access_device, 1);
	/* The handle of the memory is not kept, the caller's context is current again. */
	assert_int_equal(f->imported, 0);
	assert_int_equal(f->pushed, 0);
	assert_int_equal(f->contexts, 1);
	e = export_fd();
	assert_int_equal(gpuq_cuda_import(&e, &again, &other), 0);
	close(e.fd);
	assert_ptr_not_equal(data, other);
	assert_int_equal(f->mapped, 2);
	gpuq_cuda_close(cuda);
	gpuq_cuda_close(again);
	gpuq_cuda_close(NULL);
	expect_nothing_left(f);
}

static void test_ipc_handle(void **state)
{
	static char memory[16];
	const struct gpuq_buf_export e = export_ipc(memory);
	struct fake_cuda *f = fake();
	struct gpuq_cuda *cuda;
	void *data;

	if (gpuq_cuda_import(&e, &cuda, &data) < 0)
		fail_msg("%s", gpuq_cuda_error_detail());
	assert_ptr_equal(data, memory);
	assert_int_equal(gpuq_cuda_ordinal(cuda), 0);
	assert_int_equal(f->opened, 1);
	gpuq_cuda_close(cuda);
	expect_nothing_left(f);
}

/* Fails, touches nothing, and says so. */
static void refused(const struct gpuq_buf_export *e, int error, const char *sentence)
{
	struct gpuq_cuda *cuda = (void *)&error;
	void *data = &error;

	assert_int_equal(gpuq_cuda_import(e, &cuda, &data), error);
	assert_ptr_equal(cuda, (void *)&error);
	assert_ptr_equal(data, &error);
	if (strstr(gpuq_cuda_error_detail(), sentence) == NULL)
		fail_msg("says: %s", gpuq_cuda_error_detail());
	expect_nothing_left(fake());
}

static void test_other_places(void **state)
{
	struct gpuq_buf_export fd = export_fd(), ipc = export_ipc(NULL), e;

	e = fd;
	memcpy(e.uuid, "", 1);
	refused(&e, -GPUQ_ENODEV, "CPU device");
	e = fd;
	memcpy(e.uuid, GPU "02", sizeof(GPU "02"));
	refused(&e, -GPUQ_ENODEV,
		GPU "02, which is none of the 2 GPUs that this process sees: add it to "
		    "CUDA_VISIBLE_DEVICES");
	e = ipc;
	e.pid_namespace++;
	refused(&e, -EXDEV, "--pid=host, or allocate the buffer with GPUQ_BUF_FD");
	/* A descriptor crosses that border. */
	e = fd;
	e.pid_namespace = 1;
	struct gpuq_cuda *cuda;
	void *data;
	assert_int_equal(gpuq_cuda_import(&e, &cuda, &data), 0);
	gpuq_cuda_close(cuda);
	close(fd.fd);
}

static void test_driver_refuses(void **state)
{
	static const struct {
		const char *call;
		bool ipc;
	} calls[] = {
		{"cuDevicePrimaryCtxRetain", false},
		{"cuCtxPushCurrent_v2", false},
		{"cuMemImportFromShareableHandle", false},
		{"cuMemAddressReserve", false},
		{"cuMemMap", false},
		{"cuMemSetAccess", false},
		{"cuIpcOpenMemHandle_v2", true},
	};
	struct gpuq_buf_export fd = export_fd(), ipc = export_ipc(&fd);
	struct fake_cuda *f = fake();

	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
		struct gpuq_buf_export e = calls[i].ipc ? ipc : fd;
		f->failing = calls[i].call;
		f->error = 2; /* CUDA_ERROR_OUT_OF_MEMORY */
		refused(&e, -ENOMEM, "no memory");
		f->error = 400; /* CUDA_ERROR_INVALID_HANDLE */
		refused(&e, -EACCES,
			calls[i].ipc ? "needs gpuqd's user, host and IPC namespace"
				     : "CUDA_ERROR_INVALID_HANDLE; the buffer may be freed");
		memcpy(e.driver, "13.0", 5);
		refused(&e, -EACCES, "gpuqd's driver is for CUDA 13.0 and this process's for 12.8");
		f->error = 999;
		refused(&e, -EIO, "CUDA_ERROR_X");
		f->failing = NULL;
		struct gpuq_cuda *cuda;
		void *data;
		assert_int_equal(gpuq_cuda_import(&e, &cuda, &data), 0);
		gpuq_cuda_close(cuda);
		expect_nothing_left(f);
	}
	close(fd.fd);
}

/* One that does not start is tried again. */
static void test_driver_does_not_start(void **state)
{
	struct gpuq_buf_export e = export_fd();
	struct fake_cuda *f = fake();
	struct gpuq_cuda *cuda;
	void *data;

	f->failing = "cuInit";
	f->error = 100;
	refused(&e, -GPUQ_ENODEV, "cuInit() returns 100");
	f->failing = NULL;
	assert_int_equal(gpuq_cuda_import(&e, &cuda, &data), 0);
	gpuq_cuda_close(cuda);
	close(e.fd);
}

/* A buffer of a running gpuqd, which has no GPU here. */
static void test_buffer_of_the_cpu(void **state)
{
	static const char *const args[] = {"--device", "cpu", NULL};
	const struct gpuq_buf_options options = {.bytes = 1};
	struct harness_daemon *daemon = harness_daemon_start(args);
	struct gpuq_cuda *cuda;
	struct gpuq_buf *buf;
	struct gpuq *g;
	void *data;

	assert_int_equal(gpuq_connect(NULL, &g), 0);
	assert_int_equal(gpuq_buf_alloc(g, &options, &buf), 0);
	assert_int_equal(gpuq_cuda_open(buf, &cuda, &data), -GPUQ_ENODEV);
	assert_non_null(strstr(gpuq_cuda_error_detail(), "start gpuqd with --device cuda"));
	harness_daemon_kill(daemon);
	assert_int_equal(gpuq_cuda_open(buf, &cuda, &data), -GPUQ_EGONE);
	assert_string_equal(gpuq_cuda_error_detail(), gpuq_error_detail());
	gpuq_disconnect(g);
	harness_daemon_destroy(daemon);
}

static void test_no_driver(void **state)
{
	const char *const argv[] = {program, "--without-a-driver", NULL};
	struct harness_output output;

	unsetenv("LD_LIBRARY_PATH");
	harness_exec(argv, &output);
	if (output.status == 77)
		harness_skip("there is a real driver here");
	if (output.status == 127)
		harness_skip("its own libraries are found by LD_LIBRARY_PATH only");
	assert_int_equal(output.status, 0);
	assert_non_null(strstr(output.out, "no NVIDIA driver is here (libcuda.so.1:"));
	harness_output_free(&output);
}

static int import_without_a_driver(void)
{
	const struct gpuq_buf_export e = {.form = GPUQ_BUF_FD, .fd = -1};
	struct gpuq_cuda *cuda;
	void *data;

	if (dlopen("libcuda.so.1", RTLD_NOW) != NULL)
		return 77;
	int r = gpuq_cuda_import(&e, &cuda, &data);
	puts(gpuq_cuda_error_detail());
	return r == -GPUQ_ENODEV ? 0 : 1;
}

int main(int argc, char **argv)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_descriptor),
		HARNESS_TEST(test_ipc_handle),
		HARNESS_TEST(test_other_places),
		HARNESS_TEST(test_driver_refuses),
		HARNESS_TEST(test_driver_does_not_start),
		HARNESS_TEST(test_buffer_of_the_cpu),
		HARNESS_TEST(test_no_driver),
	};

	program = argv[0];
	if (argc > 1)
		return import_without_a_driver();
	return harness_run("client-cuda", tests, sizeof(tests) / sizeof(tests[0]));
}
