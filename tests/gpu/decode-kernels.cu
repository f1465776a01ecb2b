/* SPDX-License-Identifier: MIT */
/*
 * decode-kernels: where the time of a decode step goes on a GPU, without gpuq around it.
 *
 *   decode-kernels [--batch N] [--context N] [--layers N] [--only NAME] [--late] [--apart]
 *
 * The operators of one step of a Llama of Llama-3.2-1B's shape in bf16, as models/llama.c puts them
 * together, one new token for each of N sequences that have `context` tokens with it. First each
 * operator by itself: a graph of its launches for all layers, so that the weights come from memory,
 * beside a kernel that only reads as many bytes. Then the whole step as graphs of some nodes each,
 * with and without kernels that start before their predecessors have ended; --late: without reading
 * weights before that. All of them must compute the same bits. --apart: norms and gates, and what
 * puts keys and values into the cache, are operators of their own.
 */
#include "kernels/cuda/arg.cuh"
#include "kernels/cuda/codes.h"

#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

extern "C" {
#include "kernels/kv_attention/kv_attention.h"
#include "kernels/linear/linear.h"
#include "kernels/ops.h"
}

#define MAX_LAYERS 32u
#define MAX_STEPS (9u * MAX_LAYERS + 8u)
#define BLOCK KV_TOKENS
#define REPLAYS 20
#define MAX_GRAPHS 64u
#define MAX_SIZE (1u << 20)

enum {
	VOCAB = 128256,
	HIDDEN = 2048,
	HEADS = 32,
	KV_HEADS = 8,
	COLUMNS = 64,
	INNER = 8192,
	TOP_K = 64,
};

struct step {
	const char *name;
	const struct cuda_code *code;
	struct op_launch launch;
	uint64_t bytes; /* that it must read */
};

static bool late;  /* weights are not read before their kernel's turn */
static bool apart; /* rmsnorm, swiglu and kv_append by themselves */

struct rig {
	cudaStream_t stream;
	struct cuda_scratch *scratch;
	uint64_t batch, context, layers;
	struct step steps[MAX_STEPS];
	uint32_t n_steps;
	const char *weights; /* the largest, for reading */
	uint64_t weight_bytes;
};

/* --- What stands in for the device -------------------------------------------------------- */

extern "C" int cuda_error(cudaError_t err)
{
	return err == cudaSuccess ? 0 : -EIO;
}

static void check(int err, const char *what)
{
	if (err == 0 && cudaPeekAtLastError() == cudaSuccess)
		return;
	fprintf(stderr, "decode-kernels: %s: %d, %s\n", what, err,
		cudaGetErrorString(cudaPeekAtLastError()));
	exit(1);
}

#define CHECK(call) check((call) == cudaSuccess ? 0 : -1, #call)

extern "C" int cuda_run(const struct cuda_target *to, const void *kernel, uint32_t blocks,
	uint32_t threads, uint32_t shared_bytes, void **args)
{
	cudaLaunchAttribute attribute = {};
	cudaLaunchConfig_t config = {};

	attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
	attribute.val.programmaticStreamSerializationAllowed = 1;
	config.gridDim = blocks;
	config.blockDim = threads;
	config.dynamicSmemBytes = shared_bytes;
	config.stream = to->stream;
	config.attrs = &attribute;
	config.numAttrs = to->programmatic ? 1 : 0;
	return cuda_error(cudaLaunchKernelExC(&config, kernel, args));
}

extern "C" int cuda_signal(const struct cuda_args *args, const struct cuda_target *to)
{
	return -EOPNOTSUPP;
}

static void launch(const struct rig *rig, const struct step *step, bool programmatic)
{
	struct device_kernel kernel = {};
	struct cuda_args args = {};
	const struct cuda_target to = {rig->stream, NULL, programmatic};

	kernel.shape = &step->launch;
	args.scratch = rig->scratch;
	check(step->code->launch(&kernel, &args, &to), step->name);
}

/* --- Tensors ------------------------------------------------------------------------------ */

