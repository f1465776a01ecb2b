/* SPDX-License-Identifier: MIT */
/*
 * read.c: tensors from files to memory through an io_uring. Each read is cut into chunks; DEPTH of
 * them are in flight, done by the kernel's workers, so that copying out of the page cache and
 * clearing new pages use more than one CPU.
 *
 * What is read ahead from the disk depends on what was last read by way of the same open file: each
 * of the chunks in flight has one of its own, or they would spoil each other's.
 */
#include "models/safetensors_impl.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define DEPTH 8u
#define CHUNK_BYTES (4u << 20)

struct chunk {
	int fd; /* its own of `opened`; -1: none */
	uint32_t opened;
	uint32_t file;
	uint32_t bytes; /* 0: not in flight */
	uint64_t offset;
	uint8_t *to;
};

struct reader {
	const struct safetensors *files;
	const struct safetensors_read *reads;
	size_t count;
	size_t next;	     /* the read that the next chunk is of */
	uint64_t next_bytes; /* of it, which have been asked for */
	uint64_t done_bytes, total_bytes;
	struct io_uring ring;
	struct chunk chunks[DEPTH];
	uint32_t in_flight;
	struct model_why *why;
};

/* Another open file of the chunk's, or the one that all share where there is none to be had. */
static int fd_of(const struct reader *r, struct chunk *chunk)
{
	const int shared = r->files->files[chunk->file].fd;
	char link[32];

	if (chunk->fd >= 0 && chunk->opened != chunk->file) {
		close(chunk->fd);
		chunk->fd = -1;
	}
	if (chunk->fd < 0) {
		snprintf(link, sizeof(link), "/proc/self/fd/%d", shared);
		chunk->fd = open(link, O_RDONLY | O_CLOEXEC);
		chunk->opened = chunk->file;
	}
	return chunk->fd >= 0 ? chunk->fd : shared;
}

static void submit(struct reader *r, struct chunk *chunk)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&r->ring);

	assert(sqe != NULL); /* as many as chunks */
	io_uring_prep_read(sqe, fd_of(r, chunk), chunk->to, chunk->bytes, chunk->offset);
	io_uring_sqe_set_flags(sqe, IOSQE_ASYNC);
	io_uring_sqe_set_data(sqe, chunk);
}

/* The next part of what is to be read; false when all has been asked for. */
static bool next_chunk(struct reader *r, struct chunk *ret_chunk)
{
	while (r->next < r->count && r->next_bytes == r->reads[r->next].bytes) {
		r->next++;
		r->next_bytes = 0;
	}
	if (r->next == r->count)
		return false;
	const struct safetensors_read *read = &r->reads[r->next];
	uint64_t left = read->bytes - r->next_bytes;
	ret_chunk->file = read->tensor->file;
	ret_chunk->bytes = left < CHUNK_BYTES ? (uint32_t)left : CHUNK_BYTES;
	ret_chunk->offset = read->tensor->offset + read->skip_bytes + r->next_bytes;
	ret_chunk->to = (uint8_t *)read->to + r->next_bytes;
	r->next_bytes += ret_chunk->bytes;
	return true;
}

static void fill_queue(struct reader *r)
{
	for (uint32_t i = 0; i < DEPTH; i++) {
		if (r->chunks[i].bytes != 0)
			continue;
		if (!next_chunk(r, &r->chunks[i]))
			return;
		submit(r, &r->chunks[i]);
		r->in_flight++;
	}
}

/* Takes the kernel's answer; a chunk that is not finished goes on if `go_on`. */
static int finish(struct reader *r, struct chunk *chunk, int result, bool go_on)
{
	const char *name = r->files->files[chunk->file].name;
	bool again = result == -EINTR || result == -EAGAIN;

	if (result > 0) {
		chunk->bytes -= (uint32_t)result;
		chunk->offset += (uint32_t)result;
		chunk->to += result;
		r->done_bytes += (uint32_t)result;
		again = chunk->bytes > 0;
	}
	if (again && go_on) {
		submit(r, chunk);
		return 0;
	}
	chunk->bytes = 0;
	r->in_flight--;
	if (!go_on || result > 0)
		return 0;
	if (result == 0)
		return model_fail(r->why, -EIO, "%s has become shorter while it was read", name);
	return model_fail(r->why, result, "%s cannot be read: %s", name, strerror(-result));
}

/* Waits for at least one answer and takes all that are there. */
static int reap(struct reader *r, int err)
{
	struct io_uring_cqe *cqe;
	int n = io_uring_submit_and_wait(&r->ring, 1);

	if (n < 0 && n != -EINTR && n != -EAGAIN && n != -EBUSY)
		return err < 0 ? err : model_fail(r->why, n, "reading: %s", strerror(-n));
	while (io_uring_peek_cqe(&r->ring, &cqe) == 0) {
		int failed = finish(r, io_uring_cqe_get_data(cqe), cqe->res, err == 0);

		io_uring_cqe_seen(&r->ring, cqe);
		if (err == 0)
			err = failed;
	}
	return err;
}

/* Returns when nothing is in flight, also after an error. */
static int read_all(struct reader *r, const struct model_watch *watch)
{
	int err = 0;

	for (;;) {
		if (err == 0)
			fill_queue(r);
		if (r->in_flight == 0)
			return err;
		err = reap(r, err);
		if (err == 0 && watch != NULL &&
			!watch->progress(watch->context, r->done_bytes, r->total_bytes))
			err = model_fail(r->why, -ECANCELED, "reading was cancelled");
	}
}

int safetensors_read(const struct safetensors *files, const struct safetensors_read *reads,
	size_t count, const struct model_watch *watch, struct model_why *why)
{
	struct reader r = {.files = files, .reads = reads, .count = count, .why = why};
	int err = io_uring_queue_init(DEPTH, &r.ring, 0);

	if (err < 0)
		return model_fail(why, err, "no io_uring to read with: %s", strerror(-err));
	for (size_t i = 0; i < count; i++) {
		assert(reads[i].skip_bytes <= reads[i].tensor->bytes &&
			reads[i].bytes <= reads[i].tensor->bytes - reads[i].skip_bytes);
		r.total_bytes += reads[i].bytes;
	}
	for (uint32_t i = 0; i < DEPTH; i++)
		r.chunks[i].fd = -1;
	err = read_all(&r, watch);
	io_uring_queue_exit(&r.ring);
	for (uint32_t i = 0; i < DEPTH; i++) {
		if (r.chunks[i].fd >= 0)
			close(r.chunks[i].fd);
	}
	return err;
}
