/* SPDX-License-Identifier: MIT */
/* The model as plain text: batch output of gpuq-top, and gpuq status. */
#include "tools/top_table.h"

#include <math.h>

const char *top_summary(const struct top_daemon *d, char *text, size_t size)
{
	char rate[16] = "-", bytes[16];

	format_bytes(d->segment_bytes, bytes, sizeof(bytes));
	if (!isnan(d->rate))
		format_rate(d->rate, rate, sizeof(rate));
	snprintf(text, size,
		"%s/s, %llu failed, %llu clients, %llu channels, %sB shared, %llu refused, "
		"%llu died",
		rate, (unsigned long long)d->failed, (unsigned long long)d->clients,
		(unsigned long long)d->channels, bytes, (unsigned long long)d->refused,
		(unsigned long long)d->deaths);
	return text;
}

static void print_table(
	const struct table *t, const struct top_rows *rows, uint32_t width, FILE *out)
{
	struct table_plan plan;
	char line[TABLE_LINE_MAX];

	table_plan(t, width, &plan);
	fprintf(out, "\n%s\n", table_titles(t, &plan, line));
	for (uint32_t i = 0; i < rows->n; i++)
		fprintf(out, "%s\n", table_line(t, &plan, table_row(t, rows, i), line));
}

void top_print(const struct top_model *model, uint32_t width, FILE *out)
{
	char line[TABLE_LINE_MAX];

	fprintf(out, "%s at %s\n", top_headline(&model->daemon, line, sizeof(line)),
		model->daemon.socket);
	if (model->trouble[0] != '\0')
		fprintf(out, "%s\n", model->trouble);
	else
		fprintf(out, "%s\n", top_summary(&model->daemon, line, sizeof(line)));
	for (int i = 0; i < TOP_TABLES; i++)
		if (i < TOP_FIRST_EXTRA || model->rows[i].n > 0)
			print_table(&top_tables[i], &model->rows[i], width, out);
}
