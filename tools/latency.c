/* SPDX-License-Identifier: MIT */
/* Durations in a histogram, as text and as JSON. */
#include "tools/latency.h"

#include "tools/top_table.h"

void latency_add(struct latency *l, uint64_t ns)
{
	if (l->n == 0 || ns < l->min_ns)
		l->min_ns = ns;
	if (ns > l->max_ns)
		l->max_ns = ns;
	l->n++;
	hist_add(l->counts, HIST_BENCH_BITS, ns);
}

/* A quantile is the middle of its bucket, which may lie beyond what was seen. */
static uint64_t quantile(const struct latency *l, double fraction)
{
	uint64_t ns = hist_quantile(l->counts, HIST_BENCH_BITS, fraction);

	if (ns < l->min_ns)
		return l->min_ns;
	return ns > l->max_ns ? l->max_ns : ns;
}

const char *latency_text(const struct latency *l, char *text, size_t size)
{
	char min[16], p50[16], p99[16], p999[16], max[16];

	format_ns(l->min_ns, min, sizeof(min));
	format_ns(quantile(l, 0.5), p50, sizeof(p50));
	format_ns(quantile(l, 0.99), p99, sizeof(p99));
	format_ns(quantile(l, 0.999), p999, sizeof(p999));
	format_ns(l->max_ns, max, sizeof(max));
	snprintf(text, size, "min %-6s  p50 %-6s  p99 %-6s  p99.9 %-6s  max %s", min, p50, p99,
		p999, max);
	return text;
}

json_t *latency_json(const struct latency *l)
{
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "count", (json_int_t)l->n, "min",
		(json_int_t)l->min_ns, "p50", (json_int_t)quantile(l, 0.5), "p99",
		(json_int_t)quantile(l, 0.99), "p999", (json_int_t)quantile(l, 0.999), "max",
		(json_int_t)l->max_ns);
}
