/* SPDX-License-Identifier: MIT */
/*
 * gpuq tokenize, gpuq detokenize: from text to the ids of a model's tokenizer, and back. They
 * need no gpuqd: the tokenizer works in this process.
 */
#include "client/text/gpuq-text.h"
#include "tools/command.h"
#include "tools/input.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What the command line says. */
struct request {
	const char *tokenizer;
	bool json, special, literal;
};

static int read_request(
	struct invocation *v, int argc, char **argv, bool literal, struct request *ret_request)
{
	/* The first is for tokenize only. */
	static const struct option longs[] = {{"literal", no_argument, NULL, 'l'},
		{"tokenizer", required_argument, NULL, 't'}, {"json", no_argument, NULL, 'j'},
		{"special", no_argument, NULL, 'S'}, COMMAND_LONGS, {NULL}};
	const char *shorts = literal ? "lt:jS" COMMAND_SHORTS : "t:jS" COMMAND_SHORTS;
	struct request q = {0};
	int c;

	while ((c = command_option(v, argc, argv, shorts, longs + !literal)) != -1) {
		if (c == 't')
			q.tokenizer = optarg;
		else if (c == 'j')
			q.json = true;
		else if (c == 'S')
			q.special = true;
		else
			q.literal = true;
	}
	if (q.tokenizer == NULL)
		return complain_usage("which tokenizer? give -t FILE, or -t FOLDER of a model");
	*ret_request = q;
	return EXIT_OK;
}

/* --- tokenize -------------------------------------------------------------------------------- */

static int print_ids_json(const struct gpuq_tokenizer *t, const uint32_t *ids, int64_t n)
{
	json_t *id_list = json_array(), *token_list = json_array();

	for (int64_t i = 0; i < n; i++) {
		const char *token;
		int64_t bytes = gpuq_tokenizer_token(t, ids[i], &token);

		json_array_append_new(id_list, json_integer(ids[i]));
		/* A template may name an id that no token has. */
		json_array_append_new(
			token_list, bytes < 0 ? json_null() : json_stringn(token, (size_t)bytes));
	}
	return print_json(json_pack("{s:s, s:I, s:o, s:o}", "schema", "gpuq-tokenize/1", "count",
				  (json_int_t)n, "ids", id_list, "tokens", token_list),
		false);
}

static int print_ids(const uint32_t *ids, int64_t n)
{
	for (int64_t i = 0; i < n; i++)
		printf("%s%u", i == 0 ? "" : " ", ids[i]);
	putchar('\n');
	return finish_output();
}

static int tokenize(
	const struct request *q, const struct gpuq_tokenizer *t, const char *text, size_t bytes)
{
	uint32_t flags =
		(q->special ? GPUQ_ENCODE_SPECIAL : 0u) | (q->literal ? GPUQ_ENCODE_LITERAL : 0u);
	struct gpuq_encoder *encoder;
	const uint32_t *ids;

	if (gpuq_encoder_create(t, &encoder) < 0)
		return command_fail();
	int64_t n = gpuq_encode(encoder, text, bytes, flags, &ids);
	int code = n < 0 ? command_fail() : q->json ? print_ids_json(t, ids, n) : print_ids(ids, n);
	gpuq_encoder_destroy(encoder);
	return code;
}

static int run_tokenize(struct invocation *v, int argc, char **argv)
{
	struct request q = {0};
	struct gpuq_tokenizer *t;
	char *input = NULL;
	int code = read_request(v, argc, argv, true, &q);

	if (code != EXIT_OK)
		return code;
	if (optind + 1 < argc)
		return complain_usage(
			"more than one text: '%s'; put it in quotes", argv[optind + 1]);
	if (gpuq_tokenizer_load(q.tokenizer, &t) < 0)
		return command_fail();
	const char *text = argv[optind];
	size_t bytes = text == NULL ? 0 : strlen(text);
	if (text == NULL || strcmp(text, "-") == 0) {
		code = input_read(NULL, &input, &bytes);
		text = input;
	}
	if (code == EXIT_OK)
		code = tokenize(&q, t, text, bytes);
	free(input);
	gpuq_tokenizer_destroy(t);
	return code;
}

/* --- detokenize ------------------------------------------------------------------------------ */

struct id_list {
	uint32_t *ids;
	size_t n, capacity;
};

