/* SPDX-License-Identifier: MIT */
/* fake.c: the test's side of the fake gpuqd. */
#include "tests/client/fake.h"
#include "shm/clock.h"
#include "tests/harness.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

struct fake *fake_new(void)
{
	struct fake *fake = calloc(1, sizeof(*fake));

	assert_non_null(fake);
	fake->control = mmap(NULL, sizeof(*fake->control), PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(fake->control != MAP_FAILED);
	fake->control->abi = WIRE_ABI;
	fake->control->runnable = 1;
	fake->control->state = WIRE_SERVING;
	snprintf(fake->socket, sizeof(fake->socket), "%s/gpuq-0", harness_tmpdir());
	return fake;
}

void fake_start(struct fake *fake)
{
	pid_t parent = getpid();

	fake->control->ready = 0;
	fake->pid = fork();
	assert_true(fake->pid >= 0);
	if (fake->pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(1);
		fake_run(fake);
	}
	fake_expect(&fake->control->ready, 1);
}

void fake_kill(struct fake *fake)
{
	if (fake->pid <= 0)
		return;
	kill(fake->pid, SIGKILL);
	waitpid(fake->pid, NULL, 0);
	fake->pid = 0;
}

void fake_part(struct fake *fake)
{
	struct fake_control *control = fake->control;

	control->parted = 0;
	control->finish = 0;
	shm_store_release(&control->part, 1);
	fake_expect(&control->parted, 1);
	fake->device_pid = (pid_t)shm_load_relaxed(&control->device_pid);
	shm_store_relaxed(&control->part, 0);
}

/* An orphan by then: it became the test's when the control process ended. */
static void await_device(struct fake *fake)
{
	assert_int_equal(waitpid(fake->device_pid, NULL, 0), fake->device_pid);
	fake->device_pid = 0;
}

void fake_end_device(struct fake *fake, uint32_t n)
{
	shm_store_release(&fake->control->finish, 1 + (uint64_t)n);
	await_device(fake);
}

void fake_destroy(struct fake *fake)
{
	fake_kill(fake);
	if (fake->device_pid != 0)
		fake_end_device(fake, 0);
	munmap(fake->control, sizeof(*fake->control));
	free(fake);
}

void fake_expect(const uint64_t *word, uint64_t value)
{
	uint64_t deadline_ns = clock_monotonic_ns() + harness_slowness() * 10000000000ull;

	while (shm_load_acquire(word) != value) {
		if (clock_monotonic_ns() > deadline_ns)
			fail_msg("the fake gpuqd: %llu instead of %llu after 10 s",
				(unsigned long long)shm_load_relaxed(word),
				(unsigned long long)value);
		usleep(200);
	}
}
