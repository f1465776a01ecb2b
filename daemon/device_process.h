/* SPDX-License-Identifier: MIT */
/*
 * device_process.h: the role of gpuqd that owns a device. Started by the control process as
 * `gpuqd --device-process`; see devlink.h.
 */
#ifndef GPUQ_DAEMON_DEVICE_PROCESS_H
#define GPUQ_DAEMON_DEVICE_PROCESS_H

/* Runs until the link closes. Returns the exit code. */
int device_process_main(void);

#endif
