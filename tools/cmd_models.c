/* SPDX-License-Identifier: MIT */
/* gpuq models: the language models that gpuqd holds; gpuq load and gpuq unload. */
#include "tools/command.h"
#include "tools/top_table.h"

#include "shm/clock.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define PERIOD_NS 100000000 /* between two looks at a model that is being loaded */

static const char *state_text(uint32_t state)
{
	static const char *const texts[] = {"?", "loading", "ready", "failed", "unloading"};

	return texts[state < sizeof(texts) / sizeof(texts[0]) ? state : 0];
}

/* --- models -------------------------------------------------------------------------------- */

static json_t *shape_json(const struct gpuq_model_info *m)
{
	json_t *eos = json_array();

	for (uint32_t i = 0; i < m->n_eos; i++)
		json_array_append_new(eos, json_integer(m->eos[i]));
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o}", "vocab", (json_int_t)m->vocab,
		"hidden", (json_int_t)m->hidden, "layers", (json_int_t)m->layers, "heads",
		(json_int_t)m->heads, "kv_heads", (json_int_t)m->kv_heads, "head_dim",
		(json_int_t)m->head_dim, "max_tokens", (json_int_t)m->max_tokens, "eos", eos);
}

static json_t *counts_json(const struct gpuq_model_info *m)
{
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "prompt_tokens",
		(json_int_t)m->prompt_tokens, "computed_tokens", (json_int_t)m->computed_tokens,
		"shared_tokens", (json_int_t)m->shared_tokens, "generated_tokens",
		(json_int_t)m->generated_tokens, "steps", (json_int_t)m->steps, "rows",
		(json_int_t)m->rows, "evictions", (json_int_t)m->evictions, "preemptions",
		(json_int_t)m->preemptions);
}

/* Numbers of sequences of which steps have a graph. */
static json_t *captured_json(uint64_t batches)
{
	json_t *array = json_array();

	for (uint32_t i = 0; i < GPUQ_MAX_BATCH; i++) {
		if ((batches >> i & 1) != 0)
			json_array_append_new(array, json_integer(i + 1));
	}
	return array;
}

/* How many steps continued so many texts: {"1": 4711, "2": 12}. */
static json_t *batches_json(const uint64_t *batches)
{
	json_t *o = json_object();
	char name[12];

	for (uint32_t i = 0; i < GPUQ_MAX_BATCH; i++) {
		snprintf(name, sizeof(name), "%u", i + 1);
		if (batches[i] != 0)
			json_object_set_new(o, name, json_integer((json_int_t)batches[i]));
	}
	return o;
}

static json_t *steps_json(const struct gpuq_model_info *m)
{
	return json_pack("{s:I, s:I, s:I, s:I, s:o}", "decode_p50_ns", (json_int_t)m->decode_p50_ns,
		"decode_p99_ns", (json_int_t)m->decode_p99_ns, "prompt_p50_ns",
		(json_int_t)m->chunk_p50_ns, "prompt_p99_ns", (json_int_t)m->chunk_p99_ns,
		"decode_batches", batches_json(m->batches));
}

static json_t *graphs_json(const struct gpuq_model_info *m)
{
	return json_pack("{s:I, s:I, s:I, s:I, s:o}", "shapes", (json_int_t)m->shapes, "captured",
		(json_int_t)m->shapes_captured, "wished", (json_int_t)m->shapes_wished,
		"bucket_tokens", (json_int_t)m->bucket_tokens, "captured_batches",
		captured_json(m->captured_batches));
}

