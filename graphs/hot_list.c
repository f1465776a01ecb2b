/* SPDX-License-Identifier: MIT */
/*
 * The hot list: the shapes that are worth a capture, most used first, kept in a file across
 * restarts. JSON: {"version": 1, "sequences": [SEQUENCE], "shapes": [SHAPE]} with
 *
 *	SEQUENCE  {"op": "softmax"} or {"pipeline": "layers", "inputs": 1, "outputs": 1,
 *	          "tensors": [{"name", "dtype", "dims"}], "steps": [{"op", "in", "out", "params"}]}
 *	SHAPE     {"sequence": 0, "uses": 12, "high": false, "tensors": [{"dtype", "dims"} or null]}
 *
 * where -1 in a step's "in" is an absent input, and parameters are those given, by name. Nothing
 * in the file is believed: what makes no sense is left out.
 */
#include "graphs/impl.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VERSION 1

struct sequence {
	const struct op *op;
	struct pipeline *pipeline; /* NULL: an operator */
};

/* --- Tensors -------------------------------------------------------------------------------- */

static json_t *tensor_json(uint32_t dtype, uint32_t rank, const uint64_t *dims)
{
	json_t *list = json_array();

	for (uint32_t i = 0; i < rank; i++)
		json_array_append_new(list, json_integer((json_int_t)dims[i]));
	return json_pack("{s:s, s:o}", "dtype", dtype_name(dtype), "dims", list);
}

static bool read_tensor(json_t *json, uint32_t *ret_dtype, uint32_t *ret_rank, uint64_t *ret_dims)
{
	json_t *dims = json_object_get(json, "dims");
	const char *dtype = json_string_value(json_object_get(json, "dtype"));

	if (dtype == NULL || !json_is_array(dims) || json_array_size(dims) > GPUQ_MAX_RANK)
		return false;
	*ret_dtype = dtype_from_name(dtype);
	*ret_rank = (uint32_t)json_array_size(dims);
	for (uint32_t i = 0; i < *ret_rank; i++) {
		json_t *dim = json_array_get(dims, i);

		if (!json_is_integer(dim) || json_integer_value(dim) < 0)
			return false;
		ret_dims[i] = (uint64_t)json_integer_value(dim);
	}
	return *ret_dtype != 0;
}

/* --- Pipelines ------------------------------------------------------------------------------ */

static json_t *numbers_json(const uint16_t *numbers, uint32_t n)
{
	json_t *list = json_array();

	for (uint32_t i = 0; i < n; i++)
		json_array_append_new(
			list, json_integer(numbers[i] == WIRE_PIPELINE_NONE ? -1 : numbers[i]));
	return list;
}

static json_t *params_json(const struct op *op, const struct wire_pipeline_step *step)
{
	json_t *params = json_object();

	for (uint32_t i = 0; i < op->n_params; i++) {
		union op_value value;

		memcpy(&value, &step->params[i], sizeof(value));
		if ((step->params_given & 1u << i) == 0)
			continue;
		json_object_set_new(params, op->params[i].name,
			op->params[i].type == GPUQ_PARAM_I64 ? json_integer(value.i64)
							     : json_real(value.f64));
	}
	return params;
}

static json_t *pipeline_json(const struct pipeline *p)
{
	uint64_t bytes;
	const struct wire_pipeline *head = pipeline_blob(p, &bytes);
	const struct wire_pipeline_tensor *tensors =
		(const struct wire_pipeline_tensor *)(head + 1);
	const struct wire_pipeline_step *steps =
		(const struct wire_pipeline_step *)(tensors + head->n_tensors);
	json_t *tensor_list = json_array(), *step_list = json_array();

	for (uint32_t i = 0; i < head->n_tensors; i++) {
		const bool is_input = i < head->n_inputs;
		json_t *t = tensor_json(
			tensors[i].dtype, is_input ? tensors[i].rank : 0, tensors[i].dims);

		json_object_set_new(t, "name", json_string(tensors[i].name));
		json_array_append_new(tensor_list, t);
	}
	for (uint32_t i = 0; i < head->n_steps; i++) {
		const struct op *op = op_table[steps[i].op];

		json_array_append_new(step_list,
			json_pack("{s:s, s:o, s:o, s:o}", "op", op->name, "in",
				numbers_json(steps[i].in, op->n_inputs), "out",
				numbers_json(steps[i].out, op->n_outputs), "params",
				params_json(op, &steps[i])));
	}
	return json_pack("{s:s, s:i, s:i, s:o, s:o}", "pipeline", head->name, "inputs",
		(int)head->n_inputs, "outputs", (int)head->n_outputs, "tensors", tensor_list,
		"steps", step_list);
}

