/* SPDX-License-Identifier: MIT */
/*
 * pipeline.c: pipelines. Names are resolved here: gpuqd gets numbers, checks what they mean, and
 * answers with a handle that calls carry in place of an operator's number. A pipeline's interface
 * is kept in the form of an operator's description, so that a call of one is a call as any other.
 */
#include "client/client.h"
#include "shm/name.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct gpuq_pipeline {
	struct gpuq *gpuq;
	uint32_t device;
	uint64_t references;		    /* calls, and 1 until it is destroyed; atomic */
	struct gpuq_op_info info;	    /* index: the handle */
	struct gpuq_pipeline *next, **link; /* in gpuq->pipelines */
};

/* A definition on its way to the wire. */
struct draft {
	struct gpuq *gpuq;
	const struct gpuq_pipeline_tensor *tensors;
	const struct gpuq_pipeline_step *steps;
	struct wire_pipeline *head; /* the whole block, of `bytes` bytes */
	struct wire_pipeline_tensor *wire_tensors;
	struct wire_pipeline_step *wire_steps;
	uint32_t bytes;
};

void pipeline_ref(struct gpuq_pipeline *p)
{
	if (p != NULL)
		shm_fetch_add(&p->references, 1);
}

void pipeline_unref(struct gpuq_pipeline *p)
{
	if (p != NULL && shm_fetch_add(&p->references, (uint64_t)-1) == 1)
		free(p);
}

/* --- Names --------------------------------------------------------------------------------- */

static int check_name(const char *name, const char *what, uint32_t number)
{
	if (name == NULL || name[0] == '\0')
		return fail(-EINVAL, "%s %u has no name", what, number);
	if (!name_is_printable(name, strlen(name) + 1))
		return fail(-EINVAL,
			"the name of %s %u is not printable text: it has control characters, or "
			"is not UTF-8",
			what, number);
	if (strlen(name) >= GPUQ_NAME_MAX)
		return fail(-EINVAL, "%s \"%s\": a name has at most %u bytes", what, name,
			GPUQ_NAME_MAX - 1);
	return 0;
}

/* The number of the tensor with this name, or WIRE_PIPELINE_NONE. */
static uint16_t number_of(const struct draft *d, const char *name)
{
	for (uint32_t i = 0; i < d->head->n_tensors; i++) {
		if (strcmp(d->wire_tensors[i].name, name) == 0)
			return (uint16_t)i;
	}
	return WIRE_PIPELINE_NONE;
}

static int put_tensor(struct draft *d, const struct gpuq_pipeline_tensor *t, uint32_t place)
{
	struct wire_pipeline_tensor *w = &d->wire_tensors[d->head->n_tensors];
	int r = check_name(t->name, "tensor", place);

	if (r < 0)
		return r;
	if (number_of(d, t->name) != WIRE_PIPELINE_NONE)
		return fail(-EINVAL, "two tensors are called \"%s\"", t->name);
	if (t->dtype == 0 || t->dtype > GPUQ_DTYPE_LAST)
		return fail(
			-GPUQ_EDTYPE, "tensor %s: %u is not an element type", t->name, t->dtype);
	snprintf(w->name, sizeof(w->name), "%s", t->name);
	w->dtype = t->dtype;
	if (t->role == GPUQ_PIPELINE_INPUT) {
		if (t->rank > GPUQ_MAX_RANK)
			return fail(-GPUQ_ERANK,
				"tensor %s: %u dimensions; at most %u are possible", t->name,
				t->rank, GPUQ_MAX_RANK);
		w->rank = t->rank;
		memcpy(w->dims, t->dims, t->rank * sizeof(t->dims[0]));
	}
	d->head->n_tensors++;
	return 0;
}

