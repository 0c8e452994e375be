// Option prices, a gravity step, and a Mandelbrot set: the mathematical functions.
#include "tour.h"

__host__ __device__ static float normal(float d)
{
    float k = 1.0f / (1.0f + 0.2316419f * fabsf(d));
    float p = 0.39894228040143267793994605993438f * expf(-0.5f * d * d) *
              (k * (0.31938153f + k * (-0.356563782f + k * (1.781477937f +
               k * (-1.821255978f + k * 1.330274429f)))));
    return d > 0 ? 1.0f - p : p;
}
__host__ __device__ static void price(float s, float x, float t, float *call, float *put)
{
    const float r = 0.02f, v = 0.30f;
    float root = sqrtf(t), d1 = (logf(s / x) + (r + 0.5f * v * v) * t) / (v * root);
    float d2 = d1 - v * root, c1 = normal(d1), c2 = normal(d2), e = expf(-r * t);
    *call = s * c1 - x * e * c2;
    *put = x * e * (1.0f - c2) - s * (1.0f - c1);
}
__global__ void prices(const float *s, const float *x, const float *t, float *c, float *p, int n)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        price(s[i], x[i], t[i], &c[i], &p[i]);
}
__global__ void gravity(const float4 *body, float3 *force, int n)
{
    __shared__ float4 tile[64];
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    float4 me = body[i];
    float3 a = { 0, 0, 0 };
    for (int j = 0; j < n; j += 64) {
        tile[threadIdx.x] = body[j + threadIdx.x];
        __syncthreads();
        for (int k = 0; k < 64; k++) {
            float3 r = { tile[k].x - me.x, tile[k].y - me.y, tile[k].z - me.z };
            float inverse = rsqrtf(r.x * r.x + r.y * r.y + r.z * r.z + 0.01f);
            float s = tile[k].w * inverse * inverse * inverse;
            a.x += r.x * s;
            a.y += r.y * s;
            a.z += r.z * s;
        }
        __syncthreads();
    }
    force[i] = a;
}
__host__ __device__ static int escape(double cx, double cy)
{
    double x = 0, y = 0;
    int i;
    for (i = 0; i < 200 && x * x + y * y < 4; i++) {
        double next = x * x - y * y + cx;
        y = 2 * x * y + cy;
        x = next;
    }
    return i;
}
__global__ void mandelbrot(int *out, int w, int h)
{
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x < w && y < h)
        out[y * w + x] = escape(-2.0 + 3.0 * x / w, -1.0 + 2.0 * y / h);
}
__global__ void functions(const double *x, double *o, int n)
{
    int i = threadIdx.x;
    if (i >= n)
        return;
    double v = x[i];
    double r[] = { sin(v), cos(v), tan(v), asin(v / 10), acos(v / 10), atan(v), sinh(v), cosh(v),
                   tanh(v), exp(v), exp2(v), expm1(v), log(v + 11), log2(v + 11), log10(v + 11),
                   log1p(v + 11), sqrt(v + 11), cbrt(v), pow(v + 11, 1.5), erf(v), erfc(v),
                   tgamma(v * 0.3 + 4), lgamma(v + 11), fmod(v, 1.3), hypot(v, 2.0), floor(v),
                   ceil(v), round(v), trunc(v), rint(v), j0(v), atan2(v, 2.0) };
    for (int k = 0; k < 32; k++)
        o[i * 32 + k] = r[k];
}

int main()
{
    const int n = 3000;
    Array<float> s(n), x(n), t(n), c(n), p(n);
    uint32_t seed = 5;
    for (int i = 0; i < n; i++) {
        s[i] = 5 + 25 * (tour_random(&seed) % 1000) / 1000.0f;
        x[i] = 1 + 99 * (tour_random(&seed) % 1000) / 1000.0f;
        t[i] = 0.25f + 9 * (tour_random(&seed) % 1000) / 1000.0f;
    }
    s.up(), x.up(), t.up();
    prices<<<(n + 127) / 128, 128>>>(s.device, x.device, t.device, c.device, p.device, n);
    c.down(), p.down();
    for (int i = 0; i < n; i++) {
        float call, put;
        price(s[i], x[i], t[i], &call, &put);
        MUST(tour_close(c[i], call, 2e-5) && tour_close(p[i], put, 2e-5));
    }
    const int bodies = 256;
    Array<float4> body(bodies);
    Array<float3> force(bodies);
    for (int i = 0; i < bodies; i++)
        body[i] = { cosf(i), sinf(i * 1.7f), i * 0.01f, 1.0f + i % 3 };
    body.up();
    gravity<<<bodies / 64, 64>>>(body.device, force.device, bodies);
    force.down();
    for (int i = 0; i < bodies; i++) {
        double a = 0;
        for (int j = 0; j < bodies; j++) {
            double dx = body[j].x - body[i].x, dy = body[j].y - body[i].y, dz = body[j].z - body[i].z;
            a += dx * body[j].w * pow(dx * dx + dy * dy + dz * dz + 0.01, -1.5);
        }
        MUST(tour_close(force[i].x, a, 1e-3));
    }
    const int w = 60, h = 40;
    Array<int> set(w * h);
    mandelbrot<<<dim3(4, 5), dim3(16, 8)>>>(set.device, w, h);
    set.down();
    int differ = 0;
    for (int i = 0; i < w * h; i++)
        differ += abs(set[i] - escape(-2.0 + 3.0 * (i % w) / w, -1.0 + 2.0 * (i / w) / h)) > 1;
    MUST(differ < w * h / 100);         /* fused multiply-add moves the odd point */
    Array<double> v(20), o(20 * 32);
    for (int i = 0; i < 20; i++)
        v[i] = -9.5 + i;
    v.up();
    functions<<<1, 32>>>(v.device, o.device, 20);
    o.down();
    for (int i = 0; i < 20; i++) {
        double a = v[i];
        double r[] = { sin(a), cos(a), tan(a), asin(a / 10), acos(a / 10), atan(a), sinh(a), cosh(a),
                       tanh(a), exp(a), exp2(a), expm1(a), log(a + 11), log2(a + 11), log10(a + 11),
                       log1p(a + 11), sqrt(a + 11), cbrt(a), pow(a + 11, 1.5), erf(a), erfc(a),
                       tgamma(a * 0.3 + 4), lgamma(a + 11), fmod(a, 1.3), hypot(a, 2.0), floor(a),
                       ceil(a), round(a), trunc(a), rint(a), j0(a), atan2(a, 2.0) };
        for (int k = 0; k < 32; k++)
            if (!tour_close(o[i * 32 + k], r[k], 1e-12)) {
                tour_failures++;
                printf("function %d of %g: %.17g, not %.17g\n", k, a, o[i * 32 + k], r[k]);
            }
    }
    return tour_end();
}
