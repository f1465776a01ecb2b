/* SPDX-License-Identifier: MIT */
/*
 * isa.h: which of the instruction sets that the fast forms are compiled for this CPU runs. Each
 * NAME/NAME_cpu.c is compiled once per instruction set; ISA_FORMS(NAME) is the table of them, and
 * ISA_RUN(ISA_FORMS(NAME)) defines the operator's cpu(), which runs one of them.
 */
#ifndef GPUQ_KERNELS_ISA_H
#define GPUQ_KERNELS_ISA_H

#include "kernels/op.h"

enum isa {
	ISA_BASE,   /* what the compiler may assume: SSE2 on x86-64, NEON on arm64, plain C else */
	ISA_AVX2,   /* AVX2, FMA, F16C */
	ISA_AVX512, /* AVX-512 F, BW, DQ, VL: every AVX-512 server since Skylake */
	ISA_AVX512_BF16, /* and BF16 and VNNI: products of short numbers in pairs */
	ISA_AMX,	 /* and tiles of them, since Sapphire Rapids */
	ISA_COUNT,
};

typedef void op_cpu_fn(const struct op_call *call, uint64_t begin, uint64_t end);

#define ISA_PASTE_(name, isa) name##_##isa
#define ISA_PASTE(name, isa) ISA_PASTE_(name, isa)

#ifdef __x86_64__
#define ISA_DECLARE(name) extern op_cpu_fn name##_cpu_base, name##_cpu_avx2, name##_cpu_avx512
#define ISA_FORMS(name)                                                                 \
	{                                                                               \
		name##_cpu_base, name##_cpu_avx2, name##_cpu_avx512, name##_cpu_avx512, \
			name##_cpu_avx512                                               \
	}
/* Of those that have forms for ISA_AVX512_BF16 and ISA_AMX too. */
#define ISA_DECLARE_SHORT(name) \
	ISA_DECLARE(name);      \
	extern op_cpu_fn name##_cpu_avx512_bf16, name##_cpu_amx
#define ISA_FORMS_SHORT(name)                                                                \
	{                                                                                    \
		name##_cpu_base, name##_cpu_avx2, name##_cpu_avx512, name##_cpu_avx512_bf16, \
			name##_cpu_amx                                                       \
	}
#else
#define ISA_DECLARE(name) extern op_cpu_fn name##_cpu_base
#define ISA_FORMS(name)         \
	{                       \
		name##_cpu_base \
	}
#define ISA_DECLARE_SHORT(name) ISA_DECLARE(name)
#define ISA_FORMS_SHORT(name) ISA_FORMS(name)
#endif

#define ISA_RUN(...)                                                              \
	static void cpu(const struct op_call *call, uint64_t begin, uint64_t end) \
	{                                                                         \
		static op_cpu_fn *const forms[ISA_COUNT] = __VA_ARGS__;           \
                                                                                  \
		forms[isa_selected()](call, begin, end);                          \
	}

ISA_DECLARE(gemv_batched);
ISA_DECLARE(softmax);
ISA_DECLARE(price_vectors);
ISA_DECLARE(embedding);
ISA_DECLARE(rmsnorm);
ISA_DECLARE_SHORT(linear);
ISA_DECLARE(rope);
ISA_DECLARE(swiglu);
ISA_DECLARE(argmax);
ISA_DECLARE(step_result);
ISA_DECLARE(sample);
ISA_DECLARE(kv_append);
ISA_DECLARE(paged_attention);

/* The instruction set that the operators use; the best one unless isa_select() was called. */
enum isa isa_selected(void);

/* "base", "avx2", "avx512", "avx512bf16", "amx". */
const char *isa_name(enum isa isa);

bool isa_supported(enum isa isa);

/*
 * Makes the operators of this process use another supported instruction set. For tests and
 * timing; not while another thread runs an operator.
 */
void isa_select(enum isa isa);

#endif
