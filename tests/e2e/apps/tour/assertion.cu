// A failing assert() in a kernel: reported, and sticky until the device is reset.
#undef NDEBUG
#include <cassert>
#include "tour.h"

__global__ void demand(int limit) { assert((int)(blockIdx.x * blockDim.x + threadIdx.x) < limit); }

int main()
{
    setvbuf(stdout, 0, _IONBF, 0);
    demand<<<2, 32>>>(64);
    CK(cudaDeviceSynchronize());
    demand<<<2, 32>>>(60);
    printf("a failing assertion: %s\n", cudaGetErrorName(cudaDeviceSynchronize()));
    printf("and after it: %s\n", cudaGetErrorName(cudaDeviceSynchronize()));
    CK(cudaDeviceReset());
    demand<<<2, 32>>>(64);
    CK(cudaDeviceSynchronize());
    return tour_end();
}
