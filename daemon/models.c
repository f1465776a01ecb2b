/* SPDX-License-Identifier: MIT */
/* models.c: the loader's threads, and the table of the models that the link thread knows. */
#include "daemon/models.h"

#include "shm/atomics.h"
#include "shm/segment.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#define BATCH ENGINE_MAX_BATCH
#define GATHER_PERCENT 10u
#define PACE_PERCENT 200 /* of a decode step's time are for prompts, while there are any */

/* A thread of the loader, and what it has to do. */
struct loader {
	struct models *models;
	bool started;
	pthread_t thread;
	pthread_cond_t wanted;
	struct known_model_queue todo;
	struct known_model *current; /* what it is at */
};

struct models {
	struct models_options o;
	struct known_model **places; /* [max_models], by the number in their handles */
	struct engine_pace pace;     /* dispatch's */
	int event_fd;
	struct loader loads, frees;
	pthread_mutex_t lock; /* guards what the loaders have to do, and what follows */
	struct known_model_queue done;
	bool stop;
};

/* --- The loader's threads ------------------------------------------------------------------ */

static bool progress(void *context, uint64_t done_bytes, uint64_t total_bytes)
{
	struct known_model *k = context;

	shm_store_relaxed(&k->stats->loaded_bytes, done_bytes);
	shm_store_relaxed(&k->stats->total_bytes, total_bytes);
	return shm_load_relaxed(&k->cancel) == 0;
}

/* What is known of a model once it is there. */
static void describe(const struct models *m, const struct known_model *k)
{
	static const char *const names[] = {
		[MODEL_LLAMA] = "llama",
		[MODEL_MISTRAL] = "mistral",
		[MODEL_QWEN2] = "qwen2",
		[MODEL_QWEN3] = "qwen3",
	};
	const struct model_config *c = model_config(k->model);
	struct stats_model *s = k->stats;

	_Static_assert(sizeof(s->eos) == sizeof(c->eos), "room for all of them");
	snprintf(s->architecture, sizeof(s->architecture), "%s", names[c->architecture]);
	s->vocab = c->vocab;
	s->hidden = c->hidden;
	s->layers = c->layers;
	s->heads = c->heads;
	s->kv_heads = c->kv_heads;
	s->head_dim = c->head_dim;
	s->max_tokens = model_max_session_tokens(k->model);
	s->n_eos = c->eos_count;
	memcpy(s->eos, c->eos, sizeof(s->eos));
	s->bucket_tokens = m->o.kv_bucket;
	s->bytes = model_bytes(k->model);
	s->weight_bytes = model_weight_bytes(k->model);
	s->cache_bytes = model_cache_bytes(k->model);
	s->max_sessions = m->o.max_sessions;
	s->kv_blocks = s->kv_free_blocks = model_kv_blocks(k->model);
}

/*
 * A client may have three quarters of the cache unless the administrator says otherwise: so that
 * there is something left for the others, and one alone is hardly limited.
 */
static uint32_t client_blocks(const struct models *m, const struct known_model *k)
{
	const uint32_t blocks = model_kv_blocks(k->model);

	return m->o.kv_blocks_per_client != 0 ? m->o.kv_blocks_per_client : blocks - blocks / 4;
}

/* Likewise what a user may have with several clients. */
static uint32_t user_blocks(const struct models *m, const struct known_model *k)
{
	const uint32_t blocks = model_kv_blocks(k->model), client = client_blocks(m, k);
	const uint32_t usual = blocks - blocks / 8;

	if (m->o.kv_blocks_per_user != 0)
		return m->o.kv_blocks_per_user;
	return usual > client ? usual : client;
}

static int make_engine(struct models *m, struct known_model *k)
{
	const struct engine_options options = {
		.device = m->o.device,
		.graphs = m->o.graphs,
		.clock = m->o.clock,
		.model = engine_model_of(k->model),
		.pace = &m->pace,
		.recorder = m->o.recorder,
		.launch_hist = m->o.launch_hist,
		.recorded_as = k->handle,
		.max_sessions = m->o.max_sessions,
		.max_user_blocks = user_blocks(m, k),
		.max_batch = BATCH,
		.chunk_tokens = m->o.prefill_chunk,
		.bucket_tokens = m->o.kv_bucket,
		.few_shapes = m->o.few_shapes,
		.gather_percent = GATHER_PERCENT,
		.pace_percent = PACE_PERCENT,
	};
	int r = engine_create(&options, &k->engine);

	if (r < 0)
		snprintf(k->why.text, sizeof(k->why.text),
			"the working memory of its sessions cannot be had: %s; lower max_sessions "
			"or kv_bytes",
			r == -ENOMEM ? "there is not so much" : strerror(-r));
	return r;
}

