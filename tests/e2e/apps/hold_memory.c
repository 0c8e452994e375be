/*
 * Fills argv[1] MiB with the number argv[2], prints "holding", waits for a line on its
 * standard input, and looks whether every word is still there.
 */
#include "app.h"

int
main(int argc, char **argv)
{
    size_t mib = argc > 1 ? strtoul(argv[1], NULL, 10) : 64;
    unsigned value = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : 1;
    unsigned n = (unsigned)(mib << 18);
    CUmodule module = NULL;
    CUfunction fill;
    CUdeviceptr p = 0;
    char line[64];

    app_begin();
    CHECK(cuMemAlloc(&p, mib << 20));
    if (p == 0)
        return app_end();
    REQUIRE(app_count_wrong(p, 0, 1 << 18) == 0);       /* nobody else's words */
    fill = app_function(&module, "fill");
    CHECK(app_fill(fill, p, value, n, NULL));
    CHECK(cuCtxSynchronize());
    puts("holding");
    if (fgets(line, sizeof(line), stdin) == NULL)
        return 4;
    REQUIRE(app_count_wrong(p, value, n) == 0);
    return app_end();
}
