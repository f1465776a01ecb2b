/* SPDX-License-Identifier: MIT */
/*
 * Language models in the control process: which there are to be, from the configuration and from
 * administrators. It keeps the descriptor of each model's folder, and gives it to the device
 * process, and to each of its successors. What a model has is read from the statistics, which the
 * device process writes.
 */
#define LOG_TOPIC LOG_MODEL
#include "daemon/control.h"
#include "daemon/log.h"
#include "daemon/repository.h"
#include "shm/atomics.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define GENERATIONS 0x7fffu
/* A device process that ends while it loads a model may well end of that. */
#define ATTEMPTS 2u

static uint32_t handle_of(const struct served_model *m)
{
	return m->generation << 16 | m->index;
}

static struct stats_model *record(struct control *c, const struct served_model *m)
{
	return &c->stats.models[m->index];
}

void model_show(struct control *c, const struct served_model *m)
{
	struct stats_model *s = record(c, m);

	shm_store_release_u32(&s->state, 0);
	s->handle = handle_of(m);
	s->int8 = m->int8;
	s->deterministic = m->deterministic;
	memcpy(s->name, m->name, sizeof(s->name));
	shm_store_release_u32(&s->state, m->state);
}

/* Nothing of it is on the device now. */
static void show_anew(struct control *c, struct served_model *m)
{
	memset(record(c, m), 0, sizeof(struct stats_model));
	model_show(c, m);
}

static void set_state(struct control *c, struct served_model *m, enum msg_model_state state)
{
	m->state = state;
	shm_store_release_u32(&record(c, m)->state, state);
}

/* --- To the device process ----------------------------------------------------------------- */

static int load_send(struct control *c, struct served_model *m)
{
	struct devlink_msg msg = {
		.type = DEVLINK_MODEL,
		.handle = handle_of(m),
		.id = (m->int8 ? DEVLINK_MODEL_INT8 : 0u) |
			(m->deterministic ? DEVLINK_MODEL_DETERMINISTIC : 0u),
	};

	_Static_assert(sizeof(msg.name) >= sizeof(m->name), "room for it");
	msg.n_warm = m->n_warm;
	memcpy(msg.warm, m->warm, sizeof(msg.warm));
	memcpy(msg.name, m->name, sizeof(m->name));
	return device_send(c, &msg, &m->dir_fd, 1);
}

static int model_send(struct control *c, struct owed *owed)
{
	struct served_model *m =
		(struct served_model *)((char *)owed - offsetof(struct served_model, owed));
	const struct devlink_msg remove = {
		.type = DEVLINK_MODEL_REMOVE, .handle = handle_of(m), .id = m->force};
	int r;

	if (m->load) {
		r = load_send(c, m);
		m->load = r < 0;
		m->attempts += r == 0;
		return r < 0 ? r : 1;
	}
	if (!m->remove)
		return 0;
	r = device_send(c, &remove, NULL, 0);
	m->remove = r < 0;
	return r < 0 ? r : 1;
}

void model_hand_over(struct control *c)
{
	for (uint32_t i = 0; i < c->config->max_models; i++) {
		struct served_model *m = &c->models[i];

		if (m->state != MSG_MODEL_LOADING)
			continue;
		m->load = true;
		device_tell(c, &m->owed);
	}
}

/* --- Coming and going ---------------------------------------------------------------------- */

int model_table_create(struct control *c)
{
	c->models = calloc(c->config->max_models + 1, sizeof(*c->models));
	if (c->models == NULL)
		return -ENOMEM;
	for (uint32_t i = 0; i < c->config->max_models; i++) {
		c->models[i].index = i;
		c->models[i].dir_fd = -1;
		c->models[i].owed.send = model_send;
	}
	return 0;
}

void model_table_destroy(struct control *c)
{
	for (uint32_t i = 0; c->models != NULL && i < c->config->max_models; i++) {
		if (c->models[i].dir_fd >= 0)
			close(c->models[i].dir_fd);
	}
	free(c->models);
	free(c->wanted);
}

