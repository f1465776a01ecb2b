/* SPDX-License-Identifier: MIT */
/* header.c: the header of one safetensors file, from bytes that anyone may have written. */
#include "models/file.h"
#include "models/safetensors.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MAX_TENSORS 1000000u
#define MAX_NAME 512u
#define DEPTH 3u /* file, tensor, shape */

static const struct {
	char name[8];
	uint32_t bytes;
	uint32_t dtype;
} dtypes[] = {
	{"F32", 4, GPUQ_F32},
	{"F16", 2, GPUQ_F16},
	{"BF16", 2, GPUQ_BF16},
	{"I8", 1, GPUQ_I8},
	{"U8", 1, GPUQ_U8},
	{"I32", 4, GPUQ_I32},
	{"I64", 8, GPUQ_I64},
	{"F64", 8, 0},
	{"F8_E4M3", 1, 0},
	{"F8_E5M2", 1, 0},
	{"I16", 2, 0},
	{"U16", 2, 0},
	{"U32", 4, 0},
	{"U64", 8, 0},
	{"BOOL", 1, 0},
};

int safetensors_header_bytes(const uint8_t prefix[8], uint64_t file_bytes, const char *name,
	size_t *ret_bytes, struct model_why *why)
{
	uint64_t bytes = 0;

	for (unsigned int i = 8; i-- > 0;)
		bytes = bytes << 8 | prefix[i];
	if (file_bytes < 8 || bytes > file_bytes - 8)
		return model_fail(why, -EBADMSG,
			"%s: a header of %llu bytes does not fit a file of %llu", name,
			(unsigned long long)bytes, (unsigned long long)file_bytes);
	if (bytes > SAFETENSORS_MAX_HEADER_BYTES)
		return model_fail(why, -EFBIG, "%s: a header of %llu bytes; %u is the limit", name,
			(unsigned long long)bytes, SAFETENSORS_MAX_HEADER_BYTES);
	*ret_bytes = (size_t)bytes;
	return 0;
}

/* --- One tensor ----------------------------------------------------------------------------- */

static bool get_number(const json_t *json, uint64_t *ret)
{
	if (!json_is_integer(json) || json_integer_value(json) < 0)
		return false;
	*ret = (uint64_t)json_integer_value(json);
	return true;
}

/* Returns the bytes of an element, 0 for an unknown type. */
static uint32_t read_dtype(const json_t *json, struct safetensors_tensor *tensor)
{
	const char *name = json_string_value(json);

	for (size_t i = 0; name != NULL && i < sizeof(dtypes) / sizeof(dtypes[0]); i++) {
		if (strcmp(name, dtypes[i].name) != 0)
			continue;
		tensor->dtype = dtypes[i].dtype;
		memcpy(tensor->dtype_name, dtypes[i].name, sizeof(tensor->dtype_name));
		return dtypes[i].bytes;
	}
	return 0;
}

/* Multiplies *bytes with the dimensions. */
static bool read_shape(const json_t *json, struct safetensors_tensor *tensor, uint64_t *bytes)
{
	if (!json_is_array(json) || json_array_size(json) > GPUQ_MAX_RANK)
		return false;
	tensor->rank = (uint32_t)json_array_size(json);
	for (uint32_t i = 0; i < tensor->rank; i++) {
		if (!get_number(json_array_get(json, i), &tensor->dims[i]) ||
			__builtin_mul_overflow(*bytes, tensor->dims[i], bytes))
			return false;
	}
	return true;
}

static bool read_offsets(const json_t *json, uint64_t data_bytes, struct safetensors_tensor *tensor)
{
	uint64_t end;

	if (!json_is_array(json) || json_array_size(json) != 2 ||
		!get_number(json_array_get(json, 0), &tensor->offset) ||
		!get_number(json_array_get(json, 1), &end))
		return false;
	tensor->bytes = end - tensor->offset;
	return tensor->offset <= end && end <= data_bytes;
}

/* What is wrong with it, or NULL. Its offset counts from the data's begin. */
static const char *read_tensor(
	const json_t *json, uint64_t data_bytes, struct safetensors_tensor *tensor)
{
	if (!json_is_object(json))
		return "is no object";
	uint64_t bytes = read_dtype(json_object_get(json, "dtype"), tensor);
	if (bytes == 0)
		return "has an unknown dtype";
	if (!read_shape(json_object_get(json, "shape"), tensor, &bytes))
		return "has a shape that cannot be";
	if (!read_offsets(json_object_get(json, "data_offsets"), data_bytes, tensor))
		return "lies outside the file";
	if (tensor->bytes != bytes)
		return "has not the length of its shape";
	return NULL;
}

