/* SPDX-License-Identifier: MIT */
/*
 * kernels-latency: how long the operators' kernels take on a GPU without gpuq around them.
 *
 *   kernels-latency [--samples N]
 *
 * Small shapes, in pinned host memory that is read and written in place and in device memory: from
 * the call that launches to the completion word seen by the same thread. Each as
 *   launch: a kernel launch with its arguments;
 *   set:    an executable of one kernel, set to this one each time, then launched;
 *   block:  a graph of the kernel alone, its parameter block in device memory and never changed;
 *   inline: a command for the resident kernel.
 * Large shapes, in device memory: time of one launch among many, by events, with arguments that
 * are known (where cuBLAS may serve) and from a block (own kernels).
 * Then the inline stream again: beside captures, after a pause, and what it costs a large kernel.
 * Results are compared with the reference once for each.
 */
#include "device/cuda/inline.h"
#include "kernels/cuda/arg.cuh"
#include "kernels/cuda/codes.h"

#include <atomic>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <thread>
#include <time.h>

extern "C" {
#include "kernels/element.h"
#include "kernels/ops.h"
}

#define ARENA ((size_t)256 << 20)
#define WARM_UP 300
#define LARGE_LAUNCHES 20

extern "C" int cuda_error(cudaError_t err)
{
	return err == cudaSuccess ? 0 : -EIO;
}

static __global__ void signal_only(const __grid_constant__ struct cuda_completion done)
{
	cuda_complete(done);
}

/* What the inline stream asks of the device: whether it is whole. */
extern "C" int cuda_check(struct device *device)
{
	return 0;
}

extern "C" int cuda_run(const struct cuda_target *to, const void *kernel, uint32_t blocks,
	uint32_t threads, uint32_t shared_bytes, void **args)
{
	struct cuda_launcher *l = to->launchers;
	cudaKernelNodeParams params = {};
	cudaError_t err;

	if (l == NULL)
		return cuda_error(
			cudaLaunchKernel(kernel, blocks, threads, args, shared_bytes, to->stream));
	params.func = (void *)kernel;
	params.gridDim = blocks;
	params.blockDim = threads;
	params.sharedMemBytes = shared_bytes;
	params.kernelParams = args;
	err = cudaGraphExecKernelNodeSetParams(l->exec, l->node, &params);
	return cuda_error(err != cudaSuccess ? err : cudaGraphLaunch(l->exec, to->stream));
}

extern "C" int cuda_signal(const struct cuda_args *args, const struct cuda_target *to)
{
	struct device_kernel kernel = {};

	kernel.signal = true;
	return run(to, signal_only, 1, 32, cuda_completion(&kernel, args));
}

static void check(int err, const char *what)
{
	if (err == 0 && cudaPeekAtLastError() == cudaSuccess)
		return;
	fprintf(stderr, "kernels-latency: %s: %d, %s\n", what, err,
		cudaGetErrorString(cudaPeekAtLastError()));
	exit(1);
}

#define CHECK(call) check((call) == cudaSuccess ? 0 : -1, #call)

/* --- Calls -------------------------------------------------------------------------------- */

struct shape {
	const struct op *op;
	const char *name;
	uint32_t ranks[2]; /* of the required inputs */
	uint64_t dims[2][3];
	uint32_t dtype;
};

