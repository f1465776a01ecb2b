/* SPDX-License-Identifier: MIT */
/* npy-copy FROM TO [DTYPE]: reads one .npy file and writes another; for tests against NumPy. */
#include "tools/dtype.h"
#include "tools/npy.h"

#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
	char why[256];
	struct npy npy;
	int fd = argc < 3 ? -EINVAL : npy_open(argv[1], &npy, why, sizeof(why));

	if (argc < 3)
		return 2;
	if (fd < 0) {
		fprintf(stderr, "%s\n", why);
		return 1;
	}
	uint32_t dtype = argc > 3 ? dtype_parse(argv[3]) : npy.dtype;
	void *data = malloc(npy.data_bytes + 1);
	if (data == NULL || npy_read(fd, &npy, dtype, data, why, sizeof(why)) < 0 ||
		npy_write(argv[2], dtype, npy.rank, npy.dims, data, why, sizeof(why)) < 0) {
		fprintf(stderr, "%s\n", why);
		return 1;
	}
	free(data);
	return 0;
}
