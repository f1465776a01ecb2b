/* SPDX-License-Identifier: MIT */
#include "models/fail.h"

#include <stdarg.h>
#include <stdio.h>

int model_fail(struct model_why *why, int error, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(why->text, sizeof(why->text), format, args);
	va_end(args);
	for (char *c = why->text; *c != '\0'; c++) {
		if ((unsigned char)*c < 0x20 || *c == 0x7f)
			*c = '?';
	}
	return error;
}
