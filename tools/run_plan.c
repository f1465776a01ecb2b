/* SPDX-License-Identifier: MIT */
/* From the command line of `gpuq run` to tensors. */
#include "tools/run_plan.h"

#include "tools/dtype.h"
#include "tools/shape.h"
#include "tools/tool.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ARENA_ALIGN 64
#define ARENA_SPARE 65536 /* for the argument block and the arena's own rounding */

int assignments_add(struct assignments *a, const char *option, const char *text)
{
	const char *equals = strchr(text, '=');
	size_t n = equals == NULL ? 0 : (size_t)(equals - text);

	if (n == 0 || equals[1] == '\0') {
		complain("%s '%s' is not NAME=VALUE", option, text);
		return -EINVAL;
	}
	if (n >= GPUQ_NAME_MAX) {
		complain("%s '%s' has a name that is longer than any", option, text);
		return -EINVAL;
	}
	if (a->n == ASSIGNMENTS_MAX) {
		complain("%s is given more than %d times", option, ASSIGNMENTS_MAX);
		return -EINVAL;
	}
	struct assignment *added = &a->list[a->n];
	memcpy(added->name, text, n);
	added->name[n] = '\0';
	added->value = equals + 1;
	for (uint32_t i = 0; i < a->n; i++) {
		if (strcmp(a->list[i].name, added->name) == 0) {
			complain("%s %s is given twice", option, added->name);
			return -EINVAL;
		}
	}
	a->n++;
	return 0;
}

/* The value given for a name, or NULL. */
static const char *value_of(const struct assignments *a, const char *name)
{
	for (uint32_t i = 0; i < a->n; i++) {
		if (strcmp(a->list[i].name, name) == 0)
			return a->list[i].value;
	}
	return NULL;
}

/* --- Names --------------------------------------------------------------------------------- */

/* Names of one kind of argument, read from an array of structures that begin with them. */
struct names {
	const char *kind; /* "input" */
	const char *first;
	size_t stride;
	uint32_t n;
};

static bool has_name(const struct names *names, const char *name)
{
	for (uint32_t i = 0; i < names->n; i++) {
		if (strcmp(names->first + i * names->stride, name) == 0)
			return true;
	}
	return false;
}

static void list_names(const struct names *names, char *text, size_t size)
{
	size_t used = 0;

	snprintf(text, size, "none");
	for (uint32_t i = 0; i < names->n && used < size; i++)
		used += (size_t)snprintf(text + used, size - used, "%s%s", i > 0 ? ", " : "",
			names->first + i * names->stride);
}

/* Everything that was given has a place in the operator. */
static int check_names(const char *op, const struct assignments *given, const struct names *names)
{
	char all[512];

	for (uint32_t i = 0; i < given->n; i++) {
		if (has_name(names, given->list[i].name))
			continue;
		list_names(names, all, sizeof(all));
		complain(
			"%s has no %s '%s'; it has: %s", op, names->kind, given->list[i].name, all);
		return -EINVAL;
	}
	return 0;
}

/* What an operator writes: its outputs, and inputs too. */
static int check_outputs(const struct assignments *given, const struct gpuq_op_info *op)
{
	char written[GPUQ_MAX_OUTPUTS + GPUQ_MAX_INPUTS][GPUQ_NAME_MAX];
	struct names names = {"output", written[0], sizeof(written[0]), 0};

	for (uint32_t i = 0; i < op->n_outputs; i++)
		memcpy(written[names.n++], op->outputs[i].name, GPUQ_NAME_MAX);
	for (uint32_t i = 0; i < op->n_inputs; i++) {
		if (op->inputs[i].in_out)
			memcpy(written[names.n++], op->inputs[i].name, GPUQ_NAME_MAX);
	}
	return check_names(op->name, given, &names);
}

