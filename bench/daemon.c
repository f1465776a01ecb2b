/* SPDX-License-Identifier: MIT */
/* daemon.c: starts, pins, watches and ends the gpuqd that is measured. */
#include "bench/bench.h"

#include "client/gpuq.h"
#include "shm/stats.h"
#include "tools/gpuqd_path.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define START_TRIES 3000
#define TRY_NS 10000000u
#define DISPATCH_THREAD "gpuqd-dispatch"

static _Noreturn void exec_gpuqd(const struct bench *b, const struct daemon *d)
{
	char path[PATH_MAX + 32], log[128], socket[128], device[64];

	gpuqd_path(b->gpuqd, path, sizeof(path));
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	cpus_free(0);
	if (strcmp(b->device, "cpu") == 0 && !b->many_cpus)
		cpus_pin(0, b->client_cpu, b->server_cpu);
	snprintf(log, sizeof(log), "%s/log", d->directory);
	snprintf(socket, sizeof(socket), "--socket=%s", d->socket);
	snprintf(device, sizeof(device), "--device=%s", b->device);
	int fd = open(log, O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0600);
	if (fd >= 0) {
		dup2(fd, STDOUT_FILENO);
		dup2(fd, STDERR_FILENO);
	}
	execlp(path, "gpuqd", socket, device, "--hot-list=", "--max-channels=2048",
		"--max-channels-per-client=64", "--max-channels-per-user=2048",
		"--max-clients=1024", "--max-clients-per-user=1024", b->gpuqd_arguments[0],
		b->gpuqd_arguments[1], NULL);
	dprintf(STDERR_FILENO, "cannot run %s: %s\n", path, strerror(errno));
	_exit(127);
}

static void print_log(const struct daemon *d)
{
	char path[128], line[512];

	snprintf(path, sizeof(path), "%s/log", d->directory);
	FILE *f = fopen(path, "re");
	while (f != NULL && fgets(line, sizeof(line), f) != NULL)
		fprintf(stderr, "  gpuqd: %s", line);
	if (f != NULL)
		fclose(f);
}

/* Waits until a connection works and the device is there. */
static int await_ready(struct daemon *d)
{
	const struct gpuq_options options = {.socket = d->socket, .name = "gpuq-bench"};
	int r = -ETIMEDOUT;

	for (uint32_t i = 0; i < START_TRIES; i++) {
		struct gpuq_device_info info = {0};
		struct gpuq *g;

		if (d->private && waitpid(d->pid, NULL, WNOHANG) == d->pid) {
			d->pid = 0;
			return -ECHILD;
		}
		r = gpuq_connect(&options, &g);
		if (r == 0) {
			r = gpuq_device_info(g, 0, &info);
			gpuq_disconnect(g);
			if (r == 0 && info.ready)
				return 0;
		} else if (!d->private) {
			return r;
		}
		sleep_ns(TRY_NS);
	}
	return r < 0 ? r : -ETIMEDOUT;
}

/* Finds the processes behind a socket. */
static int find_processes(struct daemon *d)
{
	struct stats stats;
	int r = stats_open(d->socket, false, &stats);

	if (r < 0)
		return r;
	d->pid = (pid_t)stats.header->control_pid;
	d->device_pid = (pid_t)stats.devices[0].pid;
	stats_close(&stats);
	return 0;
}

static int launch(const struct bench *b, struct daemon *d)
{
	snprintf(d->directory, sizeof(d->directory), "/tmp/gpuq-bench-XXXXXX");
	if (mkdtemp(d->directory) == NULL)
		return -errno;
	snprintf(d->socket, sizeof(d->socket), "%s/socket", d->directory);
	d->private = true;
	d->pid = fork();
	if (d->pid == 0)
		exec_gpuqd(b, d);
	return d->pid < 0 ? -errno : 0;
}

