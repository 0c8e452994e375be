/* libucp, opened at run time: what the rdma road calls it through. */
#ifndef FDC_TRANSPORT_UCX_H
#define FDC_TRANSPORT_UCX_H

#include <stdbool.h>

#include "ucx_abi.h"

struct ucx {
    void *library;
    const char *(*status_string)(ucx_status status);
#define UCX_MEMBER(result, name, arguments) result(*name) arguments;
    UCX_FUNCTIONS(UCX_MEMBER)
#undef UCX_MEMBER
};

/*
 * Opens FD_UCX_LIB, or libucp.so.0 of the machine, and makes a context. 0, -ELIBACC (no
 * such library, or not one of ours), or another -errno; why says it in words. local: the
 * other side is on this machine, and nobody else needs to reach us.
 */
int ucx_open(struct ucx *ucx, struct ucx_context **context, bool local, char *why,
             size_t room);

#endif
