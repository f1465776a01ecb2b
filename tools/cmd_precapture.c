/* SPDX-License-Identifier: MIT */
/* gpuq precapture: has the graphs of a model's steps captured before anybody needs them. */
#include "tools/command.h"
#include "tools/top_table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_RANGES 64u

/* All numbers from the first to the last. */
struct range {
	uint32_t first, last;
};

struct list {
	struct range ranges[MAX_RANGES];
	uint32_t n;
};

struct precapture_options {
	const char *model;
	struct list batches, contexts;
	struct gpuq_model_shape shape; /* kind, ids */
	uint64_t ids;
	double timeout_s;
};

struct totals {
	uint32_t captured, failed;
};

/* "4" or "1-8", up to a comma or the end. */
static const char *take_range(const char *text, struct range *ret)
{
	unsigned int first, last;
	int n = 0;

	if (sscanf(text, "%9u%n", &first, &n) != 1)
		return NULL;
	last = first;
	text += n;
	if (*text == '-' && sscanf(text + 1, "%9u%n", &last, &n) == 1)
		text += 1 + n;
	*ret = (struct range){first, last};
	return first >= 1 && first <= last && (*text == ',' || *text == '\0') ? text : NULL;
}

static bool take_list(const char *option, const char *text, struct list *to)
{
	const char *at = text;

	for (to->n = 0; to->n < MAX_RANGES; to->n++) {
		at = take_range(at, &to->ranges[to->n]);
		if (at == NULL)
			break;
		if (*at == '\0') {
			to->n++;
			return true;
		}
		at++;
	}
	complain("%s: '%s' is no list such as 1,2,4 or 1-8", option, text);
	return false;
}

static bool take_kind(const char *text, struct gpuq_model_shape *shape)
{
	static const char *const names[] = {
		[GPUQ_SHAPE_CANDIDATES] = "candidates",
		[GPUQ_SHAPE_LOGITS] = "logits",
		[GPUQ_SHAPE_GENERATE] = "generate",
	};

	for (uint32_t i = 1; i < sizeof(names) / sizeof(names[0]); i++) {
		if (strcmp(text, names[i]) == 0) {
			shape->kind = i;
			return true;
		}
	}
	complain("--kind: '%s' is neither candidates nor logits nor generate", text);
	return false;
}

/* Submits one wish and waits for it. EXIT_FAIL: none can be submitted any more. */
static int capture(struct gpuq_channel *ch, const struct precapture_options *o,
	const struct gpuq_model_shape *shape, struct totals *t)
{
	struct gpuq_submission s = {.timeout_ns = (uint64_t)(o->timeout_s * 1e9)};
	struct gpuq_completion c;
	char text[256], took[16];

	if (gpuq_capture_create(ch, o->model, shape, &s.call) < 0 || gpuq_submit(ch, &s, 1) < 0 ||
		gpuq_wait(ch, &c, 1, GPUQ_FOREVER) < 0)
		return command_fail();
	if (c.status < 0) {
		complain("batch %u, context %u: %s", shape->batch, shape->context,
			gpuq_explain(s.call, &c, text, sizeof(text)));
		t->failed++;
	} else {
		format_ns(c.queued_ns + c.executed_ns, took, sizeof(took));
		printf("batch %u, context %u: ready after %s\n", shape->batch, shape->context,
			took);
		fflush(stdout);
		t->captured++;
	}
	gpuq_call_destroy(s.call);
	return EXIT_OK;
}

/* One batch size with the contexts of a range that make a difference. */
static int capture_range(struct gpuq_channel *ch, const struct precapture_options *o,
	struct gpuq_model_shape *shape, const struct range *r, uint32_t bucket, struct totals *t)
{
	uint64_t context = r->first;
	int code = EXIT_OK;

	while (code == EXIT_OK && context <= r->last) {
		const uint64_t end = (context + bucket - 1) / bucket * bucket;

		shape->context = (uint32_t)(end < r->last ? end : r->last);
		code = capture(ch, o, shape, t);
		context = end + 1;
	}
	return code;
}

static int capture_batch(struct gpuq_channel *ch, const struct precapture_options *o,
	uint32_t batch, uint32_t bucket, struct totals *t)
{
	struct gpuq_model_shape shape = o->shape;
	int code = EXIT_OK;

	shape.batch = batch;
	for (uint32_t i = 0; code == EXIT_OK && i < o->contexts.n; i++)
		code = capture_range(ch, o, &shape, &o->contexts.ranges[i], bucket, t);
	return code;
}

