/* SPDX-License-Identifier: MIT */
/* cuda.c: finds the GPU of an exported buffer, and maps the buffer there. */
#include "client/cuda/driver.h"
#include "client/cuda/gpuq-cuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define UUID_TEXT_MAX 40

struct gpuq_cuda {
	const struct driver *driver;
	uint32_t form; /* enum gpuq_buf_form */
	int ordinal;
	CUdevice device;
	CUcontext context; /* its primary one, retained */
	CUdeviceptr data;
	uint64_t bytes; /* mapped */
};

static const char *error_name(const struct driver *d, CUresult error)
{
	const char *name = NULL;

	return d->error_name(error, &name) == CUDA_SUCCESS && name != NULL ? name : "?";
}

/* --- The same GPU, the same namespace ------------------------------------------------------ */

/* As gpuqd writes it, without what stands before the first dash: "GPU-" or "MIG-". */
static void format_uuid(const CUuuid *uuid, char text[UUID_TEXT_MAX])
{
	int n = 0;

	for (int i = 0; i < 16; i++)
		n += snprintf(text + n, UUID_TEXT_MAX - (size_t)n, "%s%02x",
			i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "",
			(unsigned char)uuid->bytes[i]);
}

static int find_gpu(const struct driver *d, const char *wanted, struct gpuq_cuda *cuda)
{
	const char *digits = strchr(wanted, '-');
	char text[UUID_TEXT_MAX];
	int count = 0;
	CUuuid uuid;

	if (digits == NULL)
		return cuda_fail(-GPUQ_ENODEV,
			"the buffer lies on gpuqd's CPU device: map its descriptor instead (see "
			"gpuq_buf_export()), or start gpuqd with --device cuda");
	d->device_count(&count);
	for (int i = 0; i < count; i++) {
		if (d->device_get(&cuda->device, i) != CUDA_SUCCESS ||
			d->device_uuid(&uuid, cuda->device) != CUDA_SUCCESS)
			continue;
		format_uuid(&uuid, text);
		cuda->ordinal = i;
		if (strcmp(text, digits + 1) == 0)
			return 0;
	}
	return cuda_fail(-GPUQ_ENODEV,
		"the buffer lies on %s, which is none of the %d GPUs that this process sees: add "
		"it to CUDA_VISIBLE_DEVICES, or give it to this container",
		wanted, count);
}

static int check_namespace(const struct gpuq_buf_export *e)
{
	struct stat st;

	if (e->form != GPUQ_BUF_IPC || e->pid_namespace == 0 ||
		stat("/proc/self/ns/pid", &st) < 0 || (uint64_t)st.st_ino == e->pid_namespace)
		return 0;
	return cuda_fail(-EXDEV,
		"gpuqd runs in another PID namespace, where its cudaIpcMemHandles cannot be "
		"opened from: start this container with --pid=host, or allocate the buffer with "
		"GPUQ_BUF_FD");
}

/* --- The driver's refusals ----------------------------------------------------------------- */

static void driver_text(const struct driver *d, char text[32])
{
	int version = 0;

	d->version(&version);
	snprintf(text, 32, "%d.%d", version / 1000, version % 1000 / 10);
}

/* What the driver means. Handles say little of why they cannot be opened; what is known is said. */
static int explain(
	const struct driver *d, const struct gpuq_buf_export *e, const char *what, CUresult error)
{
	const char *remedy = "the buffer may be freed or lost: export it again";
	char ours[32];

	driver_text(d, ours);
	if (error == CUDA_ERROR_OUT_OF_MEMORY)
		return cuda_fail(-ENOMEM,
			"%s: no memory (a CUDA context takes some hundred MiB in each process)",
			what);
	if (error != CUDA_ERROR_INVALID_CONTEXT && error != CUDA_ERROR_INVALID_HANDLE &&
		error != CUDA_ERROR_NOT_PERMITTED)
		return cuda_fail(-EIO, "%s: %s", what, error_name(d, error));
	if (e->driver[0] != '\0' && strcmp(e->driver, ours) != 0)
		return cuda_fail(-EACCES,
			"%s: %s; gpuqd's driver is for CUDA %s and this process's for %s: use the "
			"same driver library in both",
			what, error_name(d, error), e->driver, ours);
	if (e->form == GPUQ_BUF_IPC)
		remedy = "a cudaIpcMemHandle needs gpuqd's user, host and IPC namespace: use "
			 "these, or allocate the buffer with GPUQ_BUF_FD";
	return cuda_fail(-EACCES, "%s: %s; %s", what, error_name(d, error), remedy);
}

/* --- Mapping ------------------------------------------------------------------------------- */

