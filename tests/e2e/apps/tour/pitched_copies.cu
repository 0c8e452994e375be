// Copies in two and three dimensions, between host, linear and pitched memory.
#include "tour.h"

__global__ void touch(cudaPitchedPtr p, cudaExtent e, int plane)
{
    int x = threadIdx.x, y = blockIdx.x, z = blockIdx.y;
    if (x < e.width / 4)
        *(int *)((char *)p.ptr + (size_t)z * plane + y * p.pitch + x * 4) += 1000;
}

int main()
{
    const int w = 37, h = 11, d = 5, n = w * h * d;
    std::vector<int> in(n), out(n, -1);
    for (int i = 0; i < n; i++)
        in[i] = i;
    cudaExtent extent = make_cudaExtent(w * sizeof(int), h, d);
    cudaPitchedPtr box, second;
    CK(cudaMalloc3D(&box, extent));
    CK(cudaMalloc3D(&second, extent));
    MUST(box.pitch >= w * sizeof(int));
    CK(cudaMemset3D(box, 0, extent));
    cudaMemcpy3DParms p = {};
    p.srcPtr = make_cudaPitchedPtr(in.data(), w * sizeof(int), w, h);
    p.dstPtr = box;
    p.extent = extent;
    p.kind = cudaMemcpyHostToDevice;
    CK(cudaMemcpy3D(&p));
    touch<<<dim3(h, d), 64>>>(box, extent, box.pitch * h);
    p.srcPtr = box;
    p.dstPtr = second;
    p.kind = cudaMemcpyDeviceToDevice;
    CK(cudaMemcpy3D(&p));
    p.srcPtr = second;
    p.dstPtr = make_cudaPitchedPtr(out.data(), w * sizeof(int), w, h);
    p.kind = cudaMemcpyDeviceToHost;
    CK(cudaMemcpy3DAsync(&p, 0));
    CK(cudaStreamSynchronize(0));
    for (int i = 0; i < n; i++)
        MUST(out[i] == i + 1000);
    p.srcPtr = second;
    p.srcPos = make_cudaPos(4 * sizeof(int), 2, 1);
    p.dstPos = make_cudaPos(0, 0, 0);
    p.extent = make_cudaExtent(3 * sizeof(int), 2, 2);
    std::vector<int> part(w * h * d, -7);
    p.dstPtr = make_cudaPitchedPtr(part.data(), w * sizeof(int), w, h);
    CK(cudaMemcpy3D(&p));
    for (int z = 0; z < 2; z++)
        for (int y = 0; y < 2; y++)
            for (int x = 0; x < 4; x++)
                MUST(part[(z * h + y) * w + x] ==
                     (x < 3 ? ((z + 1) * h + y + 2) * w + x + 4 + 1000 : -7));
    int *flat;
    size_t pitch;
    CK(cudaMallocPitch((void **)&flat, &pitch, w * sizeof(int), h));
    CK(cudaMemset2D(flat, pitch, 0xff, w * sizeof(int), h));
    CK(cudaMemcpy2D(flat, pitch, in.data(), w * 4, 20 * 4, 3, cudaMemcpyHostToDevice));
    CK(cudaMemcpy2D(out.data(), w * 4, flat, pitch, w * 4, h, cudaMemcpyDeviceToHost));
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++)
            MUST(out[y * w + x] == (x < 20 && y < 3 ? y * w + x : -1));
    std::vector<char> big(3 << 20), back(3 << 20);
    for (size_t i = 0; i < big.size(); i++)
        big[i] = i * 31 >> 3;
    char *wide;
    CK(cudaMallocPitch((void **)&wide, &pitch, 3000, 1048));
    CK(cudaMemcpy2D(wide, pitch, big.data(), 3001, 3000, 1048, cudaMemcpyHostToDevice));
    CK(cudaMemcpy2D(back.data(), 3001, wide, pitch, 3000, 1048, cudaMemcpyDeviceToHost));
    int wrong = 0;
    for (int y = 0; y < 1048; y++)
        wrong += memcmp(&big[y * 3001], &back[y * 3001], 3000) != 0;
    MUST(wrong == 0);
    CK(cudaFree(wide));
    CK(cudaFree(flat));
    CK(cudaFree(box.ptr));
    CK(cudaFree(second.ptr));
    return tour_end();
}
