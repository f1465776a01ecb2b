/* SPDX-License-Identifier: MIT */
/* options.h: limits that the attacked gpuqd is started with, as its flags and as numbers. */
#ifndef GPUQ_TESTS_HOSTILE_OPTIONS_H
#define GPUQ_TESTS_HOSTILE_OPTIONS_H

#define ATTACK_CHANNELS_PER_CLIENT 6u
#define ATTACK_PIPELINES_PER_CLIENT 4u
#define ATTACK_SESSIONS_PER_CLIENT 3u
#define ATTACK_ARENA_BYTES (4ull << 20)
#define ATTACK_CLIENT_BYTES (6ull << 20)

/*
 * Enough of everything for the clients that behave, and so little of graphs that what attackers
 * have captured is soon dropped.
 */
#define ATTACK_FLAGS                                                                              \
	"--socket-mode=0666", "--device=cpu", "--hot-list=", "--log=warn", "--max-clients=96",    \
		"--max-clients-per-user=64", "--max-channels=192", "--max-channels-per-user=96",  \
		"--max-channels-per-client=6", "--max-pipelines-per-client=4",                    \
		"--max-sessions=64", "--max-sessions-per-user=24", "--max-sessions-per-client=3", \
		"--max-arena-bytes=4M", "--max-client-bytes=6M", "--max-user-bytes=128M",         \
		"--max-graphs=128", "--graph-bytes=1M", "--graph-pinned=0", "--kv-bytes=4M",      \
		"--handshake-timeout-ms=30000"

#endif
