/* SPDX-License-Identifier: MIT */
/* gpuq devices: the devices that gpuqd drives, and what else the machine has. */
#include "tools/command.h"

#include <errno.h>
#include <stdio.h>

static json_t *device_json(const struct gpuq_device_info *d)
{
	return json_pack("{s:I, s:b, s:I, s:s, s:s}", "device", (json_int_t)d->index, "ready",
		d->ready, "epoch", (json_int_t)d->epoch, "kind", d->kind, "name", d->name);
}

static int show_devices(struct gpuq *gpuq, json_t *array)
{
	for (uint32_t i = 0; i < gpuq_device_count(gpuq); i++) {
		struct gpuq_device_info d;

		if (gpuq_device_info(gpuq, i, &d) < 0)
			return command_fail();
		if (array != NULL)
			json_array_append_new(array, device_json(&d));
		else
			printf("%u  %-7s %-9s %s\n", d.index, d.kind,
				d.ready ? "ready" : "starting", d.name);
	}
	return EXIT_OK;
}

static json_t *present_json(const struct gpuq_present_info *p)
{
	json_t *o = json_pack("{s:s, s:s, s:s, s:b}", "kind", p->kind, "name", p->name, "uuid",
		p->uuid, "usable", p->status == 0);

	if (p->status < 0) {
		json_object_set_new(o, "error", json_string(gpuq_error_name(p->status)));
		json_object_set_new(o, "why", json_string(p->why));
	}
	return o;
}

static void print_present(const struct gpuq_present_info *p)
{
	printf("   %-7s %-9s %s%s%s\n", p->kind, p->status == 0 ? "usable" : "unusable", p->name,
		p->name[0] != '\0' && p->status < 0 ? ": " : "", p->status < 0 ? p->why : "");
}

static int show_present(struct gpuq *gpuq, json_t *array)
{
	struct gpuq_present_info p;
	int r;

	for (uint32_t i = 0; (r = gpuq_present_info(gpuq, i, &p)) == 0; i++) {
		if (i == 0 && array == NULL)
			printf("\nFound on this machine:\n");
		if (array != NULL)
			json_array_append_new(array, present_json(&p));
		else
			print_present(&p);
	}
	return r == -GPUQ_ENODEV ? EXIT_OK : command_fail();
}

static int show(struct gpuq *gpuq, bool json)
{
	json_t *devices = json ? json_array() : NULL, *present = json ? json_array() : NULL;
	int code = show_devices(gpuq, devices);

	if (code == EXIT_OK)
		code = show_present(gpuq, present);
	if (code == EXIT_OK && json)
		return print_json(json_pack("{s:s, s:o, s:o}", "schema", "gpuq-devices/2",
					  "devices", devices, "present", present),
			false);
	json_decref(devices);
	json_decref(present);
	return code == EXIT_OK ? finish_output() : code;
}

static int run(struct invocation *v, int argc, char **argv)
{
	return command_list(v, argc, argv, show);
}

const struct command command_devices = {
	.name = "devices",
	.arguments = "[--json]",
	.summary = "List the devices that gpuqd drives, and why others cannot be used",
	.help = "  -j, --json          as one JSON document\n",
	.run = run,
};
