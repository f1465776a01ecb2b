/* SPDX-License-Identifier: MIT */
/* attack.c: the life of an attacker, and what its bouts are made of; see attack.h. */
#include "tests/hostile/attack.h"

#include "shm/clock.h"
#include "shm/segment.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#define BOUT_NS 40000000u
#define ENTRIES 64u
#define STRANGER 65534u /* user and group that own nothing */

const struct attack_form attack_classes[ATTACK_CLASSES] = {
	[ATTACK_SCRIBBLE] = {"scribble", "words of shared memory written over", attack_scribble},
	[ATTACK_ARGUMENTS] = {"arguments", "words of arguments and entries", attack_arguments},
	[ATTACK_PAYLOADS] = {"payloads", "indices and lengths under kernels", attack_payloads},
	[ATTACK_INDICES] = {"indices", "jumps of ring indices", attack_indices},
	[ATTACK_HOLES] = {"holes", "holes punched into segments", attack_holes},
	[ATTACK_DOORBELLS] = {"doorbells", "rings and clogged bells", attack_doorbells},
	[ATTACK_UNREAD_COMPLETIONS] = {"unread-completions", "entries whose completions stay",
		attack_unread_completions},
	[ATTACK_HANDSHAKES] = {"handshakes", "broken messages", attack_handshakes},
	[ATTACK_DESCRIPTORS] = {"descriptors", "messages with wrong descriptors",
		attack_descriptors},
	[ATTACK_UNREAD_DESCRIPTORS] = {"unread-descriptors", "descriptors asked for and not read",
		attack_unread_descriptors},
	[ATTACK_CONNECTS] = {"connects", "connections that ended at some step", attack_connects},
	[ATTACK_HANDLES] = {"handles", "foreign and stale handles and places", attack_handles},
	[ATTACK_QUOTAS] = {"quotas", "limits reached", attack_quotas},
	[ATTACK_STATISTICS] = {"statistics", "statistics opened or truncated", attack_statistics},
};

void attack_complain(struct attacker *a, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(a->page->complaint, sizeof(a->page->complaint), format, args);
	va_end(args);
	_exit(1);
}

bool attack_goes_on(const struct attacker *a)
{
	return shm_load_relaxed_u32(&a->page->stop) == 0 && clock_monotonic_ns() < a->end_ns;
}

void attack_count(struct attacker *a, uint64_t n)
{
	shm_count(&a->page->deeds[a->page->class], n);
}

int attack_connect(struct attacker *a)
{
	struct msg_hello hello = raw_hello(WIRE_ABI_OLDEST, WIRE_ABI);
	struct raw_answer answer;
	int fd = raw_try_connect(a->common->socket);

	if (fd < 0)
		return -1;
	hello.h.serial = 1;
	if (!attack_ask(fd, &hello, MSG_HELLO, sizeof(hello), &answer) ||
		answer.h.type != MSG_WELCOME) {
		close(fd);
		return -1;
	}
	raw_close_fds(&answer);
	raw_try_send(fd, &(struct msg_header){0}, MSG_ACK, sizeof(struct msg_header), 2);
	return fd;
}

bool attack_ask(int fd, void *msg, uint16_t type, uint32_t bytes, struct raw_answer *ret_answer)
{
	/* A refusal may be on the way, so a failed send is not yet the end. */
	raw_try_send(fd, msg, type, bytes, 7);
	return raw_receive(fd, ret_answer);
}

uint32_t attack_buffer(int fd)
{
	struct msg_buffer_alloc alloc = {.form = MSG_BUFFER_FD, .bytes = 65536};
	struct raw_answer answer;

	if (!attack_ask(fd, &alloc, MSG_BUFFER_ALLOC, sizeof(alloc), &answer) ||
		answer.h.type != MSG_BUFFER)
		return 0;
	return ((const struct msg_buffer *)answer.bytes)->handle;
}

uint32_t attack_model(int fd)
{
	struct msg_model_query query = {.name = ATTACK_MODEL};
	struct raw_answer answer;

	if (!attack_ask(fd, &query, MSG_MODEL_QUERY, sizeof(query), &answer) ||
		answer.h.type != MSG_MODEL)
		return 0;
	return ((const struct msg_model *)answer.bytes)->handle;
}

static bool take_channel(struct attack_channel *ch, struct raw_answer *opened)
{
	struct wire_client *c = &ch->client;

	if (opened->h.type != MSG_OPENED || opened->n_fds != 3) {
		raw_close_fds(opened);
		return false;
	}
	ch->segment_fd = opened->fds[0];
	c->doorbell_fd = opened->fds[1];
	c->bell_fd = opened->fds[2];
	c->bytes = opened->opened.segment_bytes;
	assert_int_equal(segment_map(ch->segment_fd, c->bytes, true, &c->base), 0);
	wire_client_attach(c, &opened->opened);
	return true;
}

bool attack_channel_open(struct attacker *a, struct attack_channel *ch)
{
	struct msg_open open = {
		.sq_entries = ENTRIES, .cq_entries = 2 * ENTRIES, .arena_bytes = WORK_ARENA};
	struct raw_answer answer;

	memset(ch, 0, sizeof(*ch));
	ch->client.fd = attack_connect(a);
	if (ch->client.fd < 0)
		return false;
	open.priority = (uint32_t)random_below(&a->rng, MSG_PRIORITIES);
	if (!attack_ask(ch->client.fd, &open, MSG_OPEN, sizeof(open), &answer) ||
		!take_channel(ch, &answer)) {
		close(ch->client.fd);
		return false;
	}
	raw_try_send(ch->client.fd, &(struct msg_header){0}, MSG_ACK, sizeof(struct msg_header), 8);
	ch->work = (struct work){.client = &ch->client, .rng = &a->rng};
	if (random_below(&a->rng, 2) == 0)
		ch->work.model = attack_model(ch->client.fd);
	if (random_below(&a->rng, 2) == 0)
		ch->work.buffer = attack_buffer(ch->client.fd);
	work_begin(&ch->work);
	return true;
}

void attack_channel_close(struct attack_channel *ch)
{
	close(ch->segment_fd);
	wire_client_close(&ch->client);
}

bool attack_become_stranger(void)
{
	return geteuid() == 0 && setgid(STRANGER) == 0 && setuid(STRANGER) == 0;
}

void attack_main(const struct attack_common *common, struct attack_page *page, uint32_t number)
{
	struct attacker a = {.common = common, .page = page, .number = number};

	/* root gives up its rights first of all. */
	if (common->stranger && !attack_become_stranger())
		attack_complain(&a, "cannot become another user");
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	signal(SIGPIPE, SIG_IGN);
	while (shm_load_relaxed_u32(&page->stop) == 0) {
		const uint64_t bout = shm_load_relaxed(&page->bouts);
		const uint32_t class = common->only != 0
			? common->only - 1
			: (uint32_t)(bout + number * 5) % ATTACK_CLASSES;

		shm_store_release_u32(&page->class, class);
		a.rng.state = (common->seed + number) * 0x9e3779b97f4a7c15u ^ bout << 20;
		a.end_ns = clock_monotonic_ns() + BOUT_NS * harness_slowness();
		attack_classes[class].bout(&a);
		shm_count(&page->bouts, 1);
	}
	_exit(0);
}
