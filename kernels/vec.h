/* SPDX-License-Identifier: MIT */
/*
 * vec.h: one vector of VL floats and the few operations that the fast forms are written in. The
 * compiler's vector extensions carry arithmetic and shuffles; only what they cannot say (fused
 * multiply-add, masked loads, half precision) differs by instruction set. Included only by
 * sources that are compiled once per instruction set.
 *
 * No function reads or writes a byte outside the elements that it is asked for.
 */
#ifndef GPUQ_KERNELS_VEC_H
#define GPUQ_KERNELS_VEC_H

#include "kernels/element.h"

#if defined(__AVX512BW__)
#include <immintrin.h>
#define VL 16
#elif defined(__AVX2__)
#include <immintrin.h>
#define VL 8
#else
#define VL 4
#ifdef __aarch64__
#include <arm_neon.h>
#endif
#endif

/*
 * Before a loop over registers: unrolled completely, or the array that they are would be memory.
 * V_ROLLED is for a loop whose unrolling would only make the code large. KERNELS_ROLLED is for
 * sanitizers: what they add to each access takes minutes to compile when every loop is unrolled,
 * and checks the same accesses when none is.
 */
#if defined(KERNELS_ROLLED)
#define V_UNROLL
#define V_ROLLED
#elif defined(__clang__)
#define V_UNROLL _Pragma("clang loop unroll(full)")
#define V_ROLLED _Pragma("clang loop unroll(disable)")
#else
#define V_UNROLL _Pragma("GCC unroll 16")
#define V_ROLLED _Pragma("GCC unroll 1")
#endif

#define V_INLINE static inline __attribute__((always_inline, unused))

typedef float vf __attribute__((vector_size(VL * 4)));
typedef uint32_t vu __attribute__((vector_size(VL * 4)));
typedef int32_t vi __attribute__((vector_size(VL * 4)));
/* VL halves; with VL = 4 the upper four lanes of a whole register are unused. */
typedef uint16_t vh __attribute__((vector_size(VL == 4 ? 16 : VL * 2)));

typedef uint64_t v2 __attribute__((vector_size(16)));

/* Lane lists for shuffles: f(lane, h) for every lane. */
#define V_LANES_4(f, at, h) f(at + 0, h), f(at + 1, h), f(at + 2, h), f(at + 3, h)
#define V_LANES_8(f, at, h) V_LANES_4(f, at, h), V_LANES_4(f, at + 4, h)
#define V_LANES_16(f, at, h) V_LANES_8(f, at, h), V_LANES_8(f, at + 8, h)
#if VL == 16
#define V_LANES(f, h) V_LANES_16(f, 0, h)
#elif VL == 8
#define V_LANES(f, h) V_LANES_8(f, 0, h)
#else
#define V_LANES(f, h) V_LANES_4(f, 0, h)
#endif

/* In groups of h lanes: which lane of (a, b) lane j of the result takes. */
#define V_SWAP(j, h) ((j) ^ (h))
#define V_BLEND(j, h) ((j) & (h) ? VL + (j) : (j))
#define V_CROSS(j, h) ((j) & (h) ? VL + ((j) ^ (h)) : ((j) ^ (h)))
#define V_LOW(j, h) ((j) & (h) ? VL + ((j) ^ (h)) : (j))
#define V_HIGH(j, h) ((j) & (h) ? VL + (j) : ((j) ^ (h)))
#define V_IDENTITY(j, h) (j)
#define V_SHUFFLE(a, b, f, h) __builtin_shufflevector(a, b, V_LANES(f, h))

V_INLINE vf v_set1(float f)
{
	return f - (vf){0};
}

/* a * b + c: rounded once where the CPU can, else twice, but always the same on one CPU. */
V_INLINE vf v_fma(vf a, vf b, vf c)
{
#if VL == 16
	return _mm512_fmadd_ps(a, b, c);
#elif VL == 8
	return _mm256_fmadd_ps(a, b, c);
#elif defined(__aarch64__)
	return (vf)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
	return a * b + c;
#endif
}

V_INLINE vf v_select(vi mask, vf yes, vf no)
{
	return (vf)((mask & (vi)yes) | (~mask & (vi)no));
}