/* All tensors of one role, in their order. */
static int put_role(struct draft *d, uint32_t role, uint32_t n_tensors, uint32_t *ret_count)
{
	uint32_t before = d->head->n_tensors;

	for (uint32_t i = 0; i < n_tensors; i++) {
		int r = d->tensors[i].role == role ? put_tensor(d, &d->tensors[i], i) : 0;
		if (r < 0)
			return r;
	}
	*ret_count = d->head->n_tensors - before;
	return 0;
}

static int put_tensors(struct draft *d, uint32_t n_tensors)
{
	uint32_t n_inner;
	int r = put_role(d, GPUQ_PIPELINE_INPUT, n_tensors, &d->head->n_inputs);

	if (r == 0)
		r = put_role(d, GPUQ_PIPELINE_OUTPUT, n_tensors, &d->head->n_outputs);
	if (r == 0)
		r = put_role(d, GPUQ_PIPELINE_INNER, n_tensors, &n_inner);
	if (r < 0)
		return r;
	if (d->head->n_inputs > GPUQ_MAX_INPUTS || d->head->n_outputs > GPUQ_MAX_OUTPUTS)
		return fail(-GPUQ_ELIMIT,
			"%u inputs and %u outputs; at most %u and %u are possible",
			d->head->n_inputs, d->head->n_outputs, GPUQ_MAX_INPUTS, GPUQ_MAX_OUTPUTS);
	if (d->head->n_tensors != n_tensors)
		return fail_plain(
			-EINVAL, "a tensor has no role: it must be input, output or inner");
	return 0;
}

/* The tensors that one side of a step names. */
static int put_names(const struct draft *d, uint32_t step, const char *const *names, uint32_t max,
	const struct gpuq_op_tensor *specs, uint32_t n_specs, uint16_t *ret_numbers)
{
	const char *op = d->steps[step].op;

	for (uint32_t i = 0; i < max; i++) {
		ret_numbers[i] = WIRE_PIPELINE_NONE;
		if (names[i] == NULL)
			continue;
		if (i >= n_specs)
			return fail(-GPUQ_EARGS, "step %u (%s): \"%s\" is one tensor too many",
				step, op, names[i]);
		ret_numbers[i] = number_of(d, names[i]);
		if (ret_numbers[i] == WIRE_PIPELINE_NONE)
			return fail(-GPUQ_EPIPELINE, "step %u (%s): %s: there is no tensor \"%s\"",
				step, op, specs[i].name, names[i]);
	}
	return 0;
}

static int put_params(const struct draft *d, uint32_t step, const struct gpuq_op_info *op,
	struct wire_pipeline_step *w)
{
	const struct gpuq_pipeline_step *s = &d->steps[step];

	for (uint32_t i = 0; i < s->n_params; i++) {
		const struct gpuq_param *p = &s->params[i];
		uint32_t at = 0;
		while (at < op->n_params && strcmp(op->params[at].name, p->name) != 0)
			at++;
		if (at == op->n_params || op->params[at].type != p->type ||
			(w->params_given & 1u << at) != 0)
			return fail(-GPUQ_EPARAM,
				"step %u (%s): parameter \"%s\" is unknown, of the wrong type or "
				"given twice",
				step, op->name, p->name);
		w->params_given |= 1u << at;
		memcpy(&w->params[at], &p->value, sizeof(w->params[at]));
	}
	return 0;
}

static int put_step(const struct draft *d, uint32_t step)
{
	const struct gpuq_pipeline_step *s = &d->steps[step];
	struct wire_pipeline_step *w = &d->wire_steps[step];
	const struct gpuq_op_info *op;
	int r = check_name(s->op, "step", step);

	if (r == 0)
		r = discovery_find(d->gpuq, s->op, &op);
	if (r == -GPUQ_EOP)
		return fail(r, "step %u: gpuqd has no operator \"%s\"", step, s->op);
	if (r < 0)
		return r;
	w->op = op->index;
	r = put_names(d, step, s->inputs, GPUQ_MAX_INPUTS, op->inputs, op->n_inputs, w->in);
	if (r == 0)
		r = put_names(
			d, step, s->outputs, GPUQ_MAX_OUTPUTS, op->outputs, op->n_outputs, w->out);
	return r < 0 ? r : put_params(d, step, op, w);
}

