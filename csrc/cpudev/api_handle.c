/*
 * The handle table: every object that a program can name. A handle is
 * 0x00FC<<48 | kind<<40 | generation<<24 | index<<4, so that it is nobody's pointer and
 * cannot be mistaken for a remoting client's handle. Looking one up takes no lock.
 */
#include <stdlib.h>

#include "cpudev.h"

#define CHUNK 1024u
#define CHUNKS 1024u

struct entry {
    void *_Atomic obj;
    _Atomic uint32_t tag; /* kind<<16 | generation */
    uint32_t next;        /* free list: index + 1 */
};

static struct entry *_Atomic chunks[CHUNKS];
static uint32_t used, free_head, free_tail;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static struct entry *
entry_at(uint32_t index)
{
    struct entry *chunk =
        atomic_load_explicit(&chunks[index / CHUNK], memory_order_acquire);

    return chunk == NULL ? NULL : &chunk[index % CHUNK];
}

static uint64_t
pack(uint32_t tag, uint32_t index)
{
    return 0x00FCull << 48 | (uint64_t)(tag >> 16) << 40 |
           (uint64_t)(tag & 0xFFFF) << 24 | (uint64_t)index << 4;
}

uint64_t
fdcpu_handle_new(enum fdcpu_kind kind, void *obj)
{
    struct entry *e;
    uint32_t index, tag;

    pthread_mutex_lock(&lock);
    /* Reuse the oldest free entry, and only with some to spare: stale handles show. */
    if (free_head != 0 && (used >= CHUNK * CHUNKS || used % CHUNK == 0)) {
        index = free_head - 1;
        e = entry_at(index);
        free_head = e->next;
        if (free_head == 0)
            free_tail = 0;
    } else if (used < CHUNK * CHUNKS) {
        index = used;
        if (index % CHUNK == 0) {
            struct entry *chunk = calloc(CHUNK, sizeof(*chunk));

            if (chunk == NULL) {
                pthread_mutex_unlock(&lock);
                return 0;
            }
            atomic_store_explicit(&chunks[index / CHUNK], chunk, memory_order_release);
        }
        used++;
        e = entry_at(index);
    } else {
        pthread_mutex_unlock(&lock);
        return 0;
    }
    tag = (uint32_t)kind << 16 | ((atomic_load(&e->tag) + 1) & 0xFFFF);
    atomic_store(&e->tag, tag);
    atomic_store_explicit(&e->obj, obj, memory_order_release);
    pthread_mutex_unlock(&lock);
    return pack(tag, index);
}

static struct entry *
find(enum fdcpu_kind kind, uint64_t value, uint32_t *index)
{
    struct entry *e;
    uint32_t tag = (uint32_t)(value >> 40 & 0xFF) << 16 | (value >> 24 & 0xFFFF);

    if (value >> 48 != 0x00FC || (value & 0xF) != 0 || (value >> 40 & 0xFF) != kind)
        return NULL;
    *index = value >> 4 & 0xFFFFF;
    e = entry_at(*index);
    if (e == NULL || atomic_load_explicit(&e->tag, memory_order_acquire) != tag)
        return NULL;
    return e;
}

void *
fdcpu_handle_get(enum fdcpu_kind kind, uint64_t value)
{
    uint32_t index;
    struct entry *e = find(kind, value, &index);

    return e == NULL ? NULL : atomic_load_explicit(&e->obj, memory_order_acquire);
}

void *
fdcpu_handle_drop(enum fdcpu_kind kind, uint64_t value)
{
    struct entry *e;
    uint32_t index;
    void *obj = NULL;

    pthread_mutex_lock(&lock);
    e = find(kind, value, &index);
    if (e != NULL)
        obj = atomic_exchange(&e->obj, NULL);
    if (obj != NULL) {
        atomic_fetch_and(&e->tag, 0xFFFF); /* no kind: matches nothing */
        e->next = 0;
        if (free_tail != 0)
            entry_at(free_tail - 1)->next = index + 1;
        else
            free_head = index + 1;
        free_tail = index + 1;
    }
    pthread_mutex_unlock(&lock);
    return obj;
}

void
fdcpu_handle_each(enum fdcpu_kind kind, void (*each)(void *obj, void *user), void *user)
{
    uint32_t i, n;

    pthread_mutex_lock(&lock);
    n = used;
    pthread_mutex_unlock(&lock);
    for (i = 0; i < n; i++) {
        struct entry *e = entry_at(i);
        void *obj;

        if (atomic_load(&e->tag) >> 16 != kind)
            continue;
        obj = atomic_load(&e->obj);
        if (obj != NULL)
            each(obj, user);
    }
}
