/* SPDX-License-Identifier: MIT */
/* gpuq-exporter on synthetic statistics: what it prints, and what it answers over HTTP. */
#include "tests/harness.h"

#include "shm/clock.h"
#include "shm/proto.h"
#include "tests/tools/synthetic.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static struct synthetic s;
static char exporter[512], path[300];

/* However busy the machine is: it counts as alive. */
static void keep_alive(void)
{
	s.stats.header->heartbeat_ns = clock_monotonic_ns() + 3600 * 1000000000ull;
}

static void traffic(uint64_t n, uint64_t queue_ns, uint64_t execute_ns)
{
	synthetic_traffic(&s, n, queue_ns, execute_ns);
	keep_alive();
}

static void start(void)
{
	snprintf(path, sizeof(path), "%s/gpuq-0", harness_tmpdir());
	snprintf(exporter, sizeof(exporter), "%s", harness_program("tools/gpuq-exporter"));
	assert_int_equal(synthetic_create(&s, path, 3, 4), 0);
	keep_alive();
}

static void run(const char *const *options, struct harness_output *out)
{
	const char *argv[16] = {exporter};
	int n = 1;

	while (*options != NULL)
		argv[n++] = *options++;
	harness_exec(argv, out);
}

#define RUN(out, ...) run((const char *const[]){__VA_ARGS__, NULL}, out)

/* The value of a sample, "NAME{socket="PATH"REST}". */
static double value(const char *text, const char *name, const char *rest)
{
	char sample[600];

	snprintf(sample, sizeof(sample), "\n%s{socket=\"%s\"%s} ", name, path, rest);
	const char *at = strstr(text, sample);
	if (at == NULL)
		fail_msg("no%s\nin:\n%s", sample, text);
	return strtod(at + strlen(sample), NULL);
}

#define DEVICE ",device=\"0\""
#define MODEL ",model=\"small\""

static void values_are_those_of_the_statistics(void **state)
{
	struct harness_output out;

	start();
	traffic(1000, 300, 40000);
	s.stats.header->deaths = 7;
	s.stats.header->started_realtime_ns = 1795244194500000000u;
	s.stats.channels[1].depth = 5;
	s.stats.channels[2].depth = 6;
	snprintf(s.stats.devices[0].name, 128, "a \"b\"\\ \n\x1b");
	snprintf(s.stats.devices[0].uuid, sizeof(s.stats.devices[0].uuid), "U");
	snprintf(s.stats.devices[0].driver, sizeof(s.stats.devices[0].driver), "D");
	RUN(&out, "--once", "-s", path);
	assert_int_equal(out.status, 0);
	assert_string_equal(out.err, "");
	assert_true(value(out.out, "gpuq_up", "") == 1);
	assert_true(value(out.out, "gpuq_client_deaths_total", "") == 7);
	assert_true(value(out.out, "gpuq_start_time_seconds", "") == 1795244194.5);
	assert_true(value(out.out, "gpuq_submissions_waiting", "") == 11);
	assert_true(value(out.out, "gpuq_requests_total", DEVICE) == 4000);
	assert_true(value(out.out, "gpuq_device_busy_seconds_total", DEVICE) == 4000 * 40e-6);
	assert_true(value(out.out, "gpuq_operator_calls_total", ",operator=\"softmax\"") == 2000);
	assert_true(value(out.out, "gpuq_graphs", ",state=\"captured\"") == 1);
	assert_true(value(out.out, "gpuq_graphs", ",state=\"direct\"") == 0);
	assert_true(value(out.out, "gpuq_errors_total", ",error=\"GPUQ_ESHAPE\"") == 4);
	assert_true(value(out.out, "gpuq_errors_total", ",error=\"GPUQ_EPROTO\"") == 1);
	assert_true(value(out.out, "gpuq_model_kv_blocks", MODEL ",state=\"used\"") == 25);
	assert_true(value(out.out, "gpuq_model_kv_blocks", MODEL ",state=\"cached\"") == 15);
	assert_true(value(out.out, "gpuq_model_kv_blocks", MODEL ",state=\"free\"") == 60);
	assert_true(value(out.out, "gpuq_serving", "") == 1);
	assert_true(value(out.out, "gpuq_build_info", ",version=\"0.1.0\"") == 1);
	assert_non_null(strstr(out.out,
		",device=\"0\",kind=\"cpu\",name=\"a \\\"b\\\"\\\\ ??\",uuid=\"U\",driver=\"D\"} "
		"1\n"));
	/* Of a first look the machine's utilization is not known, which is not 0. */
	assert_null(strstr(out.out, "\ngpuq_device_utilization_ratio{"));
	harness_output_free(&out);
	synthetic_destroy(&s);
}