static int check_all_names(const struct run_request *request, const struct gpuq_op_info *op)
{
	const struct names inputs = {
		"input", op->inputs[0].name, sizeof(op->inputs[0]), op->n_inputs};
	const struct names outputs = {
		"output", op->outputs[0].name, sizeof(op->outputs[0]), op->n_outputs};
	const struct names params = {
		"parameter", op->params[0].name, sizeof(op->params[0]), op->n_params};

	if (check_names(op->name, &request->inputs, &inputs) < 0 ||
		check_outputs(&request->outputs, op) < 0 ||
		check_names(op->name, &request->params, &params) < 0)
		return -EINVAL;
	for (uint32_t i = 0; i < request->dtypes.n; i++) {
		const char *name = request->dtypes.list[i].name;

		if (!has_name(&inputs, name) && !has_name(&outputs, name)) {
			complain("--dtype %s: %s has no tensor of that name", name, op->name);
			return -EINVAL;
		}
	}
	return 0;
}

/* --- Element types ------------------------------------------------------------------------- */

/* The --dtype of a tensor; 0 when none is given. */
static int wanted_dtype(const struct run_request *request, const char *name, uint32_t *ret_dtype)
{
	const char *value = value_of(&request->dtypes, name);
	uint32_t dtype = value == NULL ? 0 : dtype_parse(value);
	char all[128];

	if (value != NULL && dtype == 0) {
		complain("--dtype %s=%s: no such element type; there are: %s", name, value,
			dtype_mask_text(UINT32_MAX, all, sizeof(all)));
		return -EINVAL;
	}
	*ret_dtype = dtype;
	return 0;
}

static int check_dtype(const char *op, const char *role, const struct run_tensor *t)
{
	uint32_t mask = t->info->dtypes, dtype = t->tensor.dtype;
	char all[128];

	if ((mask & GPUQ_DTYPE_BIT(dtype)) != 0)
		return 0;
	complain("%s %s is %s; %s takes %s there", role, t->info->name, dtype_text(dtype), op,
		dtype_mask_text(mask, all, sizeof(all)));
	return -EINVAL;
}

/* --- Tensors ------------------------------------------------------------------------------- */

/* An input that is not given: fine when it is optional, else a complaint. */
static int absent_input(const char *op, const struct run_tensor *t)
{
	if (t->info->optional)
		return 0;
	complain("input %s of %s is missing; give --in %s=FILE.npy, %s", t->info->name, op,
		t->info->name, t->info->shape);
	return -EINVAL;
}

static int open_input(const struct run_request *request, const char *op, struct run_tensor *t)
{
	uint32_t wanted;
	char why[256];

	t->path = value_of(&request->inputs, t->info->name);
	t->saved = t->info->in_out ? value_of(&request->outputs, t->info->name) : NULL;
	if (t->path == NULL)
		return absent_input(op, t);
	if (wanted_dtype(request, t->info->name, &wanted) < 0)
		return -EINVAL;
	t->fd = npy_open(t->path, &t->npy, why, sizeof(why));
	if (t->fd < 0) {
		complain("%s: %s", t->path, why);
		return -EINVAL;
	}
	t->tensor.dtype = wanted != 0 ? wanted : t->npy.dtype;
	t->tensor.rank = t->npy.rank;
	memcpy(t->tensor.dims, t->npy.dims, sizeof(t->tensor.dims));
	if (t->tensor.dtype != t->npy.dtype &&
		(t->npy.dtype != GPUQ_F32 || (wanted != GPUQ_F16 && wanted != GPUQ_BF16))) {
		complain("--dtype %s=%s: %s holds %s, and only f32 can become f16 or bf16",
			t->info->name, dtype_text(wanted), t->path, dtype_text(t->npy.dtype));
		return -EINVAL;
	}
	t->bytes = t->npy.elements * dtype_bytes(t->tensor.dtype);
	return check_dtype(op, "input", t);
}

