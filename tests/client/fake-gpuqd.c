/* SPDX-License-Identifier: MIT */
/* fake-gpuqd.c: the process of the fake gpuqd: see fake.h. */
#include "tests/client/fake.h"
#include "shm/clock.h"
#include "shm/ring.h"
#include "shm/robust.h"
#include "shm/segment.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define CLIENTS 16
#define CHANNELS 32
#define HELD 4096
#define NAP_MS 2 /* after which changes of the control block are noticed */

struct channel {
	int client_fd; /* 0: not in use */
	struct ring_consumer sq;
	struct ring_producer cq;
	uint8_t *base;
	struct wire_layout layout;
	int doorbell_fd, bell_fd;
	struct wire_sqe held[HELD];
	uint32_t n_held;
	uint32_t generation;
};

static struct fake_control *control;
static struct wire_page *page;
static int page_fd, listen_fd;
static int clients[CLIENTS];
static struct channel channels[CHANNELS];
static struct clock_line fake_clock;

static void need(bool fine, const char *what)
{
	if (fine)
		return;
	fprintf(stderr, "fake gpuqd: %s: %m\n", what);
	_exit(1);
}

/* The fault that is due when a message of this type arrives. */
static enum fake_fault fault(uint32_t type)
{
	return shm_load_acquire(&control->fault_at) == type
		? (enum fake_fault)shm_load_acquire(&control->fault)
		: FAKE_NO_FAULT;
}

static void send_packet(int fd, const void *bytes, size_t n, const int *fds, uint32_t n_fds)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(int) * 8)];
	} space = {0};
	struct iovec iov = {(void *)bytes, n};
	struct msghdr packet = {.msg_iov = &iov, .msg_iovlen = 1};

	if (n_fds > 0) {
		packet.msg_control = &space;
		packet.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
		struct cmsghdr *c = CMSG_FIRSTHDR(&packet);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * n_fds);
		memcpy(CMSG_DATA(c), fds, sizeof(int) * n_fds);
	}
	/* A client may be gone by now. */
	(void)sendmsg(fd, &packet, MSG_NOSIGNAL);
}

/* Sends an answer, bent by the fault of the request's type. */
static void answer(int fd, const struct msg_header *request, struct msg_header *h, const int *fds,
	uint32_t n_fds)
{
	enum fake_fault f = fault(request->type);
	int many[8] = {page_fd, page_fd, page_fd, page_fd, page_fd, page_fd, page_fd, page_fd};
	size_t n = h->bytes;

	h->magic = MSG_MAGIC;
	h->serial = request->serial;
	if (f == FAKE_OLD_SERIAL) {
		h->serial += 1000;
		send_packet(fd, h, n, fds, n_fds);
		h->serial -= 1000;
	}
	if (f == FAKE_LATE)
		usleep(300000);
	if (f == FAKE_MALFORMED)
		h->magic++;
	if (f == FAKE_WRONG_TYPE)
		h->type = MSG_CLOSED;
	if (f == FAKE_WRONG_LENGTH)
		n -= 8;
	if (f == FAKE_NO_FD)
		n_fds = 0;
	if (f == FAKE_MANY_FDS)
		send_packet(fd, h, n, many, 4);
	else
		send_packet(fd, h, n, fds, n_fds);
}

static void refuse(int fd, const struct msg_header *request)
{
	struct msg_error m = {
		.h = {.magic = MSG_MAGIC,
			.type = MSG_ERROR,
			.bytes = sizeof(m),
			.serial = request->serial},
		.status = (int32_t)shm_load_acquire(&control->fault_status),
		.text = "the fake refuses; try another",
	};

	send_packet(fd, &m, sizeof(m), NULL, 0);
}

static void goodbye(int fd)
{
	struct msg_goodbye m = {
		.h = {.magic = MSG_MAGIC, .type = MSG_GOODBYE, .bytes = sizeof(m)},
		.status = (int32_t)shm_load_acquire(&control->fault_status),
		.text = "the fake has had enough",
	};

	send_packet(fd, &m, sizeof(m), NULL, 0);
}

