/* SPDX-License-Identifier: MIT */
/*
 * json.h: reads members of JSON objects. What is missing or of another type is refused with a
 * sentence that names the member: "normalizer: pattern is missing".
 */
#ifndef GPUQ_TEXT_JSON_H
#define GPUQ_TEXT_JSON_H

#include "client/text/text.h"

#include <jansson.h>

/* A string, valid as long as the document. -EINVAL. */
int json_get_string(const json_t *object, const char *where, const char *key, struct span *ret);

/* `preset` when it is missing or null. -EINVAL. */
int json_get_bool(const json_t *object, const char *where, const char *key, bool preset, bool *ret);

/* From 0 to max. -EINVAL. */
int json_get_number(
	const json_t *object, const char *where, const char *key, uint64_t max, uint64_t *ret);

/* An array with at most max elements. -EINVAL, -EFBIG. */
int json_get_array(
	const json_t *object, const char *where, const char *key, size_t max, const json_t **ret);

/* The member "type": the name by which a step is known. -EINVAL. */
int json_get_type(const json_t *object, const char *where, const char **ret_type);

/* The index of a string member among `names`, which end with NULL. -EINVAL, -ENOTSUP. */
int json_get_choice(const json_t *object, const char *where, const char *key,
	const char *const *names, unsigned int *ret_index);

/* A section of the file: a step, or a "Sequence", whose steps may be Sequences themselves. */
struct json_steps {
	const char *where; /* its name, for sentences */
	const char *list;  /* the member of a Sequence that lists its steps */
	size_t max;	   /* the longest list */
	int (*load)(const json_t *step, const char *type, void *context);
};

/* Loads each step, in their order, until one fails; none when json is missing or null. -errno. */
int json_each_step(const json_t *json, const struct json_steps *steps, void *context);

#endif
