/* SPDX-License-Identifier: MIT */
/* Safetensors: what is found and read, and with which words bad files are refused. */
#include "models/safetensors.h"
#include "tests/models/rig.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SINGLE "model.safetensors"
#define INDEX "model.safetensors.index.json"

static struct model_why why;

static void assert_says(const char *words)
{
	if (strstr(why.text, words) == NULL)
		fail_msg("\"%s\" does not say \"%s\"", why.text, words);
}

static void refused(int dir, int error, const char *words)
{
	struct safetensors *st = NULL;

	why.text[0] = '\0';
	assert_int_equal(safetensors_open(dir, &st, &why), error);
	assert_null(st);
	assert_says(words);
}

static struct safetensors *opened(int dir)
{
	struct safetensors *st;

	if (safetensors_open(dir, &st, &why) < 0)
		fail_msg("%s", why.text);
	return st;
}

static const char two[] = "{\"__metadata__\":{\"format\":\"pt\"},"
			  "\"b\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]},"
			  "\"a\":{\"dtype\":\"BF16\",\"shape\":[5],\"data_offsets\":[24,34]},"
			  "\"z\":{\"dtype\":\"F64\",\"shape\":[0,7],\"data_offsets\":[34,34]}}   ";

static void tensors_are_found_and_read(void **state)
{
	int dir = rig_folder();
	uint8_t a[10], b[8];

	rig_safetensors(dir, SINGLE, two, 34);
	struct safetensors *st = opened(dir);
	assert_int_equal(safetensors_count(st), 3);
	assert_string_equal(safetensors_at(st, 0)->name, "a");
	const struct safetensors_tensor *t = safetensors_find(st, "b");
	assert_int_equal(t->dtype, GPUQ_F32);
	assert_int_equal(t->rank, 2);
	assert_int_equal(t->dims[0], 2);
	assert_int_equal(t->dims[1], 3);
	assert_int_equal(safetensors_find(st, "z")->dtype, 0);
	assert_string_equal(safetensors_find(st, "z")->dtype_name, "F64");
	assert_null(safetensors_find(st, "c"));

	struct safetensors_read reads[] = {
		{safetensors_find(st, "a"), 0, 10, a},
		{safetensors_find(st, "z"), 0, 0, NULL},
		{t, 16, 8, b},
	};
	assert_int_equal(safetensors_read(st, reads, 3, NULL, &why), 0);
	for (int i = 0; i < 10; i++)
		assert_int_equal(a[i], 24 + i);
	for (int i = 0; i < 8; i++)
		assert_int_equal(b[i], 16 + i);
	safetensors_close(st);
	safetensors_close(NULL);
	close(dir);
}

#define TENSOR(name, dtype, shape, begin, end)                                               \
	"\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" begin \
	"," end "]}"

static void bad_headers_are_refused(void **state)
{
	static const struct {
		const char *header;
		const char *words;
	} bad[] = {
		{"", "model.safetensors: "},
		{"[]", "not a JSON object"},
		{"{}", "after 0 bytes of data"},
		{"{\"a\":[[[[1]]]]}", "nested deeper than 3"},
		{"{\"a\":1}", "a is no object"},
		{"{\"\":{}}", "name is empty"},
		{"{\"__metadata__\":{\"a\":1}}", "__metadata__"},
		{"{" TENSOR("a", "F31", "[4]", "0", "16") "}", "a has an unknown dtype"},
		{"{" TENSOR("a", "F32", "[-4]", "0", "16") "}", "shape"},
		{"{" TENSOR("a", "F32", "[4.0]", "0", "16") "}", "shape"},
		{"{" TENSOR("a", "F32", "\"4\"", "0", "16") "}", "shape"},
		{"{" TENSOR("a", "F32", "[4,1,1,1,1,1,1,1,1]", "0", "16") "}", "shape"},
		{"{" TENSOR("a", "F32", "[4294967296,4294967296]", "0", "16") "}", "shape"},
		{"{" TENSOR("a", "F32", "[4]", "0", "12") "}", "length of its shape"},
		{"{" TENSOR("a", "F32", "[4]", "4", "20") "}", "outside the file"},
		{"{" TENSOR("a", "F32", "[4]", "16", "0") "}", "outside the file"},
		{"{" TENSOR("a", "F32", "[4]", "-16", "0") "}", "outside the file"},
		{"{" TENSOR("a", "F32", "[4]", "0", "99999999999999999999") "}", "too big"},
		{"{" TENSOR("a", "F32", "[3]", "0", "12") "}", "end after 12 bytes"},
		{"{" TENSOR("a", "F32", "[3]", "4", "16") "}", "gap before a"},
		{"{" TENSOR("a", "F32", "[3]", "0", "12") "," TENSOR(
			 "b", "F32", "[2]", "8", "16") "}",
			"b overlaps a"},
		{"{" TENSOR("a", "F32", "[2]", "0", "8") "," TENSOR(
			 "a", "F32", "[2]", "8", "16") "}",
			"duplicate"},
		{"{" TENSOR("a\\u0000b", "F32", "[4]", "0", "16") "}", "model.safetensors: "},
		{"{" TENSOR("a", "F32", "[4]", "0", "16") "} {}", "model.safetensors: "},
		{"{" TENSOR("a\\n\\u001b[1m", "F31", "[4]", "0", "16") "}", "a??[1m has"},
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		int dir = rig_folder();

		rig_safetensors(dir, SINGLE, bad[i].header, 16);
		refused(dir, -EBADMSG, bad[i].words);
		close(dir);
	}
}

