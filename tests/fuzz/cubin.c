/*
 * Machine code for the CPU device, which is read for its shape and never run: kernels,
 * their parameters and limits, variables with their first bytes.
 */
#include "fuzz.h"
#include "engine.h"

enum { MEMORY = 16 << 20 };

static uint64_t
allocate(void *user, size_t size, size_t align)
{
    (void)user;
    (void)align;
    return size > MEMORY ? 0
                         : (uintptr_t)aligned_alloc(4096, (size + 4095) & ~(size_t)4095);
}

static void
release(void *user, uint64_t address)
{
    (void)user;
    free((void *)(uintptr_t)address);
}

/* What the driver API does with a kernel: offsets into a buffer of param_size bytes. */
static void
look_at(struct fdcpu_func *func)
{
    const struct fdcpu_func_info *info = fdcpu_func_info(func);
    char params[32764] = { 0 };
    struct fdcpu_env env = { .cc = 90, .sm_count = 2 };
    struct fdcpu_launch launch = { .func = func, .grid = { 1, 1, 1 },
                                   .block = { 1, 1, 1 }, .params = params,
                                   .param_size = sizeof(params), .env = &env };
    struct fdcpu_fault fault;

    FUZZ_CHECK(info->name != NULL && info->param_size <= sizeof(params));
    FUZZ_CHECK(info->max_threads > 0 && info->max_threads <= 1024);
    for (uint32_t i = 0; i < info->nparams; i++) {
        FUZZ_CHECK(info->params[i].offset + info->params[i].size <= info->param_size);
        memset(params + info->params[i].offset, 1, info->params[i].size);
    }
    FUZZ_CHECK(fdcpu_run(&launch, &fault) != 0);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct fdcpu_allocator memory = { allocate, release, NULL };
    char error[256], info[64];
    struct fdcpu_jit_log log = { error, sizeof(error), info, sizeof(info), 0, 0 };
    struct fdcpu_module *module;
    struct fdcpu_text text;
    uint8_t *copy = malloc(size + 1);
    int result;

    FUZZ_CHECK(copy != NULL);
    memcpy(copy, data, size);
    text = (struct fdcpu_text){ "cubin", (const char *)copy, size };
    result = fdcpu_module_load(&text, 1, &memory, &log, &module);
    free(copy);
    FUZZ_CHECK((result == 0) == (module != NULL));
    if (module == NULL)
        return 0;
    for (uint32_t i = 0; fdcpu_is_cubin(data, size) &&
                         i < fdcpu_module_func_count(module); i++)
        look_at(fdcpu_module_func_at(module, i));
    for (uint32_t i = 0; i < fdcpu_module_var_count(module); i++) {
        const struct fdcpu_var *var = fdcpu_module_var_at(module, i);

        FUZZ_CHECK(var->addr != 0 && fdcpu_module_var(module, var->name) != NULL);
        for (size_t k = 0; k < var->size; k++)
            FUZZ_CHECK(*(volatile uint8_t *)(uintptr_t)(var->addr + k) <= 255);
    }
    fdcpu_module_unload(module);
    return 0;
}
