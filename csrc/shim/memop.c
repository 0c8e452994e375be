/*
 * Words of memory that a stream waits for or writes. They are work like any other; what is
 * wrong with one is told at once.
 */
#include "memory.h"
#include "shim_hooks.h"

/* 0, or what the driver says of such an operation. size: 4 or 8 bytes. */
static CUresult
word_fits(const struct fdc_call *call, uint64_t address, unsigned size, bool waits,
          unsigned flags)
{
    const int32_t *can = call->context->device->snapshot->attribute;

    if (address % size != 0)
        return CUDA_ERROR_INVALID_VALUE;
    if (size == 8 && can[CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS] == 0)
        return CUDA_ERROR_NOT_SUPPORTED;
    if (!waits)
        return flags == CU_STREAM_WRITE_VALUE_DEFAULT /* as driver 580 has it */
                   ? CUDA_SUCCESS
                   : CUDA_ERROR_INVALID_VALUE;
    if ((flags & ~(unsigned)CU_STREAM_WAIT_VALUE_FLUSH) > CU_STREAM_WAIT_VALUE_NOR)
        return CUDA_ERROR_INVALID_VALUE;
    if ((flags & 3) == CU_STREAM_WAIT_VALUE_NOR &&
        can[CU_DEVICE_ATTRIBUTE_CAN_USE_STREAM_WAIT_VALUE_NOR] == 0)
        return CUDA_ERROR_NOT_SUPPORTED;
    if ((flags & CU_STREAM_WAIT_VALUE_FLUSH) != 0 &&
        can[CU_DEVICE_ATTRIBUTE_CAN_FLUSH_REMOTE_WRITES] == 0)
        return CUDA_ERROR_NOT_SUPPORTED;
    return CUDA_SUCCESS;
}

#define ONE_WORD(name, type, size, waits)                                              \
    CUresult fdc_shim_before_##name(struct fdc_call *call, CUstream *stream,           \
                                    CUdeviceptr *addr, type *value,                    \
                                    unsigned int *flags)                               \
    {                                                                                  \
        (void)stream;                                                                  \
        (void)value;                                                                   \
        return word_fits(call, *addr, size, waits, *flags);                            \
    }

ONE_WORD(cuStreamWaitValue32_v2, cuuint32_t, 4, true)
ONE_WORD(cuStreamWaitValue64_v2, cuuint64_t, 8, true)
ONE_WORD(cuStreamWriteValue32_v2, cuuint32_t, 4, false)
ONE_WORD(cuStreamWriteValue64_v2, cuuint64_t, 8, false)

static CUresult
reduction_fits(const CUstreamBatchMemOpParams *op, unsigned *size)
{
    unsigned how = (unsigned)op->atomicReduction.reductionOp;

    *size = (unsigned)op->atomicReduction.dataType == CU_STREAM_ATOMIC_REDUCTION_UNSIGNED_32
                ? 4
                : 8;
    if (op->atomicReduction.flags != 0 || op->atomicReduction.address % *size != 0 ||
        (*size == 8 && (unsigned)op->atomicReduction.dataType !=
                           CU_STREAM_ATOMIC_REDUCTION_UNSIGNED_64) ||
        (how != CU_STREAM_ATOMIC_REDUCTION_OP_OR && how != CU_STREAM_ATOMIC_REDUCTION_OP_AND &&
         how != CU_STREAM_ATOMIC_REDUCTION_OP_ADD))
        return CUDA_ERROR_INVALID_VALUE;
    return CUDA_SUCCESS;
}

static CUresult
op_fits(struct fdc_call *call, const CUstreamBatchMemOpParams *op)
{
    uint64_t address = op->waitValue.address;
    bool waits = false;
    unsigned size = 4;
    CUresult result;

    switch ((int)op->operation) {
    case CU_STREAM_MEM_OP_FLUSH_REMOTE_WRITES:
        return op->flushRemoteWrites.flags != 0 ? CUDA_ERROR_INVALID_VALUE
               : call->context->device->snapshot
                           ->attribute[CU_DEVICE_ATTRIBUTE_CAN_FLUSH_REMOTE_WRITES] != 0
                   ? CUDA_SUCCESS
                   : CUDA_ERROR_NOT_SUPPORTED;
    case CU_STREAM_MEM_OP_BARRIER:
        return op->memoryBarrier.flags <= CU_STREAM_MEMORY_BARRIER_TYPE_GPU
                   ? CUDA_SUCCESS
                   : CUDA_ERROR_INVALID_VALUE;
    case CU_STREAM_MEM_OP_ATOMIC_REDUCTION:
        address = op->atomicReduction.address;
        if (call->context->device->snapshot
                ->attribute[CU_DEVICE_ATTRIBUTE_ATOMIC_REDUCTION_SUPPORTED] == 0)
            return CUDA_ERROR_NOT_SUPPORTED;
        result = reduction_fits(op, &size);
        break;
    case CU_STREAM_MEM_OP_WAIT_VALUE_64:
    case CU_STREAM_MEM_OP_WRITE_VALUE_64:
        size = 8;
        /* fall through */
    case CU_STREAM_MEM_OP_WAIT_VALUE_32:
    case CU_STREAM_MEM_OP_WRITE_VALUE_32:
        waits = (int)op->operation == CU_STREAM_MEM_OP_WAIT_VALUE_32 ||
                (int)op->operation == CU_STREAM_MEM_OP_WAIT_VALUE_64;
        result = word_fits(call, address, size, waits, op->waitValue.flags);
        break;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
    return result != CUDA_SUCCESS
               ? result
               : fdc_place_check(call, address, size);
}

CUresult
fdc_shim_before_cuStreamBatchMemOp_v2(struct fdc_call *call, CUstream *stream,
                                      unsigned int *count,
                                      CUstreamBatchMemOpParams **paramArray,
                                      unsigned int *flags)
{
    CUresult result = CUDA_SUCCESS;

    (void)stream;
    if (*flags != 0 || *count > 255 || (*count != 0 && *paramArray == NULL))
        return CUDA_ERROR_INVALID_VALUE;
    for (unsigned int i = 0; i < *count && result == CUDA_SUCCESS; i++)
        result = op_fits(call, &(*paramArray)[i]);
    return result;
}
