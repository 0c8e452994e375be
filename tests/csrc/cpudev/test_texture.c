/* Textures and surfaces: filters, address modes, formats, against values by hand. */
#include "check.h"
#include "ptx.h"

#include <math.h>

enum { MAX = 32 };

/* Every thread has four coordinates %f1-4, as integers %r2-5, and gives %f5-8. */
#define HEAD                                                                           \
    PTX_HEAD ".visible .entry k(.param .u64 t, .param .u64 in, .param .u64 out) {\n"   \
    ".reg .b32 %r<12>; .reg .f32 %f<12>; .reg .b64 %rd<10>; .reg .b16 %h<5>;\n"        \
    ".reg .pred %p<2>;\n"                                                              \
    "ld.param.u64 %rd1, [t]; ld.param.u64 %rd2, [in]; ld.param.u64 %rd3, [out];\n"     \
    "mov.u32 %r1, %tid.x; mul.wide.u32 %rd4, %r1, 16; add.s64 %rd5, %rd2, %rd4;\n"     \
    "add.s64 %rd6, %rd3, %rd4; ld.global.v4.f32 {%f1, %f2, %f3, %f4}, [%rd5];\n"       \
    "cvt.rzi.s32.f32 %r2, %f1; cvt.rzi.s32.f32 %r3, %f2; cvt.rzi.s32.f32 %r4, %f3;\n"  \
    "cvt.rzi.s32.f32 %r5, %f4; mov.f32 %f5, 0f00000000; mov.f32 %f6, %f5;\n"           \
    "mov.f32 %f7, %f5; mov.f32 %f8, %f5; mov.b32 %r6, %f5;\n"
#define TAIL "st.global.v4.f32 [%rd6], {%f5, %f6, %f7, %f8}; ret;\n}\n"
#define TEX_F32 ".v4.f32.f32 {%f5, %f6, %f7, %f8}, "

static struct fdcpu_texture object;
static float (*in)[4], (*out)[4];

static const struct fdcpu_texture *
look_up(void *user, uint64_t number, bool surface)
{
    (void)user;
    return number == (surface ? 78 : 77) ? &object : NULL;
}

static int
run_on(const char *op, uint64_t number, int n)
{
    char text[4096];
    struct fdcpu_module *m;
    int result;

    snprintf(text, sizeof(text), "%s%s\n%s", HEAD, op, TAIL);
    m = ptx_load(text, NULL);
    CHECK(m != NULL);
    ptx_env.texture = look_up;
    result = ptx_run(m, "k", 1, (unsigned)n, 3, number, PTX_PTR(in), PTX_PTR(out));
    fdcpu_module_unload(m);
    return result;
}

static void
begin(enum fdcpu_texel texel, uint32_t channels, uint32_t element, const void *data,
      uint32_t width, uint32_t height, uint32_t depth)
{
    memset(&object, 0, sizeof(object));
    object.texel = texel;
    object.channels = channels;
    object.element = element;
    object.dims = depth > 1 ? 3 : height > 1 ? 2 : 1;
    object.nlevels = 1;
    object.level[0] = (struct fdcpu_plane){
        (uintptr_t)data, (uint64_t)width * element, (uint64_t)width * height * element,
        width, height, depth };
    memset(object.address, FDCPU_ADDRESS_CLAMP, sizeof(object.address));
    if (in == NULL) {
        in = ptx_buffer(MAX * 16);
        out = ptx_buffer(MAX * 16);
    }
    memset(in, 0, MAX * 16);
    memset(out, 0, MAX * 16);
}

/* One coordinate a thread, one value each. */
static void
line(const char *op, int n, const float (*pairs)[2])
{
    for (int k = 0; k < n; k++)
        in[k][0] = pairs[k][0];
    CHECK_EQ(run_on(op, 77, n), 0);
    for (int k = 0; k < n; k++)
        if (out[k][0] != pairs[k][1]) {
            fprintf(stderr, "at %g: %g, not %g\n", (double)pairs[k][0], (double)out[k][0],
                    (double)pairs[k][1]);
            exit(1);
        }
}
#define LINE(op, ...)                                                                  \
    do {                                                                               \
        static const float pairs[][2] = { __VA_ARGS__ };                               \
        line(op, (int)(sizeof(pairs) / sizeof(*pairs)), pairs);                        \
    } while (0)

