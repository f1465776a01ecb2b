/* SPDX-License-Identifier: MIT */
/* gpuq graphs: exact shapes and their graphs; stopping, resuming and evicting. */
#include "tools/command.h"
#include "tools/step_shape.h"
#include "tools/top_table.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define PAGE 64 /* shapes asked for at a time */

enum action { LIST, STOP, RESUME, EVICT };

struct graphs_options {
	enum action action;
	uint64_t id; /* EVICT; 0: all */
	uint64_t device;
	bool json, all, watch;
};

/* What is known of all shapes listed. */
struct totals {
	uint64_t shapes, captured, hits, uses, bytes;
};

static const char *state_text(uint32_t state)
{
	static const char *const texts[] = {
		"?", "cold", "queued", "capturing", "captured", "direct", "failed"};

	return texts[state < sizeof(texts) / sizeof(texts[0]) ? state : 0];
}

/* --- The list ------------------------------------------------------------------------------ */

static json_t *graph_json(const struct gpuq_graph_info *g)
{
	json_t *o = json_pack("{s:I, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:b}", "id",
		(json_int_t)g->id, "shape", g->shape, "state", state_text(g->state), "kernels",
		(json_int_t)g->kernels, "uses", (json_int_t)g->uses, "hits", (json_int_t)g->hits,
		"bytes", (json_int_t)g->bytes, "capture_ns", (json_int_t)g->capture_ns, "pinned",
		g->pinned);

	if (g->state == GPUQ_GRAPH_FAILED) {
		json_object_set_new(o, "error", json_string(gpuq_error_name(g->status)));
		json_object_set_new(o, "reason", json_string(g->reason));
	}
	return o;
}

static void print_titles(void)
{
	printf("%5s  %-9s %7s %5s %5s %6s %7s  %s\n", "id", "state", "kernels", "uses", "hits",
		"bytes", "capture", "shape");
}

static void print_graph(const struct gpuq_graph_info *g)
{
	char uses[16], hits[16], bytes[16], capture[16], step[sizeof(g->shape)];
	const char *shape = step_shape_text(g->shape, step, sizeof(step)) ? step : g->shape;

	format_count(g->uses, uses, sizeof(uses));
	format_count(g->hits, hits, sizeof(hits));
	format_bytes(g->bytes, bytes, sizeof(bytes));
	if (g->capture_ns != 0)
		format_ns(g->capture_ns, capture, sizeof(capture));
	else
		snprintf(capture, sizeof(capture), "-");
	printf("%5llu  %-9s %7u %5s %5s %6s %7s  %s%s\n", (unsigned long long)g->id,
		state_text(g->state), g->kernels, uses, hits, bytes, capture, shape,
		g->pinned ? " (pinned)" : "");
	if (g->state == GPUQ_GRAPH_FAILED)
		printf("%5s  %s: %s\n", "", gpuq_error_name(g->status), g->reason);
}

static void count(struct totals *t, const struct gpuq_graph_info *g)
{
	t->shapes++;
	t->captured += g->state == GPUQ_GRAPH_CAPTURED;
	t->uses += g->uses;
	t->hits += g->hits;
	t->bytes += g->bytes;
}

/* Every shape, into the array or as a line. */
static int show_graphs(struct gpuq *gpuq, uint32_t device, json_t *array, struct totals *t)
{
	struct gpuq_graph_info infos[PAGE];
	uint64_t after = 0;
	int n;

	do {
		n = gpuq_graphs(gpuq, device, after, infos, PAGE);
		if (n >= 0 && after == 0 && array == NULL)
			print_titles();
		for (int i = 0; i < n; i++) {
			count(t, &infos[i]);
			after = infos[i].id;
			if (array != NULL)
				json_array_append_new(array, graph_json(&infos[i]));
			else
				print_graph(&infos[i]);
		}
	} while (n == PAGE);
	return n;
}

static int list_json(struct gpuq *gpuq, uint32_t device)
{
	json_t *array = json_array();
	struct totals t = {0};

	if (show_graphs(gpuq, device, array, &t) < 0) {
		json_decref(array);
		return command_fail();
	}
	return print_json(json_pack("{s:s, s:I, s:o}", "schema", "gpuq-graphs/1", "device",
				  (json_int_t)device, "graphs", array),
		false);
}

