/* SPDX-License-Identifier: MIT */
/*
 * pattern_translate.c: from Oniguruma's syntax (Ruby's) to PCRE2's with UTF and UCP.
 *
 *	\s \S		White_Space; PCRE2's own \s has U+180E too
 *	\w \W		letters, marks, decimal digits, connectors; PCRE2 has no marks
 *	\v		the vertical tab alone
 *	\uHHHH		\x{HHHH}
 *	\p{Han}		\p{sc:Han}: the script alone, not its extensions
 *	^ $		at every line
 *	{,n}		{0,n}
 *
 * Refused: sets in sets, &&, \b, \h, \X and other escapes, back references, {n}+ (there it is no
 * possessive), conditions, names, options other than (?i: and (?i) at the start.
 */
#include "client/text/pattern_translate.h"

#include <stdlib.h>

#define REGEX_MAX 65536u

struct translation {
	struct span in;
	size_t at;
	struct bytes *out;
};

static char peek(const struct translation *t, size_t ahead)
{
	return t->at + ahead < t->in.n ? t->in.data[t->at + ahead] : '\0';
}

static bool next_is(const struct translation *t, const char *text)
{
	size_t n = strlen(text);

	return t->in.n - t->at >= n && memcmp(t->in.data + t->at, text, n) == 0;
}

static int put(struct translation *t, const char *text)
{
	return bytes_append(t->out, text, strlen(text));
}

/* Copies n bytes as they are. */
static int copy(struct translation *t, size_t n)
{
	t->at += n;
	return bytes_append(t->out, t->in.data + t->at - n, n);
}

static int refuse(const struct translation *t, size_t n, const char *what)
{
	if (n > t->in.n - t->at)
		n = t->in.n - t->at;
	return text_fail(-ENOTSUP, "the pattern '%.*s': %s '%.*s' is not supported", (int)t->in.n,
		t->in.data, what, (int)n, t->in.data + t->at);
}

static int unfinished(const struct translation *t, const char *what)
{
	return text_fail(-EINVAL, "the pattern '%.*s' is not valid: %s has no end", (int)t->in.n,
		t->in.data, what);
}

/* \p{L}, \p{^L}, \P{Han}; t stands at the backslash. */
static int translate_property(struct translation *t)
{
	const char *close = memchr(t->in.data + t->at, '}', t->in.n - t->at);
	bool negated = peek(t, 1) == 'P';
	int r;

	if (peek(t, 2) != '{')
		return refuse(t, 2, "the escape");
	if (close == NULL)
		return unfinished(t, "\\p{");
	struct span name = span_of(t->in.data + t->at + 3, 0);
	name.n = (size_t)(close - name.data);
	t->at += 4 + name.n;
	if (name.n > 0 && name.data[0] == '^') {
		negated = !negated;
		name = span_of(name.data + 1, name.n - 1);
	}
	/* General categories have one letter or two; longer names are scripts. */
	r = put(t, negated ? "\\P{" : "\\p{");
	if (r == 0 && name.n > 2 && !span_equal(name, span_of("Any", 3)))
		r = put(t, "sc:");
	if (r == 0)
		r = bytes_append(t->out, name.data, name.n);
	return r == 0 ? put(t, "}") : r;
}

static size_t count_hex(const struct translation *t, size_t ahead, size_t max)
{
	size_t n = 0;

	while (n < max && peek(t, ahead + n) != '\0' &&
		strchr("0123456789abcdefABCDEF", peek(t, ahead + n)) != NULL)
		n++;
	return n;
}

/* \xHH, \x{H...}, \uHHHH; t stands at the backslash. */
static int translate_number(struct translation *t)
{
	bool braces = peek(t, 2) == '{';
	bool wide = peek(t, 1) == 'u';
	size_t digits = count_hex(t, braces ? 3 : 2, braces ? 8 : wide ? 4 : 2);
	int r;

	if (digits == 0 || (wide && digits != 4) || (braces && peek(t, 3 + digits) != '}'))
		return refuse(t, 2, "the escape");
	t->at += braces ? 3 : 2;
	r = put(t, "\\x{");
	if (r == 0)
		r = copy(t, digits);
	t->at += braces;
	return r == 0 ? put(t, "}") : r;
}

