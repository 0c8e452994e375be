/* The session of this process: cuInit's work, and which of the worker's devices it shows. */
#include "process.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Attaches once; what it ended with is kept, as the driver keeps it. Under init. */
static CUresult
attach_once(void)
{
    struct fdc_session *session;

    if (fdc_session_only != NULL || fdc_process.failed != CUDA_SUCCESS)
        return fdc_process.failed;
    fdc_process.attaching = true;
    fdc_process.failed = fdc_attach(&session);
    fdc_process.attaching = false;
    if (fdc_process.failed == CUDA_SUCCESS)
        fdc_session_only = session;
    return fdc_process.failed;
}

CUresult
fdc_session_open(void)
{
    CUresult result;

    if (fdc_process.forked)
        return CUDA_ERROR_NOT_INITIALIZED;
    pthread_mutex_lock(&fdc_process.init);
    result = attach_once();
    if (result == CUDA_SUCCESS && fdc_session_only->devices == 0)
        result = CUDA_ERROR_NO_DEVICE;
    if (result == CUDA_SUCCESS) {
        fdc_process.initialised = true;
        if (fdc_session_only->dead == 0)
            fdc_store_release(&fdc_process.state, CUDA_SUCCESS);
        else
            fdc_store_release(&fdc_process.state, (int32_t)fdc_session_only->dead);
        result = fdc_process_check();
    }
    pthread_mutex_unlock(&fdc_process.init);
    return result;
}

/* Version of the server's driver, attaching for it if need be; 0: not known. */
uint32_t
fdc_session_version(void)
{
    uint32_t version = 0;

    if (fdc_process_check() == CUDA_SUCCESS)
        return fdc_session_only->driver_version;
    if (fdc_process.forked)
        return 0;
    pthread_mutex_lock(&fdc_process.init);
    if (attach_once() == CUDA_SUCCESS)
        version = fdc_session_only->driver_version;
    pthread_mutex_unlock(&fdc_process.init);
    return version;
}

CUresult
fdc_session_check(void)
{
    return fdc_process_check();
}

struct fdc_device *
fdc_device(CUdevice ordinal)
{
    struct fdc_session *session = fdc_session_only;

    if (session == NULL || ordinal < 0 || ordinal >= session->devices)
        return NULL;
    return &session->device[ordinal];
}

int
fdc_device_count(void)
{
    return fdc_session_only != NULL ? fdc_session_only->devices : 0;
}

/* ---- CUDA_VISIBLE_DEVICES ---- */

static const struct fdc_snapshot_device *
remote_device(const struct fdc_snapshot *snapshot, int remote)
{
    return (const struct fdc_snapshot_device *)((const char *)snapshot +
                                                snapshot->device_offset) +
           remote;
}

/* "GPU-" and any beginning of the UUID that fits one device alone. */
static int
by_uuid(const struct fdc_snapshot *snapshot, const char *name, size_t size)
{
    static const char digits[] = "0123456789abcdef";
    char text[48];
    int remote, found = -1;

    for (remote = 0; remote < (int)snapshot->device_count; remote++) {
        const uint8_t *uuid = remote_device(snapshot, remote)->uuid;
        size_t at = 4, i;

        memcpy(text, "GPU-", 4);
        for (i = 0; i < 16; i++) {
            if (i == 4 || i == 6 || i == 8 || i == 10)
                text[at++] = '-';
            text[at++] = digits[uuid[i] >> 4];
            text[at++] = digits[uuid[i] & 15];
        }
        text[at] = '\0';
        if (size > at || strncasecmp(text, name, size) != 0)
            continue;
        if (found >= 0)
            return -1;
        found = remote;
    }
    return found;
}

/* The remote device that one entry of the list means, or -1. */
static int
visible_entry(const struct fdc_snapshot *snapshot, const char *entry, size_t size)
{
    char *end;
    long number;

    if (size > 4 && strncasecmp(entry, "GPU-", 4) == 0)
        return by_uuid(snapshot, entry, size);
    if (size == 0 || !isdigit((unsigned char)entry[0]))
        return -1;
    number = strtol(entry, &end, 10);
    if (end != entry + size || number < 0 || number >= (long)snapshot->device_count)
        return -1;
    return (int)number;
}

/* Fills session->device with what `visible` names (NULL: all), up to the first entry that
 * names nothing. Returns 0 or -errno. */
int
fdc_session_devices(struct fdc_session *session, const char *visible)
{
    const struct fdc_snapshot *snapshot = session->snapshot;
    int list[FDC_COUNT(session->device)], count = 0, i, remote;
    const char *end;
    size_t size;

    if (visible == NULL) {
        for (; count < (int)snapshot->device_count && count < (int)FDC_COUNT(list);
             count++)
            list[count] = count;
    } else {
        for (;;) {
            while (isspace((unsigned char)*visible))
                visible++;
            end = visible + strcspn(visible, ",");
            size = (size_t)(end - visible);
            while (size > 0 && isspace((unsigned char)visible[size - 1]))
                size--;
            remote = visible_entry(snapshot, visible, size);
            if (remote < 0 || count == (int)FDC_COUNT(list))
                break;
            for (i = 0; i < count && list[i] != remote; i++)
                ;
            if (i < count) { /* named twice: the driver shows none at all */
                count = 0;
                break;
            }
            list[count++] = remote;
            if (*end == '\0')
                break;
            visible = end + 1;
        }
    }
    for (i = 0; i < count; i++) {
        session->device[i].session = session;
        session->device[i].ordinal = i;
        session->device[i].remote = list[i];
        session->device[i].snapshot = remote_device(snapshot, list[i]);
    }
    session->devices = count;
    return 0;
}
