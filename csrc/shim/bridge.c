/*
 * One server's stream waits for another's event. Neither worker knows of the other, so the
 * client stands between them: a host function makes the stream stand still at its gate,
 * and the gate opens once the first worker has told that the event is over. Nobody who
 * calls waits; the sessions' service threads take the two notices in.
 */
#include "process.h"

#include <stdlib.h>

/* A place where a stream stands still. Who comes second, the stream or the opening, lets
 * it go on and frees the gate. */
struct fdc_gate {
    struct fdc_session *session;
    uint64_t number; /* of the host function */
    uint32_t state;  /* atomic */
};

enum { ARRIVED = 1, OPEN = 2 };

static void
come(struct fdc_gate *gate, uint32_t what)
{
    if (__atomic_fetch_or(&gate->state, what, __ATOMIC_ACQ_REL) == 0)
        return;
    fdc_hostfn_answer(gate->session, gate->number);
    free(gate);
}

static void
arrived(void *user)
{
    come(user, ARRIVED);
}

/* A gate at the call's place in the stream. Nothing of it is left after a failure. */
static CUresult
gate_put(struct fdc_call *call, struct fdc_stream *stream, struct fdc_gate **made)
{
    struct fdc_gate *gate = calloc(1, sizeof(*gate));
    CUresult result;

    if (gate == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    gate->session = call->session;
    result = fdc_hostfn_quiet(gate->session, arrived, gate, &gate->number);
    if (result != CUDA_SUCCESS)
        goto err_free;
    result = fdc_hostfn_put(call, stream, gate->number);
    if (result != CUDA_SUCCESS)
        goto err_forget;
    *made = gate;
    return CUDA_SUCCESS;

err_forget:
    fdc_hostfn_forget(gate->session, gate->number);
err_free:
    free(gate);
    return result;
}

/* Waiting for an event without a thread that does. */
struct watch {
    struct fdc_ticket ticket;
    struct fdc_session *session; /* the event's */
    uint64_t number;             /* of what the service thread runs then */
    struct fdc_gate *gate;
};

/* Under intake. */
static void
told(struct fdc_ticket *ticket)
{
    struct watch *watch = ticket->user;

    fdc_ticket_release(watch->session, ticket);
    fdc_hostfn_due(watch->session, watch->number);
}

static void
over(void *user)
{
    struct watch *watch = user;

    /* What was waited for has not happened: the waiting side is told. */
    if (watch->ticket.result != CUDA_SUCCESS)
        fdc_session_fail(watch->gate->session, FDC_ID_cuStreamWaitEvent,
                         (CUresult)watch->ticket.result);
    come(watch->gate, OPEN);
    free(watch);
}

static CUresult
watch_send(struct watch *watch, struct fdc_event *event)
{
    struct fdc_req_cuEventSynchronize *req;
    struct fdc_call call;
    CUresult result;

    result = fdc_call_open_in(&call, watch->session, FDC_ID_cuEventSynchronize);
    if (result != CUDA_SUCCESS)
        return result;
    result = fdc_ticket_take(watch->session, &watch->ticket);
    if (result != CUDA_SUCCESS)
        return result;
    call.context = event->object.context;
    req = fdc_call_begin(&call, sizeof(*req));
    if (req == NULL) {
        fdc_ticket_release(watch->session, &watch->ticket);
        return call.result;
    }
    req->hEvent = event->object.handle;
    result = fdc_call_send_reply(&call, &watch->ticket);
    fdc_link_flush(watch->session->link, FDC_LANE_COMMAND);
    return result;
}

CUresult
fdc_bridge_wait(struct fdc_call *call, struct fdc_stream *stream,
                struct fdc_event *event)
{
    struct watch *watch = calloc(1, sizeof(*watch));
    CUresult result;

    if (watch == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    watch->session = event->object.session;
    watch->ticket.on_done = told;
    watch->ticket.user = watch;
    result = fdc_hostfn_quiet(watch->session, over, watch, &watch->number);
    if (result != CUDA_SUCCESS)
        goto err_free;
    result = gate_put(call, stream, &watch->gate);
    if (result != CUDA_SUCCESS)
        goto err_forget;
    result = watch_send(watch, event);
    if (result == CUDA_SUCCESS)
        return CUDA_SUCCESS;
    come(watch->gate, OPEN); /* the stream must not stand still for ever */

err_forget:
    fdc_hostfn_forget(watch->session, watch->number);
err_free:
    free(watch);
    return result;
}
