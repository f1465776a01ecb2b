/* SPDX-License-Identifier: MIT */
/* gpuq run: an operator on arrays from .npy files. */
#include "tools/command.h"
#include "tools/dtype.h"
#include "tools/latency.h"
#include "tools/run_plan.h"
#include "tools/shape.h"

#include "shm/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VALUES_SHOWN 8

struct run_options {
	struct run_request request;
	uint64_t repeat, device;
	double timeout_s;
	bool json, capture;
};

/* What a run takes while it lasts. */
struct run {
	struct run_plan plan;
	struct gpuq_channel *channel;
	struct gpuq_call *call;
	struct latency round_trip, queued, executed;
};

/* --- Running ------------------------------------------------------------------------------- */

static int place_tensors(struct run *run)
{
	struct run_plan *p = &run->plan;
	char why[256];

	for (uint32_t i = 0; i < p->op.n_inputs; i++) {
		struct run_tensor *t = &p->inputs[i];

		if (t->path == NULL)
			continue;
		if (gpuq_alloc(run->channel, t->bytes, &t->tensor.data) < 0)
			return command_fail();
		if (npy_read(t->fd, &t->npy, t->tensor.dtype, t->tensor.data, why, sizeof(why)) <
			0) {
			complain("%s: %s", t->path, why);
			return EXIT_FAIL;
		}
	}
	for (uint32_t i = 0; i < p->op.n_outputs; i++) {
		struct run_tensor *t = &p->outputs[i];

		if (t->tensor.dtype == 0)
			continue; /* optional, and nobody asks for it */
		if (gpuq_alloc(run->channel, t->bytes, &t->tensor.data) < 0)
			return command_fail();
	}
	return EXIT_OK;
}

static int create_call(struct run *run)
{
	const struct run_plan *p = &run->plan;
	struct gpuq_tensor in[GPUQ_MAX_INPUTS], out[GPUQ_MAX_OUTPUTS];

	for (uint32_t i = 0; i < p->op.n_inputs; i++)
		in[i] = p->inputs[i].tensor; /* dtype 0 where it is absent */
	for (uint32_t i = 0; i < p->op.n_outputs; i++)
		out[i] = p->outputs[i].tensor;
	if (gpuq_call_create(run->channel, p->op.name, in, p->op.n_inputs, out, p->op.n_outputs,
		    p->params, p->n_params, &run->call) < 0)
		return command_fail();
	return EXIT_OK;
}

/* Waits for what was submitted: r is what submitting it has returned. */
static int await(struct run *run, int r, double timeout_s, struct gpuq_completion *c)
{
	char text[256];

	if (r >= 0)
		r = gpuq_wait(run->channel, c, 1, (uint64_t)(timeout_s * 1e9));
	if (r == -ETIMEDOUT) {
		complain("no result within %g s; raise --timeout, or see gpuq status", timeout_s);
		return EXIT_FAIL;
	}
	if (r < 0)
		return command_fail();
	if (c->status < 0) {
		complain("%s", gpuq_explain(run->call, c, text, sizeof(text)));
		return EXIT_FAIL;
	}
	return EXIT_OK;
}

static int run_once(struct run *run, double timeout_s, struct gpuq_completion *c)
{
	const struct gpuq_submission s = {.call = run->call};

	return await(run, gpuq_submit(run->channel, &s, 1), timeout_s, c);
}

/* Has the graph of this exact shape captured. */
static int capture(struct run *run, double timeout_s)
{
	struct gpuq_completion c;

	return await(run, gpuq_precapture(run->channel, run->call, 0), timeout_s, &c);
}

static int run_all(struct run *run, const struct run_options *o)
{
	struct gpuq_completion c;

	for (uint64_t i = 0; i < o->repeat; i++) {
		uint64_t start_ns = clock_monotonic_ns();
		int code = run_once(run, o->timeout_s, &c);

		if (code != EXIT_OK)
			return code;
		latency_add(&run->round_trip, clock_monotonic_ns() - start_ns);
		latency_add(&run->queued, c.queued_ns);
		latency_add(&run->executed, c.executed_ns);
	}
	return EXIT_OK;
}

static int save(const struct run_tensor *tensors, uint32_t n)
{
	char why[256];

	for (uint32_t i = 0; i < n; i++) {
		const struct run_tensor *t = &tensors[i];

		if (t->saved == NULL)
			continue;
		if (npy_write(t->saved, t->tensor.dtype, t->tensor.rank, t->tensor.dims,
			    t->tensor.data, why, sizeof(why)) < 0) {
			complain("%s: %s", t->saved, why);
			return EXIT_FAIL;
		}
	}
	return EXIT_OK;
}

/* Inputs too, as they are after an operator that writes them. */
static int save_all(const struct run_plan *p)
{
	const int code = save(p->inputs, p->op.n_inputs);

	return code == EXIT_OK ? save(p->outputs, p->op.n_outputs) : code;
}

