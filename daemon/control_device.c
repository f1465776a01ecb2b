/* SPDX-License-Identifier: MIT */
/* The device process, seen from the control process: started, told, replaced when it ends. */
#define LOG_TOPIC LOG_DEVICE
#include "daemon/control.h"
#include "daemon/log.h"
#include "shm/atomics.h"
#include "shm/failpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define DEVICE_STOP_MS 2000 /* for a device process to end by itself */
#define SPARE_FD 16	    /* above all descriptors that have a fixed place */

static struct stats_device *record(struct control *c)
{
	return &c->stats.devices[c->device.index];
}

/* --- Starting ------------------------------------------------------------------------------ */

/*
 * Puts descriptors in their places; they may lie in each other's now. Between fork and exec; what
 * is behind them is closed by exec.
 */
static bool place_descriptors(const int from[4])
{
	int spare[4], null;

	for (int i = 0; i < 4; i++) {
		spare[i] = fcntl(from[i], F_DUPFD_CLOEXEC, SPARE_FD);
		if (spare[i] < 0)
			return false;
	}
	for (int i = 0; i < 4; i++) {
		if (dup2(spare[i], DEVLINK_FD_LINK + i) < 0)
			return false;
	}
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	return null >= 0 && dup2(null, STDIN_FILENO) == STDIN_FILENO &&
		dup2(null, STDOUT_FILENO) == STDOUT_FILENO &&
		syscall(SYS_close_range, DEVLINK_FD_LEDGER + 1, ~0u, CLOSE_RANGE_CLOEXEC) == 0;
}

/* The child's part of device_start(): only async-signal-safe calls. */
static void __attribute__((noreturn)) become_device(pid_t parent, int exe_fd, const int fds[4])
{
	char *const argv[] = {"gpuqd", "--device-process", NULL};
	sigset_t none;

	/* A terminal's signals go to both processes; the control process decides about them. */
	signal(SIGINT, SIG_IGN);
	signal(SIGTERM, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent)
		_exit(126);
	/* It must not be in the way of the others. */
	exe_fd = fcntl(exe_fd, F_DUPFD_CLOEXEC, SPARE_FD);
	if (exe_fd < 0 || !place_descriptors(fds))
		_exit(126);
	syscall(SYS_execveat, exe_fd, "", argv, environ, AT_EMPTY_PATH);
	_exit(127);
}

static int device_fork(struct control *c)
{
	struct device *d = &c->device;
	pid_t parent = getpid();
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	const int fds[] = {pair[1], c->page_fd, c->stats_fd, d->ledger_fd};
	const bool anew = d->restart.state == RESTART_STARTING;
	pid_t pid = fork();
	if (pid == 0)
		become_device(parent, anew ? d->restart.exe_fd : d->exe_fd, fds);
	int r = pid < 0 ? -errno : 0;
	close(pair[1]);
	if (r < 0) {
		close(pair[0]);
		return r;
	}
	d->link_fd = pair[0];
	d->pid = pid;
	return 0;
}

static void device_receive(struct control *c)
{
	struct io_uring_sqe *sqe = control_sqe(c);
	struct device *d = &c->device;

	d->in_iov = (struct iovec){&d->in, sizeof(d->in)};
	d->in_header = (struct msghdr){
		.msg_iov = &d->in_iov,
		.msg_iovlen = 1,
		.msg_control = d->in_control,
		.msg_controllen = sizeof(d->in_control),
	};
	io_uring_prep_recvmsg(sqe, d->link_fd, &d->in_header, MSG_CMSG_CLOEXEC);
	control_tag(sqe, OP_LINK_RECV, 0);
	d->receiving = true;
}

int device_send(struct control *c, const struct devlink_msg *m, const int *fds, uint32_t n_fds)
{
	FAILPOINT_OF("control.telling", m->type);
	int r = packet_send(c->device.link_fd, m, sizeof(*m), fds, n_fds);
	FAILPOINT_OF("control.told", m->type);
	return r;
}

int device_check_request(const struct control *c, uint32_t device, char text[MSG_TEXT_MAX])
{
	if (c->draining) {
		snprintf(text, MSG_TEXT_MAX, "gpuqd is shutting down");
		return -GPUQ_EDRAIN;
	}
	if (device != c->device.index) {
		snprintf(text, MSG_TEXT_MAX, "there is no device %u", device);
		return -GPUQ_ENODEV;
	}
	return 0;
}

