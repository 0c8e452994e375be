// Images: Sobel through a texture, a bilateral filter, a summed-area table, median, a volume.
#include <algorithm>
#include "tour.h"

static cudaTextureObject_t texture_of(cudaArray_t array, cudaTextureFilterMode filter,
                                      cudaTextureReadMode mode, bool normalized)
{
    cudaTextureObject_t texture = 0;
    cudaResourceDesc resource = {};
    cudaTextureDesc how = {};
    resource.resType = cudaResourceTypeArray;
    resource.res.array.array = array;
    for (int i = 0; i < 3; i++)
        how.addressMode[i] = cudaAddressModeClamp;
    how.filterMode = filter;
    how.readMode = mode;
    how.normalizedCoords = normalized;
    CK(cudaCreateTextureObject(&texture, &resource, &how, nullptr));
    return texture;
}

__global__ void sobel(cudaTextureObject_t t, unsigned char *out, int w, int h, float scale)
{
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= w || y >= h)
        return;
    int p[3][3];
    for (int j = 0; j < 3; j++)
        for (int i = 0; i < 3; i++)
            p[j][i] = tex2D<unsigned char>(t, x + i - 1, y + j - 1);
    int across = p[0][2] + 2 * p[1][2] + p[2][2] - p[0][0] - 2 * p[1][0] - p[2][0];
    int down = p[2][0] + 2 * p[2][1] + p[2][2] - p[0][0] - 2 * p[0][1] - p[0][2];
    float sum = scale * (abs(across) + abs(down));
    out[y * w + x] = sum < 0 ? 0 : sum > 255 ? 255 : (unsigned char)sum;
}

__global__ void bilateral(cudaTextureObject_t t, float *out, int w, int h, int radius, float near_)
{
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= w || y >= h)
        return;
    float centre = tex2D<float>(t, x, y), sum = 0, weight = 0;
    for (int j = -radius; j <= radius; j++)
        for (int i = -radius; i <= radius; i++) {
            float v = tex2D<float>(t, x + i, y + j), d = v - centre;
            float factor = expf(-(i * i + j * j) / 8.0f) * expf(-d * d / near_);
            sum += factor * v, weight += factor;
        }
    out[y * w + x] = sum / weight;
}

__global__ void median(cudaTextureObject_t t, unsigned char *out, int w, int h)
{
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= w || y >= h)
        return;
    unsigned char v[9];
    for (int k = 0; k < 9; k++)
        v[k] = tex2D<unsigned char>(t, x + k % 3 - 1, y + k / 3 - 1);
    for (int k = 0; k <= 4; k++)
        for (int i = k + 1; i < 9; i++) {
            unsigned char low = min(v[k], v[i]), high = max(v[k], v[i]);
            v[k] = low, v[i] = high;
        }
    out[y * w + x] = v[4];
}

// Inclusive sums along rows by shuffles; the second pass reads columns.
__global__ void sums(const int *in, int *out, int n, int step, int stride)
{
    __shared__ int of_warp[32];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, carry = 0;
    in += blockIdx.x * stride, out += blockIdx.x * stride;
    for (int from = 0; from < n; from += blockDim.x) {
        int i = from + threadIdx.x, v = i < n ? in[i * step] : 0;
        for (int d = 1; d < 32; d *= 2) {
            int other = __shfl_up_sync(~0u, v, d);
            if (lane >= d)
                v += other;
        }
        if (lane == 31)
            of_warp[warp] = v;
        __syncthreads();
        int before = carry;
        for (int k = 0; k < warp; k++)
            before += of_warp[k];
        if (i < n)
            out[i * step] = v + before;
        for (int k = 0; k < (int)blockDim.x / 32; k++)
            carry += of_warp[k];
        __syncthreads();
    }
}

__global__ void boxes(const int *table, int *out, int w, int h, int r)
{
    int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y;
    if (x >= w)
        return;
    int x0 = max(x - r, 0) - 1, x1 = min(x + r, w - 1), y0 = max(y - r, 0) - 1, y1 = min(y + r, h - 1);
    int a = y0 >= 0 && x0 >= 0 ? table[y0 * w + x0] : 0, b = y0 >= 0 ? table[y0 * w + x1] : 0;
    int c = x0 >= 0 ? table[y1 * w + x0] : 0;
    out[y * w + x] = table[y1 * w + x1] - b - c + a;
}

// Rays through a volume along z, from front to back, until nothing more shines through.
__global__ void render(cudaTextureObject_t volume, float4 *out, int w, int steps)
{
    int x = threadIdx.x, y = blockIdx.x;
    float4 sum = { 0, 0, 0, 0 };
    for (int k = 0; k < steps; k++) {
        float v = tex3D<float>(volume, (x + 0.5f) / w, (y + 0.5f) / w, (k + 0.5f) / steps);
        float alpha = v * 0.25f;
        sum.x += (1 - sum.w) * alpha * v;
        sum.y += (1 - sum.w) * alpha * (1 - v);
        sum.w += (1 - sum.w) * alpha;
        if (sum.w > 0.95f)
            break;
    }
    out[y * w + x] = sum;
}

