/* SPDX-License-Identifier: MIT */
/*
 * measure_graphs.cu: launches beside captures (a), the price of graphs (c), ways to see the end of
 * work (d), and when launching kernels one by one is faster than a graph of them.
 */
#include "measure.h"

#include <atomic>
#include <functional>
#include <sys/mman.h>
#include <thread>

#define SECOND UINT64_C(1000000000)

enum phase { IDLE, CAPTURE, END, INSTANTIATE, UPLOAD, WAIT, DESTROY, PHASES };
static const char *const phase_names[] = {
	"", "recording", "end of capture", "instantiate", "upload", "wait for upload", "destroy"};

/* One thread does something again and again while another launches and counts. */
struct storm {
	std::atomic<int> phase, stop;
	std::atomic<uint64_t> rounds;
	cudaStream_t stream;
	struct bench *bench;
	std::vector<cudaGraphExec_t> kept; /* destroyed when it is over */
};

static cudaGraph_t capture_nodes(
	cudaStream_t stream, struct bench *b, int nodes, std::atomic<int> *phase)
{
	struct args args = {&b->state->block, &b->state->done, {}};
	cudaGraph_t graph;

	/* No two graphs are the same, in case that matters where one executable is updated. */
	args.direct.value = ++b->value;
	CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
	for (int i = 0; i < nodes; i++)
		work<<<1 + b->value % 2, 256, 0, stream>>>(args, false);
	if (phase)
		*phase = END;
	CHECK(cudaStreamEndCapture(stream, &graph));
	return graph;
}

/* The same graph without a capture: kernel node by kernel node. */
static cudaGraph_t build_nodes(struct bench *b, int nodes)
{
	struct args args = {&b->state->block, &b->state->done, {}};
	bool signal = false;
	void *params[] = {&args, &signal};
	cudaKernelNodeParams node_params;
	cudaGraphNode_t node, last = NULL;
	cudaGraph_t graph;

	memset(&node_params, 0, sizeof(node_params));
	node_params.func = (void *)work;
	node_params.gridDim = 1;
	node_params.blockDim = 256;
	node_params.kernelParams = params;
	CHECK(cudaGraphCreate(&graph, 0));
	for (int i = 0; i < nodes; i++) {
		CHECK(cudaGraphAddKernelNode(&node, graph, &last, last ? 1 : 0, &node_params));
		last = node;
	}
	return graph;
}

enum how { BY_CAPTURE, EXPLICITLY, KEEPING, UPDATING };

static void storm_graphs(struct storm *s, int nodes, enum how how)
{
	cudaGraphExec_t exec;
	cudaGraph_t graph;

	s->phase = CAPTURE;
	graph = how == EXPLICITLY ? build_nodes(s->bench, nodes)
				  : capture_nodes(s->stream, s->bench, nodes, &s->phase);
	s->phase = INSTANTIATE;
	if (how != UPDATING || s->kept.empty()) {
		CHECK(cudaGraphInstantiate(&exec, graph, 0));
	} else {
		cudaGraphExecUpdateResultInfo result;
		exec = s->kept[0];
		CHECK(cudaGraphExecUpdate(exec, graph, &result));
	}
	s->phase = UPLOAD;
	CHECK(cudaGraphUpload(exec, s->stream));
	s->phase = WAIT;
	CHECK(cudaStreamSynchronize(s->stream));
	s->phase = DESTROY;
	CHECK(cudaGraphDestroy(graph));
	if (how == KEEPING || (how == UPDATING && s->kept.empty()))
		s->kept.push_back(exec);
	else if (how != UPDATING)
		CHECK(cudaGraphExecDestroy(exec));
}

static void vmm_round(void)
{
	CUmemGenericAllocationHandle handle;
	CUmemAllocationProp prop;
	CUmemAccessDesc access;
	CUdeviceptr range;
	size_t bytes = 2 << 20;

	memset(&prop, 0, sizeof(prop));
	prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
	prop.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
	prop.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
	access.location = prop.location;
	access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
	CHECK(DRIVER(cuMemCreate)(&handle, bytes, &prop, 0));
	CHECK(DRIVER(cuMemAddressReserve)(&range, bytes, 0, 0, 0));
	CHECK(DRIVER(cuMemMap)(range, bytes, 0, handle, 0));
	CHECK(DRIVER(cuMemSetAccess)(range, bytes, &access, 1));
	CHECK(DRIVER(cuMemUnmap)(range, bytes));
	CHECK(DRIVER(cuMemAddressFree)(range, bytes));
	CHECK(DRIVER(cuMemRelease)(handle));
}

