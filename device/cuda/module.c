/* SPDX-License-Identifier: MIT */
/* module.c: what the CUDA module exports; opening, closing, listing, errors. */
#include "device/cuda/module.h"
#include "device/cuda/profile.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WHY_MAX 192

/* Architectures that this module has code for: as built, 10 x major + minor. */
static const int targets[] = {CUDA_TARGETS};

struct cuda_calls cuda_calls;

/* --- Errors ------------------------------------------------------------------------------- */

/* After these every call of the process fails: see "sticky" in CUDA's documentation. */
static bool ends_context(cudaError_t err)
{
	switch (err) {
	case cudaErrorIllegalAddress:
	case cudaErrorLaunchTimeout:
	case cudaErrorContextIsDestroyed:
	case cudaErrorAssert:
	case cudaErrorHardwareStackError:
	case cudaErrorIllegalInstruction:
	case cudaErrorMisalignedAddress:
	case cudaErrorInvalidAddressSpace:
	case cudaErrorInvalidPc:
	case cudaErrorLaunchFailure:
	case cudaErrorECCUncorrectable:
	case cudaErrorNvlinkUncorrectable:
	case cudaErrorDevicesUnavailable:
	case cudaErrorDeviceUninitialized:
	case cudaErrorCudartUnloading:
	case cudaErrorSystemNotReady:
	case cudaErrorMpsConnectionFailed:
	case cudaErrorMpsRpcFailure:
	case cudaErrorMpsServerNotReady:
	case cudaErrorMpsClientTerminated:
	case cudaErrorUnknown:
		return true;
	default:
		return false;
	}
}

int cuda_error(cudaError_t err)
{
	if (err == cudaSuccess)
		return 0;
	cudaGetLastError();
	if (ends_context(err))
		return -GPUQ_EDEVICE;
	switch (err) {
	case cudaErrorMemoryAllocation:
		return -ENOMEM;
	case cudaErrorInvalidValue:
		return -EINVAL;
	case cudaErrorHostMemoryAlreadyRegistered:
		return -EEXIST;
	case cudaErrorNotSupported:
	case cudaErrorNoKernelImageForDevice:
		return -EOPNOTSUPP;
	default:
		/* Errors of captures: the capture is broken. */
		return err >= cudaErrorStreamCaptureUnsupported &&
				err <= cudaErrorStreamCaptureWrongThread
			? -ECANCELED
			: -EIO;
	}
}

int cuda_driver_error(CUresult result)
{
	/* The numbers of both are the same where both have the error. */
	return cuda_error((cudaError_t)result);
}

/* --- Threads ------------------------------------------------------------------------------ */

void cuda_enter(const struct device *device)
{
	static _Thread_local int ordinal = -1; /* -1: a thread that was never here */
	enum cudaStreamCaptureMode mode = cudaStreamCaptureModeThreadLocal;
	const int wanted = ((const struct cuda_device *)device)->ordinal;

	if (ordinal == wanted)
		return;
	cuda_error(cudaSetDevice(wanted));
	if (ordinal < 0)
		cuda_error(cudaThreadExchangeStreamCaptureMode(&mode));
	ordinal = wanted;
}

enum cudaStreamCaptureMode cuda_relax(const struct device *device)
{
	enum cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;

	cuda_enter(device);
	cuda_error(cudaThreadExchangeStreamCaptureMode(&mode));
	return mode;
}

void cuda_restore(enum cudaStreamCaptureMode mode)
{
	cuda_error(cudaThreadExchangeStreamCaptureMode(&mode));
}

int cuda_check(struct device *device)
{
	enum cudaStreamCaptureMode mode;
	cudaError_t err;
	int r;

	if (shm_load_acquire(&device->failed) != 0)
		return -GPUQ_EDEVICE;
	mode = cuda_relax(device);
	err = cudaStreamQuery(cuda_device(device)->aux);
	r = err == cudaErrorNotReady ? 0 : cuda_error(err);
	cuda_restore(mode);
	if (r != -GPUQ_EDEVICE)
		return 0;
	shm_store_release(&device->failed, 1);
	return r;
}

/* --- What there is ------------------------------------------------------------------------ */

static int missing(char why[WHY_MAX], const char *text)
{
	snprintf(why, WHY_MAX, "%s", text);
	return -GPUQ_ENODEV;
}

