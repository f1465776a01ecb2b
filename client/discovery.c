/* SPDX-License-Identifier: MIT */
/*
 * discovery.c: what gpuqd offers. Operators are asked for once and remembered: they keep their
 * numbers for the life of a gpuqd.
 */
#include "client/client.h"

#include <stdlib.h>
#include <string.h>

void discovery_copy_text(char *dst, const char *src, size_t size)
{
	memcpy(dst, src, size);
	dst[size - 1] = '\0';
}

static void read_tensors(struct gpuq_op_tensor *dst, const struct msg_op_tensor *src, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		discovery_copy_text(dst[i].name, src[i].name, sizeof(dst[i].name));
		discovery_copy_text(dst[i].shape, src[i].shape, sizeof(dst[i].shape));
		dst[i].dtypes = src[i].dtypes;
		dst[i].optional = src[i].optional != 0;
	}
}

static int read_op(struct gpuq_op_info *info, const struct msg_op *m)
{
	if (m->n_inputs > GPUQ_MAX_INPUTS || m->n_outputs > GPUQ_MAX_OUTPUTS ||
		m->n_params > GPUQ_MAX_PARAMS)
		return fail_plain(
			-GPUQ_EPROTO, "gpuqd described an operator with impossible counts");
	info->index = m->index;
	info->n_inputs = m->n_inputs;
	info->n_outputs = m->n_outputs;
	info->n_params = m->n_params;
	discovery_copy_text(info->name, m->name, sizeof(info->name));
	discovery_copy_text(info->summary, m->summary, sizeof(info->summary));
	read_tensors(info->inputs, m->inputs, m->n_inputs);
	read_tensors(info->outputs, m->outputs, m->n_outputs);
	/* A gpuqd of an older version does not say. */
	for (uint32_t i = 0; i < m->n_inputs && m->h.bytes >= sizeof(*m); i++)
		info->inputs[i].in_out = (m->in_out & 1u << i) != 0;
	for (uint32_t i = 0; i < m->n_params; i++) {
		discovery_copy_text(
			info->params[i].name, m->params[i].name, sizeof(m->params[i].name));
		info->params[i].type = m->params[i].type;
		info->params[i].preset = m->params[i].preset;
		info->params[i].min = m->params[i].min;
		info->params[i].max = m->params[i].max;
	}
	return 0;
}

/* Kept until the connection is freed: calls point to them, whichever gpuqd described them. */
struct known_op {
	struct known_op *next;
	struct gpuq_op_info info;
};

/* The one known operator that is described so. The lock is held; takes `op` over. */
static const struct gpuq_op_info *intern(struct gpuq *g, struct known_op *op)
{
	struct known_op *known = g->known_ops;

	while (known != NULL && memcmp(&known->info, &op->info, sizeof(op->info)) != 0)
		known = known->next;
	if (known != NULL) {
		free(op);
		return &known->info;
	}
	op->next = g->known_ops;
	g->known_ops = op;
	return &op->info;
}

/* Asks gpuqd; the caller frees what comes back. */
static int ask(struct gpuq *g, uint32_t index, struct known_op **ret_op)
{
	struct msg_query query = {
		.h = {.type = MSG_OP_QUERY, .bytes = sizeof(query)},
		.index = index,
	};
	const struct session_answer want = {MSG_OP, offsetof(struct msg_op, in_out), 0};
	struct session_message answer;
	int r = session_request(g, &query.h, want, &answer);

	if (r < 0)
		return r;
	struct known_op *op = calloc(1, sizeof(*op));
	if (op == NULL)
		return fail_plain(-ENOMEM, "no memory for an operator's description");
	r = read_op(&op->info, &answer.op);
	if (r < 0) {
		free(op);
		return r;
	}
	*ret_op = op;
	return 0;
}