static void register_round(void *host, size_t bytes)
{
	CHECK(cudaHostRegister(host, bytes, cudaHostRegisterMapped));
	CHECK(cudaHostUnregister(host));
}

static void storm_loop(struct storm *s, std::function<void(struct storm *)> round)
{
	cudaStreamCaptureMode mode = cudaStreamCaptureModeThreadLocal;

	CHECK(cudaThreadExchangeStreamCaptureMode(&mode));
	while (!s->stop) {
		round(s);
		s->rounds++;
	}
	s->phase = IDLE;
}

/*
 * Launches of `launch` while the other thread goes round. The samples are also given by what the
 * other thread was at when the launch began.
 */
static void storm_run(const char *name, struct bench *b, struct bench *other,
	std::function<void(struct storm *)> round, std::function<void()> launch)
{
	struct samples s[PHASES];
	struct storm storm;
	uint64_t start_ns, t0, t1, t2;
	char text[128];

	storm.phase = storm.stop = 0;
	storm.rounds = 0;
	storm.bench = other;
	storm.stream = other->stream;
	std::thread thread(storm_loop, &storm, round);
	start_ns = now_ns();
	while (now_ns() - start_ns < SECOND) {
		int before = storm.phase;
		t0 = now_ns();
		launch();
		t1 = now_ns();
		wait_word(b);
		t2 = now_ns();
		for (int p : {(int)IDLE, before}) {
			s[p].call_ns.push_back(t1 - t0);
			s[p].word_ns.push_back(t2 - t0);
			if (before == IDLE)
				break;
		}
	}
	double seconds = (double)(now_ns() - start_ns) / 1e9;
	storm.stop = 1;
	thread.join();
	snprintf(text, sizeof(text), "%s, %.0f/s", name, (double)storm.rounds / seconds);
	print_samples(text, &s[IDLE]);
	for (int p = CAPTURE; p < PHASES; p++) {
		snprintf(text, sizeof(text), "- from its %s", phase_names[p]);
		if (s[p].word_ns.size() > 100)
			print_samples(text, &s[p]);
	}
	for (cudaGraphExec_t exec : storm.kept)
		CHECK(cudaGraphExecDestroy(exec));
}

static void storms_maintenance(struct bench *b, struct bench *other, std::function<void()> launch)
{
	size_t bytes = 64 << 20;
	void *host = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	void *pinned;

	CHECK(host == MAP_FAILED);
	CHECK(cudaMallocHost(&pinned, bytes));
	storm_run(
		"100 launches one by one", b, other,
		[](struct storm *s) {
			for (int i = 0; i < 100; i++)
				work<<<1, 256, 0, s->stream>>>(
					(struct args){&s->bench->state->block, NULL, {}}, false);
			CHECK(cudaStreamSynchronize(s->stream));
		},
		launch);
	storm_run(
		"cudaHostRegister 1 MiB", b, other,
		[=](struct storm *s) { register_round(host, 1 << 20); }, launch);
	storm_run(
		"cudaHostRegister 64 MiB", b, other,
		[=](struct storm *s) { register_round(host, bytes); }, launch);
	storm_run(
		"cudaMalloc, cudaFree 2 MiB", b, other,
		[](struct storm *s) {
			void *p;
			CHECK(cudaMalloc(&p, 2 << 20));
			CHECK(cudaFree(p));
		},
		launch);
	storm_run(
		"cuMemCreate, map, unmap 2 MiB", b, other, [](struct storm *s) { vmm_round(); },
		launch);
	storm_run(
		"cudaMallocHost 1 MiB", b, other,
		[](struct storm *s) {
			void *p;
			CHECK(cudaMallocHost(&p, 1 << 20));
			CHECK(cudaFreeHost(p));
		},
		launch);
	storm_run(
		"cudaMemcpyAsync 16 MiB from pinned", b, other,
		[=](struct storm *s) {
			CHECK(cudaMemcpyAsync(s->bench->data, pinned, 16 << 20,
				cudaMemcpyHostToDevice, s->stream));
			CHECK(cudaStreamSynchronize(s->stream));
		},
		launch);
	storm_run(
		"cudaStreamQuery", b, other, [](struct storm *s) { cudaStreamQuery(s->stream); },
		launch);
	CHECK(cudaFreeHost(pinned));
	munmap(host, bytes);
}

