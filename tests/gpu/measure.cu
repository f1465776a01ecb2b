/* SPDX-License-Identifier: MIT */
/*
 * measure.cu: `measure [SECTION...]` prints what a GPU and its driver do, without gpuq: launches
 * beside captures, ways to signal the end of work, the price of graphs, contexts, handles and
 * neighbours. Under three minutes in all.
 */
#include "measure.h"

/* The device's half of a completion word: everything written before is visible before it. */
static __device__ void store_word(uint64_t *word, uint64_t value)
{
	asm volatile("st.release.sys.global.u64 [%0], %1;" ::"l"(word), "l"(value) : "memory");
}

/* The last block of the grid to come here writes the word. */
static __device__ void signal_last(const struct block *b, unsigned *done)
{
	__syncthreads();
	if (threadIdx.x != 0)
		return;
	if (gridDim.x > 1) {
		__threadfence_system();
		if (atomicAdd(done, 1) != gridDim.x - 1)
			return;
		*done = 0;
		__threadfence_system();
	}
	store_word(b->word, b->value);
}

/* Reads all slots before it knows which one is meant: one round trip to the host, not two. */
__global__ void fetch(const struct block *ring, struct state *state)
{
	const unsigned words = sizeof(struct block) / 8;
	const volatile uint64_t *from = (const volatile uint64_t *)ring;
	uint64_t slots[DEPTH], launches = state->launches;

	if (threadIdx.x < words) {
		for (unsigned i = 0; i < DEPTH; i++)
			slots[i] = from[i * words + threadIdx.x];
		((uint64_t *)&state->block)[threadIdx.x] = slots[launches % DEPTH];
	}
	__syncthreads();
	if (threadIdx.x == 0)
		state->launches = launches + 1;
}

__global__ void put(struct state *state, __grid_constant__ const struct args args)
{
	if (threadIdx.x < sizeof(struct block) / 8)
		((uint64_t *)&state->block)[threadIdx.x] =
			((const uint64_t *)&args.direct)[threadIdx.x];
}

static __device__ void run_work(const struct args &args, bool signal)
{
	const struct block *b = args.block ? args.block : &args.direct;
	unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
	const float *in = (const float *)b->pointers[0];
	float *out = (float *)b->pointers[1];

	out[i] = in[i] + 1;
	if (signal)
		signal_last(b, args.done);
}

__global__ void work(__grid_constant__ const struct args args, bool signal)
{
	run_work(args, signal);
}

__global__ void work_after(__grid_constant__ const struct args args, bool signal)
{
#if __CUDA_ARCH__ >= 900
	cudaGridDependencySynchronize();
#endif
	run_work(args, signal);
}

__global__ void work_slot(struct state *state, bool signal)
{
	uint64_t launches = state->launches;
	const struct block *b = &state->slots[launches % DEPTH];
	unsigned i = blockIdx.x * blockDim.x + threadIdx.x;

	((float *)b->pointers[1])[i] = ((const float *)b->pointers[0])[i] + 1;
	if (!signal)
		return;
	__syncthreads();
	if (threadIdx.x == 0)
		state->launches = launches + 1;
	signal_last(b, &state->done);
}

__global__ void resident(const volatile uint64_t *bell, const struct block *block)
{
	__shared__ uint64_t seen;
	uint64_t served = 0, start = clock64();

	for (;;) {
		if (threadIdx.x == 0)
			while ((seen = *bell) == served)
				if (clock64() - start > 6000000000)
					return;
		__syncthreads();
		served = seen;
		if (served == UINT64_MAX)
			return;
		float *in = (float *)block->pointers[0], *out = (float *)block->pointers[1];
		out[threadIdx.x] = in[threadIdx.x] + 1;
		__syncthreads();
		if (threadIdx.x == 0)
			store_word(block->word, served);
	}
}

__global__ void tail(__grid_constant__ const struct args args)
{
	const struct block *b = args.block ? args.block : &args.direct;

	store_word(b->word, b->value);
}

/* No launch yet; blocks that stay on the device are valid. */
static void bench_reset(struct bench *b)
{
	struct state state;

	memset(&state, 0, sizeof(state));
	state.block = bench_direct(b, false).direct;
	CHECK(cudaMemcpy(b->state, &state, sizeof(state), cudaMemcpyHostToDevice));
	CHECK(cudaDeviceSynchronize());
	b->launches = 0;
}

void bench_init(struct bench *b)
{
	memset(b, 0, sizeof(*b));
	CHECK(cudaStreamCreateWithFlags(&b->stream, cudaStreamNonBlocking));
	CHECK(cudaHostAlloc((void **)&b->word, 4096, cudaHostAllocMapped));
	CHECK(cudaHostAlloc((void **)&b->ring, 4096, cudaHostAllocMapped));
	CHECK(cudaMalloc(&b->state, sizeof(*b->state)));
	CHECK(cudaMalloc(&b->data, 64 << 20));
	CHECK(cudaMalloc(&b->done, 4096));
	CHECK(cudaMemset(b->done, 0, 4096));
	CHECK(cudaMemset(b->data, 0, 64 << 20));
	*b->word = 0;
	bench_reset(b);
}

