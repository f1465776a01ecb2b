/* SPDX-License-Identifier: MIT */
/*
 * loader.h: opens the module of the CUDA device where there is one. Whoever runs without it, or
 * without NVIDIA's driver, loses nothing else.
 */
#ifndef GPUQ_DEVICE_LOADER_H
#define GPUQ_DEVICE_LOADER_H

#include "device/driver.h"

/*
 * The CUDA device's driver: of the module $GPUQ_CUDA_MODULE, else of the one that was built or
 * installed together with this executable, else of the one where this build installs it. It is
 * loaded once and stays. -GPUQ_ENODEV with the reason in `why`. Any thread.
 */
int loader_cuda(const struct device_driver **ret_driver, char why[192]);

#endif
