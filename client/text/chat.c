/* SPDX-License-Identifier: MIT */
/*
 * chat.c: chats in the formats of Llama 2, Llama 3 and ChatML: which one a model was made for, and
 * what a turn of it looks like. What users and systems say is literal: it cannot hold special
 * tokens, so nobody ends his turn and speaks as somebody else.
 */
#include "client/text/chat.h"
#include "client/text/json.h"
#include "client/text/tokenizer.h"
#include "client/text/writer.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#define TEMPLATE_MAX (16u << 20)
#define N_FORMATS 4u

struct gpuq_chat {
	enum gpuq_chat_format format;
	struct gpuq_writer *writer;
	char *system; /* of the turn that is still to come; NULL: none, or said */
	bool begun;
	uint32_t end; /* the token */
};

static const struct format {
	const char *name;
	const char *tokens[5]; /* that it needs; the last one ends an answer */
} formats[N_FORMATS] = {
	[GPUQ_CHAT_LLAMA2] = {"llama2", {"<s>", "</s>"}},
	[GPUQ_CHAT_LLAMA3] = {"llama3",
		{"<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"}},
	[GPUQ_CHAT_CHATML] = {"chatml", {"<|im_start|>", "<|im_end|>"}},
};

/* --- Which format ---------------------------------------------------------------------------- */

const char *gpuq_chat_format_name(enum gpuq_chat_format format)
{
	return format > 0 && format < N_FORMATS ? formats[format].name : NULL;
}

/* What only a template of this kind has in it; the first that is found decides. */
static const struct mark {
	const char *text;
	enum gpuq_chat_format format; /* 0: one that is not known here */
	const char *name;
} marks[] = {
	{"<|start_header_id|>", GPUQ_CHAT_LLAMA3, NULL},
	{"<|im_middle|>", 0, "Kimi"},
	{"<|im_sep|>", 0, "Phi-4"},
	{"<|im_start|>", GPUQ_CHAT_CHATML, NULL},
	{"<<SYS>>", GPUQ_CHAT_LLAMA2, NULL},
	{"[INST]", 0, "Mistral"},
	{"<start_of_turn>", 0, "Gemma"},
	{"<|header_start|>", 0, "Llama 4"},
	{"<|start|>", 0, "gpt-oss (harmony)"},
	{"<|end|>", 0, "Phi-3"},
	{"<|assistant|>", 0, "Zephyr"},
	{"<\uff5cAssistant\uff5c>", 0, "DeepSeek"},
	{"<|START_OF_TURN_TOKEN|>", 0, "Command R"},
	{"<|turn>", 0, "Gemma 4"},
	{"ASSISTANT:", 0, "Vicuna"},
	{"### Response:", 0, "Alpaca"},
};

static int recognise(const char *template, const char *where, enum gpuq_chat_format *ret_format)
{
	for (size_t i = 0; i < sizeof(marks) / sizeof(marks[0]); i++) {
		if (strstr(template, marks[i].text) == NULL)
			continue;
		if (marks[i].format == 0)
			return text_fail(-ENOTSUP,
				"%s asks for the chat format of %s; gpuq knows llama2, llama3 and "
				"chatml",
				where, marks[i].name);
		*ret_format = marks[i].format;
		return 0;
	}
	return text_fail(-ENOTSUP,
		"%s asks for a chat format that gpuq does not know; it knows llama2, llama3 and "
		"chatml",
		where);
}

/* A string; or a list of named ones, of which one is the default. */
static const char *template_in(const json_t *config)
{
	const json_t *value = json_object_get(config, "chat_template");
	const json_t *named;
	size_t i;

	json_array_foreach(value, i, named)
	{
		const char *name = json_string_value(json_object_get(named, "name"));

		if (name != NULL && strcmp(name, "default") == 0)
			return json_string_value(json_object_get(named, "template"));
	}
	return json_string_value(value);
}