/* Bits of ordinary numbers: bf16s, or floats whose lower halves are others of them. */
static __global__ void fill(uint16_t *data, uint64_t count, uint32_t seed)
{
	const uint64_t stride = (uint64_t)gridDim.x * blockDim.x;

	for (uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += stride) {
		uint32_t hash = ((uint32_t)i ^ (uint32_t)(i >> 32) ^ seed) * 0x9e3779b1u;

		hash = (hash ^ hash >> 15) * 0x85ebca77u;
		hash ^= hash >> 13;
		/* 2^-6 to 2^-5, either sign. */
		data[i] = (uint16_t)(0x3c80u | (hash & 0x807fu));
	}
}

static uint64_t bytes_of(const struct tensor *t)
{
	uint64_t elements, bytes;

	check(tensor_size(t, &elements, &bytes), "tensor_size");
	return bytes;
}

static struct tensor make(uint32_t dtype, uint32_t rank, uint64_t a, uint64_t b, uint64_t c = 1,
	uint64_t d = 1, uint64_t e = 1)
{
	struct tensor t = {};
	const uint64_t dims[] = {a, b, c, d, e};
	static uint32_t seed;

	t.dtype = dtype;
	t.rank = rank;
	memcpy(t.dims, dims, rank * sizeof(dims[0]));
	CHECK(cudaMalloc(&t.data, bytes_of(&t)));
	fill<<<1024, 256>>>((uint16_t *)t.data, bytes_of(&t) / 2, ++seed);
	CHECK(cudaGetLastError());
	return t;
}

static struct tensor make_i32(uint32_t rank, uint64_t a, uint64_t b, const int32_t *values)
{
	struct tensor t = make(GPUQ_I32, rank, a, b);

	CHECK(cudaMemcpy(t.data, values, bytes_of(&t), cudaMemcpyHostToDevice));
	return t;
}

/* --- The step ----------------------------------------------------------------------------- */

static struct op_call call_of(const struct op *op)
{
	struct op_call call = {};

	call.op = op;
	for (uint32_t i = 0; i < op->n_params; i++) {
		if (op->params[i].type == GPUQ_PARAM_I64)
			call.params[i].i64 = (int64_t)op->params[i].preset;
		else
			call.params[i].f64 = op->params[i].preset;
	}
	return call;
}

/* Inputs that no step writes. */
static uint32_t constants_of(const struct cuda_code *code)
{
	if (code == &linear_cuda || code == &rmsnorm_cuda)
		return 1u << 1 | 1u << LINEAR_NORM;
	if (code == &kv_append_cuda || code == &kv_attention_cuda)
		return 1u << APPEND_POSITIONS | 1u << APPEND_ROWS | 1u << APPEND_TABLE;
	if (code == &paged_attention_cuda)
		return 1u << ATTENTION_TABLE | 1u << ATTENTION_POSITIONS | 1u << ATTENTION_ROWS;
	return 0;
}

/* Adds a step, whose first outputs get memory where they have none. */
static struct tensor add(struct rig *rig, const char *name, const struct cuda_code *code,
	struct op_call *call, uint64_t bytes, uint32_t out_dtype = GPUQ_F32)
{
	struct step *step = &rig->steps[rig->n_steps++];
	uint32_t arg;

	if (rig->n_steps > MAX_STEPS)
		check(-ENOSPC, "too many steps");
	if (call->out[0].dtype == 0) {
		call->out[0].dtype = out_dtype;
		call->out[0].rank = UINT32_MAX;
	}
	check(op_check(call, &arg), name);
	for (uint32_t i = 0; i < call->op->n_outputs; i++) {
		struct tensor *t = &call->out[i];

		if (tensor_present(t) && t->data == NULL)
			CHECK(cudaMalloc(&t->data, bytes_of(t) + 1));
	}
	step->name = name;
	step->code = code;
	if (!late)
		step->launch.constants = constants_of(code);
	step->bytes = bytes;
	step->launch.call = *call;
	memset(step->launch.in, OP_FIXED, sizeof(step->launch.in));
	memset(step->launch.out, OP_FIXED, sizeof(step->launch.out));
	memset(step->launch.params, OP_FIXED, sizeof(step->launch.params));
	return call->out[0];
}

/* A call with x [N,inputs] and weights [outputs,inputs]. */
static struct op_call linear_call(
	struct rig *rig, struct tensor x, uint64_t outputs, uint64_t inputs)
{
	struct op_call call = call_of(&op_linear);

