/* SPDX-License-Identifier: MIT */
/* raw.c: see raw.h. */
#include "tests/daemon/raw.h"

#include <dirent.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define ANSWER_MS 8000

int raw_try_connect(const char *path)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
	if (connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0)
		return fd;
	int r = -errno;
	close(fd);
	return r;
}

int raw_connect(const char *path)
{
	int fd = raw_try_connect(path);

	assert_true(fd >= 0);
	return fd;
}

int raw_try_send(int fd, void *msg, uint16_t type, uint32_t bytes, uint32_t serial)
{
	struct msg_header *h = msg;

	h->magic = MSG_MAGIC;
	h->type = type;
	h->bytes = (uint16_t)bytes;
	h->serial = serial;
	return send(fd, msg, bytes, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

void raw_send(int fd, void *msg, uint16_t type, uint32_t bytes, uint32_t serial)
{
	assert_int_equal(raw_try_send(fd, msg, type, bytes, serial), 0);
}

void raw_send_bare(int fd, uint16_t type, uint32_t serial)
{
	struct msg_header h = {0};

	raw_send(fd, &h, type, sizeof(h), serial);
}

static void take_fds(struct msghdr *mh, struct raw_answer *answer)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(mh); c != NULL; c = CMSG_NXTHDR(mh, c)) {
		assert_int_equal(c->cmsg_type, SCM_RIGHTS);
		answer->n_fds = (uint32_t)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		assert_true(answer->n_fds <= 4);
		memcpy(answer->fds, CMSG_DATA(c), answer->n_fds * sizeof(int));
	}
}

bool raw_receive(int fd, struct raw_answer *answer)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(4 * sizeof(int))];
	} u;
	struct iovec iov = {answer->bytes, sizeof(answer->bytes)};
	struct msghdr mh = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &u, .msg_controllen = sizeof(u)};
	struct pollfd p = {.fd = fd, .events = POLLIN};

	memset(answer, 0, sizeof(*answer));
	if (poll(&p, 1, ANSWER_MS * (int)harness_slowness()) != 1)
		fail_msg("gpuqd does not answer");
	ssize_t n = recvmsg(fd, &mh, MSG_CMSG_CLOEXEC);
	if (n <= 0)
		return false;
	take_fds(&mh, answer);
	assert_int_equal(mh.msg_flags & (MSG_TRUNC | MSG_CTRUNC), 0);
	assert_int_equal(answer->h.magic, MSG_MAGIC);
	assert_int_equal(answer->h.bytes, n);
	assert_int_equal(answer->h.reserved, 0);
	return true;
}

void raw_close_fds(struct raw_answer *answer)
{
	for (uint32_t i = 0; i < answer->n_fds; i++)
		close(answer->fds[i]);
	answer->n_fds = 0;
}

void raw_expect_error(int fd, int status, const char *text)
{
	struct raw_answer a;

	if (!raw_receive(fd, &a))
		fail_msg("the connection ended without MSG_ERROR %d", status);
	assert_int_equal(a.h.type, MSG_ERROR);
	if (a.error.status != status || strstr(a.error.text, text) == NULL)
		fail_msg("MSG_ERROR %d '%s', expected %d '%s'", a.error.status, a.error.text,
			status, text);
}

void raw_expect_end(int fd)
{
	struct raw_answer a;

	if (raw_receive(fd, &a))
		fail_msg("message %u where the end was due", a.h.type);
}

struct msg_hello raw_hello(uint32_t abi_min, uint32_t abi_max)
{
	return (struct msg_hello){.abi_min = abi_min, .abi_max = abi_max, .name = "raw"};
}

struct msg_open raw_open(uint64_t arena_bytes)
{
	return (struct msg_open){.sq_entries = 16, .cq_entries = 32, .arena_bytes = arena_bytes};
}

int raw_client(const char *path)
{
	return raw_client_of(path, WIRE_ABI);
}

int raw_client_of(const char *path, uint32_t abi)
{
	struct msg_hello hello = raw_hello(WIRE_ABI_OLDEST, abi);
	struct raw_answer a;
	int fd = raw_connect(path);

	raw_send(fd, &hello, MSG_HELLO, sizeof(hello), 1);
	assert_true(raw_receive(fd, &a));
	assert_int_equal(a.h.type, MSG_WELCOME);
	assert_int_equal(a.welcome.abi, abi);
	assert_int_equal(a.n_fds, 1);
	raw_close_fds(&a);
	raw_send_bare(fd, MSG_ACK, 2);
	return fd;
}

void raw_as_another_user(const struct harness_daemon *d, void (*body)(int fd, const void *context),
	const void *context)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		if (setgid(65534) < 0 || setuid(65534) < 0)
			_exit(2);
		int fd = raw_try_connect(d->socket);
		if (fd < 0)
			_exit(3);
		close(fd);
		body(raw_client(d->socket), context);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 3)
		harness_skip("another user cannot reach the test's directory");
	assert_int_equal(status, 0);
}

void raw_open_channel(int fd, const struct msg_open *open, struct raw_answer *ret_opened)
{
	struct msg_open m = *open;

	raw_send(fd, &m, MSG_OPEN, sizeof(m), 77);
	assert_true(raw_receive(fd, ret_opened));
	if (ret_opened->h.type == MSG_ERROR)
		fail_msg("MSG_OPEN: %d %s", ret_opened->error.status, ret_opened->error.text);
	assert_int_equal(ret_opened->h.type, MSG_OPENED);
	assert_int_equal(ret_opened->h.serial, 77);
	assert_int_equal(ret_opened->n_fds, 3);
	raw_send_bare(fd, MSG_ACK, 78);
}

uint32_t raw_open_plain(int fd)
{
	const struct msg_open open = raw_open(4096);
	struct raw_answer a;

	raw_open_channel(fd, &open, &a);
	raw_close_fds(&a);
	return a.opened.channel;
}

void raw_refuse_call(uint32_t call, uint32_t argument, uint32_t value, int error)
{
	const uint32_t nr_at = offsetof(struct seccomp_data, nr);
	const uint32_t at = argument == RAW_ALWAYS
		? nr_at
		: (uint32_t)(offsetof(struct seccomp_data, args) + argument * sizeof(uint64_t));
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, nr_at),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, at),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, argument == RAW_ALWAYS ? call : value, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (uint32_t)error),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = {sizeof(code) / sizeof(code[0]), code};

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
		prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0)
		harness_skip("seccomp filters are not possible here");
}

uint32_t raw_count_fds(pid_t pid)
{
	char path[64];
	uint32_t n = 0;

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	DIR *dir = opendir(path);
	assert_non_null(dir);
	while (readdir(dir) != NULL)
		n++;
	closedir(dir);
	return n - 2; /* . and .. */
}

void raw_pause(void)
{
	poll(NULL, 0, 5);
}

struct stats raw_stats(const struct harness_daemon *daemon)
{
	struct stats stats;

	assert_int_equal(stats_open(daemon->socket, false, &stats), 0);
	return stats;
}
