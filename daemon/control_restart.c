/* SPDX-License-Identifier: MIT */
/*
 * control_restart.c: replacing the device process because an administrator wants it: for a new
 * version of its code, or a driver that has to be closed. What is in flight may end first; what
 * comes meanwhile waits in its channels for the successor, which is started from the file that this
 * process was started from. If that one does not begin, the executable before it drives the device.
 */
#define LOG_TOPIC LOG_DEVICE
#include "daemon/control.h"
#include "daemon/log.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define END_MS 2000 /* for a device process to end by itself */

int restart_create(struct control *c)
{
	const ssize_t n = readlink("/proc/self/exe", c->executable, sizeof(c->executable) - 1);

	if (n < 0)
		return -errno;
	c->executable[n] = '\0';
	c->device.exe_fd = open("/proc/self/exe", O_PATH | O_CLOEXEC);
	return c->device.exe_fd < 0 ? -errno : 0;
}

static void deadline_arm(struct control *c, uint64_t ms)
{
	struct restart *r = &c->device.restart;
	struct io_uring_sqe *sqe = control_sqe(c);

	r->deadline.tv_sec = (long long)(ms / 1000);
	r->deadline.tv_nsec = (long long)(ms % 1000 * 1000000);
	io_uring_prep_timeout(sqe, &r->deadline, 0, 0);
	control_tag(sqe, OP_RESTART, ++r->n_deadlines);
}

/* --- The end of the present one ------------------------------------------------------------ */

static void tell_end(struct control *c)
{
	struct device *d = &c->device;

	d->restart.state = RESTART_ENDING;
	/* It still says what it has to say, and keeps its hot list. */
	shutdown(d->link_fd, SHUT_WR);
	deadline_arm(c, END_MS);
}

void restart_drained(struct control *c)
{
	if (c->device.restart.state == RESTART_FINISHING)
		tell_end(c);
}

void restart_deadline(struct control *c, uint32_t number)
{
	struct device *d = &c->device;

	if (number != d->restart.n_deadlines)
		return;
	if (d->restart.state == RESTART_FINISHING) {
		log_warn("the device process (pid %ld) ends with work in flight", (long)d->pid);
		tell_end(c);
	} else if (d->restart.state == RESTART_ENDING && d->pid != 0) {
		log_warn("the device process (pid %ld) does not end, killing it", (long)d->pid);
		kill(d->pid, SIGKILL);
	}
}

/* --- Its successor ------------------------------------------------------------------------- */

/* Whoever asked hears of it, if it is still there. */
static struct session *asked_by(const struct restart *r)
{
	struct session *s = r->asked;

	return s != NULL && s->state == SESSION_LIVE && s->generation == r->asked_generation ? s
											     : NULL;
}

bool restart_device_gone(struct control *c)
{
	struct device *d = &c->device;
	struct restart *r = &d->restart;
	struct session *s = asked_by(r);

	if (r->state == RESTART_NONE)
		return false;
	if (r->state != RESTART_STARTING) {
		r->state = RESTART_STARTING;
		return true;
	}
	r->state = RESTART_NONE;
	close(r->exe_fd);
	r->exe_fd = -1;
	log_error("%s ended before it was ready; the executable before it drives device %u",
		c->executable, d->index);
	if (s != NULL)
		session_refuse(c, s, r->serial, -GPUQ_EDEVICE,
			"%.100s did not begin (%.80s); the one before it drives the device again",
			c->executable, d->failure[0] != '\0' ? d->failure : "see gpuqd's log");
	return true;
}

void restart_device_ready(struct control *c)
{
	struct device *d = &c->device;
	struct restart *r = &d->restart;
	struct session *s = asked_by(r);
	struct msg_header answer;

	if (r->state != RESTART_STARTING)
		return;
	r->state = RESTART_NONE;
	close(d->exe_fd);
	d->exe_fd = r->exe_fd;
	r->exe_fd = -1;
	if (s != NULL)
		session_send(c, s, &answer, MSG_ADMIN_OK, sizeof(answer), r->serial, NULL, 0);
}

/* --- The request --------------------------------------------------------------------------- */

/* Negative, with a sentence, when there can be no restart now. */
static int check_request(struct control *c, uint32_t device, char text[MSG_TEXT_MAX])
{
	struct device *d = &c->device;
	int r = device_check_request(c, device, text);

	if (r < 0)
		return r;
	if (d->state != DEVICE_READY || d->restart.state != RESTART_NONE) {
		snprintf(text, MSG_TEXT_MAX,
			"device %u is being started; ask again when it is ready", device);
		return -EBUSY;
	}
	d->restart.exe_fd = open(c->executable, O_PATH | O_CLOEXEC);
	if (d->restart.exe_fd >= 0)
		return 0;
	r = -errno;
	snprintf(text, MSG_TEXT_MAX, "%.100s cannot be opened: %.50s; install it first",
		c->executable, strerror(-r));
	return r;
}

void restart_request(struct control *c, struct session *s, const void *msg)
{
	const struct msg_admin_restart *m = msg;
	struct restart *r = &c->device.restart;
	char text[MSG_TEXT_MAX];

	if (!session_may_administer(c, s, m->h.serial, "a restart"))
		return;
	const int status = check_request(c, m->device, text);
	if (status < 0) {
		session_refuse(c, s, m->h.serial, status, "%s", text);
		return;
	}
	log_info("an administrator restarts device %u from %s", m->device, c->executable);
	r->state = RESTART_FINISHING;
	r->asked = s;
	r->asked_generation = s->generation;
	r->serial = m->h.serial;
	c->device.pause = true;
	device_pump(c);
	deadline_arm(c, m->drain_ms);
}