static const float four[4] = { 10, 20, 30, 40 };
#define TEX1 "tex.1d" TEX_F32 "[%rd1, {%f1}];"

static void
test_points_and_the_address_modes_of_plain_coordinates(void)
{
    begin(FDCPU_TEXEL_F32, 1, 4, four, 4, 1, 1);
    LINE(TEX1, { -3, 10 }, { 0, 10 }, { 0.99f, 10 }, { 1, 20 }, { 3.5f, 40 }, { 9, 40 },
         { INFINITY, 40 }, { -INFINITY, 10 });
    CHECK_EQ(out[0][1], 0);
    CHECK_EQ(out[0][2], 0);
    CHECK_EQ(out[0][3], 1);             /* channels that are not there */
    object.address[0] = FDCPU_ADDRESS_WRAP;     /* is clamp */
    LINE(TEX1, { -1, 10 }, { 5, 40 });
    object.address[0] = FDCPU_ADDRESS_BORDER;
    object.border[0] = 100;
    LINE(TEX1, { -0.1f, 100 }, { 0, 10 }, { 3.99f, 40 }, { 4, 100 });
}

static void
test_points_and_the_address_modes_of_normalised_coordinates(void)
{
    begin(FDCPU_TEXEL_F32, 1, 4, four, 4, 1, 1);
    object.normalized = true;
    LINE(TEX1, { -1, 10 }, { 0.3f, 20 }, { 0.75f, 40 }, { 2, 40 });
    object.address[0] = FDCPU_ADDRESS_WRAP;
    LINE(TEX1, { -0.2f, 40 }, { 1, 10 }, { 1.3f, 20 }, { -5.7f, 20 });
    object.address[0] = FDCPU_ADDRESS_MIRROR;
    LINE(TEX1, { -0.1f, 10 }, { 1.1f, 40 }, { 1.6f, 20 }, { 2.1f, 10 });
    object.linear = true;
    LINE(TEX1, { 0, 10 }, { 1, 40 }, { 0.25f, 15 });
    object.address[0] = FDCPU_ADDRESS_WRAP;
    LINE(TEX1, { 0, 25 }, { 1, 25 }, { 0.125f, 10 });
}

static void
test_linear_weights_have_eight_bits(void)
{
    begin(FDCPU_TEXEL_F32, 1, 4, four, 4, 1, 1);
    object.linear = true;
    LINE(TEX1, { 0.5f, 10 }, { 1, 15 }, { 1.25f, 17.5f }, { 0, 10 }, { 4, 40 },
         { 0.5f + 1.0f / 512, 10.0390625f }, { 0.5f + 1.0f / 1024, 10 },
         { 1.5f - 1.0f / 1024, 20 });
    object.address[0] = FDCPU_ADDRESS_BORDER;
    object.border[0] = 100;
    LINE(TEX1, { 0, 55 }, { 4, 70 }, { -1, 100 });
}

