// Surface writes and reads on arrays, and the array read back.
#include "tour.h"

__global__ void write(cudaSurfaceObject_t s, int w)
{
    surf2Dwrite<float>(threadIdx.x * 10.0f + blockIdx.x, s, threadIdx.x * 4, blockIdx.x);
}
__global__ void turn(cudaSurfaceObject_t s, float *o, int w, int h)
{
    float v;
    surf2Dread(&v, s, (w - 1 - threadIdx.x) * 4, h - 1 - blockIdx.x);
    o[blockIdx.x * w + threadIdx.x] = v;
}
__global__ void outside(cudaSurfaceObject_t s, float *o)
{
    o[threadIdx.x] = surf2Dread<float>(s, (int)(threadIdx.x - 2) * 4, 0, cudaBoundaryModeZero);
}

int main()
{
    const int w = 20, h = 6;
    cudaChannelFormatDesc channel = cudaCreateChannelDesc<float>();
    cudaArray_t array;
    CK(cudaMallocArray(&array, &channel, w, h, cudaArraySurfaceLoadStore));
    cudaResourceDesc resource = {};
    resource.resType = cudaResourceTypeArray;
    resource.res.array.array = array;
    cudaSurfaceObject_t s;
    CK(cudaCreateSurfaceObject(&s, &resource));
    Array<float> o(w * h);
    write<<<h, w>>>(s, w);
    turn<<<h, w>>>(s, o.device, w, h);
    o.down();
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++)
            MUST(o[y * w + x] == (w - 1 - x) * 10.0f + h - 1 - y);
    std::vector<float> back(w * h);
    CK(cudaMemcpy2DFromArray(back.data(), w * 4, array, 0, 0, w * 4, h, cudaMemcpyDeviceToHost));
    MUST(back[3 * w + 7] == 73);
    outside<<<1, 4>>>(s, o.device);
    o.down();
    MUST(o[0] == 0 && o[1] == 0 && o[2] == 0 && o[3] == 10);
    CK(cudaDestroySurfaceObject(s));
    CK(cudaFreeArray(array));
    return tour_end();
}
