/* SPDX-License-Identifier: MIT */
/*
 * test-dispatch-flips.c: an argument block that changes while it is validated. Another thread
 * flips one field at a time between a right value and a wrong one. Each call either runs as the
 * right block says or is refused for the wrong one: nothing between. The tensors end where the
 * arena and the mapping end, so a look beyond them is a fault.
 */
#include "tests/daemon/dispatch-rig.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK_AT 64u /* away from its data, to make room for the parameter */
#define BATCH 8u
#define UNTOUCHED (-1.0f)

struct block {
	struct rig_softmax softmax;
	struct wire_param temperature;
};

struct flips {
	uint64_t *word;
	uint64_t right, wrong;
	uint64_t stop;
};

struct flip_test {
	struct rig rig;
	struct rig_client client;
	struct block right;
	uint64_t n;
	uint32_t batches;
};

static void *flip(void *arg)
{
	struct flips *f = arg;

	while (shm_load_relaxed(&f->stop) == 0) {
		for (uint32_t i = 0; i < 64; i++) {
			shm_store_relaxed(f->word, i % 2 == 0 ? f->wrong : f->right);
			for (uint32_t k = 0; k < i; k++)
				shm_pause();
		}
		sched_yield();
	}
	return NULL;
}

/* The call whose block a test flips: see rig_softmax(). */
static struct wire_sqe make_call(struct flip_test *t)
{
	struct rig_client *c = &t->client;
	const double one = 1;
	uint32_t at = RIG_ARENA - sizeof(struct rig_softmax) - 2 * (uint32_t)t->n * sizeof(float);
	struct wire_sqe sqe = rig_softmax(c, at, t->n, 0);

	memcpy(&t->right.softmax, c->arena + at, sizeof(t->right.softmax));
	t->right.softmax.call.n_params = 1;
	t->right.temperature = (struct wire_param){.type = GPUQ_PARAM_F64};
	memcpy(&t->right.temperature.bits, &one, sizeof(one));
	memcpy(c->arena + BLOCK_AT, &t->right, sizeof(t->right));
	sqe.args_offset = BLOCK_AT;
	sqe.args_bytes = sizeof(t->right);
	return sqe;
}

/* Submits a batch of the same call. How many ran; the others were refused with this error. */
static uint32_t run_batch(struct flip_test *t, const struct wire_sqe *sqe, int error)
{
	struct rig_client *c = &t->client;
	float *y = (void *)(c->arena + t->right.softmax.y.offset);
	uint32_t ran = 0;

	for (uint64_t i = 0; i < t->n; i++)
		y[i] = UNTOUCHED;
	for (uint32_t i = 0; i < BATCH; i++)
		rig_write(c, sqe);
	rig_publish(c);
	for (uint32_t i = 0; i < BATCH; i++) {
		const int status = rig_complete(c).status;

		if (status == 0)
			ran++;
		else
			assert_int_equal(status, error);
	}
	for (uint64_t i = 0; i < t->n && ran == 0; i++)
		assert_true(y[i] == UNTOUCHED);
	return ran;
}

/* One word of the block is another one in `wrong`. */
static void check_flips(struct flip_test *t, const struct block *wrong, int error)
{
	const struct wire_sqe sqe = make_call(t);
	uint64_t words[2][sizeof(struct block) / 8];
	struct flips f = {0};
	pthread_t thread;

	memcpy(words[0], &t->right, sizeof(t->right));
	memcpy(words[1], wrong, sizeof(*wrong));
	for (size_t i = 0; i < sizeof(struct block) / 8; i++) {
		if (words[0][i] == words[1][i])
			continue;
		assert_null(f.word);
		f.word = (uint64_t *)(void *)(t->client.arena + BLOCK_AT) + i;
		f.right = words[0][i];
		f.wrong = words[1][i];
	}
	assert_non_null(f.word);
	/* Both alone, then in turns. */
	assert_int_equal(run_batch(t, &sqe, 0), BATCH);
	rig_check_softmax(&t->client, &sqe);
	shm_store_relaxed(f.word, f.wrong);
	assert_int_equal(run_batch(t, &sqe, error), 0);
	assert_int_equal(pthread_create(&thread, NULL, flip, &f), 0);
	uint32_t ran = 0;
	for (uint32_t i = 0; i < t->batches; i++)
		ran = run_batch(t, &sqe, error);
	shm_store_relaxed(&f.stop, 1);
	pthread_join(thread, NULL);
	shm_store_relaxed(f.word, f.right);
	if (ran > 0)
		rig_check_softmax(&t->client, &sqe);
}