static bool read_name(json_t *json, char name[GPUQ_NAME_MAX])
{
	const char *text = json_string_value(json);

	if (text == NULL || strlen(text) >= GPUQ_NAME_MAX)
		return false;
	memcpy(name, text, strlen(text));
	return true;
}

static bool read_numbers(json_t *list, uint32_t n, uint16_t *ret_numbers)
{
	if (!json_is_array(list) || json_array_size(list) != n)
		return false;
	for (uint32_t i = 0; i < n; i++) {
		json_t *number = json_array_get(list, i);
		const json_int_t value = json_integer_value(number);

		if (!json_is_integer(number) || value < -1 || value >= PIPELINE_MAX_TENSORS)
			return false;
		ret_numbers[i] = value < 0 ? WIRE_PIPELINE_NONE : (uint16_t)value;
	}
	return true;
}

static bool read_step(json_t *json, struct wire_pipeline_step *step)
{
	const char *name = json_string_value(json_object_get(json, "op"));
	const struct op *op = name == NULL ? NULL : op_find(name, &step->op);

	if (op == NULL)
		return false;
	memset(step->in, 0xff, sizeof(step->in));
	memset(step->out, 0xff, sizeof(step->out));
	for (uint32_t i = 0; i < op->n_params; i++) {
		json_t *value =
			json_object_get(json_object_get(json, "params"), op->params[i].name);
		union op_value bits;

		if (!json_is_number(value))
			continue;
		if (op->params[i].type == GPUQ_PARAM_I64)
			bits.i64 = json_integer_value(value);
		else
			bits.f64 = json_number_value(value);
		memcpy(&step->params[i], &bits, sizeof(bits));
		step->params_given |= 1u << i;
	}
	return read_numbers(json_object_get(json, "in"), op->n_inputs, step->in) &&
		read_numbers(json_object_get(json, "out"), op->n_outputs, step->out);
}

static bool fill_blob(json_t *json, struct wire_pipeline *head)
{
	struct wire_pipeline_tensor *tensors = (struct wire_pipeline_tensor *)(head + 1);
	struct wire_pipeline_step *steps = (struct wire_pipeline_step *)(tensors + head->n_tensors);
	json_t *tensor_list = json_object_get(json, "tensors");
	json_t *step_list = json_object_get(json, "steps");
	bool ok = read_name(json_object_get(json, "pipeline"), head->name);

	for (uint32_t i = 0; ok && i < head->n_tensors; i++) {
		json_t *t = json_array_get(tensor_list, i);

		ok = read_name(json_object_get(t, "name"), tensors[i].name) &&
			read_tensor(t, &tensors[i].dtype, &tensors[i].rank, tensors[i].dims);
	}
	for (uint32_t i = 0; ok && i < head->n_steps; i++)
		ok = read_step(json_array_get(step_list, i), &steps[i]);
	return ok;
}

static struct pipeline *read_pipeline(struct graphs *g, json_t *json)
{
	const size_t n_tensors = json_array_size(json_object_get(json, "tensors"));
	const size_t n_steps = json_array_size(json_object_get(json, "steps"));
	const uint64_t bytes = sizeof(struct wire_pipeline) +
		n_tensors * sizeof(struct wire_pipeline_tensor) +
		n_steps * sizeof(struct wire_pipeline_step);
	struct pipeline *p = NULL, *interned = NULL;
	char why[PIPELINE_MAX_WHY];
	struct wire_pipeline *head;

	if (n_tensors > PIPELINE_MAX_TENSORS || n_steps > PIPELINE_MAX_STEPS)
		return NULL;
	head = calloc(1, bytes);
	if (head == NULL)
		return NULL;
	head->n_inputs = (uint32_t)json_integer_value(json_object_get(json, "inputs"));
	head->n_outputs = (uint32_t)json_integer_value(json_object_get(json, "outputs"));
	head->n_tensors = (uint32_t)n_tensors;
	head->n_steps = (uint32_t)n_steps;
	if (fill_blob(json, head) && pipeline_create(head, bytes, &p, why) == 0)
		interned = graphs_intern(g, p);
	if (interned == NULL)
		pipeline_unref(p);
	free(head);
	return interned;
}

/* --- Reading -------------------------------------------------------------------------------- */

