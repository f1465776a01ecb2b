/* SPDX-License-Identifier: MIT */
/*
 * Large matrix products; see blas.h. cuBLASLt's column-major matrices are ours transposed: y as
 * outputs x batch is w, transposed, times x.
 *
 * Its kernels add up a product's terms in an order of their own, one by one. So that the
 * tolerance holds, long sums are made in steps of STEP_INPUTS, each added to y once; a half y,
 * which would be rounded at every step, takes up to MAX_HALF_INPUTS in one.
 */
#include "kernels/cuda/blas.h"
#include "device/cuda/code.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if __has_include(<cublasLt.h>)
#include <cublasLt.h>

#define STEP_INPUTS 512u
#define MAX_HALF_INPUTS 4096u
#define MAX_STEPS 64u
#define MIN_BATCH 64u
#define MIN_OUTPUTS 64u
#define MIN_PRODUCTS (1u << 25)
#define MAX_SIDE (1u << 24) /* batch and outputs */
#define TOUCH_OUTPUTS 2048u

static const struct {
	uint32_t in_dtype, out_dtype;
	bool bias;
} kinds[] = {
	{GPUQ_F32, GPUQ_F32, false},
	{GPUQ_F16, GPUQ_F16, false},
	{GPUQ_F16, GPUQ_F16, true},
	{GPUQ_F16, GPUQ_F32, false},
	{GPUQ_BF16, GPUQ_BF16, false},
	{GPUQ_BF16, GPUQ_BF16, true},
	{GPUQ_BF16, GPUQ_F32, false},
};
#define N_KINDS (sizeof(kinds) / sizeof(kinds[0]))

static const uint32_t batches[] = {64, 256, 1024}; /* algorithms are chosen for these */
#define N_BATCHES (sizeof(batches) / sizeof(batches[0]))

static struct {
	cublasLtHandle_t handle; /* may be used by many threads at once */
	cublasLtMatmulAlgo_t algorithms[N_KINDS * N_BATCHES];
	bool usable[N_KINDS * N_BATCHES];

	cublasStatus_t (*create)(cublasLtHandle_t *);
	cublasStatus_t (*desc_init)(
		cublasLtMatmulDesc_t, size_t, cublasComputeType_t, cudaDataType_t);
	cublasStatus_t (*desc_set)(
		cublasLtMatmulDesc_t, cublasLtMatmulDescAttributes_t, const void *, size_t);
	cublasStatus_t (*layout_init)(
		cublasLtMatrixLayout_t, size_t, cudaDataType, uint64_t, uint64_t, int64_t);
	cublasStatus_t (*preference_init)(cublasLtMatmulPreference_t, size_t);
	cublasStatus_t (*preference_set)(cublasLtMatmulPreference_t,
		cublasLtMatmulPreferenceAttributes_t, const void *, size_t);
	cublasStatus_t (*choose)(cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t,
		cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
		cublasLtMatmulPreference_t, int, cublasLtMatmulHeuristicResult_t[], int *);
	cublasStatus_t (*check)(cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t,
		cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
		const cublasLtMatmulAlgo_t *, cublasLtMatmulHeuristicResult_t *);
	cublasStatus_t (*matmul)(cublasLtHandle_t, cublasLtMatmulDesc_t, const void *, const void *,
		cublasLtMatrixLayout_t, const void *, cublasLtMatrixLayout_t, const void *,
		const void *, cublasLtMatrixLayout_t, void *, cublasLtMatrixLayout_t,
		const cublasLtMatmulAlgo_t *, void *, size_t, cudaStream_t);
} blas;

/* --- Opening ------------------------------------------------------------------------------ */

static void *open_library(void)
{
	const char *folders[] = {NULL, getenv("CUDA_HOME"), getenv("CUDA_PATH"), "/usr/local/cuda"};
	void *library = NULL;
	char path[4096];

	for (size_t i = 0; library == NULL && i < sizeof(folders) / sizeof(folders[0]); i++) {
		if (i == 0)
			snprintf(path, sizeof(path), "libcublasLt.so.%d", CUDART_VERSION / 1000);
		else if (folders[i] != NULL)
			snprintf(path, sizeof(path), "%s/lib64/libcublasLt.so.%d", folders[i],
				CUDART_VERSION / 1000);
		library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	}
	return library;
}

