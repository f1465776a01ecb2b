/* SPDX-License-Identifier: MIT */
/*
 * check_device: checks the operators as a device runs them against their references.
 *
 *   check_device [--device KIND] [--seed N] [--trials N] [--large] OPERATOR...
 *
 * Each trial is a random call, or with --large one of a list of shapes that the large forms serve.
 * It runs directly in the device's own memory, in pinned memory and in registered memory, now and
 * then also recorded in an executable that is launched for one place after another, and recorded
 * with all arguments fixed; and in the inline stream where it is small enough. Every output is
 * within the tolerance, the places agree to the last bit, and no byte beside the outputs changes.
 * Where an operator's rows are independent, one of them alone has the same bits; linear with a norm
 * or gates has those of rmsnorm, linear and swiglu, kv_attention those of kv_append and
 * paged_attention.
 *
 * KIND is that of GPUQ_TEST_DEVICE, else "cpu". The seed is printed and is also read from
 * GPUQ_TEST_SEED. With GPUQ_TEST_SHORT there are few trials: for slow tools. Exits with 1 at the
 * first failure, with 77 where there is no such device.
 */
#include "device/device.h"
#include "kernels/element.h"
#include "kernels/isa.h"
#include "kernels/kv_attention/kv_attention.h"
#include "kernels/launch.h"
#include "kernels/linear/linear.h"
#include "tests/kernels/check.h"
#include "tests/kernels/large.h"
#include "tests/kernels/llm_trial.h"
#include "tests/kernels/trial.h"
#include "tests/kernels/verify.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define DEFAULT_TRIALS 1000
#define SHORT_TRIALS 40
#define CAPTURE_EVERY 6 /* trials */
#define ARENA_BYTES (((size_t)GPUQ_MAX_INPUTS + 1) * TRIAL_MAX_ELEMENTS * 4)
#define GAP 256 /* bytes around each tensor */
#define PATTERN 0x5a
#define PATIENCE_NS 60000000000u

enum place { WORK, PINNED, REGISTERED, PLACES };
static const char *const place_names[] = {"device memory", "pinned memory", "registered memory"};

enum form { DIRECT, CAPTURED, FIXED, INLINE };
static const char *const form_names[] = {
	"launched directly", "captured", "captured as fixed", "in the inline stream"};

struct checker {
	struct device *device;
	struct device_stream *stream;
	struct device_completion *completion;
	uint64_t value;	      /* of the last launch */
	char *host[PLACES];   /* how this program sees each place; the work place's is staging */
	char *at[PLACES];     /* how the device does */
	char *image, *result; /* what a place holds before a launch and after it */
	char *expected;	      /* what the first place held then */
	struct trial trial;
	struct llm_trial llm;	       /* for the language-model operators */
	bool is_llm;		       /* which of both has the call */
	size_t used;		       /* bytes of the image */
	size_t at_in[GPUQ_MAX_INPUTS]; /* offsets of the tensors */
	size_t at_out[GPUQ_MAX_OUTPUTS];
};

static struct op_call *call_of(struct checker *c)
{
	return c->is_llm ? &c->llm.call : &c->trial.call;
}

static void fail(const char *what, int err)
{
	fprintf(stderr, "check_device: %s: %s\n", what, err < -4095 ? "device" : strerror(-err));
	exit(1);
}

static void must(int err, const char *what)
{
	if (err != 0)
		fail(what, err);
}

/* --- Places ------------------------------------------------------------------------------- */

