/*
 * The submission log, FD_CPU_LOG=PREFIX: what each stream was given, in the order in which
 * it does it, one line a unit of work, in PREFIX.<process>. For tests that compare what
 * reaches the device with and without a server (docs/cpu-device.md has the lines).
 *
 * A line is one write(2), so threads need no lock. Addresses stand as they are, marked
 * with @: whoever compares renames them. Hashes of copied bytes can be joined:
 * hash(ab) = hash(a) * BASE^size(b) + hash(b), modulo PRIME.
 */
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cpudev.h"

#define PRIME ((1ull << 61) - 1)
#define BASE 0x1F3D5B79ACE02468ull

static int log_fd = -1;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void
open_log(void)
{
    const char *prefix = getenv("FD_CPU_LOG");
    char path[4096];

    if (prefix == NULL || *prefix == '\0')
        return;
    snprintf(path, sizeof(path), "%s.%ld", prefix, (long)getpid());
    log_fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (log_fd < 0)
        fdc_log(FDC_LOG_ERROR, "FD_CPU_LOG: %s cannot be written", path);
}

struct line {
    char *text;
    size_t used, room;
};

static void add(struct line *line, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static void
add(struct line *line, const char *format, ...)
{
    char *bigger;
    va_list args;
    int n;

    if (line->room - line->used < 4096) {
        bigger = realloc(line->text, line->room * 2 + 8192);
        if (bigger == NULL)
            return;
        line->text = bigger;
        line->room = line->room * 2 + 8192;
    }
    va_start(args, format);
    n = vsnprintf(line->text + line->used, line->room - line->used, format, args);
    va_end(args);
    if (n > 0)
        line->used += (size_t)n < line->room - line->used ? (size_t)n
                                                          : line->room - line->used - 1;
}

static void
end(struct line *line)
{
    add(line, "\n");
    if (line->text != NULL && write(log_fd, line->text, line->used) < 0) {
        /* the comparison will see that it is not there */
    }
    free(line->text);
    *line = (struct line){NULL, 0, 0};
}

static uint64_t
times(uint64_t a, uint64_t b)
{
    unsigned __int128 product = (unsigned __int128)a * b;
    uint64_t sum = (uint64_t)(product & PRIME) + (uint64_t)(product >> 61);

    return sum >= PRIME ? sum - PRIME : sum;
}

static uint64_t
hash(const char *bytes, size_t size)
{
    uint64_t h = 0;
    size_t i;

    for (i = 0; i < size; i++) {
        h = times(h, BASE) + (uint8_t)bytes[i];
        h = h >= PRIME ? h - PRIME : h;
    }
    return h;
}

/* A value that names memory or an object of this device, and so differs from run to run. */
static bool
names_something(uint64_t value)
{
    struct fdcpu_alloc alloc;

    return value >> 48 == 0xfc || (value > 0xffffffff && fdcpu_alloc_find(value, &alloc));
}

static void
add_value(struct line *line, uint64_t value)
{
    add(line, names_something(value) ? " @%llx" : " %llx", (unsigned long long)value);
}

static void
log_kernel(struct line *line, const struct fdcpu_work *work)
{
    const uint32_t *g = work->u.kernel.grid, *b = work->u.kernel.block;
    const uint32_t *c = work->u.kernel.cluster;
    const char *params = work->u.kernel.params;
    uint64_t word;
    uint32_t i;

    add(line, "kernel %s %u,%u,%u %u,%u,%u %u,%u,%u %u %d",
        work->u.kernel.function->name, g[0], g[1], g[2], b[0], b[1], b[2], c[0], c[1],
        c[2], work->u.kernel.shared, work->u.kernel.cooperative);
    for (i = 0; i < work->u.kernel.param_size; i += 8) {
        word = 0;
        memcpy(&word, params + i,
               work->u.kernel.param_size - i < 8 ? work->u.kernel.param_size - i : 8);
        add_value(line, word);
    }
}

static void
log_set(struct line *line, const CUDA_MEMSET_NODE_PARAMS *p)
{
    add(line, "set @%llx %u %x %zu %zu", (unsigned long long)p->dst, p->elementSize,
        p->value, p->width, p->height);
}

static void
log_memop(struct line *line, const struct fdcpu_work *work)
{
    unsigned int i;

    add(line, "memop");
    for (i = 0; i < work->u.memop.count; i++) {
        const CUstreamBatchMemOpParams *op = &work->u.memop.ops[i];

        add(line, " %d", (int)op->operation);
        add_value(line, op->writeValue.address);
        add_value(line, op->writeValue.value64);
    }
}

/* One line a run of bytes that lie together on both sides. */
void
fdcpu_log_copy(const struct fdcpu_stream *stream, const void *dst, bool dst_host,
               const void *src, bool src_host, size_t size)
{
    struct line line = {NULL, 0, 0};
    uint64_t value = 0;

    add(&line, "%llu copy", (unsigned long long)stream->id);
    add(&line, dst_host ? " host" : " @%llx", (unsigned long long)(uintptr_t)dst);
    add(&line, src_host ? " host" : " @%llx", (unsigned long long)(uintptr_t)src);
    add(&line, " %zu", size);
    if (size == sizeof(value))
        memcpy(&value, src, size); /* perhaps a pointer that kernels will find */
    add_value(&line, names_something(value) ? value : hash(src, size));
    end(&line);
}

void
fdcpu_log_work(const struct fdcpu_work *work, const struct fdcpu_stream *stream)
{
    struct line line = {NULL, 0, 0};

    pthread_once(&once, open_log);
    if (FDC_LIKELY(log_fd < 0))
        return;
    if (work->kind == FDCPU_W_COPY) {
        fdcpu_copy_log(&work->u.copy.p, stream);
        return;
    }
    add(&line, "%llu ", (unsigned long long)stream->id);
    switch (work->kind) {
    case FDCPU_W_KERNEL:
        if (work->u.kernel.function->dead)
            goto nothing;
        log_kernel(&line, work);
        break;
    case FDCPU_W_SET:
        if (work->u.set.width == 0 || work->u.set.height == 0)
            goto nothing;
        log_set(&line, &work->u.set);
        break;
    case FDCPU_W_HOST:
    case FDCPU_W_CALLBACK:
        add(&line, "host");
        break;
    case FDCPU_W_RECORD:
        add(&line, "record");
        break;
    case FDCPU_W_MEMOP:
        log_memop(&line, work);
        break;
    case FDCPU_W_GRAPH:
        add(&line, "graph");
        break;
    default:
        goto nothing;
    }
    end(&line);
    return;
nothing:
    free(line.text);
}
