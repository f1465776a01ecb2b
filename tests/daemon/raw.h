/* SPDX-License-Identifier: MIT */
/*
 * raw.h: a client of gpuqd's sockets that can say anything, right or wrong, and sees every answer.
 * Functions fail the running test when something that must work does not.
 */
#ifndef GPUQ_TESTS_DAEMON_RAW_H
#define GPUQ_TESTS_DAEMON_RAW_H

#include "tests/harness.h"

#include "shm/proto.h"
#include "shm/stats.h"

/* One message from gpuqd. */
struct raw_answer {
	union {
		struct msg_header h;
		struct msg_welcome welcome;
		struct msg_error error;
		struct msg_opened opened;
		struct msg_close closed;
		struct msg_op op;
		struct msg_device device;
		struct msg_goodbye goodbye;
		char bytes[MSG_MAX];
	};
	int fds[4];
	uint32_t n_fds;
};

/* Connects to a path; a negative errno when that fails. Does not say anything. */
int raw_try_connect(const char *path);
int raw_connect(const char *path);

/* Sends a message; its header is filled in, for `bytes` bytes. Returns 0 or a negative errno. */
int raw_try_send(int fd, void *msg, uint16_t type, uint32_t bytes, uint32_t serial);
void raw_send(int fd, void *msg, uint16_t type, uint32_t bytes, uint32_t serial);

/* Sends a bare header. */
void raw_send_bare(int fd, uint16_t type, uint32_t serial);

/* Waits for a message. False at the end of the connection. Descriptors are the caller's. */
bool raw_receive(int fd, struct raw_answer *answer);
void raw_close_fds(struct raw_answer *answer);

/* Waits for MSG_ERROR with this status, and that its sentence contains `text`. */
void raw_expect_error(int fd, int status, const char *text);

/* Nothing comes any more, and the connection has ended. */
void raw_expect_end(int fd);

struct msg_hello raw_hello(uint32_t abi_min, uint32_t abi_max);
struct msg_open raw_open(uint64_t arena_bytes);

/* Connects, says hello, acknowledges the welcome and drops the page. */
int raw_client(const char *path);

/* The same as a client that speaks no newer version than this. */
int raw_client_of(const char *path, uint32_t abi);

/* Runs body in a process of another user, with a connection of its own. Needs root. */
void raw_as_another_user(const struct harness_daemon *d, void (*body)(int fd, const void *context),
	const void *context);

/* Opens a channel and acknowledges it; descriptors are the caller's. */
void raw_open_channel(int fd, const struct msg_open *open, struct raw_answer *ret_opened);

/* The same, and drops its descriptors. */
uint32_t raw_open_plain(int fd);

/* Processes and descriptors of the daemon, as the system sees them. */
uint32_t raw_count_fds(pid_t pid);

/*
 * From now on a system call fails in this process and those that it starts, as on an older kernel
 * or in a container: always, or when its argument `argument` (from 0) is `value`. Skips the test
 * where filters are not possible.
 */
#define RAW_ALWAYS UINT32_MAX
void raw_refuse_call(uint32_t call, uint32_t argument, uint32_t value, int error);

/* Waits (bounded) until the condition holds; fails the test otherwise. */
#define raw_await(condition)                                              \
	do {                                                              \
		for (uint32_t ms_ = 0; !(condition); ms_ += 5) {          \
			if (ms_ > 8000 * harness_slowness())              \
				fail_msg("never came true: " #condition); \
			raw_pause();                                      \
		}                                                         \
	} while (0)
void raw_pause(void);

/* The daemon's statistics, mapped for reading; stats_close() them. */
struct stats raw_stats(const struct harness_daemon *daemon);

#endif
