/* SPDX-License-Identifier: MIT */
/*
 * values.c: writes what the operators of a model's step make of some tokens, layer by layer, one
 * .npy file for each value, to be compared with those of another implementation. It measures
 * nothing; it is here because only this program computes models without a gpuqd.
 */
#include "bench/llm.h"

#include "models/trace.h"
#include "tools/npy.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct writing {
	const char *out;
	uint32_t files;
};

static int write_file(const struct writing *w, const char *name, uint32_t dtype, uint32_t rank,
	const uint64_t *dims, const void *data)
{
	char path[4096], why[256];
	int e;

	snprintf(path, sizeof(path), "%s/%s.npy", w->out, name);
	e = npy_write(path, dtype, rank, dims, data, why, sizeof(why));
	if (e < 0)
		complain(0, "%s: %s", path, why);
	return e;
}

static int write_value(void *context, const struct model_value *v)
{
	const uint64_t dims[] = {v->rows, v->columns};
	struct writing *w = context;

	w->files++;
	return write_file(w, v->name, GPUQ_F32, 2, dims, v->data);
}

/* "1,2,3"; freed by the caller. */
static int32_t *parse_tokens(const char *text, uint32_t *ret_n)
{
	int32_t *tokens = calloc(strlen(text) + 1, sizeof(*tokens));
	const char *at = text;
	uint32_t n = 0;
	char *end;

	while (tokens != NULL) {
		errno = 0;
		const long value = strtol(at, &end, 10);
		if (end == at || errno != 0 || value < 0 || value > INT32_MAX)
			break;
		tokens[n++] = (int32_t)value;
		if (*end == '\0') {
			*ret_n = n;
			return tokens;
		}
		if (*end != ',')
			break;
		at = end + 1;
	}
	complain(0, "--tokens: '%s' is no list of tokens such as 1,2,3", text);
	free(tokens);
	return NULL;
}

static int trace(struct writing *w, const struct model *model, const int32_t *tokens, uint32_t n)
{
	const uint64_t dims[] = {n};
	int e = model_trace(model, tokens, n, write_value, w);

	if (e == -GPUQ_ETOKEN)
		complain(0, "--tokens: the model has tokens 0 to %u",
			model_config(model)->vocab - 1);
	else if (e == -GPUQ_ELIMIT)
		complain(0, "--tokens: %u are more than the model's %u", n,
			model_max_session_tokens(model));
	else if (e < 0)
		complain(e, "computing");
	return e < 0 ? e : write_file(w, "tokens", GPUQ_I32, 1, dims, tokens);
}

static int load_and_trace(
	struct bench *b, struct writing *w, int dir_fd, const int32_t *tokens, uint32_t n)
{
	struct model_options options = llm_options(b);
	struct llm_local *l = NULL;
	options.kv_blocks = n / KV_BLOCK_TOKENS + 1;
	options.step_tokens = options.step_rows = n;
	int e = llm_local_open(b, dir_fd, &options, cpus_count(), &l);

	if (e == 0)
		e = trace(w, llm_local_model(l), tokens, n);
	llm_local_close(l);
	return e;
}

int bench_values(struct bench *b)
{
	struct writing w = {.out = b->out};
	uint32_t n = 0;
	int e = -EINVAL;

	if (b->folder == NULL || b->tokens == NULL || b->out == NULL) {
		complain(0, "values: --folder, --tokens and --out are needed");
		return e;
	}
	int32_t *tokens = parse_tokens(b->tokens, &n);
	if (tokens == NULL)
		return e;
	cpus_free(0);
	int dir_fd = open(b->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	e = dir_fd < 0 ? -errno : 0;
	if (e < 0)
		complain(e, "%s", b->folder);
	if (e == 0 && mkdir(b->out, 0777) < 0 && errno != EEXIST) {
		e = -errno;
		complain(e, "%s", b->out);
	}
	if (e == 0)
		e = load_and_trace(b, &w, dir_fd, tokens, n);
	if (e == 0)
		report_line("%s: tokens and %u values of %u tokens\n", b->out, w.files, n);
	if (dir_fd >= 0)
		close(dir_fd);
	free(tokens);
	return e;
}