/* What an escape of one letter becomes, or NULL. */
static const char *simple_escape(char c, bool in_set)
{
	switch (c) {
	case 's':
		return "\\p{White_Space}";
	case 'S':
		return "\\P{White_Space}";
	case 'w':
		return in_set ? "\\p{L}\\p{M}\\p{Nd}\\p{Pc}" : "[\\p{L}\\p{M}\\p{Nd}\\p{Pc}]";
	case 'W':
		return in_set ? NULL : "[^\\p{L}\\p{M}\\p{Nd}\\p{Pc}]";
	case 'd':
		return "\\p{Nd}";
	case 'D':
		return "\\P{Nd}";
	case 't':
		return "\\t";
	case 'n':
		return "\\n";
	case 'r':
		return "\\r";
	case 'f':
		return "\\f";
	case 'v':
		return "\\x0b";
	case 'a':
		return "\\a";
	case 'e':
		return "\\e";
	case 'A':
		return in_set ? NULL : "\\A";
	case 'z':
		return in_set ? NULL : "\\z";
	default:
		return NULL;
	}
}

static int translate_escape(struct translation *t, bool in_set)
{
	char c = peek(t, 1);
	const char *simple = simple_escape(c, in_set);

	if (t->at + 1 >= t->in.n)
		return unfinished(t, "an escape");
	if (c == 'p' || c == 'P')
		return translate_property(t);
	if (c == 'x' || c == 'u')
		return translate_number(t);
	if (simple != NULL) {
		t->at += 2;
		return put(t, simple);
	}
	if ((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'))
		return refuse(t, 2, "the escape");
	if ((c & 0x80) != 0) { /* means nothing before what is not ASCII */
		t->at++;
		return copy(t, utf8_length(c));
	}
	return copy(t, 2);
}

/* From '[' to its ']'. */
static int translate_set(struct translation *t)
{
	int r = copy(t, peek(t, 1) == '^' ? 2 : 1);

	if (peek(t, 0) == ']')
		return refuse(t, 1, "an empty set before");
	while (r == 0 && t->at < t->in.n) {
		char c = peek(t, 0);

		if (c == ']')
			return copy(t, 1);
		if (c == '[')
			return refuse(t, 2, "a set in a set");
		if (next_is(t, "&&"))
			return refuse(t, 2, "the intersection");
		r = c == '\\' ? translate_escape(t, true) : copy(t, 1);
	}
	return r < 0 ? r : unfinished(t, "a set");
}

static int translate_group(struct translation *t)
{
	static const char *const openings[] = {
		"(?:", "(?=", "(?!", "(?>", "(?<=", "(?<!", "(?i:", NULL};

	if (peek(t, 1) == '*')
		return refuse(t, 2, "the verb");
	if (peek(t, 1) != '?')
		return copy(t, 1);
	for (int i = 0; openings[i] != NULL; i++)
		if (next_is(t, openings[i]))
			return copy(t, strlen(openings[i]));
	if (t->at == 0 && next_is(t, "(?i)"))
		return copy(t, 4);
	return refuse(t, 4, "the group");
}

static size_t count_digits(const struct translation *t, size_t ahead)
{
	size_t n = 0;

	while (peek(t, ahead + n) >= '0' && peek(t, ahead + n) <= '9')
		n++;
	return n;
}

/* {n}, {n,}, {n,m}, {,m}; any other '{' is a character. */
static int translate_brace(struct translation *t)
{
	size_t low = count_digits(t, 1);
	bool comma = peek(t, 1 + low) == ',';
	size_t high = comma ? count_digits(t, 2 + low) : 0;
	size_t n = 1 + low + comma + high;
	int r = 0;

	if (peek(t, n) != '}' || low + high == 0) {
		r = put(t, "\\");
		return r == 0 ? copy(t, 1) : r;
	}
	if (peek(t, n + 1) == '+' || (!comma && peek(t, n + 1) == '?'))
		return refuse(t, n + 2, "the quantifier");
	if (low > 0)
		return copy(t, n + 1);
	t->at++;
	r = put(t, "{0");
	return r == 0 ? copy(t, n) : r;
}

static int translate_one(struct translation *t)
{
	switch (peek(t, 0)) {
	case '\\':
		return translate_escape(t, false);
	case '[':
		return translate_set(t);
	case '(':
		return translate_group(t);
	case '{':
		return translate_brace(t);
	case '^':
		t->at++;
		return put(t, "(?m:^)");
	case '$':
		t->at++;
		return put(t, "(?m:$)");
	default:
		return copy(t, 1);
	}
}

int pattern_translate(struct span regex, struct bytes *out)
{
	struct translation t = {.in = regex, .out = out};
	int r = 0;

	if (regex.n > REGEX_MAX)
		return text_fail(
			-EFBIG, "a pattern has %zu bytes; %u is the limit", regex.n, REGEX_MAX);
	while (r == 0 && t.at < regex.n)
		r = translate_one(&t);
	/* An empty pattern needs an address all the same. */
	return r == 0 ? bytes_reserve(out, 1) : r;
}
