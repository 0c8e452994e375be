// The other types of tensor cores: bf16, tf32, half sums, and mma with ldmatrix by hand.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <mma.h>
#include "tour.h"
using namespace nvcuda;

__global__ void brain(const __nv_bfloat16 *a, const __nv_bfloat16 *b, float *c)
{
    wmma::fragment<wmma::matrix_a, 32, 8, 16, __nv_bfloat16, wmma::col_major> fa;
    wmma::fragment<wmma::matrix_b, 32, 8, 16, __nv_bfloat16, wmma::row_major> fb;
    wmma::fragment<wmma::accumulator, 32, 8, 16, float> fc;
    wmma::fill_fragment(fc, 2.0f);
    wmma::load_matrix_sync(fa, a, 32);
    wmma::load_matrix_sync(fb, b, 8);
    wmma::mma_sync(fc, fa, fb, fc);
    wmma::store_matrix_sync(c, fc, 32, wmma::mem_col_major);
}

__global__ void ten_bits(const float *a, const float *b, float *c)
{
    wmma::fragment<wmma::matrix_a, 16, 16, 8, wmma::precision::tf32, wmma::row_major> fa;
    wmma::fragment<wmma::matrix_b, 16, 16, 8, wmma::precision::tf32, wmma::col_major> fb;
    wmma::fragment<wmma::accumulator, 16, 16, 8, float> fc;
    wmma::load_matrix_sync(fa, a, 8);
    wmma::load_matrix_sync(fb, b, 8);
    wmma::load_matrix_sync(fc, c, 16, wmma::mem_row_major);
    for (int i = 0; i < fa.num_elements; i++)
        fa.x[i] = wmma::__float_to_tf32(fa.x[i]);
    for (int i = 0; i < fb.num_elements; i++)
        fb.x[i] = wmma::__float_to_tf32(fb.x[i]);
    wmma::mma_sync(fc, fa, fb, fc);
    wmma::store_matrix_sync(c, fc, 16, wmma::mem_row_major);
}

__global__ void all_half(const half *a, const half *b, half *c)
{
    wmma::fragment<wmma::matrix_a, 8, 32, 16, half, wmma::row_major> fa;
    wmma::fragment<wmma::matrix_b, 8, 32, 16, half, wmma::row_major> fb;
    wmma::fragment<wmma::accumulator, 8, 32, 16, half> fc;
    wmma::fill_fragment(fc, __float2half(1.0f));
    wmma::load_matrix_sync(fa, a, 16);
    wmma::load_matrix_sync(fb, b, 32);
    wmma::mma_sync(fc, fa, fb, fc);
    wmma::store_matrix_sync(c, fc, 32, wmma::mem_row_major);
}

// m16n8k16 with fragments as PTX documents them, a and b through shared memory.
__global__ void by_hand(const half *a, const half *b, float *c)
{
    __shared__ __align__(16) half sa[16][16];
    __shared__ __align__(16) half sb[16][8];
    int lane = threadIdx.x;
    for (int k = lane; k < 256; k += 32)
        sa[k / 16][k % 16] = a[k];
    for (int k = lane; k < 128; k += 32)
        sb[k / 8][k % 8] = b[k];
    __syncwarp();
    unsigned ra[4], rb[2];
    float d[4];
    unsigned at = (unsigned)__cvta_generic_to_shared(&sa[lane % 16][lane / 16 * 8]);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(ra[0]), "=r"(ra[1]), "=r"(ra[2]), "=r"(ra[3]) : "r"(at) : "memory");
    at = (unsigned)__cvta_generic_to_shared(&sb[lane % 16][0]);
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(rb[0]), "=r"(rb[1]) : "r"(at) : "memory");
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9}, {%10, %10, %10, %10};"
                 : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
                 : "r"(ra[0]), "r"(ra[1]), "r"(ra[2]), "r"(ra[3]), "r"(rb[0]), "r"(rb[1]),
                   "f"(0.25f));
    for (int i = 0; i < 4; i++)
        c[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = d[i];
}

// Eight-bit floats: conversions only, which every device has.
__global__ void eight_bits(const float *in, float *e4m3, float *e5m2, unsigned char *bits)
{
    int i = threadIdx.x;
    __nv_fp8_e4m3 a(in[i]);
    __nv_fp8_e5m2 b(in[i]);
    e4m3[i] = (float)a, e5m2[i] = (float)b;
    bits[i] = a.__x;
}

// The brain float's arithmetic, in pairs too.
__global__ void pairs(const __nv_bfloat162 *in, __nv_bfloat162 *out)
{
    __nv_bfloat162 x = in[threadIdx.x], y = __hmul2(x, x);
    y = __hfma2(x, __float2bfloat162_rn(2.0f), y);
    out[threadIdx.x] = __hmax2(y, __float2bfloat162_rn(0.0f));
}

