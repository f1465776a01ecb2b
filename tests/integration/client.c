/* SPDX-License-Identifier: MIT */
/* client.c: jobs with known results, and loads that account for every submission. */
#include "tests/integration/client.h"

#include "tests/integration/children.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define GEMV_ROWS 4u
#define SOFTMAX_ROWS 8u
#define PRICE_FEATURES 16u
#define TOLERANCE 1e-4
#define TAKE_MAX 16u
/* The user_data of a cancellation: of no job. */
#define CANCEL_BIT (1ull << 63)

void client_open(struct client *c, const struct gpuq_channel_options *options)
{
	if (gpuq_connect(NULL, &c->g) < 0)
		fail_msg("gpuq_connect: %s", gpuq_error_detail());
	if (gpuq_channel_open(c->g, options, &c->ch) < 0)
		fail_msg("gpuq_channel_open: %s", gpuq_error_detail());
}

void client_close(struct client *c)
{
	gpuq_channel_close(c->ch);
	gpuq_disconnect(c->g);
}

void client_check_works(struct client *c)
{
	const struct gpuq_submission s = {.user_data = 0x600d};
	struct gpuq_completion done;

	assert_int_equal(gpuq_submit(c->ch, &s, 1), 1);
	assert_int_equal(gpuq_wait(c->ch, &done, 1, PATIENCE_NS), 1);
	assert_int_equal(done.user_data, 0x600d);
	assert_int_equal(done.status, 0);
}

/* --- Jobs ---------------------------------------------------------------------------------- */

static float *alloc_floats(struct gpuq_channel *ch, uint64_t n)
{
	void *data;

	if (gpuq_alloc(ch, n * sizeof(float), &data) < 0)
		fail_msg("gpuq_alloc: %s", gpuq_error_detail());
	return data;
}

/* Positive, so that no sum cancels and the tolerance can be relative. */
static float *random_floats(struct gpuq_channel *ch, uint64_t n, struct random *rng)
{
	float *x = alloc_floats(ch, n);

	for (uint64_t i = 0; i < n; i++)
		x[i] = (float)random_unit(rng);
	return x;
}

static struct gpuq_tensor tensor(float *data, uint32_t rank, uint64_t d0, uint64_t d1, uint64_t d2)
{
	return (struct gpuq_tensor){
		.data = data, .dtype = GPUQ_F32, .rank = rank, .dims = {d0, d1, d2}};
}

static void create_call(struct job *job, struct gpuq_channel *ch, const char *op,
	const struct gpuq_tensor *in, uint32_t n_in, const struct gpuq_tensor *out)
{
	if (gpuq_call_create(ch, op, in, n_in, out, 1, NULL, 0, &job->call) < 0)
		fail_msg("gpuq_call_create: %s", gpuq_error_detail());
}

static void allocate_result(struct job *job, struct gpuq_channel *ch, uint32_t n)
{
	job->n = n;
	job->y = alloc_floats(ch, n);
	job->want = calloc(n, sizeof(*job->want));
	assert_non_null(job->want);
}

static double dot(const float *a, const float *b, uint32_t n)
{
	double sum = 0;

	for (uint32_t i = 0; i < n; i++)
		sum += (double)a[i] * (double)b[i];
	return sum;
}

static void create_gemv(struct job *job, struct gpuq_channel *ch, uint32_t size, struct random *rng)
{
	float *x = random_floats(ch, (uint64_t)GEMV_ROWS * size, rng);
	float *w = random_floats(ch, (uint64_t)size * size, rng);

	allocate_result(job, ch, GEMV_ROWS * size);
	for (uint32_t i = 0; i < job->n; i++)
		job->want[i] = dot(&x[i / size * size], &w[i % size * size], size);
	const struct gpuq_tensor in[] = {
		tensor(x, 2, GEMV_ROWS, size, 0), tensor(w, 2, size, size, 0)};
	const struct gpuq_tensor out = tensor(job->y, 2, GEMV_ROWS, size, 0);
	create_call(job, ch, "gemv_batched", in, 2, &out);
}

