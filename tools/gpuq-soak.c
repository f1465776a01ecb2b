/* SPDX-License-Identifier: MIT */
/*
 * gpuq-soak: client processes do random mixed work on a private gpuqd and are killed, stopped and
 * starved at random moments; what the others see, and what gpuqd holds, must be right throughout.
 */
#include "tools/list_options.h"
#include "tools/soak.h"

#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define DEFAULT_KILLS 1000u
#define DEFAULT_CLIENTS 8u
#define DEFAULT_STEADY 2u
#define DEFAULT_BOUND_S 10.0
#define DEFAULT_SLACK_MIB 8u
#define LEAST_DEATHS 50u /* in each state, of DEFAULT_KILLS or more */

struct options {
	const char *gpuqd, *device, *model, *json;
	uint64_t kills, clients, steady, seed, slack_mib;
	double bound_s;
};

static volatile int interrupted;

static void on_interrupt(int signal)
{
	interrupted = signal;
}

static void print_help(void)
{
	printf("usage: gpuq-soak [option]...\n\n"
	       "Starts a private gpuqd and clients that do random mixed work, kills, stops and\n"
	       "starves them at random, and checks that nothing else is any the worse for it.\n\n"
	       "  -k, --kills N       so many (1000)\n"
	       "  -c, --clients N     at once (8)\n"
	       "      --steady N      of these, so many that nobody harms (2)\n"
	       "      --seed N        of all choices (the time)\n"
	       "      --model DIR     a language model, for clients that generate text\n"
	       "      --bound S       seconds that nobody may have to wait (10)\n"
	       "      --slack MIB     that gpuqd's memory may grow by, beside graphs (8)\n"
	       "      --device KIND   cpu, cuda or cuda:N (cpu)\n"
	       "      --gpuqd PATH    the gpuqd to start (beside this program, else in PATH)\n"
	       "      --json FILE     keeps the result\n"
	       "  -h, --help          this text\n"
	       "  -V, --version       version\n\n"
	       "Exit status: 0 nothing was wrong, 1 something was, 2 usage.\n");
}

enum {
	OPT_STEADY = 256,
	OPT_SEED,
	OPT_MODEL,
	OPT_BOUND,
	OPT_SLACK,
	OPT_DEVICE,
	OPT_GPUQD,
	OPT_JSON
};

static const struct option longs[] = {
	{"kills", required_argument, NULL, 'k'},
	{"clients", required_argument, NULL, 'c'},
	{"steady", required_argument, NULL, OPT_STEADY},
	{"seed", required_argument, NULL, OPT_SEED},
	{"model", required_argument, NULL, OPT_MODEL},
	{"bound", required_argument, NULL, OPT_BOUND},
	{"slack", required_argument, NULL, OPT_SLACK},
	{"device", required_argument, NULL, OPT_DEVICE},
	{"gpuqd", required_argument, NULL, OPT_GPUQD},
	{"json", required_argument, NULL, OPT_JSON},
	{"help", no_argument, NULL, 'h'},
	{"version", no_argument, NULL, 'V'},
	{NULL, 0, NULL, 0},
};

static bool take_option(struct options *o, int option, const char *value)
{
	switch (option) {
	case 'k':
		return parse_count("--kills", value, 1, 1000000000, &o->kills);
	case 'c':
		return parse_count("--clients", value, 1, SOAK_SLOTS, &o->clients);
	case OPT_STEADY:
		return parse_count("--steady", value, 0, SOAK_SLOTS - 1, &o->steady);
	case OPT_SEED:
		return parse_count("--seed", value, 0, UINT64_MAX, &o->seed);
	case OPT_MODEL:
		o->model = value;
		return true;
	case OPT_BOUND:
		return parse_seconds("--bound", value, 0.1, 3600, &o->bound_s);
	case OPT_SLACK:
		return parse_count("--slack", value, 0, 1u << 30, &o->slack_mib);
	case OPT_DEVICE:
		o->device = value;
		return true;
	case OPT_GPUQD:
		o->gpuqd = value;
		return true;
	default:
		o->json = value;
		return true;
	}
}

/* Of few, chance decides; of many, every state must have had its share. */
static void check_histogram(struct soak *s)
{
	for (uint32_t i = 0; i < SOAK_STATES; i++) {
		if (i == SOAK_GENERATING && !s->common->has_model)
			continue;
		if (s->died_in[i] < s->least)
			soak_wrong(s, "only %llu died while %s", (unsigned long long)s->died_in[i],
				soak_state_names[i]);
	}
}

static int soak(struct soak *s, const struct options *o)
{
	struct soak_common *common = s->common;
	int r = soak_daemon_start(&s->daemon, o->gpuqd, o->device, o->model, common);

	if (r == 0 && common->has_model)
		r = soak_learn(common);
	if (r == 0) {
		soak_reap(s);
		if (interrupted == 0 && !s->wrong)
			check_histogram(s);
	}
	if (s->wrong)
		soak_daemon_print_log(&s->daemon);
	if (!soak_daemon_stop(&s->daemon) && r == 0)
		soak_wrong(s, "gpuqd did not end well");
	return r;
}

static int run(const struct options *o)
{
	const struct sigaction action = {.sa_handler = on_interrupt, .sa_flags = SA_RESETHAND};
	static struct soak s;

	s = (struct soak){
		.seed = o->seed,
		.kills = o->kills,
		.least = o->kills >= DEFAULT_KILLS ? LEAST_DEATHS : 0,
		.n_slots = (uint32_t)o->clients,
		.n_steady = (uint32_t)o->steady,
		.slack_kib = o->slack_mib << 10,
		.rng = soak_random_seed(o->seed, UINT32_MAX),
		.interrupted = &interrupted,
	};
	s.common = mmap(
		NULL, sizeof(*s.common), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (s.common == MAP_FAILED) {
		complain("no memory: %s", strerror(errno));
		return EXIT_FAIL;
	}
	s.common->slots = s.n_slots;
	s.common->has_model = o->model != NULL;
	s.common->bound_ns = (uint64_t)(o->bound_s * 1e9);
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	fprintf(stderr, "seed %llu\n", (unsigned long long)s.seed);
	if (soak(&s, o) < 0)
		return EXIT_FAIL;
	soak_print(&s);
	if (o->json != NULL && soak_write(&s, o->json) < 0)
		return EXIT_FAIL;
	return s.wrong || interrupted != 0 ? EXIT_FAIL : EXIT_OK;
}

int main(int argc, char **argv)
{
	struct options o = {
		.device = "cpu",
		.kills = DEFAULT_KILLS,
		.clients = DEFAULT_CLIENTS,
		.steady = DEFAULT_STEADY,
		.seed = (uint64_t)time(NULL),
		.slack_mib = DEFAULT_SLACK_MIB,
		.bound_s = DEFAULT_BOUND_S,
	};
	int option;

	tool_name = "gpuq-soak";
	if (list_options_wanted(argc, argv)) {
		list_options(longs);
		return finish_output();
	}
	while ((option = getopt_long(argc, argv, "k:c:hV", longs, NULL)) != -1) {
		if (option == 'h') {
			print_help();
			return EXIT_OK;
		}
		if (option == 'V') {
			printf("gpuq-soak %s\n", gpuq_version());
			return EXIT_OK;
		}
		if (option == '?')
			return complain_usage("wrong usage");
		if (!take_option(&o, option, optarg))
			return EXIT_USAGE;
	}
	if (optind < argc)
		return complain_usage("unexpected argument '%s'", argv[optind]);
	if (o.steady >= o.clients)
		return complain_usage("--steady must be less than --clients");
	return run(&o);
}
