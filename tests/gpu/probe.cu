/* SPDX-License-Identifier: MIT */
/*
 * probe.cu: asks a GPU's driver which calls fail while a stream captures, and which calls break
 * the capture. Each cell of the table is a capture of its own: begin, launch, the call in question
 * (by the capturing thread or by another one), launch, end.
 *
 *	probe [--json] [CALL...]
 */
#include "gpu.h"

#include <cublas_v2.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <utility>

#define BYTES ((size_t)2 << 20)
#define FRESH 96 /* kernels that nobody has used yet, so that a first use loads them */

/* What the calls work on; made anew for each cell, before its capture begins. */
struct cell {
	cudaStream_t capturing, other, made_stream;
	cudaEvent_t event, captured_event, made_event;
	void *memory, *pinned, *registered, *host, *made, *made_pinned, *made_registered, *opened;
	cudaGraph_t graph, made_graph;
	cudaGraphExec_t exec, made_exec;
	cudaGraphNode_t node;
	CUmemGenericAllocationHandle physical, made_physical;
	CUdeviceptr range, made_range;
	CUmodule module, made_module;
	cublasHandle_t made_blas;
	int made_fd;
};

struct call {
	const char *name;
	int (*run)(struct cell *c);
};

struct column {
	const char *name;
	cudaStreamCaptureMode capture;
	bool other_thread;
	cudaStreamCaptureMode own; /* the calling thread's mode; Global is the default */
};

static const struct column columns[] = {
	{"Global, itself", cudaStreamCaptureModeGlobal, false, cudaStreamCaptureModeGlobal},
	{"Global, another", cudaStreamCaptureModeGlobal, true, cudaStreamCaptureModeGlobal},
	{"Global, another in ThreadLocal", cudaStreamCaptureModeGlobal, true,
		cudaStreamCaptureModeThreadLocal},
	{"ThreadLocal, itself", cudaStreamCaptureModeThreadLocal, false,
		cudaStreamCaptureModeGlobal},
	{"ThreadLocal, itself in Relaxed", cudaStreamCaptureModeThreadLocal, false,
		cudaStreamCaptureModeRelaxed},
	{"ThreadLocal, another", cudaStreamCaptureModeThreadLocal, true,
		cudaStreamCaptureModeGlobal},
	{"ThreadLocal, another in ThreadLocal", cudaStreamCaptureModeThreadLocal, true,
		cudaStreamCaptureModeThreadLocal},
	{"Relaxed, itself", cudaStreamCaptureModeRelaxed, false, cudaStreamCaptureModeGlobal},
	{"Relaxed, another", cudaStreamCaptureModeRelaxed, true, cudaStreamCaptureModeGlobal},
};
#define COLUMNS ((int)(sizeof(columns) / sizeof(columns[0])))

static cudaIpcMemHandle_t foreign; /* memory of another process */
static cublasHandle_t blas;	   /* NULL: there is no cuBLAS here */
static struct {
	decltype(&cublasCreate_v2) create;
	decltype(&cublasDestroy_v2) destroy;
	decltype(&cublasSetStream_v2) set_stream;
	decltype(&cublasSetWorkspace_v2) set_workspace;
	decltype(&cublasSgemm_v2) sgemm;
} blas_calls;

__global__ void nothing(int *p)
{
	if (p)
		*p = 0;
}

template <int N> __global__ void fresh(int *p)
{
	if (p)
		*p = N;
}

/* A kernel that has not been loaded yet. */
template <int... N> static const void *next_fresh(std::integer_sequence<int, N...>)
{
	static const void *const kernels[] = {(const void *)fresh<N>...};
	static int next;

	if (next == FRESH) {
		fprintf(stderr, "no kernel is fresh any more\n");
		exit(1);
	}
	return kernels[next++];
}

static int launch_fresh(cudaStream_t stream)
{
	int *p = NULL;
	void *args[] = {&p};
	const void *kernel = next_fresh(std::make_integer_sequence<int, FRESH>());

	return cudaLaunchKernel(kernel, 1, 1, args, 0, stream);
}

static int launch_nothing(cudaStream_t stream)
{
	nothing<<<1, 1, 0, stream>>>(NULL);
	return cudaGetLastError();
}

static const char ptx[] = ".version 7.0\n.target sm_75\n.address_size 64\n"
			  ".visible .entry alone() { ret; }\n";

static CUmemAllocationProp physical_prop(void)
{
	CUmemAllocationProp prop;

	memset(&prop, 0, sizeof(prop));
	prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
	prop.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
	prop.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
	return prop;
}

