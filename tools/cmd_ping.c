/* SPDX-License-Identifier: MIT */
/* gpuq ping: how long an empty submission takes to gpuqd's dispatch thread and back. */
#include "tools/command.h"
#include "tools/latency.h"

#include "shm/clock.h"

#include <stdio.h>
#include <stdlib.h>

#define ANSWER_TIMEOUT_NS 5000000000u
#define WARM_UP 1000 /* round trips that are not counted, at most */

/* One round trip. 0, or a negative error that has been complained about. */
static int round_trip(struct gpuq_channel *channel)
{
	const struct gpuq_submission null = {0};
	struct gpuq_completion c;
	char text[256];
	int r = gpuq_submit(channel, &null, 1);

	if (r == 1)
		r = gpuq_wait(channel, &c, 1, ANSWER_TIMEOUT_NS);
	if (r == -ETIMEDOUT) {
		complain("no answer within %g s; is gpuqd stopped, or its device gone? "
			 "see gpuq status",
			ANSWER_TIMEOUT_NS / 1e9);
		return r;
	}
	if (r < 0) {
		command_fail();
		return r;
	}
	if (c.status < 0)
		complain("%s", gpuq_explain(NULL, &c, text, sizeof(text)));
	return c.status;
}

static int measure(struct gpuq_channel *channel, uint64_t n, struct latency *l)
{
	uint64_t warm_up = n < WARM_UP ? n : WARM_UP;
	struct clock_line clock;

	clock_calibrate(&clock);
	for (uint64_t i = 0; i < warm_up + n; i++) {
		uint64_t start_ns = clock_now_ns(&clock);
		int r = round_trip(channel);

		if (r < 0)
			return r;
		if (i >= warm_up)
			latency_add(l, clock_now_ns(&clock) - start_ns);
	}
	return 0;
}

static int ping(struct gpuq *gpuq, uint32_t device, uint64_t n, bool json)
{
	const struct gpuq_channel_options options = {.device = device};
	struct gpuq_channel *channel;
	struct latency *l = calloc(1, sizeof(*l));
	char text[128];
	int code = EXIT_FAIL;

	if (l == NULL) {
		complain("out of memory");
		return EXIT_FAIL;
	}
	if (gpuq_channel_open(gpuq, &options, &channel) < 0) {
		free(l);
		return command_fail();
	}
	if (measure(channel, n, l) == 0 && json) {
		code = print_json(json_pack("{s:s, s:I, s:o}", "schema", "gpuq-ping/1", "device",
					  (json_int_t)device, "round_trip_ns", latency_json(l)),
			false);
	} else if (l->n == n) {
		printf("%llu round trips to device %u: %s\n", (unsigned long long)n, device,
			latency_text(l, text, sizeof(text)));
		code = finish_output();
	}
	gpuq_channel_close(channel);
	free(l);
	return code;
}

static int run(struct invocation *v, int argc, char **argv)
{
	static const struct option longs[] = {
		{"count", required_argument, NULL, 'n'},
		{"device", required_argument, NULL, 'd'},
		{"json", no_argument, NULL, 'j'},
		COMMAND_LONGS,
		{NULL},
	};
	uint64_t n = 10000, device = 0;
	bool json = false;
	struct gpuq *gpuq;
	int c;

	while ((c = command_option(v, argc, argv, "n:d:j" COMMAND_SHORTS, longs)) != -1) {
		if (c == 'n' && !parse_count("--count", optarg, 1, UINT32_MAX, &n))
			return EXIT_USAGE;
		if (c == 'd' && !parse_count("--device", optarg, 0, UINT16_MAX, &device))
			return EXIT_USAGE;
		json |= c == 'j';
	}
	if (optind < argc)
		return complain_usage("unexpected argument '%s'", argv[optind]);
	if (command_connect(v, false, &gpuq) < 0)
		return EXIT_FAIL;
	int code = ping(gpuq, (uint32_t)device, n, json);
	gpuq_disconnect(gpuq);
	return code;
}

const struct command command_ping = {
	.name = "ping",
	.arguments = "[-n N] [--device D] [--json]",
	.summary = "Measure empty round trips to gpuqd",
	.help = "  -n, --count N       how many round trips (default: 10000)\n"
		"  -d, --device D      number of the device (default: 0)\n"
		"  -j, --json          as one JSON document\n",
	.run = run,
};
