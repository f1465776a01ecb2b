/* SPDX-License-Identifier: MIT */
/* loader.c: finds, opens and checks the module of the CUDA device; see loader.h. */
#include "device/loader.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define WHY_MAX 192

static const struct device_driver *driver;
static char reason[WHY_MAX];

static void check_version(const char *path, const struct device_driver *found)
{
	if (found == NULL)
		snprintf(reason, WHY_MAX, "%.90s is no device module of gpuq: reinstall it", path);
	else if (found->version != DEVICE_DRIVER_VERSION)
		snprintf(reason, WHY_MAX,
			"%.70s has version %u of the device interface, gpuqd has %u: install both "
			"from one build",
			path, found->version, DEVICE_DRIVER_VERSION);
	else
		driver = found;
}

static void load(void)
{
	const char *path = secure_getenv("GPUQ_CUDA_MODULE");
	void *module;

	if (path == NULL)
		path = DEVICE_CUDA_MODULE;
	if (access(path, F_OK) < 0) {
		snprintf(reason, WHY_MAX,
			"the CUDA module is missing (%.80s): build gpuq where nvcc is found, or "
			"set GPUQ_CUDA_MODULE",
			path);
		return;
	}
	module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (module == NULL) {
		const char *text = dlerror();
		snprintf(reason, WHY_MAX, "the CUDA module cannot be loaded: %.140s",
			text != NULL ? text : path);
		return;
	}
	check_version(path, dlsym(module, DEVICE_MODULE_SYMBOL));
	/* What was taken from it points into it: it is closed only when it is of no use. */
	if (driver == NULL)
		dlclose(module);
}

int loader_cuda(const struct device_driver **ret_driver, char why[WHY_MAX])
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, load);
	if (driver == NULL) {
		snprintf(why, WHY_MAX, "%s", reason);
		return -GPUQ_ENODEV;
	}
	*ret_driver = driver;
	return 0;
}
