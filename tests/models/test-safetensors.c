/* SPDX-License-Identifier: MIT */
/* Safetensors: what is found and read, and with which words bad files are refused. */
#include "models/safetensors.h"
#include "tests/models/rig.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
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

static uint64_t cached_pages(int fd, size_t bytes)
{
	const size_t pages = (bytes + 4095) / 4096;
	unsigned char *there = malloc(pages);
	void *map = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
	uint64_t n = 0;

	assert_non_null(there);
	assert_true(map != MAP_FAILED);
	assert_int_equal(mincore(map, bytes, there), 0);
	for (size_t i = 0; i < pages; i++)
		n += there[i] & 1;
	munmap(map, bytes);
	free(there);
	return n;
}

/* The page cache is to have nothing of the file; not every file system lets it go. */
static void forget(int dir, const char *name)
{
	int fd = openat(dir, name, O_RDONLY | O_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(fdatasync(fd), 0);
	(void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	close(fd);
}

/*
 * Whether this file, forgotten before, could be read past the page cache: the kernel tells what is
 * in it, and reads a page past it without putting it there.
 */
static bool can_be_direct(int dir, const char *name, size_t bytes)
{
	int fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_DIRECT);
	void *page = NULL;
	bool can;

	if (fd < 0)
		return false;
	assert_int_equal(posix_memalign(&page, 4096, 4096), 0);
	can = pread(fd, page, 4096, 0) == 4096 && cached_pages(fd, bytes) == 0;
	close(fd);
	fd = openat(dir, name, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	struct iovec byte = {page, 1};
	can = can && preadv2(fd, &byte, 1, 0, RWF_NOWAIT) < 0 && errno == EAGAIN;
	close(fd);
	free(page);
	return can;
}

static void read_large(const struct safetensors *st, void *data)
{
	struct progress progress = {.stop_at = UINT64_MAX};
	struct model_watch watch = {on_progress, &progress};
	struct safetensors_read read = {safetensors_at(st, 0), 0, LARGE, data};

	memset(data, 0xaa, LARGE);
	if (safetensors_read(st, &read, 1, &watch, &why) != 0)
		fail_msg("%s", why.text);
	assert_int_equal(progress.last, LARGE);
	assert_true(progress.calls > 1);
	for (size_t i = 0; i < LARGE; i++) {
		if (((uint8_t *)data)[i] != (uint8_t)i)
			fail_msg("byte %zu is wrong", i);
	}
}

static void cancel_large(const struct safetensors *st, void *data)
{
	struct progress progress = {.stop_at = 1};
	struct model_watch watch = {on_progress, &progress};
	struct safetensors_read read = {safetensors_at(st, 0), 0, LARGE, data};

	assert_int_equal(safetensors_read(st, &read, 1, &watch, &why), -ECANCELED);
	assert_true(progress.calls == 1);
}

static void large_tensors_are_read_whole(void **state)
{
	int dir;
	struct safetensors *st = open_large(&dir);
	void *data = malloc(LARGE);

	assert_non_null(data);
	read_large(st, data);
	cancel_large(st, data);
	forget(dir, SINGLE);
	cancel_large(st, data);
	forget(dir, SINGLE);
	read_large(st, data);
	free(data);
	safetensors_close(st);
	close(dir);
}

/* What is read once, and then is in the model's memory, does not push others out of the cache. */
static void the_page_cache_is_left_alone(void **state)
{
	int dir;
	struct safetensors *st = open_large(&dir);
	void *data = malloc(LARGE);

	assert_non_null(data);
	forget(dir, SINGLE);
	if (can_be_direct(dir, SINGLE, LARGE)) {
		forget(dir, SINGLE);
		read_large(st, data);
		int fd = openat(dir, SINGLE, O_RDONLY | O_CLOEXEC);
		const uint64_t cached = cached_pages(fd, LARGE);

		if (cached > LARGE / 4096 / 10)
			fail_msg("%llu pages are in the cache", (unsigned long long)cached);
		close(fd);
	} else {
		print_message("# not tried: the file is read through the page cache here\n");
	}
	free(data);
	safetensors_close(st);
	close(dir);
}

/* Tensors from 2 kB to 1.2 MB, hardly one of them aligned to anything. */
#define PIECES 60u

static uint64_t piece_at(uint64_t i)
{
	return i * i * 1777 + i / 10 * 1000003;
}

static struct safetensors *open_pieces(int *ret_dir)
{
	char *header = NULL;
	size_t bytes;
	FILE *f = open_memstream(&header, &bytes);

	assert_non_null(f);
	for (uint32_t i = 0; i < PIECES; i++)
		fprintf(f, "%c" TENSOR("%02u", "U8", "[%llu]", "%llu", "%llu"), i == 0 ? '{' : ',',
			i, (unsigned long long)(piece_at(i + 1) - piece_at(i)),
			(unsigned long long)piece_at(i), (unsigned long long)piece_at(i + 1));
	fprintf(f, "}");
	assert_int_equal(fclose(f), 0);
	*ret_dir = rig_folder();
	rig_safetensors(*ret_dir, SINGLE, header, piece_at(PIECES));
	free(header);
	return opened(*ret_dir);
}

/* In an order of its own, some of them only in part, some left out, a part of one again. */
static void read_pieces(const struct safetensors *st, struct safetensors_read *reads, uint8_t *data)
{
	const struct safetensors_tensor *last = safetensors_at(st, PIECES - 1);
	uint32_t n = 0;

	for (uint32_t k = 0; k < PIECES; k++) {
		const uint32_t i = k * 37 % PIECES;
		const struct safetensors_tensor *t = safetensors_at(st, i);
		const uint64_t skip = i % 7 == 3 ? t->bytes / 3 : 0;

		if (i % 11 != 5)
			reads[n++] = (struct safetensors_read){
				t, skip, t->bytes - skip - (i % 5 == 1 ? skip : 0), data};
		data += t->bytes + 1;
	}
	reads[n++] = (struct safetensors_read){last, last->bytes / 2, last->bytes / 4, data};
	if (safetensors_read(st, reads, n, NULL, &why) != 0)
		fail_msg("%s", why.text);
	for (uint32_t k = 0; k < n; k++) {
		const uint8_t *to = reads[k].to;
		const uint64_t first =
			piece_at((uint64_t)(reads[k].tensor - safetensors_at(st, 0))) +
			reads[k].skip_bytes;

		for (uint64_t j = 0; j < reads[k].bytes; j++) {
			if (to[j] != (uint8_t)(first + j))
				fail_msg("byte %llu of %s is wrong", (unsigned long long)j,
					reads[k].tensor->name);
		}
		if (to[reads[k].bytes] != 0xaa)
			fail_msg("%s is followed by something", reads[k].tensor->name);
	}
}

static void many_tensors_come_to_their_places(void **state)
{
	int dir;
	struct safetensors *st = open_pieces(&dir);
	struct safetensors_read *reads = calloc(PIECES + 1, sizeof(*reads));
	const size_t bytes = 2 * piece_at(PIECES);
	uint8_t *data = malloc(bytes);

	assert_non_null(reads);
	assert_non_null(data);
	for (int cold = 0; cold < 2; cold++) {
		memset(data, 0xaa, bytes);
		if (cold)
			forget(dir, SINGLE);
		read_pieces(st, reads, data);
	}
	free(data);
	free(reads);
	safetensors_close(st);
	close(dir);
}

static void a_file_that_shrinks_is_noticed(void **state)
{
	static const size_t left[] = {LARGE - 1, LARGE / 2, LARGE / 2 / 4096 * 4096, 10};
	int dir;
	struct safetensors *st = open_large(&dir);
	void *data = malloc(LARGE);
	struct safetensors_read read = {safetensors_at(st, 0), 0, LARGE, data};
	int fd = openat(dir, SINGLE, O_WRONLY | O_CLOEXEC);

	assert_non_null(data);
	for (size_t i = 0; i < sizeof(left) / sizeof(left[0]); i++) {
		assert_int_equal(ftruncate(fd, (off_t)left[i]), 0);
		for (int cold = 0; cold < 2; cold++) {
			if (cold)
				forget(dir, SINGLE);
			why.text[0] = '\0';
			assert_int_equal(safetensors_read(st, &read, 1, NULL, &why), -EIO);
			assert_says("shorter");
		}
	}
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
		HARNESS_TEST(the_page_cache_is_left_alone),
		HARNESS_TEST(many_tensors_come_to_their_places),
		HARNESS_TEST(a_file_that_shrinks_is_noticed),
	};

	return harness_run("models-safetensors", tests, sizeof(tests) / sizeof(tests[0]));
}