static int detect_in_config(
	const char *path, const struct bytes *text, enum gpuq_chat_format *ret_format)
{
	json_error_t error;
	json_t *config = json_loadb(text->data, text->n, JSON_REJECT_DUPLICATES, &error);
	const char *template = template_in(config);
	int r;

	if (config == NULL)
		r = text_fail(-EINVAL, "%s, line %d: %s", path, error.line, error.text);
	else if (template == NULL)
		r = text_fail(-ENOENT, "%s has no chat_template", path);
	else
		r = recognise(template, path, ret_format);
	json_decref(config);
	return r;
}

static int detect_in(const char *folder, const char *name, enum gpuq_chat_format *ret_format)
{
	struct bytes text = {0};
	char path[4096];
	const int n = snprintf(path, sizeof(path), "%s/%s", folder, name);

	if (n < 0 || (size_t)n >= sizeof(path))
		return text_fail(-ENAMETOOLONG, "the path of the model's folder is too long");
	int r = text_read_file(path, TEMPLATE_MAX, &text);
	if (r == 0)
		r = bytes_append(&text, "", 1);
	if (r == 0 && strcmp(name, "tokenizer_config.json") == 0) {
		text.n--;
		r = detect_in_config(path, &text, ret_format);
	} else if (r == 0) {
		r = recognise(text.data, path, ret_format);
	}
	free(text.data);
	return r;
}

int gpuq_chat_detect(const char *folder, enum gpuq_chat_format *ret_format)
{
	int r = detect_in(folder, "chat_template.jinja", ret_format);

	if (r == -ENOENT)
		r = detect_in(folder, "tokenizer_config.json", ret_format);
	if (r == -ENOENT)
		return text_fail(r,
			"%s has no chat template, so the model may be made for going on with texts "
			"only; say the format (llama2, llama3, chatml) to chat all the same",
			folder);
	return r;
}

/* --- Turns ----------------------------------------------------------------------------------- */

struct parts {
	struct gpuq_text_part *list;
	uint32_t n;
};

static void add(struct parts *p, const char *text)
{
	p->list[p->n++] = (struct gpuq_text_part){.text = text, .bytes = strlen(text)};
}

static void add_said(struct parts *p, struct span said)
{
	p->list[p->n++] =
		(struct gpuq_text_part){.text = said.data, .bytes = said.n, .literal = true};
}

static struct span trim(struct span s)
{
	const size_t start = space_at_start(s);

	s = span_of(s.data + start, s.n - start);
	s.n -= space_at_end(s);
	return s;
}

static void add_llama2(struct parts *p, const struct chat_turn *t, struct span message)
{
	if (t->open)
		add(p, "</s>");
	add(p, "<s>[INST] ");
	if (t->system != NULL) {
		add(p, "<<SYS>>\n");
		add_said(p, span_of(t->system, strlen(t->system)));
		message.n -= space_at_end(message);
		add(p, message.n > 0 ? "\n<</SYS>>\n\n" : "\n<</SYS>>");
	} else {
		message = trim(message);
	}
	add_said(p, message);
	add(p, " [/INST]");
}

static void add_llama3(struct parts *p, const struct chat_turn *t, struct span message)
{
	if (t->open)
		add(p, "<|eot_id|>");
	if (t->first)
		add(p, "<|begin_of_text|>");
	if (t->system != NULL) {
		add(p, "<|start_header_id|>system<|end_header_id|>\n\n");
		add_said(p, trim(span_of(t->system, strlen(t->system))));
		add(p, "<|eot_id|>");
	}
	add(p, "<|start_header_id|>user<|end_header_id|>\n\n");
	add_said(p, trim(message));
	add(p, "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n");
}

static void add_chatml(struct parts *p, const struct chat_turn *t, struct span message)
{
	if (t->open)
		add(p, "<|im_end|>");
	if (!t->first)
		add(p, "\n");
	if (t->system != NULL) {
		add(p, "<|im_start|>system\n");
		add_said(p, span_of(t->system, strlen(t->system)));
		add(p, "<|im_end|>\n");
	}
	add(p, "<|im_start|>user\n");
	add_said(p, message);
	add(p, "<|im_end|>\n<|im_start|>assistant\n");
}