struct served_model *model_find(struct control *c, const char *name)
{
	for (uint32_t i = 0; i < c->config->max_models; i++) {
		if (c->models[i].state != 0 && strcmp(c->models[i].name, name) == 0)
			return &c->models[i];
	}
	return NULL;
}

struct served_model *model_find_place(struct control *c)
{
	struct served_model *failed = NULL;

	for (uint32_t i = 0; i < c->config->max_models; i++) {
		if (c->models[i].state == 0)
			return &c->models[i];
		if (c->models[i].state == MSG_MODEL_FAILED && !c->models[i].wanted)
			failed = &c->models[i];
	}
	return failed;
}

void model_free(struct control *c, struct served_model *m)
{
	device_forget(c, &m->owed);
	m->load = m->remove = m->wanted = m->retiring = false;
	if (m->dir_fd >= 0)
		close(m->dir_fd);
	m->dir_fd = -1;
	m->state = 0;
	memset(record(c, m), 0, sizeof(struct stats_model));
}

void model_begin(struct control *c, struct served_model *m, const struct served_model *as)
{
	if (m->state != 0)
		model_free(c, m);
	m->dir_fd = as->dir_fd;
	m->int8 = as->int8;
	m->deterministic = as->deterministic;
	m->wanted = as->wanted;
	m->n_warm = as->n_warm;
	memcpy(m->warm, as->warm, sizeof(m->warm));
	memcpy(m->name, as->name, sizeof(m->name));
	m->generation = m->generation % GENERATIONS + 1;
	m->attempts = 0;
	m->force = false;
	m->status = 0;
	m->why[0] = '\0';
	m->asked = NULL;
	m->state = MSG_MODEL_LOADING;
	show_anew(c, m);
	log_info("model %s is to be loaded%s%s", m->name, m->int8 ? ", quantised to 8 bits" : "",
		m->deterministic ? ", deterministic" : "");
	m->load = true;
	device_tell(c, &m->owed);
}

void model_failed(struct control *c, struct served_model *m, int status, const char *why)
{
	char text[GPUQ_NAME_MAX + 204];

	m->status = status;
	snprintf(m->why, sizeof(m->why), "%s", why);
	set_state(c, m, MSG_MODEL_FAILED);
	snprintf(text, sizeof(text), "%s: %.200s", m->name, m->why);
	control_count_error(c, status, "model", text);
	log_error("model %s could not be loaded: %s", m->name, m->why);
}

/* Whoever asked for the end of a model hears of it, if it is still there. */
static struct session *asked_by(const struct served_model *m)
{
	struct session *s = m->asked;

	return s != NULL && s->state == SESSION_LIVE && s->generation == m->asked_generation ? s
											     : NULL;
}

static void model_gone(struct control *c, struct served_model *m)
{
	struct session *s = asked_by(m);
	struct msg_header answer;

	log_info("model %s is unloaded", m->name);
	model_free(c, m);
	if (s != NULL)
		session_send(c, s, &answer, MSG_ADMIN_OK, sizeof(answer), m->serial, NULL, 0);
	model_reconcile(c);
}

void model_device_down(struct control *c)
{
	for (uint32_t i = 0; i < c->config->max_models; i++) {
		struct served_model *m = &c->models[i];

		/* It did not end of what it loaded. */
		if (c->device.restart.state != RESTART_NONE)
			m->attempts = 0;
		if (m->state == MSG_MODEL_UNLOADING || m->retiring) {
			model_gone(c, m);
		} else if (m->state == MSG_MODEL_LOADING && m->attempts >= ATTEMPTS) {
			model_failed(c, m, -GPUQ_EDEVICE,
				"the device process ended each time that it loaded it");
		} else if (m->state == MSG_MODEL_LOADING || m->state == MSG_MODEL_READY) {
			m->state = MSG_MODEL_LOADING;
			show_anew(c, m);
		}
	}
}

/* The model that a message of the device process means; NULL: it is gone meanwhile. */
static struct served_model *find_handle(struct control *c, uint32_t handle)
{
	uint32_t index = handle & 0xffffu;
	struct served_model *m = index < c->config->max_models ? &c->models[index] : NULL;