static void
test_planes_boxes_and_layers(void)
{
    static const float plane[4] = { 0, 1, 2, 3 };
    static const float box[8] = { 0, 1, 2, 3, 4, 5, 6, 7 };

    begin(FDCPU_TEXEL_F32, 1, 4, plane, 2, 2, 1);
    object.linear = true;
    in[0][0] = in[0][1] = 1;
    in[1][0] = 0.75f, in[1][1] = 1.25f;
    CHECK_EQ(run_on("tex.2d" TEX_F32 "[%rd1, {%f1, %f2}];", 77, 2), 0);
    CHECK(out[0][0] == 1.5f && out[1][0] == 1.75f);

    begin(FDCPU_TEXEL_F32, 1, 4, box, 2, 2, 2);
    object.linear = true;
    in[0][0] = in[0][1] = in[0][2] = 1;
    in[1][0] = 0.5f, in[1][1] = 0.5f, in[1][2] = 1.25f;
    CHECK_EQ(run_on("tex.3d" TEX_F32 "[%rd1, {%f1, %f2, %f3, %f3}];", 77, 2), 0);
    CHECK(out[0][0] == 3.5f && out[1][0] == 3);

    object.layered = true;
    object.dims = 2;
    object.linear = false;
    for (int k = 0; k < 4; k++)
        in[k][0] = (float)k - 1, in[k][1] = 1.5f, in[k][2] = 0.5f;
    CHECK_EQ(run_on("max.s32 %r2, %r2, 0; tex.a2d" TEX_F32 "[%rd1, {%r2, %f2, %f3, %f3}];", 77,
                    4), 0);
    CHECK(out[0][0] == 1 && out[1][0] == 1 && out[2][0] == 5 && out[3][0] == 5);
    object.dims = 1;
    object.level[0].height = 1;
    in[0][0] = 1;
    CHECK_EQ(run_on("tex.a1d" TEX_F32 "[%rd1, {%r2, %f2}];", 77, 1), 0);
    CHECK_EQ(out[0][0], 5);
}

static void
test_formats_and_how_they_are_read(void)
{
    static const uint8_t bytes[4] = { 255, 128, 0, 51 };
    static const int8_t sign[2] = { -128, 127 };
    static const uint16_t half[2] = { 0x3e00, 0xc000 };
    static const uint32_t words[2] = { 0xdeadbeef, 7 };

    begin(FDCPU_TEXEL_U8, 4, 4, bytes, 1, 1, 1);
    object.as_float = true;
    CHECK_EQ(run_on(TEX1, 77, 1), 0);
    CHECK(out[0][0] == 1 && out[0][1] == 128 / 255.0f && out[0][2] == 0 && out[0][3] == 0.2f);
    object.srgb = true;
    CHECK_EQ(run_on(TEX1, 77, 1), 0);
    CHECK(out[0][0] == 1 && fabsf(out[0][1] - 0.2158605f) < 1e-6f && out[0][3] == 0.2f);
    object.as_float = object.srgb = false;
    CHECK_EQ(run_on("tex.1d.v4.u32.f32 {%r2, %r3, %r4, %r5}, [%rd1, {%f1}]; cvt.rn.f32.u32 %f5, "
                    "%r2; cvt.rn.f32.u32 %f6, %r3; cvt.rn.f32.u32 %f8, %r5;", 77, 1), 0);
    CHECK(out[0][0] == 255 && out[0][1] == 128 && out[0][3] == 51);

    begin(FDCPU_TEXEL_S8, 2, 2, sign, 1, 1, 1);
    object.as_float = true;
    CHECK_EQ(run_on(TEX1, 77, 1), 0);
    CHECK(out[0][0] == -1 && out[0][1] == 1 && out[0][2] == 0 && out[0][3] == 1);
    object.as_float = false;
    CHECK_EQ(run_on("tex.1d.v4.s32.f32 {%r2, %r3, %r4, %r5}, [%rd1, {%f1}]; "
                    "cvt.rn.f32.s32 %f5, %r2; cvt.rn.f32.s32 %f8, %r5;", 77, 1), 0);
    CHECK(out[0][0] == -128 && out[0][3] == 1);

    begin(FDCPU_TEXEL_F16, 2, 4, half, 1, 1, 1);
    CHECK_EQ(run_on(TEX1, 77, 1), 0);
    CHECK(out[0][0] == 1.5f && out[0][1] == -2);
    CHECK_EQ(run_on("tex.1d.v4.f16.f32 {%h1, %h2, %h3, %h4}, [%rd1, {%f1}]; "
                    "cvt.f32.f16 %f5, %h1; cvt.f32.f16 %f6, %h2;", 77, 1), 0);
    CHECK(out[0][0] == 1.5f && out[0][1] == -2);
    CHECK_EQ(run_on("tex.1d.v2.f16x2.f32 {%r2, %r3}, [%rd1, {%f1}]; mov.b32 %f5, %r2; "
                    "mov.b32 %f6, %r3;", 77, 1), 0);
    CHECK_EQ(((uint32_t *)out)[0], 0xc0003e00);
    CHECK_EQ(((uint32_t *)out)[1], 0x3c000000);

    begin(FDCPU_TEXEL_U32, 1, 4, words, 2, 1, 1);
    object.linear = true;               /* of integers there is none */
    in[0][0] = 0.9f;
    CHECK_EQ(run_on("tex.1d.v4.u32.f32 {%r2, %r3, %r4, %r5}, [%rd1, {%f1}]; mov.b32 %f5, %r2;",
                    77, 1), 0);
    CHECK_EQ(((uint32_t *)out)[0], 0xdeadbeef);
}

