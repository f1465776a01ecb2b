/* SPDX-License-Identifier: MIT */
/* wait_ready.c: waits until a gpuqd serves, with its models, as scripts and probes want to. */
#include "tools/wait_ready.h"

#include "shm/clock.h"

#include <errno.h>
#include <stdio.h>
#include <time.h>

#define PERIOD_NS 50000000 /* between two looks */

/* How things stand: what is not ready yet, for people. */
struct standing {
	bool ready;
	uint32_t failed; /* models */
	char missing[512];
};

static void look_at_model(struct standing *s, const struct gpuq_model_info *m)
{
	const double percent =
		m->total_bytes == 0 ? 0 : 100.0 * (double)m->loaded_bytes / (double)m->total_bytes;

	s->failed += m->state == GPUQ_MODEL_FAILED;
	if (m->state != GPUQ_MODEL_LOADING || !s->ready)
		return;
	s->ready = false;
	snprintf(s->missing, sizeof(s->missing), "model %s is being loaded (%.0f %%)", m->name,
		percent);
}

/* Looks at all models; false: the connection has ended. */
static bool look(struct gpuq *gpuq, struct standing *s)
{
	struct gpuq_model_info m;
	uint32_t i = 0;
	int r;

	*s = (struct standing){.ready = true};
	while ((r = gpuq_model_info(gpuq, i++, &m)) == 0)
		look_at_model(s, &m);
	return r == -ENOENT;
}

static void complain_about_failed(struct gpuq *gpuq)
{
	struct gpuq_model_info m;

	for (uint32_t i = 0; gpuq_model_info(gpuq, i, &m) == 0; i++) {
		if (m.state == GPUQ_MODEL_FAILED)
			complain("model %s could not be loaded: %s", m.name, m.why);
	}
}

/* Connects when there is no connection. What is wrong with it is what is missing. */
static bool try_connect(const struct invocation *v, struct gpuq **gpuq, struct standing *s)
{
	const struct gpuq_options options = {.socket = v->socket, .name = "gpuq"};

	if (*gpuq != NULL || gpuq_connect(&options, gpuq) == 0)
		return true;
	*gpuq = NULL;
	snprintf(s->missing, sizeof(s->missing), "%s", gpuq_error_detail());
	return false;
}

int wait_ready(const struct invocation *v, double timeout_s)
{
	const struct timespec nap = {.tv_nsec = PERIOD_NS};
	const uint64_t start_ns = clock_monotonic_ns();
	struct standing s = {.ready = false};
	struct gpuq *gpuq = NULL;

	for (;;) {
		if (try_connect(v, &gpuq, &s) && !look(gpuq, &s)) {
			gpuq_disconnect(gpuq);
			gpuq = NULL;
		} else if (s.ready) {
			break;
		}
		if ((double)(clock_monotonic_ns() - start_ns) / 1e9 >= timeout_s)
			break;
		nanosleep(&nap, NULL);
	}
	if (!s.ready)
		complain("not ready after %g s: %s", timeout_s, s.missing);
	else if (s.failed > 0)
		complain_about_failed(gpuq);
	gpuq_disconnect(gpuq);
	return s.ready && s.failed == 0 ? EXIT_OK : EXIT_FAIL;
}
