/* SPDX-License-Identifier: MIT */
/* open.c: finds, opens, closes and lists devices; see device.h. */
#include "device/fault.h"
#include "device/loader.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WHY_MAX 192

static int open_cuda(const struct device_options *options, uint32_t ordinal,
	struct device **ret_device, char why[WHY_MAX])
{
	const struct device_driver *driver;
	int r = loader_cuda(&driver, why);

	if (r == 0)
		r = driver->open(options, ordinal, ret_device, why);
	if (r == 0)
		(*ret_device)->driver = driver;
	return r;
}

static int open_cpu(
	const struct device_options *options, struct device **ret_device, char why[WHY_MAX])
{
	int r = device_cpu_driver.open(options, 0, ret_device, why);

	if (r == 0)
		(*ret_device)->driver = &device_cpu_driver;
	return r;
}

/* The N of "cuda:N"; 0 for "cuda". */
static bool parse_cuda(const char *kind, uint32_t *ret_ordinal)
{
	unsigned long n = 0;
	char *end = (char *)kind + 4;

	if (strncmp(kind, "cuda", 4) != 0)
		return false;
	if (*end == ':') {
		const char *digits = end + 1;
		n = strtoul(digits, &end, 10);
		if (*digits < '0' || *digits > '9' || n > UINT32_MAX)
			return false;
	}
	*ret_ordinal = (uint32_t)n;
	return *end == '\0';
}

static int open_kind(
	const struct device_options *options, struct device **ret_device, char why[WHY_MAX])
{
	const char *kind = options->kind;
	uint32_t ordinal;

	if (kind != NULL && parse_cuda(kind, &ordinal))
		return open_cuda(options, ordinal, ret_device, why);
	if (kind != NULL && strcmp(kind, "cpu") == 0)
		return open_cpu(options, ret_device, why);
	if (kind != NULL && strcmp(kind, "auto") == 0) {
		int r = open_cuda(options, 0, ret_device, why);
		return r < 0 ? open_cpu(options, ret_device, why) : 0;
	}
	snprintf(why, WHY_MAX, "a device is \"cpu\", \"cuda\", \"cuda:N\" or \"auto\"");
	return -EINVAL;
}

static int open_with_fault(const struct device_options *options, struct fault *fault,
	struct device **ret_device, char why[WHY_MAX])
{
	struct device *device;
	int r = fault_check(fault, FAULT_OPEN);

	if (r < 0)
		snprintf(why, WHY_MAX, "a test asked for this");
	else
		r = open_kind(options, &device, why);
	if (r < 0)
		return r;
	device->fault = fault;
	*ret_device = device;
	return 0;
}

int device_open(const struct device_options *options, struct device **ret_device, char why[WHY_MAX])
{
	char reason[WHY_MAX] = "";
	struct fault *fault;
	int r = fault_create(options->faults, &fault);

	if (r < 0) {
		snprintf(reason, sizeof(reason), "the text of faults cannot be read");
	} else {
		r = open_with_fault(options, fault, ret_device, reason);
		if (r < 0)
			fault_destroy(fault);
	}
	if (why != NULL)
		snprintf(why, WHY_MAX, "%s", r == 0 || reason[0] != '\0' ? reason : strerror(-r));
	return r;
}

void device_close(struct device *device)
{
	struct fault *fault;

	if (device == NULL)
		return;
	fault = device->fault;
	device->driver->close(device);
	fault_destroy(fault);
}

uint32_t device_list(struct device_present *ret_devices, uint32_t max)
{
	const struct device_driver *cuda;
	char why[WHY_MAX];
	uint32_t n = device_cpu_driver.list(ret_devices, max);

	if (n == max)
		return n;
	if (loader_cuda(&cuda, why) == 0)
		return n + cuda->list(ret_devices + n, max - n);
	ret_devices[n] = (struct device_present){.kind = "cuda", .status = -GPUQ_ENODEV};
	snprintf(ret_devices[n].why, sizeof(ret_devices[n].why), "%s", why);
	return n + 1;
}
