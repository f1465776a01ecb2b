/* SPDX-License-Identifier: MIT */
/*
 * config.h: what gpuqd can be told. One table of keys drives the configuration file (INI), the
 * environment (GPUQ_<KEY>), the command line (--<key>), the help and --print-config. Later ones
 * win: presets, file, environment, command line.
 */
#ifndef GPUQ_DAEMON_CONFIG_H
#define GPUQ_DAEMON_CONFIG_H

#include "shm/gpuq-types.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define CONFIG_PATH_MAX 4096
#define CONFIG_MAX_MODELS 32u

#define CONFIG_MAX_WARM 16u

/* A shape of steps that is captured before a model is ready: see struct wire_shape. */
struct config_warm {
	uint32_t kind; /* enum wire_shape_kind */
	uint32_t batch, context;
};

/* A model that is to be served. */
struct config_model {
	char name[GPUQ_NAME_MAX];
	char dir[CONFIG_PATH_MAX];
	bool int8, deterministic;
	uint64_t version; /* of a repository: the one that is wanted; 0: the newest */
	uint32_t n_warm;
	struct config_warm warm[CONFIG_MAX_WARM];
	char why[224]; /* not "": it cannot be served, for this reason */
};

/* A user or a group, of this id. */
#define CONFIG_MAX_USERS 64u
#define CONFIG_MAX_WEIGHT 1000u
struct config_user {
	bool is_group;
	uint32_t id;
	uint32_t weight; /* of its part of the device: see share.h */
	bool admin;	 /* may administer gpuqd */
};

struct config {
	char models_dir[CONFIG_PATH_MAX]; /* a repository, see repository.h; "": none */
	char socket[104];		  /* "": see listener_default_path() */
	char device[32];		  /* "auto", "cpu", "cuda" or "cuda:N" */
	char log[128];			  /* see log_levels_parse() */
	char resident[4];		  /* "on" or "off" */
	uint64_t socket_mode, stats_mode;
	char access[8];	  /* "open", or "listed": only those of `users` */
	uint64_t workers; /* of the CPU device; 0: as many as fit */
	uint64_t poll_us;
	uint64_t ageing_ms;
	uint64_t max_clients, max_clients_per_user;
	uint64_t max_channels, max_channels_per_client, max_channels_per_user;
	uint64_t max_arena_bytes, max_client_bytes, max_user_bytes, max_total_bytes;
	uint64_t max_in_flight, max_in_flight_per_user, max_rate_per_user;
	uint64_t max_buffers, max_buffers_per_user;
	uint64_t max_pipelines, max_pipelines_per_client, max_pipelines_per_user;
	char hot_list[256]; /* path; "auto": see graph_hot_list_prepare(); "": none */
	uint64_t graph_bytes, graph_bytes_per_user, graph_scratch_bytes;
	uint64_t graph_promote_uses, graph_promote_window_ms, graph_pinned;
	char test_faults[256]; /* for tests: see device/fault.h */
	uint64_t max_graphs;
	uint64_t trace_events;
	uint64_t handshake_timeout_ms, drain_timeout_ms;
	uint64_t watchdog_ms, operator_timeout_ms;
	char watchdog_stopped[8]; /* "kill" or "spare" */
	uint64_t max_models, max_sessions, max_sessions_per_client, max_sessions_per_user;
	uint64_t kv_bytes, kv_blocks_per_client, kv_blocks_per_user, kv_bucket, prefill_chunk;
	uint32_t n_users;
	struct config_user users[CONFIG_MAX_USERS];
	uint32_t n_models;
	struct config_model models[CONFIG_MAX_MODELS];
};

enum config_type {
	CONFIG_TEXT,
	CONFIG_NUMBER,
	CONFIG_BYTES, /* a number with an optional K, M, G or T */
	CONFIG_MODE,  /* octal */
};

/* When a value that was changed while gpuqd runs is used. */
enum config_when {
	CONFIG_NEXT_START = 0,
	CONFIG_NEXT_DEVICE, /* by the next device process */
	CONFIG_NOW,
};

struct config_key {
	const char *name; /* in the file; upper case in the environment; '-' for '_' in a flag */
	enum config_type type;
	size_t offset; /* in struct config: char[size] for CONFIG_TEXT, else uint64_t */
	size_t size;
	const char *preset;
	uint64_t min, max;
	const char *doc;
	enum config_when when;
};

