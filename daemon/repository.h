/* SPDX-License-Identifier: MIT */
/*
 * repository.h: a folder of models, as somebody lays it out who serves several and replaces them
 * by newer ones:
 *
 *	DIR/NAME/VERSION/config.json, model.safetensors, ...   a Hugging Face folder
 *	DIR/NAME/model.conf                                    its settings, if there are any
 *
 * VERSION is a number from 1 on without leading zeros; what else lies there is not looked at. Of
 * each model the version that its settings name is served, or the greatest, as NAME:VERSION; who
 * asks for NAME gets the greatest one that is ready. A model without versions, that is with
 * DIR/NAME/config.json, is served as NAME.
 */
#ifndef GPUQ_DAEMON_REPOSITORY_H
#define GPUQ_DAEMON_REPOSITORY_H

#include "daemon/config.h"

/*
 * Adds the models of a folder, in the order of their names, behind the first *n that are there; at
 * most `max` in all. One that cannot be served has a reason in `why`. Negative errno with a
 * sentence when the folder cannot be read; -E2BIG: it has more models, those that fit are there.
 */
int repository_scan(const char *dir, struct config_model *models, uint32_t max, uint32_t *n,
	struct config_error *ret_error);

/* The version of "NAME:VERSION" when that is a version of `name`; 0: it is something else. */
uint64_t repository_version(const char *model, const char *name);

#endif
