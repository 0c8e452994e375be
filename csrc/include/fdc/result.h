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

#endif
