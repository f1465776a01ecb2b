/* SPDX-License-Identifier: MIT */
/* gpuq-top: a live view of gpuqd from its statistics object; see gpuq-top(1). */
#include "tools/list_options.h"
#include "tools/tool.h"
#include "tools/top_table.h"
#include "tools/top_view.h"

#include "gpuq.h"
#include "shm/clock.h"

#include <errno.h>
#include <getopt.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define BATCH_WIDTH 140

struct options {
	const char *socket, *file;
	double delay_s;
	uint64_t iterations; /* 0: until somebody ends it */
	bool batch, json;
};

static const char help[] =
	"Usage: gpuq-top [OPTION]...\n"
	"A live view of gpuqd: devices, clients, channels, models and their sessions,\n"
	"operators, pipelines, graphs, errors. It reads the statistics that gpuqd keeps\n"
	"in shared memory, costs gpuqd nothing, and shows the last state of a dead one.\n"
	"\n"
	"  -s, --socket PATH     of which gpuqd (default: $GPUQ_SOCKET,\n"
	"                        $XDG_RUNTIME_DIR/gpuq-0, /run/gpuq/gpuq-0)\n"
	"  -f, --file FILE       a statistics object or a copy of one\n"
	"  -d, --delay SEC       between updates (default: 1)\n"
	"  -n, --iterations N    end after N updates\n"
	"  -b, --batch           plain text on standard output\n"
	"  -j, --json            one JSON document in a line for each update; implies -b\n"
	"  -h, --help            this text\n"
	"  -V, --version\n"
	"\n"
	"Keys: q quit, h help, tab next table, arrows or j k select, enter details,\n"
	"s sort, f filter, t tree by user, p pause, n delay. NO_COLOR in the\n"
	"environment turns colours off.\n";

static volatile sig_atomic_t ended;

static void on_signal(int signal)
{
	ended = 1;
}

/* Without SA_RESTART: a wait for keys or for the next update ends too. */
static void catch_signals(void)
{
	struct sigaction sa = {.sa_handler = on_signal};

	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	sigaction(SIGHUP, &sa, NULL);
}

/* Takes one option. Returns the exit code to end with, or -1 to go on. */
static int parse_option(struct options *o, int c)
{
	switch (c) {
	case 's':
		o->socket = optarg;
		return -1;
	case 'f':
		o->file = optarg;
		return -1;
	case 'd':
		return parse_seconds("--delay", optarg, 0.01, 3600, &o->delay_s) ? -1 : EXIT_USAGE;
	case 'n':
		return parse_count("--iterations", optarg, 1, UINT32_MAX, &o->iterations)
			? -1
			: EXIT_USAGE;
	case 'j':
		o->json = true;
		o->batch = true;
		return -1;
	case 'b':
		o->batch = true;
		return -1;
	case 'h':
		fputs(help, stdout);
		return finish_output();
	case 'V':
		printf("gpuq-top %d.%d.%d\n", GPUQ_VERSION_MAJOR, GPUQ_VERSION_MINOR,
			GPUQ_VERSION_PATCH);
		return finish_output();
	default:
		fputs("Try 'gpuq-top --help'.\n", stderr);
		return EXIT_USAGE;
	}
}

/* Returns the exit code to end with, or -1 to go on. */
static int parse_options(int argc, char **argv, struct options *o)
{
	static const struct option longs[] = {
		{"socket", required_argument, NULL, 's'},
		{"file", required_argument, NULL, 'f'},
		{"delay", required_argument, NULL, 'd'},
		{"iterations", required_argument, NULL, 'n'},
		{"batch", no_argument, NULL, 'b'},
		{"json", no_argument, NULL, 'j'},
		{"help", no_argument, NULL, 'h'},
		{"version", no_argument, NULL, 'V'},
		{NULL},
	};
	int c, code;

	if (list_options_wanted(argc, argv)) {
		list_options(longs);
		return finish_output();
	}
	while ((c = getopt_long(argc, argv, "s:f:d:n:bjhV", longs, NULL)) != -1) {
		code = parse_option(o, c);
		if (code >= 0)
			return code;
	}
	if (optind < argc)
		return complain_usage("unexpected argument '%s'", argv[optind]);
	if (o->socket != NULL && o->file != NULL)
		return complain_usage("--socket and --file exclude each other");
	return -1;
}

