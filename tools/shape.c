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

/*
 * What a term is worth: constant + factor * unknown. Vague: several symbols are unknown, or one in
 * a way that cannot be solved, or the numbers are too large.
 */
struct worth {
	uint64_t constant, factor;
	char unknown[GPUQ_NAME_MAX]; /* empty: none is */
	bool vague;
};

struct form {
	bool leading; /* starts with ".." */
	uint32_t n_terms;
	const char *terms[GPUQ_MAX_RANK];
	char without[GPUQ_NAME_MAX]; /* empty: it is for all calls */
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

static const struct shape_symbol *find(const struct shape_env *env, const char *name)
{
	for (uint32_t i = 0; i < env->n_symbols; i++) {
		if (strcmp(env->symbols[i].name, name) == 0)
			return &env->symbols[i];
	}
	return NULL;
}

/* --- Terms --------------------------------------------------------------------------------- */

static void note_unknown(struct worth *w, const struct worth *other)
{
	if (w->unknown[0] == '\0')
		memcpy(w->unknown, other->unknown, sizeof(w->unknown));
	else if (other->unknown[0] != '\0' && strcmp(w->unknown, other->unknown) != 0)
		w->vague = true;
	w->vague |= other->vague;
}

static void add(struct worth *w, const struct worth *other)
{
	note_unknown(w, other);
	w->vague |= __builtin_add_overflow(w->constant, other->constant, &w->constant);
	w->vague |= __builtin_add_overflow(w->factor, other->factor, &w->factor);
}

static void multiply(struct worth *w, const struct worth *other)
{
	struct worth product = *w;
	uint64_t right;

	note_unknown(&product, other);
	product.vague |= w->factor != 0 && other->factor != 0;
	product.vague |= __builtin_mul_overflow(w->constant, other->constant, &product.constant);
	product.vague |= __builtin_mul_overflow(w->factor, other->constant, &product.factor);
	product.vague |= __builtin_mul_overflow(w->constant, other->factor, &right);
	product.vague |= __builtin_add_overflow(product.factor, right, &product.factor);
	*w = product;
}

static const char *parse_number(const char *p, uint64_t *ret)
{
	char *end;

	if (!isdigit((unsigned char)*p))
		return NULL;
	errno = 0;
	*ret = strtoull(p, &end, 10);
	return errno == 0 ? end : NULL;
}

/* A letter or '_', and any of these and digits. */
static const char *parse_name(const char *p, char name[GPUQ_NAME_MAX])
{
	size_t n = 0;

	if (isdigit((unsigned char)*p))
		return NULL;
	while ((isalnum((unsigned char)*p) || *p == '_') && n + 1 < GPUQ_NAME_MAX)
		name[n++] = *p++;
	name[n] = '\0';
	return n > 0 ? p : NULL;
}

static const char *parse_symbol(const char *p, const struct shape_env *env, struct worth *ret)
{
	p = parse_name(p, ret->unknown);
	const struct shape_symbol *s = p == NULL ? NULL : find(env, ret->unknown);
	if (s == NULL) {
		ret->factor = 1;
		return p;
	}
	*ret = (struct worth){.constant = s->value};
	return p;
}

/* These read something; what follows it, or NULL when it is malformed. */
static const char *parse_sum(const char *p, const struct shape_env *env, struct worth *ret);

static const char *parse_ceil(const char *p, const struct shape_env *env, struct worth *ret)
{
	uint64_t divisor;

	p = parse_sum(p, env, ret);
	if (p == NULL || *p != '/')
		return NULL;
	p = parse_number(p + 1, &divisor);
	if (p == NULL || *p != ')' || divisor == 0)
		return NULL;
	ret->vague |= ret->unknown[0] != '\0';
	ret->constant = ret->constant / divisor + (ret->constant % divisor != 0);
	return p + 1;
}

static const char *parse_factor(const char *p, const struct shape_env *env, struct worth *ret)
{
	*ret = (struct worth){0};
	if (strncmp(p, "ceil(", 5) == 0)
		return parse_ceil(p + 5, env, ret);
	if (isdigit((unsigned char)*p))
		return parse_number(p, &ret->constant);
	if (*p != '(')
		return parse_symbol(p, env, ret);
	p = parse_sum(p + 1, env, ret);
	return p != NULL && *p == ')' ? p + 1 : NULL;
}

static const char *parse_product(const char *p, const struct shape_env *env, struct worth *ret)
{
	struct worth factor;

	p = parse_factor(p, env, ret);
	while (p != NULL && (isalnum((unsigned char)*p) || *p == '_' || *p == '(')) {
		p = parse_factor(p, env, &factor);
		if (p != NULL)
			multiply(ret, &factor);
	}
	return p;
}

static const char *parse_sum(const char *p, const struct shape_env *env, struct worth *ret)
{
	struct worth product;

	p = parse_product(p, env, ret);
	while (p != NULL && *p == '+') {
		p = parse_product(p + 1, env, &product);
		if (p != NULL)
			add(ret, &product);
	}
	return p;
}

/* What else a term would need. */
static const char *needs(const struct worth *w)
{
	return w->unknown[0] != '\0' ? w->unknown : "smaller numbers";
}

/* What a term of a form that has been parsed is worth. */
static struct worth worth_of(const struct shape_env *env, const char *term)
{
	struct worth w;

