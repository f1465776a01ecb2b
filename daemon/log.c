/* SPDX-License-Identifier: MIT */
/* Lines to standard error, for people or for the journal. */
#include "daemon/log.h"

#include "shm/atomics.h"
#include "shm/clock.h"

#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOG_WINDOW_NS (10ull * 1000000000u)
#define LOG_WINDOW_LINES 5

static const char *log_who = "gpuqd";
static enum log_level log_most = LOG_LEVEL_INFO;
static bool log_journal;
static uint64_t log_lost; /* lines that standard error had no room for */

bool log_level_parse(const char *name, enum log_level *ret_level)
{
	static const struct {
		const char *name;
		enum log_level level;
	} levels[] = {
		{"error", LOG_LEVEL_ERROR},
		{"warn", LOG_LEVEL_WARN},
		{"info", LOG_LEVEL_INFO},
		{"debug", LOG_LEVEL_DEBUG},
	};

	for (size_t i = 0; i < sizeof(levels) / sizeof(levels[0]); i++) {
		if (strcmp(levels[i].name, name) == 0) {
			*ret_level = levels[i].level;
			return true;
		}
	}
	return false;
}

/* $JOURNAL_STREAM is "device:inode" of the stream that the journal reads. */
static bool stderr_is_journal(void)
{
	const char *stream = getenv("JOURNAL_STREAM");
	unsigned long long device, inode;
	struct stat st;

	return stream != NULL && sscanf(stream, "%llu:%llu", &device, &inode) == 2 &&
		fstat(STDERR_FILENO, &st) == 0 && st.st_dev == device && st.st_ino == inode;
}

void log_init(const char *who)
{
	const char *level = getenv("GPUQ_LOG");

	log_who = who;
	log_journal = stderr_is_journal();
	if (level != NULL)
		(void)log_level_parse(level, &log_most);
}

static void log_write(const char *line, size_t bytes)
{
	struct pollfd p = {.fd = STDERR_FILENO, .events = POLLOUT};

	/* A pipe that polls writable takes a line of up to a page whole. */
	if (poll(&p, 1, 0) != 1 || (p.revents & POLLOUT) == 0 ||
		write(STDERR_FILENO, line, bytes) < 0)
		shm_fetch_add(&log_lost, 1);
}

void log_line(enum log_level level, const char *format, ...)
{
	char line[1024];
	va_list args;
	int n;

	if (level > log_most)
		return;
	if (log_journal)
		n = snprintf(line, sizeof(line), "<%d>", (int)level);
	else
		n = snprintf(line, sizeof(line), "%s: ", log_who);
	size_t at = (size_t)n;
	uint64_t lost = shm_load_relaxed(&log_lost);
	if (lost != 0) {
		shm_fetch_add(&log_lost, -lost);
		n = snprintf(line + at, sizeof(line) - at, "(%llu lines lost) ",
			(unsigned long long)lost);
		at += (size_t)n;
	}
	va_start(args, format);
	n = vsnprintf(line + at, sizeof(line) - at, format, args);
	va_end(args);
	if (n < 0)
		return;
	at += (size_t)n;
	if (at > sizeof(line) - 1)
		at = sizeof(line) - 1;
	line[at++] = '\n';
	log_write(line, at);
}

bool log_allowed(struct log_limit *limit)
{
	uint64_t now_ns = clock_monotonic_ns();

	if (limit->window_ns == 0 || now_ns - limit->window_ns > LOG_WINDOW_NS) {
		if (limit->lost > 0)
			log_warn("%u more lines like the next one were left out", limit->lost);
		*limit = (struct log_limit){.window_ns = now_ns};
	}
	if (limit->lines == LOG_WINDOW_LINES) {
		limit->lost++;
		return false;
	}
	limit->lines++;
	return true;
}