static int add_id(struct id_list *list, unsigned long id)
{
	if (list->n == list->capacity) {
		size_t capacity = list->capacity * 2 + 64;
		uint32_t *larger = realloc(list->ids, capacity * sizeof(*larger));

		if (larger == NULL) {
			complain("no memory for the ids");
			return EXIT_FAIL;
		}
		list->ids = larger;
		list->capacity = capacity;
	}
	list->ids[list->n++] = (uint32_t)id;
	return EXIT_OK;
}

/* Numbers with white space or commas between them. */
static int add_ids(struct id_list *list, const char *text)
{
	static const char between[] = " \t\r\n,";

	for (text += strspn(text, between); *text != '\0'; text += strspn(text, between)) {
		int word = (int)strcspn(text, between);
		char *end;

		errno = 0;
		unsigned long id = strtoul(text, &end, 10);
		if (*text < '0' || *text > '9' || end != text + word || errno != 0 ||
			id > UINT32_MAX)
			return complain_usage("'%.*s' is not a token id", word, text);
		if (add_id(list, id) != EXIT_OK)
			return EXIT_FAIL;
		text = end;
	}
	return EXIT_OK;
}

/* The text as it is; on a terminal the prompt begins a new line all the same. */
static int print_text(const char *text, size_t bytes)
{
	fwrite(text, 1, bytes, stdout);
	if (isatty(STDOUT_FILENO) && (bytes == 0 || text[bytes - 1] != '\n'))
		putchar('\n');
	return finish_output();
}

static int detokenize(
	const struct request *q, const struct gpuq_tokenizer *t, const struct id_list *list)
{
	struct gpuq_decoder *decoder;
	const char *text;

	/* Here the option asks for them; in the library the flag leaves them out. */
	if (gpuq_decoder_create(t, q->special ? 0 : GPUQ_DECODE_SKIP_SPECIAL, &decoder) < 0)
		return command_fail();
	int64_t n = gpuq_decode(decoder, list->ids, list->n, &text);
	int code = EXIT_OK;
	if (n < 0)
		code = command_fail();
	else if (q->json)
		code = print_json(
			json_pack("{s:s, s:I, s:o}", "schema", "gpuq-detokenize/1", "count",
				(json_int_t)list->n, "text", json_stringn(text, (size_t)n)),
			false);
	else
		code = print_text(text, (size_t)n);
	gpuq_decoder_destroy(decoder);
	return code;
}

static int read_ids(char **words, struct id_list *list)
{
	char *input;
	size_t bytes;
	int code = EXIT_OK;

	if (words[0] != NULL && strcmp(words[0], "-") != 0) {
		for (int i = 0; code == EXIT_OK && words[i] != NULL; i++)
			code = add_ids(list, words[i]);
		return code;
	}
	code = input_read(NULL, &input, &bytes);
	if (code != EXIT_OK)
		return code;
	code = strlen(input) == bytes
		? add_ids(list, input)
		: complain_usage("standard input has a zero byte: are these ids?");
	free(input);
	return code;
}

static int run_detokenize(struct invocation *v, int argc, char **argv)
{
	struct id_list list = {0};
	struct request q = {0};
	struct gpuq_tokenizer *t = NULL;
	int code = read_request(v, argc, argv, false, &q);

	if (code == EXIT_OK)
		code = read_ids(argv + optind, &list);
	if (code == EXIT_OK && gpuq_tokenizer_load(q.tokenizer, &t) < 0)
		code = command_fail();
	if (code == EXIT_OK)
		code = detokenize(&q, t, &list);
	gpuq_tokenizer_destroy(t);
	free(list.ids);
	return code;
}

const struct command command_tokenize = {
	.name = "tokenize",
	.arguments = "-t FILE|FOLDER [--json] [--special] [--literal] [TEXT|-]",
	.summary = "Show the token ids of a text; needs no gpuqd",
	.help = "  -t, --tokenizer PATH  a tokenizer.json, or the folder of a model that has one\n"
		"  -S, --special       with the special tokens that the file puts around a text\n"
		"  -l, --literal       special tokens that are written in the text are text\n"
		"  -j, --json          as one JSON document, with the tokens\n",
	.run = run_tokenize,
};

const struct command command_detokenize = {
	.name = "detokenize",
	.arguments = "-t FILE|FOLDER [--json] [--special] [ID...|-]",
	.summary = "Show the text of token ids; needs no gpuqd",
	.help = "  -t, --tokenizer PATH  a tokenizer.json, or the folder of a model that has one\n"
		"  -S, --special       special tokens too\n"
		"  -j, --json          as one JSON document\n",
	.run = run_detokenize,
};
