/* SPDX-License-Identifier: MIT */
/* replay.c: runs a fuzz target on files, and on those in folders, without libFuzzer. */
#include <dirent.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int LLVMFuzzerInitialize(int *argc, char ***argv) __attribute__((weak));
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int replay_file(const char *path)
{
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	/* Exactly as large as the file, so that a look behind its end is seen. */
	uint8_t *data = fd >= 0 && fstat(fd, &st) == 0 ? malloc((size_t)st.st_size) : NULL;
	int r = data != NULL && read(fd, data, (size_t)st.st_size) == st.st_size ? 0 : -1;

	if (r == 0)
		LLVMFuzzerTestOneInput(data, (size_t)st.st_size);
	else
		perror(path);
	free(data);
	if (fd >= 0)
		close(fd);
	return r;
}

/* How many inputs there were; -1: some could not be read. */
static int replay(const char *path)
{
	DIR *dir = opendir(path);
	struct dirent *e;
	char name[4096];
	int n = 0;

	if (dir == NULL)
		return replay_file(path) < 0 ? -1 : 1;
	while (n >= 0 && (e = readdir(dir)) != NULL) {
		snprintf(name, sizeof(name), "%s/%s", path, e->d_name);
		if (e->d_name[0] != '.')
			n = replay_file(name) < 0 ? -1 : n + 1;
	}
	closedir(dir);
	return n;
}

int main(int argc, char **argv)
{
	if (LLVMFuzzerInitialize != NULL)
		(void)LLVMFuzzerInitialize(&argc, &argv);
	for (int i = 1; i < argc; i++) {
		int n = replay(argv[i]);

		if (n <= 0) {
			fprintf(stderr, "%s: no inputs\n", argv[i]);
			return 1;
		}
		printf("ok %d - %s: %d inputs\n", i, argv[i], n);
	}
	printf("1..%d\n", argc - 1);
	return 0;
}