/* Memory to share, as bad as the fault asks for. */
static int make_memory(uint64_t bytes, enum fake_fault f)
{
	int fd;

	if (f == FAKE_UNSEALED) {
		fd = memfd_create("fake", MFD_CLOEXEC | MFD_ALLOW_SEALING);
		need(fd >= 0 && ftruncate(fd, (off_t)bytes) == 0, "memory");
		return fd;
	}
	fd = segment_create("fake", f == FAKE_SMALL ? bytes - WIRE_PAGE_SIZE / 2 : bytes);
	need(fd >= 0, "memory");
	return fd;
}

static void on_hello(int fd, const struct msg_hello *hello)
{
	enum fake_fault f = fault(MSG_HELLO);
	uint32_t abi = (uint32_t)shm_load_acquire(&control->abi);
	int memory = page_fd;
	struct msg_welcome m = {
		.h = {.type = MSG_WELCOME, .bytes = sizeof(m)},
		.abi = f == FAKE_LIES	       ? 99
			: hello->abi_max < abi ? hello->abi_max
					       : abi,
		.n_devices = 1,
		.n_ops = 2,
		.max_channels = CHANNELS,
		.max_entries = 1024,
		.max_arena_bytes = 1ull << 26,
		.max_client_bytes = 1ull << 28,
		.version = "0.0.fake",
	};

	memcpy(control->client_name, hello->name, sizeof(hello->name));
	shm_fetch_add(&control->hellos, 1);
	if (f == FAKE_UNSEALED || f == FAKE_SMALL || f == FAKE_NO_MAGIC)
		memory = make_memory(WIRE_PAGE_SIZE, f);
	answer(fd, &hello->h, &m.h, &memory, 1);
	if (memory != page_fd)
		close(memory);
}

static void fill_header(const struct channel *ch, const struct msg_opened *m, enum fake_fault f)
{
	struct wire_header *header = (struct wire_header *)ch->base;
	struct wire_ring *sq = (struct wire_ring *)(ch->base + WIRE_SQ_RING);
	struct wire_ring *cq = (struct wire_ring *)(ch->base + WIRE_CQ_RING);

	header->magic = f == FAKE_NO_MAGIC ? 0 : WIRE_MAGIC;
	header->start = m->start;
	sq->prod = sq->cons = cq->prod = cq->cons = m->start;
	sq->wake_at = cq->wake_at = m->start;
}

static struct channel *new_channel(int client_fd, const struct msg_open *o)
{
	struct channel *ch = channels;

	while (ch->client_fd != 0)
		ch++;
	need(ch < channels + CHANNELS, "channels");
	uint32_t generation = ch->generation + 1;
	memset(ch, 0, sizeof(*ch));
	ch->generation = generation;
	ch->client_fd = client_fd;
	ch->layout = wire_layout(o->sq_entries, o->cq_entries, o->arena_bytes);
	return ch;
}

static void on_open(int fd, const struct msg_open *o)
{
	enum fake_fault f = fault(MSG_OPEN);
	struct channel *ch = new_channel(fd, o);
	int memory = make_memory(ch->layout.segment_bytes, f);
	int read_fd;
	void *base = NULL;
	struct msg_opened m = {
		.h = {.type = MSG_OPENED, .bytes = sizeof(m)},
		.channel = (uint32_t)(ch - channels),
		.generation = ch->generation,
		.segment_bytes = ch->layout.segment_bytes,
		.sq_entries = o->sq_entries,
		.cq_entries = o->cq_entries,
		.arena_bytes = o->arena_bytes,
		.start = shm_load_acquire(&control->start),
	};

	need(segment_map(memory, m.segment_bytes, true, &base) == 0, "map");
	ch->base = base;
	fill_header(ch, &m, f);
	ch->sq = (struct ring_consumer){
		(struct wire_ring *)(ch->base + WIRE_SQ_RING), m.start, m.start, m.sq_entries};
	ch->cq = (struct ring_producer){(struct wire_ring *)(ch->base + WIRE_CQ_RING), m.start,
		m.start, m.start, m.cq_entries};
	ch->doorbell_fd = bell_eventfd();
	need(bell_pipe(&read_fd, &ch->bell_fd) == 0, "pipe");
	if (f == FAKE_LIES)
		m.cq_entries *= 2;
	const int fds[] = {memory, ch->doorbell_fd, f == FAKE_NO_BELL ? ch->doorbell_fd : read_fd};
	answer(fd, &o->h, &m.h, fds, 3);
	close(memory);
	close(read_fd);
	shm_fetch_add(&control->opens, 1);
}

