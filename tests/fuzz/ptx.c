/*
 * PTX text: read, linked, every kernel decoded, and every small one launched with
 * parameters that point at memory, within a short deadline. Texts are divided by a NUL,
 * so that several are linked with each other.
 */
#include "fuzz.h"
#include "engine.h"
#include "ptx_mutate.h"

enum { TEXTS = 4, BUFFER = 4096, DEADLINE_MS = 10, MEMORY = 16 << 20 };

#ifdef PTX_READ_ONLY
static const uint32_t kernels = 0;
#else
static const uint32_t kernels = 8;
#endif

static uint64_t
allocate(void *user, size_t size, size_t align)
{
    (void)user;
    (void)align;
    if (size > MEMORY)
        return 0;
    return (uintptr_t)aligned_alloc(4096, (size + 4095) & ~(size_t)4095);
}

static void
release(void *user, uint64_t address)
{
    (void)user;
    free((void *)(uintptr_t)address);
}

static void
print(void *user, const char *bytes, size_t size)
{
    static volatile char sum;

    (void)user;
    for (size_t i = 0; i < size; i++)
        sum ^= bytes[i];
}

static void
launch(struct fdcpu_func *func, uint8_t *buffer)
{
    static const uint32_t cancel;
    struct fdcpu_env env = {
        .heap = { allocate, release, NULL }, .heap_limit = 1 << 20, .stack_limit = 1024,
        .printf_limit = 1 << 16, .print = print, .cc = 80, .sm_count = 2,
        .cancel = (const _Atomic uint32_t *)&cancel, .deadline_ms = DEADLINE_MS,
    };
    const struct fdcpu_func_info *info = fdcpu_func_info(func);
    struct fdcpu_fault fault;
    struct fdcpu_launch launch = {
        .func = func, .grid = { 2, 1, 1 }, .block = { 40, 1, 1 }, .dynamic_shared = 512,
        .env = &env,
    };
    uint8_t *params;
    int result;

    if (info->param_size > 4096 || info->static_shared > 48 << 10)
        return;
    for (int i = 0; i < 3; i++)
        if (info->reqntid[i] != 0)
            launch.block[i] = info->reqntid[i];
    if ((uint64_t)launch.block[0] * launch.block[1] * launch.block[2] > 256)
        return;
    params = calloc(1, (size_t)info->param_size + 1);
    FUZZ_CHECK(params != NULL);
    for (uint32_t i = 0; i < info->nparams; i++) {
        uint64_t value = info->params[i].size == 8 ? (uintptr_t)buffer : 3;

        FUZZ_CHECK(info->params[i].offset + (uint64_t)info->params[i].size <=
                   info->param_size);
        memcpy(params + info->params[i].offset, &value,
               info->params[i].size < 8 ? info->params[i].size : 8);
    }
    launch.params = params;
    launch.param_size = info->param_size;
    result = fdcpu_run(&launch, &fault);
    FUZZ_CHECK(result >= 0 && result < 1000);
    fdcpu_heap_forget(&env);
    free(params);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct fdcpu_allocator memory = { allocate, release, NULL };
    struct fdcpu_text texts[TEXTS];
    char error[256], info[64];
    struct fdcpu_jit_log log = { error, sizeof(error), info, sizeof(info), 0, 0 };
    struct fdcpu_module *module;
    struct fdcpu_range range;
    uint8_t *buffer, *copies[TEXTS];
    int ntexts = 0, result;

    while (ntexts < TEXTS && (size > 0 || ntexts == 0)) {
        size_t n = size > 0 ? strnlen((const char *)data, size) : 0;

        copies[ntexts] = malloc(n != 0 ? n : 1);
        FUZZ_CHECK(copies[ntexts] != NULL);
        if (n != 0)
            memcpy(copies[ntexts], data, n);
        texts[ntexts] = (struct fdcpu_text){ "text", (const char *)copies[ntexts], n };
        ntexts++;
        n += n < size;
        data += n;
        size -= n;
    }
    result = fdcpu_module_load(texts, ntexts, &memory, &log, &module);
    FUZZ_CHECK(memchr(error, 0, sizeof(error)) != NULL);
    FUZZ_CHECK((result == 0) == (module != NULL));
    for (int i = 0; i < ntexts; i++)
        free(copies[i]);
    if (module == NULL)
        return 0;
    buffer = aligned_alloc(512, BUFFER);
    FUZZ_CHECK(buffer != NULL);
    memset(buffer, 0, BUFFER);
    range = (struct fdcpu_range){ (uintptr_t)buffer, (uintptr_t)buffer + BUFFER, 0, 0, 0, 0 };
    FUZZ_CHECK(fdcpu_mem_add(&range) == 0);
    for (uint32_t i = 0; i < fdcpu_module_func_count(module) && i < kernels; i++)
        launch(fdcpu_module_func_at(module, i), buffer);
    for (uint32_t i = 0; i < fdcpu_module_var_count(module); i++) {
        const struct fdcpu_var *var = fdcpu_module_var_at(module, i);

        FUZZ_CHECK(var->size == 0 || var->addr != 0);
        FUZZ_CHECK(fdcpu_module_var(module, var->name) != NULL);
    }
    fdcpu_mem_del((uintptr_t)buffer);
    free(buffer);
    fdcpu_module_unload(module);
    return 0;
}
