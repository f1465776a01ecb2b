/* SPDX-License-Identifier: MIT */
/* tokenize.c: how fast texts are cut into tokens, here and by Hugging Face's library. */
#include "bench/text.h"
#include "client/text/gpuq-text.h"

#include <tokenizers.h>

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define TEXT_BYTES 10000000u
#define DOCUMENT_BYTES 10000u
#define PASSES 4u

/* All documents once; the number of tokens, or a negative error. */
static int64_t encode_all(struct gpuq_encoder *e, const char *text, size_t bytes)
{
	const uint32_t *ids;
	int64_t sum = 0;

	for (size_t at = 0; at < bytes; at += DOCUMENT_BYTES) {
		const size_t n = bytes - at < DOCUMENT_BYTES ? bytes - at : DOCUMENT_BYTES;
		int64_t r = gpuq_encode(e, text + at, n, 0, &ids);

		if (r < 0)
			return r;
		sum += r;
	}
	return sum;
}

/* The fastest of some passes. */
static int time_ours(const struct llm_folder *folder, const char *text, size_t bytes, double *ret_s,
	int64_t *ret_tokens)
{
	struct gpuq_tokenizer *t = NULL;
	struct gpuq_encoder *e = NULL;
	int64_t r = gpuq_tokenizer_load(folder->path, &t);

	if (r == 0)
		r = gpuq_encoder_create(t, &e);
	for (uint32_t i = 0; i < PASSES && r >= 0; i++) {
		const uint64_t start_ns = clock_monotonic_ns();

		r = encode_all(e, text, bytes);
		const double s = 1e-9 * (double)(clock_monotonic_ns() - start_ns);
		*ret_s = i == 0 || s < *ret_s ? s : *ret_s;
	}
	*ret_tokens = r;
	gpuq_encoder_destroy(e);
	gpuq_tokenizer_destroy(t);
	return r < 0 ? (int)r : 0;
}

/* Into a file of its own, whose name is put into the path. */
static bool write_text(char *path, size_t room, const char *text, size_t bytes)
{
	const char *where = getenv("TMPDIR");

	snprintf(path, room, "%s/gpuq-bench-XXXXXX", where != NULL ? where : "/tmp");
	int fd = mkstemp(path);
	FILE *f = fd < 0 ? NULL : fdopen(fd, "w");
	const bool ok = f != NULL && fwrite(text, 1, bytes, f) == bytes;

	return f != NULL && fclose(f) == 0 && ok;
}

/* {"tokenizers": VERSION, "seconds": of the fastest pass, "tokens": N}, or NULL. */
static json_t *time_theirs(
	struct bench *b, const struct llm_folder *folder, const char *text, size_t bytes)
{
	char path[300], tokenizer[300], size[16], passes[16];
	const char *const arguments[] = {tokenizer, path, size, passes, NULL};
	json_t *answer = NULL;

	snprintf(tokenizer, sizeof(tokenizer), "%s/tokenizer.json", folder->path);
	snprintf(size, sizeof(size), "%u", DOCUMENT_BYTES);
	snprintf(passes, sizeof(passes), "%u", PASSES);
	if (write_text(path, sizeof(path), text, bytes))
		answer = python_measure(b, "Hugging Face's tokenizers", tokenizers_py, arguments);
	else
		complain(-errno, "cannot write %s", path);
	unlink(path);
	return answer;
}

static void compare(struct bench *b, double ours_s, int64_t n, double megabytes, json_t *theirs)
{
	const double theirs_s = json_number_value(json_object_get(theirs, "seconds"));
	const json_int_t tokens = json_integer_value(json_object_get(theirs, "tokens"));

	report_line("tokenizers %s: %.1f MB/s\n",
		json_string_value(json_object_get(theirs, "tokenizers")), megabytes / theirs_s);
	report_check(b, fabs((double)(tokens - n)), 0,
		"tokenizer: how many tokens more or fewer than Hugging Face's, of %lld",
		(long long)n);
	report_check_at_least(b, theirs_s / ours_s, 1,
		"tokenizer, %.1f MB on one thread: speed, of Hugging Face's", megabytes);
	report_json(b, "tokenizers", theirs);
}

int text_compare_tokenizers(struct bench *b, const struct llm_folder *folder)
{
	const size_t bytes =
		b->samples > 0 && b->samples * 1000 < TEXT_BYTES ? b->samples * 1000 : TEXT_BYTES;
	char *text = malloc(bytes);
	double ours_s = 0;
	int64_t n = 0;

	if (text == NULL)
		return -ENOMEM;
	progress("tokenizing %.1f MB", 1e-6 * (double)bytes);
	text_fill(text, bytes, 1);
	int e = time_ours(folder, text, bytes, &ours_s, &n);
	if (e == 0) {
		const double megabytes = 1e-6 * (double)bytes;

		report_line("tokenizer: %.1f MB/s, %.2f bytes a token\n", megabytes / ours_s,
			(double)bytes / (double)n);
		report_figure(b, megabytes / ours_s, "tokenizer: MB/s on one thread");
		json_t *theirs = time_theirs(b, folder, text, bytes);
		if (theirs != NULL)
			compare(b, ours_s, n, megabytes, theirs);
	}
	free(text);
	return e;
}
