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
 * within the tolerance, the places agree to the last bit, and no byte beside the output changes.
 *
 * KIND is that of GPUQ_TEST_DEVICE, else "cpu". The seed is printed and is also read from
 * GPUQ_TEST_SEED. With GPUQ_TEST_SHORT there are few trials: for slow tools. Exits with 1 at the
 * first failure, with 77 where there is no such device.
 */
#include "device/device.h"
#include "kernels/launch.h"
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
	struct trial trial;
	size_t used;		       /* bytes of the image */
	size_t in_at[GPUQ_MAX_INPUTS]; /* offsets of the tensors */
	size_t out_at;
};

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
	if (c->host[REGISTERED] == MAP_FAILED || c->image == NULL || c->result == NULL)
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

/* Lays the trial's tensors out, half of them misaligned; the output is poisoned. */
static void make_image(struct checker *c, struct random *rng)
{
	const struct op_call *call = &c->trial.call;

	c->used = 0;
	for (uint32_t i = 0; i < call->op->n_inputs; i++) {
		if (tensor_present(&call->in[i]))
			c->in_at[i] = place_tensor(&call->in[i], &c->used, rng);
	}
	c->out_at = place_tensor(&call->out[0], &c->used, rng);
	memset(c->image, PATTERN, c->used);
	for (uint32_t i = 0; i < call->op->n_inputs; i++) {
		if (tensor_present(&call->in[i]))
			memcpy(c->image + c->in_at[i], c->trial.inputs[i].placed,
				c->trial.inputs[i].bytes);
	}
	memset(c->image + c->out_at, 0xff, c->trial.output_bytes);
}

/* The call with the tensors of a place. */
static struct op_call call_in(const struct checker *c, enum place place)
{
	struct op_call call = c->trial.call;

	for (uint32_t i = 0; i < call.op->n_inputs; i++) {
		if (tensor_present(&call.in[i]))
			call.in[i].data = c->at[place] + c->in_at[i];
	}
	call.out[0].data = c->at[place] + c->out_at;
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

/*
 * Runs the call in a place, through exec or directly; c->result is what the place then holds.
 * False: it was not run.
 */
static bool run(struct checker *c, enum form form, enum place place, struct device_exec *exec)
{
	struct op_call call = call_in(c, place);
	struct op_launch launch;
	struct device_args args;

	op_launch_init(&launch, &call);
	op_args(&args, &call);
	args.completion = c->completion;
	args.value = ++c->value;
	memcpy(c->host[place], c->image, c->used);
	if (place == WORK)
		must(device_copy(c->stream, c->at[WORK], c->host[WORK], c->used), "device_copy");
	const struct device_kernel kernel = kernel_of(&launch);
	if (exec != NULL)
		must(device_exec_launch(exec, c->stream, &args), "device_exec_launch");
	else if (form == DIRECT)
		must(device_launch(c->stream, &kernel, &args), "device_launch");
	else if (!run_inline(c, &kernel, &args))
		return false;
	wait_for_word(c);
	if (place == WORK) {
		must(device_copy(c->stream, c->host[WORK], c->at[WORK], c->used), "device_copy");
		must(device_stream_wait(c->stream), "device_stream_wait");
	}
	memcpy(c->result, c->host[place], c->used);
	return true;
}

/* --- Checking ----------------------------------------------------------------------------- */

static bool beside_is_intact(const struct checker *c)
{
	const size_t end = c->out_at + c->trial.output_bytes;

	return memcmp(c->result, c->image, c->out_at) == 0 &&
		memcmp(c->result + end, c->image + end, c->used - end) == 0;
}

static void print_shapes(const struct op_call *call)
{
	for (uint32_t i = 0; i < call->op->n_inputs; i++) {
		const struct tensor *t = &call->in[i];

		if (!tensor_present(t))
			continue;
		fprintf(stderr, " %s %s [", call->op->inputs[i].name, dtype_name(t->dtype));
		for (uint32_t d = 0; d < t->rank; d++)
			fprintf(stderr, "%s%" PRIu64, d > 0 ? "," : "", t->dims[d]);
		fprintf(stderr, "];");
	}
	fprintf(stderr, " %s %s\n", call->op->outputs[0].name, dtype_name(call->out[0].dtype));
}

/* `first` is the output of the first place, which the others must equal. */
static bool check_result(
	struct checker *c, enum form form, enum place place, enum place first, char *expected)
{
	struct trial *t = &c->trial;
	char what[200] = "writes beside the output";
	bool ok = beside_is_intact(c);

