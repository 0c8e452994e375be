/*
 * Opens a driver library by path and fills the table of its entry points. The library's
 * symbols stay its own (RTLD_LOCAL): this process may hold a second libcuda.
 */
#include <dlfcn.h>
#include <errno.h>
#include <string.h>

#include "fdc/base.h"
#include "fdc/driver.h"

/* A function's address out of dlsym's void *, as POSIX has it. */
#define TAKE(name) *(void **)&driver->name = dlsym(driver->dl, #name);

int
fdc_driver_load(const char *path, struct fdc_driver *driver)
{
    int version = 0;

    memset(driver, 0, sizeof(*driver));
    driver->dl = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (driver->dl == NULL) {
        fdc_log(FDC_LOG_ERROR, "cannot open driver: %s", dlerror());
        return -ENOENT;
    }
    FDC_DRIVER_CALLS(TAKE)
    if (driver->cuInit == NULL || driver->cuDriverGetVersion == NULL) {
        fdc_log(FDC_LOG_ERROR, "%s is no CUDA driver", path);
        fdc_driver_unload(driver);
        return -ENOEXEC;
    }
    if (driver->cuDriverGetVersion(&version) == CUDA_SUCCESS)
        driver->version = version;
    return 0;
}

void
fdc_driver_unload(struct fdc_driver *driver)
{
    if (driver->dl != NULL)
        dlclose(driver->dl);
    memset(driver, 0, sizeof(*driver));
}
