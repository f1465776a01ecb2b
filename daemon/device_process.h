/* SPDX-License-Identifier: MIT */
/* device_process.h: the other role of the gpuqd executable; see devlink.h. */
#ifndef GPUQ_DAEMON_DEVICE_PROCESS_H
#define GPUQ_DAEMON_DEVICE_PROCESS_H

/* Runs a device process until its link closes; returns its exit code. */
int device_process_main(void);

#endif