/* --- Each metric --------------------------------------------------------------------------- */

/* Which field of the statistics a metric tells, and in what unit. */
enum table { HEADER, DEVICES, OPS, MODELS };
enum form { VALUE, SECONDS, HIST };

#define ROW(metric, table, record, member, form)                     \
	{                                                            \
		metric, table, offsetof(struct record, member), form \
	}

static const struct row {
	const char *metric;
	enum table table;
	size_t offset;
	enum form form;
} rows[] = {
	ROW("gpuq_start_time_seconds", HEADER, stats_header, started_realtime_ns, SECONDS),
	ROW("gpuq_clients", HEADER, stats_header, clients, VALUE),
	ROW("gpuq_channels", HEADER, stats_header, channels, VALUE),
	ROW("gpuq_shared_memory_bytes", HEADER, stats_header, segment_bytes, VALUE),
	ROW("gpuq_buffers", HEADER, stats_header, buffers, VALUE),
	ROW("gpuq_buffer_memory_bytes", HEADER, stats_header, buffer_bytes, VALUE),
	ROW("gpuq_pipelines", HEADER, stats_header, pipelines, VALUE),
	ROW("gpuq_connections_total", HEADER, stats_header, accepted, VALUE),
	ROW("gpuq_connections_refused_total", HEADER, stats_header, refused, VALUE),
	ROW("gpuq_accept_exhausted_total", HEADER, stats_header, accept_exhausted, VALUE),
	ROW("gpuq_protocol_errors_total", HEADER, stats_header, protocol_errors, VALUE),
	ROW("gpuq_client_deaths_total", HEADER, stats_header, deaths, VALUE),
	ROW("gpuq_device_restarts_total", HEADER, stats_header, device_restarts, VALUE),
	ROW("gpuq_requests_total", DEVICES, stats_device, completed, VALUE),
	ROW("gpuq_requests_failed_total", DEVICES, stats_device, failed, VALUE),
	ROW("gpuq_requests_inline_total", DEVICES, stats_device, inline_runs, VALUE),
	ROW("gpuq_requests_queued", DEVICES, stats_device, queued, VALUE),
	ROW("gpuq_requests_executing", DEVICES, stats_device, executing, VALUE),
	ROW("gpuq_queue_seconds", DEVICES, stats_device, queue_hist, HIST),
	ROW("gpuq_launch_seconds", DEVICES, stats_device, launch_hist, HIST),
	ROW("gpuq_execute_seconds", DEVICES, stats_device, execute_hist, HIST),
	ROW("gpuq_request_seconds", DEVICES, stats_device, total_hist, HIST),
	ROW("gpuq_device_busy_seconds_total", DEVICES, stats_device, busy_ns, SECONDS),
	ROW("gpuq_dispatch_sleeps_total", DEVICES, stats_device, sleeps, VALUE),
	ROW("gpuq_dispatch_doorbells_total", DEVICES, stats_device, doorbells, VALUE),
	ROW("gpuq_dispatch_rescues_total", DEVICES, stats_device, rescues, VALUE),
	ROW("gpuq_channels_poisoned_total", DEVICES, stats_device, poisoned, VALUE),
	ROW("gpuq_graph_hits_total", DEVICES, stats_device, graph_hits, VALUE),
	ROW("gpuq_graph_misses_total", DEVICES, stats_device, graph_misses, VALUE),
	ROW("gpuq_graph_captures_total", DEVICES, stats_device, graph_captures, VALUE),
	ROW("gpuq_graph_capture_failures_total", DEVICES, stats_device, graph_failures, VALUE),
	ROW("gpuq_graph_evictions_total", DEVICES, stats_device, graph_evictions, VALUE),
	ROW("gpuq_graph_memory_bytes", DEVICES, stats_device, graph_bytes, VALUE),
	ROW("gpuq_graph_memory_limit_bytes", DEVICES, stats_device, graph_budget, VALUE),
	ROW("gpuq_graph_captures_stopped", DEVICES, stats_device, captures_stopped, VALUE),
	ROW("gpuq_operator_calls_total", OPS, stats_op, calls, VALUE),
	ROW("gpuq_operator_failures_total", OPS, stats_op, failed, VALUE),
	ROW("gpuq_operator_execute_seconds", OPS, stats_op, execute_hist, HIST),
	ROW("gpuq_model_memory_bytes", MODELS, stats_model, bytes, VALUE),
	ROW("gpuq_model_sessions", MODELS, stats_model, sessions, VALUE),
	ROW("gpuq_model_sessions_limit", MODELS, stats_model, max_sessions, VALUE),
	ROW("gpuq_model_prompt_tokens_total", MODELS, stats_model, prompt_tokens, VALUE),
	ROW("gpuq_model_computed_tokens_total", MODELS, stats_model, computed_tokens, VALUE),
	ROW("gpuq_model_shared_tokens_total", MODELS, stats_model, shared_tokens, VALUE),
	ROW("gpuq_model_generated_tokens_total", MODELS, stats_model, generated_tokens, VALUE),
	ROW("gpuq_model_steps_total", MODELS, stats_model, steps, VALUE),
	ROW("gpuq_model_answers_total", MODELS, stats_model, rows, VALUE),
	ROW("gpuq_model_kv_evictions_total", MODELS, stats_model, evictions, VALUE),
	ROW("gpuq_model_preemptions_total", MODELS, stats_model, preemptions, VALUE),
	ROW("gpuq_model_decode_step_seconds", MODELS, stats_model, decode_hist, HIST),
	ROW("gpuq_model_prompt_step_seconds", MODELS, stats_model, chunk_hist, HIST),
	ROW("gpuq_model_time_to_first_token_seconds", MODELS, stats_model, first_token_hist, HIST),
	ROW("gpuq_model_inter_token_seconds", MODELS, stats_model, gap_hist, HIST),
};
#define N_ROWS (sizeof(rows) / sizeof(rows[0]))

