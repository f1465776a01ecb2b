/* SPDX-License-Identifier: MIT */
/*
 * check_llm: checks the language-model operators on random calls: the reference and, on every
 * instruction set that this CPU has, the fast form against the formula, however the units are
 * cut, and that neither touches memory beside its tensors.
 *
 *   check_llm [--seed N] [--trials N] OPERATOR...
 *
 * The seed is printed and is also read from GPUQ_TEST_SEED. Exits with 1 at the first failure.
 */
#include "kernels/isa.h"
#include "tests/kernels/check.h"
#include "tests/kernels/llm_trial.h"
#include "tests/kernels/verify.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_TRIALS 3000
#define MAX_PIECES 5

static void print_tensors(const struct op_tensor *specs, const struct tensor *tensors, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		if (!tensor_present(&tensors[i]))
			continue;
		fprintf(stderr, " %s %s [", specs[i].name, dtype_name(tensors[i].dtype));
		for (uint32_t d = 0; d < tensors[i].rank; d++)
			fprintf(stderr, "%s%" PRIu64, d > 0 ? "," : "", tensors[i].dims[d]);
		fprintf(stderr, "];");
	}
}

static void poison(struct llm_trial *t, int byte)
{
	for (uint32_t i = 0; i < t->call.op->n_outputs; i++) {
		if (t->bytes[i] > 0)
			memset(t->call.out[i].data, byte, t->bytes[i]);
	}
	if (t->written != NULL && t->written_bytes > 0)
		memcpy(t->written->data, t->before, t->written_bytes);
}

static bool guards_intact(const struct llm_trial *t)
{
	for (uint32_t i = 0; i < t->call.op->n_inputs; i++) {
		if (tensor_present(&t->call.in[i]) && !guard_intact(&t->inputs[i]))
			return false;
	}
	for (uint32_t i = 0; i < t->call.op->n_outputs; i++) {
		if (tensor_present(&t->call.out[i]) && !guard_intact(&t->outputs[i]))
			return false;
	}
	return true;
}

/* --- Pieces --------------------------------------------------------------------------------- */

/* Copies of all outputs, one behind the other. */
static void save(const struct llm_trial *t, char *to)
{
	for (uint32_t i = 0; i < t->call.op->n_outputs; i++) {
		if (t->bytes[i] == 0)
			continue;
		memcpy(to, t->call.out[i].data, t->bytes[i]);
		to += t->bytes[i];
	}
}

static void run_units(struct llm_trial *t, uint64_t begin, uint64_t end, int byte, char *to)
{
	poison(t, byte);
	t->call.op->cpu(&t->call, begin, end);
	save(t, to);
}

static bool is_of_floats(uint32_t dtype)
{
	return dtype == GPUQ_F32 || dtype == GPUQ_F16 || dtype == GPUQ_BF16;
}

/* Outputs lie behind each other in a copy, where no element needs to be aligned. */
static bool are_same_floats(const struct tensor *out, const char *a, const char *b, size_t bytes)
{
	void *left = malloc(bytes), *right = malloc(bytes);
	uint64_t elements, size;

	tensor_size(out, &elements, &size);
	const bool same =
		verify_same(out, memcpy(left, a, bytes), memcpy(right, b, bytes), elements);
	free(left);
	free(right);
	return same;
}

/* Of two NaNs that meet, which one is left depends on the order in which the compiler has them. */
static bool are_same(const struct llm_trial *t, const char *a, const char *b)
{
	bool same = true;

	for (uint32_t i = 0; i < t->call.op->n_outputs; i++) {
		const struct tensor *out = &t->call.out[i];
		const size_t bytes = t->bytes[i];

		if (bytes > 0 && is_of_floats(out->dtype))
			same = same && are_same_floats(out, a, b, bytes);
		else
			same = same && memcmp(a, b, bytes) == 0;
		a += bytes;
		b += bytes;
	}
	return same;
}

/*
 * However the units are cut, every byte is written by one piece, and to the same value. A piece
 * runs over two patterns: bytes that come out equal are those that it wrote.
 */
