/* SPDX-License-Identifier: MIT */
/*
 * segment.h: memory that processes share by descriptor, and the bells that wake the other side.
 * gpuqd makes all of it; clients only map and ring what they were sent.
 */
#ifndef GPUQ_SHM_SEGMENT_H
#define GPUQ_SHM_SEGMENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * A memfd of `bytes`, zeroed, with every page allocated (so that nobody meets SIGBUS later) and
 * sealed against shrinking, growing and further seals. Returns the descriptor (close-on-exec),
 * or a negative errno: -ENOMEM, -EMFILE, ...
 */
int segment_create(const char *name, uint64_t bytes);

/*
 * The parts of segment_create(), for those who allocate the pages (fallocate from 0) in the
 * background: an empty memfd, and the seals once it is full.
 */
int segment_memfd(const char *name);
int segment_seal(int fd);

/* Maps a whole segment, read-write or read-only. Returns 0 or a negative errno. */
int segment_map(int fd, uint64_t bytes, bool writable, void **ret_base);

/*
 * The same, read-write, with a page of the process's own before it, which begins WIRE_PAGE_SIZE
 * below the base. A forked child has neither.
 */
int segment_map_behind_page(int fd, uint64_t bytes, void **ret_base);
void segment_unmap_behind_page(void *base, uint64_t bytes);

/*
 * Moves a segment mapped so to the place of another of the same length, at once for those who look
 * at it now; the page before `to` stays, the one before `from` goes. Returns 0 or a negative errno.
 */
int segment_move_behind_page(void *from, uint64_t bytes, void *to);

/*
 * Gives all pages of a segment back to the system although descriptors to it may linger
 * somewhere. Returns 0 or a negative errno.
 */
int segment_punch(int fd, uint64_t bytes);

/*
 * A descriptor of the same memory that can only be mapped read-only, also by way of /proc: the
 * memory's owner keeps `fd` for writing. Returns the descriptor or a negative errno.
 */
int segment_readonly_fd(int fd);

/*
 * The bell from gpuqd to a client: a pipe whose write end never leaves gpuqd. Both ends are
 * non-blocking. Returns 0 or a negative errno.
 */
int bell_pipe(int *ret_read_fd, int *ret_write_fd);

/* Rings a pipe. A full pipe is a bell that already rings. Never blocks. */
void bell_ring_pipe(int write_fd);

/* Silences a pipe after waking up. False when the other end is gone. */
bool bell_drain_pipe(int read_fd);

/* The bell from a client to gpuqd: an eventfd that gpuqd only watches edge-triggered. */
int bell_eventfd(void);
void bell_ring_eventfd(int fd);

#endif
