// A failing assert() in a kernel: reported, and the device is lost to this process.
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
    printf("and after a reset: %s\n", cudaGetErrorName(cudaDeviceSynchronize()));
    puts(tour_failures ? "FAIL" : "PASS");
    return tour_failures != 0;
}