static const struct shape small_shapes[] = {
	{&op_gemv_batched, "gemv b32 i64 o32 f32", {2, 2}, {{32, 64}, {32, 64}}, GPUQ_F32},
	{&op_gemv_batched, "gemv b32 i64 o64 f32", {2, 2}, {{32, 64}, {64, 64}}, GPUQ_F32},
	{&op_gemv_batched, "gemv b32 i64 o32 f16", {2, 2}, {{32, 64}, {32, 64}}, GPUQ_F16},
	{&op_gemv_batched, "gemv b1 i64 o64 f32", {2, 2}, {{1, 64}, {64, 64}}, GPUQ_F32},
	{&op_softmax, "softmax b32 d64 f32", {2}, {{32, 64}}, GPUQ_F32},
	{&op_softmax, "softmax b1 d4000 f32", {2}, {{1, 4000}}, GPUQ_F32},
	{&op_softmax, "softmax b64 d128 f32", {2}, {{64, 128}}, GPUQ_F32},
	{&op_price_vectors, "price b32 a1 f64 f32", {3, 1}, {{32, 1, 64}, {64}}, GPUQ_F32},
	{&op_price_vectors, "price b32 a64 f32 f32", {3, 1}, {{32, 64, 32}, {32}}, GPUQ_F32},
	{&op_price_vectors, "price b32 a64 f32 f16", {3, 1}, {{32, 64, 32}, {32}}, GPUQ_F16},
	{&op_price_vectors, "price b2 a64 f32 f32", {3, 1}, {{2, 64, 32}, {32}}, GPUQ_F32},
};

static const struct shape large_shapes[] = {
	{&op_gemv_batched, "gemv b1 i4096 o4096 f32", {2, 2}, {{1, 4096}, {4096, 4096}}, GPUQ_F32},
	{&op_gemv_batched, "gemv b1 i4096 o4096 f16", {2, 2}, {{1, 4096}, {4096, 4096}}, GPUQ_F16},
	{&op_gemv_batched, "gemv b1 i1M o16 f32", {2, 2}, {{1, 1 << 20}, {16, 1 << 20}}, GPUQ_F32},
	{&op_gemv_batched, "gemv b8 i4096 o4096 f32", {2, 2}, {{8, 4096}, {4096, 4096}}, GPUQ_F32},
	{&op_gemv_batched, "gemv b256 i1024 o1024 f32", {2, 2}, {{256, 1024}, {1024, 1024}},
		GPUQ_F32},
	{&op_gemv_batched, "gemv b1024 i2048 o2048 f32", {2, 2}, {{1024, 2048}, {2048, 2048}},
		GPUQ_F32},
	{&op_gemv_batched, "gemv b256 i4096 o4096 bf16", {2, 2}, {{256, 4096}, {4096, 4096}},
		GPUQ_BF16},
	{&op_softmax, "softmax b8192 d1000 f32", {2}, {{8192, 1000}}, GPUQ_F32},
	{&op_softmax, "softmax b256 d32000 f32", {2}, {{256, 32000}}, GPUQ_F32},
	{&op_price_vectors, "price b1024 a64 f64 f32", {3, 1}, {{1024, 64, 64}, {64}}, GPUQ_F32},
	{&op_price_vectors, "price b4096 a64 f64 f16", {3, 1}, {{4096, 64, 64}, {64}}, GPUQ_F16},
};

static uint64_t bytes_of(const struct tensor *t)
{
	uint64_t elements, bytes;

	check(tensor_size(t, &elements, &bytes), "tensor_size");
	return bytes;
}

static uint64_t next_random(uint64_t *state)
{
	*state = *state * 6364136223846793005u + 1442695040888963407u;
	return *state >> 33;
}

/* A call with its tensors one after the other from base on, the inputs' contents in `host`. */
static void make_call(struct op_call *call, const struct shape *shape, char *base, char *host)
{
	uint64_t at = 0, state = 1, elements, bytes;
	uint32_t arg;

	*call = {};
	call->op = shape->op;
	for (uint32_t i = 0; i < 2 && shape->ranks[i] > 0; i++) {
		struct tensor *t = &call->in[i];

		t->dtype = shape->dtype;
		t->rank = shape->ranks[i];
		memcpy(t->dims, shape->dims[i], sizeof(shape->dims[i]));
		check(tensor_size(t, &elements, &bytes), "tensor_size");
		t->data = base + at;
		for (uint64_t e = 0; e < elements; e++)
			element_set(
				host + at, t->dtype, e, (double)next_random(&state) * 0x1p-30 - 1);
		at += (bytes + 255) / 256 * 256;
	}
	call->params[0].f64 = 1;
	call->out[0].dtype = GPUQ_F32;
	call->out[0].rank = UINT32_MAX;
	check(op_check(call, &arg), "op_check");
	call->out[0].data = base + at;
	if (at + bytes_of(&call->out[0]) > ARENA)
		check(-ENOMEM, "a shape is larger than the arena");
}

