/* SPDX-License-Identifier: MIT */
/* The sockets' place in the file system, and the lock that guards it. */
#include "daemon/listen.h"

#include "shm/failpoint.h"
#include "shm/proto.h"
#include "shm/stats.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define SYSTEM_DIR "/run/gpuq"
#define SOCKET_NAME "gpuq-0"
#define LOCK_SUFFIX ".lock"
#define BACKLOG 128

int listener_default_path(char *path, size_t size, char error[LISTEN_ERROR_MAX])
{
	const char *dir = getenv("XDG_RUNTIME_DIR");

	if (dir == NULL || dir[0] != '/') {
		dir = SYSTEM_DIR;
		if (mkdir(dir, 0755) < 0 && errno != EEXIST) {
			int r = -errno;
			snprintf(error, LISTEN_ERROR_MAX,
				"$XDG_RUNTIME_DIR is not set and %s cannot be made (%s); name a "
				"socket with --socket",
				dir, strerror(-r));
			return r;
		}
	}
	int n = snprintf(path, size, "%s/" SOCKET_NAME, dir);
	if (n < 0 || (size_t)n >= size) {
		snprintf(error, LISTEN_ERROR_MAX,
			"%s/" SOCKET_NAME " is too long for a socket; name another with --socket",
			dir);
		return -ENAMETOOLONG;
	}
	return 0;
}

/* The process id that the lock's holder wrote, or 0. */
static long lock_holder(int fd)
{
	char text[32];
	ssize_t n = pread(fd, text, sizeof(text) - 1, 0);

	if (n <= 0)
		return 0;
	text[n] = '\0';
	return strtol(text, NULL, 10);
}

/* Who starts gpuqd without a word on sockets may have no folder for one. */
static const char *lock_remedy(int error)
{
	if (error == ENOENT)
		return "; make its directory first, set XDG_RUNTIME_DIR, or name another socket "
		       "with --socket";
	if (error == EACCES)
		return "; set XDG_RUNTIME_DIR, or name another socket with --socket";
	return "";
}

/* One attempt. -EAGAIN: the file was removed by its last holder meanwhile. */
static int lock_try(struct listener *l, char error[LISTEN_ERROR_MAX])
{
	struct stat ours, there;

	l->lock_fd = open(l->lock_path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (l->lock_fd < 0) {
		int r = -errno;
		snprintf(error, LISTEN_ERROR_MAX, "%s cannot be opened: %s%s", l->lock_path,
			strerror(-r), lock_remedy(-r));
		return r;
	}
	if (flock(l->lock_fd, LOCK_EX | LOCK_NB) < 0) {
		int r = errno == EWOULDBLOCK ? -EADDRINUSE : -errno;
		snprintf(error, LISTEN_ERROR_MAX,
			"another gpuqd (pid %ld) serves %s; stop it, or name another socket "
			"with --socket",
			lock_holder(l->lock_fd), l->path);
		close(l->lock_fd);
		l->lock_fd = -1;
		return r;
	}
	if (fstat(l->lock_fd, &ours) < 0 || stat(l->lock_path, &there) < 0 ||
		ours.st_ino != there.st_ino || ours.st_dev != there.st_dev) {
		close(l->lock_fd);
		l->lock_fd = -1;
		return -EAGAIN;
	}
	return 0;
}

static int lock_take(struct listener *l, char error[LISTEN_ERROR_MAX])
{
	char text[32];
	int r;

	do
		r = lock_try(l, error);
	while (r == -EAGAIN);
	if (r < 0)
		return r;
	int n = snprintf(text, sizeof(text), "%ld\n", (long)getpid());
	if (ftruncate(l->lock_fd, 0) < 0 || pwrite(l->lock_fd, text, (size_t)n, 0) != n) {
		snprintf(error, LISTEN_ERROR_MAX, "%s cannot be written", l->lock_path);
		return -EIO;
	}
	return 0;
}

/* Makes way for a socket: only another socket, left by an earlier gpuqd, is removed. */
static int clear_path(const char *path, char error[LISTEN_ERROR_MAX])
{
	struct stat st;

	if (lstat(path, &st) < 0)
		return 0; /* nothing there; or bind() will say what is wrong */
	if (!S_ISSOCK(st.st_mode)) {
		snprintf(error, LISTEN_ERROR_MAX,
			"%s exists and is not a socket; remove it, or name another with --socket",
			path);
		return -EEXIST;
	}
	if (unlink(path) < 0) {
		int r = -errno;
		snprintf(error, LISTEN_ERROR_MAX, "the old %s cannot be removed: %s", path,
			strerror(-r));
		return r;
	}
	return 0;
}

static int listen_at(const char *path, mode_t mode, int *ret_fd, char error[LISTEN_ERROR_MAX])
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};

	int r = clear_path(path, error);
	if (r < 0)
		return r;
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0) {
		r = -errno;
		snprintf(error, LISTEN_ERROR_MAX, "no socket: %s", strerror(-r));
		return r;
	}
	snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
	/* The permissions must be right from the first moment, so they go by way of the umask. */
	mode_t before = umask(0777 & ~mode);
	r = bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 ? -errno : 0;
	umask(before);
	if (r == 0 && listen(fd, BACKLOG) < 0)
		r = -errno;
	if (r < 0) {
		snprintf(error, LISTEN_ERROR_MAX, "cannot listen on %s: %s", path, strerror(-r));
		close(fd);
		return r;
	}
	*ret_fd = fd;
	return 0;
}

