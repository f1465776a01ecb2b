/* SPDX-License-Identifier: MIT */
/*
 * read.c: tensors from files to memory through an io_uring. What is to be read is cut into chunks
 * in the order of the file; DEPTH of them are in flight. A chunk is read in one of two ways:
 *
 * - What the page cache has is copied by the kernel's workers to where it belongs, so that copying
 *   and clearing new pages use more than one CPU.
 * - What it does not have comes past it (O_DIRECT), as many tensors at once as a chunk holds, by
 *   way of memory with the alignment that this asks for. By way of the page cache the same bytes
 *   take several times the CPU time, and push out what others have there.
 *
 * Where a file cannot be read past the page cache, or where that fails or ends early, it is read by
 * way of the page cache, which then tells what is wrong. What is read ahead there depends on what
 * was last read by way of the same open file: each of the chunks has one of its own, or they would
 * spoil each other's.
 */
#include "models/safetensors_impl.h"

#include "shm/clock.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#define DEPTH 8u
#define CHUNK_BYTES (4u << 20)
#define ALIGN_BYTES 4096u /* of offsets, lengths and memory past the page cache: enough for most */
#define HUGE_PAGE (2u << 20)   /* a piece of room, or the disk gets it page by page */
#define GAP_BYTES (128u << 10) /* that are read, and left, rather than to begin another chunk */

/* Another open file for one of the files. */
struct opened {
	int fd; /* -1: none */
	uint32_t file;
	bool direct;
};

struct chunk {
	struct opened opened;
	bool in_flight, direct;
	uint32_t file;
	uint64_t offset, end; /* of the file: what is still to be read */
	uint8_t *to;
	/* What comes by way of room: of these reads, from `begin` on. */
	bool by_way_of_room;
	uint8_t *room; /* CHUNK_BYTES; NULL until it is needed */
	uint64_t begin;
	size_t first, last;
};

struct safetensors_reader {
	const struct safetensors *files;
	struct io_uring ring;
	struct chunk chunks[DEPTH];
	struct opened probe;
	bool direct; /* as far as is known they can be read past the page cache */
};

/* One call. */
struct reading {
	struct safetensors_reader *reader;
	struct safetensors_read *reads; /* in the order of the files */
	size_t count;
	size_t next;	     /* the read that the next chunk begins with */
	uint64_t next_bytes; /* of it, which have been asked for */
	uint64_t done_bytes, total_bytes;
	uint32_t in_flight;
	struct model_why *why;
};

/* --- Open files ----------------------------------------------------------------------------- */

static void opened_close(struct opened *o)
{
	if (o->fd >= 0)
		close(o->fd);
	o->fd = -1;
}

/* False when there is none to be had; errno says why. */
static bool opened_for(
	struct opened *o, const struct safetensors *files, uint32_t file, bool direct)
{
	char link[32];

	if (o->fd >= 0 && o->file == file && o->direct == direct)
		return true;
	opened_close(o);
	snprintf(link, sizeof(link), "/proc/self/fd/%d", files->files[file].fd);
	o->fd = open(link, O_RDONLY | O_CLOEXEC | (direct ? O_DIRECT : 0));
	o->file = file;
	o->direct = direct;
	return o->fd >= 0;
}

/* The one that all share where there is no other. */
static int fd_of(const struct safetensors_reader *r, struct chunk *chunk)
{
	return opened_for(&chunk->opened, r->files, chunk->file, chunk->direct)
		? chunk->opened.fd
		: r->files->files[chunk->file].fd;
}

/*
 * Whether the page cache has a byte. The kernel reads its page if not, and no other, for this open
 * file is said to be read here and there.
 */
static bool is_cached(struct safetensors_reader *r, uint32_t file, uint64_t offset)
{
	const bool is_new = r->probe.fd < 0 || r->probe.file != file;
	uint8_t byte;
	struct iovec to = {&byte, 1};

	if (!opened_for(&r->probe, r->files, file, false))
		return true;
	if (is_new)
		(void)posix_fadvise(r->probe.fd, 0, 0, POSIX_FADV_RANDOM);
	return preadv2(r->probe.fd, &to, 1, (off_t)offset, RWF_NOWAIT) >= 0 || errno != EAGAIN;
}

/* --- Chunks --------------------------------------------------------------------------------- */

static uint64_t begin_of(const struct safetensors_read *read)
{
	return read->tensor->offset + read->skip_bytes;
}

static uint64_t least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static uint64_t round_down(uint64_t offset)
{
	return offset - offset % ALIGN_BYTES;
}

static void submit(struct safetensors_reader *r, struct chunk *chunk)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&r->ring);
	const uint64_t end = chunk->direct ? round_down(chunk->end + ALIGN_BYTES - 1) : chunk->end;

	assert(sqe != NULL); /* as many as chunks */
	io_uring_prep_read(sqe, fd_of(r, chunk), chunk->to, (unsigned int)(end - chunk->offset),
		chunk->offset);
	if (!chunk->direct)
		io_uring_sqe_set_flags(sqe, IOSQE_ASYNC);
	io_uring_sqe_set_data(sqe, chunk);
}