static void open_places(struct checker *c)
{
	void *p;

	c->host[REGISTERED] =
		mmap(NULL, ARENA_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	c->image = malloc(ARENA_BYTES);
	c->result = malloc(ARENA_BYTES);
	c->expected = malloc(ARENA_BYTES);
	if (c->host[REGISTERED] == MAP_FAILED || c->image == NULL || c->result == NULL ||
		c->expected == NULL)
		fail("memory", -ENOMEM);
	must(device_register(c->device, c->host[REGISTERED], ARENA_BYTES, &p), "device_register");
	c->at[REGISTERED] = p;
	must(device_alloc(c->device, DEVICE_WORK, ARENA_BYTES, &p), "device_alloc");
	c->at[WORK] = p;
	must(device_alloc(c->device, DEVICE_PINNED, ARENA_BYTES, &p), "device_alloc");
	c->at[PINNED] = c->host[PINNED] = p;
	must(device_alloc(c->device, DEVICE_PINNED, ARENA_BYTES, &p), "device_alloc");
	c->host[WORK] = p;
	must(device_alloc(c->device, DEVICE_PINNED, sizeof(*c->completion), &p), "device_alloc");
	c->completion = p;
	memset(c->completion, 0, sizeof(*c->completion));
}

static void close_places(struct checker *c)
{
	device_free(c->device, DEVICE_PINNED, c->completion);
	device_free(c->device, DEVICE_PINNED, c->host[WORK]);
	device_free(c->device, DEVICE_PINNED, c->host[PINNED]);
	device_free(c->device, DEVICE_WORK, c->at[WORK]);
	device_unregister(c->device, c->host[REGISTERED]);
	munmap(c->host[REGISTERED], ARENA_BYTES);
	free(c->image);
	free(c->result);
	free(c->expected);
}

static size_t place_tensor(const struct tensor *t, size_t *used, struct random *rng)
{
	const size_t skew =
		random_below(rng, 2) ? 0 : random_below(rng, GAP / 4) * dtype_size(t->dtype);
	const size_t at = *used + GAP + skew;
	uint64_t elements, bytes;

	must(tensor_size(t, &elements, &bytes), "tensor_size");
	*used = (at + bytes + GAP + GAP - 1) / GAP * GAP;
	return at;
}

static size_t bytes_of(const struct tensor *t)
{
	uint64_t elements, bytes;

	must(tensor_size(t, &elements, &bytes), "tensor_size");
	return bytes;
}

/* Lays the trial's tensors out, half of them misaligned; outputs are poisoned. */
static void make_image(struct checker *c, struct random *rng)
{
	const struct op_call *call = call_of(c);

	c->used = 0;
	for (uint32_t i = 0; i < call->op->n_inputs; i++) {
		if (tensor_present(&call->in[i]))
			c->at_in[i] = place_tensor(&call->in[i], &c->used, rng);
	}
	for (uint32_t i = 0; i < call->op->n_outputs; i++) {
		if (tensor_present(&call->out[i]))
			c->at_out[i] = place_tensor(&call->out[i], &c->used, rng);
	}
	memset(c->image, PATTERN, c->used);
	for (uint32_t i = 0; i < call->op->n_inputs; i++) {
		if (tensor_present(&call->in[i]) && bytes_of(&call->in[i]) > 0)
			memcpy(c->image + c->at_in[i], call->in[i].data, bytes_of(&call->in[i]));
	}
	for (uint32_t i = 0; i < call->op->n_outputs; i++) {
		if (tensor_present(&call->out[i]))
			memset(c->image + c->at_out[i], 0xff, bytes_of(&call->out[i]));
	}
}

/* The call with the tensors of a place. */
static struct op_call call_in(struct checker *c, enum place place)
{
	struct op_call call = *call_of(c);

	for (uint32_t i = 0; i < call.op->n_inputs; i++) {
		if (tensor_present(&call.in[i]))
			call.in[i].data = c->at[place] + c->at_in[i];
	}
	for (uint32_t i = 0; i < call.op->n_outputs; i++) {
		if (tensor_present(&call.out[i]))
			call.out[i].data = c->at[place] + c->at_out[i];
	}
	return call;
}

/* --- Running ------------------------------------------------------------------------------ */

static void wait_for_word(struct checker *c)
{
	const uint64_t begin_ns = clock_monotonic_ns();

	while (!device_done(c->completion, c->value)) {
		if (clock_monotonic_ns() - begin_ns < PATIENCE_NS)
			continue;
		must(device_check(c->device), "device_check");
		fail("waiting for a completion word", -ETIMEDOUT);
	}
}

static struct device_kernel kernel_of(const struct op_launch *launch)
{
	return (struct device_kernel){.code = op_code(launch->call.op),
		.shape = launch,
		.shape_bytes = sizeof(*launch),
		.signal = true,
		.units = launch->call.op->units(&launch->call),
		.predicted_ns = 1000000};
}

static struct device_exec *record(struct checker *c, const struct op_launch *launch)
{
	const struct device_kernel kernel = kernel_of(launch);
	struct device_graph *graph;
	struct device_exec *exec;

	must(device_capture_begin(c->stream), "device_capture_begin");
	must(device_launch(c->stream, &kernel, NULL), "device_launch in a capture");
	must(device_capture_end(c->stream, &graph), "device_capture_end");
	must(device_exec_create(c->device, graph, &exec), "device_exec_create");
	device_graph_destroy(graph);
	must(device_exec_upload(exec, c->stream), "device_exec_upload");
	return exec;
}

/* False: it is not for the inline stream. */
static bool run_inline(
	struct checker *c, const struct device_kernel *kernel, const struct device_args *args)
{
	int err;

	must(device_stream_wait(c->stream), "device_stream_wait");
	do
		err = device_inline(c->device, kernel, args);
	while (err == -EAGAIN);
	if (err != -EOPNOTSUPP)
		must(err, "device_inline");
	return err == 0;
}

/* Brings what a place holds to c->result. */
static void fetch(struct checker *c, enum place place)
{
	if (place == WORK) {
		must(device_copy(c->stream, c->host[WORK], c->at[WORK], c->used), "device_copy");
		must(device_stream_wait(c->stream), "device_stream_wait");
	}
	memcpy(c->result, c->host[place], c->used);
}

/* Puts there what a place holds before a launch. */
static void prepare(struct checker *c, enum place place)
{
	memcpy(c->host[place], c->image, c->used);
	if (place == WORK)
		must(device_copy(c->stream, c->at[WORK], c->host[WORK], c->used), "device_copy");
}

/*
 * Runs a call that lies in a place, through exec or directly; c->result is what the place then
 * holds. False: it was not run.
 */
static bool run_call(struct checker *c, const struct op_call *call, enum form form,
	enum place place, struct device_exec *exec)
{
	struct op_launch launch;
	struct device_args args;

	op_launch_init(&launch, call);
	op_args(&args, call);
	args.completion = c->completion;
	args.value = ++c->value;
	prepare(c, place);
	const struct device_kernel kernel = kernel_of(&launch);
	if (exec != NULL)
		must(device_exec_launch(exec, c->stream, &args), "device_exec_launch");
	else if (form == DIRECT)
		must(device_launch(c->stream, &kernel, &args), "device_launch");
	else if (!run_inline(c, &kernel, &args))
		return false;
	wait_for_word(c);
	fetch(c, place);
	return true;
}

static bool run(struct checker *c, enum form form, enum place place, struct device_exec *exec)
{
	const struct op_call call = call_in(c, place);

	return run_call(c, &call, form, place, exec);
}

/* --- Checking ----------------------------------------------------------------------------- */

/* No byte before `at` and after what was looked at has changed. */
static bool intact_until(const struct checker *c, size_t *from, size_t at, size_t bytes)
{
	const bool same = memcmp(c->result + *from, c->image + *from, at - *from) == 0;

	*from = at + bytes;
	return same;
}

static bool beside_is_intact(struct checker *c)
{
	const struct op_call *call = call_of(c);
	size_t from = 0;
	bool ok = true;

	for (uint32_t i = 0; i < call->op->n_inputs; i++) {
		if (tensor_present(&call->in[i]) && call->op->inputs[i].in_out)
			ok = intact_until(c, &from, c->at_in[i], bytes_of(&call->in[i])) && ok;
	}
	for (uint32_t i = 0; i < call->op->n_outputs; i++) {
		if (tensor_present(&call->out[i]))
			ok = intact_until(c, &from, c->at_out[i], bytes_of(&call->out[i])) && ok;
	}
	return intact_until(c, &from, c->used, 0) && ok;
}

/* Brings the results from the place to the trial, where they are looked at. */
static void take_results(struct checker *c)
{
	const struct op_call *call = call_of(c);

	for (uint32_t i = 0; i < call->op->n_outputs; i++) {
		const struct tensor *out = &call->out[i];

		if (tensor_present(out) && bytes_of(out) > 0)
			memcpy(out->data, c->result + c->at_out[i], bytes_of(out));
	}
	for (uint32_t i = 0; i < call->op->n_inputs; i++) {
		const struct tensor *in = &call->in[i];

		if (tensor_present(in) && call->op->inputs[i].in_out && bytes_of(in) > 0)
			memcpy(in->data, c->result + c->at_in[i], bytes_of(in));
	}
}

/* Floats whose NaNs may differ in their bits; anything else by its bytes. */
static bool same_tensor(const struct tensor *t, const char *a, const char *b)
{
	uint64_t elements, bytes;

	must(tensor_size(t, &elements, &bytes), "tensor_size");
	if ((GPUQ_DTYPE_BIT(t->dtype) & FLOAT_DTYPES) == 0)
		return memcmp(a, b, bytes) == 0;
	return verify_same(t, a, b, elements);
}

/* The results in c->result are those in `expected`, to the last bit. */
static bool same_results(struct checker *c, const char *expected)
{
	const struct op_call *call = call_of(c);
	bool same = true;

	for (uint32_t i = 0; i < call->op->n_outputs; i++) {
		/* Some are working memory, which has no contents that matter. */
		if (!tensor_present(&call->out[i]) || (c->is_llm && c->llm.bytes[i] == 0))
			continue;
		same = same &&
			same_tensor(
				&call->out[i], expected + c->at_out[i], c->result + c->at_out[i]);
	}
	for (uint32_t i = 0; i < call->op->n_inputs; i++) {
		if (tensor_present(&call->in[i]) && call->op->inputs[i].in_out)
			same = same &&
				same_tensor(&call->in[i], expected + c->at_in[i],
					c->result + c->at_in[i]);
	}
	return same;
}

static void print_tensors(const struct op_tensor *specs, const struct tensor *tensors, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		const struct tensor *t = &tensors[i];

		if (!tensor_present(t))
			continue;
		fprintf(stderr, " %s %s [", specs[i].name, dtype_name(t->dtype));
		for (uint32_t d = 0; d < t->rank; d++)
			fprintf(stderr, "%s%" PRIu64, d > 0 ? "," : "", t->dims[d]);
		fprintf(stderr, "];");
	}
}