static void
test_the_faces_of_a_cube(void)
{
    static const float faces[12] = { 0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15 };
    static const float along[6][3] = { { 2, 1, -1 }, { -3, 1, 1 }, { 0, 1, 0 }, { 0, -1, 0.5f },
                                       { 0.1f, 0, 7 }, { 0, 0, -1 } };

    begin(FDCPU_TEXEL_F32, 1, 4, faces, 1, 1, 12);
    object.layered = object.cube = object.normalized = true;
    object.dims = 2;
    for (int k = 0; k < 6; k++)
        memcpy(in[k], along[k], 12);
    CHECK_EQ(run_on("tex.cube" TEX_F32 "[%rd1, {%f1, %f2, %f3, %f3}];", 77, 6), 0);
    for (int k = 0; k < 6; k++)
        CHECK_EQ(out[k][0], k);
    CHECK_EQ(run_on("mov.u32 %r2, 1; tex.acube" TEX_F32 "[%rd1, {%r2, %f1, %f2, %f3}];", 77, 6),
             0);
    for (int k = 0; k < 6; k++)
        CHECK_EQ(out[k][0], 10 + k);
}

static void
test_levels_of_detail(void)
{
    static const float smaller[2] = { 1, 2 }, last[1] = { 7 };

    begin(FDCPU_TEXEL_F32, 1, 4, four, 4, 1, 1);
    object.level[1] = (struct fdcpu_plane){ (uintptr_t)smaller, 8, 8, 2, 1, 1 };
    object.level[2] = (struct fdcpu_plane){ (uintptr_t)last, 4, 4, 1, 1, 1 };
    object.nlevels = 3;
    object.normalized = true;
    object.lod_max = 10;
    in[0][0] = in[1][0] = in[2][0] = in[3][0] = 0.125f;
    in[1][1] = 1, in[2][1] = 0.5f, in[3][1] = 99;
    object.mip_linear = true;
    CHECK_EQ(run_on("tex.level.1d" TEX_F32 "[%rd1, {%f1}], %f2;", 77, 4), 0);
    CHECK(out[0][0] == 10 && out[1][0] == 1 && out[2][0] == 5.5f && out[3][0] == 7);
    object.lod_min = 1;
    object.lod_max = 1;
    CHECK_EQ(run_on("tex.level.1d" TEX_F32 "[%rd1, {%f1}], %f2;", 77, 4), 0);
    CHECK(out[0][0] == 1 && out[3][0] == 1);
    CHECK_EQ(run_on("tex.base.1d" TEX_F32 "[%rd1, {%f1}];", 77, 1), 0);
    CHECK_EQ(out[0][0], 10);
    object.lod_min = 0;
    object.lod_max = 10;
    object.lod_bias = 1;
    CHECK_EQ(run_on(TEX1, 77, 1), 0);
    CHECK_EQ(out[0][0], 1);
    object.lod_bias = 0;
    object.mip_linear = false;
    in[1][1] = 0.5f, in[2][1] = 0.3f, in[3][1] = 4;     /* steps of 2, 1.2, 16 texels */
    CHECK_EQ(run_on("tex.grad.1d" TEX_F32 "[%rd1, {%f1}], {%f2}, {%f3};", 77, 4), 0);
    CHECK(out[0][0] == 10 && out[1][0] == 1 && out[2][0] == 10 && out[3][0] == 7);
    CHECK_EQ(run_on("txq.num_mipmap_levels.b32 %r2, [%rd1]; txq.level.width.b32 %r3, [%rd1], 1; "
                    "cvt.rn.f32.u32 %f5, %r2; cvt.rn.f32.u32 %f6, %r3;", 77, 1), 0);
    CHECK(out[0][0] == 3 && out[0][1] == 2);
}

