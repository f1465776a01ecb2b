/* SPDX-License-Identifier: MIT */
/* memory.h: anonymous memory for weights on the CPU device, in huge pages where there are some. */
#ifndef GPUQ_MODELS_MEMORY_H
#define GPUQ_MODELS_MEMORY_H

#include <stdint.h>

/* Zeroed, aligned to 2 MiB. -ENOMEM, -EINVAL for no bytes. */
int model_memory_map(uint64_t bytes, void **ret_data);
void model_memory_unmap(void *data, uint64_t bytes); /* NULL is fine */

#endif
