/* SPDX-License-Identifier: MIT */
/* lipogram.c MODEL TEXT: a sampling policy of one's own: goes on without the letter e. */
#include <gpuq-text.h>

#include <stdio.h>
#include <string.h>

static uint32_t allowed[1u << 18], n_allowed;

static int without_e(void *context, struct gpuq_sampler_rule *rule)
{
	*rule = (struct gpuq_sampler_rule){
		.restricted = true, .n_allowed = n_allowed, .allowed = allowed};
	return 0;
}

int main(int argc, char **argv)
{
	struct gpuq_channel_options room = {.arena_bytes = 8u << 20}; /* for rows of all logits */
	struct gpuq_writer_options o = {.model = argc == 3 ? argv[1] : "",
		.sampling = {.temperature = 0.8f, .constraint.rule = without_e}};
	struct gpuq *g;
	struct gpuq_channel *ch;
	struct gpuq_model_info m;
	struct gpuq_tokenizer *t = NULL;
	struct gpuq_writer *w;
	struct gpuq_written new;
	const char *token;

	if (gpuq_connect(NULL, &g) < 0 || gpuq_channel_open(g, &room, &ch) < 0 ||
		gpuq_model_find(g, o.model, &m) < 0 || gpuq_tokenizer_load(m.dir, &t) < 0)
		return fprintf(stderr, "lipogram: %s\n", gpuq_error_detail()), 1;
	for (uint32_t id = 0; id < m.vocab && n_allowed < 1u << 18; id++) {
		int64_t n = gpuq_tokenizer_token(t, id, &token);
		if (n > 0 && memchr(token, 'e', (size_t)n) == NULL)
			allowed[n_allowed++] = id;
	}
	o.tokenizer = t;
	if (gpuq_writer_create(ch, &o, &w) < 0 ||
		gpuq_writer_read(w, argv[2], strlen(argv[2]), GPUQ_ENCODE_SPECIAL) < 0)
		return fprintf(stderr, "lipogram: %s\n", gpuq_error_detail()), 1;
	for (int i = 0; i < 60 && gpuq_writer_next(w, &new) > 0; i++)
		fwrite(new.text, 1, new.bytes, stdout);
	putchar('\n');
	gpuq_writer_destroy(w);
	gpuq_tokenizer_destroy(t);
	gpuq_disconnect(g);
	return 0;
}