static const struct {
	const char *name;
	int nodes;
	enum how how;
	uint64_t pause_ns; /* between graphs */
} storm_kinds[] = {
	{"capture of 20 nodes", 20, BY_CAPTURE, 0},
	{"capture of 100 nodes", 100, BY_CAPTURE, 0},
	{"capture of 500 nodes", 500, BY_CAPTURE, 0},
	{"100 nodes built explicitly", 100, EXPLICITLY, 0},
	{"capture of 100 nodes, none destroyed", 100, KEEPING, 0},
	{"capture of 500 nodes, none destroyed", 500, KEEPING, 0},
	{"capture of 100 nodes, one executable updated", 100, UPDATING, 0},
	{"capture of 20 nodes, 1 ms pause", 20, BY_CAPTURE, 1000000},
	{"capture of 20 nodes, 1 ms pause, none destroyed", 20, KEEPING, 1000000},
};

void measure_storms(void)
{
	struct bench b, other;
	struct samples quiet, quiet_direct;
	cudaGraphExec_t exec;

	bench_init(&b);
	bench_init(&other);
	exec = bench_exec(&b, 3, false);
	auto launch = [&] { bench_launch_exec(&b, exec); };
	auto direct = [&] { work<<<1, 256, 0, b.stream>>>(bench_direct(&b, true), true); };
	print_samples_head("graph of fetch + 3 kernels, launched beside");
	bench_run(&b, &quiet, SIZE_MAX, SECOND, launch);
	print_samples("nothing", &quiet);
	for (const auto &kind : storm_kinds)
		storm_run(
			kind.name, &b, &other,
			[&](struct storm *s) {
				storm_graphs(s, kind.nodes, kind.how);
				if (kind.pause_ns == 0)
					return;
				s->phase = IDLE;
				sleep_ns(kind.pause_ns);
			},
			launch);
	storms_maintenance(&b, &other, launch);
	print_samples_head("one kernel, launched directly beside");
	bench_run(&b, &quiet_direct, SIZE_MAX, SECOND, direct);
	print_samples("nothing", &quiet_direct);
	storm_run(
		"capture of 100 nodes", &b, &other,
		[](struct storm *s) { storm_graphs(s, 100, BY_CAPTURE); }, direct);
	CHECK(cudaGraphExecDestroy(exec));
	bench_free(&b);
	bench_free(&other);
}

