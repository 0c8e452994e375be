// Texture objects on arrays, pitched and linear memory: modes, filters, layers, mipmaps.
#include "tour.h"

__global__ void sample(cudaTextureObject_t t, float *o, int w, int h, float dx, float dy)
{
    int x = threadIdx.x, y = blockIdx.x;
    if (x < w && y < h)
        o[y * w + x] = tex2D<float>(t, x + dx, y + dy);
}
__global__ void fetch(cudaTextureObject_t t, float *o) { o[threadIdx.x] = tex1Dfetch<float>(t, threadIdx.x); }
__global__ void bytes(cudaTextureObject_t t, float4 *o, int w)
{
    o[blockIdx.x * w + threadIdx.x] = tex2D<float4>(t, threadIdx.x + 0.5f, blockIdx.x + 0.5f);
}
__global__ void volume(cudaTextureObject_t t, float *o, int w)
{
    o[(blockIdx.y * gridDim.x + blockIdx.x) * w + threadIdx.x] =
        tex3D<float>(t, threadIdx.x + 0.5f, blockIdx.x + 0.5f, blockIdx.y + 0.5f);
}
__global__ void layered(cudaTextureObject_t t, float *o, int w)
{
    o[blockIdx.y * w + threadIdx.x] = tex2DLayered<float>(t, threadIdx.x + 0.5f, 0.5f, blockIdx.y);
}

int main()
{
    const int w = 16, h = 8;
    Array<float> in(w * h), o(w * h * 4);
    for (int i = 0; i < w * h; i++)
        in[i] = i;
    in.up();
    cudaChannelFormatDesc channel = cudaCreateChannelDesc<float>();
    cudaArray_t array;
    CK(cudaMallocArray(&array, &channel, w, h));
    CK(cudaMemcpy2DToArray(array, 0, 0, in.host.data(), w * 4, w * 4, h, cudaMemcpyHostToDevice));
    cudaResourceDesc resource = {};
    resource.resType = cudaResourceTypeArray;
    resource.res.array.array = array;
    cudaTextureDesc desc = {};
    cudaTextureObject_t t;
    CK(cudaCreateTextureObject(&t, &resource, &desc, 0));
    sample<<<h, w>>>(t, o.device, w, h, 0.5f, 0.5f);
    o.down();
    for (int i = 0; i < w * h; i++)
        MUST(o[i] == i);
    CK(cudaDestroyTextureObject(t));
    desc.filterMode = cudaFilterModeLinear;
    desc.addressMode[0] = desc.addressMode[1] = cudaAddressModeClamp;
    CK(cudaCreateTextureObject(&t, &resource, &desc, 0));
    sample<<<h, w>>>(t, o.device, w, h, 1.0f, 0.5f);
    o.down();
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++)
            MUST(tour_close(o[y * w + x], x + 1 < w ? y * w + x + 0.5 : y * w + x, 1e-3));
    CK(cudaDestroyTextureObject(t));
    desc.filterMode = cudaFilterModePoint;
    desc.addressMode[0] = desc.addressMode[1] = cudaAddressModeBorder;
    CK(cudaCreateTextureObject(&t, &resource, &desc, 0));
    sample<<<h, w>>>(t, o.device, w, h, -2.5f, 0.5f);
    o.down();
    MUST(o[0] == 0 && o[2] == 0 && o[3] == 0 && o[4] == 1);
    CK(cudaDestroyTextureObject(t));
    resource = {};
    resource.resType = cudaResourceTypeLinear;
    resource.res.linear.devPtr = in.device;
    resource.res.linear.desc = channel;
    resource.res.linear.sizeInBytes = in.bytes();
    desc = {};
    CK(cudaCreateTextureObject(&t, &resource, &desc, 0));
    fetch<<<1, 100>>>(t, o.device);
    o.down();
    MUST(o[99] == 99);
    CK(cudaDestroyTextureObject(t));

    cudaChannelFormatDesc four = cudaCreateChannelDesc<uchar4>();
    uchar4 *pixels;
    size_t pitch;
    std::vector<uchar4> host(w * h);
    for (int i = 0; i < w * h; i++)
        host[i] = make_uchar4(i, 255 - i, 128, 255);
    CK(cudaMallocPitch((void **)&pixels, &pitch, w * 4, h));
    CK(cudaMemcpy2D(pixels, pitch, host.data(), w * 4, w * 4, h, cudaMemcpyHostToDevice));
    resource = {};
    resource.resType = cudaResourceTypePitch2D;
    resource.res.pitch2D.devPtr = pixels;
    resource.res.pitch2D.desc = four;
    resource.res.pitch2D.width = w;
    resource.res.pitch2D.height = h;
    resource.res.pitch2D.pitchInBytes = pitch;
    desc.readMode = cudaReadModeNormalizedFloat;
    CK(cudaCreateTextureObject(&t, &resource, &desc, 0));
    Array<float4> colours(w * h);
    bytes<<<h, w>>>(t, colours.device, w);
    colours.down();
    for (int i = 0; i < w * h; i++)
        MUST(tour_close(colours[i].x, i / 255.0, 1e-6) && tour_close(colours[i].y, (255 - i) / 255.0, 1e-6) &&
             colours[i].w == 1);
    CK(cudaDestroyTextureObject(t));

    cudaArray_t cube;
    cudaExtent extent = make_cudaExtent(w, 2, 4);
    CK(cudaMalloc3DArray(&cube, &channel, extent));
    cudaMemcpy3DParms p = {};
    p.srcPtr = make_cudaPitchedPtr(in.host.data(), w * 4, w, 2);
    p.dstArray = cube;
    p.extent = extent;
    p.kind = cudaMemcpyHostToDevice;
    CK(cudaMemcpy3D(&p));
    resource = {};
    resource.resType = cudaResourceTypeArray;
    resource.res.array.array = cube;
    desc = {};
    CK(cudaCreateTextureObject(&t, &resource, &desc, 0));
    volume<<<dim3(2, 4), w>>>(t, o.device, w);
    o.down();
    for (int i = 0; i < w * 8; i++)
        MUST(o[i] == i);
    CK(cudaDestroyTextureObject(t));
    cudaArray_t layers;
    CK(cudaMalloc3DArray(&layers, &channel, make_cudaExtent(w, 1, 5), cudaArrayLayered));
    p.srcPtr = make_cudaPitchedPtr(in.host.data(), w * 4, w, 1);
    p.dstArray = layers;
    p.extent = make_cudaExtent(w, 1, 5);
    CK(cudaMemcpy3D(&p));
    resource.res.array.array = layers;
    CK(cudaCreateTextureObject(&t, &resource, &desc, 0));
    layered<<<dim3(1, 5), w>>>(t, o.device, w);
    o.down();
    for (int i = 0; i < w * 5; i++)
        MUST(o[i] == i);
    CK(cudaDestroyTextureObject(t));
    CK(cudaFreeArray(layers));
    CK(cudaFreeArray(cube));
    CK(cudaFreeArray(array));
    CK(cudaFree(pixels));
    return tour_end();
}
