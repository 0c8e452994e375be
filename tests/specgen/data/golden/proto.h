/* made by csrc/specgen from csrc/spec/; do not edit */
/* Ids, and one request and one reply a call. The head comes first; spans say
 * where further bytes are in the message. FDC_PROTO_HASH is SHA-256 over all of
 * it: both ends must have the same. */
#ifndef FDC_PROTO_H
#define FDC_PROTO_H

#include "fdc/copy.h"
#include "fdc/cuda_abi.h"
#include "fdc/wire.h"

#define FDC_PROTO_HASH { \
    0x06, 0x5f, 0x71, 0xb4, 0xfb, 0x3e, 0x46, 0x1b, \
    0xde, 0x05, 0x2c, 0x6b, 0xbf, 0xfb, 0x4d, 0x59, \
    0x93, 0x9f, 0x38, 0x96, 0xfe, 0x11, 0x53, 0x55, \
    0x96, 0xbf, 0x98, 0xb8, 0x72, 0x40, 0x0f, 0x30 \
}

enum fdc_id {
    FDC_ID_cuStreamCreate = 0x0501,
    FDC_ID_cuMemsetD8Async = 0x0502,
    FDC_ID_cuModuleGetGlobal_v2 = 0x0503,
};

/* async */
struct fdc_req_cuStreamCreate {
    struct fdc_msg head;
    uint64_t phStream;
    uint32_t Flags;
    uint8_t pad0[4];
};
_Static_assert(sizeof(struct fdc_req_cuStreamCreate) == 48, "cuStreamCreate");
_Static_assert(offsetof(struct fdc_req_cuStreamCreate,
               phStream) == 32,
               "cuStreamCreate");
_Static_assert(offsetof(struct fdc_req_cuStreamCreate, Flags) == 40, "cuStreamCreate");

/* async */
struct fdc_req_cuMemsetD8Async {
    struct fdc_msg head;
    uint64_t dstDevice;
    uint8_t uc;
    uint8_t pad0[7];
    uint64_t N;
    uint64_t hStream;
};
_Static_assert(sizeof(struct fdc_req_cuMemsetD8Async) == 64, "cuMemsetD8Async");
_Static_assert(offsetof(struct fdc_req_cuMemsetD8Async,
               dstDevice) == 32,
               "cuMemsetD8Async");
_Static_assert(offsetof(struct fdc_req_cuMemsetD8Async, uc) == 40, "cuMemsetD8Async");
_Static_assert(offsetof(struct fdc_req_cuMemsetD8Async, N) == 48, "cuMemsetD8Async");
_Static_assert(offsetof(struct fdc_req_cuMemsetD8Async,
               hStream) == 56,
               "cuMemsetD8Async");

/* sync */
struct fdc_req_cuModuleGetGlobal_v2 {
    struct fdc_msg head;
    uint64_t hmod;
    struct fdc_span name;
};
_Static_assert(sizeof(struct fdc_req_cuModuleGetGlobal_v2) == 48, "cuModuleGetGlobal_v2");
_Static_assert(offsetof(struct fdc_req_cuModuleGetGlobal_v2,
               hmod) == 32,
               "cuModuleGetGlobal_v2");
_Static_assert(offsetof(struct fdc_req_cuModuleGetGlobal_v2,
               name) == 40,
               "cuModuleGetGlobal_v2");
struct fdc_rep_cuModuleGetGlobal_v2 {
    struct fdc_reply head;
    uint64_t dptr;
    uint64_t bytes;
};
_Static_assert(sizeof(struct fdc_rep_cuModuleGetGlobal_v2) == 48, "cuModuleGetGlobal_v2");
_Static_assert(offsetof(struct fdc_rep_cuModuleGetGlobal_v2,
               dptr) == 32,
               "cuModuleGetGlobal_v2");
_Static_assert(offsetof(struct fdc_rep_cuModuleGetGlobal_v2,
               bytes) == 40,
               "cuModuleGetGlobal_v2");


#endif
