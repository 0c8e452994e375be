/*
 * Images of code arrive in chunks and are put together in the worker's memory, or come from
 * the cache; either way they must have the hash that was announced. What a driver would
 * trust in them is checked here too.
 */
#include "server/image.h"
#include "server_hooks.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define IMAGE_MAX (1ull << 30)          /* bytes of one image */
#define IMAGES_BYTES (2ull << 30)       /* ... of all that are under way */
#define IMAGES_MAX 4096
#define WRAPPER_MAGIC 0x466243b1u       /* of a fat binary's wrapper, which holds addresses */

struct fdc_images {
    pthread_mutex_t lock;
    struct fdc_image *first;
    uint64_t bytes;
    int count;
};

struct fdc_images *
fdc_images_new(void)
{
    struct fdc_images *images = calloc(1, sizeof(*images));

    if (images != NULL)
        pthread_mutex_init(&images->lock, NULL);
    return images;
}

void
fdc_image_free(struct fdc_image *image)
{
    free(image->bytes);
    free(image);
}

void
fdc_images_free(struct fdc_images *images)
{
    struct fdc_image *image;

    if (images == NULL)
        return;
    while ((image = images->first) != NULL) {
        images->first = image->next;
        fdc_image_free(image);
    }
    pthread_mutex_destroy(&images->lock);
    free(images);
}

/* Under the lock. */
static struct fdc_image **
image_place(struct fdc_images *images, uint64_t number)
{
    struct fdc_image **at = &images->first;

    while (*at != NULL && (*at)->number != number)
        at = &(*at)->next;
    return at;
}

/* Out of the list; the caller's from then on. NULL: none. */
static struct fdc_image *
image_take(struct fdc_images *images, uint64_t number)
{
    struct fdc_image **at, *image;

    pthread_mutex_lock(&images->lock);
    at = image_place(images, number);
    image = *at;
    if (image != NULL) {
        *at = image->next;
        images->bytes -= image->size;
        images->count--;
    }
    pthread_mutex_unlock(&images->lock);
    return image;
}

