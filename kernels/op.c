/* SPDX-License-Identifier: MIT */
/* The checks that every operator shares. */
#include "kernels/op.h"

int op_check(struct op_call *call, uint32_t *ret_arg)
{
	*ret_arg = 0;
	return call->op->infer(call, ret_arg);
}
