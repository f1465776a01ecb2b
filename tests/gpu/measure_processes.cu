/* SPDX-License-Identifier: MIT */
/*
 * measure_processes.cu: what other processes cost: opening exported memory (e), a context (f), a
 * neighbour on the same GPU (g); and memory of the host: used in place or copied, registration.
 */
#include "measure.h"

#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define SECOND UINT64_C(1000000000)
#define HANDLES 32

/* One exported allocation on its way to a child; a VMM descriptor travels beside it. */
struct offer {
	uint64_t bytes;
	cudaIpcMemHandle_t ipc;
};

struct child child_start(const char *name, const char *argument)
{
	char self[] = "measure", option[] = "--child", name_copy[32], argument_copy[32];
	char *argv[] = {self, option, name_copy, argument_copy, NULL};
	struct child child;
	int pair[2];

	snprintf(name_copy, sizeof(name_copy), "%s", name);
	snprintf(argument_copy, sizeof(argument_copy), "%s", argument);
	CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
	fflush(stdout);
	child.pid = fork();
	if (child.pid == 0) {
		dup2(pair[1], 3);
		execv("/proc/self/exe", argv);
		_exit(1);
	}
	close(pair[1]);
	child.socket = pair[0];
	return child;
}

void child_wait_ready(const struct child *child)
{
	char byte;

	if (read(child->socket, &byte, 1) != 1) {
		fprintf(stderr, "a child died\n");
		exit(1);
	}
}

void child_end(struct child *child)
{
	close(child->socket);
	waitpid(child->pid, NULL, 0);
}

static void child_ready(void)
{
	CHECK(write(3, "r", 1) != 1);
}

static bool child_told_to_end(void)
{
	char byte;
	ssize_t n = recv(3, &byte, 1, MSG_DONTWAIT);

	return n == 0;
}

static void send_offer(int fd, const struct offer *offer, int handle)
{
	char control[CMSG_SPACE(sizeof(int))];
	struct iovec iov = {(void *)offer, sizeof(*offer)};
	struct msghdr message;

	memset(&message, 0, sizeof(message));
	memset(control, 0, sizeof(control));
	message.msg_iov = &iov;
	message.msg_iovlen = 1;
	if (handle >= 0) {
		message.msg_control = control;
		message.msg_controllen = sizeof(control);
		struct cmsghdr *c = CMSG_FIRSTHDR(&message);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &handle, sizeof(int));
	}
	CHECK(sendmsg(fd, &message, 0) != (ssize_t)sizeof(*offer));
}

static int receive_offer(int fd, struct offer *ret_offer)
{
	char control[CMSG_SPACE(sizeof(int))];
	struct iovec iov = {ret_offer, sizeof(*ret_offer)};
	struct msghdr message;
	int handle = -1;

	memset(&message, 0, sizeof(message));
	message.msg_iov = &iov;
	message.msg_iovlen = 1;
	message.msg_control = control;
	message.msg_controllen = sizeof(control);
	CHECK(recvmsg(fd, &message, MSG_WAITALL) != (ssize_t)sizeof(*ret_offer));
	struct cmsghdr *c = CMSG_FIRSTHDR(&message);
	if (c)
		memcpy(&handle, CMSG_DATA(c), sizeof(int));
	return handle;
}

static CUmemAllocationProp device_prop(void)
{
	CUmemAllocationProp prop;

	memset(&prop, 0, sizeof(prop));
	prop.type = CU_MEM_ALLOCATION_TYPE_PINNED;
	prop.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
	prop.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
	return prop;
}

static CUdeviceptr map_handle(CUmemGenericAllocationHandle handle, size_t bytes)
{
	CUmemAccessDesc access;
	CUdeviceptr range;

	access.location = device_prop().location;
	access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
	CHECK(DRIVER(cuMemAddressReserve)(&range, bytes, 0, 0, 0));
	CHECK(DRIVER(cuMemMap)(range, bytes, 0, handle, 0));
	CHECK(DRIVER(cuMemSetAccess)(range, bytes, &access, 1));
	return range;
}

static void unmap_handle(CUdeviceptr range, size_t bytes)
{
	CHECK(DRIVER(cuMemUnmap)(range, bytes));
	CHECK(DRIVER(cuMemAddressFree)(range, bytes));
}