	memcpy(t->call.out[0].data, c->result + c->out_at, t->output_bytes);
	if (ok)
		ok = verify(t, what, sizeof(what));
	if (ok && place == first)
		memcpy(expected, t->call.out[0].data, t->output_bytes);
	if (ok && !verify_same(&t->call.out[0], expected, t->call.out[0].data, t->n_outputs)) {
		snprintf(what, sizeof(what), "differs from %s", place_names[first]);
		ok = false;
	}
	if (ok)
		return true;
	fprintf(stderr, "%s, %s, %s: %s\n ", t->call.op->name, form_names[form], place_names[place],
		what);
	print_shapes(&t->call);
	return false;
}

static bool check_form(struct checker *c, enum form form, enum place first, enum place last)
{
	const struct op_call call = call_in(c, first);
	char *expected = malloc(c->trial.output_bytes + 1);
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
	for (enum place place = first; ok && place <= last; place++) {
		ok = !run(c, form, place, exec) || check_result(c, form, place, first, expected);
	}
	device_exec_destroy(exec);
	free(expected);
	return ok;
}

static bool check_call(struct checker *c, struct random *rng, bool capture)
{
	const enum place place = (enum place)random_below(rng, PLACES);

	trial_reference(&c->trial);
	make_image(c, rng);
	if (!check_form(c, DIRECT, WORK, REGISTERED) || !check_form(c, INLINE, WORK, REGISTERED))
		return false;
	return !capture ||
		(check_form(c, CAPTURED, WORK, REGISTERED) && check_form(c, FIXED, place, place));
}

static bool check_random(struct checker *c, const struct op *op, uint64_t seed, uint64_t trials)
{
	for (uint64_t i = 0; i < trials; i++) {
		struct random rng = {seed + i * 0x2545f4914f6cdd1du};

		trial_fill(&c->trial, op, &rng);
		if (check_call(c, &rng, i % CAPTURE_EVERY == 0))
			continue;
		fprintf(stderr, "  seed %" PRIu64 ", trial %" PRIu64 "\n", seed, i);
		return false;
	}
	return true;
}

struct shape {
	const struct op *op;
	uint32_t ranks[3];
	uint64_t dims[3][3];
};

static const struct shape large_shapes[] = {
	/* Large tiles and cuBLAS, aligned and not. */
	{&op_gemv_batched, {2, 2, 1}, {{1030, 72}, {1000, 72}, {1000}}},
	{&op_gemv_batched, {2, 2}, {{1030, 71}, {1000, 71}}},
	{&op_gemv_batched, {2, 2}, {{400, 136}, {404, 136}}},
	{&op_gemv_batched, {2, 2, 1}, {{128, 1304}, {512, 1304}, {512}}},
	{&op_gemv_batched, {2, 2}, {{64, 4096}, {256, 4096}}},
	{&op_gemv_batched, {2, 2, 1}, {{300, 512}, {512, 512}, {512}}},
	/* Long rows: many, few, shared among blocks. */
	{&op_gemv_batched, {2, 2, 1}, {{1, 1300}, {2500, 1300}, {2500}}},
	{&op_gemv_batched, {2, 2, 1}, {{1, 200000}, {17, 200000}, {17}}},
	{&op_gemv_batched, {2, 2, 1}, {{1, 199999}, {17, 199999}, {17}}},
	{&op_gemv_batched, {2, 2}, {{5, 50000}, {19, 50000}}},
	{&op_gemv_batched, {2, 3, 1}, {{6, 8000}, {6, 50, 8000}, {50}}},
	{&op_price_vectors, {3, 1}, {{5, 600, 1200}, {1200}}},
	{&op_price_vectors, {3, 2}, {{2, 70, 20000}, {70, 20000}}},
	{&op_price_vectors, {3, 1}, {{1, 1, 1 << 22}, {1 << 22}}},
	{&op_price_vectors, {3, 2}, {{300, 64, 64}, {64, 64}}},
	/* Rows of a block, and rows that are read more than once. */
	{&op_softmax, {2}, {{900, 1000}}},
	{&op_softmax, {2}, {{100, 16384}}},
	{&op_softmax, {2}, {{30, 16385}}},
	{&op_softmax, {1}, {{1 << 22}}},
	{&op_softmax, {2}, {{100000, 7}}},
};

static void fill_large(struct checker *c, const struct shape *shape, struct random *rng)
{
	static const uint32_t dtypes[] = {GPUQ_F32, GPUQ_F16, GPUQ_BF16};
	const uint32_t dtype = dtypes[random_below(rng, 3)];
	struct op_call *call = &c->trial.call;

	*call = (struct op_call){.op = shape->op, .params = {{.f64 = 1}}};
	for (uint32_t i = 0; i < 3 && shape->ranks[i] > 0; i++) {
		call->in[i].dtype = dtype;
		call->in[i].rank = shape->ranks[i];
		memcpy(call->in[i].dims, shape->dims[i], sizeof(shape->dims[i]));
	}
	call->out[0].dtype = random_below(rng, 2) ? GPUQ_F32 : dtype;
	call->out[0].rank = UINT32_MAX;
	trial_fill_shape(&c->trial, rng);
}

static bool check_large(struct checker *c, const struct op *op, uint64_t seed, uint64_t trials)
{
	const uint64_t shapes = sizeof(large_shapes) / sizeof(large_shapes[0]);

	for (uint64_t i = 0; i < trials * shapes; i++) {
		const struct shape *shape = &large_shapes[i % shapes];
		struct random rng = {seed + i * 0x2545f4914f6cdd1du};

		if (shape->op != op)
			continue;
		fill_large(c, shape, &rng);
		if (check_call(c, &rng, true))
			continue;
		fprintf(stderr, "  --large, seed %" PRIu64 ", trial %" PRIu64 "\n", seed, i);
		return false;
	}
	return true;
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
	printf("%s: %s\n", info.kind, info.name);
	must(device_stream_create(c->device, DEVICE_PRIORITY_NORMAL, &c->stream), "stream");
}

static uint64_t fresh_seed(void)
{
	const char *given = getenv("GPUQ_TEST_SEED");

	return given != NULL ? strtoull(given, NULL, 0) : clock_monotonic_ns() & 0xffffffff;
}

static int usage(FILE *to)
{
	fprintf(to,
		"usage: check_device [--device KIND] [--seed N] [--trials N] [--large] "
		"OPERATOR...\n");
	return to == stdout ? 0 : 2;
}

static bool check_all(struct checker *c, char **names, uint64_t seed, uint64_t trials, bool large)
{
	bool ok = true;

	for (; ok && *names != NULL; names++) {
		const struct op *op = op_find(*names, NULL);

		if (op == NULL) {
			fprintf(stderr, "check_device: no operator %s\n", *names);
			return false;
		}
		printf("%s: %" PRIu64 "%s, --seed %" PRIu64 "\n", op->name, trials,
			large ? " times each large shape" : " random calls", seed);
		fflush(stdout);
		ok = large ? check_large(c, op, seed, trials) : check_random(c, op, seed, trials);
	}
	return ok;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {{"device", required_argument, NULL, 'd'},
		{"seed", required_argument, NULL, 's'}, {"trials", required_argument, NULL, 'n'},
		{"large", no_argument, NULL, 'l'}, {"help", no_argument, NULL, 'h'}, {0}};
	const char *kind = getenv("GPUQ_TEST_DEVICE");
	uint64_t seed = fresh_seed(), trials = DEFAULT_TRIALS;
	struct checker c = {0};
	bool large = false, ok;
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (option == 'd')
			kind = optarg;
		else if (option == 's')
			seed = strtoull(optarg, NULL, 0);
		else if (option == 'n')
			trials = strtoull(optarg, NULL, 0);
		else if (option == 'l')
			large = true;
		else
			return usage(option == 'h' ? stdout : stderr);
	}
	if (optind == argc)
		return usage(stderr);
	if (getenv("GPUQ_TEST_SHORT") != NULL)
		trials = large ? 1 : trials < SHORT_TRIALS ? trials : SHORT_TRIALS;
	open_device(&c, kind != NULL ? kind : "cpu");
	open_places(&c);
	trial_create(&c.trial);
	ok = check_all(&c, argv + optind, seed, trials, large);
	trial_destroy(&c.trial);
	device_stream_destroy(c.stream);
	close_places(&c);
	device_close(c.device);
	return ok ? 0 : 1;
}