/* How many devices the driver shows, at least one. */
static int count_devices(int *ret_count, char why[WHY_MAX])
{
	const int needs = CUDART_VERSION;
	int version = 0;
	cudaError_t err = cudaDriverGetVersion(&version);

	if (err == cudaSuccess && version == 0)
		return missing(why, "no NVIDIA driver (libcuda.so.1) is here: install one");
	err = cudaGetDeviceCount(ret_count);
	cudaGetLastError();
	if (err == cudaErrorInsufficientDriver)
		snprintf(why, WHY_MAX,
			"the NVIDIA driver is for CUDA %d.%d, this module needs one for %d.0: "
			"install a newer driver",
			version / 1000, version % 1000 / 10, needs / 1000);
	else if (err == cudaErrorNoDevice || (err == cudaSuccess && *ret_count == 0))
		snprintf(why, WHY_MAX,
			"the NVIDIA driver shows no GPU: see nvidia-smi and CUDA_VISIBLE_DEVICES");
	else if (err != cudaSuccess)
		snprintf(why, WHY_MAX, "CUDA does not start: %.120s", cudaGetErrorString(err));
	else
		return 0;
	return -GPUQ_ENODEV;
}

/* Binary code runs on later minor versions of its major one; PTX on whatever is later. */
static bool has_code(int major, int minor)
{
	for (size_t i = 0; i < sizeof(targets) / sizeof(targets[0]); i++)
		if (targets[i] / 10 == major && targets[i] % 10 <= minor)
			return true;
	return CUDA_PTX != 0 && 10 * major + minor >= CUDA_PTX;
}

static int check_code(const struct cudaDeviceProp *prop, char why[WHY_MAX])
{
	if (has_code(prop->major, prop->minor))
		return 0;
	snprintf(why, WHY_MAX,
		"this module has no code for compute capability %d.%d: build it with "
		"-Dnvcc_arch=sm_%d%d or all",
		prop->major, prop->minor, prop->major, prop->minor);
	return -GPUQ_ENODEV;
}

/* From compute capability 9.0 on, for which there is then code of its own. */
static bool may_overlap(int ordinal)
{
	int major = 0;

	return cuda_error(cudaDeviceGetAttribute(
		       &major, cudaDevAttrComputeCapabilityMajor, ordinal)) == 0 &&
		major >= 9;
}

static void format_uuid(const cudaUUID_t *uuid, char *ret_text, size_t bytes)
{
	int n = snprintf(ret_text, bytes, "GPU-");

	for (int i = 0; i < 16; i++)
		n += snprintf(ret_text + n, bytes - (size_t)n, "%s%02x",
			i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "",
			(unsigned char)uuid->bytes[i]);
}

static void format_name(const struct cudaDeviceProp *prop, char *ret_text, size_t bytes)
{
	snprintf(ret_text, bytes, "%.80s, %.1f GiB", prop->name,
		(double)prop->totalGlobalMem / (1 << 30));
}

static void describe(int ordinal, struct device_present *ret)
{
	struct cudaDeviceProp prop;
	cudaError_t err = cudaGetDeviceProperties(&prop, ordinal);

	*ret = (struct device_present){.status = 0};
	snprintf(ret->kind, sizeof(ret->kind), "cuda:%d", ordinal);
	if (err != cudaSuccess) {
		cudaGetLastError();
		ret->status = -GPUQ_ENODEV;
		snprintf(ret->why, sizeof(ret->why), "%.150s", cudaGetErrorString(err));
		return;
	}
	format_name(&prop, ret->name, sizeof(ret->name));
	format_uuid(&prop.uuid, ret->uuid, sizeof(ret->uuid));
	ret->status = check_code(&prop, ret->why);
}

static uint32_t list(struct device_present *ret_devices, uint32_t max)
{
	char why[WHY_MAX];
	int count;

	if (count_devices(&count, why) < 0) {
		ret_devices[0] = (struct device_present){.kind = "cuda", .status = -GPUQ_ENODEV};
		snprintf(ret_devices[0].why, sizeof(ret_devices[0].why), "%s", why);
		return 1;
	}
	uint32_t n = (uint32_t)count < max ? (uint32_t)count : max;
	for (uint32_t i = 0; i < n; i++)
		describe((int)i, &ret_devices[i]);
	return n;
}

