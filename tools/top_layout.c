/* SPDX-License-Identifier: MIT */
/* How the lines of a terminal are shared between tables. */
#include "tools/top_view.h"

/* Gives table i up to `want` lines in all, as far as lines are left. */
static void grant(uint32_t *lines, uint32_t want, uint32_t *granted)
{
	uint32_t more = want > *granted ? want - *granted : 0;

	more = more < *lines ? more : *lines;
	*granted += more;
	*lines -= more;
}

void top_layout(uint32_t lines, const uint32_t *rows, uint32_t n, uint32_t n_always, uint32_t focus,
	uint32_t *ret_lines)
{
	const uint32_t n_shared = n_always + (focus >= n_always);

	for (uint32_t i = 0; i < n; i++)
		ret_lines[i] = 0;
	/* Two lines for each of them, or there is no point in showing more than one. */
	if (lines < 2 * n_shared) {
		grant(&lines, 1 + rows[focus], &ret_lines[focus]);
		return;
	}
	for (uint32_t i = 0; i < n; i++) {
		if (i < n_always || i == focus)
			grant(&lines, rows[i] > 0 ? 2 : 1, &ret_lines[i]);
	}
	/* The others may have up to a fair share before the focus takes what it wants. */
	uint32_t share = 1 + lines / n_shared;
	for (uint32_t i = 0; i < n_always; i++)
		grant(&lines, 1 + (rows[i] < share ? rows[i] : share), &ret_lines[i]);
	grant(&lines, 1 + rows[focus], &ret_lines[focus]);
	for (uint32_t i = 0; i < n_always; i++)
		grant(&lines, 1 + rows[i], &ret_lines[i]);
	for (uint32_t i = n_always; i < n; i++) {
		if (i != focus && rows[i] > 0 && lines >= 2)
			grant(&lines, 1 + rows[i], &ret_lines[i]);
	}
}
