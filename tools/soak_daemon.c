/* SPDX-License-Identifier: MIT */
/* soak_daemon.c: starts and ends the gpuqd that is tortured. */
#include "tools/gpuqd_path.h"
#include "tools/soak.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define START_TRIES 6000u
#define TRY_US 10000u
#define END_TRIES 3000u

static _Noreturn void exec_gpuqd(const struct soak_daemon *d, const char *program,
	const char *device, const char *model, const char *socket)
{
	char socket_option[128], device_option[64], model_option[PATH_MAX + 64];

	prctl(PR_SET_PDEATHSIG, SIGTERM);
	snprintf(socket_option, sizeof(socket_option), "--socket=%s", socket);
	snprintf(device_option, sizeof(device_option), "--device=%s", device);
	/* Whatever else is computed: the same tokens each time. */
	snprintf(model_option, sizeof(model_option), "--model=" SOAK_MODEL "=%s,deterministic=yes",
		model != NULL ? model : "");
	int fd = open(d->log, O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0600);
	if (fd >= 0) {
		dup2(fd, STDOUT_FILENO);
		dup2(fd, STDERR_FILENO);
	}
	/* Few records: they are all in memory soon, and a leak shows. */
	execlp(program, "gpuqd", socket_option, device_option, "--hot-list=", "--log=warn",
		"--max-channels=192", "--max-clients=128", "--kv-bytes=4M",
		model != NULL ? model_option : NULL, NULL);
	dprintf(STDERR_FILENO, "cannot run %s: %s\n", program, strerror(errno));
	_exit(127);
}

void soak_daemon_print_log(const struct soak_daemon *d)
{
	char line[512];
	FILE *f = fopen(d->log, "re");

	while (f != NULL && fgets(line, sizeof(line), f) != NULL)
		fprintf(stderr, "  gpuqd: %s", line);
	if (f != NULL)
		fclose(f);
}

static bool is_ready(const struct soak_common *common)
{
	const struct gpuq_options options = {.socket = common->socket, .name = "gpuq-soak"};
	struct gpuq_device_info device = {0};
	struct gpuq_model_info model = {.state = GPUQ_MODEL_READY};
	struct gpuq *g;

	if (gpuq_connect(&options, &g) < 0)
		return false;
	int r = gpuq_device_info(g, 0, &device);
	if (r == 0 && common->has_model)
		r = gpuq_model_find(g, SOAK_MODEL, &model);
	gpuq_disconnect(g);
	return r == 0 && device.ready && model.state == GPUQ_MODEL_READY;
}

static int open_stats(struct soak_daemon *d, const struct soak_common *common)
{
	int r = stats_open(common->socket, false, &d->stats);

	if (r < 0)
		complain("gpuqd's statistics cannot be read: %s", strerror(-r));
	return r;
}

int soak_daemon_start(struct soak_daemon *d, const char *gpuqd, const char *device,
	const char *model, struct soak_common *common)
{
	char program[PATH_MAX + 32];

	snprintf(d->directory, sizeof(d->directory), "/tmp/gpuq-soak-XXXXXX");
	if (mkdtemp(d->directory) == NULL) {
		complain("no folder in /tmp: %s", strerror(errno));
		return -errno;
	}
	snprintf(d->log, sizeof(d->log), "%s/log", d->directory);
	snprintf(common->socket, sizeof(common->socket), "%s/gpuq-0", d->directory);
	gpuqd_path(gpuqd, program, sizeof(program));
	d->pid = fork();
	if (d->pid == 0)
		exec_gpuqd(d, program, device, model, common->socket);
	if (d->pid < 0) {
		const int r = -errno;
		complain("gpuqd cannot be started: %s", strerror(-r));
		return r;
	}
	for (uint32_t i = 0; i < START_TRIES; i++) {
		if (waitpid(d->pid, NULL, WNOHANG) == d->pid) {
			d->pid = -1;
			break;
		}
		if (is_ready(common))
			return open_stats(d, common);
		soak_sleep_us(TRY_US);
	}
	complain("gpuqd does not come up:");
	soak_daemon_print_log(d);
	return -ECHILD;
}

bool soak_daemon_stop(struct soak_daemon *d)
{
	int status = 0;
	pid_t ended = d->pid <= 0 ? d->pid : 0;

	stats_close(&d->stats);
	if (d->pid > 0)
		kill(d->pid, SIGTERM);
	for (uint32_t i = 0; ended == 0 && i < END_TRIES; i++) {
		ended = waitpid(d->pid, &status, WNOHANG);
		soak_sleep_us(TRY_US);
	}
	if (ended == 0) {
		kill(d->pid, SIGKILL);
		(void)waitpid(d->pid, &status, 0);
	}
	bool well = ended == d->pid && WIFEXITED(status) && WEXITSTATUS(status) == 0;
	if (!well)
		complain("gpuqd did not end well (wait status %#x)", (unsigned int)status);
	static const char *const files[] = {"log", "gpuq-0", "gpuq-0-admin", "gpuq-0.lock"};
	for (size_t i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
		char path[96];
		snprintf(path, sizeof(path), "%s/%s", d->directory, files[i]);
		unlink(path);
	}
	rmdir(d->directory);
	return well;
}