static bool failed(struct checker *c)
{
	const struct op_call *call = call_of(c);

	print_tensors(call->op->inputs, call->in, call->op->n_inputs);
	print_tensors(call->op->outputs, call->out, call->op->n_outputs);
	fprintf(stderr, "\n");
	return false;
}

/* `expected` has what the first place held, which the others must equal. */
static bool check_result(
	struct checker *c, enum form form, enum place place, enum place first, char *expected)
{
	const struct op_call *call = call_of(c);
	char what[200] = "writes beside the output";
	bool ok = beside_is_intact(c);

	if (ok && place == first) {
		take_results(c);
		memcpy(expected, c->result, c->used);
		ok = c->is_llm ? llm_verify(&c->llm, what, sizeof(what))
			       : verify(&c->trial, what, sizeof(what));
	} else if (ok && !same_results(c, expected)) {
		snprintf(what, sizeof(what), "differs from %s", place_names[first]);
		ok = false;
	}
	if (ok)
		return true;
	fprintf(stderr, "%s, %s, %s: %s\n ", call->op->name, form_names[form], place_names[place],
		what);
	return failed(c);
}

static bool check_form(struct checker *c, enum form form, enum place first, enum place last)
{
	const struct op_call call = call_in(c, first);
	struct device_exec *exec = NULL;
	struct op_launch launch;
	bool ok = true;

	op_launch_init(&launch, &call);
	if (form == FIXED) {
		memset(launch.in, OP_FIXED, sizeof(launch.in));
		memset(launch.out, OP_FIXED, sizeof(launch.out));
		memset(launch.params, OP_FIXED, sizeof(launch.params));
	}
	if (form == CAPTURED || form == FIXED)
		exec = record(c, &launch);
	for (enum place place = first; ok && place <= last; place++)
		ok = !run(c, form, place, exec) || check_result(c, form, place, first, c->expected);
	device_exec_destroy(exec);
	return ok;
}

