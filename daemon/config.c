/* SPDX-License-Identifier: MIT */
/* gpuqd's configuration: a table of keys, and where their values come from. */
#include "daemon/config.h"

#include "daemon/log.h"
#include "shm/wire.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HELP_INDENT 31
#define HELP_WIDTH 49 /* and both are 80 */

#define AT(field) offsetof(struct config, field), sizeof(((struct config *)0)->field)

const struct config_key config_keys[] = {
	{"socket", CONFIG_TEXT, AT(socket), "", 0, 0,
		"path of the socket; empty: $XDG_RUNTIME_DIR/gpuq-0, else /run/gpuq/gpuq-0"},
	{"socket_mode", CONFIG_MODE, AT(socket_mode), "0660", 0600, 0777,
		"permissions of the socket: who may write to it may connect"},
	{"access", CONFIG_TEXT, AT(access), "open", 0, 0,
		"open: who may write to the socket may connect; listed: of these only root, "
		"gpuqd's own user, and who has a section of its own or is in a group that has one",
		CONFIG_NOW},
	{"stats_mode", CONFIG_MODE, AT(stats_mode), "0600", 0600, 0644,
		"permissions of the statistics: who may read them sees all users"},
	{"device", CONFIG_TEXT, AT(device), "auto", 0, 0, "cpu, cuda, cuda:N, or auto"},
	{"resident", CONFIG_TEXT, AT(resident), "on", 0, 0,
		"on or off: on a GPU small work goes to a kernel that stays there",
		CONFIG_NEXT_DEVICE},
	{"workers", CONFIG_NUMBER, AT(workers), "0", 0, 1024,
		"worker threads of the CPU device; 0: as many as fit", CONFIG_NEXT_DEVICE},
	{"poll_us", CONFIG_NUMBER, AT(poll_us), "50", 0, 1000000,
		"microseconds that dispatch polls idle channels before it sleeps",
		CONFIG_NEXT_DEVICE},
	{"ageing_ms", CONFIG_NUMBER, AT(ageing_ms), "10", 1, 60000,
		"milliseconds after which a priority of which nothing was started has a turn "
		"before better ones",
		CONFIG_NEXT_DEVICE},
	{"max_clients", CONFIG_NUMBER, AT(max_clients), "512", 1, 16384, "connections"},
	{"max_clients_per_user", CONFIG_NUMBER, AT(max_clients_per_user), "256", 1, 16384,
		"connections of one user id", CONFIG_NOW},
	{"max_channels", CONFIG_NUMBER, AT(max_channels), "1024", 1, 65536, "open channels"},
	{"max_channels_per_client", CONFIG_NUMBER, AT(max_channels_per_client), "64", 1, 65536,
		"open channels of one connection", CONFIG_NOW},
	{"max_channels_per_user", CONFIG_NUMBER, AT(max_channels_per_user), "512", 1, 65536,
		"open channels of one user id", CONFIG_NOW},
	{"max_arena_bytes", CONFIG_BYTES, AT(max_arena_bytes), "256M", 4096, WIRE_MAX_ARENA,
		"payload memory of one channel", CONFIG_NOW},
	{"max_client_bytes", CONFIG_BYTES, AT(max_client_bytes), "1G", 4096, 1ull << 50,
		"shared memory of one connection", CONFIG_NOW},
	{"max_user_bytes", CONFIG_BYTES, AT(max_user_bytes), "0", 0, 1ull << 50,
		"shared memory of one user id; 0: half of max_total_bytes", CONFIG_NOW},
	{"max_total_bytes", CONFIG_BYTES, AT(max_total_bytes), "0", 0, 1ull << 50,
		"shared memory of all connections; 0: half of the machine's memory", CONFIG_NOW},
	{"max_in_flight", CONFIG_NUMBER, AT(max_in_flight), "4096", 16, 1u << 20,
		"submissions accepted and not completed, all channels together; more than "
		"max_channels"},
	{"max_in_flight_per_user", CONFIG_NUMBER, AT(max_in_flight_per_user), "0", 0, 1u << 20,
		"the same of one user id; what is more waits in the rings; 0: no limit of its own",
		CONFIG_NEXT_DEVICE},
	{"max_rate_per_user", CONFIG_NUMBER, AT(max_rate_per_user), "0", 0, 1u << 30,
		"submissions a second of one user id, in bursts of a second's; others are refused; "
		"0: any",
		CONFIG_NEXT_DEVICE},
	{"max_buffers", CONFIG_NUMBER, AT(max_buffers), "4096", 1, 65536, "device buffers"},
	{"max_buffers_per_user", CONFIG_NUMBER, AT(max_buffers_per_user), "2048", 1, 65536,
		"device buffers of one user id", CONFIG_NOW},
	{"max_pipelines", CONFIG_NUMBER, AT(max_pipelines), "1024", 1, 65536,
		"registered pipelines"},
	{"max_pipelines_per_client", CONFIG_NUMBER, AT(max_pipelines_per_client), "64", 1, 65536,
		"registered pipelines of one connection", CONFIG_NOW},
	{"max_pipelines_per_user", CONFIG_NUMBER, AT(max_pipelines_per_user), "512", 1, 65536,
		"registered pipelines of one user id", CONFIG_NOW},
	{"max_graphs", CONFIG_NUMBER, AT(max_graphs), "1024", 16, 1u << 20,
		"exact shapes that a device process keeps an account of"},
	{"graph_bytes", CONFIG_BYTES, AT(graph_bytes), "256M", 0, 1ull << 40,
		"memory that captured graphs may take", CONFIG_NEXT_DEVICE},
	{"graph_bytes_per_user", CONFIG_BYTES, AT(graph_bytes_per_user), "0", 0, 1ull << 40,
		"of this, for shapes that one user id was the first to use; 0: three quarters",
		CONFIG_NEXT_DEVICE},
	{"graph_scratch_bytes", CONFIG_BYTES, AT(graph_scratch_bytes), "16M", 4096, 1ull << 40,
		"memory for the inner tensors of one pipeline while it runs", CONFIG_NEXT_DEVICE},
	{"graph_promote_uses", CONFIG_NUMBER, AT(graph_promote_uses), "3", 1, 1000000,
		"uses of a shape within graph_promote_window_ms after which it is captured",
		CONFIG_NEXT_DEVICE},
	{"graph_promote_window_ms", CONFIG_NUMBER, AT(graph_promote_window_ms), "1000", 1, 3600000,
		"milliseconds for graph_promote_uses", CONFIG_NEXT_DEVICE},
	{"graph_pinned", CONFIG_NUMBER, AT(graph_pinned), "16", 0, 1u << 20,
		"so many shapes, those used most, keep their graphs whatever graph_bytes says",
		CONFIG_NEXT_DEVICE},
	{"max_models", CONFIG_NUMBER, AT(max_models), "8", 0, CONFIG_MAX_MODELS,
		"language models loaded at once"},
	{"max_sessions", CONFIG_NUMBER, AT(max_sessions), "1024", 1, 65536,
		"open sessions of language models", CONFIG_NEXT_DEVICE},
	{"max_sessions_per_client", CONFIG_NUMBER, AT(max_sessions_per_client), "64", 1, 65536,
		"open sessions of one connection", CONFIG_NEXT_DEVICE},
	{"max_sessions_per_user", CONFIG_NUMBER, AT(max_sessions_per_user), "512", 1, 65536,
		"open sessions of one user id", CONFIG_NEXT_DEVICE},
	{"kv_bytes", CONFIG_BYTES, AT(kv_bytes), "0", 0, 1ull << 44,
		"memory for the KV cache of each model; 0: a quarter of what its weights leave "
		"free",
		CONFIG_NEXT_DEVICE},
	{"kv_blocks_per_client", CONFIG_NUMBER, AT(kv_blocks_per_client), "0", 0, 1u << 30,
		"blocks of 16 tokens that one connection may have of a model's KV cache; 0: three "
		"quarters of it",
		CONFIG_NEXT_DEVICE},
	{"kv_blocks_per_user", CONFIG_NUMBER, AT(kv_blocks_per_user), "0", 0, 1u << 30,
		"the same for all connections of one user id; 0: seven eighths of it",
		CONFIG_NEXT_DEVICE},
	{"kv_bucket", CONFIG_NUMBER, AT(kv_bucket), "64", 1, 4096,
		"tokens to which the length of a text is rounded up for the shape of a step; 1: "
		"graphs of exact lengths",
		CONFIG_NEXT_DEVICE},
	{"prefill_chunk", CONFIG_NUMBER, AT(prefill_chunk), "256", 16, 8192,
		"tokens of a long text that are computed at once, between others' steps",
		CONFIG_NEXT_DEVICE},
	{"models", CONFIG_TEXT, AT(models_dir), "", 0, 0,
		"folder of models to serve, NAME/VERSION in it; empty: none", CONFIG_NOW},
	{"hot_list", CONFIG_TEXT, AT(hot_list), "auto", 0, 0,
		"file that keeps the shapes used most over a restart; empty: none; auto: "
		"$XDG_STATE_HOME/gpuq, or /var/lib/gpuq for root"},
	{"test_faults", CONFIG_TEXT, AT(test_faults), "", 0, 0,
		"for tests: errors that the first device process makes up"},
	{"handshake_timeout_ms", CONFIG_NUMBER, AT(handshake_timeout_ms), "2000", 1, 600000,
		"milliseconds that a new connection has for its first message", CONFIG_NOW},
	{"drain_timeout_ms", CONFIG_NUMBER, AT(drain_timeout_ms), "10000", 0, 3600000,
		"milliseconds that work in flight has to finish when gpuqd is told to end",
		CONFIG_NOW},
	{"watchdog_ms", CONFIG_NUMBER, AT(watchdog_ms), "10000", 0, 3600000,
		"milliseconds without a sign of life after which the device process is replaced; "
		"0: never"},
	{"watchdog_stopped", CONFIG_TEXT, AT(watchdog_stopped), "kill", 0, 0,
		"kill or spare: what becomes of one that is stopped, by a debugger say",
		CONFIG_NOW},
	{"operator_timeout_ms", CONFIG_NUMBER, AT(operator_timeout_ms), "60000", 0, 86400000,
		"milliseconds that one operator or pipeline may execute before the device process "
		"is replaced; 0: any time"},
	{"trace_events", CONFIG_NUMBER, AT(trace_events), "32768", 0, 1u << 22,
		"events that the flight recorder keeps, 64 bytes each; 0: it is off"},
	{"log", CONFIG_TEXT, AT(log), "info", 0, 0,
		"error, warn, info or debug; for some topics others: warn,ring:debug", CONFIG_NOW},
};

