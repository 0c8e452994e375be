/*
 * Texture references that a program makes by itself: what they are told is kept and can be
 * asked. Kernels see those of modules alone, which compilers since CUDA 12 no longer make;
 * they are refused. Public calls only; the CPU device has this file too.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_calls.h"
#include "fdc/base.h"

#define FLAGS                                                                          \
    (CU_TRSF_READ_AS_INTEGER | CU_TRSF_NORMALIZED_COORDINATES | CU_TRSF_SRGB |         \
     CU_TRSF_DISABLE_TRILINEAR_OPTIMIZATION | CU_TRSF_SEAMLESS_CUBEMAP)

struct texref {
    struct texref *next;
    CUdeviceptr address; /* one of three, or none */
    CUarray array;
    CUmipmappedArray mipmap;
    CUarray_format format;
    int channels;
    unsigned int flags, anisotropy;
    CUaddress_mode mode[3];
    CUfilter_mode filter, mipmap_filter;
    float bias, least, most, border[4];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct texref *all;

/* Locked if it succeeds. */
static CUresult
take(CUtexref handle, struct texref **ref)
{
    CUcontext current;
    CUresult result = cuCtxGetCurrent(&current);

    if (result != CUDA_SUCCESS)
        return result;
    pthread_mutex_lock(&lock);
    for (*ref = all; *ref != NULL; *ref = (*ref)->next)
        if ((CUtexref)*ref == handle)
            return CUDA_SUCCESS;
    pthread_mutex_unlock(&lock);
    return CUDA_ERROR_INVALID_HANDLE;
}

