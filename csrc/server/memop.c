/*
 * Words of memory that a stream waits for or writes, several at a time. Each address has to
 * be the session's. The driver takes the array before it returns, and waiting is the
 * stream's: the executor goes on.
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
    if (result == CUDA_SUCCESS)
        result = driver->cuStreamBatchMemOp_v2(stream, req->count, ops, req->flags);
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}