/* The greater of both; b when either is NaN. */
V_INLINE vf v_max(vf a, vf b)
{
#if VL == 16
	return _mm512_max_ps(a, b);
#elif VL == 8
	return _mm256_max_ps(a, b);
#else
	return v_select(a > b, a, b);
#endif
}

/* Whether any lane of a mask (all bits or none) is set. */
V_INLINE bool v_any(vi mask)
{
#if VL == 16
	return _mm512_movepi32_mask((__m512i)mask) != 0;
#elif VL == 8
	return _mm256_movemask_ps((__m256)mask) != 0;
#else
	const v2 bits = (v2)mask;

	return (bits[0] | bits[1]) != 0;
#endif
}

/* Each half in the lower 16 bits of a lane. */
V_INLINE vu v_widen(vh h)
{
#if VL == 16
	return (vu)_mm512_cvtepu16_epi32((__m256i)h);
#elif VL == 8
	return (vu)_mm256_cvtepu16_epi32((__m128i)h);
#else
	return (vu)__builtin_shufflevector(h, (vh){0}, 0, 8, 1, 9, 2, 10, 3, 11);
#endif
}

/* The lower 16 bits of each lane; the others are 0. */
V_INLINE vh v_narrow(vu v)
{
#if VL == 16
	return (vh)_mm512_cvtepi32_epi16((__m512i)v);
#elif VL == 8
	const __m128i low = _mm256_castsi256_si128((__m256i)v);

	return (vh)_mm_packus_epi32(low, _mm256_extracti128_si256((__m256i)v, 1));
#else
	return __builtin_shufflevector((vh)v, (vh)v, 0, 2, 4, 6, 1, 3, 5, 7);
#endif
}

V_INLINE vf v_from_f16(vh h)
{
#if VL == 16
	return _mm512_cvtph_ps((__m256i)h);
#elif VL == 8
	return _mm256_cvtph_ps((__m128i)h);
#else
	const vu wide = v_widen(h);
	const vu magnitude = (wide & 0x7fff) << 13;
	const vu special = (vu)((vi)magnitude >= 0x7c00 << 13) & 0x7f800000u;

	/* As float_from_f16(). */
	return (vf)((vu)((vf)magnitude * 0x1p112f) | special | (wide & 0x8000) << 16);
#endif
}

V_INLINE vh v_to_f16(vf v)
{
#if VL == 16
	return (vh)_mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT);
#elif VL == 8
	return (vh)_mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT);
#else
	return (vh){float_to_f16(v[0]), float_to_f16(v[1]), float_to_f16(v[2]), float_to_f16(v[3])};
#endif
}

V_INLINE vf v_from_bf16(vh h)
{
	return (vf)(v_widen(h) << 16);
}

/*
 * A NaN must have zeros in its lower half, or rounding could carry it over into a number. Those
 * that stem from bf16 inputs or that the CPU makes do, and no others are ever stored as bf16.
 */
