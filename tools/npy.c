/* SPDX-License-Identifier: MIT */
/* The header of .npy files: a parser that trusts nothing. Files are in npy_file.c. */
#include "tools/npy.h"

#include "tools/dtype.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* Where the parser stands in the dict, and where the reason for a refusal goes. */
struct cursor {
	const char *at, *end;
	char *why;
	size_t why_size;
};

enum { DESCR = 1, ORDER = 2, SHAPE = 4, ALL_KEYS = 7 };

__attribute__((format(printf, 2, 3))) static int refuse(struct cursor *c, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(c->why, c->why_size, format, args);
	va_end(args);
	return -EINVAL;
}

static void skip_space(struct cursor *c)
{
	while (c->at < c->end && (*c->at == ' ' || *c->at == '\t' || *c->at == '\n'))
		c->at++;
}

/* Skips space, then takes this character if it is next. */
static bool take(struct cursor *c, char wanted)
{
	skip_space(c);
	if (c->at == c->end || *c->at != wanted)
		return false;
	c->at++;
	return true;
}

/* A quoted string without escapes; longer ones than `size` are cut, which matches no keyword. */
static int take_string(struct cursor *c, char *text, size_t size)
{
	size_t n = 0;

	skip_space(c);
	if (c->at == c->end || (*c->at != '\'' && *c->at != '"'))
		return refuse(
			c, "the header is not the dict that NumPy writes (a string is missing)");
	char quote = *c->at++;
	for (; c->at < c->end && *c->at != quote; c->at++) {
		if (*c->at == '\\')
			return refuse(c, "the header has an escape in a string");
		if (n + 1 < size)
			text[n++] = *c->at;
	}
	if (c->at == c->end)
		return refuse(c, "a string in the header does not end");
	c->at++;
	text[n] = '\0';
	return 0;
}

static bool take_word(struct cursor *c, const char *word)
{
	size_t n = strlen(word);

	skip_space(c);
	if ((size_t)(c->end - c->at) < n || memcmp(c->at, word, n) != 0)
		return false;
	c->at += n;
	return true;
}

/* What NumPy calls the element types that gpuq does not have. */
static const char *kind_name(char kind)
{
	switch (kind) {
	case 'O':
		return "Python objects";
	case 'U':
		return "unicode strings";
	case 'S':
	case 'a':
		return "byte strings";
	case 'V':
		return "raw or structured records";
	case 'c':
		return "complex numbers";
	case 'M':
	case 'm':
		return "dates or time spans";
	default:
		return NULL;
	}
}

static int parse_descr(struct cursor *c, struct npy *npy)
{
	static const struct {
		const char *name;
		uint32_t dtype;
	} known[] = {
		{"f2", GPUQ_F16},
		{"f4", GPUQ_F32},
		{"i1", GPUQ_I8},
		{"u1", GPUQ_U8},
		{"i4", GPUQ_I32},
		{"i8", GPUQ_I64},
	};
	char descr[16];

	skip_space(c);
	if (c->at < c->end && *c->at == '[')
		return refuse(c, "structured arrays are not supported; save one field: a['name']");
	if (take_string(c, descr, sizeof(descr)) < 0)
		return -EINVAL;
	const char *type = descr + (descr[0] != '\0' && strchr("<>|=", descr[0]) != NULL);
	if (kind_name(type[0]) != NULL)
		return refuse(
			c, "dtype '%s' is %s, which gpuq does not have", descr, kind_name(type[0]));
	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
		if (strcmp(type, known[i].name) != 0)
			continue;
		if (descr[0] == '>')
			return refuse(c, "dtype '%s' is big-endian; save it with a.astype('<%s')",
				descr, type);
		if (descr[0] != '<' && (descr[0] != '|' || dtype_bytes(known[i].dtype) != 1))
			return refuse(c, "dtype '%s' does not name its byte order", descr);
		npy->dtype = known[i].dtype;
		return 0;
	}
	return refuse(c,
		"gpuq has no dtype '%s'; convert with a.astype() to one of "
		"float32 float16 int8 uint8 int32 int64",
		descr);
}

static int take_number(struct cursor *c, uint64_t *ret_value)
{
	uint64_t value = 0;
	const char *start;

	skip_space(c);
	for (start = c->at; c->at < c->end && *c->at >= '0' && *c->at <= '9'; c->at++) {
		if (__builtin_mul_overflow(value, 10, &value) ||
			__builtin_add_overflow(value, (uint64_t)(*c->at - '0'), &value))
			return refuse(c, "a dimension does not fit 64 bits");
	}
	if (c->at == start)
		return refuse(c, "the shape in the header is not a tuple of whole numbers");
	*ret_value = value;
	return 0;
}

static int parse_shape(struct cursor *c, struct npy *npy)
{
	bool comma = true;

	if (!take(c, '('))
		return refuse(c, "the shape in the header is not a tuple of whole numbers");
	npy->rank = 0;
	while (!take(c, ')')) {
		if (npy->rank == GPUQ_MAX_RANK)
			return refuse(c, "the array has more than %d dimensions", GPUQ_MAX_RANK);
		if (!comma)
			return refuse(c, "the shape in the header is not a tuple of whole numbers");
		if (take_number(c, &npy->dims[npy->rank]) < 0)
			return -EINVAL;
		npy->rank++;
		comma = take(c, ',');
	}
	if (npy->rank == 1 && !comma)
		return refuse(c, "the shape in the header is a number, not a tuple");
	return 0;
}

