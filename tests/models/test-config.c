/* SPDX-License-Identifier: MIT */
/* config.json: what the architectures' files say, and what is refused with which words. */
#include "models/config.h"
#include "tests/models/rig.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static struct model_why why;
static struct model_config config;

static int load(const char *json, const char *generation)
{
	int dir = rig_folder();

	why.text[0] = '\0';
	rig_write(dir, "config.json", json, strlen(json));
	if (generation != NULL)
		rig_write(dir, "generation_config.json", generation, strlen(generation));
	int err = model_config_load(dir, &config, &why);
	close(dir);
	return err;
}

static void loaded(const char *json, const char *generation)
{
	memset(&config, 0x55, sizeof(config));
	if (load(json, generation) != 0)
		fail_msg("%s", why.text);
}

#define SHAPE                                                                            \
	"\"vocab_size\":128256,\"hidden_size\":2048,\"num_hidden_layers\":16,"           \
	"\"intermediate_size\":8192,\"num_attention_heads\":32,\"hidden_act\":\"silu\"," \
	"\"num_key_value_heads\":8,\"max_position_embeddings\":131072,\"rms_norm_eps\":1e-05"

static void llama3_is_read(void **state)
{
	loaded("{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\"," SHAPE
	       ",\"rope_theta\":500000.0,\"tie_word_embeddings\":true,\"head_dim\":64,"
	       "\"eos_token_id\":[128001,128008,128009],\"rope_scaling\":{\"factor\":32.0,"
	       "\"high_freq_factor\":4.0,\"low_freq_factor\":1.0,"
	       "\"original_max_position_embeddings\":8192,\"rope_type\":\"llama3\"}}",
		NULL);
	assert_int_equal(config.architecture, MODEL_LLAMA);
	assert_int_equal(config.vocab, 128256);
	assert_int_equal(config.hidden, 2048);
	assert_int_equal(config.layers, 16);
	assert_int_equal(config.intermediate, 8192);
	assert_int_equal(config.heads, 32);
	assert_int_equal(config.kv_heads, 8);
	assert_int_equal(config.head_dim, 64);
	assert_int_equal(config.max_positions, 131072);
	assert_true(config.norm_eps == 1e-5 && config.rope.theta == 500000);
	assert_int_equal(config.rope.scaling, MODEL_ROPE_LLAMA3);
	assert_true(config.rope.factor == 32 && config.rope.low_freq_factor == 1 &&
		config.rope.high_freq_factor == 4);
	assert_int_equal(config.rope.original_positions, 8192);
	assert_true(config.tied && !config.q_bias && !config.o_bias && !config.mlp_bias);
	assert_true(!config.qk_norm && config.window == 0 && !config.windowed[0]);
	assert_int_equal(config.eos_count, 3);
	assert_int_equal(config.eos[2], 128009);
}

static void absent_members_have_their_usual_values(void **state)
{
	loaded("{\"model_type\":\"llama\",\"vocab_size\":32000,\"hidden_size\":512,"
	       "\"num_hidden_layers\":2,\"intermediate_size\":100,\"num_attention_heads\":8,"
	       "\"max_position_embeddings\":2048,\"rope_scaling\":null,\"attention_bias\":true,"
	       "\"mlp_bias\":true,\"eos_token_id\":2}",
		"{\"bos_token_id\":1}");
	assert_int_equal(config.kv_heads, 8);
	assert_int_equal(config.head_dim, 64);
	assert_true(config.norm_eps == 1e-6 && config.rope.theta == 10000);
	assert_int_equal(config.rope.scaling, MODEL_ROPE_PLAIN);
	assert_true(!config.tied && config.q_bias && config.o_bias && config.mlp_bias);
	assert_int_equal(config.eos_count, 1);
	assert_int_equal(config.eos[0], 2);
}

static void newer_files_have_rope_parameters(void **state)
{
	loaded("{\"model_type\":\"llama\"," SHAPE ",\"rope_parameters\":{\"rope_type\":\"linear\","
	       "\"factor\":4,\"rope_theta\":20000}}",
		NULL);
	assert_int_equal(config.rope.scaling, MODEL_ROPE_LINEAR);
	assert_true(config.rope.factor == 4 && config.rope.theta == 20000);
	assert_int_equal(config.eos_count, 0);
	loaded("{\"model_type\":\"llama\"," SHAPE ",\"rope_scaling\":{},\"rope_theta\":7,"
	       "\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":20000}}",
		NULL);
	assert_int_equal(config.rope.scaling, MODEL_ROPE_PLAIN);
	assert_true(config.rope.theta == 20000);
}

