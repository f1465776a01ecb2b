/* SPDX-License-Identifier: MIT */
/* driver.c: loads libcuda.so.1, once; and the thread's last sentence. */
#include "client/cuda/driver.h"

#include "client/cuda/gpuq-cuda.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>

static __thread char detail[512];

int cuda_fail(int error, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(detail, sizeof(detail), format, args);
	va_end(args);
	return error;
}

const char *gpuq_cuda_error_detail(void)
{
	return detail;
}

/* dlsym() returns an object's address and means a function's. */
static bool find(void *library, const char *symbol, void *ret_function)
{
	void *found = dlsym(library, symbol);

	*(void **)ret_function = found;
	return found != NULL;
}

static int find_all(void *library, struct driver *d)
{
#define DRIVER_FIND(symbol, name, arguments)                                               \
	if (!find(library, #symbol, &d->name))                                             \
		return cuda_fail(-GPUQ_ENODEV,                                             \
			"the NVIDIA driver has no %s(): install one for CUDA 12 or later", \
			#symbol);
	DRIVER_CALLS(DRIVER_FIND)
#undef DRIVER_FIND
	return 0;
}

static int load(struct driver *d)
{
	/* Never closed: the driver has threads of its own. */
	void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);

	if (library == NULL)
		return cuda_fail(-GPUQ_ENODEV,
			"no NVIDIA driver is here (%s): install one, or use the buffer through "
			"gpuqd alone",
			dlerror());
	int r = find_all(library, d);
	if (r < 0)
		return r;
	CUresult error = d->init(0);
	if (error != CUDA_SUCCESS)
		return cuda_fail(-GPUQ_ENODEV,
			"the NVIDIA driver does not start (cuInit() returns %d): see whether "
			"nvidia-smi works here, and whether this container was given the GPU",
			error);
	return 0;
}

int driver_get(const struct driver **ret_driver)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	static struct driver driver;
	static bool loaded;
	int r = 0;

	pthread_mutex_lock(&lock);
	if (!loaded)
		r = load(&driver);
	loaded = loaded || r == 0;
	pthread_mutex_unlock(&lock);
	if (r == 0)
		*ret_driver = &driver;
	return r;
}