	return m != NULL && m->state != 0 && handle_of(m) == handle ? m : NULL;
}

void model_loaded(struct control *c, const struct devlink_msg *msg)
{
	struct served_model *m = find_handle(c, msg->handle);
	char why[sizeof(msg->text)];

	if (m == NULL || m->state != MSG_MODEL_LOADING)
		return;
	snprintf(why, sizeof(why), "%.*s", (int)sizeof(msg->text) - 1, msg->text);
	if (msg->status < 0) {
		model_failed(c, m, msg->status, why);
		return;
	}
	m->attempts = 0;
	set_state(c, m, MSG_MODEL_READY);
	log_info("model %s is ready", m->name);
	model_reconcile(c);
}

void model_unloaded(struct control *c, const struct devlink_msg *msg)
{
	struct served_model *m = find_handle(c, msg->handle);

	if (m == NULL || m->state != MSG_MODEL_UNLOADING)
		return;
	if (msg->status == 0) {
		model_gone(c, m);
		return;
	}
	set_state(c, m, MSG_MODEL_READY);
	struct session *s = asked_by(m);
	if (s != NULL)
		session_refuse(c, s, m->serial, msg->status,
			"model %s has %llu open sessions; close them, or unload it by force",
			m->name, (unsigned long long)shm_load_relaxed(&record(c, m)->sessions));
}

/* --- Requests ------------------------------------------------------------------------------ */

static bool is_directory(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 && S_ISDIR(st.st_mode);
}

/* Whether such a model may be loaded, and where. Writes the reason when not. */
static int load_check(struct control *c, const struct msg_admin_load *m, int dir_fd,
	struct served_model **ret_place, char text[MSG_TEXT_MAX])
{
	if (c->draining) {
		snprintf(text, MSG_TEXT_MAX, "gpuqd is shutting down");
		return -GPUQ_EDRAIN;
	}
	if (memchr(m->name, '\0', sizeof(m->name)) == NULL || !config_model_name_valid(m->name)) {
		snprintf(text, MSG_TEXT_MAX,
			"a model's name has 1 to %d printable bytes without '=' and ','",
			GPUQ_NAME_MAX - 1);
		return -EINVAL;
	}
	if (m->int8 > 1 || m->deterministic > 1 || m->reserved != 0) {
		snprintf(text, MSG_TEXT_MAX, "unknown options");
		return -EINVAL;
	}
	if (dir_fd < 0 || !is_directory(dir_fd)) {
		snprintf(text, MSG_TEXT_MAX, "no folder came with the request");
		return -ENOTDIR;
	}
	struct served_model *old = model_find(c, m->name);
	if (old != NULL && old->state != MSG_MODEL_FAILED) {
		snprintf(text, MSG_TEXT_MAX,
			"there is a model %s already; unload it first, or choose another name",
			m->name);
		return -EEXIST;
	}
	*ret_place = old != NULL ? old : model_find_place(c);
	return *ret_place != NULL ? 0 : limit_reached(text, "max_models", c->config->max_models);
}

void model_load_request(struct control *c, struct session *s, const void *msg)
{
	const struct msg_admin_load *m = msg;
	struct served_model *place;
	struct msg_header answer;
	char text[MSG_TEXT_MAX];

	if (!session_may_administer(c, s, m->h.serial, "a model"))
		return;
	int r = load_check(c, m, s->in_fd, &place, text);
	if (r < 0) {
		session_refuse(c, s, m->h.serial, r, "%s", text);
		return;
	}
	struct served_model as = {
		.dir_fd = s->in_fd, .int8 = m->int8 != 0, .deterministic = m->deterministic != 0};
	memcpy(as.name, m->name, sizeof(as.name));
	s->in_fd = -1;
	model_begin(c, place, &as);
	session_send(c, s, &answer, MSG_ADMIN_OK, sizeof(answer), m->h.serial, NULL, 0);
}

