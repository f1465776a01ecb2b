/* SPDX-License-Identifier: MIT */
/* Names of clients: what of Unicode is fit to be shown. */
#include "shm/name.h"

#include <stdint.h>
#include <string.h>

#define NO_CHARACTER UINT32_MAX

/* The character at `at`, and how many bytes it has; the text ends with a null byte. */
static uint32_t decode(const unsigned char *at, uint32_t *ret_length)
{
	static const uint32_t smallest[] = {0, 0, 0x80, 0x800, 0x10000};
	const uint32_t length = at[0] < 0x80 ? 1
		: at[0] >> 5 == 0x06	     ? 2
		: at[0] >> 4 == 0x0e	     ? 3
		: at[0] >> 3 == 0x1e	     ? 4
					     : 0;
	uint32_t c = length < 2 ? at[0] : at[0] & 0x7fu >> length;

	if (length == 0)
		return NO_CHARACTER;
	for (uint32_t i = 1; i < length; i++) {
		if (at[i] >> 6 != 2)
			return NO_CHARACTER;
		c = c << 6 | (at[i] & 0x3fu);
	}
	if (c < smallest[length] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff))
		return NO_CHARACTER;
	*ret_length = length;
	return c;
}

static bool is_printable(uint32_t c)
{
	static const uint32_t refused[][2] = {
		{0x0, 0x1f},
		{0x7f, 0x9f}, /* control characters */
		{0x61c, 0x61c},
		{0x200e, 0x200f}, /* direction */
		{0x2028, 0x202e}, /* separators of lines, direction */
		{0x2066, 0x2069}, /* direction */
		{NO_CHARACTER, NO_CHARACTER},
	};

	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
		if (c >= refused[i][0] && c <= refused[i][1])
			return false;
	}
	return true;
}

bool name_is_printable(const char *name, size_t size)
{
	const unsigned char *at = (const unsigned char *)name;
	uint32_t length;

	if (name[0] == '\0' || memchr(name, '\0', size) == NULL)
		return false;
	for (; *at != '\0'; at += length) {
		if (!is_printable(decode(at, &length)))
			return false;
	}
	return true;
}