/* --- Reporting ----------------------------------------------------------------------------- */

static double element(const struct gpuq_tensor *t, uint64_t i)
{
	switch (t->dtype) {
	case GPUQ_F32:
		return (double)((const float *)t->data)[i];
	case GPUQ_F16:
		return (double)f32_from_f16(((const uint16_t *)t->data)[i]);
	case GPUQ_BF16:
		return (double)f32_from_bf16(((const uint16_t *)t->data)[i]);
	case GPUQ_I8:
		return ((const int8_t *)t->data)[i];
	case GPUQ_U8:
		return ((const uint8_t *)t->data)[i];
	case GPUQ_I32:
		return ((const int32_t *)t->data)[i];
	default:
		return (double)((const int64_t *)t->data)[i];
	}
}

/* Its file, or what it begins with. */
static void print_tensor(const char *role, const struct run_tensor *t, const char *path)
{
	uint64_t n = t->bytes / dtype_bytes(t->tensor.dtype);
	char shape[192];

	printf("  %-3s %-8s %-4s %-14s ", role, t->info->name, dtype_text(t->tensor.dtype),
		shape_text(t->tensor.rank, t->tensor.dims, shape, sizeof(shape)));
	if (path != NULL) {
		printf("%s\n", path);
		return;
	}
	for (uint64_t i = 0; i < n && i < VALUES_SHOWN; i++)
		printf("%.6g ", element(&t->tensor, i));
	printf("%s\n", n > VALUES_SHOWN ? "..." : "");
}

static int print_text(const struct run *run, const struct run_options *o)
{
	const struct run_plan *p = &run->plan;
	char text[128];

	printf("%s on device %llu, %llu %s\n", p->op.name, (unsigned long long)o->device,
		(unsigned long long)o->repeat, o->repeat == 1 ? "time" : "times");
	for (uint32_t i = 0; i < p->op.n_inputs; i++) {
		if (p->inputs[i].path != NULL)
			print_tensor("in", &p->inputs[i], p->inputs[i].path);
	}
	for (uint32_t i = 0; i < p->op.n_inputs; i++) {
		if (p->inputs[i].saved != NULL)
			print_tensor("out", &p->inputs[i], p->inputs[i].saved);
	}
	for (uint32_t i = 0; i < p->op.n_outputs; i++) {
		if (p->outputs[i].tensor.dtype != 0)
			print_tensor("out", &p->outputs[i], p->outputs[i].saved);
	}
	printf("  round trip  %s\n", latency_text(&run->round_trip, text, sizeof(text)));
	printf("  queued      %s\n", latency_text(&run->queued, text, sizeof(text)));
	printf("  executed    %s\n", latency_text(&run->executed, text, sizeof(text)));
	return finish_output();
}

static json_t *tensor_json(const struct run_tensor *t, const char *path)
{
	json_t *shape = json_array();

	for (uint32_t i = 0; i < t->tensor.rank; i++)
		json_array_append_new(shape, json_integer((json_int_t)t->tensor.dims[i]));
	return json_pack("{s:s, s:s, s:o, s:s?}", "name", t->info->name, "dtype",
		dtype_text(t->tensor.dtype), "shape", shape, "file", path);
}

static json_t *run_json(const struct run *run, const struct run_options *o)
{
	const struct run_plan *p = &run->plan;
	json_t *inputs = json_array(), *outputs = json_array();

	for (uint32_t i = 0; i < p->op.n_inputs; i++) {
		if (p->inputs[i].path != NULL)
			json_array_append_new(
				inputs, tensor_json(&p->inputs[i], p->inputs[i].path));
		if (p->inputs[i].saved != NULL)
			json_array_append_new(
				outputs, tensor_json(&p->inputs[i], p->inputs[i].saved));
	}
	for (uint32_t i = 0; i < p->op.n_outputs; i++) {
		if (p->outputs[i].tensor.dtype != 0)
			json_array_append_new(
				outputs, tensor_json(&p->outputs[i], p->outputs[i].saved));
	}
	return json_pack("{s:s, s:s, s:I, s:I, s:o, s:o, s:o, s:o, s:o}", "schema", "gpuq-run/1",
		"op", p->op.name, "device", (json_int_t)o->device, "repeat", (json_int_t)o->repeat,
		"inputs", inputs, "outputs", outputs, "round_trip_ns",
		latency_json(&run->round_trip), "queued_ns", latency_json(&run->queued),
		"executed_ns", latency_json(&run->executed));
}

/* --- The command --------------------------------------------------------------------------- */