/* Those with a test of their own, as what they tell is no field. */
static const char *const others[] = {
	"gpuq_up",
	"gpuq_build_info",
	"gpuq_serving",
	"gpuq_clients_stalled",
	"gpuq_submissions_waiting",
	"gpuq_submissions_in_flight",
	"gpuq_completions_unread",
	"gpuq_errors_total",
	"gpuq_device_info",
	"gpuq_device_ready",
	"gpuq_device_utilization_ratio",
	"gpuq_device_memory_used_bytes",
	"gpuq_device_memory_bytes",
	"gpuq_device_power_watts",
	"gpuq_device_temperature_celsius",
	"gpuq_graphs",
	"gpuq_model_ready",
	"gpuq_model_kv_blocks",
	"gpuq_model_decode_sequences",
};

/* Two records of each table, where it has more than one; every field has another number. */
static uint64_t *place(const struct row *row, uint32_t record)
{
	char *const records[][2] = {
		[HEADER] = {(char *)s.stats.header, (char *)s.stats.header},
		[DEVICES] = {(char *)&s.stats.devices[0], (char *)&s.stats.devices[1]},
		[OPS] = {(char *)&s.stats.ops[0], (char *)&s.stats.ops[1]},
		[MODELS] = {(char *)&s.stats.models[0], (char *)&s.stats.models[1]},
	};

	return (uint64_t *)(records[row->table][record] + row->offset);
}

