/* csrc/transport/ucx_abi.h against the ucp.h of this machine; skipped where there is none. */
#include "check.h"

#if __has_include(<ucp/api/ucp.h>)

#include <ucp/api/ucp.h>

#include "transport/ucx_abi.h"

#define SAME(ours, theirs)                                                             \
    _Static_assert((uint64_t)(ours) == (uint64_t)(theirs), #ours " is not " #theirs)
#define FIELD(our_type, our_field, their_type, their_field)                            \
    SAME(offsetof(struct our_type, our_field), offsetof(their_type, their_field));     \
    SAME(sizeof(((struct our_type *)0)->our_field),                                    \
         sizeof(((their_type *)0)->their_field))

SAME(sizeof(ucx_status), sizeof(ucs_status_t));
SAME(UCX_OK, UCS_OK);
SAME(UCX_INPROGRESS, UCS_INPROGRESS);
SAME(UCX_UNREACHABLE, UCS_ERR_UNREACHABLE);
SAME(UCX_BUSY, UCS_ERR_BUSY);
SAME(UCX_STATUS_LAST, UCS_ERR_LAST);

SAME(UCX_PARAM_FEATURES, UCP_PARAM_FIELD_FEATURES);
SAME(UCX_FEATURE_RMA, UCP_FEATURE_RMA);
SAME(UCX_FEATURE_WAKEUP, UCP_FEATURE_WAKEUP);
SAME(UCX_FEATURE_AM, UCP_FEATURE_AM);
FIELD(ucx_params, mask, ucp_params_t, field_mask);
FIELD(ucx_params, features, ucp_params_t, features);

SAME(UCX_WORKER_PARAM_THREAD_MODE, UCP_WORKER_PARAM_FIELD_THREAD_MODE);
SAME(UCX_THREAD_MODE_SERIALIZED, UCS_THREAD_MODE_SERIALIZED);
FIELD(ucx_worker_params, mask, ucp_worker_params_t, field_mask);
FIELD(ucx_worker_params, thread_mode, ucp_worker_params_t, thread_mode);

SAME(UCX_EP_PARAM_ADDRESS, UCP_EP_PARAM_FIELD_REMOTE_ADDRESS);
SAME(UCX_EP_PARAM_ERR_MODE, UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE);
SAME(UCX_EP_PARAM_ERR_HANDLER, UCP_EP_PARAM_FIELD_ERR_HANDLER);
SAME(UCX_ERR_MODE_PEER, UCP_ERR_HANDLING_MODE_PEER);
FIELD(ucx_ep_params, mask, ucp_ep_params_t, field_mask);
FIELD(ucx_ep_params, address, ucp_ep_params_t, address);
FIELD(ucx_ep_params, err_mode, ucp_ep_params_t, err_mode);
FIELD(ucx_ep_params, err_handler, ucp_ep_params_t, err_handler);
FIELD(ucx_ep_params, err_handler.cb, ucp_ep_params_t, err_handler.cb);
FIELD(ucx_ep_params, err_handler.arg, ucp_ep_params_t, err_handler.arg);

SAME(UCX_MEM_ADDRESS, UCP_MEM_MAP_PARAM_FIELD_ADDRESS);
SAME(UCX_MEM_LENGTH, UCP_MEM_MAP_PARAM_FIELD_LENGTH);
SAME(UCX_MEM_PROT, UCP_MEM_MAP_PARAM_FIELD_PROT);
SAME(UCX_PROT_LOCAL_READ, UCP_MEM_MAP_PROT_LOCAL_READ);
SAME(UCX_PROT_LOCAL_WRITE, UCP_MEM_MAP_PROT_LOCAL_WRITE);
SAME(UCX_PROT_REMOTE_WRITE, UCP_MEM_MAP_PROT_REMOTE_WRITE);
FIELD(ucx_mem_params, mask, ucp_mem_map_params_t, field_mask);
FIELD(ucx_mem_params, address, ucp_mem_map_params_t, address);
FIELD(ucx_mem_params, length, ucp_mem_map_params_t, length);
FIELD(ucx_mem_params, flags, ucp_mem_map_params_t, flags);
FIELD(ucx_mem_params, prot, ucp_mem_map_params_t, prot);

SAME(UCX_OP_CALLBACK, UCP_OP_ATTR_FIELD_CALLBACK);
SAME(UCX_OP_USER_DATA, UCP_OP_ATTR_FIELD_USER_DATA);
SAME(UCX_OP_FLAGS, UCP_OP_ATTR_FIELD_FLAGS);
SAME(UCX_OP_MEMH, UCP_OP_ATTR_FIELD_MEMH);
SAME(UCX_AM_SEND_EAGER, UCP_AM_SEND_FLAG_EAGER);
SAME(UCX_EP_CLOSE_FORCE, UCP_EP_CLOSE_FLAG_FORCE);
FIELD(ucx_op, mask, ucp_request_param_t, op_attr_mask);
FIELD(ucx_op, flags, ucp_request_param_t, flags);
FIELD(ucx_op, cb, ucp_request_param_t, cb.send);
FIELD(ucx_op, user_data, ucp_request_param_t, user_data);
FIELD(ucx_op, memh, ucp_request_param_t, memh);

SAME(UCX_AM_ID, UCP_AM_HANDLER_PARAM_FIELD_ID);
SAME(UCX_AM_FLAGS, UCP_AM_HANDLER_PARAM_FIELD_FLAGS);
SAME(UCX_AM_CB, UCP_AM_HANDLER_PARAM_FIELD_CB);
SAME(UCX_AM_ARG, UCP_AM_HANDLER_PARAM_FIELD_ARG);
SAME(UCX_AM_WHOLE, UCP_AM_FLAG_WHOLE_MSG);
SAME(UCX_AM_RECV_RNDV, UCP_AM_RECV_ATTR_FLAG_RNDV);
FIELD(ucx_am_recv, attributes, ucp_am_recv_param_t, recv_attr);
FIELD(ucx_am_recv, reply_ep, ucp_am_recv_param_t, reply_ep);
FIELD(ucx_am_params, mask, ucp_am_handler_param_t, field_mask);
FIELD(ucx_am_params, id, ucp_am_handler_param_t, id);
FIELD(ucx_am_params, flags, ucp_am_handler_param_t, flags);
FIELD(ucx_am_params, cb, ucp_am_handler_param_t, cb);
FIELD(ucx_am_params, arg, ucp_am_handler_param_t, arg);

int
main(void)
{
    return 0; /* the compiler has looked */
}

#else

int
main(void)
{
    CHECK_SKIP("there is no ucp/api/ucp.h (libucx-dev)");
}

#endif
