/*
 * Runs the kernels of kernels/cpudev.ptx on the CPU device's engine and as scalar C, in
 * one process on the same memory. Reads "device NAME", "floor NAME", "load NAME" or
 * "same NAME" a line, answers with nanoseconds of this thread's CPU time ("same": 0, or
 * 1 where the two differ in a bit), twice, as conftest.py wants it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine.h"
#include "floor/ptx_scalar.h"

enum { VECTOR = 1 << 20, SIDE = 256, CHAINS = 200, THREADS = 1 << 16 };

struct shape {
    const char *name;
    uint32_t grid[2], block[2];
    uint32_t out;               /* elements */
};
static const struct shape shapes[] = {
    {"saxpy", {VECTOR / 256, 1}, {256, 1}, VECTOR},
    {"reduce", {VECTOR / 256, 1}, {256, 1}, VECTOR / 256},
    {"matmul_naive", {SIDE / 16, SIDE / 16}, {16, 16}, SIDE * SIDE},
    {"matmul_tiled", {SIDE / 16, SIDE / 16}, {16, 16}, SIDE * SIDE},
    {"fma_chains", {THREADS / 256, 1}, {256, 1}, THREADS},
    {"collatz", {THREADS / 256, 1}, {256, 1}, THREADS},
};

static float *in_a, *in_b, *out, *arena;
static char *text;
static struct fdcpu_module *module;

static uint64_t
no_memory(void *user, size_t size, size_t align)
{
    (void)user, (void)size, (void)align;
    return 0;
}

static void
no_release(void *user, uint64_t addr)
{
    (void)user, (void)addr;
}

static const struct fdcpu_allocator nothing = {no_memory, no_release, NULL};

static uint64_t
now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void
die(const char *what)
{
    fprintf(stderr, "ptxloop: %s\n", what);
    exit(1);
}

static struct fdcpu_module *
load(void)
{
    struct fdcpu_text one = {"cpudev.ptx", text, strlen(text)};
    struct fdcpu_module *m;

    if (fdcpu_module_load(&one, 1, &nothing, NULL, &m))
        die("cpudev.ptx does not load");
    return m;
}

static uint32_t
pack(const struct shape *s, uint8_t *p)
{
    uint64_t a = (uintptr_t)in_a, b = (uintptr_t)in_b, to = (uintptr_t)out;
    uint32_t n = VECTOR;
    float f = 1e-3f;

    memset(p, 0, 64);
    if (!strcmp(s->name, "saxpy")) {
        memcpy(p, &n, 4);
        memcpy(p + 4, &f, 4);
        memcpy(p + 8, &a, 8);
        memcpy(p + 16, &to, 8);
    } else if (!strcmp(s->name, "reduce")) {
        memcpy(p, &a, 8);
        memcpy(p + 8, &to, 8);
        memcpy(p + 16, &n, 4);
    } else if (!strncmp(s->name, "matmul", 6)) {
        n = SIDE;
        memcpy(p, &a, 8);
        memcpy(p + 8, &b, 8);
        memcpy(p + 16, &to, 8);
        memcpy(p + 24, &n, 4);
    } else {
        n = CHAINS;
        memcpy(p, &to, 8);
        memcpy(p + 8, &n, 4);
    }
    return 64;
}

static uint64_t
device(const struct shape *s)
{
    static struct fdcpu_env env = {.sm_count = 1, .cc = 80, .stack_limit = 1024};
    uint8_t params[64];
    struct fdcpu_launch launch = {
        .func = fdcpu_module_func(module, s->name), .params = params, .env = &env,
        .grid = {s->grid[0], s->grid[1], 1}, .block = {s->block[0], s->block[1], 1},
        .param_size = pack(s, params),
    };
    struct fdcpu_fault fault;
    uint64_t begin;

    if (fdcpu_func_info(launch.func) == NULL)
        die("kernel without information");
    begin = now();
    if (fdcpu_run(&launch, &fault))
        die(fault.report);
    return now() - begin;
}

static uint64_t
scalar(const struct shape *s)
{
    static uint8_t shared[4096] __attribute__((aligned(64)));
    uint8_t params[64];
    struct scalar_grid g = {
        .params = params, .grid = {s->grid[0], s->grid[1], 1},
        .block = {s->block[0], s->block[1], 1}, .lo = (uintptr_t)arena,
        .span = 3ull * VECTOR * sizeof(float), .shared = shared, .shared_size = 2048,
    };
    uint64_t begin;

    pack(s, params);
    begin = now();
    if (scalar_run(s->name, &g))
        die("the scalar kernel failed");
    return now() - begin;
}

/* The text of one kernel, from module to ready to run. */
static uint64_t
loading(const struct shape *s)
{
    uint64_t begin = now(), end;
    struct fdcpu_module *m = load();

    if (fdcpu_func_info(fdcpu_module_func(m, s->name)) == NULL)
        die("kernel without information");
    end = now();
    fdcpu_module_unload(m);
    return end - begin;
}

static void
begin_values(void)
{
    for (uint32_t k = 0; k < VECTOR; k++) {
        in_a[k] = (float)(k % 977) / 977;
        in_b[k] = (float)(k % 1013) / 1013;
        out[k] = (float)(k % 331);
    }
}

static uint64_t
same(const struct shape *s)
{
    size_t size = s->out * sizeof(float);
    float *kept = malloc(size);
    int differs;

    if (!kept)
        die("no memory");
    begin_values();
    device(s);
    memcpy(kept, out, size);
    begin_values();
    scalar(s);
    differs = memcmp(kept, out, size);
    free(kept);
    return differs != 0;
}

static char *
read_text(const char *path)
{
    FILE *f = fopen(path, "r");
    char *all = calloc(1, 1 << 20);

    if (!f || !all || !fread(all, 1, (1 << 20) - 1, f))
        die("no PTX text");
    fclose(f);
    return all;
}

int
main(int argc, char **argv)
{
    struct fdcpu_range range;
    char line[128], verb[32], name[64];

    if (argc != 2)
        die("which text?");
    setenv("FD_CPU_THREADS", "1", 1);
    text = read_text(argv[1]);
    arena = aligned_alloc(4096, 3ull * VECTOR * sizeof(float));
    if (!arena)
        die("no memory");
    in_a = arena, in_b = arena + VECTOR, out = arena + 2 * VECTOR;
    begin_values();
    range = (struct fdcpu_range){(uintptr_t)arena, (uintptr_t)(arena + 3 * VECTOR), 0, 0};
    if (fdcpu_mem_add(&range))
        die("no range");
    module = load();
    puts("ready");
    fflush(stdout);
    while (fgets(line, sizeof(line), stdin)) {
        const struct shape *s = NULL;
        uint64_t took;

        if (sscanf(line, "%31s %63s", verb, name) != 2)
            die("a line without two words");
        for (size_t k = 0; k < sizeof(shapes) / sizeof(*shapes); k++)
            if (!strcmp(shapes[k].name, name))
                s = &shapes[k];
        if (!s)
            die("no such kernel");
        took = !strcmp(verb, "device")  ? device(s)
               : !strcmp(verb, "floor") ? scalar(s)
               : !strcmp(verb, "load")  ? loading(s)
                                        : same(s);
        printf("%llu %llu\n", (unsigned long long)took, (unsigned long long)took);
        fflush(stdout);
    }
    return 0;
}
