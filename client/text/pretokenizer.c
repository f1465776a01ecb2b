/* SPDX-License-Identifier: MIT */
/* pretokenizer.c: loads and applies the stages that cut a text into words. */
#include "client/text/pretokenizer.h"

#include "client/text/normalizer.h"

#include <stdlib.h>

#define WHERE "pre_tokenizer"

/* The words of GPT-2: what ByteLevel cuts with unless it is told not to. */
#define GPT2_WORDS                                                                       \
	"'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\p{White_Space}\\p{L}\\p{N}]+" \
	"|\\p{White_Space}+(?!\\P{White_Space})|\\p{White_Space}+"
/* U+166D was punctuation until Unicode 12; the tables of `tokenizers` are older. */
#define PUNCTUATION "[!-/:-@\\[-`{-~\\p{P}\\x{166d}]"

static const char *const behaviors[] = {
	"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous", NULL};

/* --- Loading --------------------------------------------------------------------------------- */

static int add_stage(struct pretokenizer *p, const struct stage *stage)
{
	if (p->n_stages == PRETOKENIZER_STAGES_MAX) {
		pattern_destroy(stage->pattern);
		return text_fail(-EFBIG, "the pre_tokenizer has more than %d stages",
			PRETOKENIZER_STAGES_MAX);
	}
	p->stages[p->n_stages++] = *stage;
	return 0;
}

/* A split with a pattern of our own. */
static int add_split(struct pretokenizer *p, const char *regex, enum split_behavior behavior)
{
	struct stage stage = {.kind = STAGE_SPLIT, .behavior = behavior};
	int r = pattern_create_native(regex, &stage.pattern);

	return r < 0 ? r : add_stage(p, &stage);
}

static int load_split(const json_t *json, struct pretokenizer *p)
{
	struct stage stage = {.kind = STAGE_SPLIT};
	unsigned int behavior;
	int r = json_get_choice(json, WHERE, "behavior", behaviors, &behavior);

	if (r == 0)
		r = json_get_bool(json, WHERE, "invert", false, &stage.invert);
	if (r == 0)
		r = pattern_load(json, WHERE, &stage.pattern);
	if (r < 0)
		return r;
	stage.behavior = (enum split_behavior)behavior;
	return add_stage(p, &stage);
}

static int load_byte_level(const json_t *json, struct pretokenizer *p)
{
	bool space, cut;
	int r = json_get_bool(json, WHERE, "add_prefix_space", true, &space);

	if (r == 0)
		r = json_get_bool(json, WHERE, "use_regex", true, &cut);
	if (r == 0 && space)
		r = add_stage(p, &(struct stage){.kind = STAGE_SPACE});
	if (r == 0 && cut)
		r = add_split(p, GPT2_WORDS, SPLIT_ISOLATED);
	return r < 0 ? r : add_stage(p, &(struct stage){.kind = STAGE_BYTES});
}

static int load_scheme(const json_t *json, const char *where, struct stage *stage)
{
	static const char *const schemes[] = {"always", "never", "first", NULL};
	unsigned int scheme = PREPEND_ALWAYS;
	bool prefix;
	int r = json_get_bool(json, where, "add_prefix_space", true, &prefix);

	if (r == 0 && json_object_get(json, "prepend_scheme") != NULL)
		r = json_get_choice(json, where, "prepend_scheme", schemes, &scheme);
	else if (r == 0 && !prefix)
		return text_fail(-EINVAL, "%s: add_prefix_space needs a prepend_scheme", where);
	if (r < 0)
		return r;
	if (!prefix && scheme != PREPEND_NEVER)
		return text_fail(-EINVAL, "%s: add_prefix_space contradicts prepend_scheme", where);
	stage->prepend = scheme;
	return 0;
}

int metaspace_load(const json_t *json, const char *where, struct stage *stage)
{
	struct span replacement;
	int r = json_get_string(json, where, "replacement", &replacement);

	if (r < 0)
		return r;
	if (replacement.n == 0 || utf8_length(replacement.data[0]) != replacement.n)
		return text_fail(-EINVAL, "%s: replacement is not one character", where);
	stage->kind = STAGE_METASPACE;
	stage->replacement_bytes = replacement.n;
	memcpy(stage->replacement, replacement.data, replacement.n);
	return load_scheme(json, where, stage);
}

