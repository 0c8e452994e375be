/*
 * What device code calls and nobody wrote in PTX: printf, malloc, free, assert; and calls
 * and stack as the handlers see them.
 */
#include "fpconv.h"
#include "slow.h"
#include "vm.h"

#include <stdio.h>
#include <stdlib.h>

#define OPEN(name) FDCPU_HANDLER(fdcpu_op_##name); FDCPU_HANDLER(fdcpu_op_##name)
#define EXT(k) (x->frame->code->ext[i->ext + (k)].reg)

/* ---- calls ---- */

OPEN(call)
{
    uint32_t q = FDCPU_GUARD;

    if (!q)
        FDCPU_NEXT;
    x->taken = q;
    x->callee = (uint32_t)i->imm;
    x->fuel--;
    FDCPU_STOP(i, WHY_CALL);
}

OPEN(calli)
{
    uint32_t q = FDCPU_GUARD, t = 0;
    const u64 *a = FDCPU_REG(u64, i->a);
    u64 first, number;

    if (!q)
        FDCPU_NEXT;
    first = a[__builtin_ctz(q)];
    number = (first - FDCPU_WIN_FUNC) / 16;
    if (first < FDCPU_WIN_FUNC || first >= FDCPU_WIN_END || first % 16 || !number) {
        fdcpu_fault_at(x, i, __builtin_ctz(q), 718, "call of 0x%llx, which is no function",
                       (unsigned long long)first);
        FDCPU_STOP(i, WHY_FAULT);
    }
    FDCPU_EACH(l, q)
        t |= (u32)(a[l] == first) << l;
    x->taken = t;
    x->callee = (uint32_t)number - 1;
    x->fuel--;
    FDCPU_STOP(i, WHY_CALL);
}

/* ---- stack ---- */

OPEN(alloca)
{
    uint32_t q = FDCPU_GUARD;
    const u64 *a = FDCPU_REG(u64, i->a);
    u64 top = x->frame->local_top, most = 0, align = (u64)i->imm;

    FDCPU_EACH(l, q)
        most = a[l] > most ? a[l] : most;
    if (align > 4096 || !align || (align & (align - 1)))
        align = 16;
    top = (top + align - 1) & ~(align - 1);
    if (most > (1u << 30) || !fdcpu_local_grow(x, i, top + most)) {
        if (most > (1u << 30))
            fdcpu_fault_at(x, i, __builtin_ctz(q | 1u << 31), 719, "stack overflow");
        FDCPU_STOP(i, WHY_FAULT);
    }
    FDCPU_EACH(l, q)
        FDCPU_REG(u64, i->d)[l] = top;
    x->frame->local_top = (uint32_t)((top + most + 15) & ~15ull);
    FDCPU_NEXT;
}

OPEN(stacksave)
{
    FDCPU_EACH(l, FDCPU_GUARD)
        FDCPU_REG(u64, i->d)[l] = x->frame->local_top;
    FDCPU_NEXT;
}

/* Lanes may be at different places: the space is given back when the frame ends. */
OPEN(stackrestore)
{
    FDCPU_NEXT;
}

/* ---- arguments in the frame ---- */

static u64
argument(struct fdcpu_exec *x, const struct fdcpu_insn *i, uint32_t lane, uint32_t k)
{
    const struct fdcpu_ext *e = &x->frame->code->ext[i->ext + k];
    u64 v = 0;

    memcpy(&v, fdcpu_frame_byte(x, lane, e->reg), e->size < 8 ? e->size : 8);
    return v;
}

static void
result(struct fdcpu_exec *x, const struct fdcpu_insn *i, uint32_t lane, u64 v)
{
    const struct fdcpu_ext *e = &x->frame->code->ext[i->ext];

    if (i->aux)
        memcpy(fdcpu_frame_byte(x, lane, e->reg), &v, e->size < 8 ? e->size : 8);
}

/* Copies a string of a lane, at most size - 1 characters. False after a fault. */
static bool
string_at(struct fdcpu_exec *x, const struct fdcpu_insn *i, uint32_t lane, u64 addr, char *to,
          size_t size)
{
    size_t n;

    for (n = 0; n + 1 < size; n++) {
        const char *p = fdcpu_lane_address(x, i, lane, SP_GENERIC, addr + n, 1, 1, false);

        if (!p)
            return false;
        to[n] = *p;
        if (!*p)
            return true;
    }
    to[n] = 0;
    return true;
}

