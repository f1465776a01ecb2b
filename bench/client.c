/* SPDX-License-Identifier: MIT */
/* client.c: clients of the gpuqd that is measured: one that asks, and crowds that only wait. */
#include "bench/bench.h"

#include "client/gpuq.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define ANSWER_NS 10000000000u /* a completion that takes longer will never come */

int client_open(const struct daemon *d, struct client *ret_client)
{
	const struct gpuq_options options = {.socket = d->socket, .name = "gpuq-bench"};
	struct client c = {0};
	int r = gpuq_connect(&options, &c.gpuq);

	if (r == 0)
		r = gpuq_channel_open(c.gpuq, NULL, &c.channel);
	if (r < 0) {
		complain(0, "%s", gpuq_error_detail());
		gpuq_disconnect(c.gpuq);
		return r;
	}
	*ret_client = c;
	return 0;
}

void client_close(struct client *c)
{
	gpuq_disconnect(c->gpuq);
	*c = (struct client){0};
}

static inline int submit_null(struct client *c)
{
	const struct gpuq_submission s = {.user_data = c->next++};

	return gpuq_submit(c->channel, &s, 1);
}

/* What a null operation's completion must look like. */
static inline int check_null(const struct client *c, int taken, const struct gpuq_completion *done)
{
	if (taken != 1)
		return taken < 0 ? taken : -EPROTO;
	return done->user_data == c->next - 1 ? done->status : -EPROTO;
}

int client_null_wait(void *client)
{
	struct client *c = client;
	struct gpuq_completion done;
	int r = submit_null(c);

	return r < 0 ? r : check_null(c, gpuq_wait(c->channel, &done, 1, ANSWER_NS), &done);
}

int client_null_poll(void *client)
{
	struct client *c = client;
	struct gpuq_completion done;
	int r = submit_null(c);

	if (r < 0)
		return r;
	while ((r = gpuq_poll(c->channel, &done, 1)) == 0)
		shm_pause();
	return check_null(c, r, &done);
}

int client_null_event(void *client)
{
	struct client *c = client;
	struct gpuq_completion done;
	struct pollfd p = {.fd = gpuq_completion_fd(c->channel), .events = POLLIN};
	int r = submit_null(c);

	if (r < 0)
		return r;
	r = gpuq_arm(c->channel);
	if (r == 0 && poll(&p, 1, (int)(ANSWER_NS / 1000000u)) <= 0)
		return -ETIMEDOUT;
	return r < 0 ? r : check_null(c, gpuq_poll(c->channel, &done, 1), &done);
}

/* --- Crowds -------------------------------------------------------------------------------- */

#define CROWD_MAX 2048

struct crowd_order {
	uint32_t channels;
	bool connections;
};

/* The crowd's process. */
struct crowd_members {
	struct gpuq *gpuqs[CROWD_MAX];
	uint32_t n;
};

static int crowd_connect(struct crowd_members *m, const struct daemon *d, uint32_t *ret_room)
{
	const struct gpuq_options options = {.socket = d->socket, .name = "gpuq-bench-idle"};
	struct gpuq_limits limits;

	if (m->n == CROWD_MAX)
		return -E2BIG;
	int r = gpuq_connect(&options, &m->gpuqs[m->n]);
	if (r < 0)
		return r;
	gpuq_limits(m->gpuqs[m->n++], &limits);
	*ret_room = limits.max_channels;
	return 0;
}

static int crowd_obey(
	struct crowd_members *m, const struct daemon *d, const struct crowd_order *order)
{
	const struct gpuq_channel_options small = {.sq_entries = 8, .arena_bytes = WIRE_PAGE_SIZE};
	uint32_t room = 0;

	for (uint32_t i = 0; i < m->n && order->channels == 0; i++)
		gpuq_disconnect(m->gpuqs[i]);
	if (order->channels == 0)
		m->n = 0;
	for (uint32_t i = 0; i < order->channels; i++) {
		struct gpuq_channel *channel;
		int r = room == 0 ? crowd_connect(m, d, &room) : 0;

		if (r == 0)
			r = gpuq_channel_open(m->gpuqs[m->n - 1], &small, &channel);
		if (r < 0) {
			complain(0, "idle channel %u: %s", i, gpuq_error_detail());
			return r;
		}
		room = order->connections ? 0 : room - 1;
	}
	return 0;
}

static _Noreturn void crowd_child(const struct daemon *d, int ask_fd, int answer_fd)
{
	static struct crowd_members members;
	struct rlimit files;
	struct crowd_order order;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	while (read(ask_fd, &order, sizeof(order)) == sizeof(order)) {
		int r = crowd_obey(&members, d, &order);
		if (write(answer_fd, &r, sizeof(r)) != sizeof(r))
			break;
	}
	_exit(0);
}

int crowd_start(const struct daemon *d, struct crowd *ret_crowd)
{
	int ask[2], answer[2];

	if (pipe(ask) < 0)
		return -errno;
	if (pipe(answer) < 0) {
		close(ask[0]);
		close(ask[1]);
		return -errno;
	}
	pid_t pid = fork();
	if (pid == 0) {
		close(ask[1]);
		close(answer[0]);
		crowd_child(d, ask[0], answer[1]);
	}
	close(ask[0]);
	close(answer[1]);
	*ret_crowd = (struct crowd){.pid = pid, .ask_fd = ask[1], .answer_fd = answer[0]};
	return pid < 0 ? -errno : 0;
}

int crowd_open(struct crowd *c, uint32_t channels, bool connections)
{
	struct crowd_order order = {.channels = channels, .connections = connections};
	int answer = -EPIPE;

	if (write(c->ask_fd, &order, sizeof(order)) != sizeof(order) ||
		read(c->answer_fd, &answer, sizeof(answer)) != sizeof(answer))
		return -EPIPE;
	return answer;
}

void crowd_stop(struct crowd *c)
{
	if (c->pid <= 0)
		return;
	close(c->ask_fd);
	close(c->answer_fd);
	kill(c->pid, SIGKILL);
	waitpid(c->pid, NULL, 0);
	*c = (struct crowd){0};
}