uint32_t chat_parts(const struct chat_turn *turn, struct gpuq_text_part *parts)
{
	const struct span message = span_of(turn->message, turn->bytes);
	struct parts p = {.list = parts};

	if (turn->format == GPUQ_CHAT_LLAMA2)
		add_llama2(&p, turn, message);
	else if (turn->format == GPUQ_CHAT_LLAMA3)
		add_llama3(&p, turn, message);
	else
		add_chatml(&p, turn, message);
	return p.n;
}

const char *chat_end(enum gpuq_chat_format format)
{
	const char *const *token = formats[format].tokens;

	while (token[1] != NULL)
		token++;
	return *token;
}

/* --- Chats ----------------------------------------------------------------------------------- */

/* A special token that is normalised could not be told from what a user says. */
static int check_tokens(const struct gpuq_tokenizer *t, enum gpuq_chat_format format)
{
	for (const char *const *token = formats[format].tokens; *token != NULL; token++) {
		const struct added_token *added =
			added_by_text(&t->added, span_of(*token, strlen(*token)));

		if (added == NULL || (added->special && added->normalized))
			return text_fail(-ENOTSUP,
				"the chat format %s needs the token %s, which the tokenizer %s",
				formats[format].name, *token,
				added == NULL ? "lacks" : "normalises");
	}
	return 0;
}

static int init(struct gpuq_chat *c, struct gpuq_channel *channel,
	const struct gpuq_writer_options *writer, const char *system)
{
	const struct gpuq_tokenizer *t = writer->tokenizer;
	const char *end = chat_end(c->format);
	int r = gpuq_writer_create(channel, writer, &c->writer);

	if (r < 0)
		return r;
	c->end = added_by_text(&t->added, span_of(end, strlen(end)))->id;
	writer_set_end(c->writer, c->end);
	if (system == NULL)
		return 0;
	c->system = span_copy(span_of(system, strlen(system)));
	return c->system == NULL ? text_no_memory() : 0;
}

int gpuq_chat_create(struct gpuq_channel *channel, const struct gpuq_writer_options *writer,
	const struct gpuq_chat_options *options, struct gpuq_chat **ret_chat)
{
	if (gpuq_chat_format_name(options->format) == NULL)
		return text_fail(-EINVAL, "there is no chat format %d", (int)options->format);
	int r = check_tokens(writer->tokenizer, options->format);
	if (r < 0)
		return r;
	struct gpuq_chat *c = calloc(1, sizeof(*c));
	if (c == NULL)
		return text_no_memory();
	c->format = options->format;
	r = init(c, channel, writer, options->system);
	if (r < 0) {
		gpuq_chat_destroy(c);
		return r;
	}
	*ret_chat = c;
	return 0;
}

void gpuq_chat_destroy(struct gpuq_chat *chat)
{
	if (chat == NULL)
		return;
	gpuq_writer_destroy(chat->writer);
	free(chat->system);
	free(chat);
}

struct gpuq_writer *gpuq_chat_writer(const struct gpuq_chat *chat)
{
	return chat->writer;
}

int64_t gpuq_chat_say(struct gpuq_chat *chat, const char *message, size_t bytes)
{
	const struct chat_turn turn = {
		.format = chat->format,
		.first = !chat->begun,
		.open = chat->begun && !writer_ends_with(chat->writer, chat->end),
		.system = chat->system,
		.message = message,
		.bytes = bytes,
	};
	struct gpuq_text_part parts[CHAT_PARTS_MAX];
	int64_t n = writer_read_parts(chat->writer, parts, chat_parts(&turn, parts));

	if (n < 0)
		return n;
	chat->begun = true;
	free(chat->system);
	chat->system = NULL;
	return n;
}
