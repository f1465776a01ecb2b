/* SPDX-License-Identifier: MIT */
/* config_model.c: the models that gpuqd loads at its start: [model NAME] in the file, --model. */
#include "daemon/config.h"

#include "shm/name.h"

#include <errno.h>
#include <string.h>

#define SECTION "model "

bool config_model_name_valid(const char *name)
{
	size_t bytes = strlen(name);

	return bytes > 0 && bytes < GPUQ_NAME_MAX && name_is_printable(name, bytes + 1) &&
		strpbrk(name, "=,") == NULL;
}

const char *config_model_section(const char *section)
{
	return strncmp(section, SECTION, strlen(SECTION)) == 0 ? section + strlen(SECTION) : NULL;
}

/* The model's entry, a new one if there is none. */
static int find(struct config *config, const char *name, struct config_model **ret,
	struct config_error *ret_error)
{
	if (!config_model_name_valid(name)) {
		snprintf(ret_error->text, sizeof(ret_error->text),
			"'%.64s' cannot be a model's name: 1 to %d printable bytes without '=' and "
			"','",
			name, GPUQ_NAME_MAX - 1);
		return -EINVAL;
	}
	for (uint32_t i = 0; i < config->n_models; i++) {
		if (strcmp(config->models[i].name, name) == 0) {
			*ret = &config->models[i];
			return 0;
		}
	}
	if (config->n_models == CONFIG_MAX_MODELS) {
		snprintf(ret_error->text, sizeof(ret_error->text),
			"at most %u models can be loaded at the start", CONFIG_MAX_MODELS);
		return -EINVAL;
	}
	*ret = &config->models[config->n_models++];
	**ret = (struct config_model){0};
	snprintf((*ret)->name, sizeof((*ret)->name), "%s", name);
	return 0;
}

static int refuse(
	struct config_error *ret_error, const char *key, const char *value, const char *wanted)
{
	snprintf(ret_error->text, sizeof(ret_error->text),
		"%.64s of a model is '%.64s', but must be %s", key, value, wanted);
	return -EINVAL;
}

static int put(
	struct config_model *m, const char *key, const char *value, struct config_error *ret_error)
{
	if (strcmp(key, "dir") == 0) {
		if (value[0] == '\0' || strlen(value) >= sizeof(m->dir))
			return refuse(ret_error, key, value, "the path of a folder");
		snprintf(m->dir, sizeof(m->dir), "%s", value);
		return 0;
	}
	if (strcmp(key, "quant") == 0) {
		m->int8 = strcmp(value, "int8") == 0;
		return m->int8 || strcmp(value, "none") == 0
			? 0
			: refuse(ret_error, key, value, "none or int8");
	}
	if (strcmp(key, "deterministic") == 0) {
		m->deterministic = strcmp(value, "yes") == 0;
		return m->deterministic || strcmp(value, "no") == 0
			? 0
			: refuse(ret_error, key, value, "yes or no");
	}
	snprintf(ret_error->text, sizeof(ret_error->text),
		"a model has no key '%.64s', only dir, quant and deterministic", key);
	return -EINVAL;
}

int config_model_set(struct config *config, const char *name, const char *key, const char *value,
	struct config_error *ret_error)
{
	struct config_model *m;
	int r = find(config, name, &m, ret_error);

	return r < 0 ? r : put(m, key, value, ret_error);
}

/* Cuts ",KEY=VALUE" off the end of a text, when there is such an end. */
static bool cut_option(char *text, const char **ret_key, const char **ret_value)
{
	char *comma = strrchr(text, ',');
	char *equals = comma != NULL ? strchr(comma, '=') : NULL;

	if (equals == NULL)
		return false;
	*comma = *equals = '\0';
	*ret_key = comma + 1;
	*ret_value = equals + 1;
	return true;
}

int config_model_flag(struct config *config, const char *text, struct config_error *ret_error)
{
	char copy[CONFIG_PATH_MAX + 128];
	const char *key, *value;
	struct config_model *m;
	char *dir = NULL;

	if (snprintf(copy, sizeof(copy), "%s", text) < (int)sizeof(copy))
		dir = strchr(copy, '=');
	if (dir == NULL) {
		snprintf(ret_error->text, sizeof(ret_error->text),
			"--model is '%.64s', but must be NAME=DIR", text);
		return -EINVAL;
	}
	*dir++ = '\0';
	int r = find(config, copy, &m, ret_error);
	if (r < 0)
		return r;
	/* Nothing of what the file says of it stays. */
	m->int8 = m->deterministic = false;
	while (r == 0 && cut_option(dir, &key, &value))
		r = put(m, key, value, ret_error);
	return r < 0 ? r : put(m, "dir", dir, ret_error);
}

int config_models_check(const struct config *config, struct config_error *ret_error)
{
	for (uint32_t i = 0; i < config->n_models; i++) {
		if (config->models[i].dir[0] != '\0')
			continue;
		snprintf(ret_error->text, sizeof(ret_error->text), "the model %s has no dir",
			config->models[i].name);
		return -EINVAL;
	}
	if (config->n_models <= config->max_models)
		return 0;
	snprintf(ret_error->text, sizeof(ret_error->text),
		"max_models is %llu, but %u models are to be loaded; raise it",
		(unsigned long long)config->max_models, config->n_models);
	return -EINVAL;
}

void config_models_print(const struct config *config, FILE *out)
{
	for (uint32_t i = 0; i < config->n_models; i++) {
		const struct config_model *m = &config->models[i];

		fprintf(out, "\n[" SECTION "%s]\ndir = %s\nquant = %s\ndeterministic = %s\n",
			m->name, m->dir, m->int8 ? "int8" : "none",
			m->deterministic ? "yes" : "no");
	}
}
