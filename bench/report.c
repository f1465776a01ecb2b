/* SPDX-License-Identifier: MIT */
/* report.c: tables and verdicts on standard output, progress on standard error, JSON in a file. */
#include "bench/bench.h"

#include "client/gpuq.h"
#include <commit.h>

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* --- Standard error ------------------------------------------------------------------------ */

static bool line_open; /* a progress line waits to be overwritten */

void progress(const char *format, ...)
{
	va_list args;

	/* Each message replaces the last, which needs a terminal. */
	if (!isatty(STDERR_FILENO))
		return;
	va_start(args, format);
	fprintf(stderr, "\r\033[K");
	vfprintf(stderr, format, args);
	va_end(args);
	line_open = true;
}

static void progress_end(void)
{
	if (line_open)
		fprintf(stderr, "\r\033[K");
	line_open = false;
}

void complain(int error, const char *format, ...)
{
	va_list args;

	progress_end();
	va_start(args, format);
	fprintf(stderr, "gpuq-bench: ");
	vfprintf(stderr, format, args);
	va_end(args);
	if (error < 0)
		fprintf(stderr, ": %s", gpuq_strerror(error));
	fprintf(stderr, "\n");
}

/* --- Tables -------------------------------------------------------------------------------- */

static const char *format_ns(char *text, size_t size, double ns)
{
	if (ns < 9999.5)
		snprintf(text, size, "%.0f ns", ns);
	else if (ns < 9999.5e3)
		snprintf(text, size, "%.1f us", ns / 1e3);
	else
		snprintf(text, size, "%.1f ms", ns / 1e6);
	return text;
}

static void print_row(const struct contender *c)
{
	const struct series *s = &c->series;
	char p50[24], p99[24], p999[24], max[24];

	printf("%-28s %10s %10s %10s %10s %8.2f %8.2f\n", c->name,
		format_ns(p50, sizeof(p50), (double)series_quantile_ns(s, 0.5)),
		format_ns(p99, sizeof(p99), (double)series_quantile_ns(s, 0.99)),
		format_ns(p999, sizeof(p999), (double)series_quantile_ns(s, 0.999)),
		format_ns(max, sizeof(max), (double)s->max_ns), series_ratio(s, 0.5),
		series_ratio(s, 0.99));
}

static json_t *histogram_json(const uint64_t *counts, double scale)
{
	json_t *buckets = json_array();

	for (uint32_t i = 0; i < BENCH_BUCKETS; i++) {
		if (counts[i] == 0)
			continue;
		double low = (double)hist_bucket_floor(i, HIST_BENCH_BITS) * scale;
		json_array_append_new(buckets, json_pack("[f,I]", low, (json_int_t)counts[i]));
	}
	return buckets;
}

static json_t *row_json(const char *title, const char *unit, const struct contender *c)
{
	const struct series *s = &c->series;
	json_t *rounds = json_array();

	for (uint32_t i = 0; i < s->rounds; i++)
		json_array_append_new(rounds, json_real(s->round_p50_ns[i]));
	return json_pack("{s:s,s:s,s:s,s:I,s:I,s:I,s:I,s:I,s:f,s:f,s:o,s:o,s:o}", "table", title,
		"name", c->name, "unit", unit, "samples", (json_int_t)s->total, "p50_ns",
		(json_int_t)series_quantile_ns(s, 0.5), "p99_ns",
		(json_int_t)series_quantile_ns(s, 0.99), "p999_ns",
		(json_int_t)series_quantile_ns(s, 0.999), "max_ns", (json_int_t)s->max_ns,
		"p50_in_units", series_ratio(s, 0.5), "p99_in_units", series_ratio(s, 0.99),
		"round_p50_ns", rounds, "histogram_ns", histogram_json(s->ns, 1),
		"histogram_in_units", histogram_json(s->milli, 0.001));
}

/* How far the unit itself wandered from round to round. */
static void print_unit(const char *unit, const struct contender *first)
{
	const struct series *s = &first->series;
	double least = s->round_p50_ns[0], most = s->round_p50_ns[0];

	for (uint32_t i = 1; i < s->rounds; i++) {
		least = s->round_p50_ns[i] < least ? s->round_p50_ns[i] : least;
		most = s->round_p50_ns[i] > most ? s->round_p50_ns[i] : most;
	}
	printf("%s is the p50 of '%s' in the same round: %.1f ns, from %.1f to %.1f in %u rounds\n",
		unit, first->name, series_typical_ns(s), least, most, s->rounds);
}