static void older_rope_scaling_comes_before_rope_parameters(void **state)
{
	loaded("{\"model_type\":\"llama\"," SHAPE ",\"rope_theta\":30000,"
	       "\"rope_scaling\":{\"type\":\"linear\",\"factor\":2},"
	       "\"rope_parameters\":{\"rope_type\":\"linear\",\"factor\":4,"
	       "\"rope_theta\":20000}}",
		NULL);
	assert_int_equal(config.rope.scaling, MODEL_ROPE_LINEAR);
	assert_true(config.rope.factor == 2 && config.rope.theta == 30000);
}

static void llama3_may_leave_out_the_original_positions(void **state)
{
	loaded("{\"model_type\":\"llama\"," SHAPE ",\"rope_parameters\":{\"rope_type\":"
	       "\"llama3\",\"factor\":8,\"low_freq_factor\":1,\"high_freq_factor\":4}}",
		NULL);
	assert_int_equal(config.rope.original_positions, 131072);
}

static void null_key_value_heads_are_as_many_as_heads(void **state)
{
	loaded("{\"model_type\":\"qwen2\",\"vocab_size\":9,\"hidden_size\":8,"
	       "\"num_hidden_layers\":2,\"intermediate_size\":8,\"num_attention_heads\":2,"
	       "\"num_key_value_heads\":null,\"max_position_embeddings\":64}",
		NULL);
	assert_int_equal(config.kv_heads, 2);
}

static void mistral_has_a_window(void **state)
{
	loaded("{\"architectures\":[\"MistralForCausalLM\"],\"sliding_window\":4000," SHAPE "}",
		NULL);
	assert_int_equal(config.architecture, MODEL_MISTRAL);
	assert_int_equal(config.window, 4000);
	assert_true(config.windowed[0] && config.windowed[15] && !config.windowed[16]);
	loaded("{\"model_type\":\"mistral\",\"sliding_window\":null," SHAPE "}", NULL);
	assert_int_equal(config.window, 0);
	loaded("{\"model_type\":\"mistral\",\"layer_types\":[\"full_attention\"]," SHAPE "}", NULL);
	assert_int_equal(config.window, 4096);
	assert_true(config.windowed[0] && config.windowed[15]);
}

static void qwen_has_biases_norms_and_windows(void **state)
{
	loaded("{\"architectures\":[\"Qwen2ForCausalLM\"],\"sliding_window\":32768,"
	       "\"eos_token_id\":9,\"use_sliding_window\":false,\"max_window_layers\":4," SHAPE "}",
		"{\"eos_token_id\":[5,7]}");
	assert_int_equal(config.architecture, MODEL_QWEN2);
	assert_true(config.q_bias && !config.o_bias && !config.qk_norm);
	assert_true(config.window == 0 && !config.windowed[15]);
	assert_int_equal(config.eos_count, 2);
	assert_int_equal(config.eos[1], 7);

	loaded("{\"model_type\":\"qwen2\",\"sliding_window\":64,\"use_sliding_window\":true,"
	       "\"max_window_layers\":4," SHAPE "}",
		NULL);
	assert_true(config.window == 64 && !config.windowed[3] && config.windowed[4]);

	loaded("{\"architectures\":[\"Qwen3ForCausalLM\"],\"tie_word_embeddings\":true," SHAPE "}",
		NULL);
	assert_int_equal(config.architecture, MODEL_QWEN3);
	assert_true(config.qk_norm && !config.q_bias && config.tied);
	assert_int_equal(config.head_dim, 128);
}

static void layer_types_say_which(void **state)
{
	loaded("{\"model_type\":\"qwen3\",\"vocab_size\":9,\"hidden_size\":8,"
	       "\"num_hidden_layers\":2,\"intermediate_size\":8,\"num_attention_heads\":2,"
	       "\"num_key_value_heads\":1,\"max_position_embeddings\":64,\"sliding_window\":16,"
	       "\"use_sliding_window\":true,\"layer_types\":[\"sliding_attention\","
	       "\"full_attention\"]}",
		NULL);
	assert_true(config.windowed[0] && !config.windowed[1]);
}

