/*
 * Start-up: options from the environment, cuInit, versions, fork. Nothing happens when
 * the library is loaded, and nothing is torn down at exit: late calls find everything
 * as it was.
 */
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "cpudev.h"

struct fdcpu_state fdcpu = {
    .api = PTHREAD_MUTEX_INITIALIZER,
    .sched = PTHREAD_MUTEX_INITIALIZER,
    .mem = PTHREAD_RWLOCK_INITIALIZER,
};
__thread struct fdcpu_thread fdcpu_thread;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static CUresult init_result;

static uint64_t
number(const char *name, uint64_t fallback, uint64_t least, uint64_t most)
{
    const char *text = getenv(name);
    char *end;
    unsigned long long value;

    if (text == NULL || *text == '\0')
        return fallback;
    errno = 0;
    value = strtoull(text, &end, 10);
    if (errno != 0 || *end != '\0' || value < least || value > most) {
        fdc_log(FDC_LOG_WARN, "%s=%s is not a number from %llu to %llu, using %llu",
                name, text, (unsigned long long)least, (unsigned long long)most,
                (unsigned long long)fallback);
        return fallback;
    }
    return value;
}

static uint32_t
strict_words(const char *text)
{
    static const struct {
        const char *word;
        uint32_t bits;
    } words[] = {
        {"1", FDCPU_STRICT_QUEUE | FDCPU_STRICT_CAPTURE | FDCPU_STRICT_UNMAP |
                  FDCPU_STRICT_PAGEABLE | FDCPU_STRICT_HOST},
        {"0", 0},
        {"queue", FDCPU_STRICT_QUEUE},
        {"capture", FDCPU_STRICT_CAPTURE},
        {"hints", FDCPU_STRICT_HINTS},
        {"novmm", FDCPU_STRICT_NOVMM},
        {"slow", FDCPU_STRICT_SLOW},
        {"unmap", FDCPU_STRICT_UNMAP},
        {"pageable", FDCPU_STRICT_PAGEABLE},
        {"host", FDCPU_STRICT_HOST},
        {"novalues", FDCPU_STRICT_NOVALUES},
        {"dirty", FDCPU_STRICT_DIRTY},
    };
    uint32_t bits = 0;
    size_t i, n;

    while (text != NULL && *text != '\0') {
        n = strcspn(text, ",");
        for (i = 0; i < FDC_COUNT(words); i++)
            if (strlen(words[i].word) == n && memcmp(words[i].word, text, n) == 0)
                break;
        if (i < FDC_COUNT(words))
            bits |= words[i].bits;
        else if (n > 0)
            fdc_log(FDC_LOG_WARN, "FD_CPU_STRICT: unknown word %.*s", (int)n, text);
        text += n + (text[n] == ',');
    }
    return bits;
}

static int
compute_capability(void)
{
    const char *text = getenv("FD_CPU_CC");
    int major, minor;
    char rest;

    if (text == NULL || *text == '\0')
        return 80;
    if (sscanf(text, "%d.%d%c", &major, &minor, &rest) != 2 || major < 5 ||
        major > 20 || minor < 0 || minor > 9) {
        fdc_log(FDC_LOG_WARN, "FD_CPU_CC=%s is not like 8.0, using 8.0", text);
        return 80;
    }
    return major * 10 + minor;
}

static bool
skips_kernels(void)
{
    const char *text = getenv("FD_CPU_KERNELS");

    return text != NULL && strcmp(text, "skip") == 0;
}

static void
read_options(struct fdcpu_options *opt)
{
    const char *text;

    opt->version = number("FD_CPU_DRIVER_VERSION", 13000, 11000, 99990);
    opt->cc = compute_capability();
    opt->memory = number("FD_CPU_MEMORY_MB", 4096, 16, 1u << 22) << 20;
    opt->strict = strict_words(getenv("FD_CPU_STRICT"));
    opt->skip_kernels = skips_kernels();
    opt->context = number("FD_CPU_CONTEXT_MB", 0, 0, 1u << 22) << 20;
    text = getenv("FD_CPU_EXCLUSIVE");
    opt->exclusive = text != NULL && *text != '\0';
    text = getenv("FD_CPU_SLACK");
    opt->slack = text != NULL && strcmp(text, "1") == 0;
    text = getenv("CUDA_LAUNCH_BLOCKING");
    opt->blocking = text != NULL && strcmp(text, "1") == 0;
    text = getenv("CUDA_MODULE_LOADING");
    opt->eager = text != NULL && strcasecmp(text, "EAGER") == 0;
    opt->fault = number("FD_CPU_FAULT", 0, 0, 1ull << 40);
    opt->deadline_ms = number("FD_CPU_KERNEL_MS", 0, 0, 86400000);
}