/* The initialisers that the header inlines are exported with a size. */
static bool find_functions(void *library)
{
	const struct {
		const char *name;
		void *to;
	} functions[] = {
		{"cublasLtCreate", &blas.create},
		{"cublasLtMatmulDescInit_internal", &blas.desc_init},
		{"cublasLtMatmulDescSetAttribute", &blas.desc_set},
		{"cublasLtMatrixLayoutInit_internal", &blas.layout_init},
		{"cublasLtMatmulPreferenceInit_internal", &blas.preference_init},
		{"cublasLtMatmulPreferenceSetAttribute", &blas.preference_set},
		{"cublasLtMatmulAlgoGetHeuristic", &blas.choose},
		{"cublasLtMatmulAlgoCheck", &blas.check},
		{"cublasLtMatmul", &blas.matmul},
	};

	for (size_t i = 0; i < sizeof(functions) / sizeof(functions[0]); i++) {
		void *function = dlsym(library, functions[i].name);

		if (function == NULL)
			return false;
		memcpy(functions[i].to, &function, sizeof(function));
	}
	return true;
}

/* --- One step ----------------------------------------------------------------------------- */

/* What cuBLASLt calls a problem, without memory of its own. */
struct problem {
	cublasLtMatmulDescOpaque_t desc;
	cublasLtMatrixLayoutOpaque_t w, x, y;
};

