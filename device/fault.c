/* SPDX-License-Identifier: MIT */
/* fault.c: reads what is to fail, and counts calls; see fault.h. */
#include "device/fault.h"

#include "shm/atomics.h"
#include "shm/gpuq-types.h"

#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_RULES 16u

struct rule {
	enum fault_call call;
	uint64_t from;
	bool later_too;
	int error;
};

struct fault {
	struct rule rules[MAX_RULES];
	uint32_t n_rules;
	uint64_t calls[FAULT_CALLS]; /* so far */
};

#define FAULT_HANG INT_MAX

static const char *const call_names[FAULT_CALLS] = {
	[FAULT_OPEN] = "open",
	[FAULT_CHECK] = "check",
	[FAULT_ALLOC] = "alloc",
	[FAULT_REGISTER_HOST] = "register_host",
	[FAULT_UNREGISTER_HOST] = "unregister_host",
	[FAULT_EXPORT_CREATE] = "export_create",
	[FAULT_STREAM_CREATE] = "stream_create",
	[FAULT_STREAM_QUERY] = "stream_query",
	[FAULT_STREAM_WAIT] = "stream_wait",
	[FAULT_EVENT_CREATE] = "event_create",
	[FAULT_EVENT_RECORD] = "event_record",
	[FAULT_EVENT_AWAIT] = "event_await",
	[FAULT_EVENT_QUERY] = "event_query",
	[FAULT_LAUNCH] = "launch",
	[FAULT_LAUNCH_INLINE] = "launch_inline",
	[FAULT_COPY] = "copy",
	[FAULT_FILL] = "fill",
	[FAULT_SIGNAL] = "signal",
	[FAULT_CAPTURE_BEGIN] = "capture_begin",
	[FAULT_CAPTURE_END] = "capture_end",
	[FAULT_EXEC_CREATE] = "exec_create",
	[FAULT_EXEC_UPLOAD] = "exec_upload",
	[FAULT_EXEC_LAUNCH] = "exec_launch",
	[FAULT_WORK] = "work",
};

static const struct {
	const char *name;
	int error;
} errors[] = {
	{"EAGAIN", EAGAIN},
	{"EBUSY", EBUSY},
	{"EINVAL", EINVAL},
	{"EIO", EIO},
	{"ENOMEM", ENOMEM},
	{"EOPNOTSUPP", EOPNOTSUPP},
	{"GPUQ_EDEVICE", GPUQ_EDEVICE},
	{"HANG", FAULT_HANG},
	{"GPUQ_ENODEV", GPUQ_ENODEV},
};

static bool is_word(const char *text, size_t length, const char *word)
{
	return strlen(word) == length && memcmp(text, word, length) == 0;
}

static bool parse_call(const char *text, size_t length, enum fault_call *ret_call)
{
	for (uint32_t i = 0; i < FAULT_CALLS; i++) {
		if (is_word(text, length, call_names[i])) {
			*ret_call = i;
			return true;
		}
	}
	return false;
}

static bool parse_error(const char *text, size_t length, int *ret_error)
{
	for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
		if (is_word(text, length, errors[i].name)) {
			*ret_error = errors[i].error;
			return true;
		}
	}
	return false;
}

/* Reads one rule. Returns where it ends, or NULL. */
static const char *parse_rule(const char *text, struct rule *ret_rule)
{
	size_t length = strcspn(text, ":");
	char *rest;

	if (text[length] != ':' || !parse_call(text, length, &ret_rule->call))
		return NULL;
	text += length + 1;
	ret_rule->from = strtoull(text, &rest, 10);
	if (*text < '1' || *text > '9')
		return NULL;
	ret_rule->later_too = *rest == '+';
	rest += ret_rule->later_too;
	if (*rest != '=')
		return NULL;
	length = strcspn(++rest, ",");
	return parse_error(rest, length, &ret_rule->error) ? rest + length : NULL;
}

int fault_create(const char *text, struct fault **ret_fault)
{
	struct fault *fault;

	if (text == NULL || *text == '\0') {
		*ret_fault = NULL;
		return 0;
	}
	fault = calloc(1, sizeof(*fault));
	if (fault == NULL)
		return -ENOMEM;
	for (bool more = true; more; text++) {
		if (fault->n_rules < MAX_RULES)
			text = parse_rule(text, &fault->rules[fault->n_rules++]);
		else
			text = NULL;
		if (text == NULL) {
			free(fault);
			return -EINVAL;
		}
		more = *text == ',';
	}
	*ret_fault = fault;
	return 0;
}

void fault_destroy(struct fault *fault)
{
	free(fault);
}

int fault_check(struct fault *fault, enum fault_call call)
{
	if (fault == NULL)
		return 0;
	uint64_t n = shm_fetch_add(&fault->calls[call], 1) + 1;
	for (uint32_t i = 0; i < fault->n_rules; i++) {
		const struct rule *r = &fault->rules[i];
		if (r->call != call || (r->from != n && (!r->later_too || r->from > n)))
			continue;
		while (r->error == FAULT_HANG)
			(void)pause();
		return -r->error;
	}
	return 0;
}
