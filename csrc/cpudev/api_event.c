/*
 * Events, and what the program's own functions and memory words do in a stream. An
 * event's recording is a ticket of a stream; who waits takes the ticket that counts at
 * the time of the call, so a later recording changes nothing for him. Who has looked an
 * event up under sched has it until he lets go of that: no other thread frees it meanwhile.
 */
#include <stdlib.h>
#include <string.h>

#include "cpudev.h"

/* ---- recordings ---- */

/* Under sched. */
static struct fdcpu_record *
record_new(struct fdcpu_stream *stream)
{
    struct fdcpu_record *record = calloc(1, sizeof(*record));

    if (record == NULL)
        return NULL;
    record->refs = 1;
    record->stream = stream;
    fdcpu_stream_ref(stream);
    return record;
}

void
fdcpu_record_unref(struct fdcpu_record *record)
{
    if (record == NULL || --record->refs > 0)
        return;
    fdcpu_stream_unref(record->stream);
    free(record);
}

static bool
finished(const struct fdcpu_record *record)
{
    return record == NULL || fdcpu_stream_reached(record->stream, record->ticket);
}

/* Lets an event stand for the place after `ticket` (0: for a new mark) of a stream. */
static CUresult
record_at(struct fdcpu_event *event, struct fdcpu_stream *stream, uint64_t ticket)
{
    struct fdcpu_record *record = record_new(stream);
    struct fdcpu_work *work = NULL;

    if (record == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    fdcpu_event_uncapture(event);
    if (ticket == 0) {
        work = fdcpu_work_new(FDCPU_W_RECORD, stream->ctx);
        if (work == NULL) {
            fdcpu_record_unref(record);
            return CUDA_ERROR_OUT_OF_MEMORY;
        }
        work->u.event.record = record;
        record->refs++;
        ticket = UINT64_MAX; /* until it has one, it is not done */
    }
    record->ticket = ticket;
    fdcpu_record_unref(event->record);
    event->record = record;
    if (work != NULL) { /* this may let go of sched, and the event be destroyed */
        record->refs++;
        record->ticket = fdcpu_stream_push(stream, work);
        fdcpu_record_unref(record);
    }
    return CUDA_SUCCESS;
}

void
fdcpu_event_record_at(CUevent handle, struct fdcpu_stream *stream)
{
    struct fdcpu_event *event = FDCPU_GET(FDCPU_H_EVENT, handle);

    if (event != NULL)
        record_at(event, stream, 0);
}

/* ---- life ---- */

FDC_EXPORT CUresult
cuEventCreate(CUevent *phEvent, unsigned int Flags)
{
    struct fdcpu_event *event;
    struct fdcpu_ctx *ctx;
    CUresult result = fdcpu_enter(&ctx);

    if (result != CUDA_SUCCESS)
        return result;
    if (phEvent == NULL || (Flags & ~7u) != 0 ||
        ((Flags & CU_EVENT_INTERPROCESS) != 0 &&
         (Flags & CU_EVENT_DISABLE_TIMING) == 0))
        return CUDA_ERROR_INVALID_VALUE;
    if ((Flags & CU_EVENT_INTERPROCESS) != 0)
        return CUDA_ERROR_NOT_SUPPORTED;
    event = calloc(1, sizeof(*event));
    if (event == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    event->ctx = ctx;
    event->flags = Flags;
    event->handle = fdcpu_handle_new(FDCPU_H_EVENT, event);
    if (event->handle == 0) {
        free(event);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    *phEvent = (CUevent)(uintptr_t)event->handle;
    return CUDA_SUCCESS;
}

void
fdcpu_event_drop(struct fdcpu_event *event)
{
    if (fdcpu_handle_drop(FDCPU_H_EVENT, event->handle) == NULL)
        return;
    pthread_mutex_lock(&fdcpu.sched);
    fdcpu_event_uncapture(event);
    fdcpu_record_unref(event->record);
    pthread_mutex_unlock(&fdcpu.sched);
    free(event);
}

FDC_EXPORT CUresult
cuEventDestroy_v2(CUevent hEvent)
{
    struct fdcpu_event *event;
    CUresult result = fdcpu_check();

    if (result != CUDA_SUCCESS)
        return result;
    event = FDCPU_GET(FDCPU_H_EVENT, hEvent);
    if (event == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    fdcpu_event_drop(event);
    return CUDA_SUCCESS;
}

/* ---- record and wait ---- */

static CUresult
record(CUevent hEvent, CUstream hStream, unsigned int flags)
{
    struct fdcpu_event *event;
    struct fdcpu_stream *stream;
    struct fdcpu_work *work;
    CUresult result = fdcpu_stream_get(hStream, &stream);

    if (result != CUDA_SUCCESS)
        return result;
    pthread_mutex_lock(&fdcpu.sched);
    event = FDCPU_GET(FDCPU_H_EVENT, hEvent);
    if (event == NULL) {
        result = CUDA_ERROR_INVALID_HANDLE;
    } else if ((flags & ~1u) != 0) {
        result = CUDA_ERROR_INVALID_VALUE;
    } else if (event->ctx != stream->ctx) {
        result = CUDA_ERROR_INVALID_HANDLE;
    } else if (stream->capture != NULL && (flags & CU_EVENT_RECORD_EXTERNAL) != 0) {
        work = fdcpu_work_new(FDCPU_W_RECORD, stream->ctx);
        if (work == NULL) {
            result = CUDA_ERROR_OUT_OF_MEMORY;
        } else {
            work->u.event.handle = hEvent;
            result = fdcpu_capture_add(stream, work);
        }
    } else if (stream->capture != NULL) {
        result = fdcpu_capture_record(stream, event);
    } else {
        result = fdcpu_capture_implicit(stream);
        if (result == CUDA_SUCCESS)
            result = record_at(event, stream, 0);
    }
    pthread_mutex_unlock(&fdcpu.sched);
    return result;
}

FDCPU_TWIN(cuEventRecord, _ptsz, (CUevent hEvent, CUstream hStream),
           record(hEvent, S(hStream), 0))
FDCPU_TWIN(cuEventRecordWithFlags, _ptsz,
           (CUevent hEvent, CUstream hStream, unsigned int flags),
           record(hEvent, S(hStream), flags))

static CUresult
wait_event(CUstream hStream, CUevent hEvent, unsigned int flags)
{
    struct fdcpu_event *event;
    struct fdcpu_stream *stream;
    struct fdcpu_work *work;
    CUresult result = fdcpu_stream_get(hStream, &stream);

    if (result != CUDA_SUCCESS)
        return result;
    pthread_mutex_lock(&fdcpu.sched);
    event = FDCPU_GET(FDCPU_H_EVENT, hEvent);
    if (event == NULL) {
        result = CUDA_ERROR_INVALID_HANDLE;
    } else if ((flags & ~1u) != 0) {
        result = CUDA_ERROR_INVALID_VALUE;
    } else if (stream->capture != NULL && (flags & CU_EVENT_WAIT_EXTERNAL) != 0) {
        work = fdcpu_work_new(FDCPU_W_WAIT, stream->ctx);
        if (work == NULL) {
            result = CUDA_ERROR_OUT_OF_MEMORY;
        } else {
            work->u.event.handle = hEvent;
            result = fdcpu_capture_add(stream, work);
        }
    } else if (stream->capture != NULL || event->capture != NULL) {
        result = fdcpu_capture_wait(stream, event);
    } else {
        result = fdcpu_capture_implicit(stream);
        if (result == CUDA_SUCCESS && !finished(event->record)) {
            work = fdcpu_work_new(FDCPU_W_EMPTY, stream->ctx);
            if (work == NULL) {
                result = CUDA_ERROR_OUT_OF_MEMORY;
            } else {
                fdcpu_stream_depend(stream, event->record->stream,
                                    event->record->ticket);
                fdcpu_stream_push(stream, work);
            }
        }
    }
    pthread_mutex_unlock(&fdcpu.sched);
    return result;
}

FDCPU_TWIN(cuStreamWaitEvent, _ptsz,
           (CUstream hStream, CUevent hEvent, unsigned int Flags),
           wait_event(S(hStream), hEvent, Flags))

/* ---- questions ---- */

/* Under sched on success. */
static CUresult
enter(CUevent hEvent, struct fdcpu_event **event)
{
    CUresult result = fdcpu_check();
    int error;

    if (result != CUDA_SUCCESS)
        return result;
    pthread_mutex_lock(&fdcpu.sched);
    *event = FDCPU_GET(FDCPU_H_EVENT, hEvent);
    if (*event == NULL) {
        result = CUDA_ERROR_INVALID_HANDLE;
    } else if ((error = atomic_load(&(*event)->ctx->device->lost)) != 0) {
        result = (CUresult)error;
    } else if ((*event)->capture != NULL) {
        fdcpu_capture_spoil((*event)->capture);
        result = CUDA_ERROR_CAPTURED_EVENT;
    }
    if (result != CUDA_SUCCESS)
        pthread_mutex_unlock(&fdcpu.sched);
    return result;
}

FDC_EXPORT CUresult
cuEventQuery(CUevent hEvent)
{
    struct fdcpu_event *event;
    struct fdcpu_ctx *ctx;
    CUresult result = enter(hEvent, &event);

    if (result != CUDA_SUCCESS)
        return result;
    pthread_mutex_unlock(&fdcpu.sched);
    result = fdcpu_capture_unsafe(); /* whichever event it is */
    if (result == CUDA_SUCCESS)
        result = enter(hEvent, &event);
    if (result != CUDA_SUCCESS)
        return result;
    if (!finished(event->record))
        result = CUDA_ERROR_NOT_READY;
    ctx = event->ctx;
    pthread_mutex_unlock(&fdcpu.sched);
    return result == CUDA_SUCCESS ? fdcpu_ctx_result(ctx) : result;
}

FDC_EXPORT CUresult
cuEventSynchronize(CUevent hEvent)
{
    struct fdcpu_event *event;
    struct fdcpu_record *record;
    struct fdcpu_ctx *ctx;
    CUresult result = enter(hEvent, &event);

    if (result != CUDA_SUCCESS)
        return result;
    ctx = event->ctx;
    record = event->record;
    if (record != NULL) {
        record->refs++;
        fdcpu_stream_await(record->stream, record->ticket);
        fdcpu_record_unref(record);
    }
    pthread_mutex_unlock(&fdcpu.sched);
    fdcpu_ctx_print_flush(ctx);
    return fdcpu_ctx_result(ctx);
}

FDC_EXPORT CUresult
cuEventElapsedTime_v2(float *pMilliseconds, CUevent hStart, CUevent hEnd)
{
    struct fdcpu_event *start, *end;
    CUresult result = enter(hStart, &start);

    if (result != CUDA_SUCCESS)
        return result;
    pthread_mutex_unlock(&fdcpu.sched);
    result = enter(hEnd, &end);
    if (result != CUDA_SUCCESS)
        return result;
    start = FDCPU_GET(FDCPU_H_EVENT, hStart);
    if (pMilliseconds == NULL)
        result = CUDA_ERROR_INVALID_VALUE;
    else if (start == NULL || start->record == NULL || end->record == NULL || start->ctx != end->ctx ||
             ((start->flags | end->flags) & CU_EVENT_DISABLE_TIMING) != 0)
        result = CUDA_ERROR_INVALID_HANDLE;
    else if (!finished(start->record) || !finished(end->record))
        result = CUDA_ERROR_NOT_READY;
    else
        *pMilliseconds =
            (float)((double)(int64_t)(end->record->time_ns - start->record->time_ns) /
                    1e6);
    pthread_mutex_unlock(&fdcpu.sched);
    return result;
}

/* ---- the program's functions ---- */

static CUresult
host_function(CUstream hStream, CUhostFn fn, void *user)
{
    struct fdcpu_stream *stream;
    struct fdcpu_work *work;
    CUresult result = fdcpu_stream_get(hStream, &stream);

    if (result != CUDA_SUCCESS)
        return result;
    if (fn == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    work = fdcpu_work_new(FDCPU_W_HOST, stream->ctx);
    if (work == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    work->u.host.fn = fn;
    work->u.host.user = user;
    return fdcpu_stream_do(stream, work, 0);
}

FDCPU_TWIN(cuLaunchHostFunc, _ptsz, (CUstream hStream, CUhostFn fn, void *userData),
           host_function(S(hStream), fn, userData))
FDCPU_TWIN(cuLaunchHostFunc_v2, _ptsz,
           (CUstream hStream, CUhostFn fn, void *userData, unsigned int syncMode),
           syncMode > 1 ? CUDA_ERROR_INVALID_VALUE
                        : host_function(S(hStream), fn, userData))

static CUresult
add_callback(CUstream hStream, CUstreamCallback fn, void *user, unsigned int flags)
{
    struct fdcpu_stream *stream;
    struct fdcpu_work *work;
    CUresult result = fdcpu_stream_get(hStream, &stream);

    if (result != CUDA_SUCCESS)
        return result;
    if (fn == NULL || flags != 0)
        return CUDA_ERROR_INVALID_VALUE;
    if (stream->capture != NULL) {
        pthread_mutex_lock(&fdcpu.sched);
        if (stream->capture != NULL)
            fdcpu_capture_spoil(stream->capture);
        pthread_mutex_unlock(&fdcpu.sched);
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
    work = fdcpu_work_new(FDCPU_W_CALLBACK, stream->ctx);
    if (work == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    work->u.callback.fn = fn;
    work->u.callback.user = user;
    work->u.callback.stream = hStream;
    return fdcpu_stream_do(stream, work, 0);
}

FDCPU_TWIN(cuStreamAddCallback, _ptsz,
           (CUstream hStream, CUstreamCallback callback, void *userData,
            unsigned int flags),
           add_callback(S(hStream), callback, userData, flags))

/* ---- words of memory ---- */

/* 0, or why a word cannot be waited for or written. */
static CUresult
word_fits(uint64_t address, unsigned int size, bool waits, unsigned int flags)
{
    if (address % size != 0 || !fdcpu_alloc_covers(address, size))
        return CUDA_ERROR_INVALID_VALUE;
    if (!waits)
        return flags != CU_STREAM_WRITE_VALUE_DEFAULT ? CUDA_ERROR_INVALID_VALUE
                                                      : CUDA_SUCCESS;
    if ((flags & ~(unsigned int)CU_STREAM_WAIT_VALUE_FLUSH) > CU_STREAM_WAIT_VALUE_NOR)
        return CUDA_ERROR_INVALID_VALUE;
    return (flags & CU_STREAM_WAIT_VALUE_FLUSH) != 0 ? CUDA_ERROR_NOT_SUPPORTED
                                                     : CUDA_SUCCESS;
}

static CUresult
op_fits(const CUstreamBatchMemOpParams *op)
{
    switch ((int)op->operation) {
    case CU_STREAM_MEM_OP_WAIT_VALUE_32:
        return word_fits(op->waitValue.address, 4, true, op->waitValue.flags);
    case CU_STREAM_MEM_OP_WAIT_VALUE_64:
        return word_fits(op->waitValue.address, 8, true, op->waitValue.flags);
    case CU_STREAM_MEM_OP_WRITE_VALUE_32:
        return word_fits(op->writeValue.address, 4, false, op->writeValue.flags);
    case CU_STREAM_MEM_OP_WRITE_VALUE_64:
        return word_fits(op->writeValue.address, 8, false, op->writeValue.flags);
    case CU_STREAM_MEM_OP_BARRIER:
        return op->memoryBarrier.flags > CU_STREAM_MEMORY_BARRIER_TYPE_GPU
                   ? CUDA_ERROR_INVALID_VALUE
                   : CUDA_SUCCESS;
    case CU_STREAM_MEM_OP_FLUSH_REMOTE_WRITES:
        return op->flushRemoteWrites.flags != 0 ? CUDA_ERROR_INVALID_VALUE
                                                : CUDA_ERROR_NOT_SUPPORTED;
    case CU_STREAM_MEM_OP_ATOMIC_REDUCTION:
        return CUDA_ERROR_NOT_SUPPORTED;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

static CUresult
batch(CUstream hStream, unsigned int count, const CUstreamBatchMemOpParams *ops,
      unsigned int flags)
{
    struct fdcpu_stream *stream;
    struct fdcpu_work *work;
    CUresult result = fdcpu_stream_get(hStream, &stream);

    if (result == CUDA_SUCCESS &&
        (flags != 0 || count > 255 || (count != 0 && ops == NULL)))
        result = CUDA_ERROR_INVALID_VALUE;
    if (result == CUDA_SUCCESS && (fdcpu.opt.strict & FDCPU_STRICT_NOVALUES) != 0)
        result = CUDA_ERROR_NOT_SUPPORTED;
    for (unsigned int i = 0; i < count && result == CUDA_SUCCESS; i++)
        result = op_fits(&ops[i]);
    if (result != CUDA_SUCCESS || count == 0)
        return result;
    work = fdcpu_work_new(FDCPU_W_MEMOP, stream->ctx);
    if (work == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    work->u.memop.ops = malloc(count * sizeof(*ops));
    if (work->u.memop.ops == NULL) {
        free(work);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    memcpy(work->u.memop.ops, ops, count * sizeof(*ops));
    work->u.memop.count = count;
    return fdcpu_stream_do(stream, work, 0);
}

static CUresult
one_word(CUstream hStream, CUstreamBatchMemOpType what, CUdeviceptr addr,
         uint64_t value, unsigned int flags)
{
    CUstreamBatchMemOpParams op;

    memset(&op, 0, sizeof(op));
    op.waitValue.operation = what; /* writeValue has the same beginning */
    op.waitValue.address = addr;
    op.waitValue.value64 = value;
    op.waitValue.flags = flags;
    return batch(hStream, 1, &op, 0);
}

FDCPU_TWIN(
    cuStreamWaitValue32_v2, _ptsz,
    (CUstream stream, CUdeviceptr addr, cuuint32_t value, unsigned int flags),
    one_word(S(stream), CU_STREAM_MEM_OP_WAIT_VALUE_32, addr, value, flags))
FDCPU_TWIN(
    cuStreamWaitValue64_v2, _ptsz,
    (CUstream stream, CUdeviceptr addr, cuuint64_t value, unsigned int flags),
    one_word(S(stream), CU_STREAM_MEM_OP_WAIT_VALUE_64, addr, value, flags))
FDCPU_TWIN(
    cuStreamWriteValue32_v2, _ptsz,
    (CUstream stream, CUdeviceptr addr, cuuint32_t value, unsigned int flags),
    one_word(S(stream), CU_STREAM_MEM_OP_WRITE_VALUE_32, addr, value, flags))
FDCPU_TWIN(
    cuStreamWriteValue64_v2, _ptsz,
    (CUstream stream, CUdeviceptr addr, cuuint64_t value, unsigned int flags),
    one_word(S(stream), CU_STREAM_MEM_OP_WRITE_VALUE_64, addr, value, flags))
FDCPU_TWIN(cuStreamBatchMemOp_v2, _ptsz,
           (CUstream stream, unsigned int count,
            CUstreamBatchMemOpParams *paramArray, unsigned int flags),
           batch(S(stream), count, paramArray, flags))
