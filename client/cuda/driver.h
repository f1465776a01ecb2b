/* SPDX-License-Identifier: MIT */
/*
 * driver.h: the part of the CUDA driver's interface that libgpuq-cuda uses, declared here so that
 * it can be built and installed where there is no CUDA, and loaded when it is first wanted. Names
 * and values are the driver's.
 */
#ifndef GPUQ_CLIENT_CUDA_DRIVER_H
#define GPUQ_CLIENT_CUDA_DRIVER_H

#include <stddef.h>
#include <stdint.h>

typedef int CUresult;
typedef int CUdevice;
typedef unsigned long long CUdeviceptr;
typedef unsigned long long CUmemGenericAllocationHandle;
typedef struct CUctx_st *CUcontext;

enum {
	CUDA_SUCCESS = 0,
	CUDA_ERROR_OUT_OF_MEMORY = 2,
	CUDA_ERROR_INVALID_CONTEXT = 201,
	CUDA_ERROR_INVALID_HANDLE = 400,
	CUDA_ERROR_NOT_PERMITTED = 800,
	CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS = 1,
	CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR = 1,
	CU_MEM_LOCATION_TYPE_DEVICE = 1,
	CU_MEM_ACCESS_FLAGS_PROT_READWRITE = 3,
};

typedef struct {
	char bytes[16];
} CUuuid;

typedef struct {
	char reserved[64];
} CUipcMemHandle;

typedef struct {
	struct {
		int type, id;
	} location;
	int flags;
} CUmemAccessDesc;

/* Each function: its name in libcuda.so.1, its name here, its arguments. */
#define DRIVER_CALLS(X)                                                                     \
	X(cuInit, init, (unsigned int flags))                                               \
	X(cuDriverGetVersion, version, (int *version))                                      \
	X(cuGetErrorName, error_name, (CUresult error, const char **name))                  \
	X(cuDeviceGetCount, device_count, (int *count))                                     \
	X(cuDeviceGet, device_get, (CUdevice * device, int ordinal))                        \
	X(cuDeviceGetUuid_v2, device_uuid, (CUuuid * uuid, CUdevice device))                \
	X(cuDevicePrimaryCtxRetain, context_retain, (CUcontext * context, CUdevice device)) \
	X(cuDevicePrimaryCtxRelease_v2, context_release, (CUdevice device))                 \
	X(cuCtxPushCurrent_v2, context_push, (CUcontext context))                           \
	X(cuCtxPopCurrent_v2, context_pop, (CUcontext * context))                           \
	X(cuIpcOpenMemHandle_v2, ipc_open,                                                  \
		(CUdeviceptr * data, CUipcMemHandle handle, unsigned int flags))            \
	X(cuIpcCloseMemHandle, ipc_close, (CUdeviceptr data))                               \
	X(cuMemImportFromShareableHandle, mem_import,                                       \
		(CUmemGenericAllocationHandle * memory, void *handle, int type))            \
	X(cuMemRelease, mem_release, (CUmemGenericAllocationHandle memory))                 \
	X(cuMemAddressReserve, mem_reserve,                                                 \
		(CUdeviceptr * data, size_t bytes, size_t alignment, CUdeviceptr at,        \
			unsigned long long flags))                                          \
	X(cuMemAddressFree, mem_unreserve, (CUdeviceptr data, size_t bytes))                \
	X(cuMemMap, mem_map,                                                                \
		(CUdeviceptr data, size_t bytes, size_t offset,                             \
			CUmemGenericAllocationHandle memory, unsigned long long flags))     \
	X(cuMemUnmap, mem_unmap, (CUdeviceptr data, size_t bytes))                          \
	X(cuMemSetAccess, mem_access,                                                       \
		(CUdeviceptr data, size_t bytes, const CUmemAccessDesc *access, size_t count))

#define DRIVER_POINTER(symbol, name, arguments) CUresult(*name) arguments;
struct driver {
	DRIVER_CALLS(DRIVER_POINTER)
};
#undef DRIVER_POINTER

/* The driver, loaded and initialised. -GPUQ_ENODEV with the sentence. */
int driver_get(const struct driver **ret_driver);

/* Keeps the sentence for gpuq_cuda_error_detail() and returns `error`. */
int cuda_fail(int error, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