	call.in[LINEAR_X] = x;
	call.in[LINEAR_W] = make(GPUQ_BF16, 2, outputs, inputs);
	if (outputs * inputs * 2 > rig->weight_bytes) {
		rig->weights = (const char *)call.in[LINEAR_W].data;
		rig->weight_bytes = outputs * inputs * 2;
	}
	return call;
}

static struct tensor finish_linear(struct rig *rig, const char *name, struct op_call *call)
{
	return add(rig, name, &linear_cuda, call, bytes_of(&call->in[LINEAR_W]));
}

static struct tensor add_linear(struct rig *rig, const char *name, struct tensor x,
	uint64_t outputs, uint64_t inputs, const struct tensor *residual)
{
	struct op_call call = linear_call(rig, x, outputs, inputs);

	if (residual != NULL)
		call.in[LINEAR_RESIDUAL] = *residual;
	return finish_linear(rig, name, &call);
}

/* Of x normalised; `gated`: silu of the first half of the outputs times the second. */
static struct tensor add_normed(
	struct rig *rig, const char *name, struct tensor x, uint64_t outputs, bool gated)
{
	struct op_call norm = call_of(&op_rmsnorm), swiglu = call_of(&op_swiglu);
	const struct tensor weights = make(GPUQ_BF16, 1, HIDDEN, 1);

	if (apart) {
		norm.in[0] = x;
		norm.in[1] = weights;
		x = add(rig, "norm", &rmsnorm_cuda, &norm, 0);
	}

	struct op_call call = linear_call(rig, x, outputs, HIDDEN);
	struct tensor *w = &call.in[LINEAR_W];

	if (!apart) {
		call.in[LINEAR_NORM] = weights;
		call.out[LINEAR_NORMED] = (struct tensor){.dtype = GPUQ_F32, .rank = UINT32_MAX};
	}
	if (!apart && gated) {
		w->rank = 3;
		w->dims[0] = 2;
		w->dims[1] = outputs / 2;
		w->dims[2] = HIDDEN;
	}
	x = finish_linear(rig, name, &call);
	if (!apart || !gated)
		return x;
	swiglu.in[0] = x;
	return add(rig, "swiglu", &swiglu_cuda, &swiglu, 0);
}

static struct tensor add_lookup(
	struct rig *rig, const char *name, struct tensor which, struct tensor table)
{
	struct op_call call = call_of(&op_embedding);

	call.in[0] = which;
	call.in[1] = table;
	return add(rig, name, &embedding_cuda, &call, 0);
}

struct inputs {
	struct tensor tokens, positions, rows, table, context, last;
};

static void set_param(struct op_call *call, const char *name, double value)
{
	uint32_t i = 0;

	while (strcmp(call->op->params[i].name, name) != 0)
		i++;
	if (call->op->params[i].type == GPUQ_PARAM_I64)
		call->params[i].i64 = (int64_t)value;
	else
		call->params[i].f64 = value;
}

/* kv_append, or kv_attention, which begins with the same. */
static struct op_call append_call(
	const struct op *op, const struct inputs *in, struct tensor qkv, struct tensor cache)
{
	struct op_call call = call_of(op);
	const struct tensor dims[] = {qkv, in->positions, in->rows, in->table, cache};

	memcpy(call.in, dims, sizeof(dims));
	set_param(&call, "theta", 500000);
	set_param(&call, "scaling", 2);
	set_param(&call, "factor", 32);
	set_param(&call, "low_freq_factor", 1);
	set_param(&call, "high_freq_factor", 4);
	set_param(&call, "original_length", 8192);
	return call;
}

static struct tensor add_attention(struct rig *rig, const struct inputs *in, struct tensor qkv)
{
	const struct tensor any = {.dtype = GPUQ_F32, .rank = UINT32_MAX};
	const uint64_t blocks = rig->batch * ((rig->context + BLOCK - 1) / BLOCK) + 1;
	const uint64_t bytes = rig->batch * rig->context * 2 * KV_HEADS * COLUMNS * 2;
	const struct tensor cache = make(GPUQ_BF16, 5, blocks, 2, KV_HEADS, BLOCK, COLUMNS);
	struct op_call append = append_call(&op_kv_append, in, qkv, cache);
	struct op_call attend = call_of(&op_paged_attention);
	struct op_call both = append_call(&op_kv_attention, in, qkv, cache);

