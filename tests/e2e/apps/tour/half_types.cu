// Half precision, bfloat16 and fp8: conversions, arithmetic, packed forms.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include "tour.h"

__global__ void halves(const float *x, float *o, int n)
{
    int i = threadIdx.x;
    if (i >= n)
        return;
    __half a = __float2half(x[i]), b = __float2half(1.5f);
    __half2 p = __halves2half2(a, b), q = __hfma2(p, p, p);
    float *r = o + i * 10;
    r[0] = __half2float(a);
    r[1] = __half2float(__hadd(a, b));
    r[2] = __half2float(__hfma(a, b, a));
    r[3] = __low2float(q);
    r[4] = __hgt(a, b) ? 1 : 0;
    __nv_bfloat16 c = __float2bfloat16(x[i]);
    r[5] = __bfloat162float(c);
    r[6] = __bfloat162float(__hmul(c, __float2bfloat16(0.5f)));
    __nv_fp8_e4m3 e(x[i]);
    r[7] = float(e);
    __nv_fp8_e5m2 g(x[i]);
    r[8] = float(g);
    r[9] = __half2float(__hmax(a, b)) + __half2int_rn(a);
}

int main()
{
    const int n = 12;
    Array<float> x(n), o(n * 10);
    const float values[n] = { 0, 1, -1, 0.1f, 3.14159f, 100, -57.3f, 1e-3f, 447, 6e-5f, 2.5f, -0.25f };
    for (int i = 0; i < n; i++)
        x[i] = values[i];
    x.up();
    halves<<<1, 32>>>(x.device, o.device, n);
    o.down();
    for (int i = 0; i < n; i++) {
        float h = __half2float(__float2half(x[i])), *r = &o[i * 10];
        MUST(r[0] == h && tour_close(r[1], h + 1.5, 1e-3) && tour_close(r[2], h * 2.5, 1e-3));
        MUST(tour_close(r[3], h * h + h, 2e-3) || h * h > 65000);
        MUST(r[4] == (h > 1.5f) && r[5] == __bfloat162float(__float2bfloat16(x[i])));
        MUST(tour_close(r[6], r[5] * 0.5, 1e-2));
        MUST(r[7] == float(__nv_fp8_e4m3(x[i])) && r[8] == float(__nv_fp8_e5m2(x[i])));
        MUST(tour_close(r[9], fmaxf(h, 1.5f) + nearbyintf(h), 1e-3));
    }
    return tour_end();
}
