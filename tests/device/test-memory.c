/* SPDX-License-Identifier: MIT */
/* test-memory.c: memory of each kind, copies and fills, registered and exported memory. */
#include "tests/device/rig.h"
#include "tests/kernels/random.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096u

static void run_signal(struct rig *rig)
{
	const struct device_args args = rig_args(rig, 0);

	assert_int_equal(device_signal(rig->stream, &args), 0);
	rig_await(rig, 0, args.value);
}

static void test_kinds(void **state)
{
	static const uint64_t sizes[] = {1, 255, 4097, (1u << 20) + 1};
	struct rig rig;

	rig_open(&rig, NULL);
	for (uint32_t i = 0; i < 8; i++) {
		const enum device_memory kind = i % 2 == 0 ? DEVICE_PINNED : DEVICE_WORK;
		const uint64_t bytes = sizes[i / 2];
		void *data;

		assert_int_equal(device_alloc(rig.device, kind, bytes, &data), 0);
		assert_int_equal((uintptr_t)data % 256, 0);
		if (kind == DEVICE_PINNED)
			memset(data, 1, bytes);
		assert_int_equal(device_fill(rig.stream, data, 2, bytes), 0);
		run_signal(&rig);
		if (kind == DEVICE_PINNED)
			assert_int_equal(((char *)data)[bytes - 1], 2);
		device_free(rig.device, kind, data);
	}
	device_free(rig.device, DEVICE_PINNED, NULL);
	device_free(rig.device, DEVICE_WORK, NULL);
	rig_close(&rig);
}

/* Whether the memory at this address is advised to be huge pages: "hg" among its VmFlags. */
static bool is_advised(const void *data)
{
	FILE *f = fopen("/proc/self/smaps", "re");
	unsigned long begin, end;
	bool here = false, advised = false;
	char line[512];

	assert_non_null(f);
	while (fgets(line, sizeof(line), f) != NULL) {
		if (sscanf(line, "%lx-%lx ", &begin, &end) == 2)
			here = (uintptr_t)data >= begin && (uintptr_t)data < end;
		else if (here && strncmp(line, "VmFlags:", 8) == 0)
			advised = strstr(line, " hg") != NULL;
	}
	fclose(f);
	return advised;
}

/* Weights and caches: one fault and one entry of a TLB for each 2 MiB. */
static void test_large_memory_is_in_huge_pages(void **state)
{
	const bool have = access("/sys/kernel/mm/transparent_hugepage/enabled", F_OK) == 0;
	struct device_info info;
	struct rig rig;
	void *data;

	rig_open(&rig, NULL);
	device_info(rig.device, &info);
	assert_int_equal(device_alloc(rig.device, DEVICE_WORK, (40u << 20) + 1, &data), 0);
	if (strcmp(info.kind, "cpu") == 0) {
		assert_int_equal((uintptr_t)data % (2u << 20), 0);
		assert_int_equal(is_advised((char *)data + (40u << 20)), have);
		((char *)data)[40u << 20] = 1;
	}
	device_free(rig.device, DEVICE_WORK, data);
	rig_close(&rig);
}

static void test_too_much(void **state)
{
	void *const untouched = &state;
	void *data = untouched;
	struct rig rig;

	rig_open(&rig, NULL);
	assert_int_equal(device_alloc(rig.device, DEVICE_WORK, 0, &data), -EINVAL);
	assert_int_equal(device_alloc(rig.device, DEVICE_WORK, 1ull << 50, &data), -ENOMEM);
	assert_int_equal(device_alloc(rig.device, DEVICE_PINNED, 1ull << 50, &data), -ENOMEM);
	assert_int_equal(device_alloc(rig.device, DEVICE_WORK, UINT64_MAX, &data), -ENOMEM);
	assert_ptr_equal(data, untouched);
	rig_check_usable(&rig);
	rig_close(&rig);
}