static int load_metaspace(const json_t *json, struct pretokenizer *p)
{
	struct stage stage = {0};
	struct stage split = {.kind = STAGE_SPLIT, .behavior = SPLIT_MERGED_WITH_NEXT};
	bool cut;
	int r = metaspace_load(json, WHERE, &stage);

	if (r == 0)
		r = json_get_bool(json, WHERE, "split", true, &cut);
	if (r == 0)
		r = add_stage(p, &stage);
	if (r < 0 || !cut)
		return r;
	r = pattern_create_literal(
		span_of(stage.replacement, stage.replacement_bytes), &split.pattern);
	return r < 0 ? r : add_stage(p, &split);
}

static int load_digits(const json_t *json, struct pretokenizer *p)
{
	bool individual;
	int r = json_get_bool(json, WHERE, "individual_digits", false, &individual);

	return r < 0 ? r : add_split(p, "\\p{N}", individual ? SPLIT_ISOLATED : SPLIT_CONTIGUOUS);
}

static int load_punctuation(const json_t *json, struct pretokenizer *p)
{
	unsigned int behavior = SPLIT_ISOLATED;

	if (json_object_get(json, "behavior") != NULL) {
		int r = json_get_choice(json, WHERE, "behavior", behaviors, &behavior);
		if (r < 0)
			return r;
	}
	return add_split(p, PUNCTUATION, (enum split_behavior)behavior);
}

static int load_stage(const json_t *json, const char *type, void *context)
{
	struct pretokenizer *p = context;

	if (strcmp(type, "ByteLevel") == 0)
		return load_byte_level(json, p);
	if (strcmp(type, "Split") == 0)
		return load_split(json, p);
	if (strcmp(type, "Metaspace") == 0)
		return load_metaspace(json, p);
	if (strcmp(type, "Digits") == 0)
		return load_digits(json, p);
	if (strcmp(type, "Punctuation") == 0)
		return load_punctuation(json, p);
	if (strcmp(type, "WhitespaceSplit") == 0)
		return add_split(p, "\\p{White_Space}", SPLIT_REMOVED);
	return text_fail(-ENOTSUP, "the pre_tokenizer %s is not supported", type);
}

int pretokenizer_load(const json_t *json, struct pretokenizer *ret_pretokenizer)
{
	static const struct json_steps stages = {
		WHERE, "pretokenizers", PRETOKENIZER_STAGES_MAX, load_stage};
	struct pretokenizer *p = ret_pretokenizer;

	*p = (struct pretokenizer){0};
	int r = json_each_step(json, &stages, p);
	if (r == 0 && p->n_stages > 0 && p->stages[p->n_stages - 1].kind == STAGE_BYTES) {
		p->n_stages--;
		p->bytes = true;
	}
	return r;
}

void pretokenizer_finish(struct pretokenizer *pretokenizer)
{
	for (uint32_t i = 0; i < pretokenizer->n_stages; i++)
		pattern_destroy(pretokenizer->stages[i].pattern);
}

/* --- Cutting --------------------------------------------------------------------------------- */

static int cut_from(struct cutter *cutter, uint32_t stage, struct span text, bool first);

/* A text on its way through a stage. */
struct passage {
	struct cutter *cutter;
	uint32_t stage;
	struct span text;
	bool first;
};

static int pass_on(const struct passage *at, size_t start, size_t end)
{
	return cut_from(at->cutter, at->stage + 1, span_of(at->text.data + start, end - start),
		at->first && start == 0);
}

/* Each piece by itself; of SPLIT_REMOVED only what did not match. */
static int split_alone(const struct passage *at, const struct stage *s, struct pieces *p)
{
	int r;

	while ((r = pieces_next(p)) > 0) {
		if (s->behavior == SPLIT_REMOVED && p->is_match != s->invert)
			continue;
		r = pass_on(at, p->start, p->end);
		if (r < 0)
			return r;
	}
	return r;
}