/* Which tensors have a row for each row of the result, in operators whose rows are independent. */
static const struct {
	const struct op *op;
	uint32_t inputs, outputs; /* masks */
} independent[] = {
	{&op_linear, 1u << LINEAR_X | 1u << LINEAR_RESIDUAL, 1u << LINEAR_Y | 1u << LINEAR_NORMED},
	{&op_paged_attention, 1u << ATTENTION_Q | 1u << ATTENTION_POSITIONS | 1u << ATTENTION_ROWS,
		1u << ATTENTION_Y | 1u << ATTENTION_PARTS},
};

static void keep_row(struct tensor *tensors, uint32_t mask, uint64_t row)
{
	for (uint32_t i = 0; mask >> i != 0; i++) {
		struct tensor *t = &tensors[i];

		if ((mask >> i & 1) == 0 || !tensor_present(t))
			continue;
		t->data = (char *)t->data + bytes_of(t) / t->dims[0] * row;
		t->dims[0] = 1;
	}
}

/* c->expected: the row as c->result has it among the others, and poison for those. */
static void expect_row(struct checker *c, uint32_t mask, uint64_t row)
{
	const struct op_call *call = call_of(c);

	memcpy(c->expected, c->image, c->used);
	for (uint32_t i = 0; mask >> i != 0; i++) {
		const struct tensor *t = &call->out[i];

		if ((mask >> i & 1) == 0 || !tensor_present(t))
			continue;
		const size_t bytes = bytes_of(t) / t->dims[0];
		const size_t at = c->at_out[i] + bytes * row;
		memcpy(c->expected + at, c->result + at, bytes);
	}
}

