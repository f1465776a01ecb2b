/* SPDX-License-Identifier: MIT */
/* config_load.c: the configuration as a whole, at the start and when it is read again. */
#include "daemon/config.h"

#include <errno.h>
#include <string.h>

static int read_file(struct config *config, const char *file, struct config_error *ret_error)
{
	char found[CONFIG_PATH_MAX];

	if (file == NULL) {
		config_find_file(found, sizeof(found));
		file = found;
	}
	return file[0] == '\0' ? 0 : config_read_file(config, file, ret_error);
}

static int take_flags(
	struct config *config, const struct config_source *source, struct config_error *ret_error)
{
	int r = 0;

	for (uint32_t i = 0; r == 0 && i < config_n_keys; i++) {
		if (source->values[i] != NULL)
			r = config_set(config, config_keys[i].name, source->values[i], ret_error);
	}
	for (uint32_t i = 0; r == 0 && i < source->n_models; i++)
		r = config_model_flag(config, source->models[i], ret_error);
	return r < 0 ? -EUCLEAN : 0;
}

int config_load(
	struct config *config, const struct config_source *source, struct config_error *ret_error)
{
	config_init(config);
	int r = read_file(config, source->file, ret_error);
	if (r == 0)
		r = config_read_environment(config, ret_error);
	if (r == 0)
		r = take_flags(config, source, ret_error);
	return r < 0 ? r : config_check(config, ret_error);
}

static void names_add(struct config_names *names, const char *name)
{
	const size_t at = strlen(names->text);

	snprintf(names->text + at, sizeof(names->text) - at, "%s%s", at > 0 ? ", " : "", name);
}

void config_take(struct config *config, const struct config *wanted,
	struct config_names ret_changed[CONFIG_NOW + 1])
{
	memset(ret_changed, 0, (CONFIG_NOW + 1) * sizeof(*ret_changed));
	for (uint32_t i = 0; i < config_n_keys; i++) {
		const struct config_key *key = &config_keys[i];
		void *to = (char *)config + key->offset;
		const void *from = (const char *)wanted + key->offset;
		const bool same = key->type == CONFIG_TEXT ? strcmp(to, from) == 0
							   : memcmp(to, from, key->size) == 0;

		if (same)
			continue;
		names_add(&ret_changed[key->when], key->name);
		if (key->when != CONFIG_NEXT_START)
			memcpy(to, from, key->size);
	}
	/* For connections from now on. */
	config->n_users = wanted->n_users;
	memcpy(config->users, wanted->users, sizeof(config->users));
	config->n_models = wanted->n_models;
	memcpy(config->models, wanted->models, sizeof(config->models));
}