int main()
{
    Array<__nv_bfloat16> ba(512), bb(128);
    Array<float> bc(256);
    for (int i = 0; i < 512; i++)
        ba[i] = __float2bfloat16((float)(i % 9 - 4));
    for (int i = 0; i < 128; i++)
        bb[i] = __float2bfloat16((i % 5) * 0.25f);
    ba.up(), bb.up();
    brain<<<1, 32>>>(ba.device, bb.device, bc.device);
    bc.down();
    for (int y = 0; y < 32; y++)
        for (int x = 0; x < 8; x++) {
            float sum = 2;
            for (int k = 0; k < 16; k++)
                sum += __bfloat162float(ba[k * 32 + y]) * __bfloat162float(bb[k * 8 + x]);
            MUST(bc[x * 32 + y] == sum);
        }

    Array<float> ta(128), tb(128), tc(256, 3.0f);
    for (int i = 0; i < 128; i++)
        ta[i] = i % 13 + 1.0f / 4096, tb[i] = (i % 7 - 3) * 0.5f;      // the rest is cut off
    ta.up(), tb.up();
    ten_bits<<<1, 32>>>(ta.device, tb.device, tc.device);
    tc.down();
    for (int y = 0; y < 16; y++)
        for (int x = 0; x < 16; x++) {
            float sum = 3;
            for (int k = 0; k < 8; k++) {
                float v = ta[y * 8 + k] < 1 ? ta[y * 8 + k] : std::floor(ta[y * 8 + k]);
                sum += v * tb[x * 8 + k];
            }
            MUST(tc[y * 16 + x] == sum);
        }

    Array<half> ha(256), hb(512), hc(256);
    for (int i = 0; i < 512; i++) {
        if (i < 256)
            ha[i] = __float2half(i % 3);
        hb[i] = __float2half((float)(i % 4 - 1));
    }
    ha.up(), hb.up();
    all_half<<<1, 32>>>(ha.device, hb.device, hc.device);
    hc.down();
    for (int y = 0; y < 8; y++)
        for (int x = 0; x < 32; x++) {
            float sum = 1;
            for (int k = 0; k < 16; k++)
                sum += __half2float(ha[y * 16 + k]) * __half2float(hb[k * 32 + x]);
            MUST(__half2float(hc[y * 32 + x]) == sum);
        }

    Array<float> hand(128);
    by_hand<<<1, 32>>>(ha.device, hb.device, hand.device);
    hand.down();
    for (int y = 0; y < 16; y++)
        for (int x = 0; x < 8; x++) {
            float sum = 0.25f;
            for (int k = 0; k < 16; k++)
                sum += __half2float(ha[y * 16 + k]) * __half2float(hb[k * 8 + x]);
            MUST(hand[y * 8 + x] == sum);
        }

    const float values[8] = { 0, 1, -1.5f, 17, 300, 1000, 0.0009765625f, 1e-9f };
    const float by_e4m3[8] = { 0, 1, -1.5f, 16, 288, 448, 0, 0 };
    const float by_e5m2[8] = { 0, 1, -1.5f, 16, 320, 1024, 0.0009765625f, 0 };
    Array<float> v(8), e4m3(8), e5m2(8);
    Array<unsigned char> bits(8);
    memcpy(v.host.data(), values, sizeof(values));
    v.up();
    eight_bits<<<1, 8>>>(v.device, e4m3.device, e5m2.device, bits.device);
    e4m3.down(), e5m2.down(), bits.down();
    for (int i = 0; i < 8; i++)
        MUST(e4m3[i] == by_e4m3[i] && e5m2[i] == by_e5m2[i]);
    MUST(bits[1] == 0x38 && bits[2] == 0xbc && bits[5] == 0x7e);

    Array<__nv_bfloat162> p(16), q(16);
    for (int i = 0; i < 16; i++)
        p[i] = __floats2bfloat162_rn((float)(i - 8), i * 0.5f);
    p.up();
    pairs<<<1, 16>>>(p.device, q.device);
    q.down();
    for (int i = 0; i < 16; i++) {
        float x = i - 8, y = i * 0.5f;
        float square = __bfloat162float(__float2bfloat16(y * y));
        MUST(__bfloat162float(q[i].x) == std::fmax(0.0f, x * x + 2 * x));
        MUST(__bfloat162float(q[i].y) == __bfloat162float(__float2bfloat16(square + 2 * y)));
    }
    return tour_end();
}
