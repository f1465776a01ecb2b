/* SPDX-License-Identifier: MIT */
/* profiler.c: plays a profiler: NVTX loads it, and it writes down the ranges that it is told of. */
#include <nvtx3/nvToolsExt.h>

#include <stdio.h>
#include <string.h>

__attribute__((visibility("default"))) char profiler_seen[4096];

static void see(const char *what, const char *text)
{
	const size_t used = strlen(profiler_seen);

	snprintf(profiler_seen + used, sizeof(profiler_seen) - used, "%s%s;", what, text);
}

static nvtxDomainHandle_t NVTX_API create(const char *name)
{
	see("domain ", name);
	return (nvtxDomainHandle_t)profiler_seen;
}

static int NVTX_API push(nvtxDomainHandle_t domain, const nvtxEventAttributes_t *event)
{
	see("(", event->message.ascii);
	return 0;
}

static int NVTX_API pop(nvtxDomainHandle_t domain)
{
	see(")", "");
	return 0;
}

__attribute__((visibility("default"))) int NVTX_API InitializeInjectionNvtx2(
	NvtxGetExportTableFunc_t get_table);

int NVTX_API InitializeInjectionNvtx2(NvtxGetExportTableFunc_t get_table)
{
	const NvtxExportTableCallbacks *callbacks = get_table(NVTX_ETID_CALLBACKS);
	NvtxFunctionTable table;
	unsigned int n = 0;

	if (callbacks == NULL ||
		callbacks->GetModuleFunctionTable(NVTX_CB_MODULE_CORE2, &table, &n) == 0 ||
		n <= NVTX_CBID_CORE2_DomainRangePop)
		return 0;
	*table[NVTX_CBID_CORE2_DomainCreateA] = (NvtxFunctionPointer)create;
	*table[NVTX_CBID_CORE2_DomainRangePushEx] = (NvtxFunctionPointer)push;
	*table[NVTX_CBID_CORE2_DomainRangePop] = (NvtxFunctionPointer)pop;
	return 1;
}
