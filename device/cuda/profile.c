/* SPDX-License-Identifier: MIT */
/* profile.c: see profile.h. Built where NVTX's headers are. */
#include "device/cuda/profile.h"

#include <nvtx3/nvToolsExt.h>
#include <pthread.h>
#include <stdio.h>

#define TEXT_MAX 160

void *profile_domain;

static void open_once(void)
{
	profile_domain = nvtxDomainCreateA("gpuq");
}

void profile_open(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, open_once);
}

void profile_push(const char *what, const char *name)
{
	char text[TEXT_MAX];
	const nvtxEventAttributes_t event = {
		.version = NVTX_VERSION,
		.size = NVTX_EVENT_ATTRIB_STRUCT_SIZE,
		.messageType = NVTX_MESSAGE_TYPE_ASCII,
		.message.ascii = text,
	};

	snprintf(text, sizeof(text), "%s%s%s", what, name != NULL ? " " : "",
		name != NULL ? name : "");
	nvtxDomainRangePushEx(profile_domain, &event);
}

void profile_pop(void)
{
	nvtxDomainRangePop(profile_domain);
}
