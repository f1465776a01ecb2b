/* SPDX-License-Identifier: MIT */
/* gpuq-exporter on synthetic statistics: what it prints, and what it answers over HTTP. */
#include "tests/harness.h"

#include "shm/clock.h"
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
	s.stats.channels[1].depth = 5;
	s.stats.channels[2].depth = 6;
	snprintf(s.stats.devices[0].name, 128, "a \"b\"\\ \n\x1b");
	RUN(&out, "--once", "-s", path);
	assert_int_equal(out.status, 0);
	assert_string_equal(out.err, "");
	assert_true(value(out.out, "gpuq_up", "") == 1);
	assert_true(value(out.out, "gpuq_client_deaths_total", "") == 7);
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
	assert_non_null(strstr(out.out, "name=\"a \\\"b\\\"\\\\ ??\""));
	/* Of a first look the machine's utilization is not known, which is not 0. */
	assert_null(strstr(out.out, "\ngpuq_device_utilization_ratio{"));
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
		HARNESS_TEST(histograms_are_cumulative),
		HARNESS_TEST(several_daemons_are_told_apart),
		HARNESS_TEST(gpus_are_read_through_nvml),
		HARNESS_TEST(wrong_usage_is_refused),
		HARNESS_TEST(http_answers),
	};

	return harness_run("gpuq-exporter", tests, sizeof(tests) / sizeof(tests[0]));
}
