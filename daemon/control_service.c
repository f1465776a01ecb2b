/* SPDX-License-Identifier: MIT */
/*
 * control_service.c: gpuqd as a service: what its manager is told (see service.h), and what
 * happens when the configuration is read again.
 */
#include "daemon/control.h"
#include "daemon/log.h"
#include "shm/atomics.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DRAIN_MARGIN_MS 5000 /* for what follows the drain itself */

/* --- What the manager is told -------------------------------------------------------------- */

/* "; models: 2 ready, 1 loading", or nothing where there are none. */
static void describe_models(const struct control *c, char *text, size_t size)
{
	static const char *const states[] = {
		[MSG_MODEL_LOADING] = "loading",
		[MSG_MODEL_READY] = "ready",
		[MSG_MODEL_FAILED] = "failed",
		[MSG_MODEL_UNLOADING] = "unloading",
	};
	uint32_t counts[sizeof(states) / sizeof(states[0])] = {0};
	size_t at = 0;

	text[0] = '\0';
	for (uint32_t i = 0; i < c->config->max_models; i++)
		counts[c->models[i].state]++;
	for (uint32_t i = 1; i < sizeof(states) / sizeof(states[0]); i++) {
		if (counts[i] > 0)
			at += (size_t)snprintf(text + at, size - at, "%s%u %s",
				at == 0 ? "; models: " : ", ", counts[i], states[i]);
	}
}

void service_show(struct control *c)
{
	const uint64_t clients = shm_load_relaxed(&c->stats.header->clients);
	char status[sizeof(c->status)], models[96];

	if (c->service.fd < 0)
		return;
	describe_models(c, models, sizeof(models));
	if (c->draining)
		snprintf(status, sizeof(status), "Finishing what is in flight; %llu clients",
			(unsigned long long)clients);
	else if (!c->device.was_ready)
		snprintf(status, sizeof(status), "Starting the device");
	else
		snprintf(status, sizeof(status), "Serving %s%s: %llu clients%s", c->listener.path,
			c->device.state == DEVICE_READY ? "" : " (the device starts again)",
			(unsigned long long)clients, models);
	if (strcmp(status, c->status) == 0)
		return;
	memcpy(c->status, status, sizeof(status));
	service_tell(&c->service, "STATUS=%s", status);
}

void service_draining(struct control *c)
{
	const uint64_t ms = c->config->drain_timeout_ms + DRAIN_MARGIN_MS;

	service_show(c);
	service_tell(
		&c->service, "STOPPING=1\nEXTEND_TIMEOUT_USEC=%llu", (unsigned long long)ms * 1000);
}

void service_watchdog(struct control *c)
{
	const uint64_t half_ns = c->service.watchdog_ns / 2;

	if (half_ns == 0)
		return;
	service_tell(&c->service, "WATCHDOG=1");
	c->watchdog_at.tv_sec = (long long)(half_ns / 1000000000u);
	c->watchdog_at.tv_nsec = (long long)(half_ns % 1000000000u);
	control_timeout(c, OP_WATCHDOG, &c->watchdog_at);
}

/* --- Reading the configuration again ------------------------------------------------------- */

static void log_changes(const struct config_names changed[CONFIG_NOW + 1])
{
	static const char *const when[] = {
		[CONFIG_NOW] = "; used from now on: ",
		[CONFIG_NEXT_DEVICE] = "; used when a device process starts: ",
		[CONFIG_NEXT_START] = "; only used when gpuqd starts: ",
	};
	char text[900] = "";
	size_t at = 0;

	for (int i = CONFIG_NOW; i >= CONFIG_NEXT_START; i--) {
		if (changed[i].text[0] != '\0' && at < sizeof(text))
			at += (size_t)snprintf(
				text + at, sizeof(text) - at, "%s%s", when[i], changed[i].text);
	}
	log_info("the configuration was read again%s", at > 0 ? text : "; no key has changed");
}

static void take(struct control *c, const struct config *wanted)
{
	struct config_names changed[CONFIG_NOW + 1];

	config_take(c->taken, wanted, changed);
	log_changes(changed);
	log_configure(c->config->log);
	device_configure_log(c);
	memory_limits_set(c);
	(void)model_configure(c);
}

/* The manager waits for READY before it takes the reload as done, whatever became of it. */
void control_reload(struct control *c)
{
	struct config *wanted = malloc(sizeof(*wanted));
	struct config_error error;

	if (c->draining || wanted == NULL) {
		log_warn("SIGHUP: the configuration is not read %s",
			c->draining ? "any more" : "for want of memory");
		free(wanted);
		return;
	}
	service_tell(&c->service, "RELOADING=1\nMONOTONIC_USEC=%llu",
		(unsigned long long)(clock_monotonic_ns() / 1000));
	if (config_load(wanted, c->source, &error) < 0)
		log_error("the configuration stays as it was: %s", error.text);
	else
		take(c, wanted);
	free(wanted);
	if (c->device.was_ready)
		service_tell(&c->service, "READY=1");
}
