/* SPDX-License-Identifier: MIT */
/*
 * command.h: what the subcommands of gpuq have in common. Each is one file with one `struct
 * command`; the table in gpuq.c drives dispatch and help.
 */
#ifndef GPUQ_TOOLS_COMMAND_H
#define GPUQ_TOOLS_COMMAND_H

#include "gpuq.h"
#include "tools/tool.h"

#include <getopt.h>

struct command;

/* One run of gpuq, as far as all commands share it. */
struct invocation {
	const struct command *command;
	const char *socket; /* NULL: the library looks for it */
	bool list;	    /* the command is only to print its options */
};

struct command {
	const char *name;
	const char *arguments; /* "OP --in NAME=FILE.npy ..." */
	const char *summary;
	const char *help;  /* lines about its options; may be NULL */
	const char *notes; /* lines at the end of its help; may be NULL */
	/* argv[0] is the program's name. Returns the exit code. */
	int (*run)(struct invocation *v, int argc, char **argv);
};

extern const struct command command_device;
extern const struct command command_devices;
extern const struct command command_graphs;
extern const struct command command_load;
extern const struct command command_logits;
extern const struct command command_models;
extern const struct command command_ops;
extern const struct command command_ping;
extern const struct command command_precapture;
extern const struct command command_run;
extern const struct command command_status;
extern const struct command command_stop;
extern const struct command command_trace;
extern const struct command command_unload;
/* Only where the feature `text` is built. */
extern const struct command command_chat;
extern const struct command command_generate;
extern const struct command command_tokenize;
extern const struct command command_detokenize;

#define COMMAND_SHORTS "s:h"
#define COMMAND_LONGS                             \
	{"socket", required_argument, NULL, 's'}, \
	{                                         \
		"help", no_argument, NULL, 'h'    \
	}

/*
 * The command's next option, -1 after the last. -s and -h, which every command has, are dealt
 * with here; after -h, or an option that nobody knows, the program has ended.
 */
int command_option(struct invocation *v, int argc, char **argv, const char *shorts,
	const struct option *longs);

/* Connects; complains when it cannot. */
int command_connect(const struct invocation *v, bool admin, struct gpuq **ret_gpuq);

/*
 * Waits until a model is loaded, and shows progress meanwhile; complains when it is not going to
 * be. EXIT_OK, or EXIT_FAIL.
 */
int command_await_model(struct gpuq *gpuq, const char *name, struct gpuq_model_info *ret_info);

/* The whole run of a command that only lists, as one JSON document where that is asked for. */
int command_list(
	struct invocation *v, int argc, char **argv, int (*list)(struct gpuq *gpuq, bool json));

/* Complains about a failed call of the library: its detail. Returns EXIT_FAIL. */
int command_fail(void);

#endif