/* The child's half: opens what comes, all at once, then closes it. */
static int child_open(bool vmm)
{
	std::vector<uint64_t> open_ns, close_ns;
	CUmemGenericAllocationHandle handle;
	void *opened[HANDLES];
	struct offer offer;
	uint64_t t0;
	int fd;

	CHECK(cudaFree(0));
	child_ready();
	for (int i = 0; i < HANDLES; i++) {
		fd = receive_offer(3, &offer);
		t0 = now_ns();
		if (vmm) {
			CHECK(DRIVER(cuMemImportFromShareableHandle)(&handle, (void *)(intptr_t)fd,
				CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR));
			opened[i] = (void *)map_handle(handle, offer.bytes);
			CHECK(DRIVER(cuMemRelease)(handle));
			close(fd);
		} else {
			CHECK(cudaIpcOpenMemHandle(
				&opened[i], offer.ipc, cudaIpcMemLazyEnablePeerAccess));
		}
		open_ns.push_back(now_ns() - t0);
	}
	for (int i = 0; i < HANDLES; i++) {
		t0 = now_ns();
		if (vmm)
			unmap_handle((CUdeviceptr)opened[i], offer.bytes);
		else
			CHECK(cudaIpcCloseMemHandle(opened[i]));
		close_ns.push_back(now_ns() - t0);
	}
	printf("| %s | %llu MiB | open | %.0f | %.0f | %.0f |\n", vmm ? "VMM descriptor" : "IPC",
		(unsigned long long)offer.bytes >> 20, us(open_ns, 0), us(open_ns, 0.5),
		us(open_ns, 1));
	printf("| | | close | %.0f | %.0f | %.0f |\n", us(close_ns, 0), us(close_ns, 0.5),
		us(close_ns, 1));
	return 0;
}