/* The greatest error of a few outputs in units of the greatest output. */
static double error_of(const struct op_call *call, char *base, char *host, const float *result)
{
	const uint64_t count = bytes_of(&call->out[0]) / 4;
	struct op_call reference = *call;
	double greatest = 0, error = 0;
	float *expected = (float *)malloc(count * 4);

	for (uint32_t i = 0; i < call->op->n_inputs; i++) {
		if (tensor_present(&call->in[i]))
			reference.in[i].data = host + ((char *)call->in[i].data - base);
	}
	reference.out[0].data = expected;
	call->op->cpu(&reference, 0, call->op->units(&reference));
	for (uint64_t i = 0; i < count; i++) {
		greatest = fmax(greatest, fabs((double)expected[i]));
		error = fmax(error, fabs((double)expected[i] - (double)result[i]));
		if (isnan(result[i]))
			error = INFINITY;
	}
	free(expected);
	return error / greatest;
}

/* --- Launching ---------------------------------------------------------------------------- */

enum way { LAUNCH, SET, BLOCK, INLINE };
static const char *const way_names[] = {"launch", "set", "block", "inline"};

struct rig {
	cudaStream_t stream;
	struct cuda_launcher launcher;
	struct cuda_scratch *scratch;
	struct device_args *block;
	struct device_completion *completion;
	char *pinned, *device, *host;
	struct cuda_inline inline_stream;
	uint64_t given;
};

struct work {
	struct op_launch launch;
	struct device_kernel kernel;
	struct cuda_args args;
	const struct cuda_code *code;
	cudaGraphExec_t exec;
	enum way way;
};

static const struct cuda_code *code_of(const struct op *op)
{
	const struct cuda_code *codes[] = {&gemv_batched_cuda, &softmax_cuda, &price_vectors_cuda};

	for (const struct cuda_code *code : codes) {
		if (strcmp(code->name, op->name) == 0)
			return code;
	}
	check(-ENOENT, op->name);
	return NULL;
}

static void launch_into(struct rig *rig, const struct work *work, struct cuda_launcher *launcher)
{
	const struct cuda_target to = {rig->stream, launcher};

	check(work->code->launch(&work->kernel, &work->args, &to), "launch");
}

/* The executable that cuda_run() sets, of any kernel. */
static void make_launcher(struct rig *rig)
{
	cudaGraph_t graph;
	size_t count = 1;

	CHECK(cudaStreamBeginCapture(rig->stream, cudaStreamCaptureModeThreadLocal));
	signal_only<<<1, 32, 0, rig->stream>>>((struct cuda_completion){});
	CHECK(cudaStreamEndCapture(rig->stream, &graph));
	CHECK(cudaGraphGetRootNodes(graph, &rig->launcher.node, &count));
	CHECK(cudaGraphInstantiate(&rig->launcher.exec, graph, 0));
	CHECK(cudaGraphUpload(rig->launcher.exec, rig->stream));
	CHECK(cudaStreamSynchronize(rig->stream));
}

static void capture(struct rig *rig, struct work *work)
{
	cudaGraph_t graph;

	work->args.block = rig->block;
	CHECK(cudaStreamBeginCapture(rig->stream, cudaStreamCaptureModeThreadLocal));
	launch_into(rig, work, NULL);
	CHECK(cudaStreamEndCapture(rig->stream, &graph));
	CHECK(cudaGraphInstantiate(&work->exec, graph, 0));
	CHECK(cudaGraphUpload(work->exec, rig->stream));
	CHECK(cudaStreamSynchronize(rig->stream));
	CHECK(cudaGraphDestroy(graph));
}

