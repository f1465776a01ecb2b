/* SPDX-License-Identifier: MIT */
/* The control process from its start to its end, and its loop. */
#include "daemon/control.h"
#include "daemon/log.h"
#include "shm/segment.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define RING_ENTRIES 256

/* --- The ring ------------------------------------------------------------------------------ */

struct io_uring_sqe *control_sqe(struct control *c)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&c->ring);

	while (sqe == NULL) {
		io_uring_submit(&c->ring);
		sqe = io_uring_get_sqe(&c->ring);
	}
	return sqe;
}

void control_cancel(struct control *c, enum op_kind kind, uint32_t index)
{
	struct io_uring_sqe *sqe = control_sqe(c);

	io_uring_prep_cancel64(sqe, (uint64_t)kind << 32 | index, 0);
	control_tag(sqe, OP_IGNORE, 0);
}

void control_timeout(struct control *c, enum op_kind kind, struct __kernel_timespec *after)
{
	struct io_uring_sqe *sqe = control_sqe(c);

	io_uring_prep_timeout(sqe, after, 0, 0);
	control_tag(sqe, kind, 0);
}

static void signal_arm(struct control *c)
{
	struct io_uring_sqe *sqe = control_sqe(c);

	io_uring_prep_read(sqe, c->signal_fd, &c->signal, sizeof(c->signal), 0);
	control_tag(sqe, OP_SIGNAL, 0);
}

const char *control_hint(int error)
{
	return error == -EPERM || error == -ENOSYS
		? "; a seccomp profile of the container or the service may forbid it"
		: "";
}

/* Why a container or a system refuses what this process is built on, and what to change. */
static void ring_refused(int error)
{
	char disabled = '0';
	int fd = open("/proc/sys/kernel/io_uring_disabled", O_RDONLY | O_CLOEXEC);

	if (fd >= 0) {
		if (read(fd, &disabled, 1) != 1)
			disabled = '0';
		close(fd);
	}
	if (disabled != '0')
		log_error("io_uring is switched off: %s; set the sysctl kernel.io_uring_disabled "
			  "to 0 (it is %c)",
			strerror(-error), disabled);
	else if (error == -EPERM || error == -ENOSYS)
		log_error("io_uring is refused: %s; allow the system calls io_uring_setup, "
			  "io_uring_enter and io_uring_register in the seccomp profile of the "
			  "container or the service (Linux 6.1 or later is needed)",
			strerror(-error));
	else
		log_error("io_uring cannot be set up: %s", strerror(-error));
}

static int ring_create(struct control *c)
{
	struct io_uring_params p = {
		.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN};

	int r = io_uring_queue_init_params(RING_ENTRIES, &c->ring, &p);
	if (r == -EINVAL) {
		p = (struct io_uring_params){0};
		r = io_uring_queue_init_params(RING_ENTRIES, &c->ring, &p);
	}
	if (r < 0) {
		c->ring.ring_fd = -1;
		ring_refused(r);
	}
	return r;
}

/* --- Beginning ----------------------------------------------------------------------------- */

/* Many clients need many descriptors: takes what the hard limit gives. */
static void descriptors_raise(const struct config *config)
{
	uint64_t wanted = 64 + 2 * config->max_clients + 3 * config->max_channels +
		config->max_buffers + config->max_models;
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return;
	limit.rlim_cur = limit.rlim_max;
	(void)setrlimit(RLIMIT_NOFILE, &limit);
	if (limit.rlim_cur < wanted)
		log_warn("only %llu file descriptors are allowed, max_clients, max_channels and "
			 "max_buffers may need %llu; raise the limit (LimitNOFILE), proceeding",
			(unsigned long long)limit.rlim_cur, (unsigned long long)wanted);
}

static int signals_create(struct control *c)
{
	sigset_t set;

	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGCHLD);
	sigprocmask(SIG_BLOCK, &set, NULL);
	c->signal_fd = signalfd(-1, &set, SFD_CLOEXEC);
	int r = c->signal_fd < 0 ? -errno : 0;
	if (r < 0)
		log_error("signals cannot be received (signalfd): %s%s", strerror(-r),
			control_hint(r));
	return r;
}

static int listen_begin(struct control *c)
{
	char path[LISTEN_PATH_MAX], error[LISTEN_ERROR_MAX];
	const struct config *config = c->config;
	const struct service *s = &c->service;
	int r = 0;

	/* Who may administer is asked of each connection; the mode is a second door. */
	const mode_t modes[2] = {
		(mode_t)config->socket_mode, config_has_admins(config) ? 0666 : 0600};
	snprintf(path, sizeof(path), "%s", config->socket);
	if (path[0] == '\0' && s->n_fds == 0)
		r = listener_default_path(path, sizeof(path), error);
	if (r == 0)
		r = listener_open(&c->listener, path[0] != '\0' ? path : NULL, modes, s->fds,
			s->n_fds, error);
	if (r < 0)
		log_error("%s", error);
	return r;
}

