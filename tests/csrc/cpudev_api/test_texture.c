/* Texture and surface objects of the CPU device: what they lie on, errors, ends. */
#include "driver.h"

/* out[0] = the texel at 0.5 of a texture; s: a surface that gets 7 at its beginning. */
static const char ptx[] =
    ".version 8.0\n.target sm_80\n.address_size 64\n"
    ".visible .entry look(.param .u64 t, .param .u64 out) {\n"
    ".reg .f32 %f<8>; .reg .b64 %rd<4>;\n"
    "ld.param.u64 %rd1, [t]; ld.param.u64 %rd2, [out]; mov.f32 %f1, 0f3f000000;\n"
    "tex.2d.v4.f32.f32 {%f2, %f3, %f4, %f5}, [%rd1, {%f1, %f1}];\n"
    "st.global.f32 [%rd2], %f2; ret;\n}\n"
    ".visible .entry mark(.param .u64 s) {\n"
    ".reg .b32 %r<4>; .reg .b64 %rd<4>;\n"
    "ld.param.u64 %rd1, [s]; mov.u32 %r1, 0; mov.u32 %r2, 0x40e00000;\n"
    "sust.b.2d.b32.trap [%rd1, {%r1, %r1}], {%r2}; ret;\n}\n";

static CUfunction look, mark;
static CUdeviceptr out;

static void
begin(void)
{
    CUmodule module;

    start();
    OK(cuModuleLoadData(&module, ptx));
    OK(cuModuleGetFunction(&look, module, "look"));
    OK(cuModuleGetFunction(&mark, module, "mark"));
    OK(cuMemAlloc_v2(&out, 4096));
}

static CUarray
square(unsigned int flags, float value)
{
    CUDA_ARRAY3D_DESCRIPTOR desc = {.Width = 4, .Height = 4, .Format = CU_AD_FORMAT_FLOAT,
                                    .NumChannels = 1, .Flags = flags};
    CUDA_MEMCPY2D copy = {.srcMemoryType = CU_MEMORYTYPE_HOST,
                          .dstMemoryType = CU_MEMORYTYPE_ARRAY,
                          .srcPitch = 16, .WidthInBytes = 16, .Height = 4};
    float values[16];
    CUarray array;

    for (int i = 0; i < 16; i++)
        values[i] = value;
    OK(cuArray3DCreate_v2(&array, &desc));
    copy.srcHost = values;
    copy.dstArray = array;
    OK(cuMemcpy2D_v2(&copy));
    return array;
}

static CUDA_RESOURCE_DESC
of_array(CUarray array)
{
    CUDA_RESOURCE_DESC desc;

    memset(&desc, 0, sizeof(desc));
    desc.resType = CU_RESOURCE_TYPE_ARRAY;
    desc.res.array.hArray = array;
    return desc;
}

static CUresult
run(CUfunction function, uint64_t object)
{
    void *params[] = {&object, &out};

    OK(cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, NULL, params, NULL));
    return cuCtxSynchronize();
}

static float
seen(void)
{
    float value;

    OK(cuMemcpyDtoH_v2(&value, out, 4));
    return value;
}

static void
test_objects_see_what_copies_and_surfaces_wrote(void)
{
    CUDA_TEXTURE_DESC how = {.addressMode = {1, 1, 1}};
    CUDA_RESOURCE_DESC what, told;
    CUDA_TEXTURE_DESC told_how;
    CUDA_RESOURCE_VIEW_DESC view;
    CUtexObject t;
    CUsurfObject s;
    CUarray array;

    begin();
    array = square(CUDA_ARRAY3D_SURFACE_LDST, 3);
    what = of_array(array);
    OK(cuTexObjectCreate(&t, &what, &how, NULL));
    OK(cuSurfObjectCreate(&s, &what));
    OK(run(look, t));
    CHECK_EQ(seen(), 3);
    OK(run(mark, s));
    OK(run(look, t));
    CHECK_EQ(seen(), 7);
    OK(cuTexObjectGetResourceDesc(&told, t));
    CHECK(told.res.array.hArray == array);
    OK(cuTexObjectGetTextureDesc(&told_how, t));
    CHECK_EQ(told_how.addressMode[1], 1);
    FAILS(INVALID_VALUE, cuTexObjectGetResourceViewDesc(&view, t));
    OK(cuSurfObjectGetResourceDesc(&told, s));
    CHECK(told.res.array.hArray == array);
    FAILS(INVALID_VALUE, cuSurfObjectDestroy(t));
    OK(cuSurfObjectDestroy(s));
    OK(cuTexObjectDestroy(t));
    FAILS(INVALID_VALUE, cuTexObjectDestroy(t));
    FAILS(INVALID_VALUE, cuTexObjectGetResourceDesc(&told, t));
    OK(cuArrayDestroy(array));
}

static void
test_a_texture_of_an_array_that_is_gone_is_none(void)
{
    CUDA_TEXTURE_DESC how = {0};
    CUDA_RESOURCE_DESC what;
    CUtexObject t;
    CUarray array;

    begin();
    array = square(0, 3);
    what = of_array(array);
    OK(cuTexObjectCreate(&t, &what, &how, NULL));
    OK(cuArrayDestroy(array));
    FAILS(ILLEGAL_ADDRESS, run(look, t));
}