static void drop_channel(struct channel *ch)
{
	const struct wire_notice *notice = (const void *)(ch->base + WIRE_NOTICE);

	shm_fetch_add(&control->hints, robust_died(&notice->owner));
	shm_fetch_add(&control->unheld, shm_load_relaxed_u32(&notice->owner) == 0);
	shm_fetch_add(&control->ended, 1);
	munmap(ch->base, ch->layout.segment_bytes);
	close(ch->doorbell_fd);
	close(ch->bell_fd);
	ch->client_fd = 0;
}

static void on_close(int fd, const struct msg_close *c)
{
	struct msg_close m = *c;

	m.h.type = MSG_CLOSED;
	m.h.bytes = sizeof(m);
	if (c->channel < CHANNELS && channels[c->channel].client_fd == fd &&
		channels[c->channel].generation == c->generation)
		drop_channel(&channels[c->channel]);
	answer(fd, &c->h, &m.h, NULL, 0);
	shm_fetch_add(&control->closes, 1);
}

/* 0: copy; 1: fail. */
static uint32_t op_of(uint64_t index)
{
	return (uint32_t)index ^ (shm_load_relaxed(&control->ops) == FAKE_OPS_SWAPPED);
}

static struct msg_op describe(uint32_t index)
{
	const uint32_t op = op_of(index);
	struct msg_op m = {
		.h = {.type = MSG_OP, .bytes = sizeof(m)},
		.index = index,
		.n_inputs = op == 0 ? 2 : 1,
		.n_outputs = 1,
		.n_params = 2,
		.summary = "something to test with",
		.inputs = {{"x", "[N]", GPUQ_DTYPE_BIT(GPUQ_U8), 0},
			{"bias", "[N]", GPUQ_DTYPE_BIT(GPUQ_U8), 1}},
		.outputs = {{"y", "[N]", GPUQ_DTYPE_BIT(GPUQ_U8), 0}},
		.params = {{"scale", GPUQ_PARAM_F64, 0, 1.0, 0.0, 2.0},
			{"n", GPUQ_PARAM_I64, 0, 0.0, 0.0, 100.0}},
	};

	snprintf(m.name, sizeof(m.name), "%s", op == 0 ? "copy" : "fail");
	if (op == 1) {
		m.params[0] = (struct msg_op_param){"status", GPUQ_PARAM_I64, 0, 0, -9999, 0};
		m.params[1] = (struct msg_op_param){"blame", GPUQ_PARAM_I64, 0, 0, 0, 255};
	}
	if (shm_load_relaxed(&control->ops) == FAKE_OPS_CHANGED && op == 0)
		m.params[0].max = 3.0;
	else if (shm_load_relaxed(&control->ops) == FAKE_OPS_CHANGED)
		m.name[0] = 'g';
	if (fault(MSG_OP_QUERY) == FAKE_BAD_COUNT)
		m.n_inputs = GPUQ_MAX_INPUTS + 1;
	return m;
}

static void on_query(int fd, const struct msg_query *q)
{
	struct msg_op op = describe(q->index);
	struct msg_device device = {
		.h = {.type = MSG_DEVICE, .bytes = sizeof(device)},
		.index = q->index,
		.ready = 1,
		.epoch = 3,
		.kind = "fake",
		.name = "a device that is not there",
	};

	shm_fetch_add(&control->queries, 1);
	answer(fd, &q->h, q->h.type == MSG_OP_QUERY ? &op.h : &device.h, NULL, 0);
}