const uint32_t config_n_keys = sizeof(config_keys) / sizeof(config_keys[0]);

static void *key_place(const struct config *config, const struct config_key *key)
{
	return (char *)config + key->offset;
}

const struct config_key *config_key_find(const char *name)
{
	for (uint32_t i = 0; i < config_n_keys; i++) {
		if (strcmp(config_keys[i].name, name) == 0)
			return &config_keys[i];
	}
	return NULL;
}

static void map_name(const char *from, char *to, size_t size, int (*map)(int))
{
	size_t i;

	for (i = 0; from[i] != '\0' && i + 1 < size; i++)
		to[i] = (char)map((unsigned char)from[i]);
	to[i] = '\0';
}

static int dash(int c)
{
	return c == '_' ? '-' : c;
}

void config_flag_name(const struct config_key *key, char *name, size_t size)
{
	map_name(key->name, name, size, dash);
}

void config_variable_name(const struct config_key *key, char *name, size_t size)
{
	snprintf(name, size, "GPUQ_");
	map_name(key->name, name + 5, size - 5, toupper);
}

/* What a letter behind a number of bytes multiplies it with, as a shift; -1: no such letter. */
static int unit_shift(const char *text)
{
	static const char units[] = "KMGT";
	const char *unit = text[0] == '\0' ? NULL : strchr(units, toupper((unsigned char)text[0]));

	if (text[0] == '\0')
		return 0;
	if (unit == NULL || text[1] != '\0')
		return -1;
	return 10 * (int)(unit - units + 1);
}