/* One row alone has the bits that it has among the others, and leaves their places as they are. */
static bool row_is_independent(struct checker *c, uint32_t i, struct random *rng)
{
	struct op_call call = call_in(c, WORK);
	const uint64_t row = random_below(rng, call.out[0].dims[0]);

	run(c, DIRECT, WORK, NULL);
	expect_row(c, independent[i].outputs, row);
	keep_row(call.in, independent[i].inputs, row);
	keep_row(call.out, independent[i].outputs, row);
	run_call(c, &call, DIRECT, WORK, NULL);
	if (same_results(c, c->expected) && beside_is_intact(c))
		return true;
	fprintf(stderr, "%s: row %" PRIu64 " is another one alone\n ", call.op->name, row);
	return failed(c);
}

static bool check_rows(struct checker *c, struct random *rng)
{
	const struct op_call *call = call_of(c);

	for (uint32_t i = 0; i < sizeof(independent) / sizeof(independent[0]); i++) {
		if (independent[i].op != call->op || call->op->units(call) == 0)
			continue;
		if (call->op == &op_linear && call->params[0].i64 == 0)
			continue;
		return row_is_independent(c, i, rng);
	}
	return true;
}

/* --- Operators and their parts ------------------------------------------------------------ */

/* In the work place, as it is. */
static void run_part(struct checker *c, struct op_call *call)
{
	struct op_launch launch;
	struct device_args args;
	uint32_t arg;

	must(op_check(call, &arg), "op_check of a part");
	op_launch_init(&launch, call);
	op_args(&args, call);
	args.completion = c->completion;
	args.value = ++c->value;
	const struct device_kernel kernel = kernel_of(&launch);
	must(device_launch(c->stream, &kernel, &args), "device_launch");
	wait_for_word(c);
}

/* [2,..] as one dimension. */
static void join_first(struct tensor *t)
{
	if (!tensor_present(t))
		return;
	t->rank--;
	t->dims[0] *= t->dims[1];
	t->dims[1] = t->dims[2];
}

/* The call's norm, as an operator of its own before it. */
static void run_norm(struct checker *c, struct op_call *call)
{
	struct op_call norm = {.op = &op_rmsnorm,
		.in = {call->in[LINEAR_X], call->in[LINEAR_NORM]},
		.out = {call->out[LINEAR_NORMED]},
		.params = {call->params[LINEAR_EPS]}};

	norm.in[0].rank = 2;
	norm.in[0].dims[1] = linear_inner(call);
	run_part(c, &norm);
	call->in[LINEAR_X] = norm.out[0];
	call->in[LINEAR_NORM] = call->out[LINEAR_NORMED] = (struct tensor){0};
}

static void run_linear_parts(struct checker *c, struct op_call *call)
{
	const bool gated = linear_gated(call);
	struct op_call swiglu = {.op = &op_swiglu, .out = {call->out[LINEAR_Y]}};

	if (tensor_present(&call->in[LINEAR_NORM]))
		run_norm(c, call);
	if (gated) {
		join_first(&call->in[LINEAR_W]);
		join_first(&call->in[LINEAR_SCALES]);
		join_first(&call->in[LINEAR_BIAS]);
		call->out[LINEAR_Y].dims[1] *= 2;
		call->out[LINEAR_Y].data = c->at[WORK] + c->used;
		swiglu.in[0] = call->out[LINEAR_Y];
	}
	run_part(c, call);
	if (gated)
		run_part(c, &swiglu);
}

static void run_parts(struct checker *c, struct op_call *call)
{
	struct op_call append, attend;

	if (call->op == &op_linear) {
		run_linear_parts(c, call);
		return;
	}
	append = kv_attention_append(call);
	attend = kv_attention_attend(call);
	run_part(c, &append);
	run_part(c, &attend);
}