static void drop_client(int fd)
{
	for (uint32_t i = 0; i < CHANNELS; i++)
		if (channels[i].client_fd == fd)
			drop_channel(&channels[i]);
	for (uint32_t i = 0; i < CLIENTS; i++)
		if (clients[i] == fd)
			clients[i] = 0;
	close(fd);
}

static void on_admin_stop(int fd, const struct msg_header *h)
{
	struct msg_header m = {.type = MSG_ADMIN_OK, .bytes = sizeof(m)};

	shm_fetch_add(&control->stops, 1);
	answer(fd, h, &m, NULL, 0);
}

static void on_buffer(int fd, const struct msg_header *h)
{
	const struct msg_buffer_handle *about = (const void *)h;
	const struct msg_buffer_alloc *alloc = (const void *)h;
	struct msg_buffer m = {
		.h = {.type = MSG_BUFFER, .bytes = sizeof(m)},
		.handle = about->handle,
		.form = MSG_BUFFER_FD,
		.whole_bytes = WIRE_PAGE_SIZE,
	};
	int memory = -1;

	shm_fetch_add(&control->buffer_requests, 1);
	shm_fetch_add(&control->buffer_frees, h->type == MSG_BUFFER_FREE);
	if (h->type == MSG_BUFFER_FREE)
		m = (struct msg_buffer){.h = m.h};
	if (h->type == MSG_BUFFER_ALLOC) {
		m.handle = FAKE_BUFFER + (uint32_t)shm_fetch_add(&control->buffers, 1);
		m.device = alloc->device;
		m.bytes = alloc->bytes;
	}
	if (h->type == MSG_BUFFER_EXPORT)
		memory = make_memory(WIRE_PAGE_SIZE, FAKE_NO_FAULT);
	answer(fd, h, &m.h, &memory, memory >= 0);
	if (memory >= 0)
		close(memory);
}

static void on_pipeline(int fd, const struct msg_pipeline *p)
{
	struct msg_pipeline_handle m = {.h = {.type = MSG_PIPELINE_OK, .bytes = sizeof(m)}};

	shm_fetch_add(&control->pieces, 1);
	if (p->offset + p->bytes <= sizeof(control->definition))
		memcpy((uint8_t *)control->definition + p->offset, p->piece, p->bytes);
	if (p->offset + p->bytes == p->total_bytes) {
		m.handle = FAKE_PIPELINE + (uint32_t)control->pipelines;
		control->definition_bytes = p->total_bytes;
		shm_fetch_add(&control->pipelines, 1);
	}
	answer(fd, &p->h, &m.h, NULL, 0);
}

static void on_pipeline_close(int fd, const struct msg_header *h)
{
	struct msg_pipeline_handle m = {.h = {.type = MSG_PIPELINE_OK, .bytes = sizeof(m)}};

	shm_fetch_add(&control->pipeline_closes, 1);
	answer(fd, h, &m.h, NULL, 0);
}

static void on_graph_query(int fd, const struct msg_graph_query *q)
{
	struct msg_graphs m = {.h = {.type = MSG_GRAPHS, .bytes = sizeof(m)}};

	for (uint64_t id = q->after + 1; id <= FAKE_GRAPHS; id++) {
		struct msg_graph *graph = &m.graphs[m.count];
		if (m.count == MSG_GRAPHS_MAX) {
			m.more = 1;
			break;
		}
		*graph = (struct msg_graph){
			.id = id, .state = MSG_GRAPH_CAPTURED, .uses = id + 1, .hits = id};
		snprintf(graph->shape, sizeof(graph->shape), "shape %u", (uint32_t)id);
		m.count++;
	}
	answer(fd, &q->h, &m.h, NULL, 0);
}

static void on_present_query(int fd, const struct msg_query *q)
{
	struct msg_present m = {
		.h = {.type = MSG_PRESENT, .bytes = sizeof(m)}, .index = q->index, .count = 2};

	if (q->index == 1) {
		m.status = -GPUQ_ENODEV;
		snprintf(m.kind, sizeof(m.kind), "cuda:0");
		snprintf(m.why, sizeof(m.why), "it is not there; plug one in");
	}
	answer(fd, &q->h, &m.h, NULL, 0);
}

