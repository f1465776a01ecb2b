/* SPDX-License-Identifier: MIT */
/* What the subcommands of gpuq have in common. */
#include "tools/command.h"
#include "tools/list_options.h"

#include <stdio.h>
#include <stdlib.h>

static void print_help(const struct command *c)
{
	printf("Usage: gpuq %s%s%s\n%s.\n\n%s"
	       "  -s, --socket PATH   of gpuqd (default: $GPUQ_SOCKET, $XDG_RUNTIME_DIR/gpuq-0,\n"
	       "                      /run/gpuq/gpuq-0)\n"
	       "  -h, --help          this text\n%s%s",
		c->name, c->arguments[0] == '\0' ? "" : " ", c->arguments, c->summary,
		c->help == NULL ? "" : c->help, c->notes == NULL ? "" : "\n",
		c->notes == NULL ? "" : c->notes);
}

int command_option(
	struct invocation *v, int argc, char **argv, const char *shorts, const struct option *longs)
{
	int c;

	if (v->list) {
		list_options(longs);
		exit(finish_output());
	}
	while ((c = getopt_long(argc, argv, shorts, longs, NULL)) != -1) {
		switch (c) {
		case 's':
			v->socket = optarg;
			break;
		case 'h':
			print_help(v->command);
			exit(finish_output());
		case '?':
			fprintf(stderr, "Try 'gpuq %s --help'.\n", v->command->name);
			exit(EXIT_USAGE);
		default:
			return c;
		}
	}
	return -1;
}

int command_connect(const struct invocation *v, bool admin, struct gpuq **ret_gpuq)
{
	const struct gpuq_options options = {.socket = v->socket, .admin = admin, .name = "gpuq"};
	int r = gpuq_connect(&options, ret_gpuq);

	if (r < 0)
		complain("%s", gpuq_error_detail());
	return r;
}

int command_fail(void)
{
	complain("%s", gpuq_error_detail());
	return EXIT_FAIL;
}

int command_list(
	struct invocation *v, int argc, char **argv, int (*list)(struct gpuq *gpuq, bool json))
{
	static const struct option longs[] = {
		{"json", no_argument, NULL, 'j'}, COMMAND_LONGS, {NULL}};
	struct gpuq *gpuq;
	bool json = false;

	while (command_option(v, argc, argv, "j" COMMAND_SHORTS, longs) == 'j')
		json = true;
	if (optind < argc)
		return complain_usage("unexpected argument '%s'", argv[optind]);
	if (command_connect(v, false, &gpuq) < 0)
		return EXIT_FAIL;
	int code = list(gpuq, json);
	gpuq_disconnect(gpuq);
	return code;
}
