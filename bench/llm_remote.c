/* SPDX-License-Identifier: MIT */
/*
 * llm_remote.c: a language model behind gpuqd: the same steps as llm_local.c's, asked for by a
 * client; and many clients at once, each a process with a session of its own.
 */
#include "bench/llm.h"

#include "client/gpuq.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define LOAD_NS 600000000000u
#define LOOK_NS 20000000u
#define ANSWER_NS 60000000000u

struct llm_remote {
	struct client client;
	struct gpuq_session *session;
	struct gpuq_call *step;
};

/* Waits until gpuqd has loaded the model. 0 or a told error. */
static int await_ready(const struct daemon *d)
{
	const uint64_t start_ns = clock_monotonic_ns();
	struct gpuq_model_info info = {0};
	struct client c;
	int e = client_open(d, &c);

	if (e < 0)
		return e;
	while (info.state != GPUQ_MODEL_READY && clock_monotonic_ns() - start_ns < LOAD_NS) {
		e = gpuq_model_find(c.gpuq, LLM_NAME, &info);
		if (e < 0 || info.state == GPUQ_MODEL_FAILED)
			break;
		sleep_ns(LOOK_NS);
	}
	client_close(&c);
	if (info.state == GPUQ_MODEL_READY)
		return 0;
	e = e < 0 ? e : info.state == GPUQ_MODEL_FAILED ? info.status : -ETIMEDOUT;
	complain(e, "gpuqd cannot load the model: %s", info.why);
	return e;
}

int llm_daemon_start(struct bench *b, const struct llm_folder *folder, struct daemon *ret_daemon)
{
	char model[300], workers[32];
	int e;

	snprintf(model, sizeof(model), "--model=" LLM_NAME "=%s%s", folder->path,
		llm_is_int8(b) ? ",quant=int8" : "");
	snprintf(workers, sizeof(workers), "--workers=%u", cpus_count());
	b->gpuqd_arguments[0] = model;
	b->gpuqd_arguments[1] = workers;
	b->many_cpus = true;
	e = daemon_start(b, ret_daemon);
	b->gpuqd_arguments[0] = b->gpuqd_arguments[1] = NULL;
	if (e < 0)
		return e;
	e = await_ready(ret_daemon);
	if (e < 0)
		daemon_stop(ret_daemon);
	return e;
}

int llm_remote_restart(struct llm_remote *r)
{
	const struct gpuq_step_options options = {
		.max_tokens = LLM_MAX_PROMPT, .max_rows = 1, .top_k = 1};
	int e;

	gpuq_call_destroy(r->step);
	r->step = NULL;
	gpuq_session_close(r->session);
	r->session = NULL;
	e = gpuq_session_open(r->client.channel, LLM_NAME, &r->session);
	if (e == 0)
		e = gpuq_step_create(r->session, &options, &r->step);
	return e;
}

int llm_remote_open(const struct daemon *d, struct llm_remote **ret_remote)
{
	struct llm_remote *r = calloc(1, sizeof(*r));
	int e = r == NULL ? -ENOMEM : client_open(d, &r->client);

	if (e == 0)
		e = llm_remote_restart(r);
	if (e < 0) {
		complain(e, "a session cannot be opened: %s", gpuq_error_detail());
		llm_remote_close(r);
		return e;
	}
	*ret_remote = r;
	return 0;
}

void llm_remote_close(struct llm_remote *r)
{
	if (r == NULL)
		return;
	gpuq_call_destroy(r->step);
	gpuq_session_close(r->session);
	client_close(&r->client);
	free(r);
}

int llm_remote_step(
	struct llm_remote *r, const int32_t *tokens, uint32_t n_tokens, int32_t *ret_token)
{
	const struct gpuq_submission s = {.call = r->step};
	struct gpuq_completion done;
	struct gpuq_row row;
	int e = gpuq_step_set(r->step, tokens, n_tokens, 1);

	if (e == 0)
		e = gpuq_submit(r->client.channel, &s, 1);
	if (e >= 0)
		e = gpuq_wait(r->client.channel, &done, 1, ANSWER_NS);
	if (e >= 0)
		e = e == 1 ? done.status : -ETIMEDOUT;
	if (e >= 0)
		e = gpuq_step_row(r->step, 0, &row);
	if (e >= 0)
		*ret_token = row.tokens[0];
	return e;
}

/* --- Many clients -------------------------------------------------------------------------- */

/* What the processes of a crowd share. */
struct llm_crowd_page {
	uint64_t ready, go, stop, failed;
	uint64_t ns[BENCH_BUCKETS]; /* between two tokens; all count here */
};

