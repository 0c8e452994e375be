// Texture objects on arrays, pitched and linear memory: modes, filters, layers, mipmaps, cubes.
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
__global__ void along(cudaTextureObject_t t, float *o, float from, float step)
{
    o[threadIdx.x] = tex1D<float>(t, from + step * threadIdx.x);
}
__global__ void levels(cudaTextureObject_t t, float *o)
{
    o[threadIdx.x] = tex2DLod<float>(t, 0.01f, 0.01f, 0.5f * threadIdx.x);
    o[8 + threadIdx.x] = tex2DGrad<float>(t, 0.01f, 0.01f, make_float2(threadIdx.x / 8.0f, 0),
                                          make_float2(0, 0));
}
__global__ void faces(cudaTextureObject_t t, float *o)
{
    const float x[] = { 1, -1, 0, 0, 0, 0 }, y[] = { 0, 0, 1, -1, 0, 0 }, z[] = { 0, 0, 0, 0, 1, -1 };
    int i = threadIdx.x;
    o[i] = texCubemap<float>(t, x[i], y[i], z[i]);
}
__global__ void gather(cudaTextureObject_t t, float4 *o) { *o = tex2Dgather<float4>(t, 1, 1); }
struct Both { cudaTextureObject_t t[2]; float scale; };
__global__ void several(Both b, float *o)
{
    o[threadIdx.x] = b.scale * tex1Dfetch<float>(b.t[threadIdx.x & 1], threadIdx.x);
}

// Wrapping and mirroring, the four of a gather, objects inside of a structure.
static void modes()
{
    Array<float> in(16), o(32);
    Array<float4> four(1);
    for (int i = 0; i < 16; i++)
        in[i] = 10 * (i + 1);
    in.up();
    cudaChannelFormatDesc channel = cudaCreateChannelDesc<float>();
    cudaArray_t array;
    CK(cudaMallocArray(&array, &channel, 4));
    CK(cudaMemcpy2DToArray(array, 0, 0, in.host.data(), 16, 16, 1, cudaMemcpyHostToDevice));
    cudaResourceDesc resource = {};
    resource.resType = cudaResourceTypeArray;
    resource.res.array.array = array;
    cudaTextureDesc desc = {};
    desc.normalizedCoords = 1;
    desc.addressMode[0] = cudaAddressModeWrap;
    cudaTextureObject_t t, u;
    CK(cudaCreateTextureObject(&t, &resource, &desc, 0));
    along<<<1, 16>>>(t, o.device, -0.9375f, 0.125f);
    o.down();
    for (int i = 0; i < 16; i++)
        MUST(o[i] == 10 * (i / 2 % 4 + 1));
    cudaTextureDesc told;
    cudaResourceDesc source;
    CK(cudaGetTextureObjectTextureDesc(&told, t));
    CK(cudaGetTextureObjectResourceDesc(&source, t));
    MUST(told.normalizedCoords == 1 && told.addressMode[0] == cudaAddressModeWrap);
    MUST(source.resType == cudaResourceTypeArray && source.res.array.array == array);
    CK(cudaDestroyTextureObject(t));
    desc.addressMode[0] = cudaAddressModeMirror;
    CK(cudaCreateTextureObject(&t, &resource, &desc, 0));
    along<<<1, 16>>>(t, o.device, -0.9375f, 0.125f);
    o.down();
    for (int i = 0; i < 16; i++)
        MUST(o[i] == 10 * (i < 8 ? 4 - i / 2 : i / 2 - 3));
    CK(cudaDestroyTextureObject(t));
    CK(cudaFreeArray(array));

    CK(cudaMallocArray(&array, &channel, 2, 2, cudaArrayTextureGather));
    CK(cudaMemcpy2DToArray(array, 0, 0, in.host.data(), 8, 8, 2, cudaMemcpyHostToDevice));
    resource.res.array.array = array;
    desc = {};
    CK(cudaCreateTextureObject(&t, &resource, &desc, 0));
    gather<<<1, 1>>>(t, four.device);
    four.down();
    MUST(four[0].x == 30 && four[0].y == 40 && four[0].z == 20 && four[0].w == 10);
    CK(cudaDestroyTextureObject(t));
    CK(cudaFreeArray(array));

    resource = {};
    resource.resType = cudaResourceTypeLinear;
    resource.res.linear.devPtr = in.device;
    resource.res.linear.desc = channel;
    resource.res.linear.sizeInBytes = 16 * 4;
    CK(cudaCreateTextureObject(&t, &resource, &desc, 0));
    resource.res.linear.sizeInBytes = 8 * 4;
    CK(cudaCreateTextureObject(&u, &resource, &desc, 0));
    MUST(t != u);
    Both both = { { t, u }, 2 };
    several<<<1, 20>>>(both, o.device);
    o.down();
    for (int i = 0; i < 20; i++)
        MUST(o[i] == (i < (i & 1 ? 8 : 16) ? 20 * (i + 1) : 0));
    CK(cudaDestroyTextureObject(t));
    CK(cudaDestroyTextureObject(u));
}

