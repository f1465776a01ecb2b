/* SPDX-License-Identifier: MIT */
/* consumer-cuda.c: a program that uses the installed libgpuq-cuda. Needs no CUDA to run. */
#include <gpuq-cuda.h>

int main(void)
{
	gpuq_cuda_close(NULL);
	return gpuq_cuda_error_detail()[0] != '\0';
}
