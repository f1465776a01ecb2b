/* SPDX-License-Identifier: MIT */
/* rig.h: small model folders, written into the test's private directory. */
#ifndef GPUQ_TESTS_MODELS_RIG_H
#define GPUQ_TESTS_MODELS_RIG_H

#include "tests/harness.h"

/* A new folder; the descriptor is the caller's to close. */
int rig_folder(void);

void rig_write(int dir_fd, const char *name, const void *data, size_t bytes);

/* A safetensors file: the header with its length, then data_bytes of data: 0, 1, 2, ... */
void rig_safetensors(int dir_fd, const char *name, const char *header, size_t data_bytes);

#endif
