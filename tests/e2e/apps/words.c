/* Streams that wait for words of memory and write them: order, and what is refused. */
#include "app.h"

static CUdeviceptr word; /* two words of 32 bits, then two of 64 */

static uint32_t
value_of(CUdeviceptr address)
{
    uint32_t value = 0;

    CHECK(cuMemcpyDtoH(&value, address, 4));
    return value;
}

/* One stream waits for what another writes much later; nothing else is held up. */
static void
waiting(CUstream waits, CUstream writes)
{
    CHECK(cuStreamWaitValue32_v2(waits, word, 5, CU_STREAM_WAIT_VALUE_GEQ));
    CHECK(cuStreamWriteValue32_v2(waits, word + 4, 77, 0));
    CHECK(cuMemsetD8Async(word + 8, 1, 8, writes));
    CHECK(cuStreamSynchronize(writes));
    EXPECT(CUDA_ERROR_NOT_READY, cuStreamQuery(waits));
    CHECK(cuStreamWriteValue32_v2(writes, word, 4, 0));
    CHECK(cuStreamSynchronize(writes));
    EXPECT(CUDA_ERROR_NOT_READY, cuStreamQuery(waits));
    EXPECT(CUDA_ERROR_INVALID_VALUE,
           cuStreamWriteValue32_v2(writes, word, 5, CU_STREAM_WRITE_VALUE_NO_MEMORY_BARRIER));
    CHECK(cuStreamWriteValue32_v2(writes, word, 5, 0));
    CHECK(cuStreamSynchronize(waits));
    REQUIRE(value_of(word + 4) == 77);

    CHECK(cuStreamWaitValue64_v2(waits, word + 16, 1ull << 40, CU_STREAM_WAIT_VALUE_AND));
    CHECK(cuStreamWriteValue64_v2(waits, word + 24, ~0ull, 0));
    CHECK(cuStreamWriteValue64_v2(writes, word + 16, 3ull << 40, 0));
    CHECK(cuStreamSynchronize(waits));
    REQUIRE(value_of(word + 28) == 0xffffffff);
    CHECK(cuStreamWaitValue32_v2(waits, word, 5, CU_STREAM_WAIT_VALUE_EQ));
    CHECK(cuStreamWaitValue32_v2(waits, word, 1u << 31, CU_STREAM_WAIT_VALUE_NOR));
    CHECK(cuStreamSynchronize(waits));
}

static void
batches(CUstream stream)
{
    CUstreamBatchMemOpParams ops[4];

    memset(ops, 0, sizeof(ops));
    ops[0].writeValue.operation = CU_STREAM_MEM_OP_WRITE_VALUE_32;
    ops[0].writeValue.address = word;
    ops[0].writeValue.value = 100;
    ops[1].memoryBarrier.operation = CU_STREAM_MEM_OP_BARRIER;
    ops[1].memoryBarrier.flags = CU_STREAM_MEMORY_BARRIER_TYPE_GPU;
    ops[2].waitValue.operation = CU_STREAM_MEM_OP_WAIT_VALUE_32;
    ops[2].waitValue.address = word;
    ops[2].waitValue.value = 100;
    ops[3].writeValue.operation = CU_STREAM_MEM_OP_WRITE_VALUE_64;
    ops[3].writeValue.address = word + 24;
    ops[3].writeValue.value64 = 200;
    CHECK(cuStreamBatchMemOp_v2(stream, 4, ops, 0));
    CHECK(cuStreamSynchronize(stream));
    REQUIRE(value_of(word) == 100 && value_of(word + 24) == 200);
    CHECK(cuStreamBatchMemOp_v2(stream, 0, ops, 0));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuStreamBatchMemOp_v2(stream, 4, ops, 1));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuStreamBatchMemOp_v2(stream, 256, ops, 0));
    ops[3].writeValue.address = word + 28;
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuStreamBatchMemOp_v2(stream, 4, ops, 0));
    ops[3].operation = 77;
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuStreamBatchMemOp_v2(stream, 4, ops, 0));
    EXPECT(CUDA_ERROR_NOT_SUPPORTED, cuStreamBatchMemOp(stream, 3, ops, 0));
}

static void
mistakes(CUstream stream, CUdevice device)
{
    int can = 7;

    EXPECT(CUDA_ERROR_INVALID_VALUE, cuStreamWriteValue32_v2(stream, word + 2, 1, 0));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuStreamWriteValue32_v2(stream, word, 1, 8));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuStreamWriteValue32_v2(stream, 0, 1, 0));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuStreamWaitValue32_v2(stream, word, 1, 4));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuStreamWaitValue64_v2(stream, word + 4, 1, 0));
    CHECK(cuDeviceGetAttribute(&can, CU_DEVICE_ATTRIBUTE_CAN_FLUSH_REMOTE_WRITES, device));
    if (can == 0)
        EXPECT(CUDA_ERROR_NOT_SUPPORTED,
               cuStreamWaitValue32_v2(stream, word, 0, CU_STREAM_WAIT_VALUE_FLUSH));
    CHECK(cuDeviceGetAttribute(&can, CU_DEVICE_ATTRIBUTE_CAN_USE_STREAM_MEM_OPS_V1, device));
    REQUIRE(can == 0);
    EXPECT(CUDA_ERROR_NOT_SUPPORTED, cuStreamWriteValue32(stream, word, 1, 0));
    EXPECT(CUDA_ERROR_NOT_SUPPORTED, cuStreamWaitValue64(stream, word, 1, 0));
}

int
main(void)
{
    CUstream one, two;
    CUdevice device;

    app_begin();
    CHECK(cuCtxGetDevice(&device));
    CHECK(cuMemAlloc(&word, 32));
    CHECK(cuMemsetD32(word, 0, 8));
    CHECK(cuCtxSynchronize()); /* streams that do not block run beside the clearing */
    CHECK(cuStreamCreate(&one, CU_STREAM_NON_BLOCKING));
    CHECK(cuStreamCreate(&two, CU_STREAM_NON_BLOCKING));
    waiting(one, two);
    batches(one);
    mistakes(one, device);
    CHECK(cuMemFree(word));
    return app_end();
}
