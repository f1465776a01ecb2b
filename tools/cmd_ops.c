/* SPDX-License-Identifier: MIT */
/* gpuq ops: the operators that gpuqd offers, their tensors and parameters. */
#include "tools/command.h"
#include "tools/dtype.h"

#include <math.h>
#include <stdio.h>

static void print_tensor(const char *role, const struct gpuq_op_tensor *t)
{
	char dtypes[128];

	printf("  %-5s %-16s %-20s %s%s%s\n", role, t->name, t->shape,
		dtype_mask_text(t->dtypes, dtypes, sizeof(dtypes)), t->optional ? "; optional" : "",
		t->in_out ? "; read and written" : "");
}

static void print_op(const struct gpuq_op_info *op)
{
	printf("%s: %s\n", op->name, op->summary);
	for (uint32_t i = 0; i < op->n_inputs; i++)
		print_tensor("in", &op->inputs[i]);
	for (uint32_t i = 0; i < op->n_outputs; i++)
		print_tensor("out", &op->outputs[i]);
	for (uint32_t i = 0; i < op->n_params; i++) {
		const struct gpuq_op_param *p = &op->params[i];

		const int digits = p->type == GPUQ_PARAM_I64 ? 17 : 6;

		printf("  param %-16s %-7s  from %.*g to %.*g, preset %.*g\n", p->name,
			p->type == GPUQ_PARAM_I64 ? "integer" : "number", digits, p->min, digits,
			p->max, digits, p->preset);
	}
}

static json_t *tensors_json(const struct gpuq_op_tensor *tensors, uint32_t n)
{
	json_t *array = json_array();

	for (uint32_t i = 0; i < n; i++) {
		json_t *dtypes = json_array();

		for (uint32_t d = 1; d <= GPUQ_DTYPE_LAST; d++) {
			if ((tensors[i].dtypes & GPUQ_DTYPE_BIT(d)) != 0)
				json_array_append_new(dtypes, json_string(dtype_text(d)));
		}
		json_array_append_new(array,
			json_pack("{s:s, s:s, s:o, s:b, s:b}", "name", tensors[i].name, "shape",
				tensors[i].shape, "dtypes", dtypes, "optional", tensors[i].optional,
				"in_out", tensors[i].in_out));
	}
	return array;
}

/* JSON has no infinity: no limit is null. */
static json_t *number_json(double value)
{
	return isfinite(value) ? json_real(value) : json_null();
}

static json_t *params_json(const struct gpuq_op_info *op)
{
	json_t *array = json_array();

	for (uint32_t i = 0; i < op->n_params; i++) {
		const struct gpuq_op_param *p = &op->params[i];

		json_array_append_new(array,
			json_pack("{s:s, s:s, s:o, s:o, s:o}", "name", p->name, "type",
				p->type == GPUQ_PARAM_I64 ? "i64" : "f64", "preset",
				number_json(p->preset), "min", number_json(p->min), "max",
				number_json(p->max)));
	}
	return array;
}

static json_t *op_json(const struct gpuq_op_info *op)
{
	return json_pack("{s:s, s:s, s:o, s:o, s:o}", "name", op->name, "summary", op->summary,
		"inputs", tensors_json(op->inputs, op->n_inputs), "outputs",
		tensors_json(op->outputs, op->n_outputs), "params", params_json(op));
}

/* All operators, or the one with this name. */
static int print_ops(struct gpuq *gpuq, const char *name, json_t *array)
{
	uint32_t n = name != NULL ? 1 : gpuq_op_count(gpuq);

	for (uint32_t i = 0; i < n; i++) {
		struct gpuq_op_info op;
		int r = name != NULL ? gpuq_op_find(gpuq, name, &op) : gpuq_op_info(gpuq, i, &op);

		if (r < 0)
			return command_fail();
		if (array != NULL)
			json_array_append_new(array, op_json(&op));
		else
			print_op(&op);
	}
	return EXIT_OK;
}

static int run(struct invocation *v, int argc, char **argv)
{
	static const struct option longs[] = {
		{"json", no_argument, NULL, 'j'}, COMMAND_LONGS, {NULL}};
	json_t *array = NULL;
	struct gpuq *gpuq;

	while (command_option(v, argc, argv, "j" COMMAND_SHORTS, longs) == 'j' && array == NULL)
		array = json_array();
	if (optind + 1 < argc)
		return complain_usage("unexpected argument '%s'", argv[optind + 1]);
	if (command_connect(v, false, &gpuq) < 0)
		return EXIT_FAIL;
	int code = print_ops(gpuq, argv[optind], array);
	gpuq_disconnect(gpuq);
	if (code == EXIT_OK && array != NULL)
		return print_json(
			json_pack("{s:s, s:o}", "schema", "gpuq-ops/1", "ops", array), false);
	json_decref(array);
	return code == EXIT_OK ? finish_output() : code;
}

const struct command command_ops = {
	.name = "ops",
	.arguments = "[--json] [OP]",
	.summary = "List the operators, their tensors and parameters",
	.help = "  -j, --json          as one JSON document\n",
	.run = run,
};
