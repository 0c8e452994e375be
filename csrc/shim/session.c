/* The sessions of this process: cuInit's work, and which devices of the workers it shows. */
#include "process.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Attaches once; what it ended with is kept, as the driver keeps it. Under init. */
static CUresult
attach_once(void)
{
    if (fdc_process.sessions > 0 || fdc_process.failed != CUDA_SUCCESS)
        return fdc_process.failed;
    fdc_process.attaching = true;
    fdc_process.failed = fdc_attach();
    fdc_process.attaching = false;
    return fdc_process.failed;
}

/* What a session that is over answers with, when they all are; else 0. */
static CUresult
all_dead(void)
{
    struct fdc_session *session;
    uint32_t dead = 0;

    for (int i = 0; (session = fdc_session_at(i)) != NULL; i++) {
        dead = fdc_load_ordered(&session->dead);
        if (dead == 0)
            break;
    }
    return (CUresult)dead;
}

CUresult
fdc_session_open(void)
{
    CUresult result;

    if (fdc_process.forked)
        return CUDA_ERROR_NOT_INITIALIZED;
    pthread_mutex_lock(&fdc_process.init);
    result = attach_once();
    if (result == CUDA_SUCCESS && fdc_process.devices == 0)
        result = CUDA_ERROR_NO_DEVICE;
    if (result == CUDA_SUCCESS) {
        fdc_process.initialised = true;
        result = all_dead();
        fdc_store_release(&fdc_process.state, result == CUDA_SUCCESS && fdc_process.counted
                                                  ? FDC_COUNTED
                                                  : (int32_t)result);
    }
    pthread_mutex_unlock(&fdc_process.init);
    return result;
}

void
fdc_session_lost(void)
{
    CUresult dead = all_dead();

    if (dead != CUDA_SUCCESS)
        fdc_store_relaxed(&fdc_process.state, (int32_t)dead);
}

/* The least version of the servers' drivers, which all of them understand. */
static uint32_t
least_version(void)
{
    struct fdc_session *session;
    uint32_t version = 0;

    for (int i = 0; (session = fdc_session_at(i)) != NULL; i++)
        if (i == 0 || session->driver_version < version)
            version = session->driver_version;
    return version;
}

/* That version, attaching for it if need be; 0: not known. */
uint32_t
fdc_session_version(void)
{
    uint32_t version = 0;

    if (fdc_process_check() == CUDA_SUCCESS)
        return least_version();
    if (fdc_process.forked)
        return 0;
    pthread_mutex_lock(&fdc_process.init);
    if (attach_once() == CUDA_SUCCESS)
        version = least_version();
    pthread_mutex_unlock(&fdc_process.init);
    return version;
}

CUresult
fdc_session_check(void)
{
    return fdc_process_check();
}

struct fdc_session *
fdc_session_at(int number)
{
    return number < fdc_process.sessions ? fdc_process.session[number] : NULL;
}

struct fdc_device *
fdc_device(CUdevice ordinal)
{
    return ordinal >= 0 && ordinal < fdc_process.devices ? fdc_process.device[ordinal]
                                                         : NULL;
}

int
fdc_device_count(void)
{
    return fdc_process.devices;
}

/* ---- which devices, in which order ---- */

#define DEVICES_MAX ((int)FDC_COUNT(fdc_process.device))

/* A device of a worker's, before it is known whether the program sees it. */
struct candidate {
    struct fdc_session *session;
    int remote;
    const struct fdc_snapshot_device *snapshot;
};

struct candidates {
    struct candidate one[FDC_COUNT(fdc_process.device)];
    int count;
};

static void
candidates_find(struct candidates *all)
{
    const struct fdc_snapshot_device *first;
    struct fdc_session *session;

    all->count = 0;
    for (int i = 0; (session = fdc_session_at(i)) != NULL; i++) {
        first = (const void *)((const char *)session->snapshot +
                               session->snapshot->device_offset);
        for (int n = 0; n < (int)session->snapshot->device_count; n++) {
            if (all->count == DEVICES_MAX) {
                fdc_log(FDC_LOG_WARN, "more than %d devices: the last are not used",
                        DEVICES_MAX);
                return;
            }
            all->one[all->count++] = (struct candidate){session, n, &first[n]};
        }
    }
}

static uint64_t
speed(const struct candidate *a)
{
    const int32_t *attribute = a->snapshot->attribute;

    return (uint64_t)(uint32_t)attribute[CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT] *
           (uint32_t)attribute[CU_DEVICE_ATTRIBUTE_CLOCK_RATE];
}

