/* SPDX-License-Identifier: MIT */
/* .npy files: tricky headers, files that lie about their length, conversions, round trips. */
#include "tests/harness.h"
#include "tools/dtype.h"
#include "tools/npy.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char why[256];

/* A file image: prefix of this version, the dict, a newline. Returns its length. */
static size_t image(uint8_t *buffer, uint8_t major, const char *dict)
{
	size_t prefix = major == 1 ? 10 : 12, n = strlen(dict);

	memcpy(buffer, "\x93NUMPY", 6);
	buffer[6] = major;
	buffer[7] = 0;
	memset(buffer + 8, 0, 4);
	buffer[8] = (uint8_t)(n + 1);
	buffer[9] = (uint8_t)((n + 1) >> 8);
	memcpy(buffer + prefix, dict, n);
	buffer[prefix + n] = '\n';
	return prefix + n + 1;
}

/* Parses a copy of exactly this size on the heap, so that a sanitizer sees any step outside. */
static int parse(const uint8_t *data, size_t bytes, struct npy *npy)
{
	uint8_t *copy = malloc(bytes + (bytes == 0));

	memcpy(copy, data, bytes);
	snprintf(why, sizeof(why), "(none)");
	int r = npy_parse(copy, bytes, npy, why, sizeof(why));
	free(copy);
	return r;
}

static const struct {
	const char *dict;
	uint32_t dtype, rank;
	uint64_t dims[GPUQ_MAX_RANK], data_bytes;
} good[] = {
	{"{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }", GPUQ_F32, 2, {3, 4}, 48},
	{"{'descr': '<f2', 'fortran_order': False, 'shape': (5,), }", GPUQ_F16, 1, {5}, 10},
	{"{'descr': '|i1', 'fortran_order': False, 'shape': (), }", GPUQ_I8, 0, {0}, 1},
	{"{'descr': '<u1', 'fortran_order': False, 'shape': (0,), }", GPUQ_U8, 1, {0}, 0},
	{"{'shape':(2,3,4),'fortran_order':False,'descr':'<i4'}", GPUQ_I32, 3, {2, 3, 4}, 96},
	{"{\"descr\": \"<i8\", \"fortran_order\": False, \"shape\": (1, 2,)}  ", GPUQ_I64, 2,
		{1, 2}, 16},
	{"{'descr': '<f4', 'fortran_order': True, 'shape': (7,), }", GPUQ_F32, 1, {7}, 28},
	{"{'descr': '<f4', 'fortran_order': True, 'shape': (), }", GPUQ_F32, 0, {0}, 4},
	{" { 'descr' : '<f4' , 'fortran_order' : False , 'shape' : ( 1 , 1 ) } ", GPUQ_F32, 2,
		{1, 1}, 4},
	{"{'descr': '<f4', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,2), }", GPUQ_F32, 8,
		{1, 1, 1, 1, 1, 1, 1, 2}, 8},
};
#define N_GOOD (sizeof(good) / sizeof(good[0]))

static void good_headers_are_read(void **state)
{
	uint8_t buffer[256];

	for (size_t i = 0; i < N_GOOD; i++) {
		for (uint8_t major = 1; major <= 3; major++) {
			size_t n = image(buffer, major, good[i].dict);
			struct npy npy;

			if (parse(buffer, n, &npy) < 0)
				fail_msg("%s: %s", good[i].dict, why);
			assert_int_equal(npy.dtype, good[i].dtype);
			assert_int_equal(npy.rank, good[i].rank);
			assert_memory_equal(npy.dims, good[i].dims, sizeof(npy.dims));
			assert_int_equal(npy.data_bytes, good[i].data_bytes);
			assert_int_equal(npy.data_offset, n);
		}
	}
}

