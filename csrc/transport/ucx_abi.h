/*
 * The part of the UCX interface (libucp) that the rdma road uses, as its documentation
 * describes it: so that no UCX is needed to build. tests/csrc/transport/ucx_abi.c compares
 * every size, offset and number with the installed ucp.h, where there is one.
 *
 * Every structure that is handed over begins with a mask of the fields that are set; the
 * library reads no others. So the beginnings of structures that have grown since are enough,
 * and those of 1.13 are right for all later versions.
 */
#ifndef FDC_TRANSPORT_UCX_ABI_H
#define FDC_TRANSPORT_UCX_ABI_H

#include <stddef.h>
#include <stdint.h>

enum { UCX_API_MAJOR = 1, UCX_API_MINOR = 10 }; /* the oldest with all of this */

/* A packed enumeration: one byte, also as a result. */
typedef int8_t ucx_status;
enum {
    UCX_OK = 0,
    UCX_INPROGRESS = 1,
    UCX_UNREACHABLE = -6,
    UCX_BUSY = -15,
    UCX_STATUS_LAST = -100,
};

/* NULL: done; a request; or a status in the last hundred addresses. */
typedef void *ucx_pending;
#define UCX_IS_ERROR(pending) ((uintptr_t)(pending) >= (uintptr_t)UCX_STATUS_LAST)
#define UCX_STATUS_OF(pending) ((ucx_status)(intptr_t)(pending))

struct ucx_context;
struct ucx_config;
struct ucx_worker;
struct ucx_ep;
struct ucx_mem;
struct ucx_rkey;

enum { UCX_PARAM_FEATURES = 1 << 0 };
enum {
    UCX_FEATURE_RMA = 1 << 1,
    UCX_FEATURE_WAKEUP = 1 << 4,
    UCX_FEATURE_AM = 1 << 6,
};
struct ucx_params {
    uint64_t mask, features;
};

enum { UCX_WORKER_PARAM_THREAD_MODE = 1 << 0, UCX_THREAD_MODE_SERIALIZED = 1 };
struct ucx_worker_params {
    uint64_t mask;
    int thread_mode;
};

enum {
    UCX_EP_PARAM_ADDRESS = 1 << 0,
    UCX_EP_PARAM_ERR_MODE = 1 << 1,
    UCX_EP_PARAM_ERR_HANDLER = 1 << 2,
    UCX_ERR_MODE_PEER = 1,
};
struct ucx_ep_params {
    uint64_t mask;
    const void *address;
    int err_mode;
    struct {
        void (*cb)(void *arg, struct ucx_ep *ep, ucx_status status);
        void *arg;
    } err_handler;
};

enum {
    UCX_MEM_ADDRESS = 1 << 0,
    UCX_MEM_LENGTH = 1 << 1,
    UCX_MEM_PROT = 1 << 3,
    UCX_PROT_LOCAL_READ = 1 << 0,
    UCX_PROT_LOCAL_WRITE = 1 << 1,
    UCX_PROT_REMOTE_WRITE = 1 << 9,
};
struct ucx_mem_params {
    uint64_t mask;
    void *address;
    size_t length;
    unsigned flags, prot;
};

enum {
    UCX_OP_CALLBACK = 1 << 1,
    UCX_OP_USER_DATA = 1 << 2,
    UCX_OP_FLAGS = 1 << 4,
    UCX_OP_MEMH = 1 << 8,
    UCX_AM_SEND_EAGER = 1 << 1,
    UCX_EP_CLOSE_FORCE = 1 << 0,
};
struct ucx_op {
    uint32_t mask, flags;
    void *request;
    void (*cb)(void *request, ucx_status status, void *user_data);
    uint64_t datatype;
    void *user_data, *reply_buffer;
    int memory_type;
    void *recv_info;
    struct ucx_mem *memh;
};

enum {
    UCX_AM_ID = 1 << 0,
    UCX_AM_FLAGS = 1 << 1,
    UCX_AM_CB = 1 << 2,
    UCX_AM_ARG = 1 << 3,
    UCX_AM_WHOLE = 1 << 0,      /* a flag of the handler */
    UCX_AM_RECV_RNDV = 1 << 17, /* of what has arrived: only announced */
};
struct ucx_am_recv {
    uint64_t attributes;
    struct ucx_ep *reply_ep;
};
typedef ucx_status (*ucx_am_handler)(void *arg, const void *header, size_t header_size,
                                     void *data, size_t size,
                                     const struct ucx_am_recv *recv);
struct ucx_am_params {
    uint64_t mask;
    unsigned id;
    uint32_t flags;
    ucx_am_handler cb;
    void *arg;
};

/* What is called: result, name, arguments. */
#define UCX_FUNCTIONS(X)                                                               \
    X(const char *, get_version_string, (void))                                        \
    X(ucx_status, config_read, (const char *, const char *, struct ucx_config **))     \
    X(ucx_status, config_modify, (struct ucx_config *, const char *, const char *))    \
    X(void, config_release, (struct ucx_config *))                                     \
    X(ucx_status, init_version,                                                        \
      (unsigned, unsigned, const struct ucx_params *, const struct ucx_config *,       \
       struct ucx_context **))                                                         \
    X(void, cleanup, (struct ucx_context *))                                           \
    X(ucx_status, worker_create,                                                       \
      (struct ucx_context *, const struct ucx_worker_params *, struct ucx_worker **))  \
    X(void, worker_destroy, (struct ucx_worker *))                                     \
    X(ucx_status, worker_get_address, (struct ucx_worker *, void **, size_t *))        \
    X(void, worker_release_address, (struct ucx_worker *, void *))                     \
    X(unsigned, worker_progress, (struct ucx_worker *))                                \
    X(ucx_status, worker_get_efd, (struct ucx_worker *, int *))                        \
    X(ucx_status, worker_arm, (struct ucx_worker *))                                   \
    X(ucx_status, worker_set_am_recv_handler,                                          \
      (struct ucx_worker *, const struct ucx_am_params *))                             \
    X(ucx_status, ep_create,                                                           \
      (struct ucx_worker *, const struct ucx_ep_params *, struct ucx_ep **))           \
    X(ucx_pending, ep_close_nbx, (struct ucx_ep *, const struct ucx_op *))             \
    X(ucx_pending, ep_flush_nbx, (struct ucx_ep *, const struct ucx_op *))             \
    X(ucx_status, mem_map,                                                             \
      (struct ucx_context *, const struct ucx_mem_params *, struct ucx_mem **))        \
    X(ucx_status, mem_unmap, (struct ucx_context *, struct ucx_mem *))                 \
    X(ucx_status, rkey_pack,                                                           \
      (struct ucx_context *, struct ucx_mem *, void **, size_t *))                     \
    X(void, rkey_buffer_release, (void *))                                             \
    X(ucx_status, ep_rkey_unpack, (struct ucx_ep *, const void *, struct ucx_rkey **)) \
    X(void, rkey_destroy, (struct ucx_rkey *))                                         \
    X(ucx_pending, am_send_nbx,                                                        \
      (struct ucx_ep *, unsigned, const void *, size_t, const void *, size_t,          \
       const struct ucx_op *))                                                         \
    X(ucx_pending, put_nbx,                                                            \
      (struct ucx_ep *, const void *, size_t, uint64_t, struct ucx_rkey *,             \
       const struct ucx_op *))                                                         \
    X(ucx_status, request_check_status, (void *))                                      \
    X(void, request_free, (void *))

#endif