/* Random pieces go to work memory and back; nothing beside them changes. */
static void test_copies(void **state)
{
	enum { BYTES = 3 << 20 };
	struct random rng = {1};
	char *from, *to, *work;
	struct rig rig;

	rig_open(&rig, NULL);
	assert_int_equal(device_alloc(rig.device, DEVICE_PINNED, BYTES, (void **)&from), 0);
	assert_int_equal(device_alloc(rig.device, DEVICE_PINNED, BYTES, (void **)&to), 0);
	assert_int_equal(device_alloc(rig.device, DEVICE_WORK, BYTES, (void **)&work), 0);
	for (uint32_t i = 0; i < BYTES; i++)
		from[i] = (char)(i * 7 + i / 251);
	for (uint32_t i = 0; i < 30; i++) {
		const uint64_t bytes = i == 0 ? BYTES : random_below(&rng, i < 20 ? 300 : BYTES);
		const uint64_t at = random_below(&rng, BYTES - bytes + 1);
		const uint64_t back = random_below(&rng, BYTES - bytes + 1);

		assert_int_equal(device_fill(rig.stream, to, 0x5a, BYTES), 0);
		assert_int_equal(device_fill(rig.stream, work, 0, BYTES), 0);
		assert_int_equal(device_copy(rig.stream, work + at, from + at, bytes), 0);
		assert_int_equal(device_copy(rig.stream, to + back, work + at, bytes), 0);
		run_signal(&rig);
		assert_memory_equal(to + back, from + at, bytes);
		assert_true(back == 0 || to[back - 1] == 0x5a);
		assert_true(back + bytes == BYTES || to[back + bytes] == 0x5a);
	}
	device_free(rig.device, DEVICE_PINNED, from);
	device_free(rig.device, DEVICE_PINNED, to);
	device_free(rig.device, DEVICE_WORK, work);
	rig_close(&rig);
}

/* Host memory is reached in place through the device's address of it. */
static void test_register(void **state)
{
	const uint64_t bytes = 8 * PAGE;
	char *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	void *at, *again = base;
	struct rig rig;

	assert_ptr_not_equal(base, MAP_FAILED);
	rig_open(&rig, NULL);
	for (uint32_t i = 0; i < 2; i++) {
		assert_int_equal(device_register(rig.device, base, 4 * PAGE, &at), 0);
		assert_int_equal(device_register(rig.device, base, 4 * PAGE, &again), -EEXIST);
		assert_int_equal(
			device_register(rig.device, base + 3 * PAGE, 4 * PAGE, &again), -EEXIST);
		assert_ptr_equal(again, base);
		strncpy(base, "in place", PAGE);
		assert_int_equal(device_copy(rig.stream, (char *)at + PAGE, at, PAGE), 0);
		assert_int_equal(device_fill(rig.stream, (char *)at + 4 * PAGE - 1, 9, 1), 0);
		run_signal(&rig);
		assert_string_equal(base + PAGE, "in place");
		assert_int_equal(base[4 * PAGE - 1], 9);
		memset(base, 0, bytes);
		device_unregister(rig.device, base);
	}
	assert_int_equal(device_register(rig.device, base, 0, &at), -EINVAL);
	rig_close(&rig);
	munmap(base, bytes);
}

/* --- Exported memory ---------------------------------------------------------------------- */

static void check_zeroed(struct rig *rig, const struct device_export *export)
{
	char *copy;

	assert_int_equal(
		device_alloc(rig->device, DEVICE_PINNED, export->bytes, (void **)&copy), 0);
	memset(copy, 1, export->bytes);
	assert_int_equal(device_copy(rig->stream, copy, export->data, export->bytes), 0);
	run_signal(rig);
	for (uint64_t i = 0; i < export->bytes; i++) {
		if (copy[i] != 0)
			fail_msg("byte %llu is not zero", (unsigned long long)i);
	}
	device_free(rig->device, DEVICE_PINNED, copy);
}