void bench_free(struct bench *b)
{
	CHECK(cudaStreamSynchronize(b->stream));
	CHECK(cudaStreamDestroy(b->stream));
	CHECK(cudaFreeHost((void *)b->word));
	CHECK(cudaFreeHost(b->ring));
	CHECK(cudaFree(b->state));
	CHECK(cudaFree(b->data));
	CHECK(cudaFree(b->done));
}

struct block bench_block(struct bench *b)
{
	struct block block;

	memset(&block, 0, sizeof(block));
	block.pointers[0] = b->data;
	block.pointers[1] = b->data + (1 << 20);
	block.word = (uint64_t *)b->word;
	block.value = ++b->value;
	return block;
}

struct args bench_direct(struct bench *b, bool signal)
{
	struct args args = {NULL, b->done, {}};

	if (signal) {
		args.direct = bench_block(b);
	} else {
		args.direct.pointers[0] = b->data;
		args.direct.pointers[1] = b->data + (1 << 20);
	}
	return args;
}

cudaGraphExec_t bench_finish(struct bench *b, cudaGraph_t graph)
{
	cudaGraphExec_t exec;

	CHECK(cudaGraphInstantiate(&exec, graph, 0));
	CHECK(cudaGraphUpload(exec, b->stream));
	CHECK(cudaStreamSynchronize(b->stream));
	CHECK(cudaGraphDestroy(graph));
	bench_reset(b);
	return exec;
}

cudaGraphExec_t bench_exec(struct bench *b, int nodes, bool copy)
{
	struct args args = {&b->state->block, &b->state->done, {}};
	cudaGraph_t graph;

	CHECK(cudaStreamBeginCapture(b->stream, cudaStreamCaptureModeThreadLocal));
	if (copy)
		CHECK(cudaMemcpyAsync(b->state->slots, b->ring, sizeof(b->state->slots),
			cudaMemcpyHostToDevice, b->stream));
	else
		fetch<<<1, 32, 0, b->stream>>>(b->ring, b->state);
	for (int i = 0; i < nodes; i++) {
		if (copy)
			work_slot<<<1, 256, 0, b->stream>>>(b->state, i == nodes - 1);
		else
			work<<<1, 256, 0, b->stream>>>(args, i == nodes - 1);
	}
	CHECK(cudaStreamEndCapture(b->stream, &graph));
	return bench_finish(b, graph);
}

void bench_launch_exec(struct bench *b, cudaGraphExec_t exec)
{
	b->ring[b->launches++ % DEPTH] = bench_block(b);
	CHECK(cudaGraphLaunch(exec, b->stream));
}

void print_samples_head(const char *what)
{
	printf("\n| %s | samples | call p50 µs | p99 | p99.9 | max | to word p50 µs | p99 | p99.9 "
	       "| "
	       "max |\n|---|---|---|---|---|---|---|---|---|---|\n",
		what);
}

void print_samples(const char *name, struct samples *s)
{
	printf("| %s | %zu |", name, s->word_ns.size());
	for (double q : {0.5, 0.99, 0.999, 1.0})
		printf(" %.2f |", us(s->call_ns, q));
	for (double q : {0.5, 0.99, 0.999, 1.0})
		printf(" %.2f |", us(s->word_ns, q));
	printf("\n");
	fflush(stdout);
}

static const struct {
	const char *name;
	void (*run)(void);
} sections[] = {
	{"contexts", measure_contexts},
	{"signals", measure_signals},
	{"direct", measure_direct},
	{"graphs", measure_graphs},
	{"storms", measure_storms},
	{"open", measure_open},
	{"neighbours", measure_neighbours},
	{"place", measure_place},
	{"registration", measure_registration},
};

static bool wanted(const char *name, char **names)
{
	if (!*names)
		return true;
	for (; *names; names++)
		if (strcmp(name, *names) == 0)
			return true;
	return false;
}

int main(int argc, char **argv)
{
	if (argc == 4 && strcmp(argv[1], "--child") == 0)
		return child_main(argv[2], argv[3]);
	need_gpu();
	CHECK(cudaSetDeviceFlags(cudaDeviceScheduleSpin));
	print_machine("");
	for (const auto &section : sections) {
		if (!wanted(section.name, argv + 1))
			continue;
		uint64_t start_ns = now_ns();
		printf("\n## %s\n", section.name);
		section.run();
		printf("\n(%.1f s)\n", (double)(now_ns() - start_ns) / 1e9);
		fflush(stdout);
	}
	return 0;
}