#define FLIPS(field, value, error)                \
	do {                                      \
		make_call(t);                     \
		struct block wrong = t->right;    \
		wrong.field = (value);            \
		check_flips(t, &wrong, -(error)); \
	} while (0)

static void flip_call(struct flip_test *t)
{
	FLIPS(softmax.call.op, op_count, GPUQ_EOP);
	FLIPS(softmax.call.op, UINT32_MAX, GPUQ_EPIPELINE);
	FLIPS(softmax.call.n_in, 2, GPUQ_EARGS);
	FLIPS(softmax.call.n_in, UINT16_MAX, GPUQ_EARGS);
	FLIPS(softmax.call.n_out, 0, GPUQ_EARGS);
	FLIPS(softmax.call.n_params, 0, GPUQ_EARGS);
	FLIPS(softmax.call.n_params, UINT16_MAX, GPUQ_EARGS);
	FLIPS(softmax.call.reserved0, 1, EINVAL);
	FLIPS(softmax.call.reserved1, 1, EINVAL);
	FLIPS(softmax.call.reserved2[0], 1, EINVAL);
	FLIPS(softmax.call.reserved2[1], 1, EINVAL);
	FLIPS(temperature.index, 1, GPUQ_EPARAM);
	FLIPS(temperature.index, UINT32_MAX, GPUQ_EPARAM);
	FLIPS(temperature.type, GPUQ_PARAM_I64, GPUQ_EPARAM);
	FLIPS(temperature.bits, UINT64_MAX, GPUQ_EPARAM);
}

#define FLIP_TENSOR(tensor, value_of_n)                                         \
	do {                                                                    \
		FLIPS(softmax.tensor.offset, RIG_ARENA, GPUQ_EBOUNDS);          \
		FLIPS(softmax.tensor.offset, RIG_ARENA - 4, GPUQ_EBOUNDS);      \
		FLIPS(softmax.tensor.offset, UINT64_MAX - 3, GPUQ_EBOUNDS);     \
		FLIPS(softmax.tensor.offset, 2, GPUQ_EALIGN);                   \
		FLIPS(softmax.tensor.buffer, 1, GPUQ_EBUFFER);                  \
		FLIPS(softmax.tensor.dtype, 0, EINVAL);                         \
		FLIPS(softmax.tensor.dtype, GPUQ_I32, GPUQ_EDTYPE);             \
		FLIPS(softmax.tensor.dtype, UINT16_MAX, GPUQ_EDTYPE);           \
		FLIPS(softmax.tensor.rank, 0, EINVAL);                          \
		FLIPS(softmax.tensor.rank, UINT16_MAX, GPUQ_ERANK);             \
		FLIPS(softmax.tensor.dims[0], UINT64_MAX / 2, GPUQ_EOVERFLOW);  \
		FLIPS(softmax.tensor.dims[0], RIG_ARENA / 4 + 1, GPUQ_EBOUNDS); \
		FLIPS(softmax.tensor.dims[0], (value_of_n)-1, GPUQ_ESHAPE);     \
		for (uint32_t k = 1; k < GPUQ_MAX_RANK; k++)                    \
			FLIPS(softmax.tensor.dims[k], 1, EINVAL);               \
	} while (0)

static void flip_all(uint64_t n, uint32_t batches)
{
	struct flip_test *t = calloc(1, sizeof(*t));

	rig_start(&t->rig);
	rig_open(&t->rig, &t->client, 1, 0, WIRE_ABI);
	t->n = n;
	t->batches = batches;
	flip_call(t);
	FLIP_TENSOR(x, n);
	FLIP_TENSOR(y, n);
	rig_close(&t->client);
	rig_stop(&t->rig);
	free(t);
}

/* Dispatch runs the call itself. */
static void test_flips_inline(void **state)
{
	flip_all(8, harness_long() ? 1000 : 30);
}

/* A worker runs it, from dispatch's copy. */
static void test_flips_on_a_worker(void **state)
{
	flip_all(7000, harness_long() ? 100 : 4);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST_LONG(test_flips_inline, 60),
		HARNESS_TEST_LONG(test_flips_on_a_worker, 60),
	};

	return harness_run("dispatch-flips", tests, sizeof(tests) / sizeof(tests[0]));
}
