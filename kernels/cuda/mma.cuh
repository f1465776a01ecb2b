/* SPDX-License-Identifier: MIT */
/*
 * mma.cuh: products of 16 outputs and 8 rows on the tensor cores, of bf16s, as exact as floats.
 *
 * A float is made of three bf16s: its upper half, that of what is left, and the rest; an f16 of
 * two; a bf16 and an int8 are one. What is left is multiplied by 2^8 each time, or it would be lost
 * where it is below the normal numbers. Products of bf16s are exact, and those of parts whose
 * places add up to less than 3 are all but 2^-24 of the whole. What is not finite comes out as NaN
 * or infinity, not always the right one.
 *
 * In a step of STEP inputs a lane has 16 neighbours of each of its rows: of 16 (lane % 4) on. The
 * cores are not told that these are neighbours: any order of the inputs does, as long as both sides
 * have the same one.
 */
#ifndef GPUQ_KERNELS_CUDA_MMA_CUH
#define GPUQ_KERNELS_CUDA_MMA_CUH

#include "kernels/cuda/element.cuh"

#define MMA_OUTPUTS 16u
#define MMA_ROWS 8u
#define MMA_STEP 64u /* inputs */
#define MMA_OWN 16u  /* of them a lane's, in one row */

/* How many bf16s make one element. */
template <typename T> constexpr uint32_t mma_parts = 1;
template <> constexpr uint32_t mma_parts<float> = 3;
template <> constexpr uint32_t mma_parts<__half> = 2;

static __device__ inline float to_float(int8_t v)
{
	return (float)v;
}

/* A lane's inputs of one row, as they were loaded. */
template <typename T> struct mma_own {
	uint4 bits[sizeof(T)];
};

/* `valid` of them, zeros after them. `aligned`: 16 bytes at a time. */
template <typename T>
__device__ inline struct mma_own<T> mma_load(const T *p, uint64_t valid, bool aligned) {
	struct mma_own<T> own = {
	};

	if (aligned && valid >= MMA_OWN) {
#pragma unroll
		for (uint32_t i = 0; i < sizeof(T); i++)
			own.bits[i] = ((const uint4 *)p)[i];
	} else {
#pragma unroll
		for (uint32_t i = 0; i < MMA_OWN; i++) {
			if (i < valid)
				((T *)own.bits)[i] = p[i];
		}
	}
	return own;
}

/* The same as bf16s: of[i] are the i-th parts, two in a word, the first one below. */
template <uint32_t PARTS>
struct mma_words {
	uint32_t of[PARTS][MMA_OWN / 2];
};

/* The upper halves of both. */
static __device__ inline uint32_t upper_halves(float low, float high)
{
	return __byte_perm(__float_as_uint(low), __float_as_uint(high), 0x7632);
}

#define MMA_PLACE 0x1p8f /* how much more a part counts than the next one */
#define MMA_PLACES 3	 /* of products */

static __device__ inline float without_upper_half(float v)
{
	return (v - __uint_as_float(__float_as_uint(v) & 0xffff0000u)) * MMA_PLACE;
}

/* Two elements' parts. */
template <uint32_t PARTS>
__device__ inline void split_two(float low, float high, uint32_t parts[PARTS])
{
#pragma unroll
	for (uint32_t part = 0; part < PARTS; part++) {
		parts[part] = upper_halves(low, high);
		low = without_upper_half(low);
		high = without_upper_half(high);
	}
}

template <typename T>
__device__ inline struct mma_words<mma_parts<T>> mma_split(const struct mma_own<T> &own) {
	struct mma_words<mma_parts<T>> words;

#pragma unroll
	for (uint32_t i = 0; i < MMA_OWN / 2; i++) {
		uint32_t parts[mma_parts<T>];

		split_two<mma_parts<T>>(to_float(((const T *)own.bits)[2 * i]),
			to_float(((const T *)own.bits)[2 * i + 1]), parts);
#pragma unroll
		for (uint32_t part = 0; part < mma_parts<T>; part++)
			words.of[part][i] = parts[part];
	}
	return words;
}

/* bf16s are what they are made of. */
template <>
__device__ inline struct mma_words<1> mma_split<__nv_bfloat16>(
	const struct mma_own<__nv_bfloat16> &own) {
	const uint4 &a = own.bits[0], &b = own.bits[1];

	return {{{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}}};
}

/* --- A row alone -------------------------------------------------------------------------- */

/* A lane's two of the inputs of a step: from 2 lane on. */
struct mma_pair {
	float low, high;
};