static uint64_t resident_bytes(void)
{
	FILE *f = fopen("/proc/self/statm", "r");
	unsigned long size = 0, resident = 0;

	if (!f)
		return 0;
	if (fscanf(f, "%lu %lu", &size, &resident) != 2)
		resident = 0;
	fclose(f);
	return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

static void price_of_graphs(struct bench *b, int nodes, int count)
{
	std::vector<uint64_t> capture, instantiate, upload, first, destroy;
	std::vector<cudaGraphExec_t> execs;
	size_t free_before, free_after, total;
	uint64_t resident = resident_bytes(), t[6];
	cudaGraphExec_t exec;

	CHECK(cudaMemGetInfo(&free_before, &total));
	for (int i = 0; i < count; i++) {
		t[0] = now_ns();
		cudaGraph_t graph = capture_nodes(b->stream, b, nodes, NULL);
		t[1] = now_ns();
		CHECK(cudaGraphInstantiate(&exec, graph, 0));
		t[2] = now_ns();
		CHECK(cudaGraphUpload(exec, b->stream));
		CHECK(cudaStreamSynchronize(b->stream));
		t[3] = now_ns();
		CHECK(cudaGraphDestroy(graph));
		t[4] = now_ns();
		CHECK(cudaGraphLaunch(exec, b->stream));
		CHECK(cudaStreamSynchronize(b->stream));
		t[5] = now_ns();
		capture.push_back(t[1] - t[0]);
		instantiate.push_back(t[2] - t[1]);
		upload.push_back(t[3] - t[2]);
		first.push_back(t[5] - t[4]);
		execs.push_back(exec);
	}
	CHECK(cudaMemGetInfo(&free_after, &total));
	double device = (double)free_before - (double)free_after;
	double host = (double)resident_bytes() - (double)resident;
	for (cudaGraphExec_t e : execs) {
		t[0] = now_ns();
		CHECK(cudaGraphExecDestroy(e));
		destroy.push_back(now_ns() - t[0]);
	}
	printf("| %d | %d | %.1f | %.1f | %.1f | %.1f | %.1f | %.0f | %.0f | %.0f | %.0f |\n",
		nodes, count, us(capture, 0.5), us(instantiate, 0.5), us(upload, 0.5),
		us(first, 0.5), us(destroy, 0.5), device / count, device / count / nodes,
		host / count, host / count / nodes);
	fflush(stdout);
}

void measure_graphs(void)
{
	struct bench b;

	bench_init(&b);
	CHECK(cudaGraphExecDestroy(bench_exec(&b, 3, false)));
	printf("\nMedians in µs; kernels with 192 bytes of arguments; bytes of device memory and "
	       "of "
	       "resident host memory.\n\n| nodes | graphs | capture | instantiate | upload | first "
	       "launch and wait | destroy | device bytes each | per node | host bytes each | per "
	       "node |\n|---|---|---|---|---|---|---|---|---|---|---|\n");
	for (int nodes : {1, 5, 20, 100, 500})
		price_of_graphs(&b, nodes, 256);
	price_of_graphs(&b, 2000, 32);
	bench_free(&b);
}

/* work, then a node of the driver that writes 1 to the word. */
static cudaGraphExec_t graph_with_memory_op(struct bench *b)
{
	struct args args = bench_direct(b, false);
	CUstreamBatchMemOpParams write;
	CUDA_BATCH_MEM_OP_NODE_PARAMS params;
	size_t count = 1;
	cudaGraphNode_t last;
	CUgraphNode node;
	cudaGraph_t graph;

	CHECK(cudaStreamBeginCapture(b->stream, cudaStreamCaptureModeThreadLocal));
	work<<<1, 256, 0, b->stream>>>(args, false);
	CHECK(cudaStreamEndCapture(b->stream, &graph));
	CHECK(cudaGraphGetNodes(graph, &last, &count));
	memset(&write, 0, sizeof(write));
	write.writeValue.operation = CU_STREAM_MEM_OP_WRITE_VALUE_64;
	write.writeValue.address = (CUdeviceptr)b->word;
	write.writeValue.value64 = 1;
	memset(&params, 0, sizeof(params));
	CHECK(DRIVER(cuCtxGetCurrent)(&params.ctx));
	params.count = 1;
	params.paramArray = &write;
	CHECK(DRIVER(cuGraphAddBatchMemOpNode)(&node, graph, &last, 1, &params));
	return bench_finish(b, graph);
}

static cudaGraphExec_t graph_of_kernel(struct bench *b, struct args args)
{
	cudaGraph_t graph;

	CHECK(cudaStreamBeginCapture(b->stream, cudaStreamCaptureModeThreadLocal));
	work<<<1, 256, 0, b->stream>>>(args, true);
	CHECK(cudaStreamEndCapture(b->stream, &graph));
	return bench_finish(b, graph);
}

enum turn { ARGUMENTS, GRIDS, KERNELS };
static const char *const turn_names[] = {"graph: kernel whose arguments are set in the node",
	"graph: the same, 1 and 2 blocks in turn", "graph: the same, two kernels in turn"};

/* One kernel that is edited in the executable before each launch. */
static void signal_of_edited_graph(struct bench *b, enum turn turn)
{
	struct args args = bench_direct(b, true);
	bool signal = true;
	void *arguments[] = {&args, &signal};
	cudaKernelNodeParams params;
	cudaGraphExec_t exec;
	cudaGraphNode_t node;
	cudaGraph_t graph;
	struct samples s;

	memset(&params, 0, sizeof(params));
	params.func = (void *)work;
	params.gridDim = 1;
	params.blockDim = 256;
	params.kernelParams = arguments;
	CHECK(cudaGraphCreate(&graph, 0));
	CHECK(cudaGraphAddKernelNode(&node, graph, NULL, 0, &params));
	CHECK(cudaGraphInstantiate(&exec, graph, 0));
	bench_run(b, &s, 20000, SECOND, [&] {
		args = bench_direct(b, true);
		if (turn == KERNELS)
			params.func = b->value % 2 ? (void *)work : (void *)work_after;
		else if (turn == GRIDS)
			params.gridDim = 1 + b->value % 2;
		CHECK(cudaGraphExecKernelNodeSetParams(exec, node, &params));
		CHECK(cudaGraphLaunch(exec, b->stream));
	});
	print_samples(turn_names[turn], &s);
	CHECK(cudaGraphExecDestroy(exec));
	CHECK(cudaGraphDestroy(graph));
}

/* The driver's launch, and one with nothing but a pointer to the block. */
static void signals_of_driver(struct bench *b)
{
	struct args args;
	bool signal = true;
	void *arguments[] = {&args, &signal}, *few[] = {&b->state, &signal};
	CUfunction function, slot;
	struct samples by_driver, by_pointer;

	CHECK(cudaGetFuncBySymbol(&function, (const void *)work));
	CHECK(cudaGetFuncBySymbol(&slot, (const void *)work_slot));
	bench_run(b, &by_driver, 20000, SECOND, [&] {
		args = bench_direct(b, true);
		CHECK(DRIVER(cuLaunchKernel)(
			function, 1, 1, 1, 256, 1, 1, 0, b->stream, arguments, NULL));
	});
	print_samples("kernel that stores the word itself, by cuLaunchKernel", &by_driver);
	struct block fixed = bench_block(b);
	for (int i = 0; i < DEPTH; i++)
		CHECK(cudaMemcpy(
			&b->state->slots[i], &fixed, sizeof(fixed), cudaMemcpyHostToDevice));
	bench_run(b, &by_pointer, 20000, SECOND, [&] {
		*b->word = 0;
		CHECK(DRIVER(cuLaunchKernel)(slot, 1, 1, 1, 256, 1, 1, 0, b->stream, few, NULL));
	});
	print_samples("the same with 9 bytes of arguments, block on the device", &by_pointer);
}

/* A kernel that stays and polls the host's memory: no launch at all. */
static void signal_of_resident(struct bench *b)
{
	uint64_t *bell = (uint64_t *)((char *)b->ring + 2048);
	struct samples s;

	*bell = 0;
	b->value = 0;
	*b->word = 0;
	b->ring[0] = bench_direct(b, false).direct;
	b->ring[0].word = (uint64_t *)b->word;
	resident<<<1, 256, 0, b->stream>>>(bell, b->ring);
	bench_run(b, &s, 20000, SECOND, [&] { *(volatile uint64_t *)bell = ++b->value; });
	*(volatile uint64_t *)bell = UINT64_MAX;
	CHECK(cudaStreamSynchronize(b->stream));
	print_samples("resident kernel, block in pinned memory", &s);
}

/* A copy node brings the block instead of the fetch kernel. */
static cudaGraphExec_t graph_copying_block(struct bench *b)
{
	struct args args = {&b->state->block, b->done, {}};
	cudaGraph_t graph;

	CHECK(cudaStreamBeginCapture(b->stream, cudaStreamCaptureModeThreadLocal));
	CHECK(cudaMemcpyAsync(&b->state->block, b->ring, sizeof(struct block),
		cudaMemcpyHostToDevice, b->stream));
	work<<<1, 256, 0, b->stream>>>(args, true);
	CHECK(cudaStreamEndCapture(b->stream, &graph));
	return bench_finish(b, graph);
}

/* fetch, and a kernel that starts early and waits for it on the device. */
static cudaGraphExec_t graph_programmatic(struct bench *b)
{
	struct args args = {&b->state->block, b->done, {}};
	cudaLaunchAttribute attribute;
	cudaLaunchConfig_t config;
	cudaGraph_t graph;

	memset(&config, 0, sizeof(config));
	memset(&attribute, 0, sizeof(attribute));
	attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
	attribute.val.programmaticStreamSerializationAllowed = 1;
	config.gridDim = 1;
	config.blockDim = 256;
	config.stream = b->stream;
	config.attrs = &attribute;
	config.numAttrs = 1;
	CHECK(cudaStreamBeginCapture(b->stream, cudaStreamCaptureModeThreadLocal));
	fetch<<<1, 32, 0, b->stream>>>(b->ring, b->state);
	CHECK(cudaLaunchKernelEx(&config, work_after, args, true));
	CHECK(cudaStreamEndCapture(b->stream, &graph));
	return bench_finish(b, graph);
}

static void signals_of_streams(struct bench *b)
{
	cudaEvent_t event, blocking;
	uint64_t count = 5000;

	CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
	CHECK(cudaEventCreateWithFlags(&blocking, cudaEventDisableTiming | cudaEventBlockingSync));
	/* These see the end by themselves; the word is then written by the host. */
	auto run = [&](const char *name, std::function<void()> end) {
		struct samples s;
		bench_run(b, &s, count, SECOND, [&] {
			work<<<1, 256, 0, b->stream>>>(bench_direct(b, false), false);
			end();
			*b->word = ++b->value;
		});
		s.call_ns.clear();
		print_samples(name, &s);
	};
	run("kernel, event, cudaEventQuery", [&] {
		CHECK(cudaEventRecord(event, b->stream));
		while (cudaEventQuery(event) == cudaErrorNotReady)
			;
	});
	run("kernel, cudaStreamQuery", [&] {
		while (cudaStreamQuery(b->stream) == cudaErrorNotReady)
			;
	});
	run("kernel, cudaStreamSynchronize (spinning)",
		[&] { CHECK(cudaStreamSynchronize(b->stream)); });
	run("kernel, blocking event, cudaEventSynchronize", [&] {
		CHECK(cudaEventRecord(blocking, b->stream));
		CHECK(cudaEventSynchronize(blocking));
	});
	CHECK(cudaEventDestroy(event));
	CHECK(cudaEventDestroy(blocking));
}

static void signals_of_graphs(struct bench *b)
{
	auto run = [&](const char *name, cudaGraphExec_t exec, std::function<void()> launch) {
		struct samples s;
		bench_run(b, &s, 20000, SECOND, launch);
		print_samples(name, &s);
		CHECK(cudaGraphExecDestroy(exec));
	};
	cudaGraphExec_t exec = graph_of_kernel(b, bench_direct(b, true));
	run("graph: kernel with fixed arguments", exec, [&] {
		*b->word = 0;
		CHECK(cudaGraphLaunch(exec, b->stream));
	});
	exec = graph_of_kernel(b, (struct args){b->ring, b->done, {}});
	run("graph: kernel that reads its block in pinned memory and stores the word", exec, [&] {
		b->ring[0] = bench_block(b);
		CHECK(cudaGraphLaunch(exec, b->stream));
	});
	exec = bench_exec(b, 1, false);
	run("graph: fetch kernel, kernel", exec, [&] { bench_launch_exec(b, exec); });
	exec = graph_programmatic(b);
	run("graph: fetch kernel, kernel by a programmatic edge", exec,
		[&] { bench_launch_exec(b, exec); });
	exec = graph_copying_block(b);
	run("graph: copy node, kernel", exec, [&] {
		b->ring[0] = bench_block(b);
		CHECK(cudaGraphLaunch(exec, b->stream));
	});
	exec = graph_with_memory_op(b);
	run("graph: kernel, memory-operation node", exec, [&] {
		*b->word = 0;
		b->value = 1;
		CHECK(cudaGraphLaunch(exec, b->stream));
	});
}

void measure_signals(void)
{
	struct bench b;
	struct samples s[4];

	bench_init(&b);
	print_samples_head("way to see the end of one small kernel");
	bench_run(&b, &s[0], 20000, SECOND,
		[&] { work<<<1, 256, 0, b.stream>>>(bench_direct(&b, true), true); });
	print_samples("kernel that stores the word itself", &s[0]);
	bench_run(&b, &s[1], 20000, SECOND,
		[&] { work<<<64, 256, 0, b.stream>>>(bench_direct(&b, true), true); });
	print_samples("the same, last of 64 blocks", &s[1]);
	bench_run(&b, &s[2], 20000, SECOND, [&] {
		work<<<1, 256, 0, b.stream>>>(bench_direct(&b, false), false);
		tail<<<1, 1, 0, b.stream>>>(bench_direct(&b, true));
	});
	print_samples("kernel, tail kernel", &s[2]);
	signals_of_driver(&b);
	signals_of_graphs(&b);
	b.value = *b.word;
	for (enum turn turn : {ARGUMENTS, GRIDS, KERNELS})
		signal_of_edited_graph(&b, turn);
	signal_of_resident(&b);
	signals_of_streams(&b);
	bench_run(&b, &s[3], 5000, SECOND, [&] {
		work<<<1, 256, 0, b.stream>>>(bench_direct(&b, false), false);
		++b.value;
		CHECK(cudaLaunchHostFunc(
			b.stream,
			[](void *arg) {
				struct bench *bench = (struct bench *)arg;
				*bench->word = bench->value;
			},
			&b));
	});
	print_samples("kernel, host function", &s[3]);
	bench_free(&b);
}

/* The block is an argument of a first kernel, which is set in its node before each launch. */
static void direct_edited(struct bench *b, int nodes)
{
	struct args args = {&b->state->block, &b->state->done, {}}, head = args;
	void *arguments[] = {&b->state, &head};
	cudaKernelNodeParams params;
	cudaGraphExec_t exec;
	cudaGraphNode_t root;
	cudaGraph_t graph;
	struct samples s;
	size_t one = 1;
	char name[64];

	CHECK(cudaStreamBeginCapture(b->stream, cudaStreamCaptureModeThreadLocal));
	put<<<1, 32, 0, b->stream>>>(b->state, head);
	for (int i = 0; i < nodes; i++)
		work<<<1, 256, 0, b->stream>>>(args, i == nodes - 1);
	CHECK(cudaStreamEndCapture(b->stream, &graph));
	CHECK(cudaGraphGetRootNodes(graph, &root, &one));
	memset(&params, 0, sizeof(params));
	params.func = (void *)put;
	params.gridDim = 1;
	params.blockDim = 32;
	params.kernelParams = arguments;
	CHECK(cudaGraphInstantiate(&exec, graph, 0));
	CHECK(cudaGraphUpload(exec, b->stream));
	bench_run(b, &s, 20000, SECOND / 2, [&] {
		head.direct = bench_block(b);
		CHECK(cudaGraphExecKernelNodeSetParams(exec, root, &params));
		CHECK(cudaGraphLaunch(exec, b->stream));
	});
	snprintf(name, sizeof(name), "%d, graph after a kernel with the block as argument", nodes);
	print_samples(name, &s);
	CHECK(cudaGraphExecDestroy(exec));
	CHECK(cudaGraphDestroy(graph));
}

void measure_direct(void)
{
	struct bench b;
	char name[64];

	bench_init(&b);
	print_samples_head("kernels of one launch");
	for (int nodes : {1, 2, 3, 4, 8, 20, 100}) {
		struct samples direct;
		bench_run(&b, &direct, 20000, SECOND / 2, [&] {
			for (int i = 0; i < nodes; i++)
				work<<<1, 256, 0, b.stream>>>(
					bench_direct(&b, i == nodes - 1), i == nodes - 1);
		});
		snprintf(name, sizeof(name), "%d, one by one", nodes);
		print_samples(name, &direct);
		direct_edited(&b, nodes);
		for (bool copy : {false, true}) {
			struct samples graph;
			cudaGraphExec_t exec = bench_exec(&b, nodes, copy);
			bench_run(&b, &graph, 20000, SECOND / 2,
				[&] { bench_launch_exec(&b, exec); });
			snprintf(name, sizeof(name), "%d, graph after a %s", nodes,
				copy ? "copy of the slots" : "fetch kernel");
			print_samples(name, &graph);
			CHECK(cudaGraphExecDestroy(exec));
		}
	}
	bench_free(&b);
}
