/* SPDX-License-Identifier: MIT */
/*
 * control_wanted.c: which models there are to be. What the configuration and the repository name
 * is compared with what is served, whenever either has changed, and the next step is taken:
 *
 *	named, not served            it is loaded
 *	served, no longer named      it retires: it is unloaded when its last session has ended
 *	served, named differently    likewise, and then loaded anew
 *	a newer version is named     the older one serves until the newer one is ready, then retires
 *
 * What an administrator has loaded by itself is left alone. A model that cannot be served is shown
 * with the reason, tried again at the next reload, and keeps no other from being served.
 */
#define LOG_TOPIC LOG_MODEL
#include "daemon/control.h"
#include "daemon/log.h"
#include "daemon/repository.h"
#include "shm/atomics.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* --- What is named ------------------------------------------------------------------------- */

/* The repository's models, behind those of the configuration. */
static int read_repository(const struct control *c, struct config_model *models, uint32_t *n)
{
	struct config_error error;
	int r = 0;

	if (c->config->models_dir[0] != '\0')
		r = repository_scan(c->config->models_dir, models, CONFIG_MAX_MODELS, n, &error);
	if (r < 0)
		log_error("%s", error.text);
	return r == -E2BIG ? 0 : r;
}

/* False: what was named before stays, since it is not known what is. */
static bool read_wanted(struct control *c)
{
	struct config_model *models = calloc(CONFIG_MAX_MODELS, sizeof(*models));
	uint32_t n = c->config->n_models;

	if (models == NULL)
		return false;
	memcpy(models, c->config->models, n * sizeof(*models));
	if (read_repository(c, models, &n) < 0 && c->n_wanted > 0) {
		free(models);
		return false;
	}
	for (uint32_t i = 0; i < n; i++)
		c->wanted[i] = (struct wanted_model){.config = models[i]};
	c->n_wanted = n;
	free(models);
	return true;
}

static struct wanted_model *find_wanted(struct control *c, const char *name)
{
	for (uint32_t i = 0; i < c->n_wanted; i++) {
		if (strcmp(c->wanted[i].config.name, name) == 0)
			return &c->wanted[i];
	}
	return NULL;
}

void model_drop(struct control *c, const char *name)
{
	struct wanted_model *w = find_wanted(c, name);

	if (w != NULL)
		w->dropped = true;
}

/* --- What is done about it ----------------------------------------------------------------- */

static struct served_model as_wanted(const struct config_model *w)
{
	struct served_model as = {.dir_fd = -1,
		.int8 = w->int8,
		.deterministic = w->deterministic,
		.wanted = true,
		.n_warm = w->n_warm};

	_Static_assert(CONFIG_MAX_WARM == DEVLINK_MAX_WARM, "room for all");
	for (uint32_t i = 0; i < w->n_warm; i++)
		as.warm[i] = (struct devlink_warm){
			w->warm[i].kind, w->warm[i].batch, w->warm[i].context};
	memcpy(as.name, w->name, sizeof(as.name));
	return as;
}

static void start(struct control *c, struct wanted_model *w)
{
	struct served_model *m = model_find_place(c);
	struct served_model as = as_wanted(&w->config);
	char why[MSG_TEXT_MAX];

	if (m == NULL) {
		if (!w->told)
			log_error("model %s is not loaded: the limit max_models (%llu) is reached",
				as.name, (unsigned long long)c->config->max_models);
		w->told = true;
		return;
	}
	snprintf(why, sizeof(why), "%s", w->config.why);
	if (why[0] == '\0') {
		as.dir_fd = open(w->config.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (as.dir_fd < 0)
			snprintf(why, sizeof(why), "its folder %.150s cannot be opened: %s",
				w->config.dir, strerror(errno));
	}
	model_begin(c, m, &as);
	if (why[0] != '\0')
		model_failed(c, m, -ENOENT, why);
}

static void retire(struct control *c, struct served_model *m, const char *why)
{
	if (!m->retiring)
		log_info("model %s retires: %s", m->name, why);
	m->retiring = true;
	model_remove(c, m, false);
}

static bool differs(const struct served_model *m, const struct config_model *w)
{
	const struct served_model as = as_wanted(w);
	struct stat ours, theirs;

	if (m->int8 != as.int8 || m->deterministic != as.deterministic || m->n_warm != as.n_warm ||
		memcmp(m->warm, as.warm, sizeof(m->warm)) != 0)
		return true;
	/* A folder that is gone may come back; the model is in memory meanwhile. */
	return m->dir_fd >= 0 && fstat(m->dir_fd, &ours) == 0 && stat(w->dir, &theirs) == 0 &&
		(ours.st_dev != theirs.st_dev || ours.st_ino != theirs.st_ino);
}

/* Another version of a served model is named, and is not ready. */
static bool is_needed(struct control *c, const struct served_model *m)
{
	const char *colon = strrchr(m->name, ':');
	char name[GPUQ_NAME_MAX];

	if (colon == NULL || m->state != MSG_MODEL_READY)
		return false;
	snprintf(name, sizeof(name), "%.*s", (int)(colon - m->name), m->name);
	for (uint32_t i = 0; i < c->n_wanted; i++) {
		const struct wanted_model *w = &c->wanted[i];
		const struct served_model *other = model_find(c, w->config.name);

		if (!w->dropped && repository_version(w->config.name, name) != 0)
			return other == NULL || other->state != MSG_MODEL_READY;
	}
	return false;
}

static void look_at(struct control *c, struct served_model *m)
{
	const struct wanted_model *w = find_wanted(c, m->name);

	if (m->retiring || m->state == MSG_MODEL_UNLOADING)
		return;
	if (w != NULL && !w->dropped && differs(m, &w->config))
		retire(c, m, "it is configured differently, and will be loaded anew");
	else if (w == NULL && !is_needed(c, m))
		retire(c, m, "it is not named any more");
}

void model_reconcile(struct control *c)
{
	if (c->draining)
		return;
	for (uint32_t i = 0; i < c->config->max_models; i++) {
		if (c->models[i].state != 0 && c->models[i].wanted)
			look_at(c, &c->models[i]);
	}
	for (uint32_t i = 0; i < c->n_wanted; i++) {
		struct wanted_model *w = &c->wanted[i];

		if (!w->dropped && model_find(c, w->config.name) == NULL)
			start(c, w);
	}
}

int model_configure(struct control *c)
{
	if (c->wanted == NULL)
		c->wanted = calloc(CONFIG_MAX_MODELS, sizeof(*c->wanted));
	if (c->wanted == NULL) {
		log_error("no memory for the list of models");
		return -ENOMEM;
	}
	if (!read_wanted(c))
		return 0;
	/* Another attempt. */
	for (uint32_t i = 0; i < c->config->max_models; i++) {
		struct served_model *m = &c->models[i];

		if (m->state == MSG_MODEL_FAILED && m->wanted)
			model_free(c, m);
	}
	model_reconcile(c);
	return 0;
}

void model_tick(struct control *c)
{
	for (uint32_t i = 0; i < c->config->max_models; i++) {
		struct served_model *m = &c->models[i];

		if (m->retiring && m->state == MSG_MODEL_READY &&
			shm_load_relaxed(&c->stats.models[i].sessions) == 0)
			model_remove(c, m, false);
	}
}
