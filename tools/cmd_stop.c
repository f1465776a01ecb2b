/* SPDX-License-Identifier: MIT */
/* gpuq stop: asks gpuqd to finish what is in flight and to end. */
#include "tools/command.h"

#include "shm/clock.h"

#include <stdio.h>

/* Until gpuqd is gone; false when the time is over before that. */
static bool wait_gone(struct gpuq *gpuq, double timeout_s)
{
	const struct timespec pause = {.tv_nsec = 5 * 1000 * 1000};
	uint64_t end_ns = clock_monotonic_ns() + (uint64_t)(timeout_s * 1e9);

	while (gpuq_alive(gpuq) != -GPUQ_EGONE) {
		if (clock_monotonic_ns() >= end_ns)
			return false;
		nanosleep(&pause, NULL);
	}
	return true;
}

static int stop(struct gpuq *gpuq, double timeout_s)
{
	int r = gpuq_admin_stop(gpuq);

	if (r < 0 && r != -GPUQ_EGONE)
		return command_fail();
	if (timeout_s == 0 || wait_gone(gpuq, timeout_s))
		return EXIT_OK;
	complain("gpuqd still drains after %g s; wait on, or see gpuq-top for who has work in it",
		timeout_s);
	return EXIT_FAIL;
}

static int run(struct invocation *v, int argc, char **argv)
{
	static const struct option longs[] = {
		{"timeout", required_argument, NULL, 't'}, COMMAND_LONGS, {NULL}};
	double timeout_s = 30;
	struct gpuq *gpuq;

	while (command_option(v, argc, argv, "t:" COMMAND_SHORTS, longs) == 't') {
		if (!parse_seconds("--timeout", optarg, 0, 86400, &timeout_s))
			return EXIT_USAGE;
	}
	if (optind < argc)
		return complain_usage("unexpected argument '%s'", argv[optind]);
	if (command_connect(v, true, &gpuq) < 0)
		return EXIT_FAIL;
	int code = stop(gpuq, timeout_s);
	gpuq_disconnect(gpuq);
	return code;
}

const struct command command_stop = {
	.name = "stop",
	.arguments = "[--timeout SEC]",
	.summary = "Ask gpuqd to finish what is in flight and to end",
	.help = "  -t, --timeout SEC   how long to wait for its end; 0: not at all (default: 30)\n",
	.run = run,
};