/* Exports, times that, and lets a child open. */
static void open_in_child(bool vmm, size_t bytes)
{
	CUmemAllocationProp prop = device_prop();
	CUmemGenericAllocationHandle handles[HANDLES];
	std::vector<uint64_t> create_ns, free_ns;
	void *memory[HANDLES];
	struct offer offer;
	struct child child = child_start("open", vmm ? "vmm" : "ipc");
	int fd = -1;

	child_wait_ready(&child);
	offer.bytes = bytes;
	for (int i = 0; i < HANDLES; i++) {
		uint64_t t0 = now_ns();
		if (vmm) {
			CHECK(DRIVER(cuMemCreate)(&handles[i], bytes, &prop, 0));
			memory[i] = (void *)map_handle(handles[i], bytes);
			CHECK(DRIVER(cuMemExportToShareableHandle)(
				&fd, handles[i], CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
		} else {
			CHECK(cudaMalloc(&memory[i], bytes));
			CHECK(cudaIpcGetMemHandle(&offer.ipc, memory[i]));
		}
		create_ns.push_back(now_ns() - t0);
		send_offer(child.socket, &offer, fd);
		if (vmm)
			close(fd);
	}
	waitpid(child.pid, NULL, 0);
	close(child.socket);
	for (int i = 0; i < HANDLES; i++) {
		uint64_t t0 = now_ns();
		if (vmm) {
			unmap_handle((CUdeviceptr)memory[i], bytes);
			CHECK(DRIVER(cuMemRelease)(handles[i]));
		} else {
			CHECK(cudaFree(memory[i]));
		}
		free_ns.push_back(now_ns() - t0);
	}
	printf("| | | create, export | %.0f | %.0f | %.0f |\n| | | free | %.0f | %.0f | %.0f |\n",
		us(create_ns, 0), us(create_ns, 0.5), us(create_ns, 1), us(free_ns, 0),
		us(free_ns, 0.5), us(free_ns, 1));
	fflush(stdout);
}

void measure_open(void)
{
	CHECK(cudaFree(0));
	printf("\n| form | size | step | min µs | p50 | max |\n|---|---|---|---|---|---|\n");
	for (size_t bytes : {(size_t)2 << 20, (size_t)64 << 20}) {
		open_in_child(false, bytes);
		open_in_child(true, bytes);
	}
}

__global__ void spin(uint64_t cycles)
{
	uint64_t start = clock64();

	while (clock64() - start < cycles)
		;
}

/* A neighbour with a context: "idle", or works until its parent closes the socket. */
static int child_neighbour(const char *argument)
{
	uint64_t pause_ns = strtoull(argument, NULL, 10);
	bool copies = strcmp(argument, "copies") == 0, busy = strcmp(argument, "busy") == 0;
	size_t bytes = 16 << 20;
	cudaStream_t stream;
	void *pinned, *memory;

	CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
	CHECK(cudaMallocHost(&pinned, bytes));
	CHECK(cudaMalloc(&memory, bytes));
	spin<<<1, 1, 0, stream>>>(1);
	CHECK(cudaStreamSynchronize(stream));
	child_ready();
	while (!child_told_to_end()) {
		if (copies)
			CHECK(cudaMemcpyAsync(
				memory, pinned, bytes, cudaMemcpyHostToDevice, stream));
		else if (strcmp(argument, "idle") != 0)
			spin<<<1, 1, 0, stream>>>(busy ? 180000 : 2000);
		CHECK(cudaStreamSynchronize(stream));
		if (!busy && !copies)
			sleep_ns(pause_ns ? pause_ns : 10000000);
	}
	return 0;
}

static int child_context(const char *argument)
{
	static char page[1 << 20] __attribute__((aligned(4096)));
	cudaStream_t stream;

	if (strcmp(argument, "pinned") == 0)
		CHECK(cudaHostRegister(page, sizeof(page), cudaHostRegisterMapped));
	else
		CHECK(cudaFree(0));
	if (strcmp(argument, "kernel") == 0) {
		CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
		spin<<<1, 1, 0, stream>>>(1);
		CHECK(cudaStreamSynchronize(stream));
	}
	child_ready();
	while (!child_told_to_end())
		sleep_ns(1000000);
	return 0;
}

int child_main(const char *name, const char *argument)
{
	if (strcmp(name, "open") == 0)
		return child_open(strcmp(argument, "vmm") == 0);
	if (strcmp(name, "neighbour") == 0)
		return child_neighbour(argument);
	return child_context(argument);
}

void measure_contexts(void)
{
	size_t before, after, total;

	CHECK(cudaFree(0));
	CHECK(cudaMemGetInfo(&before, &total));
	printf("\nThis process, with a context: %.0f of %.0f MiB free.\n\n| another process | "
	       "device "
	       "memory it takes, MiB | start to ready, ms |\n|---|---|---|\n",
		(double)before / (1 << 20), (double)total / (1 << 20));
	for (const char *what : {"context", "kernel", "pinned"}) {
		CHECK(cudaMemGetInfo(&before, &total));
		uint64_t t0 = now_ns();
		struct child child = child_start("context", what);
		child_wait_ready(&child);
		uint64_t t1 = now_ns();
		CHECK(cudaMemGetInfo(&after, &total));
		printf("| %s | %.0f | %.0f |\n", what, (double)(before - after) / (1 << 20),
			(double)(t1 - t0) / 1e6);
		fflush(stdout);
		child_end(&child);
	}
}

void measure_neighbours(void)
{
	static const char *const whats[][2] = {{"idle", "an idle context"},
		{"100000000", "a kernel of 1 µs each 100 ms"},
		{"1000000", "a kernel of 1 µs each ms"},
		{"busy", "kernels of 100 µs without pause"},
		{"copies", "copies of 16 MiB without pause"}};
	struct samples quiet, again;
	struct bench b;

	bench_init(&b);
	auto launch = [&] { work<<<1, 256, 0, b.stream>>>(bench_direct(&b, true), true); };
	print_samples_head("a second process has");
	bench_run(&b, &quiet, SIZE_MAX, 2 * SECOND, launch);
	print_samples("no context", &quiet);
	for (const auto &what : whats) {
		struct child child = child_start("neighbour", what[0]);
		struct samples s;
		child_wait_ready(&child);
		bench_run(&b, &s, SIZE_MAX, 2 * SECOND, launch);
		print_samples(what[1], &s);
		child_end(&child);
	}
	bench_run(&b, &again, SIZE_MAX, SECOND, launch);
	print_samples("ended", &again);
	bench_free(&b);
}

/* Reads or writes n 16-byte words, then signals; word NULL: another command does. */
__global__ void touch(
	float4 *p, unsigned n, bool write, unsigned *done, uint64_t *word, uint64_t value)
{
	float4 sum = make_float4(0, 0, 0, 0);

	for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < n;
		i += gridDim.x * blockDim.x) {
		if (write) {
			p[i] = make_float4(1, 2, 3, (float)value);
		} else {
			float4 v = p[i];
			sum.x += v.x + v.y + v.z + v.w;
		}
	}
	if (sum.x == 12345.0f)
		p[0] = sum;
	__syncthreads();
	if (!word || threadIdx.x != 0)
		return;
	__threadfence_system();
	if (atomicAdd(done, 1) != gridDim.x - 1)
		return;
	*done = 0;
	__threadfence_system();
	*(volatile uint64_t *)word = value;
}

enum way { IN_PLACE, COPIED, ON_DEVICE };

static double place_us(struct bench *b, float4 *pinned, size_t bytes, bool write, enum way way)
{
	unsigned n = (unsigned)(bytes / sizeof(float4));
	unsigned blocks = std::min(264u, (n + 255) / 256);
	float4 *p = way == IN_PLACE ? pinned : (float4 *)b->data;
	struct samples s;

	bench_run(b, &s, 2000, SECOND / 3, [&] {
		bool by_tail = way == COPIED && write;
		uint64_t value = ++b->value;
		if (way == COPIED && !write)
			CHECK(cudaMemcpyAsync(p, pinned, bytes, cudaMemcpyHostToDevice, b->stream));
		touch<<<blocks, 256, 0, b->stream>>>(
			p, n, write, b->done, by_tail ? NULL : (uint64_t *)b->word, value);
		if (by_tail) {
			CHECK(cudaMemcpyAsync(pinned, p, bytes, cudaMemcpyDeviceToHost, b->stream));
			b->value--;
			tail<<<1, 1, 0, b->stream>>>(bench_direct(b, true));
		}
	});
	return us(s.word_ns, 0.5);
}

static void *registered_memfd(size_t bytes)
{
	int fd = memfd_create("measure", MFD_CLOEXEC);
	void *p;

	CHECK(fd < 0 || ftruncate(fd, (off_t)bytes));
	p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
	CHECK(p == MAP_FAILED);
	close(fd);
	memset(p, 0, bytes);
	return p;
}

void measure_place(void)
{
	size_t most = 16 << 20;
	void *host = registered_memfd(most);
	float4 *pinned;
	struct bench b;

	bench_init(&b);
	CHECK(cudaHostRegister(host, most, cudaHostRegisterMapped));
	CHECK(cudaHostGetDevicePointer((void **)&pinned, host, 0));
	printf("\nLaunch to word, p50 in µs, of a kernel that reads or writes so many bytes of "
	       "registered shared memory.\n\n| bytes | read in place | copied, then read | read on "
	       "the device | written in place | written, then copied | written on the device |\n"
	       "|---|---|---|---|---|---|---|\n");
	for (size_t bytes = 1 << 10; bytes <= most; bytes *= 2) {
		printf("| %zu |", bytes);
		for (bool write : {false, true})
			for (enum way way : {IN_PLACE, COPIED, ON_DEVICE})
				printf(" %.1f |", place_us(&b, pinned, bytes, write, way));
		printf("\n");
		fflush(stdout);
	}
	CHECK(cudaHostUnregister(host));
	munmap(host, most);
	bench_free(&b);
}

void measure_registration(void)
{
	CHECK(cudaFree(0));
	printf("\n| registered | register p50 µs | max | unregister p50 µs | max |\n"
	       "|---|---|---|---|---|\n");
	for (size_t bytes = 64 << 10; bytes <= (size_t)1 << 30; bytes *= 8) {
		std::vector<uint64_t> in_ns, out_ns;
		void *host = registered_memfd(bytes);
		for (int i = 0; i < 20; i++) {
			uint64_t t0 = now_ns();
			CHECK(cudaHostRegister(host, bytes, cudaHostRegisterMapped));
			uint64_t t1 = now_ns();
			CHECK(cudaHostUnregister(host));
			in_ns.push_back(t1 - t0);
			out_ns.push_back(now_ns() - t1);
		}
		printf("| %zu KiB | %.0f | %.0f | %.0f | %.0f |\n", bytes >> 10, us(in_ns, 0.5),
			us(in_ns, 1), us(out_ns, 0.5), us(out_ns, 1));
		fflush(stdout);
		munmap(host, bytes);
	}
}
