/* SPDX-License-Identifier: MIT */
/*
 * file.h: files of a model's folder, which is a directory descriptor. Only regular files directly
 * in it are opened; a symbolic link could lead anywhere and is refused. JSON from it is bounded in
 * size and depth, and no object has a member twice.
 */
#ifndef GPUQ_MODELS_FILE_H
#define GPUQ_MODELS_FILE_H

#include "models/fail.h"

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#define MODEL_JSON_MAX_BYTES (16u << 20)

/*
 * A descriptor, or a negative error: -ENOENT, -ELOOP for a symbolic link, -EINVAL for a name that
 * is no file's name or for what is no regular file.
 */
int model_file_open(int dir_fd, const char *name, uint64_t *ret_bytes, struct model_why *why);

/* Reads exactly `bytes` bytes at `offset`; -EIO when there are fewer. name: for the sentence. */
int model_file_read(
	int fd, const char *name, uint64_t offset, void *to, size_t bytes, struct model_why *why);

/* An object; -EBADMSG when the text is none, or nested deeper than `depth`. */
int model_json_parse(const char *text, size_t bytes, unsigned int depth, const char *name,
	json_t **ret_json, struct model_why *why);

/* The same from a file of at most MODEL_JSON_MAX_BYTES (-EFBIG). */
int model_json_load(
	int dir_fd, const char *name, unsigned int depth, json_t **ret_json, struct model_why *why);

#endif
