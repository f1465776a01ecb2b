/* SPDX-License-Identifier: MIT */
/*
 * fio.c: how fast fio, where it is installed, reads a file from its first byte to its last: with
 * read() out of the page cache, or past it from the disk, with as much in flight as the loader of
 * models has.
 */
#include "bench/bench.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

static json_t *run(const char *path, bool from_disk)
{
	const char *const cached[] = {"--ioengine=psync", "--bs=1M", "--invalidate=0", NULL};
	const char *const direct[] = {
		"--ioengine=io_uring", "--bs=4M", "--iodepth=8", "--direct=1", NULL};
	const char *const *how = from_disk ? direct : cached;
	char file[300];
	const char *argv[16] = {"fio", "--name=gpuq", "--rw=read", "--readonly",
		"--output-format=json", "--size=100%", file};

	snprintf(file, sizeof(file), "--filename=%s", path);
	for (int i = 0; how[i] != NULL; i++)
		argv[7 + i] = how[i];
	return child_json(argv);
}

int fio_read(const char *path, bool from_disk, uint64_t *ret_bytes, uint64_t *ret_ns)
{
	json_t *answer = run(path, from_disk);
	const json_t *job = json_array_get(json_object_get(answer, "jobs"), 0);
	const json_t *read = json_object_get(job, "read");
	const json_int_t bytes = json_integer_value(json_object_get(read, "io_bytes"));
	const json_int_t ms = json_integer_value(json_object_get(read, "runtime"));
	const bool failed = json_integer_value(json_object_get(job, "error")) != 0;

	json_decref(answer);
	if (answer == NULL)
		return -ENOENT;
	if (failed || bytes <= 0)
		return -EIO;
	*ret_bytes = (uint64_t)bytes;
	/* It knows no less than a millisecond. */
	*ret_ns = (uint64_t)(ms > 0 ? ms : 1) * 1000000u;
	return 0;
}