/* ---- printf ---- */

struct out {
    struct fdcpu_exec *x;
    int count;
};

static void
put(struct out *o, const char *s, size_t n)
{
    fdcpu_print(o->x, s, n);
    o->count += (int)n;
}

/* One conversion: spec is "%-08.3" without length and letter. */
static bool
convert(struct out *o, const struct fdcpu_insn *i, uint32_t lane, const char *spec, char letter,
        bool is64, u64 *at)
{
    char form[64], text[640], str[4096];
    u64 addr = *at;
    const void *p;
    u32 w;
    int n = 0;

    switch (letter) {
    case 'd': case 'i': case 'u': case 'o': case 'x': case 'X': case 'c':
        if (is64 && letter != 'c') {
            u64 v;

            addr = (addr + 7) & ~7ull;
            p = fdcpu_lane_address(o->x, i, lane, SP_GENERIC, addr, 8, 8, false);
            if (!p)
                return false;
            memcpy(&v, p, 8);
            *at = addr + 8;
            snprintf(form, sizeof(form), "%sll%c", spec, letter);
            n = snprintf(text, sizeof(text), form, (long long)v);
        } else {
            addr = (addr + 3) & ~3ull;
            p = fdcpu_lane_address(o->x, i, lane, SP_GENERIC, addr, 4, 4, false);
            if (!p)
                return false;
            memcpy(&w, p, 4);
            *at = addr + 4;
            snprintf(form, sizeof(form), "%s%c", spec, letter);
            n = snprintf(text, sizeof(text), form, w);
        }
        break;
    case 'e': case 'E': case 'f': case 'F': case 'g': case 'G': case 'a': case 'A': {
        f64 v;

        addr = (addr + 7) & ~7ull;
        p = fdcpu_lane_address(o->x, i, lane, SP_GENERIC, addr, 8, 8, false);
        if (!p)
            return false;
        memcpy(&v, p, 8);
        *at = addr + 8;
        snprintf(form, sizeof(form), "%s%c", spec, letter);
        n = snprintf(text, sizeof(text), form, v);
        break;
    }
    case 'p':
    case 's': {
        u64 v;

        addr = (addr + 7) & ~7ull;
        p = fdcpu_lane_address(o->x, i, lane, SP_GENERIC, addr, 8, 8, false);
        if (!p)
            return false;
        memcpy(&v, p, 8);
        *at = addr + 8;
        if (letter == 's') {
            if (!v)
                strcpy(str, "(null)");
            else if (!string_at(o->x, i, lane, v, str, sizeof(str)))
                return false;
            if (!strcmp(spec, "%")) {
                put(o, str, strlen(str));
                return true;
            }
            snprintf(form, sizeof(form), "%ss", spec);
            n = snprintf(text, sizeof(text), form, str);
        } else {
            snprintf(form, sizeof(form), "%sp", spec);
            n = snprintf(text, sizeof(text), form, (void *)(uintptr_t)v);
        }
        break;
    }
    default:
        return true;
    }
    if (n > 0)
        put(o, text, (size_t)n < sizeof(text) ? (size_t)n : sizeof(text) - 1);
    return true;
}

static bool
print_one(struct fdcpu_exec *x, const struct fdcpu_insn *i, uint32_t lane, u64 format, u64 args)
{
    char text[8192], spec[40];
    struct out o = { x, 0 };
    const char *p, *from;

    if (!string_at(x, i, lane, format, text, sizeof(text)))
        return false;
    for (p = from = text; *p;) {
        bool is64 = false;
        size_t n = 0, digits = 0;

        if (*p != '%') {
            p++;
            continue;
        }
        put(&o, from, (size_t)(p - from));
        from = p++;
        if (*p == '%') {
            put(&o, "%", 1);
            from = ++p;
            continue;
        }
        spec[n++] = '%';
        for (;; p++) {
            if (*p == '*') {            /* width or precision from the arguments */
                const void *v;
                s32 w;

                args = (args + 3) & ~3ull;
                v = fdcpu_lane_address(x, i, lane, SP_GENERIC, args, 4, 4, false);
                if (!v)
                    return false;
                memcpy(&w, v, 4);
                args += 4;
                if (w > 500 || w < -500)
                    w = 500;
                if (n < 20)
                    n += (size_t)snprintf(spec + n, 12, "%d", w);
            } else if (*p >= '0' && *p <= '9') {
                if (++digits <= 3 && n < 30)
                    spec[n++] = *p;
            } else if (*p && strchr("-+ #.", *p)) {
                digits = 0;
                if (n < 30)
                    spec[n++] = *p;
            } else {
                break;
            }
        }
        spec[n] = 0;
        for (; *p && strchr("hlLjztq", *p); p++)
            is64 |= *p == 'l' || *p == 'j' || *p == 'z' || *p == 't' || *p == 'q';
        if (!*p)
            break;
        if (!strchr("diuoxXcsp", *p) && !strchr("eEfFgGaA", *p)) {
            p++;                        /* unknown, %n among them: printed as it stands */
            continue;
        }
        if (!convert(&o, i, lane, spec, *p, is64, &args))
            return false;
        from = ++p;
    }
    put(&o, from, (size_t)(p - from));
    return true;
}