static void send_start(const struct control *c)
{
	const struct config *config = c->config;
	struct devlink_start start = {
		.version = DEVLINK_VERSION,
		.device = c->device.index,
		.workers = (uint32_t)config->workers,
		.poll_us = (uint32_t)config->poll_us,
		.max_channels = (uint32_t)config->max_channels,
		.max_in_flight = (uint32_t)config->max_in_flight,
		.max_clients = c->n_sessions,
		.max_buffers = (uint32_t)config->max_buffers,
		.max_pipelines = (uint32_t)config->max_pipelines,
		.max_models = (uint32_t)config->max_models,
		.max_sessions = (uint32_t)config->max_sessions,
		.max_sessions_per_client = (uint32_t)config->max_sessions_per_client,
		.ageing_ms = (uint32_t)config->ageing_ms,
		.max_in_flight_per_user = (uint32_t)config->max_in_flight_per_user,
		.max_rate_per_user = (uint32_t)config->max_rate_per_user,
		.graph_bytes_per_user = config->graph_bytes_per_user,
		.max_sessions_per_user = (uint32_t)config->max_sessions_per_user,
		.kv_bytes = config->kv_bytes,
		.kv_blocks_per_client = (uint32_t)config->kv_blocks_per_client,
		.kv_blocks_per_user = (uint32_t)config->kv_blocks_per_user,
		.kv_bucket = (uint32_t)config->kv_bucket,
		.prefill_chunk = (uint32_t)config->prefill_chunk,
		.promote_uses = (uint32_t)config->graph_promote_uses,
		.promote_window_ms = (uint32_t)config->graph_promote_window_ms,
		.pinned = (uint32_t)config->graph_pinned,
		.graph_bytes = config->graph_bytes,
		.scratch_bytes = config->graph_scratch_bytes,
		.resident = strcmp(config->resident, "on") == 0,
		.list_devices = c->device.n_present == 0,
	};

	snprintf(start.kind, sizeof(start.kind), "%s", config->device);
	snprintf(start.hot_list, sizeof(start.hot_list), "%s", c->hot_list);
	snprintf(start.log, sizeof(start.log), "%s", config->log);
	/* What replaces a process that failed is to be seen working. */
	if (c->device.epoch == 1)
		snprintf(start.faults, sizeof(start.faults), "%s", config->test_faults);
	/* The socket is new: this cannot fail for want of room, and a dead peer shows as EOF. */
	(void)send(c->device.link_fd, &start, sizeof(start), MSG_DONTWAIT | MSG_NOSIGNAL);
}

int device_start(struct control *c)
{
	struct device *d = &c->device;

	int r = control_repair_stats(c);
	if (r < 0)
		return r;
	d->epoch++;
	shm_store_release(&c->page->devices[d->index].epoch, d->epoch);
	shm_store_relaxed(&record(c)->epoch, d->epoch);
	r = device_fork(c);
	if (r < 0) {
		log_error("the device process cannot be started: %s", strerror(-r));
		return r;
	}
	d->state = DEVICE_STARTING;
	d->failure[0] = '\0';
	record(c)->pid = (uint32_t)d->pid;
	shm_store_release_u32(&record(c)->state, STATS_DEVICE_STARTING);
	send_start(c);
	device_receive(c);
	return 0;
}

/* --- Telling ------------------------------------------------------------------------------- */

static void device_wait_room(struct control *c)
{
	struct io_uring_sqe *sqe = control_sqe(c);

	io_uring_prep_poll_add(sqe, c->device.link_fd, POLLOUT);
	control_tag(sqe, OP_LINK_ROOM, 0);
	c->device.waiting_room = true;
}

void device_pump(struct control *c)
{
	const struct devlink_msg drain = {.type = DEVLINK_DRAIN}, pause = {.type = DEVLINK_PAUSE};
	struct device *d = &c->device;
	struct owed *owed;
	int r = 0;

	if (d->state != DEVICE_READY || d->waiting_room)
		return;
	while (r >= 0 && (owed = TAILQ_FIRST(&d->outbox)) != NULL) {
		r = owed->send(c, owed);
		if (r == 0)
			device_forget(c, owed);
	}
	if (r >= 0 && d->pause) {
		r = device_send(c, &pause, NULL, 0);
		d->pause = r < 0;
	}
	if (r >= 0 && d->drain) {
		r = device_send(c, &drain, NULL, 0);
		d->drain = r < 0;
	}
	if (r == -EAGAIN)
		device_wait_room(c);
	/* Too many descriptors in flight: the next tick tries again. A dead peer shows as EOF. */
}

static void outbox_add(struct device *d, struct owed *owed)
{
	if (owed->queued)
		return;
	owed->queued = true;
	TAILQ_INSERT_TAIL(&d->outbox, owed, in_outbox);
}

void device_forget(struct control *c, struct owed *owed)
{
	if (!owed->queued)
		return;
	owed->queued = false;
	TAILQ_REMOVE(&c->device.outbox, owed, in_outbox);
}

