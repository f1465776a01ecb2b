/* SPDX-License-Identifier: MIT */
/* gpuq status: what gpuqd's statistics say, and whether it lives. */
#include "tools/command.h"
#include "tools/top_table.h"
#include "tools/wait_ready.h"

#include <math.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define WIDTH 120u

/* A terminal's, so that no line is broken; what does not fit gpuq-top shows. */
static uint32_t width(void)
{
	struct winsize size;

	if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) < 0 || size.ws_col == 0)
		return WIDTH;
	return size.ws_col < WIDTH ? size.ws_col : WIDTH;
}

static void print_text(const struct top_model *m)
{
	const struct top_daemon *d = &m->daemon;
	const struct table *t = &top_tables[TOP_DEVICES];
	const struct top_rows *rows = &m->rows[TOP_DEVICES];
	struct table_plan plan;
	char line[TABLE_LINE_MAX], bytes[16];

	printf("%s at %s\n", top_headline(d, line, sizeof(line)), d->socket);
	format_bytes(d->segment_bytes, bytes, sizeof(bytes));
	printf("clients   %llu connected, %llu accepted, %llu refused, %llu died\n",
		(unsigned long long)d->clients, (unsigned long long)d->accepted,
		(unsigned long long)d->refused, (unsigned long long)d->deaths);
	printf("channels  %llu open, %sB shared\n", (unsigned long long)d->channels, bytes);
	printf("work      %llu completed, %llu failed\n", (unsigned long long)d->completed,
		(unsigned long long)d->failed);
	printf("trouble   %llu device restarts, %llu protocol errors, %llu times out of "
	       "descriptors\n\n",
		(unsigned long long)d->device_restarts, (unsigned long long)d->protocol_errors,
		(unsigned long long)d->accept_exhausted);
	table_plan(t, width(), &plan);
	printf("%s\n", table_titles(t, &plan, line));
	for (uint32_t i = 0; i < rows->n; i++)
		printf("%s\n", table_line(t, &plan, table_row(t, rows, i), line));
}

/* Serving, or on its way to or from it. */
static bool lives(const struct top_daemon *d)
{
	return d->liveness == TOP_STARTING || d->liveness == TOP_SERVING ||
		d->liveness == TOP_DRAINING;
}

static int show(const struct top_model *m, bool json)
{
	char line[TABLE_LINE_MAX];
	int code;

	if (json) {
		code = print_json(top_json(m), false);
	} else {
		print_text(m);
		code = finish_output();
	}
	if (code == EXIT_OK && !lives(&m->daemon)) {
		complain("%s; start gpuqd", top_headline(&m->daemon, line, sizeof(line)));
		code = EXIT_FAIL;
	}
	return code;
}

static int take_and_show(const struct invocation *v, bool json)
{
	struct top_model model = {0};
	struct snapshot_source source;
	struct snapshot *snapshot;
	char why[1024];

	if (snapshot_source_init(&source, v->socket) < 0)
		return complain_usage("the path of the socket is too long");
	if (snapshot_take(&source, &snapshot, why, sizeof(why)) < 0) {
		complain("%s", why);
		return EXIT_FAIL;
	}
	if (top_model_update(&model, snapshot) < 0) {
		complain("out of memory");
		return EXIT_FAIL;
	}
	int code = show(&model, json);
	top_model_finish(&model);
	return code;
}

static int run(struct invocation *v, int argc, char **argv)
{
	static const struct option longs[] = {{"json", no_argument, NULL, 'j'},
		{"wait-ready", no_argument, NULL, 'w'}, COMMAND_LONGS, {NULL}};
	bool json = false, wait = false;
	double timeout_s = INFINITY;
	int c;

	while ((c = command_option(v, argc, argv, "jw" COMMAND_SHORTS, longs)) != -1)
		*(c == 'j' ? &json : &wait) = true;
	if (wait && optind < argc &&
		!parse_seconds("--wait-ready", argv[optind], 0, 86400, &timeout_s))
		return EXIT_USAGE;
	optind += wait && optind < argc;
	if (optind < argc)
		return complain_usage("unexpected argument '%s'", argv[optind]);
	if (wait && wait_ready(v, timeout_s) != EXIT_OK)
		return EXIT_FAIL;
	return take_and_show(v, json);
}

const struct command command_status = {
	.name = "status",
	.arguments = "[--json] [--wait-ready [SECONDS]]",
	.summary = "Show whether gpuqd lives, and its counters; of a dead one the last",
	.help = "  -j, --json          everything as one JSON document\n"
		"  -w, --wait-ready    first wait until gpuqd serves and its models are\n"
		"                      loaded, for at most SECONDS; exit status 1 when one\n"
		"                      cannot be\n",
	.run = run,
};
