// What a kernel may do by itself: printf, malloc, new, virtual calls, recursion, pointers.
#include "tour.h"

__device__ int fibonacci(int n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }

struct Shape {
    __device__ virtual float area() const = 0;
    __device__ virtual ~Shape() {}
};
struct Square : Shape {
    float a;
    __device__ explicit Square(float side) : a(side) {}
    __device__ float area() const override { return a * a; }
};
struct Disc : Shape {
    float r;
    __device__ explicit Disc(float radius) : r(radius) {}
    __device__ float area() const override { return 3.0f * r * r; }
};

typedef int (*operation)(int, int);
__device__ int plus_(int a, int b) { return a + b; }
__device__ int minus_(int a, int b) { return a - b; }
__device__ int times_(int a, int b) { return a * b; }
__device__ operation operations[3] = { plus_, minus_, times_ };

__global__ void kernel(int *o, float *f, const int *which)
{
    int t = threadIdx.x;
    o[t] = fibonacci(t % 12);
    Shape *shape = t % 2 ? (Shape *)new Square(t) : (Shape *)new Disc(t);
    f[t] = shape ? shape->area() : -1;
    delete shape;
    int *list = (int *)malloc((t + 1) * sizeof(int));
    int sum = 0;
    if (list) {
        for (int i = 0; i <= t; i++)
            list[i] = i;
        for (int i = 0; i <= t; i++)
            sum += list[i];
        free(list);
    }
    o[64 + t] = sum;
    o[128 + t] = operations[which[t]](t, 7);
    if (t == 3)
        printf("thread %d of %d: %s %5.2f %lld %c %x%%\n", t, blockDim.x, "text", 2.5, 1ll << 40,
               'z', 255);
}

__device__ int *kept[8];
__global__ void take(int n)
{
    kept[threadIdx.x] = (int *)malloc(n * sizeof(int));
    for (int i = 0; i < n && kept[threadIdx.x]; i++)
        kept[threadIdx.x][i] = threadIdx.x * 100 + i;
}
__global__ void give(int *o, int n)
{
    int sum = 0;
    for (int i = 0; i < n; i++)
        sum += kept[threadIdx.x] ? kept[threadIdx.x][i] : 0;
    o[threadIdx.x] = sum;
    free(kept[threadIdx.x]);
}

int main()
{
    setvbuf(stdout, 0, _IONBF, 0);
    CK(cudaDeviceSetLimit(cudaLimitStackSize, 8192));
    CK(cudaDeviceSetLimit(cudaLimitMallocHeapSize, 8 << 20));
    Array<int> o(192), which(64);
    Array<float> f(64);
    for (int t = 0; t < 64; t++)
        which[t] = t % 3;
    which.up();
    kernel<<<1, 64>>>(o.device, f.device, which.device);
    CK(cudaDeviceSynchronize());
    o.down(), f.down();
    int fib[12] = { 0, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89 };
    for (int t = 0; t < 64; t++) {
        MUST(o[t] == fib[t % 12] && f[t] == (t % 2 ? t * t : 3.0f * t * t));
        MUST(o[64 + t] == t * (t + 1) / 2);
        MUST(o[128 + t] == (t % 3 == 0 ? t + 7 : t % 3 == 1 ? t - 7 : t * 7));
    }
    take<<<1, 8>>>(50);
    give<<<1, 8>>>(o.device, 50);
    o.down();
    for (int t = 0; t < 8; t++)
        MUST(o[t] == t * 5000 + 49 * 25);
    return tour_end();
}