static void a_model_has_tensors(void **state)
{
	int dir = rig_folder();

	rig_safetensors(dir, SINGLE, "{\"__metadata__\":{}}", 0);
	refused(dir, -EBADMSG, "no tensors");
	close(dir);
}

static void lengths_are_not_believed(void **state)
{
	static const struct {
		uint64_t header_bytes;
		size_t file_bytes;
		int error;
	} bad[] = {
		{2, 3, -EBADMSG},
		{100, 20, -EBADMSG},
		{13, 20, -EBADMSG},
		{UINT64_MAX, 20, -EBADMSG},
		{UINT64_MAX - 7, 20, -EBADMSG},
		{0, 8, -EBADMSG},
	};
	uint8_t file[20] = {0};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		int dir = rig_folder();

		memcpy(file, &bad[i].header_bytes, 8);
		rig_write(dir, SINGLE, file, bad[i].file_bytes);
		refused(dir, bad[i].error, SINGLE);
		close(dir);
	}
	/* A header that fits the file and not the limit. */
	int dir = rig_folder();
	uint64_t bytes = SAFETENSORS_MAX_HEADER_BYTES + 1;
	rig_write(dir, SINGLE, &bytes, 8);
	int fd = openat(dir, SINGLE, O_WRONLY | O_CLOEXEC);
	assert_int_equal(ftruncate(fd, (off_t)(8 + bytes)), 0);
	close(fd);
	refused(dir, -EFBIG, "is the limit");
	close(dir);
}

static void only_files_of_the_folder(void **state)
{
	int dir = rig_folder();

	refused(dir, -ENOENT, "neither");
	assert_int_equal(symlinkat("/etc/passwd", dir, SINGLE), 0);
	refused(dir, -ELOOP, "hf download --local-dir");
	unlinkat(dir, SINGLE, 0);
	assert_int_equal(mkfifoat(dir, SINGLE, 0600), 0);
	refused(dir, -EINVAL, "not a regular file");
	unlinkat(dir, SINGLE, 0);
	assert_int_equal(mkdirat(dir, SINGLE, 0700), 0);
	refused(dir, -EINVAL, "not a regular file");
	close(dir);
}

#define SHARD1 "{" TENSOR("a", "I8", "[4]", "0", "4") "}"
#define SHARD2 "{" TENSOR("b", "U8", "[3]", "0", "3") "," TENSOR("c", "I8", "[1]", "3", "4") "}"

static int sharded(const char *index)
{
	int dir = rig_folder();

	rig_safetensors(dir, "1.safetensors", SHARD1, 4);
	rig_safetensors(dir, "2.safetensors", SHARD2, 4);
	rig_write(dir, INDEX, index, strlen(index));
	return dir;
}

static void shards_are_one_model(void **state)
{
	int dir = sharded(
		"{\"metadata\":{\"total_size\":8},\"weight_map\":{"
		"\"c\":\"2.safetensors\",\"a\":\"1.safetensors\",\"b\":\"2.safetensors\"}}");
	struct safetensors *st = opened(dir);
	uint8_t a[4], c;

	assert_int_equal(safetensors_count(st), 3);
	struct safetensors_read reads[] = {
		{safetensors_find(st, "a"), 0, 4, a}, {safetensors_find(st, "c"), 0, 1, &c}};
	assert_int_equal(safetensors_read(st, reads, 2, NULL, &why), 0);
	assert_memory_equal(a, "\0\1\2\3", 4);
	assert_int_equal(c, 3);
	safetensors_close(st);
	close(dir);
}