/* Where swiglu gives what the call gives, from floats, for which there is room. */
static bool has_parts(const struct checker *c, const struct op_call *call)
{
	if (call->op == &op_kv_attention)
		return true;
	if (call->op != &op_linear)
		return false;
	if (!linear_gated(call))
		return tensor_present(&call->in[LINEAR_NORM]);
	return !tensor_present(&call->in[LINEAR_RESIDUAL]) &&
		call->out[LINEAR_Y].dtype == GPUQ_F32 &&
		c->used + 2 * bytes_of(&call->out[LINEAR_Y]) <= ARENA_BYTES;
}

static bool check_parts(struct checker *c)
{
	struct op_call call = call_in(c, WORK);

	if (!has_parts(c, &call))
		return true;
	run(c, DIRECT, WORK, NULL);
	memcpy(c->expected, c->result, c->used);
	prepare(c, WORK);
	run_parts(c, &call);
	fetch(c, WORK);
	if (same_results(c, c->expected))
		return true;
	fprintf(stderr, "%s: its parts have other bits\n ", call.op->name);
	return failed(c);
}

static bool check_call(struct checker *c, struct random *rng, bool capture)
{
	const enum place place = (enum place)random_below(rng, PLACES);

	if (!c->is_llm)
		trial_reference(&c->trial);
	make_image(c, rng);
	if (!check_form(c, DIRECT, WORK, REGISTERED) || !check_form(c, INLINE, WORK, REGISTERED) ||
		!check_rows(c, rng) || !check_parts(c))
		return false;
	return !capture ||
		(check_form(c, CAPTURED, WORK, REGISTERED) && check_form(c, FIXED, place, place));
}

/*
 * Rows that share a place of the cache leave there the columns of any of them, which is for
 * check_llm: here none does.
 */
static void part_places(struct op_call *call)
{
	const int32_t *positions = call->in[APPEND_POSITIONS].data;
	int32_t *rows = call->in[APPEND_ROWS].data;

	for (uint64_t n = 0; n < call->in[APPEND_ROWS].dims[0]; n++) {
		for (uint64_t i = 0; i < n; i++) {
			if (append_slot(call, positions[n], rows[n]) ==
				append_slot(call, positions[i], rows[i]))
				rows[n] = -1;
		}
	}
}

/* What is written is seen at one place: no block is named twice. */
static void part_blocks(struct op_call *call)
{
	const struct tensor *table = &call->in[APPEND_TABLE];
	int32_t *blocks = table->data;

	for (uint64_t n = 0; n < table->dims[0] * table->dims[1]; n++) {
		for (uint64_t i = 0; i < n; i++) {
			if (blocks[n] == blocks[i])
				blocks[n] = -1;
		}
	}
}

/* Rows are of different sequences where there are enough of these. */
static void part_rows(struct op_call *call)
{
	const uint64_t rows = call->in[APPEND_ROWS].dims[0];
	int32_t *row = call->in[APPEND_ROWS].data;

	for (uint64_t n = 0; n < rows && rows <= call->in[APPEND_TABLE].dims[0]; n++) {
		for (uint64_t i = 0; i < n; i++) {
			if (row[n] == row[i])
				row[n] = -1;
		}
	}
}

static void part_llm(struct op_call *call)
{
	if (call->op == &op_kv_attention) {
		part_blocks(call);
		part_rows(call);
	}
	if (call->op == &op_kv_attention || call->op == &op_kv_append)
		part_places(call);
}

static void fill_llm(struct checker *c, const struct op *op, struct random *rng)
{
	llm_trial_fill(&c->llm, op, rng);
	part_llm(&c->llm.call);
}

static bool check_random(struct checker *c, const struct op *op, uint64_t seed, uint64_t trials)
{
	for (uint64_t i = 0; i < trials; i++) {
		struct random rng = {seed + i * 0x2545f4914f6cdd1du};

		if (c->is_llm)
			fill_llm(c, op, &rng);
		else
			trial_fill(&c->trial, op, &rng);
		if (check_call(c, &rng, i % CAPTURE_EVERY == 0))
			continue;
		fprintf(stderr, "  seed %" PRIu64 ", trial %" PRIu64 "\n", seed, i);
		return false;
	}
	return true;
}

