/*
 * The cache of images on this machine's disk: a folder with one file an image, named by
 * its hash, which is computed again whenever one is read. A file that is not what its name
 * says is removed. Written under another name and then renamed, so that other workers see
 * whole files only; the least recently used ones go when there is no room. Without a disk
 * that works, everything goes on without the cache.
 */
#include "server/image.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define FRESH "new-"                    /* how names of unfinished files begin */
#define FRESH_SECONDS 600               /* older ones belong to nobody any more */
#define BLOCK 4096u

enum { NAME = 2 * 32 };

struct fdc_cache {
    int folder;
    uint64_t room;
    pthread_mutex_t lock;               /* see fdc_cache_hold() */
    bool said;                          /* that it does not work; under the lock */
};

struct fdc_cache *
fdc_cache_open(int folder, uint64_t room)
{
    struct fdc_cache *cache;

    if (folder <= 0 || room == 0)
        return NULL;
    cache = calloc(1, sizeof(*cache));
    if (cache == NULL)
        return NULL;
    cache->folder = fcntl(folder, F_DUPFD_CLOEXEC, 3);
    if (cache->folder < 0) {
        free(cache);
        return NULL;
    }
    cache->room = room;
    pthread_mutex_init(&cache->lock, NULL);
    return cache;
}

void
fdc_cache_close(struct fdc_cache *cache)
{
    if (cache == NULL)
        return;
    close(cache->folder);
    pthread_mutex_destroy(&cache->lock);
    free(cache);
}

static void
name_of(const struct fdc_digest *digest, char name[NAME + 1])
{
    for (int i = 0; i < 32; i++)
        snprintf(name + 2 * i, 3, "%02x", digest->bytes[i]);
}

/* Once is enough: the disk will not get better. Under the lock. */
static void
complain(struct fdc_cache *cache, const char *what, int error)
{
    if (cache->said)
        return;
    cache->said = true;
    fdc_log(FDC_LOG_WARN, "the module cache: %s: %s", what, strerror(error));
}

/* ---- reading ---- */

static bool
read_all(int fd, uint8_t *bytes, uint64_t size)
{
    uint64_t have = 0;

    while (have < size) {
        ssize_t n = read(fd, bytes + have, size - have);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        have += (uint64_t)n;
    }
    return true;
}

