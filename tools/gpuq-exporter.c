/* SPDX-License-Identifier: MIT */
/*
 * gpuq-exporter: serves the statistics of one gpuqd or of several to Prometheus; see
 * gpuq-exporter(1). It maps nothing and asks gpuqd nothing: at each scrape it copies the statistics
 * object, so gpuqd does not notice it, and it serves on while gpuqd is down.
 */
#include "tools/list_options.h"
#include "tools/metrics.h"
#include "tools/tool.h"

#include "gpuq.h"

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <microhttpd.h>
#include <netdb.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_SOURCES 64
#define MAX_CONNECTIONS 32
#define IDLE_TIMEOUT_S 10
#define DEFAULT_LISTEN "127.0.0.1:9712"
#define CONTENT_TYPE "text/plain; version=0.0.4; charset=utf-8"

struct source {
	const char *socket; /* as it was given; NULL: the default one */
	struct snapshot_source where;
	struct hardware *hardware; /* one for each: some readings are differences */
	char trouble[512];	   /* why it could not be read the last time; "": it could */
};

struct exporter {
	const char *listen;
	bool once;
	uint32_t n_sources;
	struct source sources[MAX_SOURCES];
};

static const char help[] =
	"Usage: gpuq-exporter [OPTION]...\n"
	"Serves the statistics of gpuqd to Prometheus, over HTTP at /metrics. It only\n"
	"reads what gpuqd keeps in shared memory, and serves on while gpuqd is down.\n"
	"\n"
	"  -s, --socket PATH     of which gpuqd; once for each (default: $GPUQ_SOCKET,\n"
	"                        $XDG_RUNTIME_DIR/gpuq-0, /run/gpuq/gpuq-0)\n"
	"  -l, --listen ADDRESS  IPv4:PORT or [IPv6]:PORT; port 0: any\n"
	"                        (default: " DEFAULT_LISTEN ")\n"
	"  -1, --once            print the metrics and end\n"
	"  -h, --help            this text\n"
	"  -V, --version\n";

/* --- Options ------------------------------------------------------------------------------- */

static bool add_source(struct exporter *e, const char *socket)
{
	if (e->n_sources == MAX_SOURCES) {
		complain("more than %d sockets", MAX_SOURCES);
		return false;
	}
	e->sources[e->n_sources++].socket = socket;
	return true;
}

/* Takes one option. Returns the exit code to end with, or -1 to go on. */
static int parse_option(struct exporter *e, int c)
{
	switch (c) {
	case 's':
		return add_source(e, optarg) ? -1 : EXIT_USAGE;
	case 'l':
		e->listen = optarg;
		return -1;
	case '1':
		e->once = true;
		return -1;
	case 'h':
		fputs(help, stdout);
		return finish_output();
	case 'V':
		printf("gpuq-exporter %d.%d.%d\n", GPUQ_VERSION_MAJOR, GPUQ_VERSION_MINOR,
			GPUQ_VERSION_PATCH);
		return finish_output();
	default:
		fputs("Try 'gpuq-exporter --help'.\n", stderr);
		return EXIT_USAGE;
	}
}

/* Returns the exit code to end with, or -1 to go on. */
static int parse_options(int argc, char **argv, struct exporter *e)
{
	static const struct option longs[] = {
		{"socket", required_argument, NULL, 's'},
		{"listen", required_argument, NULL, 'l'},
		{"once", no_argument, NULL, '1'},
		{"help", no_argument, NULL, 'h'},
		{"version", no_argument, NULL, 'V'},
		{NULL},
	};
	int c, code;

	if (list_options_wanted(argc, argv)) {
		list_options(longs);
		return finish_output();
	}
	while ((c = getopt_long(argc, argv, "s:l:1hV", longs, NULL)) != -1) {
		code = parse_option(e, c);
		if (code >= 0)
			return code;
	}
	if (optind < argc)
		return complain_usage("unexpected argument '%s'", argv[optind]);
	return e->n_sources > 0 || add_source(e, NULL) ? -1 : EXIT_USAGE;
}

/* --- Sources ------------------------------------------------------------------------------- */

