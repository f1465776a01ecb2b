/* SPDX-License-Identifier: MIT */
/* gpuq device: what an administrator does with a device: restarts the process that drives it. */
#include "tools/command.h"

#include "shm/clock.h"

#include <stdio.h>
#include <string.h>

struct wish {
	uint64_t device;
	double drain_s;
	bool json;
};

static int tell(struct gpuq *gpuq, const struct wish *w, uint64_t took_ns)
{
	struct gpuq_device_info d;

	if (gpuq_device_info(gpuq, (uint32_t)w->device, &d) < 0)
		return command_fail();
	if (w->json)
		return print_json(json_pack("{s:s, s:I, s:I, s:s, s:s, s:f}", "schema",
					  "gpuq-device-restart/1", "device", (json_int_t)d.index,
					  "epoch", (json_int_t)d.epoch, "kind", d.kind, "name",
					  d.name, "seconds", (double)took_ns / 1e9),
			false);
	printf("device %u (%s) is driven by a new process after %.2f s: epoch %llu\n", d.index,
		d.kind, (double)took_ns / 1e9, (unsigned long long)d.epoch);
	return finish_output();
}

static int restart(const struct invocation *v, const struct wish *w)
{
	const uint64_t start_ns = clock_monotonic_ns();
	struct gpuq *gpuq;

	if (command_connect(v, true, &gpuq) < 0)
		return EXIT_FAIL;
	int r = gpuq_admin_restart(gpuq, (uint32_t)w->device, (uint64_t)(w->drain_s * 1e9));
	int code = r < 0 ? command_fail() : tell(gpuq, w, clock_monotonic_ns() - start_ns);
	gpuq_disconnect(gpuq);
	return code;
}

static int run(struct invocation *v, int argc, char **argv)
{
	static const struct option longs[] = {{"drain", required_argument, NULL, 't'},
		{"device", required_argument, NULL, 'd'}, {"json", no_argument, NULL, 'j'},
		COMMAND_LONGS, {NULL}};
	struct wish w = {.drain_s = 10};
	int c;

	while ((c = command_option(v, argc, argv, "t:d:j" COMMAND_SHORTS, longs)) != -1) {
		if (c == 'j')
			w.json = true;
		else if (c == 'd' && !parse_count("--device", optarg, 0, UINT32_MAX, &w.device))
			return EXIT_USAGE;
		else if (c == 't' && !parse_seconds("--drain", optarg, 0, 86400, &w.drain_s))
			return EXIT_USAGE;
	}
	if (optind + 1 != argc || strcmp(argv[optind], "restart") != 0)
		return complain_usage("what is to be done with the device? 'restart'");
	return restart(v, &w);
}

const struct command command_device = {
	.name = "device",
	.arguments = "restart [--drain SEC] [--device D] [--json]",
	.summary = "Restart the process that drives a device, from the gpuqd on disk",
	.help = "  -t, --drain SEC     how long what is in flight has to end (default: 10)\n"
		"  -d, --device D      number of the device (default: 0)\n"
		"  -j, --json          as one JSON document\n",
	.run = run,
};
