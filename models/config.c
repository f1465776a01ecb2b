/* SPDX-License-Identifier: MIT */
/*
 * config.c: reads config.json; see config.h. A reader (struct source) remembers the first error,
 * so that members can be read one after another and the error is looked at once, at the end. What
 * is absent has the value that the transformers library gives it.
 */
#include "models/config.h"
#include "models/file.h"

#include <errno.h>
#include <string.h>

#define CONFIG "config.json"
#define GENERATION "generation_config.json"
#define DEPTH 8u
#define MAX_POSITIONS (1u << 24)

struct source {
	const json_t *json;
	const char *name;
	int error;
	struct model_why *why;
};

/* --- Members -------------------------------------------------------------------------------- */

/* The member, or NULL when it is absent or null. */
static const json_t *member(const struct source *s, const char *key)
{
	const json_t *value = json_object_get(s->json, key);

	return json_is_null(value) ? NULL : value;
}

static bool says_null(const struct source *s, const char *key)
{
	return json_is_null(json_object_get(s->json, key));
}

static void wrong(struct source *s, int error, const char *key, const char *what)
{
	if (s->error == 0)
		s->error = model_fail(s->why, error, "%s: %s %s", s->name, key, what);
}

/* A whole number from min to max; preset 0: it has to be there. */
static uint32_t get_u32(
	struct source *s, const char *key, uint32_t min, uint32_t max, uint32_t preset)
{
	const json_t *value = member(s, key);
	json_int_t n = json_integer_value(value);

	if (value == NULL) {
		if (preset == 0)
			wrong(s, -EBADMSG, key, "is missing");
		return preset;
	}
	if (!json_is_integer(value)) {
		wrong(s, -EBADMSG, key, "is not a whole number");
	} else if (n < (json_int_t)min || n > (json_int_t)max) {
		if (s->error == 0)
			s->error = model_fail(s->why, -ERANGE,
				"%s: %s is %lld and has to be from %u to %u", s->name, key,
				(long long)n, min, max);
	} else {
		return (uint32_t)n;
	}
	return min;
}

static double get_double(struct source *s, const char *key, double min, double max, double preset)
{
	const json_t *value = member(s, key);
	double x = json_number_value(value);

	if (value == NULL) {
		if (preset == 0)
			wrong(s, -EBADMSG, key, "is missing");
		return preset;
	}
	if (!json_is_number(value)) {
		wrong(s, -EBADMSG, key, "is not a number");
	} else if (!(x >= min && x <= max)) {
		if (s->error == 0)
			s->error = model_fail(s->why, -ERANGE,
				"%s: %s is %g and has to be from %g to %g", s->name, key, x, min,
				max);
	} else {
		return x;
	}
	return min;
}

static bool get_bool(struct source *s, const char *key, bool preset)
{
	const json_t *value = member(s, key);

	if (value == NULL)
		return preset;
	if (!json_is_boolean(value))
		wrong(s, -EBADMSG, key, "is neither true nor false");
	return json_is_true(value);
}

/* "" when absent. */
static const char *get_string(struct source *s, const char *key)
{
	const json_t *value = member(s, key);

	if (value == NULL)
		return "";
	if (!json_is_string(value)) {
		wrong(s, -EBADMSG, key, "is not a string");
		return "";
	}
	return json_string_value(value);
}

/* --- Architecture --------------------------------------------------------------------------- */

static const struct {
	const char *name;
	const char *type;
	enum model_architecture architecture;
} architectures[] = {
	{"LlamaForCausalLM", "llama", MODEL_LLAMA},
	{"MistralForCausalLM", "mistral", MODEL_MISTRAL},
	{"Qwen2ForCausalLM", "qwen2", MODEL_QWEN2},
	{"Qwen3ForCausalLM", "qwen3", MODEL_QWEN3},
};

/* By the first of "architectures"; without it by "model_type". */
static void read_architecture(struct source *s, struct model_config *c)
{
	const json_t *list = member(s, "architectures");
	const char *name = json_string_value(json_array_get(list, 0));
	const char *type = get_string(s, "model_type");

	if (list != NULL && name == NULL)
		wrong(s, -EBADMSG, "architectures", "is not a list of strings");
	for (size_t i = 0; i < sizeof(architectures) / sizeof(architectures[0]); i++) {
		if (name != NULL ? strcmp(name, architectures[i].name) == 0
				 : strcmp(type, architectures[i].type) == 0)
			c->architecture = architectures[i].architecture;
	}
	if (c->architecture == 0 && s->error == 0)
		s->error = model_fail(s->why, -EOPNOTSUPP,
			"the architecture \"%.100s\" is not one that gpuq computes: "
			"Llama, Mistral, Qwen2, Qwen3 for causal language modelling",
			name != NULL ? name : type);
}

static void refuse_partial_rotation(struct source *s)
{
	if (get_double(s, "partial_rotary_factor", 0, 1, 1) != 1)
		wrong(s, -EOPNOTSUPP, "partial_rotary_factor", "is not 1");
}

