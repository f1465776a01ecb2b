/* SPDX-License-Identifier: MIT */
/*
 * top_view.h: the full-screen view of gpuq-top (ncurses). It draws a model and keeps what a
 * person chose to look at; it takes no snapshots and knows no clock.
 */
#ifndef GPUQ_TOOLS_TOP_VIEW_H
#define GPUQ_TOOLS_TOP_VIEW_H

#include "tools/top_model.h"

struct top_view;

/* What a key asks of the program, beyond what the view does by itself. */
enum top_action { TOP_NOTHING, TOP_QUIT, TOP_REFRESH };

/* Takes the terminal. -ENOTTY when there is none that can be drawn on. */
int top_view_open(struct top_view **ret_view);

/* Gives the terminal back. NULL is fine. */
void top_view_close(struct top_view *view);

void top_view_draw(struct top_view *view, const struct top_model *model);

/* Waits up to timeout_ms for a key and acts on it. A new terminal size redraws. */
enum top_action top_view_wait(struct top_view *view, const struct top_model *model, int timeout_ms);

/* Seconds between snapshots; the view's user may change them. */
double top_view_delay_s(const struct top_view *view);
void top_view_set_delay_s(struct top_view *view, double delay_s);

bool top_view_paused(const struct top_view *view);

/*
 * Shares `lines` between n tables: each of the first n_always and the one in focus wants its title
 * and its rows, the one in focus first; the others get what is left. Writes the lines of each,
 * title included; 0: not shown. The sum is never above `lines`.
 */
void top_layout(uint32_t lines, const uint32_t *rows, uint32_t n, uint32_t n_always, uint32_t focus,
	uint32_t *ret_lines);

#endif