static void test_exports(void **state)
{
	struct device_export a, b, untouched = {.fd = 12345};
	struct rig rig;

	rig_open(&rig, NULL);
	/* What a predecessor wrote into its memory is never seen. */
	for (uint32_t i = 0; i < 3; i++) {
		assert_int_equal(device_export_create(rig.device, DEVICE_EXPORT_FD, 1, &a), 0);
		assert_int_equal(device_export_create(
					 rig.device, DEVICE_EXPORT_FD, DEVICE_EXPORT_UNIT + 1, &b),
			0);
		assert_int_equal(a.bytes, DEVICE_EXPORT_UNIT);
		assert_int_equal(b.bytes, 2 * DEVICE_EXPORT_UNIT);
		assert_true((char *)a.data + a.bytes <= (char *)b.data ||
			(char *)b.data + b.bytes <= (char *)a.data);
		assert_true(a.fd >= 0 && b.fd >= 0);
		check_zeroed(&rig, &a);
		check_zeroed(&rig, &b);
		assert_int_equal(device_fill(rig.stream, a.data, 0xff, a.bytes), 0);
		assert_int_equal(device_fill(rig.stream, b.data, 0xff, b.bytes), 0);
		run_signal(&rig);
		close(a.fd);
		close(b.fd);
		device_export_destroy(rig.device, &a);
		device_export_destroy(rig.device, &b);
	}
	assert_int_equal(
		device_export_create(rig.device, DEVICE_EXPORT_FD, 0, &untouched), -EINVAL);
	assert_int_equal(device_export_create(rig.device, DEVICE_EXPORT_FD, 1ull << 50, &untouched),
		-ENOMEM);
	assert_int_equal(device_export_create(rig.device, DEVICE_EXPORT_FD, UINT64_MAX, &untouched),
		-ENOMEM);
	assert_int_equal(untouched.fd, 12345);
	rig_check_usable(&rig);
	rig_close(&rig);
}

static void test_export_ipc(void **state)
{
	struct device_export export;
	struct rig rig;

	rig_open(&rig, NULL);
	int r = device_export_create(rig.device, DEVICE_EXPORT_IPC, 1, &export);
	if (rig.cuda) {
		assert_int_equal(r, 0);
		assert_int_equal(export.fd, -1);
		check_zeroed(&rig, &export);
		device_export_destroy(rig.device, &export);
	} else {
		assert_int_equal(r, -EOPNOTSUPP);
	}
	rig_close(&rig);
}

/* The other process: sees what was written, answers, and keeps it beyond the owner's end. */
static int other_process(int fd)
{
	char *data = mmap(NULL, DEVICE_EXPORT_UNIT, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	char byte;

	if (data == MAP_FAILED || strcmp(data, "from the owner") != 0)
		return 2;
	/* Nobody can pull the memory from under the others. */
	if (ftruncate(fd, 0) == 0 || ftruncate(fd, 2 * DEVICE_EXPORT_UNIT) == 0)
		return 3;
	snprintf(data + PAGE, PAGE, "from the other");
	if (write(STDOUT_FILENO, "x", 1) != 1 || read(STDIN_FILENO, &byte, 1) != 1)
		return 4;
	return strcmp(data, "from the owner") == 0 ? 0 : 5;
}

static pid_t start_other(int fd, int in, int out)
{
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		char number[16];
		snprintf(number, sizeof(number), "%d", dup(fd));
		dup2(in, STDIN_FILENO);
		dup2(out, STDOUT_FILENO);
		execl("/proc/self/exe", "test-memory", "--other", number, NULL);
		_exit(127);
	}
	return pid;
}

static void test_export_to_a_process(void **state)
{
	struct device_export export;
	int to[2], from[2], status;
	struct rig rig;
	char byte;

	rig_open(&rig, NULL);
	if (rig.cuda)
		harness_skip("a descriptor of CUDA memory is opened by CUDA, not by mmap");
	assert_int_equal(pipe(to), 0);
	assert_int_equal(pipe(from), 0);
	assert_int_equal(device_export_create(rig.device, DEVICE_EXPORT_FD, 100, &export), 0);
	snprintf(export.data, PAGE, "from the owner");
	pid_t pid = start_other(export.fd, to[0], from[1]);
	close(to[0]);
	close(from[1]);
	assert_int_equal(read(from[0], &byte, 1), 1);
	assert_string_equal((char *)export.data + PAGE, "from the other");
	close(export.fd);
	device_export_destroy(rig.device, &export);
	assert_int_equal(write(to[1], "x", 1), 1);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	close(to[1]);
	close(from[0]);
	rig_close(&rig);
}

int main(int argc, char **argv)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_kinds),
		HARNESS_TEST(test_large_memory_is_in_huge_pages),
		HARNESS_TEST(test_too_much),
		HARNESS_TEST(test_copies),
		HARNESS_TEST(test_register),
		HARNESS_TEST(test_exports),
		HARNESS_TEST(test_export_ipc),
		HARNESS_TEST(test_export_to_a_process),
	};

	if (argc == 3 && strcmp(argv[1], "--other") == 0)
		return other_process((int)strtol(argv[2], NULL, 10));
	return harness_run("device-memory", tests, sizeof(tests) / sizeof(tests[0]));
}