static const struct {
	const char *dict, *reason; /* a part of it */
} bad[] = {
	{"{'descr': '<f4', 'fortran_order': True, 'shape': (3, 4), }", "Fortran order"},
	{"{'descr': '>f4', 'fortran_order': False, 'shape': (3, 4), }", "big-endian"},
	{"{'descr': '|O', 'fortran_order': False, 'shape': (3,), }", "Python objects"},
	{"{'descr': '<U8', 'fortran_order': False, 'shape': (3,), }", "unicode"},
	{"{'descr': '|S8', 'fortran_order': False, 'shape': (3,), }", "byte strings"},
	{"{'descr': '|V8', 'fortran_order': False, 'shape': (3,), }", "structured"},
	{"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (3,), }", "structured"},
	{"{'descr': '<c8', 'fortran_order': False, 'shape': (3,), }", "complex"},
	{"{'descr': '<M8[ns]', 'fortran_order': False, 'shape': (3,), }", "dates"},
	{"{'descr': '<f8', 'fortran_order': False, 'shape': (3,), }", "no dtype '<f8'"},
	{"{'descr': '|b1', 'fortran_order': False, 'shape': (3,), }", "no dtype '|b1'"},
	{"{'descr': '=f4', 'fortran_order': False, 'shape': (3,), }", "byte order"},
	{"{'descr': '|f4', 'fortran_order': False, 'shape': (3,), }", "byte order"},
	{"{'descr': 'f4', 'fortran_order': False, 'shape': (3,), }", "byte order"},
	{"{'descr': '', 'fortran_order': False, 'shape': (3,), }", "no dtype"},
	{"{'descr': '<f4444444444444444', 'fortran_order': False, 'shape': (3,), }", "no dtype"},
	{"{'descr': 4, 'fortran_order': False, 'shape': (3,), }", "string"},
	{"{'descr': '<f4, 'fortran_order': False, 'shape': (3,), }", "no dtype"},
	{"{'descr': '<f4', 'fortran_order': 0, 'shape': (3,), }", "neither True nor False"},
	{"{'descr': '<f4', 'fortran_order': False, 'shape': (3), }", "not a tuple"},
	{"{'descr': '<f4', 'fortran_order': False, 'shape': 3, }", "not a tuple"},
	{"{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }", "whole numbers"},
	{"{'descr': '<f4', 'fortran_order': False, 'shape': (3 4), }", "whole numbers"},
	{"{'descr': '<f4', 'fortran_order': False, 'shape': (,), }", "whole numbers"},
	{"{'descr': '<f4', 'fortran_order': False, 'shape': (1.5,), }", "whole numbers"},
	{"{'descr': '<f4', 'fortran_order': False, 'shape': (3,", "whole numbers"},
	{"{'descr': '<f4', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,1), }", "more than 8"},
	{"{'descr': '<f4', 'fortran_order': False, 'shape': (18446744073709551616,), }", "64 bits"},
	{"{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296), }",
		"overflows"},
	{"{'descr': '<f4', 'fortran_order': False, 'shape': (0, 9223372036854775807), }",
		"overflows"},
	{"{'descr': '<f4', 'fortran_order': False, }", "lacks 'shape'"},
	{"{'shape': (3,), 'fortran_order': False, }", "lacks 'descr'"},
	{"{'descr': '<f4', 'shape': (3,), }", "lacks 'fortran_order'"},
	{"{}", "lacks 'descr'"},
	{"", "not a dict"},
	{"[]", "not a dict"},
	{"{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (3,), }", "twice"},
	{"{'descr': '<f4', 'fortran_order': False, 'shape': (3,), 'x': 1}", "unknown key 'x'"},
	{"{'descr': '<f4', 'fortran_order': False, 'shape': (3,), } {", "goes on"},
	{"{'descr': '<f4' 'fortran_order': False, 'shape': (3,), }", "does not end"},
	{"{'descr' '<f4', 'fortran_order': False, 'shape': (3,), }", "no ':'"},
	{"{'des\\x63r': '<f4', 'fortran_order': False, 'shape': (3,), }", "escape"},
	{"{'descr': '<f4', 'fortran_order': False, 'shape': (3,), '\xc3\xa9': 1}", "ASCII"},
	{"{'descr': '<f4', 'fortran_order': False, 'shape': (3,), \r}", "ASCII"},
	{"{'descr': '<f4', 'fortran_order': False, 'shape': (3,), ", "does not end"},
	{"{,}", "string"},
};

static void bad_headers_are_refused_with_the_reason(void **state)
{
	uint8_t buffer[512];

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		size_t n = image(buffer, 1, bad[i].dict);
		struct npy npy;

		if (parse(buffer, n, &npy) != -EINVAL)
			fail_msg("accepted: %s", bad[i].dict);
		if (strstr(why, bad[i].reason) == NULL)
			fail_msg("%s: '%s' does not say '%s'", bad[i].dict, why, bad[i].reason);
	}
}

/* Every proper prefix of a good file is refused, whatever it cuts. */
static void cut_headers_are_refused(void **state)
{
	uint8_t buffer[256];
	struct npy npy;

	for (uint8_t major = 1; major <= 3; major++) {
		size_t n = image(buffer, major, good[0].dict);

		for (size_t cut = 0; cut < n; cut++)
			assert_int_equal(parse(buffer, cut, &npy), -EINVAL);
		assert_int_equal(parse(buffer, n, &npy), 0);
	}
}