static int list_text(struct gpuq *gpuq, uint32_t device)
{
	struct totals t = {0};
	char bytes[16];

	if (show_graphs(gpuq, device, NULL, &t) < 0)
		return command_fail();
	format_bytes(t.bytes, bytes, sizeof(bytes));
	printf("%llu shape%s, %llu captured (%sB), %llu of %llu requests were replays\n",
		(unsigned long long)t.shapes, t.shapes == 1 ? "" : "s",
		(unsigned long long)t.captured, bytes, (unsigned long long)t.hits,
		(unsigned long long)t.uses);
	if (t.shapes == 0)
		printf("Pipelines, large calls and the steps of models have shapes; small calls "
		       "need no graph.\n");
	return finish_output();
}

static int watch(struct gpuq *gpuq, uint32_t device)
{
	const struct timespec pause = {.tv_sec = 1};
	int code;

	do {
		/* On a terminal each list takes the place of the last. */
		printf("%s", isatty(STDOUT_FILENO) ? "\033[H\033[2J" : "");
		code = list_text(gpuq, device);
		printf("\n");
	} while (code == EXIT_OK && nanosleep(&pause, NULL) == 0);
	return code;
}

/* --- Administration ------------------------------------------------------------------------ */

static int act(struct gpuq *gpuq, const struct graphs_options *o)
{
	uint32_t device = (uint32_t)o->device;
	int r;

	switch (o->action) {
	case STOP:
		r = gpuq_admin_capture(gpuq, device, true);
		break;
	case RESUME:
		r = gpuq_admin_capture(gpuq, device, false);
		break;
	case EVICT:
		r = gpuq_admin_evict(gpuq, device, o->id);
		break;
	default:
		if (o->json)
			return list_json(gpuq, device);
		return o->watch ? watch(gpuq, device) : list_text(gpuq, device);
	}
	return r < 0 ? command_fail() : EXIT_OK;
}

static bool take_action(struct graphs_options *o, enum action action)
{
	if (o->action != LIST) {
		complain_usage("--stop, --resume and --evict exclude each other");
		return false;
	}
	o->action = action;
	return true;
}

/* Takes one option; false after a complaint. */
static bool take_option(struct graphs_options *o, int c)
{
	switch (c) {
	case 'd':
		return parse_count("--device", optarg, 0, UINT16_MAX, &o->device);
	case 'j':
		o->json = true;
		return true;
	case 'a':
		o->all = true;
		return true;
	case 'w':
		o->watch = true;
		return true;
	case 'S':
		return take_action(o, STOP);
	case 'R':
		return take_action(o, RESUME);
	default:
		return take_action(o, EVICT) &&
			(strcmp(optarg, "all") == 0 ||
				parse_count("--evict", optarg, 1, UINT64_MAX, &o->id));
	}
}

static int run(struct invocation *v, int argc, char **argv)
{
	static const struct option longs[] = {
		{"device", required_argument, NULL, 'd'},
		{"json", no_argument, NULL, 'j'},
		{"all", no_argument, NULL, 'a'},
		{"watch", no_argument, NULL, 'w'},
		{"stop", no_argument, NULL, 'S'},
		{"resume", no_argument, NULL, 'R'},
		{"evict", required_argument, NULL, 'E'},
		COMMAND_LONGS,
		{NULL},
	};
	struct graphs_options o = {0};
	struct gpuq *gpuq;
	int c;

	while ((c = command_option(v, argc, argv, "d:jaw" COMMAND_SHORTS, longs)) != -1) {
		if (!take_option(&o, c))
			return EXIT_USAGE;
	}
	if (optind < argc)
		return complain_usage("unexpected argument '%s'", argv[optind]);
	if ((o.action != LIST && (o.json || o.watch)) || (o.json && o.watch))
		return complain_usage("only one of --json, --watch, --stop, --resume and --evict");
	if (command_connect(v, o.all || o.action != LIST, &gpuq) < 0)
		return EXIT_FAIL;
	int code = act(gpuq, &o);
	gpuq_disconnect(gpuq);
	return code;
}

const struct command command_graphs = {
	.name = "graphs",
	.arguments = "[--all] [--json | --watch] | --stop | --resume | --evict ID",
	.summary = "List exact shapes and their graphs; stop, resume, evict",
	.help = "  -d, --device D      number of the device (default: 0)\n"
		"  -a, --all           of all users; for administrators\n"
		"  -j, --json          as one JSON document\n"
		"  -w, --watch         again every second\n"
		"      --stop          capture no more graphs; those that are there stay in use\n"
		"      --resume        capture again\n"
		"      --evict ID|all  drop the graph of one shape, or all that are not pinned\n",
	.notes = "Operators that the CPU device computes on the spot have no graph: not listed.\n"
		 "To have graphs captured ahead: gpuq run --capture, and gpuq precapture.\n",
	.run = run,
};
