// Managed memory as programs of the runtime use it: variables, linked structures, arrays of
// several sizes, copies between symbols, streams and events, several allocations in one kernel.
#include "tour.h"

struct Node {
    Node *next;
    int value;
};

__managed__ int counter = 5;
__managed__ float table[3000];
__managed__ Node *head;
__device__ int plain = 3;

__global__ void count(int n) { atomicAdd(&counter, n); }
__global__ void scale(float by)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;

    if (i < 3000)
        table[i] *= by;
}
__global__ void walk()
{
    for (Node *node = head; node != nullptr; node = node->next)
        node->value = node->value * 2 + plain;
}
__global__ void saxpy(int n, float a, const float *x, float *y)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;

    if (i < n)
        y[i] += a * x[i];
}

static void variables()
{
    float host[10];
    float *address;

    counter += 1;
    count<<<2, 32>>>(3);
    CK(cudaDeviceSynchronize());
    printf("counter %d\n", counter);
    for (int i = 0; i < 3000; i++)
        table[i] = (float)i;
    for (int round = 0; round < 3; round++) {
        scale<<<12, 256>>>(2.0f);
        CK(cudaStreamSynchronize(0));
        table[7] += 1;
    }
    printf("table %g %g %g\n", table[1], table[7], table[2999]);
    scale<<<12, 256>>>(0.5f);
    CK(cudaMemcpyFromSymbol(host, table, sizeof(host)));
    printf("from symbol %g %g, seen %g\n", host[1], host[7], table[1]);
    host[1] = 100;
    CK(cudaMemcpyToSymbol(table, host, sizeof(host)));
    printf("to symbol %g\n", table[1]);
    CK(cudaGetSymbolAddress((void **)&address, table));
    MUST(address == table);
    saxpy<<<1, 32>>>(10, 1.0f, table, table + 10);
    CK(cudaDeviceSynchronize());
    printf("by address %g\n", table[11]);
}

static void linked()
{
    Node *nodes[100];
    int sum = 0, length = 0;

    head = nullptr;
    for (int i = 0; i < 100; i++) {
        CK(cudaMallocManaged(&nodes[i], sizeof(Node)));
        nodes[i]->value = i;
        nodes[i]->next = head;
        head = nodes[i];
    }
    for (int round = 0; round < 2; round++) {
        walk<<<1, 1>>>();
        CK(cudaDeviceSynchronize());
    }
    for (Node *node = head; node != nullptr; node = node->next, length++)
        sum += node->value;
    printf("list of %d: %d\n", length, sum);
    for (int i = 0; i < 100; i++)
        CK(cudaFree(nodes[i]));
}

static void arrays(int n)
{
    float *x, *y;
    double sum = 0;
    cudaEvent_t event;
    cudaStream_t stream;
    cudaPointerAttributes what;

    CK(cudaMallocManaged(&x, n * sizeof(float)));
    CK(cudaMallocManaged(&y, n * sizeof(float), cudaMemAttachGlobal));
    CK(cudaStreamCreate(&stream));
    CK(cudaEventCreate(&event));
    CK(cudaPointerGetAttributes(&what, x));
    printf("type %d, pointers %d %d\n", (int)what.type, what.hostPointer == x,
           what.devicePointer == x);
    for (int i = 0; i < n; i++)
        x[i] = (float)(i % 100), y[i] = 1;
    for (int round = 0; round < 4; round++) {
        saxpy<<<(n + 255) / 256, 256, 0, stream>>>(n, 2.0f, x, y);
        CK(cudaEventRecord(event, stream));
        CK(cudaEventSynchronize(event));
        y[round] = 0;
    }
    CK(cudaMemPrefetchAsync(y, n * sizeof(float), cudaMemLocation{cudaMemLocationTypeHost, 0},
                            0, stream));
    CK(cudaStreamSynchronize(stream));
    for (int i = 0; i < n; i++)
        sum += y[i];
    printf("%d: %g %g %.0f\n", n, y[0], y[n - 1], sum);
    CK(cudaMemset(x, 0, n * sizeof(float)));
    CK(cudaMemcpy(y, x, n * sizeof(float), cudaMemcpyDefault));
    CK(cudaDeviceSynchronize());
    printf("cleared: %g %g\n", y[3], y[n - 1]);
    CK(cudaFree(x));
    CK(cudaFree(y));
    CK(cudaEventDestroy(event));
    CK(cudaStreamDestroy(stream));
}

int main()
{
    int managed = 0;

    CK(cudaDeviceGetAttribute(&managed, cudaDevAttrManagedMemory, 0));
    printf("managed memory %d\n", managed);
    variables();
    linked();
    arrays(1000);
    arrays(1 << 20);
    return tour_end();
}