void device_tell(struct control *c, struct owed *owed)
{
	/* A device process that comes later is told about everything when it is ready. */
	if (c->device.state != DEVICE_READY)
		return;
	outbox_add(&c->device, owed);
	device_pump(c);
}

static int log_send(struct control *c, struct owed *owed)
{
	struct devlink_msg m = {.type = DEVLINK_LOG};

	if (!c->device.tell_log)
		return 0;
	snprintf(m.text, sizeof(m.text), "%s", c->config->log);
	int r = device_send(c, &m, NULL, 0);
	c->device.tell_log = r < 0;
	return r < 0 ? r : 1;
}

void device_configure_log(struct control *c)
{
	c->device.log.send = log_send;
	c->device.tell_log = true;
	device_tell(c, &c->device.log);
}

void device_drain(struct control *c)
{
	c->device.drain = true;
	shm_store_release_u32(&record(c)->state, STATS_DEVICE_DRAINING);
	device_pump(c);
}

/* --- Hearing ------------------------------------------------------------------------------- */

static void device_ready(struct control *c)
{
	struct device *d = &c->device;
	bool first = !d->was_ready;

	d->state = DEVICE_READY;
	d->was_ready = true;
	shm_store_release_u32(&record(c)->state, STATS_DEVICE_READY);
	restart_device_ready(c);
	log_info("device %u is ready: %.128s (pid %ld, epoch %llu)", d->index, record(c)->name,
		(long)d->pid, (unsigned long long)d->epoch);
	/* Before the channels: what is submitted there may use them. */
	buffer_hand_over(c);
	graph_hand_over(c);
	registration_hand_over(c);
	model_hand_over(c);
	channel_hand_over(c);
	if (d->tell_log)
		device_configure_log(c);
	if (c->draining)
		device_drain(c);
	device_pump(c);
	if (first)
		control_serve(c);
}

static void device_message(struct control *c, const struct devlink_msg *m)
{
	struct channel *ch = m->channel < c->config->max_channels ? &c->channels[m->channel] : NULL;
	bool known = ch != NULL && ch->state != CHANNEL_FREE && ch->generation == m->generation;

	switch (m->type) {
	case DEVLINK_READY:
		device_ready(c);
		break;
	case DEVLINK_FAILED:
		snprintf(c->device.failure, sizeof(c->device.failure), "%.223s", m->text);
		break;
	case DEVLINK_DRAINED:
		control_drained(c);
		restart_drained(c);
		break;
	case DEVLINK_ADDED:
		if (known)
			channel_added(c, ch);
		break;
	case DEVLINK_REMOVED:
		if (known)
			channel_removed(c, ch);
		break;
	case DEVLINK_POISONED:
		if (known)
			channel_poisoned(c, ch);
		break;
	case DEVLINK_BUFFER:
	case DEVLINK_BUFFER_GRANT:
	case DEVLINK_BUFFER_REVOKE:
	case DEVLINK_BUFFER_REMOVED:
		buffer_message(c, m, &c->device.in_fd);
		break;
	case DEVLINK_PIPELINE:
		registration_added(c, m);
		break;
	case DEVLINK_PIPELINE_REMOVED:
		registration_removed(c, m);
		break;
	case DEVLINK_MODEL:
		model_loaded(c, m);
		break;
	case DEVLINK_MODEL_REMOVED:
		model_unloaded(c, m);
		break;
	case DEVLINK_PRESENT:
		graph_present(c, m);
		break;
	default:
		log_error("the device process sent a message of unknown type %u", m->type);
	}
}

/* --- Ending -------------------------------------------------------------------------------- */

/* True when device processes end faster than it makes sense to start new ones. */
static bool device_hopeless(struct device *d)
{
	uint64_t now_ns = clock_monotonic_ns();

	d->deaths_ns[d->n_deaths++ % DEVICE_MAX_DEATHS] = now_ns;
	return d->n_deaths >= DEVICE_MAX_DEATHS &&
		now_ns - d->deaths_ns[d->n_deaths % DEVICE_MAX_DEATHS] < DEVICE_DEATHS_NS;
}

static void device_give_up(struct control *c, const char *why)
{
	log_error("%s; gpuqd ends", why);
	control_goodbye(c, -GPUQ_EDEVICE, why);
	control_finish(c, 1);
}