static bool check_pieces(struct llm_trial *t, struct random *rng)
{
	const uint64_t units = t->call.op->units(&t->call);
	size_t total = 0, written = 0;
	char *whole, *zeros, *ones, *joined;
	bool ok;

	for (uint32_t i = 0; i < GPUQ_MAX_OUTPUTS; i++)
		total += t->bytes[i];
	whole = calloc(4, total + 1);
	zeros = whole + total;
	ones = zeros + total;
	joined = ones + total;
	save(t, whole);
	for (uint64_t begin = 0, piece = 0, end; begin < units; begin = end, piece++) {
		end = piece == MAX_PIECES ? units : begin + random_below(rng, units - begin + 1);
		run_units(t, begin, end, 0, zeros);
		run_units(t, begin, end, 0xff, ones);
		for (size_t i = 0; i < total; i++) {
			if (zeros[i] != ones[i])
				continue;
			joined[i] = zeros[i];
			written++;
		}
	}
	ok = written == total && are_same(t, whole, joined);
	free(whole);
	return ok;
}

/* The same for an input that is written too: what all pieces leave there. */
static bool check_written_pieces(struct llm_trial *t, struct random *rng)
{
	const uint64_t units = t->call.op->units(&t->call);
	char *whole;
	bool ok;

	if (t->written == NULL || t->written_bytes == 0)
		return true;
	whole = malloc(t->written_bytes);
	memcpy(whole, t->written->data, t->written_bytes);
	memcpy(t->written->data, t->before, t->written_bytes);
	for (uint64_t begin = 0, end; begin < units; begin = end) {
		end = begin + 1 + random_below(rng, units - begin);
		t->call.op->cpu(&t->call, begin, end);
	}
	ok = memcmp(whole, t->written->data, t->written_bytes) == 0;
	free(whole);
	return ok;
}

/* --- Trials --------------------------------------------------------------------------------- */

static bool check_form(struct llm_trial *t, struct random *rng, char *what, size_t size)
{
	poison(t, 0xff);
	t->call.op->cpu(&t->call, 0, t->call.op->units(&t->call));
	if (!llm_verify(t, what, size))
		return false;
	if (random_below(rng, 3) == 0 && !(check_written_pieces(t, rng) && check_pieces(t, rng))) {
		snprintf(what, size, "the result depends on how the units are cut");
		return false;
	}
	if (guards_intact(t))
		return true;
	snprintf(what, size, "wrote beside its outputs");
	return false;
}

static bool check_reference(struct llm_trial *t, char *what, size_t size)
{
	poison(t, 0xff);
	t->call.op->reference(&t->call);
	return llm_verify(t, what, size);
}

static bool failed(const struct llm_trial *t, const char *form, const char *what)
{
	const struct op *op = t->call.op;

	fprintf(stderr, "%s: seed %" PRIu64 ", trial %" PRIu64 ", %s: %s\n ", op->name,
		check_running.seed, check_running.trial, form, what);
	print_tensors(op->inputs, t->call.in, op->n_inputs);
	print_tensors(op->outputs, t->call.out, op->n_outputs);
	fprintf(stderr, "\n");
	return false;
}

static bool check_trial(struct llm_trial *t, const struct op *op)
{
	struct random rng = {check_running.seed + check_running.trial * 0x2545f4914f6cdd1du};
	char what[200];

	llm_trial_fill(t, op, &rng);
	if (!check_reference(t, what, sizeof(what)))
		return failed(t, "reference", what);
	for (enum isa isa = ISA_BASE; isa < ISA_COUNT; isa++) {
		if (!isa_supported(isa))
			continue;
		isa_select(isa);
		if (!check_form(t, &rng, what, sizeof(what)))
			return failed(t, isa_name(isa), what);
	}
	return true;
}

static bool check_op(void *trials, const struct op *op)
{
	const uint64_t count = *(const uint64_t *)trials;
	struct llm_trial t;
	bool ok = true;

	printf("%s: %" PRIu64 " random calls, --seed %" PRIu64 "\n", op->name, count,
		check_running.seed);
	fflush(stdout);
	llm_trial_create(&t);
	for (check_running.trial = 0; ok && check_running.trial < count; check_running.trial++)
		ok = check_trial(&t, op);
	llm_trial_destroy(&t);
	return ok;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {{"seed", required_argument, NULL, 's'},
		{"trials", required_argument, NULL, 'n'}, {0}};
	uint64_t trials = DEFAULT_TRIALS;
	int option;

	check_running.seed = check_fresh_seed();
	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (option == 's')
			check_running.seed = strtoull(optarg, NULL, 0);
		else if (option == 'n')
			trials = strtoull(optarg, NULL, 0);
		else
			return 2;
	}
	check_report_faults();
	return check_operators(argv + optind, check_op, &trials);
}
