/* SPDX-License-Identifier: MIT */
/*
 * Stands for NVIDIA's library in tests of what reads it: GPU-1 knows everything, MIG-1, a part of
 * a GPU, its memory only, and there is no other.
 */
#include <stddef.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))
#define NOT_FOUND 6
#define NOT_SUPPORTED 3

static char whole, part;

EXPORT int nvmlInit_v2(void);
EXPORT int nvmlShutdown(void);
EXPORT int nvmlDeviceGetHandleByUUID(const char *uuid, void **device);
EXPORT int nvmlDeviceGetUtilizationRates(void *device, unsigned int rates[2]);
EXPORT int nvmlDeviceGetMemoryInfo(void *device, unsigned long long memory[3]);
EXPORT int nvmlDeviceGetPowerUsage(void *device, unsigned int *power);
EXPORT int nvmlDeviceGetTemperature(void *device, int sensor, unsigned int *temperature);

int nvmlInit_v2(void)
{
	return 0;
}

int nvmlShutdown(void)
{
	return 0;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, void **device)
{
	*device = strcmp(uuid, "GPU-1") == 0 ? &whole : strcmp(uuid, "MIG-1") == 0 ? &part : NULL;
	return *device == NULL ? NOT_FOUND : 0;
}

int nvmlDeviceGetUtilizationRates(void *device, unsigned int rates[2])
{
	rates[0] = 37;
	rates[1] = 12;
	return device == &whole ? 0 : NOT_SUPPORTED;
}

/* Total, free, used. */
int nvmlDeviceGetMemoryInfo(void *device, unsigned long long memory[3])
{
	memory[0] = 8000000000;
	memory[1] = 6000000000;
	memory[2] = 2000000000;
	return 0;
}

int nvmlDeviceGetPowerUsage(void *device, unsigned int *power)
{
	*power = 251500;
	return device == &whole ? 0 : NOT_SUPPORTED;
}

int nvmlDeviceGetTemperature(void *device, int sensor, unsigned int *temperature)
{
	*temperature = 61;
	return device == &whole && sensor == 0 ? 0 : NOT_SUPPORTED;
}
