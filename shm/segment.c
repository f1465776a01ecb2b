/* SPDX-License-Identifier: MIT */
/* segment.c: sealed memory, pipes and eventfds: what gpuqd sends its clients; see segment.h. */
#include "shm/segment.h"
#include "shm/wire.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8u
#endif

int segment_memfd(const char *name)
{
	/* Kernels before 6.3 refuse the flag that keeps the memory from being executed. */
	int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);

	if (fd < 0 && errno == EINVAL)
		fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	return fd < 0 ? -errno : fd;
}

int segment_seal(int fd)
{
	if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		return -errno;
	return 0;
}

int segment_create(const char *name, uint64_t bytes)
{
	int fd = segment_memfd(name);

	if (fd < 0)
		return fd;
	int r = fallocate(fd, 0, 0, (off_t)bytes) < 0 ? -errno : segment_seal(fd);
	if (r < 0) {
		close(fd);
		return r == -ENOSPC ? -ENOMEM : r;
	}
	return fd;
}

int segment_map(int fd, uint64_t bytes, bool writable, void **ret_base)
{
	int prot = writable ? PROT_READ | PROT_WRITE : PROT_READ;
	void *base = mmap(NULL, bytes, prot, MAP_SHARED | MAP_POPULATE, fd, 0);

	if (base == MAP_FAILED)
		return -errno;
	*ret_base = base;
	return 0;
}

int segment_map_behind_page(int fd, uint64_t bytes, void **ret_base)
{
	char *page = mmap(NULL, WIRE_PAGE_SIZE + bytes, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (page == MAP_FAILED)
		return -errno;
	void *base = page + WIRE_PAGE_SIZE;
	if (mmap(base, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE | MAP_FIXED, fd,
		    0) == MAP_FAILED ||
		madvise(page, WIRE_PAGE_SIZE + bytes, MADV_DONTFORK) < 0) {
		int r = -errno;
		munmap(page, WIRE_PAGE_SIZE + bytes);
		return r;
	}
	*ret_base = base;
	return 0;
}

void segment_unmap_behind_page(void *base, uint64_t bytes)
{
	munmap((char *)base - WIRE_PAGE_SIZE, WIRE_PAGE_SIZE + bytes);
}

int segment_move_behind_page(void *from, uint64_t bytes, void *to)
{
	if (mremap(from, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, to) == MAP_FAILED)
		return -errno;
	munmap((char *)from - WIRE_PAGE_SIZE, WIRE_PAGE_SIZE);
	return 0;
}

int segment_punch(int fd, uint64_t bytes)
{
	if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)bytes) < 0)
		return -errno;
	return 0;
}

int segment_readonly_fd(int fd)
{
	char path[64];

	/* Without this anyone who holds the descriptor could open it again for writing. */
	if (fchmod(fd, 0400) < 0)
		return -errno;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	int ro = open(path, O_RDONLY | O_CLOEXEC);
	return ro < 0 ? -errno : ro;
}

int bell_pipe(int *ret_read_fd, int *ret_write_fd)
{
	int fds[2];

	if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) < 0)
		return -errno;
	*ret_read_fd = fds[0];
	*ret_write_fd = fds[1];
	return 0;
}

void bell_ring_pipe(int write_fd)
{
	const char byte = 1;

	/* EAGAIN: full, so the reader wakes anyway. EPIPE: the reader is gone. Both are fine. */
	ssize_t n = write(write_fd, &byte, 1);
	(void)n;
}

bool bell_drain_pipe(int read_fd)
{
	char bytes[512];
	ssize_t n;

	do
		n = read(read_fd, bytes, sizeof(bytes));
	while (n == (ssize_t)sizeof(bytes) || (n < 0 && errno == EINTR));
	return n != 0;
}

int bell_eventfd(void)
{
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	return fd < 0 ? -errno : fd;
}

void bell_ring_eventfd(int fd)
{
	const uint64_t one = 1;

	ssize_t n = write(fd, &one, sizeof(one));
	(void)n;
}