static uint64_t number(size_t row, uint32_t record)
{
	return 1000 + 2 * row + (rows[row].table == HEADER ? 0 : record);
}

static void set_number(size_t row, uint32_t record)
{
	uint64_t *field = place(&rows[row], record);

	if (rows[row].form == HIST)
		field[hist_bucket(1000000, HIST_STATS_BITS)] = number(row, record);
	else
		*field = number(row, record) * (rows[row].form == SECONDS ? 1000000000u : 1);
}

static void check_number(const char *text, size_t row, uint32_t record)
{
	static const char *const labels[][2] = {
		[HEADER] = {"", ""},
		[DEVICES] = {",device=\"0\"", ",device=\"1\""},
		[OPS] = {",operator=\"gemv_batched\"", ",operator=\"softmax\""},
		[MODELS] = {",model=\"large\"", ",model=\"small\""},
	};
	char name[100];

	snprintf(name, sizeof(name), "%s%s", rows[row].metric,
		rows[row].form == HIST ? "_count" : "");
	const double is = value(text, name, labels[rows[row].table][record]);
	if (is != (double)number(row, record))
		fail_msg("%s%s is %g, not %llu", name, labels[rows[row].table][record], is,
			(unsigned long long)number(row, record));
}

/* A metric that nobody looks at could tell anything. */
static void check_all_are_known(const char *text)
{
	char name[100];

	for (const char *at = strstr(text, "# TYPE "); at != NULL; at = strstr(at + 1, "# TYPE ")) {
		bool known = false;
		assert_int_equal(sscanf(at, "# TYPE %99s", name), 1);
		for (size_t i = 0; i < N_ROWS; i++)
			known = known || strcmp(rows[i].metric, name) == 0;
		for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++)
			known = known || strcmp(others[i], name) == 0;
		if (!known)
			fail_msg("%s: no test looks at it", name);
	}
}

static void each_metric_tells_its_field(void **state)
{
	struct harness_output out;

	start();
	snprintf(s.stats.models[0].name, GPUQ_NAME_MAX, "large");
	s.stats.models[0].state = MSG_MODEL_READY;
	s.stats.devices[1].state = STATS_DEVICE_READY;
	for (size_t i = 0; i < N_ROWS; i++) {
		set_number(i, 0);
		set_number(i, 1);
	}
	RUN(&out, "--once", "-s", path);
	assert_int_equal(out.status, 0);
	for (size_t i = 0; i < N_ROWS; i++) {
		check_number(out.out, i, 0);
		check_number(out.out, i, 1);
	}
	check_all_are_known(out.out);
	harness_output_free(&out);
	synthetic_destroy(&s);
}

static void set_graphs(uint32_t state, uint32_t n)
{
	static uint32_t at;

	for (uint32_t i = 0; i < n; i++)
		s.stats.graphs[at++].state = state;
}