static cudaDataType type_of(uint32_t dtype)
{
	return dtype == GPUQ_F16 ? CUDA_R_16F : dtype == GPUQ_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

static bool describe_bias(struct problem *problem, const void *bias)
{
	const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;

	return bias == NULL ||
		(blas.desc_set(&problem->desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue,
			 sizeof(epilogue)) == CUBLAS_STATUS_SUCCESS &&
			blas.desc_set(&problem->desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias,
				sizeof(bias)) == CUBLAS_STATUS_SUCCESS);
}

static bool describe(struct problem *problem, const struct blas_product *p, uint64_t inputs)
{
	const cudaDataType in = type_of(p->in_dtype), out = type_of(p->out_dtype);
	const int32_t transpose = CUBLAS_OP_T;

	return blas.desc_init(&problem->desc, sizeof(problem->desc), CUBLAS_COMPUTE_32F,
		       CUDA_R_32F) == CUBLAS_STATUS_SUCCESS &&
		blas.desc_set(&problem->desc, CUBLASLT_MATMUL_DESC_TRANSA, &transpose,
			sizeof(transpose)) == CUBLAS_STATUS_SUCCESS &&
		describe_bias(problem, p->bias) &&
		blas.layout_init(&problem->w, sizeof(problem->w), in, inputs, p->outputs,
			(int64_t)p->n) == CUBLAS_STATUS_SUCCESS &&
		blas.layout_init(&problem->x, sizeof(problem->x), in, inputs, p->batch,
			(int64_t)p->n) == CUBLAS_STATUS_SUCCESS &&
		blas.layout_init(&problem->y, sizeof(problem->y), out, p->outputs, p->batch,
			(int64_t)p->outputs) == CUBLAS_STATUS_SUCCESS;
}

static int step(const struct blas_product *p, uint32_t algorithm, uint64_t from, uint64_t inputs,
	cudaStream_t stream)
{
	const uint64_t skip = from * (p->in_dtype == GPUQ_F32 ? 4 : 2);
	const float one = 1, keep = from > 0 || p->add ? 1 : 0;
	struct problem problem;
	cublasStatus_t status = CUBLAS_STATUS_INVALID_VALUE;

	if (describe(&problem, p, inputs))
		status = blas.matmul(blas.handle, &problem.desc, &one, (const char *)p->w + skip,
			&problem.w, (const char *)p->x + skip, &problem.x, &keep, p->y, &problem.y,
			p->y, &problem.y, &blas.algorithms[algorithm], NULL, 0, stream);
	if (status == CUBLAS_STATUS_SUCCESS)
		return 0;
	/* Its refusal says nothing of the device; what CUDA remembers may. */
	if (cuda_error(cudaGetLastError()) == -GPUQ_EDEVICE)
		return -GPUQ_EDEVICE;
	return status == CUBLAS_STATUS_ALLOC_FAILED ? -ENOMEM : -EOPNOTSUPP;
}

/* --- Choosing algorithms ------------------------------------------------------------------ */

/* In `memory`, which is large enough. */
static struct blas_product typical(uint32_t algorithm, char *memory)
{
	return (struct blas_product){
		.w = memory,
		.x = memory + TOUCH_OUTPUTS * STEP_INPUTS * 4,
		.y = memory + (TOUCH_OUTPUTS + batches[N_BATCHES - 1]) * STEP_INPUTS * 4,
		.bias = kinds[algorithm / N_BATCHES].bias ? memory : NULL,
		.batch = batches[algorithm % N_BATCHES],
		.outputs = TOUCH_OUTPUTS,
		.n = STEP_INPUTS,
		.in_dtype = kinds[algorithm / N_BATCHES].in_dtype,
		.out_dtype = kinds[algorithm / N_BATCHES].out_dtype,
	};
}

/*
 * The best one that needs no workspace, for matrices aligned to 16 bytes. None that splits sums: it
 * could add up its parts in y, rounded each time.
 */
static bool choose(const struct blas_product *p, cublasLtMatmulAlgo_t *ret_algorithm)
{
	static const cublasLtMatmulPreferenceAttributes_t alignments[] = {
		CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
		CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
		CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
		CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
	};
	const uint32_t alignment = 16, reduction = CUBLASLT_REDUCTION_SCHEME_NONE;
	cublasLtMatmulPreferenceOpaque_t preference; /* its workspace is 0 bytes */
	cublasLtMatmulHeuristicResult_t result;
	struct problem problem;
	int found = 0;

	if (!describe(&problem, p, p->n) ||
		blas.preference_init(&preference, sizeof(preference)) != CUBLAS_STATUS_SUCCESS)
		return false;
	for (size_t i = 0; i < sizeof(alignments) / sizeof(alignments[0]); i++)
		blas.preference_set(&preference, alignments[i], &alignment, sizeof(alignment));
	blas.preference_set(&preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reduction,
		sizeof(reduction));
	if (blas.choose(blas.handle, &problem.desc, &problem.w, &problem.x, &problem.y, &problem.y,
		    &preference, 1, &result, &found) != CUBLAS_STATUS_SUCCESS ||
		found == 0 || result.state != CUBLAS_STATUS_SUCCESS)
		return false;
	*ret_algorithm = result.algo;
	return true;
}

/* Chooses all algorithms and runs each once in `memory`, which is zeroed. */
static int touch_algorithms(char *memory, cudaStream_t stream)
{
	for (uint32_t i = 0; i < N_KINDS * N_BATCHES; i++) {
		const struct blas_product p = typical(i, memory);

		blas.usable[i] = choose(&p, &blas.algorithms[i]);
		if (blas.usable[i] && step(&p, i, 0, p.n, stream) != 0)
			blas.usable[i] = false;
	}
	return cuda_error(cudaStreamSynchronize(stream));
}

static int touch_in_memory(void)
{
	const size_t bytes = ((size_t)(TOUCH_OUTPUTS + batches[N_BATCHES - 1]) * STEP_INPUTS +
				     (size_t)TOUCH_OUTPUTS * batches[N_BATCHES - 1]) *
		4;
	cudaStream_t stream;
	void *memory;
	int err = cuda_error(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));

	if (err != 0)
		return err;
	err = cuda_error(cudaMalloc(&memory, bytes));
	if (err == 0) {
		err = cuda_error(cudaMemsetAsync(memory, 0, bytes, stream));
		if (err == 0)
			err = touch_algorithms(memory, stream);
		cudaFree(memory);
	}
	cudaStreamDestroy(stream);
	return err;
}