static void prepare(struct rig *rig, struct work *work, const struct op_call *call, enum way way)
{
	*work = {};
	work->way = way;
	work->code = code_of(call->op);
	work->launch.call = *call;
	for (uint8_t i = 0; i < GPUQ_MAX_INPUTS; i++) {
		work->launch.in[i] = i;
		work->args.direct.pointers[i] = call->in[i].data;
	}
	work->launch.out[0] = GPUQ_MAX_INPUTS;
	work->args.direct.pointers[GPUQ_MAX_INPUTS] = call->out[0].data;
	memcpy(work->args.direct.scalars, call->params, sizeof(call->params));
	work->args.direct.completion = rig->completion;
	work->args.direct.value = 1;
	work->args.scratch = rig->scratch;
	work->kernel.shape = &work->launch;
	work->kernel.signal = true;
	CHECK(cudaMemcpy(rig->block, &work->args.direct, sizeof(struct device_args),
		cudaMemcpyHostToDevice));
	if (way == BLOCK)
		capture(rig, work);
}

/* The resident kernel may have to be started, and takes so many commands at once. */
static void launch_inline(struct rig *rig, const struct work *work)
{
	struct cuda_command command;
	int err = work->code->command(&work->kernel, &work->args, &command);

	command.completion = work->args.direct.completion;
	command.value = work->args.direct.value;
	check(err, "command");
	do
		err = cuda_inline_put(&rig->inline_stream, &command);
	while (err == -EAGAIN);
	check(err, "inline");
}

static bool is_inline(const struct work *work)
{
	struct cuda_command command;

	return work->code->command(&work->kernel, &work->args, &command) == 0;
}

static void launch_once(struct rig *rig, struct work *work, uint64_t value)
{
	work->args.direct.value = value;
	if (work->way == INLINE)
		launch_inline(rig, work);
	else if (work->way == BLOCK)
		CHECK(cudaGraphLaunch(work->exec, rig->stream));
	else
		launch_into(rig, work, work->way == SET ? &rig->launcher : NULL);
}

static double now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return 1e9 * (double)now.tv_sec + (double)now.tv_nsec;
}

/* From the launch to the word; a block that never changes has but one value to write. */
static double sample(struct rig *rig, struct work *work, uint64_t value)
{
	volatile uint64_t *word = &rig->completion->word;
	const uint64_t written = work->way == BLOCK ? 1 : value;
	const double begin = now_ns();

	launch_once(rig, work, value);
	while (*word != written) {
		if (now_ns() - begin > 2e9)
			check(-ETIMEDOUT, "waiting for the completion word");
	}
	const double end = now_ns();

	*word = 0;
	return end - begin;
}

