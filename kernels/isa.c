/* SPDX-License-Identifier: MIT */
/* Asks the CPU once, before any thread exists, what it runs. */
#include "kernels/isa.h"

#include <assert.h>

static enum isa selected = ISA_BASE;

#ifdef __x86_64__
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Not among the names that every supported compiler's __builtin_cpu_supports() knows. */
static bool has_f16c(void)
{
	unsigned int eax, ebx, ecx, edx;

	return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}

#define AMX_BITS (1u << 22 | 1u << 24 | 1u << 25) /* bf16, tiles, i8, of leaf 7 */
#define ARCH_REQ_XCOMP_PERM 0x1023
#define XFEATURE_XTILEDATA 18

/* Tiles make a thread's state so large that a process has to ask for them. */
static bool has_amx(void)
{
	unsigned int eax, ebx, ecx, edx;

	return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0 &&
		(edx & AMX_BITS) == AMX_BITS &&
		syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}

bool isa_supported(enum isa isa)
{
	const bool avx2 =
		__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
	const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
		__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
		__builtin_cpu_supports("avx512vl");
	const bool short_numbers = avx512 && __builtin_cpu_supports("avx512bf16") &&
		__builtin_cpu_supports("avx512vnni");

	switch (isa) {
	case ISA_BASE:
		return true;
	case ISA_AVX2:
		return avx2;
	case ISA_AVX512:
		return avx512;
	case ISA_AVX512_BF16:
		return short_numbers;
	case ISA_AMX:
		return short_numbers && has_amx();
	default:
		return false;
	}
}
#else
bool isa_supported(enum isa isa)
{
	return isa == ISA_BASE;
}
#endif

static __attribute__((constructor)) void select_best(void)
{
#ifdef __x86_64__
	__builtin_cpu_init(); /* a constructor may run before the compiler's own */
#endif
	for (enum isa isa = ISA_BASE; isa < ISA_COUNT; isa++) {
		if (isa_supported(isa))
			selected = isa;
	}
}

enum isa isa_selected(void)
{
	return selected;
}

const char *isa_name(enum isa isa)
{
	static const char *const names[ISA_COUNT] = {"base", "avx2", "avx512", "avx512bf16", "amx"};

	return isa < ISA_COUNT ? names[isa] : "?";
}

void isa_select(enum isa isa)
{
	assert(isa_supported(isa));
	selected = isa;
}
