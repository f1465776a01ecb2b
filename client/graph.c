/* SPDX-License-Identifier: MIT */
/* graph.c: what gpuqd has captured, and what devices it found; see gpuq_precapture() too. */
#include "client/client.h"

#include <string.h>

static void read_graph(struct gpuq_graph_info *info, const struct msg_graph *m)
{
	*info = (struct gpuq_graph_info){
		.id = m->id,
		.state = m->state,
		.kernels = m->kernels,
		.uses = m->uses,
		.hits = m->hits,
		.bytes = m->bytes,
		.capture_ns = m->capture_ns,
		.pinned = m->pinned != 0,
		.status = m->status,
	};
	discovery_copy_text(info->shape, m->shape, sizeof(info->shape));
	discovery_copy_text(info->reason, m->reason, sizeof(info->reason));
}

/* One message's worth, up to max. */
static int ask(struct gpuq *g, uint32_t device, uint64_t after, struct gpuq_graph_info *ret_infos,
	uint32_t max, bool *ret_more)
{
	struct msg_graph_query query = {
		.h = {.type = MSG_GRAPH_QUERY, .bytes = sizeof(query)},
		.device = device,
		.after = after,
	};
	const struct session_answer want = {MSG_GRAPHS, sizeof(struct msg_graphs), 0};
	struct session_message answer;
	int r = session_request(g, &query.h, want, &answer);

	if (r < 0)
		return r;
	const struct msg_graphs *m = &answer.graphs;
	uint32_t n = m->count < MSG_GRAPHS_MAX ? m->count : MSG_GRAPHS_MAX;
	*ret_more = m->more != 0 && n > 0;
	n = n < max ? n : max;
	for (uint32_t i = 0; i < n; i++)
		read_graph(&ret_infos[i], &m->graphs[i]);
	return (int)n;
}

int gpuq_graphs(struct gpuq *g, uint32_t device, uint64_t after, struct gpuq_graph_info *ret_infos,
	uint32_t max)
{
	bool more = true;
	uint32_t n = 0;
	int r = session_check(g);

	if (r == 0)
		r = session_need_abi3(g, "lists of graphs");
	while (r >= 0 && more && n < max) {
		r = ask(g, device, after, &ret_infos[n], max - n, &more);
		n += r > 0 ? (uint32_t)r : 0;
		after = n > 0 ? ret_infos[n - 1].id : after;
	}
	return r < 0 ? r : (int)n;
}

int gpuq_present_info(struct gpuq *g, uint32_t index, struct gpuq_present_info *ret_info)
{
	struct msg_query query = {
		.h = {.type = MSG_PRESENT_QUERY, .bytes = sizeof(query)},
		.index = index,
	};
	const struct session_answer want = {MSG_PRESENT, sizeof(struct msg_present), 0};
	struct session_message answer;
	int r = session_check(g);

	if (r == 0)
		r = session_need_abi3(g, "lists of devices");
	if (r == 0)
		r = session_request(g, &query.h, want, &answer);
	if (r < 0)
		return r;
	const struct msg_present *m = &answer.present;
	if (index >= m->count)
		return fail(-GPUQ_ENODEV, "gpuqd found %u devices and none with number %u",
			m->count, index);
	*ret_info = (struct gpuq_present_info){.index = index, .status = m->status};
	discovery_copy_text(ret_info->kind, m->kind, sizeof(ret_info->kind));
	discovery_copy_text(ret_info->name, m->name, sizeof(ret_info->name));
	discovery_copy_text(ret_info->uuid, m->uuid, sizeof(ret_info->uuid));
	discovery_copy_text(ret_info->why, m->why, sizeof(ret_info->why));
	return 0;
}

int gpuq_admin_capture(struct gpuq *g, uint32_t device, bool stop)
{
	struct msg_admin_capture m = {
		.h = {.type = MSG_ADMIN_CAPTURE, .bytes = sizeof(m)},
		.device = device,
		.stop = stop,
	};

	return session_administrate(g, &m.h, -1, "captures");
}

int gpuq_admin_evict(struct gpuq *g, uint32_t device, uint64_t id)
{
	struct msg_admin_evict m = {
		.h = {.type = MSG_ADMIN_EVICT, .bytes = sizeof(m)},
		.device = device,
		.id = id,
	};

	return session_administrate(g, &m.h, -1, "captures");
}
