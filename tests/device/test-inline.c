/* SPDX-License-Identifier: MIT */
/*
 * test-inline.c: small work beside all streams. A device may have no such way, and does not on the
 * CPU, where the caller runs what is short itself.
 */
#include "tests/device/rig.h"

#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <time.h>

#define ROUNDS 2000u

/* y = w x + b of single numbers; addresses come from the launch. */
static void numbers_init(struct affine *a)
{
	affine_init(a, NULL, NULL, NULL, NULL);
	a->kernel.signal = true;
	op_launch_init(&a->launch, &a->launch.call);
}

static struct device_args numbers_args(
	struct rig *rig, uint32_t word, float *x, float *w, float *b, float *y)
{
	struct device_args args = rig_args(rig, word);

	args.pointers[0] = x;
	args.pointers[1] = w;
	args.pointers[2] = b;
	args.pointers[GPUQ_MAX_INPUTS] = y;
	return args;
}

/* Until it is taken: a device may first have to be asked twice. */
static void must_take(
	struct rig *rig, const struct device_kernel *kernel, const struct device_args *args)
{
	const uint64_t begin_ns = clock_monotonic_ns();
	int r = device_inline(rig->device, kernel, args);

	while (r == -EAGAIN && clock_monotonic_ns() - begin_ns < 10000000000u)
		r = device_inline(rig->device, kernel, args);
	assert_int_equal(r, 0);
}

/* Opens a device, or skips the test where it has no inline stream. */
static void open_inline(struct rig *rig, struct affine *a)
{
	rig_open(rig, NULL);
	numbers_init(a);
	if (!rig->cuda) {
		rig_close(rig);
		harness_skip("the device has no inline stream");
	}
}

static void test_what_there_is(void **state)
{
	struct affine a;
	struct rig rig;

	rig_open(&rig, NULL);
	numbers_init(&a);
	rig.cells[0] = rig.cells[1] = rig.cells[2] = 0;
	const struct device_args args =
		numbers_args(&rig, 0, &rig.cells[0], &rig.cells[1], &rig.cells[2], &rig.cells[3]);
	const int r = device_inline(rig.device, &a.kernel, &args);

	if (r == 0)
		rig_await(&rig, 0, args.value);
	else
		assert_int_equal(r, rig.cuda ? -EAGAIN : -EOPNOTSUPP);
	rig_close(&rig);
}

static void test_no_completion(void **state)
{
	struct device_args args;
	struct affine a;
	struct rig rig;

	open_inline(&rig, &a);
	args = numbers_args(&rig, 0, &rig.cells[0], &rig.cells[1], &rig.cells[2], &rig.cells[3]);
	args.completion = NULL;
	assert_int_equal(device_inline(rig.device, &a.kernel, &args), -EINVAL);
	rig_close(&rig);
}

/* Each result is that of what was written just before, also where it was read before that. */
static void test_values(void **state)
{
	struct affine a;
	struct rig rig;

	open_inline(&rig, &a);
	for (uint32_t i = 0; i < ROUNDS; i++) {
		const struct device_args args = numbers_args(
			&rig, 0, &rig.cells[0], &rig.cells[1], &rig.cells[2], &rig.cells[3]);

		rig.cells[0] = (float)(i % 100);
		rig.cells[1] = (float)(i % 7);
		rig.cells[2] = (float)i;
		rig.cells[3] = RIG_POISON;
		must_take(&rig, &a.kernel, &args);
		rig_await(&rig, 0, args.value);
		assert_float_equal(rig.cells[3], (float)(i % 100 * (i % 7) + i), 0);
	}
	rig_close(&rig);
}

/* Results that others read: in order, as many at once as the device takes. */
static void test_many_in_flight(void **state)
{
	uint64_t values[RIG_WORDS] = {0};
	uint32_t refused = 0;
	struct affine a;
	struct rig rig;

	open_inline(&rig, &a);
	rig.cells[1000] = 3;
	rig.cells[1001] = 2;
	for (uint32_t i = 0; i < ROUNDS; i++) {
		const uint32_t word = i % RIG_WORDS;
		struct device_args args;
		int r;

		if (values[word] != 0)
			rig_await(&rig, word, values[word]);
		if (values[word] != 0)
			assert_float_equal(rig.cells[word], 6 + (float)(i - RIG_WORDS), 0);
		rig.cells[1100 + word] = (float)i;
		args = numbers_args(&rig, word, &rig.cells[1000], &rig.cells[1001],
			&rig.cells[1100 + word], &rig.cells[word]);
		while ((r = device_inline(rig.device, &a.kernel, &args)) == -EAGAIN)
			refused++;
		assert_int_equal(r, 0);
		values[word] = args.value;
	}
	assert_true(refused > 0);
	for (uint32_t i = 0; i < RIG_WORDS; i++)
		rig_await(&rig, i, values[i]);
	rig_close(&rig);
}

/* What waits in streams is not waited for, and the other way round. */
static void test_beside_streams(void **state)
{
	struct affine a;
	struct rig rig;

	open_inline(&rig, &a);
	rig.cells[0] = 4;
	rig.cells[1] = 5;
	rig.cells[2] = 6;
	for (uint32_t i = 0; i < 20; i++) {
		const struct device_args args = numbers_args(
			&rig, 0, &rig.cells[0], &rig.cells[1], &rig.cells[2], &rig.cells[3]);

		rig_load(&rig, rig.stream, 10);
		must_take(&rig, &a.kernel, &args);
		rig_await(&rig, 0, args.value);
		assert_float_equal(rig.cells[3], 26, 0);
		rig_finish(&rig, rig.stream);
	}
	rig_close(&rig);
}

