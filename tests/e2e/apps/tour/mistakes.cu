// Mistakes that a program may make and go on: which error, told once, and nothing broken.
#include "tour.h"

__global__ void set(int *x, int value) { x[threadIdx.x] = value; }

static void said(const char *what, cudaError_t error)
{
    printf("%s: %s\n", what, cudaGetErrorName(error));
    MUST(error != cudaSuccess);
    cudaGetLastError();
    MUST(cudaGetLastError() == cudaSuccess);
}

int main()
{
    Array<int> x(64);
    void *p = nullptr;
    cudaStream_t stream;
    cudaEvent_t a, b;
    float ms;
    int value = 0;

    set<<<1, 2048>>>(x.device, 1);
    MUST(cudaPeekAtLastError() == cudaGetLastError());
    set<<<1, 2048>>>(x.device, 1);
    said("2,048 threads", cudaGetLastError());
    set<<<0, 32>>>(x.device, 1);
    said("no blocks", cudaGetLastError());
    set<<<dim3(1, 70000), 32>>>(x.device, 1);
    said("70,000 blocks high", cudaGetLastError());
    set<<<1, dim3(4, 4, 65)>>>(x.device, 1);
    said("65 threads deep", cudaGetLastError());
    said("more memory than there is", cudaMalloc(&p, (size_t)1 << 50));
    said("a negative device", cudaSetDevice(-1));
    said("a device that is not there", cudaSetDevice(1000));
    said("an attribute that is not there", cudaDeviceGetAttribute(&value, (cudaDeviceAttr)9999, 0));
    said("no room for the answer", cudaMalloc(nullptr, 16));
    said("freeing what was not allocated", cudaFree((char *)x.device + 4));
    said("a direction that is not there",
         cudaMemcpy(x.device, x.host.data(), 4, (cudaMemcpyKind)77));
    said("a symbol that is not there", cudaMemcpyToSymbol(&value, &value, 4));
    said("a pitch that is too small",
         cudaMemcpy2D(x.device, 4, x.host.data(), 16, 16, 2, cudaMemcpyHostToDevice));
    said("flags that are not there", cudaStreamCreateWithFlags(&stream, 0xff));
    CK(cudaEventCreate(&a));
    CK(cudaEventCreateWithFlags(&b, cudaEventDisableTiming));
    said("an event that was not recorded", cudaEventElapsedTime(&ms, a, a));
    CK(cudaEventRecord(a));
    CK(cudaEventRecord(b));
    CK(cudaEventSynchronize(b));
    said("an event without times", cudaEventElapsedTime(&ms, a, b));
    CK(cudaStreamCreate(&stream));
    said("the end of no capture", cudaStreamEndCapture(stream, nullptr));
    CK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    said("waiting for a capture", cudaStreamSynchronize(stream));
    cudaGraph_t graph;
    said("the end of a broken capture", cudaStreamEndCapture(stream, &graph));
    CK(cudaStreamDestroy(stream));
    CK(cudaEventDestroy(a));
    CK(cudaEventDestroy(b));

    set<<<1, 64>>>(x.device, 5);
    CK(cudaGetLastError());
    x.down();
    for (int i = 0; i < 64; i++)
        MUST(x[i] == 5);
    return tour_end();
}