static __attribute__((noinline)) bool
do_vprintf(struct fdcpu_exec *x, const struct fdcpu_insn *i, uint32_t m, char *r)
{
    uint32_t q = FDCPU_GUARD, first = i->aux;

    FDCPU_EACH(l, q) {
        if (!print_one(x, i, l, argument(x, i, l, first), argument(x, i, l, first + 1)))
            return false;
        result(x, i, l, 1);
    }
    return true;
}

OPEN(rt_vprintf)
{
    if (!do_vprintf(x, i, m, r))
        FDCPU_STOP(i, WHY_FAULT);
    FDCPU_NEXT;
}

/* ---- malloc and free ---- */

static struct heap_block {
    struct heap_block *next;
    struct fdcpu_env *env;
    uint64_t addr, size;
    bool announced;
} *heap[1024];
static pthread_mutex_t heap_lock = PTHREAD_MUTEX_INITIALIZER;
static struct heap_use {
    struct heap_use *next;
    struct fdcpu_env *env;
    uint64_t used;
} *uses;

static uint64_t *
heap_used(struct fdcpu_env *env)
{
    struct heap_use *u;

    for (u = uses; u; u = u->next)
        if (u->env == env)
            return &u->used;
    u = calloc(1, sizeof(*u));
    if (!u)
        return NULL;
    u->env = env;
    u->next = uses;
    uses = u;
    return &u->used;
}

static uint64_t
heap_alloc(struct fdcpu_env *env, uint64_t size)
{
    uint64_t addr = 0, *used, whole = (size + 15) & ~15ull;
    struct heap_block *b;

    if (!size || size > (1ull << 40) || !env->heap.alloc)
        return 0;
    pthread_mutex_lock(&heap_lock);
    used = heap_used(env);
    b = malloc(sizeof(*b));
    if (used && b && *used + whole <= (env->heap_limit ? env->heap_limit : 8u << 20))
        addr = env->heap.alloc(env->heap.user, size, 16);
    if (addr) {
        struct fdcpu_range range = { .lo = addr, .hi = addr + size };

        *b = (struct heap_block){ heap[addr >> 4 & 1023], env, addr, whole,
                                  fdcpu_mem_add(&range) == 0 };
        heap[addr >> 4 & 1023] = b;
        *used += whole;
        b = NULL;
    }
    free(b);
    pthread_mutex_unlock(&heap_lock);
    return addr;
}

static bool
heap_free(struct fdcpu_env *env, uint64_t addr)
{
    struct heap_block **at, *b;

    pthread_mutex_lock(&heap_lock);
    for (at = &heap[addr >> 4 & 1023]; (b = *at); at = &b->next)
        if (b->addr == addr && b->env == env)
            break;
    if (b) {
        uint64_t *used = heap_used(env);

        *at = b->next;
        if (used)
            *used -= b->size;
        if (b->announced)
            fdcpu_mem_del(addr);
        env->heap.free(env->heap.user, addr);
    }
    pthread_mutex_unlock(&heap_lock);
    free(b);
    return b != NULL;
}

void
fdcpu_heap_forget(struct fdcpu_env *env)
{
    struct heap_use **u;

    pthread_mutex_lock(&heap_lock);
    for (int k = 0; k < 1024; k++)
        for (struct heap_block **at = &heap[k], *b; (b = *at);) {
            if (b->env != env) {
                at = &b->next;
                continue;
            }
            *at = b->next;
            if (b->announced)
                fdcpu_mem_del(b->addr);
            env->heap.free(env->heap.user, b->addr);
            free(b);
        }
    for (u = &uses; *u; u = &(*u)->next)
        if ((*u)->env == env) {
            struct heap_use *gone = *u;

            *u = gone->next;
            free(gone);
            break;
        }
    pthread_mutex_unlock(&heap_lock);
}