/* Large work is refused, always. */
static void test_too_large(void **state)
{
	struct affine a;
	struct rig rig;

	open_inline(&rig, &a);
	a.launch.call.in[0].dims[0] = a.launch.call.out[0].dims[0] = 1u << 20;
	const struct device_args args = numbers_args(&rig, 0, (float *)rig.heavy, &rig.cells[1],
		&rig.cells[2], (float *)rig.heavy + (1u << 20));
	for (uint32_t i = 0; i < 100; i++)
		assert_int_equal(device_inline(rig.device, &a.kernel, &args), -EOPNOTSUPP);
	rig_close(&rig);
}

/* --- Beside calls for memory -------------------------------------------------------------- */

static void *come_and_go(void *arg)
{
	struct rig *rig = arg;
	void *data;

	for (uint32_t i = 0; i < 50; i++) {
		if (device_alloc(rig->device, DEVICE_PINNED, 1u << 20, &data) != 0)
			return "device_alloc";
		device_free(rig->device, DEVICE_PINNED, data);
	}
	return NULL;
}

/* Memory is given back while work comes, without a pause of either; nothing is lost. */
static void test_beside_memory(void **state)
{
	uint64_t value = 0, done = 0;
	struct affine a;
	pthread_t thread;
	void *failed;
	struct rig rig;

	open_inline(&rig, &a);
	rig.cells[0] = 2;
	rig.cells[1] = 3;
	assert_int_equal(pthread_create(&thread, NULL, come_and_go, &rig), 0);
	while (pthread_tryjoin_np(thread, &failed) != 0) {
		rig.cells[2] = (float)done;
		struct device_args args = numbers_args(
			&rig, 0, &rig.cells[0], &rig.cells[1], &rig.cells[2], &rig.cells[3]);
		const int r = device_inline(rig.device, &a.kernel, &args);

		if (r == -EAGAIN)
			assert_int_equal(device_launch(rig.stream, &a.kernel, &args), 0);
		else
			assert_int_equal(r, 0);
		value = args.value;
		rig_await(&rig, 0, value);
		assert_float_equal(rig.cells[3], 6 + (float)done, 0);
		done++;
	}
	assert_null(failed);
	assert_true(done > 0);
	rig_close(&rig);
}

/* It comes back after it has had nothing to do for longer than any device waits. */
static void test_pauses(void **state)
{
	const struct timespec nap = {.tv_nsec = 20000000};
	struct affine a;
	struct rig rig;

	open_inline(&rig, &a);
	rig.cells[0] = rig.cells[1] = rig.cells[2] = 1;
	for (uint32_t i = 0; i < 10; i++) {
		const struct device_args args = numbers_args(
			&rig, 0, &rig.cells[0], &rig.cells[1], &rig.cells[2], &rig.cells[3]);

		rig.cells[3] = RIG_POISON;
		must_take(&rig, &a.kernel, &args);
		rig_await(&rig, 0, args.value);
		assert_float_equal(rig.cells[3], 2, 0);
		nanosleep(&nap, NULL);
	}
	rig_close(&rig);
}

/* --- Failures that are made up, where there is no inline stream too ----------------------- */

static struct device_args open_faulty(struct rig *rig, struct affine *a, const char *faults)
{
	rig_open(rig, faults);
	numbers_init(a);
	rig->cells[0] = rig->cells[1] = rig->cells[2] = 1;
	return numbers_args(rig, 0, &rig->cells[0], &rig->cells[1], &rig->cells[2], &rig->cells[3]);
}

static void test_fails_once(void **state)
{
	struct affine a;
	struct rig rig;
	const struct device_args args = open_faulty(&rig, &a, "launch_inline:1=ENOMEM");

	assert_int_equal(device_inline(rig.device, &a.kernel, &args), -ENOMEM);
	assert_float_equal(rig.cells[3], RIG_POISON, 0);
	if (rig.cuda) {
		must_take(&rig, &a.kernel, &args);
		rig_await(&rig, 0, args.value);
		assert_float_equal(rig.cells[3], 2, 0);
	} else {
		assert_int_equal(device_inline(rig.device, &a.kernel, &args), -EOPNOTSUPP);
	}
	rig_check_usable(&rig);
	rig_close(&rig);
}

static void test_fails_for_good(void **state)
{
	struct affine a;
	struct rig rig;
	const struct device_args args = open_faulty(&rig, &a, "launch_inline:1=GPUQ_EDEVICE");

	for (uint32_t i = 0; i < 2; i++)
		assert_int_equal(device_inline(rig.device, &a.kernel, &args), -GPUQ_EDEVICE);
	assert_int_equal(device_check(rig.device), -GPUQ_EDEVICE);
	assert_float_equal(rig.cells[3], RIG_POISON, 0);
	assert_int_equal(rig.words[0].word, 0);
	rig_close(&rig);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_what_there_is),
		HARNESS_TEST(test_no_completion),
		HARNESS_TEST(test_values),
		HARNESS_TEST(test_many_in_flight),
		HARNESS_TEST(test_beside_streams),
		HARNESS_TEST(test_too_large),
		HARNESS_TEST(test_beside_memory),
		HARNESS_TEST(test_pauses),
		HARNESS_TEST(test_fails_once),
		HARNESS_TEST(test_fails_for_good),
	};

	return harness_run("device-inline", tests, sizeof(tests) / sizeof(tests[0]));
}
