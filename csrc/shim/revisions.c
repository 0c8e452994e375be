/*
 * Calls that are other calls by now: first revisions, and short forms without a parameter.
 * Built of public calls alone; the CPU device has this file too.
 */
#include "cuda_calls.h"
#include "fdc/base.h"

FDC_EXPORT CUresult
cuMemRangeGetAttributes(void **data, size_t *dataSizes,
                        CUmem_range_attribute *attributes, size_t numAttributes,
                        CUdeviceptr devPtr, size_t count)
{
    CUresult result = CUDA_SUCCESS;

    if (data == NULL || dataSizes == NULL || attributes == NULL || numAttributes == 0)
        return CUDA_ERROR_INVALID_VALUE;
    for (size_t i = 0; i < numAttributes && result == CUDA_SUCCESS; i++)
        result = cuMemRangeGetAttribute(data[i], dataSizes[i], attributes[i], devPtr,
                                        count);
    return result;
}

FDC_EXPORT CUresult
cuDevicePrimaryCtxRelease(CUdevice dev)
{
    return cuDevicePrimaryCtxRelease_v2(dev);
}

FDC_EXPORT CUresult
cuDevicePrimaryCtxReset(CUdevice dev)
{
    return cuDevicePrimaryCtxReset_v2(dev);
}

FDC_EXPORT CUresult
cuDevicePrimaryCtxSetFlags(CUdevice dev, unsigned int flags)
{
    return cuDevicePrimaryCtxSetFlags_v2(dev, flags);
}

FDC_EXPORT CUresult
cuCtxPopCurrent(CUcontext *pctx)
{
    return cuCtxPopCurrent_v2(pctx);
}

FDC_EXPORT CUresult
cuCtxGetDevice(CUdevice *device)
{
    return cuCtxGetDevice_v2(device, NULL);
}

FDC_EXPORT CUresult
cuCtxSynchronize(void)
{
    return cuCtxSynchronize_v2(NULL);
}

FDC_EXPORT CUresult
cuDeviceGetUuid(CUuuid *uuid, CUdevice dev)
{
    return cuDeviceGetUuid_v2(uuid, dev);
}

/* The first revision, which counts in 32 bits and says at most what fits. */
FDC_EXPORT CUresult
cuDeviceTotalMem(unsigned int *bytes, CUdevice dev)
{
    size_t all;
    CUresult result = cuDeviceTotalMem_v2(bytes != NULL ? &all : NULL, dev);

    if (result == CUDA_SUCCESS)
        *bytes = all > UINT32_MAX ? UINT32_MAX : (unsigned int)all;
    return result;
}

FDC_EXPORT CUresult
cuEventDestroy(CUevent hEvent)
{
    return cuEventDestroy_v2(hEvent);
}

FDC_EXPORT CUresult
cuEventElapsedTime(float *pMilliseconds, CUevent hStart, CUevent hEnd)
{
    return cuEventElapsedTime_v2(pMilliseconds, hStart, hEnd);
}

FDC_EXPORT CUresult
cuGraphInstantiate(CUgraphExec *phGraphExec, CUgraph hGraph, CUgraphNode *phErrorNode,
                   char *logBuffer, size_t bufferSize)
{
    return cuGraphInstantiate_v2(phGraphExec, hGraph, phErrorNode, logBuffer,
                                 bufferSize);
}

FDC_EXPORT CUresult
cuGraphExecUpdate(CUgraphExec hGraphExec, CUgraph hGraph, CUgraphNode *hErrorNode_out,
                  CUgraphExecUpdateResult *updateResult_out)
{
    CUgraphExecUpdateResultInfo info = {0};
    CUresult result = cuGraphExecUpdate_v2(hGraphExec, hGraph, &info);

    if (hErrorNode_out != NULL)
        *hErrorNode_out = info.errorNode;
    if (updateResult_out != NULL)
        *updateResult_out = info.result;
    return result;
}

FDC_EXPORT CUresult
cuGraphGetEdges(CUgraph hGraph, CUgraphNode *from, CUgraphNode *to, size_t *numEdges)
{
    return cuGraphGetEdges_v2(hGraph, from, to, NULL, numEdges);
}

FDC_EXPORT CUresult
cuMemAllocHost_v2(void **pp, size_t bytesize)
{
    return cuMemHostAlloc(pp, bytesize, 0);
}

FDC_EXPORT CUresult
cuMemHostRegister(void *p, size_t bytesize, unsigned int Flags)
{
    return cuMemHostRegister_v2(p, bytesize, Flags);
}

FDC_EXPORT CUresult
cuLinkCreate(unsigned int numOptions, CUjit_option *options, void **optionValues,
             CUlinkState *stateOut)
{
    return cuLinkCreate_v2(numOptions, options, optionValues, stateOut);
}

FDC_EXPORT CUresult
cuLinkAddData(CUlinkState state, CUjitInputType type, void *data, size_t size,
              const char *name, unsigned int numOptions, CUjit_option *options,
              void **optionValues)
{
    return cuLinkAddData_v2(state, type, data, size, name, numOptions, options,
                            optionValues);
}

FDC_EXPORT CUresult
cuLinkAddFile(CUlinkState state, CUjitInputType type, const char *path,
              unsigned int numOptions, CUjit_option *options, void **optionValues)
{
    return cuLinkAddFile_v2(state, type, path, numOptions, options, optionValues);
}

FDC_EXPORT CUresult
cuModuleLoadData(CUmodule *module, const void *image)
{
    return cuModuleLoadDataEx(module, image, 0, NULL, NULL);
}

FDC_EXPORT CUresult
cuModuleLoadFatBinary(CUmodule *module, const void *fatCubin)
{
    return cuModuleLoadDataEx(module, fatCubin, 0, NULL, NULL);
}

FDC_EXPORT CUresult
cuOccupancyMaxActiveBlocksPerMultiprocessor(int *numBlocks, CUfunction func,
                                            int blockSize, size_t dynamicSMemSize)
{
    return cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        numBlocks, func, blockSize, dynamicSMemSize, 0);
}

FDC_EXPORT CUresult
cuOccupancyMaxPotentialBlockSize(int *minGridSize, int *blockSize, CUfunction func,
                                 CUoccupancyB2DSize blockSizeToDynamicSMemSize,
                                 size_t dynamicSMemSize, int blockSizeLimit)
{
    return cuOccupancyMaxPotentialBlockSizeWithFlags(
        minGridSize, blockSize, func, blockSizeToDynamicSMemSize, dynamicSMemSize,
        blockSizeLimit, 0);
}

FDC_EXPORT CUresult
cuStreamDestroy(CUstream hStream)
{
    return cuStreamDestroy_v2(hStream);
}