static void bad_indexes_are_refused(void **state)
{
	static const struct {
		const char *index;
		int error;
		const char *words;
	} bad[] = {
		{"{}", -EBADMSG, "weight_map is not an object"},
		{"{\"weight_map\":{}}", -EFBIG, "0 files"},
		{"{\"weight_map\":{\"a\":1}}", -EBADMSG, "not a string"},
		{"{\"weight_map\":{\"a\":\"../x\"}}", -EINVAL, "not the name of a file"},
		{"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", -EINVAL, "not the name of a file"},
		{"{\"weight_map\":{\"a\":\"..\"}}", -EINVAL, "not the name of a file"},
		{"{\"weight_map\":{\"a\":\"\"}}", -EINVAL, "not the name of a file"},
		{"{\"weight_map\":{\"a\":\"3.safetensors\"}}", -ENOENT, "3.safetensors"},
		{"{\"weight_map\":{\"a\":\"1.safetensors\",\"b\":\"1.safetensors\"}}", -EBADMSG,
			"names 2 tensors; the files have 1"},
		{"{\"weight_map\":{\"b\":\"2.safetensors\"}}", -EBADMSG, "c is in 2.safetensors"},
		{"{\"weight_map\":{\"a\":\"1.safetensors\",\"a\":\"2.safetensors\"}}", -EBADMSG,
			"duplicate"},
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		int dir = sharded(bad[i].index);

		refused(dir, bad[i].error, bad[i].words);
		close(dir);
	}
	int dir = sharded("{\"weight_map\":{\"a\":\"1.safetensors\",\"b\":\"2.safetensors\","
			  "\"c\":\"2.safetensors\"}}");
	rig_safetensors(dir, "2.safetensors", SHARD1, 4);
	refused(dir, -EBADMSG, "a is in 2.safetensors, which");
	close(dir);
}

/* --- Large files ---------------------------------------------------------------------------- */

#define LARGE ((size_t)50 << 20)

static struct safetensors *open_large(int *ret_dir)
{
	char header[200];

	*ret_dir = rig_folder();
	snprintf(header, sizeof(header), "{" TENSOR("a", "U8", "[%zu]", "0", "%zu") "}", LARGE,
		LARGE);
	rig_safetensors(*ret_dir, SINGLE, header, LARGE);
	return opened(*ret_dir);
}

struct progress {
	uint64_t calls, last, stop_at;
};

static bool on_progress(void *context, uint64_t done, uint64_t total)
{
	struct progress *p = context;

	assert_true(done >= p->last && done <= total && total == LARGE);
	p->calls++;
	p->last = done;
	return done < p->stop_at;
}

static void large_tensors_are_read_whole(void **state)
{
	int dir;
	struct safetensors *st = open_large(&dir);
	struct progress progress = {.stop_at = UINT64_MAX};
	struct model_watch watch = {on_progress, &progress};
	void *data = malloc(LARGE);
	struct safetensors_read read = {safetensors_at(st, 0), 0, LARGE, data};

	assert_non_null(data);
	assert_int_equal(safetensors_read(st, &read, 1, &watch, &why), 0);
	assert_int_equal(progress.last, LARGE);
	assert_true(progress.calls > 1);
	for (size_t i = 0; i < LARGE; i++) {
		if (((uint8_t *)data)[i] != (uint8_t)i)
			fail_msg("byte %zu is wrong", i);
	}

	progress = (struct progress){.stop_at = 1};
	assert_int_equal(safetensors_read(st, &read, 1, &watch, &why), -ECANCELED);
	assert_true(progress.calls == 1);
	free(data);
	safetensors_close(st);
	close(dir);
}

static void a_file_that_shrinks_is_noticed(void **state)
{
	int dir;
	struct safetensors *st = open_large(&dir);
	void *data = malloc(LARGE);
	struct safetensors_read read = {safetensors_at(st, 0), 0, LARGE, data};
	int fd = openat(dir, SINGLE, O_WRONLY | O_CLOEXEC);

	assert_int_equal(ftruncate(fd, LARGE - 1), 0);
	assert_int_equal(safetensors_read(st, &read, 1, NULL, &why), -EIO);
	assert_says("shorter");
	close(fd);
	free(data);
	safetensors_close(st);
	close(dir);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(tensors_are_found_and_read),
		HARNESS_TEST(bad_headers_are_refused),
		HARNESS_TEST(a_model_has_tensors),
		HARNESS_TEST(lengths_are_not_believed),
		HARNESS_TEST(only_files_of_the_folder),
		HARNESS_TEST(shards_are_one_model),
		HARNESS_TEST(bad_indexes_are_refused),
		HARNESS_TEST(large_tensors_are_read_whole),
		HARNESS_TEST(a_file_that_shrinks_is_noticed),
	};

	return harness_run("models-safetensors", tests, sizeof(tests) / sizeof(tests[0]));
}
