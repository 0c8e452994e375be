/*
 * Private export tables: arrays of 8-byte slots, the first of which mostly is the size
 * in bytes. Only what was seen in use does something; a slot that was never called says
 * "not supported", a table that is not known is refused. All of it is local
 * bookkeeping.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "fdc/base.h"
#include "fdc/private.h"

enum {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    INVALID_DEVICE = 101,
    INVALID_CONTEXT = 201,
    INVALID_HANDLE = 400,
    NOT_SUPPORTED = 801
};

#ifndef FDC_RUNTIME_CHECK
#define FDC_RUNTIME_CHECK 1
#endif

static const struct fdc_private_ops *ask;

static int
refuse(void)
{
    return NOT_SUPPORTED;
}

/* ---- 6bd5fb6c: what the runtime wants of the driver ---- */

static int
primary_context(void **ctx, int device)
{
    void *primary = ask->ctx_primary(device);

    if (primary == NULL)
        return INVALID_DEVICE;
    *ctx = primary;
    return SUCCESS;
}

static int
succeed(void)
{
    return SUCCESS;
}

#define R (void *)refuse
#define SIZE(table) (void *)sizeof(table)

static void *runtime_table[16] = {
    SIZE(runtime_table),
    R,
    (void *)primary_context,
    R,
    R,
    R,
    R,
    R,
    R,
    R,
    R,
    R,
    (void *)succeed, /* 12: called blindly, must be there */
    R,
    R,
    R,
};

/* ---- a094798c: hooks of profilers; all zero says that nobody listens ---- */

static uint32_t hooks[4096], hooks_too[64];

static void
hook_buffer(void **buffer, size_t *size)
{
    *buffer = hooks;
    *size = sizeof(hooks);
}

static void
hook_buffer_too(void **buffer, size_t *size)
{
    *buffer = hooks_too;
    *size = sizeof(hooks_too);
}

static void *hook_table[7] = {
    SIZE(hook_table), R, (void *)hook_buffer, R, R, R, (void *)hook_buffer_too,
};

/* ---- 42d85a81, 21318c60, 263e8860: the current context, its number and health ---- */

static int
current_context(void **ctx)
{
    *ctx = ask->ctx_current();
    return SUCCESS;
}

static void *current_table[3] = {SIZE(current_table), R, (void *)current_context};

static int
context_number(void *ctx, uint64_t *number)
{
    return ask->ctx_id(ctx, number);
}

static void *number_table[77] = {
    SIZE(number_table),
    [1 ... 3] = R,
    [4] = (void *)context_number,
    [5 ... 76] = R,
};

static int
context_check(void *ctx, uint32_t *flags, void **detail)
{
    (void)ctx;
    (void)detail;
    *flags = 0;
    return SUCCESS;
}

static void *check_table[4] = {
    SIZE(check_table),
    R,
    (void *)context_check,
    (void *)succeed,
};

/* ---- 1734dc26: asked by cuBLASLt on compute capability 9.0; refusal makes it fall
 * back, a missing table makes it crash ---- */

static void *lt_table[8] = {SIZE(lt_table), R, R, R, R, R, R, R};

/* ---- 6e163fbe: functions of a module, for cuFFT; says 1 when it went well ---- */

static int
each_function(void *ctx, void *module, void (*each)(void *user, void *function),
              void *user)
{
    return ask->module_functions(ctx, module, each, user) == SUCCESS;
}

static void *module_table[88] = {
    SIZE(module_table),
    [1 ... 6] = R,
    [7] = (void *)each_function,
    [8 ... 87] = R,
};

/* ---- d4082055: the self-test ---- */

#if FDC_RUNTIME_CHECK
static int self_test(uint32_t version, uint64_t seconds, uint64_t result[2]);
static void *test_table[3] = {SIZE(test_table), (void *)self_test, R};

static int
self_test(uint32_t version, uint64_t seconds, uint64_t result[2])
{
    struct fdc_runtime_check check = {
        (uint32_t)ask->driver_version(),
        version,
        seconds,
        runtime_table,
        test_table,
        (void *)self_test,
    };
    struct fdc_private_device *devices;
    int count = ask->device_count(), i;

    devices = calloc((size_t)count + 1, sizeof(*devices));
    if (devices == NULL)
        return OUT_OF_MEMORY;
    for (i = 0; i < count; i++)
        ask->device(i, &devices[i]);
    fdc_runtime_check(&check, devices, count, result);
    free(devices);
    return SUCCESS;
}
#endif