int
fdc_server_call_fdcImageBegin(struct fdc_request *request,
                              const struct fdc_req_fdcImageBegin *req)
{
    struct fdc_images *images = request->serve->images;
    struct fdc_image *image = NULL;
    CUresult result = CUDA_ERROR_INVALID_VALUE;

    pthread_mutex_lock(&images->lock);
    if (req->size == 0 || req->size > IMAGE_MAX ||
        *image_place(images, req->image) != NULL)
        goto unlock;
    result = CUDA_ERROR_OUT_OF_MEMORY;
    if (images->bytes + req->size > IMAGES_BYTES || images->count >= IMAGES_MAX)
        goto unlock;
    image = calloc(1, sizeof(*image));
    if (image == NULL)
        goto unlock;
    image->number = req->image;
    image->size = req->size;
    image->digest = req->sha256;
    image->next = images->first;
    images->first = image;
    images->bytes += req->size;
    images->count++;
    result = CUDA_SUCCESS;
unlock:
    pthread_mutex_unlock(&images->lock);
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

int
fdc_server_call_fdcImageChunk(struct fdc_request *request,
                              const struct fdc_req_fdcImageChunk *req)
{
    struct fdc_images *images = request->serve->images;
    const void *bytes = fdc_request_chunk(request, FDC_REGION_UP, req->chunk);
    CUresult result = CUDA_ERROR_INVALID_VALUE;
    struct fdc_image *image;

    if (bytes == NULL)
        return -EPROTO;
    pthread_mutex_lock(&images->lock);
    image = *image_place(images, req->image);
    /* Bytes that never come are not what the hash says, but are not read uninitialised. */
    if (image != NULL && image->bytes == NULL) {
        image->bytes = calloc(1, image->size + 1);
        if (image->bytes == NULL) {
            result = CUDA_ERROR_OUT_OF_MEMORY;
            image = NULL;
        }
    }
    if (image != NULL && req->offset <= image->size &&
        req->chunk.size <= image->size - req->offset) {
        memcpy(image->bytes + req->offset, bytes, req->chunk.size);
        fdc_count(request->serve, up_bytes, req->chunk.size);
        result = CUDA_SUCCESS;
    }
    pthread_mutex_unlock(&images->lock);
    fdc_request_answer(request, result, NULL, 0);
    return 0;
}

int
fdc_server_call_fdcImageDrop(struct fdc_request *request,
                             const struct fdc_req_fdcImageDrop *req)
{
    struct fdc_image *image = image_take(request->serve->images, req->image);

    if (image != NULL)
        fdc_image_free(image);
    fdc_request_answer(request, CUDA_SUCCESS, NULL, 0);
    return 0;
}

void
fdc_image_return(struct fdc_serve *serve, struct fdc_image *image)
{
    struct fdc_images *images = serve->images;

    pthread_mutex_lock(&images->lock);
    image->next = images->first;
    images->first = image;
    images->bytes += image->size;
    images->count++;
    pthread_mutex_unlock(&images->lock);
}

CUresult
fdc_image_get(struct fdc_serve *serve, uint64_t number, struct fdc_image **found,
              uint32_t *missing)
{
    struct fdc_image *image = image_take(serve->images, number);
    uint8_t digest[32];

    *found = NULL;
    if (image == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    if (image->bytes == NULL) {
        image->bytes = fdc_cache_get(serve->cache, &image->digest, image->size);
        image->cached = image->bytes != NULL;
        if (!image->cached) {
            *missing = serve->cache != NULL ? FDC_MISSING : FDC_MISSING_ALWAYS;
            fdc_image_return(serve, image);
            return CUDA_SUCCESS;
        }
    } else if (!image->cached) {
        fdc_sha256(image->bytes, image->size, digest);
        if (memcmp(digest, image->digest.bytes, sizeof(digest)) != 0) {
            fdc_log(FDC_LOG_WARN, "an image of %llu bytes does not have its hash",
                    (unsigned long long)image->size);
            fdc_image_free(image);
            return CUDA_ERROR_INVALID_IMAGE;
        }
    }
    *found = image;
    return CUDA_SUCCESS;
}

/* ---- what a driver would trust ---- */

static uint64_t
word(const uint8_t *at, int bytes)
{
    uint64_t value = 0;

    memcpy(&value, at, (size_t)bytes);
    return value;
}

/* Whether a table of `count` entries lies inside the image. */
static bool
inside(uint64_t size, uint64_t offset, uint64_t entry, uint64_t count)
{
    return offset <= size && entry * count <= size - offset;
}

static bool
is_fatbin(const uint8_t *at, uint64_t size)
{
    return size >= 4 && word(at, 4) == 0xba55ed50;
}

static bool
fatbin_sound(const uint8_t *at, uint64_t size)
{
    return size >= 16 && word(at + 6, 2) >= 16 && word(at + 6, 2) <= size &&
           word(at + 8, 8) <= size - word(at + 6, 2);
}

bool
fdc_image_sound(const struct fdc_image *image)
{
    const uint8_t *at = image->bytes;
    uint64_t size = image->size;

    if (is_fatbin(at, size))
        return fatbin_sound(at, size);
    if (size >= 4 && memcmp(at, "\177ELF", 4) == 0) {
        uint64_t sections, nsections, entry;

        if (size < 64)
            return false;
        sections = word(at + 40, 8);
        nsections = word(at + 60, 2);
        entry = word(at + 58, 2);
        if (at[4] != 2 || (nsections != 0 && entry < 64) ||
            !inside(size, word(at + 32, 8), word(at + 54, 2), word(at + 56, 2)) ||
            !inside(size, sections, entry, nsections))
            return false;
        for (uint64_t i = 0; i < nsections; i++) {
            const uint8_t *section = at + sections + i * entry;

            if (word(section + 4, 4) != 8 &&    /* NOBITS has no bytes */
                !inside(size, word(section + 24, 8), 1, word(section + 32, 8)))
                return false;
        }
        return true;
    }
    /* A wrapper holds addresses; everything else is text. */
    return size < 4 || word(at, 4) != WRAPPER_MAGIC;
}

/* What a program's own wrapper would be, over the image's fat binaries. */
struct fdc_wrapper {
    uint32_t magic, version;
    const void *data;
    const void **unit;
    const void *list[];                 /* all but the first, and NULL */
};

struct fdc_wrapper *
fdc_image_wrapper(const struct fdc_image *image)
{
    const struct fdc_units *units = (const void *)image->bytes;
    struct fdc_wrapper *wrapper;

    if (image->size < sizeof(*units) || units->count < 2 || units->count > FDC_UNITS_MAX ||
        !inside(image->size, sizeof(*units), sizeof(units->unit[0]), units->count))
        return NULL;
    wrapper = calloc(1, sizeof(*wrapper) + units->count * sizeof(wrapper->list[0]));
    if (wrapper == NULL)
        return NULL;
    wrapper->magic = WRAPPER_MAGIC;
    wrapper->version = 2;
    wrapper->unit = wrapper->list;
    for (uint32_t i = 0; i < units->count; i++) {
        uint64_t offset = units->unit[i].offset, size = units->unit[i].size;
        const uint8_t *at = NULL;       /* only once it is known to be inside */

        if (offset % 8 == 0 && inside(image->size, offset, 1, size))
            at = image->bytes + offset;
        if (at == NULL || !is_fatbin(at, size) || !fatbin_sound(at, size)) {
            free(wrapper);
            return NULL;
        }
        if (i == 0)
            wrapper->data = at;
        else
            wrapper->list[i - 1] = at;
    }
    return wrapper;
}
