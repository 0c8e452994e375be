/*
 * Words of memory that a stream waits for, or writes several of at a time. Each address has
 * to be the session's. The driver takes an array before it returns, and waiting is the
 * stream's: the executor goes on, and no device time is charged.
 */
#include "server/serve.h"
#include "server_hooks.h"

#include <errno.h>
#include <string.h>

static CUresult
reaches(struct fdc_serve *serve, const CUstreamBatchMemOpParams *op)
{
    switch ((int)op->operation) {
    case CU_STREAM_MEM_OP_WAIT_VALUE_32:
    case CU_STREAM_MEM_OP_WRITE_VALUE_32:
        return fdc_memory_reach(serve, op->waitValue.address, 4);
    case CU_STREAM_MEM_OP_WAIT_VALUE_64:
    case CU_STREAM_MEM_OP_WRITE_VALUE_64:
        return fdc_memory_reach(serve, op->waitValue.address, 8);
    case CU_STREAM_MEM_OP_ATOMIC_REDUCTION:
        return fdc_memory_reach(serve, op->atomicReduction.address,
                                (int)op->atomicReduction.dataType ==
                                        CU_STREAM_ATOMIC_REDUCTION_UNSIGNED_32
                                    ? 4
                                    : 8);
    case CU_STREAM_MEM_OP_BARRIER:
    case CU_STREAM_MEM_OP_FLUSH_REMOTE_WRITES:
        return CUDA_SUCCESS;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

static bool
any_waits(const CUstreamBatchMemOpParams *ops, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        if ((int)ops[i].operation == CU_STREAM_MEM_OP_WAIT_VALUE_32 ||
            (int)ops[i].operation == CU_STREAM_MEM_OP_WAIT_VALUE_64)
            return true;
    return false;
}

int
fdc_server_call_cuStreamBatchMemOp_v2(struct fdc_request *request,
                                      const struct fdc_req_cuStreamBatchMemOp_v2 *req)
{
    const struct fdc_driver *driver = request->driver;
    CUstreamBatchMemOpParams ops[255];
    const void *bytes;
    CUresult result;
    CUstream stream;

    if (req->count > FDC_COUNT(ops) ||
        req->paramArray.size != req->count * sizeof(ops[0]))
        return -EPROTO;
    if (req->count != 0) {
        bytes = fdc_request_span(request, req->paramArray);
        if (bytes == NULL)
            return -EPROTO;
        memcpy(ops, bytes, req->paramArray.size);
    }
    result = fdc_handle_stream(request->serve, req->stream, &stream);
    if (result == CUDA_SUCCESS && !FDC_HAS(driver, cuStreamBatchMemOp_v2))
        result = CUDA_ERROR_NOT_SUPPORTED;
    for (uint32_t i = 0; i < req->count && result == CUDA_SUCCESS; i++)
        result = reaches(request->serve, &ops[i]);
    if (result == CUDA_SUCCESS) {
        if (any_waits(ops, req->count))
            fdc_meter_stands(request->serve);
        result = driver->cuStreamBatchMemOp_v2(stream, req->count, ops, req->flags);
        fdc_meter_stood(request->serve);
    }
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

int
fdc_server_call_cuStreamWaitValue32_v2(struct fdc_request *request,
                                       const struct fdc_req_cuStreamWaitValue32_v2 *req)
{
    CUstream stream;
    CUresult result;

    result = fdc_handle_stream(request->serve, req->stream, &stream);
    if (result == CUDA_SUCCESS)
        result = fdc_memory_reach(request->serve, req->addr, 4);
    if (result == CUDA_SUCCESS && !FDC_HAS(request->driver, cuStreamWaitValue32_v2))
        result = CUDA_ERROR_NOT_SUPPORTED;
    if (result == CUDA_SUCCESS) {
        fdc_meter_stands(request->serve);
        result = request->driver->cuStreamWaitValue32_v2(stream, req->addr, req->value,
                                                         req->flags);
        fdc_meter_stood(request->serve);
    }
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

int
fdc_server_call_cuStreamWaitValue64_v2(struct fdc_request *request,
                                       const struct fdc_req_cuStreamWaitValue64_v2 *req)
{
    CUstream stream;
    CUresult result;

    result = fdc_handle_stream(request->serve, req->stream, &stream);
    if (result == CUDA_SUCCESS)
        result = fdc_memory_reach(request->serve, req->addr, 8);
    if (result == CUDA_SUCCESS && !FDC_HAS(request->driver, cuStreamWaitValue64_v2))
        result = CUDA_ERROR_NOT_SUPPORTED;
    if (result == CUDA_SUCCESS) {
        fdc_meter_stands(request->serve);
        result = request->driver->cuStreamWaitValue64_v2(stream, req->addr, req->value,
                                                         req->flags);
        fdc_meter_stood(request->serve);
    }
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}