static void on_admin(int fd, const struct msg_header *h)
{
	struct msg_header m = {.type = MSG_ADMIN_OK, .bytes = sizeof(m)};

	if (h->type == MSG_ADMIN_CAPTURE) {
		const struct msg_admin_capture *capture = (const void *)h;
		shm_store_release(&control->capture_stopped, capture->stop);
	} else {
		const struct msg_admin_evict *evict = (const void *)h;
		shm_store_release(&control->evicted, evict->id);
		shm_fetch_add(&control->evicts, 1);
	}
	answer(fd, h, &m, NULL, 0);
}

static void on_message(int fd, const struct msg_header *h)
{
	const enum fake_fault f = fault(h->type);

	shm_fetch_add(&control->faulty, f != FAKE_NO_FAULT);
	switch (f) {
	case FAKE_WAITS:
		while (fault(h->type) == FAKE_WAITS)
			usleep(200);
		break;
	case FAKE_SILENT:
		return;
	case FAKE_REFUSE:
		refuse(fd, h);
		return;
	case FAKE_GOODBYE:
		goodbye(fd);
		drop_client(fd);
		return;
	case FAKE_HANG_UP:
		drop_client(fd);
		return;
	default:
		break;
	}
	if (h->type == MSG_HELLO)
		on_hello(fd, (const struct msg_hello *)h);
	else if (h->type == MSG_OPEN)
		on_open(fd, (const struct msg_open *)h);
	else if (h->type == MSG_CLOSE)
		on_close(fd, (const struct msg_close *)h);
	else if (h->type == MSG_OP_QUERY || h->type == MSG_DEVICE_QUERY)
		on_query(fd, (const struct msg_query *)h);
	else if (h->type == MSG_ADMIN_STOP)
		on_admin_stop(fd, h);
	else if (h->type >= MSG_BUFFER_ALLOC && h->type <= MSG_BUFFER_FREE)
		on_buffer(fd, h);
	else if (h->type == MSG_PIPELINE)
		on_pipeline(fd, (const struct msg_pipeline *)h);
	else if (h->type == MSG_PIPELINE_CLOSE)
		on_pipeline_close(fd, h);
	else if (h->type == MSG_GRAPH_QUERY)
		on_graph_query(fd, (const struct msg_graph_query *)h);
	else if (h->type == MSG_PRESENT_QUERY)
		on_present_query(fd, (const struct msg_query *)h);
	else if (h->type == MSG_ADMIN_CAPTURE || h->type == MSG_ADMIN_EVICT)
		on_admin(fd, h);
	else if (h->type == MSG_ACK)
		shm_fetch_add(&control->acks, 1);
}

static void read_client(int fd)
{
	uint64_t words[MSG_MAX / 8];
	ssize_t n = recv(fd, words, sizeof(words), MSG_DONTWAIT);
	const struct msg_header *h = (const struct msg_header *)words;

	if (n < 0 && errno == EAGAIN)
		return;
	if (n < (ssize_t)sizeof(*h) || h->bytes != n || h->magic != MSG_MAGIC)
		drop_client(fd);
	else
		on_message(fd, h);
}

/* Runs a call. Returns its status, and in *ret_flags whom to blame. */
static int32_t execute(const struct channel *ch, const struct wire_sqe *e, uint32_t *ret_flags)
{
	uint8_t *arena = ch->base + ch->layout.arena_offset;
	const struct wire_call *call = (const struct wire_call *)(arena + e->args_offset);
	const struct wire_tensor *t = (const struct wire_tensor *)(call + 1);
	const struct wire_param *p = (const struct wire_param *)(t + call->n_in + call->n_out);

	if ((call->op & WIRE_PIPELINE) == 0 && call->op > 1)
		return -GPUQ_EOP;
	if (op_of(call->op) == 0 || (call->op & WIRE_PIPELINE) != 0) {
		memcpy(arena + t[call->n_in].offset, arena + t[0].offset, t[0].dims[0]);
		return 0;
	}
	*ret_flags = (uint32_t)p[1].bits << WIRE_CQE_ARG_SHIFT;
	return (int32_t)p[0].bits;
}

