/* SPDX-License-Identifier: MIT */
/* gpuqd: the command line. One executable, two roles: control process and device process. */
#include "daemon/config.h"
#include "daemon/control.h"
#include "daemon/device_process.h"
#include "daemon/log.h"

#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#define EXIT_USAGE 2
#define FLAG_KEY 1000 /* getopt's value for the first key's flag */

enum { FLAG_CHECK = 256, FLAG_PRINT, FLAG_MODEL };

struct arguments {
	bool check, print;
	struct config_source source;
};

static const char help_text[] =
	"Usage: gpuqd [OPTION]...\n"
	"Owns a device and lets other processes use it through shared memory.\n"
	"\n"
	"  -c, --config FILE            read this file, not\n"
	"                               $XDG_CONFIG_HOME/gpuq/gpuqd.conf or\n"
	"                               /etc/gpuq/gpuqd.conf\n"
	"      --check-config           check configuration and command line, then exit\n"
	"      --print-config           print the resulting configuration, then exit\n"
	"      --model NAME=DIR         load this model, as often as wanted; more may\n"
	"                               follow: ,quant=int8 and ,deterministic=yes\n"
	"  -h, --help                   print this, then exit\n"
	"  -V, --version                print versions, then exit\n"
	"\n"
	"Each of these can stand in the file (socket_mode = 0660), in the environment\n"
	"(GPUQ_SOCKET_MODE=0660) and here (--socket-mode 0660); the last of them wins:\n"
	"\n";

static const char help_end[] =
	"\n"
	"SIGTERM and SIGINT let work in flight finish first; a second one does not.\n"
	"SIGHUP reads the configuration again.\n"
	"Exit status: 0 after a clean end, 1 for a failure, 2 for a wrong command line.\n";

static void help(void)
{
	fputs(help_text, stdout);
	config_help(stdout);
	fputs(help_end, stdout);
}

static void version(void)
{
	printf("gpuqd " GPUQ_VERSION " (wire %d, serves %d and later)\n", WIRE_ABI,
		WIRE_ABI_OLDEST);
}

/* Fills getopt's table: fixed flags, then one for each key. `names` holds the latter's. */
static void flags_fill(struct option *flags, char (*names)[64])
{
	const struct option fixed[] = {
		{"config", required_argument, NULL, 'c'},
		{"check-config", no_argument, NULL, FLAG_CHECK},
		{"print-config", no_argument, NULL, FLAG_PRINT},
		{"model", required_argument, NULL, FLAG_MODEL},
		{"help", no_argument, NULL, 'h'},
		{"version", no_argument, NULL, 'V'},
	};
	size_t n = sizeof(fixed) / sizeof(fixed[0]);

	memcpy(flags, fixed, sizeof(fixed));
	for (uint32_t i = 0; i < config_n_keys; i++) {
		config_flag_name(&config_keys[i], names[i], sizeof(names[i]));
		flags[n++] = (struct option){names[i], required_argument, NULL, FLAG_KEY + (int)i};
	}
	flags[n] = (struct option){0};
}

/* For a shell's completion: those that take a value have "=" behind them. */
static int list_options(const struct option *flags)
{
	for (; flags->name != NULL; flags++)
		printf("--%s%s\n", flags->name, flags->has_arg == no_argument ? "" : "=");
	return fflush(stdout) == 0 ? 0 : EXIT_FAILURE;
}

/* Returns an exit code when the program is to end now, else -1. */
static int arguments_parse(struct arguments *a, int argc, char **argv)
{
	struct option flags[CONFIG_MAX_KEYS + 8];
	char names[CONFIG_MAX_KEYS][64];
	int flag;

	flags_fill(flags, names);
	if (argc == 2 && strcmp(argv[1], "--list-options") == 0)
		return list_options(flags);
	while ((flag = getopt_long(argc, argv, "c:hV", flags, NULL)) != -1) {
		if (flag == 'h') {
			help();
			return 0;
		} else if (flag == 'V') {
			version();
			return 0;
		} else if (flag == 'c') {
			a->source.file = optarg;
		} else if (flag == FLAG_CHECK) {
			a->check = true;
		} else if (flag == FLAG_PRINT) {
			a->print = true;
		} else if (flag == FLAG_MODEL && a->source.n_models < CONFIG_MAX_MODELS) {
			a->source.models[a->source.n_models++] = optarg;
		} else if (flag >= FLAG_KEY) {
			a->source.values[flag - FLAG_KEY] = optarg;
		} else {
			fprintf(stderr, "gpuqd: 'gpuqd --help' lists the options\n");
			return EXIT_USAGE;
		}
	}
	if (optind < argc) {
		fprintf(stderr, "gpuqd: '%s' is not an option; 'gpuqd --help' lists them\n",
			argv[optind]);
		return EXIT_USAGE;
	}
	return -1;
}

/* Returns an exit code when what was said is wrong, else -1. */
static int load(struct config *config, const struct config_source *source)
{
	struct config_error error;
	const int r = config_load(config, source, &error);

	if (r < 0)
		fprintf(stderr, "gpuqd: %s\n", error.text);
	return r == 0 ? -1 : r == -EUCLEAN ? EXIT_USAGE : EXIT_FAILURE;
}

int main(int argc, char **argv)
{
	struct arguments a = {0};
	struct config config;

	if (argc == 2 && strcmp(argv[1], "--device-process") == 0) {
		log_init("gpuqd device");
		return device_process_main();
	}
	int code = arguments_parse(&a, argc, argv);
	if (code < 0)
		code = load(&config, &a.source);
	if (code >= 0)
		return code;
	if (a.print)
		config_print(&config, stdout);
	if (a.print || a.check)
		return 0;
	log_init("gpuqd");
	log_configure(config.log);
	return control_main(&config, &a.source);
}
