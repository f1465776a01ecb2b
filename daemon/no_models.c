/* SPDX-License-Identifier: MIT */
/* no_models.c: in the place of models.c where gpuqd was built without what reads model files. */
#include "daemon/models.h"

#include "shm/segment.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

struct models {
	int event_fd;
};

int models_create(const struct models_options *options, struct models **ret_models)
{
	struct models *m = calloc(1, sizeof(*m));

	if (m == NULL)
		return -ENOMEM;
	m->event_fd = bell_eventfd();
	if (m->event_fd < 0) {
		int r = m->event_fd;
		free(m);
		return r;
	}
	*ret_models = m;
	return 0;
}

void models_destroy(struct models *m)
{
	if (m != NULL)
		close(m->event_fd);
	free(m);
}

int models_event_fd(const struct models *m)
{
	return m->event_fd;
}

struct known_model *models_take(struct models *m)
{
	return NULL;
}

int models_load(struct models *m, const struct devlink_msg *msg, int dir_fd)
{
	close(dir_fd);
	return -ENOSYS;
}

struct known_model *models_find(const struct models *m, uint32_t handle)
{
	return NULL;
}

void models_cancel(struct models *m, struct known_model *model)
{
}

void models_free(struct models *m, struct known_model *model)
{
}

void models_forget(struct models *m, struct known_model *model)
{
}