void model_remove(struct control *c, struct served_model *m, bool force)
{
	const bool told = c->device.state == DEVICE_READY && !m->load;

	if (m->state == MSG_MODEL_FAILED || !told) {
		model_gone(c, m);
		return;
	}
	set_state(c, m, MSG_MODEL_UNLOADING);
	m->force = force;
	m->remove = true;
	device_tell(c, &m->owed);
}

void model_unload_request(struct control *c, struct session *s, const void *msg)
{
	const struct msg_admin_unload *u = msg;
	struct served_model *m;

	if (!session_may_administer(c, s, u->h.serial, "the end of a model"))
		return;
	m = memchr(u->name, '\0', sizeof(u->name)) != NULL ? model_find(c, u->name) : NULL;
	if (m == NULL) {
		session_refuse(c, s, u->h.serial, -GPUQ_EMODEL, "there is no model %.*s",
			(int)sizeof(u->name) - 1, u->name);
		return;
	}
	if (m->state == MSG_MODEL_UNLOADING) {
		session_refuse(c, s, u->h.serial, -EALREADY, "model %s is being unloaded", m->name);
		return;
	}
	m->asked = s;
	m->asked_generation = s->generation;
	m->serial = u->h.serial;
	model_drop(c, m->name);
	model_remove(c, m, u->force != 0);
}

/* --- Questions ----------------------------------------------------------------------------- */

/* Where clients may find its tokenizer; "" when that is not known. */
static void name_folder(const struct served_model *m, char *to, size_t size)
{
	char link[48];

	snprintf(link, sizeof(link), "/proc/self/fd/%d", m->dir_fd);
	ssize_t n = readlink(link, to, size);
	to[n > 0 && (size_t)n < size ? n : 0] = '\0';
}

static void count_shape(const struct stats_graph *g, struct msg_model *answer)
{
	const uint32_t state = shm_load_acquire_u32(&g->state);

	if (state == 0 || g->model != answer->handle)
		return;
	answer->shapes++;
	answer->shapes_captured += state == MSG_GRAPH_CAPTURED;
	answer->shapes_wished += state == MSG_GRAPH_QUEUED || state == MSG_GRAPH_CAPTURING;
	if (state == MSG_GRAPH_CAPTURED && g->tokens == g->batch &&
		g->batch - 1 < STATS_MODEL_BATCHES)
		answer->captured_batches |= 1ull << (g->batch - 1);
}

/* How long its steps took, of how many sequences they were, and which have graphs. */
static void describe_steps(
	const struct control *c, const struct stats_model *s, struct msg_model *answer)
{
	answer->decode_p50_ns = hist_quantile(s->decode_hist, HIST_STATS_BITS, 0.5);
	answer->decode_p99_ns = hist_quantile(s->decode_hist, HIST_STATS_BITS, 0.99);
	answer->chunk_p50_ns = hist_quantile(s->chunk_hist, HIST_STATS_BITS, 0.5);
	answer->chunk_p99_ns = hist_quantile(s->chunk_hist, HIST_STATS_BITS, 0.99);
	_Static_assert(sizeof(answer->batches) == sizeof(s->batches), "one count for each");
	for (uint32_t i = 0; i < STATS_MODEL_BATCHES; i++)
		answer->batches[i] = shm_load_relaxed(&s->batches[i]);
	for (uint32_t i = 0; i < c->config->max_graphs; i++)
		count_shape(&c->stats.graphs[i], answer);
}

