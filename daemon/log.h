/* SPDX-License-Identifier: MIT */
/*
 * log.h: one line an event, to standard error. Under the journal a line starts with its syslog
 * priority ("<4>device: ..."), else with the program's name. Each line has a topic, that of its
 * source file, and a level. "warn,ring:debug" says what is written: a level for all topics, and
 * others for some of them. A reader of standard error that does not read makes gpuqd lose lines,
 * and count them, rather than wait.
 *
 * A file that writes about something else than the daemon as a whole says so before it includes
 * this: #define LOG_TOPIC LOG_MODEL
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

enum log_topic {
	LOG_CONTROL, /* beginning, ending, configuration */
	LOG_CLIENT,  /* connections */
	LOG_RING,    /* channels and their memory */
	LOG_DEVICE,
	LOG_GRAPH,
	LOG_MODEL,
	LOG_STATS,
	LOG_TOPICS,
};

#ifndef LOG_TOPIC
#define LOG_TOPIC LOG_CONTROL
#endif

/* The greatest level that is written, for each topic. */
struct log_levels {
	uint32_t most[LOG_TOPICS];
};

/*
 * "[TOPIC:]LEVEL[,[TOPIC:]LEVEL]...": topics that are not named have the level that stands alone,
 * or info. False when that is not understood.
 */
bool log_levels_parse(const char *text, struct log_levels *ret_levels);

/* What log_levels_parse() understands, in words. */
extern const char log_levels_form[];

/* `who` names the process in each line and is kept, not copied. The level is info. */
void log_init(const char *who);

/* Other levels from now on, of a text that log_levels_parse() understands. Any thread. */
void log_configure(const char *text);

/* Writes one line. Any thread; nothing is allocated, and nothing blocks. */
__attribute__((format(printf, 3, 4))) void log_line(
	enum log_topic topic, enum log_level level, const char *format, ...);

#define log_error(...) log_line(LOG_TOPIC, LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...) log_line(LOG_TOPIC, LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...) log_line(LOG_TOPIC, LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_TOPIC, LOG_LEVEL_DEBUG, __VA_ARGS__)

/*
 * The budget of lines of one cause: what clients can provoke must not fill a disk. Five lines in
 * ten seconds are written, and then one that counts those left out and shows the last of them.
 */
struct log_limit {
	enum log_topic topic;
	enum log_level level;
	uint64_t window_ns; /* start of the present window; 0: never used */
	uint32_t lines;	    /* written in it */
	uint32_t lost;
	char last[224]; /* of those lost */
	struct log_limit *next;
};

/* All limits of a process belong to one thread. */
__attribute__((format(printf, 2, 3))) void log_line_limited(
	struct log_limit *limit, const char *format, ...);

/* To be called about once a second by that thread: tells what was left out. */
void log_tick(void);

/* A line of the cause that this place in the source stands for. */
#define log_limited(its_level, ...)                                                              \
	do {                                                                                     \
		static struct log_limit log_limit_ = {.topic = LOG_TOPIC, .level = (its_level)}; \
		log_line_limited(&log_limit_, __VA_ARGS__);                                      \
	} while (0)

#endif