static int by_value(const void *a, const void *b)
{
	const double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* --- Small shapes ------------------------------------------------------------------------- */

static void print_sorted(double *ns, uint32_t samples)
{
	qsort(ns, samples, sizeof(*ns), by_value);
	printf(" %7.2f /%7.2f", ns[samples / 2] / 1e3, ns[samples - 1 - samples / 100] / 1e3);
}

/* Calls that wait for the whole device follow. */
static void leave(struct rig *rig)
{
	cuda_inline_pause(&rig->inline_stream);
	cuda_inline_resume(&rig->inline_stream);
	CHECK(cudaStreamSynchronize(rig->stream));
}

static void time_small(struct rig *rig, const struct shape *shape, bool pinned, uint32_t samples)
{
	char *const base = pinned ? rig->pinned : rig->device;
	double *ns = (double *)malloc(samples * sizeof(*ns)), error = 0;
	struct op_call call;

	make_call(&call, shape, base, rig->host);
	CHECK(cudaMemcpy(
		base, rig->host, (size_t)((char *)call.out[0].data - base), cudaMemcpyDefault));
	printf("%-24s %-6s", shape->name, pinned ? "pinned" : "device");
	for (enum way way : {LAUNCH, SET, BLOCK, INLINE}) {
		const uint64_t bytes = bytes_of(&call.out[0]);
		struct work work;

		CHECK(cudaMemset(call.out[0].data, 0xff, bytes));
		prepare(rig, &work, &call, way);
		if (way == INLINE && !is_inline(&work)) {
			printf(" %16s", "-");
			continue;
		}
		for (uint32_t i = 0; i < WARM_UP; i++)
			sample(rig, &work, i + 2);
		for (uint32_t i = 0; i < samples; i++)
			ns[i] = sample(rig, &work, WARM_UP + i + 2);
		print_sorted(ns, samples);
		leave(rig);
		if (work.exec != NULL)
			CHECK(cudaGraphExecDestroy(work.exec));
		CHECK(cudaMemcpy(
			rig->host + ARENA / 2, call.out[0].data, bytes, cudaMemcpyDefault));
		error = fmax(error,
			error_of(&call, base, rig->host, (const float *)(rig->host + ARENA / 2)));
	}
	printf("  error %.1e%s\n", error, error < 1e-5 ? "" : " WRONG");
	free(ns);
}

/* A kernel that does nothing but write the word, for scale. */
static void time_nothing(struct rig *rig, struct cuda_launcher *launcher, uint32_t samples)
{
	const struct cuda_target to = {rig->stream, launcher};
	double *ns = (double *)malloc(samples * sizeof(*ns));
	struct work work = {};

	work.args.direct.completion = rig->completion;
	work.args.scratch = rig->scratch;
	for (uint32_t i = 0; i < WARM_UP + samples; i++) {
		volatile uint64_t *word = &rig->completion->word;
		const double begin = now_ns();

		work.args.direct.value = i + 1;
		check(cuda_signal(&work.args, &to), "launch");
		while (*word != i + 1) {
		}
		if (i >= WARM_UP)
			ns[i - WARM_UP] = now_ns() - begin;
	}
	print_sorted(ns, samples);
	*(volatile uint64_t *)&rig->completion->word = 0;
	free(ns);
}

/* --- Large shapes ------------------------------------------------------------------------- */

static double time_many_us(struct rig *rig, struct work *work)
{
	cudaEvent_t begin, end;
	float ms;

	CHECK(cudaEventCreate(&begin));
	CHECK(cudaEventCreate(&end));
	for (uint32_t i = 0; i < 3; i++)
		launch_once(rig, work, 1);
	CHECK(cudaEventRecord(begin, rig->stream));
	for (uint32_t i = 0; i < LARGE_LAUNCHES; i++)
		launch_once(rig, work, 1);
	CHECK(cudaEventRecord(end, rig->stream));
	CHECK(cudaStreamSynchronize(rig->stream));
	CHECK(cudaEventElapsedTime(&ms, begin, end));
	CHECK(cudaEventDestroy(begin));
	CHECK(cudaEventDestroy(end));
	return 1e3 * ms / LARGE_LAUNCHES;
}

static void time_large(struct rig *rig, const struct shape *shape)
{
	struct op_call call;

	make_call(&call, shape, rig->device, rig->host);
	const uint64_t in_bytes = (uint64_t)((char *)call.out[0].data - rig->device);
	const uint64_t out_bytes = bytes_of(&call.out[0]);

	CHECK(cudaMemcpy(rig->device, rig->host, in_bytes, cudaMemcpyHostToDevice));
	printf("%-28s %8.2f MB", shape->name, (double)(in_bytes + out_bytes) / 1e6);
	for (enum way way : {SET, BLOCK}) {
		float *result = (float *)malloc(out_bytes);
		struct work work;

		CHECK(cudaMemset(call.out[0].data, 0xff, out_bytes));
		prepare(rig, &work, &call, way);
		const double us = time_many_us(rig, &work);

		CHECK(cudaMemcpy(result, call.out[0].data, out_bytes, cudaMemcpyDeviceToHost));
		if (work.exec != NULL)
			CHECK(cudaGraphExecDestroy(work.exec));
		const double error = error_of(&call, rig->device, rig->host, result);

		printf("  %s %9.2f us %7.1f GB/s, error %.1e%s", way_names[way], us,
			(double)(in_bytes + out_bytes) / us / 1e3, error,
			error < 1e-5 ? "" : " WRONG");
		free(result);
	}
	printf("\n");
	fflush(stdout);
}

/* --- The inline stream --------------------------------------------------------------------- */

/* Captures and instantiates graphs of 100 kernels until it is told to end. */
static void storm(const std::atomic<bool> *end)
{
	cudaStreamCaptureMode mode = cudaStreamCaptureModeThreadLocal;
	cudaStream_t stream;

	CHECK(cudaThreadExchangeStreamCaptureMode(&mode));
	CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
	while (!*end) {
		cudaGraphExec_t exec;
		cudaGraph_t graph;

		CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
		for (uint32_t i = 0; i < 100; i++)
			signal_only<<<1, 32, 0, stream>>>((struct cuda_completion){});
		CHECK(cudaStreamEndCapture(stream, &graph));
		CHECK(cudaGraphInstantiate(&exec, graph, 0));
		CHECK(cudaGraphUpload(exec, stream));
		CHECK(cudaStreamSynchronize(stream));
		CHECK(cudaGraphExecDestroy(exec));
		CHECK(cudaGraphDestroy(graph));
	}
	CHECK(cudaStreamDestroy(stream));
}

static void time_calls(struct rig *rig, const struct op_call *call, enum way way, uint32_t samples)
{
	double *ns = (double *)malloc(samples * sizeof(*ns));
	struct work work;

	prepare(rig, &work, call, way);
	for (uint32_t i = 0; i < WARM_UP + samples; i++) {
		const double taken_ns = sample(rig, &work, i + 2);

		ns[i < WARM_UP ? 0 : i - WARM_UP] = taken_ns;
	}
	qsort(ns, samples, sizeof(*ns), by_value);
	printf("  %-6s %6.2f / %6.2f / %6.2f", way_names[way], ns[samples / 2] / 1e3,
		ns[samples - 1 - samples / 100] / 1e3, ns[samples - 1 - samples / 1000] / 1e3);
	free(ns);
}

static void time_beside(struct rig *rig, const struct op_call *call, uint32_t samples)
{
	for (bool stormy : {false, true}) {
		std::atomic<bool> end(false);
		std::thread thread;

		if (stormy)
			thread = std::thread(storm, &end);
		printf("%-24s", stormy ? "beside captures" : "quiet");
		for (enum way way : {SET, INLINE})
			time_calls(rig, call, way, samples);
		printf("\n");
		end = true;
		if (stormy)
			thread.join();
	}
}

/* From a call that finds nobody to its end: a kernel is launched that stays, and serves it. */
static void time_start(struct rig *rig, const struct op_call *call)
{
	const struct timespec pause = {.tv_sec = 0, .tv_nsec = 2 * CUDA_RESIDENT_IDLE_NS};
	double ns[100];
	struct work work;

	prepare(rig, &work, call, INLINE);
	for (uint32_t i = 0; i < 100; i++) {
		nanosleep(&pause, NULL);
		ns[i] = sample(rig, &work, i + 2);
	}
	qsort(ns, 100, sizeof(*ns), by_value);
	printf("%-24s  p50 %.2f, max %.2f\n", "a life's first", ns[50] / 1e3, ns[99] / 1e3);
}

/* A large kernel's time alone, and with one multiprocessor less. */
static void time_large_beside(struct rig *rig, const struct op_call *small)
{
	double alone_us = INFINITY, beside_us = INFINITY;
	struct work large_work, work;
	struct op_call call;

	make_call(&call, &large_shapes[0], rig->device, rig->host);
	prepare(rig, &large_work, &call, SET);
	prepare(rig, &work, small, INLINE);
	for (uint32_t i = 0; i < 50; i++) {
		leave(rig);
		alone_us = fmin(alone_us, time_many_us(rig, &large_work));
		sample(rig, &work, i + 2);
		beside_us = fmin(beside_us, time_many_us(rig, &large_work));
	}
	printf("%s: alone %.2f us, beside the resident kernel %.2f us\n", large_shapes[0].name,
		alone_us, beside_us);
}

static void time_inline(struct rig *rig, uint32_t samples)
{
	struct op_call call;

	printf("\n%s in pinned memory, us, p50 / p99 / p99.9\n", small_shapes[0].name);
	make_call(&call, &small_shapes[0], rig->pinned, rig->host);
	time_beside(rig, &call, samples);
	time_start(rig, &call);
	time_large_beside(rig, &call);
	leave(rig);
}

static void make_inline(struct rig *rig)
{
	struct cuda_ring *ring;
	uint64_t *ended;

	CHECK(cudaHostAlloc(&ring, sizeof(*ring), cudaHostAllocMapped));
	CHECK(cudaHostAlloc(&ended, sizeof(*ended), cudaHostAllocMapped));
	*ended = 0;
	check(cuda_inline_open(&rig->inline_stream, NULL, ring, &rig->given, ended), "inline");
}

int main(int argc, char **argv)
{
	static const struct option options[] = {{"samples", required_argument, NULL, 'n'}, {}};
	uint32_t samples = 5000;
	struct rig rig = {};
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (option != 'n')
			return 2;
		samples = (uint32_t)strtoul(optarg, NULL, 0);
	}
	CHECK(cudaStreamCreateWithFlags(&rig.stream, cudaStreamNonBlocking));
	CHECK(cudaMalloc(&rig.scratch, sizeof(*rig.scratch)));
	CHECK(cudaMemset(rig.scratch, 0, sizeof(*rig.scratch)));
	CHECK(cudaMalloc(&rig.block, sizeof(*rig.block)));
	CHECK(cudaHostAlloc(&rig.completion, sizeof(*rig.completion), cudaHostAllocMapped));
	CHECK(cudaHostAlloc(&rig.pinned, (size_t)1 << 20, cudaHostAllocMapped));
	CHECK(cudaMalloc(&rig.device, ARENA));
	rig.host = (char *)malloc(ARENA);
	make_inline(&rig);
	memset(rig.completion, 0, sizeof(*rig.completion));
	const double begin = now_ns();

	make_launcher(&rig);
	check(gemv_batched_cuda.touch(), "touch");
	check(softmax_cuda.touch(), "touch");
	check(price_vectors_cuda.touch(), "touch");
	printf("loading kernels and cuBLAS took %.0f ms\n\n", (now_ns() - begin) / 1e6);
	printf("launch to word, us, p50 /p99 %-3s", "");
	for (const char *name : way_names)
		printf(" %16s", name);
	printf("\n");
	printf("%-24s %-6s", "nothing but the word", "");
	time_nothing(&rig, NULL, samples);
	time_nothing(&rig, &rig.launcher, samples);
	printf("\n");
	for (const struct shape &shape : small_shapes) {
		time_small(&rig, &shape, true, samples);
		time_small(&rig, &shape, false, samples);
		fflush(stdout);
	}
	time_inline(&rig, 4 * samples);
	printf("\nlarge, in device memory: with known arguments, and from a block\n");
	for (const struct shape &shape : large_shapes)
		time_large(&rig, &shape);
	return 0;
}
