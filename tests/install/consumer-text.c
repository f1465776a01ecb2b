/* SPDX-License-Identifier: MIT */
/* consumer-text.c: a program from elsewhere that uses an installed libgpuq-text. */
#include <gpuq-text.h>

#include <errno.h>
#include <stdio.h>

int main(void)
{
	static const char json[] = "{\"model\":{\"vocab\":{\"a\":0},\"merges\":[]}}";
	struct gpuq_tokenizer *t = NULL;
	struct gpuq_encoder *e = NULL;
	const uint32_t *ids = NULL;

	if (gpuq_tokenizer_load("/nowhere", &t) != -ENOENT || t != NULL)
		return 1;
	printf("%s\n", gpuq_error_detail());
	if (gpuq_tokenizer_parse(json, sizeof(json) - 1, &t) < 0)
		return 2;
	if (gpuq_encoder_create(t, &e) < 0 || gpuq_encode(e, "aa", 2, 0, &ids) != 2)
		return 3;
	gpuq_encoder_destroy(e);
	gpuq_tokenizer_destroy(t);
	return 0;
}