static int open_sources(struct exporter *e)
{
	for (uint32_t i = 0; i < e->n_sources; i++) {
		struct source *s = &e->sources[i];

		if (snapshot_source_init(&s->where, s->socket) < 0)
			return complain_usage("the path of a socket is too long");
		if (hardware_open(&s->hardware) < 0) {
			complain("out of memory");
			return EXIT_FAIL;
		}
	}
	return EXIT_OK;
}

static void close_sources(struct exporter *e)
{
	for (uint32_t i = 0; i < e->n_sources; i++)
		hardware_close(e->sources[i].hardware);
}

/* What it is called: its path, or the first place where it is looked for. */
static const char *source_name(const struct source *s)
{
	return s->where.places[s->where.chosen < 0 ? 0 : s->where.chosen];
}

static struct snapshot *take_snapshot(struct source *s)
{
	struct snapshot *snapshot;
	char why[sizeof(s->trouble)] = "";

	if (snapshot_take(&s->where, &snapshot, why, sizeof(why)) < 0) {
		/* Once, not at each scrape. */
		if (strcmp(why, s->trouble) != 0)
			complain("%s", why);
		memcpy(s->trouble, why, sizeof(why));
		return NULL;
	}
	s->trouble[0] = '\0';
	snapshot_read_hardware(snapshot, s->hardware);
	return snapshot;
}

static void write_all(struct exporter *e, FILE *out)
{
	struct snapshot *snapshots[MAX_SOURCES];
	struct metrics_source sources[MAX_SOURCES];

	for (uint32_t i = 0; i < e->n_sources; i++) {
		snapshots[i] = take_snapshot(&e->sources[i]);
		sources[i] = (struct metrics_source){source_name(&e->sources[i]), snapshots[i]};
	}
	metrics_write(sources, e->n_sources, out);
	for (uint32_t i = 0; i < e->n_sources; i++)
		snapshot_free(snapshots[i]);
}

/* --- HTTP ---------------------------------------------------------------------------------- */

/* The metrics as text that free() releases, or NULL. */
static char *metrics_text(struct exporter *e, size_t *ret_bytes)
{
	char *text = NULL;
	FILE *out = open_memstream(&text, ret_bytes);

	if (out == NULL)
		return NULL;
	write_all(e, out);
	bool failed = ferror(out) != 0;
	if (fclose(out) == 0 && !failed)
		return text;
	free(text);
	return NULL;
}

static enum MHD_Result answer_text(
	struct MHD_Connection *connection, unsigned int status, const char *text)
{
	struct MHD_Response *response = MHD_create_response_from_buffer(
		strlen(text), (void *)(uintptr_t)text, MHD_RESPMEM_PERSISTENT);

	if (response == NULL)
		return MHD_NO;
	MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, "text/plain");
	enum MHD_Result r = MHD_queue_response(connection, status, response);
	MHD_destroy_response(response);
	return r;
}

static enum MHD_Result answer_metrics(struct exporter *e, struct MHD_Connection *connection)
{
	size_t bytes;
	char *text = metrics_text(e, &bytes);

	if (text == NULL)
		return answer_text(connection, MHD_HTTP_INTERNAL_SERVER_ERROR, "out of memory\n");
	struct MHD_Response *response =
		MHD_create_response_from_buffer(bytes, text, MHD_RESPMEM_MUST_FREE);
	if (response == NULL) {
		free(text);
		return MHD_NO;
	}
	MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, CONTENT_TYPE);
	enum MHD_Result r = MHD_queue_response(connection, MHD_HTTP_OK, response);
	MHD_destroy_response(response);
	return r;
}

static enum MHD_Result on_request(void *context, struct MHD_Connection *connection, const char *url,
	const char *method, const char *version, const char *body, size_t *body_bytes,
	void **of_request)
{
	static int seen;

	/* The first call has the headers only. */
	if (*of_request == NULL) {
		*of_request = &seen;
		return MHD_YES;
	}
	if (*body_bytes > 0) {
		*body_bytes = 0; /* nobody reads it */
		return MHD_YES;
	}
	if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0)
		return answer_text(connection, MHD_HTTP_METHOD_NOT_ALLOWED, "only GET\n");
	if (strcmp(url, "/metrics") == 0)
		return answer_metrics(context, connection);
	if (strcmp(url, "/") == 0)
		return answer_text(connection, MHD_HTTP_OK, "gpuq-exporter: see /metrics\n");
	return answer_text(connection, MHD_HTTP_NOT_FOUND, "not found: see /metrics\n");
}

