/* SPDX-License-Identifier: MIT */
/* safetensors.c: the files of a folder, their headers, and the tensors by name. */
#include "models/file.h"
#include "models/safetensors_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SINGLE "model.safetensors"
#define INDEX "model.safetensors.index.json"
#define INDEX_DEPTH 4u

/* --- Tensors by name ------------------------------------------------------------------------ */

static int by_name(const void *a, const void *b)
{
	const struct safetensors_tensor *x = a, *y = b;

	return strcmp(x->name, y->name);
}

size_t safetensors_count(const struct safetensors *files)
{
	return files->table.count;
}

const struct safetensors_tensor *safetensors_at(const struct safetensors *files, size_t i)
{
	return &files->table.tensors[i];
}

const struct safetensors_tensor *safetensors_find(const struct safetensors *files, const char *name)
{
	const struct safetensors_tensor key = {.name = (char *)name};

	return bsearch(&key, files->table.tensors, files->table.count, sizeof(key), by_name);
}

/* --- Files ---------------------------------------------------------------------------------- */

static int read_header(const struct safetensors_file *file, uint64_t file_bytes,
	struct safetensors_table *table, struct model_why *why)
{
	uint8_t prefix[8] = {0};
	size_t bytes;
	char *text;
	int err;

	if (file_bytes < sizeof(prefix))
		return model_fail(why, -EBADMSG, "%s has only %u bytes", file->name,
			(unsigned int)file_bytes);
	err = model_file_read(file->fd, file->name, 0, prefix, sizeof(prefix), why);
	if (err == 0)
		err = safetensors_header_bytes(prefix, file_bytes, file->name, &bytes, why);
	if (err < 0)
		return err;
	text = malloc(bytes + 1);
	if (text == NULL)
		return model_fail(why, -ENOMEM, "%s: no memory for its header", file->name);
	err = model_file_read(file->fd, file->name, sizeof(prefix), text, bytes, why);
	if (err == 0)
		err = safetensors_parse(text, bytes, sizeof(prefix) + bytes,
			file_bytes - sizeof(prefix) - bytes, file->name, table, why);
	free(text);
	return err;
}

/* files->files has room. */
static int add_file(struct safetensors *files, int dir_fd, const char *name, struct model_why *why)
{
	struct safetensors_file *file = &files->files[files->file_count];
	size_t first = files->table.count;
	uint64_t bytes;
	int err;

	file->fd = model_file_open(dir_fd, name, &bytes, why);
	if (file->fd < 0)
		return file->fd;
	file->name = strdup(name);
	files->file_count++;
	if (file->name == NULL)
		return model_fail(why, -ENOMEM, "no memory for the names of files");
	err = read_header(file, bytes, &files->table, why);
	for (size_t i = first; err == 0 && i < files->table.count; i++)
		files->table.tensors[i].file = files->file_count - 1;
	return err;
}

static int open_single(struct safetensors *files, int dir_fd, struct model_why *why)
{
	files->files = calloc(1, sizeof(*files->files));
	if (files->files == NULL)
		return model_fail(why, -ENOMEM, "no memory for the names of files");
	return add_file(files, dir_fd, SINGLE, why);
}

/* --- Shards --------------------------------------------------------------------------------- */

