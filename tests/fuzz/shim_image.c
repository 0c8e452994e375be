/*
 * The shim's reading of images: once as a file, which may say anything, and once where
 * the program has it in memory. There the headers are believed, so only the garbage is
 * tried that says nothing of more than itself.
 */
#include "fuzz.h"

#include <sys/mman.h>
#include <unistd.h>

#include "code.h"

static void
read_file(const uint8_t *data, size_t size)
{
    struct fdc_image image;
    char path[64];
    int fd = memfd_create("image", 0);

    FUZZ_CHECK(fd >= 0);
    FUZZ_CHECK(write(fd, data, size) == (ssize_t)size);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    if (fdc_image_read(path, &image) == CUDA_SUCCESS) {
        FUZZ_CHECK(image.bytes == image.owned && image.owned != NULL);
        FUZZ_CHECK(image.size <= size + 1);
        free(image.owned);
    } else {
        FUZZ_CHECK(image.owned == NULL);
    }
    close(fd);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t elf[7] = { 0x7f, 'E', 'L', 'F', 2, 1, 1 };
    struct fdc_image image;
    uint8_t *copy;

    read_file(data, size);
    if (size >= 4 && memcmp(data, "\xb1\x43\x62\x46", 4) == 0)
        return 0;               /* an address of the input's choice */
    if (size >= 7 && memcmp(data, elf, 7) == 0)
        return 0;
    copy = calloc(1, size + 64);        /* a NUL, and room for one header */
    FUZZ_CHECK(copy != NULL);
    if (size != 0)
        memcpy(copy, data, size);
    if (fdc_image_look(copy, &image) == CUDA_SUCCESS)
        FUZZ_CHECK(image.size != 0 && image.size <= (1u << 30) + (1u << 16));
    free(copy);
    return 0;
}
