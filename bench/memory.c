/* SPDX-License-Identifier: MIT */
/*
 * memory.c: what clients that do not use CUDA themselves cost on the device: its memory in use, as
 * the driver's own tool tells it, before and after they have connected and worked.
 */
#include "bench/bench.h"

#include "client/gpuq.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define CLIENTS 8
#define CALLS 200
#define ANSWER_NS 10000000000u
#define SETTLE_NS 300000000u
#define D 64

/* Runs nvidia-smi for the device and keeps what it prints. 0 or a negative errno. */
static int ask_driver(const struct bench *b, const char *query, char *text, size_t size)
{
	const char *colon = strchr(b->device, ':');
	const char *ordinal = colon != NULL ? colon + 1 : "0";
	int fds[2], status = -1;
	ssize_t got;
	size_t n = 0;

	if (pipe(fds) < 0)
		return -errno;
	pid_t pid = fork();
	if (pid == 0) {
		dup2(fds[1], STDOUT_FILENO);
		execlp("nvidia-smi", "nvidia-smi", "-i", ordinal, query,
			"--format=csv,noheader,nounits", NULL);
		_exit(127);
	}
	close(fds[1]);
	while (pid > 0 && n + 1 < size && (got = read(fds[0], text + n, size - 1 - n)) > 0)
		n += (size_t)got;
	text[n] = '\0';
	close(fds[0]);
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return -errno;
	return status == 0 ? 0 : -ENOENT;
}

static int used_mib(const struct bench *b, double *ret_mib)
{
	char text[256];
	int r = ask_driver(b, "--query-gpu=memory.used", text, sizeof(text));

	if (r == 0)
		*ret_mib = strtod(text, NULL);
	return r;
}

/* Memory of one process in the driver's list; 0: it is not there. */
static int process_mib(const struct bench *b, pid_t pid, double *ret_mib)
{
	char text[4096], *save = NULL;
	int r = ask_driver(b, "--query-compute-apps=pid,used_memory", text, sizeof(text));

	*ret_mib = 0;
	if (r < 0)
		return r;
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char *end;
		if (strtol(line, &end, 10) == pid && *end == ',')
			*ret_mib = strtod(end + 1, NULL);
	}
	return 0;
}

/* --- Clients ------------------------------------------------------------------------------- */

static int work(const struct client *c)
{
	struct gpuq_tensor in = {.dtype = GPUQ_F32, .rank = 2, .dims = {D, D}}, out = in;
	struct gpuq_call *call;
	struct gpuq_completion done;
	int r = gpuq_alloc(c->channel, D * D * sizeof(float), &in.data);

	if (r == 0)
		r = gpuq_alloc(c->channel, D * D * sizeof(float), &out.data);
	if (r < 0)
		return r;
	memset(in.data, 0, D * D * sizeof(float));
	r = gpuq_call_create(c->channel, "softmax", &in, 1, &out, 1, NULL, 0, &call);
	for (uint32_t i = 0; i < CALLS && r >= 0; i++) {
		const struct gpuq_submission s = {.call = call};
		r = gpuq_submit(c->channel, &s, 1);
		if (r == 1)
			r = gpuq_wait(c->channel, &done, 1, ANSWER_NS);
		if (r == 1)
			r = done.status;
	}
	return r;
}

/* Works, says so, and stays until it is killed. */
static _Noreturn void client_child(const struct daemon *d, int fd)
{
	struct client client;
	int r;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	r = client_open(d, &client);
	if (r == 0)
		r = work(&client);
	if (write(fd, &r, sizeof(r)) != sizeof(r))
		_exit(1);
	for (;;)
		pause();
}

static int start_client(const struct daemon *d, pid_t *ret_pid)
{
	int fds[2], r = -EPIPE;

	if (pipe(fds) < 0)
		return -errno;
	*ret_pid = fork();
	if (*ret_pid == 0)
		client_child(d, fds[1]);
	close(fds[1]);
	if (*ret_pid < 0 || read(fds[0], &r, sizeof(r)) != sizeof(r))
		r = -EPIPE;
	close(fds[0]);
	return r;
}

static int measure_clients(struct bench *b, const struct daemon *d, pid_t *pids)
{
	double before_mib = 0, after_mib = 0, clients_mib = 0, daemon_mib = 0, mib;
	int r = start_client(d, &pids[0]); /* whatever gpuqd needs only once */

	sleep_ns(SETTLE_NS);
	if (r == 0)
		r = used_mib(b, &before_mib);
	for (uint32_t i = 1; i <= CLIENTS && r == 0; i++)
		r = start_client(d, &pids[i]);
	sleep_ns(SETTLE_NS);
	if (r == 0)
		r = used_mib(b, &after_mib);
	for (uint32_t i = 0; i <= CLIENTS && r == 0; i++) {
		r = process_mib(b, pids[i], &mib);
		clients_mib += mib;
	}
	if (r == 0)
		r = process_mib(b, d->device_pid, &daemon_mib);
	if (r < 0)
		return r;
	report_line("device memory in use: %.0f MiB with 1 client, %.0f MiB with %u more\n",
		before_mib, after_mib, CLIENTS);
	report_check(b, (after_mib - before_mib) / CLIENTS, 0, "device memory of a client, MiB");
	report_check(b, clients_mib, 0, "the same, of all clients in the driver's list, MiB");
	report_figure(b, daemon_mib, "device memory of gpuqd in that list, MiB (0: not shown)");
	return 0;
}

int bench_memory(struct bench *b)
{
	pid_t pids[CLIENTS + 1] = {0};
	struct daemon daemon;
	int r;

	if (strncmp(b->device, "cuda", 4) != 0) {
		complain(0, "memory needs a CUDA device: --device cuda");
		return -GPUQ_ENODEV;
	}
	r = daemon_start(b, &daemon);
	if (r < 0)
		return r;
	r = measure_clients(b, &daemon, pids);
	if (r < 0)
		complain(r, "device memory cannot be measured (is nvidia-smi here?)");
	for (uint32_t i = 0; i <= CLIENTS; i++)
		pair_end(pids[i]);
	daemon_stop(&daemon);
	return r;
}