FDC_EXPORT CUresult
cuTexRefCreate(CUtexref *pTexRef)
{
    CUcontext current = NULL;
    CUresult result = cuCtxGetCurrent(&current);
    struct texref *ref;

    if (result != CUDA_SUCCESS)
        return result;
    if (current == NULL)
        return CUDA_ERROR_INVALID_CONTEXT;
    if (pTexRef == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    ref = calloc(1, sizeof(*ref));
    if (ref == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    ref->format = CU_AD_FORMAT_FLOAT;
    ref->channels = 1;
    pthread_mutex_lock(&lock);
    ref->next = all;
    all = ref;
    pthread_mutex_unlock(&lock);
    *pTexRef = (CUtexref)ref;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuTexRefDestroy(CUtexref hTexRef)
{
    struct texref *ref, **at;
    CUresult result = take(hTexRef, &ref);

    if (result != CUDA_SUCCESS)
        return result;
    for (at = &all; *at != ref; at = &(*at)->next)
        ;
    *at = ref->next;
    pthread_mutex_unlock(&lock);
    free(ref);
    return CUDA_SUCCESS;
}

/* A setting: told if the condition holds. */
#define SET(name, params, fits, change)                                                \
    FDC_EXPORT CUresult name params                                                    \
    {                                                                                  \
        struct texref *ref;                                                            \
        CUresult result = take(hTexRef, &ref);                                         \
                                                                                       \
        if (result != CUDA_SUCCESS)                                                    \
            return result;                                                             \
        if (fits)                                                                      \
            change;                                                                    \
        else                                                                           \
            result = CUDA_ERROR_INVALID_VALUE;                                         \
        pthread_mutex_unlock(&lock);                                                   \
        return result;                                                                 \
    }

/* A question: answered if the condition holds. */
#define GET(name, params, fits, answer) SET(name, params, fits, answer)

static bool
format_fits(CUarray_format format, int channels)
{
    return (channels == 1 || channels == 2 || channels == 4) &&
           ((format >= CU_AD_FORMAT_UNSIGNED_INT8 &&
             format <= CU_AD_FORMAT_UNSIGNED_INT32) ||
            (format >= CU_AD_FORMAT_SIGNED_INT8 &&
             format <= CU_AD_FORMAT_SIGNED_INT32) ||
            format == CU_AD_FORMAT_HALF || format == CU_AD_FORMAT_FLOAT);
}

SET(cuTexRefSetFormat, (CUtexref hTexRef, CUarray_format fmt, int NumPackedComponents),
    format_fits(fmt, NumPackedComponents),
    (ref->format = fmt, ref->channels = NumPackedComponents))
GET(cuTexRefGetFormat, (CUarray_format * pFormat, int *pNumChannels, CUtexref hTexRef),
    pFormat != NULL || pNumChannels != NULL,
    ((pFormat != NULL ? *pFormat = ref->format : 0),
     (pNumChannels != NULL ? *pNumChannels = ref->channels : 0)))
SET(cuTexRefSetFlags, (CUtexref hTexRef, unsigned int Flags),
    (Flags & ~(unsigned)FLAGS) == 0, ref->flags = Flags)
GET(cuTexRefGetFlags, (unsigned int *pFlags, CUtexref hTexRef), pFlags != NULL,
    *pFlags = ref->flags)
SET(cuTexRefSetAddressMode, (CUtexref hTexRef, int dim, CUaddress_mode am),
    dim >= 0 && dim < 3 && (unsigned)am <= CU_TR_ADDRESS_MODE_BORDER,
    ref->mode[dim] = am)
GET(cuTexRefGetAddressMode, (CUaddress_mode * pam, CUtexref hTexRef, int dim),
    pam != NULL && dim >= 0 && dim < 3, *pam = ref->mode[dim])
SET(cuTexRefSetFilterMode, (CUtexref hTexRef, CUfilter_mode fm),
    (unsigned)fm <= CU_TR_FILTER_MODE_LINEAR, ref->filter = fm)
GET(cuTexRefGetFilterMode, (CUfilter_mode * pfm, CUtexref hTexRef), pfm != NULL,
    *pfm = ref->filter)
SET(cuTexRefSetMipmapFilterMode, (CUtexref hTexRef, CUfilter_mode fm),
    (unsigned)fm <= CU_TR_FILTER_MODE_LINEAR, ref->mipmap_filter = fm)
GET(cuTexRefGetMipmapFilterMode, (CUfilter_mode * pfm, CUtexref hTexRef), pfm != NULL,
    *pfm = ref->mipmap_filter)
SET(cuTexRefSetMipmapLevelBias, (CUtexref hTexRef, float bias), true, ref->bias = bias)
GET(cuTexRefGetMipmapLevelBias, (float *pbias, CUtexref hTexRef), pbias != NULL,
    *pbias = ref->bias)
SET(cuTexRefSetMipmapLevelClamp,
    (CUtexref hTexRef, float minMipmapLevelClamp, float maxMipmapLevelClamp), true,
    (ref->least = minMipmapLevelClamp, ref->most = maxMipmapLevelClamp))
GET(cuTexRefGetMipmapLevelClamp,
    (float *pminMipmapLevelClamp, float *pmaxMipmapLevelClamp, CUtexref hTexRef),
    pminMipmapLevelClamp != NULL && pmaxMipmapLevelClamp != NULL,
    (*pminMipmapLevelClamp = ref->least, *pmaxMipmapLevelClamp = ref->most))
SET(cuTexRefSetMaxAnisotropy, (CUtexref hTexRef, unsigned int maxAniso), true,
    ref->anisotropy = maxAniso)
GET(cuTexRefGetMaxAnisotropy, (int *pmaxAniso, CUtexref hTexRef), pmaxAniso != NULL,
    *pmaxAniso = (int)ref->anisotropy)
SET(cuTexRefSetBorderColor, (CUtexref hTexRef, float *pBorderColor),
    pBorderColor != NULL, memcpy(ref->border, pBorderColor, sizeof(ref->border)))
GET(cuTexRefGetBorderColor, (float *pBorderColor, CUtexref hTexRef),
    pBorderColor != NULL, memcpy(pBorderColor, ref->border, sizeof(ref->border)))

/* ---- what it reads ---- */

static bool
device_memory(CUdeviceptr at)
{
    unsigned int type = 0;

    return cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, at) ==
               CUDA_SUCCESS &&
           type == CU_MEMORYTYPE_DEVICE;
}

static unsigned int
granule(CUdevice_attribute which)
{
    CUdevice device;
    int value = 0;

    if (cuCtxGetDevice(&device) != CUDA_SUCCESS ||
        cuDeviceGetAttribute(&value, which, device) != CUDA_SUCCESS || value < 1)
        return 1;
    return (unsigned)value;
}

/* It reads one thing at a time. Address 0: nothing. */
static void
bind(struct texref *ref, CUdeviceptr address, CUarray array, CUmipmappedArray mipmap)
{
    ref->address = address;
    ref->array = array;
    ref->mipmap = mipmap;
}

FDC_EXPORT CUresult
cuTexRefSetAddress_v2(size_t *ByteOffset, CUtexref hTexRef, CUdeviceptr dptr,
                      size_t bytes)
{
    size_t over = dptr % granule(CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT);
    struct texref *ref;
    CUresult result;

    if (dptr != 0 && bytes != 0 && !device_memory(dptr))
        return CUDA_ERROR_INVALID_VALUE;
    result = take(hTexRef, &ref);
    if (result != CUDA_SUCCESS)
        return result;
    if (over != 0 && ByteOffset == NULL) {
        result = CUDA_ERROR_INVALID_VALUE;
    } else {
        bind(ref, dptr - over, NULL, NULL);
        if (ByteOffset != NULL)
            *ByteOffset = over;
    }
    pthread_mutex_unlock(&lock);
    return result;
}

FDC_EXPORT CUresult
cuTexRefSetAddress2D_v3(CUtexref hTexRef, const CUDA_ARRAY_DESCRIPTOR *desc,
                        CUdeviceptr dptr, size_t Pitch)
{
    struct texref *ref;
    CUresult result;

    if (desc == NULL || !format_fits(desc->Format, (int)desc->NumChannels) ||
        !device_memory(dptr) ||
        dptr % granule(CU_DEVICE_ATTRIBUTE_TEXTURE_ALIGNMENT) != 0 ||
        Pitch % granule(CU_DEVICE_ATTRIBUTE_TEXTURE_PITCH_ALIGNMENT) != 0)
        return CUDA_ERROR_INVALID_VALUE;
    result = take(hTexRef, &ref);
    if (result != CUDA_SUCCESS)
        return result;
    bind(ref, dptr, NULL, NULL);
    ref->format = desc->Format;
    ref->channels = (int)desc->NumChannels;
    pthread_mutex_unlock(&lock);
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuTexRefSetAddress2D_v2(CUtexref hTexRef, const CUDA_ARRAY_DESCRIPTOR *desc,
                        CUdeviceptr dptr, size_t Pitch)
{
    return cuTexRefSetAddress2D_v3(hTexRef, desc, dptr, Pitch);
}

/* It reads this array, or this mipmap, whose levels are like the array. */
static CUresult
set_array(CUtexref handle, CUarray like, CUarray array, CUmipmappedArray mipmap,
          unsigned int flags)
{
    CUDA_ARRAY3D_DESCRIPTOR desc;
    struct texref *ref;
    CUresult result = cuArray3DGetDescriptor_v2(&desc, like);

    if (result != CUDA_SUCCESS)
        return result;
    if (flags != CU_TRSA_OVERRIDE_FORMAT)
        return CUDA_ERROR_INVALID_VALUE;
    result = take(handle, &ref);
    if (result != CUDA_SUCCESS)
        return result;
    bind(ref, 0, array, mipmap);
    ref->format = desc.Format;
    ref->channels = (int)desc.NumChannels;
    pthread_mutex_unlock(&lock);
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuTexRefSetArray(CUtexref hTexRef, CUarray hArray, unsigned int Flags)
{
    return set_array(hTexRef, hArray, hArray, NULL, Flags);
}

FDC_EXPORT CUresult
cuTexRefSetMipmappedArray(CUtexref hTexRef, CUmipmappedArray hMipmappedArray,
                          unsigned int Flags)
{
    CUarray level;
    CUresult result = cuMipmappedArrayGetLevel(&level, hMipmappedArray, 0);

    return result != CUDA_SUCCESS
               ? result
               : set_array(hTexRef, level, NULL, hMipmappedArray, Flags);
}

GET(cuTexRefGetAddress_v2, (CUdeviceptr * pdptr, CUtexref hTexRef),
    pdptr != NULL && ref->address != 0, *pdptr = ref->address)
GET(cuTexRefGetArray, (CUarray * phArray, CUtexref hTexRef),
    phArray != NULL && ref->array != NULL, *phArray = ref->array)
GET(cuTexRefGetMipmappedArray, (CUmipmappedArray * phMipmappedArray, CUtexref hTexRef),
    phMipmappedArray != NULL && ref->mipmap != NULL, *phMipmappedArray = ref->mipmap)
