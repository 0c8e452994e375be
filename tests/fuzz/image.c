/*
 * Containers of code for the CPU device: fat binaries with their compressed entries, ELF
 * files, archives. The first byte says which way in: the linker's, which knows the
 * length, or a module's, which does not and relies on what the worker has checked
 * before, so only images that pass that check go there, alone or several as units.
 */
#include "fuzz.h"

#include "server/image.c"       /* fdc_image_sound() */
#include "cpudev/cpudev.h"

enum { NAMES = 6 };            /* of kinds of linker inputs */

static void
look_at(const struct fdcpu_image *opened)
{
    static volatile char sum;

    for (int i = 0; i < opened->ntexts; i++)
        for (size_t k = 0; k < opened->texts[i].size; k++)
            sum ^= opened->texts[i].ptx[k];
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fdcpu_image opened = { 0 }, again = { 0 };
    struct fdc_image image = { 0 };
    CUresult result;
    int way;

    if (size < 2)
        return 0;
    fdcpu.opt.cc = 80;
    fdc_log_default(FDC_LOG_OFF, "fuzz");
    way = data[0] % (NAMES + 2);
    image.size = size - 1;
    image.bytes = malloc(image.size + 1);
    FUZZ_CHECK(image.bytes != NULL);
    memcpy(image.bytes, data + 1, image.size);
    image.bytes[image.size] = '\0';
    if (way > NAMES) {
        struct fdc_wrapper *wrapper = fdc_image_wrapper(&image);

        result = CUDA_ERROR_INVALID_IMAGE;
        if (wrapper != NULL)
            result = fdcpu_image_open(&opened, wrapper);
        free(wrapper);
    } else if (way == NAMES) {
        if (fdc_image_sound(&image))
            result = fdcpu_image_open(&opened, image.bytes);
        else
            result = CUDA_ERROR_INVALID_IMAGE;
    } else {
        image.bytes = realloc(image.bytes, image.size);
        FUZZ_CHECK(image.bytes != NULL);
        /* a wrapper holds addresses: the linker's callers are of this process */
        if (image.size >= 4 && word(image.bytes, 4) == 0x466243b1)
            result = CUDA_ERROR_INVALID_IMAGE;
        else
            result = fdcpu_image_add(&opened, way, image.bytes, image.size, "fuzz");
    }
    if (result == CUDA_SUCCESS) {
        size_t packed;
        void *file = fdcpu_image_pack(&opened, &packed);

        look_at(&opened);
        FUZZ_CHECK(file != NULL);
        FUZZ_CHECK(fdcpu_image_add(&again, 0, file, packed, "packed") == CUDA_SUCCESS);
        FUZZ_CHECK(again.ntexts == opened.ntexts);
        fdcpu_image_close(&again);
        free(file);
    }
    fdcpu_image_close(&opened);
    free(image.bytes);
    return 0;
}
