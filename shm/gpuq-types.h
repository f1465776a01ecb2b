/* SPDX-License-Identifier: MIT */
/*
 * gpuq-types.h: the vocabulary that every part of gpuq shares: element types, limits, error
 * codes. Installed beside gpuq.h. Nothing here depends on anything but the C library.
 */
#ifndef GPUQ_TYPES_H
#define GPUQ_TYPES_H

#include <errno.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Element types of tensors. Values are part of the wire and never change. */
enum gpuq_dtype {
	GPUQ_F32 = 1,  /* IEEE 754 binary32 */
	GPUQ_F16 = 2,  /* IEEE 754 binary16 */
	GPUQ_BF16 = 3, /* the upper 16 bits of a binary32 */
	GPUQ_I8 = 4,
	GPUQ_U8 = 5,
	GPUQ_I32 = 6,
	GPUQ_I64 = 7,
};
#define GPUQ_DTYPE_LAST GPUQ_I64
#define GPUQ_DTYPE_BIT(dtype) (1u << (dtype))

/* Types of operator parameters. */
enum gpuq_param_type {
	GPUQ_PARAM_F64 = 1,
	GPUQ_PARAM_I64 = 2,
};

/* Limits, the same for every operator and every client. */
#define GPUQ_MAX_RANK 8
#define GPUQ_MAX_INPUTS 8
#define GPUQ_MAX_OUTPUTS 4
#define GPUQ_MAX_TENSORS (GPUQ_MAX_INPUTS + GPUQ_MAX_OUTPUTS)
#define GPUQ_MAX_PARAMS 8
#define GPUQ_NAME_MAX 32 /* bytes of an operator's, tensor's or client's name, 0 included */

/*
 * Errors. Every function returns a negative value on failure: the negative of an errno value, or
 * of one of these, which lie above every errno value. gpuq_strerror() has a sentence for each.
 */
enum gpuq_error {
	GPUQ_EGONE = 5001,     /* gpuqd died or closed the connection; connect again */
	GPUQ_EDRAIN = 5002,    /* gpuqd is shutting down and takes no new work */
	GPUQ_EDEVICE = 5003,   /* the device process ended with the work in flight */
	GPUQ_EPOISONED = 5004, /* the channel broke a rule of the wire and was shut */
	GPUQ_ETHREAD = 5005,   /* the channel belongs to another thread */
	GPUQ_EFORK = 5006,     /* the channel belongs to the parent process */
	GPUQ_EABI = 5007,      /* gpuqd and the client share no version of the wire */
	GPUQ_EPROTO = 5008,    /* a message on the socket broke the protocol */
	GPUQ_ELIMIT = 5009,    /* a limit of gpuqd is reached: clients, channels, memory, ... */
	GPUQ_ESTALE = 5010,    /* the entry was made for another generation of the channel */
	GPUQ_EOPCODE = 5011,   /* an unknown opcode */
	GPUQ_EOP = 5012,       /* an unknown operator */
	GPUQ_EARGS = 5013,     /* the argument block has a wrong size or a wrong count */
	GPUQ_EDTYPE = 5014,    /* the operator does not take this element type here */
	GPUQ_ERANK = 5015,     /* the operator does not take this number of dimensions here */
	GPUQ_ESHAPE = 5016,    /* a dimension does not fit the other tensors */
	GPUQ_EOVERFLOW = 5017, /* the product of the dimensions is too large */
	GPUQ_EBOUNDS = 5018,   /* an offset or a length lies outside the arena */
	GPUQ_EALIGN = 5019,    /* a tensor is not aligned to its elements */
	GPUQ_EPARAM = 5020,    /* a parameter is unknown, of the wrong type or out of range */
	GPUQ_EMISSING = 5021,  /* a tensor that the operator needs is absent */
	GPUQ_ETOOBIG = 5022,   /* the request is larger than the arena can ever hold */
	GPUQ_ENODEV = 5023,    /* no such device, or the device cannot be used */
	GPUQ_EBUFFER = 5024,   /* the buffer is unknown, freed, or not this client's to use */
	GPUQ_ELOST = 5025,     /* the buffer was lost when its device process ended */
	GPUQ_EPIPELINE = 5026, /* the pipeline is unknown, or its definition makes no sense */
	GPUQ_ECAPTURE = 5027,  /* the shape could not be captured; it is served all the same */
	GPUQ_EMODEL = 5028,    /* the model is unknown, or not ready */
	GPUQ_ESESSION = 5029,  /* the session is unknown, closed, or was lost */
	GPUQ_ETOKEN = 5030,    /* a token outside the vocabulary, or none at all */
	GPUQ_ECONTEXT = 5031,  /* the text would be longer than the model's limit */
	GPUQ_EKV = 5032,       /* no room in the KV cache */
	GPUQ_EDEADLINE = 5033, /* it takes longer than there is time left; it was not started */
	GPUQ_ERATE = 5034,     /* more submissions a second than gpuqd allows this user */
};
#define GPUQ_ERROR_FIRST GPUQ_EGONE
#define GPUQ_ERROR_LAST GPUQ_ERATE

#ifdef __cplusplus
}
#endif
#endif