static bool number_parse(const struct config_key *key, const char *text, uint64_t *ret_value)
{
	char *end;

	if (!isdigit((unsigned char)text[0]))
		return false;
	errno = 0;
	uint64_t v = strtoull(text, &end, key->type == CONFIG_MODE ? 8 : 10);
	if (errno != 0)
		return false;
	int shift = key->type == CONFIG_BYTES ? unit_shift(end) : (*end == '\0' ? 0 : -1);
	if (shift < 0 || v > UINT64_MAX >> shift)
		return false;
	*ret_value = v << shift;
	return true;
}

static void number_print(const struct config_key *key, uint64_t v, char *text, size_t size)
{
	static const char units[] = "KMGT";
	int unit = -1;

	if (key->type == CONFIG_MODE) {
		snprintf(text, size, "%04llo", (unsigned long long)v);
		return;
	}
	while (key->type == CONFIG_BYTES && v != 0 && v % 1024 == 0 && unit < 3) {
		v /= 1024;
		unit++;
	}
	snprintf(text, size, "%llu%.*s", (unsigned long long)v, unit >= 0,
		units + (unit >= 0 ? unit : 0));
}

static bool device_valid(const char *text)
{
	if (strcmp(text, "auto") == 0 || strcmp(text, "cpu") == 0 || strcmp(text, "cuda") == 0)
		return true;
	return strncmp(text, "cuda:", 5) == 0 && isdigit((unsigned char)text[5]) &&
		text[5 + strspn(text + 5, "0123456789")] == '\0';
}

