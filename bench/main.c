/* SPDX-License-Identifier: MIT */
/* main.c: gpuq-bench SUBCOMMAND [options]. One table names the subcommands and drives the help. */
#include "bench/llm.h"
#include "tools/list_options.h"

#include "client/gpuq.h"
#include <commit.h>

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct subcommand {
	const char *name;
	int (*run)(struct bench *b);
	const char *what;
	const char *target; /* NULL when it has none */
	bool one_cpu;	    /* makes sense with a single CPU too */
	bool apart;	    /* not part of `all` */
	bool no_summary;    /* measures nothing */
};

static int bench_all(struct bench *b);

static const struct subcommand subcommands[] = {
	{"floor", bench_floor, "F: one cache line bounced between the two CPUs", NULL, false},
	{"ring", bench_ring, "raw channel echo without gpuqd", "p50 <= 1.5 F", false},
	{"null", bench_null, "null operation, Unix socket, pipe, eventfd, ZeroMQ; idle channels",
		"p50 <= 2 F, p99 <= 5 F; 1,000 idle channels cost <= 1.2x; ZeroMQ >= 100x slower",
		false},
	{"sleep", bench_sleep, "null operation with both sides asleep",
		"p50 <= 1.3x a bare eventfd and pipe", true},
	{"pipeline", bench_pipeline, "null operations, 256 in flight, 1 to 16 clients",
		">= 50 M/s from one; >= 60 % of that from all; each >= half its share", false},
	{"op", bench_op, "small operators through gpuqd, in process, in PyTorch",
		"p50 <= the kernel in process + 2 null round trips", false},
	{"idle", bench_idle, "CPU time of gpuqd with 100 idle clients", "< 0.5 % of one CPU", true},
	{"death", bench_death, "from the kill of a client until it is seen, and until all is back",
		"detected p50 < 0.2 ms, p99 < 5 ms; all back < 5 ms after proof and last kernel",
		true, true},
	{"trace", bench_trace, "null and small operations with the flight recorder, and without",
		"p50 <= 1.02 x without", false, true},
	{"overload", bench_overload,
		"0.5, 1, 2 and 5 times as much work as gpuqd can do, with deadlines",
		"goodput >= 90 % of the capacity; admitted work in time at p99; memory flat", true,
		true},
	{"graphs", bench_graphs, "replays beside captures: none, in the background, by the server",
		"p99 beside those in the background <= 1.1 x quiet; with 4 CPUs or more", true},
	{"memory", bench_memory, "device memory of clients that do not use CUDA (--device cuda)",
		"0 MiB", true, true},
	{"attention", bench_attention,
		"attention over a paged cache of 1 GB, beside reading it; PyTorch",
		">= 80 % of the bytes/s read; faster than PyTorch on contiguous memory", true,
		true},
	{"linear", bench_linear, "matrices of a model with 1 to 256 rows, beside reading them",
		NULL, true, true},
	{"decode", bench_decode, "tokens one by one, of 1 to 32 clients; in process, in llama.cpp",
		"gpuqd adds <= 2 %; >= llama.cpp's tokens/s on the same CPUs", true, true},
	{"prefill", bench_prefill, "prompts of 256 tokens, likewise", ">= llama.cpp's tokens/s",
		true, true},
	{"load", bench_load, "a model's weights into memory, beside read() and fio; first token",
		">= 90 % of read() from the page cache, of fio from disk", true, true},
#ifdef GPUQ_TEXT
	{"generate", bench_generate, "texts: tokenizer, sampling, first token, 32 policies at once",
		"outside the device <= 3 % for 1b; 32 policies >= 95 % of one; tokenizer >= "
		"Hugging Face's",
		true, true},
#endif
	{"values", bench_values, "writes what a model's layers make of --tokens; measures nothing",
		NULL, true, true, true},
	{"all", bench_all, "all of floor to idle, and graphs; one summary", NULL, false, true},
};
#define N_SUBCOMMANDS (sizeof(subcommands) / sizeof(subcommands[0]))