static void info(struct device *device, struct device_info *ret_info)
{
	struct cudaDeviceProp prop;
	size_t free_bytes = 0, total_bytes = 0;
	int driver;

	cuda_enter(device);
	*ret_info = (struct device_info){.kind = "cuda", .direct_kernels = 1};
	if (cuda_error(cudaGetDeviceProperties(&prop, cuda_device(device)->ordinal)) < 0)
		return;
	format_name(&prop, ret_info->name, sizeof(ret_info->name));
	format_uuid(&prop.uuid, ret_info->uuid, sizeof(ret_info->uuid));
	if (cuda_error(cudaDriverGetVersion(&driver)) == 0)
		snprintf(ret_info->driver, sizeof(ret_info->driver), "%d.%d", driver / 1000,
			driver % 1000 / 10);
	cuda_error(cudaMemGetInfo(&free_bytes, &total_bytes));
	ret_info->total_bytes = total_bytes;
	ret_info->free_bytes = free_bytes;
}

/* --- Opening ------------------------------------------------------------------------------ */

/* A call of the driver, in the form that CUDA 12.0 has. */
static int find_call(const char *name, void *ret_call)
{
	enum cudaDriverEntryPointQueryResult found;
	void *call = NULL;
#if CUDART_VERSION >= 12050
	cudaError_t err =
		cudaGetDriverEntryPointByVersion(name, &call, 12000, cudaEnableDefault, &found);
#else
	cudaError_t err = cudaGetDriverEntryPoint(name, &call, cudaEnableDefault, &found);
#endif
	int r = cuda_error(err);

	if (r < 0)
		return r;
	if (found != cudaDriverEntryPointSuccess || call == NULL)
		return -EOPNOTSUPP;
	memcpy(ret_call, &call, sizeof(call));
	return 0;
}

static int find_calls(void)
{
	const struct {
		const char *name;
		void *ret_call;
	} wanted[] = {
		{"cuMemCreate", &cuda_calls.mem_create},
		{"cuMemRelease", &cuda_calls.mem_release},
		{"cuMemAddressReserve", &cuda_calls.mem_reserve},
		{"cuMemAddressFree", &cuda_calls.mem_unreserve},
		{"cuMemMap", &cuda_calls.mem_map},
		{"cuMemUnmap", &cuda_calls.mem_unmap},
		{"cuMemSetAccess", &cuda_calls.mem_set_access},
		{"cuMemExportToShareableHandle", &cuda_calls.mem_export},
	};

	for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
		int r = find_call(wanted[i].name, wanted[i].ret_call);
		if (r < 0)
			return r;
	}
	return 0;
}

/* Loads all kernels now: loaded at first use they would hold up who launches beside. */
static int touch_codes(void)
{
	int r = cuda_block_touch();

	for (uint32_t i = 0; r == 0 && i < cuda_codes_count; i++)
		r = cuda_codes[i]->touch();
	return r;
}

static int open_inline(struct cuda_device *d)
{
	void *ring;
	int r = cuda_place_take(d, &d->inline_place);

	if (r == 0)
		r = cuda_alloc(&d->base, DEVICE_PINNED, sizeof(struct cuda_ring), &ring);
	return r < 0
		? r
		: cuda_inline_open(&d->inline_stream, &d->base, ring,
			  &d->places[d->inline_place].given, &d->ended[d->inline_place].number);
}

static int set_up(struct cuda_device *d)
{
	int lowest, highest, r;
	void *ended;

	r = find_calls();
	if (r == 0)
		r = touch_codes();
	if (r == 0)
		r = cuda_error(cudaDeviceGetStreamPriorityRange(&lowest, &highest));
	if (r == 0)
		r = cuda_error(cudaStreamCreateWithFlags(&d->aux, cudaStreamNonBlocking));
	if (r < 0)
		return r;
	d->priorities[DEVICE_PRIORITY_HIGH] = highest;
	d->priorities[DEVICE_PRIORITY_NORMAL] = (highest + lowest) / 2;
	d->priorities[DEVICE_PRIORITY_LOW] = lowest;
	r = cuda_alloc(&d->base, DEVICE_PINNED, CUDA_MAX_STREAMS * sizeof(*d->ended), &ended);
	if (r < 0)
		return r;
	d->ended = memset(ended, 0, CUDA_MAX_STREAMS * sizeof(*d->ended));
	r = cuda_shells_stock(d);
	if (r == 0 && d->base.options.resident)
		r = open_inline(d);
	return r < 0 ? r : cuda_waiter_start(d);
}