static int text_set(struct config *config, const struct config_key *key, const char *value,
	struct config_error *ret_error)
{
	struct log_levels levels;
	const char *wanted = NULL;

	if (strlen(value) >= key->size) {
		snprintf(ret_error->text, sizeof(ret_error->text), "%s is longer than %zu bytes",
			key->name, key->size - 1);
		return -EINVAL;
	}
	if (strcmp(key->name, "device") == 0 && !device_valid(value))
		wanted = "auto, cpu, cuda or cuda:N";
	if (strcmp(key->name, "log") == 0 && !log_levels_parse(value, &levels))
		wanted = log_levels_form;
	if (strcmp(key->name, "access") == 0 && strcmp(value, "open") != 0 &&
		strcmp(value, "listed") != 0)
		wanted = "open or listed";
	if (strcmp(key->name, "resident") == 0 && strcmp(value, "on") != 0 &&
		strcmp(value, "off") != 0)
		wanted = "on or off";
	if (strcmp(key->name, "watchdog_stopped") == 0 && strcmp(value, "kill") != 0 &&
		strcmp(value, "spare") != 0)
		wanted = "kill or spare";
	if (wanted != NULL) {
		snprintf(ret_error->text, sizeof(ret_error->text), "%s is '%s', but must be %s",
			key->name, value, wanted);
		return -EINVAL;
	}
	snprintf(key_place(config, key), key->size, "%s", value);
	return 0;
}

static int number_set(struct config *config, const struct config_key *key, const char *value,
	struct config_error *ret_error)
{
	static const char *const kinds[] = {
		[CONFIG_NUMBER] = "a number",
		[CONFIG_BYTES] = "a number of bytes (K, M, G or T may follow)",
		[CONFIG_MODE] = "octal permissions",
	};
	char min[32], max[32];
	uint64_t v;

	if (number_parse(key, value, &v) && v >= key->min && v <= key->max) {
		*(uint64_t *)key_place(config, key) = v;
		return 0;
	}
	number_print(key, key->min, min, sizeof(min));
	number_print(key, key->max, max, sizeof(max));
	snprintf(ret_error->text, sizeof(ret_error->text),
		"%s is '%.64s', but must be %s from %s to %s", key->name, value, kinds[key->type],
		min, max);
	return -EINVAL;
}

int config_set(
	struct config *config, const char *name, const char *value, struct config_error *ret_error)
{
	const struct config_key *key = config_key_find(name);

	if (key == NULL) {
		snprintf(ret_error->text, sizeof(ret_error->text),
			"there is no key '%.64s'; gpuqd --help lists them", name);
		return -EINVAL;
	}
	if (key->type == CONFIG_TEXT)
		return text_set(config, key, value, ret_error);
	return number_set(config, key, value, ret_error);
}

void config_init(struct config *config)
{
	struct config_error error;

	*config = (struct config){0};
	for (uint32_t i = 0; i < config_n_keys; i++)
		(void)config_set(config, config_keys[i].name, config_keys[i].preset, &error);
}