static int mem_create(CUmemGenericAllocationHandle *ret)
{
	CUmemAllocationProp prop = physical_prop();

	return DRIVER(cuMemCreate)(ret, BYTES, &prop, 0);
}

static int mem_set_access(CUdeviceptr range)
{
	CUmemAccessDesc access;

	memset(&access, 0, sizeof(access));
	access.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
	access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
	return DRIVER(cuMemSetAccess)(range, BYTES, &access, 1);
}

static int sgemm(struct cell *c, cudaStream_t stream, bool workspace)
{
	float one = 1, *m = (float *)c->memory;
	int error = blas_calls.set_stream(blas, stream);

	if (error == 0 && workspace)
		error = blas_calls.set_workspace(blas, (char *)c->memory + BYTES / 2, BYTES / 2);
	if (error)
		return error;
	return blas_calls.sgemm(blas, CUBLAS_OP_N, CUBLAS_OP_N, 64, 64, 64, &one, m, 64, m + 4096,
		64, &one, m + 8192, 64);
}

static int nested_capture(struct cell *c)
{
	int error = cudaStreamBeginCapture(c->other, cudaStreamCaptureModeThreadLocal);

	if (error)
		return error;
	launch_nothing(c->other);
	return cudaStreamEndCapture(c->other, &c->made_graph);
}