static int bench_all(struct bench *b)
{
	int first_error = 0;

	for (size_t i = 0; i < N_SUBCOMMANDS; i++) {
		if (subcommands[i].apart)
			continue;
		cpus_free(0);
		int r = subcommands[i].run(b);
		if (r < 0 && first_error == 0)
			first_error = r;
	}
	return first_error;
}

/* --- Options ------------------------------------------------------------------------------- */

enum {
	OPT_CPUS = 256,
	OPT_SAMPLES,
	OPT_SECONDS,
	OPT_JSON,
	OPT_GPUQD,
	OPT_SOCKET,
	OPT_PYTHON,
	OPT_DEVICE,
	OPT_PLOT,
	OPT_TRACE,
	OPT_SHAPE,
	OPT_WEIGHTS,
	OPT_FOLDER,
	OPT_TOKENS,
	OPT_OUT,
};

static const struct option long_options[] = {
	{"cpus", required_argument, NULL, OPT_CPUS},
	{"samples", required_argument, NULL, OPT_SAMPLES},
	{"seconds", required_argument, NULL, OPT_SECONDS},
	{"json", required_argument, NULL, OPT_JSON},
	{"gpuqd", required_argument, NULL, OPT_GPUQD},
	{"socket", required_argument, NULL, OPT_SOCKET},
	{"python", required_argument, NULL, OPT_PYTHON},
	{"device", required_argument, NULL, OPT_DEVICE},
	{"plot", required_argument, NULL, OPT_PLOT},
	{"trace", required_argument, NULL, OPT_TRACE},
	{"shape", required_argument, NULL, OPT_SHAPE},
	{"weights", required_argument, NULL, OPT_WEIGHTS},
	{"folder", required_argument, NULL, OPT_FOLDER},
	{"tokens", required_argument, NULL, OPT_TOKENS},
	{"out", required_argument, NULL, OPT_OUT},
	{"help", no_argument, NULL, 'h'},
	{"version", no_argument, NULL, 'V'},
	{NULL, 0, NULL, 0},
};

/* Each part, up to a semicolon, in a line of its own: all together are wider than a terminal. */
static void print_target(const char *text)
{
	const char *title = "target:";
	int n;

	for (; text[0] != '\0'; text += n + (text[n] == ';' ? 2 : 0)) {
		n = (int)strcspn(text, ";");
		printf("  %-10s   %-7s %.*s\n", "", title, n, text);
		title = "";
	}
}

static void print_help(void)
{
	printf("usage: gpuq-bench SUBCOMMAND [options]\n\n"
	       "Measures gpuq between two processes on two CPUs, beside the machine's floor.\n\n"
	       "Subcommands:\n");
	for (size_t i = 0; i < N_SUBCOMMANDS; i++) {
		const struct subcommand *s = &subcommands[i];
		printf("  %-10s %s\n", s->name, s->what);
		if (s->target != NULL)
			print_target(s->target);
	}
	printf("\nOptions:\n"
	       "  --cpus A,B      CPU of the client, CPU of the other side (first two cores)\n"
	       "  --samples N     samples of each row (1,000,000); rows that sleep take fewer\n"
	       "  --seconds S     length of each timed run (pipeline and overload 5, idle 10)\n"
	       "  --json FILE     keep everything, histograms included\n"
	       "  --gpuqd PATH    the gpuqd to start (beside this program, else in PATH)\n"
	       "  --socket PATH   use a running gpuqd instead of a private one\n"
	       "  --python PATH   interpreter for PyTorch and for --plot (python3)\n"
	       "  --device KIND   cpu, cuda or cuda:N (cpu): op, graphs, memory, those of models\n"
	       "  --plot FILE     graphs: draws replays and captures (SVG; needs matplotlib)\n"
	       "  --trace FILE    graphs: a timeline that Perfetto and chrome://tracing open\n"
	       "  --shape NAME    models: 1b (Llama-3.2-1B), 135m, 15m, tiny (135m)\n"
	       "  --weights TYPE  models: bf16 or int8 (bf16)\n"
	       "  --folder DIR    keeps the random weights there; values: the model\n"
	       "  --tokens LIST   values: the text, such as 1,2,3\n"
	       "  --out DIR       values: the folder for the files\n"
	       "  -h, --help      this text\n"
	       "  -V, --version   version\n\n"
	       "Exit status: 0 measured (whether or not targets were met), 1 failed, 2 usage.\n");
}

