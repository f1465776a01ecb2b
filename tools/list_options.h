/* SPDX-License-Identifier: MIT */
/*
 * list_options.h: what a shell's completion asks a program for. "PROGRAM --list-options" prints
 * its options from its own table, one in a line, those that take a value with "=" behind them, and
 * its commands, if it has any, without dashes.
 */
#ifndef GPUQ_TOOLS_LIST_OPTIONS_H
#define GPUQ_TOOLS_LIST_OPTIONS_H

#include <getopt.h>
#include <stdbool.h>

/* Whether this is all that a program was asked for. */
bool list_options_wanted(int argc, char *const *argv);

/* Prints the options of a table. */
void list_options(const struct option *longs);

#endif