V_INLINE vh v_to_bf16(vf v)
{
	const vu bits = (vu)v;

	return v_narrow((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

V_INLINE vh v_load_halves(const uint16_t *p)
{
#if VL == 4
	v2 bits = {0};
	uint64_t low;

	/* By way of a scalar: half a vector written and all of it read would stall. */
	memcpy(&low, p, sizeof(low));
	bits[0] = low;
	return (vh)bits;
#else
	vh h;

	memcpy(&h, p, sizeof(h));
	return h;
#endif
}

V_INLINE void v_store_halves(uint16_t *p, vh h)
{
	memcpy(p, &h, VL * sizeof(*p));
}

/* The first n < 4 halves in the lower bits; by hand, since a memcpy() would be a call. */
V_INLINE uint64_t load_few_halves(const uint16_t *p, uint32_t n)
{
	uint64_t bits = n > 0 ? p[0] : 0;

	bits |= n > 1 ? (uint64_t)p[1] << 16 : 0;
	bits |= n > 2 ? (uint64_t)p[2] << 32 : 0;
	return bits;
}

V_INLINE void store_few_halves(uint16_t *p, uint64_t bits, uint32_t n)
{
	if (n > 0)
		p[0] = (uint16_t)bits;
	if (n > 1)
		p[1] = (uint16_t)(bits >> 16);
	if (n > 2)
		p[2] = (uint16_t)(bits >> 32);
}

/* The first n < VL halves (where there are masks, n <= VL), zeros after them. */
V_INLINE vh v_load_halves_tail(const uint16_t *p, uint32_t n)
{
#if VL == 16
	return (vh)_mm256_maskz_loadu_epi16((__mmask16)((1u << n) - 1), p);
#else
	v2 bits = {0};

	if (n >= 4) {
		memcpy(&bits, p, 4 * sizeof(*p));
		bits[1] = load_few_halves(p + 4, n - 4);
	} else {
		bits[0] = load_few_halves(p, n);
	}
	return (vh)bits;
#endif
}

V_INLINE void v_store_halves_tail(uint16_t *p, vh h, uint32_t n)
{
#if VL == 16
	_mm256_mask_storeu_epi16(p, (__mmask16)((1u << n) - 1), (__m256i)h);
#else
	const v2 bits = (v2)h;

	if (n >= 4) {
		memcpy(p, &bits, 4 * sizeof(*p));
		store_few_halves(p + 4, bits[1], n - 4);
	} else {
		store_few_halves(p, bits[0], n);
	}
#endif
}

V_INLINE vi v_tail_mask(uint32_t n)
{
	return (vi){V_LANES(V_IDENTITY, 0)} < (int32_t)n;
}

V_INLINE vf v_load_floats(const float *p)
{
	vf v;

	memcpy(&v, p, sizeof(v));
	return v;
}

V_INLINE void v_store_floats(float *p, vf v)
{
	memcpy(p, &v, sizeof(v));
}

V_INLINE vf v_load_floats_tail(const float *p, uint32_t n)
{
#if VL == 16
	return _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
#elif VL == 8
	return _mm256_maskload_ps(p, (__m256i)v_tail_mask(n));
#else
	return (vf){n > 0 ? p[0] : 0, n > 1 ? p[1] : 0, n > 2 ? p[2] : 0, 0};
#endif
}

V_INLINE void v_store_floats_tail(float *p, vf v, uint32_t n)
{
#if VL == 16
	_mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), v);
#elif VL == 8
	_mm256_maskstore_ps(p, (__m256i)v_tail_mask(n), v);
#else
	for (uint32_t i = 0; i < n; i++)
		p[i] = v[i];
#endif
}

/* Bytes of an element of f32, f16 or bf16; folds away where dtype is a constant. */
V_INLINE uint64_t v_size(uint32_t dtype)
{
	return dtype == GPUQ_F32 ? 4 : 2;
}

/*
 * Runs a statement in which DTYPE is a dtype, f32, f16 or bf16, as a constant: of what it inlines
 * there is a form for each, without choices in its loops.
 */
#define V_WITH_DTYPE(dtype, statement)                 \
	do {                                           \
		switch (dtype) {                       \
			V_DTYPE_(GPUQ_F32, statement)  \
			V_DTYPE_(GPUQ_F16, statement)  \
			V_DTYPE_(GPUQ_BF16, statement) \
		}                                      \
	} while (0)
#define V_DTYPE_(constant, statement)        \
	case constant: {                     \
		enum { DTYPE = (constant) }; \
		statement;                   \
		break;                       \
	}

/* VL elements of the dtype at p as floats. */
V_INLINE vf v_load(const void *p, uint32_t dtype)
{
	if (dtype == GPUQ_F32)
		return v_load_floats(p);
	if (dtype == GPUQ_F16)
		return v_from_f16(v_load_halves(p));
	return v_from_bf16(v_load_halves(p));
}

/* The first n < VL elements (n <= VL where there are masks) as floats, zeros after them. */
V_INLINE vf v_load_tail(const void *p, uint32_t n, uint32_t dtype)
{
	if (dtype == GPUQ_F32)
		return v_load_floats_tail(p, n);
	if (dtype == GPUQ_F16)
		return v_from_f16(v_load_halves_tail(p, n));
	return v_from_bf16(v_load_halves_tail(p, n));
}

/* Rounds the first n <= VL floats of v to the dtype and writes them to p. */
V_INLINE void v_store(void *p, vf v, uint64_t n, uint32_t dtype)
{
	if (dtype == GPUQ_F32) {
		if (n >= VL)
			v_store_floats(p, v);
		else
			v_store_floats_tail(p, v, (uint32_t)n);
		return;
	}
	const vh h = dtype == GPUQ_F16 ? v_to_f16(v) : v_to_bf16(v);

	if (n >= VL)
		v_store_halves(p, h);
	else
		v_store_halves_tail(p, h, (uint32_t)n);
}

/* Adds v to a running sum whose own roundings are remembered in lost, first 0 (Kahan). */
V_INLINE void v_total_add(vf *sum, vf *lost, vf v)
{
	const vf due = v - *lost;
	const vf total = *sum + due;
	const vf error = (total - *sum) - due;

	*sum = total;
	/* Once the sum is infinite there is nothing to correct: inf - inf would spoil it. */
	*lost = (vf)((vi)error & (vi)(error - error == 0));
}

/* step(x, h) for the half h of the lanes, the half of that, and so on down to 1. */
#if VL == 16
#define V_HALVE(step, x)    \
	do {                \
		step(x, 8); \
		step(x, 4); \
		step(x, 2); \
		step(x, 1); \
	} while (0)
#elif VL == 8
#define V_HALVE(step, x)    \
	do {                \
		step(x, 4); \
		step(x, 2); \
		step(x, 1); \
	} while (0)
#else
#define V_HALVE(step, x)    \
	do {                \
		step(x, 2); \
		step(x, 1); \
	} while (0)
#endif

#define V_ADD_HALVES(v, h) v += V_SHUFFLE(v, v, V_SWAP, h)
#define V_MAX_HALVES(v, h) v = v_max(v, V_SHUFFLE(v, v, V_SWAP, h))

/* The sum of all lanes, added in pairs. */
V_INLINE float v_sum(vf v)
{
	V_HALVE(V_ADD_HALVES, v);
	return v[0];
}

/* The greatest of all lanes, in every lane; any value when one is NaN. */
V_INLINE vf v_max_lanes(vf v)
{
	V_HALVE(V_MAX_HALVES, v);
	return v;
}

/*
 * One halving step of v_sum_rows(): of each group of 2h lanes, both halves of a and both halves
 * of b are added, so that a and b end up side by side. Both are added in the same order.
 */
#define V_FOLD(r, h)                                                \
	do {                                                        \
		V_UNROLL for (int i_ = 0; i_ < (h); i_++) r[i_] =   \
			V_SHUFFLE(r[i_], r[i_ + (h)], V_BLEND, h) + \
			V_SHUFFLE(r[i_], r[i_ + (h)], V_CROSS, h);  \
	} while (0)

/* Lane j of the result is the sum of the lanes of r[j]; the order is the same for every j. */
V_INLINE vf v_sum_rows(vf r[VL])
{
	V_HALVE(V_FOLD, r);
	return r[0];
}

/* The same of integers, which must not overflow. */
V_INLINE vi v_sum_integer_rows(vi r[VL])
{
	V_HALVE(V_FOLD, r);
	return r[0];
}

/* One step of v_transpose(): exchanges the off-diagonal blocks of h x h lanes. */
#define V_EXCHANGE(r, h)                                            \
	do {                                                        \
		V_UNROLL for (int i_ = 0; i_ < VL; i_++)            \
		{                                                   \
			if ((i_ & (h)) != 0)                        \
				continue;                           \
			const vf a_ = r[i_], b_ = r[i_ + (h)];      \
			r[i_] = V_SHUFFLE(a_, b_, V_LOW, h);        \
			r[i_ + (h)] = V_SHUFFLE(a_, b_, V_HIGH, h); \
		}                                                   \
	} while (0)

/* Lane j of r[i] goes to lane i of r[j]. */
V_INLINE void v_transpose(vf r[VL])
{
	V_HALVE(V_EXCHANGE, r);
}

#endif