static int usage(const char *problem, const char *what)
{
	fprintf(stderr, "gpuq-bench: %s '%s'; see gpuq-bench --help\n", problem, what);
	return 2;
}

static bool parse_cpus(struct bench *b, const char *text)
{
	char *end;

	b->client_cpu = (int)strtol(text, &end, 10);
	if (end == text || *end != ',')
		return false;
	text = end + 1;
	b->server_cpu = (int)strtol(text, &end, 10);
	return end != text && *end == '\0' && cpus_pin(0, b->client_cpu, b->client_cpu) == 0 &&
		cpus_pin(0, b->server_cpu, b->server_cpu) == 0;
}

static bool parse_positive(const char *text, double most, double *ret_value)
{
	char *end;
	double value = strtod(text, &end);

	if (end == text || *end != '\0' || !(value > 0 && value <= most))
		return false;
	*ret_value = value;
	return true;
}

/* The options of language models. */
static int take_llm_option(struct bench *b, int option, const char *value)
{
	switch (option) {
	case OPT_SHAPE:
		b->shape = value;
		return llm_shape_find(value) != NULL ? 0 : usage("no such shape:", value);
	case OPT_WEIGHTS:
		b->weights = value;
		return strcmp(value, "bf16") == 0 || strcmp(value, "int8") == 0
			? 0
			: usage("weights are bf16 or int8, not", value);
	case OPT_FOLDER:
		b->folder = value;
		return 0;
	case OPT_TOKENS:
		b->tokens = value;
		return 0;
	case OPT_OUT:
		b->out = value;
		return 0;
	default:
		fprintf(stderr, "see gpuq-bench --help\n");
		return 2;
	}
}

/* One option. 0, or the exit status of a usage error. */
static int take_option(struct bench *b, int option, const char *value, const char **ret_json)
{
	double number = 0;

	switch (option) {
	case OPT_CPUS:
		return parse_cpus(b, value) ? 0 : usage("not two CPUs that may be used:", value);
	case OPT_SAMPLES:
		if (!parse_positive(value, 1e9, &number) || number < 100)
			return usage("not a number of samples from 100 to 1e9:", value);
		b->samples = (uint64_t)number;
		return 0;
	case OPT_SECONDS:
		return parse_positive(value, 3600, &b->seconds)
			? 0
			: usage("not a number of seconds up to 3600:", value);
	case OPT_JSON:
		*ret_json = value;
		return 0;
	case OPT_GPUQD:
		b->gpuqd = value;
		return 0;
	case OPT_SOCKET:
		b->socket = value;
		return 0;
	case OPT_PYTHON:
		b->python = value;
		return 0;
	case OPT_DEVICE:
		b->device = value;
		return 0;
	case OPT_PLOT:
		b->plot = value;
		return 0;
	case OPT_TRACE:
		b->trace = value;
		return 0;
	default:
		return take_llm_option(b, option, value);
	}
}

static const struct subcommand *find_subcommand(const char *name)
{
	for (size_t i = 0; i < N_SUBCOMMANDS; i++)
		if (strcmp(subcommands[i].name, name) == 0)
			return &subcommands[i];
	return NULL;
}

/* --- Running ------------------------------------------------------------------------------- */

