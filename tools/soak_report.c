/* SPDX-License-Identifier: MIT */
/* soak_report.c: what gpuq-soak tells while it runs and at the end. */
#include "tools/soak.h"

#include "shm/clock.h"

#include <stdio.h>
#include <unistd.h>

#define SHOW_NS 1000000000u
#define SHOW_LOG_NS 60000000000u /* where each line stays */

/* Sums over all slots; the longest wait is of those that nobody stopped. */
static struct soak_page sums(const struct soak *s)
{
	struct soak_page sum = {0};

	for (uint32_t i = 0; i < s->n_slots; i++) {
		const struct soak_page *p = &s->common->pages[i];
		uint64_t longest_ns = shm_load_relaxed(&p->longest_ns);
		sum.completed += shm_load_relaxed(&p->completed);
		sum.checked += p->checked;
		sum.cancelled += p->cancelled;
		sum.tokens += p->tokens;
		sum.connects += p->connects;
		sum.pipelines += p->pipelines;
		sum.buffers += p->buffers;
		sum.grants += p->grants;
		sum.accepts += p->accepts;
		sum.late_accepts += p->late_accepts;
		sum.longest_ns = longest_ns > sum.longest_ns ? longest_ns : sum.longest_ns;
	}
	return sum;
}

void soak_progress(struct soak *s, bool last)
{
	uint64_t now_ns = clock_monotonic_ns();
	const bool terminal = isatty(STDERR_FILENO) != 0;
	const uint64_t every_ns = terminal ? SHOW_NS : SHOW_LOG_NS;

	if (s->start_ns == 0 || (!last && now_ns - s->shown_ns < every_ns))
		return;
	s->shown_ns = now_ns;
	struct soak_page sum = sums(s);
	fprintf(stderr, "%s%llu of %llu killed in %.1f s, %llu completions, longest wait %.1f ms%s",
		terminal ? "\r" : "", (unsigned long long)s->killed, (unsigned long long)s->kills,
		(double)(now_ns - s->start_ns) / 1e9, (unsigned long long)sum.completed,
		(double)sum.longest_ns / 1e6, terminal && !last ? "\33[K" : "\n");
}

void soak_print(const struct soak *s)
{
	const struct soak_page sum = sums(s);
	const uint64_t checks = s->n_checkpoints;

	printf("died while\n");
	for (uint32_t i = 0; i < SOAK_STATES; i++) {
		if (i != SOAK_GENERATING || s->common->has_model)
			printf("  %-12s %8llu\n", soak_state_names[i],
				(unsigned long long)s->died_in[i]);
	}
	printf("%llu stopped, %llu starved, %llu ended in order\n", (unsigned long long)s->stops,
		(unsigned long long)s->starvations, (unsigned long long)s->ends);
	printf("%llu completions, %llu with values checked, %llu cancelled; %llu tokens\n",
		(unsigned long long)sum.completed, (unsigned long long)sum.checked,
		(unsigned long long)sum.cancelled, (unsigned long long)sum.tokens);
	printf("%llu connections, %llu pipelines, %llu buffers, %llu granted, %llu accepted, %llu "
	       "too late\n",
		(unsigned long long)sum.connects, (unsigned long long)sum.pipelines,
		(unsigned long long)sum.buffers, (unsigned long long)sum.grants,
		(unsigned long long)sum.accepts, (unsigned long long)sum.late_accepts);
	printf("accounts looked at %llu times; longest wait %.1f ms of %.1f s allowed\n",
		(unsigned long long)checks, (double)sum.longest_ns / 1e6,
		(double)s->common->bound_ns / 1e9);
	if (s->wrong)
		printf("WRONG: %s\n", s->complaint);
	else
		printf("nothing was wrong\n");
}

static json_t *process_json(const struct world_process *p)
{
	return json_pack("{s:I, s:I, s:I, s:I}", "fds", (json_int_t)p->fds, "threads",
		(json_int_t)p->threads, "segments", (json_int_t)p->segments, "pss_kib",
		(json_int_t)p->pss_kib);
}

static json_t *world_json(const struct world *w, uint64_t kills)
{
	return json_pack("{s:I, s:o, s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "kills",
		(json_int_t)kills, "control", process_json(&w->control), "device",
		process_json(&w->device), "clients", (json_int_t)w->clients, "channels",
		(json_int_t)w->channels, "segment_bytes", (json_int_t)w->segment_bytes, "buffers",
		(json_int_t)w->buffers, "pipelines", (json_int_t)w->pipelines, "sessions",
		(json_int_t)w->sessions, "kv_used", (json_int_t)w->kv_used, "graph_bytes",
		(json_int_t)w->graph_bytes);
}

static json_t *counts_json(const struct soak_page *sum)
{
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "completed",
		(json_int_t)sum->completed, "checked", (json_int_t)sum->checked, "cancelled",
		(json_int_t)sum->cancelled, "tokens", (json_int_t)sum->tokens, "connections",
		(json_int_t)sum->connects, "pipelines", (json_int_t)sum->pipelines, "buffers",
		(json_int_t)sum->buffers, "grants", (json_int_t)sum->grants, "accepts",
		(json_int_t)sum->accepts, "late_accepts", (json_int_t)sum->late_accepts);
}

int soak_write(const struct soak *s, const char *path)
{
	const struct soak_page sum = sums(s);
	json_t *states = json_object(), *worlds = json_array();

	for (uint32_t i = 0; i < SOAK_STATES; i++) {
		if (i != SOAK_GENERATING || s->common->has_model)
			json_object_set_new(states, soak_state_names[i],
				json_integer((json_int_t)s->died_in[i]));
	}
	json_array_append_new(worlds, world_json(&s->before, 0));
	for (uint32_t i = 0; i < s->n_checkpoints; i++)
		json_array_append_new(
			worlds, world_json(&s->checkpoints[i], s->checkpoint_kills[i]));
	json_t *report = json_pack("{s:s, s:b, s:s, s:I, s:I, s:f, s:I, s:I, s:I, s:I, s:o, s:o}",
		"schema", "gpuq-soak/1", "ok", !s->wrong, "wrong", s->complaint, "seed",
		(json_int_t)s->seed, "killed", (json_int_t)s->killed, "seconds",
		(double)(clock_monotonic_ns() - s->start_ns) / 1e9, "stopped", (json_int_t)s->stops,
		"starved", (json_int_t)s->starvations, "rescues", (json_int_t)s->steady_rescues,
		"longest_wait_ns", (json_int_t)sum.longest_ns, "died_while", states, "accounts",
		worlds);
	json_object_set_new(report, "counts", counts_json(&sum));
	int r = json_dump_file(report, path, JSON_INDENT(2));
	json_decref(report);
	if (r < 0)
		complain("cannot write %s", path);
	return r;
}
