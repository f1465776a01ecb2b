/* SPDX-License-Identifier: MIT */
/* test-open.c: finding and opening devices, and what is said about those that cannot be used. */
#include "device/device.h"
#include "device/fault.h"
#include "tests/harness.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LISTED 16u

static int open_kind(const char *kind, struct device **ret_device, char why[192])
{
	struct device_options options = {.kind = kind, .workers = 1, .wake_fd = -1};

	return device_open(&options, ret_device, why);
}

static void test_cpu(void **state)
{
	struct device_info info;
	struct device *device;

	assert_int_equal(open_kind("cpu", &device, NULL), 0);
	device_info(device, &info);
	assert_string_equal(info.kind, "cpu");
	assert_non_null(strstr(info.name, ", 1 worker"));
	assert_string_equal(info.uuid, "");
	assert_int_equal(info.workers, 1);
	assert_true(info.total_bytes > 0 && info.free_bytes <= info.total_bytes);
	assert_int_equal(device_check(device), 0);
	device_close(device);
	device_close(NULL);
}

static void test_auto(void **state)
{
	struct device_info info;
	struct device *device;

	assert_int_equal(open_kind("auto", &device, NULL), 0);
	device_info(device, &info);
	if (strcmp(info.kind, "cuda") == 0)
		harness_keep_fds();
	assert_true(strcmp(info.kind, "cpu") == 0 || strcmp(info.kind, "cuda") == 0);
	device_close(device);
}

static void test_no_kinds(void **state)
{
	static const char *const kinds[] = {
		"", "gpu", "cpu0", "cud", "cudax", "cuda:", "cuda:x", "cuda:1x", "cuda:-1", "CPU"};
	struct device *const untouched = (struct device *)&kinds, *device = untouched;

	for (uint32_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		char why[192] = "";

		assert_int_equal(open_kind(kinds[i], &device, why), -EINVAL);
		assert_true(strlen(why) > 10);
		assert_int_equal(open_kind(kinds[i], &device, NULL), -EINVAL);
	}
	assert_int_equal(open_kind(NULL, &device, NULL), -EINVAL);
	assert_ptr_equal(device, untouched);
}

static void test_list(void **state)
{
	struct device_present devices[LISTED];
	uint32_t n = device_list(devices, LISTED);

	assert_in_range(n, 2, LISTED);
	assert_string_equal(devices[0].kind, "cpu");
	assert_int_equal(devices[0].status, 0);
	assert_true(strlen(devices[0].name) > 0);
	for (uint32_t i = 1; i < n; i++) {
		struct device *device;

		assert_int_equal(strncmp(devices[i].kind, "cuda", 4), 0);
		if (devices[i].status == 0) {
			assert_int_equal(open_kind(devices[i].kind, &device, NULL), 0);
			device_close(device);
		} else {
			assert_int_equal(devices[i].status, -GPUQ_ENODEV);
			assert_true(strlen(devices[i].why) > 10);
			print_message("%s: %s\n", devices[i].kind, devices[i].why);
		}
	}
	/* A driver keeps some. */
	if (devices[1].status == 0)
		harness_keep_fds();
	assert_int_equal(device_list(devices, 1), 1);
}

/* What is said of a module at this path. */
static void expect_no_module(const char *path, const char *says)
{
	struct device_present devices[LISTED];
	struct device *device;
	char why[192];

	setenv("GPUQ_CUDA_MODULE", path, 1);
	assert_int_equal(open_kind("cuda", &device, why), -GPUQ_ENODEV);
	if (strstr(why, says) == NULL)
		fail_msg("\"%s\" does not say \"%s\"", why, says);
	assert_int_equal(device_list(devices, LISTED), 2);
	assert_string_equal(devices[1].kind, "cuda");
	assert_string_equal(devices[1].why, why);
	assert_int_equal(open_kind("auto", &device, why), 0);
	assert_non_null(strstr(why, says));
	device_close(device);
	assert_int_equal(open_kind("cpu", &device, why), 0);
	assert_string_equal(why, "");
	device_close(device);
}

static void test_module_missing(void **state)
{
	expect_no_module("/nowhere/module.so", "is missing (/nowhere/module.so)");
}

static void test_module_broken(void **state)
{
	char path[300];

	snprintf(path, sizeof(path), "%s/module.so", harness_tmpdir());
	FILE *f = fopen(path, "we");
	assert_non_null(f);
	fputs("no module\n", f);
	fclose(f);
	expect_no_module(path, "cannot be loaded");
}

static void test_module_foreign(void **state)
{
	expect_no_module(harness_program("tests/device/foreign.so"), "is no device module");
}

static void test_module_of_another_version(void **state)
{
	expect_no_module(harness_program("tests/device/version.so"), "has version 999");
}

/* --- The text of faults -------------------------------------------------------------------- */

static void test_faults_read(void **state)
{
	struct fault *fault;

	assert_int_equal(
		fault_create("launch:2=EIO,alloc:1+=ENOMEM,work:12=GPUQ_EDEVICE", &fault), 0);
	assert_int_equal(fault_check(fault, FAULT_LAUNCH), 0);
	assert_int_equal(fault_check(fault, FAULT_LAUNCH), -EIO);
	assert_int_equal(fault_check(fault, FAULT_LAUNCH), 0);
	for (uint32_t i = 0; i < 5; i++)
		assert_int_equal(fault_check(fault, FAULT_ALLOC), -ENOMEM);
	for (uint32_t i = 1; i < 12; i++)
		assert_int_equal(fault_check(fault, FAULT_WORK), 0);
	assert_int_equal(fault_check(fault, FAULT_WORK), -GPUQ_EDEVICE);
	fault_destroy(fault);
	assert_int_equal(fault_create("", &fault), 0);
	assert_null(fault);
	assert_int_equal(fault_check(NULL, FAULT_ALLOC), 0);
}

static void test_faults_not_read(void **state)
{
	static const char *const texts[] = {"launch", "launch:", "launch:1", "launch:1=", ",",
		"launch:0=EIO", "launch:-1=EIO", "launch:x=EIO", "launch:1=EWHAT", "lunch:1=EIO",
		"launch:1=EIO,", "launch:1=EIO;alloc:1=EIO", "launch:1+2=EIO", ":1=EIO"};
	struct device_options options = {.kind = "cpu", .workers = 1, .wake_fd = -1};
	struct device *device;
	struct fault *fault;
	char why[192];

	for (uint32_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		assert_int_equal(fault_create(texts[i], &fault), -EINVAL);
		options.faults = texts[i];
		assert_int_equal(device_open(&options, &device, why), -EINVAL);
	}
	options.faults = "open:1=ENOMEM";
	assert_int_equal(device_open(&options, &device, why), -ENOMEM);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_cpu),
		HARNESS_TEST(test_auto),
		HARNESS_TEST(test_no_kinds),
		HARNESS_TEST(test_list),
		HARNESS_TEST(test_module_missing),
		HARNESS_TEST(test_module_broken),
		HARNESS_TEST(test_module_foreign),
		HARNESS_TEST(test_module_of_another_version),
		HARNESS_TEST(test_faults_read),
		HARNESS_TEST(test_faults_not_read),
	};

	return harness_run("device-open", tests, sizeof(tests) / sizeof(tests[0]));
}