static void others_are_refused(void **state)
{
	static const struct {
		const char *more; /* before SHAPE */
		int error;
		const char *words;
	} bad[] = {
		{"\"architectures\":[\"GemmaForCausalLM\"]", -EOPNOTSUPP, "\"GemmaForCausalLM\""},
		{"\"model_type\":\"phi3\"", -EOPNOTSUPP, "\"phi3\""},
		{"\"architectures\":[]", -EBADMSG, "architectures"},
		{"\"model_type\":7", -EBADMSG, "model_type is not a string"},
		{"\"model_type\":\"llama\",\"quantization_config\":{}", -EOPNOTSUPP,
			"quantization_config"},
		{"\"model_type\":\"llama\",\"partial_rotary_factor\":0.5", -EOPNOTSUPP,
			"partial_rotary_factor"},
		{"\"model_type\":\"llama\",\"rope_parameters\":{\"partial_rotary_factor\":0.5}",
			-EOPNOTSUPP, "partial_rotary_factor"},
		{"\"model_type\":\"llama\",\"head_dim\":63", -ERANGE, "even"},
		{"\"model_type\":\"llama\",\"head_dim\":4096", -ERANGE, "from 2 to 1024"},
		{"\"model_type\":\"llama\",\"tie_word_embeddings\":1", -EBADMSG, "true nor false"},
		{"\"model_type\":\"llama\",\"rope_theta\":0", -ERANGE, "rope_theta is 0"},
		{"\"model_type\":\"llama\",\"rope_theta\":\"big\"", -EBADMSG, "not a number"},
		{"\"model_type\":\"llama\",\"rope_scaling\":3", -EBADMSG, "not an object"},
		{"\"model_type\":\"llama\",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":2}",
			-EOPNOTSUPP, "\"yarn\""},
		{"\"model_type\":\"llama\",\"rope_scaling\":{\"type\":\"linear\"}", -EBADMSG,
			"factor is missing"},
		{"\"model_type\":\"llama\",\"rope_scaling\":{\"rope_type\":\"llama3\","
		 "\"factor\":2,\"low_freq_factor\":4,\"high_freq_factor\":4,"
		 "\"original_max_position_embeddings\":8}",
			-ERANGE, "not above"},
		{"\"model_type\":\"mistral\",\"sliding_window\":0", -ERANGE, "sliding_window"},
		{"\"model_type\":\"qwen2\",\"use_sliding_window\":true,\"sliding_window\":8,"
		 "\"layer_types\":[]",
			-EBADMSG, "layer_types"},
		{"\"model_type\":\"llama\",\"eos_token_id\":128256", -ERANGE, "eos_token_id"},
		{"\"model_type\":\"llama\",\"eos_token_id\":[1,-1]", -ERANGE, "eos_token_id"},
		{"\"model_type\":\"llama\",\"eos_token_id\":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]",
			-ERANGE, "more than 16"},
	};
	char json[1000];

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		snprintf(json, sizeof(json), "{%s," SHAPE "}", bad[i].more);
		int err = load(json, NULL);
		if (err != bad[i].error || strstr(why.text, bad[i].words) == NULL)
			fail_msg("%s: %d, %s", bad[i].more, err, why.text);
	}
}

static void numbers_are_bounded(void **state)
{
	static const char *const keys[] = {"vocab_size", "hidden_size", "num_hidden_layers",
		"intermediate_size", "num_attention_heads", "num_key_value_heads",
		"max_position_embeddings"};
	static const char *const values[] = {
		"0", "-1", "4294967296", "4294967297", "1.5", "9223372036854775807", "\"4\"", "[]"};
	char json[1000], rest[500], *at;

	for (size_t k = 0; k < sizeof(keys) / sizeof(keys[0]); k++) {
		for (size_t v = 0; v < sizeof(values) / sizeof(values[0]); v++) {
			snprintf(rest, sizeof(rest), "%s", SHAPE);
			at = strstr(rest, keys[k]);
			at[0] = 'X'; /* the key is another one's now */
			snprintf(json, sizeof(json), "{\"model_type\":\"llama\",\"%s\":%s,%s}",
				keys[k], values[v], rest);
			int err = load(json, NULL);
			if (err != -ERANGE && err != -EBADMSG)
				fail_msg("%s: %s gave %d", keys[k], values[v], err);
			if (strstr(why.text, keys[k]) == NULL)
				fail_msg("%s: %s", keys[k], why.text);
		}
	}
	assert_int_equal(load("{\"model_type\":\"mistral\",\"vocab_size\":5}", NULL), -EBADMSG);
	assert_non_null(strstr(why.text, "hidden_size is missing"));
	assert_int_equal(load("{", NULL), -EBADMSG);
	assert_int_equal(load("{\"model_type\":\"llama\"," SHAPE "}", "[]"), -EBADMSG);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(llama3_is_read),
		HARNESS_TEST(absent_members_have_their_usual_values),
		HARNESS_TEST(newer_files_have_rope_parameters),
		HARNESS_TEST(older_rope_scaling_comes_before_rope_parameters),
		HARNESS_TEST(llama3_may_leave_out_the_original_positions),
		HARNESS_TEST(null_key_value_heads_are_as_many_as_heads),
		HARNESS_TEST(mistral_has_a_window),
		HARNESS_TEST(qwen_has_biases_norms_and_windows),
		HARNESS_TEST(layer_types_say_which),
		HARNESS_TEST(others_are_refused),
		HARNESS_TEST(numbers_are_bounded),
	};

	return harness_run("models-config", tests, sizeof(tests) / sizeof(tests[0]));
}