static void complete(struct channel *ch, uint64_t user_data, int32_t status, uint32_t flags)
{
	struct wire_cqe *cqes = (struct wire_cqe *)(ch->base + ch->layout.cqe_offset);

	need(ring_space(&ch->cq, 1) > 0, "no room to complete");
	cqes[ring_slot(ch->cq.prod, ch->cq.entries)] = (struct wire_cqe){
		.user_data = user_data + shm_load_relaxed(&control->forge),
		.status = status,
		.flags = flags,
		.queued_ns = 11,
		.executed_ns = 22,
	};
	ch->cq.prod++;
	shm_fetch_add(&control->completed, 1);
}

static void finish(struct channel *ch, const struct wire_sqe *e)
{
	uint32_t flags = 0;
	int32_t status = 0;

	if (e->deadline_ns != 0 && clock_now_ns(&fake_clock) >= e->deadline_ns)
		status = -ETIMEDOUT;
	else if (e->opcode == WIRE_OP_CALL)
		status = execute(ch, e, &flags);
	complete(ch, e->user_data, status, flags);
}

static void cancel(struct channel *ch, const struct wire_sqe *e)
{
	for (uint32_t i = 0; i < ch->n_held; i++) {
		if (ch->held[i].user_data != e->target)
			continue;
		complete(ch, e->target, -ECANCELED, 0);
		complete(ch, e->user_data, 0, 0);
		ch->n_held--;
		memmove(&ch->held[i], &ch->held[i + 1], (ch->n_held - i) * sizeof(ch->held[0]));
		return;
	}
	complete(ch, e->user_data, -ENOENT, 0);
}

static void take(struct channel *ch)
{
	const struct wire_sqe *sqes = (const struct wire_sqe *)(ch->base + ch->layout.sqe_offset);
	int n = ring_refresh(&ch->sq);

	need(n >= 0, "the client's index is impossible");
	for (; n > 0; n--) {
		struct wire_sqe e = sqes[ring_slot(ch->sq.cons++, ch->sq.entries)];
		control->last = e;
		if (e.opcode == WIRE_OP_CANCEL)
			cancel(ch, &e);
		else
			ch->held[ch->n_held++] = e;
		shm_fetch_add(&control->taken, 1);
	}
	ring_release(&ch->sq);
}

static void serve(struct channel *ch)
{
	uint64_t overrun = shm_load_relaxed(&control->overrun);

	if (!shm_load_relaxed(&control->stall))
		take(ch);
	if (!shm_load_acquire(&control->hold)) {
		bool reverse = shm_load_relaxed(&control->reverse) != 0;
		for (uint32_t i = 0; i < ch->n_held; i++)
			finish(ch, &ch->held[reverse ? ch->n_held - 1 - i : i]);
		ch->n_held = 0;
	}
	shm_store_relaxed(
		&((struct wire_header *)ch->base)->closed, shm_load_relaxed(&control->shut));
	if (ch->cq.prod == ch->cq.published && overrun == 0)
		return;
	ring_publish(&ch->cq);
	if (overrun != 0)
		shm_store_release(&ch->cq.ring->prod, ch->cq.prod + overrun);
	if (ring_wake_wanted(&ch->cq) && !shm_load_relaxed(&control->mute)) {
		bell_ring_pipe(ch->bell_fd);
		shm_fetch_add(&control->bells, 1);
	}
}

static void let_go(void)
{
	for (uint32_t i = 0; i < CLIENTS; i++) {
		if (clients[i] == 0)
			continue;
		goodbye(clients[i]);
		drop_client(clients[i]);
	}
}

static void accept_client(void)
{
	int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);

	for (uint32_t i = 0; fd >= 0 && i < CLIENTS; i++) {
		if (clients[i] == 0) {
			clients[i] = fd;
			return;
		}
	}
	need(false, "accept");
}

