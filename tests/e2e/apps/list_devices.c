/* What devices there are, in their order. */
#include "app.h"

int
main(void)
{
    CUresult result = cuInit(0);
    int count = -1;

    printf("cuInit: %s\n", app_error(result));
    if (result != CUDA_SUCCESS)
        return 1;
    CHECK(cuDeviceGetCount(&count));
    for (int i = 0; i < count; i++) {
        char bus[32], text[48] = "GPU-";
        CUdevice device, again = -1;
        size_t memory = 0;
        CUuuid uuid;
        int at = 4;

        CHECK(cuDeviceGet(&device, i));
        CHECK(cuDeviceGetUuid_v2(&uuid, device));
        for (int b = 0; b < 16; b++)
            at += sprintf(text + at, "%s%02x", b == 4 || b == 6 || b == 8 || b == 10 ? "-" : "",
                          (unsigned char)uuid.bytes[b]);
        CHECK(cuDeviceGetPCIBusId(bus, sizeof(bus), device));
        CHECK(cuDeviceGetByPCIBusId(&again, bus));
        REQUIRE(again == device);
        CHECK(cuDeviceTotalMem_v2(&memory, device));
        printf("%s is device %d with %zu MiB\n", text, i, memory >> 20);
    }
    return app_end();
}
