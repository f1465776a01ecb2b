/* SPDX-License-Identifier: MIT */
/* service.c: the service manager's side of gpuqd, read from the environment. */
#include "daemon/service.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FIRST_FD 3
#define MANY_FDS 1024u /* nobody passes more */

/* A number in the environment; false when there is none. */
static bool take_number(const char *name, uint64_t *ret_value)
{
	const char *text = getenv(name);
	char *end;

	if (text == NULL || text[0] < '0' || text[0] > '9')
		return false;
	errno = 0;
	const unsigned long long v = strtoull(text, &end, 10);
	if (errno != 0 || *end != '\0')
		return false;
	*ret_value = v;
	return true;
}

static bool is_for_us(const char *name)
{
	uint64_t pid;

	return take_number(name, &pid) && pid == (uint64_t)getpid();
}

static int take_sockets(struct service *s)
{
	uint64_t n;

	if (!is_for_us("LISTEN_PID") || !take_number("LISTEN_FDS", &n) || n > MANY_FDS)
		return 0;
	for (uint32_t i = 0; i < n; i++) {
		const int fd = FIRST_FD + (int)i;

		if (n > SERVICE_MAX_FDS) {
			close(fd);
			continue;
		}
		(void)fcntl(fd, F_SETFD, FD_CLOEXEC);
		s->fds[s->n_fds++] = fd;
	}
	return n > SERVICE_MAX_FDS ? -E2BIG : 0;
}

static void take_notify(struct service *s)
{
	const char *path = getenv("NOTIFY_SOCKET");
	const size_t bytes = path != NULL ? strlen(path) : 0;

	if (bytes < 2 || bytes >= sizeof(s->to.sun_path) || strchr("/@", path[0]) == NULL)
		return;
	s->to.sun_family = AF_UNIX;
	memcpy(s->to.sun_path, path, bytes);
	if (path[0] == '@') /* an abstract name */
		s->to.sun_path[0] = '\0';
	s->to_bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + bytes);
	s->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}

static void take_watchdog(struct service *s)
{
	uint64_t us;

	if (getenv("WATCHDOG_PID") != NULL && !is_for_us("WATCHDOG_PID"))
		return;
	if (s->fd >= 0 && take_number("WATCHDOG_USEC", &us) && us < UINT64_MAX / 1000)
		s->watchdog_ns = us * 1000;
}

int service_init(struct service *s)
{
	static const char *const names[] = {"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES",
		"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"};

	*s = (struct service){.fd = -1};
	const int r = take_sockets(s);
	take_notify(s);
	take_watchdog(s);
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		unsetenv(names[i]);
	return r;
}

void service_tell(const struct service *s, const char *format, ...)
{
	char text[1024];
	va_list args;

	if (s->fd < 0)
		return;
	va_start(args, format);
	const int n = vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	if (n > 0 && (size_t)n < sizeof(text))
		(void)sendto(s->fd, text, (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT,
			(const struct sockaddr *)&s->to, s->to_bytes);
}

void service_end(struct service *s)
{
	if (s->fd >= 0)
		close(s->fd);
	s->fd = -1;
}