static void read_variants(struct source *s, struct model_config *c)
{
	const char *act = get_string(s, "hidden_act");
	bool bias = get_bool(s, "attention_bias", false);

	if (act[0] != '\0' && strcmp(act, "silu") != 0)
		wrong(s, -EOPNOTSUPP, "hidden_act", "is not silu");
	if (member(s, "quantization_config") != NULL)
		wrong(s, -EOPNOTSUPP, "quantization_config", "is there; give unquantised weights");
	refuse_partial_rotation(s);
	c->tied = get_bool(s, "tie_word_embeddings", false);
	c->qk_norm = c->architecture == MODEL_QWEN3;
	c->q_bias = c->architecture == MODEL_QWEN2;
	if (c->architecture == MODEL_LLAMA || c->architecture == MODEL_QWEN3)
		c->q_bias = c->o_bias = bias;
	if (c->architecture == MODEL_LLAMA)
		c->mlp_bias = get_bool(s, "mlp_bias", false);
}

static void read_shape(struct source *s, struct model_config *c)
{
	c->vocab = get_u32(s, "vocab_size", 1, 1 << 22, 0);
	c->hidden = get_u32(s, "hidden_size", 1, 1 << 16, 0);
	c->layers = get_u32(s, "num_hidden_layers", 1, MODEL_MAX_LAYERS, 0);
	c->intermediate = get_u32(s, "intermediate_size", 1, 1 << 18, 0);
	c->heads = get_u32(s, "num_attention_heads", 1, 1 << 10, 0);
	/* null says as many; absent, that is so for Llama only. */
	c->kv_heads = get_u32(s, "num_key_value_heads", 1, 1 << 10,
		c->architecture == MODEL_LLAMA || says_null(s, "num_key_value_heads") ? c->heads
										      : 0);
	c->max_positions = get_u32(s, "max_position_embeddings", 1, MAX_POSITIONS, 0);
	c->norm_eps = get_double(s, "rms_norm_eps", 1e-12, 1e-1, 1e-6);
	if (s->error == 0 && c->heads % c->kv_heads != 0)
		wrong(s, -ERANGE, "num_attention_heads", "is no multiple of num_key_value_heads");
}

static void read_head_dim(struct source *s, struct model_config *c)
{
	uint32_t preset = c->architecture == MODEL_QWEN3 ? 128 : 0;

	if (s->error != 0)
		return;
	if (preset == 0 && member(s, "head_dim") == NULL) {
		if (c->hidden % c->heads != 0)
			wrong(s, -ERANGE, "hidden_size", "is no multiple of num_attention_heads");
		preset = c->hidden / c->heads;
	}
	c->head_dim = preset;
	if (member(s, "head_dim") != NULL)
		c->head_dim = get_u32(s, "head_dim", 2, 1 << 10, 0);
	if (s->error == 0 && (c->head_dim == 0 || c->head_dim % 2 != 0 || c->head_dim > 1 << 10))
		wrong(s, -ERANGE, "the dimension of a head", "is not an even number up to 1024");
}

/* --- Positions ------------------------------------------------------------------------------ */

/* Without original_max_position_embeddings, all positions of the model are the original ones. */
static void read_llama3(struct source *s, struct model_rope *rope)
{
	rope->low_freq_factor = get_double(s, "low_freq_factor", 1e-3, 1e3, 0);
	rope->high_freq_factor = get_double(s, "high_freq_factor", 1e-3, 1e3, 0);
	rope->original_positions = get_u32(
		s, "original_max_position_embeddings", 1, MAX_POSITIONS, rope->original_positions);
	if (s->error == 0 && rope->high_freq_factor <= rope->low_freq_factor)
		wrong(s, -ERANGE, "high_freq_factor", "is not above low_freq_factor");
}

static void read_scaling(struct source *s, struct model_rope *rope)
{
	const char *type = get_string(s, "rope_type");

	if (type[0] == '\0')
		type = get_string(s, "type");
	refuse_partial_rotation(s);
	rope->theta = get_double(s, "rope_theta", 1, 1e12, rope->theta);
	if (type[0] == '\0' || strcmp(type, "default") == 0)
		return;
	if (strcmp(type, "linear") == 0)
		rope->scaling = MODEL_ROPE_LINEAR;
	else if (strcmp(type, "llama3") == 0)
		rope->scaling = MODEL_ROPE_LLAMA3;
	else if (s->error == 0)
		s->error = model_fail(s->why, -EOPNOTSUPP,
			"%s: RoPE scaling \"%.100s\" is not one that gpuq computes: linear, llama3",
			s->name, type);
	rope->factor = get_double(s, "factor", 1, 1e4, 0);
	if (rope->scaling == MODEL_ROPE_LLAMA3)
		read_llama3(s, rope);
}

