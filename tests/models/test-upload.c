/* SPDX-License-Identifier: MIT */
/*
 * Uploading: what comes by way of pinned memory is what is read straight into memory, byte for
 * byte, quantised or not; and copies that fail end it.
 */
#include "models/upload.h"
#include "tests/graphs/rig.h"
#include "tests/models/random-model.h"
#include "tests/models/rig.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct random rng = {.state = 3};
static struct model_why why;

/* Its head is larger than a piece. */
static const struct model_config config = {
	.architecture = MODEL_LLAMA,
	.vocab = 70000,
	.hidden = 256,
	.layers = 2,
	.intermediate = 40,
	.heads = 4,
	.kv_heads = 2,
	.head_dim = 10,
	.max_positions = 100,
	.norm_eps = 1e-5,
	.rope = {.theta = 10000},
	.tied = true,
};

static struct safetensors *open_model(void)
{
	int dir = random_model(&config, GPUQ_F32, &rng);
	struct safetensors *files;

	assert_int_equal(safetensors_open(dir, &files, &why), 0);
	close(dir);
	return files;
}

/* One that fails at its n-th call; the graph cache, whose calls count too, is another's. */
static struct device *open_device(const char *faults)
{
	const struct device_options options = {.kind = "cpu", .workers = 1, .faults = faults};
	struct device *device;

	assert_int_equal(device_open(&options, &device, why.text), 0);
	return device;
}

/* Both with the same bytes where there is nothing. */
static void *new_memory(uint64_t bytes)
{
	void *memory = malloc(bytes);

	assert_non_null(memory);
	memset(memory, 0x55, bytes);
	return memory;
}

struct progress {
	uint64_t last, total, calls_left;
};

static bool on_progress(void *context, uint64_t done_bytes, uint64_t total_bytes)
{
	struct progress *p = context;

	assert_true(done_bytes >= p->last && done_bytes <= total_bytes);
	p->last = done_bytes;
	p->total = total_bytes;
	return p->calls_left-- > 0;
}

static void check_equal(struct rig *rig, const struct safetensors *files, enum weight_quant quant)
{
	struct progress progress = {.calls_left = UINT64_MAX};
	const struct model_watch watch = {on_progress, &progress};
	struct model_weights *weights;
	void *read, *uploaded;

	assert_int_equal(model_weights_plan(&config, files, quant, &weights, &why), 0);
	read = new_memory(model_weights_bytes(weights));
	uploaded = new_memory(model_weights_bytes(weights));
	assert_int_equal(model_weights_read(weights, files, read, NULL, &why), 0);
	assert_int_equal(
		model_upload(rig->options.device, rig->g, weights, files, uploaded, &watch, &why),
		0);
	assert_int_equal(progress.last, progress.total);
	if (memcmp(read, uploaded, model_weights_bytes(weights)) != 0)
		fail_msg("uploaded weights differ");
	progress = (struct progress){.calls_left = 3};
	assert_int_equal(
		model_upload(rig->options.device, rig->g, weights, files, uploaded, &watch, &why),
		-ECANCELED);
	free(read);
	free(uploaded);
	model_weights_destroy(weights);
}

static void test_uploaded_is_read(void **state)
{
	struct safetensors *files = open_model();
	struct rig *rig = rig_new(NULL);

	check_equal(rig, files, WEIGHT_AS_IS);
	check_equal(rig, files, WEIGHT_INT8);
	rig_free(rig);
	safetensors_close(files);
}

static void test_faults_end_it(void **state)
{
	static const struct {
		const char *faults;
		int error;
	} cases[] = {
		{"copy:1=GPUQ_EDEVICE", -GPUQ_EDEVICE},
		{"copy:5=GPUQ_EDEVICE", -GPUQ_EDEVICE},
		{"alloc:1=ENOMEM", -ENOMEM},
		{"alloc:2=ENOMEM", -ENOMEM},
		{"stream_create:2=ENOMEM", -ENOMEM},
		{"stream_wait:3=GPUQ_EDEVICE", -GPUQ_EDEVICE},
	};
	struct safetensors *files = open_model();
	struct rig *rig = rig_new(NULL);
	struct model_weights *weights;
	void *memory;

	assert_int_equal(model_weights_plan(&config, files, WEIGHT_AS_IS, &weights, &why), 0);
	memory = new_memory(model_weights_bytes(weights));
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct device *device = open_device(cases[i].faults);

		why.text[0] = '\0';
		assert_int_equal(model_upload(device, rig->g, weights, files, memory, NULL, &why),
			cases[i].error);
		assert_string_not_equal(why.text, "");
		device_close(device);
	}
	rig_free(rig);
	free(memory);
	model_weights_destroy(weights);
	safetensors_close(files);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(test_uploaded_is_read),
		HARNESS_TEST(test_faults_end_it),
	};

	return harness_run("models-upload", tests, sizeof(tests) / sizeof(tests[0]));
}
