// Interval arithmetic with directed rounding, and Newton's method that finds every root.
#include "tour.h"

struct Interval {
    double low, high;
};

__device__ Interval operator+(Interval a, Interval b)
{
    return { __dadd_rd(a.low, b.low), __dadd_ru(a.high, b.high) };
}

__device__ Interval operator-(Interval a, Interval b)
{
    return { __dadd_rd(a.low, -b.high), __dadd_ru(a.high, -b.low) };
}

__device__ Interval operator*(Interval a, Interval b)
{
    double low = fmin(fmin(__dmul_rd(a.low, b.low), __dmul_rd(a.low, b.high)),
                      fmin(__dmul_rd(a.high, b.low), __dmul_rd(a.high, b.high)));
    double high = fmax(fmax(__dmul_ru(a.low, b.low), __dmul_ru(a.low, b.high)),
                       fmax(__dmul_ru(a.high, b.low), __dmul_ru(a.high, b.high)));
    return { low, high };
}

__device__ Interval divide(double a, Interval b) // b has no zero inside
{
    double low = fmin(__ddiv_rd(a, b.low), __ddiv_rd(a, b.high));
    double high = fmax(__ddiv_ru(a, b.low), __ddiv_ru(a, b.high));
    return { low, high };
}

__device__ Interval meet(Interval a, Interval b)
{
    return { fmax(a.low, b.low), fmin(a.high, b.high) };
}

// x^3 - 3x + 1 and its derivative
__device__ Interval f(Interval x) { return x * x * x - Interval{ 3, 3 } * x + Interval{ 1, 1 }; }
__device__ Interval slope(Interval x) { return Interval{ 3, 3 } * (x * x) - Interval{ 3, 3 }; }

// Each thread has a piece of the line, and a stack of what of it is still to be looked at.
__global__ void roots(double from, double step, Interval *out, int *count)
{
    int t = blockIdx.x * blockDim.x + threadIdx.x, used = 1;
    Interval stack[64];
    stack[0] = { from + t * step, from + (t + 1) * step };
    while (used > 0) {
        Interval x = stack[--used], y = f(x), d = slope(x);
        if (y.low > 0 || y.high < 0)
            continue;
        double middle = x.low + (x.high - x.low) / 2;
        if (x.high - x.low < 1e-14) {
            out[atomicAdd(count, 1)] = x;
            continue;
        }
        if (d.low > 0 || d.high < 0) {
            Interval at = f({ middle, middle });
            Interval left = divide(at.low, d), right = divide(at.high, d);
            Interval q = { fmin(left.low, right.low), fmax(left.high, right.high) };
            Interval next = meet(x, Interval{ middle, middle } - q);
            if (!(next.low <= next.high))
                continue;
            if (next.high - next.low < 0.9 * (x.high - x.low)) {
                stack[used++] = next;
                continue;
            }
        }
        if (middle <= x.low || middle >= x.high || used + 2 > 64) {
            out[atomicAdd(count, 1)] = x;
            continue;
        }
        stack[used++] = { x.low, middle };
        stack[used++] = { middle, x.high };
    }
}

// A sum in four roundings: it lies between the outer ones, which are close together.
__global__ void sums(const float *x, int n, float *o)
{
    float down = 0, up = 0, nearest = 0, zero = 0;
    for (int i = 0; i < n; i++) {
        down = __fadd_rd(down, x[i]);
        up = __fadd_ru(up, x[i]);
        nearest = __fadd_rn(nearest, x[i]);
        zero = __fadd_rz(zero, x[i]);
    }
    o[0] = down, o[1] = up, o[2] = nearest, o[3] = zero;
    o[4] = __frcp_rd(3.0f), o[5] = __frcp_ru(3.0f);
    o[6] = __fsqrt_rd(2.0f), o[7] = __fsqrt_ru(2.0f);
    o[8] = __fmaf_rd(0.1f, 0.1f, 1.0f), o[9] = __fmaf_ru(0.1f, 0.1f, 1.0f);
    o[10] = __double2float_rd(0.1), o[11] = __double2float_ru(0.1);
    o[12] = __int2float_rd(16777217), o[13] = __int2float_ru(16777217);
}

int main()
{
    Array<Interval> out(64);
    Array<int> count(1);
    roots<<<4, 32>>>(-4, 8.0 / 128, out.device, count.device);
    out.down(), count.down();
    const double want[3] = { -1.8793852415718169, 0.34729635533386069, 1.5320888862379562 };
    bool found[3] = {};
    MUST(count[0] >= 3 && count[0] < 64);
    for (int i = 0; i < count[0]; i++)
        for (int k = 0; k < 3; k++) {
            found[k] = found[k] || (out[i].low <= want[k] && want[k] <= out[i].high);
            MUST(out[i].low <= out[i].high);
        }
    MUST(found[0] && found[1] && found[2]);
    for (int i = 0; i < count[0]; i++) {
        double nearest = 10;
        for (int k = 0; k < 3; k++)
            nearest = std::fmin(nearest, std::fabs(out[i].low - want[k]));
        MUST(nearest < 1e-12);
    }

    const int n = 1000;
    Array<float> x(n), o(14);
    double exact = 0;
    for (int i = 0; i < n; i++) {
        x[i] = 0.1f * (i % 17 + 1);
        exact += x[i];
    }
    x.up();
    sums<<<1, 1>>>(x.device, n, o.device);
    o.down();
    MUST(o[0] < exact && exact < o[1] && o[0] <= o[2] && o[2] <= o[1] && o[3] == o[0]);
    MUST(o[1] - o[0] < 1);
    const double between[5] = { 1 / 3.0, std::sqrt(2.0), 1.0 + (double)0.1f * 0.1f, 0.1, 16777217 };
    for (int k = 0; k < 5; k++) {
        MUST(o[4 + 2 * k] < between[k] && between[k] < o[5 + 2 * k]);
        MUST(std::nextafterf(o[4 + 2 * k], 1e9f) == o[5 + 2 * k]);
    }
    return tour_end();
}