	if (!apart) {
		both.in[KV_ATTENTION_CONTEXT] = in->context;
		both.out[KV_ATTENTION_Q] = both.out[KV_ATTENTION_PARTS] = any;
		return add(rig, "attention", &kv_attention_cuda, &both, bytes);
	}
	attend.in[ATTENTION_Q] = add(rig, "kv_append", &kv_append_cuda, &append, 0);
	attend.in[ATTENTION_CACHE] = cache;
	attend.in[ATTENTION_TABLE] = in->table;
	attend.in[ATTENTION_POSITIONS] = in->positions;
	attend.in[ATTENTION_ROWS] = in->rows;
	attend.in[ATTENTION_CONTEXT] = in->context;
	attend.out[ATTENTION_PARTS] = any;
	return add(rig, "attention", &paged_attention_cuda, &attend, bytes);
}

static struct tensor add_layer(
	struct rig *rig, const struct inputs *in, struct tensor x, bool is_last)
{
	struct tensor y = add_normed(rig, "qkv", x, (HEADS + 2 * KV_HEADS) * COLUMNS, false);

	y = add_attention(rig, in, y);
	x = add_linear(rig, "o", y, HIDDEN, HEADS * COLUMNS, &x);
	if (is_last)
		x = add_lookup(rig, "last", in->last, x);
	y = add_normed(rig, "gate_up", x, 2 * (uint64_t)INNER, true);
	return add_linear(rig, "down", y, HIDDEN, INNER, &x);
}

static struct inputs make_inputs(const struct rig *rig)
{
	const uint64_t n = rig->batch, columns = (rig->context + BLOCK - 1) / BLOCK;
	int32_t *values = (int32_t *)calloc(n * columns, sizeof(*values));
	struct inputs in;

	for (uint64_t i = 0; i < n; i++)
		values[i] = (int32_t)(i * 977 % VOCAB);
	in.tokens = make_i32(1, n, 1, values);
	for (uint64_t i = 0; i < n; i++)
		values[i] = (int32_t)i;
	in.rows = make_i32(1, n, 1, values);
	in.last = in.rows;
	for (uint64_t i = 0; i < n; i++)
		values[i] = (int32_t)rig->context - 1;
	in.positions = make_i32(1, n, 1, values);
	/* Blocks lie anywhere: an odd step through a power of two, those too many left out. */
	uint64_t mask = 1, at = 0;

	while (mask < n * columns)
		mask *= 2;
	for (uint64_t i = 0; i < n * columns; at = (at + 0x9e3779b1u) & (mask - 1)) {
		if (at < n * columns)
			values[i++] = (int32_t)at + 1;
	}
	in.table = make_i32(2, n, columns, values);
	in.context = make(GPUQ_U8, 1, columns * BLOCK, 1);
	free(values);
	return in;
}

static void make_step(struct rig *rig)
{
	const struct inputs in = make_inputs(rig);
	const struct tensor table = make(GPUQ_BF16, 2, VOCAB, HIDDEN);
	struct op_call result = call_of(&op_step_result);
	struct tensor x = add_lookup(rig, "embedding", in.tokens, table);

	for (uint64_t i = 0; i < rig->layers; i++)
		x = add_layer(rig, &in, x, i + 1 == rig->layers);
	result.in[0] = add_normed(rig, "head", x, VOCAB, false);
	set_param(&result, "K", TOP_K);
	result.out[0].dtype = GPUQ_F32;
	result.out[1].dtype = GPUQ_I32;
	result.out[2].dtype = GPUQ_F32;
	for (uint32_t i = 0; i < 3; i++)
		result.out[i].rank = UINT32_MAX;
	add(rig, "step_result", &step_result_cuda, &result, 0);
}

/* --- Timing ------------------------------------------------------------------------------- */

struct graphs {
	cudaGraphExec_t execs[MAX_GRAPHS];
	uint32_t count;
	double instantiate_us, update_us; /* of all of them; update: to itself; -1: refused */
};