static int tables_create(struct control *c)
{
	uint64_t bytes =
		ledger_bytes((uint32_t)c->config->max_channels, (uint32_t)c->config->max_in_flight);
	int r = session_table_create(c);

	if (r == 0)
		r = channel_table_create(c);
	if (r == 0)
		r = buffer_records_create(c);
	if (r == 0)
		r = registration_table_create(c);
	if (r == 0)
		r = model_table_create(c);
	if (r == 0) {
		r = c->device.ledger_fd = segment_create("gpuq-ledger", bytes);
		if (r < 0)
			log_error("memory to be shared cannot be made (memfd_create): %s%s",
				strerror(-r), control_hint(r));
	}
	if (r >= 0)
		r = watch_create(c);
	if (r >= 0)
		r = restart_create(c);
	if (r >= 0) {
		c->reserve_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
		r = c->reserve_fd < 0 ? -errno : 0;
	}
	if (r < 0)
		log_error("cannot begin: %s", strerror(-r));
	return r;
}

static int control_begin(struct control *c)
{
	descriptors_raise(c->config);
	int r = signals_create(c);
	if (r == 0)
		r = listen_begin(c);
	if (r == 0)
		r = ring_create(c);
	if (r == 0)
		r = tables_create(c);
	if (r == 0)
		r = control_publish(c);
	if (r == 0)
		r = model_configure(c);
	if (r < 0)
		return r;
	graph_hot_list_prepare(c);
	c->tick.tv_sec = 1;
	signal_arm(c);
	control_timeout(c, OP_TICK, &c->tick);
	control_timeout(c, OP_WATCH, &c->watch);
	service_watchdog(c);
	return device_start(c);
}

void control_serve(struct control *c)
{
	char name[STATS_PATH_MAX];

	control_set_state(c, c->draining ? WIRE_DRAINING : WIRE_SERVING);
	session_listen(c, false);
	session_listen(c, true);
	stats_name(c->listener.path, name, sizeof(name));
	log_info("version " GPUQ_VERSION " serves %s; statistics are in /dev/shm%s, read them with "
		 "'gpuq-top --socket %s'",
		c->listener.path, name, c->listener.path);
	service_show(c);
	service_tell(&c->service, "READY=1");
}

/* --- Ending -------------------------------------------------------------------------------- */

void control_goodbye(struct control *c, int status, const char *text)
{
	for (uint32_t i = 0; i < c->n_sessions; i++) {
		if (c->sessions[i].state == SESSION_LIVE)
			session_goodbye(c, &c->sessions[i], status, text);
		else
			session_close(c, &c->sessions[i]);
	}
}

void control_finish(struct control *c, int exit_code)
{
	c->finished = true;
	c->exit_code = exit_code;
}

void control_drain(struct control *c, const char *why)
{
	uint64_t timeout_ms = c->config->drain_timeout_ms;

	if (c->draining)
		return;
	c->draining = true;
	log_info("%s: finishing what is in flight, for at most %llu ms", why,
		(unsigned long long)timeout_ms);
	control_set_state(c, WIRE_DRAINING);
	service_draining(c);
	if (!c->device.was_ready || timeout_ms == 0) {
		control_finish(c, 0);
		return;
	}
	device_drain(c);
	c->drain_at.tv_sec = (long long)(timeout_ms / 1000);
	c->drain_at.tv_nsec = (long long)(timeout_ms % 1000 * 1000000);
	control_timeout(c, OP_DRAIN, &c->drain_at);
}

void control_drained(struct control *c)
{
	if (c->draining)
		control_finish(c, 0);
}

/*
 * Sockets that are closed with packets unread lose our last words. Nobody can send any more, so
 * what is there is all.
 */
static void sessions_flush(struct control *c)
{
	char scratch[64];

	for (uint32_t i = 0; i < c->n_sessions; i++) {
		const struct session *s = &c->sessions[i];

		while (s->state != SESSION_FREE &&
			recv(s->fd, scratch, sizeof(scratch), MSG_DONTWAIT) > 0)
			;
	}
}

/* The segments are left as they are: clients may still read completions from them. */
static void control_end(struct control *c)
{
	if (c->stats.header != NULL) {
		/* The reason first: a client that sees the state looks for it on the socket. */
		control_goodbye(c, -GPUQ_EDRAIN, "gpuqd was told to end");
		control_set_state(c, WIRE_STOPPED);
		sessions_flush(c);
		device_stop(c);
		control_unpublish(c);
	}
	listener_close(&c->listener);
	if (c->ring.ring_fd >= 0)
		io_uring_queue_exit(&c->ring);
	buffer_records_destroy(c);
	registration_table_destroy(c);
	model_table_destroy(c);
	free(c->channels);
	free(c->sessions);
}

