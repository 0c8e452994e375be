/* FD_CPU_SLACK=1: kernels may use the 512 bytes that an allocation's size rounds to. */
#include "driver.h"

static const char poke_ptx[] =
    ".version 7.0\n.target sm_75\n.address_size 64\n"
    ".visible .entry poke(.param .u64 p)\n"
    "{\n .reg .b64 %rd<3>; .reg .b32 %r<2>; ld.param.u64 %rd1, [p];\n"
    " mov.u32 %r1, 1; st.global.u32 [%rd1], %r1; ret;\n}\n";

static void
test_a_kernel_may_use_the_rest_of_512_bytes(void)
{
    CUfunction poke;
    CUmodule module;
    CUdeviceptr d, base, p;
    void *params[] = {&p};
    size_t size;
    int asynchronous;

    start();
    OK(cuModuleLoadData(&module, poke_ptx));
    OK(cuModuleGetFunction(&poke, module, "poke"));
    for (asynchronous = 0; asynchronous < 2; asynchronous++) {
        if (asynchronous)
            OK(cuMemAllocAsync(&d, 4, NULL));
        else
            OK(cuMemAlloc_v2(&d, 4));
        p = d + 508;
        OK(cuLaunchKernel(poke, 1, 1, 1, 1, 1, 1, 0, NULL, params, NULL));
        OK(cuCtxSynchronize());
        OK(cuMemGetAddressRange_v2(&base, &size, d));
        CHECK_EQ(size, 4);
    }
    p = d + 512;
    OK(cuLaunchKernel(poke, 1, 1, 1, 1, 1, 1, 0, NULL, params, NULL));
    FAILS(ILLEGAL_ADDRESS, cuCtxSynchronize());
}

int
main(void)
{
    int failed = 0;

    setenv("FD_CPU_SLACK", "1", 1);
    setenv("FD_LOG", "off", 1);
    RUN(test_a_kernel_may_use_the_rest_of_512_bytes);
    return failed;
}