static double now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return 1e6 * (double)now.tv_sec + 1e-3 * (double)now.tv_nsec;
}

static void finish_graph(struct rig *rig, struct graphs *graphs)
{
	cudaGraphExecUpdateResultInfo info;
	cudaGraphExec_t exec;
	cudaGraph_t graph;
	double begin_us;

	CHECK(cudaStreamEndCapture(rig->stream, &graph));
	begin_us = now_us();
	CHECK(cudaGraphInstantiate(&exec, graph, 0));
	CHECK(cudaGraphUpload(exec, rig->stream));
	graphs->instantiate_us += now_us() - begin_us;
	begin_us = now_us();
	if (cudaGraphExecUpdate(exec, graph, &info) != cudaSuccess) {
		cudaGetLastError();
		graphs->update_us = -1;
	} else if (graphs->update_us >= 0) {
		graphs->update_us += now_us() - begin_us;
	}
	CHECK(cudaGraphDestroy(graph));
	graphs->execs[graphs->count++] = exec;
}

/* Steps that are called `name`, or all (NULL), in graphs of so many nodes. */
static struct graphs record(struct rig *rig, const char *name, bool programmatic, uint32_t nodes)
{
	struct graphs graphs = {};
	uint32_t recorded = 0;

	for (uint32_t i = 0; i < rig->n_steps; i++) {
		if (name != NULL && strcmp(rig->steps[i].name, name) != 0)
			continue;
		if (recorded % nodes == 0)
			CHECK(cudaStreamBeginCapture(
				rig->stream, cudaStreamCaptureModeThreadLocal));
		launch(rig, &rig->steps[i], programmatic);
		if (++recorded % nodes == 0)
			finish_graph(rig, &graphs);
	}
	if (recorded % nodes != 0)
		finish_graph(rig, &graphs);
	return graphs;
}

static void launch_graphs(const struct rig *rig, const struct graphs *graphs)
{
	for (uint32_t i = 0; i < graphs->count; i++)
		CHECK(cudaGraphLaunch(graphs->execs[i], rig->stream));
}

static void destroy_graphs(struct graphs *graphs)
{
	while (graphs->count > 0)
		CHECK(cudaGraphExecDestroy(graphs->execs[--graphs->count]));
}

/* One run's time, among several that follow each other; the least of some such measurements. */
template <typename F> static double time_us(struct rig *rig, F run_once)
{
	cudaEvent_t begin, end;
	float ms, best_ms = INFINITY;

	CHECK(cudaEventCreate(&begin));
	CHECK(cudaEventCreate(&end));
	for (uint32_t i = 0; i < 6; i++) {
		CHECK(cudaEventRecord(begin, rig->stream));
		for (uint32_t j = 0; j < REPLAYS; j++)
			run_once();
		CHECK(cudaEventRecord(end, rig->stream));
		CHECK(cudaEventSynchronize(end));
		CHECK(cudaEventElapsedTime(&ms, begin, end));
		best_ms = i == 0 ? INFINITY : fminf(best_ms, ms);
	}
	CHECK(cudaEventDestroy(begin));
	CHECK(cudaEventDestroy(end));
	return 1e3 * best_ms / REPLAYS;
}

/* --- Reading ------------------------------------------------------------------------------ */

#define READ_THREADS 512u
#define READ_LOADS 8u

static __global__ void __launch_bounds__(READ_THREADS, 2)
	read_all(const uint4 *data, uint64_t count, uint32_t *sum)
{
	const uint64_t stride = (uint64_t)gridDim.x * READ_THREADS;
	uint32_t own = 0;

	for (uint64_t i = (uint64_t)blockIdx.x * READ_THREADS + threadIdx.x; i < count;
		i += stride * READ_LOADS) {
		uint4 loaded[READ_LOADS];

#pragma unroll
		for (uint32_t l = 0; l < READ_LOADS; l++)
			loaded[l] = data[min(i + l * stride, count - 1)];
#pragma unroll
		for (uint32_t l = 0; l < READ_LOADS; l++)
			own ^= loaded[l].x ^ loaded[l].y ^ loaded[l].z ^ loaded[l].w;
	}
	if (own == 0x12345678)
		*sum = own;
}

