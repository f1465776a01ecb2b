/* SPDX-License-Identifier: MIT */
/* gpuq devices: the devices that gpuqd owns. */
#include "tools/command.h"

#include <stdio.h>

static json_t *device_json(const struct gpuq_device_info *d)
{
	return json_pack("{s:I, s:b, s:I, s:s, s:s}", "device", (json_int_t)d->index, "ready",
		d->ready, "epoch", (json_int_t)d->epoch, "kind", d->kind, "name", d->name);
}

static int print_devices(struct gpuq *gpuq, json_t *array)
{
	for (uint32_t i = 0; i < gpuq_device_count(gpuq); i++) {
		struct gpuq_device_info d;

		if (gpuq_device_info(gpuq, i, &d) < 0)
			return command_fail();
		if (array != NULL)
			json_array_append_new(array, device_json(&d));
		else
			printf("%u  %-5s %-8s %s\n", d.index, d.kind,
				d.ready ? "ready" : "starting", d.name);
	}
	return EXIT_OK;
}

static int run(struct invocation *v, int argc, char **argv)
{
	static const struct option longs[] = {
		{"json", no_argument, NULL, 'j'}, COMMAND_LONGS, {NULL}};
	json_t *array = NULL;
	struct gpuq *gpuq;

	while (command_option(v, argc, argv, "j" COMMAND_SHORTS, longs) == 'j' && array == NULL)
		array = json_array();
	if (optind < argc)
		return complain_usage("unexpected argument '%s'", argv[optind]);
	if (command_connect(v, false, &gpuq) < 0)
		return EXIT_FAIL;
	int code = print_devices(gpuq, array);
	gpuq_disconnect(gpuq);
	if (code == EXIT_OK && array != NULL)
		return print_json(
			json_pack("{s:s, s:o}", "schema", "gpuq-devices/1", "devices", array),
			false);
	json_decref(array);
	return code == EXIT_OK ? finish_output() : code;
}

const struct command command_devices = {
	.name = "devices",
	.arguments = "[--json]",
	.summary = "List the devices that gpuqd owns",
	.help = "  -j, --json          as one JSON document\n",
	.run = run,
};