static void states_are_counted(void **state)
{
	struct harness_output out;

	start();
	set_graphs(MSG_GRAPH_COLD, 1);
	set_graphs(MSG_GRAPH_QUEUED, 2);
	set_graphs(MSG_GRAPH_CAPTURING, 3);
	set_graphs(MSG_GRAPH_CAPTURED, 4);
	set_graphs(MSG_GRAPH_DIRECT, 5);
	set_graphs(MSG_GRAPH_FAILED, 6);
	s.stats.header->state = WIRE_DRAINING;
	s.stats.clients[0].state = STATS_CLIENT_DEAD;
	s.stats.clients[1].state = STATS_CLIENT_STALLED;
	s.stats.clients[2].state = STATS_CLIENT_STALLED;
	s.stats.devices[1].state = STATS_DEVICE_DRAINING;
	snprintf(s.stats.models[0].name, GPUQ_NAME_MAX, "large");
	s.stats.models[0].state = MSG_MODEL_LOADING;
	for (uint32_t i = 0; i < 4; i++) {
		s.stats.channels[i].depth = 1 + i;
		s.stats.channels[i].in_flight = 10 + i;
		s.stats.channels[i].unread = 100 + i;
	}
	/* Its last numbers stay there. */
	s.stats.channels[3].state = STATS_CHANNEL_CLOSED;
	RUN(&out, "--once", "-s", path);
	assert_true(value(out.out, "gpuq_graphs", ",state=\"cold\"") == 1);
	assert_true(value(out.out, "gpuq_graphs", ",state=\"queued\"") == 2);
	assert_true(value(out.out, "gpuq_graphs", ",state=\"capturing\"") == 3);
	assert_true(value(out.out, "gpuq_graphs", ",state=\"captured\"") == 4);
	assert_true(value(out.out, "gpuq_graphs", ",state=\"direct\"") == 5);
	assert_true(value(out.out, "gpuq_graphs", ",state=\"failed\"") == 6);
	assert_true(value(out.out, "gpuq_serving", "") == 0);
	assert_true(value(out.out, "gpuq_clients_stalled", "") == 2);
	assert_true(value(out.out, "gpuq_device_ready", ",device=\"0\"") == 1);
	assert_true(value(out.out, "gpuq_device_ready", ",device=\"1\"") == 0);
	assert_true(value(out.out, "gpuq_model_ready", ",model=\"large\"") == 0);
	assert_true(value(out.out, "gpuq_model_ready", ",model=\"small\"") == 1);
	assert_true(value(out.out, "gpuq_submissions_waiting", "") == 1 + 2 + 3);
	assert_true(value(out.out, "gpuq_submissions_in_flight", "") == 10 + 11 + 12);
	assert_true(value(out.out, "gpuq_completions_unread", "") == 100 + 101 + 102);
	harness_output_free(&out);
	synthetic_destroy(&s);
}

static void histograms_are_cumulative(void **state)
{
	struct harness_output out;

	start();
	traffic(10, 300, 40000);
	traffic(5, 70000, 3000000000);
	RUN(&out, "--once", "-s", path);
#define BUCKET(le) value(out.out, "gpuq_queue_seconds_bucket", DEVICE ",le=\"" le "\"")
	assert_true(BUCKET("1e-07") == 0);
	assert_true(BUCKET("2.5e-07") == 0);
	assert_true(BUCKET("5e-07") == 40);
	assert_true(BUCKET("5e-05") == 40);
	assert_true(BUCKET("0.0001") == 60);
	assert_true(BUCKET("10") == 60);
	assert_true(BUCKET("+Inf") == 60);
	assert_true(value(out.out, "gpuq_queue_seconds_count", DEVICE) == 60);
	double sum = value(out.out, "gpuq_queue_seconds_sum", DEVICE);
	const double expected = 40 * 300e-9 + 20 * 70000e-9;
	assert_true(sum > expected * 0.95 && sum < expected * 1.05);
	assert_true(value(out.out, "gpuq_request_seconds_bucket", DEVICE ",le=\"2.5\"") == 40);
	assert_true(value(out.out, "gpuq_model_decode_sequences_bucket", MODEL ",le=\"1\"") == 0);
	assert_true(value(out.out, "gpuq_model_decode_sequences_bucket", MODEL ",le=\"2\"") == 7);
	assert_true(value(out.out, "gpuq_model_decode_sequences_sum", MODEL) == 14);
	harness_output_free(&out);
	synthetic_destroy(&s);
}

