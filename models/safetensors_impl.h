/* SPDX-License-Identifier: MIT */
/* safetensors_impl.h: what safetensors.c and read.c share. */
#ifndef GPUQ_MODELS_SAFETENSORS_IMPL_H
#define GPUQ_MODELS_SAFETENSORS_IMPL_H

#include "models/safetensors.h"

struct safetensors_file {
	char *name;
	int fd;
};

struct safetensors {
	struct safetensors_file *files;
	uint32_t file_count;
	struct safetensors_table table; /* by name */
};

#endif
