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

/* The command of that program which runs, for where to find help; "" when it has none. */
extern const char *tool_command;

/*
 * Where a standard stream was closed, takes its number, so that no socket gets it that output would
 * then be written to: using the stream fails instead, and is told. First of all in main().
 */
void claim_streams(void);

/* Writes "program: message" to standard error. */
void complain(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The same, with where to find help; returns EXIT_USAGE. */
int complain_usage(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The whole text is a number from min to max, else it complains and names the option. */
bool parse_count(const char *option, const char *text, uint64_t min, uint64_t max, uint64_t *ret);
bool parse_seconds(const char *option, const char *text, double min, double max, double *ret);

/* Prints a document, which it releases, and a newline. EXIT_OK, or EXIT_FAIL with a message. */
int print_json(json_t *document, bool compact);

/*
 * What was printed has arrived, or who reads a pipe has had enough: EXIT_OK, or EXIT_FAIL with a
 * message.
 */
int finish_output(void);

#endif
