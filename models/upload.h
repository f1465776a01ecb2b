/* SPDX-License-Identifier: MIT */
/*
 * upload.h: weights to a device whose memory files cannot be read into: a piece is read while the
 * one before it is copied, by way of two pieces of pinned memory.
 */
#ifndef GPUQ_MODELS_UPLOAD_H
#define GPUQ_MODELS_UPLOAD_H

#include "graphs/graphs.h"
#include "models/weights.h"

/*
 * Returns when all copies have ended, or the device has failed. memory: model_weights_bytes() of
 * the device's. Pinned memory is made and freed away from the captures of `graphs` (NULL: there are
 * none). Errors of
 * model_weights_stream(), -ENOMEM, -GPUQ_EDEVICE.
 */
int model_upload(struct device *device, struct graphs *graphs, const struct model_weights *weights,
	const struct safetensors *files, void *memory, const struct model_watch *watch,
	struct model_why *why);

#endif