/* `left` are from the step's first one on; `aligned`: 8 bytes at a time. */
template <typename X>
__device__ inline struct mma_pair mma_load_pair(const X *step, uint64_t left, bool aligned)
{
	const uint32_t at = threadIdx.x % WARP * 2;

	if constexpr (sizeof(X) == sizeof(float)) {
		if (aligned && left >= MMA_STEP) {
			const float2 loaded = *(const float2 *)(step + at);

			return {loaded.x, loaded.y};
		}
	}
	return {at < left ? to_float(step[at]) : 0, at + 1 < left ? to_float(step[at + 1]) : 0};
}

/* What the lanes of a warp have split for each other. */
template <uint32_t PARTS> struct mma_shared {
	uint32_t words[PARTS][MMA_STEP / 2];
};

/*
 * As mma_split() where there is one row, which is four lanes': all split two of its inputs each,
 * and the four take them. The other lanes' rows are zeros.
 */
template <typename X>
__device__ inline struct mma_words<mma_parts<X>> mma_split_alone(
	struct mma_shared<mma_parts<X>> &shared, const struct mma_pair &pair) {
	constexpr uint32_t PARTS = mma_parts<X>;
	const uint32_t lane = threadIdx.x % WARP;
	struct mma_words<PARTS> words = {
	};
	uint32_t parts[PARTS];

	split_two<PARTS>(pair.low, pair.high, parts);
	__syncwarp(); /* what was there has been taken */
#pragma unroll
	for (uint32_t part = 0; part < PARTS; part++)
		shared.words[part][lane] = parts[part];
	__syncwarp();
	if (lane < 4) {
#pragma unroll
		for (uint32_t i = 0; i < PARTS * 2; i++) {
			const uint4 taken =
				*(const uint4 *)&shared
					 .words[i / 2][lane * (MMA_OWN / 2) + i % 2 * 4];
			uint32_t *to = &words.of[i / 2][i % 2 * 4];

			to[0] = taken.x;
			to[1] = taken.y;
			to[2] = taken.z;
			to[3] = taken.w;
		}
	}
	return words;
}

/*
 * All of a row alone, in shared memory: its parts are planes, each beside its place in the banks.
 * The cores get them as three rows, so that an instruction multiplies all of them.
 */
static __host__ __device__ inline uint64_t
mma_plane_words(uint64_t n)
{
	return n / 2 + 4;
}

/* Eight elements, from one on that eight divides. */
static __device__ inline void mma_store_planes(
	uint4 *planes, uint32_t n, uint32_t at, const float v[8])
{
	uint32_t parts[4][3];

#pragma unroll
	for (uint32_t i = 0; i < 4; i++)
		split_two<3>(v[2 * i], v[2 * i + 1], parts[i]);
#pragma unroll
	for (uint32_t part = 0; part < 3; part++)
		planes[(part * (uint32_t)mma_plane_words(n) + at / 2) / 4] =
			make_uint4(parts[0][part], parts[1][part], parts[2][part], parts[3][part]);
}

/* A lane's of a step. Nobody asks for the sums of the five rows that there are not. */
static __device__ inline struct mma_words<1> mma_take_planes(
	const uint4 *planes, uint32_t n, uint32_t step) {
	const uint32_t part = min(threadIdx.x % WARP / 4, 2u), own = threadIdx.x % 4 * MMA_OWN;
	const uint4 *from =
		planes + part * (uint32_t)mma_plane_words(n) / 4 + (step * MMA_STEP + own) / 8;
	const uint4 low = from[0], high = from[1];

	return {{{low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w}}};
}

/* --- The cores ---------------------------------------------------------------------------- */

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800