/* A read of as many bytes, one launch among several in one graph that read different ones. */
static double time_read_us(struct rig *rig, uint64_t bytes)
{
	const uint64_t places = rig->weight_bytes / bytes, count = min(places, (uint64_t)16);
	uint32_t *sum = &rig->scratch->arrived;
	double best_us = INFINITY;

	for (uint32_t blocks = 132; blocks <= 528 && count > 0; blocks *= 2) {
		cudaGraphExec_t exec;
		cudaGraph_t graph;

		CHECK(cudaStreamBeginCapture(rig->stream, cudaStreamCaptureModeThreadLocal));
		for (uint64_t i = 0; i < count; i++)
			read_all<<<blocks, READ_THREADS, 0, rig->stream>>>(
				(const uint4 *)(rig->weights + i * (places / count) * bytes),
				bytes / 16, sum);
		CHECK(cudaStreamEndCapture(rig->stream, &graph));
		CHECK(cudaGraphInstantiate(&exec, graph, 0));
		CHECK(cudaGraphDestroy(graph));
		best_us = fmin(best_us, time_us(rig, [&] {
			CHECK(cudaGraphLaunch(exec, rig->stream));
		}) / (double)count);
		CHECK(cudaGraphExecDestroy(exec));
	}
	return best_us;
}

/* --- What is said ------------------------------------------------------------------------- */

static void time_operator(struct rig *rig, const char *name)
{
	const struct step *step = NULL;
	uint32_t count = 0;
	double us[2];

	for (uint32_t i = 0; i < rig->n_steps; i++) {
		if (strcmp(rig->steps[i].name, name) == 0) {
			step = &rig->steps[i];
			count++;
		}
	}
	for (uint32_t p = 0; p < 2; p++) {
		struct graphs graphs = record(rig, name, p == 1, MAX_STEPS);

		us[p] = time_us(rig, [&] { launch_graphs(rig, &graphs); }) / count;
		destroy_graphs(&graphs);
	}
	printf("%-12s %5u %10.2f %10.2f", name, count, us[0], us[1]);
	if (step->bytes > 0) {
		const double read_us = time_read_us(rig, min(step->bytes, rig->weight_bytes)) *
			fmax(1, (double)step->bytes / (double)rig->weight_bytes);

		printf(" %10.2f %8.2f %10.0f %8.2f", (double)step->bytes / 1e6, read_us,
			(double)step->bytes / us[1] / 1e3, us[1] / read_us);
	}
	printf("\n");
	fflush(stdout);
}

static void time_operators(struct rig *rig, const char *only)
{
	printf("%-12s %5s %10s %10s %10s %8s %10s %8s\n", "operator", "times", "us each",
		"overlapped", "MB read", "read us", "GB/s", "of read");
	for (uint32_t i = 0; i < rig->n_steps; i++) {
		const char *name = rig->steps[i].name;
		bool seen = only != NULL && strcmp(only, name) != 0;

		for (uint32_t j = 0; j < i; j++)
			seen = seen || strcmp(rig->steps[j].name, name) == 0;
		if (!seen)
			time_operator(rig, name);
	}
}

/* The bits of all the last results. */
static uint64_t hash_results(const struct rig *rig)
{
	uint64_t hash = 0xcbf29ce484222325u;

	for (uint32_t s = rig->n_steps - 2; s < rig->n_steps; s++) {
		const struct op_call *call = &rig->steps[s].launch.call;

		for (uint32_t i = 0; i < call->op->n_outputs; i++) {
			/* linear's working memory is nobody's. */
			const bool there = tensor_present(&call->out[i]) &&
				(call->op != &op_linear || i == LINEAR_Y);
			const uint64_t bytes = there ? bytes_of(&call->out[i]) : 0;
			uint32_t *host = (uint32_t *)malloc(bytes + 1);

			CHECK(cudaMemcpy(host, call->out[i].data, bytes, cudaMemcpyDeviceToHost));
			CHECK(cudaMemset(call->out[i].data, 0xff, bytes));
			for (uint64_t w = 0; w < bytes / 4; w++)
				hash = (hash ^ host[w]) * 0x100000001b3u;
			free(host);
		}
	}
	return hash;
}