static void
test_gathers_offsets_and_queries(void)
{
    static const float plane[4] = { 0, 1, 2, 3 };

    begin(FDCPU_TEXEL_F32, 1, 4, plane, 2, 2, 1);
    in[0][0] = in[0][1] = 1;
    CHECK_EQ(run_on("tld4.r.2d" TEX_F32 "[%rd1, {%f1, %f2}];", 77, 1), 0);
    CHECK(out[0][0] == 2 && out[0][1] == 3 && out[0][2] == 1 && out[0][3] == 0);
    in[0][0] = in[0][1] = 0.5f;
    CHECK_EQ(run_on("mov.u32 %r2, 1; mov.u32 %r3, 0; tex.2d" TEX_F32
                    "[%rd1, {%f1, %f2}], {%r2, %r3};", 77, 1), 0);
    CHECK_EQ(out[0][0], 1);
    CHECK_EQ(run_on("tex.2d.v4.f32.f32 {%f5, %f6, %f7, %f8}|%p1, [%rd1, {%f1, %f2}]; "
                    "selp.f32 %f6, 0f3f800000, 0f00000000, %p1;", 77, 1), 0);
    CHECK_EQ(out[0][1], 1);
    CHECK_EQ(run_on("txq.width.b32 %r2, [%rd1]; txq.height.b32 %r3, [%rd1]; "
                    "txq.channel_order.b32 %r4, [%rd1]; txq.channel_data_type.b32 %r5, [%rd1]; "
                    "cvt.rn.f32.u32 %f5, %r2; cvt.rn.f32.u32 %f6, %r3; "
                    "cvt.rn.f32.u32 %f7, %r4; cvt.rn.f32.u32 %f8, %r5;", 77, 1), 0);
    CHECK(out[0][0] == 2 && out[0][1] == 2 && out[0][2] == 0x10b0 && out[0][3] == 0x10de);
}

static void
test_fetches_from_memory(void)
{
    float *memory = ptx_buffer(16);

    begin(FDCPU_TEXEL_F32, 1, 4, memory, 4, 1, 1);
    memcpy(memory, four, 16);
    object.line = object.checked = true;
    LINE("tex.1d.v4.f32.s32 {%f5, %f6, %f7, %f8}, [%rd1, {%r2}];", { 0, 10 }, { 3, 40 }, { 4, 0 },
         { -1, 0 });
    ptx_free(memory);
    CHECK_EQ(run_on("tex.1d.v4.f32.s32 {%f5, %f6, %f7, %f8}, [%rd1, {%r2}];", 77, 1), 700);
}

