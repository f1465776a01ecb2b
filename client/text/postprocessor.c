/* SPDX-License-Identifier: MIT */
/* postprocessor.c: special tokens around a text, truncation, padding. */
#include "client/text/postprocessor.h"

#include "client/text/vocab.h"

#include <stdlib.h>

#define WHERE "post_processor"
#define PADDING_MAX (1u << 20)

/* --- Loading --------------------------------------------------------------------------------- */

/* Appends the ids of a special token of a template. */
static int load_special(const json_t *template, const json_t *piece, struct ids *ids)
{
	const json_t *token, *list, *value;
	struct span name;
	size_t i;
	int r = json_get_string(piece, WHERE, "id", &name);

	if (r < 0)
		return r;
	token = json_object_get(json_object_get(template, "special_tokens"), name.data);
	r = json_get_array(token, WHERE, "ids", TEMPLATE_IDS_MAX, &list);
	if (r < 0)
		return r;
	json_array_foreach(list, i, value)
	{
		json_int_t id = json_integer_value(value);

		if (!json_is_integer(value) || id < 0 || id >= VOCAB_IDS_MAX)
			return text_fail(
				-EINVAL, "%s: '%s' has an id that is none", WHERE, name.data);
		r = ids_append(ids, (uint32_t)id);
		if (r < 0)
			return r;
	}
	return 0;
}

/* Wraps what is there into the ids of a template's pieces. */
static int wrap(struct postprocessor *p, const struct ids *before, const struct ids *after)
{
	size_t n = before->n + p->before.n;
	int r = ids_reserve(&p->before, before->n);

	if (r == 0)
		r = ids_reserve(&p->after, after->n);
	if (r < 0)
		return r;
	if (n > TEMPLATE_IDS_MAX || p->after.n + after->n > TEMPLATE_IDS_MAX)
		return text_fail(
			-EFBIG, "%s: more than %d special tokens", WHERE, TEMPLATE_IDS_MAX);
	if (p->before.n > 0)
		memmove(p->before.data + before->n, p->before.data,
			p->before.n * sizeof(*p->before.data));
	if (before->n > 0)
		memcpy(p->before.data, before->data, before->n * sizeof(*before->data));
	if (after->n > 0)
		memcpy(p->after.data + p->after.n, after->data, after->n * sizeof(*after->data));
	p->before.n = n;
	p->after.n += after->n;
	return 0;
}

static int load_pieces(const json_t *template, const json_t *pieces, struct ids sides[2])
{
	const json_t *piece;
	unsigned int side = 0;
	size_t i;

	json_array_foreach(pieces, i, piece)
	{
		const json_t *special = json_object_get(piece, "SpecialToken");
		const char *text = json_string_value(
			json_object_get(json_object_get(piece, "Sequence"), "id"));
		int r = 0;

		if (special != NULL)
			r = load_special(template, special, &sides[side]);
		else if (text == NULL || strcmp(text, "A") != 0 || side++ > 0)
			return text_fail(-ENOTSUP,
				"%s: a template is not special tokens around one text", WHERE);
		if (r < 0)
			return r;
	}
	return side == 1 ? 0 : text_fail(-ENOTSUP, "%s: a template lacks the text itself", WHERE);
}

static int load_template(const json_t *json, struct postprocessor *p)
{
	struct ids sides[2] = {0};
	const json_t *pieces;
	int r = json_get_array(json, WHERE, "single", TEMPLATE_IDS_MAX, &pieces);

	if (r == 0)
		r = load_pieces(json, pieces, sides);
	if (r == 0)
		r = wrap(p, &sides[0], &sides[1]);
	free(sides[0].data);
	free(sides[1].data);
	return r;
}

static int load_processor(const json_t *json, const char *type, void *context)
{
	if (strcmp(type, "ByteLevel") == 0)
		return 0; /* moves offsets, which nobody asks for here */
	if (strcmp(type, "TemplateProcessing") == 0)
		return load_template(json, context);
	return text_fail(-ENOTSUP, "the post_processor %s is not supported", type);
}

static int load_direction(const json_t *json, const char *where, bool *ret_left)
{
	static const char *const names[] = {"Right", "Left", NULL};
	unsigned int direction;
	int r = json_get_choice(json, where, "direction", names, &direction);

	if (r == 0)
		*ret_left = direction == 1;
	return r;
}

static int load_truncation(const json_t *json, struct postprocessor *p)
{
	static const char *const strategies[] = {"LongestFirst", "OnlyFirst", NULL};
	unsigned int strategy; /* of one text they are the same */

	if (json == NULL || json_is_null(json))
		return 0;
	int r = json_get_choice(json, "truncation", "strategy", strategies, &strategy);
	if (r == 0 && json_object_get(json, "direction") != NULL)
		r = load_direction(json, "truncation", &p->truncates_left);
	if (r == 0)
		r = json_get_number(json, "truncation", "max_length", INT64_MAX, &p->length);
	if (r < 0)
		return r;
	p->truncates = true;
	if (p->length < p->before.n + p->after.n)
		return text_fail(-EINVAL,
			"truncation: max_length leaves no room for the special "
			"tokens");
	return 0;
}

