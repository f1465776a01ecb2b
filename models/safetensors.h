/* SPDX-License-Identifier: MIT */
/*
 * safetensors.h: the tensors of a model's folder, in model.safetensors or in the files that
 * model.safetensors.index.json names. A file is
 *
 *	0	u64, little endian: N, the bytes of the header
 *	8	the header, JSON: {"NAME": {"dtype", "shape", "data_offsets": [begin, end]}, ...}
 *		and perhaps "__metadata__": {"KEY": "VALUE", ...}
 *	8 + N	the data, to the end of the file: the tensors one after another, without gaps
 *
 * (https://github.com/huggingface/safetensors, "Format"). Nothing of it is believed: a file is
 * refused as a whole when a length, an offset or a name in it does not fit all the others.
 */
#ifndef GPUQ_MODELS_SAFETENSORS_H
#define GPUQ_MODELS_SAFETENSORS_H

#include "models/fail.h"
#include "shm/gpuq-types.h"

#include <stdbool.h>
#include <stddef.h>

#define SAFETENSORS_MAX_HEADER_BYTES (16u << 20)
#define SAFETENSORS_MAX_FILES 1024

struct safetensors;
struct safetensors_reader;

struct safetensors_tensor {
	char *name;
	uint32_t dtype;	    /* enum gpuq_dtype; 0: a type that gpuq does not have */
	char dtype_name[8]; /* as the file has it */
	uint32_t rank;
	uint64_t dims[GPUQ_MAX_RANK];
	uint64_t offset, bytes; /* of the data in its file */
	uint32_t file;
};

/* What one header says; for the parser's tests. */
struct safetensors_table {
	struct safetensors_tensor *tensors;
	size_t count;
};

/*
 * The header's length, from the first 8 bytes of a file of file_bytes. -EBADMSG when it cannot be,
 * -EFBIG above the limit. `name` is for the sentence.
 */
int safetensors_header_bytes(const uint8_t prefix[8], uint64_t file_bytes, const char *name,
	size_t *ret_bytes, struct model_why *why);

/*
 * Adds the tensors of one header, in the order of their data, to the table; the data is data_bytes
 * long and begins at data_offset. -EBADMSG, -ENOMEM; the table is then as it was.
 */
int safetensors_parse(const char *header, size_t header_bytes, uint64_t data_offset,
	uint64_t data_bytes, const char *name, struct safetensors_table *table,
	struct model_why *why);
void safetensors_table_free(struct safetensors_table *table);

/*
 * Opens the files of a folder and reads their headers; dir_fd stays the caller's. -ENOENT, -ELOOP,
 * -EBADMSG, -EFBIG, -EINVAL (a shard's name leaves the folder), -ENOMEM or what reading says.
 */
int safetensors_open(int dir_fd, struct safetensors **ret_files, struct model_why *why);
void safetensors_close(struct safetensors *files); /* NULL is fine */

/* The tensors by name, in its order. */
size_t safetensors_count(const struct safetensors *files);
const struct safetensors_tensor *safetensors_at(const struct safetensors *files, size_t i);
const struct safetensors_tensor *safetensors_find(
	const struct safetensors *files, const char *name);

/* --- Reading -------------------------------------------------------------------------------- */

/* A part of a tensor, all of it within the tensor, and where it goes. */
struct safetensors_read {
	const struct safetensors_tensor *tensor;
	uint64_t skip_bytes, bytes;
	void *to;
};

/* Told of progress from time to time, in the thread that reads; false cancels. */
struct model_watch {
	bool (*progress)(void *context, uint64_t done_bytes, uint64_t total_bytes);
	void *context;
};

/*
 * Reads through an io_uring of its own; what the page cache has not, past it. files stays open as
 * long as the reader. -ENOMEM, or what the kernel says.
 */
int safetensors_reader_open(const struct safetensors *files, struct safetensors_reader **ret_reader,
	struct model_why *why);
void safetensors_reader_close(struct safetensors_reader *reader); /* NULL is fine */

/*
 * Returns when nothing writes to memory any more. -ECANCELED, -EIO when a file has become shorter,
 * -ENOMEM, or what the kernel says. After an error the reader may be used again. watch may be NULL.
 */
int safetensors_reader_read(struct safetensors_reader *reader, const struct safetensors_read *reads,
	size_t count, const struct model_watch *watch, struct model_why *why);

/* The same with a reader for this once. */
int safetensors_read(const struct safetensors *files, const struct safetensors_read *reads,
	size_t count, const struct model_watch *watch, struct model_why *why);

#endif
