/*
 * A fat binary with code for many GPUs, made here: PTX, and a megabyte of what says it is
 * machine code for old and for coming GPUs. Its kernel runs, from a module and a library.
 */
#include <stdint.h>

#include "app.h"

enum { JUNK = 1 << 20, N = 64, PTX = 1, ELF = 2 };

static char *
add(char *at, uint16_t kind, uint32_t arch, const void *bytes, uint32_t size)
{
    struct {
        uint16_t kind, version;
        uint32_t header_size, size, pad, compressed, options;
        uint16_t minor, major;
        uint32_t arch, name_offset, name_size;
        uint64_t flags, pad1, full_size;
    } head = { kind, 0x101, sizeof(head), (size + 7) / 8 * 8, 0, 0, 0, 0, 7, arch, 0, 0,
               0x11, 0, 0 };

    memcpy(at, &head, sizeof(head));
    memcpy(at + sizeof(head), bytes, size);
    return at + sizeof(head) + head.size;
}

int
main(void)
{
    static const uint32_t other[] = { 50, 61, 300 };
    struct {
        uint32_t magic;
        uint16_t version, header_size;
        uint64_t size;
    } head = { 0xba55ed50u, 1, 16, 0 };
    char *image = calloc(1, 5 * JUNK), *junk = calloc(1, JUNK), *at = image + sizeof(head);
    CUlibrary library;
    CUkernel kernel;
    CUmodule module;
    CUfunction fill;
    CUdeviceptr p;

    app_begin();
    memcpy(junk, "\177ELF", 4);
    for (int i = 0; i < 3; i++)
        at = add(at, ELF, other[i], junk, JUNK);
    at = add(at, PTX, 52, app_ptx, sizeof(app_ptx));
    head.size = (uint64_t)(at - image) - sizeof(head);
    memcpy(image, &head, sizeof(head));

    CHECK(cuMemAlloc(&p, N * 4));
    CHECK(cuModuleLoadData(&module, image));
    CHECK(cuModuleGetFunction(&fill, module, "fill"));
    CHECK(app_fill(fill, p, 7, N, NULL));
    REQUIRE(app_count_wrong(p, 7, N) == 0);
    CHECK(cuLibraryLoadData(&library, image, NULL, NULL, 0, NULL, NULL, 0));
    CHECK(cuLibraryGetKernel(&kernel, library, "fill"));
    CHECK(cuKernelGetFunction(&fill, kernel));
    CHECK(app_fill(fill, p, 8, N, NULL));
    REQUIRE(app_count_wrong(p, 8, N) == 0);
    CHECK(cuLibraryUnload(library));
    CHECK(cuModuleUnload(module));
    return app_end();
}
