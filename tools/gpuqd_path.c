/* SPDX-License-Identifier: MIT */
/* gpuqd_path.c: see gpuqd_path.h. */
#include "tools/gpuqd_path.h"

#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <unistd.h>

void gpuqd_path(const char *given, char *path, size_t size)
{
	static const char *const places[] = {"%s/gpuqd", "%s/../daemon/gpuqd", "%s/../sbin/gpuqd"};
	char self[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);

	self[n > 0 ? n : 0] = '\0';
	const char *folder = dirname(self);
	for (size_t i = 0; given == NULL && i < sizeof(places) / sizeof(places[0]); i++) {
		if (snprintf(path, size, places[i], folder) < (int)size && access(path, X_OK) == 0)
			return;
	}
	snprintf(path, size, "%s", given != NULL ? given : "gpuqd");
}