/* Whether a piece, behind a piece that `previous` tells of, belongs to the same word. */
static bool joins(enum split_behavior behavior, bool is_match, bool previous)
{
	switch (behavior) {
	case SPLIT_CONTIGUOUS:
		return is_match == previous;
	case SPLIT_MERGED_WITH_PREVIOUS:
		return is_match && !previous;
	default:
		return previous && !is_match; /* SPLIT_MERGED_WITH_NEXT */
	}
}

/* Pieces are joined with their neighbours; [start, end) is the word that may still grow. */
static int split_joined(const struct passage *at, const struct stage *s, struct pieces *p)
{
	size_t start = 0, end = 0;
	bool previous = false;
	bool any = false;
	int r;

	while ((r = pieces_next(p)) > 0) {
		bool is_match = p->is_match != s->invert;

		if (any && !joins(s->behavior, is_match, previous)) {
			r = pass_on(at, start, end);
			if (r < 0)
				return r;
			start = p->start;
		}
		end = p->end;
		previous = is_match;
		any = true;
	}
	return r < 0 ? r : pass_on(at, start, end);
}

static int cut_split(const struct passage *at, const struct stage *s)
{
	struct pieces p = pieces_of(s->pattern, at->cutter->matcher, at->text);

	if (s->behavior == SPLIT_REMOVED || s->behavior == SPLIT_ISOLATED)
		return split_alone(at, s, &p);
	return split_joined(at, s, &p);
}

/* Writes the text anew with `with` for each space, and in front when `prefix`. */
static int replace_spaces(struct bytes *out, struct span text, struct span with, bool prefix)
{
	const char *at = text.data, *end = text.data + text.n;
	int r = prefix ? bytes_append(out, with.data, with.n) : 0;

	while (r == 0 && at < end) {
		const char *space = memchr(at, ' ', (size_t)(end - at));

		if (space == NULL)
			return bytes_append(out, at, (size_t)(end - at));
		r = bytes_append(out, at, (size_t)(space - at));
		if (r == 0)
			r = bytes_append(out, with.data, with.n);
		at = space + 1;
	}
	return r;
}

static int rewrite_metaspace(const struct passage *at, const struct stage *s, struct bytes *out)
{
	struct span with = span_of(s->replacement, s->replacement_bytes);
	bool starts = at->text.data[0] == ' ' || span_starts_with(at->text, with);
	bool wanted = s->prepend == PREPEND_ALWAYS || (s->prepend == PREPEND_FIRST && at->first);

	return replace_spaces(out, at->text, with, wanted && !starts);
}

static int rewrite_space(const struct passage *at, struct bytes *out)
{
	int r = bytes_append(out, " ", 1);

	return r < 0 ? r : bytes_append(out, at->text.data, at->text.n);
}

/* The stages that write the text anew, into the stage's own buffer. */
static int cut_rewritten(struct passage *at, const struct stage *s)
{
	struct bytes *out = &at->cutter->buffers[at->stage];
	int r;

	if (s->kind == STAGE_SPACE && at->text.data[0] == ' ')
		return pass_on(at, 0, at->text.n);
	out->n = 0;
	if (s->kind == STAGE_SPACE)
		r = rewrite_space(at, out);
	else if (s->kind == STAGE_METASPACE)
		r = rewrite_metaspace(at, s, out);
	else
		r = byte_alphabet_append(out, at->text);
	if (r < 0)
		return r;
	at->text = bytes_span(out);
	return pass_on(at, 0, at->text.n);
}

static int cut_from(struct cutter *cutter, uint32_t stage, struct span text, bool first)
{
	struct passage at = {cutter, stage, text, first};

	if (text.n == 0)
		return 0;
	if (stage == cutter->pretokenizer->n_stages)
		return cutter->word(cutter->context, text);
	const struct stage *s = &cutter->pretokenizer->stages[stage];
	return s->kind == STAGE_SPLIT ? cut_split(&at, s) : cut_rewritten(&at, s);
}

int cutter_cut(struct cutter *cutter, struct span text, bool first)
{
	return cut_from(cutter, 0, text, first);
}

void cutter_finish(struct cutter *cutter)
{
	for (uint32_t i = 0; i < PRETOKENIZER_STAGES_MAX; i++)
		free(cutter->buffers[i].data);
}
