/* SPDX-License-Identifier: MIT */
/*
 * Fuzz target for gpuqd's configuration: a first line is what --model says, the second a key and
 * its value as a flag gives them, the third a variable of the environment, the rest is a file.
 * Whatever they are, what is refused has a reason, and what is accepted is the same when it is
 * printed and read again.
 */
#include "daemon/config.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int condition)
{
	if (!condition)
		abort();
}

static void check(int r, const struct config_error *error)
{
	require(r == 0 ||
		(error->text[0] != '\0' && memchr(error->text, '\0', sizeof(error->text)) != NULL));
}

/* The text as a configuration file, and as one of a model's settings. */
static int read_text(struct config *config, const void *text, size_t bytes)
{
	struct config_model *model = calloc(1, sizeof(*model));
	struct config_error error = {""};
	char path[64];
	int fd = memfd_create("config", MFD_CLOEXEC);

	require(model != NULL && fd >= 0 && write(fd, text, bytes) == (ssize_t)bytes);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	check(config_read_model_file(model, path, &error), &error);
	int r = config_read_file(config, path, &error);
	check(r, &error);
	close(fd);
	free(model);
	return r;
}

/* Takes a line off the front. */
static void take_line(const uint8_t **data, size_t *size, char *line, size_t max)
{
	const uint8_t *end = memchr(*data, '\n', *size);
	size_t n = end != NULL ? (size_t)(end - *data) : *size;
	size_t kept = n < max ? n : max - 1;

	memcpy(line, *data, kept);
	line[kept] = '\0';
	*data += n + (end != NULL);
	*size -= n + (end != NULL);
}

static void check_round_trip(const struct config *config)
{
	struct config_error error;
	struct config *again = malloc(sizeof(*again));
	char *text = NULL;
	size_t bytes = 0;
	FILE *out = open_memstream(&text, &bytes);

	require(again != NULL && out != NULL);
	config_print(config, out);
	config_help(out);
	rewind(out);
	config_print(config, out);
	fclose(out);
	/* A value from elsewhere may be one that a file cannot hold. */
	config_init(again);
	if (read_text(again, text, strlen(text)) == 0)
		require(config_check(again, &error) == config_check(config, &error));
	free(text);
	free(again);
}

static void set_environment(struct config *config, char *line)
{
	struct config_error error = {""};
	char *equals = strchr(line, '=');

	if (equals == NULL || equals == line)
		return;
	*equals = '\0';
	if (strncmp(line, "GPUQ_", 5) != 0)
		return;
	require(setenv(line, equals + 1, 1) == 0);
	check(config_read_environment(config, &error), &error);
	unsetenv(line);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct config *config = malloc(sizeof(*config));
	struct config_error error = {""};
	char line[512], *equals;

	require(config != NULL);
	config_init(config);
	take_line(&data, &size, line, sizeof(line));
	if (line[0] != '\0')
		check(config_model_flag(config, line, &error), &error);
	take_line(&data, &size, line, sizeof(line));
	equals = strchr(line, '=');
	if (equals != NULL) {
		*equals = '\0';
		check(config_set(config, line, equals + 1, &error), &error);
	}
	take_line(&data, &size, line, sizeof(line));
	set_environment(config, line);
	int r = read_text(config, data, size);
	check(config_check(config, &error), &error);
	if (r == 0)
		check_round_trip(config);
	free(config);
	return 0;
}