/* A second gpuqd has its own label; of one that is not there only that is told. */
static void several_daemons_are_told_apart(void **state)
{
	char absent[300];
	struct harness_output out;

	start();
	snprintf(absent, sizeof(absent), "%s/absent", harness_tmpdir());
	RUN(&out, "-1", "-s", path, "-s", absent);
	assert_int_equal(out.status, 0);
	assert_true(value(out.out, "gpuq_up", "") == 1);
	assert_true(value(out.out, "gpuq_clients", "") == 3);
	snprintf(path, sizeof(path), "%s", absent);
	assert_true(value(out.out, "gpuq_up", "") == 0);
	assert_null(strstr(strstr(out.out, absent) + 1, absent));
	assert_non_null(strstr(out.err, "gpuq-exporter: no daemon at "));
	harness_output_free(&out);
	synthetic_destroy(&s);
}

/* The fake NVML comes before a real one. */
static void find_fake_nvml(void)
{
	const char *old = getenv("LD_LIBRARY_PATH");
	char folders[2000];

	snprintf(folders, sizeof(folders), "%s:%s", harness_program("tests/tools/nvml"),
		old == NULL ? "" : old);
	setenv("LD_LIBRARY_PATH", folders, 1);
}

static void make_gpu(uint32_t number, const char *uuid)
{
	struct stats_device *d = &s.stats.devices[number];

	snprintf(d->kind, sizeof(d->kind), "cuda");
	snprintf(d->uuid, sizeof(d->uuid), "%s", uuid);
	d->state = STATS_DEVICE_READY;
}

static void gpus_are_read_through_nvml(void **state)
{
	struct harness_output out;

	find_fake_nvml();
	start();
	make_gpu(0, "GPU-1");
	make_gpu(1, "MIG-1");
	make_gpu(2, "GPU-gone");
	RUN(&out, "--once", "-s", path);
	assert_true(value(out.out, "gpuq_device_utilization_ratio", DEVICE) == 0.37);
	assert_true(value(out.out, "gpuq_device_power_watts", DEVICE) == 251.5);
	assert_true(value(out.out, "gpuq_device_temperature_celsius", DEVICE) == 61);
	assert_true(value(out.out, "gpuq_device_memory_used_bytes", DEVICE) == 2e9);
	assert_true(value(out.out, "gpuq_device_memory_bytes", ",device=\"1\"") == 8e9);
	/* What a part of a GPU does not know, and a GPU that is not there: no sample. */
	const char *power = strstr(out.out, "\ngpuq_device_power_watts{");
	assert_null(strstr(power + 1, "\ngpuq_device_power_watts{"));
	const char *memory = strstr(out.out, "\ngpuq_device_memory_bytes{");
	memory = strstr(memory + 1, "\ngpuq_device_memory_bytes{");
	assert_null(strstr(memory + 1, "\ngpuq_device_memory_bytes{"));
	harness_output_free(&out);
	synthetic_destroy(&s);
}

static void wrong_usage_is_refused(void **state)
{
	static const struct {
		const char *arguments[4];
		int status;
		const char *message;
	} cases[] = {
		{{"--nonsense"}, 2, "--nonsense"},
		{{"what"}, 2, "gpuq-exporter: unexpected argument 'what'"},
		{{"-l", "9712"}, 2, "gpuq-exporter: --listen: '9712' is no"},
		{{"-l", "localhost:9712"}, 2, "'localhost:9712' is no"},
		{{"-l", "127.0.0.1:"}, 2, "is no"},
		{{"-l", "192.0.2.1:0"}, 1, "cannot listen at 192.0.2.1:0: "},
	};
	struct harness_output out;

	start();
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		run(cases[i].arguments, &out);
		if (out.status != cases[i].status || strstr(out.err, cases[i].message) == NULL)
			fail_msg("%s: %d %s", cases[i].message, out.status, out.err);
		assert_string_equal(out.out, "");
		harness_output_free(&out);
	}
	RUN(&out, "--help");
	assert_int_equal(out.status, 0);
	assert_non_null(strstr(out.out, "Usage: gpuq-exporter"));
	harness_output_free(&out);
	synthetic_destroy(&s);
}