/* Whole paths: others know gpuqd by them, in whichever directory they are. */
static int paths_fill(struct listener *l, const char *path)
{
	int r = stats_socket_path(path, l->path, sizeof(l->path));

	if (r < 0)
		return r;
	snprintf(l->lock_path, sizeof(l->lock_path), "%s" LOCK_SUFFIX, l->path);
	int n = snprintf(l->admin_path, sizeof(l->admin_path), "%s" MSG_ADMIN_SUFFIX, l->path);
	return n >= 0 && (size_t)n < sizeof(l->admin_path) ? 0 : -ENAMETOOLONG;
}

/* Whether a descriptor is a socket that we can accept clients on; writes its path. */
static int passed_check(int fd, char path[LISTEN_PATH_MAX], char error[LISTEN_ERROR_MAX])
{
	struct sockaddr_un a = {0};
	socklen_t bytes = sizeof(a), size = sizeof(int);
	int type = 0, listens = 0;

	if (getsockname(fd, (struct sockaddr *)&a, &bytes) < 0 || a.sun_family != AF_UNIX ||
		getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) < 0 || type != SOCK_SEQPACKET ||
		getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) < 0 || !listens ||
		a.sun_path[0] != '/') {
		snprintf(error, LISTEN_ERROR_MAX,
			"descriptor %d, which the service manager passed, does not listen on the "
			"path "
			"of a unix socket for packets (ListenSequentialPacket=)",
			fd);
		return -EINVAL;
	}
	if (fcntl(fd, F_SETFL, O_RDWR | O_NONBLOCK) < 0)
		return -errno;
	return stats_socket_path(a.sun_path, path, LISTEN_PATH_MAX);
}

static bool is_admin_path(const char *path)
{
	const size_t bytes = strlen(path), suffix = strlen(MSG_ADMIN_SUFFIX);

	return bytes > suffix && strcmp(path + bytes - suffix, MSG_ADMIN_SUFFIX) == 0;
}

/* Takes over what the service manager passed; whose path must be `path`, unless that is "". */
static int adopt(struct listener *l, const int *passed, uint32_t n_passed,
	char path[LISTEN_PATH_MAX], char error[LISTEN_ERROR_MAX])
{
	char found[2][LISTEN_PATH_MAX] = {"", ""};

	for (uint32_t i = 0; i < n_passed; i++) {
		char at[LISTEN_PATH_MAX];
		int r = passed_check(passed[i], at, error);
		if (r < 0)
			return r;
		const bool admin = is_admin_path(at);
		*(admin ? &l->admin_fd : &l->fd) = passed[i];
		*(admin ? &l->admin_fd_passed : &l->fd_passed) = true;
		memcpy(found[admin], at, sizeof(at));
	}
	if (path[0] == '\0' && l->fd_passed)
		memcpy(path, found[0], LISTEN_PATH_MAX);
	if (!l->fd_passed || strcmp(path, found[0]) != 0) {
		snprintf(error, LISTEN_ERROR_MAX,
			"the service manager listens on '%s', but the configuration says socket = "
			"%s; let them say the same",
			found[l->fd_passed ? 0 : 1], path);
		return -EINVAL;
	}
	return 0;
}

int listener_open(struct listener *l, const char *path, const mode_t modes[2], const int *passed,
	uint32_t n_passed, char error[LISTEN_ERROR_MAX])
{
	char whole[LISTEN_PATH_MAX] = "";

	*l = (struct listener){.fd = -1, .admin_fd = -1, .lock_fd = -1};
	int r = path == NULL ? 0 : stats_socket_path(path, whole, sizeof(whole));
	if (r == 0 && n_passed > 0)
		r = adopt(l, passed, n_passed, whole, error);
	if (r == 0)
		r = paths_fill(l, whole);
	if (r == -ENAMETOOLONG)
		snprintf(error, LISTEN_ERROR_MAX,
			"%.200s is too long: a socket's whole path has at most %zu bytes",
			path != NULL ? path : whole, sizeof(l->path) - sizeof(MSG_ADMIN_SUFFIX));
	if (r == 0)
		r = lock_take(l, error);
	FAILPOINT("control.locked");
	if (r == 0 && !l->fd_passed)
		r = listen_at(l->path, modes[0], &l->fd, error);
	if (r == 0 && !l->admin_fd_passed)
		r = listen_at(l->admin_path, modes[1], &l->admin_fd, error);
	FAILPOINT("control.bound");
	if (r < 0)
		listener_close(l);
	return r;
}

static void remove_socket(int *fd, const char *path, bool passed)
{
	if (*fd < 0)
		return;
	if (!passed)
		unlink(path);
	close(*fd);
	*fd = -1;
}

void listener_close(struct listener *l)
{
	remove_socket(&l->fd, l->path, l->fd_passed);
	remove_socket(&l->admin_fd, l->admin_path, l->admin_fd_passed);
	remove_socket(&l->lock_fd, l->lock_path, false);
}