static void create_softmax(
	struct job *job, struct gpuq_channel *ch, uint32_t size, struct random *rng)
{
	float *x = random_floats(ch, (uint64_t)SOFTMAX_ROWS * size, rng);

	allocate_result(job, ch, SOFTMAX_ROWS * size);
	for (uint32_t row = 0; row < SOFTMAX_ROWS; row++) {
		double *want = &job->want[row * size], sum = 0;
		for (uint32_t i = 0; i < size; i++)
			sum += want[i] = exp((double)x[row * size + i]);
		for (uint32_t i = 0; i < size; i++)
			want[i] /= sum;
	}
	const struct gpuq_tensor in = tensor(x, 2, SOFTMAX_ROWS, size, 0);
	const struct gpuq_tensor out = tensor(job->y, 2, SOFTMAX_ROWS, size, 0);
	create_call(job, ch, "softmax", &in, 1, &out);
}

static void create_price(
	struct job *job, struct gpuq_channel *ch, uint32_t size, struct random *rng)
{
	float *prices = random_floats(ch, (uint64_t)size * PRICE_FEATURES, rng);
	float *weights = random_floats(ch, PRICE_FEATURES, rng);

	allocate_result(job, ch, size);
	for (uint32_t i = 0; i < size; i++)
		job->want[i] = dot(&prices[i * PRICE_FEATURES], weights, PRICE_FEATURES);
	const struct gpuq_tensor in[] = {tensor(prices, 3, 1, size, PRICE_FEATURES),
		tensor(weights, 1, PRICE_FEATURES, 0, 0)};
	const struct gpuq_tensor out = tensor(job->y, 2, 1, size, 0);
	create_call(job, ch, "price_vectors", in, 2, &out);
}

void job_create(struct job *job, struct gpuq_channel *ch, enum job_kind kind, uint32_t size,
	struct random *rng)
{
	*job = (struct job){0};
	if (kind == JOB_GEMV)
		create_gemv(job, ch, size, rng);
	else if (kind == JOB_SOFTMAX)
		create_softmax(job, ch, size, rng);
	else if (kind == JOB_PRICE)
		create_price(job, ch, size, rng);
	job_clear(job);
}

void job_destroy(struct job *job)
{
	gpuq_call_destroy(job->call);
	free(job->want);
}

void job_clear(struct job *job)
{
	for (uint32_t i = 0; i < job->n; i++)
		job->y[i] = NAN;
}

void job_check(const struct job *job)
{
	for (uint32_t i = 0; i < job->n; i++) {
		double y = (double)job->y[i];
		if (!(fabs(y - job->want[i]) <= TOLERANCE * job->want[i]))
			fail_msg("element %u of %u is %g, must be %g", i, job->n, y, job->want[i]);
	}
}

/* --- Loads --------------------------------------------------------------------------------- */

void load_create(struct load *load, struct client *client, enum job_kind kind, uint32_t size,
	uint32_t n, struct random *rng)
{
	assert_true(n <= LOAD_MAX);
	*load = (struct load){.client = client, .n = n, .serial = 1};
	for (uint32_t i = 0; i < n; i++) {
		enum job_kind k = kind == JOB_KINDS ? (enum job_kind)(i % JOB_KINDS) : kind;
		job_create(&load->jobs[i], client->ch, k, size, rng);
	}
}

void load_destroy(struct load *load)
{
	for (uint32_t i = 0; i < load->n; i++)
		job_destroy(&load->jobs[i]);
}