static int map_reserved(struct gpuq_cuda *cuda, const struct gpuq_buf_export *e,
	CUmemGenericAllocationHandle memory)
{
	const struct driver *d = cuda->driver;
	const CUmemAccessDesc access = {
		.location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = cuda->device},
		.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE,
	};
	CUresult error = d->mem_map(cuda->data, cuda->bytes, 0, memory, 0);

	if (error != CUDA_SUCCESS)
		return explain(d, e, "mapping the buffer", error);
	error = d->mem_access(cuda->data, cuda->bytes, &access, 1);
	if (error == CUDA_SUCCESS)
		return 0;
	d->mem_unmap(cuda->data, cuda->bytes);
	return explain(d, e, "mapping the buffer for reading and writing", error);
}

static int map_fd(struct gpuq_cuda *cuda, const struct gpuq_buf_export *e)
{
	const struct driver *d = cuda->driver;
	CUmemGenericAllocationHandle memory;
	CUresult error = d->mem_import(
		&memory, (void *)(uintptr_t)e->fd, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);

	if (error != CUDA_SUCCESS)
		return explain(d, e, "importing the buffer's descriptor", error);
	error = d->mem_reserve(&cuda->data, cuda->bytes, 0, 0, 0);
	int r = error == CUDA_SUCCESS ? map_reserved(cuda, e, memory)
				      : explain(d, e, "reserving addresses", error);
	if (r < 0 && error == CUDA_SUCCESS)
		d->mem_unreserve(cuda->data, cuda->bytes);
	/* The mapping keeps it. */
	d->mem_release(memory);
	return r;
}

static int map_ipc(struct gpuq_cuda *cuda, const struct gpuq_buf_export *e)
{
	CUipcMemHandle handle;

	_Static_assert(sizeof(handle) == sizeof(e->ipc), "cudaIpcMemHandle");
	memcpy(&handle, e->ipc, sizeof(handle));
	CUresult error =
		cuda->driver->ipc_open(&cuda->data, handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS);
	return error == CUDA_SUCCESS
		? 0
		: explain(cuda->driver, e, "opening the buffer's cudaIpcMemHandle", error);
}

/* In the primary context of the GPU; whichever was current is so again afterwards. */
static int map(struct gpuq_cuda *cuda, const struct gpuq_buf_export *e)
{
	const struct driver *d = cuda->driver;
	CUcontext ours;
	CUresult error = d->context_retain(&cuda->context, cuda->device);

	if (error != CUDA_SUCCESS)
		return explain(d, e, "making a CUDA context", error);
	error = d->context_push(cuda->context);
	int r = error == CUDA_SUCCESS ? 0 : explain(d, e, "entering the CUDA context", error);
	if (r == 0) {
		r = e->form == GPUQ_BUF_IPC ? map_ipc(cuda, e) : map_fd(cuda, e);
		d->context_pop(&ours);
	}
	if (r < 0)
		d->context_release(cuda->device);
	return r;
}

int gpuq_cuda_import(const struct gpuq_buf_export *e, struct gpuq_cuda **ret_cuda, void **ret_data)
{
	struct gpuq_cuda *cuda = calloc(1, sizeof(*cuda));

	if (cuda == NULL)
		return cuda_fail(-ENOMEM, "no memory to open a buffer");
	cuda->form = e->form;
	cuda->bytes = e->whole_bytes;
	int r = driver_get(&cuda->driver);
	if (r == 0)
		r = find_gpu(cuda->driver, e->uuid, cuda);
	if (r == 0)
		r = check_namespace(e);
	if (r == 0)
		r = map(cuda, e);
	if (r < 0) {
		free(cuda);
		return r;
	}
	*ret_cuda = cuda;
	*ret_data = (void *)(uintptr_t)cuda->data;
	return 0;
}

int gpuq_cuda_open(const struct gpuq_buf *buf, struct gpuq_cuda **ret_cuda, void **ret_data)
{
	struct gpuq_buf_export e;
	int r = gpuq_buf_export(buf, &e);

	if (r < 0)
		return cuda_fail(r, "%s", gpuq_error_detail());
	r = gpuq_cuda_import(&e, ret_cuda, ret_data);
	if (e.fd >= 0)
		close(e.fd);
	return r;
}

void gpuq_cuda_close(struct gpuq_cuda *cuda)
{
	if (cuda == NULL)
		return;
	const struct driver *d = cuda->driver;
	CUcontext ours;
	/* When the process is ending the driver may be gone already, and says so. */
	if (d->context_push(cuda->context) == CUDA_SUCCESS) {
		if (cuda->form == GPUQ_BUF_IPC) {
			d->ipc_close(cuda->data);
		} else {
			d->mem_unmap(cuda->data, cuda->bytes);
			d->mem_unreserve(cuda->data, cuda->bytes);
		}
		d->context_pop(&ours);
	}
	d->context_release(cuda->device);
	free(cuda);
}

int gpuq_cuda_ordinal(const struct gpuq_cuda *cuda)
{
	return cuda->ordinal;
}