static int by_value(const void *a, const void *b)
{
	const double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* From the launch to where the host sees the end, each by itself: the median. */
static double time_alone_us(struct rig *rig, const struct graphs *graphs)
{
	double us[REPLAYS];

	for (uint32_t i = 0; i < REPLAYS; i++) {
		const double begin_us = now_us();

		launch_graphs(rig, graphs);
		CHECK(cudaStreamSynchronize(rig->stream));
		us[i] = now_us() - begin_us;
	}
	qsort(us, REPLAYS, sizeof(us[0]), by_value);
	return us[REPLAYS / 2];
}

static bool time_steps(struct rig *rig)
{
	const uint32_t pieces[] = {MAX_STEPS, 64, 32, 16};
	uint64_t first = 0, bytes = 0;
	bool same = true;

	for (uint32_t i = 0; i < rig->n_steps; i++)
		bytes += rig->steps[i].bytes;
	printf("\n%-12s %6s %10s %10s %10s %14s %10s\n", "whole step", "nodes", "us", "alone us",
		"GB/s", "instantiate us", "update us");
	for (uint32_t i = 0; i < 8; i++) {
		struct graphs graphs = record(rig, NULL, i % 2 == 1, pieces[i / 2]);
		const double us = time_us(rig, [&] { launch_graphs(rig, &graphs); });
		const double alone_us = time_alone_us(rig, &graphs);
		const uint64_t hash = hash_results(rig);

		first = i == 0 ? hash : first;
		same = same && hash == first;
		printf("%-12s %6u %10.1f %10.1f %10.0f %14.0f %10.0f%s\n",
			i % 2 == 1 ? "overlapped" : "one by one", min(pieces[i / 2], rig->n_steps),
			us, alone_us, (double)bytes / us / 1e3, graphs.instantiate_us,
			graphs.update_us, hash == first ? "" : "  OTHER BITS");
		fflush(stdout);
		destroy_graphs(&graphs);
	}
	printf("bits of the results: %016llx\n", (unsigned long long)first);
	return same;
}

/* What is named by a letter; false: it is no number of these. */
static bool set_size(struct rig *rig, int option, const char *text)
{
	uint64_t *size = option == 'b' ? &rig->batch : option == 'c' ? &rig->context : &rig->layers;
	char *end;

	*size = strtoul(text, &end, 10);
	return *end == '\0' && *size > 0 && *size <= MAX_SIZE && rig->layers <= MAX_LAYERS;
}

static void open_rig(struct rig *rig)
{
	CHECK(cudaStreamCreateWithFlags(&rig->stream, cudaStreamNonBlocking));
	CHECK(cudaMalloc(&rig->scratch, sizeof(*rig->scratch)));
	CHECK(cudaMemset(rig->scratch, 0, sizeof(*rig->scratch)));
	for (uint32_t i = 0; i < cuda_codes_count; i++)
		check(cuda_codes[i]->touch(), cuda_codes[i]->name);
	make_step(rig);
	CHECK(cudaDeviceSynchronize());
	/* So that each operator by itself works on what it will have. */
	for (uint32_t i = 0; i < rig->n_steps; i++)
		launch(rig, &rig->steps[i], false);
	CHECK(cudaStreamSynchronize(rig->stream));
}

int main(int argc, char **argv)
{
	static const struct option options[] = {{"batch", required_argument, NULL, 'b'},
		{"context", required_argument, NULL, 'c'}, {"layers", required_argument, NULL, 'l'},
		{"only", required_argument, NULL, 'o'}, {"late", no_argument, NULL, 'w'},
		{"apart", no_argument, NULL, 'a'}, {}};
	static struct rig rig;
	const char *only = NULL;
	int option;

	rig.batch = 1;
	rig.context = 128;
	rig.layers = 16;
	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (option == 'w')
			late = true;
		else if (option == 'a')
			apart = true;
		else if (option == 'o')
			only = optarg;
		else if (option == '?' || !set_size(&rig, option, optarg))
			return 2;
	}
	open_rig(&rig);
	printf("batch %lu, context %lu, %lu layers\n", (unsigned long)rig.batch,
		(unsigned long)rig.context, (unsigned long)rig.layers);
	time_operators(&rig, only);
	return only != NULL || time_steps(&rig) ? 0 : 1;
}