int load_submit(struct load *load)
{
	int r = 0;

	for (uint32_t i = 0; i < load->n; i++) {
		if (load->in_flight[i] != 0)
			continue;
		const struct gpuq_submission s = {
			.call = load->jobs[i].call,
			.user_data = load->serial * LOAD_MAX + i,
		};
		job_clear(&load->jobs[i]);
		r = gpuq_submit(load->client->ch, &s, 1);
		if (r < 0)
			return r;
		load->in_flight[i] = s.user_data;
		load->cancelled[i] = false;
		load->serial++;
		load->submitted++;
	}
	return r;
}

void load_cancel(struct load *load, struct random *rng)
{
	uint32_t i = (uint32_t)random_below(rng, load->n);
	uint64_t target = load->in_flight[i];

	if (target == 0 || load->cancelled[i])
		return;
	if (gpuq_cancel(load->client->ch, target, target | CANCEL_BIT) < 0)
		return;
	load->cancelled[i] = true;
	load->cancels++;
	load->submitted++;
}

/* True when a status other than 0 is one that the load was told to expect; counts it. */
static bool excused(struct load *load, int status)
{
	if (status == -GPUQ_EDEVICE && load->may_lose) {
		load->lost++;
		return true;
	}
	if (status == -GPUQ_EDRAIN && load->may_drain) {
		load->refused++;
		return true;
	}
	return false;
}

static void take_one(struct load *load, const struct gpuq_completion *c)
{
	uint32_t i = (uint32_t)(c->user_data % LOAD_MAX);

	load->completed++;
	if ((c->user_data & CANCEL_BIT) != 0) {
		assert_true(load->cancels > 0);
		load->cancels--;
		if (c->status != 0 && c->status != -EALREADY && c->status != -ENOENT &&
			!excused(load, c->status))
			fail_msg("a cancellation ended with %s", gpuq_error_name(c->status));
		return;
	}
	if (i >= load->n || load->in_flight[i] != c->user_data)
		fail_msg("a completion of %llu, which is not in flight",
			(unsigned long long)c->user_data);
	load->in_flight[i] = 0;
	if (c->status == -ECANCELED && load->cancelled[i])
		load->stopped++;
	else if (c->status == 0)
		job_check(&load->jobs[i]);
	else if (!excused(load, c->status))
		fail_msg("a job ended with %s", gpuq_error_name(c->status));
}

int load_take(struct load *load, uint64_t timeout_ns)
{
	struct gpuq_completion done[TAKE_MAX];
	int n = gpuq_wait(load->client->ch, done, TAKE_MAX, timeout_ns);

	for (int i = 0; i < n; i++)
		take_one(load, &done[i]);
	return n;
}

int load_finish(struct load *load)
{
	while (gpuq_in_flight(load->client->ch) > 0) {
		int r = load_take(load, PATIENCE_NS);
		if (r < 0)
			return r;
	}
	assert_int_equal(load->completed, load->submitted);
	return 0;
}

void load_child_main(struct child *child)
{
	const struct gpuq_channel_options options = {
		.priority = child->number % 4, .arena_bytes = 16ull << 20};
	struct random rng = {child->seed};
	struct client c;
	struct load load;

	client_open(&c, &options);
	/* Half of the jobs run on dispatch's own thread, half on workers. */
	load_create(&load, &c, JOB_KINDS, child->number % 2 == 0 ? 16 : 250, 24, &rng);
	load.may_lose = true;
	child_say_ready(child);
	while (!child_should_stop(child)) {
		assert_true(load_submit(&load) >= 0);
		load_cancel(&load, &rng);
		assert_true(load_take(&load, PATIENCE_NS) > 0);
		shm_store_release(&child->page->completed, load.completed);
	}
	assert_int_equal(load_finish(&load), 0);
	child->page->lost = load.lost;
	/* The same connection, and nothing is lost any more. */
	assert_int_equal(gpuq_alive(c.g), 0);
	load.may_lose = false;
	assert_true(load_submit(&load) >= 0);
	assert_int_equal(load_finish(&load), 0);
	load_destroy(&load);
	client_close(&c);
}
