/* SPDX-License-Identifier: MIT */
/*
 * gpu.h: what the programs of tests/gpu share. They are CUDA programs on their own, without gpuq:
 * what they print says what the driver does, and gpuq's own figures are held against it.
 */
#ifndef GPUQ_TESTS_GPU_H
#define GPUQ_TESTS_GPU_H

#include <cuda.h>
#include <cuda_runtime.h>

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define CHECK(call) check((int)(call), #call, __FILE__, __LINE__)

static inline void check(int error, const char *call, const char *file, int line)
{
	if (error == 0)
		return;
	fprintf(stderr, "%s:%d: %s: %s (%d)\n", file, line, call,
		cudaGetErrorString((cudaError_t)error), error);
	_exit(1);
}

/* The driver's own calls, found through the runtime: nothing here links with libcuda. */
static inline void *driver_entry(const char *name)
{
	void *entry = NULL;
	cudaDriverEntryPointQueryResult found;

	CHECK(cudaGetDriverEntryPointByVersion(name, &entry, 12000, cudaEnableDefault, &found));
	if (found != cudaDriverEntryPointSuccess) {
		fprintf(stderr, "this driver has no %s\n", name);
		_exit(1);
	}
	return entry;
}
#define DRIVER(f)                                                   \
	([] {                                                       \
		static auto entry = (decltype(&f))driver_entry(#f); \
		return entry;                                       \
	}())

static inline uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static inline void sleep_ns(uint64_t ns)
{
	struct timespec ts = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};

	nanosleep(&ts, NULL);
}

/* Exits with 77, the status of a test that cannot run here, when there is no usable GPU. */
static inline void need_gpu(void)
{
	int count = 0;
	cudaError_t error = cudaGetDeviceCount(&count);

	if (error == cudaSuccess && count > 0)
		return;
	fprintf(stderr, "skipped: no usable GPU: %s\n", cudaGetErrorString(error));
	exit(77);
}

static inline void print_machine(const char *prefix)
{
	cudaDeviceProp prop;
	int driver, runtime;
	char date[32];
	time_t t = time(NULL);

	CHECK(cudaGetDeviceProperties(&prop, 0));
	CHECK(cudaDriverGetVersion(&driver));
	CHECK(cudaRuntimeGetVersion(&runtime));
	strftime(date, sizeof(date), "%Y-%m-%d", gmtime(&t));
	printf("%s%s, compute capability %d.%d, CUDA driver %d.%d, runtime %d.%d, %ld CPUs, %s\n",
		prefix, prop.name, prop.major, prop.minor, driver / 1000, driver % 1000 / 10,
		runtime / 1000, runtime % 1000 / 10, sysconf(_SC_NPROCESSORS_ONLN), date);
}

#endif