void report_table(struct bench *b, const char *title, const char *unit, const struct contender *set,
	uint32_t n)
{
	char in_p50[24], in_p99[24];

	progress_end();
	snprintf(in_p50, sizeof(in_p50), "p50/%s", unit);
	snprintf(in_p99, sizeof(in_p99), "p99/%s", unit);
	printf("\n====== %s (%llu samples, load %u) ======\n", title,
		(unsigned long long)set[0].series.total, machine_running());
	printf("%-28s %10s %10s %10s %10s %8s %8s\n", "", "p50", "p99", "p99.9", "max", in_p50,
		in_p99);
	for (uint32_t i = 0; i < n; i++) {
		print_row(&set[i]);
		json_array_append_new(b->rows, row_json(title, unit, &set[i]));
	}
	print_unit(unit, &set[0]);
	fflush(stdout);
}

void report_line(const char *format, ...)
{
	va_list args;

	progress_end();
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	fflush(stdout);
}

void report_json(struct bench *b, const char *title, json_t *value)
{
	json_array_append_new(b->rows, json_pack("{s:s,s:o}", "table", title, "value", value));
}

/* --- Targets ------------------------------------------------------------------------------- */

static void print_check(const struct check *c)
{
	if (isnan(c->limit)) {
		printf("        %s: %.3g\n", c->what, c->value);
		return;
	}
	printf("  %s  %s: %.3g (target %s %.3g%s)\n",
		!c->judged	  ? "----"
			: c->pass ? "pass"
				  : "MISS",
		c->what, c->value, c->at_least ? ">=" : "<=", c->limit,
		c->judged ? "" : ", not judged on this machine");
}

static void __attribute__((format(printf, 3, 0)))
add_check(struct bench *b, struct check check, const char *format, va_list args)
{
	if (b->n_checks == BENCH_MAX_CHECKS)
		return;
	struct check *c = &b->checks[b->n_checks++];

	*c = check;
	vsnprintf(c->what, sizeof(c->what), format, args);
	c->pass = c->at_least ? c->value >= c->limit : c->value <= c->limit;
	print_check(c);
	fflush(stdout);
}

void report_check(struct bench *b, double value, double limit, const char *format, ...)
{
	const struct check check = {.value = value, .limit = limit, .judged = true};
	va_list args;

	va_start(args, format);
	add_check(b, check, format, args);
	va_end(args);
}

void report_check_if(
	struct bench *b, bool judged, double value, double limit, const char *format, ...)
{
	const struct check check = {.value = value, .limit = limit, .judged = judged};
	va_list args;

	va_start(args, format);
	add_check(b, check, format, args);
	va_end(args);
}

void report_check_at_least(struct bench *b, double value, double limit, const char *format, ...)
{
	const struct check check = {
		.value = value, .limit = limit, .at_least = true, .judged = true};
	va_list args;

	va_start(args, format);
	add_check(b, check, format, args);
	va_end(args);
}

void report_figure(struct bench *b, double value, const char *format, ...)
{
	const struct check check = {.value = value, .limit = NAN};
	va_list args;

	va_start(args, format);
	add_check(b, check, format, args);
	va_end(args);
}

void report_summary(const struct bench *b)
{
	uint32_t met = 0, judged = 0;

	progress_end();
	printf("\n====== summary ======\n");
	for (uint32_t i = 0; i < b->n_checks; i++) {
		const struct check *c = &b->checks[i];
		print_check(c);
		judged += c->judged;
		met += c->judged && c->pass;
	}
	printf("%u of %u targets met\n", met, judged);
}

static json_t *checks_json(const struct bench *b)
{
	json_t *checks = json_array();

	for (uint32_t i = 0; i < b->n_checks; i++) {
		const struct check *c = &b->checks[i];
		json_t *limit = isnan(c->limit) ? json_null() : json_real(c->limit);
		json_array_append_new(checks,
			json_pack("{s:s,s:f,s:o,s:b,s:b,s:b}", "what", c->what, "value", c->value,
				"limit", limit, "at_least", c->at_least, "judged", c->judged,
				"pass", c->pass));
	}
	return checks;
}

int report_write(const struct bench *b, json_t *machine, const char *path)
{
	json_t *root = json_pack("{s:s,s:s,s:s,s:s,s:O,s:O,s:o}", "program", "gpuq-bench",
		"version", gpuq_version(), "commit", BENCH_COMMIT, "command", b->command, "machine",
		machine, "rows", b->rows, "checks", checks_json(b));
	int r = root == NULL ? -ENOMEM : 0;

	errno = EIO;
	if (r == 0 && json_dump_file(root, path, JSON_INDENT(1) | JSON_REAL_PRECISION(6)) < 0)
		r = -errno;
	json_decref(root);
	return r;
}