/* The clock's own price and grain, from back-to-back readings. */
static void measure_clock(struct bench *b)
{
	enum { READINGS = 200000, LONGEST = 1000 };
	static uint32_t seen[LONGEST];
	uint64_t sum_ns = 0, counted = 0;

	clock_calibrate(&b->clock);
	uint64_t last_ns = clock_now_ns(&b->clock);
	for (uint32_t i = 0; i < READINGS; i++) {
		uint64_t now_ns = clock_now_ns(&b->clock);
		uint64_t step_ns = now_ns - last_ns;
		last_ns = now_ns;
		/* Longer ones are interruptions. */
		if (step_ns >= LONGEST)
			continue;
		seen[step_ns]++;
		sum_ns += step_ns;
		counted++;
	}
	b->clock_cost_ns = (double)sum_ns / (double)counted;
	/* The shortest step that is no accident. */
	b->clock_step_ns = 1;
	while (b->clock_step_ns < LONGEST - 1 && seen[b->clock_step_ns] < READINGS / 100)
		b->clock_step_ns++;
}

/* argv as one line, for the JSON file. */
static char *command_line(int argc, char **argv)
{
	size_t size = 1;

	for (int i = 0; i < argc; i++)
		size += strlen(argv[i]) + 1;
	char *line = calloc(1, size), *end = line;

	for (int i = 0; i < argc && line != NULL; i++)
		end += snprintf(
			end, size - (size_t)(end - line), "%s%s", i > 0 ? " " : "", argv[i]);
	return line;
}

static int run_subcommand(struct bench *b, const struct subcommand *s, const char *json_path)
{
	if (b->client_cpu == b->server_cpu && !s->one_cpu) {
		complain(0,
			"only CPU %d may be used, and '%s' needs one for each side; "
			"allow two (taskset, cgroup cpuset)",
			b->client_cpu, s->name);
		return 1;
	}
	measure_clock(b);
	json_t *machine = machine_describe(b);

	machine_print(machine);
	b->rows = json_array();
	int r = s->run(b);
	if (!s->no_summary)
		report_summary(b);
	if (json_path != NULL) {
		int w = report_write(b, machine, json_path);
		if (w < 0)
			complain(w, "cannot write %s", json_path);
		r = r < 0 ? r : w;
	}
	json_decref(b->rows);
	json_decref(machine);
	return r < 0 ? 1 : 0;
}

/* For a shell's completion. */
static int list(void)
{
	for (size_t i = 0; i < N_SUBCOMMANDS; i++)
		puts(subcommands[i].name);
	list_options(long_options);
	return fflush(stdout) == 0 ? 0 : 1;
}

int main(int argc, char **argv)
{
	struct bench b = {.python = "python3",
		.device = "cpu",
		.shape = "135m",
		.weights = "bf16",
		.seed = 88172645463325252u};
	const char *json_path = NULL;
	int option;

	if (list_options_wanted(argc, argv))
		return list();
	cpus_default(&b.client_cpu, &b.server_cpu);
	while ((option = getopt_long(argc, argv, "hV", long_options, NULL)) != -1) {
		if (option == 'h') {
			print_help();
			return 0;
		}
		if (option == 'V') {
			printf("gpuq-bench %s (%s)\n", gpuq_version(), BENCH_COMMIT);
			return 0;
		}
		int status = take_option(&b, option, optarg, &json_path);
		if (status != 0)
			return status;
	}
	if (optind == argc)
		return usage("a subcommand is needed, for example", "all");
	const struct subcommand *s = find_subcommand(argv[optind]);
	if (s == NULL)
		return usage("no subcommand", argv[optind]);
	if (optind + 1 < argc)
		return usage("unexpected argument", argv[optind + 1]);
	char *command = command_line(argc, argv);

	b.command = command != NULL ? command : "";
	int status = run_subcommand(&b, s, json_path);

	free(command);
	return status;
}