static void mipmaps()
{
    cudaChannelFormatDesc channel = cudaCreateChannelDesc<float>();
    cudaMipmappedArray_t mipmap;
    CK(cudaMallocMipmappedArray(&mipmap, &channel, make_cudaExtent(8, 8, 0), 9));
    for (int level = 0; level < 4; level++) {
        std::vector<float> plane(64, level * 10.0f);
        cudaArray_t array, again;
        cudaExtent extent;
        int side = 8 >> level;
        CK(cudaGetMipmappedArrayLevel(&array, mipmap, level));
        CK(cudaGetMipmappedArrayLevel(&again, mipmap, level));
        MUST(array == again);
        CK(cudaArrayGetInfo(nullptr, &extent, nullptr, array));
        MUST((int)extent.width == side && (int)extent.height == side);
        CK(cudaMemcpy2DToArray(array, 0, 0, plane.data(), side * 4, side * 4, side,
                               cudaMemcpyHostToDevice));
    }
    cudaArray_t none;
    MUST(cudaGetMipmappedArrayLevel(&none, mipmap, 4) == cudaErrorInvalidValue);
    (void)cudaGetLastError();
    cudaResourceDesc resource = {};
    resource.resType = cudaResourceTypeMipmappedArray;
    resource.res.mipmap.mipmap = mipmap;
    cudaTextureDesc desc = {};
    desc.normalizedCoords = 1;
    desc.mipmapFilterMode = cudaFilterModeLinear;
    desc.maxMipmapLevelClamp = 2.5f;
    cudaTextureObject_t t;
    CK(cudaCreateTextureObject(&t, &resource, &desc, 0));
    Array<float> o(16);
    levels<<<1, 8>>>(t, o.device);
    o.down();
    for (int i = 0; i < 8; i++)
        MUST(o[i] == (i < 5 ? 5.0f * i : 25));
    MUST(o[8] == 0 && o[9] == 0 && o[10] == 10 && o[12] == 20);
    CK(cudaDestroyTextureObject(t));
    CK(cudaFreeMipmappedArray(mipmap));
}

static void cubes()
{
    cudaChannelFormatDesc channel = cudaCreateChannelDesc<float>();
    cudaArray_t array;
    std::vector<float> values(24);
    for (int i = 0; i < 24; i++)
        values[i] = i / 4;
    CK(cudaMalloc3DArray(&array, &channel, make_cudaExtent(2, 2, 6), cudaArrayCubemap));
    cudaMemcpy3DParms p = {};
    p.srcPtr = make_cudaPitchedPtr(values.data(), 8, 2, 2);
    p.dstArray = array;
    p.extent = make_cudaExtent(2, 2, 6);
    p.kind = cudaMemcpyHostToDevice;
    CK(cudaMemcpy3D(&p));
    cudaResourceDesc resource = {};
    resource.resType = cudaResourceTypeArray;
    resource.res.array.array = array;
    cudaTextureDesc desc = {};
    desc.normalizedCoords = 1;
    cudaTextureObject_t t;
    CK(cudaCreateTextureObject(&t, &resource, &desc, 0));
    Array<float> o(6);
    faces<<<1, 6>>>(t, o.device);
    o.down();
    for (int i = 0; i < 6; i++)
        MUST(o[i] == i);
    CK(cudaDestroyTextureObject(t));
    CK(cudaFreeArray(array));
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
    modes();
    mipmaps();
    cubes();
    return tour_end();
}