/* Huge pages are only asked for. */
static bool has_room(struct chunk *chunk)
{
	void *room;

	if (chunk->room == NULL && posix_memalign(&room, HUGE_PAGE, CHUNK_BYTES) == 0) {
		(void)madvise(room, CHUNK_BYTES, MADV_HUGEPAGE);
		chunk->room = room;
	}
	return chunk->room != NULL;
}

/*
 * Whether what comes next is to come past the page cache. Of what it has of a chunk one page tells,
 * any: that of the last time is there, because it was asked for.
 */
static bool is_for_direct(const struct reading *g, struct chunk *chunk, uint64_t offset)
{
	struct safetensors_reader *r = g->reader;
	const uint64_t left = g->reads[g->next].bytes - g->next_bytes;

	if (!r->direct)
		return false;
	if (is_cached(r, chunk->file, offset + clock_monotonic_ns() % least(left, CHUNK_BYTES)))
		return false;
	if (!opened_for(&chunk->opened, r->files, chunk->file, true)) {
		r->direct = errno != EINVAL;
		return false;
	}
	return has_room(chunk);
}

/* The reads that follow in the file, as far as they fit. */
static void take_several(struct reading *g, struct chunk *chunk)
{
	const uint64_t limit = chunk->offset + CHUNK_BYTES;

	for (;;) {
		const struct safetensors_read *read = &g->reads[g->next];
		const uint64_t begin = begin_of(read);

		chunk->last = g->next;
		chunk->end = least(begin + read->bytes, limit);
		g->next_bytes = chunk->end - begin;
		if (g->next_bytes < read->bytes || g->next + 1 == g->count)
			return;
		if (read[1].tensor->file != chunk->file || begin_of(&read[1]) < chunk->end ||
			begin_of(&read[1]) > chunk->end + GAP_BYTES || begin_of(&read[1]) >= limit)
			return;
		g->next++;
	}
}

/* The next part of what is to be read; false when all has been asked for. */
static bool next_chunk(struct reading *g, struct chunk *chunk)
{
	while (g->next < g->count && g->next_bytes == g->reads[g->next].bytes) {
		g->next++;
		g->next_bytes = 0;
	}
	if (g->next == g->count)
		return false;
	const struct safetensors_read *read = &g->reads[g->next];
	const uint64_t offset = begin_of(read) + g->next_bytes;
	chunk->file = read->tensor->file;
	chunk->direct = chunk->by_way_of_room = is_for_direct(g, chunk, offset);
	if (chunk->direct) {
		chunk->first = g->next;
		chunk->begin = offset;
		chunk->offset = round_down(offset);
		chunk->to = chunk->room;
		take_several(g, chunk);
		return true;
	}
	chunk->offset = offset;
	chunk->end = offset + least(read->bytes - g->next_bytes, CHUNK_BYTES);
	chunk->to = (uint8_t *)read->to + g->next_bytes;
	g->next_bytes += chunk->end - offset;
	return true;
}

static void fill_queue(struct reading *g)
{
	struct safetensors_reader *r = g->reader;

	for (uint32_t i = 0; i < DEPTH; i++) {
		if (r->chunks[i].in_flight)
			continue;
		if (!next_chunk(g, &r->chunks[i]))
			return;
		submit(r, &r->chunks[i]);
		r->chunks[i].in_flight = true;
		g->in_flight++;
	}
}

/* What has come to room goes to where it belongs. */
static void hand_out(struct reading *g, const struct chunk *chunk)
{
	const uint8_t *room = chunk->room + chunk->begin % ALIGN_BYTES;

	for (size_t i = chunk->first; i <= chunk->last; i++) {
		const struct safetensors_read *read = &g->reads[i];
		const uint64_t begin = begin_of(read);
		const uint64_t from = begin > chunk->begin ? begin : chunk->begin;
		const uint64_t to = least(begin + read->bytes, chunk->end);

		if (from == to)
			continue;
		memcpy((uint8_t *)read->to + (from - begin), room + (from - chunk->begin),
			to - from);
		g->done_bytes += to - from;
	}
}

/* Takes what a read brought; whether the chunk needs another one. */
static bool take(struct reading *g, struct chunk *chunk, int result)
{
	const uint64_t bytes = result > 0 ? least((uint64_t)result, chunk->end - chunk->offset) : 0;

	if (result == -EINTR || result == -EAGAIN)
		return true;
	chunk->offset += bytes;
	chunk->to += bytes;
	if (!chunk->by_way_of_room)
		g->done_bytes += bytes;
	if (!chunk->direct)
		return result > 0 && chunk->offset < chunk->end;
	if (result == -EINVAL || result == -EOPNOTSUPP)
		g->reader->direct = false;
	chunk->direct = false;
	return chunk->offset < chunk->end;
}

