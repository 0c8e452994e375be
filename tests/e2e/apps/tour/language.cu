// C++ on the device: templates, lambdas, tables of functions, unions, cuda::std and atomics.
#include <cuda/atomic>
#include <cuda/semaphore>
#include <cuda/std/array>
#include <cuda/std/complex>
#include <cuda/std/limits>
#include <cuda/std/tuple>
#include "tour.h"
#pragma nv_diag_suppress static_var_with_dynamic_init

template <typename F, typename T> __global__ void each(F f, T *x, int n)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        x[i] = f(i, x[i]);
}

// A functor with state, and one that holds another.
struct Polynomial {
    float c[3];
    __device__ float operator()(int i, float x) const { return (c[2] * x + c[1]) * x + c[0] + i; }
};

template <typename F> struct Twice {
    F f;
    __device__ float operator()(int i, float x) const { return f(i, f(i, x)); }
};

template <int N> struct Power {
    template <typename T> __host__ __device__ static constexpr T of(T x)
    {
        return x * Power<N - 1>::of(x);
    }
};
template <> struct Power<0> {
    template <typename T> __host__ __device__ static constexpr T of(T) { return 1; }
};

template <typename... T> __host__ __device__ constexpr auto total(T... values)
{
    return (values + ...);
}

template <unsigned Block, typename T> __global__ void reduce(const T *in, T *out, int n)
{
    __shared__ T s[Block];
    T sum = 0;
    for (int i = threadIdx.x; i < n; i += Block)
        sum += in[i];
    s[threadIdx.x] = sum;
    __syncthreads();
    if constexpr (Block >= 512) {
        if (threadIdx.x < 256)
            s[threadIdx.x] += s[threadIdx.x + 256];
        __syncthreads();
    }
    for (unsigned half = Block >= 512 ? 128 : Block / 2; half > 0; half /= 2) {
        if (threadIdx.x < half)
            s[threadIdx.x] += s[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0)
        *out = s[0];
}

typedef float (*unary)(float);
template <int K> __device__ float times(float x) { return K * x; }
__device__ float negate(float x) { return -x; }
__device__ unary chosen[4] = { times<2>, times<3>, negate, times<5> };
__device__ unary one_of_them = times<7>;

__global__ void through_pointers(float *x, unary given)
{
    int i = threadIdx.x;
    float v = chosen[i % 4](i);
    x[i] = i % 3 == 0 ? given(v) : v;
}

// Virtual functions over a diamond, made and used on the device.
struct Base {
    int id;
    __device__ Base(int i) : id(i) {}
    __device__ virtual int value() const { return id; }
    __device__ virtual ~Base() {}
};
struct Left : virtual Base {
    __device__ Left(int i) : Base(i) {}
    __device__ int value() const override { return id * 2; }
};
struct Right : virtual Base {
    __device__ Right(int i) : Base(i) {}
};
struct Bottom final : Left, Right {
    int more;
    __device__ Bottom(int i) : Base(i), Left(i), Right(i), more(100) {}
    __device__ int value() const override { return Left::value() + more; }
};

__global__ void objects(int *o)
{
    Base *list[3] = { new Base(threadIdx.x), new Left(threadIdx.x), new Bottom(threadIdx.x) };
    int sum = 0;
    for (Base *object : list) {
        sum += object ? object->value() : -1000000;
        delete object;
    }
    o[threadIdx.x] = sum;
}

__global__ void standard(float *o, int *most)
{
    cuda::std::complex<float> z(0.5f, threadIdx.x * 0.125f), w = 1;
    for (int k = 0; k < 4; k++)
        w = w * z + cuda::std::conj(z);
    cuda::std::array<int, 4> a = { 3, 1, 4, 1 };
    int sum = 0;
    for (int v : a)
        sum += v;
    auto tuple = cuda::std::make_tuple(w.real(), w.imag(), sum);
    auto [re, im, s] = tuple;
    o[3 * threadIdx.x] = re, o[3 * threadIdx.x + 1] = im, o[3 * threadIdx.x + 2] = s;
    *most = cuda::std::numeric_limits<int>::max();
}

// A message passed by release and acquire, and a semaphore that lets two in.
__global__ void ordered(int *data, cuda::atomic<int, cuda::thread_scope_device> *flag, int *o)
{
    __shared__ cuda::counting_semaphore<cuda::thread_scope_block, 2> door;
    __shared__ int inside, most;
    if (threadIdx.x == 0) {
        new (&door) cuda::counting_semaphore<cuda::thread_scope_block, 2>(2);
        inside = most = 0;
    }
    __syncthreads();
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        *data = 42;
        flag->store(1, cuda::std::memory_order_release);
    }
    if (threadIdx.x == 1) {
        while (flag->load(cuda::std::memory_order_acquire) == 0)
            __nanosleep(100);
        atomicAdd(o, *data);
    }
    door.acquire();
    atomicMax(&most, atomicAdd(&inside, 1) + 1);
    atomicSub(&inside, 1);
    door.release();
    __syncthreads();
    if (threadIdx.x == 0 && most > 2)
        atomicAdd(&o[1], 1);
    cuda::atomic_ref<int, cuda::thread_scope_device> counter(o[2]);
    counter.fetch_add(threadIdx.x, cuda::std::memory_order_relaxed);
    int expected = counter.load();
    while (!counter.compare_exchange_weak(expected, expected ^ 1))
        continue;
}