static void bad_prefixes_are_refused(void **state)
{
	uint8_t buffer[256];
	struct npy npy;
	size_t n = image(buffer, 2, good[0].dict);

	buffer[10] = 1; /* 65,536 bytes and more */
	assert_int_equal(parse(buffer, n, &npy), -EINVAL);
	assert_non_null(strstr(why, "the limit is"));
	image(buffer, 1, good[0].dict);
	buffer[6] = 4;
	assert_int_equal(parse(buffer, n, &npy), -EINVAL);
	assert_non_null(strstr(why, "version 4.0"));
	n = image(buffer, 1, good[0].dict);
	buffer[n - 1] = ' ';
	assert_int_equal(parse(buffer, n, &npy), -EINVAL);
	assert_non_null(strstr(why, "newline"));
	memcpy(buffer, "PK\3\4....", 8);
	assert_int_equal(parse(buffer, n, &npy), -EINVAL);
	assert_non_null(strstr(why, ".npz"));
}

/* One byte of a good header changed at a time: accepted or refused, never outside the buffer. */
static void changed_bytes_are_survived(void **state)
{
	uint8_t buffer[256];
	size_t n = image(buffer, 1, good[0].dict);

	for (size_t i = 0; i < n; i++) {
		uint8_t kept = buffer[i];

		for (int v = 0; v < 256; v++) {
			struct npy npy = {.rank = 99};

			buffer[i] = (uint8_t)v;
			if (parse(buffer, n, &npy) == 0)
				assert_true(npy.rank <= GPUQ_MAX_RANK && npy.dtype != 0);
			else
				assert_int_equal(npy.rank, 99);
		}
		buffer[i] = kept;
	}
}

static const char *path_of(const char *name)
{
	static char path[128];

	snprintf(path, sizeof(path), "%s/%s", harness_tmpdir(), name);
	return path;
}

static void lengths_are_checked(void **state)
{
	uint8_t buffer[256] = {0};
	size_t n = image(buffer, 1, good[1].dict); /* 10 bytes of elements */
	struct npy npy;

	for (size_t extra = 0; extra <= 12; extra++) {
		FILE *f = fopen(path_of("length.npy"), "wb");
		assert_int_equal(fwrite(buffer, 1, n + extra, f), n + extra);
		fclose(f);
		int fd = npy_open(path_of("length.npy"), &npy, why, sizeof(why));
		if (extra == 10) {
			assert_true(fd >= 0);
			close(fd);
			continue;
		}
		assert_int_equal(fd, -EINVAL);
		assert_non_null(strstr(why, extra < 10 ? "truncated" : "follow the last element"));
	}
}

static void files_that_are_none_are_refused(void **state)
{
	struct npy npy;

	assert_int_equal(npy_open(path_of("absent.npy"), &npy, why, sizeof(why)), -ENOENT);
	assert_int_equal(npy_open(harness_tmpdir(), &npy, why, sizeof(why)), -EINVAL);
	assert_int_equal(mkfifo(path_of("fifo.npy"), 0600), 0);
	assert_int_equal(npy_open(path_of("fifo.npy"), &npy, why, sizeof(why)), -EINVAL);
	assert_string_equal(why, "not a regular file");
}

static void read_back(const char *path, uint32_t dtype, void *data, struct npy *npy)
{
	int fd = npy_open(path, npy, why, sizeof(why));

	assert_true(fd >= 0);
	assert_int_equal(npy_read(fd, npy, dtype, data, why, sizeof(why)), 0);
	close(fd);
}

static size_t slurp(const char *path, uint8_t *buffer, size_t size)
{
	FILE *f = fopen(path, "rb");

	assert_non_null(f);
	size_t n = fread(buffer, 1, size, f);
	fclose(f);
	return n;
}

static void round_trips_keep_every_byte(void **state)
{
	static const uint32_t dtypes[] = {GPUQ_F32, GPUQ_F16, GPUQ_I8, GPUQ_U8, GPUQ_I32, GPUQ_I64};
	const uint64_t dims[GPUQ_MAX_RANK] = {2, 3, 1, 2, 1, 1, 1, 1};
	uint8_t data[12 * 8], back[sizeof(data)], first[1024], second[1024];
	struct npy npy;

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 37 + 11);
	for (size_t i = 0; i < sizeof(dtypes) / sizeof(dtypes[0]); i++) {
		for (uint32_t rank = 0; rank <= GPUQ_MAX_RANK; rank++) {
			const char *path = path_of("round.npy");

			assert_int_equal(
				npy_write(path, dtypes[i], rank, dims, data, why, sizeof(why)), 0);
			read_back(path, dtypes[i], back, &npy);
			assert_int_equal(npy.dtype, dtypes[i]);
			assert_int_equal(npy.rank, rank);
			assert_memory_equal(npy.dims, dims, rank * sizeof(*dims));
			assert_memory_equal(back, data, npy.data_bytes);
			assert_int_equal(npy.data_offset % 64, 0);
			size_t n = slurp(path, first, sizeof(first));
			assert_int_equal(npy_write(path, npy.dtype, npy.rank, npy.dims, back, why,
						 sizeof(why)),
				0);
			assert_int_equal(slurp(path, second, sizeof(second)), n);
			assert_memory_equal(first, second, n);
		}
	}
}