static json_t *model_json(const struct gpuq_model_info *m)
{
	json_t *o = json_pack("{s:s, s:s, s:s, s:s, s:b, s:o, s:I, s:I, s:I}", "name", m->name,
		"state", state_text(m->state), "architecture", m->architecture, "quant",
		m->int8 ? "int8" : "none", "deterministic", m->deterministic, "shape",
		shape_json(m), "bytes", (json_int_t)m->bytes, "loaded_bytes",
		(json_int_t)m->loaded_bytes, "total_bytes", (json_int_t)m->total_bytes);

	json_object_set_new(o, "sessions", json_integer(m->sessions));
	json_object_set_new(o, "max_sessions", json_integer(m->max_sessions));
	json_object_set_new(o, "kv_blocks", json_integer(m->kv_blocks));
	json_object_set_new(o, "kv_free_blocks", json_integer(m->kv_free_blocks));
	json_object_set_new(o, "kv_cached_blocks", json_integer(m->kv_cached_blocks));
	json_object_set_new(o, "weight_bytes", json_integer((json_int_t)m->weight_bytes));
	json_object_set_new(o, "kv_bytes", json_integer((json_int_t)m->cache_bytes));
	json_object_set_new(o, "counts", counts_json(m));
	json_object_set_new(o, "steps", steps_json(m));
	json_object_set_new(o, "graphs", graphs_json(m));
	if (m->state == GPUQ_MODEL_FAILED) {
		json_object_set_new(o, "error", json_string(gpuq_error_name(m->status)));
		json_object_set_new(o, "why", json_string(m->why));
	}
	return o;
}

static double share(uint64_t part, uint64_t whole)
{
	return whole == 0 ? 0 : 100.0 * (double)part / (double)whole;
}

static void print_model(const struct gpuq_model_info *m)
{
	const uint32_t used = m->kv_blocks - m->kv_free_blocks - m->kv_cached_blocks;
	char bytes[16], tokens[16], state[32], step[16] = "-", graphs[24];

	format_bytes(m->bytes, bytes, sizeof(bytes));
	format_count(m->prompt_tokens + m->generated_tokens, tokens, sizeof(tokens));
	snprintf(state, sizeof(state), "%s", state_text(m->state));
	if (m->state == GPUQ_MODEL_LOADING && m->total_bytes != 0)
		snprintf(state, sizeof(state), "%.0f %%", share(m->loaded_bytes, m->total_bytes));
	if (m->decode_p50_ns != 0)
		format_ns(m->decode_p50_ns, step, sizeof(step));
	snprintf(graphs, sizeof(graphs), "%u/%u", m->shapes_captured, m->shapes);
	printf("%-13s %-9s %-7s %6s %7u %4u %4.0f%% %6s %6s %8s%s%s\n", m->name, state,
		m->architecture, bytes, m->max_tokens, m->sessions, share(used, m->kv_blocks),
		tokens, step, graphs, m->int8 ? "  int8" : "",
		m->deterministic ? "  deterministic" : "");
	if (m->state == GPUQ_MODEL_FAILED)
		printf("%-13s %s: %s\n", "", gpuq_error_name(m->status), m->why);
}

static int list(struct gpuq *gpuq, bool json)
{
	json_t *array = json ? json_array() : NULL;
	struct gpuq_model_info m;
	uint32_t i;
	int r;

	if (!json)
		printf("%-13s %-9s %-7s %6s %7s %4s %5s %6s %6s %8s\n", "name", "state", "kind",
			"bytes", "context", "open", "kv", "tokens", "step", "captured");
	for (i = 0; (r = gpuq_model_info(gpuq, i, &m)) == 0; i++) {
		if (json)
			json_array_append_new(array, model_json(&m));
		else
			print_model(&m);
	}
	if (r != -ENOENT) {
		json_decref(array);
		return command_fail();
	}
	if (!json && i == 0)
		complain("there are none; see gpuq load --help");
	if (!json)
		return finish_output();
	return print_json(
		json_pack("{s:s, s:o}", "schema", "gpuq-models/1", "models", array), false);
}

static int run_models(struct invocation *v, int argc, char **argv)
{
	return command_list(v, argc, argv, list);
}

const struct command command_models = {
	.name = "models",
	.arguments = "[--json]",
	.summary = "List the language models that gpuqd holds",
	.help = "  -j, --json          as one JSON document, with shapes and counters\n",
	.run = run_models,
};

/* --- load ---------------------------------------------------------------------------------- */

static void show_progress(const struct gpuq_model_info *m)
{
	char done[16], total[16];

	if (!isatty(STDERR_FILENO) || m->total_bytes == 0)
		return;
	format_bytes(m->loaded_bytes, done, sizeof(done));
	format_bytes(m->total_bytes, total, sizeof(total));
	fprintf(stderr, "\r%s: %sB of %sB (%.0f %%) ", m->name, done, total,
		share(m->loaded_bytes, m->total_bytes));
}

