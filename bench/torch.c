/* SPDX-License-Identifier: MIT */
/*
 * torch.c: runs torch_ops.py, which is compiled in, with the user's Python, and shows what PyTorch
 * takes for the operators of op.c. Its samples become series like all others.
 */
#include "bench/bench.h"

#include <torch_ops.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define TORCH_SAMPLES 50000
#define MAX_CASES 8

/* Starts Python on the client's CPU; *ret_fd is its output. */
static int start_python(const struct bench *b, int *ret_fd, pid_t *ret_pid)
{
	int fds[2];
	char samples[24];

	if (pipe(fds) < 0)
		return -errno;
	snprintf(samples, sizeof(samples), "%llu",
		(unsigned long long)(b->samples > 0 && b->samples < TORCH_SAMPLES ? b->samples
										  : TORCH_SAMPLES));
	pid_t pid = fork();
	if (pid == 0) {
		cpus_pin(0, b->client_cpu, b->client_cpu);
		dup2(fds[1], STDOUT_FILENO);
		execlp(b->python, b->python, "-c", torch_ops_py, samples, NULL);
		_exit(127);
	}
	close(fds[1]);
	if (pid < 0) {
		close(fds[0]);
		return -errno;
	}
	*ret_fd = fds[0];
	*ret_pid = pid;
	return 0;
}

static json_t *run_python(const struct bench *b)
{
	json_error_t error;
	int fd = -1;
	pid_t pid = -1;

	if (start_python(b, &fd, &pid) < 0)
		return NULL;
	json_t *answer = json_loadfd(fd, JSON_DISABLE_EOF_CHECK, &error);
	close(fd);
	waitpid(pid, NULL, 0);
	return answer;
}

static int series_take(struct contender *c, const char *title, const json_t *samples)
{
	struct series *s = &c->series;
	const json_t *sample;
	size_t i;

	c->name = title;
	s->ns = calloc(BENCH_BUCKETS, sizeof(*s->ns));
	s->milli = calloc(BENCH_BUCKETS, sizeof(*s->milli));
	if (s->ns == NULL || s->milli == NULL)
		return -ENOMEM;
	json_array_foreach(samples, i, sample)
	{
		uint64_t ns = (uint64_t)json_integer_value(sample);
		hist_add(s->ns, HIST_BENCH_BITS, ns);
		s->max_ns = ns > s->max_ns ? ns : s->max_ns;
		s->total++;
	}
	/* Measured by another program at another time, it has no unit but its own median. */
	uint64_t p50_ns = hist_quantile(s->ns, HIST_BENCH_BITS, 0.5);
	json_array_foreach(samples, i, sample)
	{
		hist_add(s->milli, HIST_BENCH_BITS,
			1000 * (uint64_t)json_integer_value(sample) / (p50_ns > 0 ? p50_ns : 1));
	}
	s->round_p50_ns[s->rounds++] = (double)p50_ns;
	return 0;
}

static int torch_report(struct bench *b, json_t *answer)
{
	struct contender set[MAX_CASES] = {0};
	const char *title;
	char heading[96];
	json_t *samples;
	uint32_t n = 0;
	int r = 0;

	snprintf(heading, sizeof(heading), "op: PyTorch %s in process, one thread",
		json_string_value(json_object_get(answer, "torch")));
	json_object_foreach(json_object_get(answer, "ops"), title, samples)
	{
		if (n < MAX_CASES && r == 0)
			r = series_take(&set[n++], title, samples);
	}
	if (r == 0 && n > 0)
		report_table(b, heading, "own", set, n);
	contenders_free(set, n);
	return r;
}

int torch_table(struct bench *b)
{
	int r = 0;

	progress("PyTorch");
	json_t *answer = run_python(b);
	const char *reason = json_string_value(json_object_get(answer, "error"));
	if (answer == NULL)
		complain(0, "no comparison with PyTorch: %s did not run (see --python)", b->python);
	else if (reason != NULL)
		complain(0, "no comparison with PyTorch: %s (see --python)", reason);
	else
		r = torch_report(b, answer);
	json_decref(answer);
	return r;
}