/* --- HTTP ---------------------------------------------------------------------------------- */

/* Starts it at a port of the system's choice, which it says. */
static pid_t serve(uint16_t *ret_port)
{
	char line[200] = "";
	unsigned int port = 0;
	int out[2];

	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	const char *const argv[] = {exporter, "-s", path, "-l", "127.0.0.1:0", NULL};
	pid_t pid = harness_spawn(argv, out[1], -1);
	close(out[1]);
	FILE *f = fdopen(out[0], "r");
	if (fgets(line, sizeof(line), f) == NULL ||
		sscanf(line, "serving http://127.0.0.1:%u/metrics", &port) != 1)
		fail_msg("it said '%s'", line);
	fclose(f);
	*ret_port = (uint16_t)port;
	return pid;
}

static int dial(uint16_t port)
{
	const struct sockaddr_in address = {
		.sin_family = AF_INET,
		.sin_port = htons(port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	assert_int_equal(connect(fd, (const struct sockaddr *)&address, sizeof(address)), 0);
	return fd;
}

/* Sends a request, and returns all that comes until the other side closes. */
static char *ask(uint16_t port, const char *request)
{
	const size_t size = 1 << 20;
	char *answer = calloc(1, size);
	int fd = dial(port);
	size_t used = 0;
	ssize_t n;

	assert_non_null(answer);
	assert_int_equal(write(fd, request, strlen(request)), strlen(request));
	while ((n = read(fd, answer + used, size - 1 - used)) > 0)
		used += (size_t)n;
	close(fd);
	return answer;
}

static void http_answers(void **state)
{
	static const struct {
		const char *request, *status, *contains;
	} cases[] = {
		{"GET /metrics", "HTTP/1.1 200 ", "\ngpuq_up{"},
		{"GET /metrics", "HTTP/1.1 200 ", "Content-Type: text/plain; version=0.0.4;"},
		{"HEAD /metrics", "HTTP/1.1 200 ", "Content-Length: "},
		{"GET /", "HTTP/1.1 200 ", "/metrics"},
		{"GET /../etc/passwd", "HTTP/1.1 404 ", "see /metrics"},
		{"POST /metrics", "HTTP/1.1 405 ", "only GET"},
	};
	char request[200];
	uint16_t port;
	int status;

	start();
	pid_t pid = serve(&port);
	int idle = dial(port); /* who says nothing keeps nobody waiting */
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		snprintf(request, sizeof(request),
			"%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", cases[i].request);
		char *answer = ask(port, request);
		if (strncmp(answer, cases[i].status, strlen(cases[i].status)) != 0 ||
			strstr(answer, cases[i].contains) == NULL)
			fail_msg("%s: %s", cases[i].request, answer);
		free(answer);
	}
	/* gpuqd goes, the exporter stays and says so. */
	synthetic_destroy(&s);
	char *answer = ask(port, "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
	assert_true(value(answer, "gpuq_up", "") == 0);
	free(answer);
	close(idle);
	kill(pid, SIGTERM);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

int main(void)
{
	static const struct harness_test tests[] = {
		HARNESS_TEST(values_are_those_of_the_statistics),
		HARNESS_TEST(each_metric_tells_its_field),
		HARNESS_TEST(states_are_counted),
		HARNESS_TEST(histograms_are_cumulative),
		HARNESS_TEST(several_daemons_are_told_apart),
		HARNESS_TEST(gpus_are_read_through_nvml),
		HARNESS_TEST(wrong_usage_is_refused),
		HARNESS_TEST(http_answers),
	};

	return harness_run("gpuq-exporter", tests, sizeof(tests) / sizeof(tests[0]));
}
