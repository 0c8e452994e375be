/*
 * Machine code on the CPU device with FD_CPU_KERNELS=skip: kernels are known by their
 * cubin, launches are accepted and checked, and nothing runs. The argument is a cubin or a
 * fat binary of machine_code.cu, or "refused FILE": then it must be refused.
 */
#include "app.h"

static const char *const names[] = { "bounded", "clustered", "large", "several" };

static void *
read_file(const char *path)
{
    FILE *file = fopen(path, "rb");
    char *bytes = calloc(1, 1 << 20);

    if (file == NULL || bytes == NULL || fread(bytes, 1, (1 << 20) - 1, file) == 0)
        exit(2);
    fclose(file);
    return bytes;
}

static void
describe(const char *name, CUfunction f)
{
    static const CUfunction_attribute told[] = {
        CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES,
        CU_FUNC_ATTRIBUTE_CONST_SIZE_BYTES, CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES,
        CU_FUNC_ATTRIBUTE_BINARY_VERSION, CU_FUNC_ATTRIBUTE_REQUIRED_CLUSTER_WIDTH,
    };
    size_t offset, size;
    int value;

    printf("%s:", name);
    for (size_t i = 0; cuFuncGetParamInfo(f, i, &offset, &size) == CUDA_SUCCESS; i++)
        printf(" %zu+%zu", offset, size);
    for (size_t i = 0; i < sizeof(told) / sizeof(told[0]); i++) {
        CHECK(cuFuncGetAttribute(&value, told[i], f));
        printf(" %d", value);
    }
    CHECK(cuFuncGetAttribute(&value, CU_FUNC_ATTRIBUTE_NUM_REGS, f));
    REQUIRE(value > 0 && value < 256);
    printf("\n");
}

static void
variables(CUmodule module)
{
    int three[3], zero = 1;
    CUdeviceptr address;
    float two[2];
    size_t size;

    CHECK(cuModuleGetGlobal_v2(&address, &size, module, "initialised"));
    REQUIRE(size == sizeof(three));
    CHECK(cuMemcpyDtoH(three, address, sizeof(three)));
    REQUIRE(three[0] == 1 && three[1] == 2 && three[2] == 3);
    CHECK(cuModuleGetGlobal_v2(&address, &size, module, "table"));
    REQUIRE(size == 64);
    CHECK(cuMemcpyDtoH(two, address, sizeof(two)));
    REQUIRE(two[0] == 1.5f && two[1] == 2.5f);
    CHECK(cuModuleGetGlobal_v2(&address, &size, module, "plain"));
    REQUIRE(size == 4);
    CHECK(cuMemcpyDtoH(&zero, address, 4));
    REQUIRE(zero == 0);
    EXPECT(CUDA_ERROR_NOT_FOUND, cuModuleGetGlobal_v2(&address, &size, module, "none"));
}

/* A launch is checked like any other, and its bytes stay as they were. */
static void
launches(CUmodule module)
{
    struct { double a[3]; char b; } s = { { 0 }, 1 };
    CUfunction bounded, several, clustered;
    unsigned word = 0x5a5a5a5a;
    CUdeviceptr out;
    float x = 1;
    int n = 3;
    void *params[] = { &out, &x, &s }, *few[] = { &s, &n }, *one[] = { &n };

    CHECK(cuModuleGetFunction(&several, module, "several"));
    CHECK(cuModuleGetFunction(&bounded, module, "bounded"));
    CHECK(cuModuleGetFunction(&clustered, module, "clustered"));
    CHECK(cuMemAlloc(&out, 4));
    CHECK(cuMemsetD32(out, word, 1));
    CHECK(cuLaunchKernel(several, 2, 1, 1, 100, 1, 1, 64, NULL, params, NULL));
    CHECK(cuLaunchKernel(bounded, 1, 1, 1, 128, 1, 1, 0, NULL, few, NULL));
    CHECK(cuLaunchKernel(clustered, 4, 1, 1, 32, 1, 1, 0, NULL, one, NULL));
    EXPECT(CUDA_ERROR_INVALID_VALUE,
           cuLaunchKernel(bounded, 1, 1, 1, 129, 1, 1, 0, NULL, few, NULL));
    EXPECT(CUDA_ERROR_INVALID_VALUE,
           cuLaunchKernel(several, 1, 1, 1, 1, 1, 1, 60000, NULL, params, NULL));
    CHECK(cuCtxSynchronize());
    CHECK(cuMemcpyDtoH(&word, out, 4));
    REQUIRE(word == 0x5a5a5a5a);
    CHECK(cuMemFree(out));
}

int
main(int argc, char **argv)
{
    char name[64];
    CUmodule module;
    CUfunction f;

    app_begin();
    if (argc == 3) {
        EXPECT(CUDA_ERROR_NO_BINARY_FOR_GPU, cuModuleLoadData(&module, read_file(argv[2])));
        return app_end();
    }
    CHECK(cuDeviceGetName(name, sizeof(name), 0));
    printf("on %s\n", name);
    CHECK(cuModuleLoadData(&module, read_file(argv[1])));
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        CHECK(cuModuleGetFunction(&f, module, names[i]));
        describe(names[i], f);
    }
    EXPECT(CUDA_ERROR_NOT_FOUND, cuModuleGetFunction(&f, module, "none"));
    variables(module);
    launches(module);
    CHECK(cuModuleUnload(module));
    return app_end();
}
