/* SPDX-License-Identifier: MIT */
/* The loader of a device process: what waits for another model, and what does not. */
#include "tests/harness.h"

#include "daemon/models.h"
#include "tests/graphs/rig.h"
#include "tests/models/random-model.h"
#include "tests/models/rig.h"

#include <poll.h>
#include <unistd.h>

static const struct model_config shape = {
	.architecture = MODEL_LLAMA,
	.hidden = 32,
	.layers = 1,
	.heads = 2,
	.kv_heads = 1,
	.head_dim = 16,
	.intermediate = 32,
	.vocab = 50,
	.max_positions = 512,
	.norm_eps = 1e-5f,
	.rope = {.theta = 10000, .factor = 1},
};

static struct models *new_models(struct rig *rig, struct stats_model *stats)
{
	const struct models_options options = {
		.device = rig->options.device,
		.graphs = rig->g,
		.clock = rig->options.clock,
		.stats = stats,
		.max_models = 3,
		.max_clients = 2,
		.max_sessions = 4,
		.kv_bytes = 1 << 20,
		.kv_bucket = 64,
		.prefill_chunk = 64,
	};
	struct models *m;

	assert_int_equal(models_create(&options, &m), 0);
	return m;
}

static struct known_model *load(struct models *m, uint32_t handle, int dir_fd)
{
	const struct devlink_msg msg = {.type = DEVLINK_MODEL, .handle = handle, .name = "m"};

	assert_int_equal(models_load(m, &msg, dir_fd), 0);
	return models_find(m, handle);
}

static struct known_model *take(struct models *m)
{
	struct pollfd bell = {.fd = models_event_fd(m), .events = POLLIN};
	struct known_model *k;
	uint64_t count;

	while ((k = models_take(m)) == NULL) {
		assert_int_equal(poll(&bell, 1, 10000 * (int)harness_slowness()), 1);
		assert_int_equal(read(bell.fd, &count, sizeof(count)), sizeof(count));
	}
	return k;
}

/* While one is being loaded, others are freed, and those that wait for it can be called off. */
static void test_beside_a_long_load(void **state)
{
	struct stats_model stats[3] = {0};
	struct random rng = {1};
	struct rig *rig = rig_new(NULL);
	struct models *m = new_models(rig, stats);
	struct known_model *loading, *waiting, *failed;

	failed = load(m, 2, rig_folder());
	assert_ptr_equal(take(m), failed);
	assert_true(failed->status < 0);
	/* It needs quiet for its memory, and something is being recorded. */
	pthread_rwlock_wrlock(&rig->g->quiet);
	loading = load(m, 0, random_model(&shape, GPUQ_F32, &rng));
	waiting = load(m, 1, random_model(&shape, GPUQ_F32, &rng));
	models_cancel(m, waiting);
	assert_ptr_equal(take(m), waiting);
	assert_int_equal(waiting->status, -ECANCELED);
	models_forget(m, waiting);
	models_free(m, failed);
	assert_ptr_equal(take(m), failed);
	models_forget(m, failed);
	assert_null(models_take(m));
	pthread_rwlock_unlock(&rig->g->quiet);
	assert_ptr_equal(take(m), loading);
	assert_int_equal(loading->status, 0);
	models_free(m, loading);
	assert_ptr_equal(take(m), loading);
	models_forget(m, loading);
	models_destroy(m);
	rig_free(rig);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_beside_a_long_load),
	};

	return harness_run("loader", tests, sizeof(tests) / sizeof(tests[0]));
}
