/* SPDX-License-Identifier: MIT */
/*
 * driver.h: between device.h and its implementations. device.c is the front: it checks what both
 * devices must refuse, keeps the capture rules (what the capturing thread must not do, in one
 * place), remembers that a device has failed, injects the faults that tests ask for, and calls the
 * driver. So a driver sees no call that breaks a rule of device.h.
 *
 * Commands of a stream whose `capture` is not NULL are to be recorded; a stream that joins has it
 * before the driver sees event_await(). capture_end() is called for every capture, also a broken
 * one; a graph that it returns then is destroyed. When its thread is gone, stream_destroy() of any
 * of its streams ends a capture in the same way, from another thread.
 *
 * A driver's structs begin with the ones below. Its functions mean what those of device.h with the
 * same names mean. The CUDA module exports one symbol, DEVICE_MODULE_SYMBOL, a struct
 * device_driver whose `version` is DEVICE_DRIVER_VERSION; device/loader.c opens it.
 */
#ifndef GPUQ_DEVICE_DRIVER_H
#define GPUQ_DEVICE_DRIVER_H

#include "device/device.h"

#define DEVICE_DRIVER_VERSION 5
#define DEVICE_MODULE_SYMBOL "gpuq_device_cuda"

struct device_driver;

struct device {
	const struct device_driver *driver;
	struct device_options options; /* `kind` and `faults` are not kept */
	struct fault *fault;	       /* NULL: none is injected */
	uint64_t failed;	       /* 1: for good; set by front and driver, read by anyone */
	uint64_t background;	       /* pthread_self() of device_set_background(); 0: none */
};

/* One capture, from begin to end; see capture.h. Drivers only read it. */
struct device_capture {
	struct device_stream *streams[DEVICE_CAPTURE_STREAMS]; /* [0]: where it began */
	uint32_t n_streams;
	uint64_t id;	/* no other capture of this process has it */
	bool broken;	/* something failed or was refused */
	bool signalled; /* its last command has been recorded */
	uint32_t n_commands;
	/* So many commands of stream j come before what stream i is given next. */
	uint32_t before[DEVICE_CAPTURE_STREAMS][DEVICE_CAPTURE_STREAMS];
};

struct device_stream {
	struct device *device;
	struct device_capture *capture; /* that it takes part in; NULL: none */
	uint32_t place;			/* there */
};

struct device_event {
	struct device *device;
	uint64_t capture_id; /* of the capture in which it was last recorded; 0: in none */
	uint32_t before[DEVICE_CAPTURE_STREAMS]; /* as that of its stream then */
};

struct device_graph {
	struct device *device;
	uint32_t nodes; /* counted by the front */
	bool signals;	/* likewise: its last command completes the launch */
};

struct device_exec {
	struct device *device;
	uint64_t bytes;
};

struct device_driver {
	uint32_t version;
	const char *kind;

	int (*open)(const struct device_options *options, uint32_t ordinal,
		struct device **ret_device, char why[192]);
	void (*close)(struct device *device);
	uint32_t (*list)(struct device_present *ret_devices, uint32_t max);
	void (*info)(struct device *device, struct device_info *ret_info);
	int (*check)(struct device *device);
	void (*sleep_prepare)(struct device *device, bool asleep);
	/* NULL, both: no profiler is told. */
	void (*range_begin)(const char *what, const char *name);
	void (*range_end)(void);

	int (*alloc)(struct device *device, enum device_memory kind, uint64_t bytes, void **ret);
	void (*free)(struct device *device, enum device_memory kind, void *data);
	int (*register_host)(struct device *device, void *base, uint64_t bytes, void **ret);
	void (*unregister_host)(struct device *device, void *base);
	int (*export_create)(struct device *device, enum device_export_form form, uint64_t bytes,
		struct device_export *ret_export);
	void (*export_destroy)(struct device *device, const struct device_export *export);

	int (*stream_create)(struct device *device, uint32_t priority, struct device_stream **ret);
	void (*stream_destroy)(struct device_stream *stream);
	int (*stream_query)(struct device_stream *stream);
	int (*stream_wait)(struct device_stream *stream);
	int (*event_create)(struct device *device, struct device_event **ret_event);
	void (*event_destroy)(struct device_event *event);
	int (*event_record)(struct device_event *event, struct device_stream *stream);
	int (*event_await)(struct device_event *event, struct device_stream *stream);
	int (*event_query)(struct device_event *event);

	int (*launch)(struct device_stream *stream, const struct device_kernel *kernel,
		const struct device_args *args);
	/* NULL: there is no inline stream. */
	int (*launch_inline)(struct device *device, const struct device_kernel *kernel,
		const struct device_args *args);
	int (*copy)(struct device_stream *stream, void *to, const void *from, uint64_t bytes);
	int (*fill)(struct device_stream *stream, void *data, uint8_t byte, uint64_t bytes);
	int (*signal)(struct device_stream *stream, const struct device_args *args);
	/*
	 * For tests: gives the stream a kernel that writes where it must not. NULL: the driver asks
	 * for FAULT_WORK itself.
	 */
	int (*spoil)(struct device_stream *stream);

	/* NULL: no kernel is. */
	bool (*records_badly)(struct device *device, const struct device_kernel *kernel);
	int (*capture_begin)(struct device_stream *stream);
	int (*capture_end)(struct device_stream *stream, struct device_graph **ret_graph);
	void (*graph_destroy)(struct device_graph *graph);
	int (*exec_create)(struct device *device, const struct device_graph *graph,
		struct device_exec **ret_exec);
	int (*exec_upload)(struct device_exec *exec, struct device_stream *stream);
	int (*exec_launch)(struct device_exec *exec, struct device_stream *stream,
		const struct device_args *args);
	void (*exec_destroy)(struct device_exec *exec);
};

extern const struct device_driver device_cpu_driver;

#endif