/* --- To gpuqd ------------------------------------------------------------------------------ */

/* Sends the definition in pieces. */
static int upload(const struct draft *d, uint32_t device, uint32_t *ret_handle)
{
	const struct session_answer want = {MSG_PIPELINE_OK, sizeof(struct msg_pipeline_handle), 0};
	struct session_message answer;

	for (uint32_t at = 0; at < d->bytes;) {
		uint32_t left = d->bytes - at;
		uint32_t n = left < MSG_PIPELINE_PIECE ? left : MSG_PIPELINE_PIECE;
		struct msg_pipeline m = {
			.h = {.type = MSG_PIPELINE,
				.bytes = (uint16_t)(offsetof(struct msg_pipeline, piece) + n)},
			.device = device,
			.total_bytes = d->bytes,
			.offset = at,
			.bytes = n,
		};
		memcpy(m.piece, (const uint8_t *)d->head + at, n);
		int r = session_request(d->gpuq, &m.h, want, &answer);
		if (r < 0)
			return r;
		at += n;
	}
	if ((answer.pipeline.handle & WIRE_PIPELINE) == 0)
		return fail_plain(
			-GPUQ_EPROTO, "gpuqd sent something else for a pipeline's handle");
	*ret_handle = answer.pipeline.handle;
	return 0;
}

/* The interface, as if it were an operator. */
static void describe(const struct draft *d, struct gpuq_op_info *info)
{
	info->n_inputs = d->head->n_inputs;
	info->n_outputs = d->head->n_outputs;
	memcpy(info->name, d->head->name, sizeof(info->name));
	for (uint32_t i = 0; i < info->n_inputs + info->n_outputs; i++) {
		struct gpuq_op_tensor *t =
			i < info->n_inputs ? &info->inputs[i] : &info->outputs[i - info->n_inputs];
		memcpy(t->name, d->wire_tensors[i].name, sizeof(t->name));
		t->dtypes = GPUQ_DTYPE_BIT(d->wire_tensors[i].dtype);
	}
}

static void link_pipeline(struct gpuq *g, struct gpuq_pipeline *p)
{
	pthread_mutex_lock(&g->lock);
	p->next = g->pipelines;
	p->link = &g->pipelines;
	if (p->next != NULL)
		p->next->link = &p->next;
	g->pipelines = p;
	pthread_mutex_unlock(&g->lock);
}

static void unlink_pipeline(struct gpuq_pipeline *p)
{
	*p->link = p->next;
	if (p->next != NULL)
		p->next->link = p->link;
}

/* Registers what the draft says. */
static int register_draft(const struct draft *d, uint32_t device, struct gpuq_pipeline **ret)
{
	struct gpuq_pipeline *p = calloc(1, sizeof(*p));

	if (p == NULL)
		return fail_plain(-ENOMEM, "no memory for a pipeline");
	p->gpuq = d->gpuq;
	p->device = device;
	p->references = 1;
	describe(d, &p->info);
	pthread_mutex_lock(&d->gpuq->upload);
	int r = upload(d, device, &p->info.index);
	pthread_mutex_unlock(&d->gpuq->upload);
	if (r < 0) {
		free(p);
		return r;
	}
	link_pipeline(d->gpuq, p);
	*ret = p;
	return 0;
}

