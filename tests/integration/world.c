/* SPDX-License-Identifier: MIT */
/* world.c: see world.h. */
#include "tests/integration/world.h"

#include "shm/clock.h"

#define AWAIT_NS 10000000000u
/* The C library keeps a little of what was freed, and page tables and stacks warm up. */
#define PSS_SLACK_KIB 1024
#define CUDA_SLACK_KIB (128u << 10)

struct world world_look(const struct harness_daemon *daemon)
{
	struct stats s = raw_stats(daemon);
	struct world w = world_read(daemon->pid, &s);

	stats_close(&s);
	return w;
}

static uint64_t slack_kib(void)
{
	/* A sanitizer keeps freed memory for a while, and its own books besides. */
	if (harness_slowness() > 1)
		return UINT64_MAX;
	/* CUDA takes 700 MiB, give or take some. */
	return harness_on_gpu() ? CUDA_SLACK_KIB : PSS_SLACK_KIB;
}

static struct world await_back(
	const struct harness_daemon *daemon, const struct world *before, uint64_t slack)
{
	const uint64_t patience_ns = AWAIT_NS * harness_slowness();
	uint64_t start_ns = clock_monotonic_ns();
	struct world now = world_look(daemon);

	while (clock_monotonic_ns() - start_ns < patience_ns) {
		if (world_is_back(&now, before, slack))
			return now;
		raw_pause();
		now = world_look(daemon);
	}
	world_print("before", before);
	world_print("now", &now);
	fail_msg("gpuqd does not come back to where it was");
	return now;
}

void world_await(const struct harness_daemon *daemon, const struct world *before)
{
	(void)await_back(daemon, before, slack_kib());
}

struct world world_await_rest(const struct harness_daemon *daemon, const struct world *before)
{
	return await_back(daemon, before, UINT64_MAX);
}

void world_print(const char *title, const struct world *w)
{
	char text[1024];

	world_describe(w, text, sizeof(text));
	print_message("%s:\n%s\n", title, text);
}

pid_t world_device_pid(const struct harness_daemon *daemon)
{
	struct stats s = raw_stats(daemon);
	bool ready = shm_load_acquire_u32(&s.devices[0].state) == STATS_DEVICE_READY;
	pid_t pid = ready ? (pid_t)s.devices[0].pid : 0;

	stats_close(&s);
	return pid;
}

pid_t world_await_device(const struct harness_daemon *daemon, pid_t last)
{
	pid_t pid = last;

	raw_await((pid = world_device_pid(daemon)) != 0 && pid != last);
	return pid;
}
