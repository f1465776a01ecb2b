/* SPDX-License-Identifier: MIT */
/* config_file.c: reads gpuqd's configuration file with libinih. */
#include "daemon/config.h"

#include <assert.h>
#include <errno.h>
#include <ini.h>
#include <stdlib.h>
#include <string.h>

#define CONFIG_LINE_MAX 190 /* libinih cuts lines at 200 bytes */

/* A file being read. libinih does not tell its handler where it is, so we count the lines. */
struct reader {
	FILE *file;
	unsigned int line;
	bool too_long;
	struct config *config;
	struct config_model *model; /* whose settings these are; NULL: the configuration */
	uint64_t seen;		    /* keys, as bits: setting one twice is a mistake */
	unsigned int bad_line;
	struct config_error *error;
};

static char *reader_line(char *text, int size, void *user)
{
	struct reader *r = user;

	if (r->too_long || fgets(text, size, r->file) == NULL)
		return NULL;
	r->line++;
	r->too_long = strlen(text) > CONFIG_LINE_MAX;
	return r->too_long ? NULL : text;
}

/* A key of a model's settings: no sections, and where the model is stays. */
static int model_key(struct reader *r, const char *section, const char *name, const char *value)
{
	if (section[0] == '\0' && strcmp(name, "version") == 0) {
		char *end;
		r->model->version = strtoull(value, &end, 10);
		if (value[0] >= '1' && value[0] <= '9' && *end == '\0')
			return 0;
	} else if (section[0] == '\0' && strcmp(name, "dir") != 0) {
		return config_model_put(r->model, name, value, r->error);
	}
	snprintf(r->error->text, sizeof(r->error->text),
		"'%.64s' is none of version (a number), quant, deterministic and warm", name);
	return -EINVAL;
}

/* A key of a model, a user or a group. 1: done; 0: it is none; or -EINVAL. */
static int named_key(struct reader *r, const char *section, const char *name, const char *value)
{
	const char *model = config_model_section(section), *who;
	bool is_group;
	int err = 0;

	if (model != NULL)
		err = config_model_set(r->config, model, name, value, r->error);
	else if (config_user_section(section, &is_group, &who))
		err = config_user_set(r->config, is_group, who, name, value, r->error);
	else
		return 0;
	return err < 0 ? err : 1;
}

static int reader_key(void *user, const char *section, const char *name, const char *value)
{
	struct reader *r = user;
	const struct config_key *key = config_key_find(name);
	uint64_t bit = key == NULL ? 0 : 1ull << (key - config_keys);
	struct config_error *error = r->error;

	assert(config_n_keys <= 64);
	if (r->bad_line != 0)
		return 0;
	r->bad_line = r->line;
	if (r->model != NULL) {
		if (model_key(r, section, name, value) < 0)
			return 0;
		r->bad_line = 0;
		return 1;
	}
	int named = named_key(r, section, name, value);
	if (named != 0) {
		r->bad_line = named < 0 ? r->line : 0;
		return named > 0;
	}
	if (section[0] != '\0' && strcmp(section, "gpuqd") != 0) {
		snprintf(error->text, sizeof(error->text),
			"there is no section [%.64s]; keys stand alone, under [gpuqd], or under "
			"[model NAME], [user NAME] or [group NAME]",
			section);
		return 0;
	}
	if ((r->seen & bit) != 0) {
		snprintf(error->text, sizeof(error->text),
			"%s is set twice (a line that starts with a space continues the one above)",
			name);
		return 0;
	}
	if (config_set(r->config, name, value, error) < 0)
		return 0;
	r->seen |= bit;
	r->bad_line = 0;
	return 1;
}

static int reader_fail(struct reader *r, const char *path, unsigned int line, const char *reason)
{
	char place[512];

	snprintf(place, sizeof(place), "%.480s:%u", path, line);
	config_error_place(r->error, place, reason);
	return -EINVAL;
}

/* Reads the file whose keys `start` is for. */
static int read_with(struct reader start, const char *path, struct config_error *ret_error)
{
	struct reader r = start;

	r.error = ret_error;
	r.file = fopen(path, "re");
	if (r.file == NULL) {
		int e = -errno;
		snprintf(ret_error->text, sizeof(ret_error->text), "%s: %s", path, strerror(-e));
		return e;
	}
	int line = ini_parse_stream(reader_line, &r, reader_key, &r);
	bool broken = ferror(r.file) != 0;
	fclose(r.file);
	if (broken) {
		snprintf(ret_error->text, sizeof(ret_error->text), "%s: cannot be read", path);
		return -EIO;
	}
	/* First: a key that we refused, a line that libinih refused, one too long for it. */
	if (r.bad_line != 0 && (int)r.bad_line == line)
		return reader_fail(&r, path, r.bad_line, NULL);
	if (line > 0)
		return reader_fail(&r, path, (unsigned int)line, "this is not 'key = value'");
	if (line < 0)
		return reader_fail(&r, path, r.line, "no memory to read on");
	if (r.too_long)
		return reader_fail(&r, path, r.line, "this line is too long");
	return 0;
}

int config_read_file(struct config *config, const char *path, struct config_error *ret_error)
{
	return read_with((struct reader){.config = config}, path, ret_error);
}

int config_read_model_file(
	struct config_model *model, const char *path, struct config_error *ret_error)
{
	return read_with((struct reader){.model = model}, path, ret_error);
}
