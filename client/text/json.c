/* SPDX-License-Identifier: MIT */
/* json.c: members of JSON objects, checked, and the walk over sequences of steps. */
#include "client/text/json.h"

#define SEQUENCE_DEPTH_MAX 8

static int wrong(const char *where, const char *key, const json_t *value, const char *wanted)
{
	if (value == NULL)
		return text_fail(-EINVAL, "%s: %s is missing", where, key);
	return text_fail(-EINVAL, "%s: %s is not %s", where, key, wanted);
}

int json_get_string(const json_t *object, const char *where, const char *key, struct span *ret)
{
	const json_t *value = json_object_get(object, key);

	if (!json_is_string(value))
		return wrong(where, key, value, "a string");
	*ret = span_of(json_string_value(value), json_string_length(value));
	return 0;
}

int json_get_bool(const json_t *object, const char *where, const char *key, bool preset, bool *ret)
{
	const json_t *value = json_object_get(object, key);

	if (value != NULL && !json_is_null(value) && !json_is_boolean(value))
		return wrong(where, key, value, "true or false");
	*ret = json_is_boolean(value) ? json_is_true(value) : preset;
	return 0;
}

int json_get_number(
	const json_t *object, const char *where, const char *key, uint64_t max, uint64_t *ret)
{
	const json_t *value = json_object_get(object, key);
	json_int_t n = json_integer_value(value);

	if (!json_is_integer(value))
		return wrong(where, key, value, "a whole number");
	if (n < 0 || (uint64_t)n > max)
		return text_fail(-EINVAL, "%s: %s is %lld, which is not from 0 to %llu", where, key,
			(long long)n, (unsigned long long)max);
	*ret = (uint64_t)n;
	return 0;
}

int json_get_array(
	const json_t *object, const char *where, const char *key, size_t max, const json_t **ret)
{
	const json_t *value = json_object_get(object, key);

	if (!json_is_array(value))
		return wrong(where, key, value, "an array");
	if (json_array_size(value) > max)
		return text_fail(-EFBIG, "%s: %s has %zu elements; %zu is the limit", where, key,
			json_array_size(value), max);
	*ret = value;
	return 0;
}

int json_get_type(const json_t *object, const char *where, const char **ret_type)
{
	const json_t *value = json_object_get(object, "type");

	if (!json_is_object(object))
		return text_fail(-EINVAL, "%s is not an object", where);
	if (!json_is_string(value))
		return wrong(where, "type", value, "a string");
	*ret_type = json_string_value(value);
	return 0;
}

int json_get_choice(const json_t *object, const char *where, const char *key,
	const char *const *names, unsigned int *ret_index)
{
	const json_t *value = json_object_get(object, key);

	if (!json_is_string(value))
		return wrong(where, key, value, "a string");
	for (unsigned int i = 0; names[i] != NULL; i++) {
		if (strcmp(names[i], json_string_value(value)) == 0) {
			*ret_index = i;
			return 0;
		}
	}
	return text_fail(
		-ENOTSUP, "%s: %s '%s' is not supported", where, key, json_string_value(value));
}

static int each_step(const json_t *json, const struct json_steps *steps, void *context, int depth)
{
	const json_t *list, *element;
	const char *type;
	size_t i;
	int r = json_get_type(json, steps->where, &type);

	if (r < 0)
		return r;
	if (strcmp(type, "Sequence") != 0)
		return steps->load(json, type, context);
	if (depth == SEQUENCE_DEPTH_MAX)
		return text_fail(-EFBIG, "%s: the sequences are too deep", steps->where);
	r = json_get_array(json, steps->where, steps->list, steps->max, &list);
	if (r < 0)
		return r;
	json_array_foreach(list, i, element)
	{
		r = each_step(element, steps, context, depth + 1);
		if (r < 0)
			return r;
	}
	return 0;
}

int json_each_step(const json_t *json, const struct json_steps *steps, void *context)
{
	if (json == NULL || json_is_null(json))
		return 0;
	return each_step(json, steps, context, 0);
}
