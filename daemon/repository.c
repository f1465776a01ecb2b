/* SPDX-License-Identifier: MIT */
/* repository.c: finds the models in a folder of models. */
#include "daemon/repository.h"

#include <dirent.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SETTINGS "model.conf"

static uint64_t version_of(const char *text)
{
	char *end;

	if (text[0] < '1' || text[0] > '9')
		return 0;
	errno = 0;
	const unsigned long long v = strtoull(text, &end, 10);
	return errno == 0 && *end == '\0' ? v : 0;
}

uint64_t repository_version(const char *model, const char *name)
{
	const size_t bytes = strlen(name);

	return strncmp(model, name, bytes) == 0 && model[bytes] == ':'
		? version_of(model + bytes + 1)
		: 0;
}

/* The greatest version in a model's folder, or 0. */
static uint64_t newest(const char *dir)
{
	DIR *d = opendir(dir);
	const struct dirent *e;
	uint64_t most = 0;

	while (d != NULL && (e = readdir(d)) != NULL) {
		const uint64_t v = version_of(e->d_name);
		most = v > most ? v : most;
	}
	if (d != NULL)
		closedir(d);
	return most;
}

__attribute__((format(printf, 2, 3))) static void cannot(
	struct config_model *m, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	(void)vsnprintf(m->why, sizeof(m->why), format, args);
	va_end(args);
}

static bool has_config(const char *dir)
{
	char path[CONFIG_PATH_MAX];
	const int n = snprintf(path, sizeof(path), "%s/config.json", dir);

	return n < (int)sizeof(path) && access(path, F_OK) == 0;
}

/* Settings, then which of its folders it is, and the name that it is served by. */
static void complete(struct config_model *m, const char *name, const char *folder)
{
	struct config_error error;
	char path[CONFIG_PATH_MAX];
	int n = snprintf(path, sizeof(path), "%s/" SETTINGS, folder);

	snprintf(m->name, sizeof(m->name), "%.*s", (int)sizeof(m->name) - 1, name);
	if (n < (int)sizeof(path)) {
		const int r = config_read_model_file(m, path, &error);
		if (r < 0 && r != -ENOENT) {
			cannot(m, "%.*s", (int)sizeof(m->why) - 1, error.text);
			return;
		}
	}
	snprintf(m->dir, sizeof(m->dir), "%s", folder);
	if (m->version == 0)
		m->version = newest(folder);
	if (m->version == 0) {
		if (!has_config(folder))
			cannot(m, "%.150s has neither versions, folders such as 1, nor config.json",
				folder);
		return;
	}
	n = snprintf(m->dir, sizeof(m->dir), "%s/%llu", folder, (unsigned long long)m->version);
	if (n >= (int)sizeof(m->dir))
		cannot(m, "the path of its folder is too long");
	n = snprintf(m->name, sizeof(m->name), "%s:%llu", name, (unsigned long long)m->version);
	if (n < 0 || n >= (int)sizeof(m->name))
		cannot(m, "its name with its version has more than %zu bytes", sizeof(m->name) - 1);
}

static int is_visible(const struct dirent *e)
{
	return e->d_name[0] != '.' &&
		(e->d_type == DT_DIR || e->d_type == DT_LNK || e->d_type == DT_UNKNOWN);
}

static bool is_folder(const char *path)
{
	char inside[CONFIG_PATH_MAX];
	const int n = snprintf(inside, sizeof(inside), "%s/.", path);

	return n < (int)sizeof(inside) && access(inside, F_OK) == 0;
}

int repository_scan(const char *dir, struct config_model *models, uint32_t max, uint32_t *n,
	struct config_error *ret_error)
{
	struct dirent **entries;
	int r = 0;
	const int found = scandir(dir, &entries, is_visible, alphasort);

	if (found < 0) {
		r = -errno;
		snprintf(ret_error->text, sizeof(ret_error->text),
			"the folder of models %.400s cannot be read: %s", dir, strerror(-r));
		return r;
	}
	for (int i = 0; i < found; i++) {
		char folder[CONFIG_PATH_MAX];
		const char *name = entries[i]->d_name;
		const int bytes = snprintf(folder, sizeof(folder), "%s/%s", dir, name);
		if (bytes < (int)sizeof(folder) && is_folder(folder) &&
			config_model_name_valid(name) && strchr(name, ':') == NULL) {
			if (*n < max) {
				models[*n] = (struct config_model){.n_warm = 0};
				complete(&models[(*n)++], name, folder);
			} else {
				snprintf(ret_error->text, sizeof(ret_error->text),
					"%.400s has more models than can be served (%u)", dir, max);
				r = -E2BIG;
			}
		}
		free(entries[i]);
	}
	free(entries);
	return r;
}