/* c += a b: 16 x 16 times 16 x 8; which lane has what is said in PTX's manual, m16n8k16. */
static __device__ inline void
mma_16(float c[4], const uint32_t a[4], const uint32_t b[2])
{
	asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
	    "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
		: "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
		: "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

#else

static __device__ inline float
dot_words(uint32_t a, uint32_t b, float sum)
{
	sum = fmaf(__uint_as_float(a << 16), __uint_as_float(b << 16), sum);
	return fmaf(__uint_as_float(a & 0xffff0000u), __uint_as_float(b & 0xffff0000u), sum);
}

/*
 * The same where there are no such cores: lanes fetch what they need from each other. A function
 * that is called: as part of each caller it took the compiler many minutes.
 */
static __device__ __noinline__ float4 mma_by_lanes(float4 c, uint4 a, uint2 b)
{
	const uint32_t lane = threadIdx.x % WARP, column = lane % 4 * 2;

#pragma unroll
	for (uint32_t i = 0; i < 8; i++) {
		const uint32_t from = lane / 4 * 4 + i % 4;
		const uint32_t top = __shfl_sync(ALL_LANES, i < 4 ? a.x : a.z, from);
		const uint32_t bottom = __shfl_sync(ALL_LANES, i < 4 ? a.y : a.w, from);
		const uint32_t word = i < 4 ? b.x : b.y;
		const uint32_t left = __shfl_sync(ALL_LANES, word, column * 4 + i % 4);
		const uint32_t right = __shfl_sync(ALL_LANES, word, column * 4 + 4 + i % 4);

		c.x = dot_words(top, left, c.x);
		c.y = dot_words(top, right, c.y);
		c.z = dot_words(bottom, left, c.z);
		c.w = dot_words(bottom, right, c.w);
	}
	return c;
}

static __device__ inline void mma_16(float c[4], const uint32_t a[4], const uint32_t b[2])
{
	const float4 sums = mma_by_lanes(make_float4(c[0], c[1], c[2], c[3]),
		make_uint4(a[0], a[1], a[2], a[3]), make_uint2(b[0], b[1]));

	c[0] = sums.x;
	c[1] = sums.y;
	c[2] = sums.z;
	c[3] = sums.w;
}

#endif

/*
 * A product's outputs and rows as another's inputs and rows: element (lane / 4, 2 (lane % 4) and
 * the next one) of an 8 x 8 matrix of bf16s becomes the same of its transpose.
 */
static __device__ inline uint32_t mma_turn(uint32_t word)
{
	uint32_t turned;

	asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(turned) : "r"(word));
	return turned;
}

/* Where sum i of a lane belongs. */
static __device__ inline uint32_t mma_output(uint32_t i)
{
	return threadIdx.x % WARP / 4 + i / 2 * 8;
}

static __device__ inline uint32_t mma_row(uint32_t i)
{
	return threadIdx.x % 4 * 2 + i % 2;
}

/*
 * The products of STEP inputs. A lane has those of outputs lane / 4 (top) and 8 further (bottom),
 * and of row lane / 4 of x.
 */
template <uint32_t A_PARTS, uint32_t B_PARTS>
__device__ inline void mma_step(float sums[4], const struct mma_words<A_PARTS> &top,
	const struct mma_words<A_PARTS> &bottom, const struct mma_words<B_PARTS> &x)
{
	constexpr int ALL = (int)(A_PARTS + B_PARTS) - 1,
		      PLACES = ALL < MMA_PLACES ? ALL : MMA_PLACES;
	float c[PLACES][4] = {};

	/* Lanes may have loaded by different ways. */
	__syncwarp();

#pragma unroll
	for (int i = 0; i < (int)A_PARTS; i++) {
#pragma unroll
		for (int j = 0; j < (int)B_PARTS; j++) {
			if (i + j >= PLACES)
				continue;
#pragma unroll
			for (uint32_t w = 0; w < MMA_OWN / 2; w += 2) {
				const uint32_t a[4] = {top.of[i][w], bottom.of[i][w],
					top.of[i][w + 1], bottom.of[i][w + 1]};
				const uint32_t b[2] = {x.of[j][w], x.of[j][w + 1]};

				mma_16(c[i + j], a, b);
			}
		}
	}
#pragma unroll
	for (uint32_t i = 0; i < 4; i++) {
		sums[i] = c[PLACES - 1][i];
#pragma unroll
		for (int place = PLACES - 2; place >= 0; place--)
			sums[i] = fmaf(sums[i], 1 / MMA_PLACE, c[place][i]);
	}
}

/*
 * The same of a row alone, whose parts are three rows, and of elements of one part: sums of outputs
 * lane / 4 and 8 further, in each fourth lane, beside which are those of the last part.
 */
static __device__ inline void mma_step_planes(float sums[2], const struct mma_words<1> &top,
	const struct mma_words<1> &bottom, const struct mma_words<1> &x)
{
	float c[4] = {};

	__syncwarp();
#pragma unroll
	for (uint32_t w = 0; w < MMA_OWN / 2; w += 2) {
		const uint32_t a[4] = {
			top.of[0][w], bottom.of[0][w], top.of[0][w + 1], bottom.of[0][w + 1]};
		const uint32_t b[2] = {x.of[0][w], x.of[0][w + 1]};

		mma_16(c, a, b);
	}
#pragma unroll
	for (uint32_t i = 0; i < 2; i++) {
		const float last = __shfl_down_sync(ALL_LANES, c[2 * i], 1);

		sums[i] = fmaf(fmaf(last, 1 / MMA_PLACE, c[2 * i + 1]), 1 / MMA_PLACE, c[2 * i]);
	}
}

#endif