	(void)parse_sum(term, env, &w);
	return w;
}

/* --- Forms --------------------------------------------------------------------------------- */

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
	const struct shape_env nothing = {0};
	struct worth worth;

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
		form->terms[form->n_terms++] = p;
		p = parse_sum(p, &nothing, &worth);
		if (p == NULL)
			return NULL;
		p = skip_space(p);
		if (*p == ',')
			p = skip_space(p + 1);
		else if (*p != ']')
			return NULL;
	}
	p = skip_space(p + 1);
	if (strncmp(p, "without ", 8) == 0)
		p = parse_name(skip_space(p + 8), form->without);
	return p == NULL ? NULL : skip_space(p);
}

/* Whether the form is for calls such as this one. */
static bool is_for(const struct form *form, const struct shape_env *env)
{
	bool absent = form->without[0] == '\0';

	for (uint32_t i = 0; i < env->n_absent && !absent; i++)
		absent = strcmp(env->absent[i], form->without) == 0;
	return absent;
}

static int bind_symbol(struct shape_env *env, const char *tensor, const char *name, uint64_t value,
	char *why, size_t why_size)
{
	if (env->n_symbols == SHAPE_SYMBOLS_MAX)
		return refuse(why, why_size, "more than %d symbols", SHAPE_SYMBOLS_MAX);
	struct shape_symbol *s = &env->symbols[env->n_symbols++];
	snprintf(s->name, sizeof(s->name), "%s", name);
	snprintf(s->tensor, sizeof(s->tensor), "%s", tensor);
	s->value = value;
	return 0;
}

/* The dimension is not what symbols that are known, or a number, say. */
static int refuse_dim(const struct shape_env *env, const char *tensor, const char *term,
	uint64_t expected, uint64_t dim, char *why, size_t why_size)
{
	char name[GPUQ_NAME_MAX];
	const char *end = parse_name(term, name);
	const struct shape_symbol *known =
		end != NULL && (*skip_space(end) == ',' || *skip_space(end) == ']')
		? find(env, name)
		: NULL;

	if (known == NULL)
		return refuse(why, why_size, "a dimension of %s is %llu and has to be %llu", tensor,
			(unsigned long long)dim, (unsigned long long)expected);
	return refuse(why, why_size, "%s is %llu in %s but %llu in %s", name,
		(unsigned long long)known->value, known->tensor, (unsigned long long)dim, tensor);
}

