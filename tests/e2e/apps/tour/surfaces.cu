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
__global__ void fill(cudaSurfaceObject_t s)
{
    int x = threadIdx.x, y = blockIdx.x, z = blockIdx.y;
    surf3Dwrite(make_uchar4(x, y, z, 9), s, x * 4, y, z);
}
__global__ void mirror(cudaSurfaceObject_t from, cudaSurfaceObject_t to)
{
    int x = threadIdx.x, layer = blockIdx.x;
    float2 v = surf1DLayeredread<float2>(from, x * 8, layer, cudaBoundaryModeClamp);
    surf1DLayeredwrite(make_float2(v.y, v.x), to, (blockDim.x - 1 - x) * 8, layer);
}

// A box of bytes, and layers of lines, one surface into another.
static void more()
{
    cudaArray_t box, lines, turned;
    cudaSurfaceObject_t s, u;
    cudaChannelFormatDesc four = cudaCreateChannelDesc<uchar4>();
    cudaChannelFormatDesc two = cudaCreateChannelDesc<float2>();
    cudaResourceDesc resource = {};
    resource.resType = cudaResourceTypeArray;
    CK(cudaMalloc3DArray(&box, &four, make_cudaExtent(5, 4, 3), cudaArraySurfaceLoadStore));
    resource.res.array.array = box;
    CK(cudaCreateSurfaceObject(&s, &resource));
    fill<<<dim3(4, 3), 5>>>(s);
    std::vector<uchar4> bytes(60);
    cudaMemcpy3DParms p = {};
    p.srcArray = box;
    p.dstPtr = make_cudaPitchedPtr(bytes.data(), 20, 5, 4);
    p.extent = make_cudaExtent(5, 4, 3);
    p.kind = cudaMemcpyDeviceToHost;
    CK(cudaMemcpy3D(&p));
    for (int i = 0; i < 60; i++)
        MUST(bytes[i].x == i % 5 && bytes[i].y == i / 5 % 4 && bytes[i].z == i / 20 && bytes[i].w == 9);
    cudaResourceDesc told;
    CK(cudaGetSurfaceObjectResourceDesc(&told, s));
    MUST(told.res.array.array == box);
    CK(cudaDestroySurfaceObject(s));
    CK(cudaFreeArray(box));

    cudaExtent extent = make_cudaExtent(6, 0, 3);
    unsigned flags = cudaArraySurfaceLoadStore | cudaArrayLayered;
    CK(cudaMalloc3DArray(&lines, &two, extent, flags));
    CK(cudaMalloc3DArray(&turned, &two, extent, flags));
    std::vector<float2> values(18), got(18);
    for (int i = 0; i < 18; i++)
        values[i] = make_float2(i, 100 + i);
    p = {};
    p.srcPtr = make_cudaPitchedPtr(values.data(), 48, 6, 1);
    p.dstArray = lines;
    p.extent = make_cudaExtent(6, 1, 3);
    p.kind = cudaMemcpyHostToDevice;
    CK(cudaMemcpy3D(&p));
    resource.res.array.array = lines;
    CK(cudaCreateSurfaceObject(&s, &resource));
    resource.res.array.array = turned;
    CK(cudaCreateSurfaceObject(&u, &resource));
    mirror<<<3, 6>>>(s, u);
    p = {};
    p.srcArray = turned;
    p.dstPtr = make_cudaPitchedPtr(got.data(), 48, 6, 1);
    p.extent = make_cudaExtent(6, 1, 3);
    p.kind = cudaMemcpyDeviceToHost;
    CK(cudaMemcpy3D(&p));
    for (int i = 0; i < 18; i++) {
        int from = i / 6 * 6 + 5 - i % 6;
        MUST(got[i].x == 100 + from && got[i].y == from);
    }
    CK(cudaDestroySurfaceObject(s));
    CK(cudaDestroySurfaceObject(u));
    CK(cudaFreeArray(lines));
    CK(cudaFreeArray(turned));
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
    more();
    return tour_end();
}
