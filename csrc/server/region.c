/*
 * The two regions of a session, registered with the driver: that makes copies from and to
 * them truly asynchronous. Where the driver refuses, copies still work.
 */
#include "server/serve.h"

void
fdc_regions_register(struct fdc_serve *serve)
{
    for (int i = 0; i < FDC_REGIONS; i++) {
        CUresult result;

        if (serve->registered[i] != NULL || serve->region[i] == NULL ||
            !FDC_HAS(serve->driver, cuMemHostRegister_v2))
            continue;
        result = serve->driver->cuMemHostRegister_v2(serve->region[i], serve->region_size[i],
                                                     CU_MEMHOSTREGISTER_PORTABLE);
        if (result == CUDA_SUCCESS)
            serve->registered[i] = fdc_context_here();
        else
            fdc_log(FDC_LOG_INFO, "region %d cannot be registered: result %d", i, result);
    }
}

void
fdc_regions_release_ctx(struct fdc_serve *serve, struct fdc_ctx *ctx)
{
    for (int i = 0; i < FDC_REGIONS; i++)
        if (serve->registered[i] == ctx) {
            serve->driver->cuMemHostUnregister(serve->region[i]);
            serve->registered[i] = NULL;
        }
}
