/* SPDX-License-Identifier: MIT */
/*
 * log.h: one line an event, to standard error. Under the journal a line starts with its syslog
 * priority ("<4>..."), else with the program's name. $GPUQ_LOG (error, warn, info, debug) says
 * what is written; without it, info. A reader of standard error that does not read makes gpuqd
 * lose lines, and count them, rather than wait.
 */
#ifndef GPUQ_DAEMON_LOG_H
#define GPUQ_DAEMON_LOG_H

#include <stdbool.h>
#include <stdint.h>

/* Values are syslog's priorities. */
enum log_level {
	LOG_LEVEL_ERROR = 3,
	LOG_LEVEL_WARN = 4,
	LOG_LEVEL_INFO = 6,
	LOG_LEVEL_DEBUG = 7,
};

/* Names of levels as configured; false when there is no such level. */
bool log_level_parse(const char *name, enum log_level *ret_level);

/* `who` names the process in each line and is kept, not copied. Reads the environment. */
void log_init(const char *who);

/* Writes one line. Any thread; nothing is allocated, and nothing blocks. */
__attribute__((format(printf, 2, 3))) void log_line(enum log_level level, const char *format, ...);

#define log_error(...) log_line(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...) log_line(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...) log_line(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_LEVEL_DEBUG, __VA_ARGS__)

/* A budget of lines for one cause: what clients can provoke must not fill a disk. */
struct log_limit {
	uint64_t window_ns; /* start of the present window */
	uint32_t lines;	    /* written in it */
	uint32_t lost;
};

/* True when a line may be written now. Announces what the window before has swallowed. */
bool log_allowed(struct log_limit *limit);

/* A line of the cause that this place in the source stands for. One thread. */
#define log_limited(level, ...)                         \
	do {                                            \
		static struct log_limit log_limit_;     \
		if (log_allowed(&log_limit_))           \
			log_line((level), __VA_ARGS__); \
	} while (0)

#endif