static bool
faster(const struct candidate *a, const struct candidate *b)
{
    return speed(a) > speed(b);
}

/* A place on a bus names a slot of one machine: servers stay in their order. */
static bool
earlier_on_bus(const struct candidate *a, const struct candidate *b)
{
    static const CUdevice_attribute keys[] = {CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID,
                                              CU_DEVICE_ATTRIBUTE_PCI_BUS_ID,
                                              CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID};

    if (a->session != b->session)
        return a->session->number < b->session->number;
    for (size_t i = 0; i < FDC_COUNT(keys); i++) {
        int32_t left = a->snapshot->attribute[keys[i]];
        int32_t right = b->snapshot->attribute[keys[i]];

        if (left != right)
            return left < right;
    }
    return false;
}

/* CUDA_DEVICE_ORDER; without it they come as the servers name them. */
static void
candidates_order(struct candidates *all, const char *order)
{
    bool (*before)(const struct candidate *a, const struct candidate *b);
    struct candidate one;
    int i, to;

    if (order == NULL)
        return;
    if (strcmp(order, "PCI_BUS_ID") == 0)
        before = earlier_on_bus;
    else if (strcmp(order, "FASTEST_FIRST") == 0)
        before = faster;
    else
        return;
    for (i = 1; i < all->count; i++) {
        one = all->one[i];
        for (to = i; to > 0 && before(&one, &all->one[to - 1]); to--)
            all->one[to] = all->one[to - 1];
        all->one[to] = one;
    }
}

static void
uuid_text(const uint8_t uuid[16], char text[48])
{
    static const char digits[] = "0123456789abcdef";
    size_t at = 4, i;

    memcpy(text, "GPU-", 4);
    for (i = 0; i < 16; i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10)
            text[at++] = '-';
        text[at++] = digits[uuid[i] >> 4];
        text[at++] = digits[uuid[i] & 15];
    }
    text[at] = '\0';
}

/* "GPU-" and any beginning of the UUID that fits one device alone. */
static int
by_uuid(const struct candidates *all, const char *name, size_t size)
{
    int found = -1;
    char text[48];

    for (int i = 0; i < all->count; i++) {
        uuid_text(all->one[i].snapshot->uuid, text);
        if (size > strlen(text) || strncasecmp(text, name, size) != 0)
            continue;
        if (found >= 0)
            return -1;
        found = i;
    }
    return found;
}

/* The candidate that one entry of the list means, or -1. */
static int
visible_entry(const struct candidates *all, const char *entry, size_t size)
{
    char *end;
    long number;

    if (size > 4 && strncasecmp(entry, "GPU-", 4) == 0)
        return by_uuid(all, entry, size);
    if (size == 0 || !isdigit((unsigned char)entry[0]))
        return -1;
    number = strtol(entry, &end, 10);
    if (end != entry + size || number < 0 || number >= all->count)
        return -1;
    return (int)number;
}

/* What CUDA_VISIBLE_DEVICES names, up to the first entry that names nothing. */
static int
visible_list(const struct candidates *all, const char *visible, int *list)
{
    int count = 0, one, i;
    const char *end;
    size_t size;

    for (;;) {
        while (isspace((unsigned char)*visible))
            visible++;
        end = visible + strcspn(visible, ",");
        size = (size_t)(end - visible);
        while (size > 0 && isspace((unsigned char)visible[size - 1]))
            size--;
        one = visible_entry(all, visible, size);
        if (one < 0)
            return count;
        for (i = 0; i < count && list[i] != one; i++)
            ;
        if (i < count) /* named twice: the driver shows none at all */
            return 0;
        list[count++] = one;
        if (*end == '\0')
            return count;
        visible = end + 1;
    }
}

/* Gives the devices that the program sees (all, if visible is NULL) their ordinals. */
void
fdc_session_devices(const char *visible, const char *order)
{
    int list[FDC_COUNT(fdc_process.device)], count;
    struct candidates all;

    candidates_find(&all);
    candidates_order(&all, order);
    if (visible != NULL) {
        count = visible_list(&all, visible, list);
    } else {
        for (count = 0; count < all.count; count++)
            list[count] = count;
    }
    for (int i = 0; i < count; i++) {
        const struct candidate *one = &all.one[list[i]];
        struct fdc_device *device = &one->session->device[one->session->devices++];

        device->session = one->session;
        device->ordinal = i;
        device->remote = one->remote;
        device->snapshot = one->snapshot;
        fdc_process.device[i] = device;
    }
    fdc_process.devices = count;
}