/* Its last words, which came by the link, may be heard after the signal of its end. */
static void log_end(struct device *d)
{
	const int status = d->ended_status;
	const long pid = d->ended_pid;

	d->ended_pid = 0;
	/* What keeps the first one from starting device_replace() says. */
	if (pid == 0 || (d->failure[0] != '\0' && !d->was_ready))
		return;
	if (d->restart.state == RESTART_ENDING && WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return;
	if (d->failure[0] != '\0')
		log_error("the device process (pid %ld) gave up: %s", pid, d->failure);
	else if (WIFSIGNALED(status))
		log_error("the device process (pid %ld) was killed by signal %d (%s)%s", pid,
			WTERMSIG(status), strsignal(WTERMSIG(status)),
			WCOREDUMP(status) ? ", core dumped" : "");
	else
		log_error("the device process (pid %ld) ended with status %d", pid,
			WEXITSTATUS(status));
}

/* Process and link are both gone: makes a new one. */
void device_replace(struct control *c)
{
	struct device *d = &c->device;
	char why[320];

	if (c->finished || d->pid != 0 || d->receiving || d->waiting_room)
		return;
	d->start_later = false;
	log_end(d);
	if (!d->was_ready && d->failure[0] != '\0') {
		snprintf(why, sizeof(why), "the device \"%s\" cannot be used: %s",
			c->config->device, d->failure);
		device_give_up(c, why);
		return;
	}
	if (!restart_device_gone(c) && device_hopeless(d)) {
		snprintf(why, sizeof(why), "the device process has ended %d times within %llu s",
			DEVICE_MAX_DEATHS, DEVICE_DEATHS_NS / 1000000000u);
		device_give_up(c, why);
		return;
	}
	shm_count(&c->stats.header->device_restarts, 1);
	control_count_error(
		c, -GPUQ_EDEVICE, "device process", d->failure[0] != '\0' ? d->failure : NULL);
	d->start_later = device_start(c) < 0;
}

/* Nothing more can be said to the device process. */
static void device_down(struct control *c)
{
	struct device *d = &c->device;
	struct owed *owed;

	d->state = DEVICE_DOWN;
	d->pause = false;
	shm_store_release_u32(&record(c)->state, STATS_DEVICE_GONE);
	while ((owed = TAILQ_FIRST(&d->outbox)) != NULL)
		device_forget(c, owed);
	buffer_device_down(c);
	model_device_down(c);
}

/* Takes the descriptor that came with a message, if one did. */
static int in_fd(struct device *d)
{
	const struct cmsghdr *cm = CMSG_FIRSTHDR(&d->in_header);
	int fd = -1;

	if (cm != NULL && cm->cmsg_type == SCM_RIGHTS && cm->cmsg_len == CMSG_LEN(sizeof(fd)))
		memcpy(&fd, CMSG_DATA(cm), sizeof(fd));
	return fd;
}

void device_received(struct control *c, int result)
{
	struct device *d = &c->device;

	if (result > 0) {
		d->in_fd = in_fd(d);
		if (result == (int)sizeof(d->in)) {
			FAILPOINT_OF("control.heard", d->in.type);
			device_message(c, &d->in);
		} else {
			log_error("the device process sent a message of %d bytes", result);
		}
		if (d->in_fd >= 0)
			close(d->in_fd);
		device_receive(c);
		return;
	}
	d->receiving = false;
	device_down(c);
	/* Without its link it is of no use; device_reap() hears of its end. */
	if (d->pid != 0)
		kill(d->pid, SIGKILL);
	close(d->link_fd);
	d->link_fd = -1;
	device_replace(c);
}

void device_has_room(struct control *c)
{
	c->device.waiting_room = false;
	if (c->device.state == DEVICE_DOWN)
		device_replace(c);
	else
		device_pump(c);
}

static void record_end(struct control *c)
{
	const struct recorder_event e = {
		.kind = RECORDER_DEVICE_END,
		.time_ns = clock_now_ns(&c->clock),
		.status = c->device.ended_status,
		.words = {(uint64_t)c->device.ended_pid},
	};

	recorder_put(&c->recorder, &e);
}

void device_reap(struct control *c)
{
	struct device *d = &c->device;

	if (d->pid == 0 || waitpid(d->pid, &d->ended_status, WNOHANG) != d->pid)
		return;
	d->ended_pid = d->pid;
	record_end(c);
	d->pid = 0;
	device_replace(c);
}

void device_stop(struct control *c)
{
	struct device *d = &c->device;
	int status;

	if (d->pid == 0)
		return;
	/* An operation on the ring may hold the socket open: close() would not be heard. */
	if (d->link_fd >= 0)
		shutdown(d->link_fd, SHUT_RDWR);
	struct pollfd p = {.fd = (int)syscall(SYS_pidfd_open, d->pid, 0), .events = POLLIN};
	if (p.fd < 0 || poll(&p, 1, DEVICE_STOP_MS) != 1) {
		log_warn("the device process (pid %ld) does not end, killing it", (long)d->pid);
		kill(d->pid, SIGKILL);
	}
	if (p.fd >= 0)
		close(p.fd);
	waitpid(d->pid, &status, 0);
	d->pid = 0;
}