static void start(const struct fake *fake)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	void *base = NULL;

	control = fake->control;
	signal(SIGPIPE, SIG_IGN);
	page_fd = segment_create("fake", WIRE_PAGE_SIZE);
	need(page_fd >= 0 && segment_map(page_fd, WIRE_PAGE_SIZE, true, &base) == 0, "page");
	page = base;
	clock_calibrate(&fake_clock);
	clock_publish(page, &fake_clock);
	page->magic = WIRE_MAGIC;
	page->cpus = 64;
	page->devices[0].epoch = 3;
	need(robust_take(&page->owner) == 0, "robust list");
	listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	memcpy(address.sun_path, fake->socket, sizeof(address.sun_path));
	unlink(fake->socket);
	need(listen_fd >= 0 && bind(listen_fd, (struct sockaddr *)&address, sizeof(address)) == 0 &&
			listen(listen_fd, 16) == 0,
		"socket");
}

/* One round: a nap that ends when somebody rings or writes, then everybody is served. */
static void round_of_service(void)
{
	struct pollfd p[1 + CLIENTS + CHANNELS] = {{.fd = listen_fd, .events = POLLIN}};
	uint32_t n = 1;

	for (uint32_t i = 0; i < CLIENTS; i++, n++)
		p[n] = (struct pollfd){clients[i] != 0 ? clients[i] : -1, POLLIN, 0};
	bool rest = true;
	for (uint32_t i = 0; i < CHANNELS; i++, n++) {
		struct channel *ch = &channels[i];
		p[n] = (struct pollfd){ch->client_fd != 0 ? ch->doorbell_fd : -1, POLLIN, 0};
		if (ch->client_fd != 0 && ring_sleep_prepare(&ch->sq, 1) > 0)
			rest = false;
	}
	poll(p, n, rest ? NAP_MS : 0);
	for (uint32_t i = 0; i < CHANNELS; i++) {
		uint64_t count;
		if ((p[1 + CLIENTS + i].revents & POLLIN) != 0)
			(void)!read(channels[i].doorbell_fd, &count, sizeof(count));
		if (channels[i].client_fd != 0)
			serve(&channels[i]);
	}
	for (uint32_t i = 0; i < CLIENTS; i++)
		if (p[1 + i].revents != 0)
			read_client(p[1 + i].fd);
	if (p[0].revents != 0)
		accept_client();
}

/* Youngest first. */
static void finish_some(struct channel *ch, uint64_t n)
{
	for (; n > 0 && ch->n_held > 0; n--)
		finish(ch, &ch->held[--ch->n_held]);
	ring_publish(&ch->cq);
}

/* Outlives the control process, as the kernel lets a real one do for a moment. */
static void device_process(void)
{
	uint64_t n;

	close(listen_fd);
	for (uint32_t i = 0; i < CLIENTS; i++)
		if (clients[i] != 0)
			close(clients[i]);
	need(robust_take(&page->devices[0].owner) == 0, "robust list");
	control->device_pid = (uint64_t)getpid();
	shm_store_release(&control->parted, 1);
	while ((n = shm_load_acquire(&control->finish)) == 0)
		usleep(200);
	for (uint32_t i = 0; i < CHANNELS; i++)
		if (channels[i].client_fd != 0)
			finish_some(&channels[i], n - 1);
}

static void part(void)
{
	pid_t pid = fork();

	need(pid >= 0, "fork");
	if (pid == 0) {
		device_process();
		_exit(0);
	}
	for (;;)
		pause();
}

void fake_run(struct fake *fake)
{
	start(fake);
	for (;;) {
		shm_store_release_u32(&page->state, (uint32_t)shm_load_acquire(&control->state));
		shm_store_release_u32(
			&page->devices[0].runnable, (uint32_t)shm_load_acquire(&control->runnable));
		shm_store_release(&control->ready, 1);
		if (shm_load_acquire(&control->let_go))
			let_go();
		if (shm_load_acquire(&control->part))
			part();
		round_of_service();
	}
}
