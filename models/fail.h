/* SPDX-License-Identifier: MIT */
/* fail.h: why a model could not be loaded, in one sentence beside the error. */
#ifndef GPUQ_MODELS_FAIL_H
#define GPUQ_MODELS_FAIL_H

struct model_why {
	char text[256];
};

/*
 * Returns error, with the sentence. What comes from files may be among the arguments: control
 * characters are replaced, so that the sentence stays one line of a log.
 */
int model_fail(struct model_why *why, int error, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

#endif