static void describe(struct control *c, const struct served_model *m, struct msg_model *answer)
{
	const struct stats_model *s = record(c, m);

	answer->handle = handle_of(m);
	answer->state = m->state;
	answer->status = m->status;
	answer->int8 = m->int8;
	answer->deterministic = m->deterministic;
	answer->vocab = s->vocab;
	answer->hidden = s->hidden;
	answer->layers = s->layers;
	answer->heads = s->heads;
	answer->kv_heads = s->kv_heads;
	answer->head_dim = s->head_dim;
	answer->max_tokens = s->max_tokens;
	answer->n_eos = s->n_eos;
	memcpy(answer->eos, s->eos, sizeof(answer->eos));
	answer->sessions = (uint32_t)shm_load_relaxed(&s->sessions);
	answer->max_sessions = (uint32_t)shm_load_relaxed(&s->max_sessions);
	answer->kv_blocks = (uint32_t)shm_load_relaxed(&s->kv_blocks);
	answer->kv_free_blocks = (uint32_t)shm_load_relaxed(&s->kv_free_blocks);
	answer->kv_cached_blocks = (uint32_t)shm_load_relaxed(&s->kv_cached_blocks);
	answer->bucket_tokens = s->bucket_tokens;
	answer->bytes = shm_load_relaxed(&s->bytes);
	answer->weight_bytes = shm_load_relaxed(&s->weight_bytes);
	answer->cache_bytes = shm_load_relaxed(&s->cache_bytes);
	answer->loaded_bytes = shm_load_relaxed(&s->loaded_bytes);
	answer->total_bytes = shm_load_relaxed(&s->total_bytes);
	answer->prompt_tokens = shm_load_relaxed(&s->prompt_tokens);
	answer->computed_tokens = shm_load_relaxed(&s->computed_tokens);
	answer->shared_tokens = shm_load_relaxed(&s->shared_tokens);
	answer->generated_tokens = shm_load_relaxed(&s->generated_tokens);
	answer->steps = shm_load_relaxed(&s->steps);
	answer->rows = shm_load_relaxed(&s->rows);
	answer->evictions = shm_load_relaxed(&s->evictions);
	answer->preemptions = shm_load_relaxed(&s->preemptions);
	describe_steps(c, s, answer);
	memcpy(answer->name, m->name, sizeof(answer->name));
	memcpy(answer->architecture, s->architecture, sizeof(answer->architecture) - 1);
	memcpy(answer->why, m->why, sizeof(answer->why) - 1);
	name_folder(m, answer->dir, sizeof(answer->dir));
}

/* Which of two versions is the one to use. */
static bool is_better(const struct served_model *a, const struct served_model *b, const char *name)
{
	const bool ready_a = a->state == MSG_MODEL_READY, ready_b = b->state == MSG_MODEL_READY;

	if (ready_a != ready_b)
		return ready_a;
	if (a->retiring != b->retiring)
		return b->retiring;
	return repository_version(a->name, name) > repository_version(b->name, name);
}

/* The model that a client means: the one of that name, or the best version of it. */
static const struct served_model *resolve(struct control *c, const char *name)
{
	const struct served_model *best = model_find(c, name);

	for (uint32_t i = 0; best == NULL && i < c->config->max_models; i++) {
		if (c->models[i].state != 0 && repository_version(c->models[i].name, name) != 0)
			best = &c->models[i];
	}
	for (uint32_t i = 0; best != NULL && i < c->config->max_models; i++) {
		const struct served_model *m = &c->models[i];

		if (m->state != 0 && repository_version(m->name, name) != 0 &&
			strcmp(best->name, name) != 0 && is_better(m, best, name))
			best = m;
	}
	return best;
}

void model_query(struct control *c, struct session *s, const void *msg)
{
	const struct msg_model_query *q = msg;
	struct msg_model answer = {.index = q->index};
	const struct served_model *named = NULL;

	if (memchr(q->name, '\0', sizeof(q->name)) == NULL) {
		session_broke_protocol(c, s, q->h.serial, "a model's name without an end");
		return;
	}
	if (q->name[0] != '\0')
		named = resolve(c, q->name);
	for (uint32_t i = 0; i < c->config->max_models; i++) {
		const struct served_model *m = &c->models[i];

		if (m->state == 0)
			continue;
		if (q->name[0] != '\0' ? m == named : answer.count == q->index) {
			answer.index = answer.count;
			describe(c, m, &answer);
		}
		answer.count++;
	}
	session_send(c, s, &answer, MSG_MODEL, sizeof(answer), q->h.serial, NULL, 0);
}
