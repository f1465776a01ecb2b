/* SPDX-License-Identifier: MIT */
/* step_shape.c: see step_shape.h. */
#include "tools/step_shape.h"

#include <stdio.h>
#include <string.h>

/* The tensors that all steps begin with, and those that tell what one gives. */
#define STEP " tokens[%u]i32 positions[%*u]i32 rows[%*u]i32 table[%u,%*u]i32 context[%u]u8 %n"

/* Candidates with so many named tokens, all logits, or tokens that the device has drawn. */
static void result_text(const char *rest, char *text, size_t size)
{
	const char *ids = strstr(rest, "ids[");
	unsigned int n;

	if (ids != NULL && sscanf(ids, "ids[%*u,%u]", &n) == 1)
		snprintf(text, size, ", %u id%s", n, n == 1 ? "" : "s");
	else if (strstr(rest, "seeds[") != NULL)
		snprintf(text, size, ", drawn");
	else if (strstr(rest, "-> logits[") != NULL)
		snprintf(text, size, ", logits");
	else
		text[0] = '\0';
}

bool step_shape_text(const char *shape, char *text, size_t size)
{
	const size_t name = strcspn(shape, " ");
	unsigned int tokens, texts, context;
	char result[32];
	int n = 0;

	if (sscanf(shape + name, STEP, &tokens, &texts, &context, &n) != 3 || n == 0)
		return false;
	result_text(shape + name + n, result, sizeof(result));
	snprintf(text, size, "%.*s: %u token%s of %u text%s, context %u%s", (int)name, shape,
		tokens, tokens == 1 ? "" : "s", texts, texts == 1 ? "" : "s", context, result);
	return true;
}
