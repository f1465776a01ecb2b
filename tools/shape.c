/* SPDX-License-Identifier: MIT */
/* Symbolic shapes: parsing the texts, binding, inferring. */
#include "tools/shape.h"

#include <assert.h>
#include <ctype.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct term {
	char symbol[GPUQ_NAME_MAX]; /* empty: a number */
	uint64_t value;
};

struct form {
	bool leading; /* starts with ".." */
	uint32_t n_terms;
	struct term terms[GPUQ_MAX_RANK];
};

__attribute__((format(printf, 3, 4))) static int refuse(
	char *why, size_t why_size, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(why, why_size, format, args);
	va_end(args);
	return -EINVAL;
}

const char *shape_text(uint32_t rank, const uint64_t *dims, char *text, size_t size)
{
	size_t used = (size_t)snprintf(text, size, "[");

	for (uint32_t i = 0; i < rank && used < size; i++)
		used += (size_t)snprintf(text + used, size - used, "%s%llu", i > 0 ? "," : "",
			(unsigned long long)dims[i]);
	if (used < size)
		snprintf(text + used, size - used, "]");
	return text;
}

static const char *skip_space(const char *p)
{
	while (*p == ' ')
		p++;
	return p;
}

/* Reads a symbol or a number; NULL when there is neither. */
static const char *parse_term(const char *p, struct term *term)
{
	size_t n = 0;
	char *end;

	memset(term, 0, sizeof(*term));
	if (isdigit((unsigned char)*p)) {
		errno = 0;
		term->value = strtoull(p, &end, 10);
		return errno == 0 ? end : NULL;
	}
	while ((isalnum((unsigned char)*p) || *p == '_') && n + 1 < sizeof(term->symbol))
		term->symbol[n++] = *p++;
	return n > 0 ? p : NULL;
}

/* Skips what separates alternatives; NULL when p is not at one. */
static const char *next_form(const char *p)
{
	if (*p == '|')
		return p + 1;
	return strncmp(p, "or ", 3) == 0 ? p + 3 : NULL;
}

/* Reads one form; returns what follows it, or NULL when it is malformed. */
static const char *parse_form(const char *p, struct form *form)
{
	memset(form, 0, sizeof(*form));
	p = skip_space(p);
	if (*p++ != '[')
		return NULL;
	p = skip_space(p);
	if (strncmp(p, "..", 2) == 0) {
		form->leading = true;
		p = skip_space(p + 2);
		if (*p == ',')
			p = skip_space(p + 1);
	}
	while (*p != ']') {
		if (form->n_terms == GPUQ_MAX_RANK)
			return NULL;
		p = parse_term(p, &form->terms[form->n_terms++]);
		if (p == NULL)
			return NULL;
		p = skip_space(p);
		if (*p == ',')
			p = skip_space(p + 1);
		else if (*p != ']')
			return NULL;
	}
	return skip_space(p + 1);
}

static const struct shape_symbol *find(const struct shape_env *env, const char *name)
{
	for (uint32_t i = 0; i < env->n_symbols; i++) {
		if (strcmp(env->symbols[i].name, name) == 0)
			return &env->symbols[i];
	}
	return NULL;
}

static int bind_term(struct shape_env *env, const char *tensor, const struct term *term,
	uint64_t dim, char *why, size_t why_size)
{
	const struct shape_symbol *known = find(env, term->symbol);

	if (term->symbol[0] == '\0') {
		if (term->value == dim)
			return 0;
		return refuse(why, why_size, "a dimension of %s is %llu and has to be %llu", tensor,
			(unsigned long long)dim, (unsigned long long)term->value);
	}
	if (known != NULL) {
		if (known->value == dim)
			return 0;
		return refuse(why, why_size, "%s is %llu in %s but %llu in %s", term->symbol,
			(unsigned long long)known->value, known->tensor, (unsigned long long)dim,
			tensor);
	}
	if (env->n_symbols == SHAPE_SYMBOLS_MAX)
		return refuse(why, why_size, "more than %d symbols", SHAPE_SYMBOLS_MAX);
	struct shape_symbol *s = &env->symbols[env->n_symbols++];
	snprintf(s->name, sizeof(s->name), "%s", term->symbol);
	snprintf(s->tensor, sizeof(s->tensor), "%s", tensor);
	s->value = dim;
	return 0;
}