static int run_planned(struct run *run, const struct run_options *o, struct gpuq *gpuq)
{
	const struct gpuq_channel_options options = {
		.device = (uint32_t)o->device,
		.arena_bytes = run->plan.arena_bytes,
	};

	if (gpuq_channel_open(gpuq, &options, &run->channel) < 0)
		return command_fail();
	int code = place_tensors(run);
	if (code == EXIT_OK)
		code = create_call(run);
	if (code == EXIT_OK && o->capture)
		code = capture(run, o->timeout_s);
	if (code == EXIT_OK)
		code = run_all(run, o);
	if (code == EXIT_OK)
		code = save_all(&run->plan);
	if (code == EXIT_OK)
		code = o->json ? print_json(run_json(run, o), false) : print_text(run, o);
	gpuq_call_destroy(run->call);
	gpuq_channel_close(run->channel);
	return code;
}

static int run_connected(struct gpuq *gpuq, const struct run_options *o)
{
	struct run *run = calloc(1, sizeof(*run));
	struct gpuq_limits limits;
	struct gpuq_op_info op;
	int code = EXIT_FAIL;

	if (run == NULL) {
		complain("out of memory");
		return EXIT_FAIL;
	}
	gpuq_limits(gpuq, &limits);
	if (gpuq_op_find(gpuq, o->request.op, &op) < 0) {
		command_fail();
	} else {
		if (run_plan_make(&o->request, &op, limits.max_arena_bytes, &run->plan) == 0)
			code = run_planned(run, o, gpuq);
		run_plan_finish(&run->plan);
	}
	free(run);
	return code;
}

/* Takes one option; false after a complaint. */
static bool take_option(struct run_options *o, int c)
{
	switch (c) {
	case 'i':
		return assignments_add(&o->request.inputs, "--in", optarg) == 0;
	case 'o':
		return assignments_add(&o->request.outputs, "--out", optarg) == 0;
	case 'p':
		return assignments_add(&o->request.params, "--param", optarg) == 0;
	case 't':
		return assignments_add(&o->request.dtypes, "--dtype", optarg) == 0;
	case 'r':
		return parse_count("--repeat", optarg, 1, UINT32_MAX, &o->repeat);
	case 'T':
		return parse_seconds("--timeout", optarg, 0.001, 86400, &o->timeout_s);
	case 'd':
		return parse_count("--device", optarg, 0, UINT16_MAX, &o->device);
	case 'c':
		o->capture = true;
		return true;
	default:
		o->json = true;
		return true;
	}
}

static int run(struct invocation *v, int argc, char **argv)
{
	static const struct option longs[] = {
		{"in", required_argument, NULL, 'i'},
		{"out", required_argument, NULL, 'o'},
		{"param", required_argument, NULL, 'p'},
		{"dtype", required_argument, NULL, 't'},
		{"repeat", required_argument, NULL, 'r'},
		{"timeout", required_argument, NULL, 'T'},
		{"device", required_argument, NULL, 'd'},
		{"capture", no_argument, NULL, 'c'},
		{"json", no_argument, NULL, 'j'},
		COMMAND_LONGS,
		{NULL},
	};
	struct run_options o = {.repeat = 1, .timeout_s = 30};
	struct gpuq *gpuq;
	int c;

	while ((c = command_option(v, argc, argv, "i:o:p:t:r:T:d:cj" COMMAND_SHORTS, longs)) !=
		-1) {
		if (!take_option(&o, c))
			return EXIT_USAGE;
	}
	if (optind == argc)
		return complain_usage("which operator? 'gpuq ops' lists them");
	if (optind + 1 < argc)
		return complain_usage("unexpected argument '%s'", argv[optind + 1]);
	o.request.op = argv[optind];
	if (command_connect(v, false, &gpuq) < 0)
		return EXIT_FAIL;
	int code = run_connected(gpuq, &o);
	gpuq_disconnect(gpuq);
	return code;
}

const struct command command_run = {
	.name = "run",
	.arguments = "OP --in NAME=FILE.npy ... [--out NAME=FILE.npy] ... [OPTION]...",
	.summary = "Run an operator on arrays from NumPy files",
	.help = "  -i, --in NAME=FILE.npy    an input; all that are not optional have to be given\n"
		"  -o, --out NAME=FILE.npy   save an output; one that is not saved is shown;\n"
		"                            or an input that is written, as it is afterwards\n"
		"  -p, --param NAME=VALUE    a parameter\n"
		"  -t, --dtype NAME=TYPE     load an f32 input as f16 or bf16; give an output\n"
		"                            another element type than f32 (bf16 is saved as f32)\n"
		"  -r, --repeat N            run it N times and tell how long that took\n"
		"  -T, --timeout SEC         for each run (default: 30)\n"
		"  -d, --device D            number of the device (default: 0)\n"
		"  -c, --capture             first have the graph of this exact shape captured\n"
		"  -j, --json                tell it as one JSON document\n",
	.run = run,
};
