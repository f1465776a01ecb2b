/* SPDX-License-Identifier: MIT */
/* error.c: names and sentences of errors, and the sentence of the thread's last failure. */
#include "client/client.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define DETAIL_MAX 1024

/* The last failure: a literal, or what was formatted into `formatted`. */
static __thread const char *detail = "";
static __thread char formatted[DETAIL_MAX];

int fail(int error, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(formatted, sizeof(formatted), format, args);
	va_end(args);
	detail = formatted;
	return error;
}

int fail_plain(int error, const char *sentence)
{
	detail = sentence;
	return error;
}

int gpuq_error_set(int error, const char *sentence)
{
	return fail(error, "%s", sentence);
}

const char *gpuq_error_detail(void)
{
	return detail;
}

struct error_text {
	int error;
	const char *name, *sentence;
};

#define ERROR(code, sentence)          \
	{                              \
		code, #code, sentence, \
	}

/* The gpuq errors in their order, so that each is found by its number. */
static const struct error_text gpuq_errors[] = {
	ERROR(GPUQ_EGONE, "gpuqd died or closed the connection; connect again"),
	ERROR(GPUQ_EDRAIN, "gpuqd is shutting down and takes no new work"),
	ERROR(GPUQ_EDEVICE, "the device process ended with the work in flight; submit it again"),
	ERROR(GPUQ_EPOISONED, "the channel broke a rule of the wire and was shut"),
	ERROR(GPUQ_ETHREAD, "the channel belongs to another thread; see gpuq_channel_adopt()"),
	ERROR(GPUQ_EFORK, "the channel belongs to the parent process; connect in the child"),
	ERROR(GPUQ_EABI, "gpuqd and this library share no version of the wire"),
	ERROR(GPUQ_EPROTO, "a message on the socket broke the protocol"),
	ERROR(GPUQ_ELIMIT, "a limit of gpuqd is reached: clients, channels, sessions or memory"),
	ERROR(GPUQ_ESTALE, "the entry was made for another generation of the channel"),
	ERROR(GPUQ_EOPCODE, "an unknown opcode"),
	ERROR(GPUQ_EOP, "an unknown operator; `gpuq ops` lists them"),
	ERROR(GPUQ_EARGS, "the argument block has a wrong size or a wrong count"),
	ERROR(GPUQ_EDTYPE, "the operator does not take this element type here"),
	ERROR(GPUQ_ERANK, "the operator does not take this number of dimensions here"),
	ERROR(GPUQ_ESHAPE, "a dimension does not fit the other tensors"),
	ERROR(GPUQ_EOVERFLOW, "the product of the dimensions is too large"),
	ERROR(GPUQ_EBOUNDS, "an offset or a length lies outside the arena"),
	ERROR(GPUQ_EALIGN, "a tensor is not aligned to its elements"),
	ERROR(GPUQ_EPARAM, "a parameter is unknown, of the wrong type or out of range"),
	ERROR(GPUQ_EMISSING, "a tensor that the operator needs is absent"),
	ERROR(GPUQ_ETOOBIG, "the request is larger than the arena can ever hold"),
	ERROR(GPUQ_ENODEV, "no such device, or the device cannot be used"),
	ERROR(GPUQ_EBUFFER, "the buffer is unknown, freed, or not this client's to use"),
	ERROR(GPUQ_ELOST, "the buffer was lost when its device process ended; allocate it again"),
	ERROR(GPUQ_EPIPELINE, "the pipeline is unknown, or its definition makes no sense"),
	ERROR(GPUQ_ECAPTURE, "the shape could not be captured; it is served all the same"),
	ERROR(GPUQ_EMODEL, "the model is unknown, or not ready; `gpuq models` lists them"),
	ERROR(GPUQ_ESESSION,
		"the session is unknown, closed, or was lost with its device process; open "
		"another"),
	ERROR(GPUQ_ETOKEN, "a token is outside the model's vocabulary, or there is none"),
	ERROR(GPUQ_ECONTEXT, "the session's text would be longer than the model's limit"),
	ERROR(GPUQ_EKV,
		"no room in the KV cache, or more than one client or user may have of it; close or "
		"truncate sessions, or try later"),
	ERROR(GPUQ_EDEADLINE,
		"such work takes longer than there was time left, so it was not started; give it "
		"more time"),
	ERROR(GPUQ_ERATE,
		"more submissions a second than gpuqd allows one user (max_rate_per_user); submit "
		"later"),
};
_Static_assert(
	sizeof(gpuq_errors) / sizeof(gpuq_errors[0]) == GPUQ_ERROR_LAST - GPUQ_ERROR_FIRST + 1,
	"every gpuq error has a sentence");