static int parse_entry(struct cursor *c, struct npy *npy, bool *fortran, uint32_t *seen)
{
	static const char *const keys[] = {"descr", "fortran_order", "shape"};
	char key[16];
	uint32_t i = 0;

	if (take_string(c, key, sizeof(key)) < 0)
		return -EINVAL;
	while (i < 3 && strcmp(key, keys[i]) != 0)
		i++;
	if (i == 3)
		return refuse(c, "the header has an unknown key '%s'", key);
	if ((*seen & 1u << i) != 0)
		return refuse(c, "the header has the key '%s' twice", key);
	*seen |= 1u << i;
	if (!take(c, ':'))
		return refuse(c, "the header is not a dict (no ':' after '%s')", key);
	if (1u << i == DESCR)
		return parse_descr(c, npy);
	if (1u << i == SHAPE)
		return parse_shape(c, npy);
	*fortran = take_word(c, "True");
	if (!*fortran && !take_word(c, "False"))
		return refuse(c, "fortran_order in the header is neither True nor False");
	return 0;
}

static int parse_dict(struct cursor *c, struct npy *npy)
{
	bool fortran = false, comma = true;
	uint32_t seen = 0;

	if (!take(c, '{'))
		return refuse(c, "the header is not a dict");
	while (!take(c, '}')) {
		if (c->at == c->end || !comma)
			return refuse(c, "the dict in the header does not end");
		if (parse_entry(c, npy, &fortran, &seen) < 0)
			return -EINVAL;
		comma = take(c, ',');
	}
	skip_space(c);
	if (c->at != c->end)
		return refuse(c, "the header goes on after its dict");
	if (seen != ALL_KEYS)
		return refuse(c, "the header lacks '%s'",
			(seen & DESCR) == 0	      ? "descr"
				: (seen & ORDER) == 0 ? "fortran_order"
						      : "shape");
	if (fortran && npy->rank > 1)
		return refuse(c,
			"the array is in Fortran order; save it with "
			"np.ascontiguousarray(a)");
	return 0;
}

/* Fills elements and data_bytes; the product without zeros counts, so that strides fit too. */
static int parse_size(struct cursor *c, struct npy *npy)
{
	uint64_t span = dtype_bytes(npy->dtype);
	bool empty = false;

	for (uint32_t i = 0; i < npy->rank; i++) {
		if (npy->dims[i] == 0)
			empty = true;
		else if (__builtin_mul_overflow(span, npy->dims[i], &span) || span > INT64_MAX)
			return refuse(c, "the shape in the header overflows: no file is so large");
	}
	npy->data_bytes = empty ? 0 : span;
	npy->elements = npy->data_bytes / dtype_bytes(npy->dtype);
	return 0;
}

/* Magic, version and length; leaves the cursor on exactly the dict. */
static int parse_prefix(struct cursor *c, struct npy *npy)
{
	const uint8_t *p = (const uint8_t *)c->at;
	size_t bytes = (size_t)(c->end - c->at);

	if (bytes == 0)
		return refuse(c, "the file is empty");
	if (bytes < 8 || memcmp(p, "\x93NUMPY", 6) != 0)
		return refuse(c, "not a .npy file%s",
			bytes >= 4 && memcmp(p, "PK\3\4", 4) == 0
				? " but an .npz archive; save the array with np.save()"
				: "");
	if (p[6] < 1 || p[6] > 3 || p[7] != 0)
		return refuse(c, "version %u.%u of the format is unknown (1.0, 2.0, 3.0 are)", p[6],
			p[7]);
	size_t prefix = p[6] == 1 ? 10 : 12;
	if (bytes < prefix)
		return refuse(c, "truncated in its header");
	uint32_t length = p[8] | (uint32_t)p[9] << 8;
	if (p[6] > 1)
		length |= (uint32_t)p[10] << 16 | (uint32_t)p[11] << 24;
	if (length > NPY_HEADER_MAX)
		return refuse(c, "a header of %u bytes (the limit is %d)", length, NPY_HEADER_MAX);
	if (length > bytes - prefix)
		return refuse(c, "truncated in its header");
	c->at += prefix;
	c->end = c->at + length;
	npy->data_offset = prefix + length;
	return 0;
}

int npy_parse(const void *data, size_t bytes, struct npy *ret_npy, char *why, size_t why_size)
{
	struct cursor c = {data, (const char *)data + bytes, why, why_size};
	struct npy npy = {0};

	if (parse_prefix(&c, &npy) < 0)
		return -EINVAL;
	for (const uint8_t *p = (const uint8_t *)c.at; p < (const uint8_t *)c.end; p++) {
		if ((*p < ' ' && *p != '\n' && *p != '\t') || *p >= 0x7f)
			return refuse(&c, "the header is not ASCII text");
	}
	if (c.at == c.end || c.end[-1] != '\n')
		return refuse(&c, "the header does not end with a newline");
	if (parse_dict(&c, &npy) < 0 || parse_size(&c, &npy) < 0)
		return -EINVAL;
	*ret_npy = npy;
	return 0;
}

int npy_check_length(const struct npy *npy, uint64_t file_bytes, char *why, size_t why_size)
{
	struct cursor c = {NULL, NULL, why, why_size};
	uint64_t have = file_bytes < npy->data_offset ? 0 : file_bytes - npy->data_offset;

	if (have < npy->data_bytes)
		return refuse(&c,
			"truncated: the header promises %llu bytes of elements, "
			"the file has %llu",
			(unsigned long long)npy->data_bytes, (unsigned long long)have);
	if (have > npy->data_bytes)
		return refuse(&c, "%llu bytes follow the last element",
			(unsigned long long)(have - npy->data_bytes));
	return 0;
}
