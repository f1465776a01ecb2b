/* SPDX-License-Identifier: MIT */
/* file.c: opening, reading and parsing what a model's folder holds; see file.h. */
#include "models/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool is_plain_name(const char *name)
{
	return name[0] != '\0' && strcmp(name, ".") != 0 && strcmp(name, "..") != 0 &&
		strchr(name, '/') == NULL;
}

static int fail_open(const char *name, int error, struct model_why *why)
{
	if (error == ELOOP)
		return model_fail(why, -ELOOP,
			"%s is a symbolic link, as in Hugging Face's cache, and might lead "
			"anywhere; 'hf download --local-dir' makes a folder of the files "
			"themselves",
			name);
	return model_fail(why, -error, "%s cannot be opened: %s", name, strerror(error));
}

int model_file_open(int dir_fd, const char *name, uint64_t *ret_bytes, struct model_why *why)
{
	struct stat st;
	int fd;

	if (!is_plain_name(name))
		return model_fail(
			why, -EINVAL, "\"%.100s\" is not the name of a file in the folder", name);
	/* O_NONBLOCK: opening a FIFO must not wait for its writer. */
	fd = openat(dir_fd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
		return fail_open(name, errno, why);
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
		close(fd);
		return model_fail(why, -EINVAL, "%s is not a regular file", name);
	}
	*ret_bytes = (uint64_t)st.st_size;
	return fd;
}

int model_file_read(
	int fd, const char *name, uint64_t offset, void *to, size_t bytes, struct model_why *why)
{
	size_t done = 0;

	while (done < bytes) {
		ssize_t n = pread(fd, (char *)to + done, bytes - done, (off_t)(offset + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return model_fail(
				why, -errno, "%s cannot be read: %s", name, strerror(errno));
		if (n == 0)
			return model_fail(why, -EIO, "%s ends too early", name);
		done += (size_t)n;
	}
	return 0;
}

/* Whether brackets nest deeper than `depth`; says nothing of the rest of the syntax. */
static bool is_too_deep(const char *text, size_t bytes, unsigned int depth)
{
	unsigned int level = 0;
	bool in_string = false;

	for (size_t i = 0; i < bytes; i++) {
		char c = text[i];

		if (in_string && c == '\\')
			i++;
		else if (c == '"')
			in_string = !in_string;
		else if (!in_string && (c == '{' || c == '['))
			level++;
		else if (!in_string && (c == '}' || c == ']') && level > 0)
			level--;
		if (level > depth)
			return true;
	}
	return false;
}

int model_json_parse(const char *text, size_t bytes, unsigned int depth, const char *name,
	json_t **ret_json, struct model_why *why)
{
	json_error_t error;
	json_t *json;

	if (is_too_deep(text, bytes, depth))
		return model_fail(why, -EBADMSG, "%s: nested deeper than %u levels", name, depth);
	json = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &error);
	if (json == NULL)
		return model_fail(why, -EBADMSG, "%s: %s", name, error.text);
	if (!json_is_object(json)) {
		json_decref(json);
		return model_fail(why, -EBADMSG, "%s: not a JSON object", name);
	}
	*ret_json = json;
	return 0;
}

static int parse_file(int fd, const char *name, uint64_t bytes, unsigned int depth,
	json_t **ret_json, struct model_why *why)
{
	char *text;
	int err;

	if (bytes > MODEL_JSON_MAX_BYTES)
		return model_fail(
			why, -EFBIG, "%s is larger than %u bytes", name, MODEL_JSON_MAX_BYTES);
	text = malloc(bytes + 1);
	if (text == NULL)
		return model_fail(why, -ENOMEM, "no memory to read %s", name);
	err = model_file_read(fd, name, 0, text, bytes, why);
	if (err == 0)
		err = model_json_parse(text, bytes, depth, name, ret_json, why);
	free(text);
	return err;
}

int model_json_load(
	int dir_fd, const char *name, unsigned int depth, json_t **ret_json, struct model_why *why)
{
	uint64_t bytes = 0;
	int fd = model_file_open(dir_fd, name, &bytes, why);

	if (fd < 0)
		return fd;
	int err = parse_file(fd, name, bytes, depth, ret_json, why);
	close(fd);
	return err;
}
