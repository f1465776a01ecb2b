/* SPDX-License-Identifier: MIT */
/*
 * Copies beside the steps: of KV blocks that are shared and about to be written to, and of full
 * rows to clients. Copies of one kind are given to a stream as it has room; when one cannot be
 * given, the rest is left out, and what was given is awaited, since it may still be running.
 */
#include "models/engine_impl.h"

#include <errno.h>

struct copy {
	void *to;
	const void *from;
	uint64_t bytes;
};

static void begin(const struct engine *e, struct engine_copying *c, uint32_t count)
{
	c->began_ns = engine_now_ns(e);
	c->value = c->completion->word + 1;
	c->completion->status = 0;
	c->next = 0;
	c->count = count;
	c->signaled = false;
	c->status = 0;
}

static int give_signal(struct engine_copying *c)
{
	const struct device_args args = {.completion = c->completion, .value = c->value};

	return device_signal(c->stream, &args);
}

/* Nobody will ever know when the copies end: as after a device's failure. */
static bool lost(struct engine *e, int err)
{
	if (err == 0 || err == -EAGAIN)
		return false;
	engine_fail(e);
	return true;
}

/* Gives what there is room for; 1: all have ended, 0: not yet, -GPUQ_EDEVICE. */
static int go_on(struct engine *e, struct engine_copying *c,
	struct copy (*get)(const struct engine *, uint32_t))
{
	int err = 0;

	while (c->next < c->count) {
		const struct copy copy = get(e, c->next);

		err = device_copy(c->stream, copy.to, copy.from, copy.bytes);
		if (err == -EAGAIN)
			return 0;
		if (err != 0) {
			c->status = err;
			c->next = c->count;
			break;
		}
		c->next++;
	}
	if (!c->signaled) {
		err = give_signal(c);
		if (lost(e, err))
			return -GPUQ_EDEVICE;
		c->signaled = err == 0;
	}
	if (!c->signaled || !device_done(c->completion, c->value))
		return 0;
	c->count = 0;
	return 1;
}

/* --- Blocks --------------------------------------------------------------------------------- */

/* Block 0 of a cache is nobody's. */
static void *block_address(const struct engine_model *m, uint32_t layer, uint32_t block)
{
	return (char *)m->caches[layer] + (1ull + block) * m->block_bytes;
}

static struct copy block_copy(const struct engine *e, uint32_t i)
{
	const struct kv_copy *copy = &e->step.copies[i / e->model->n_caches];
	const uint32_t layer = i % e->model->n_caches;

	return (struct copy){
		.to = block_address(e->model, layer, copy->to),
		.from = block_address(e->model, layer, copy->from),
		.bytes = e->model->block_bytes,
	};
}

void engine_copy_blocks(struct engine *e)
{
	begin(e, &e->kv_copying, e->step.n_copies * e->model->n_caches);
}

int engine_copy_blocks_go_on(struct engine *e)
{
	return go_on(e, &e->kv_copying, block_copy);
}

/* --- Full rows ------------------------------------------------------------------------------ */

static struct copy rows_copy(const struct engine *e, uint32_t i)
{
	const struct engine_part *part = &e->rows.parts[i];
	const uint64_t row_bytes = 4ull * e->model->vocab;

	return (struct copy){
		.to = e->rows.to[i],
		.from = (char *)e->buffers.logits + part->first_row * row_bytes,
		.bytes = part->n_rows * row_bytes,
	};
}

void engine_copy_rows(struct engine *e)
{
	const struct engine_step *step = &e->step;
	struct engine_rows *rows = &e->rows;
	uint32_t n = 0;

	for (uint32_t i = 0; i < step->n_parts; i++) {
		const struct engine_part *part = &step->parts[i];
		struct engine_session *s = part->session;
		const struct engine_request *r = s->first;

		if (part->n_rows == 0 || s->closing || r->canceled)
			continue;
		const uint32_t first_wanted = s->before + r->n_tokens - r->rows;
		rows->to[n] = (char *)r->device_logits +
			4ull * e->model->vocab * (s->next_row - first_wanted);
		rows->parts[n++] = *part;
		s->copying = true;
	}
	if (n > 0)
		begin(e, &rows->copying, n);
}

bool engine_copy_rows_go_on(struct engine *e)
{
	struct engine_rows *rows = &e->rows;
	const uint32_t count = rows->copying.count, given = rows->copying.next;

	if (count == 0)
		return false;
	if (go_on(e, &rows->copying, rows_copy) != 1)
		return rows->copying.next != given;
	e->turns[MODEL_STEP_ROWS].ended_ns = engine_now_ns(e);
	for (uint32_t i = 0; i < count; i++) {
		struct engine_session *s = rows->parts[i].session;

		s->copying = false;
		engine_request_settle(s, rows->copying.status);
	}
	return true;
}