/* "BatchLongest", or {"Fixed": length}: of one text the first demands nothing. */
static int load_pad_length(const json_t *json, struct postprocessor *p)
{
	const json_t *strategy = json_object_get(json, "strategy");
	static const char *const names[] = {"BatchLongest", NULL};
	unsigned int index;

	if (json_is_object(strategy))
		return json_get_number(
			strategy, "padding: strategy", "Fixed", PADDING_MAX, &p->pad_length);
	return json_get_choice(json, "padding", "strategy", names, &index);
}

static int load_padding(const json_t *json, struct postprocessor *p)
{
	const json_t *multiple = json_object_get(json, "pad_to_multiple_of");
	uint64_t id;

	if (json == NULL || json_is_null(json))
		return 0;
	int r = load_pad_length(json, p);
	if (r == 0)
		r = load_direction(json, "padding", &p->pads_left);
	if (r == 0 && multiple != NULL && !json_is_null(multiple))
		r = json_get_number(
			json, "padding", "pad_to_multiple_of", PADDING_MAX, &p->pad_multiple);
	if (r == 0)
		r = json_get_number(json, "padding", "pad_id", VOCAB_IDS_MAX - 1, &id);
	if (r < 0)
		return r;
	p->pads = true;
	p->pad_id = (uint32_t)id;
	return 0;
}

int postprocessor_load(const json_t *json, struct postprocessor *ret_postprocessor)
{
	static const struct json_steps processors = {
		WHERE, "processors", TEMPLATE_IDS_MAX, load_processor};

	*ret_postprocessor = (struct postprocessor){0};
	int r = json_each_step(
		json_object_get(json, "post_processor"), &processors, ret_postprocessor);
	if (r == 0)
		r = load_truncation(json_object_get(json, "truncation"), ret_postprocessor);
	if (r == 0)
		r = load_padding(json_object_get(json, "padding"), ret_postprocessor);
	return r;
}

void postprocessor_finish(struct postprocessor *postprocessor)
{
	free(postprocessor->before.data);
	free(postprocessor->after.data);
}

/* --- Applying -------------------------------------------------------------------------------- */

static void truncate_ids(const struct postprocessor *p, bool special, struct ids *ids)
{
	uint64_t room = p->length - (special ? p->before.n + p->after.n : 0);

	if (!p->truncates || ids->n <= room)
		return;
	if (p->truncates_left && room > 0)
		memmove(ids->data, ids->data + (ids->n - room), room * sizeof(*ids->data));
	ids->n = room;
}

/* Makes room for `before` ids in front and `after` behind; who calls fills it. */
static int surround(struct ids *ids, size_t before, size_t after)
{
	int r = ids_reserve(ids, before + after);

	if (r < 0)
		return r;
	if (before > 0 && ids->n > 0)
		memmove(ids->data + before, ids->data, ids->n * sizeof(*ids->data));
	ids->n += before + after;
	return 0;
}

static int add_special(const struct postprocessor *p, struct ids *ids)
{
	int r = surround(ids, p->before.n, p->after.n);

	if (r < 0)
		return r;
	if (p->before.n > 0)
		memcpy(ids->data, p->before.data, p->before.n * sizeof(*ids->data));
	if (p->after.n > 0)
		memcpy(ids->data + ids->n - p->after.n, p->after.data,
			p->after.n * sizeof(*ids->data));
	return 0;
}

static int pad(const struct postprocessor *p, struct ids *ids)
{
	size_t wanted = p->pad_length > 0 ? p->pad_length : ids->n;

	if (p->pad_multiple > 0 && wanted % p->pad_multiple > 0)
		wanted += p->pad_multiple - wanted % p->pad_multiple;
	if (wanted <= ids->n)
		return 0;
	size_t n = wanted - ids->n;
	int r = surround(ids, p->pads_left ? n : 0, p->pads_left ? 0 : n);
	if (r < 0)
		return r;
	uint32_t *gap = p->pads_left ? ids->data : ids->data + ids->n - n;
	for (size_t i = 0; i < n; i++)
		gap[i] = p->pad_id;
	return 0;
}

int postprocessor_apply(const struct postprocessor *p, bool special, struct ids *ids)
{
	int r = 0;

	truncate_ids(p, special, ids);
	if (special)
		r = add_special(p, ids);
	return r == 0 && p->pads ? pad(p, ids) : r;
}