static void f32_becomes_bf16_and_comes_back(void **state)
{
	const uint64_t dims[1] = {6};
	const float data[6] = {1.0f, -2.5f, 0.0f, 3.0e38f, 1.0f + 1.0f / 512, -INFINITY};
	const float rounded[6] = {1.0f, -2.5f, 0.0f, 3.0e38f, 1.0f, -INFINITY};
	uint16_t bits[6];
	float back[6];
	struct npy npy;

	assert_int_equal(npy_write(path_of("f.npy"), GPUQ_F32, 1, dims, data, why, sizeof(why)), 0);
	read_back(path_of("f.npy"), GPUQ_BF16, bits, &npy);
	assert_int_equal(
		npy_write(path_of("b.npy"), GPUQ_BF16, 1, dims, bits, why, sizeof(why)), 0);
	read_back(path_of("b.npy"), GPUQ_F32, back, &npy);
	for (int i = 0; i < 6; i++) {
		if (i == 3)
			assert_true(fabsf(back[i] / rounded[i] - 1) < 1.0f / 256);
		else
			assert_true(back[i] == rounded[i]);
	}
	read_back(path_of("f.npy"), GPUQ_F16, bits, &npy);
	assert_int_equal(bits[0], 0x3c00);
	assert_int_equal(bits[3], 0x7c00);
	assert_int_equal(bits[5], 0xfc00);
}

/* Every f16 survives f32 and back; halfway values go to even. */
static void f16_conversions_are_exact(void **state)
{
	for (uint32_t h = 0; h <= 0xffff; h++) {
		float f = f32_from_f16((uint16_t)h);

		if (isnan(f))
			assert_true(isnan(f32_from_f16(f16_from_f32(f))));
		else
			assert_int_equal(f16_from_f32(f), h);
	}
	assert_int_equal(f16_from_f32(1.0f + 1.0f / 2048), 0x3c00);
	assert_int_equal(f16_from_f32(1.0f + 3.0f / 2048), 0x3c02);
	assert_int_equal(f16_from_f32(65519.996f), 0x7bff);
	assert_int_equal(f16_from_f32(65520.0f), 0x7c00);
	assert_int_equal(f16_from_f32(ldexpf(1, -25)), 0);
	assert_int_equal(f16_from_f32(nextafterf(ldexpf(1, -25), 1)), 1);
	assert_int_equal(f16_from_f32(ldexpf(3, -25)), 2);
	assert_int_equal(bf16_from_f32(NAN) & 0x7fc0, 0x7fc0);
	assert_int_equal(bf16_from_f32(3.4028235e38f), 0x7f80);
}

static void unwritable_paths_are_refused(void **state)
{
	const uint64_t dims[1] = {0};

	/* Only a file is replaced: not a folder, nor a device. */
	assert_int_equal(
		npy_write(harness_tmpdir(), GPUQ_F32, 1, dims, NULL, why, sizeof(why)), -EINVAL);
	assert_non_null(strstr(why, "regular file"));
	assert_int_equal(
		npy_write(path_of("no/such.npy"), GPUQ_F32, 1, dims, NULL, why, sizeof(why)),
		-ENOENT);
	assert_int_equal(
		npy_write(path_of("empty.npy"), GPUQ_F32, 1, dims, NULL, why, sizeof(why)), 0);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(good_headers_are_read),
		HARNESS_TEST(bad_headers_are_refused_with_the_reason),
		HARNESS_TEST(cut_headers_are_refused),
		HARNESS_TEST(bad_prefixes_are_refused),
		HARNESS_TEST(changed_bytes_are_survived),
		HARNESS_TEST(lengths_are_checked),
		HARNESS_TEST(files_that_are_none_are_refused),
		HARNESS_TEST(round_trips_keep_every_byte),
		HARNESS_TEST(f32_becomes_bf16_and_comes_back),
		HARNESS_TEST(f16_conversions_are_exact),
		HARNESS_TEST(unwritable_paths_are_refused),
	};

	return harness_run("tools-npy", tests, sizeof(tests) / sizeof(tests[0]));
}