static int bind_term(struct shape_env *env, const char *tensor, const char *term, uint64_t dim,
	char *why, size_t why_size)
{
	const struct worth w = worth_of(env, term);

	if (w.vague) {
		refuse(why, why_size, "a dimension of %s needs %s, which no input gives", tensor,
			needs(&w));
		return -EAGAIN;
	}
	if (w.unknown[0] == '\0')
		return dim == w.constant
			? 0
			: refuse_dim(env, tensor, term, w.constant, dim, why, why_size);
	if (w.factor == 0 || dim < w.constant || (dim - w.constant) % w.factor != 0)
		return refuse(why, why_size,
			"a dimension of %s is %llu, from which no %s follows: it is to be %.*s",
			tensor, (unsigned long long)dim, w.unknown, (int)strcspn(term, ",]"), term);
	return bind_symbol(env, tensor, w.unknown, (dim - w.constant) / w.factor, why, why_size);
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
		r = bind_term(env, tensor, form->terms[i], dims[leading + i], why, why_size);
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
		if (!is_for(&form, env) ||
			(form.leading ? rank < form.n_terms : rank != form.n_terms))
			continue;
		struct shape_env trial = *env;
		char *here = rank_fits ? reason : why; /* the first reason is the one to tell */
		size_t here_size = rank_fits ? sizeof(reason) : why_size;
		int r = bind_form(&trial, tensor, &form, rank, dims, here, here_size);
		if (r == 0)
			*env = trial;
		if (r == 0 || r == -EAGAIN)
			return r;
		rank_fits = true;
	} while ((p = next_form(p)) != NULL);
	if (rank_fits)
		return -EINVAL;
	return refuse(why, why_size, "%s is %s and has to be %s", tensor,
		shape_text(rank, dims, dims_text, sizeof(dims_text)), text);
}

/* Fills dims from the bound symbols; false, with an unknown one in ret_unknown. */
static bool infer_form(const struct shape_env *env, const struct form *form, uint32_t *rank,
	uint64_t *dims, char ret_unknown[GPUQ_NAME_MAX])
{
	uint32_t n = form->leading ? env->leading_rank : 0;

	memcpy(ret_unknown, "..", 3);
	if ((form->leading && env->leading_tensor[0] == '\0') || n + form->n_terms > GPUQ_MAX_RANK)
		return false;
	memcpy(dims, env->leading, n * sizeof(*dims));
	for (uint32_t i = 0; i < form->n_terms; i++) {
		const struct worth w = worth_of(env, form->terms[i]);

		if (w.vague || w.unknown[0] != '\0') {
			snprintf(ret_unknown, GPUQ_NAME_MAX, "%s", needs(&w));
			return false;
		}
		dims[n + i] = w.constant;
	}
	*rank = n + form->n_terms;
	return true;
}

int shape_infer(const struct shape_env *env, const char *tensor, const char *text,
	uint32_t *ret_rank, uint64_t ret_dims[GPUQ_MAX_RANK], char *why, size_t why_size)
{
	uint64_t dims[GPUQ_MAX_RANK];
	const char *p = text;
	char unknown[GPUQ_NAME_MAX], first_unknown[GPUQ_NAME_MAX] = "";
	struct form form;

	do {
		p = parse_form(p, &form);
		if (p == NULL || (*p != '\0' && next_form(p) == NULL))
			return refuse(why, why_size, "%s has a shape text that cannot be read: %s",
				tensor, text);
		if (!is_for(&form, env))
			continue;
		if (infer_form(env, &form, ret_rank, dims, unknown)) {
			memcpy(ret_dims, dims, *ret_rank * sizeof(*dims));
			return 0;
		}
		if (first_unknown[0] == '\0')
			snprintf(first_unknown, sizeof(first_unknown), "%s", unknown);
	} while ((p = next_form(p)) != NULL);
	return refuse(why, why_size, "the shape of %s, %s, needs %s, which no input gives", tensor,
		text, first_unknown);
}