/* The remembered operator, or asks for it. */
static int get(struct gpuq *g, uint32_t index, const struct gpuq_op_info **ret_info)
{
	const struct gpuq_op_info *info;
	struct known_op *op;

	pthread_mutex_lock(&g->lock);
	const uint64_t epoch = g->epoch;
	info = index < g->welcome.n_ops ? g->ops[index] : NULL;
	pthread_mutex_unlock(&g->lock);
	if (info == NULL) {
		int r = ask(g, index, &op);
		if (r < 0)
			return r;
		pthread_mutex_lock(&g->lock);
		/* With another gpuqd the number is another operator's. */
		const bool is_same = g->epoch == epoch;
		if (is_same)
			info = g->ops[index] = intern(g, op);
		pthread_mutex_unlock(&g->lock);
		if (!is_same) {
			free(op);
			(void)fail_plain(-GPUQ_EGONE, "gpuqd was replaced meanwhile");
			return -GPUQ_EGONE;
		}
	}
	*ret_info = info;
	return 0;
}

int discovery_find(struct gpuq *g, const char *name, const struct gpuq_op_info **ret_op)
{
	int r = session_check(g);

	if (r < 0)
		return r;
	for (uint32_t i = 0; i < g->welcome.n_ops; i++) {
		const struct gpuq_op_info *info;
		r = get(g, i, &info);
		if (r < 0)
			return r;
		if (strcmp(info->name, name) == 0) {
			*ret_op = info;
			return 0;
		}
	}
	return fail(-GPUQ_EOP, "gpuqd has no operator \"%s\"; `gpuq ops` lists those it has", name);
}

void discovery_free(struct gpuq *g)
{
	while (g->known_ops != NULL) {
		struct known_op *op = g->known_ops;
		g->known_ops = op->next;
		free(op);
	}
	free(g->ops);
}

void discovery_forget(
	struct gpuq *g, const struct msg_welcome *welcome, const struct gpuq_op_info **ops)
{
	free(g->ops);
	g->ops = ops;
	g->welcome = *welcome;
}

uint32_t gpuq_op_count(const struct gpuq *g)
{
	return g->welcome.n_ops;
}

uint32_t gpuq_device_count(const struct gpuq *g)
{
	return g->welcome.n_devices;
}

int gpuq_op_info(struct gpuq *g, uint32_t index, struct gpuq_op_info *ret_info)
{
	const struct gpuq_op_info *info;
	int r = session_check(g);

	if (r < 0)
		return r;
	if (index >= g->welcome.n_ops)
		return fail(-GPUQ_EOP, "gpuqd has %u operators and none with number %u",
			g->welcome.n_ops, index);
	r = get(g, index, &info);
	if (r == 0)
		*ret_info = *info;
	return r;
}

int gpuq_op_find(struct gpuq *g, const char *name, struct gpuq_op_info *ret_info)
{
	const struct gpuq_op_info *info = NULL;
	int r = discovery_find(g, name, &info);

	if (r == 0)
		*ret_info = *info;
	return r;
}

int gpuq_device_info(struct gpuq *g, uint32_t index, struct gpuq_device_info *ret_info)
{
	struct msg_query query = {
		.h = {.type = MSG_DEVICE_QUERY, .bytes = sizeof(query)},
		.index = index,
	};
	const struct session_answer want = {MSG_DEVICE, sizeof(struct msg_device), 0};
	struct session_message answer;
	int r = session_check(g);

	if (r < 0)
		return r;
	if (index >= g->welcome.n_devices)
		return fail(-GPUQ_ENODEV, "gpuqd has %u devices and none with number %u",
			g->welcome.n_devices, index);
	r = session_request(g, &query.h, want, &answer);
	if (r < 0)
		return r;
	ret_info->index = answer.device.index;
	ret_info->ready = answer.device.ready != 0;
	ret_info->epoch = answer.device.epoch;
	discovery_copy_text(ret_info->kind, answer.device.kind, sizeof(ret_info->kind));
	discovery_copy_text(ret_info->name, answer.device.name, sizeof(ret_info->name));
	return 0;
}
