/* SPDX-License-Identifier: MIT */
/* timeline.c: rounds of graphs.c as files: a trace for Perfetto, a drawing by plot.py. */
#include "bench/graphs.h"

#include <plot.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* --- Trace --------------------------------------------------------------------------------- */

enum { TRACK_REPLAYS = 1, TRACK_CAPTURES = 2 };

static void trace_name(
	json_t *events, uint32_t pid, uint32_t tid, const char *what, const char *name)
{
	json_array_append_new(events,
		json_pack("{s:s,s:s,s:i,s:i,s:{s:s}}", "ph", "M", "name", what, "pid", (int)pid,
			"tid", (int)tid, "args", "name", name));
}

/* A slice; times are in microseconds, which JSON's numbers hold to the nanosecond here. */
static void trace_slice(json_t *events, uint32_t pid, uint32_t tid, const char *name,
	uint64_t begin_ns, uint64_t end_ns, json_t *args)
{
	json_array_append_new(events,
		json_pack("{s:s,s:s,s:s,s:i,s:i,s:f,s:f,s:o}", "ph", "X", "name", name, "cat",
			"graphs", "pid", (int)pid, "tid", (int)tid, "ts", (double)begin_ns / 1e3,
			"dur", (double)(end_ns - begin_ns) / 1e3, "args", args));
}

static void trace_round(json_t *events, uint32_t pid, const struct round *round, uint64_t base_ns)
{
	for (uint32_t i = 0; i < round->n_replays; i++) {
		const struct replay *p = &round->replays[i];

		trace_slice(events, pid, TRACK_REPLAYS, "replay", p->start_ns - base_ns,
			p->end_ns - base_ns,
			json_pack("{s:f}", "late_us", (double)(p->start_ns - p->due_ns) / 1e3));
	}
	for (uint32_t i = 0; i < round->n_captures; i++) {
		const struct span *c = &round->captures[i];

		if (c->begin_ns < base_ns)
			continue;
		trace_slice(events, pid, TRACK_CAPTURES, "capture", c->begin_ns - base_ns,
			c->end_ns - base_ns, json_pack("{s:i}", "kernels", (int)c->kernels));
	}
}

int trace_write(const char *path, const struct round *rounds, uint32_t n)
{
	static const char *const names[] = {
		"quiet", "captures in the background", "captures by the serving thread"};
	json_t *events = json_array();
	json_t *root = json_pack("{s:s,s:o}", "displayTimeUnit", "ns", "traceEvents", events);
	int r = root == NULL ? -ENOMEM : 0;

	for (uint32_t i = 0; i < n && r == 0; i++) {
		trace_name(events, i + 1, 0, "process_name", names[i]);
		trace_name(events, i + 1, TRACK_REPLAYS, "thread_name", "replays");
		trace_name(events, i + 1, TRACK_CAPTURES, "thread_name", "captures");
		trace_round(events, i + 1, &rounds[i], rounds[i].begin_ns);
	}
	errno = EIO;
	if (r == 0 && json_dump_file(root, path, JSON_COMPACT) < 0)
		r = -errno;
	json_decref(root);
	return r;
}

/* --- Drawing ------------------------------------------------------------------------------- */

json_t *round_json(const struct round *round, const char *title, uint32_t kernels)
{
	json_t *replays = json_array(), *captures = json_array();

	for (uint32_t i = 0; i < round->n_replays; i++) {
		const struct replay *p = &round->replays[i];
		json_array_append_new(replays,
			json_pack("[f,f]", (double)(p->due_ns - round->begin_ns) / 1e6,
				(double)(p->end_ns - p->due_ns) / 1e3));
	}
	for (uint32_t i = 0; i < round->n_captures; i++) {
		const struct span *c = &round->captures[i];
		double begin_ns = (double)c->begin_ns - (double)round->begin_ns;
		json_array_append_new(captures,
			json_pack("[f,f]", begin_ns / 1e6,
				((double)c->end_ns - (double)round->begin_ns) / 1e6));
	}
	return json_pack("{s:s,s:i,s:o,s:o}", "title", title, "kernels", (int)kernels,
		"replays_ms_us", replays, "captures_ms", captures);
}

/* The program is compiled in; it reads a file and writes one. */
static int run_python(const struct bench *b, const char *input)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		execlp(b->python, b->python, "-c", plot_py, input, b->plot, NULL);
		dprintf(STDERR_FILENO, "gpuq-bench: cannot run %s: %s\n", b->python,
			strerror(errno));
		_exit(127);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return -errno;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EIO;
}

int plot_write(const struct bench *b, json_t *rounds)
{
	char path[] = "/tmp/gpuq-bench-XXXXXX";
	int fd = mkstemp(path);
	int r = fd < 0 ? -errno : 0;

	if (r == 0 && json_dumpfd(rounds, fd, JSON_COMPACT) < 0)
		r = -EIO;
	if (r == 0)
		r = run_python(b, path);
	if (fd >= 0) {
		unlink(path);
		close(fd);
	}
	if (r < 0)
		complain(0, "%s is not drawn (see --python)", b->plot);
	return r;
}
