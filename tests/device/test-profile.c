/* SPDX-License-Identifier: MIT */
/* Ranges of the CUDA device for profilers, seen by one that the test brings. No GPU is needed. */
#include "tests/harness.h"

#include "device/cuda/profile.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

static void test_nobody_looks(void **state)
{
	unsetenv("NVTX_INJECTION64_PATH");
	profile_begin("before", "anything");
	profile_end();
	profile_open();
	assert_null(profile_domain);
	profile_begin("launch", "softmax");
	profile_end();
}

static void test_somebody_looks(void **state)
{
	const char *path = harness_program("tests/device/profiler.so");
	const char *seen;
	void *profiler;

	assert_int_equal(setenv("NVTX_INJECTION64_PATH", path, 1), 0);
	profile_begin("before", "anything");
	profile_end();
	profile_open();
	profile_open();
	profile_begin("capture", "softmax");
	profile_begin("register", NULL);
	profile_end();
	profile_end();
	profiler = dlopen(path, RTLD_NOW | RTLD_NOLOAD);
	assert_non_null(profiler);
	seen = dlsym(profiler, "profiler_seen");
	assert_non_null(seen);
	assert_string_equal(seen, "domain gpuq;(capture softmax;(register;););");
	dlclose(profiler);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_nobody_looks),
		HARNESS_TEST(test_somebody_looks),
	};

	return harness_run("profile", tests, sizeof(tests) / sizeof(tests[0]));
}