static int draft_create(struct draft *d, uint32_t n_tensors, uint32_t n_steps)
{
	uint64_t bytes = sizeof(*d->head) + (uint64_t)n_tensors * sizeof(*d->wire_tensors) +
		(uint64_t)n_steps * sizeof(*d->wire_steps);

	if (bytes > MSG_PIPELINE_MAX_BYTES)
		return fail(-GPUQ_ELIMIT, "%u tensors and %u steps are too many for a pipeline",
			n_tensors, n_steps);
	d->bytes = (uint32_t)bytes;
	d->head = calloc(1, bytes);
	if (d->head == NULL)
		return fail_plain(-ENOMEM, "no memory for a pipeline");
	d->wire_tensors = (struct wire_pipeline_tensor *)(d->head + 1);
	d->wire_steps = (struct wire_pipeline_step *)(d->wire_tensors + n_tensors);
	return 0;
}

int gpuq_pipeline_create(struct gpuq *g, uint32_t device, const char *name,
	const struct gpuq_pipeline_tensor *tensors, uint32_t n_tensors,
	const struct gpuq_pipeline_step *steps, uint32_t n_steps,
	struct gpuq_pipeline **ret_pipeline)
{
	struct draft d = {.gpuq = g, .tensors = tensors, .steps = steps};
	int r = session_check(g);

	if (r == 0)
		r = session_need_abi3(g, "pipelines");
	if (r == 0)
		r = check_name(name, "pipeline", 0);
	if (r == 0)
		r = draft_create(&d, n_tensors, n_steps);
	if (r == 0) {
		snprintf(d.head->name, sizeof(d.head->name), "%s", name);
		d.head->n_steps = n_steps;
		r = put_tensors(&d, n_tensors);
	}
	for (uint32_t i = 0; r == 0 && i < n_steps; i++)
		r = put_step(&d, i);
	if (r == 0)
		r = register_draft(&d, device, ret_pipeline);
	free(d.head);
	return r;
}

void gpuq_pipeline_destroy(struct gpuq_pipeline *p)
{
	if (p == NULL)
		return;
	struct gpuq *g = p->gpuq;
	struct msg_pipeline_handle m = {
		.h = {.type = MSG_PIPELINE_CLOSE, .bytes = sizeof(m)},
		.handle = p->info.index,
	};
	const struct session_answer want = {MSG_PIPELINE_OK, sizeof(m), 0};
	struct session_message answer;
	/* In a forked child the lock may have been held; nobody else is here. */
	bool forked = guard_forked(g->guard);

	/* Fails when gpuqd has ended, and then there is nothing to tell. */
	if (!forked && p->info.index != STALE_PIPELINE)
		(void)session_request(g, &m.h, want, &answer);
	if (!forked)
		pthread_mutex_lock(&g->lock);
	unlink_pipeline(p);
	if (!forked)
		pthread_mutex_unlock(&g->lock);
	pipeline_unref(p);
}

void pipelines_lose(struct gpuq *g)
{
	for (struct gpuq_pipeline *p = g->pipelines; p != NULL; p = p->next)
		p->info.index = STALE_PIPELINE;
}

void pipeline_free_all(struct gpuq *g)
{
	while (g->pipelines != NULL) {
		struct gpuq_pipeline *p = g->pipelines;
		unlink_pipeline(p);
		pipeline_unref(p);
	}
}

int gpuq_pipeline_call_create(struct gpuq_channel *ch, struct gpuq_pipeline *p,
	const struct gpuq_tensor *inputs, uint32_t n_inputs, const struct gpuq_tensor *outputs,
	uint32_t n_outputs, struct gpuq_call **ret_call)
{
	const struct call_arguments a = {
		.inputs = inputs, .n_inputs = n_inputs, .outputs = outputs, .n_outputs = n_outputs};

	if (!channel_owned(ch))
		return channel_refuse(ch);
	if (p->gpuq != ch->gpuq || p->device != ch->device)
		return fail_plain(-EINVAL,
			"the pipeline was registered through another connection, or for another "
			"device");
	if (p->info.index == STALE_PIPELINE)
		return fail_plain(-GPUQ_EPIPELINE,
			"the pipeline went with the gpuqd that knew it; destroy it and create it "
			"again");
	return call_create(ch, &p->info, p, &a, ret_call);
}