/* --- The loop ------------------------------------------------------------------------------ */

static void on_signal(struct control *c, int result)
{
	uint32_t number = result == (int)sizeof(c->signal) ? c->signal.ssi_signo : 0;
	char why[32];

	snprintf(why, sizeof(why), "SIG%s", number == 0 ? "?" : sigabbrev_np((int)number));
	if (number == SIGCHLD) {
		device_reap(c);
	} else if (number == SIGHUP) {
		control_reload(c);
	} else if (number != 0 && c->draining) {
		log_info("%s again: ending at once", why);
		control_finish(c, 0);
	} else if (number != 0) {
		control_drain(c, why);
	}
	signal_arm(c);
}

static void on_timer(struct control *c, enum op_kind kind)
{
	if (kind == OP_TICK) {
		control_tick(c);
		control_timeout(c, OP_TICK, &c->tick);
	} else if (kind == OP_WATCH) {
		watch_device(c);
		control_timeout(c, OP_WATCH, &c->watch);
	} else {
		log_warn("work was still in flight after drain_timeout_ms, ending without it");
		control_finish(c, 0);
	}
}

static void on_completion(struct control *c, const struct io_uring_cqe *cqe)
{
	enum op_kind kind = (enum op_kind)(cqe->user_data >> 32);
	uint32_t index = (uint32_t)cqe->user_data;

	switch (kind) {
	case OP_IGNORE:
		break;
	case OP_ACCEPT:
		session_accepted(c, index, cqe->res, (cqe->flags & IORING_CQE_F_MORE) != 0);
		break;
	case OP_ACCEPT_READY:
		session_accept_ready(c, index);
		break;
	case OP_SIGNAL:
		on_signal(c, cqe->res);
		break;
	case OP_TICK:
	case OP_WATCH:
	case OP_DRAIN:
		on_timer(c, kind);
		break;
	case OP_WATCHDOG:
		service_watchdog(c);
		break;
	case OP_HANDSHAKE:
		session_deadline(c);
		break;
	case OP_RECV:
		session_received(c, &c->sessions[index], cqe->res);
		break;
	case OP_PIDFD:
		session_process_ended(c, &c->sessions[index], cqe->res);
		break;
	case OP_ALLOCATE:
		channel_allocated(c, &c->channels[index], cqe->res);
		break;
	case OP_PUNCH:
		channel_punched(c, &c->channels[index], cqe->res);
		break;
	case OP_PUNCH_BUFFER:
		buffer_punched(c, &c->buffers[index]);
		break;
	case OP_LINK_RECV:
		device_received(c, cqe->res);
		break;
	case OP_RESTART:
		restart_deadline(c, index);
		break;
	case OP_LINK_ROOM:
		device_has_room(c);
		break;
	}
}

static void control_loop(struct control *c)
{
	struct io_uring_cqe *cqe;

	while (!c->finished) {
		int r = io_uring_submit_and_wait(&c->ring, 1);
		if (r < 0 && r != -EINTR && r != -EAGAIN && r != -EBUSY) {
			log_error("io_uring_enter: %s", strerror(-r));
			control_finish(c, 1);
		}
		while (!c->finished && io_uring_peek_cqe(&c->ring, &cqe) == 0) {
			struct io_uring_cqe copy = {
				.user_data = cqe->user_data, .res = cqe->res, .flags = cqe->flags};
			io_uring_cqe_seen(&c->ring, cqe);
			on_completion(c, &copy);
		}
	}
}

int control_main(struct config *config, const struct config_source *source)
{
	struct control *c = calloc(1, sizeof(*c));

	if (c == NULL) {
		log_error("no memory");
		return 1;
	}
	c->config = c->taken = config;
	c->source = source;
	c->ring.ring_fd = -1;
	c->listener = (struct listener){.fd = -1, .admin_fd = -1, .lock_fd = -1};
	c->device.link_fd = -1;
	c->device.restart.exe_fd = -1;
	c->device.in_fd = -1;
	TAILQ_INIT(&c->device.outbox);
	c->exit_code = 1;
	int r = service_init(&c->service);
	if (r < 0)
		log_error("the service manager passed more sockets than two: one for clients and "
			  "one for administrators are wanted");
	if (r == 0 && control_begin(c) >= 0)
		control_loop(c);
	control_end(c);
	service_end(&c->service);
	int exit_code = c->exit_code;
	free(c);
	return exit_code;
}