/* A number that differs from host to host and stays the same on one. */
static uint64_t
host_number(void)
{
    char text[256] = "";
    uint64_t hash = 0xcbf29ce484222325ull;
    FILE *file = fopen("/etc/machine-id", "re");
    size_t n = 0;

    if (file != NULL) {
        n = fread(text, 1, sizeof(text) - 1, file);
        fclose(file);
    }
    if (n == 0)
        gethostname(text, sizeof(text) - 1);
    for (n = 0; text[n] != '\0'; n++)
        hash = (hash ^ (uint8_t)text[n]) * 0x100000001b3ull;
    return hash;
}

static void
device_identity(struct fdcpu_device *device, int physical, uint64_t host)
{
    /* Several servers of one machine can have devices that are told apart. */
    int who = physical + number("FD_CPU_FIRST", 0, 0, 128);
    uint64_t low = host * 0x9E3779B97F4A7C15ull + (uint64_t)who;

    low ^= low >> 29;
    low *= 0xBF58476D1CE4E5B9ull;
    low ^= low >> 32;
    memcpy(device->uuid, "fdcp", 4);
    device->uuid[4] = (uint8_t)who;
    memcpy(device->uuid + 5, &host, 3);
    memcpy(device->uuid + 8, &low, 8);
    device->uuid[6] = (device->uuid[6] & 0x0F) | 0x40;
    device->uuid[8] = (device->uuid[8] & 0x3F) | 0x80;
    device->physical = physical;
    device->pci_domain = 0;
    device->pci_bus = 0x40 + who;
    device->pci_slot = 0;
    snprintf(device->name, sizeof(device->name), "fdcore CPU device%s",
             skips_kernels() ? " (kernels skipped)" : "");
}

int
fdcpu_devices_look(struct fdcpu_device *out, int room, struct fdcpu_options *opt)
{
    int n = number("FD_CPU_DEVICES", 1, 0, FDCPU_MAX_DEVICES), i;
    uint64_t host = host_number();

    read_options(opt);
    for (i = 0; i < n && i < room; i++)
        device_identity(&out[i], i, host);
    return i;
}

/* The physical device that one entry of CUDA_VISIBLE_DEVICES names, or -1. */
static int
visible_device(const char *text, size_t size, int ndevices, uint64_t host)
{
    struct fdcpu_device device;
    char uuid[48], entry[48];
    char *end;
    long ordinal;
    int i, found = -1;

    if (size == 0 || size >= sizeof(entry))
        return -1;
    memcpy(entry, text, size);
    entry[size] = '\0';
    if (strncmp(entry, "GPU-", 4) != 0) {
        ordinal = strtol(entry, &end, 10);
        return end == entry || *end != '\0' || ordinal < 0 || ordinal >= ndevices
                   ? -1
                   : (int)ordinal;
    }
    for (i = 0; i < ndevices; i++) {
        const uint8_t *u = device.uuid;

        device_identity(&device, i, host);
        snprintf(uuid, sizeof(uuid),
                 "GPU-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-"
                 "%02x%02x%02x%02x%02x%02x",
                 u[0], u[1], u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10],
                 u[11], u[12], u[13], u[14], u[15]);
        if (strncasecmp(uuid, entry, size) == 0) {
            if (found >= 0)
                return -1;
            found = i;
        }
    }
    return found;
}

static void
add_device(int physical, uint64_t host)
{
    struct fdcpu_device *device = &fdcpu.device[fdcpu.ndevices];

    device->ordinal = fdcpu.ndevices++;
    device_identity(device, physical, host);
}