static void
test_a_texture_of_memory_that_is_gone_faults(void)
{
    CUDA_TEXTURE_DESC how = {0};
    CUDA_RESOURCE_DESC what;
    CUdeviceptr memory;
    CUtexObject t;

    begin();
    OK(cuMemAlloc_v2(&memory, 4096));
    OK(cuMemsetD32_v2(memory, 0x40a00000, 1024));
    memset(&what, 0, sizeof(what));
    what.resType = CU_RESOURCE_TYPE_PITCH2D;
    what.res.pitch2D.devPtr = memory;
    what.res.pitch2D.format = CU_AD_FORMAT_FLOAT;
    what.res.pitch2D.numChannels = 1;
    what.res.pitch2D.width = 7;
    what.res.pitch2D.height = 8;
    what.res.pitch2D.pitchInBytes = 512;
    OK(cuTexObjectCreate(&t, &what, &how, NULL));
    OK(run(look, t));
    CHECK_EQ(seen(), 5);
    OK(cuMemFree_v2(memory));
    FAILS(ILLEGAL_ADDRESS, run(look, t));
}

static void
test_descriptions_that_are_wrong(void)
{
    CUDA_TEXTURE_DESC how = {0};
    CUDA_RESOURCE_VIEW_DESC view = {0};
    CUDA_RESOURCE_DESC what;
    CUdeviceptr memory;
    CUtexObject t;
    CUsurfObject s;
    CUarray array;

    begin();
    array = square(0, 3);
    what = of_array(array);
    FAILS(INVALID_VALUE, cuTexObjectCreate(NULL, &what, &how, NULL));
    FAILS(INVALID_VALUE, cuTexObjectCreate(&t, NULL, &how, NULL));
    FAILS(INVALID_VALUE, cuTexObjectCreate(&t, &what, NULL, NULL));
    FAILS(INVALID_VALUE, cuSurfObjectCreate(&s, &what)); /* not made for surfaces */
    view.format = CU_RES_VIEW_FORMAT_FLOAT_2X32;         /* not the array's size */
    view.width = view.height = 4;
    FAILS(INVALID_VALUE, cuTexObjectCreate(&t, &what, &how, &view));
    view.format = CU_RES_VIEW_FORMAT_UINT_1X32;
    OK(cuTexObjectCreate(&t, &what, &how, &view));
    OK(cuTexObjectGetResourceViewDesc(&view, t));
    CHECK_EQ(view.format, CU_RES_VIEW_FORMAT_UINT_1X32);
    OK(cuTexObjectDestroy(t));
    how.filterMode = 2;
    FAILS(INVALID_VALUE, cuTexObjectCreate(&t, &what, &how, NULL));
    how.filterMode = 0;
    what.flags = 1;
    FAILS(INVALID_VALUE, cuTexObjectCreate(&t, &what, &how, NULL));
    what = of_array(NULL);
    FAILS(INVALID_VALUE, cuTexObjectCreate(&t, &what, &how, NULL));
    what = of_array((CUarray)0x1234);
    FAILS(INVALID_HANDLE, cuTexObjectCreate(&t, &what, &how, NULL));

    OK(cuMemAlloc_v2(&memory, 4096));
    memset(&what, 0, sizeof(what));
    what.resType = CU_RESOURCE_TYPE_LINEAR;
    what.res.linear.devPtr = memory;
    what.res.linear.format = CU_AD_FORMAT_FLOAT;
    what.res.linear.numChannels = 1;
    what.res.linear.sizeInBytes = 4096;
    FAILS(INVALID_VALUE, cuSurfObjectCreate(&s, &what));
    OK(cuTexObjectCreate(&t, &what, &how, NULL));
    OK(cuTexObjectDestroy(t));
    what.res.linear.sizeInBytes = 4097;
    FAILS(INVALID_VALUE, cuTexObjectCreate(&t, &what, &how, NULL));
    what.res.linear.sizeInBytes = 64;
    what.res.linear.devPtr = memory + 4; /* not aligned */
    FAILS(INVALID_VALUE, cuTexObjectCreate(&t, &what, &how, NULL));
    what.res.linear.devPtr = memory;
    what.res.linear.numChannels = 3;
    FAILS(INVALID_VALUE, cuTexObjectCreate(&t, &what, &how, NULL));
}

static void
test_mipmaps_have_as_many_levels_as_fit(void)
{
    CUDA_ARRAY3D_DESCRIPTOR desc = {.Width = 8, .Height = 2, .Format = CU_AD_FORMAT_FLOAT,
                                    .NumChannels = 1};
    CUDA_TEXTURE_DESC how = {0};
    CUDA_RESOURCE_DESC what;
    CUmipmappedArray mipmap;
    CUtexObject t;
    CUarray level;

    begin();
    OK(cuMipmappedArrayCreate(&mipmap, &desc, 100));
    OK(cuMipmappedArrayGetLevel(&level, mipmap, 3));
    OK(cuArray3DGetDescriptor_v2(&desc, level));
    CHECK_EQ(desc.Width, 1);
    CHECK_EQ(desc.Height, 1);
    FAILS(INVALID_VALUE, cuMipmappedArrayGetLevel(&level, mipmap, 4));
    FAILS(INVALID_HANDLE, cuArrayDestroy(level));
    memset(&what, 0, sizeof(what));
    what.resType = CU_RESOURCE_TYPE_MIPMAPPED_ARRAY;
    what.res.mipmap.hMipmappedArray = mipmap;
    FAILS(INVALID_VALUE, cuTexObjectCreate(&t, &what, &how, NULL));
    how.flags = CU_TRSF_NORMALIZED_COORDINATES;
    OK(cuTexObjectCreate(&t, &what, &how, NULL));
    OK(cuMipmappedArrayDestroy(mipmap));
    OK(cuTexObjectDestroy(t)); /* in this order too */
}

int
main(void)
{
    int failed = 0;

    RUN(test_objects_see_what_copies_and_surfaces_wrote);
    RUN(test_a_texture_of_an_array_that_is_gone_is_none);
    RUN(test_a_texture_of_memory_that_is_gone_faults);
    RUN(test_descriptions_that_are_wrong);
    RUN(test_mipmaps_have_as_many_levels_as_fit);
    return failed;
}