static void tear_down(struct cuda_device *d)
{
	struct cuda_ring *ring = d->inline_stream.ring;

	cuda_inline_close(&d->inline_stream);
	if (ring != NULL)
		cuda_free(&d->base, DEVICE_PINNED, ring);
	cuda_shells_free(d);
	cuda_slabs_free(d);
	if (d->ended != NULL)
		cuda_free(&d->base, DEVICE_PINNED, d->ended);
	if (d->aux != NULL)
		cuda_error(cudaStreamDestroy(d->aux));
	pthread_mutex_destroy(&d->lock);
	free(d);
}

static int check_device(uint32_t ordinal, char why[WHY_MAX])
{
	struct cudaDeviceProp prop;
	int count, r = count_devices(&count, why);

	if (r < 0)
		return r;
	if (ordinal >= (uint32_t)count) {
		snprintf(why, WHY_MAX, "there is no cuda:%u: the NVIDIA driver shows %d GPU%s",
			ordinal, count, count == 1 ? "" : "s");
		return -GPUQ_ENODEV;
	}
	if (cuda_error(cudaGetDeviceProperties(&prop, (int)ordinal)) < 0)
		return missing(why, "the NVIDIA driver does not describe this GPU");
	return check_code(&prop, why);
}

static int open_device(const struct device_options *options, uint32_t ordinal,
	struct device **ret_device, char why[WHY_MAX])
{
	struct cuda_device *d;
	int r = check_device(ordinal, why);

	if (r < 0)
		return r;
	d = calloc(1, sizeof(*d));
	if (d == NULL)
		return -ENOMEM;
	d->base.options = *options;
	d->base.options.kind = d->base.options.faults = NULL;
	d->ordinal = (int)ordinal;
	d->programmatic = may_overlap((int)ordinal);
	pthread_mutex_init(&d->lock, NULL);
	cuda_enter(&d->base);
	profile_open();
	r = set_up(d);
	if (r < 0) {
		tear_down(d);
		snprintf(why, WHY_MAX, "cuda:%u cannot be used: %s", ordinal,
			r == -ENOMEM ? "not enough memory" : "its kernels do not load");
		return r == -ENOMEM ? r : -GPUQ_ENODEV;
	}
	*ret_device = &d->base;
	return 0;
}

static void range_begin(const char *what, const char *name)
{
	profile_begin(what, name);
}

static void range_end(void)
{
	profile_end();
}

static void close_device(struct device *device)
{
	struct cuda_device *d = cuda_device(device);

	cuda_enter(device);
	cuda_waiter_stop(d);
	/* All streams are gone, which waited for what was in them. */
	tear_down(d);
}

__attribute__((visibility("default"))) extern const struct device_driver gpuq_device_cuda;
const struct device_driver gpuq_device_cuda = {
	.version = DEVICE_DRIVER_VERSION,
	.kind = "cuda",
	.open = open_device,
	.close = close_device,
	.list = list,
	.info = info,
	.check = cuda_check,
	.sleep_prepare = cuda_sleep_prepare,
	.range_begin = range_begin,
	.range_end = range_end,
	.alloc = cuda_alloc,
	.free = cuda_free,
	.register_host = cuda_register,
	.unregister_host = cuda_unregister,
	.export_create = cuda_export_create,
	.export_destroy = cuda_export_destroy,
	.stream_create = cuda_stream_create,
	.stream_destroy = cuda_stream_destroy,
	.stream_query = cuda_stream_query,
	.stream_wait = cuda_stream_wait,
	.event_create = cuda_event_create,
	.event_destroy = cuda_event_destroy,
	.event_record = cuda_event_record,
	.event_await = cuda_event_await,
	.event_query = cuda_event_query,
	.launch = cuda_launch,
	.launch_inline = cuda_launch_inline,
	.copy = cuda_copy,
	.fill = cuda_fill,
	.signal = cuda_stream_signal,
	.spoil = cuda_stream_spoil,
	.records_badly = cuda_records_badly,
	.capture_begin = cuda_capture_begin,
	.capture_end = cuda_capture_end,
	.graph_destroy = cuda_graph_destroy,
	.exec_create = cuda_exec_create,
	.exec_upload = cuda_exec_upload,
	.exec_launch = cuda_exec_launch,
	.exec_destroy = cuda_exec_destroy,
};