void config_error_place(struct config_error *error, const char *place, const char *reason)
{
	const struct config_error copy = *error;

	if (reason == NULL)
		reason = copy.text;
	snprintf(error->text, sizeof(error->text), "%.500s: %.500s", place, reason);
}

int config_read_environment(struct config *config, struct config_error *ret_error)
{
	char name[64];

	for (uint32_t i = 0; i < config_n_keys; i++) {
		config_variable_name(&config_keys[i], name, sizeof(name));
		const char *value = getenv(name);
		if (value == NULL)
			continue;
		int r = config_set(config, config_keys[i].name, value, ret_error);
		if (r < 0) {
			char place[80];
			snprintf(place, sizeof(place), "environment: %s", name);
			config_error_place(ret_error, place, NULL);
			return r;
		}
	}
	return 0;
}

/* Writes the path when there is such a file. */
static bool file_found(char *path, size_t size, const char *folder, const char *name)
{
	int n = snprintf(path, size, "%s%s", folder, name);

	return n > 0 && (size_t)n < size && access(path, F_OK) == 0;
}

void config_find_file(char *path, size_t size)
{
	const char *xdg = getenv("XDG_CONFIG_HOME");
	const char *home = getenv("HOME");

	if (xdg != NULL && xdg[0] == '/') {
		if (file_found(path, size, xdg, "/gpuq/gpuqd.conf"))
			return;
	} else if (home != NULL && home[0] == '/') {
		if (file_found(path, size, home, "/.config/gpuq/gpuqd.conf"))
			return;
	}
	if (!file_found(path, size, "", "/etc/gpuq/gpuqd.conf"))
		path[0] = '\0';
}

/* It shows a sign of life every half second, and may be late. */
#define WATCHDOG_MIN_MS 1000u

int config_check(const struct config *config, struct config_error *ret_error)
{
	if (config->watchdog_ms > 0 && config->watchdog_ms < WATCHDOG_MIN_MS) {
		snprintf(ret_error->text, sizeof(ret_error->text),
			"watchdog_ms is %llu, but must be 0, for never, or at least %u",
			(unsigned long long)config->watchdog_ms, WATCHDOG_MIN_MS);
		return -EINVAL;
	}
	/* Dispatch keeps one place for every channel, and needs others to hand out. */
	if (config->max_in_flight > config->max_channels)
		return config_models_check(config, ret_error);
	snprintf(ret_error->text, sizeof(ret_error->text),
		"max_in_flight is %llu, but must be greater than max_channels (%llu): every "
		"channel has a place of its own; raise the first, or lower the second",
		(unsigned long long)config->max_in_flight,
		(unsigned long long)config->max_channels);
	return -EINVAL;
}

void config_print(const struct config *config, FILE *out)
{
	char number[32];

	for (uint32_t i = 0; i < config_n_keys; i++) {
		const struct config_key *key = &config_keys[i];
		const char *value = key_place(config, key);

		if (key->type != CONFIG_TEXT) {
			number_print(
				key, *(uint64_t *)key_place(config, key), number, sizeof(number));
			value = number;
		}
		fprintf(out, "# %s\n%s = %s\n", key->doc, key->name, value);
	}
	config_users_print(config, out);
	config_models_print(config, out);
}

/* What a flag does, and its preset, from the 32nd place on; in lines of 80. */
static void print_doc(const struct config_key *key, FILE *out)
{
	const bool preset = key->preset[0] != '\0';
	char text[400];
	int n, space;

	snprintf(text, sizeof(text), "%s%s%s%s", key->doc, preset ? " [" : "", key->preset,
		preset ? "]" : "");
	for (const char *at = text; *at != '\0'; at += n + (at[n] == ' ')) {
		n = (int)strlen(at);
		for (space = HELP_WIDTH; n > HELP_WIDTH && space > 0; space--)
			if (at[space] == ' ')
				n = space;
		fprintf(out, "%*s%.*s\n", at == text ? 1 : HELP_INDENT, "", n, at);
	}
}

void config_help(FILE *out)
{
	char flag[64];

	for (uint32_t i = 0; i < config_n_keys; i++) {
		config_flag_name(&config_keys[i], flag, sizeof(flag));
		fprintf(out, "  --%-26s", flag);
		print_doc(&config_keys[i], out);
	}
}
