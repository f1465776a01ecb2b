/* SPDX-License-Identifier: MIT */
/*
 * tool.h: what the command-line programs share: messages, exit codes, numbers from the command
 * line, JSON on standard output.
 */
#ifndef GPUQ_TOOLS_TOOL_H
#define GPUQ_TOOLS_TOOL_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

enum { EXIT_OK = 0, EXIT_FAIL = 1, EXIT_USAGE = 2 };

/* The program's name in messages. */
extern const char *tool_name;

/* Writes "program: message" to standard error. */
void complain(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The same, with where to find help; returns EXIT_USAGE. */
int complain_usage(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The whole text is a number from min to max, else it complains and names the option. */
bool parse_count(const char *option, const char *text, uint64_t min, uint64_t max, uint64_t *ret);
bool parse_seconds(const char *option, const char *text, double min, double max, double *ret);

/* Prints a document, which it releases, and a newline. EXIT_OK, or EXIT_FAIL with a message. */
int print_json(json_t *document, bool compact);

/* What was printed has arrived: EXIT_OK, or EXIT_FAIL with a message. */
int finish_output(void);

#endif
