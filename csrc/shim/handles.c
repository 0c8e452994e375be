/*
 * Handles: (kind, index, generation) packed into the value the program sees. A look-up
 * takes no lock: the slot's object pointer is read, then the object's own handle is
 * compared. Dropped objects stay in memory for a grace time, so that a look-up in another
 * thread that has just read the pointer reads a live (if stale) object.
 */
#include "process.h"

#include <stdlib.h>
#include <time.h>

#define GRACE_NS 2000000000ull
#define REUSE_AFTER 64u /* free indices that are left to rest */

struct fdc_dropped {
    struct fdc_dropped *next;
    struct fdc_object *object;
    uint64_t when;
};

static uint64_t
coarse_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec;
}

void
fdc_handles_reset(void)
{
    unsigned kind;

    for (kind = 0; kind < FDC_KINDS; kind++)
        pthread_mutex_init(&fdc_process.handles[kind].lock, NULL);
}

void
fdc_handles_skip(enum fdc_kind kind, uint32_t last)
{
    struct fdc_handle_table *table = &fdc_process.handles[kind];

    pthread_mutex_lock(&table->lock);
    if (table->fresh <= last)
        table->fresh = last + 1;
    pthread_mutex_unlock(&table->lock);
}

/* Under the table's lock: the slot of an index of its own, or NULL. */
static struct fdc_handle_slot *
slot_make(struct fdc_handle_table *table, uint32_t *index)
{
    struct fdc_handle_slot *chunk;

    if (table->free_count > REUSE_AFTER ||
        (table->free_count > 0 &&
         table->fresh >= FDC_HANDLE_CHUNK * FDC_HANDLE_CHUNKS)) {
        *index = table->free_first;
        table->free_first = fdc_handle_slot_of(table, *index)->next;
        table->free_count--;
        return fdc_handle_slot_of(table, *index);
    }
    if (table->fresh >= FDC_HANDLE_CHUNK * FDC_HANDLE_CHUNKS)
        return NULL;
    *index = table->fresh;
    if (table->chunk[*index / FDC_HANDLE_CHUNK] == NULL) {
        chunk = calloc(FDC_HANDLE_CHUNK, sizeof(*chunk));
        if (chunk == NULL)
            return NULL;
        /* pairs with the acquire in fdc_handle_slot_of() */
        fdc_store_release(&table->chunk[*index / FDC_HANDLE_CHUNK], chunk);
    }
    table->fresh++;
    return fdc_handle_slot_of(table, *index);
}

/* Under the table's lock: the dropped objects whose grace is over, as a list. */
static struct fdc_dropped *
take_dropped(struct fdc_handle_table *table)
{
    struct fdc_dropped *first, *last;
    uint64_t now;

    first = table->dropped_first;
    if (first == NULL)
        return NULL;
    now = coarse_ns();
    if (now - first->when < GRACE_NS || fdc_load_acquire(&first->object->held))
        return NULL;
    last = first;
    while (last->next != NULL && now - last->next->when >= GRACE_NS &&
           !fdc_load_acquire(&last->next->object->held))
        last = last->next;
    table->dropped_first = last->next;
    if (last->next == NULL)
        table->dropped_last = NULL;
    last->next = NULL;
    return first;
}

static void
free_dropped(struct fdc_dropped *dropped)
{
    struct fdc_dropped *next;

    for (; dropped != NULL; dropped = next) {
        next = dropped->next;
        free(dropped->object);
        free(dropped);
    }
}

void *
fdc_object_new(struct fdc_session *session, enum fdc_kind kind, size_t size,
               struct fdc_context *context)
{
    struct fdc_handle_table *table = &fdc_process.handles[kind];
    struct fdc_handle_slot *slot;
    struct fdc_dropped *old;
    struct fdc_object *object;
    uint32_t index;

    object = calloc(1, size > sizeof(*object) ? size : sizeof(*object));
    if (object == NULL)
        return NULL;
    object->session = session;
    object->context = context;
    pthread_mutex_lock(&table->lock);
    slot = slot_make(table, &index);
    if (slot == NULL) {
        pthread_mutex_unlock(&table->lock);
        free(object);
        return NULL;
    }
    if (++slot->generation == 0)
        slot->generation = 1;
    object->handle = FDC_HANDLE(kind, slot->generation, index);
    /* pairs with the acquire in fdc_object_find() */
    fdc_store_release(&slot->object, object);
    old = take_dropped(table);
    pthread_mutex_unlock(&table->lock);
    free_dropped(old);
    return object;
}

void *
fdc_object_find(enum fdc_kind kind, const void *handle)
{
    return fdc_object_at(kind, handle);
}

void
fdc_object_drop(void *dropped)
{
    struct fdc_object *object = dropped;
    uint32_t index = FDC_HANDLE_INDEX(object->handle);
    struct fdc_handle_table *table =
        &fdc_process.handles[FDC_HANDLE_KIND(object->handle)];
    struct fdc_handle_slot *slot;
    struct fdc_dropped *entry;

    entry = malloc(sizeof(*entry));
    pthread_mutex_lock(&table->lock);
    slot = fdc_handle_slot_of(table, index);
    if (slot == NULL || slot->object != object) { /* dropped by another thread */
        pthread_mutex_unlock(&table->lock);
        free(entry);
        return;
    }
    fdc_store_release(&slot->object, NULL);
    slot->next = 0;
    if (table->free_count == 0)
        table->free_first = index;
    else
        fdc_handle_slot_of(table, table->free_last)->next = index;
    table->free_last = index;
    table->free_count++;
    if (entry != NULL) { /* else the object is lost: a leak, no more */
        entry->object = object;
        entry->next = NULL;
        entry->when = coarse_ns();
        if (table->dropped_last != NULL)
            table->dropped_last->next = entry;
        else
            table->dropped_first = entry;
        table->dropped_last = entry;
    }
    pthread_mutex_unlock(&table->lock);
}

void
fdc_object_hold(void *object)
{
    __atomic_add_fetch(&((struct fdc_object *)object)->held, 1, __ATOMIC_ACQ_REL);
}

void
fdc_object_unhold(void *object)
{
    __atomic_sub_fetch(&((struct fdc_object *)object)->held, 1, __ATOMIC_ACQ_REL);
}

void
fdc_object_each(enum fdc_kind kind, void (*fn)(void *object, void *user), void *user)
{
    struct fdc_handle_table *table = &fdc_process.handles[kind];
    struct fdc_handle_slot *slot;
    struct fdc_object *object;
    uint32_t index, end;

    pthread_mutex_lock(&table->lock);
    end = table->fresh;
    pthread_mutex_unlock(&table->lock);
    for (index = 1; index < end; index++) {
        slot = fdc_handle_slot_of(table, index);
        object = slot != NULL ? fdc_load_acquire(&slot->object) : NULL;
        if (object != NULL)
            fn(object, user);
    }
}