int main()
{
    const int w = 77, h = 53;
    std::vector<unsigned char> image(w * h);
    std::vector<float> floats(w * h);
    uint32_t state = 4;
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++) {
            image[y * w + x] = (x / 9 + y / 7) % 2 * 120 + tour_random(&state) % 40;
            floats[y * w + x] = image[y * w + x] / 32.0f;
        }
    auto at = [&](int x, int y) {
        return (int)image[std::clamp(y, 0, h - 1) * w + std::clamp(x, 0, w - 1)];
    };
    cudaArray_t array, float_array, volume_array;
    auto bytes = cudaCreateChannelDesc<unsigned char>();
    auto words = cudaCreateChannelDesc<float>();
    CK(cudaMallocArray(&array, &bytes, w, h));
    CK(cudaMallocArray(&float_array, &words, w, h));
    CK(cudaMemcpy2DToArray(array, 0, 0, image.data(), w, w, h, cudaMemcpyHostToDevice));
    CK(cudaMemcpy2DToArray(float_array, 0, 0, floats.data(), w * 4, w * 4, h,
                           cudaMemcpyHostToDevice));
    auto t = texture_of(array, cudaFilterModePoint, cudaReadModeElementType, false);
    auto u = texture_of(float_array, cudaFilterModePoint, cudaReadModeElementType, false);
    dim3 block(16, 8), grid((w + 15) / 16, (h + 7) / 8);

    Array<unsigned char> edges(w * h), middle(w * h);
    sobel<<<grid, block>>>(t, edges.device, w, h, 0.5f);
    median<<<grid, block>>>(t, middle.device, w, h);
    edges.down(), middle.down();
    int wrong = 0;
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++) {
            int p[9];
            for (int k = 0; k < 9; k++)
                p[k] = at(x + k % 3 - 1, y + k / 3 - 1);
            int across = p[2] + 2 * p[5] + p[8] - p[0] - 2 * p[3] - p[6];
            int down = p[6] + 2 * p[7] + p[8] - p[0] - 2 * p[1] - p[2];
            wrong += edges[y * w + x] != std::min(255, (std::abs(across) + std::abs(down)) / 2);
            std::sort(p, p + 9);
            wrong += middle[y * w + x] != p[4];
        }
    MUST(wrong == 0);

    Array<float> smooth(w * h);
    bilateral<<<grid, block>>>(u, smooth.device, w, h, 3, 2.0f);
    smooth.down();
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++) {
            double sum = 0, weight = 0;
            for (int j = -3; j <= 3; j++)
                for (int i = -3; i <= 3; i++) {
                    double v = at(x + i, y + j) / 32.0, d = v - at(x, y) / 32.0;
                    double factor = std::exp(-(i * i + j * j) / 8.0) * std::exp(-d * d / 2.0);
                    sum += factor * v, weight += factor;
                }
            wrong += !tour_close(smooth[y * w + x], sum / weight, 1e-5);
        }
    MUST(wrong == 0);

    Array<int> in(w * h), rows(w * h), table(w * h), box(w * h);
    for (int i = 0; i < w * h; i++)
        in[i] = image[i];
    in.up();
    sums<<<h, 64>>>(in.device, rows.device, w, 1, w);
    sums<<<w, 64>>>(rows.device, table.device, h, w, 1);
    boxes<<<dim3((w + 31) / 32, h), 32>>>(table.device, box.device, w, h, 4);
    box.down();
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++) {
            int sum = 0;
            for (int j = std::max(y - 4, 0); j <= std::min(y + 4, h - 1); j++)
                for (int i = std::max(x - 4, 0); i <= std::min(x + 4, w - 1); i++)
                    sum += image[j * w + i];
            wrong += box[y * w + x] != sum;
        }
    MUST(wrong == 0);

    const int n = 32, depth = 16;
    std::vector<unsigned char> volume(n * n * depth);
    for (int z = 0; z < depth; z++)
        for (int y = 0; y < n; y++)
            for (int x = 0; x < n; x++)
                volume[(z * n + y) * n + x] = (x * x + y * y + z * z) % 256;
    cudaMemcpy3DParms copy = {};
    copy.extent = make_cudaExtent(n, n, depth);
    CK(cudaMalloc3DArray(&volume_array, &bytes, copy.extent));
    copy.srcPtr = make_cudaPitchedPtr(volume.data(), n, n, n);
    copy.dstArray = volume_array;
    copy.kind = cudaMemcpyHostToDevice;
    CK(cudaMemcpy3D(&copy));
    auto v = texture_of(volume_array, cudaFilterModeLinear, cudaReadModeNormalizedFloat, true);
    Array<float4> picture(n * n);
    render<<<n, n>>>(v, picture.device, n, depth);
    picture.down();
    for (int y = 0; y < n; y++)
        for (int x = 0; x < n; x++) {
            float red = 0, green = 0, alpha = 0;
            for (int k = 0; k < depth && alpha <= 0.95f; k++) {
                float value = volume[(k * n + y) * n + x] / 255.0f, a = value * 0.25f;
                red += (1 - alpha) * a * value;
                green += (1 - alpha) * a * (1 - value);
                alpha += (1 - alpha) * a;
            }
            float4 got = picture[y * n + x];
            // Filtering has eight bits of fraction, and the middles of elements are exact.
            MUST(tour_close(got.x, red, 1e-3) && tour_close(got.y, green, 1e-3) &&
                 tour_close(got.w, alpha, 1e-3));
        }
    CK(cudaDestroyTextureObject(t));
    CK(cudaDestroyTextureObject(u));
    CK(cudaDestroyTextureObject(v));
    CK(cudaFreeArray(array));
    CK(cudaFreeArray(float_array));
    CK(cudaFreeArray(volume_array));
    return tour_end();
}