/* f32 unless asked otherwise, or the operator does not give it. */
static uint32_t usual_dtype(uint32_t mask)
{
	if (mask == 0 || (mask & GPUQ_DTYPE_BIT(GPUQ_F32)) != 0)
		return GPUQ_F32;
	return (uint32_t)__builtin_ctz(mask);
}

static int shape_output(const struct run_request *request, const char *op,
	const struct shape_env *env, struct run_tensor *t)
{
	uint32_t wanted;
	char why[512];

	t->saved = value_of(&request->outputs, t->info->name);
	if (t->saved == NULL && t->info->optional)
		return 0;
	if (wanted_dtype(request, t->info->name, &wanted) < 0)
		return -EINVAL;
	t->tensor.dtype = wanted != 0 ? wanted : usual_dtype(t->info->dtypes);
	if (shape_infer(env, t->info->name, t->info->shape, &t->tensor.rank, t->tensor.dims, why,
		    sizeof(why)) < 0) {
		complain("%s: %s", op, why);
		return -EINVAL;
	}
	t->bytes = dtype_bytes(t->tensor.dtype);
	for (uint32_t i = 0; i < t->tensor.rank; i++) {
		if (__builtin_mul_overflow(t->bytes, t->tensor.dims[i], &t->bytes)) {
			complain("output %s is larger than any memory", t->info->name);
			return -EINVAL;
		}
	}
	return check_dtype(op, "output", t);
}

/* A whole-numbered parameter is a symbol too: the K of the K greatest. */
static int bind_params(const struct run_plan *plan, struct shape_env *env)
{
	char why[512];

	for (uint32_t i = 0; i < plan->op.n_params; i++) {
		const struct gpuq_op_param *info = &plan->op.params[i];
		uint64_t value = (uint64_t)info->preset;
		char text[GPUQ_NAME_MAX + 2];

		if (info->type != GPUQ_PARAM_I64)
			continue;
		for (uint32_t j = 0; j < plan->n_params; j++) {
			if (strcmp(plan->params[j].name, info->name) == 0)
				value = (uint64_t)plan->params[j].value.i64;
		}
		snprintf(text, sizeof(text), "[%s]", info->name);
		if (shape_bind(env, info->name, text, 1, &value, why, sizeof(why)) < 0) {
			complain("%s: %s", plan->op.name, why);
			return -EINVAL;
		}
	}
	return 0;
}

static int open_inputs(
	const struct run_request *request, struct run_plan *plan, struct shape_env *env)
{
	for (uint32_t i = 0; i < plan->op.n_inputs; i++) {
		struct run_tensor *t = &plan->inputs[i];

		if (open_input(request, plan->op.name, t) < 0)
			return -EINVAL;
		if (t->path == NULL)
			env->absent[env->n_absent++] = t->info->name;
	}
	return 0;
}

/* Some have dimensions of which only others tell what they are made of: those come later. */
static int bind_inputs(const struct run_plan *plan, struct shape_env *env)
{
	bool bound[GPUQ_MAX_INPUTS] = {false}, later = true, progress = true;
	char why[512];

	while (later && progress) {
		later = progress = false;
		for (uint32_t i = 0; i < plan->op.n_inputs; i++) {
			const struct run_tensor *t = &plan->inputs[i];

			if (t->path == NULL || bound[i])
				continue;
			int r = shape_bind(env, t->info->name, t->info->shape, t->tensor.rank,
				t->tensor.dims, why, sizeof(why));
			if (r < 0 && r != -EAGAIN) {
				complain("%s: %s", plan->op.name, why);
				return r;
			}
			bound[i] = r == 0;
			progress |= r == 0;
			later |= r < 0;
		}
	}
	if (later)
		complain("%s: %s", plan->op.name, why);
	return later ? -EINVAL : 0;
}

static int plan_tensors(const struct run_request *request, struct run_plan *plan)
{
	struct shape_env env = {0};

	if (open_inputs(request, plan, &env) < 0 || bind_inputs(plan, &env) < 0 ||
		bind_params(plan, &env) < 0)
		return -EINVAL;
	for (uint32_t i = 0; i < plan->op.n_outputs; i++) {
		if (shape_output(request, plan->op.name, &env, &plan->outputs[i]) < 0)
			return -EINVAL;
	}
	return 0;
}

