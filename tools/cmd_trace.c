/* SPDX-License-Identifier: MIT */
/* gpuq trace: what gpuqd's flight recorder holds, as a file for Perfetto. */
#include "tools/command.h"
#include "tools/step_shape.h"
#include "tools/trace.h"

#include "shm/clock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define LOOK_NS 1000000u /* between two looks: at full rate the ring lasts some ms */

struct trace_options {
	const char *out, *file;
	double seconds; /* 0: what is there */
};

/* The shapes of graphs, as they are now. */
static struct stats_graph *read_graphs(
	const struct recording *r, const struct stats_header *h, uint32_t *ret_n)
{
	const size_t bytes = (size_t)h->max_graphs * sizeof(struct stats_graph);
	struct stats_graph *graphs = malloc(bytes + 1);

	*ret_n = 0;
	if (graphs == NULL ||
		pread(r->fd, graphs, bytes, (off_t)h->graphs_offset) != (ssize_t)bytes)
		return graphs;
	*ret_n = h->max_graphs;
	for (uint32_t i = 0; i < h->max_graphs; i++) {
		char text[sizeof(graphs[i].shape)];

		graphs[i].shape[sizeof(text) - 1] = '\0';
		if (step_shape_text(graphs[i].shape, text, sizeof(text)))
			snprintf(graphs[i].shape, sizeof(text), "%s", text);
	}
	return graphs;
}

static int record(struct recording *r, double seconds)
{
	const struct timespec pause = {.tv_nsec = LOOK_NS};
	const uint64_t end_ns = clock_monotonic_ns() + (uint64_t)(seconds * 1e9);
	int err = recording_skip(r);

	while (err == 0 && clock_monotonic_ns() < end_ns) {
		nanosleep(&pause, NULL);
		err = recording_read(r);
	}
	return err;
}

static int write_all(const struct trace *t, FILE *out)
{
	errno = 0;
	int err = trace_write(t, out);

	if (err == 0 && (fflush(out) != 0 || ferror(out) != 0))
		err = errno != 0 ? -errno : -EIO;
	return err;
}

/* A trace that is cut short cannot be opened: then the file, if it is one, is not left. */
static int write_file(const struct trace *t, const char *path)
{
	FILE *out = fopen(path, "we");
	struct stat st;

	if (out == NULL) {
		complain("%s: %s", path, strerror(errno));
		return EXIT_FAIL;
	}
	int err = write_all(t, out);
	if (err < 0 && fstat(fileno(out), &st) == 0 && S_ISREG(st.st_mode))
		unlink(path);
	if (fclose(out) != 0 && err == 0)
		err = -errno;
	if (err < 0)
		complain("%s: %s", path, strerror(-err));
	return err < 0 ? EXIT_FAIL : EXIT_OK;
}

static int write_out(const struct trace *t, const char *path)
{
	if (strcmp(path, "-") != 0)
		return write_file(t, path);
	int err = trace_write(t, stdout);
	if (err < 0)
		complain("%s", strerror(-err));
	return err < 0 ? EXIT_FAIL : finish_output();
}

static void say_result(const struct trace *t, const char *path)
{
	const struct recording_ring *rings = t->recording->rings;
	uint64_t n = 0;

	for (uint32_t i = 0; i < RECORDER_RINGS; i++)
		n += rings[i].n;
	if (strcmp(path, "-") != 0)
		printf("%s: %u requests of %u channel%s, from %llu events in %.3f s; "
		       "open it at https://ui.perfetto.dev\n",
			path, t->n_requests, t->n_channels, t->n_channels == 1 ? "" : "s",
			(unsigned long long)n, (double)(t->last_ns - t->first_ns) * 1e-9);
	if (trace_lost(t) > 0)
		complain("%llu events were lost: they came faster than they could be read",
			(unsigned long long)trace_lost(t));
}

static int put_together(
	const struct recording *recording, struct snapshot_source *source, const char *path)
{
	struct snapshot *snapshot;
	struct trace trace;
	uint32_t n_graphs;
	char why[1024];

	/* Names are looked up behind the events: who has come meanwhile is among them. */
	if (snapshot_take(source, &snapshot, why, sizeof(why)) < 0) {
		complain("%s", why);
		return EXIT_FAIL;
	}
	struct stats_graph *graphs = read_graphs(recording, &snapshot->header, &n_graphs);
	int r = trace_build(&trace, recording, snapshot, graphs, n_graphs);
	if (r < 0) {
		complain("%s", strerror(-r));
		snapshot_free(snapshot);
		return EXIT_FAIL;
	}
	int code = write_out(&trace, path);
	if (code == EXIT_OK)
		say_result(&trace, path);
	trace_free(&trace);
	snapshot_free(snapshot);
	return code;
}

static int fail(int error)
{
	if (error == -ENODATA)
		complain("the flight recorder is off; set trace_events in gpuqd.conf");
	else
		complain("the flight recorder cannot be read: %s", strerror(-error));
	return EXIT_FAIL;
}

static int make(struct snapshot_source *source, const struct trace_options *o)
{
	struct stats_header header;
	struct snapshot *snapshot;
	struct recording recording;
	char why[1024];

	/* Chooses the place. */
	if (snapshot_take(source, &snapshot, why, sizeof(why)) < 0) {
		complain("%s", why);
		return EXIT_FAIL;
	}
	snapshot_free(snapshot);
	int fd = snapshot_open(source, &header);
	int r = fd < 0 ? fd : recording_open(fd, &header, &recording);
	if (r < 0)
		return fail(r);
	r = o->seconds > 0 ? record(&recording, o->seconds) : recording_read(&recording);
	int code = r < 0 ? fail(r) : put_together(&recording, source, o->out);
	recording_close(&recording);
	return code;
}

static int run(struct invocation *v, int argc, char **argv)
{
	static const struct option longs[] = {
		{"output", required_argument, NULL, 'o'},
		{"time", required_argument, NULL, 't'},
		{"file", required_argument, NULL, 'f'},
		COMMAND_LONGS,
		{NULL},
	};
	struct trace_options o = {0};
	struct snapshot_source source;
	int c;

	while ((c = command_option(v, argc, argv, "o:t:f:" COMMAND_SHORTS, longs)) != -1) {
		if (c == 'o')
			o.out = optarg;
		else if (c == 'f')
			o.file = optarg;
		else if (!parse_seconds("--time", optarg, 0.001, 3600, &o.seconds))
			return EXIT_USAGE;
	}
	if (optind < argc)
		return complain_usage("unexpected argument '%s'", argv[optind]);
	if (o.out == NULL)
		return complain_usage("no file to write was given: --output FILE");
	if (o.file != NULL && o.seconds > 0)
		return complain_usage("--file and --time exclude each other");
	if (o.file != NULL && v->socket != NULL)
		return complain_usage("--socket and --file exclude each other");
	int r = o.file != NULL ? snapshot_source_file(&source, o.file)
			       : snapshot_source_init(&source, v->socket);
	if (r < 0)
		return complain_usage("the path is too long");
	return make(&source, &o);
}

const struct command command_trace = {
	.name = "trace",
	.arguments = "-o FILE [-t SEC] [--file OBJECT]",
	.summary = "Write what happened to each request, for Perfetto",
	.help = "  -o, --output FILE   where to write; -: standard output\n"
		"  -t, --time SEC      record for so long from now on; without it: what the\n"
		"                      flight recorder holds, of a dead gpuqd its last moments\n"
		"  -f, --file OBJECT   of this statistics object or a copy of one\n",
	.notes =
		"The recorder holds the last trace_events events (gpuqd.conf); with 0 it is off.\n",
	.run = run,
};