static void
find_devices(void)
{
    int n = number("FD_CPU_DEVICES", 1, 0, FDCPU_MAX_DEVICES), i, j;
    uint64_t host = host_number();
    const char *text = getenv("CUDA_VISIBLE_DEVICES");
    size_t size;

    if (text == NULL) {
        for (i = 0; i < n; i++)
            add_device(i, host);
        return;
    }
    while (*text != '\0') {
        while (isspace((unsigned char)*text))
            text++;
        size = strcspn(text, ",");
        while (size > 0 && isspace((unsigned char)text[size - 1]))
            size--;
        i = visible_device(text, size, n, host);
        for (j = 0; j < fdcpu.ndevices; j++)
            if (fdcpu.device[j].physical == i)
                i = -1;
        if (i < 0)
            break;
        add_device(i, host);
        text += strcspn(text, ",");
        text += *text == ',';
    }
}

static void
in_child(void)
{
    if (atomic_load(&fdcpu.ready) == 1)
        atomic_store(&fdcpu.ready, 2);
}

static void
init_once(void)
{
    int i;

    fdc_log_default(FDC_LOG_ERROR, "fdcore cpu");
    read_options(&fdcpu.opt);
    if (fdcpu.opt.skip_kernels) /* says so, once */
        fdc_log_default(FDC_LOG_WARN, NULL);
    find_devices();
    if (fdcpu.ndevices == 0) {
        init_result = CUDA_ERROR_NO_DEVICE;
        return;
    }
    for (i = 0; i < fdcpu.ndevices; i++) {
        struct fdcpu_device *device = &fdcpu.device[i];

        device->primary = fdcpu_ctx_new(device, true);
        if (device->primary == NULL) {
            init_result = CUDA_ERROR_OUT_OF_MEMORY;
            return;
        }
        fdcpu_pool_init(device);
    }
    pthread_atfork(NULL, NULL, in_child);
    atomic_store(&fdcpu.ready, 1);
}

FDC_EXPORT CUresult
cuInit(unsigned int Flags)
{
    if (Flags != 0)
        return CUDA_ERROR_INVALID_VALUE;
    if (atomic_load(&fdcpu.ready) == 2)
        return CUDA_ERROR_NOT_INITIALIZED;
    pthread_once(&once, init_once);
    return init_result;
}

FDC_EXPORT CUresult
cuDriverGetVersion(int *driverVersion)
{
    if (driverVersion == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    *driverVersion = number("FD_CPU_DRIVER_VERSION", 13000, 11000, 99990);
    return CUDA_SUCCESS;
}

CUresult
fdcpu_check(void)
{
    if (FDC_UNLIKELY(atomic_load_explicit(&fdcpu.ready, memory_order_relaxed) != 1))
        return CUDA_ERROR_NOT_INITIALIZED;
    if (FDC_UNLIKELY(fdcpu_thread.in_host_function))
        return CUDA_ERROR_NOT_PERMITTED;
    return CUDA_SUCCESS;
}

uint64_t
fdcpu_thread_number(void)
{
    static _Atomic uint64_t next = 1;

    if (fdcpu_thread.number == 0)
        fdcpu_thread.number = atomic_fetch_add(&next, 1);
    return fdcpu_thread.number;
}

/* ---- the end of a thread ---- */

static pthread_key_t thread_key;
static pthread_once_t thread_once = PTHREAD_ONCE_INIT;

static void
thread_end(void *arg)
{
    struct fdcpu_thread *t = arg;

    if (atomic_load(&fdcpu.ready) == 1 && t->nown > 0)
        fdcpu_own_streams_drop(t);
    free(t->own);
    free(t->stack);
    free(t->asked);
    free(t->asked_edges);
    memset(t, 0, sizeof(*t));
}

static void
thread_key_make(void)
{
    pthread_key_create(&thread_key, thread_end);
}

void
fdcpu_thread_watch(void)
{
    pthread_once(&thread_once, thread_key_make);
    pthread_setspecific(thread_key, &fdcpu_thread);
}

void
fdcpu_log_once(const char *what)
{
    static const char *said[64];
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    size_t i;

    pthread_mutex_lock(&lock);
    for (i = 0; i < FDC_COUNT(said) && said[i] != NULL; i++)
        if (strcmp(said[i], what) == 0)
            break;
    if (i < FDC_COUNT(said) && said[i] == NULL) {
        said[i] = what;
        fdc_log(FDC_LOG_WARN, "%s", what);
    }
    pthread_mutex_unlock(&lock);
}
