/* SPDX-License-Identifier: MIT */
/* Numbers in few characters. */
#include "tools/top_table.h"

#include <stdio.h>

/* Three significant digits and a unit, stepping to the next unit where 999.5 would show. */
static void scaled(double value, double step, const char *const *units, char *text, size_t size)
{
	while (value >= 999.5 && units[1] != NULL) {
		value /= step;
		units++;
	}
	int decimals = value < 9.995 ? 2 : value < 99.95 ? 1 : 0;
	snprintf(text, size, "%.*f%s", decimals, value, units[0]);
}

static const char *const si_units[] = {"", "k", "M", "G", "T", "P", "E", NULL};

void format_count(uint64_t value, char *text, size_t size)
{
	if (value < 100000)
		snprintf(text, size, "%llu", (unsigned long long)value);
	else
		scaled((double)value, 1000, si_units, text, size);
}

void format_rate(double value, char *text, size_t size)
{
	if (value == 0)
		snprintf(text, size, "0");
	else
		scaled(value, 1000, si_units, text, size);
}

void format_ns(uint64_t ns, char *text, size_t size)
{
	static const char *const units[] = {"ns", "us", "ms", "s", NULL};

	if (ns < 1000)
		snprintf(text, size, "%lluns", (unsigned long long)ns);
	else
		scaled((double)ns, 1000, units, text, size);
}

void format_bytes(uint64_t bytes, char *text, size_t size)
{
	static const char *const units[] = {"", "K", "M", "G", "T", "P", "E", NULL};

	if (bytes < 1000)
		snprintf(text, size, "%llu", (unsigned long long)bytes);
	else
		scaled((double)bytes, 1024, units, text, size);
}

void format_age(uint64_t ns, char *text, size_t size)
{
	unsigned long long s = ns / 1000000000u;

	if (s < 60)
		snprintf(text, size, "%llus", s);
	else if (s < 3600)
		snprintf(text, size, "%llum%02llus", s / 60, s % 60);
	else if (s < 86400)
		snprintf(text, size, "%lluh%02llum", s / 3600, s / 60 % 60);
	else
		snprintf(text, size, "%llud%02lluh", s / 86400, s / 3600 % 24);
}