static int bind_leading(struct shape_env *env, const char *tensor, uint32_t rank,
	const uint64_t *dims, char *why, size_t why_size)
{
	char here[192], there[192];

	if (env->leading_tensor[0] == '\0') {
		snprintf(env->leading_tensor, sizeof(env->leading_tensor), "%s", tensor);
		env->leading_rank = rank;
		memcpy(env->leading, dims, rank * sizeof(*dims));
		return 0;
	}
	if (rank == env->leading_rank && memcmp(env->leading, dims, rank * sizeof(*dims)) == 0)
		return 0;
	return refuse(why, why_size, "the leading dimensions are %s in %s but %s in %s",
		shape_text(env->leading_rank, env->leading, there, sizeof(there)),
		env->leading_tensor, shape_text(rank, dims, here, sizeof(here)), tensor);
}

static int bind_form(struct shape_env *env, const char *tensor, const struct form *form,
	uint32_t rank, const uint64_t *dims, char *why, size_t why_size)
{
	uint32_t leading = rank - form->n_terms;
	int r = 0;

	if (form->leading)
		r = bind_leading(env, tensor, leading, dims, why, why_size);
	for (uint32_t i = 0; i < form->n_terms && r == 0; i++)
		r = bind_term(env, tensor, &form->terms[i], dims[leading + i], why, why_size);
	return r;
}

int shape_bind(struct shape_env *env, const char *tensor, const char *text, uint32_t rank,
	const uint64_t *dims, char *why, size_t why_size)
{
	bool rank_fits = false;
	const char *p = text;
	char dims_text[192], reason[256];
	struct form form;

	assert(rank <= GPUQ_MAX_RANK);
	do {
		p = parse_form(p, &form);
		if (p == NULL || (*p != '\0' && next_form(p) == NULL))
			return refuse(why, why_size, "%s has a shape text that cannot be read: %s",
				tensor, text);
		if (form.leading ? rank < form.n_terms : rank != form.n_terms)
			continue;
		struct shape_env trial = *env;
		char *here = rank_fits ? reason : why; /* the first reason is the one to tell */
		size_t here_size = rank_fits ? sizeof(reason) : why_size;
		if (bind_form(&trial, tensor, &form, rank, dims, here, here_size) == 0) {
			*env = trial;
			return 0;
		}
		rank_fits = true;
	} while ((p = next_form(p)) != NULL);
	if (rank_fits)
		return -EINVAL;
	return refuse(why, why_size, "%s is %s and has to be %s", tensor,
		shape_text(rank, dims, dims_text, sizeof(dims_text)), text);
}

/* Fills dims from the bound symbols; false, with the unknown one in *ret_unknown. */
static bool infer_form(const struct shape_env *env, const struct form *form, uint32_t *rank,
	uint64_t *dims, const char **ret_unknown)
{
	uint32_t n = form->leading ? env->leading_rank : 0;

	*ret_unknown = "..";
	if ((form->leading && env->leading_tensor[0] == '\0') || n + form->n_terms > GPUQ_MAX_RANK)
		return false;
	memcpy(dims, env->leading, n * sizeof(*dims));
	for (uint32_t i = 0; i < form->n_terms; i++) {
		const struct term *term = &form->terms[i];
		const struct shape_symbol *s = find(env, term->symbol);

		*ret_unknown = term->symbol;
		if (term->symbol[0] != '\0' && s == NULL)
			return false;
		dims[n + i] = s != NULL ? s->value : term->value;
	}
	*rank = n + form->n_terms;
	return true;
}

int shape_infer(const struct shape_env *env, const char *tensor, const char *text,
	uint32_t *ret_rank, uint64_t ret_dims[GPUQ_MAX_RANK], char *why, size_t why_size)
{
	uint64_t dims[GPUQ_MAX_RANK];
	const char *p = text, *unknown;
	char first_unknown[GPUQ_NAME_MAX] = "";
	struct form form;

	do {
		p = parse_form(p, &form);
		if (p == NULL || (*p != '\0' && next_form(p) == NULL))
			return refuse(why, why_size, "%s has a shape text that cannot be read: %s",
				tensor, text);
		if (infer_form(env, &form, ret_rank, dims, &unknown)) {
			memcpy(ret_dims, dims, *ret_rank * sizeof(*dims));
			return 0;
		}
		if (first_unknown[0] == '\0')
			snprintf(first_unknown, sizeof(first_unknown), "%s", unknown);
	} while ((p = next_form(p)) != NULL);
	return refuse(why, why_size, "the shape of %s, %s, needs %s, which no input gives", tensor,
		text, first_unknown);
}