static int init_source(const struct options *o, struct snapshot_source *ret_source)
{
	int r = o->file != NULL ? snapshot_source_file(ret_source, o->file)
				: snapshot_source_init(ret_source, o->socket);

	if (r < 0)
		complain("the path of the socket or of the file is too long");
	return r;
}

/* A snapshot into the model; when there is none the model says why and keeps its last state. */
static int update(
	struct snapshot_source *source, struct hardware *hardware, struct top_model *model)
{
	char why[sizeof(model->trouble)];
	struct snapshot *snapshot;
	int r = snapshot_take(source, &snapshot, why, sizeof(why));

	if (r == 0) {
		if (!source->file) /* which may be another machine's */
			snapshot_read_hardware(snapshot, hardware);
		snprintf(why, sizeof(why), "out of memory");
		r = top_model_update(model, snapshot);
	}
	if (r < 0)
		top_model_fail(model, why);
	return r;
}

static void sleep_s(double seconds)
{
	struct timespec ts = {
		.tv_sec = (time_t)seconds,
		.tv_nsec = (long)((seconds - (double)(time_t)seconds) * 1e9),
	};

	nanosleep(&ts, NULL);
}

static int print_model(const struct options *o, const struct top_model *model, bool first)
{
	if (o->json)
		return print_json(top_json(model), true);
	if (!first)
		printf("\n");
	top_print(model, BATCH_WIDTH, stdout);
	return finish_output();
}

static int run_batch(const struct options *o, struct snapshot_source *source,
	struct hardware *hardware, struct top_model *model)
{
	int code = print_model(o, model, true);

	for (uint64_t i = 1; code == EXIT_OK && i != o->iterations; i++) {
		sleep_s(o->delay_s);
		if (ended)
			break;
		(void)update(source, hardware, model);
		code = print_model(o, model, false);
	}
	return code;
}

/* Waits for keys until the next update is due; false: it is time to end. */
static bool wait_keys(struct top_view *view, const struct top_model *model)
{
	uint64_t start_ns = clock_monotonic_ns();

	while (!ended) {
		double passed_s = (double)(clock_monotonic_ns() - start_ns) / 1e9;
		double left_s = top_view_delay_s(view) - passed_s;
		bool paused = top_view_paused(view);

		if (left_s <= 0 && !paused)
			return true;
		/* Not for longer than this: a signal may come just before the wait. */
		int timeout_ms = left_s > 0.5 || paused ? 500 : (int)(left_s * 1e3) + 1;
		enum top_action action = top_view_wait(view, model, timeout_ms);
		if (action == TOP_QUIT)
			return false;
		if (action == TOP_REFRESH && !top_view_paused(view))
			return true;
	}
	return false;
}

static int run_view(const struct options *o, struct snapshot_source *source,
	struct hardware *hardware, struct top_model *model)
{
	struct top_view *view;

	if (top_view_open(&view) < 0) {
		complain("there is no terminal that can be drawn on; use --batch");
		return EXIT_FAIL;
	}
	top_view_set_delay_s(view, o->delay_s);
	top_view_draw(view, model);
	for (uint64_t i = 1; i != o->iterations && wait_keys(view, model); i++) {
		(void)update(source, hardware, model);
		top_view_draw(view, model);
	}
	top_view_close(view);
	return EXIT_OK;
}

int main(int argc, char **argv)
{
	struct options o = {.delay_s = 1};
	struct top_model model = {0};
	struct snapshot_source source;
	struct hardware *hardware;

	claim_streams();
	tool_name = "gpuq-top";
	int code = parse_options(argc, argv, &o);
	if (code >= 0)
		return code;
	if (init_source(&o, &source) < 0)
		return EXIT_USAGE;
	if (hardware_open(&hardware) < 0) {
		complain("out of memory");
		return EXIT_FAIL;
	}
	setlocale(LC_CTYPE, "");
	table_choose_marks();
	code = EXIT_FAIL;
	if (update(&source, hardware, &model) < 0) {
		complain("%s", model.trouble);
	} else {
		catch_signals();
		code = o.batch ? run_batch(&o, &source, hardware, &model)
			       : run_view(&o, &source, hardware, &model);
	}
	top_model_finish(&model);
	hardware_close(hardware);
	return code;
}
