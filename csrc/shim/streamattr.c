/*
 * Attributes of streams: advice for caches, waiting and fences. The worker's driver is told,
 * and judges; what a stream has is remembered here, so asking costs no trip.
 */
#include "process.h"

#include "cuda_calls.h"
#include "memory.h"

/* Until it is set, the policy is none of those that can be set: so says driver 580. */
void
fdc_stream_attributes(struct fdc_stream *stream)
{
    stream->attr.policy = (CUsynchronizationPolicy)-1;
    stream->attr.map.remote = 1;
}

static CUresult
get(CUstream value, CUstreamAttrID attr, CUstreamAttrValue *out, unsigned how)
{
    struct fdc_stream *stream;
    CUresult result = fdc_stream_asked(value, out, how, &stream);

    if (result != CUDA_SUCCESS)
        return result;
    switch ((int)attr) {
    case CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW:
        out->accessPolicyWindow = stream->attr.window;
        return CUDA_SUCCESS;
    case CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY:
        out->syncPolicy = stream->attr.policy;
        return CUDA_SUCCESS;
    case CU_LAUNCH_ATTRIBUTE_PRIORITY:
        out->priority = stream->priority;
        return CUDA_SUCCESS;
    case CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN_MAP:
        out->memSyncDomainMap = stream->attr.map;
        return CUDA_SUCCESS;
    case CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN:
        out->memSyncDomain = stream->attr.domain;
        return CUDA_SUCCESS;
    default:
        return CUDA_ERROR_INVALID_VALUE;
    }
}

FDC_TWINS(cuStreamGetAttribute, _ptsz,
          (CUstream hStream, CUstreamAttrID attr, CUstreamAttrValue *value),
          get(hStream, attr, value, how))

/* Others than a stream has are not sent: some hold handles. */
static bool
has(CUstreamAttrID attr)
{
    return (int)attr == CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW ||
           (int)attr == CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY ||
           (int)attr == CU_LAUNCH_ATTRIBUTE_PRIORITY ||
           (int)attr == CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN_MAP ||
           (int)attr == CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN;
}

static void
remember(struct fdc_stream *stream, CUstreamAttrID attr, const CUstreamAttrValue *value)
{
    const struct fdc_snapshot_device *snapshot = stream->object.context->device->snapshot;
    int priority = value->priority;

    switch ((int)attr) {
    case CU_LAUNCH_ATTRIBUTE_ACCESS_POLICY_WINDOW:
        stream->attr.window = value->accessPolicyWindow;
        break;
    case CU_LAUNCH_ATTRIBUTE_SYNCHRONIZATION_POLICY:
        stream->attr.policy = value->syncPolicy;
        break;
    case CU_LAUNCH_ATTRIBUTE_PRIORITY:
        if (priority > snapshot->priority_low)
            priority = snapshot->priority_low;
        if (priority < snapshot->priority_high)
            priority = snapshot->priority_high;
        stream->priority = priority;
        break;
    case CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN_MAP:
        stream->attr.map = value->memSyncDomainMap;
        break;
    default:
        stream->attr.domain = value->memSyncDomain;
        break;
    }
}

static CUresult
set(CUstream hStream, CUstreamAttrID attr, const CUstreamAttrValue *value, unsigned how)
{
    struct fdc_req_cuStreamSetAttribute *req;
    struct fdc_stream *stream;
    struct fdc_reply reply;
    struct fdc_call call;
    CUresult result;

    result = fdc_call_open(&call, FDC_ID_cuStreamSetAttribute, FDC_NEEDS_CONTEXT);
    if (result == CUDA_SUCCESS)
        result = fdc_stream_resolve(&call, hStream, how & ~FDC_STREAM_WORK, &stream);
    if (result != CUDA_SUCCESS)
        return result;
    if (value == NULL || !has(attr))
        return CUDA_ERROR_INVALID_VALUE;
    call.context = stream->object.context;
    req = fdc_call_begin(&call, sizeof(*req));
    if (req == NULL)
        return call.result;
    req->hStream = fdc_stream_wire(stream);
    req->attr = (uint32_t)attr;
    req->value = *value;
    result = fdc_call_wait(&call, &reply, sizeof(reply));
    if (result == CUDA_SUCCESS)
        remember(stream, attr, value);
    return result;
}

FDC_TWINS(cuStreamSetAttribute, _ptsz,
          (CUstream hStream, CUstreamAttrID attr, const CUstreamAttrValue *value),
          set(hStream, attr, value, how))

static CUresult
copy(CUstream to, CUstream from, unsigned how)
{
    struct fdc_req_cuStreamCopyAttributes *req;
    struct fdc_stream *dst, *src;
    struct fdc_reply reply;
    struct fdc_call call;
    CUresult result;

    how &= ~FDC_STREAM_WORK;
    result = fdc_call_open(&call, FDC_ID_cuStreamCopyAttributes, FDC_NEEDS_CONTEXT);
    if (result == CUDA_SUCCESS)
        result = fdc_stream_resolve(&call, to, how, &dst);
    if (result == CUDA_SUCCESS)
        result = fdc_stream_resolve(&call, from, how, &src);
    if (result != CUDA_SUCCESS)
        return result;
    if (dst->object.context != src->object.context)
        return CUDA_ERROR_INVALID_VALUE;
    call.context = dst->object.context;
    req = fdc_call_begin(&call, sizeof(*req));
    if (req == NULL)
        return call.result;
    req->dst = fdc_stream_wire(dst);
    req->src = fdc_stream_wire(src);
    result = fdc_call_wait(&call, &reply, sizeof(reply));
    if (result == CUDA_SUCCESS) {
        dst->attr = src->attr;
        dst->priority = src->priority;
    }
    return result;
}

FDC_TWINS(cuStreamCopyAttributes, _ptsz, (CUstream dst, CUstream src),
          copy(dst, src, how))
