/* SPDX-License-Identifier: MIT */
/* Built twice: a library that is no device module, and one of another version. */
#include "device/driver.h"

#ifdef OTHER_VERSION
extern const struct device_driver gpuq_device_cuda;

__attribute__((visibility("default"))) const struct device_driver gpuq_device_cuda = {
	.version = 999,
};
#else
extern const int gpuq_nothing;

__attribute__((visibility("default"))) const int gpuq_nothing = 1;
#endif
