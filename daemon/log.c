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

static const char *const topics[LOG_TOPICS] = {
	[LOG_CONTROL] = "control",
	[LOG_CLIENT] = "client",
	[LOG_RING] = "ring",
	[LOG_DEVICE] = "device",
	[LOG_GRAPH] = "graph",
	[LOG_MODEL] = "model",
	[LOG_STATS] = "stats",
};

const char log_levels_form[] =
	"error, warn, info or debug, and may go on with ',TOPIC:LEVEL' for control, client, ring, "
	"device, graph, model or stats";

static const char *log_who = "gpuqd";
static struct log_levels log_most = {{LOG_LEVEL_INFO, LOG_LEVEL_INFO, LOG_LEVEL_INFO,
	LOG_LEVEL_INFO, LOG_LEVEL_INFO, LOG_LEVEL_INFO, LOG_LEVEL_INFO}};
static bool log_journal;
static uint64_t log_lost; /* lines that standard error had no room for */
static struct log_limit *log_limits;

/* --- Levels -------------------------------------------------------------------------------- */

static bool is_word(const char *text, size_t bytes, const char *word)
{
	return strlen(word) == bytes && memcmp(text, word, bytes) == 0;
}

static bool level_parse(const char *text, size_t bytes, uint32_t *ret_level)
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
		if (is_word(text, bytes, levels[i].name)) {
			*ret_level = levels[i].level;
			return true;
		}
	}
	return false;
}

/* One LEVEL or TOPIC:LEVEL. Topics that are not named yet have 0. */
static bool item_parse(const char *text, size_t bytes, struct log_levels *named, uint32_t *all)
{
	const char *colon = memchr(text, ':', bytes);

	if (colon == NULL)
		return level_parse(text, bytes, all);
	const size_t name = (size_t)(colon - text);
	for (uint32_t i = 0; i < LOG_TOPICS; i++) {
		if (is_word(text, name, topics[i]))
			return level_parse(colon + 1, bytes - name - 1, &named->most[i]);
	}
	return false;
}

bool log_levels_parse(const char *text, struct log_levels *ret_levels)
{
	struct log_levels named = {0};
	uint32_t all = LOG_LEVEL_INFO;

	for (;;) {
		const size_t bytes = strcspn(text, ",");
		if (!item_parse(text, bytes, &named, &all))
			return false;
		text += bytes;
		if (*text++ == '\0')
			break;
	}
	for (uint32_t i = 0; i < LOG_TOPICS; i++)
		ret_levels->most[i] = named.most[i] != 0 ? named.most[i] : all;
	return true;
}

void log_configure(const char *text)
{
	struct log_levels levels;

	if (!log_levels_parse(text, &levels))
		return;
	for (uint32_t i = 0; i < LOG_TOPICS; i++)
		shm_store_release_u32(&log_most.most[i], levels.most[i]);
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
	log_who = who;
	log_journal = stderr_is_journal();
}

/* --- Lines --------------------------------------------------------------------------------- */

static bool log_write(const char *line, size_t bytes)
{
	struct pollfd p = {.fd = STDERR_FILENO, .events = POLLOUT};

	/* A pipe that polls writable takes a line of up to a page whole. */
	return poll(&p, 1, 0) == 1 && (p.revents & POLLOUT) != 0 &&
		write(STDERR_FILENO, line, bytes) >= 0;
}

static bool is_written(enum log_topic topic, enum log_level level)
{
	return level <= shm_load_relaxed_u32(&log_most.most[topic]);
}

/* What stands before the text; returns its bytes. */
static size_t line_begin(
	char *line, size_t size, enum log_topic topic, enum log_level level, uint64_t lost)
{
	int n;

	if (log_journal)
		n = snprintf(line, size, "<%d>%s: ", (int)level, topics[topic]);
	else
		n = snprintf(line, size, "%s: %s: ", log_who, topics[topic]);
	if (lost > 0)
		n += snprintf(
			line + n, size - (size_t)n, "(%llu lines lost) ", (unsigned long long)lost);
	return (size_t)n;
}

static void line_write(enum log_topic topic, enum log_level level, const char *format, va_list args)
{
	const uint64_t lost = shm_load_relaxed(&log_lost);
	char line[1024];
	size_t at = line_begin(line, sizeof(line), topic, level, lost);
	const int n = vsnprintf(line + at, sizeof(line) - at, format, args);

	if (n < 0)
		return;
	size_t end = at + (size_t)n;
	if (end > sizeof(line) - 1)
		end = sizeof(line) - 1;
	/* A driver's sentence may have several lines; an event has one. */
	for (; at < end; at++) {
		if ((unsigned char)line[at] < ' ' || line[at] == '\x7f')
			line[at] = ' ';
	}
	line[end++] = '\n';
	if (!log_write(line, end))
		shm_fetch_add(&log_lost, 1);
	else if (lost > 0) /* told of, unless another thread was quicker */
		(void)shm_compare_swap(&log_lost, lost, 0);
}

void log_line(enum log_topic topic, enum log_level level, const char *format, ...)
{
	va_list args;

	if (!is_written(topic, level))
		return;
	va_start(args, format);
	line_write(topic, level, format, args);
	va_end(args);
}

/* --- Limits -------------------------------------------------------------------------------- */

/* Begins a new window when the last one is over, and tells what was left out in that. */
static void limit_renew(struct log_limit *limit, uint64_t now_ns)
{
	const uint32_t lost = limit->lost;

	if (now_ns - limit->window_ns <= LOG_WINDOW_NS)
		return;
	limit->window_ns = now_ns;
	limit->lines = limit->lost = 0;
	if (lost > 0)
		log_line(limit->topic, limit->level, "%u more lines were left out, the last: %s",
			lost, limit->last);
}

void log_line_limited(struct log_limit *limit, const char *format, ...)
{
	va_list args;

	if (!is_written(limit->topic, limit->level))
		return;
	const uint64_t now_ns = clock_monotonic_ns();
	if (limit->window_ns == 0) {
		limit->window_ns = now_ns;
		limit->next = log_limits;
		log_limits = limit;
	}
	limit_renew(limit, now_ns);
	va_start(args, format);
	if (limit->lines < LOG_WINDOW_LINES) {
		limit->lines++;
		line_write(limit->topic, limit->level, format, args);
	} else {
		limit->lost++;
		(void)vsnprintf(limit->last, sizeof(limit->last), format, args);
	}
	va_end(args);
}

void log_tick(void)
{
	const uint64_t now_ns = clock_monotonic_ns();

	for (struct log_limit *l = log_limits; l != NULL; l = l->next)
		limit_renew(l, now_ns);
}