OPEN(rt_malloc)
{
    FDCPU_EACH(l, FDCPU_GUARD)
        result(x, i, l, heap_alloc(x->job->env, argument(x, i, l, i->aux)));
    FDCPU_NEXT;
}

OPEN(rt_free)
{
    FDCPU_EACH(l, FDCPU_GUARD) {
        u64 addr = argument(x, i, l, i->aux);

        if (addr && !heap_free(x->job->env, addr)) {
            fdcpu_fault_at(x, i, (int)l, 719, "free of 0x%llx, which malloc never gave",
                           (unsigned long long)addr);
            FDCPU_STOP(i, WHY_FAULT);
        }
    }
    memset(x->hit, 0, sizeof(x->hit));
    FDCPU_NEXT;
}

/* ---- assert ---- */

static __attribute__((noinline)) void
do_assert(struct fdcpu_exec *x, const struct fdcpu_insn *i, uint32_t q)
{
    uint32_t l = (uint32_t)__builtin_ctz(q), k = i->aux;
    uint32_t t = x->warp->index * FDCPU_LANES + l;
    const uint32_t *dim = x->job->launch->block;
    char message[300], file[200], function[200], text[1000];
    int n;

    if (!string_at(x, i, l, argument(x, i, l, k), message, sizeof(message)) ||
        !string_at(x, i, l, argument(x, i, l, k + 1), file, sizeof(file)) ||
        !string_at(x, i, l, argument(x, i, l, k + 3), function, sizeof(function)))
        return;
    n = snprintf(text, sizeof(text),
                 "%s:%u: %s: block: [%u,%u,%u], thread: [%u,%u,%u] Assertion `%s` failed.\n", file,
                 (u32)argument(x, i, l, k + 2), function, x->block->ctaid[0], x->block->ctaid[1],
                 x->block->ctaid[2], t % dim[0], t / dim[0] % dim[1], t / dim[0] / dim[1], message);
    if (n > 0 && x->job->env->complain)
        x->job->env->complain(x->job->env->print_user, text,
                              (size_t)n < sizeof(text) ? (size_t)n : sizeof(text) - 1);
    fdcpu_fault_at(x, i, (int)l, 710, "assertion failed: %.120s at %.100s:%u", message, file,
                   (u32)argument(x, i, l, k + 2));
}

OPEN(rt_assertfail)
{
    uint32_t q = FDCPU_GUARD;

    if (q) {
        do_assert(x, i, q);
        FDCPU_STOP(i, WHY_FAULT);
    }
    FDCPU_NEXT;
}

/* ---- the grid's barrier, as the device runtime's library asks for it ---- */

OPEN(rt_grid_handle)
{
    /* only a cooperative grid has one; 1 is the grid among the scopes */
    FDCPU_EACH(l, FDCPU_GUARD)
        result(x, i, l, x->job->launch->cooperative && argument(x, i, l, i->aux) == 1);
    FDCPU_NEXT;
}

/*
 * Every thread calls this, or one a block after a barrier of its own (lowest bit of the
 * flags). A split comes here again until all threads of the grid have.
 */
OPEN(rt_grid_sync)
{
    uint32_t q = FDCPU_GUARD, new = q & ~x->warp->grid_in;
    struct fdcpu_job *job = x->job;

    if (!q)
        FDCPU_NEXT;
    if (new) {
        uint64_t count = 0;

        FDCPU_EACH(l, new)
            count += (argument(x, i, l, i->aux + 1) & 1) ? x->block->live : 1;
        x->warp->grid_in |= new;
        x->warp->grid_phase = __atomic_load_n(&job->grid_phase, __ATOMIC_ACQUIRE);
        fdcpu_grid_arrive(job, count, 0);
    }
    if (__atomic_load_n(&job->grid_phase, __ATOMIC_ACQUIRE) == x->warp->grid_phase)
        FDCPU_STOP(i, WHY_YIELD);
    x->warp->grid_in &= ~q;
    FDCPU_EACH(l, q)
        result(x, i, l, 0);
    FDCPU_NEXT;
}
