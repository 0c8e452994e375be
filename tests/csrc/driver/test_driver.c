/* Opening a driver by its path: what is refused, and what a good one fills in. */
#include <errno.h>
#include <limits.h>

#include "check.h"
#include "fdc/base.h"
#include "fdc/driver.h"

static void
check_empty(const struct fdc_driver *driver)
{
    const uint8_t *bytes = (const uint8_t *)driver;

    for (size_t at = 0; at < sizeof(*driver); at++)
        CHECK_EQ(bytes[at], 0);
}

static void
test_missing_library_is_enoent_and_leaves_an_empty_table(void)
{
    struct fdc_driver driver;

    CHECK_EQ(fdc_driver_load("/nowhere/libcuda.so.1", &driver), -ENOENT);
    check_empty(&driver);
    fdc_driver_unload(&driver);
}

static void
test_library_that_is_no_driver_is_enoexec(void)
{
    struct fdc_driver driver;

    CHECK_EQ(fdc_driver_load("libm.so.6", &driver), -ENOEXEC);
    check_empty(&driver);
}

static void
test_cpu_device_fills_the_table(void)
{
    char path[PATH_MAX];
    struct fdc_driver driver;
    ssize_t size = readlink("/proc/self/exe", path, sizeof(path) - 1);
    int filled = 0, members = 0;

    CHECK(size > 0);
    path[size] = 0;
    for (int up = 0; up < 3; up++)      /* .../test/driver/test_driver */
        *strrchr(path, '/') = 0;
    CHECK(strlen(path) + 32 < sizeof(path));
    strcat(path, "/lib/libfdcpu.so");
    if (access(path, R_OK) != 0)
        CHECK_SKIP("the CPU device is not built");
    CHECK_EQ(fdc_driver_load(path, &driver), 0);
    CHECK(driver.version >= 12000);
#define COUNT(name) members++, filled += driver.name != NULL;
    FDC_DRIVER_CALLS(COUNT)
    CHECK_EQ(filled, members);
    fdc_driver_unload(&driver);
    check_empty(&driver);
}

int
main(void)
{
    int failed = 0;

    fdc_log_default(FDC_LOG_OFF, "test");
    RUN(test_missing_library_is_enoent_and_leaves_an_empty_table);
    RUN(test_library_that_is_no_driver_is_enoexec);
    RUN(test_cpu_device_fills_the_table);
    return failed;
}
