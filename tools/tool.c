/* SPDX-License-Identifier: MIT */
/* Messages, numbers and JSON of the command-line programs. */
#include "tools/tool.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char *tool_name = "gpuq", *tool_command = "";

void claim_streams(void)
{
	static const int modes[] = {O_WRONLY, O_RDONLY, O_RDONLY};

	for (int fd = 0; fd <= STDERR_FILENO; fd++)
		if (fcntl(fd, F_GETFD) < 0 && errno == EBADF)
			(void)open("/dev/null", modes[fd]);
}

static void complain_args(const char *format, va_list args, const char *tail)
{
	char message[2048];

	vsnprintf(message, sizeof(message), format, args);
	fflush(stdout);
	fprintf(stderr, "%s: %s%s\n", tool_name, message, tail);
}

void complain(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	complain_args(format, args, "");
	va_end(args);
}

int complain_usage(const char *format, ...)
{
	char tail[64];
	va_list args;

	snprintf(tail, sizeof(tail), "; see %s %s%s--help", tool_name, tool_command,
		tool_command[0] == '\0' ? "" : " ");
	va_start(args, format);
	complain_args(format, args, tail);
	va_end(args);
	return EXIT_USAGE;
}

bool parse_count(const char *option, const char *text, uint64_t min, uint64_t max, uint64_t *ret)
{
	char *end;

	errno = 0;
	unsigned long long value = strtoull(text, &end, 10);
	if (!isdigit((unsigned char)text[0]) || *end != '\0' || errno != 0 || value < min ||
		value > max) {
		complain("%s: '%s' is not a whole number from %llu to %llu", option, text,
			(unsigned long long)min, (unsigned long long)max);
		return false;
	}
	*ret = value;
	return true;
}

bool parse_seconds(const char *option, const char *text, double min, double max, double *ret)
{
	char *end;
	double value = strtod(text, &end);

	if (end == text || *end != '\0' || !(value >= min && value <= max)) {
		complain("%s: '%s' is not a number of seconds from %g to %g", option, text, min,
			max);
		return false;
	}
	*ret = value;
	return true;
}

int print_json(json_t *document, bool compact)
{
	size_t flags = JSON_REAL_PRECISION(15) | (compact ? JSON_COMPACT : JSON_INDENT(2));
	char *text = document == NULL ? NULL : json_dumps(document, flags);

	json_decref(document);
	if (text == NULL) {
		complain("out of memory");
		return EXIT_FAIL;
	}
	puts(text);
	free(text);
	return finish_output();
}

int finish_output(void)
{
	if (fflush(stdout) == 0 && !ferror(stdout))
		return EXIT_OK;
	/* Who reads a pipe has had enough, and SIGPIPE, which would have said so, is ignored. */
	if (errno == EPIPE)
		return EXIT_OK;
	complain("standard output: %s", strerror(errno));
	return EXIT_FAIL;
}
