/* SPDX-License-Identifier: MIT */
/*
 * attack.h: what the parts of gpuq-attack share. Attackers are processes, of another user where
 * that is possible, that run one bout after another, each of a class; a bout is a connection, or a
 * few, with which everything is done that may not be done. Its choices come from the seed, the
 * attacker's number and the bout's.
 *
 * An attacker counts what it did. When gpuqd does what it never may (does not answer, grants what
 * is somebody else's, goes beyond a limit) the attacker complains, and the run has failed.
 */
#ifndef GPUQ_TESTS_HOSTILE_ATTACK_H
#define GPUQ_TESTS_HOSTILE_ATTACK_H

#include "tests/hostile/segment.h"
#include "tests/integration/children.h"

#define ATTACKERS_MAX 8u
#define ATTACK_MODEL "tiny"

/* Each class is in the table attack_classes, under its number. */
enum attack_class {
	ATTACK_SCRIBBLE,
	ATTACK_ARGUMENTS,
	ATTACK_PAYLOADS,
	ATTACK_INDICES,
	ATTACK_HOLES,
	ATTACK_DOORBELLS,
	ATTACK_UNREAD_COMPLETIONS,
	ATTACK_HANDSHAKES,
	ATTACK_DESCRIPTORS,
	ATTACK_UNREAD_DESCRIPTORS,
	ATTACK_CONNECTS,
	ATTACK_HANDLES,
	ATTACK_QUOTAS,
	ATTACK_STATISTICS, /* also gpuq-attack itself, at the end */
	ATTACK_CLASSES
};

/* What belongs to somebody else; see landlord.c. */
struct attack_estate {
	uint32_t channel, generation, buffer, pipeline, session, model;
};

/* What all attackers may know. */
struct attack_common {
	char socket[200];
	uint64_t seed;
	uint32_t only; /* 1 + the class that is wanted; 0: all */
	bool stranger; /* attackers are another user */
	struct attack_estate estate;
};

/* Between one attacker and gpuq-attack. */
struct attack_page {
	uint32_t stop;
	uint64_t bouts, deeds[ATTACK_CLASSES];
	uint32_t class; /* that it is at */
	char complaint[256];
};

struct attacker {
	const struct attack_common *common;
	struct attack_page *page;
	uint32_t number;
	struct random rng;
	uint64_t end_ns; /* of the bout */
};

struct attack_form {
	const char *name, *deeds; /* what is counted */
	void (*bout)(struct attacker *a);
};
extern const struct attack_form attack_classes[ATTACK_CLASSES];

/* Gives up root's rights for good. False: that is not possible here. */
bool attack_become_stranger(void);

/* The process of an attacker: bouts until it is told to stop. */
_Noreturn void attack_main(
	const struct attack_common *common, struct attack_page *page, uint32_t number);

/* --- attack.c: what bouts are made of ------------------------------------------------------ */

/* gpuqd has done what it never may. */
_Noreturn void attack_complain(struct attacker *a, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/* The bout may last longer. */
bool attack_goes_on(const struct attacker *a);

void attack_count(struct attacker *a, uint64_t n);

/* A connection that has been welcomed; -1 when gpuqd lets nobody in at the moment. */
int attack_connect(struct attacker *a);

/* Asks, and waits for the answer. False: the connection has ended. */
bool attack_ask(int fd, void *msg, uint16_t type, uint32_t bytes, struct raw_answer *ret_answer);

/* One handle that gpuqd gives away for such a request; 0 when it does not. */
uint32_t attack_buffer(int fd);
uint32_t attack_model(int fd);

/* A channel of its own. */
struct attack_channel {
	struct wire_client client;
	int segment_fd;
	struct work work;
};

/* Connects and opens one. False when that is refused; then nothing is left open. */
bool attack_channel_open(struct attacker *a, struct attack_channel *ch);
void attack_channel_close(struct attack_channel *ch);

/* --- The classes --------------------------------------------------------------------------- */

/* attack_memory.c */
void attack_scribble(struct attacker *a);
void attack_arguments(struct attacker *a);
void attack_payloads(struct attacker *a);
void attack_indices(struct attacker *a);
void attack_holes(struct attacker *a);
void attack_doorbells(struct attacker *a);
void attack_unread_completions(struct attacker *a);

/* attack_socket.c */
void attack_handshakes(struct attacker *a);
void attack_descriptors(struct attacker *a);
void attack_unread_descriptors(struct attacker *a);
void attack_connects(struct attacker *a);

/* attack_rights.c */
void attack_handles(struct attacker *a);
void attack_quotas(struct attacker *a);
void attack_statistics(struct attacker *a);

/* --- landlord.c ---------------------------------------------------------------------------- */

/* A client that has one of everything, and finds it as it was. */
struct landlord {
	struct wire_client client;
	struct attack_estate estate;
};

void landlord_open(struct landlord *l, const char *socket, bool has_model);
/* Fails the test when something is not as it was. */
void landlord_check(struct landlord *l);
void landlord_close(struct landlord *l);

#endif
