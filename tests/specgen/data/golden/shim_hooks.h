/* made by csrc/specgen from csrc/spec/; do not edit */
/* before: may change the arguments; anything but 0 is returned at once. after: gives
 * the call's result; rep is NULL unless the call succeeded. */
#ifndef FDC_SHIM_HOOKS_H
#define FDC_SHIM_HOOKS_H

#include "shim/shim.h"

CUresult fdc_shim_after_cuModuleGetGlobal_v2(struct fdc_call *call, CUdeviceptr *dptr,
                                        size_t *bytes, CUmodule hmod, const char *name,
                                        CUresult result,
                                        const struct fdc_rep_cuModuleGetGlobal_v2 *rep);

#endif
