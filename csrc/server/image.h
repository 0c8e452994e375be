/*
 * Images of code at the worker, before they are loaded: announced by their hash, then their
 * bytes, unless the cache on this machine's disk has them.
 */
#ifndef FDC_SERVER_IMAGE_H
#define FDC_SERVER_IMAGE_H

#include "server/serve.h"

struct fdc_image {
    struct fdc_image *next;
    uint64_t number, size;
    struct fdc_digest digest;
    uint8_t *bytes;                     /* size + 1: a NUL ends PTX text; NULL: none came */
    bool cached;                        /* the bytes are the cache's */
};

/* What a load answers instead of loading. */
enum { FDC_MISSING = 1, FDC_MISSING_ALWAYS = 2 };       /* ALWAYS: there is no cache */

/* image.c: an announced image, which is the caller's from then on; its bytes have its hash.
 * *missing: they are neither sent nor here (it stays announced, and *image is NULL). */
CUresult fdc_image_get(struct fdc_serve *serve, uint64_t number, struct fdc_image **image,
                       uint32_t *missing);
/* Back among the announced ones. */
void fdc_image_return(struct fdc_serve *serve, struct fdc_image *image);
void fdc_image_free(struct fdc_image *image);
/* The lengths that a driver trusts in an image: it gets no size beside it. */
bool fdc_image_sound(const struct fdc_image *image);
/* What a program's own wrapper would be, over the image's fat binaries (FDC_IMAGE_UNITS).
 * NULL: the image lies, or there is no memory. */
struct fdc_wrapper;
struct fdc_wrapper *fdc_image_wrapper(const struct fdc_image *image);

/*
 * cache.c: images by their hash, in a folder that is this tenant's alone. NULL: none, and
 * all of these do nothing then. Several workers use one folder: files appear whole.
 */
struct fdc_cache *fdc_cache_open(int folder, uint64_t room);
void fdc_cache_close(struct fdc_cache *cache);
/* The bytes (size + 1, a NUL behind them), which have that hash; NULL: not there. */
uint8_t *fdc_cache_get(struct fdc_cache *cache, const struct fdc_digest *digest,
                       uint64_t size);
/* Between the two, nobody of this process looks for an image: so what was answered is there
 * when it is asked for again, and no caller waits for the disk. */
void fdc_cache_hold(struct fdc_cache *cache);
void fdc_cache_keep(struct fdc_cache *cache, struct fdc_image *const *images, size_t count);

#endif