static void fill_large(struct checker *c, const struct op *op, uint32_t which, struct random *rng)
{
	large_call(call_of(c), op, which, rng);
	if (!c->is_llm)
		trial_fill_shape(&c->trial, rng);
	else
		llm_trial_fill_shape(&c->llm, rng);
	part_llm(&c->llm.call);
}

static bool check_large(struct checker *c, const struct op *op, uint64_t seed, uint64_t trials)
{
	const uint32_t shapes = large_count(op);

	if (shapes == 0)
		fprintf(stderr, "check_device: there is no large shape of %s\n", op->name);
	for (uint64_t i = 0; i < trials * shapes; i++) {
		struct random rng = {seed + i * 0x2545f4914f6cdd1du};

		fill_large(c, op, (uint32_t)(i % shapes), &rng);
		if (check_call(c, &rng, true))
			continue;
		fprintf(stderr, "  --large, seed %" PRIu64 ", trial %" PRIu64 "\n", seed, i);
		return false;
	}
	return shapes > 0;
}

/* --- The program -------------------------------------------------------------------------- */

static void open_device(struct checker *c, const char *kind)
{
	struct device_options options = {
		.kind = kind, .resident = true, .wake_fd = eventfd(0, EFD_CLOEXEC)};
	struct device_info info;
	char why[192] = "";
	int err;

	clock_calibrate(&options.clock);
	err = device_open(&options, &c->device, why);
	if (err == -GPUQ_ENODEV) {
		fprintf(stderr, "check_device: no device %s: %s\n", kind, why);
		exit(77);
	}
	must(err, "device_open");
	device_info(c->device, &info);
	/* What the tolerance allows some CPUs' forms is not for other devices. */
	if (strcmp(info.kind, "cpu") != 0)
		isa_select(ISA_BASE);
	printf("%s: %s\n", info.kind, info.name);
	must(device_stream_create(c->device, DEVICE_PRIORITY_NORMAL, &c->stream), "stream");
}

static int usage(FILE *to)
{
	fprintf(to,
		"usage: check_device [--device KIND] [--seed N] [--trials N] [--large] "
		"OPERATOR...\n");
	return to == stdout ? 0 : 2;
}

/* Of the first operators, whose trials are simpler. */
static bool is_plain(const struct op *op)
{
	return op == &op_gemv_batched || op == &op_softmax || op == &op_price_vectors;
}

struct run {
	struct checker *checker;
	uint64_t trials;
	bool large;
};

static bool check_op(void *state, const struct op *op)
{
	const struct run *r = state;

	r->checker->is_llm = !is_plain(op);
	printf("%s: %" PRIu64 "%s, --seed %" PRIu64 "\n", op->name, r->trials,
		r->large ? " times each large shape" : " random calls", check_running.seed);
	fflush(stdout);
	return r->large ? check_large(r->checker, op, check_running.seed, r->trials)
			: check_random(r->checker, op, check_running.seed, r->trials);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {{"device", required_argument, NULL, 'd'},
		{"seed", required_argument, NULL, 's'}, {"trials", required_argument, NULL, 'n'},
		{"large", no_argument, NULL, 'l'}, {"help", no_argument, NULL, 'h'}, {0}};
	const char *kind = getenv("GPUQ_TEST_DEVICE");
	struct checker c = {0};
	struct run r = {.checker = &c, .trials = DEFAULT_TRIALS};
	int option, status;

	check_running.seed = check_fresh_seed();
	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (option == 'd')
			kind = optarg;
		else if (option == 's')
			check_running.seed = strtoull(optarg, NULL, 0);
		else if (option == 'n')
			r.trials = strtoull(optarg, NULL, 0);
		else if (option == 'l')
			r.large = true;
		else
			return usage(option == 'h' ? stdout : stderr);
	}
	if (optind == argc)
		return usage(stderr);
	if (getenv("GPUQ_TEST_SHORT") != NULL)
		r.trials = r.large ? 1 : r.trials < SHORT_TRIALS ? r.trials : SHORT_TRIALS;
	open_device(&c, kind != NULL ? kind : "cpu");
	open_places(&c);
	trial_create(&c.trial);
	llm_trial_create(&c.llm);
	status = check_operators(argv + optind, check_op, &r);
	trial_destroy(&c.trial);
	llm_trial_destroy(&c.llm);
	device_stream_destroy(c.stream);
	close_places(&c);
	device_close(c.device);
	return status;
}
