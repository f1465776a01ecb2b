/* SPDX-License-Identifier: MIT */
/*
 * synthetic-gpuqd SOCKET CLIENTS CHANNELS: plays a daemon for gpuq-top: makes a statistics object
 * for this socket path and traffic in it, until it is killed. SIGTERM removes the object.
 */
#include "tests/tools/synthetic.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static volatile sig_atomic_t ended;

static void on_term(int signal)
{
	ended = 1;
}

int main(int argc, char **argv)
{
	const struct timespec pause = {.tv_nsec = 50 * 1000 * 1000};
	struct synthetic s;

	if (argc != 4)
		return 2;
	if (synthetic_create(&s, argv[1], (uint32_t)strtoul(argv[2], NULL, 10),
		    (uint32_t)strtoul(argv[3], NULL, 10)) < 0)
		return 1;
	signal(SIGTERM, on_term);
	if (s.clients > 2)
		s.stats.clients[2].state = STATS_CLIENT_STALLED;
	for (uint32_t i = 3; i < s.channels; i += 4)
		s.stats.channels[i].parked = 1;
	puts("ready");
	fflush(stdout);
	while (!ended) {
		for (uint32_t i = 0; i < s.channels; i++) {
			s.stats.channels[i].depth = (uint64_t)rand() % 32;
			s.stats.channels[i].in_flight = (uint64_t)rand() % 8;
		}
		synthetic_traffic(&s, 1000 + (uint64_t)rand() % 4000, 300 + (uint64_t)rand() % 200,
			2000 + (uint64_t)rand() % 90000);
		nanosleep(&pause, NULL);
	}
	synthetic_destroy(&s);
	return 0;
}
