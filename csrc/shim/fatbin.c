/*
 * What of a fat binary travels: machine code that one of the devices can run (its own major
 * architecture, no newer minor one), and PTX that one of them can compile. Libraries carry
 * code for every GPU there is, so most of them stays here. Where nothing would be left, or
 * something is odd, all of it goes, and the driver says what it thinks of it.
 */
#include <stdlib.h>
#include <string.h>

#include "code.h"

enum { ENTRY_PTX = 1, ENTRY_ELF = 2 };

struct fatbin {
    uint32_t magic;
    uint16_t version, header_size;
    uint64_t size; /* of what follows */
} __attribute__((packed));

/* The part of an entry's head that matters here. */
struct entry {
    uint16_t kind, version;
    uint32_t header_size, size, pad[4]; /* compressed size, options, versions */
    uint32_t arch; /* 80, 103 */
} __attribute__((packed));

/* Architectures of the devices: 10 * major + minor. */
struct archs {
    uint32_t arch[64];
    int count;
    bool ptx_fits; /* some PTX is not too new: that which is too new need not travel */
};

static void
arch_add(struct archs *archs, const struct fdc_device *device)
{
    const int32_t *attribute = device->snapshot->attribute;

    if (archs->count < (int)FDC_COUNT(archs->arch))
        archs->arch[archs->count++] =
            (uint32_t)(10 * attribute[CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR] +
                       attribute[CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR]);
}

static bool
ptx_fits(const struct archs *archs, const struct entry *entry)
{
    for (int i = 0; i < archs->count; i++)
        if (entry->arch <= archs->arch[i])
            return true;
    return false;
}

static bool
wanted(const struct archs *archs, const struct entry *entry)
{
    if (entry->kind == ENTRY_PTX)
        return !archs->ptx_fits || ptx_fits(archs, entry);
    if (entry->kind != ENTRY_ELF)
        return true;
    for (int i = 0; i < archs->count; i++)
        if (entry->arch / 10 == archs->arch[i] / 10 && entry->arch <= archs->arch[i])
            return true;
    return false;
}

/* The next entry, its head copied out (they may lie anywhere); its whole size, or 0 at the
 * end and where the lengths make no sense (*sound). */
static uint64_t
next(const char *at, const char *end, struct entry *entry, bool *sound)
{
    uint64_t left = (uint64_t)(end - at);

    if (left < sizeof(*entry))
        return 0;
    memcpy(entry, at, sizeof(*entry));
    *sound = entry->header_size >= sizeof(*entry) && entry->header_size <= left &&
             entry->size <= left - entry->header_size;
    return *sound ? (uint64_t)entry->header_size + entry->size : 0;
}

/* Bytes of the fat binary that remain, written to `to` unless that is NULL; 0: it is to be
 * left as it is. */
static uint64_t
fit(const char *fatbin, uint64_t size, struct archs *archs, char *to)
{
    struct fatbin head;
    const char *at, *end;
    struct entry entry;
    bool sound = true, runs = false;
    uint64_t kept, whole;

    if (size < sizeof(head))
        return 0;
    memcpy(&head, fatbin, sizeof(head));
    if (head.header_size < sizeof(head) || head.header_size > size)
        return 0;
    end = fatbin + size;
    archs->ptx_fits = false;
    for (at = fatbin + head.header_size; (whole = next(at, end, &entry, &sound)) != 0;
         at += whole)
        if (entry.kind == ENTRY_PTX && ptx_fits(archs, &entry))
            archs->ptx_fits = true;
    kept = head.header_size;
    for (at = fatbin + head.header_size; (whole = next(at, end, &entry, &sound)) != 0;
         at += whole) {
        if (!wanted(archs, &entry))
            continue;
        runs = runs || entry.kind == ENTRY_PTX || entry.kind == ENTRY_ELF;
        if (to != NULL)
            memcpy(to + kept, at, whole);
        kept += whole;
    }
    if (!sound || !runs)
        return 0;
    if (to != NULL) {
        memcpy(to, fatbin, head.header_size);
        head.size = kept - head.header_size;
        memcpy(to, &head, sizeof(head));
    }
    return kept;
}

static CUresult
fit_one(const struct fdc_image *image, struct archs *archs, struct fdc_image *fitted)
{
    uint64_t size = fit(image->bytes, image->size, archs, NULL);
    char *bytes;

    if (size == 0 || size >= image->size)
        return CUDA_SUCCESS;
    bytes = malloc(size);
    if (bytes == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    (void)fit(image->bytes, image->size, archs, bytes);
    *fitted = (struct fdc_image){bytes, size, image->kind, bytes};
    return CUDA_SUCCESS;
}

/* The same for each of several; the list was made by image.c. */
static CUresult
fit_units(const struct fdc_image *image, struct archs *archs, struct fdc_image *fitted)
{
    const struct fdc_units *units = image->bytes;
    uint64_t at = sizeof(*units) + units->count * sizeof(units->unit[0]);
    struct fdc_units *made = calloc(1, image->size);

    if (made == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    made->count = units->count;
    for (uint32_t i = 0; i < units->count; i++) {
        const char *unit = (const char *)units + units->unit[i].offset;
        uint64_t size = fit(unit, units->unit[i].size, archs, (char *)made + at);

        if (size == 0) {
            size = units->unit[i].size;
            memcpy((char *)made + at, unit, size);
        }
        made->unit[i].offset = at;
        made->unit[i].size = size;
        at += FDC_ALIGN_UP(size, 8ull);
    }
    *fitted = (struct fdc_image){made, at, image->kind, made};
    return CUDA_SUCCESS;
}

CUresult
fdc_image_fit(const struct fdc_call *call, const struct fdc_image *image, bool library,
              struct fdc_image *fitted)
{
    struct archs archs = {.count = 0};

    *fitted = *image;
    fitted->owned = NULL;
    if (image->kind != FDC_IMAGE_FATBIN && image->kind != FDC_IMAGE_UNITS)
        return CUDA_SUCCESS;
    if (!library && call->context != NULL)
        arch_add(&archs, call->context->device);
    else
        for (int i = 0; i < call->session->devices; i++)
            arch_add(&archs, &call->session->device[i]);
    return image->kind == FDC_IMAGE_FATBIN ? fit_one(image, &archs, fitted)
                                           : fit_units(image, &archs, fitted);
}