int daemon_start(const struct bench *b, struct daemon *ret_daemon)
{
	struct daemon d = {0};
	int r = 0;

	progress("starting gpuqd");
	if (b->socket != NULL)
		snprintf(d.socket, sizeof(d.socket), "%s", b->socket);
	else
		r = launch(b, &d);
	if (r == 0)
		r = await_ready(&d);
	if (r == 0)
		r = find_processes(&d);
	if (r < 0) {
		complain(r, "no gpuqd to measure at %s (see --gpuqd and --socket)", d.socket);
		print_log(&d);
		daemon_stop(&d);
		return r;
	}
	daemon_pin(&d, b->server_cpu);
	*ret_daemon = d;
	return 0;
}

void daemon_stop(struct daemon *d)
{
	char path[128];

	if (!d->private)
		return;
	if (d->pid > 0) {
		kill(d->pid, SIGTERM);
		waitpid(d->pid, NULL, 0);
	}
	static const char *const names[] = {"log", "socket", "socket.lock", "socket-admin"};
	for (uint32_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		snprintf(path, sizeof(path), "%s/%s", d->directory, names[i]);
		unlink(path);
	}
	rmdir(d->directory);
	*d = (struct daemon){0};
}

/* --- Its threads --------------------------------------------------------------------------- */

/* Calls visit() for each thread of a process and adds up what it returns. */
static uint64_t each_thread(
	pid_t pid, uint64_t (*visit)(pid_t pid, pid_t tid, void *arg), void *arg)
{
	char path[64];
	uint64_t sum = 0;

	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	DIR *tasks = pid > 0 ? opendir(path) : NULL;
	struct dirent *entry;

	while (tasks != NULL && (entry = readdir(tasks)) != NULL) {
		pid_t tid = (pid_t)strtol(entry->d_name, NULL, 10);
		if (tid > 0)
			sum += visit(pid, tid, arg);
	}
	if (tasks != NULL)
		closedir(tasks);
	return sum;
}

/* Reads a small file of a thread in /proc. */
static const char *read_task(pid_t pid, pid_t tid, const char *name, char *text, size_t size)
{
	char path[96];
	ssize_t n = -1;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/%s", pid, tid, name);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		n = read(fd, text, size - 1);
		close(fd);
	}
	text[n > 0 ? n : 0] = '\0';
	return text;
}

/* Time on a CPU in nanoseconds: the first number of schedstat. */
static uint64_t thread_cpu_ns(pid_t pid, pid_t tid, void *arg)
{
	char text[128];

	return strtoull(read_task(pid, tid, "schedstat", text, sizeof(text)), NULL, 10);
}

uint64_t daemon_cpu_ns(const struct daemon *d)
{
	return each_thread(d->pid, thread_cpu_ns, NULL) +
		each_thread(d->device_pid, thread_cpu_ns, NULL);
}

static uint64_t pin_if_dispatcher(pid_t pid, pid_t tid, void *arg)
{
	const int *cpu = arg;
	char name[32];

	read_task(pid, tid, "comm", name, sizeof(name));
	if (strncmp(name, DISPATCH_THREAD, strlen(DISPATCH_THREAD)) != 0)
		return 0;
	return (cpu == NULL ? cpus_free(tid) : cpus_pin(tid, *cpu, *cpu)) == 0;
}

/* cpu: NULL for all */
static void put_dispatcher(const struct daemon *d, int *cpu)
{
	if (!d->private)
		return;
	/* Ready, it may still have to be scheduled for the first time and take its name. */
	for (uint32_t i = 0; i < START_TRIES; i++) {
		if (each_thread(d->device_pid, pin_if_dispatcher, cpu) == 1)
			return;
		sleep_ns(TRY_NS);
	}
	complain(0, "gpuqd's dispatcher was not found; it runs where the kernel puts it");
}

void daemon_pin(const struct daemon *d, int cpu)
{
	put_dispatcher(d, &cpu);
}

void daemon_free(const struct daemon *d)
{
	put_dispatcher(d, NULL);
}

uint64_t daemon_sleeps(const struct daemon *d)
{
	struct stats stats;
	uint64_t sleeps = 0;

	if (stats_open(d->socket, false, &stats) < 0)
		return 0;
	sleeps = shm_load_relaxed(&stats.devices[0].sleeps);
	stats_close(&stats);
	return sleeps;
}
