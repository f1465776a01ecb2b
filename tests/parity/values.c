/* SPDX-License-Identifier: MIT */
/* What the layers of a model pass on, as models/trace.h shows it. */
#include "tests/parity/values.h"

#include "models/trace.h"
#include "tests/harness.h"

#include <stdlib.h>
#include <string.h>

struct checking {
	const struct expected *e;
	uint32_t checked;
};

/* Of what is not expected transformers say nothing. */
static int check(void *context, const struct model_value *v)
{
	struct checking *c = context;
	const char *name = strcmp(v->name, "logits") == 0 ? "logits.8" : v->name;
	uint64_t rows, columns;

	if (!expected_has(c->e, name))
		return 0;
	float *right = expected_read(c->e, name, &rows, &columns);
	assert_int_equal(v->rows, rows);
	assert_int_equal(v->columns, columns);
	expected_near(c->e, name, v->data, right, rows * columns, PARITY_F32_BOUND);
	free(right);
	c->checked++;
	return 0;
}

void values_check(const struct expected *e, const struct model *model)
{
	struct checking c = {.e = e};
	uint64_t n;
	int32_t *tokens = expected_read(e, "text.8", &n, NULL);

	assert_int_equal(model_trace(model, tokens, (uint32_t)n, check, &c), 0);
	/* q, k, v, context, attended, mlp and out of each layer; embedding, norm and logits. */
	assert_int_equal(c.checked, 7 * model_config(model)->layers + 3);
	free(tokens);
}