/* Splits "ADDRESS:PORT" or "[ADDRESS]:PORT". */
static bool split_address(const char *text, char *host, size_t size, const char **ret_port)
{
	const char *colon = strrchr(text, ':');
	size_t n = colon == NULL ? 0 : (size_t)(colon - text);

	if (n > 2 && text[0] == '[' && text[n - 1] == ']') {
		text++;
		n -= 2;
	}
	if (n == 0 || n >= size || colon[1] == '\0')
		return false;
	memcpy(host, text, n);
	host[n] = '\0';
	*ret_port = colon + 1;
	return true;
}

/* A listening socket, or a negative errno. */
static int listen_at(const struct addrinfo *address)
{
	const int on = 1;
	int fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(fd, address->ai_addr, address->ai_addrlen) < 0 || listen(fd, 16) < 0) {
		int error = errno;
		close(fd);
		return -error;
	}
	return fd;
}

/* Likewise in *ret_fd. Returns EXIT_OK, or what to end with after saying what is wrong. */
static int open_listener(const char *text, int *ret_fd)
{
	const struct addrinfo hints = {
		.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV,
		.ai_socktype = SOCK_STREAM,
	};
	struct addrinfo *address;
	const char *port;
	char host[64];

	if (!split_address(text, host, sizeof(host), &port) ||
		getaddrinfo(host, port, &hints, &address) != 0)
		return complain_usage("--listen: '%s' is no IPv4:PORT or [IPv6]:PORT", text);
	int fd = listen_at(address);
	freeaddrinfo(address);
	if (fd < 0) {
		complain("cannot listen at %s: %s; choose another with --listen", text,
			strerror(-fd));
		return EXIT_FAIL;
	}
	*ret_fd = fd;
	return EXIT_OK;
}

/* Says where it listens: the port may have been chosen by the system. */
static void print_address(int fd)
{
	struct sockaddr_storage address;
	socklen_t bytes = sizeof(address);
	char host[64], port[16];

	if (getsockname(fd, (struct sockaddr *)&address, &bytes) < 0 ||
		getnameinfo((struct sockaddr *)&address, bytes, host, sizeof(host), port,
			sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV) != 0)
		return;
	const bool v6 = strchr(host, ':') != NULL;
	printf("serving http://%s%s%s:%s/metrics\n", v6 ? "[" : "", host, v6 ? "]" : "", port);
	fflush(stdout);
}

/* Serves until a signal comes. */
static int serve(struct exporter *e)
{
	int fd = -1, signal, code = open_listener(e->listen, &fd);
	sigset_t ends;

	if (code != EXIT_OK)
		return code;
	/* The server's thread inherits the mask, so that the signal comes to this one. */
	sigemptyset(&ends);
	sigaddset(&ends, SIGINT);
	sigaddset(&ends, SIGTERM);
	sigaddset(&ends, SIGHUP);
	pthread_sigmask(SIG_BLOCK, &ends, NULL);
	struct MHD_Daemon *server = MHD_start_daemon(MHD_USE_AUTO_INTERNAL_THREAD, 0, NULL, NULL,
		on_request, e, MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT,
		MAX_CONNECTIONS, MHD_OPTION_CONNECTION_TIMEOUT, IDLE_TIMEOUT_S, MHD_OPTION_END);
	if (server == NULL) {
		complain("the HTTP server cannot be started");
		close(fd);
		return EXIT_FAIL;
	}
	print_address(fd);
	sigwait(&ends, &signal);
	MHD_stop_daemon(server); /* closes the socket */
	return EXIT_OK;
}

int main(int argc, char **argv)
{
	static struct exporter e = {.listen = DEFAULT_LISTEN};

	claim_streams();
	tool_name = "gpuq-exporter";
	int code = parse_options(argc, argv, &e);
	if (code >= 0)
		return code;
	code = open_sources(&e);
	if (code == EXIT_OK && e.once) {
		write_all(&e, stdout);
		code = finish_output();
	} else if (code == EXIT_OK) {
		code = serve(&e);
	}
	close_sources(&e);
	return code;
}