/* Takes the kernel's answer; a chunk that is not finished goes on if `go_on`. */
static int finish(struct reading *g, struct chunk *chunk, int result, bool go_on)
{
	const char *name = g->reader->files->files[chunk->file].name;

	if (take(g, chunk, result) && go_on) {
		submit(g->reader, chunk);
		return 0;
	}
	chunk->in_flight = false;
	g->in_flight--;
	if (!go_on)
		return 0;
	if (chunk->offset == chunk->end) {
		if (chunk->by_way_of_room)
			hand_out(g, chunk);
		return 0;
	}
	if (result == 0)
		return model_fail(g->why, -EIO, "%s has become shorter while it was read", name);
	return model_fail(g->why, result, "%s cannot be read: %s", name, strerror(-result));
}

/* Waits for at least one answer and takes all that are there. */
static int reap(struct reading *g, int err)
{
	struct io_uring *ring = &g->reader->ring;
	struct io_uring_cqe *cqe;
	int n = io_uring_submit_and_wait(ring, 1);

	if (n < 0 && n != -EINTR && n != -EAGAIN && n != -EBUSY)
		return err < 0 ? err : model_fail(g->why, n, "reading: %s", strerror(-n));
	while (io_uring_peek_cqe(ring, &cqe) == 0) {
		struct chunk *chunk = io_uring_cqe_get_data(cqe);
		const int result = cqe->res;

		io_uring_cqe_seen(ring, cqe);
		int failed = finish(g, chunk, result, err == 0);
		if (err == 0)
			err = failed;
	}
	return err;
}

/* Returns when nothing is in flight, also after an error. */
static int read_all(struct reading *g, const struct model_watch *watch)
{
	int err = 0;

	for (;;) {
		if (err == 0)
			fill_queue(g);
		if (g->in_flight == 0)
			return err;
		err = reap(g, err);
		if (err == 0 && watch != NULL &&
			!watch->progress(watch->context, g->done_bytes, g->total_bytes))
			err = model_fail(g->why, -ECANCELED, "reading was cancelled");
	}
}

/* --- Readers -------------------------------------------------------------------------------- */

static int by_place(const void *a, const void *b)
{
	const struct safetensors_read *x = a, *y = b;

	if (x->tensor->file != y->tensor->file)
		return x->tensor->file < y->tensor->file ? -1 : 1;
	return (begin_of(x) > begin_of(y)) - (begin_of(x) < begin_of(y));
}

int safetensors_reader_read(struct safetensors_reader *reader, const struct safetensors_read *reads,
	size_t count, const struct model_watch *watch, struct model_why *why)
{
	struct reading g = {.reader = reader, .why = why};
	int err;

	g.reads = calloc(count + 1, sizeof(*g.reads));
	if (g.reads == NULL)
		return model_fail(why, -ENOMEM, "no memory for the list of what is read");
	for (size_t i = 0; i < count; i++) {
		assert(reads[i].skip_bytes <= reads[i].tensor->bytes &&
			reads[i].bytes <= reads[i].tensor->bytes - reads[i].skip_bytes);
		if (reads[i].bytes > 0)
			g.reads[g.count++] = reads[i];
		g.total_bytes += reads[i].bytes;
	}
	qsort(g.reads, g.count, sizeof(*g.reads), by_place);
	err = read_all(&g, watch);
	free(g.reads);
	return err;
}

int safetensors_reader_open(const struct safetensors *files, struct safetensors_reader **ret_reader,
	struct model_why *why)
{
	struct safetensors_reader *r = calloc(1, sizeof(*r));
	int err;

	if (r == NULL)
		return model_fail(why, -ENOMEM, "no memory to read with");
	err = io_uring_queue_init(DEPTH, &r->ring, 0);
	if (err < 0) {
		free(r);
		return model_fail(why, err, "no io_uring to read with: %s", strerror(-err));
	}
	r->files = files;
	r->direct = true;
	r->probe.fd = -1;
	for (uint32_t i = 0; i < DEPTH; i++)
		r->chunks[i].opened.fd = -1;
	*ret_reader = r;
	return 0;
}

void safetensors_reader_close(struct safetensors_reader *r)
{
	if (r == NULL)
		return;
	io_uring_queue_exit(&r->ring);
	for (uint32_t i = 0; i < DEPTH; i++) {
		opened_close(&r->chunks[i].opened);
		free(r->chunks[i].room);
	}
	opened_close(&r->probe);
	free(r);
}

int safetensors_read(const struct safetensors *files, const struct safetensors_read *reads,
	size_t count, const struct model_watch *watch, struct model_why *why)
{
	struct safetensors_reader *reader;
	int err = safetensors_reader_open(files, &reader, why);

	if (err < 0)
		return err;
	err = safetensors_reader_read(reader, reads, count, watch, why);
	safetensors_reader_close(reader);
	return err;
}