static void open_accounts(const struct models *m, const struct known_model *k)
{
	const uint32_t most = client_blocks(m, k);

	for (uint32_t i = 0; i < m->o.max_clients; i++)
		k->accounts[i].max_blocks = most;
}

static void unload(struct known_model *k)
{
	engine_destroy(k->engine);
	k->engine = NULL;
	model_destroy(k->model);
	k->model = NULL;
}

static int load(struct models *m, struct known_model *k)
{
	const struct model_watch watch = {.progress = progress, .context = k};

	k->options.max_sessions = m->o.max_sessions;
	k->options.kv_bytes = m->o.kv_bytes;
	k->options.step_tokens = m->o.prefill_chunk > BATCH ? m->o.prefill_chunk : BATCH;
	k->options.step_rows = BATCH;
	int r = model_load(
		m->o.device, m->o.graphs, k->dir_fd, &k->options, &watch, &k->model, &k->why);
	if (r == 0)
		r = make_engine(m, k);
	if (r < 0) {
		unload(k);
		return r;
	}
	k->vocab = model_config(k->model)->vocab;
	open_accounts(m, k);
	describe(m, k);
	return 0;
}

static void work_at(struct models *m, struct known_model *k)
{
	if (k->state == MODEL_FREEING) {
		unload(k);
		return;
	}
	k->status = load(m, k);
	close(k->dir_fd);
	k->dir_fd = -1;
}

/* The loader is through with a model. With the lock. */
static void give_back(struct models *m, struct known_model *k)
{
	TAILQ_INSERT_TAIL(&m->done, k, link);
	bell_ring_eventfd(m->event_fd);
}

static void *loader_main(void *arg)
{
	struct loader *l = arg;
	struct models *m = l->models;

	prctl(PR_SET_NAME, "gpuqd-loader");
	pthread_mutex_lock(&m->lock);
	while (!m->stop) {
		struct known_model *k = TAILQ_FIRST(&l->todo);
		if (k == NULL) {
			pthread_cond_wait(&l->wanted, &m->lock);
			continue;
		}
		TAILQ_REMOVE(&l->todo, k, link);
		l->current = k;
		pthread_mutex_unlock(&m->lock);
		work_at(m, k);
		pthread_mutex_lock(&m->lock);
		l->current = NULL;
		give_back(m, k);
	}
	pthread_mutex_unlock(&m->lock);
	return NULL;
}

/* --- The link thread's side ---------------------------------------------------------------- */

static void loader_init(struct loader *l, struct models *m)
{
	l->models = m;
	pthread_cond_init(&l->wanted, NULL);
	TAILQ_INIT(&l->todo);
}

static int loader_start(struct loader *l)
{
	int r = -pthread_create(&l->thread, NULL, loader_main, l);

	l->started = r == 0;
	return r;
}

int models_create(const struct models_options *options, struct models **ret_models)
{
	struct models *m = calloc(1, sizeof(*m));

	if (m == NULL)
		return -ENOMEM;
	m->o = *options;
	m->event_fd = bell_eventfd();
	m->places = calloc(options->max_models, sizeof(struct known_model *));
	pthread_mutex_init(&m->lock, NULL);
	TAILQ_INIT(&m->done);
	loader_init(&m->loads, m);
	loader_init(&m->frees, m);
	int r = m->event_fd < 0 ? m->event_fd : m->places == NULL ? -ENOMEM : 0;
	if (r == 0)
		r = loader_start(&m->loads);
	if (r == 0)
		r = loader_start(&m->frees);
	if (r < 0) {
		models_destroy(m);
		return r;
	}
	*ret_models = m;
	return 0;
}

static void known_destroy(struct known_model *k)
{
	unload(k);
	if (k->dir_fd >= 0)
		close(k->dir_fd);
	free(k->accounts);
	free(k);
}

static void loader_end(struct loader *l)
{
	struct models *m = l->models;

	if (l->started) {
		pthread_mutex_lock(&m->lock);
		m->stop = true;
		if (l->current != NULL)
			shm_store_relaxed(&l->current->cancel, 1);
		pthread_cond_signal(&l->wanted);
		pthread_mutex_unlock(&m->lock);
		pthread_join(l->thread, NULL);
	}
	pthread_cond_destroy(&l->wanted);
}

