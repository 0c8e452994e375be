// What the programs of the tour share: checking, and a comparison with the host's answer.
// Nothing printed depends on time, addresses or the number of multiprocessors.
#ifndef TOUR_H
#define TOUR_H

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include <cuda_runtime.h>

static int tour_failures;

#define CK(call) \
    do { \
        cudaError_t error_ = (call); \
        if (error_ != cudaSuccess) { \
            tour_failures++; \
            printf("line %d: %s: %s\n", __LINE__, #call, cudaGetErrorName(error_)); \
        } \
    } while (0)

#define MUST(condition) \
    do { \
        if (!(condition)) { \
            tour_failures++; \
            printf("line %d: not so: %s\n", __LINE__, #condition); \
        } \
    } while (0)

static inline int tour_end()
{
    CK(cudaDeviceSynchronize());
    puts(tour_failures ? "FAIL" : "PASS");
    return tour_failures != 0;
}

// Device memory with a host mirror.
template <typename T> struct Array {
    std::vector<T> host;
    T *device = nullptr;

    explicit Array(size_t n, T value = T()) : host(n, value)
    {
        CK(cudaMalloc(&device, n * sizeof(T)));
        up();
    }
    ~Array() { cudaFree(device); }
    void up() { CK(cudaMemcpy(device, host.data(), bytes(), cudaMemcpyHostToDevice)); }
    void down() { CK(cudaMemcpy(host.data(), device, bytes(), cudaMemcpyDeviceToHost)); }
    size_t bytes() const { return host.size() * sizeof(T); }
    T &operator[](size_t i) { return host[i]; }
    size_t size() const { return host.size(); }
};

// A small generator with the same numbers everywhere.
static inline uint32_t tour_random(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

static inline bool tour_close(double got, double want, double relative)
{
    return std::fabs(got - want) <= relative * std::fmax(1.0, std::fabs(want));
}

#endif