static void
test_surfaces(void)
{
    uint32_t words[8] = { 0 };
    uint8_t bytes[4] = { 0 };
    int16_t shorts[2] = { 0 };

    begin(FDCPU_TEXEL_U32, 1, 4, words, 4, 2, 1);
    in[1][0] = 8, in[1][1] = 1;
    CHECK_EQ(run_on("mov.u32 %r7, 5; add.u32 %r8, %r7, %r2; "
                    "sust.b.2d.v2.b32.trap [%rd1, {%r2, %r3}], {%r7, %r8};", 78, 2), 0);
    CHECK(words[0] == 5 && words[1] == 5 && words[6] == 5 && words[7] == 13 && words[2] == 0);
    in[0][0] = 4, in[1][0] = 400, in[1][1] = -3, in[2][0] = -4, in[2][1] = 1;
    CHECK_EQ(run_on("suld.b.2d.b32.clamp %r7, [%rd1, {%r2, %r3}]; cvt.rn.f32.u32 %f5, %r7;", 78,
                    3), 0);
    CHECK(out[0][0] == 5 && out[1][0] == 0 && out[2][0] == 0);
    CHECK_EQ(run_on("suld.b.2d.b64.zero {%rd7}, [%rd1, {%r2, %r3}]; cvt.rn.f32.u64 %f5, %rd7;",
                    78, 1), 716);
    in[0][0] = 16;
    CHECK_EQ(run_on("sust.b.2d.b32.zero [%rd1, {%r2, %r3}], {%r2};", 78, 3), 0);
    CHECK_EQ(words[4], 0);
    CHECK_EQ(run_on("suld.b.2d.b32.trap %r7, [%rd1, {%r2, %r3}];", 78, 3), 719);
    CHECK(strstr(ptx_fault.report, "outside of the surface") != NULL);
    for (int k = 0; k < 8; k++)
        in[k][0] = 0, in[k][1] = 1;
    CHECK_EQ(run_on("mov.u32 %r7, 3; sured.b.add.2d.u32.trap [%rd1, {%r2, %r3}], %r7;", 78, 8), 0);
    CHECK_EQ(words[4], 24);
    CHECK_EQ(run_on("suq.width.b32 %r2, [%rd1]; suq.height.b32 %r3, [%rd1]; "
                    "cvt.rn.f32.u32 %f5, %r2; cvt.rn.f32.u32 %f6, %r3;", 78, 1), 0);
    CHECK(out[0][0] == 4 && out[0][1] == 2);

    begin(FDCPU_TEXEL_U8, 1, 1, bytes, 4, 1, 1);
    in[0][0] = 2;
    CHECK_EQ(run_on("mov.u32 %r7, 300; sust.p.1d.b32.trap [%rd1, {%r2}], {%r7};", 78, 1), 0);
    CHECK(bytes[2] == 255 && bytes[1] == 0 && bytes[3] == 0);
    begin(FDCPU_TEXEL_S16, 1, 2, shorts, 2, 1, 1);
    in[0][0] = 1;
    CHECK_EQ(run_on("mov.u32 %r7, -70000; sust.p.1d.b32.trap [%rd1, {%r2}], {%r7};", 78, 1), 0);
    CHECK(shorts[0] == 0 && shorts[1] == -32768);

    begin(FDCPU_TEXEL_F32, 1, 4, words, 2, 2, 2);
    object.layered = true;
    in[0][0] = 1, in[0][1] = 4, in[0][2] = 1;
    CHECK_EQ(run_on("mov.f32 %f9, 0f40400000; sust.b.a2d.b32.trap [%rd1, {%r2, %r3, %r4, %r4}], "
                    "{%f9}; suld.b.3d.b32.trap {%f5}, [%rd1, {%r3, %r4, %r2, %r2}];", 78, 1), 0);
    CHECK(((float *)words)[7] == 3 && out[0][0] == 3);
}

static void
test_numbers_that_are_no_objects(void)
{
    begin(FDCPU_TEXEL_F32, 1, 4, four, 4, 1, 1);
    CHECK_EQ(run_on(TEX1, 12345, 1), 700);
    CHECK(strstr(ptx_fault.report, "0x3039 is no texture object") != NULL);
    CHECK_EQ(run_on(TEX1, 78, 1), 700);
    CHECK_EQ(run_on("suld.b.1d.b32.zero %r7, [%rd1, {%r2}];", 77, 1), 700);
    CHECK_EQ(run_on("tex.2dms.v4.f32.s32 {%f5, %f6, %f7, %f8}, [%rd1, {%r2, %r3, %r4, %r4}];", 77,
                    1), 801);
    CHECK(strstr(ptx_fault.report, "tex.2dms") != NULL);
}

int
main(void)
{
    int failed = 0;

    RUN(test_points_and_the_address_modes_of_plain_coordinates);
    RUN(test_points_and_the_address_modes_of_normalised_coordinates);
    RUN(test_linear_weights_have_eight_bits);
    RUN(test_planes_boxes_and_layers);
    RUN(test_formats_and_how_they_are_read);
    RUN(test_the_faces_of_a_cube);
    RUN(test_levels_of_detail);
    RUN(test_gathers_offsets_and_queries);
    RUN(test_fetches_from_memory);
    RUN(test_surfaces);
    RUN(test_numbers_that_are_no_objects);
    return failed;
}
