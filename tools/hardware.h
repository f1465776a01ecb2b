/* SPDX-License-Identifier: MIT */
/*
 * hardware.h: how busy, how full and how hot devices are. gpuqd does not ask for that; its readers
 * do, by themselves: of a GPU through NVML, which is loaded when there is one and never linked; of
 * the CPU device from /proc and /sys, where it is the whole machine's.
 */
#ifndef GPUQ_TOOLS_HARDWARE_H
#define GPUQ_TOOLS_HARDWARE_H

#include "shm/stats.h"

/* NAN: not known. */
struct hardware_reading {
	double utilization; /* 0 .. 1 */
	double memory_used_bytes, memory_bytes;
	double power_w, temperature_c;
};

struct hardware;

/* -ENOMEM. Without a GPU's driver, readings of GPUs are unknown. */
int hardware_open(struct hardware **ret_hardware);

/* NULL is fine. */
void hardware_close(struct hardware *hardware);

/*
 * Reads what a device of this machine does now. Utilization and power of the CPU are those since
 * the reading before, so the first one does not know them.
 */
void hardware_read(struct hardware *hardware, const struct stats_device *device,
	struct hardware_reading *ret_reading);

/* Nothing is known. */
struct hardware_reading hardware_unknown(void);

#endif
