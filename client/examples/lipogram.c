/* SPDX-License-Identifier: MIT */
/* lipogram.c MODEL TEXT: a sampling policy of one's own: goes on without the letter e. */
#include <gpuq-text.h>

#include <err.h>
#include <stdio.h>
#include <string.h>

static uint32_t allowed[1u << 18], n_allowed;

static int without_e(void *context, struct gpuq_sampler_rule *rule)
{
	(void)context;
	*rule = (struct gpuq_sampler_rule){
		.restricted = true, .n_allowed = n_allowed, .allowed = allowed};
	return 0;
}

int main(int argc, char **argv)
{
	struct gpuq_sampling policy = {.temperature = 0.8f, .constraint.rule = without_e};
	struct gpuq *g;
	struct gpuq_channel *ch;
	struct gpuq_model_info m;
	struct gpuq_tokenizer *t;
	struct gpuq_writer *w;
	struct gpuq_written new;
	int64_t n = 0;

	if (argc != 3)
		errx(2, "usage: lipogram MODEL TEXT");
	if (gpuq_connect(NULL, &g) < 0 || gpuq_model_find(g, argv[1], &m) < 0 ||
		gpuq_channel_open(g, NULL, &ch) < 0 || gpuq_tokenizer_load(m.dir, &t) < 0)
		errx(1, "%s", gpuq_error_detail());
	for (uint32_t id = 0; id < m.vocab && n_allowed < 1u << 18; id++)
		if ((n = gpuq_tokenizer_token(t, id, &new.text)) > 0 && !memchr(new.text, 'e', n))
			allowed[n_allowed++] = id;
	struct gpuq_writer_options o = {.model = m.name, .tokenizer = t, .sampling = policy};
	if (gpuq_writer_create(ch, &o, &w) < 0 ||
		gpuq_writer_read(w, argv[2], strlen(argv[2]), GPUQ_ENCODE_SPECIAL) < 0)
		errx(1, "%s", gpuq_error_detail());
	for (int i = 0; i < 60 && (n = gpuq_writer_next(w, &new)) > 0; i++)
		fwrite(new.text, 1, new.bytes, stdout);
	if (n < 0 || (n = gpuq_writer_finish(w, &new.text)) < 0)
		errx(1, "%s", gpuq_error_detail());
	printf("%.*s\n", (int)n, new.text);
	gpuq_writer_destroy(w);
	gpuq_tokenizer_destroy(t);
	gpuq_disconnect(g);
}
