/* SPDX-License-Identifier: MIT */
#include "tests/models/rig.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int rig_folder(void)
{
	static unsigned int n;
	char path[300];

	snprintf(path, sizeof(path), "%s/model%u", harness_tmpdir(), n++);
	assert_int_equal(mkdir(path, 0700), 0);
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

void rig_write(int dir_fd, const char *name, const void *data, size_t bytes)
{
	int fd = openat(dir_fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, data, bytes), bytes);
	close(fd);
}

void rig_safetensors(int dir_fd, const char *name, const char *header, size_t data_bytes)
{
	uint64_t header_bytes = strlen(header);
	uint8_t *file = malloc(8 + header_bytes + data_bytes);

	assert_non_null(file);
	memcpy(file, &header_bytes, 8);
	memcpy(file + 8, header, header_bytes);
	for (size_t i = 0; i < data_bytes; i++)
		file[8 + header_bytes + i] = (uint8_t)i;
	rig_write(dir_fd, name, file, 8 + header_bytes + data_bytes);
	free(file);
}
