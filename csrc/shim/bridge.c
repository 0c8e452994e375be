/*
 * Gates, and one server's stream that waits for another's event. Neither worker knows of
 * the other, so the client stands between them: the stream stands still at its gate, which
 * opens once the first worker has told that the event is over. Nobody who calls waits; a
 * service thread takes the notice in and opens.
 *
 * At a gate the stream waits for the value of a word that the other worker has, so nothing
 * of that driver's but the stream itself is held up. The client names words and values: a
 * word is taken for one gate, with the next value, and free again when that is told. Where
 * the driver has no such waits, or the words are all taken, a host function stands still
 * instead, and with it all others of that worker.
 */
#include "process.h"

#include <stdlib.h>

/* The words of a session: its contexts have one set each, but a word that is taken is so in
 * all of them. */
struct fdc_gate_words {
    pthread_mutex_t lock;
    uint32_t fresh;      /* from here on they were never used; 0 never is */
    uint32_t free;       /* the first free one before, 0: none */
    uint32_t next[FDC_GATE_WORDS];
    uint32_t value[FDC_GATE_WORDS]; /* of the last gate */
};

struct fdc_gate {
    struct fdc_session *session;
    uint32_t context;    /* its index */
    uint32_t word;       /* 0: a host function stands still */
    uint32_t value;
    void (*arrived)(void *user, CUresult result); /* or NULL */
    void *user;
    struct fdc_ticket ticket; /* word: the stream has got there */
    uint64_t number;     /* of what the service thread runs then */
    uint32_t state;      /* host function: what has come, atomic */
};

enum { ARRIVED = 1, OPEN = 2 };

/* ---- words ---- */

