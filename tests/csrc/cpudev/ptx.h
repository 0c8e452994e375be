/* What the engine's tests share: memory, loading PTX, launching, one environment. */
#ifndef TEST_PTX_H
#define TEST_PTX_H

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"

#define PTX_HEAD ".version 8.0\n.target sm_80\n.address_size 64\n"

static char ptx_printed[8192];
static size_t ptx_printed_size;
static struct fdcpu_fault ptx_fault;
static char ptx_log[2048];

static inline uint64_t
ptx_alloc(void *user, size_t size, size_t align)
{
    (void)user;
    (void)align;
    return (uintptr_t)aligned_alloc(4096, (size + 4095) & ~(size_t)4095);
}

static inline void
ptx_release(void *user, uint64_t addr)
{
    (void)user;
    free((void *)(uintptr_t)addr);
}

static inline void
ptx_print(void *user, const char *bytes, size_t size)
{
    (void)user;
    if (size > sizeof(ptx_printed) - 1 - ptx_printed_size)
        size = sizeof(ptx_printed) - 1 - ptx_printed_size;
    memcpy(ptx_printed + ptx_printed_size, bytes, size);
    ptx_printed_size += size;
    ptx_printed[ptx_printed_size] = 0;
}

static const struct fdcpu_allocator ptx_memory = { ptx_alloc, ptx_release, NULL };
static struct fdcpu_env ptx_env = {
    .heap = { ptx_alloc, ptx_release, NULL }, .heap_limit = 1 << 20, .stack_limit = 1024,
    .printf_limit = 1 << 20, .print = ptx_print, .complain = ptx_print,
    .cc = 80, .sm_count = 2, .deadline_ms = 60000,
};

/* Memory that kernels may touch, zeroed. */
static inline void *
ptx_buffer(size_t size)
{
    void *p = aligned_alloc(512, (size + 511) & ~(size_t)511);
    struct fdcpu_range range = { .lo = (uintptr_t)p, .hi = (uintptr_t)p + size };

    memset(p, 0, size);
    if (fdcpu_mem_add(&range))
        abort();
    return p;
}

static inline void
ptx_free(void *p)
{
    fdcpu_mem_del((uintptr_t)p);
    free(p);
}

/* Loads one text; on failure NULL, with *result and ptx_log. */
static inline struct fdcpu_module *
ptx_load(const char *text, int *result)
{
    struct fdcpu_text one = { "test", text, strlen(text) };
    struct fdcpu_jit_log log = { ptx_log, sizeof(ptx_log), NULL, 0, 0, 0 };
    struct fdcpu_module *m;
    int res = fdcpu_module_load(&one, 1, &ptx_memory, &log, &m);

    if (result)
        *result = res;
    return m;
}

/* Launches; arguments are 64-bit values, cut to each parameter's size. */
static inline int
ptx_run(struct fdcpu_module *m, const char *kernel, unsigned blocks, unsigned threads, int nargs,
        ...)
{
    struct fdcpu_func *f = fdcpu_module_func(m, kernel);
    const struct fdcpu_func_info *info;
    struct fdcpu_launch launch = {
        .grid = { blocks, 1, 1 }, .block = { threads, 1, 1 }, .env = &ptx_env,
    };
    uint8_t params[4096] = { 0 };
    va_list ap;

    if (!f) {
        fprintf(stderr, "no kernel %s\n", kernel);
        abort();
    }
    info = fdcpu_func_info(f);
    va_start(ap, nargs);
    for (int k = 0; k < nargs; k++) {
        uint64_t v = va_arg(ap, uint64_t);

        memcpy(params + info->params[k].offset, &v,
               info->params[k].size < 8 ? info->params[k].size : 8);
    }
    va_end(ap);
    launch.func = f;
    launch.params = params;
    launch.param_size = info->param_size;
    return fdcpu_run(&launch, &ptx_fault);
}

#define PTX_PTR(p) ((uint64_t)(uintptr_t)(p))
#define PTX_INT(v) ((uint64_t)(v))

#endif
