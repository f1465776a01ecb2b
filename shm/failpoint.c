/* SPDX-License-Identifier: MIT */
/* failpoint.c: see failpoint.h. Nothing of it is in a build for use. */
#include "shm/failpoint.h"

#ifdef GPUQ_FAILPOINTS

#include "shm/atomics.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static struct failpoint_page *page;

static void open_page(void)
{
	const char *path = getenv("GPUQ_FAILPOINTS");
	int fd = path != NULL ? open(path, O_RDWR | O_CLOEXEC) : -1;

	if (fd < 0)
		return;
	void *base = mmap(NULL, sizeof(*page), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	page = base == MAP_FAILED ? NULL : base;
	close(fd);
}

static bool is(const struct failpoint *f, const char *name, uint32_t number)
{
	return f->number == number && strncmp(f->name, name, sizeof(f->name)) == 0;
}

static void note_seen(const char *name, uint32_t number)
{
	uint32_t n = shm_load_acquire_u32(&page->n_seen);

	for (uint32_t i = 0; i < n && i < FAILPOINT_SEEN_MAX; i++) {
		if (is(&page->seen[i], name, number)) {
			shm_fetch_add_u32(&page->seen[i].passes, 1);
			return;
		}
	}
	n = shm_fetch_add_u32(&page->n_seen, 1);
	if (n >= FAILPOINT_SEEN_MAX)
		return;
	page->seen[n].number = number;
	page->seen[n].passes = 1;
	strncpy(page->seen[n].name, name, FAILPOINT_NAME_MAX - 1);
}

void failpoint_pass(const char *name, uint32_t number)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, open_page);
	if (page == NULL)
		return;
	note_seen(name, number);
	if (shm_load_acquire_u32(&page->armed) == 0 || !is(&page->place, name, number))
		return;
	if (shm_fetch_add_u32(&page->count, UINT32_MAX) != 1)
		return;
	shm_store_release_u32(&page->fired, (uint32_t)getpid());
	kill(getpid(), page->action == FAILPOINT_STOP ? SIGSTOP : SIGKILL);
}

#endif
