/* SPDX-License-Identifier: MIT */
/* input.c: see input.h. */
#include "tools/input.h"
#include "tools/tool.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int read_all(int fd, const char *name, char **ret_text, size_t *ret_bytes)
{
	char *text = NULL;
	size_t bytes = 0, capacity = 0;
	ssize_t n;

	do {
		if (capacity - bytes < 65536) {
			capacity = capacity * 2 + 131072;
			char *larger = realloc(text, capacity);
			if (larger == NULL) {
				free(text);
				complain("no memory for what %s holds", name);
				return EXIT_FAIL;
			}
			text = larger;
		}
		n = read(fd, text + bytes, capacity - bytes - 1);
		if (n > 0)
			bytes += (size_t)n;
	} while (n > 0 || (n < 0 && errno == EINTR));
	if (n < 0) {
		complain("%s: %s", name, strerror(errno));
		free(text);
		return EXIT_FAIL;
	}
	text[bytes] = '\0';
	*ret_text = text;
	*ret_bytes = bytes;
	return EXIT_OK;
}

int input_read(const char *path, char **ret_text, size_t *ret_bytes)
{
	if (path == NULL || strcmp(path, "-") == 0)
		return read_all(STDIN_FILENO, "standard input", ret_text, ret_bytes);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		complain("%s: %s", path, strerror(errno));
		return EXIT_FAIL;
	}
	int code = read_all(fd, path, ret_text, ret_bytes);
	close(fd);
	return code;
}
