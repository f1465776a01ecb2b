/* SPDX-License-Identifier: MIT */
/* pattern.c: compiles and searches patterns; pattern_translate.c knows the syntax. */
#include "client/text/pattern.h"

#include "client/text/pattern_translate.h"

#include <stdlib.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#define JIT_STACK_MIN (32u << 10)
#define JIT_STACK_MAX (1u << 20)
#define HEAP_LIMIT_KIB (64u << 10)
/* Steps of one search: room for any usual pattern, and for a few passes over the text. */
#define STEPS_MIN 10000000u
#define STEPS_PER_BYTE 16u

struct pattern {
	pcre2_code *code; /* NULL: a literal */
	bool jit;
	struct bytes literal;
};

struct matcher {
	pcre2_match_data *data;
	pcre2_match_context *context;
	pcre2_jit_stack *stack;
};

static int refuse_regex(struct span regex, int error, size_t offset)
{
	PCRE2_UCHAR why[200];

	pcre2_get_error_message(error, why, sizeof(why));
	return text_fail(-EINVAL, "the pattern '%.*s' is not valid: %s, at %zu", (int)regex.n,
		regex.data, (const char *)why, offset);
}

static int compile(struct span regex, struct pattern **ret_pattern)
{
	const uint32_t options =
		PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C | PCRE2_NO_AUTO_CAPTURE;
	pcre2_compile_context *context = pcre2_compile_context_create(NULL);
	struct pattern *p = calloc(1, sizeof(*p));
	PCRE2_SIZE offset;
	int error;

	if (context == NULL || p == NULL) {
		pcre2_compile_context_free(context);
		free(p);
		return text_no_memory();
	}
	pcre2_set_newline(context, PCRE2_NEWLINE_LF);
	p->code = pcre2_compile((PCRE2_SPTR)regex.data, regex.n, options, &error, &offset, context);
	pcre2_compile_context_free(context);
	if (p->code == NULL) {
		free(p);
		return refuse_regex(regex, error, offset);
	}
	/* Where memory must not be executable the interpreter does it, slower. */
	p->jit = pcre2_jit_compile(p->code, PCRE2_JIT_COMPLETE) == 0;
	*ret_pattern = p;
	return 0;
}

int pattern_create(struct span regex, struct pattern **ret_pattern)
{
	struct bytes native = {0};
	int r = pattern_translate(regex, &native);

	if (r == 0)
		r = compile(bytes_span(&native), ret_pattern);
	free(native.data);
	return r;
}

int pattern_create_native(const char *regex, struct pattern **ret_pattern)
{
	return compile(span_of(regex, strlen(regex)), ret_pattern);
}

int pattern_create_literal(struct span literal, struct pattern **ret_pattern)
{
	if (literal.n == 0)
		return pattern_create_native("", ret_pattern);
	struct pattern *p = calloc(1, sizeof(*p));
	if (p == NULL)
		return text_no_memory();
	int r = bytes_append(&p->literal, literal.data, literal.n);
	if (r < 0) {
		free(p);
		return r;
	}
	*ret_pattern = p;
	return 0;
}

void pattern_destroy(struct pattern *pattern)
{
	if (pattern == NULL)
		return;
	pcre2_code_free(pattern->code);
	free(pattern->literal.data);
	free(pattern);
}

int matcher_create(struct matcher **ret_matcher)
{
	struct matcher *m = calloc(1, sizeof(*m));

	if (m == NULL)
		return text_no_memory();
	m->data = pcre2_match_data_create(1, NULL);
	m->context = pcre2_match_context_create(NULL);
	m->stack = pcre2_jit_stack_create(JIT_STACK_MIN, JIT_STACK_MAX, NULL);
	if (m->data == NULL || m->context == NULL || m->stack == NULL) {
		matcher_destroy(m);
		return text_no_memory();
	}
	pcre2_jit_stack_assign(m->context, NULL, m->stack);
	pcre2_set_heap_limit(m->context, HEAP_LIMIT_KIB);
	*ret_matcher = m;
	return 0;
}