static int by_text(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The different file names of the map, in order; owned by the map. The caller frees the list. */
static int list_shards(
	json_t *map, const char ***ret_names, size_t *ret_count, struct model_why *why)
{
	const char **names = calloc(json_object_size(map) + 1, sizeof(*names));
	size_t n = 0, unique = 0;
	const char *key;
	json_t *value;

	if (names == NULL)
		return model_fail(why, -ENOMEM, "%s: no memory for the names of files", INDEX);
	json_object_foreach(map, key, value)
	{
		if (!json_is_string(value)) {
			free(names);
			return model_fail(
				why, -EBADMSG, "%s: the file of %s is not a string", INDEX, key);
		}
		names[n++] = json_string_value(value);
	}
	qsort(names, n, sizeof(*names), by_text);
	for (size_t i = 0; i < n; i++) {
		if (unique == 0 || strcmp(names[unique - 1], names[i]) != 0)
			names[unique++] = names[i];
	}
	*ret_names = names;
	*ret_count = unique;
	return 0;
}

static int add_shards(struct safetensors *files, int dir_fd, const char *const *names, size_t n,
	struct model_why *why)
{
	int err = 0;

	if (n == 0 || n > SAFETENSORS_MAX_FILES)
		return model_fail(why, -EFBIG, "%s: %zu files; from 1 to %u are possible", INDEX, n,
			SAFETENSORS_MAX_FILES);
	files->files = calloc(n, sizeof(*files->files));
	if (files->files == NULL)
		return model_fail(why, -ENOMEM, "no memory for the names of files");
	for (size_t i = 0; err == 0 && i < n; i++)
		err = add_file(files, dir_fd, names[i], why);
	return err;
}

/* Index and files agree on what is where. */
static int check_index(const struct safetensors *files, const json_t *map, struct model_why *why)
{
	for (size_t i = 0; i < files->table.count; i++) {
		const struct safetensors_tensor *t = &files->table.tensors[i];
		const char *in = files->files[t->file].name;
		const json_t *said = json_object_get(map, t->name);

		if (said == NULL || strcmp(json_string_value(said), in) != 0)
			return model_fail(why, -EBADMSG, "%s is in %s, which %s does not say",
				t->name, in, INDEX);
	}
	if (files->table.count != json_object_size(map))
		return model_fail(why, -EBADMSG, "%s names %zu tensors; the files have %zu", INDEX,
			json_object_size(map), files->table.count);
	return 0;
}

static int open_map(struct safetensors *files, int dir_fd, json_t *map, struct model_why *why)
{
	const char **names = NULL;
	size_t count = 0;
	int err;

	if (!json_is_object(map))
		return model_fail(why, -EBADMSG, "%s: weight_map is not an object", INDEX);
	err = list_shards(map, &names, &count, why);
	if (err < 0)
		return err;
	err = add_shards(files, dir_fd, names, count, why);
	free(names);
	return err < 0 ? err : check_index(files, map, why);
}

static int open_sharded(struct safetensors *files, int dir_fd, struct model_why *why)
{
	json_t *json;
	int err = model_json_load(dir_fd, INDEX, INDEX_DEPTH, &json, why);

	if (err == -ENOENT)
		return model_fail(why, err, "the folder has neither %s nor %s", SINGLE, INDEX);
	if (err < 0)
		return err;
	err = open_map(files, dir_fd, json_object_get(json, "weight_map"), why);
	json_decref(json);
	return err;
}

int safetensors_open(int dir_fd, struct safetensors **ret_files, struct model_why *why)
{
	struct safetensors *files = calloc(1, sizeof(*files));
	int err;

	if (files == NULL)
		return model_fail(why, -ENOMEM, "no memory for the model's files");
	err = open_single(files, dir_fd, why);
	if (err == -ENOENT) {
		free(files->files);
		files->files = NULL;
		err = open_sharded(files, dir_fd, why);
	}
	if (err == 0 && files->table.count == 0)
		err = model_fail(why, -EBADMSG, "%s: no tensors", files->files[0].name);
	if (err < 0) {
		safetensors_close(files);
		return err;
	}
	/* Each name is there once: no object has a member twice, the index has one file for it. */
	qsort(files->table.tensors, files->table.count, sizeof(*files->table.tensors), by_name);
	*ret_files = files;
	return 0;
}

void safetensors_close(struct safetensors *files)
{
	if (files == NULL)
		return;
	for (uint32_t i = 0; i < files->file_count; i++) {
		close(files->files[i].fd);
		free(files->files[i].name);
	}
	free(files->files);
	safetensors_table_free(&files->table);
	free(files);
}
