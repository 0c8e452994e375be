/* Launches and texture references as CUDA 2 knew them. */
#include "app.h"

static void
launches(void)
{
    CUmodule module = NULL;
    CUfunction fill = app_function(&module, "fill"), wild = app_function(&module, "wild");
    unsigned value = 7, n = 256;
    CUdeviceptr memory;
    CUstream stream;

    (void)wild;
    CHECK(cuMemAlloc(&memory, n * 4));
    CHECK(cuMemsetD32(memory, 0, n));
    CHECK(cuFuncSetBlockShape(fill, 64, 1, 1));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuFuncSetBlockShape(fill, 0, 1, 1));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuFuncSetBlockShape(fill, 4096, 1, 1));
    EXPECT(CUDA_ERROR_INVALID_HANDLE, cuFuncSetBlockShape(NULL, 1, 1, 1));
    CHECK(cuFuncSetSharedSize(fill, 0));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuFuncSetSharedSize(fill, 1 << 24));
    CHECK(cuParamSetv(fill, 0, &memory, 8));
    CHECK(cuParamSeti(fill, 8, value));
    CHECK(cuParamSeti(fill, 12, n));
    CHECK(cuParamSetSize(fill, 16));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuParamSeti(fill, 400000, 1));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuParamSetv(fill, 32760, &memory, 8));
    CHECK(cuLaunchGrid(fill, 2, 1));
    CHECK(cuCtxSynchronize());
    REQUIRE(app_count_wrong(memory, 7, 128) == 0);
    REQUIRE(app_count_wrong(memory + 512, 0, 128) == 0);
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CHECK(cuParamSetf(fill, 8, 1.0f));
    CHECK(cuLaunchGridAsync(fill, 2, 2, stream));
    CHECK(cuStreamSynchronize(stream));
    REQUIRE(app_count_wrong(memory, 0x3f800000, 128) == 0);
    CHECK(cuParamSeti(fill, 8, 9));
    CHECK(cuLaunch(fill));
    CHECK(cuCtxSynchronize());
    REQUIRE(app_count_wrong(memory, 9, 64) == 0);
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuLaunchGrid(fill, 0, 1));
    EXPECT(CUDA_ERROR_INVALID_HANDLE, cuParamSetTexRef(fill, CU_PARAM_TR_DEFAULT, NULL));
    CHECK(cuMemFree(memory));
}

static void
references(void)
{
    CUDA_ARRAY3D_DESCRIPTOR desc = { .Width = 16, .Height = 16, .NumChannels = 2,
                                     .Format = CU_AD_FORMAT_HALF };
    CUDA_ARRAY_DESCRIPTOR flat = { .Width = 8, .Height = 8, .NumChannels = 4,
                                   .Format = CU_AD_FORMAT_UNSIGNED_INT8 };
    CUtexref ref;
    CUarray array, got = NULL;
    CUarray_format format;
    CUdeviceptr memory, at = 0;
    CUfilter_mode filter;
    CUaddress_mode mode;
    float border[4] = { 1, 2, 3, 4 }, back[4];
    unsigned flags = 9;
    int channels = 0;
    size_t offset = 0;

    CHECK(cuTexRefCreate(&ref));
    CHECK(cuTexRefSetFormat(ref, CU_AD_FORMAT_SIGNED_INT16, 4));
    CHECK(cuTexRefGetFormat(&format, &channels, ref));
    REQUIRE(format == CU_AD_FORMAT_SIGNED_INT16 && channels == 4);
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuTexRefSetFormat(ref, CU_AD_FORMAT_FLOAT, 3));
    CHECK(cuTexRefSetFlags(ref, CU_TRSF_NORMALIZED_COORDINATES));
    CHECK(cuTexRefGetFlags(&flags, ref));
    REQUIRE(flags == CU_TRSF_NORMALIZED_COORDINATES);
    CHECK(cuTexRefSetAddressMode(ref, 1, CU_TR_ADDRESS_MODE_MIRROR));
    CHECK(cuTexRefGetAddressMode(&mode, ref, 1));
    REQUIRE(mode == CU_TR_ADDRESS_MODE_MIRROR);
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuTexRefSetAddressMode(ref, 3, mode));
    CHECK(cuTexRefSetFilterMode(ref, CU_TR_FILTER_MODE_LINEAR));
    CHECK(cuTexRefGetFilterMode(&filter, ref));
    REQUIRE(filter == CU_TR_FILTER_MODE_LINEAR);
    CHECK(cuTexRefSetBorderColor(ref, border));
    CHECK(cuTexRefGetBorderColor(back, ref));
    REQUIRE(memcmp(border, back, sizeof(back)) == 0);

    EXPECT(CUDA_ERROR_INVALID_VALUE, cuTexRefGetArray(&got, ref));
    CHECK(cuArray3DCreate_v2(&array, &desc));
    CHECK(cuTexRefSetArray(ref, array, CU_TRSA_OVERRIDE_FORMAT));
    CHECK(cuTexRefGetArray(&got, ref));
    CHECK(cuTexRefGetFormat(&format, &channels, ref));
    REQUIRE(got == array && format == CU_AD_FORMAT_HALF && channels == 2);
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuTexRefGetAddress_v2(&at, ref));

    CHECK(cuMemAlloc(&memory, 4096));
    CHECK(cuTexRefSetAddress_v2(&offset, ref, memory + 4, 64));
    REQUIRE(offset == 4);
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuTexRefSetAddress_v2(NULL, ref, memory + 4, 64));
    CHECK(cuTexRefGetAddress_v2(&at, ref));
    REQUIRE(at == memory);
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuTexRefGetArray(&got, ref));
    CHECK(cuTexRefSetAddress2D_v3(ref, &flat, memory, 512));
    EXPECT(CUDA_ERROR_INVALID_VALUE, cuTexRefSetAddress2D_v3(ref, &flat, memory, 33));

    CHECK(cuTexRefDestroy(ref));
    EXPECT(CUDA_ERROR_INVALID_HANDLE, cuTexRefGetFlags(&flags, ref));
    CHECK(cuMemFree(memory));
    CHECK(cuArrayDestroy(array));
}

int
main(void)
{
    app_begin();
    launches();
    references();
    return app_end();
}