#define CONFIG_MAX_KEYS 64u

extern const struct config_key config_keys[];
extern const uint32_t config_n_keys;

/* What the command line said. */
struct config_source {
	const char *file;		     /* NULL: the one that config_find_file() finds */
	const char *values[CONFIG_MAX_KEYS]; /* in the order of config_keys; NULL: not given */
	const char *models[CONFIG_MAX_MODELS];
	uint32_t n_models;
};

/* Why something was refused: one sentence, for people. */
struct config_error {
	char text[1024];
};

void config_init(struct config *config);

/* Puts a place in front of a reason: the error's own one when it is NULL. */
void config_error_place(struct config_error *error, const char *place, const char *reason);

/* NULL when there is no such key. */
const struct config_key *config_key_find(const char *name);

/* Sets one key from text. -EINVAL when the key or the value is not understood. */
int config_set(
	struct config *config, const char *key, const char *value, struct config_error *ret_error);

/*
 * Sets what a file says. -ENOENT when it does not exist, -EINVAL for a line in it, -ENOSYS where
 * gpuqd was built without the library that reads files, or another.
 */
int config_read_file(struct config *config, const char *path, struct config_error *ret_error);

/* Sets what the settings of a model say, a file like a section of that file. Likewise. */
int config_read_model_file(
	struct config_model *model, const char *path, struct config_error *ret_error);

/* Sets what the environment says. */
int config_read_environment(struct config *config, struct config_error *ret_error);

/* Whether the values fit each other. -EINVAL when they do not. */
int config_check(const struct config *config, struct config_error *ret_error);

/* Path of the file to read when none was named, or "" when there is none. */
void config_find_file(char *path, size_t size);

/* Writes it all as a file that config_read_file() understands. */
void config_print(const struct config *config, FILE *out);

/* Writes the part of the help that describes the keys. */
void config_help(FILE *out);

/* --- config_load.c --- */

/*
 * Presets, file, environment, command line: the last one wins. Negative errno with a reason;
 * -EUCLEAN when it is the command line that is wrong.
 */
int config_load(
	struct config *config, const struct config_source *source, struct config_error *ret_error);

/* Names of keys, for people: "a, b". */
struct config_names {
	char text[768];
};

/*
 * Sets what may change while gpuqd runs to what is wanted, models included, and names the keys
 * whose values differ: [when] each is used.
 */
void config_take(struct config *config, const struct config *wanted,
	struct config_names ret_changed[CONFIG_NOW + 1]);

/* --- config_model.c --- */

bool config_model_name_valid(const char *name);

/* The model's name in the name of a section of the file; NULL: it is no model's. */
const char *config_model_section(const char *section);

/* Sets one key of a model. -EINVAL. */
int config_model_set(struct config *config, const char *name, const char *key, const char *value,
	struct config_error *ret_error);

/* The same of a model by itself. */
int config_model_put(struct config_model *model, const char *key, const char *value,
	struct config_error *ret_error);

/* Takes "NAME=DIR[,KEY=VALUE]..."; what was said of this model before is forgotten. -EINVAL. */
int config_model_flag(struct config *config, const char *text, struct config_error *ret_error);

/* The parts of config_check() and config_print(). */
int config_models_check(const struct config *config, struct config_error *ret_error);
void config_models_print(const struct config *config, FILE *out);

/* --- config_user.c --- */

/* Whether it is a user's or a group's, and which one's. */
bool config_user_section(const char *section, bool *ret_is_group, const char **ret_name);

/* Sets one key of a user or a group. -EINVAL. */
int config_user_set(struct config *config, bool is_group, const char *name, const char *key,
	const char *value, struct config_error *ret_error);

/* What is said of a user: of itself, else of the first group that it is in. NULL: nothing. */
const struct config_user *config_user_find(
	const struct config *config, uint32_t uid, const uint32_t *gids, uint32_t n_gids);

/* Others than root and gpuqd's own user may administer it. */
bool config_has_admins(const struct config *config);

void config_users_print(const struct config *config, FILE *out);

/* A key's flag without the dashes in front, or its variable in the environment. */
void config_flag_name(const struct config_key *key, char *name, size_t size);
void config_variable_name(const struct config_key *key, char *name, size_t size);

#endif