void
fdc_gate_setup(struct fdc_context *context)
{
    struct fdc_session *session = context->object.session;
    struct fdc_call call = {.session = session, .context = context, .id = FDC_ID_fdcGateWords};
    struct fdc_gate_words *words, *none = NULL;
    struct fdc_reply reply;

    context->gates = false;
    if (session->gate_words == NULL) {
        words = calloc(1, sizeof(*words));
        if (words == NULL)
            return;
        pthread_mutex_init(&words->lock, NULL);
        words->fresh = 1;
        if (!__atomic_compare_exchange_n(&session->gate_words, &none, words, false,
                                         __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
            free(words);
    }
    if (fdc_call_begin(&call, sizeof(struct fdc_req_fdcGateWords)) == NULL)
        return;
    call.msg->ctx = FDC_HANDLE_INDEX(context->object.handle); /* no call names it yet */
    if (fdc_call_wait(&call, &reply, sizeof(reply)) == CUDA_SUCCESS)
        context->gates = true;
    else
        fdc_log(FDC_LOG_INFO, "streams of %s wait for other servers in host functions",
                session->server);
}

/* 0: there is none. */
static uint32_t
word_take(struct fdc_session *session, uint32_t *value)
{
    struct fdc_gate_words *words =
        __atomic_load_n(&session->gate_words, __ATOMIC_ACQUIRE);
    uint32_t word;

    pthread_mutex_lock(&words->lock);
    word = words->free;
    if (word != 0)
        words->free = words->next[word];
    else if (words->fresh < FDC_GATE_WORDS)
        word = words->fresh++;
    if (word != 0)
        *value = ++words->value[word];
    pthread_mutex_unlock(&words->lock);
    return word;
}

static void
word_give(struct fdc_session *session, uint32_t word)
{
    struct fdc_gate_words *words = session->gate_words;

    pthread_mutex_lock(&words->lock);
    words->next[word] = words->free;
    words->free = word;
    pthread_mutex_unlock(&words->lock);
}

/* ---- gates ---- */

/* Of a host function: who comes second, the stream or the opening, lets it go on. */
static void
come(struct fdc_gate *gate, uint32_t what)
{
    if (__atomic_fetch_or(&gate->state, what, __ATOMIC_ACQ_REL) == 0)
        return;
    fdc_hostfn_answer(gate->session, gate->number);
    free(gate);
}

/* In the service thread: the stream is there, or never will be. */
static void
there(void *user)
{
    struct fdc_gate *gate = user;
    bool host = gate->word == 0;

    if (gate->arrived != NULL)
        gate->arrived(gate->user, host ? CUDA_SUCCESS : (CUresult)gate->ticket.result);
    if (host)
        come(gate, ARRIVED);
}

/* Under intake. */
static void
told_there(struct fdc_ticket *ticket)
{
    struct fdc_gate *gate = ticket->user;

    fdc_ticket_release(gate->session, ticket);
    fdc_hostfn_due(gate->session, gate->number);
}

/* Nothing of it is left after a failure. */
static CUresult
stand_at_word(struct fdc_call *call, struct fdc_stream *stream, struct fdc_gate *gate)
{
    struct fdc_req_fdcGate *req;
    bool tell = gate->arrived != NULL;
    CUresult result = CUDA_SUCCESS;

    if (tell) {
        result = fdc_hostfn_quiet(gate->session, there, gate, &gate->number);
        if (result != CUDA_SUCCESS)
            return result;
        gate->ticket.on_done = told_there;
        gate->ticket.user = gate;
        result = fdc_ticket_take(gate->session, &gate->ticket);
        if (result != CUDA_SUCCESS)
            goto err_forget;
    }
    call->id = FDC_ID_fdcGate;
    call->context = stream->object.context;
    req = fdc_call_begin(call, sizeof(*req));
    if (req == NULL) {
        if (tell)
            fdc_ticket_release(gate->session, &gate->ticket);
        result = call->result;
        goto err_forget;
    }
    req->stream = fdc_stream_wire(stream);
    req->word = gate->word;
    req->value = gate->value;
    result = tell ? fdc_call_send_done(call, &gate->ticket) : fdc_call_send(call);
    fdc_link_flush(call->session->link, FDC_LANE_COMMAND);
    if (result == CUDA_SUCCESS)
        return CUDA_SUCCESS;

err_forget:
    if (tell)
        fdc_hostfn_forget(gate->session, gate->number);
    return result;
}

static CUresult
stand_in_function(struct fdc_call *call, struct fdc_stream *stream, struct fdc_gate *gate)
{
    CUresult result;

    result = fdc_hostfn_quiet(gate->session, there, gate, &gate->number);
    if (result != CUDA_SUCCESS)
        return result;
    result = fdc_hostfn_put(call, stream, gate->number);
    if (result != CUDA_SUCCESS)
        fdc_hostfn_forget(gate->session, gate->number);
    return result;
}

CUresult
fdc_gate_put(struct fdc_call *call, struct fdc_stream *stream,
             void (*arrived)(void *user, CUresult result), void *user,
             struct fdc_gate **made)
{
    struct fdc_context *context = stream->object.context;
    struct fdc_gate *gate = calloc(1, sizeof(*gate));
    CUresult result;

    if (gate == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    gate->session = call->session;
    gate->context = FDC_HANDLE_INDEX(context->object.handle);
    gate->arrived = arrived;
    gate->user = user;
    if (context->gates)
        gate->word = word_take(gate->session, &gate->value);
    *made = gate; /* before the stream can be there */
    if (gate->word == 0) {
        result = stand_in_function(call, stream, gate);
    } else {
        result = stand_at_word(call, stream, gate);
        if (result != CUDA_SUCCESS)
            word_give(gate->session, gate->word);
    }
    if (result != CUDA_SUCCESS) {
        *made = NULL;
        free(gate);
    }
    return result;
}

void
fdc_gate_open(struct fdc_gate *gate)
{
    struct fdc_msg msg = {
        .id = FDC_SIDE_GATE,
        .ctx = gate->context,
        .ticket = (uint64_t)gate->word << 32 | gate->value,
    };

    if (gate->word == 0) {
        come(gate, OPEN);
        return;
    }
    fdc_side_send(gate->session, &msg);
    word_give(gate->session, gate->word);
    free(gate);
}

void
fdc_gate_fail(struct fdc_gate *gate, uint16_t id, CUresult result)
{
    fdc_session_fail(gate->session, id, result);
}

/* ---- a stream waits for another server's event ---- */

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
        fdc_gate_fail(watch->gate, FDC_ID_cuStreamWaitEvent,
                      (CUresult)watch->ticket.result);
    fdc_gate_open(watch->gate);
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
    fdc_link_flush(call.session->link, FDC_LANE_COMMAND); /* the watch may be over */
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
    result = fdc_gate_put(call, stream, NULL, NULL, &watch->gate);
    if (result != CUDA_SUCCESS)
        goto err_forget;
    result = watch_send(watch, event);
    if (result == CUDA_SUCCESS)
        return CUDA_SUCCESS;
    fdc_gate_open(watch->gate); /* the stream must not stand still for ever */

err_forget:
    fdc_hostfn_forget(watch->session, watch->number);
err_free:
    free(watch);
    return result;
}