/* --- Parameters ---------------------------------------------------------------------------- */

static int read_param(
	const struct gpuq_op_param *info, const char *text, struct gpuq_param *ret_param)
{
	struct gpuq_param p = {.name = info->name, .type = info->type};
	double value;
	char *end;

	errno = 0;
	if (info->type == GPUQ_PARAM_I64) {
		p.value.i64 = strtoll(text, &end, 10);
		value = (double)p.value.i64;
	} else {
		p.value.f64 = strtod(text, &end);
		value = p.value.f64;
	}
	if (end == text || *end != '\0' || errno != 0) {
		complain("--param %s=%s is not %s", info->name, text,
			info->type == GPUQ_PARAM_I64 ? "a whole number" : "a number");
		return -EINVAL;
	}
	if (!(value >= info->min && value <= info->max)) {
		complain("--param %s=%s is not between %g and %g", info->name, text, info->min,
			info->max);
		return -EINVAL;
	}
	*ret_param = p;
	return 0;
}

static int plan_params(const struct run_request *request, struct run_plan *plan)
{
	for (uint32_t i = 0; i < plan->op.n_params; i++) {
		const struct gpuq_op_param *info = &plan->op.params[i];
		const char *text = value_of(&request->params, info->name);

		if (text != NULL && read_param(info, text, &plan->params[plan->n_params++]) < 0)
			return -EINVAL;
	}
	return 0;
}

/* --- The plan ------------------------------------------------------------------------------ */

static bool add_bytes(uint64_t *sum, uint64_t bytes)
{
	return !__builtin_add_overflow(bytes, 2 * ARENA_ALIGN, &bytes) &&
		!__builtin_add_overflow(*sum, bytes, sum);
}

static int plan_arena(struct run_plan *plan, uint64_t max_arena_bytes)
{
	uint64_t sum = ARENA_SPARE;
	bool fits = true;

	for (uint32_t i = 0; i < plan->op.n_inputs; i++)
		fits = fits && add_bytes(&sum, plan->inputs[i].bytes);
	for (uint32_t i = 0; i < plan->op.n_outputs; i++)
		fits = fits && add_bytes(&sum, plan->outputs[i].bytes);
	if (!fits || sum > max_arena_bytes) {
		complain("the tensors need %llu bytes, and gpuqd gives a channel at most %llu; "
			 "make them smaller or raise max_arena_bytes of gpuqd",
			(unsigned long long)sum, (unsigned long long)max_arena_bytes);
		return -EINVAL;
	}
	plan->arena_bytes = sum;
	return 0;
}

int run_plan_make(const struct run_request *request, const struct gpuq_op_info *op,
	uint64_t max_arena_bytes, struct run_plan *ret_plan)
{
	struct run_plan *plan = ret_plan;

	*plan = (struct run_plan){.op = *op};
	for (uint32_t i = 0; i < op->n_inputs; i++)
		plan->inputs[i] = (struct run_tensor){.info = &plan->op.inputs[i], .fd = -1};
	for (uint32_t i = 0; i < op->n_outputs; i++)
		plan->outputs[i] = (struct run_tensor){.info = &plan->op.outputs[i], .fd = -1};
	if (check_all_names(request, &plan->op) < 0 || plan_params(request, plan) < 0 ||
		plan_tensors(request, plan) < 0)
		return -EINVAL;
	return plan_arena(plan, max_arena_bytes);
}

void run_plan_finish(struct run_plan *plan)
{
	for (uint32_t i = 0; i < plan->op.n_inputs; i++) {
		if (plan->inputs[i].fd >= 0)
			close(plan->inputs[i].fd);
		plan->inputs[i].fd = -1;
	}
}