static const struct call calls[] = {
	{"cudaMalloc", [](struct cell *c) { return (int)cudaMalloc(&c->made, BYTES); }},
	{"cudaFree",
		[](struct cell *c) {
			void *memory = c->memory;
			c->memory = NULL;
			return (int)cudaFree(memory);
		}},
	{"cudaMallocAsync (other stream)",
		[](struct cell *c) { return (int)cudaMallocAsync(&c->made, BYTES, c->other); }},
	{"cudaMallocHost",
		[](struct cell *c) { return (int)cudaMallocHost(&c->made_pinned, BYTES); }},
	{"cudaHostAlloc (mapped)",
		[](struct cell *c) {
			return (int)cudaHostAlloc(&c->made_pinned, BYTES, cudaHostAllocMapped);
		}},
	{"cudaFreeHost",
		[](struct cell *c) {
			void *pinned = c->pinned;
			c->pinned = NULL;
			return (int)cudaFreeHost(pinned);
		}},
	{"cudaHostRegister",
		[](struct cell *c) {
			int e = cudaHostRegister(c->host, BYTES, cudaHostRegisterMapped);
			c->made_registered = e ? NULL : c->host;
			return e;
		}},
	{"cudaHostUnregister",
		[](struct cell *c) {
			int e = cudaHostUnregister(c->registered);
			if (e == 0)
				c->registered = NULL;
			return e;
		}},
	{"cudaHostGetDevicePointer",
		[](struct cell *c) {
			void *p;
			return (int)cudaHostGetDevicePointer(&p, c->pinned, 0);
		}},
	{"cudaPointerGetAttributes",
		[](struct cell *c) {
			cudaPointerAttributes attributes;
			return (int)cudaPointerGetAttributes(&attributes, c->memory);
		}},
	{"cudaMemGetInfo",
		[](struct cell *c) {
			size_t free_bytes, total_bytes;
			return (int)cudaMemGetInfo(&free_bytes, &total_bytes);
		}},
	{"cuMemCreate", [](struct cell *c) { return mem_create(&c->made_physical); }},
	{"cuMemRelease",
		[](struct cell *c) {
			CUmemGenericAllocationHandle h = c->physical;
			c->physical = 0;
			return (int)DRIVER(cuMemRelease)(h);
		}},
	{"cuMemAddressReserve",
		[](struct cell *c) {
			return (int)DRIVER(cuMemAddressReserve)(&c->made_range, BYTES, 0, 0, 0);
		}},
	{"cuMemMap",
		[](struct cell *c) {
			return (int)DRIVER(cuMemMap)(c->range, BYTES, 0, c->physical, 0);
		}},
	{"cuMemMap, cuMemSetAccess, cuMemUnmap",
		[](struct cell *c) {
			int e = DRIVER(cuMemMap)(c->range, BYTES, 0, c->physical, 0);
			if (e == 0)
				e = mem_set_access(c->range);
			return e ? e : (int)DRIVER(cuMemUnmap)(c->range, BYTES);
		}},
	{"cuMemExportToShareableHandle",
		[](struct cell *c) {
			return (int)DRIVER(cuMemExportToShareableHandle)(&c->made_fd, c->physical,
				CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0);
		}},
	{"cudaIpcGetMemHandle",
		[](struct cell *c) {
			cudaIpcMemHandle_t handle;
			return (int)cudaIpcGetMemHandle(&handle, c->memory);
		}},
	{"cudaIpcOpenMemHandle",
		[](struct cell *c) {
			return (int)cudaIpcOpenMemHandle(
				&c->opened, foreign, cudaIpcMemLazyEnablePeerAccess);
		}},
	{"cudaMemcpy (pinned to device)",
		[](struct cell *c) {
			return (int)cudaMemcpy(c->memory, c->pinned, 64, cudaMemcpyHostToDevice);
		}},
	{"cudaMemset", [](struct cell *c) { return (int)cudaMemset(c->memory, 0, 64); }},
	{"cudaMemcpyAsync (other stream, pinned)",
		[](struct cell *c) {
			return (int)cudaMemcpyAsync(
				c->memory, c->pinned, 64, cudaMemcpyHostToDevice, c->other);
		}},
	{"cudaMemcpyAsync (other stream, pageable)",
		[](struct cell *c) {
			return (int)cudaMemcpyAsync(
				c->memory, c->host, 64, cudaMemcpyHostToDevice, c->other);
		}},
	{"cudaMemcpyAsync (capturing stream, pageable)",
		[](struct cell *c) {
			return (int)cudaMemcpyAsync(
				c->memory, c->host, 64, cudaMemcpyHostToDevice, c->capturing);
		}},
	{"kernel in another stream", [](struct cell *c) { return launch_nothing(c->other); }},
	{"kernel in the legacy stream", [](struct cell *c) { return launch_nothing(0); }},
	{"first launch of a kernel, another stream",
		[](struct cell *c) { return launch_fresh(c->other); }},
	{"first launch of a kernel, capturing stream",
		[](struct cell *c) { return launch_fresh(c->capturing); }},
	{"cudaFuncGetAttributes, first use",
		[](struct cell *c) {
			cudaFuncAttributes attributes;
			return (int)cudaFuncGetAttributes(
				&attributes, next_fresh(std::make_integer_sequence<int, FRESH>()));
		}},
	{"cuModuleLoadData",
		[](struct cell *c) { return (int)DRIVER(cuModuleLoadData)(&c->made_module, ptx); }},
	{"cuModuleUnload",
		[](struct cell *c) {
			CUmodule m = c->module;
			c->module = NULL;
			return (int)DRIVER(cuModuleUnload)(m);
		}},
	{"cudaLaunchHostFunc (other stream)",
		[](struct cell *c) {
			return (int)cudaLaunchHostFunc(
				c->other, [](void *) {}, NULL);
		}},
	{"cudaStreamCreateWithFlags (non-blocking)",
		[](struct cell *c) {
			return (int)cudaStreamCreateWithFlags(
				&c->made_stream, cudaStreamNonBlocking);
		}},
	{"cudaStreamCreate (blocking)",
		[](struct cell *c) { return (int)cudaStreamCreate(&c->made_stream); }},
	{"cudaStreamDestroy",
		[](struct cell *c) {
			cudaStream_t s = c->other;
			c->other = NULL;
			return (int)cudaStreamDestroy(s);
		}},
	{"cudaStreamQuery (other stream)",
		[](struct cell *c) { return (int)cudaStreamQuery(c->other); }},
	{"cudaStreamQuery (capturing stream)",
		[](struct cell *c) { return (int)cudaStreamQuery(c->capturing); }},
	{"cudaStreamQuery (legacy stream)", [](struct cell *c) { return (int)cudaStreamQuery(0); }},
	{"cudaStreamSynchronize (other stream)",
		[](struct cell *c) { return (int)cudaStreamSynchronize(c->other); }},
	{"cudaStreamSynchronize (capturing stream)",
		[](struct cell *c) { return (int)cudaStreamSynchronize(c->capturing); }},
	{"cudaStreamSynchronize (legacy stream)",
		[](struct cell *c) { return (int)cudaStreamSynchronize(0); }},
	{"cudaStreamIsCapturing (capturing stream)",
		[](struct cell *c) {
			cudaStreamCaptureStatus status;
			return (int)cudaStreamIsCapturing(c->capturing, &status);
		}},
	{"cudaEventCreate",
		[](struct cell *c) {
			return (int)cudaEventCreateWithFlags(
				&c->made_event, cudaEventDisableTiming);
		}},
	{"cudaEventDestroy",
		[](struct cell *c) {
			cudaEvent_t e = c->event;
			c->event = NULL;
			return (int)cudaEventDestroy(e);
		}},
	{"cudaEventRecord (other stream)",
		[](struct cell *c) { return (int)cudaEventRecord(c->event, c->other); }},
	{"cudaEventQuery (not of the capture)",
		[](struct cell *c) { return (int)cudaEventQuery(c->event); }},
	{"cudaEventQuery (recorded in the capture)",
		[](struct cell *c) { return (int)cudaEventQuery(c->captured_event); }},
	{"cudaEventSynchronize (not of the capture)",
		[](struct cell *c) { return (int)cudaEventSynchronize(c->event); }},
	{"cudaEventSynchronize (recorded in the capture)",
		[](struct cell *c) { return (int)cudaEventSynchronize(c->captured_event); }},
	{"capturing stream awaits an outside event",
		[](struct cell *c) { return (int)cudaStreamWaitEvent(c->capturing, c->event, 0); }},
	{"other stream awaits a captured event",
		[](struct cell *c) {
			return (int)cudaStreamWaitEvent(c->other, c->captured_event, 0);
		}},
	{"cudaDeviceSynchronize", [](struct cell *c) { return (int)cudaDeviceSynchronize(); }},
	{"cudaSetDevice", [](struct cell *c) { return (int)cudaSetDevice(0); }},
	{"cudaPeekAtLastError", [](struct cell *c) { return (int)cudaPeekAtLastError(); }},
	{"cudaGraphInstantiate (another graph)",
		[](struct cell *c) {
			return (int)cudaGraphInstantiate(&c->made_exec, c->graph, 0);
		}},
	{"cudaGraphUpload (other stream)",
		[](struct cell *c) { return (int)cudaGraphUpload(c->exec, c->other); }},
	{"cudaGraphLaunch (other stream)",
		[](struct cell *c) { return (int)cudaGraphLaunch(c->exec, c->other); }},
	{"cudaGraphLaunch (capturing stream)",
		[](struct cell *c) { return (int)cudaGraphLaunch(c->exec, c->capturing); }},
	{"cudaGraphExecDestroy",
		[](struct cell *c) {
			cudaGraphExec_t e = c->exec;
			c->exec = NULL;
			return (int)cudaGraphExecDestroy(e);
		}},
	{"cudaGraphDestroy (another graph)",
		[](struct cell *c) {
			cudaGraph_t g = c->graph;
			c->graph = NULL;
			return (int)cudaGraphDestroy(g);
		}},
	{"a second capture, ThreadLocal, in another stream", nested_capture},
	{"cublasCreate", [](struct cell *c) { return (int)blas_calls.create(&c->made_blas); }},
	{"cublasSetWorkspace",
		[](struct cell *c) {
			return (int)blas_calls.set_workspace(blas, c->memory, BYTES);
		}},
	{"cublasSgemm (other stream, own workspace)",
		[](struct cell *c) { return sgemm(c, c->other, true); }},
	{"cublasSgemm (capturing stream, own workspace)",
		[](struct cell *c) { return sgemm(c, c->capturing, true); }},
	{"cublasSgemm (capturing stream, no workspace)",
		[](struct cell *c) { return sgemm(c, c->capturing, false); }},
};
#define CALLS ((int)(sizeof(calls) / sizeof(calls[0])))