void matcher_destroy(struct matcher *matcher)
{
	if (matcher == NULL)
		return;
	pcre2_match_data_free(matcher->data);
	pcre2_match_context_free(matcher->context);
	pcre2_jit_stack_free(matcher->stack);
	free(matcher);
}

void matcher_limit(struct matcher *matcher, size_t bytes)
{
	size_t steps = STEPS_MIN + STEPS_PER_BYTE * bytes;

	pcre2_set_match_limit(matcher->context, steps > UINT32_MAX ? UINT32_MAX : (uint32_t)steps);
}

static int find_literal(
	struct span literal, struct span text, size_t from, size_t *ret_start, size_t *ret_end)
{
	const char *at = memmem(text.data + from, text.n - from, literal.data, literal.n);

	if (at == NULL)
		return 0;
	*ret_start = (size_t)(at - text.data);
	*ret_end = *ret_start + literal.n;
	return 1;
}

static int search_failed(int error)
{
	PCRE2_UCHAR why[200];

	if (error == PCRE2_ERROR_NOMEMORY)
		return text_no_memory();
	pcre2_get_error_message(error, why, sizeof(why));
	return text_fail(-E2BIG,
		"a pattern of the tokenizer takes too long on this text (%s); encode it in parts",
		(const char *)why);
}

int pattern_find(const struct pattern *pattern, struct matcher *matcher, struct span text,
	size_t from, size_t *ret_start, size_t *ret_end)
{
	if (pattern->code == NULL)
		return find_literal(bytes_span(&pattern->literal), text, from, ret_start, ret_end);
	/* The JIT's own entry takes no options, and never checks UTF-8. */
	int n = pattern->jit ? pcre2_jit_match(pattern->code, (PCRE2_SPTR)text.data, text.n, from,
				       0, matcher->data, matcher->context)
			     : pcre2_match(pattern->code, (PCRE2_SPTR)text.data, text.n, from,
				       PCRE2_NO_UTF_CHECK, matcher->data, matcher->context);
	if (n == PCRE2_ERROR_NOMATCH)
		return 0;
	if (n < 0)
		return search_failed(n);
	const PCRE2_SIZE *offsets = pcre2_get_ovector_pointer(matcher->data);
	*ret_start = offsets[0];
	*ret_end = offsets[1];
	return 1;
}

/* Finds the next match behind p->match_end and sets `waiting`. */
static int find_next(struct pieces *p)
{
	size_t from = p->match_end;

	while (from <= p->text.n) {
		size_t start = 0, end = 0;
		int r = pattern_find(p->pattern, p->matcher, p->text, from, &start, &end);

		if (r <= 0)
			return r;
		if (end > start || !p->matched || end != p->match_end) {
			p->match_start = start;
			p->match_end = end;
			p->waiting = p->matched = true;
			return 1;
		}
		from += from < p->text.n ? utf8_length(p->text.data[from]) : 1;
	}
	return 0;
}

int pieces_next(struct pieces *p)
{
	p->start = p->end;
	if (!p->waiting && !p->exhausted) {
		int r = find_next(p);

		if (r < 0)
			return r;
		p->exhausted = r == 0;
	}
	p->is_match = p->waiting && p->match_start == p->start;
	if (p->is_match) {
		p->end = p->match_end;
		p->waiting = false;
		return 1;
	}
	p->end = p->waiting ? p->match_start : p->text.n;
	return p->end > p->start;
}

int pattern_replace(const struct pattern *pattern, struct matcher *matcher, struct span text,
	struct span by, struct bytes *out, size_t *ret_leading)
{
	struct pieces p = pieces_of(pattern, matcher, text);
	size_t leading = 0;
	int r;

	while ((r = pieces_next(&p)) > 0) {
		if (p.is_match)
			r = bytes_append(out, by.data, by.n);
		else
			r = bytes_append(out, text.data + p.start, p.end - p.start);
		if (r < 0)
			return r;
		if (p.is_match && p.start == 0)
			leading = p.end;
	}
	if (r == 0)
		*ret_leading = leading;
	return r;
}