/*
 * rope_scaling, or rope_parameters as newer files have it, with theta inside; where both say
 * something, the first one counts.
 */
static void read_rope(struct source *s, struct model_config *c)
{
	const json_t *scaling = member(s, "rope_scaling");
	const bool none =
		scaling == NULL || (json_is_object(scaling) && json_object_size(scaling) == 0);
	const char *key = none ? "rope_parameters" : "rope_scaling";
	struct source inner = {member(s, key), s->name, s->error, s->why};
	struct model_rope *rope = &c->rope;

	rope->factor = 1;
	rope->theta = get_double(s, "rope_theta", 1, 1e12, 10000);
	rope->original_positions = c->max_positions;
	if (inner.json == NULL)
		return;
	if (json_is_object(inner.json))
		read_scaling(&inner, rope);
	else
		wrong(&inner, -EBADMSG, key, "is not an object");
	s->error = s->error != 0 ? s->error : inner.error;
}

/* --- Window --------------------------------------------------------------------------------- */

static void read_layer_types(struct source *s, const json_t *types, struct model_config *c)
{
	if (!json_is_array(types) || json_array_size(types) != c->layers) {
		wrong(s, -EBADMSG, "layer_types", "is not a list with an entry for each layer");
		return;
	}
	for (uint32_t i = 0; i < c->layers; i++) {
		const char *type = json_string_value(json_array_get(types, i));

		if (type != NULL && strcmp(type, "sliding_attention") == 0)
			c->windowed[i] = true;
		else if (type == NULL || strcmp(type, "full_attention") != 0)
			wrong(s, -EOPNOTSUPP, "layer_types",
				"has other entries than full_attention and sliding_attention");
	}
}

/*
 * Mistral: all layers, whatever layer_types says; Qwen: those from max_window_layers on, unless
 * layer_types says which.
 */
static void read_window(struct source *s, struct model_config *c)
{
	bool qwen = c->architecture == MODEL_QWEN2 || c->architecture == MODEL_QWEN3;
	const json_t *types;
	uint32_t first = 0;

	if (s->error != 0 || c->architecture == MODEL_LLAMA)
		return;
	if (says_null(s, "sliding_window") || (qwen && !get_bool(s, "use_sliding_window", false)))
		return;
	c->window = get_u32(s, "sliding_window", 1, MAX_POSITIONS, 4096);
	types = qwen ? member(s, "layer_types") : NULL;
	if (types != NULL) {
		read_layer_types(s, types, c);
		return;
	}
	if (qwen)
		first = get_u32(s, "max_window_layers", 0, 1 << 16, 28);
	for (uint32_t i = first; i < c->layers; i++)
		c->windowed[i] = true;
}

/* --- Ends of text --------------------------------------------------------------------------- */

static void add_eos(struct source *s, const json_t *id, struct model_config *c)
{
	json_int_t n = json_integer_value(id);

	if (!json_is_integer(id) || n < 0 || n >= c->vocab)
		wrong(s, -ERANGE, "eos_token_id", "is not a token of the vocabulary");
	else if (c->eos_count == MODEL_MAX_EOS)
		wrong(s, -ERANGE, "eos_token_id", "has more than 16 tokens");
	else
		c->eos[c->eos_count++] = (int32_t)n;
}

/* Whether it says anything. */
static bool read_eos(struct source *s, struct model_config *c)
{
	const json_t *eos = member(s, "eos_token_id");

	if (eos == NULL || s->error != 0)
		return false;
	if (!json_is_array(eos))
		add_eos(s, eos, c);
	for (size_t i = 0; i < json_array_size(eos); i++)
		add_eos(s, json_array_get(eos, i), c);
	return true;
}

/* generation_config.json knows better, when it is there: chat models end at several tokens. */
static int read_all_eos(struct source *config, int dir_fd, struct model_config *c)
{
	json_t *json;
	int err = model_json_load(dir_fd, GENERATION, DEPTH, &json, config->why);

	if (err == 0) {
		struct source generation = {json, GENERATION, 0, config->why};
		bool said = read_eos(&generation, c);

		json_decref(json);
		if (said)
			return generation.error;
	} else if (err != -ENOENT) {
		return err;
	}
	read_eos(config, c);
	return config->error;
}

int model_config_load(int dir_fd, struct model_config *ret_config, struct model_why *why)
{
	struct model_config c = {0};
	json_t *json;
	int err = model_json_load(dir_fd, CONFIG, DEPTH, &json, why);

	if (err < 0)
		return err;
	struct source s = {json, CONFIG, 0, why};
	read_architecture(&s, &c);
	read_variants(&s, &c);
	read_shape(&s, &c);
	read_head_dim(&s, &c);
	read_rope(&s, &c);
	read_window(&s, &c);
	err = s.error != 0 ? s.error : read_all_eos(&s, dir_fd, &c);
	json_decref(json);
	if (err == 0)
		*ret_config = c;
	return err;
}
