/* SPDX-License-Identifier: MIT */
/* config_no_file.c: what gpuqd says about a configuration file where it was built without inih. */
#include "daemon/config.h"

#include <errno.h>
#include <unistd.h>

static int refuse(const char *path, struct config_error *ret_error)
{
	snprintf(ret_error->text, sizeof(ret_error->text),
		"%s: this gpuqd was built without libinih and reads no files; give flags or "
		"GPUQ_* variables, or build it with -Dconfig_file=enabled",
		path);
	return -ENOSYS;
}

int config_read_file(struct config *config, const char *path, struct config_error *ret_error)
{
	return refuse(path, ret_error);
}

int config_read_model_file(
	struct config_model *model, const char *path, struct config_error *ret_error)
{
	return access(path, F_OK) < 0 ? -ENOENT : refuse(path, ret_error);
}
