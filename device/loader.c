/* SPDX-License-Identifier: MIT */
/* loader.c: finds, opens and checks the module of the CUDA device; see loader.h. */
#include "device/loader.h"

#include <dlfcn.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define WHY_MAX 192
#define EXECUTABLE "/proc/self/exe"

/* From the folder of the executable: in the folder of a build, and where both are installed. */
static const char *const places[] = {
	"../device/cuda/" DEVICE_CUDA_MODULE,
	DEVICE_CUDA_FROM_BIN "/" DEVICE_CUDA_MODULE,
};

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

/*
 * The file at this place, without links. Only root's and that of the executable's owner counts:
 * next to a copy in /tmp others may put theirs.
 */
static bool find_beside_executable(const char *place, char path[PATH_MAX])
{
	char joined[PATH_MAX + 256];
	struct stat self, module;
	ssize_t n = readlink(EXECUTABLE, joined, PATH_MAX - 1);

	if (n <= 0)
		return false;
	joined[n] = '\0';
	n = strrchr(joined, '/') - joined;
	snprintf(joined + n, sizeof(joined) - (size_t)n, "/%s", place);
	if (realpath(joined, path) == NULL || stat(path, &module) < 0 ||
		stat(EXECUTABLE, &self) < 0)
		return false;
	return module.st_uid == 0 || module.st_uid == self.st_uid;
}

static const char *find(char path[PATH_MAX])
{
	const char *named = secure_getenv("GPUQ_CUDA_MODULE");

	if (named != NULL)
		return named;
	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		if (find_beside_executable(places[i], path))
			return path;
	}
	return DEVICE_CUDA_FOLDER "/" DEVICE_CUDA_MODULE;
}

static void load(void)
{
	char found[PATH_MAX];
	const char *path = find(found);
	void *module;

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