static bool read_sequence(struct graphs *g, json_t *json, struct sequence *ret_sequence)
{
	const char *name = json_string_value(json_object_get(json, "op"));

	if (name != NULL) {
		ret_sequence->op = op_find(name, NULL);
		return ret_sequence->op != NULL;
	}
	ret_sequence->pipeline = read_pipeline(g, json);
	if (ret_sequence->pipeline != NULL)
		ret_sequence->op = pipeline_op(ret_sequence->pipeline);
	return ret_sequence->pipeline != NULL;
}

static void set_presets(struct op_call *call)
{
	for (uint32_t i = 0; i < call->op->n_params; i++) {
		if (call->op->params[i].type == GPUQ_PARAM_I64)
			call->params[i].i64 = (int64_t)call->op->params[i].preset;
		else
			call->params[i].f64 = call->op->params[i].preset;
	}
}

/* The shape as a call, checked as one that a client sent; those of pipelines when planned. */
static bool read_call(json_t *json, const struct sequence *sequence, struct op_call *call)
{
	json_t *tensors = json_object_get(json, "tensors");
	const uint32_t n_inputs = sequence->op->n_inputs, n_outputs = sequence->op->n_outputs;
	uint32_t arg;

	memset(call, 0, sizeof(*call));
	call->op = sequence->op;
	if (json_array_size(tensors) != n_inputs + n_outputs)
		return false;
	for (uint32_t i = 0; i < n_inputs + n_outputs; i++) {
		struct tensor *t = i < n_inputs ? &call->in[i] : &call->out[i - n_inputs];
		json_t *given = json_array_get(tensors, i);

		if (!json_is_null(given) && !read_tensor(given, &t->dtype, &t->rank, t->dims))
			return false;
	}
	set_presets(call);
	return sequence->pipeline != NULL || op_check(call, &arg) == 0;
}

static bool read_shape(struct graphs *g, json_t *json, const struct sequence *sequences,
	size_t n_sequences, uint32_t rank)
{
	const json_int_t number = json_integer_value(json_object_get(json, "sequence"));
	const json_int_t uses = json_integer_value(json_object_get(json, "uses"));
	const bool high = json_is_true(json_object_get(json, "high"));
	struct graph_entry *e;
	struct op_call call;
	uint64_t hash;

	if (number < 0 || (size_t)number >= n_sequences || sequences[number].op == NULL)
		return false;
	if (uses < 0 || !read_call(json, &sequences[number], &call))
		return false;
	hash = graphs_key(&call);
	if (table_find(g, &call, hash) != NULL)
		return false;
	e = table_add(g, &call, sequences[number].pipeline, hash, UID_NONE);
	if (e == NULL)
		return false;
	pthread_mutex_lock(&g->lock);
	e->aged = (uint64_t)uses;
	entry_want(g, e, lane_of_class(g, high ? 0 : 1, hash), URGENCY_HOT_LIST, rank);
	pthread_mutex_unlock(&g->lock);
	return true;
}

static uint32_t read_list(struct graphs *g, json_t *root)
{
	struct sequence sequences[GRAPHS_HOT_LIST] = {{0}};
	json_t *list = json_object_get(root, "sequences"), *item;
	uint32_t wrong = 0;
	size_t i, n_sequences = json_array_size(list);

	if (n_sequences > GRAPHS_HOT_LIST)
		n_sequences = GRAPHS_HOT_LIST;
	for (i = 0; i < n_sequences; i++)
		wrong += !read_sequence(g, json_array_get(list, i), &sequences[i]);
	list = json_object_get(root, "shapes");
	json_array_foreach(list, i, item)
	{
		if (i >= GRAPHS_HOT_LIST)
			break;
		wrong += !read_shape(g, item, sequences, n_sequences, (uint32_t)i);
	}
	for (i = 0; i < n_sequences; i++)
		if (sequences[i].pipeline != NULL)
			graphs_release(g, sequences[i].pipeline);
	return wrong;
}

void hot_list_load(struct graphs *g, char why[224])
{
	const char *path = g->options.hot_list;
	json_error_t error;
	uint32_t wrong = 0;
	FILE *file;
	json_t *root;

	why[0] = '\0';
	file = path == NULL ? NULL : fopen(path, "re");
	if (file == NULL) {
		if (path != NULL && errno != ENOENT)
			snprintf(why, 224, "The list of hot shapes cannot be read: %s.",
				strerrordesc_np(errno));
		return;
	}
	root = json_loadf(file, 0, &error);
	fclose(file);
	if (root == NULL)
		snprintf(why, 224, "The list of hot shapes is ignored: line %d: %s.", error.line,
			error.text);
	else if (json_integer_value(json_object_get(root, "version")) != VERSION)
		snprintf(why, 224, "The list of hot shapes is ignored: it is not of version %d.",
			VERSION);
	else
		wrong = read_list(g, root);
	if (wrong > 0)
		snprintf(why, 224, "The list of hot shapes has %u items that make no sense here.",
			wrong);
	json_decref(root);
}