void llm_crowd_ready(struct llm_crowd_page *page)
{
	shm_fetch_add(&page->ready, 1);
	while (shm_load_acquire(&page->go) == 0)
		sleep_ns(1000000);
}

bool llm_crowd_note(struct llm_crowd_page *page, uint64_t token_ns)
{
	shm_fetch_add(&page->ns[hist_bucket(token_ns, HIST_BENCH_BITS)], 1);
	return shm_load_acquire(&page->stop) == 0;
}

static int read_prompt(struct llm_remote *r, uint32_t number, int32_t *ret_next)
{
	int32_t prompt[LLM_CONTEXT];
	int e = llm_remote_restart(r);

	for (uint32_t i = 0; i < LLM_CONTEXT; i++)
		prompt[i] = (int32_t)(1 + (i * 7 + number * 131) % 1000);
	return e < 0 ? e : llm_remote_step(r, prompt, LLM_CONTEXT, ret_next);
}

/* Texts of LLM_DECODED tokens, one after another; prompts do not count. */
static int decode_until_stop(struct llm_remote *r, struct llm_crowd_page *page, uint32_t number)
{
	const struct clock_line clock = {0};
	uint64_t took_ns;
	uint32_t length = 0;
	int32_t next = 0;
	int e = read_prompt(r, number, &next);

	if (e < 0)
		return e;
	llm_crowd_ready(page);
	do {
		if (length++ == LLM_DECODED) {
			e = read_prompt(r, number, &next);
			length = 0;
		}
		const uint64_t start_ns = clock_now_ns(&clock);
		if (e >= 0)
			e = llm_remote_step(r, &next, 1, &next);
		if (e < 0)
			return e;
		took_ns = clock_now_ns(&clock) - start_ns;
	} while (llm_crowd_note(page, took_ns));
	return 0;
}

int llm_speak_steps(const struct daemon *d, struct llm_crowd_page *page, uint32_t number)
{
	struct llm_remote *r;
	int e = llm_remote_open(d, &r);

	return e == 0 ? decode_until_stop(r, page, number) : e;
}

static pid_t start_member(
	const struct daemon *d, struct llm_crowd_page *page, uint32_t number, llm_speak *speak)
{
	pid_t pid = fork();

	if (pid != 0)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	cpus_free(0);
	int e = speak(d, page, number);
	if (e < 0) {
		complain(e, "client %u: %s", number, gpuq_error_detail());
		shm_fetch_add(&page->failed, 1);
	}
	_exit(e < 0);
}

/* Lets them decode for a while once all have read their prompts. */
static int run_members(struct llm_crowd_page *page, uint32_t n, double seconds, uint64_t *ret_ns)
{
	const uint64_t asked_ns = clock_monotonic_ns();

	while (shm_load_acquire(&page->ready) < n) {
		if (shm_load_acquire(&page->failed) > 0 ||
			clock_monotonic_ns() - asked_ns > ANSWER_NS)
			return -ECHILD;
		sleep_ns(1000000);
	}
	const uint64_t start_ns = clock_monotonic_ns();
	shm_store_release(&page->go, 1);
	sleep_ns((uint64_t)(seconds * 1e9));
	shm_store_release(&page->stop, 1);
	*ret_ns = clock_monotonic_ns() - start_ns;
	return 0;
}

int llm_crowd(const struct daemon *d, uint32_t n, double seconds, llm_speak *speak,
	struct llm_crowd *ret_crowd)
{
	struct llm_crowd_page *page = mmap(
		NULL, sizeof(*page), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t pids[LLM_MAX_CLIENTS] = {0};
	uint64_t took_ns = 0;
	int e = page == MAP_FAILED ? -errno : 0;

	for (uint32_t i = 0; i < n && e == 0; i++) {
		pids[i] = start_member(d, page, i, speak);
		e = pids[i] < 0 ? -errno : 0;
	}
	if (e == 0)
		e = run_members(page, n, seconds, &took_ns);
	for (uint32_t i = 0; i < n && pids[i] > 0; i++) {
		if (e < 0)
			kill(pids[i], SIGKILL);
		waitpid(pids[i], NULL, 0);
	}
	if (e == 0 && page->failed > 0)
		e = -ECHILD;
	if (e == 0)
		*ret_crowd = (struct llm_crowd){
			.tokens_per_s = (double)hist_total(page->ns, HIST_BENCH_BITS) * 1e9 /
				(double)took_ns,
			.p50_ns = hist_quantile(page->ns, HIST_BENCH_BITS, 0.5),
			.p99_ns = hist_quantile(page->ns, HIST_BENCH_BITS, 0.99),
		};
	else
		complain(e, "%u clients at once failed", n);
	if (page != MAP_FAILED)
		munmap(page, sizeof(*page));
	return e;
}
