/* SPDX-License-Identifier: MIT */
/*
 * npy.h: NumPy's .npy files, the part of the format that gpuq can use.
 *
 *	offset  bytes
 *	0       6      0x93 "NUMPY"
 *	6       2      version: 1.0, 2.0 or 3.0
 *	8       2 | 4  header length: 2 bytes in version 1, 4 in versions 2 and 3, little-endian
 *	10|12   n      a Python dict, padded with spaces and ended by a newline:
 *	               {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }
 *	then           the elements, C order, to the end of the file
 *
 * Taken: f2 f4 i1 u1 i4 i8, little-endian, C order (rank 0 and 1 have no other), rank <= 8.
 * Everything else is refused with a sentence that says why and, where there is one, the way out.
 */
#ifndef GPUQ_TOOLS_NPY_H
#define GPUQ_TOOLS_NPY_H

#include "gpuq-types.h"

#include <stddef.h>

#define NPY_PREFIX_MAX 12
#define NPY_HEADER_MAX 65536 /* bytes of the dict; NumPy itself refuses more than 10,000 */

struct npy {
	uint32_t dtype; /* enum gpuq_dtype; never GPUQ_BF16, which NumPy lacks */
	uint32_t rank;
	uint64_t dims[GPUQ_MAX_RANK];
	uint64_t elements;
	uint64_t data_offset, data_bytes;
};

/*
 * Reads the header of a file whose first `bytes` bytes are at `data`: all of the file, or at
 * least NPY_PREFIX_MAX + NPY_HEADER_MAX of it. Trusts nothing. Returns 0, or -EINVAL with the
 * reason in `why`; ret_npy is then untouched.
 */
int npy_parse(const void *data, size_t bytes, struct npy *ret_npy, char *why, size_t why_size);

/* The file is exactly as long as its header says, else -EINVAL with the reason in `why`. */
int npy_check_length(const struct npy *npy, uint64_t file_bytes, char *why, size_t why_size);

/*
 * Opens a file and reads and checks its header. Returns a descriptor that npy_read() takes and
 * the caller closes, or a negative errno with the reason in `why`.
 */
int npy_open(const char *path, struct npy *ret_npy, char *why, size_t why_size);

/*
 * Reads all elements to `data` as `dtype`: that of the file, or f16 or bf16 when the file holds
 * f32. Returns 0, or a negative errno with the reason in `why`.
 */
int npy_read(int fd, const struct npy *npy, uint32_t dtype, void *data, char *why, size_t why_size);

/*
 * Writes a file anew: beside the old one, then in its place, so that nobody sees half of it.
 * bf16 is saved as f32. Returns 0, or a negative errno with the reason in `why`: -EINVAL when there
 * is something that is no regular file.
 */
int npy_write(const char *path, uint32_t dtype, uint32_t rank, const uint64_t *dims,
	const void *data, char *why, size_t why_size);

#endif