/* ---- c693336e: values that a library keeps for a context ---- */

typedef void (*cls_destructor)(void *ctx, void *key, void *value);

struct value {
    void *ctx, *key, *value;
    cls_destructor destructor;
    struct value *next;
};

#define BUCKETS 64
#define CACHED 16

/* Nearly every runtime call looks one up: a thread remembers what it found, and looks
 * again only after somebody has changed something (generation). */
struct cached {
    void *ctx, *key, *value;
    uint64_t generation;
};

static struct value *buckets[BUCKETS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t generation = 1;
static __thread struct cached cache[CACHED];

static size_t
hash(const void *ctx, const void *key)
{
    uint64_t h = (uint64_t)(uintptr_t)ctx * 0x9E3779B97F4A7C15ull ^
                 (uint64_t)(uintptr_t)key * 0xC2B2AE3D27D4EB4Full;

    return (size_t)(h >> 40);
}

/* The place of a value in its chain; under the lock. */
static struct value **
find(void *ctx, void *key)
{
    struct value **at = &buckets[hash(ctx, key) % BUCKETS];

    while (*at != NULL && ((*at)->ctx != ctx || (*at)->key != key))
        at = &(*at)->next;
    return at;
}

static void
changed(void)
{
    /* pairs with the acquire in cls_get() */
    fdc_store_release(&generation, generation + 1);
}

static int
cls_put(void *ctx, void *key, void *value, cls_destructor destructor)
{
    struct value **at;

    if (ctx == NULL)
        ctx = ask->ctx_current();
    if (ctx == NULL)
        return INVALID_CONTEXT;
    pthread_mutex_lock(&lock);
    at = find(ctx, key);
    if (*at == NULL) {
        *at = calloc(1, sizeof(**at));
        if (*at == NULL) {
            pthread_mutex_unlock(&lock);
            return OUT_OF_MEMORY;
        }
        (*at)->ctx = ctx;
        (*at)->key = key;
    }
    (*at)->value = value;
    (*at)->destructor = destructor;
    changed();
    pthread_mutex_unlock(&lock);
    return SUCCESS;
}

static int
cls_delete(void *ctx, void *key)
{
    struct value **at, *gone;

    if (ctx == NULL)
        ctx = ask->ctx_current();
    pthread_mutex_lock(&lock);
    at = find(ctx, key);
    gone = *at;
    if (gone != NULL) {
        *at = gone->next;
        changed();
    }
    pthread_mutex_unlock(&lock);
    free(gone);
    return gone == NULL ? INVALID_HANDLE : SUCCESS;
}

static int
cls_get(void **value, void *ctx, void *key)
{
    struct cached *seen;
    struct value *found;
    uint64_t now;

    if (ctx == NULL)
        ctx = ask->ctx_current();
    if (ctx == NULL)
        return INVALID_HANDLE;
    seen = &cache[hash(ctx, key) % CACHED];
    /* pairs with the release in changed() */
    now = fdc_load_acquire(&generation);
    if (FDC_LIKELY(seen->generation == now && seen->ctx == ctx && seen->key == key)) {
        *value = seen->value;
        return SUCCESS;
    }
    pthread_mutex_lock(&lock);
    found = *find(ctx, key);
    if (found != NULL)
        *seen = (struct cached){ctx, key, found->value, generation};
    pthread_mutex_unlock(&lock);
    if (found == NULL)
        return INVALID_HANDLE;
    *value = seen->value;
    return SUCCESS;
}

void
fdc_cls_reset(void *ctx)
{
    struct value **at, *gone;
    size_t i;

    for (i = 0; i < BUCKETS;) {
        pthread_mutex_lock(&lock);
        for (at = &buckets[i]; *at != NULL && (*at)->ctx != ctx; at = &(*at)->next)
            ;
        gone = *at;
        if (gone != NULL) {
            *at = gone->next;
            changed();
        }
        pthread_mutex_unlock(&lock);
        if (gone == NULL) {
            i++;
            continue;
        }
        if (gone->destructor != NULL)
            gone->destructor(gone->ctx, gone->key, gone->value);
        free(gone);
    }
}

static void *cls_table[3] = {(void *)cls_put, (void *)cls_delete, (void *)cls_get};

/* ---- our own, for the NVML library ---- */

static int
gpus(struct fdc_private_gpu *out, int room)
{
    return ask->gpus(out, room);
}

static uint64_t
gpu_used(int ordinal)
{
    return ask->gpu_used(ordinal);
}

static int
gpu_monitor(int ordinal, struct fdc_monitor_gpu *gpu, struct fdc_monitor_process *others,
            int room)
{
    return ask->gpu_monitor(ordinal, gpu, others, room);
}

static int
gpu_busy(int ordinal, struct fdc_busy *where)
{
    return ask->gpu_busy != NULL ? ask->gpu_busy(ordinal, where) : 1;
}

static void *gpu_table[5] = {SIZE(gpu_table), (void *)gpus, (void *)gpu_used,
                             (void *)gpu_monitor, (void *)gpu_busy};

/* ---- by id ---- */

static const struct {
    uint8_t id[16];
    void *const *table;
} tables[] = {
    {{0x6b, 0xd5, 0xfb, 0x6c, 0x5b, 0xf4, 0xe7, 0x4a, 0x89, 0x87, 0xd9, 0x39, 0x12,
      0xfd, 0x9d, 0xf9},
     runtime_table},
    {{0xa0, 0x94, 0x79, 0x8c, 0x2e, 0x74, 0x2e, 0x74, 0x93, 0xf2, 0x08, 0x00, 0x20,
      0x0c, 0x0a, 0x66},
     hook_table},
    {{0x42, 0xd8, 0x5a, 0x81, 0x23, 0xf6, 0xcb, 0x47, 0x82, 0x98, 0xf6, 0xe7, 0x8a,
      0x3a, 0xec, 0xdc},
     current_table},
    {{0xc6, 0x93, 0x33, 0x6e, 0x11, 0x21, 0xdf, 0x11, 0xa8, 0xc3, 0x68, 0xf3, 0x55,
      0xd8, 0x95, 0x93},
     cls_table},
    {{0x26, 0x3e, 0x88, 0x60, 0x7c, 0xd2, 0x61, 0x43, 0x92, 0xf6, 0xbb, 0xd5, 0x00,
      0x6d, 0xfa, 0x7e},
     check_table},
#if FDC_RUNTIME_CHECK
    {{0xd4, 0x08, 0x20, 0x55, 0xbd, 0xe6, 0x70, 0x4b, 0x8d, 0x34, 0xba, 0x12, 0x3c,
      0x66, 0xe1, 0xf2},
     test_table},
#endif
    {{0x21, 0x31, 0x8c, 0x60, 0x97, 0x14, 0x32, 0x48, 0x8c, 0xa6, 0x41, 0xff, 0x73,
      0x24, 0xc8, 0xf2},
     number_table},
    {{0x17, 0x34, 0xdc, 0x26, 0x80, 0x0d, 0x47, 0x45, 0x87, 0x26, 0xc0, 0xf1, 0xe7,
      0xdd, 0x8b, 0xca},
     lt_table},
    {{0x6e, 0x16, 0x3f, 0xbe, 0xb9, 0x58, 0x44, 0x4d, 0x83, 0x5c, 0xe1, 0x82, 0xaf,
      0xf1, 0x99, 0x1e},
     module_table},
    {FDC_PRIVATE_GPUS, gpu_table},
};

int
fdc_private_table(const struct fdc_private_ops *ops, const void **table, const void *id)
{
    size_t i;

    if (table == NULL || id == NULL)
        return INVALID_VALUE;
    *table = NULL;
    /* pairs with nothing: every call stores the same pointer */
    __atomic_store_n(&ask, ops, __ATOMIC_RELEASE);
    for (i = 0; i < FDC_COUNT(tables); i++) {
        if (memcmp(tables[i].id, id, 16) == 0) {
            *table = tables[i].table;
            return SUCCESS;
        }
    }
    return INVALID_VALUE;
}
