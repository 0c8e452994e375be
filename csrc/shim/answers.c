/*
 * Calls that have the same answer in front of a worker as on the CPU device, which is built
 * with this file too: settings of dumps, notices, logs, atomics between devices. Nothing is
 * asked of either, so only public calls are used here.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cuda_calls.h"
#include "fdc/base.h"

/* ---- dumps: none is made, so settings that would make one are not supported ---- */

enum { DUMP_FILE = 5, DUMP_PIPE = 6, DUMP_FLAGS = 7, DUMP_NAME = 1024 };
enum { DUMP_TRIGGER_HOST = 2 };

static pthread_mutex_t dump_lock = PTHREAD_MUTEX_INITIALIZER;
/* Of the process, of contexts; file, pipe: empty is the driver's own choice. */
static char dump_name[2][2][DUMP_NAME];

static bool
is_name(unsigned attribute)
{
    return attribute == DUMP_FILE || attribute == DUMP_PIPE;
}

/* What a setting is; all but names are as they were when the process began. */
static size_t
dump_default(unsigned attribute, uint32_t *value)
{
    *value = attribute == DUMP_TRIGGER_HOST;
    return is_name(attribute) ? DUMP_NAME : attribute == DUMP_FLAGS ? 4 : 1;
}

static CUresult
dump_get(unsigned attribute, void *value, size_t *size, bool context)
{
    uint32_t word;
    size_t length;
    char *name;

    if (attribute < 1 || attribute > DUMP_FLAGS || size == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    length = dump_default(attribute, &word);
    if (value == NULL) {
        *size = length;
        return CUDA_SUCCESS;
    }
    if (!is_name(attribute)) {
        if (*size != length)
            return CUDA_ERROR_INVALID_VALUE;
        memcpy(value, &word, length);
        return CUDA_SUCCESS;
    }
    name = dump_name[context][attribute - DUMP_FILE];
    pthread_mutex_lock(&dump_lock);
    length = strlen(name) + 1;
    memcpy(value, name, length < *size ? length : *size);
    pthread_mutex_unlock(&dump_lock);
    return CUDA_SUCCESS;
}

static CUresult
dump_set(unsigned attribute, const void *value, size_t *size, bool context)
{
    static uint32_t said;
    uint32_t word, asked = 0;
    size_t length;

    if (attribute < 1 || attribute > DUMP_FLAGS || size == NULL ||
        (attribute == DUMP_PIPE && context))
        return CUDA_ERROR_INVALID_VALUE;
    length = dump_default(attribute, &word);
    if (value == NULL) {
        *size = length;
        return CUDA_SUCCESS;
    }
    if (!is_name(attribute)) {
        if (*size != length)
            return CUDA_ERROR_INVALID_VALUE;
        memcpy(&asked, value, length);
        if (asked == word)
            return CUDA_SUCCESS;
        if (!__atomic_exchange_n(&said, 1, __ATOMIC_RELAXED))
            fdc_log(FDC_LOG_WARN, "dumps of a GPU are not supported");
        return CUDA_ERROR_NOT_SUPPORTED;
    }
    length = strnlen(value, *size);
    if (length == *size || length >= DUMP_NAME)
        return CUDA_ERROR_INVALID_VALUE;
    pthread_mutex_lock(&dump_lock);
    memcpy(dump_name[context][attribute - DUMP_FILE], value, length + 1);
    pthread_mutex_unlock(&dump_lock);
    return CUDA_SUCCESS;
}

static CUresult
current(void)
{
    CUcontext context = NULL;
    CUresult result = cuCtxGetCurrent(&context);

    return result == CUDA_SUCCESS && context == NULL ? CUDA_ERROR_INVALID_CONTEXT
                                                     : result;
}

/* The process's settings are there before cuInit. */
FDC_EXPORT CUresult
cuCoredumpGetAttributeGlobal(CUcoredumpSettings attrib, void *value, size_t *size)
{
    return dump_get((unsigned)attrib, value, size, false);
}

FDC_EXPORT CUresult
cuCoredumpSetAttributeGlobal(CUcoredumpSettings attrib, void *value, size_t *size)
{
    return dump_set((unsigned)attrib, value, size, false);
}

/* Those of contexts are kept for all of them together. */
FDC_EXPORT CUresult
cuCoredumpGetAttribute(CUcoredumpSettings attrib, void *value, size_t *size)
{
    CUresult result = current();

    return result != CUDA_SUCCESS ? result
                                  : dump_get((unsigned)attrib, value, size, true);
}

FDC_EXPORT CUresult
cuCoredumpSetAttribute(CUcoredumpSettings attrib, void *value, size_t *size)
{
    CUresult result = current();

    return result != CUDA_SUCCESS ? result
                                  : dump_set((unsigned)attrib, value, size, true);
}

/* ---- notices of a device that is over its budget: a slice never is, it refuses ---- */

struct notice {
    struct notice *next;
    CUdevice device;
};

static pthread_mutex_t notice_lock = PTHREAD_MUTEX_INITIALIZER;
static struct notice *notices;

static CUresult
device_there(CUdevice device)
{
    int count = 0;
    CUresult result = cuDeviceGetCount(&count);

    if (result == CUDA_SUCCESS && (device < 0 || device >= count))
        result = CUDA_ERROR_INVALID_DEVICE;
    return result;
}

FDC_EXPORT CUresult
cuDeviceRegisterAsyncNotification(CUdevice device, CUasyncCallback callbackFunc,
                                  void *userData, CUasyncCallbackHandle *callback)
{
    CUresult result = device_there(device);
    struct notice *notice;

    (void)userData;
    if (result != CUDA_SUCCESS)
        return result;
    if (callbackFunc == NULL || callback == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    notice = malloc(sizeof(*notice));
    if (notice == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    notice->device = device;
    pthread_mutex_lock(&notice_lock);
    notice->next = notices;
    notices = notice;
    pthread_mutex_unlock(&notice_lock);
    *callback = (CUasyncCallbackHandle)notice;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuDeviceUnregisterAsyncNotification(CUdevice device, CUasyncCallbackHandle callback)
{
    CUresult result = device_there(device);
    struct notice **at, *found;

    if (result != CUDA_SUCCESS)
        return result;
    pthread_mutex_lock(&notice_lock);
    for (at = &notices; *at != NULL; at = &(*at)->next)
        if (*at == (struct notice *)callback && (*at)->device == device)
            break;
    found = *at;
    if (found != NULL)
        *at = found->next;
    pthread_mutex_unlock(&notice_lock);
    if (found == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    free(found);
    return CUDA_SUCCESS;
}

/* ---- atomics between a device and another memory: none are promised ---- */

static CUresult
no_atomics(unsigned int *capabilities, const CUatomicOperation *operations,
           unsigned int count)
{
    if (capabilities == NULL || operations == NULL || count == 0)
        return CUDA_ERROR_INVALID_VALUE;
    for (unsigned int i = 0; i < count; i++)
        if ((unsigned)operations[i] >= CU_ATOMIC_OPERATION_MAX)
            return CUDA_ERROR_INVALID_VALUE;
    memset(capabilities, 0, count * sizeof(*capabilities));
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuDeviceGetHostAtomicCapabilities(unsigned int *capabilities,
                                  const CUatomicOperation *operations,
                                  unsigned int count, CUdevice dev)
{
    CUresult result = device_there(dev);

    return result != CUDA_SUCCESS ? result
                                  : no_atomics(capabilities, operations, count);
}

FDC_EXPORT CUresult
cuDeviceGetP2PAtomicCapabilities(unsigned int *capabilities,
                                 const CUatomicOperation *operations,
                                 unsigned int count, CUdevice srcDevice,
                                 CUdevice dstDevice)
{
    CUresult result = device_there(srcDevice);

    if (result == CUDA_SUCCESS)
        result = device_there(dstDevice);
    if (result == CUDA_SUCCESS && srcDevice == dstDevice)
        result = CUDA_ERROR_INVALID_DEVICE;
    return result != CUDA_SUCCESS ? result
                                  : no_atomics(capabilities, operations, count);
}

/* ---- execution affinity: a context has all of its device ---- */

FDC_EXPORT CUresult
cuCtxGetExecAffinity(CUexecAffinityParam *pExecAffinity, CUexecAffinityType type)
{
    CUdevice device;
    int sms = 0;
    CUresult result = cuCtxGetDevice(&device);

    if (result != CUDA_SUCCESS)
        return result;
    if (pExecAffinity == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    if (type != CU_EXEC_AFFINITY_TYPE_SM_COUNT)
        return CUDA_ERROR_UNSUPPORTED_EXEC_AFFINITY;
    result = cuDeviceGetAttribute(&sms, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, device);
    if (result != CUDA_SUCCESS)
        return result;
    pExecAffinity->type = type;
    pExecAffinity->param.smCount.val = (unsigned int)sms;
    return CUDA_SUCCESS;
}

/* ---- logs: none are made, so callbacks are never called and every dump is empty ---- */

static uint64_t log_callbacks; /* handles given, atomic */

FDC_EXPORT CUresult
cuLogsRegisterCallback(CUlogsCallback callbackFunc, void *userData,
                       CUlogsCallbackHandle *callback_out)
{
    uint64_t number;

    (void)userData;
    if (callbackFunc == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    number = __atomic_add_fetch(&log_callbacks, 1, __ATOMIC_RELAXED);
    if (callback_out != NULL)
        *callback_out = (CUlogsCallbackHandle)(uintptr_t)number;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuLogsUnregisterCallback(CUlogsCallbackHandle callback)
{
    uintptr_t number = (uintptr_t)callback;

    return number != 0 && number <= fdc_load_relaxed(&log_callbacks)
               ? CUDA_SUCCESS
               : CUDA_ERROR_INVALID_VALUE;
}

FDC_EXPORT CUresult
cuLogsCurrent(CUlogIterator *iterator_out, unsigned int flags)
{
    if (iterator_out == NULL || flags != 0)
        return CUDA_ERROR_INVALID_VALUE;
    *iterator_out = 0;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuLogsDumpToFile(CUlogIterator *iterator, const char *pathToFile, unsigned int flags)
{
    int fd;

    (void)iterator;
    if (pathToFile == NULL || flags != 0)
        return CUDA_ERROR_INVALID_VALUE;
    fd = open(pathToFile, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (fd < 0)
        return CUDA_ERROR_FILE_NOT_FOUND;
    close(fd);
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuLogsDumpToMemory(CUlogIterator *iterator, char *buffer, size_t *size,
                   unsigned int flags)
{
    (void)iterator;
    if (size == NULL || flags != 0)
        return CUDA_ERROR_INVALID_VALUE;
    if (buffer != NULL && *size > 0)
        buffer[0] = '\0';
    *size = 0;
    return CUDA_SUCCESS;
}
