/* What a CUresult means for what comes after it: client and worker agree on it here. */
#ifndef FDC_RESULT_H
#define FDC_RESULT_H

#include <stdbool.h>
#include <stdint.h>

#include "fdc/cuda_abi.h"

/* Results after which a driver answers nothing else in this context, and makes no other on
 * the device in this process. */
static inline bool
fdc_result_is_final(int32_t result)
{
    switch (result) {
    case CUDA_ERROR_ECC_UNCORRECTABLE:
    case CUDA_ERROR_ILLEGAL_ADDRESS:
    case CUDA_ERROR_LAUNCH_TIMEOUT:
    case CUDA_ERROR_ASSERT:
    case CUDA_ERROR_HARDWARE_STACK_ERROR:
    case CUDA_ERROR_ILLEGAL_INSTRUCTION:
    case CUDA_ERROR_MISALIGNED_ADDRESS:
    case CUDA_ERROR_INVALID_ADDRESS_SPACE:
    case CUDA_ERROR_INVALID_PC:
    case CUDA_ERROR_LAUNCH_FAILED:
        return true;
    default:
        return false;
    }
}

/* The Xid that NVIDIA's driver has for a final result, as its catalogue lists them; 0: none,
 * since a program's own assertion is no fault of anything else. */
static inline uint32_t
fdc_result_xid(int32_t result)
{
    switch (result) {
    case CUDA_ERROR_ILLEGAL_ADDRESS:
        return 31;
    case CUDA_ERROR_ECC_UNCORRECTABLE:
        return 48;
    case CUDA_ERROR_LAUNCH_TIMEOUT:
        return 8;
    case CUDA_ERROR_ASSERT:
        return 0;
    default:
        return fdc_result_is_final(result) ? 13 : 0;
    }
}

#endif