static void cell_graph(struct cell *c)
{
	CHECK(cudaStreamBeginCapture(c->other, cudaStreamCaptureModeThreadLocal));
	CHECK(launch_nothing(c->other));
	CHECK(cudaStreamEndCapture(c->other, &c->graph));
	CHECK(cudaGraphInstantiate(&c->exec, c->graph, 0));
}

static void cell_init(struct cell *c)
{
	memset(c, 0, sizeof(*c));
	c->made_fd = -1;
	CHECK(cudaStreamCreateWithFlags(&c->capturing, cudaStreamNonBlocking));
	CHECK(cudaStreamCreateWithFlags(&c->other, cudaStreamNonBlocking));
	CHECK(cudaEventCreateWithFlags(&c->event, cudaEventDisableTiming));
	CHECK(cudaEventCreateWithFlags(&c->captured_event, cudaEventDisableTiming));
	CHECK(cudaMalloc(&c->memory, BYTES));
	CHECK(cudaMallocHost(&c->pinned, BYTES));
	c->host = mmap(NULL, 2 * BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(c->host == MAP_FAILED);
	c->registered = (char *)c->host + BYTES;
	CHECK(cudaHostRegister(c->registered, BYTES, cudaHostRegisterMapped));
	CHECK(mem_create(&c->physical));
	CHECK(DRIVER(cuMemAddressReserve)(&c->range, BYTES, 0, 0, 0));
	CHECK(DRIVER(cuModuleLoadData)(&c->module, ptx));
	cell_graph(c);
	CHECK(cudaEventRecord(c->event, c->other));
	CHECK(cudaStreamSynchronize(c->other));
}

/* Best effort: a call under test may have left anything. */
static void cell_free(struct cell *c)
{
	if (blas)
		blas_calls.set_stream(blas, NULL);
	if (c->made_blas)
		blas_calls.destroy(c->made_blas);
	cudaDeviceSynchronize();
	if (c->opened)
		cudaIpcCloseMemHandle(c->opened);
	DRIVER(cuMemUnmap)(c->range, BYTES);
	DRIVER(cuMemAddressFree)(c->range, BYTES);
	if (c->made_range)
		DRIVER(cuMemAddressFree)(c->made_range, BYTES);
	if (c->physical)
		DRIVER(cuMemRelease)(c->physical);
	if (c->made_physical)
		DRIVER(cuMemRelease)(c->made_physical);
	if (c->module)
		DRIVER(cuModuleUnload)(c->module);
	if (c->made_module)
		DRIVER(cuModuleUnload)(c->made_module);
	for (cudaGraphExec_t e : {c->exec, c->made_exec})
		if (e)
			cudaGraphExecDestroy(e);
	for (cudaGraph_t g : {c->graph, c->made_graph})
		if (g)
			cudaGraphDestroy(g);
	for (cudaEvent_t e : {c->event, c->captured_event, c->made_event})
		if (e)
			cudaEventDestroy(e);
	for (cudaStream_t s : {c->capturing, c->other, c->made_stream})
		if (s)
			cudaStreamDestroy(s);
	for (void *p : {c->registered, c->made_registered})
		if (p)
			cudaHostUnregister(p);
	cudaFreeHost(c->pinned);
	cudaFreeHost(c->made_pinned);
	cudaFree(c->memory);
	cudaFree(c->made);
	munmap(c->host, 2 * BYTES);
	if (c->made_fd >= 0)
		close(c->made_fd);
	cudaGetLastError();
}

/* The call of one cell, as its thread makes it. */
struct question {
	const struct call *call;
	const struct column *column;
	struct cell cell;
	int answer;
};

static void *ask(void *arg)
{
	struct question *q = (struct question *)arg;
	cudaStreamCaptureMode mode = q->column->own;

	cudaSetDevice(0);
	cudaThreadExchangeStreamCaptureMode(&mode);
	q->answer = q->call->run(&q->cell);
	cudaGetLastError();
	cudaThreadExchangeStreamCaptureMode(&mode);
	return NULL;
}

static const char *asking = "";

static void hung(int signal)
{
	static const char text[] = "hung: ";

	if (write(2, text, sizeof(text) - 1) > 0 && write(2, asking, strlen(asking)) > 0)
		_exit(2);
	_exit(3);
}

/* Makes the call in a capture. *ret_survived: the capture ended with a graph. */
static int probe(const struct call *call, const struct column *column, bool *ret_survived)
{
	struct question q = {call, column};
	cudaGraph_t graph = NULL;
	pthread_t thread;
	int error;

	asking = call->name;
	alarm(20);
	cell_init(&q.cell);
	CHECK(cudaStreamBeginCapture(q.cell.capturing, column->capture));
	CHECK(launch_nothing(q.cell.capturing));
	CHECK(cudaEventRecord(q.cell.captured_event, q.cell.capturing));
	if (column->other_thread) {
		CHECK(pthread_create(&thread, NULL, ask, &q));
		CHECK(pthread_join(thread, NULL));
	} else {
		ask(&q);
	}
	error = launch_nothing(q.cell.capturing);
	*ret_survived = cudaStreamEndCapture(q.cell.capturing, &graph) == cudaSuccess &&
		error == cudaSuccess && graph != NULL;
	if (graph)
		cudaGraphDestroy(graph);
	cudaGetLastError();
	cell_free(&q.cell);
	alarm(0);
	return q.answer;
}

static void blas_open(void)
{
	static const char *const names[] = {"libcublas.so.13", "libcublas.so.12",
		"/usr/local/cuda/lib64/libcublas.so.13", "/usr/local/cuda/lib64/libcublas.so.12"};
	void *library = NULL;

	for (const char *name : names)
		if (!library)
			library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
	if (!library)
		return;
	*(void **)&blas_calls.create = dlsym(library, "cublasCreate_v2");
	*(void **)&blas_calls.destroy = dlsym(library, "cublasDestroy_v2");
	*(void **)&blas_calls.set_stream = dlsym(library, "cublasSetStream_v2");
	*(void **)&blas_calls.set_workspace = dlsym(library, "cublasSetWorkspace_v2");
	*(void **)&blas_calls.sgemm = dlsym(library, "cublasSgemm_v2");
	CHECK(blas_calls.create(&blas));
	struct cell c;
	cell_init(&c);
	CHECK(sgemm(&c, c.other, true));
	cell_free(&c);
}

/* The other process, whose memory cudaIpcOpenMemHandle opens: this program, executed anew. */
static int export_memory(void)
{
	cudaIpcMemHandle_t handle;
	void *memory;
	char end;

	CHECK(cudaMalloc(&memory, BYTES));
	CHECK(cudaIpcGetMemHandle(&handle, memory));
	if (write(1, &handle, sizeof(handle)) != sizeof(handle))
		return 1;
	return (int)read(0, &end, 1);
}

static void spawn_exporter(char *self)
{
	int to[2], from[2];
	static char option[] = "--export";
	char *argv[] = {self, option, NULL};

	CHECK(pipe2(to, O_CLOEXEC));
	CHECK(pipe2(from, O_CLOEXEC));
	if (fork() == 0) {
		dup2(to[0], 0);
		dup2(from[1], 1);
		execv("/proc/self/exe", argv);
		_exit(1);
	}
	close(to[0]);
	close(from[1]);
	if (read(from[0], &foreign, sizeof(foreign)) != sizeof(foreign)) {
		fprintf(stderr, "the other process exported nothing\n");
		exit(1);
	}
}

static void answer_text(int answer, bool survived, char *ret, size_t bytes)
{
	if (answer == 0)
		snprintf(ret, bytes, "%s", survived ? "yes" : "yes, **breaks it**");
	else
		snprintf(ret, bytes, "%d%s", answer, survived ? "" : ", **breaks it**");
}

static void print_row(const struct call *call, bool json, bool first)
{
	char text[32];
	bool survived;

	printf(json ? "%s\n {\"call\": \"%s\"" : "%s| %s |", json && !first ? "," : "", call->name);
	for (int i = 0; i < COLUMNS; i++) {
		int answer = probe(call, &columns[i], &survived);
		answer_text(answer, survived, text, sizeof(text));
		if (json)
			printf(", \"%s\": {\"error\": %d, \"survived\": %s}", columns[i].name,
				answer, survived ? "true" : "false");
		else
			printf(" %s |", text);
	}
	printf(json ? "}" : "\n");
	fflush(stdout);
}

static void print_head(void)
{
	print_machine("");
	printf("\nEach cell: the call's own error (yes: it succeeded), and whether the capture "
	       "survived.\nHeads: mode of the capture, who calls.\n\n| call |");
	for (int i = 0; i < COLUMNS; i++)
		printf(" %s |", columns[i].name);
	printf("\n|---|");
	for (int i = 0; i < COLUMNS; i++)
		printf("---|");
	printf("\n");
}

static bool wanted(const struct call *call, char **names)
{
	if (!blas && strncmp(call->name, "cublas", 6) == 0)
		return false;
	if (!*names)
		return true;
	for (; *names; names++)
		if (strstr(call->name, *names))
			return true;
	return false;
}

int main(int argc, char **argv)
{
	bool json = argc > 1 && strcmp(argv[1], "--json") == 0, first = true;

	if (argc > 1 && strcmp(argv[1], "--export") == 0)
		return export_memory();
	need_gpu();
	spawn_exporter(argv[0]);
	signal(SIGALRM, hung);
	CHECK(launch_nothing(0));
	blas_open();
	if (json)
		printf("[");
	else
		print_head();
	for (int i = 0; i < CALLS; i++) {
		if (!wanted(&calls[i], argv + (json ? 2 : 1)))
			continue;
		print_row(&calls[i], json, first);
		first = false;
	}
	if (json)
		printf("\n]\n");
	return 0;
}