uint8_t *
fdc_cache_get(struct fdc_cache *cache, const struct fdc_digest *digest, uint64_t size)
{
    const struct timespec used[2] = { { .tv_nsec = UTIME_OMIT }, { .tv_nsec = UTIME_NOW } };
    uint8_t *bytes = NULL, found[32];
    char name[NAME + 1];
    struct stat about;
    uint64_t have = 0;
    bool bad;
    int fd;

    if (cache == NULL)
        return NULL;
    name_of(digest, name);
    pthread_mutex_lock(&cache->lock);
    fd = openat(cache->folder, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    pthread_mutex_unlock(&cache->lock);
    if (fd < 0 && errno != ELOOP)
        return NULL; /* not there */
    bad = fd < 0;
    if (fd >= 0 && fstat(fd, &about) == 0) {
        have = (uint64_t)about.st_size;
        bad = !S_ISREG(about.st_mode);
        bytes = bad || have > cache->room ? NULL : malloc(have + 1);
    }
    /* The whole file: that a client says another size makes it no worse. */
    if (bytes != NULL && read_all(fd, bytes, have)) {
        fdc_sha256(bytes, have, found);
        bad = memcmp(found, digest->bytes, sizeof(found)) != 0;
        if (!bad && have == size) {
            bytes[size] = '\0';
            futimens(fd, used);
            close(fd);
            return bytes;
        }
    }
    if (fd >= 0)
        close(fd);
    free(bytes);
    if (!bad)
        return NULL; /* no memory, or a disk that fails: the file may be good */
    fdc_log(FDC_LOG_WARN, "the module cache: %.12s... is damaged and goes", name);
    unlinkat(cache->folder, name, 0);
    return NULL;
}

/* ---- writing ---- */

struct kept {
    char name[NAME + 1];
    uint64_t bytes;
    struct timespec used;
};

static int
older(const void *a, const void *b)
{
    const struct timespec *left = &((const struct kept *)a)->used;
    const struct timespec *right = &((const struct kept *)b)->used;

    if (left->tv_sec != right->tv_sec)
        return left->tv_sec < right->tv_sec ? -1 : 1;
    return (left->tv_nsec > right->tv_nsec) - (left->tv_nsec < right->tv_nsec);
}

/* Everything in the folder; what nobody finished goes. NULL: nothing is there. */
static struct kept *
list(struct fdc_cache *cache, size_t *count)
{
    struct kept *all = NULL, *grown;
    size_t room = 0;
    struct dirent *entry;
    struct stat about;
    int fd = openat(cache->folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *folder = fd < 0 ? NULL : fdopendir(fd);

    *count = 0;
    if (folder == NULL) {
        if (fd >= 0)
            close(fd);
        return NULL;
    }
    while ((entry = readdir(folder)) != NULL) {
        if (entry->d_name[0] == '.' ||
            fstatat(cache->folder, entry->d_name, &about, AT_SYMLINK_NOFOLLOW) != 0)
            continue;
        if (strncmp(entry->d_name, FRESH, strlen(FRESH)) == 0) {
            if (about.st_mtime + FRESH_SECONDS < time(NULL))
                unlinkat(cache->folder, entry->d_name, 0);
            continue;
        }
        if (strlen(entry->d_name) != NAME)
            continue;
        if (*count == room) {
            room = room == 0 ? 64 : 2 * room;
            grown = realloc(all, room * sizeof(*all));
            if (grown == NULL)
                break;
            all = grown;
        }
        memcpy(all[*count].name, entry->d_name, NAME + 1);
        all[*count].bytes = FDC_ALIGN_UP((uint64_t)about.st_size, (uint64_t)BLOCK);
        all[*count].used = about.st_mtim;
        (*count)++;
    }
    closedir(folder);
    return all;
}

/* The least recently used ones go until so many bytes have room. */
static void
make_room(struct fdc_cache *cache, uint64_t bytes)
{
    uint64_t sum = bytes;
    size_t count;
    struct kept *all = list(cache, &count);

    for (size_t i = 0; i < count; i++)
        sum += all[i].bytes;
    if (sum > cache->room) {
        qsort(all, count, sizeof(*all), older);
        for (size_t i = 0; i < count && sum > cache->room; i++) {
            unlinkat(cache->folder, all[i].name, 0);
            sum -= all[i].bytes;
        }
    }
    free(all);
}

static int
write_all(int fd, const uint8_t *bytes, uint64_t size)
{
    uint64_t done = 0;

    while (done < size) {
        ssize_t n = write(fd, bytes + done, size - done);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? errno : ENOSPC;
        done += (uint64_t)n;
    }
    return 0;
}

/* Under the lock. */
static void
keep(struct fdc_cache *cache, const struct fdc_image *image)
{
    char name[NAME + 1], fresh[NAME];
    uint64_t any; /* workers may share a folder, and each be process 1 of its container */
    int fd, error;

    name_of(&image->digest, name);
    if (image->cached || image->size > cache->room / 2 ||
        faccessat(cache->folder, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
        return;
    make_room(cache, FDC_ALIGN_UP(image->size, (uint64_t)BLOCK));
    if (getrandom(&any, sizeof(any), 0) != sizeof(any)) {
        complain(cache, "an image cannot be kept", errno);
        return;
    }
    snprintf(fresh, sizeof(fresh), FRESH "%016" PRIx64 "-%.12s", any, name);
    fd = openat(cache->folder, fresh, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW,
                0600);
    if (fd < 0) {
        complain(cache, "an image cannot be kept", errno);
        return;
    }
    error = write_all(fd, image->bytes, image->size);
    if (close(fd) != 0 && error == 0)
        error = errno;
    if (error == 0 && renameat(cache->folder, fresh, cache->folder, name) != 0)
        error = errno;
    if (error == 0)
        return;
    complain(cache, "an image cannot be kept", error);
    unlinkat(cache->folder, fresh, 0);
}

void
fdc_cache_hold(struct fdc_cache *cache)
{
    if (cache != NULL)
        pthread_mutex_lock(&cache->lock);
}

void
fdc_cache_keep(struct fdc_cache *cache, struct fdc_image *const *images, size_t count)
{
    if (cache == NULL)
        return;
    for (size_t i = 0; i < count; i++)
        keep(cache, images[i]);
    pthread_mutex_unlock(&cache->lock);
}
