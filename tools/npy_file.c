/* SPDX-License-Identifier: MIT */
/* Reading and writing .npy files; the header's parser is in npy.c. */
#include "tools/npy.h"

#include "tools/dtype.h"

#include <assert.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHUNK 4096 /* elements converted at a time */
#define HEADER_ALIGN 64

static int fail(int error, char *why, size_t why_size)
{
	snprintf(why, why_size, "%s", strerror(-error));
	return error;
}

/* Reads exactly `bytes` at `offset`; -ENODATA when the file ends before. */
static int read_all(int fd, void *data, size_t bytes, uint64_t offset)
{
	char *p = data;

	while (bytes > 0) {
		ssize_t n = pread(fd, p, bytes, (off_t)offset);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -ENODATA;
		p += n;
		offset += (uint64_t)n;
		bytes -= (size_t)n;
	}
	return 0;
}

static int open_header(int fd, struct npy *npy, char *why, size_t why_size)
{
	static char head[NPY_PREFIX_MAX + NPY_HEADER_MAX];
	struct stat st;

	if (fstat(fd, &st) < 0)
		return fail(-errno, why, why_size);
	if (!S_ISREG(st.st_mode)) {
		snprintf(why, why_size, "not a regular file");
		return -EINVAL;
	}
	size_t bytes = (uint64_t)st.st_size < sizeof(head) ? (size_t)st.st_size : sizeof(head);
	int r = read_all(fd, head, bytes, 0);
	if (r < 0)
		return fail(r, why, why_size);
	r = npy_parse(head, bytes, npy, why, why_size);
	if (r < 0)
		return r;
	return npy_check_length(npy, (uint64_t)st.st_size, why, why_size);
}

int npy_open(const char *path, struct npy *ret_npy, char *why, size_t why_size)
{
	/* O_NONBLOCK: a FIFO is refused, not waited for. */
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		return fail(-errno, why, why_size);
	int r = open_header(fd, ret_npy, why, why_size);
	if (r < 0) {
		close(fd);
		return r;
	}
	return fd;
}

static void halve(uint32_t dtype, const float *from, uint16_t *to, size_t n)
{
	for (size_t i = 0; i < n; i++)
		to[i] = dtype == GPUQ_BF16 ? bf16_from_f32(from[i]) : f16_from_f32(from[i]);
}

int npy_read(int fd, const struct npy *npy, uint32_t dtype, void *data, char *why, size_t why_size)
{
	float chunk[CHUNK];
	uint16_t *to = data;
	int r = 0;

	if (dtype == npy->dtype) {
		r = read_all(fd, data, npy->data_bytes, npy->data_offset);
		return r < 0 ? fail(r, why, why_size) : 0;
	}
	assert(npy->dtype == GPUQ_F32 && (dtype == GPUQ_F16 || dtype == GPUQ_BF16));
	for (uint64_t done = 0; done < npy->elements && r == 0; done += CHUNK) {
		uint64_t left = npy->elements - done;
		size_t n = left < CHUNK ? (size_t)left : CHUNK;

		r = read_all(
			fd, chunk, n * sizeof(*chunk), npy->data_offset + done * sizeof(*chunk));
		if (r == 0)
			halve(dtype, chunk, to + done, n);
	}
	return r < 0 ? fail(r, why, why_size) : 0;
}

static const char *descr_of(uint32_t dtype)
{
	switch (dtype) {
	case GPUQ_F16:
		return "<f2";
	case GPUQ_I8:
		return "|i1";
	case GPUQ_U8:
		return "|u1";
	case GPUQ_I32:
		return "<i4";
	case GPUQ_I64:
		return "<i8";
	default:
		return "<f4";
	}
}

static void write_header(FILE *f, uint32_t dtype, uint32_t rank, const uint64_t *dims)
{
	char dict[256];
	int n = snprintf(dict, sizeof(dict), "{'descr': '%s', 'fortran_order': False, 'shape': (",
		descr_of(dtype));

	for (uint32_t i = 0; i < rank; i++)
		n += snprintf(dict + n, sizeof(dict) - (size_t)n, "%llu%s",
			(unsigned long long)dims[i],
			i + 1 < rank	    ? ", "
				: rank == 1 ? ","
					    : "");
	n += snprintf(dict + n, sizeof(dict) - (size_t)n, "), }");
	assert((size_t)n < sizeof(dict));

	int length = (10 + n + 1 + HEADER_ALIGN - 1) / HEADER_ALIGN * HEADER_ALIGN - 10;
	fwrite("\x93NUMPY\1\0", 1, 8, f);
	fputc(length & 0xff, f);
	fputc(length >> 8, f);
	fprintf(f, "%-*s\n", length - 1, dict);
}

static void write_elements(FILE *f, uint32_t dtype, const void *data, uint64_t n)
{
	const uint16_t *bits = data;

	if (dtype != GPUQ_BF16) {
		if (n > 0)
			fwrite(data, dtype_bytes(dtype), n, f);
		return;
	}
	for (uint64_t i = 0; i < n; i++) {
		float value = f32_from_bf16(bits[i]);
		fwrite(&value, sizeof(value), 1, f);
	}
}

/* A new file beside `path`, with the permissions that open() would give. */
static int open_beside(const char *path, char *name, size_t size)
{
	mode_t mask = umask(0);

	umask(mask);
	if ((size_t)snprintf(name, size, "%s.XXXXXX", path) >= size)
		return -ENAMETOOLONG;
	int fd = mkostemp(name, O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (fchmod(fd, 0666 & ~mask) < 0) {
		int r = -errno;
		close(fd);
		unlink(name);
		return r;
	}
	return fd;
}

int npy_write(const char *path, uint32_t dtype, uint32_t rank, const uint64_t *dims,
	const void *data, char *why, size_t why_size)
{
	char name[4096];
	struct stat st;
	uint64_t n = 1;

	/* The new file takes its place: a device, say, must not be lost. */
	if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) {
		snprintf(why, why_size, "this is no regular file, which is all that is replaced");
		return -EINVAL;
	}
	int fd = open_beside(path, name, sizeof(name));
	if (fd < 0)
		return fail(fd, why, why_size);
	for (uint32_t i = 0; i < rank; i++)
		n *= dims[i];
	FILE *f = fdopen(fd, "wb");
	if (f == NULL) {
		close(fd);
		unlink(name);
		return fail(-ENOMEM, why, why_size);
	}
	write_header(f, dtype, rank, dims);
	write_elements(f, dtype, data, n);
	bool bad = ferror(f) != 0;
	if (fclose(f) != 0 || bad || rename(name, path) < 0) {
		int r = errno != 0 ? -errno : -EIO;
		unlink(name);
		return fail(r, why, why_size);
	}
	return 0;
}
