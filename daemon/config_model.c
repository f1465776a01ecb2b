/* SPDX-License-Identifier: MIT */
/* config_model.c: the models that gpuqd loads at its start: [model NAME] in the file, --model. */
#include "daemon/config.h"

#include "shm/name.h"
#include "shm/wire.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
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

/* A number at the start of a text, from 1 on, and moves behind it. */
static bool take_number(const char **at, uint64_t most, uint64_t *ret_number)
{
	char *end;

	if (!isdigit((unsigned char)**at))
		return false;
	errno = 0;
	*ret_number = strtoull(*at, &end, 10);
	*at = end;
	return errno == 0 && *ret_number >= 1 && *ret_number <= most;
}

static const char *const kinds[] = {
	[WIRE_SHAPE_CANDIDATES] = "candidates",
	[WIRE_SHAPE_LOGITS] = "logits",
	[WIRE_SHAPE_GENERATE] = "generate",
};

/* One of "[KIND:]BATCHxTOKENS", and moves behind it. */
static bool take_warm(const char **at, struct config_warm *ret_warm)
{
	uint64_t batch, context;

	ret_warm->kind = WIRE_SHAPE_CANDIDATES;
	for (uint32_t i = WIRE_SHAPE_CANDIDATES; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		const size_t n = strlen(kinds[i]);
		if (strncmp(*at, kinds[i], n) == 0 && (*at)[n] == ':') {
			ret_warm->kind = i;
			*at += n + 1;
		}
	}
	if (!take_number(at, UINT32_MAX, &batch) || *(*at)++ != 'x' ||
		!take_number(at, UINT32_MAX, &context))
		return false;
	ret_warm->batch = (uint32_t)batch;
	ret_warm->context = (uint32_t)context;
	return true;
}

static int put_warm(struct config_model *m, const char *value, struct config_error *ret_error)
{
	const char *at = value;
	uint32_t n = 0;

	for (; *at != '\0'; n++) {
		at += strspn(at, " ");
		if (n == CONFIG_MAX_WARM || !take_warm(&at, &m->warm[n]))
			return refuse(ret_error, "warm", value,
				"at most 16 of [KIND:]BATCHxTOKENS with spaces between them, where "
				"KIND is candidates, logits or generate");
		if (*at != '\0' && *at != ' ')
			return refuse(ret_error, "warm", value, "shapes with spaces between them");
		at += strspn(at, " ");
	}
	m->n_warm = n;
	return 0;
}

static int put_either(bool *to, const char *key, const char *value, const char *no, const char *yes,
	struct config_error *ret_error)
{
	char wanted[32];

	*to = strcmp(value, yes) == 0;
	if (*to || strcmp(value, no) == 0)
		return 0;
	snprintf(wanted, sizeof(wanted), "%s or %s", no, yes);
	return refuse(ret_error, key, value, wanted);
}

int config_model_put(
	struct config_model *m, const char *key, const char *value, struct config_error *ret_error)
{
	if (strcmp(key, "dir") == 0) {
		if (value[0] == '\0' || strlen(value) >= sizeof(m->dir))
			return refuse(ret_error, key, value, "the path of a folder");
		snprintf(m->dir, sizeof(m->dir), "%s", value);
		return 0;
	}
	if (strcmp(key, "quant") == 0)
		return put_either(&m->int8, key, value, "none", "int8", ret_error);
	if (strcmp(key, "deterministic") == 0)
		return put_either(&m->deterministic, key, value, "no", "yes", ret_error);
	if (strcmp(key, "warm") == 0)
		return put_warm(m, value, ret_error);
	snprintf(ret_error->text, sizeof(ret_error->text),
		"a model has no key '%.64s', only dir, quant, deterministic and warm", key);
	return -EINVAL;
}

int config_model_set(struct config *config, const char *name, const char *key, const char *value,
	struct config_error *ret_error)
{
	struct config_model *m;
	int r = find(config, name, &m, ret_error);

	return r < 0 ? r : config_model_put(m, key, value, ret_error);
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
	m->n_warm = 0;
	while (r == 0 && cut_option(dir, &key, &value))
		r = config_model_put(m, key, value, ret_error);
	return r < 0 ? r : config_model_put(m, "dir", dir, ret_error);
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

		fprintf(out, "\n[" SECTION "%s]\ndir = %s\nquant = %s\ndeterministic = %s\nwarm =",
			m->name, m->dir, m->int8 ? "int8" : "none",
			m->deterministic ? "yes" : "no");
		for (uint32_t j = 0; j < m->n_warm; j++)
			fprintf(out, " %s:%ux%u", kinds[m->warm[j].kind], m->warm[j].batch,
				m->warm[j].context);
		fputc('\n', out);
	}
}