/* NVIDIA_TF32_OVERRIDE=1 makes cuBLAS round what it multiplies, whatever it is asked for. */
static bool tf32_forced(void)
{
	const char *override = getenv("NVIDIA_TF32_OVERRIDE");

	return override != NULL && strcmp(override, "0") != 0;
}

int blas_touch(void)
{
	void *library;

	if (blas.handle != NULL || tf32_forced())
		return 0;
	library = open_library();
	if (library == NULL)
		return 0;
	if (!find_functions(library) || blas.create(&blas.handle) != CUBLAS_STATUS_SUCCESS) {
		blas.handle = NULL;
		return 0;
	}
	return touch_in_memory();
}

/* --- Products ----------------------------------------------------------------------------- */

static bool large_enough(const struct blas_product *p)
{
	return p->batch >= MIN_BATCH && p->outputs >= MIN_OUTPUTS && p->batch <= MAX_SIDE &&
		p->outputs <= MAX_SIDE && p->n <= MAX_STEPS * STEP_INPUTS &&
		p->batch * p->outputs * p->n >= MIN_PRODUCTS && p->batch * p->outputs <= INT32_MAX;
}

static bool aligned(const struct blas_product *p)
{
	const uint64_t in = p->in_dtype == GPUQ_F32 ? 4 : 2, out = p->out_dtype == GPUQ_F32 ? 4 : 2;
	const uint64_t bits = (uint64_t)(uintptr_t)p->x | (uint64_t)(uintptr_t)p->w |
		(uint64_t)(uintptr_t)p->y | (uint64_t)(uintptr_t)p->bias | p->n * in |
		p->outputs * out;

	return p->x != NULL && p->w != NULL && p->y != NULL && bits % 16 == 0;
}

static uint32_t algorithm_for(const struct blas_product *p)
{
	uint32_t kind = 0, batch = 0;

	while (kinds[kind].in_dtype != p->in_dtype || kinds[kind].out_dtype != p->out_dtype ||
		kinds[kind].bias != (p->bias != NULL))
		kind++;
	while (batch + 1 < N_BATCHES && batches[batch] < p->batch)
		batch++;
	return kind * N_BATCHES + batch;
}

static bool runs(const struct blas_product *p, uint32_t algorithm, uint64_t inputs)
{
	cublasLtMatmulHeuristicResult_t result;
	struct problem problem;

	return describe(&problem, p, inputs) &&
		blas.check(blas.handle, &problem.desc, &problem.w, &problem.x, &problem.y,
			&problem.y, &blas.algorithms[algorithm],
			&result) == CUBLAS_STATUS_SUCCESS &&
		result.workspaceSize == 0;
}

bool blas_takes(const struct blas_product *product, struct blas_plan *ret_plan)
{
	const bool half = product->out_dtype != GPUQ_F32;
	struct blas_plan plan;

	if (blas.handle == NULL || !large_enough(product) || !aligned(product) ||
		(half && product->n > MAX_HALF_INPUTS))
		return false;
	plan.algorithm = algorithm_for(product);
	plan.step = half || product->n < STEP_INPUTS ? (uint32_t)product->n : STEP_INPUTS;
	if (!blas.usable[plan.algorithm] || !runs(product, plan.algorithm, plan.step))
		return false;
	if (product->n % plan.step != 0 && !runs(product, plan.algorithm, product->n % plan.step))
		return false;
	*ret_plan = plan;
	return true;
}

int blas_run(const struct blas_product *product, const struct blas_plan *plan, cudaStream_t stream)
{
	int err = 0;

	for (uint64_t from = 0; err == 0 && from < product->n; from += plan->step) {
		const uint64_t left = product->n - from;

		err = step(product, plan->algorithm, from, left < plan->step ? left : plan->step,
			stream);
	}
	return err;
}

#else /* no headers of cuBLAS */

int blas_touch(void)
{
	return 0;
}

bool blas_takes(const struct blas_product *product, struct blas_plan *ret_plan)
{
	return false;
}

int blas_run(const struct blas_product *product, const struct blas_plan *plan, cudaStream_t stream)
{
	return -EOPNOTSUPP;
}

#endif
