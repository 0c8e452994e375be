/*
 * The linker: collects PTX, and gives out a file of our own that holds it and that the
 * loader here reads back. The linking itself happens when it is loaded; it is tried
 * once in cuLinkComplete so that mistakes show where programs look for them.
 */
#include <stdlib.h>
#include <string.h>

#include "cpudev.h"

struct link {
    uint64_t handle;
    struct fdcpu_ctx *ctx;
    struct fdcpu_image image;
    struct fdcpu_jit jit;
    void *file;
    char **names;
    int nnames;
};

FDC_EXPORT CUresult
cuLinkCreate_v2(unsigned int numOptions, CUjit_option *options, void **optionValues,
                CUlinkState *stateOut)
{
    struct fdcpu_ctx *ctx;
    struct link *link;
    CUresult result = fdcpu_enter(&ctx);

    if (result != CUDA_SUCCESS)
        return result;
    if (stateOut == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    link = calloc(1, sizeof(*link));
    if (link == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    link->ctx = ctx;
    fdcpu_jit_read(&link->jit, numOptions, options, optionValues);
    link->handle = fdcpu_handle_new(FDCPU_H_LINK, link);
    if (link->handle == 0) {
        free(link);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    *stateOut = (CUlinkState)(uintptr_t)link->handle;
    return CUDA_SUCCESS;
}

/* Keeps a name as long as the link lives: texts point to it. */
static const char *
keep(struct link *link, const char *name)
{
    char **more = realloc(link->names, (size_t)(link->nnames + 1) * sizeof(*more));
    char *copy = strdup(name);

    if (more != NULL)
        link->names = more;
    if (more == NULL || copy == NULL) {
        free(copy);
        return "input";
    }
    link->names[link->nnames++] = copy;
    return copy;
}

FDC_EXPORT CUresult
cuLinkAddData_v2(CUlinkState state, CUjitInputType type, void *data, size_t size,
                 const char *name, unsigned int numOptions, CUjit_option *options,
                 void **optionValues)
{
    struct link *link = FDCPU_GET(FDCPU_H_LINK, state);
    CUresult result = fdcpu_check();

    (void)numOptions;
    (void)options;
    (void)optionValues;
    if (result != CUDA_SUCCESS)
        return result;
    if (link == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    return fdcpu_image_add(&link->image, (int)type, data, size,
                           name == NULL ? "input" : keep(link, name));
}

FDC_EXPORT CUresult
cuLinkAddFile_v2(CUlinkState state, CUjitInputType type, const char *path,
                 unsigned int numOptions, CUjit_option *options, void **optionValues)
{
    CUresult result = fdcpu_check();
    size_t size;
    void *bytes;

    if (result != CUDA_SUCCESS)
        return result;
    if (path == NULL)
        return CUDA_ERROR_INVALID_VALUE;
    bytes = fdcpu_file_read(path, &size, &result);
    if (bytes == NULL)
        return result;
    result = cuLinkAddData_v2(state, type, bytes, size, path, numOptions, options,
                              optionValues);
    free(bytes);
    return result;
}

FDC_EXPORT CUresult
cuLinkComplete(CUlinkState state, void **cubinOut, size_t *sizeOut)
{
    struct link *link = FDCPU_GET(FDCPU_H_LINK, state);
    struct fdcpu_module_obj *trial;
    CUresult result = fdcpu_check();
    size_t size;

    if (result != CUDA_SUCCESS)
        return result;
    if (link == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    if (link->image.ntexts == 0)
        return CUDA_ERROR_INVALID_VALUE;
    result = fdcpu_module_make(link->ctx, &link->image, &link->jit.log, &trial);
    fdcpu_jit_write(&link->jit);
    if (result != CUDA_SUCCESS)
        return result;
    fdcpu_module_free(trial);
    free(link->file);
    link->file = fdcpu_image_pack(&link->image, &size);
    if (link->file == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    if (cubinOut != NULL)
        *cubinOut = link->file;
    if (sizeOut != NULL)
        *sizeOut = size;
    return CUDA_SUCCESS;
}

FDC_EXPORT CUresult
cuLinkDestroy(CUlinkState state)
{
    struct link *link;
    CUresult result = fdcpu_check();

    if (result != CUDA_SUCCESS)
        return result;
    link = fdcpu_handle_drop(FDCPU_H_LINK, (uint64_t)(uintptr_t)state);
    if (link == NULL)
        return CUDA_ERROR_INVALID_HANDLE;
    fdcpu_image_close(&link->image);
    while (link->nnames > 0)
        free(link->names[--link->nnames]);
    free(link->names);
    free(link->file);
    free(link);
    return CUDA_SUCCESS;
}