/* --- Writing -------------------------------------------------------------------------------- */

struct saved {
	struct op_call call;
	struct pipeline *pipeline;
	uint64_t uses;
	bool high;
};

/* Copies of the shapes to save, so that the lock is not held for long. */
static uint32_t collect(struct graphs *g, struct saved *saved)
{
	uint32_t n_sorted, n = 0;

	pthread_mutex_lock(&g->lock);
	n_sorted = budget_sort(g);
	for (uint32_t i = 0; i < n_sorted && n < GRAPHS_HOT_LIST; i++) {
		const struct graph_entry *e = g->sorted[i];
		struct saved *s = &saved[n];

		if (e->pipeline != NULL && pipeline_has_constants(e->pipeline))
			continue;
		n++;
		s->call = e->call;
		s->pipeline = e->pipeline == NULL ? NULL : pipeline_ref(e->pipeline);
		s->uses = entry_heat(e);
		for (uint32_t lane = 0; lane < g->n_high; lane++)
			s->high = s->high || entry_exec(e, lane) != NULL ||
				(shm_load_relaxed(&e->wanted) & 1ull << lane) != 0;
	}
	g->hot_list_changed = false;
	pthread_mutex_unlock(&g->lock);
	return n;
}

/* Its number in the list; false: there is none, since it cannot be written as JSON. */
static bool sequence_of(const struct saved *s, const struct op **known, uint32_t *n_known,
	json_t *sequences, uint32_t *ret_number)
{
	const struct op *op = s->call.op;
	uint32_t i = 0;

	while (i < *n_known && known[i] != op)
		i++;
	if (i == *n_known) {
		if (json_array_append_new(sequences,
			    s->pipeline == NULL ? json_pack("{s:s}", "op", op->name)
						: pipeline_json(s->pipeline)) != 0)
			return false;
		known[(*n_known)++] = op;
	}
	*ret_number = i;
	return true;
}

static json_t *shape_json(const struct saved *s, uint32_t sequence)
{
	json_t *tensors = json_array();

	for (uint32_t i = 0; i < s->call.op->n_inputs + s->call.op->n_outputs; i++) {
		const struct tensor *t = i < s->call.op->n_inputs
			? &s->call.in[i]
			: &s->call.out[i - s->call.op->n_inputs];

		json_array_append_new(tensors,
			tensor_present(t) ? tensor_json(t->dtype, t->rank, t->dims) : json_null());
	}
	return json_pack("{s:i, s:I, s:b, s:o}", "sequence", (int)sequence, "uses",
		(json_int_t)s->uses, "high", (int)s->high, "tensors", tensors);
}

static json_t *list_json(const struct saved *saved, uint32_t n)
{
	const struct op *known[GRAPHS_HOT_LIST];
	json_t *sequences = json_array(), *shapes = json_array();
	uint32_t n_known = 0, sequence;

	for (uint32_t i = 0; i < n; i++) {
		if (sequence_of(&saved[i], known, &n_known, sequences, &sequence))
			json_array_append_new(shapes, shape_json(&saved[i], sequence));
	}
	return json_pack(
		"{s:i, s:o, s:o}", "version", VERSION, "sequences", sequences, "shapes", shapes);
}

/* A reader sees the old file or the new one. */
static int write_file(const char *path, const json_t *root)
{
	char *temporary;
	int err = 0;

	if (root == NULL || asprintf(&temporary, "%s.new", path) < 0)
		return -ENOMEM;
	errno = EIO;
	if (json_dump_file(root, temporary, JSON_INDENT(1) | JSON_REAL_PRECISION(17)) != 0 ||
		rename(temporary, path) != 0) {
		err = -errno;
		(void)remove(temporary);
	}
	free(temporary);
	return err;
}

int hot_list_save(struct graphs *g)
{
	struct saved *saved;
	uint32_t n;
	json_t *root;
	int err;

	if (g->options.hot_list == NULL)
		return 0;
	saved = calloc(GRAPHS_HOT_LIST, sizeof(*saved));
	if (saved == NULL)
		return -ENOMEM;
	n = collect(g, saved);
	root = list_json(saved, n);
	err = write_file(g->options.hot_list, root);
	json_decref(root);
	for (uint32_t i = 0; i < n; i++)
		pipeline_unref(saved[i].pipeline);
	free(saved);
	return err;
}
