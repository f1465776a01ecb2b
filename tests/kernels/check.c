/* SPDX-License-Identifier: MIT */
/* What the programs that check operators have in common; see check.h. */
#include "tests/kernels/check.h"

#include "kernels/isa.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

struct check_running check_running;

uint64_t check_fresh_seed(void)
{
	const char *given = getenv("GPUQ_TEST_SEED");
	struct timespec now;

	if (given != NULL)
		return strtoull(given, NULL, 0);
	clock_gettime(CLOCK_REALTIME, &now);
	return ((uint64_t)now.tv_sec << 20 ^ (uint64_t)now.tv_nsec) & 0xffffffff;
}

static void on_fault(int signo)
{
	char line[200];
	const int n = snprintf(line, sizeof(line),
		"%s: seed %" PRIu64 ", trial %" PRIu64 ", %s: touched memory beside its tensors\n",
		check_running.op, check_running.seed, check_running.trial,
		isa_name(isa_selected()));

	if (write(STDERR_FILENO, line, (size_t)n) < 0)
		_exit(2);
	_exit(1);
}

void check_report_faults(void)
{
	signal(SIGSEGV, on_fault);
}

int check_operators(char **names, bool (*check)(void *state, const struct op *op), void *state)
{
	for (; *names != NULL; names++) {
		const struct op *op = op_find(*names, NULL);

		if (op == NULL) {
			fprintf(stderr, "%s: no operator %s\n", program_invocation_short_name,
				*names);
			return 2;
		}
		check_running.op = op->name;
		if (!check(state, op))
			return 1;
	}
	return 0;
}
