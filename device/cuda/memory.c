/* SPDX-License-Identifier: MIT */
/*
 * memory.c: memory of the CUDA device. The device's own memory is mapped with the driver's
 * virtual memory calls: cudaMalloc() and cudaFree() hold up launches of other threads for as long
 * as they take, these do not (docs/cuda-notes.md has both).
 */
#include "device/cuda/module.h"
#include "device/cuda/profile.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Memory of the device that is mapped here. */
struct cuda_range {
	struct cuda_range *next;
	CUdeviceptr base;
	uint64_t bytes;
};

#define SLAB_WORKS (DEVICE_EXPORT_UNIT / (uint32_t)sizeof(struct cuda_work))

/* Works are given out of ranges of one unit. */
struct cuda_slab {
	struct cuda_slab *next;
	struct cuda_work *works;
	uint32_t n_free;
	bool taken[SLAB_WORKS];
};

static CUmemAllocationProp properties(const struct cuda_device *d)
{
	return (CUmemAllocationProp){.type = CU_MEM_ALLOCATION_TYPE_PINNED,
		.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
		.location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = d->ordinal}};
}

/* Maps the physical memory at an address of its own. */
static int map(const struct cuda_device *d, CUmemGenericAllocationHandle physical, uint64_t bytes,
	CUdeviceptr *ret_base)
{
	const CUmemAccessDesc access = {
		.location = properties(d).location, .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
	CUdeviceptr base;
	CUresult result = cuda_calls.mem_reserve(&base, bytes, 0, 0, 0);

	if (result != CUDA_SUCCESS)
		return cuda_driver_error(result);
	result = cuda_calls.mem_map(base, bytes, 0, physical, 0);
	if (result == CUDA_SUCCESS) {
		result = cuda_calls.mem_set_access(base, bytes, &access, 1);
		if (result != CUDA_SUCCESS)
			cuda_calls.mem_unmap(base, bytes);
	}
	if (result != CUDA_SUCCESS) {
		cuda_calls.mem_unreserve(base, bytes);
		return cuda_driver_error(result);
	}
	*ret_base = base;
	return 0;
}

static int map_new(const struct cuda_device *d, struct cuda_range *range, int *ret_fd)
{
	const CUmemAllocationProp prop = properties(d);
	CUmemGenericAllocationHandle physical;
	CUresult result = cuda_calls.mem_create(&physical, range->bytes, &prop, 0);
	int r = cuda_driver_error(result);

	if (r < 0)
		return r;
	if (ret_fd != NULL)
		r = cuda_driver_error(cuda_calls.mem_export(
			ret_fd, physical, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
	if (r == 0)
		r = map(d, physical, range->bytes, &range->base);
	/* The mapping keeps it, and so does the descriptor. */
	cuda_calls.mem_release(physical);
	if (r < 0 && ret_fd != NULL && *ret_fd >= 0) {
		close(*ret_fd);
		*ret_fd = -1;
	}
	return r;
}

/* *ret_fd, where it is wanted, is -1 before, and again when this fails. */
static int range_create(struct cuda_device *d, uint64_t bytes, int *ret_fd, void **ret_data)
{
	struct cuda_range *range;
	int r;

	if (bytes > INT64_MAX - DEVICE_EXPORT_UNIT)
		return -ENOMEM;
	range = malloc(sizeof(*range));
	if (range == NULL)
		return -ENOMEM;
	range->bytes = (bytes + DEVICE_EXPORT_UNIT - 1) & ~(uint64_t)(DEVICE_EXPORT_UNIT - 1);
	r = map_new(d, range, ret_fd);
	if (r == -ENOMEM && cuda_shells_free(d))
		r = map_new(d, range, ret_fd);
	if (r < 0) {
		free(range);
		return r;
	}
	pthread_mutex_lock(&d->lock);
	range->next = d->ranges;
	d->ranges = range;
	pthread_mutex_unlock(&d->lock);
	*ret_data = (void *)range->base;
	return 0;
}

static void range_destroy(struct cuda_device *d, void *data)
{
	struct cuda_range **at, *range;

	pthread_mutex_lock(&d->lock);
	for (at = &d->ranges; (range = *at) != NULL; at = &range->next)
		if (range->base == (CUdeviceptr)data)
			break;
	assert(range != NULL);
	*at = range->next;
	pthread_mutex_unlock(&d->lock);
	cuda_calls.mem_unmap(range->base, range->bytes);
	cuda_calls.mem_unreserve(range->base, range->bytes);
	free(range);
}

/*
 * Between the two are calls that wait until the whole device is idle, which the kernel of the
 * inline stream would not let it be: cudaFreeHost(), cudaHostUnregister() and cudaFree() do, the
 * others here do not (docs/cuda-notes.md).
 */
static void idle_begin(struct device *device)
{
	cuda_inline_pause(&cuda_device(device)->inline_stream);
}

static void idle_end(struct device *device)
{
	cuda_inline_resume(&cuda_device(device)->inline_stream);
}

int cuda_alloc(struct device *device, enum device_memory kind, uint64_t bytes, void **ret)
{
	void *data;
	int r;

	cuda_enter(device);
	if (kind == DEVICE_WORK)
		return range_create(cuda_device(device), bytes, NULL, ret);
	r = cuda_error(cudaHostAlloc(&data, bytes, cudaHostAllocMapped | cudaHostAllocPortable));
	if (r == 0)
		*ret = data;
	return r;
}

void cuda_free(struct device *device, enum device_memory kind, void *data)
{
	enum cudaStreamCaptureMode mode = cuda_relax(device);

	if (kind == DEVICE_WORK) {
		range_destroy(cuda_device(device), data);
	} else {
		idle_begin(device);
		cuda_error(cudaFreeHost(data));
		idle_end(device);
	}
	cuda_restore(mode);
}

int cuda_register(struct device *device, void *base, uint64_t bytes, void **ret)
{
	void *data;
	int r;

	cuda_enter(device);
	profile_begin("register", NULL);
	r = cuda_error(
		cudaHostRegister(base, bytes, cudaHostRegisterMapped | cudaHostRegisterPortable));
	profile_end();
	if (r < 0)
		return r;
	r = cuda_error(cudaHostGetDevicePointer(&data, base, 0));
	if (r < 0)
		cudaHostUnregister(base);
	else
		*ret = data;
	return r;
}

void cuda_unregister(struct device *device, void *base)
{
	enum cudaStreamCaptureMode mode = cuda_relax(device);

	profile_begin("unregister", NULL);
	idle_begin(device);
	cuda_error(cudaHostUnregister(base));
	idle_end(device);
	profile_end();
	cuda_restore(mode);
}

/* --- Exported ----------------------------------------------------------------------------- */

static int zero(struct cuda_device *d, void *data, uint64_t bytes)
{
	int r = cuda_error(cudaMemsetAsync(data, 0, bytes, d->aux));

	return r < 0 ? r : cuda_error(cudaStreamSynchronize(d->aux));
}

static int export_fd(struct cuda_device *d, struct device_export *export)
{
	int r;

	export->fd = -1;
	r = range_create(d, export->bytes, &export->fd, &export->data);
	if (r == 0) {
		r = zero(d, export->data, export->bytes);
		if (r < 0) {
			range_destroy(d, export->data);
			close(export->fd);
		}
	}
	return r;
}

/* Whoever opens the handle sees all of the driver's block: it must hold nothing else. */
static int export_ipc(struct cuda_device *d, struct device_export *export)
{
	cudaIpcMemHandle_t handle;
	int r = cuda_error(cudaMalloc(&export->data, export->bytes));

	if (r == -ENOMEM && cuda_shells_free(d))
		r = cuda_error(cudaMalloc(&export->data, export->bytes));
	if (r < 0)
		return r;
	r = (uintptr_t) export->data % DEVICE_EXPORT_UNIT == 0 ? 0 : -ENOMEM;
	if (r == 0)
		r = zero(d, export->data, export->bytes);
	if (r == 0)
		r = cuda_error(cudaIpcGetMemHandle(&handle, export->data));
	if (r < 0) {
		cudaFree(export->data);
		return r;
	}
	export->fd = -1;
	_Static_assert(sizeof(handle) == sizeof(export->ipc), "cudaIpcMemHandle_t");
	memcpy(export->ipc, &handle, sizeof(handle));
	return 0;
}

int cuda_export_create(struct device *device, enum device_export_form form, uint64_t bytes,
	struct device_export *ret_export)
{
	struct device_export export = {.form = form,
		.bytes = (bytes + DEVICE_EXPORT_UNIT - 1) & ~(uint64_t)(DEVICE_EXPORT_UNIT - 1)};
	int r;

	cuda_enter(device);
	if (form == DEVICE_EXPORT_FD)
		r = export_fd(cuda_device(device), &export);
	else
		r = export_ipc(cuda_device(device), &export);
	if (r == 0)
		*ret_export = export;
	return r;
}

void cuda_export_destroy(struct device *device, const struct device_export *export)
{
	enum cudaStreamCaptureMode mode = cuda_relax(device);

	if (export->form == DEVICE_EXPORT_FD) {
		range_destroy(cuda_device(device), export->data);
	} else {
		idle_begin(device);
		cuda_error(cudaFree(export->data));
		idle_end(device);
	}
	cuda_restore(mode);
}

/* --- Scratch of kernels ------------------------------------------------------------------- */

static int slab_create(struct cuda_device *d)
{
	struct cuda_slab *slab = calloc(1, sizeof(*slab));
	void *data;
	int r = slab == NULL ? -ENOMEM : range_create(d, DEVICE_EXPORT_UNIT, NULL, &data);

	if (r == 0) {
		r = zero(d, data, DEVICE_EXPORT_UNIT);
		if (r < 0)
			range_destroy(d, data);
	}
	if (r < 0) {
		free(slab);
		return r;
	}
	slab->works = data;
	slab->n_free = SLAB_WORKS;
	pthread_mutex_lock(&d->lock);
	slab->next = d->slabs;
	d->slabs = slab;
	pthread_mutex_unlock(&d->lock);
	return 0;
}

int cuda_work_reserve(struct cuda_device *d, uint32_t count)
{
	uint32_t n_free = 0;

	assert(count <= SLAB_WORKS);
	pthread_mutex_lock(&d->lock);
	for (const struct cuda_slab *slab = d->slabs; slab != NULL; slab = slab->next)
		n_free += slab->n_free;
	pthread_mutex_unlock(&d->lock);
	return n_free >= count ? 0 : slab_create(d);
}

struct cuda_work *cuda_work_get(struct cuda_device *d)
{
	struct cuda_work *work = NULL;
	struct cuda_slab *slab;
	uint32_t i = 0;

	pthread_mutex_lock(&d->lock);
	for (slab = d->slabs; slab != NULL && slab->n_free == 0; slab = slab->next)
		;
	if (slab != NULL) {
		while (slab->taken[i])
			i++;
		slab->taken[i] = true;
		slab->n_free--;
		work = &slab->works[i];
	}
	pthread_mutex_unlock(&d->lock);
	return work;
}

void cuda_work_put(struct cuda_device *d, struct cuda_work *work)
{
	struct cuda_slab *slab;

	if (work == NULL)
		return;
	pthread_mutex_lock(&d->lock);
	for (slab = d->slabs; work < slab->works || work >= slab->works + SLAB_WORKS;)
		slab = slab->next;
	slab->taken[work - slab->works] = false;
	slab->n_free++;
	pthread_mutex_unlock(&d->lock);
}

void cuda_slabs_free(struct cuda_device *d)
{
	struct cuda_slab *slab;

	while ((slab = d->slabs) != NULL) {
		d->slabs = slab->next;
		range_destroy(d, slab->works);
		free(slab);
	}
}