static bool metadata_is_fine(const json_t *json)
{
	const char *key;
	json_t *value;

	if (!json_is_object(json))
		return false;
	json_object_foreach((json_t *)json, key, value)
	{
		if (!json_is_string(value))
			return false;
	}
	return true;
}

/* --- All of them ---------------------------------------------------------------------------- */

static int by_offset(const void *a, const void *b)
{
	const struct safetensors_tensor *x = a, *y = b;

	if (x->offset != y->offset)
		return x->offset < y->offset ? -1 : 1;
	return (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

/* The tensors cover the data exactly: none overlaps another and no byte is without one. */
static int check_cover(const struct safetensors_table *table, uint64_t data_bytes, const char *name,
	struct model_why *why)
{
	uint64_t end = 0;

	for (size_t i = 0; i < table->count; i++) {
		const struct safetensors_tensor *t = &table->tensors[i];

		if (t->offset < end)
			return model_fail(why, -EBADMSG, "%s: %s overlaps %s", name, t->name,
				table->tensors[i - 1].name);
		if (t->offset > end)
			return model_fail(
				why, -EBADMSG, "%s: there is a gap before %s", name, t->name);
		end += t->bytes;
	}
	if (end != data_bytes)
		return model_fail(why, -EBADMSG,
			"%s: the tensors end after %llu bytes of data, the file after %llu", name,
			(unsigned long long)end, (unsigned long long)data_bytes);
	return 0;
}

static int read_tensors(const json_t *json, uint64_t data_bytes, const char *name,
	struct safetensors_table *table, struct model_why *why)
{
	const char *key, *wrong;
	json_t *value;

	json_object_foreach((json_t *)json, key, value)
	{
		struct safetensors_tensor *tensor = &table->tensors[table->count];

		if (strcmp(key, "__metadata__") == 0) {
			if (!metadata_is_fine(value))
				return model_fail(why, -EBADMSG,
					"%s: __metadata__ is not an object of strings", name);
			continue;
		}
		if (key[0] == '\0' || strlen(key) > MAX_NAME)
			return model_fail(why, -EBADMSG,
				"%s: a tensor's name is empty or longer than %u bytes", name,
				MAX_NAME);
		wrong = read_tensor(value, data_bytes, tensor);
		if (wrong != NULL)
			return model_fail(why, -EBADMSG, "%s: %s %s", name, key, wrong);
		tensor->name = strdup(key);
		if (tensor->name == NULL)
			return model_fail(why, -ENOMEM, "%s: no memory for its tensors", name);
		table->count++;
	}
	qsort(table->tensors, table->count, sizeof(*table->tensors), by_offset);
	return check_cover(table, data_bytes, name, why);
}

static int append_table(
	struct safetensors_table *table, const struct safetensors_table *more, uint64_t data_offset)
{
	size_t count = table->count + more->count;
	struct safetensors_tensor *tensors =
		realloc(table->tensors, (count + 1) * sizeof(*tensors));

	if (tensors == NULL)
		return -ENOMEM;
	for (size_t i = 0; i < more->count; i++) {
		tensors[table->count + i] = more->tensors[i];
		tensors[table->count + i].offset += data_offset;
	}
	*table = (struct safetensors_table){tensors, count};
	return 0;
}

static int parse_object(const json_t *json, uint64_t data_offset, uint64_t data_bytes,
	const char *name, struct safetensors_table *table, struct model_why *why)
{
	struct safetensors_table own = {0};
	size_t count = json_object_size(json);
	int err;

	if (count > MAX_TENSORS)
		return model_fail(why, -EFBIG, "%s: more than %u tensors", name, MAX_TENSORS);
	own.tensors = calloc(count + 1, sizeof(*own.tensors));
	if (own.tensors == NULL)
		return model_fail(why, -ENOMEM, "%s: no memory for its tensors", name);
	err = read_tensors(json, data_bytes, name, &own, why);
	if (err == 0) {
		err = append_table(table, &own, data_offset);
		if (err == 0)
			own.count = 0; /* the names have moved */
		else
			model_fail(why, err, "%s: no memory for its tensors", name);
	}
	safetensors_table_free(&own);
	return err;
}

int safetensors_parse(const char *header, size_t header_bytes, uint64_t data_offset,
	uint64_t data_bytes, const char *name, struct safetensors_table *table,
	struct model_why *why)
{
	json_t *json;
	int err = model_json_parse(header, header_bytes, DEPTH, name, &json, why);

	if (err < 0)
		return err;
	err = parse_object(json, data_offset, data_bytes, name, table, why);
	json_decref(json);
	return err;
}

void safetensors_table_free(struct safetensors_table *table)
{
	for (size_t i = 0; i < table->count; i++)
		free(table->tensors[i].name);
	free(table->tensors);
	*table = (struct safetensors_table){0};
}