static int capture_all(struct gpuq_channel *ch, const struct precapture_options *o, uint32_t bucket,
	struct totals *t)
{
	int code = EXIT_OK;

	for (uint32_t i = 0; i < o->batches.n; i++) {
		const struct range *r = &o->batches.ranges[i];

		for (uint32_t batch = r->first; code == EXIT_OK && batch <= r->last; batch++)
			code = capture_batch(ch, o, batch, bucket, t);
	}
	return code;
}

/* No text gets longer, so no step has such a shape. */
static bool contexts_fit(const struct precapture_options *o, const struct gpuq_model_info *m)
{
	for (uint32_t i = 0; i < o->contexts.n; i++) {
		if (o->contexts.ranges[i].last > m->max_tokens) {
			complain("--context: texts of %s have at most %u tokens, not %u", o->model,
				m->max_tokens, o->contexts.ranges[i].last);
			return false;
		}
	}
	return true;
}

static int precapture(struct gpuq *gpuq, const struct precapture_options *o)
{
	struct gpuq_model_info m;
	struct gpuq_channel *ch;
	struct totals t = {0};
	int code = command_await_model(gpuq, o->model, &m);

	if (code != EXIT_OK)
		return code;
	if (!contexts_fit(o, &m))
		return EXIT_FAIL;
	if (gpuq_channel_open(gpuq, NULL, &ch) < 0)
		return command_fail();
	code = capture_all(ch, o, m.bucket_tokens > 0 ? m.bucket_tokens : 1, &t);
	if (code != EXIT_OK)
		return code;
	printf("%u shapes are ready", t.captured);
	if (t.failed > 0)
		printf(", %u are not", t.failed);
	printf("\n");
	code = finish_output();
	return t.failed > 0 ? EXIT_FAIL : code;
}

/* Takes one option; false after a complaint. */
static bool take_option(struct precapture_options *o, int c)
{
	switch (c) {
	case 'm':
		o->model = optarg;
		return true;
	case 'b':
		return take_list("--batch", optarg, &o->batches);
	case 'c':
		return take_list("--context", optarg, &o->contexts);
	case 'k':
		return take_kind(optarg, &o->shape);
	case 'i':
		return parse_count("--ids", optarg, 0, UINT16_MAX, &o->ids);
	default:
		return parse_seconds("--timeout", optarg, 0.001, 1e6, &o->timeout_s);
	}
}

static int run(struct invocation *v, int argc, char **argv)
{
	static const struct option longs[] = {
		{"model", required_argument, NULL, 'm'},
		{"batch", required_argument, NULL, 'b'},
		{"context", required_argument, NULL, 'c'},
		{"kind", required_argument, NULL, 'k'},
		{"ids", required_argument, NULL, 'i'},
		{"timeout", required_argument, NULL, 't'},
		COMMAND_LONGS,
		{NULL},
	};
	struct precapture_options o = {
		.batches = {.ranges = {{1, 1}}, .n = 1},
		.contexts = {.ranges = {{1, 1}}, .n = 1},
		.timeout_s = 60,
	};
	struct gpuq *gpuq;
	int c;

	while ((c = command_option(v, argc, argv, "m:b:c:k:i:t:" COMMAND_SHORTS, longs)) != -1) {
		if (!take_option(&o, c))
			return EXIT_USAGE;
	}
	if (optind < argc)
		return complain_usage("unexpected argument '%s'", argv[optind]);
	if (o.model == NULL)
		return complain_usage("--model is needed");
	o.shape.ids = (uint32_t)o.ids;
	if (command_connect(v, false, &gpuq) < 0)
		return EXIT_FAIL;
	int code = precapture(gpuq, &o);
	gpuq_disconnect(gpuq);
	return code;
}

const struct command command_precapture = {
	.name = "precapture",
	.arguments = "-m NAME [--batch LIST] [--context LIST] [OPTION]...",
	.summary = "Capture graphs of a model's steps ahead, and wait for them",
	.help = "  -m, --model NAME    the model; while it is loading, waits for that\n"
		"  -b, --batch LIST    texts continued at once, such as 1,2,4 or 1-8 (default: 1)\n"
		"  -c, --context LIST  lengths of the longest text in tokens; of a range such as\n"
		"                      1-1024 all that make a difference (default: 1)\n"
		"  -k, --kind KIND     candidates (default), logits, or generate: drawn by gpuqd\n"
		"  -i, --ids N         tokens that each result names (default: 0)\n"
		"  -t, --timeout S     give up waiting for one after S seconds (default: 60)\n",
	.run = run,
};
