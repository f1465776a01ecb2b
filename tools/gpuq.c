/* SPDX-License-Identifier: MIT */
/* gpuq: asks gpuqd for things from the command line; see gpuq(1). */
#include "tools/command.h"
#include "tools/list_options.h"

#include <stdio.h>
#include <string.h>

static const struct command *const commands[] = {
	&command_status,
	&command_devices,
	&command_device,
	&command_ops,
	&command_graphs,
	&command_models,
	&command_load,
	&command_unload,
	&command_precapture,
	&command_logits,
	&command_ping,
	&command_run,
	&command_stop,
	&command_trace,
#ifdef GPUQ_TEXT
	&command_generate,
	&command_chat,
	&command_tokenize,
	&command_detokenize,
#endif
};
#define N_COMMANDS (sizeof(commands) / sizeof(commands[0]))

static int print_help(void)
{
	printf("Usage: gpuq [-s PATH] COMMAND [OPTION]...\n"
	       "Asks gpuqd, which owns the device of this machine, for work and for its "
	       "state.\n\n");
	for (size_t i = 0; i < N_COMMANDS; i++)
		printf("  %-10s %s\n", commands[i]->name, commands[i]->summary);
	printf("\n"
	       "  -s, --socket PATH   of gpuqd (default: $GPUQ_SOCKET, $XDG_RUNTIME_DIR/gpuq-0,\n"
	       "                      /run/gpuq/gpuq-0)\n"
	       "  -h, --help          this text; 'gpuq COMMAND --help' for one command\n"
	       "  -V, --version       versions of gpuq, its library, and gpuqd if there is one\n\n"
	       "Exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted.\n");
	return finish_output();
}

static int print_version(const struct invocation *v)
{
	const struct gpuq_options options = {
		.socket = v->socket, .name = "gpuq", .timeout_ns = 1000000000u};
	struct gpuq *gpuq;

	printf("gpuq %d.%d.%d\n", GPUQ_VERSION_MAJOR, GPUQ_VERSION_MINOR, GPUQ_VERSION_PATCH);
	printf("compiled with libgpuq-client %d.%d.%d\n", GPUQ_VERSION_MAJOR, GPUQ_VERSION_MINOR,
		GPUQ_VERSION_PATCH);
	printf("linked with libgpuq-client %s\n", gpuq_version());
	if (gpuq_connect(&options, &gpuq) == 0) {
		printf("connected to gpuqd %s at %s, wire version %u\n", gpuq_server_version(gpuq),
			gpuq_socket_path(gpuq), gpuq_abi(gpuq));
		gpuq_disconnect(gpuq);
	}
	return finish_output();
}

static int list(const struct option *longs)
{
	for (size_t i = 0; i < N_COMMANDS; i++)
		puts(commands[i]->name);
	list_options(longs);
	return finish_output();
}

static int dispatch(struct invocation *v, int argc, char **argv)
{
	if (argc == 0)
		return complain_usage("no command");
	for (size_t i = 0; i < N_COMMANDS; i++) {
		if (strcmp(argv[0], commands[i]->name) != 0)
			continue;
		v->command = commands[i];
		tool_command = v->command->name;
		argv[0] = (char *)tool_name; /* getopt's messages begin with it */
		optind = 0;		     /* begin anew */
		return v->command->run(v, argc, argv);
	}
	return complain_usage("unknown command '%s'", argv[0]);
}

int main(int argc, char **argv)
{
	static const struct option longs[] = {
		COMMAND_LONGS,
		{"version", no_argument, NULL, 'V'},
		{NULL},
	};
	struct invocation v = {0};
	bool version = false;
	int c;

	claim_streams();
	if (list_options_wanted(argc, argv))
		return list(longs);
	/* One command's: it comes to its table by itself. */
	if (argc == 3 && list_options_wanted(2, argv)) {
		v.list = true;
		return dispatch(&v, 1, argv + 2);
	}
	argv[0] = (char *)tool_name;
	while ((c = getopt_long(argc, argv, "+V" COMMAND_SHORTS, longs, NULL)) != -1) {
		switch (c) {
		case 's':
			v.socket = optarg;
			break;
		case 'h':
			return print_help();
		case 'V':
			version = true;
			break;
		default:
			fputs("Try 'gpuq --help'.\n", stderr);
			return EXIT_USAGE;
		}
	}
	if (version)
		return print_version(&v);
	return dispatch(&v, argc - optind, argv + optind);
}
