/* SPDX-License-Identifier: MIT */
/*
 * check_ops: checks the fast forms of an operator against its reference on random calls, on
 * every instruction set that this CPU has, and times them.
 *
 *   check_ops [--seed N] [--trials N] OPERATOR...
 *   check_ops --time [BEGINNING OF A SHAPE'S NAME]
 *
 * The seed is printed and is also read from GPUQ_TEST_SEED. Exits with 1 at the first failure.
 */
#include "kernels/isa.h"
#include "tests/kernels/check.h"
#include "tests/kernels/time_ops.h"
#include "tests/kernels/trial.h"
#include "tests/kernels/verify.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_TRIALS 10000
#define MAX_PIECES 6

static void print_call(FILE *to, const struct op_call *call)
{
	for (uint32_t i = 0; i < call->op->n_inputs; i++) {
		const struct tensor *t = &call->in[i];

		if (!tensor_present(t))
			continue;
		fprintf(to, " %s %s [", call->op->inputs[i].name, dtype_name(t->dtype));
		for (uint32_t d = 0; d < t->rank; d++)
			fprintf(to, "%s%" PRIu64, d > 0 ? "," : "", t->dims[d]);
		fprintf(to, "] at %p;", t->data);
	}
	fprintf(to, " %s %s\n", call->op->outputs[0].name, dtype_name(call->out[0].dtype));
}

struct piece {
	uint64_t begin, end;
};

/* Cuts the units into pieces in random order; some are empty. */
static uint32_t cut(struct random *rng, uint64_t units, struct piece *pieces)
{
	const uint32_t count = 1 + (uint32_t)random_below(rng, MAX_PIECES);
	uint64_t at = 0;

	for (uint32_t i = 0; i < count; i++) {
		const uint64_t end =
			i + 1 == count ? units : at + random_below(rng, units - at + 1);

		pieces[i] = (struct piece){at, end};
		at = end;
	}
	for (uint32_t i = count - 1; i > 0; i--) {
		const uint32_t other = (uint32_t)random_below(rng, i + 1);
		const struct piece piece = pieces[i];

		pieces[i] = pieces[other];
		pieces[other] = piece;
	}
	return count;
}

/*
 * Runs a piece twice over different patterns: bytes that come out equal are those that it wrote.
 * Adds them to `joined` and counts them.
 */
static uint64_t run_piece(struct trial *t, struct piece piece, char *joined, char *scratch)
{
	char *out = t->call.out[0].data;
	uint64_t written = 0;

	memset(out, 0x00, t->output_bytes);
	t->call.op->cpu(&t->call, piece.begin, piece.end);
	memcpy(scratch, out, t->output_bytes);
	memset(out, 0xff, t->output_bytes);
	t->call.op->cpu(&t->call, piece.begin, piece.end);
	for (uint64_t i = 0; i < t->output_bytes; i++) {
		if (out[i] != scratch[i])
			continue;
		joined[i] = out[i];
		written++;
	}
	return written;
}

/* However the units are cut, every byte is written by one piece, and to the same value. */
static bool check_pieces(struct trial *t, struct random *rng, char *what, size_t what_size)
{
	const uint64_t units = t->call.op->units(&t->call);
	char *whole = malloc(t->output_bytes * 3 + 1);
	char *joined = whole + t->output_bytes, *scratch = joined + t->output_bytes;
	struct piece pieces[MAX_PIECES];
	const uint32_t count = cut(rng, units, pieces);
	uint64_t written = 0;
	bool ok;

	memcpy(whole, t->call.out[0].data, t->output_bytes);
	memcpy(joined, whole, t->output_bytes);
	for (uint32_t i = 0; i < count; i++)
		written += run_piece(t, pieces[i], joined, scratch);
	ok = written == t->output_bytes;
	if (!ok)
		snprintf(what, what_size, "%u pieces wrote %" PRIu64 " of %zu bytes", count,
			written, t->output_bytes);
	else if (!(ok = verify_same(&t->call.out[0], whole, joined, t->n_outputs)))
		snprintf(what, what_size, "the result depends on how %" PRIu64 " units are cut",
			units);
	free(whole);
	return ok;
}

static bool guards_intact(const struct trial *t)
{
	for (uint32_t i = 0; i < t->call.op->n_inputs; i++) {
		if (tensor_present(&t->call.in[i]) && !guard_intact(&t->inputs[i]))
			return false;
	}
	return guard_intact(&t->output);
}

static bool check_form(struct trial *t, struct random *rng, char *what, size_t what_size)
{
	memset(t->call.out[0].data, 0xff, t->output_bytes);
	t->call.op->cpu(&t->call, 0, t->call.op->units(&t->call));
	if (!verify(t, what, what_size))
		return false;
	if (random_below(rng, 3) == 0 && !check_pieces(t, rng, what, what_size))
		return false;
	if (guards_intact(t))
		return true;
	snprintf(what, what_size, "wrote beside the output");
	return false;
}

static bool check_trial(struct trial *t, const struct op *op)
{
	struct random rng = {check_running.seed + check_running.trial * 0x2545f4914f6cdd1du};
	char what[200];

	trial_fill(t, op, &rng);
	trial_reference(t);
	for (enum isa isa = ISA_BASE; isa < ISA_COUNT; isa++) {
		if (!isa_supported(isa))
			continue;
		isa_select(isa);
		if (check_form(t, &rng, what, sizeof(what)))
			continue;
		fprintf(stderr, "%s: seed %" PRIu64 ", trial %" PRIu64 ", %s: %s\n ", op->name,
			check_running.seed, check_running.trial, isa_name(isa), what);
		print_call(stderr, &t->call);
		return false;
	}
	return true;
}

static bool check_op(void *trials, const struct op *op)
{
	const uint64_t count = *(const uint64_t *)trials;
	struct trial t;
	bool ok = true;

	printf("%s: %" PRIu64 " random calls, --seed %" PRIu64 ":", op->name, count,
		check_running.seed);
	for (enum isa isa = ISA_BASE; isa < ISA_COUNT; isa++)
		printf(" %s%s", isa_supported(isa) ? "" : "no ", isa_name(isa));
	printf("\n");
	fflush(stdout);
	trial_create(&t);
	for (check_running.trial = 0; ok && check_running.trial < count; check_running.trial++)
		ok = check_trial(&t, op);
	trial_destroy(&t);
	return ok;
}

static int usage(FILE *to)
{
	fprintf(to,
		"usage: check_ops [--seed N] [--trials N] OPERATOR...\n"
		"       check_ops --time [BEGINNING OF A SHAPE'S NAME]\n");
	return to == stdout ? 0 : 2;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {{"seed", required_argument, NULL, 's'},
		{"trials", required_argument, NULL, 'n'}, {"time", no_argument, NULL, 't'},
		{"help", no_argument, NULL, 'h'}, {0}};
	uint64_t trials = DEFAULT_TRIALS;
	int option;

	check_running.seed = check_fresh_seed();
	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (option == 's')
			check_running.seed = strtoull(optarg, NULL, 0);
		else if (option == 'n')
			trials = strtoull(optarg, NULL, 0);
		else if (option == 't')
			return time_ops(optind < argc ? argv[optind] : "");
		else
			return usage(option == 'h' ? stdout : stderr);
	}
	if (optind == argc)
		return usage(stderr);
	check_report_faults();
	return check_operators(argv + optind, check_op, &trials);
}
