/* SPDX-License-Identifier: MIT */
/* fake-libcuda.c: a libcuda.so.1 for tests; see fake-libcuda.h. */
#include "tests/client/cuda/fake-libcuda.h"

#include "client/cuda/driver.h"

#include <string.h>
#include <sys/mman.h>

#define FAKE __attribute__((visibility("default")))
#define INVALID_VALUE 1

static struct fake_cuda state = {.version = 12080, .count = 2};

FAKE struct fake_cuda *fake_cuda_state(void);
struct fake_cuda *fake_cuda_state(void)
{
	return &state;
}

#define DECLARE(symbol, name, arguments) FAKE CUresult symbol arguments;
DRIVER_CALLS(DECLARE)

/* The result of the call whose function this is in. */
#define RESULT() \
	(state.failing != NULL && strcmp(state.failing, __func__) == 0 ? state.error : CUDA_SUCCESS)

CUresult cuInit(unsigned int flags)
{
	return RESULT();
}

CUresult cuDriverGetVersion(int *version)
{
	*version = state.version;
	return RESULT();
}

CUresult cuGetErrorName(CUresult error, const char **name)
{
	*name = error == CUDA_ERROR_INVALID_HANDLE ? "CUDA_ERROR_INVALID_HANDLE" : "CUDA_ERROR_X";
	return RESULT();
}

CUresult cuDeviceGetCount(int *count)
{
	*count = state.count;
	return RESULT();
}

CUresult cuDeviceGet(CUdevice *device, int ordinal)
{
	*device = ordinal;
	return RESULT();
}

CUresult cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice device)
{
	memset(uuid, 0xab, sizeof(*uuid));
	uuid->bytes[15] = (char)device;
	return RESULT();
}

CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device)
{
	*context = (CUcontext)&state;
	state.contexts += RESULT() == 0;
	return RESULT();
}

CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device)
{
	state.contexts--;
	return RESULT();
}

CUresult cuCtxPushCurrent_v2(CUcontext context)
{
	state.pushed += RESULT() == 0;
	return RESULT();
}

CUresult cuCtxPopCurrent_v2(CUcontext *context)
{
	state.pushed--;
	return RESULT();
}

CUresult cuIpcOpenMemHandle_v2(CUdeviceptr *data, CUipcMemHandle handle, unsigned int flags)
{
	memcpy(data, handle.reserved, sizeof(*data));
	state.opened += RESULT() == 0;
	return RESULT();
}

CUresult cuIpcCloseMemHandle(CUdeviceptr data)
{
	state.opened--;
	return RESULT();
}

CUresult cuMemImportFromShareableHandle(
	CUmemGenericAllocationHandle *memory, void *handle, int type)
{
	if (type != CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR)
		return INVALID_VALUE;
	*memory = (uintptr_t)handle;
	state.imported += RESULT() == 0;
	return RESULT();
}

CUresult cuMemRelease(CUmemGenericAllocationHandle memory)
{
	state.imported--;
	return RESULT();
}

CUresult cuMemAddressReserve(
	CUdeviceptr *data, size_t bytes, size_t alignment, CUdeviceptr at, unsigned long long flags)
{
	*data = (uintptr_t)mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	state.reserved += RESULT() == 0;
	return RESULT();
}

CUresult cuMemAddressFree(CUdeviceptr data, size_t bytes)
{
	munmap((void *)(uintptr_t)data, bytes);
	state.reserved--;
	return RESULT();
}

CUresult cuMemMap(CUdeviceptr data, size_t bytes, size_t offset,
	CUmemGenericAllocationHandle memory, unsigned long long flags)
{
	if (RESULT() == 0 &&
		mmap((void *)(uintptr_t)data, bytes, PROT_NONE, MAP_SHARED | MAP_FIXED, (int)memory,
			(off_t)offset) == MAP_FAILED)
		return INVALID_VALUE;
	state.mapped += RESULT() == 0;
	return RESULT();
}

CUresult cuMemUnmap(CUdeviceptr data, size_t bytes)
{
	mmap((void *)(uintptr_t)data, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
		0);
	state.mapped--;
	return RESULT();
}

CUresult cuMemSetAccess(CUdeviceptr data, size_t bytes, const CUmemAccessDesc *access, size_t count)
{
	if (access->location.type != CU_MEM_LOCATION_TYPE_DEVICE ||
		access->flags != CU_MEM_ACCESS_FLAGS_PROT_READWRITE || count != 1)
		return INVALID_VALUE;
	state.access_device = access->location.id;
	mprotect((void *)(uintptr_t)data, bytes, PROT_READ | PROT_WRITE);
	return RESULT();
}