int command_await_model(struct gpuq *gpuq, const char *name, struct gpuq_model_info *m)
{
	const struct timespec period = {.tv_nsec = PERIOD_NS};
	bool waited = false;
	int r;

	while ((r = gpuq_model_find(gpuq, name, m)) == 0 && m->state == GPUQ_MODEL_LOADING) {
		show_progress(m);
		nanosleep(&period, NULL);
		waited = true;
	}
	if (waited && isatty(STDERR_FILENO))
		fputs("\r\033[K", stderr);
	if (r < 0)
		return command_fail();
	if (m->state != GPUQ_MODEL_READY) {
		complain("%s: %s", name,
			m->state == GPUQ_MODEL_FAILED ? m->why : "it is being unloaded again");
		return EXIT_FAIL;
	}
	return EXIT_OK;
}

static int await_loaded(struct gpuq *gpuq, const char *name)
{
	const uint64_t start_ns = clock_monotonic_ns();
	struct gpuq_model_info m;
	int code = command_await_model(gpuq, name, &m);

	if (code != EXIT_OK)
		return code;
	printf("%s is ready: %s, %u layers, %u tokens of context, %.1f s\n", name, m.architecture,
		m.layers, m.max_tokens, (double)(clock_monotonic_ns() - start_ns) / 1e9);
	return finish_output();
}

static bool take_quant(const char *text, struct gpuq_load_options *o)
{
	o->int8 = strcmp(text, "int8") == 0;
	if (!o->int8 && strcmp(text, "none") != 0)
		complain("--quant: '%s' is neither none nor int8", text);
	return o->int8 || strcmp(text, "none") == 0;
}

static int run_load(struct invocation *v, int argc, char **argv)
{
	static const struct option longs[] = {
		{"quant", required_argument, NULL, 'q'},
		{"deterministic", no_argument, NULL, 'd'},
		{"no-wait", no_argument, NULL, 'n'},
		COMMAND_LONGS,
		{NULL},
	};
	struct gpuq_load_options o = {0};
	struct gpuq *gpuq;
	bool wait = true;
	int c;

	while ((c = command_option(v, argc, argv, COMMAND_SHORTS, longs)) != -1) {
		if (c == 'q' && !take_quant(optarg, &o))
			return EXIT_USAGE;
		o.deterministic |= c == 'd';
		wait = wait && c != 'n';
	}
	if (argc - optind != 2)
		return complain_usage("a name and a folder are needed");
	o.name = argv[optind];
	o.dir = argv[optind + 1];
	if (command_connect(v, true, &gpuq) < 0)
		return EXIT_FAIL;
	int code = gpuq_admin_load(gpuq, &o) < 0 ? command_fail() : EXIT_OK;
	if (code == EXIT_OK && wait)
		code = await_loaded(gpuq, o.name);
	gpuq_disconnect(gpuq);
	return code;
}

const struct command command_load = {
	.name = "load",
	.arguments = "NAME DIR [--quant int8] [--deterministic] [--no-wait]",
	.summary = "Load a language model from a Hugging Face folder",
	.help = "      --quant int8     quantise its matrices to 8 bits\n"
		"      --deterministic  results do not depend on what else is computed\n"
		"      --no-wait        return when loading has begun; see gpuq models\n",
	.run = run_load,
};

/* --- unload -------------------------------------------------------------------------------- */

static int run_unload(struct invocation *v, int argc, char **argv)
{
	static const struct option longs[] = {
		{"force", no_argument, NULL, 'f'}, COMMAND_LONGS, {NULL}};
	struct gpuq *gpuq;
	bool force = false;

	while (command_option(v, argc, argv, "f" COMMAND_SHORTS, longs) == 'f')
		force = true;
	if (argc - optind != 1)
		return complain_usage("the name of one model is needed");
	if (command_connect(v, true, &gpuq) < 0)
		return EXIT_FAIL;
	int code = gpuq_admin_unload(gpuq, argv[optind], force) < 0 ? command_fail() : EXIT_OK;
	gpuq_disconnect(gpuq);
	return code;
}

const struct command command_unload = {
	.name = "unload",
	.arguments = "NAME [--force]",
	.summary = "Unload a language model",
	.help = "  -f, --force         end its sessions, if there are any\n",
	.run = run_unload,
};
