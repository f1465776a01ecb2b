/* SPDX-License-Identifier: MIT */
/* attackers.c: see attackers.h. */
#include "tests/hostile/attackers.h"

#include "shm/clock.h"

#include <sys/mman.h>
#include <sys/wait.h>

#define STOP_NS (20000000000ull * harness_slowness())

static const struct attackers *all;

static void run_attacker(struct child *child)
{
	attack_main(all->common, &all->pages[child->number], child->number);
}

void attackers_create(struct attackers *s, const struct attack_common *common, uint32_t n)
{
	s->common = common;
	s->n = n;
	s->pages = mmap(NULL, ATTACKERS_MAX * sizeof(*s->pages), PROT_READ | PROT_WRITE,
		MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(s->pages != MAP_FAILED);
	all = s;
}

void attackers_start(struct attackers *s)
{
	for (uint32_t i = 0; i < s->n; i++) {
		s->children[i].number = i;
		s->children[i].run = run_attacker;
		shm_store_release_u32(&s->pages[i].stop, 0);
		child_start(&s->children[i]);
	}
}

static const char *class_of(const struct attack_page *page)
{
	return attack_classes[shm_load_relaxed_u32(&page->class) % ATTACK_CLASSES].name;
}

static bool has_ended(struct attackers *s, uint32_t i)
{
	const struct attack_page *page = &s->pages[i];
	int status;

	if (s->children[i].pid == 0)
		return true;
	if (waitpid(s->children[i].pid, &status, WNOHANG) != s->children[i].pid)
		return false;
	s->children[i].pid = 0;
	if (page->complaint[0] != '\0')
		fail_msg("attacker %u, %s: %s", i, class_of(page), page->complaint);
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		fail_msg("attacker %u, %s: ended with status %#x", i, class_of(page),
			(unsigned int)status);
	return true;
}

void attackers_check(struct attackers *s)
{
	for (uint32_t i = 0; i < s->n; i++) {
		if (has_ended(s, i))
			fail_msg("attacker %u has ended", i);
	}
}

void attackers_stop(struct attackers *s)
{
	const uint64_t start_ns = clock_monotonic_ns();

	for (uint32_t i = 0; i < s->n; i++)
		shm_store_release_u32(&s->pages[i].stop, 1);
	for (uint32_t i = 0; i < s->n; i++) {
		while (!has_ended(s, i)) {
			if (clock_monotonic_ns() - start_ns > STOP_NS)
				fail_msg("attacker %u does not come back from %s", i,
					class_of(&s->pages[i]));
			raw_pause();
		}
	}
}

uint64_t attackers_deeds(const struct attackers *s, uint32_t class)
{
	uint64_t n = 0;

	for (uint32_t i = 0; i < ATTACKERS_MAX; i++)
		n += shm_load_relaxed(&s->pages[i].deeds[class]);
	return n;
}