int main()
{
    const int n = 300;
    Array<float> x(n), y(64);
    for (int i = 0; i < n; i++)
        x[i] = i % 5;
    x.up();
    Polynomial p = { { 1, 2, 0.5f } };
    each<<<3, 128>>>(Twice<Polynomial>{ p }, x.device, n);
    x.down();
    for (int i = 0; i < n; i++) {
        float v = i % 5;
        for (int k = 0; k < 2; k++)
            v = (0.5f * v + 2) * v + 1 + i;
        MUST(tour_close(x[i], v, 1e-6));
    }
    static_assert(Power<5>::of(3) == 243 && total(1, 2, 3L) == 6, "known when compiled");

    Array<long long> list(1000), sum(2);
    for (int i = 0; i < 1000; i++)
        list[i] = (long long)i << 33;
    list.up();
    reduce<512><<<1, 512>>>(list.device, sum.device, 1000);
    reduce<64><<<1, 64>>>(list.device, sum.device + 1, 1000);
    sum.down();
    MUST(sum[0] == 499500ll << 33 && sum[1] == sum[0]);

    unary given;
    CK(cudaMemcpyFromSymbol(&given, one_of_them, sizeof(given)));
    through_pointers<<<1, 64>>>(y.device, given);
    y.down();
    for (int i = 0; i < 64; i++) {
        float v = i % 4 == 0 ? 2 * i : i % 4 == 1 ? 3 * i : i % 4 == 2 ? -i : 5 * i;
        MUST(y[i] == (i % 3 == 0 ? 7 * v : v));
    }

    Array<int> o(64);
    objects<<<2, 32>>>(o.device);
    o.down();
    for (int i = 0; i < 32; i++)
        MUST(o[i] == i + 2 * i + 2 * i + 100);

    Array<float> z(96);
    Array<int> most(1);
    standard<<<1, 32>>>(z.device, most.device);
    z.down(), most.down();
    for (int i = 0; i < 32; i++) {
        float a = 0.5f, b = i * 0.125f, re = 1, im = 0;
        for (int k = 0; k < 4; k++) {
            float r = re * a - im * b + a;
            im = re * b + im * a - b;
            re = r;
        }
        MUST(tour_close(z[3 * i], re, 1e-4) && tour_close(z[3 * i + 1], im, 1e-4));
        MUST(z[3 * i + 2] == 9);
    }
    MUST(most[0] == 0x7fffffff);

    const int blocks = 2, threads = 64;
    Array<int> data(1), flag(1), result(3);
    int *d = data.device, *r = result.device;
    auto *f = (cuda::atomic<int, cuda::thread_scope_device> *)flag.device;
    void *args[] = { &d, &f, &r };
    CK(cudaLaunchCooperativeKernel((void *)ordered, blocks, threads, args, 0, 0));
    result.down();
    MUST(result[0] == 42 * blocks && result[1] == 0);
    MUST((result[2] ^ (blocks * 2016)) < 4096);     // what the exchanges did is undone in pairs
    return tour_end();
}