/* What these mean here, where the C library's words would leave open what to do. */
static const struct error_text errno_errors[] = {
	ERROR(EAGAIN, "the ring is full or enough is in flight; poll, then submit again"),
	ERROR(EALREADY, "it runs already and completes as usual"),
	ERROR(ECANCELED, "it was cancelled before it started"),
	ERROR(ENODATA, "nothing is in flight, so nothing can complete"),
	ERROR(EOPNOTSUPP, "this device has no form of that; try another (`gpuq devices`)"),
	ERROR(ENOSPC, "no free piece of the arena is large enough now"),
	ERROR(ETIMEDOUT, "the time given to it has passed"),
};

static const struct error_text *find(int error)
{
	if (error >= GPUQ_ERROR_FIRST && error <= GPUQ_ERROR_LAST)
		return &gpuq_errors[error - GPUQ_ERROR_FIRST];
	for (size_t i = 0; i < sizeof(errno_errors) / sizeof(errno_errors[0]); i++)
		if (errno_errors[i].error == error)
			return &errno_errors[i];
	return NULL;
}

/* The error's number, whichever sign it was given with. */
static int magnitude(int error)
{
	return error < 0 && error != INT32_MIN ? -error : error;
}

const char *gpuq_strerror(int error)
{
	const struct error_text *text = find(magnitude(error));

	if (error == 0)
		return "success";
	if (text != NULL)
		return text->sentence;
	const char *sentence = strerrordesc_np(magnitude(error));
	return sentence != NULL ? sentence : "an unknown error";
}

const char *gpuq_error_name(int error)
{
	const struct error_text *text = find(magnitude(error));

	if (text != NULL)
		return text->name;
	const char *name = error != 0 ? strerrorname_np(magnitude(error)) : NULL;
	return name != NULL ? name : "?";
}

/* Writes "input x: ", "parameter temperature: " or nothing. */
static void name_argument(const struct gpuq_op_info *op, uint32_t arg, char *text, size_t size)
{
	const char *kind = "parameter";
	const char *name = NULL;

	if (arg < GPUQ_MAX_INPUTS) {
		kind = "input";
		name = arg < op->n_inputs ? op->inputs[arg].name : NULL;
	} else if (arg < GPUQ_MAX_TENSORS) {
		kind = "output";
		arg -= GPUQ_MAX_INPUTS;
		name = arg < op->n_outputs ? op->outputs[arg].name : NULL;
	} else {
		arg -= GPUQ_MAX_TENSORS;
		name = arg < op->n_params ? op->params[arg].name : NULL;
	}
	if (name != NULL)
		snprintf(text, size, "%s %s: ", kind, name);
}

const char *gpuq_explain(const struct gpuq_call *call, const struct gpuq_completion *completion,
	char *text, size_t size)
{
	const struct gpuq_op_info *op = call != NULL ? call->op : NULL;
	uint32_t blame = (completion->flags >> WIRE_CQE_ARG_SHIFT) & 0xffu;
	char argument[GPUQ_NAME_MAX + 16] = "";

	if (op != NULL && blame != 0 && completion->status < 0)
		name_argument(op, blame - 1, argument, sizeof(argument));
	snprintf(text, size, "%s%s%s%s", op != NULL ? op->name : "", op != NULL ? ": " : "",
		argument, gpuq_strerror(completion->status));
	return text;
}
