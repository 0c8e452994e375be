// What kernels print is there when a synchronising call returns, a copy to the host among
// them: everything goes to the same descriptor, so the order of lines is seen.
#include <cstdio>

__global__ void
speak(int *number, int line)
{
    printf("kernel %d\n", line);
    *number = line;
}

int
main()
{
    cudaEvent_t event;
    int *number, line = 0;

    setvbuf(stdout, nullptr, _IONBF, 0);
    if (cudaMalloc(&number, sizeof(*number)) || cudaEventCreate(&event))
        return 1;
    speak<<<1, 1>>>(number, 1);
    cudaMemcpy(&line, number, sizeof(line), cudaMemcpyDeviceToHost);
    printf("copied %d\n", line);
    speak<<<1, 1>>>(number, 2);
    cudaDeviceSynchronize();
    printf("device\n");
    speak<<<1, 1>>>(number, 3);
    cudaStreamSynchronize(nullptr);
    printf("stream\n");
    speak<<<1, 1>>>(number, 4);
    cudaEventRecord(event);
    cudaEventSynchronize(event);
    printf("event\n");
    printf("%s\n", cudaGetLastError() == cudaSuccess ? "PASS" : "FAIL");
    return 0;
}
