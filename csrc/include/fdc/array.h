/*
 * What an array takes of a slice. A driver does not say, so both sides count the same:
 * rows in whole 64-byte sectors, planes in whole groups of eight rows, as the hardware
 * lays them out.
 */
#ifndef FDC_ARRAY_H
#define FDC_ARRAY_H

#include "fdc/base.h"
#include "fdc/cuda_abi.h"

/* Bytes of one channel; 0: a format that is not known here. */
static inline uint32_t
fdc_channel_size(CUarray_format format)
{
    switch ((int)format) {
    case CU_AD_FORMAT_UNSIGNED_INT8:
    case CU_AD_FORMAT_SIGNED_INT8:
    case CU_AD_FORMAT_UNORM_INT8X1:
    case CU_AD_FORMAT_UNORM_INT8X2:
    case CU_AD_FORMAT_UNORM_INT8X4:
    case CU_AD_FORMAT_SNORM_INT8X1:
    case CU_AD_FORMAT_SNORM_INT8X2:
    case CU_AD_FORMAT_SNORM_INT8X4:
        return 1;
    case CU_AD_FORMAT_UNSIGNED_INT16:
    case CU_AD_FORMAT_SIGNED_INT16:
    case CU_AD_FORMAT_HALF:
    case CU_AD_FORMAT_UNORM_INT16X1:
    case CU_AD_FORMAT_UNORM_INT16X2:
    case CU_AD_FORMAT_UNORM_INT16X4:
    case CU_AD_FORMAT_SNORM_INT16X1:
    case CU_AD_FORMAT_SNORM_INT16X2:
    case CU_AD_FORMAT_SNORM_INT16X4:
        return 2;
    case CU_AD_FORMAT_UNSIGNED_INT32:
    case CU_AD_FORMAT_SIGNED_INT32:
    case CU_AD_FORMAT_FLOAT:
        return 4;
    default:
        return 0;
    }
}

/* Bytes of the array with so many levels (1: no mipmap); 0: larger than any can be. */
static inline uint64_t
fdc_array_bytes(const CUDA_ARRAY3D_DESCRIPTOR *desc, unsigned int levels)
{
    uint64_t width = desc->Width, height = desc->Height, depth = desc->Depth, bytes = 0;
    uint64_t element = fdc_channel_size(desc->Format);
    bool layered = desc->Flags & (CUDA_ARRAY3D_LAYERED | CUDA_ARRAY3D_CUBEMAP);

    if ((width | height | depth) >> 20 || desc->NumChannels > 4 || levels > 32)
        return 0;
    element = (element != 0 ? element : 4) * desc->NumChannels;
    for (unsigned int level = 0; level < levels; level++) {
        uint64_t row = FDC_ALIGN_UP(width * element, (uint64_t)64);

        bytes += row * (height > 1 ? FDC_ALIGN_UP(height, (uint64_t)8) : 1) *
                 (depth ? depth : 1);
        if (bytes >> 60)
            return 0;
        width = width > 1 ? width / 2 : 1;
        height = height > 1 ? height / 2 : height;
        depth = depth > 1 && !layered ? depth / 2 : depth;
    }
    return bytes;
}

#endif