void models_destroy(struct models *m)
{
	if (m == NULL)
		return;
	loader_end(&m->loads);
	loader_end(&m->frees);
	for (uint32_t i = 0; m->places != NULL && i < m->o.max_models; i++) {
		if (m->places[i] != NULL)
			known_destroy(m->places[i]);
	}
	if (m->event_fd >= 0)
		close(m->event_fd);
	pthread_mutex_destroy(&m->lock);
	free(m->places);
	free(m);
}

int models_event_fd(const struct models *m)
{
	return m->event_fd;
}

struct known_model *models_take(struct models *m)
{
	pthread_mutex_lock(&m->lock);
	struct known_model *k = TAILQ_FIRST(&m->done);
	if (k != NULL)
		TAILQ_REMOVE(&m->done, k, link);
	pthread_mutex_unlock(&m->lock);
	return k;
}

/* Gives a model to a thread of the loader, in a state that says what to do. */
static void hand_over(struct loader *l, struct known_model *k, enum known_model_state state)
{
	pthread_mutex_lock(&l->models->lock);
	k->state = state;
	TAILQ_INSERT_TAIL(&l->todo, k, link);
	pthread_cond_signal(&l->wanted);
	pthread_mutex_unlock(&l->models->lock);
}

/* A decode step, of so many sessions with texts of that length. */
static struct engine_shape warm_shape(const struct devlink_warm *w)
{
	static const enum model_step kinds[] = {
		[WIRE_SHAPE_CANDIDATES] = MODEL_STEP_RESULT,
		[WIRE_SHAPE_LOGITS] = MODEL_STEP_ROWS,
		[WIRE_SHAPE_GENERATE] = MODEL_STEP_SAMPLE,
	};

	return (struct engine_shape){
		.kind = w->kind < sizeof(kinds) / sizeof(kinds[0]) ? kinds[w->kind] : MODEL_STEPS,
		.tokens = w->batch,
		.sessions = w->batch,
		.rows = w->batch,
		.context = w->context,
	};
}

int models_load(struct models *m, const struct devlink_msg *msg, int dir_fd)
{
	const uint32_t place = model_place(msg->handle);
	const bool fits = place < m->o.max_models && m->places[place] == NULL;
	struct known_model *k = fits ? calloc(1, sizeof(*k)) : NULL;

	if (k != NULL)
		k->accounts = calloc(m->o.max_clients, sizeof(*k->accounts));
	if (k == NULL || k->accounts == NULL) {
		free(k);
		close(dir_fd);
		return fits ? -ENOMEM : -EINVAL;
	}
	k->handle = msg->handle;
	k->dir_fd = dir_fd;
	k->stats = &m->o.stats[place];
	snprintf(k->name, sizeof(k->name), "%.*s", (int)sizeof(k->name) - 1, msg->name);
	for (uint32_t i = 0; i < msg->n_warm && i < DEVLINK_MAX_WARM; i++)
		k->warm[k->n_warm++] = warm_shape(&msg->warm[i]);
	k->options.name = k->name;
	k->options.handle = k->handle;
	k->options.quant = (msg->id & DEVLINK_MODEL_INT8) != 0 ? WEIGHT_INT8 : WEIGHT_AS_IS;
	k->options.deterministic = (msg->id & DEVLINK_MODEL_DETERMINISTIC) != 0;
	m->places[place] = k;
	hand_over(&m->loads, k, MODEL_LOADING);
	return 0;
}

struct known_model *models_find(const struct models *m, uint32_t handle)
{
	uint32_t place = model_place(handle);
	struct known_model *k = place < m->o.max_models ? m->places[place] : NULL;

	return k != NULL && k->handle == handle ? k : NULL;
}

static bool is_waiting(const struct loader *l, const struct known_model *k)
{
	const struct known_model *i = TAILQ_FIRST(&l->todo);

	while (i != NULL && i != k)
		i = TAILQ_NEXT(i, link);
	return i != NULL;
}

void models_cancel(struct models *m, struct known_model *model)
{
	shm_store_relaxed(&model->cancel, 1);
	pthread_mutex_lock(&m->lock);
	if (is_waiting(&m->loads, model)) {
		TAILQ_REMOVE(&m->loads.todo, model, link);
		model->status = -ECANCELED;
		give_back(m, model);
	}
	pthread_mutex_unlock(&m->lock);
}

void models_free(struct models *m, struct known_model *model)
{
	hand_over(&m->frees, model, MODEL_FREEING);
}

void models_forget(struct models *m, struct known_model *model)
{
	m->places[model_place(model->handle)] = NULL;
	known_destroy(model);
}
