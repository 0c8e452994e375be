/*
 * Calls: how a message gets into the session's one order, and how threads wait for what
 * comes back. No thread of the shim's own is needed: of the threads that wait, one leads
 * (it sleeps on the reply lane and takes everything in), the others sleep until their word
 * changes or the lead is handed to them.
 */
#include "process.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SLOTS 65536u
#define SLOTS_WAITING 8192u /* kept for threads that wait for a reply, */
#define SLOTS_OWN 4096u     /* of which threads keep so many from wait to wait */
#define ROOM_WAIT_US 2000
#define PUBLIC 0x0200u /* ids below are of calls that no program makes */

struct fdc_slot {
    struct fdc_ticket *ticket; /* atomic */
    uint64_t sequence;         /* of tickets that it had; whoever has the slot counts */
    uint32_t next;
};

struct fdc_tickets {
    uint64_t free;     /* tag << 16 | first free slot, atomic */
    uint32_t fresh;    /* atomic */
    uint32_t own;      /* slots that threads keep, atomic */
    uint32_t done;     /* slots that DONE tickets have, atomic */
    uint32_t given;    /* counts slots coming back; what takers wait on */
    struct fdc_slot slot[SLOTS];
};

struct fdc_waiter {
    struct fdc_waiter *next;
    const uint32_t *word;
    uint32_t seen;
    uint32_t go; /* futex: look again */
};

/* ---- setting up ---- */

int
fdc_call_setup(struct fdc_session *session)
{
    pthread_mutex_init(&session->order, NULL);
    pthread_mutex_init(&session->intake, NULL);
    pthread_mutex_init(&session->waiters_lock, NULL);
    pthread_mutex_init(&session->capture_lock, NULL);
    pthread_mutex_init(&session->side, NULL);
    /* Much, of which little is touched. */
    session->tickets = calloc(1, sizeof(*session->tickets));
    if (session->tickets == NULL)
        return -ENOMEM;
    session->tickets->fresh = 1;
    return 0;
}

/* ---- tickets ---- */

static uint32_t
slot_pop(struct fdc_tickets *tickets)
{
    uint64_t head, next;
    uint32_t slot;

    head = __atomic_load_n(&tickets->free, __ATOMIC_ACQUIRE);
    while ((slot = (uint32_t)(head & 0xffff)) != 0) {
        next = ((head >> 16) + 1) << 16 | fdc_load_relaxed(&tickets->slot[slot].next);
        if (__atomic_compare_exchange_n(&tickets->free, &head, next, false,
                                        __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
            return slot;
    }
    slot = __atomic_load_n(&tickets->fresh, __ATOMIC_RELAXED);
    while (slot < SLOTS)
        if (__atomic_compare_exchange_n(&tickets->fresh, &slot, slot + 1, false,
                                        __ATOMIC_RELAXED, __ATOMIC_RELAXED))
            return slot;
    return 0;
}

static void
slot_push(struct fdc_tickets *tickets, uint32_t slot)
{
    uint64_t head, next;

    head = __atomic_load_n(&tickets->free, __ATOMIC_RELAXED);
    do {
        fdc_store_relaxed(&tickets->slot[slot].next, (uint32_t)(head & 0xffff));
        next = ((head >> 16) + 1) << 16 | slot;
    } while (!__atomic_compare_exchange_n(&tickets->free, &head, next, false,
                                          __ATOMIC_ACQ_REL, __ATOMIC_RELAXED));
}

/* The slot that this thread keeps for its waits, or 0: it is in use (a fault within a
 * wait), or too many threads have one. */
static uint32_t
own_slot(struct fdc_session *session)
{
    struct fdc_tickets *tickets = session->tickets;
    struct fdc_thread *self = fdc_thread_self();
    uint16_t *own = &self->slot[session->number];

    if (FDC_UNLIKELY(*own == 0)) {
        if (self == &fdc_process.spare) /* several threads' */
            return 0;
        if (__atomic_add_fetch(&tickets->own, 1, __ATOMIC_RELAXED) <= SLOTS_OWN)
            *own = (uint16_t)slot_pop(tickets);
        if (*own == 0)
            __atomic_sub_fetch(&tickets->own, 1, __ATOMIC_RELAXED);
    }
    return fdc_load_relaxed(&tickets->slot[*own].ticket) == NULL ? *own : 0;
}

void
fdc_tickets_thread_gone(struct fdc_thread *thread)
{
    struct fdc_session *session;

    for (int i = 0; i < FDC_SESSIONS && (session = fdc_session_at(i)) != NULL; i++) {
        uint32_t slot = thread->slot[i];

        thread->slot[i] = 0;
        if (slot == 0 || fdc_load_relaxed(&session->tickets->slot[slot].ticket) != NULL)
            continue;
        slot_push(session->tickets, slot);
        __atomic_sub_fetch(&session->tickets->own, 1, __ATOMIC_RELAXED);
    }
}

static bool
ticket_register(struct fdc_session *session, struct fdc_ticket *ticket, uint32_t slot)
{
    struct fdc_slot *of;

    ticket->kept = slot != 0;
    ticket->slot = slot != 0 ? slot : slot_pop(session->tickets);
    if (ticket->slot == 0)
        return false;
    of = &session->tickets->slot[ticket->slot];
    ticket->number = ++of->sequence << 16 | ticket->slot;
    ticket->done = 0;
    ticket->armed = 0;
    ticket->result = 0;
    ticket->size = 0;
    /* pairs with the acquire in ticket_at() */
    fdc_store_release(&of->ticket, ticket);
    return true;
}

/* Under intake. */
static struct fdc_ticket *
ticket_at(struct fdc_session *session, uint64_t number)
{
    /* pairs with the release in ticket_register() */
    struct fdc_ticket *ticket =
        fdc_load_acquire(&session->tickets->slot[number & 0xffff].ticket);

    return ticket != NULL && ticket->number == number ? ticket : NULL;
}

/* Under intake. A ticket without a reply is of the kind whose number is bounded. */
static void
ticket_unregister(struct fdc_session *session, struct fdc_ticket *ticket)
{
    uint32_t slot = ticket->slot;

    fdc_store_release(&session->tickets->slot[slot].ticket, NULL);
    if (ticket->kept)
        return;
    slot_push(session->tickets, slot);
    if (ticket->reply == NULL) {
        __atomic_sub_fetch(&session->tickets->done, 1, __ATOMIC_RELAXED);
        __atomic_add_fetch(&session->tickets->given, 1, __ATOMIC_RELEASE);
    }
}

/* Under intake: the ticket's time has come. It may be gone afterwards. */
static void
ticket_complete(struct fdc_session *session, struct fdc_ticket *ticket)
{
    struct fdc_thread *self = fdc_thread_self();

    /* pairs with the release in hostfn.c: who waited for a host function sees what it did,
     * though the news came by way of another process */
    (void)fdc_load_acquire(&session->host_done);
    ticket_unregister(session, ticket);
    if (ticket->on_done != NULL) {
        self->delivering = ticket;
        ticket->on_done(ticket);
        if (self->delivering == NULL)
            return;
        self->delivering = NULL;
    }
    /* pairs with the acquire in fdc_intake_until() */
    fdc_store_release(&ticket->done, 1);
}

CUresult
fdc_ticket_take(struct fdc_session *session, struct fdc_ticket *ticket)
{
    struct fdc_tickets *tickets = session->tickets;
    uint32_t seen;

    ticket->reply = NULL;
    for (;;) {
        seen = fdc_load_acquire(&tickets->given);
        if (__atomic_add_fetch(&tickets->done, 1, __ATOMIC_RELAXED) <
            SLOTS - SLOTS_WAITING) {
            if (ticket_register(session, ticket, 0))
                return CUDA_SUCCESS;
        }
        __atomic_sub_fetch(&tickets->done, 1, __ATOMIC_RELAXED);
        if (fdc_intake_until(session, &tickets->given, seen, -1) == -EPIPE)
            return (CUresult)fdc_load_relaxed(&session->dead);
    }
}

void
fdc_ticket_release(struct fdc_session *session, struct fdc_ticket *ticket)
{
    struct fdc_thread *self = fdc_thread_self();
    bool ours = self->delivering != NULL; /* in an on_done: intake is held */

    if (self->delivering == ticket) {
        self->delivering = NULL;
        return;
    }
    if (fdc_load_acquire(&ticket->done))
        return;
    if (!ours)
        pthread_mutex_lock(&session->intake);
    if (ticket_at(session, ticket->number) == ticket)
        ticket_unregister(session, ticket);
    if (!ours)
        pthread_mutex_unlock(&session->intake);
}

CUresult
fdc_ticket_wait(struct fdc_session *session, struct fdc_ticket *ticket)
{
    if (!fdc_load_acquire(&ticket->done)) {
        __atomic_add_fetch(&session->holds, 1, __ATOMIC_RELAXED);
        fdc_link_flush(session->link, FDC_LANE_COMMAND);
        if (fdc_intake_until(session, &ticket->done, 0, -1) == -EPIPE) {
            fdc_ticket_release(session, ticket);
            if (!fdc_load_acquire(&ticket->done))
                return (CUresult)fdc_load_relaxed(&session->dead);
        }
    }
    return (CUresult)ticket->result;
}

/* ---- taking replies in ---- */

/* Threads whose word has changed are told to look. */
static void
wake_changed(struct fdc_session *session, bool all)
{
    struct fdc_waiter *waiter;

    if (fdc_load_ordered(&session->waiting) == 0)
        return;
    pthread_mutex_lock(&session->waiters_lock);
    for (waiter = session->waiters; waiter != NULL; waiter = waiter->next)
        if (all || fdc_load_acquire(waiter->word) != waiter->seen) {
            fdc_store_release(&waiter->go, 1);
            fdc_futex_wake(&waiter->go, 1, false);
        }
    pthread_mutex_unlock(&session->waiters_lock);
}

/* Nobody leads and somebody waits: one of them shall. */
static void
hand_over(struct fdc_session *session)
{
    struct fdc_waiter *waiter;

    /* Under intake a waiter, who has said that he waits, sees whether somebody leads, and it
     * has been said that nobody does: either this sees the waiter, or he sees that. */
    if (fdc_load_ordered(&session->waiting) == 0 || fdc_load_ordered(&session->leader))
        return;
    pthread_mutex_lock(&session->waiters_lock);
    waiter = session->waiters;
    if (waiter != NULL) {
        fdc_store_release(&waiter->go, 1);
        fdc_futex_wake(&waiter->go, 1, false);
    }
    pthread_mutex_unlock(&session->waiters_lock);
}

/* Under intake: everything that waits, waits in vain. */
static void
fail_all(struct fdc_session *session)
{
    struct fdc_tickets *tickets = session->tickets;
    uint32_t slot, end = fdc_load_relaxed(&tickets->fresh);
    struct fdc_ticket *ticket;

    for (slot = 1; slot < end; slot++) {
        ticket = fdc_load_acquire(&tickets->slot[slot].ticket);
        /* pairs with the ordered store in send_ticket() */
        if (ticket == NULL || !fdc_load_ordered(&ticket->armed))
            continue;
        ticket->result = (int32_t)fdc_load_relaxed(&session->dead);
        ticket_complete(session, ticket);
    }
}

void
fdc_session_kill(struct fdc_session *session, const char *why)
{
    uint32_t dead = 0;

    if (!__atomic_compare_exchange_n(&session->dead, &dead,
                                     CUDA_ERROR_DEVICE_UNAVAILABLE, false,
                                     __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
        return;
    fdc_session_lost();
    fdc_log(FDC_LOG_ERROR, "session is over: %s", why);
    fdc_link_shutdown(session->link);
    pthread_mutex_lock(&session->intake);
    fail_all(session);
    pthread_mutex_unlock(&session->intake);
    wake_changed(session, true);
    fdc_link_poke(session->link, FDC_LANE_REPLY);
}

/* The worker's device has failed for good in this process. */
static void
device_lost(struct fdc_session *session, int remote, CUresult result)
{
    for (int i = 0; i < session->devices; i++)
        if (session->device[i].remote == remote &&
            fdc_load_relaxed(&session->device[i].lost) == 0 && fdc_result_is_final(result)) {
            fdc_log(FDC_LOG_WARN, "device %d is lost to this process: %s",
                    session->device[i].ordinal, fdc_result_name(result));
            fdc_store_relaxed(&session->device[i].lost, (int32_t)result);
        }
}

/* Under intake. 0, or -EPROTO, or -EPIPE after a goodbye. */
static int
take_in(struct fdc_session *session, const struct fdc_reply *reply, uint32_t size)
{
    struct fdc_ticket *ticket;
    struct fdc_reply head;

    if (size < sizeof(head))
        return -EPROTO;
    memcpy(&head, reply, sizeof(head));
    if (head.size > size)
        return -EPROTO;
    if (head.id == FDC_REPLY_HOST_FN) {
        fdc_hostfn_due(session, head.ticket);
        return 0;
    }
    if (head.id == FDC_REPLY_PRINT) {
        if (head.ticket > size - sizeof(head))
            return -EPROTO;
        if (fdc_print_keep(head.flags & FDC_PRINT_ERROR,
                           (const char *)reply + sizeof(head), head.ticket) != 0)
            fdc_log(FDC_LOG_ERROR, "no memory for what a kernel printed");
        return 0;
    }
    if (FDC_UNLIKELY(head.lost != 0))
        device_lost(session, head.lost - 1, head.lost_result);
    if (FDC_UNLIKELY(head.company != session->company))
        fdc_store_relaxed(&session->company, head.company);
    if (head.id == FDC_REPLY_NOTE)
        return 0;
    if (head.first_result != 0 && session->first_result == 0) {
        session->first_id = head.first_id;
        fdc_store_release(&session->first_result, head.first_result);
        fdc_log(FDC_LOG_WARN, "%s failed earlier: %s", fdc_call_name(head.first_id),
                fdc_result_name((CUresult)head.first_result));
    }
    if (head.id == FDC_REPLY_BYE) {
        fdc_log(FDC_LOG_ERROR, "the worker ends the session: %s",
                fdc_result_name((CUresult)head.result));
        return -EPIPE;
    }
    ticket = ticket_at(session, head.ticket);
    /* pairs with the ordered stores of armed: the worker, which told the one after the
     * other, is another process */
    if (ticket == NULL || !fdc_load_acquire(&ticket->armed)) {
        fdc_log(FDC_LOG_DEBUG, "reply without a ticket: id %u", head.id);
        return 0;
    }
    if (ticket->reply != NULL) {
        uint32_t room = head.size < ticket->room ? head.size : ticket->room;

        memcpy(ticket->reply, &head, room < sizeof(head) ? room : sizeof(head));
        if (room > sizeof(head))
            memcpy((char *)ticket->reply + sizeof(head),
                   (const char *)reply + sizeof(head), room - sizeof(head));
    }
    ticket->size = head.size;
    ticket->result = head.result;
    ticket->first_result = head.first_result;
    ticket->first_id = head.first_id;
    ticket_complete(session, ticket);
    return 0;
}

/* Under intake. Takes in all there is, until *word (if any) differs from seen: what is behind
 * that is the next leader's. A leader who finds nothing looks a few times more. How many, or
 * -EPROTO or -EPIPE: the session shall end. */
static int
take_all(struct fdc_session *session, const uint32_t *word, uint32_t seen)
{
    const struct fdc_reply *reply;
    int taken = 0, err = 0;
    uint32_t size;

    for (;;) {
        reply = fdc_link_peek(session->link, FDC_LANE_REPLY, &size, &err);
        if (reply == NULL && (err != 0 || taken > 0 || word == NULL ||
                              !fdc_link_quick(session->link, FDC_LANE_REPLY)))
            return err != 0 ? err : taken;
        if (reply == NULL)
            continue;
        err = take_in(session, reply, size);
        fdc_link_release(session->link, FDC_LANE_REPLY);
        if (FDC_UNLIKELY(err != 0))
            return err;
        taken++;
        if (word != NULL && fdc_load_acquire(word) != seen)
            return taken;
    }
}

static void
kill_for(struct fdc_session *session, int err)
{
    fdc_session_kill(session, err == -EPROTO ? "a reply that makes no sense"
                                             : "the worker has gone");
}

/* Takes in what there is, without waiting. */
static void
drain(struct fdc_session *session)
{
    int taken;

    pthread_mutex_lock(&session->intake);
    taken = take_all(session, NULL, 0);
    pthread_mutex_unlock(&session->intake);
    if (taken == 0)
        return;
    wake_changed(session, false); /* also of what came before an error */
    if (taken < 0)
        kill_for(session, taken);
    else if (fdc_load_ordered(&session->leader))
        fdc_link_poke(session->link, FDC_LANE_REPLY);
}

static int64_t
left_us(uint64_t until_ns)
{
    uint64_t now = fdc_now_ns();

    return until_ns > now ? (int64_t)((until_ns - now) / 1000) + 1 : 0;
}

/* Outside intake: what was taken in is told to those whom it concerns, and if there was
 * nothing it is waited for. */
static int
lead_on(struct fdc_session *session, int taken, const uint32_t *word, uint32_t seen,
        uint64_t until_ns)
{
    int64_t timeout_us = -1;
    int rc;

    if (taken != 0)
        wake_changed(session, false);
    if (taken < 0)
        kill_for(session, taken);
    fdc_print_out(false);
    if (fdc_load_acquire(word) != seen)
        return 0;
    if (fdc_load_relaxed(&session->dead))
        return -EPIPE;
    if (until_ns != 0) {
        timeout_us = left_us(until_ns);
        if (timeout_us == 0)
            return -ETIMEDOUT;
    }
    rc = fdc_link_wait_word(session->link, FDC_LANE_REPLY, word, seen, timeout_us);
    if (rc >= 0)
        return 0;
    drain(session); /* what came before the end still counts */
    fdc_session_kill(session, "the worker has gone");
    return fdc_load_acquire(word) != seen ? 0 : -EPIPE;
}

/* This thread leads: it takes in until its own word changes. Under intake, which is let go
 * while it waits. What it waits for is often about to come, and then this is all. */
static int
lead(struct fdc_session *session, const uint32_t *word, uint32_t seen,
     uint64_t until_ns)
{
    int err = 0, taken;

    while (fdc_load_acquire(word) == seen && err == 0) {
        taken = take_all(session, word, seen);
        if (FDC_LIKELY(taken > 0 && fdc_load_acquire(word) != seen &&
                       fdc_load_ordered(&session->waiting) == 0 &&
                       fdc_load_relaxed(&fdc_process.printing) == 0))
            break; /* there is nobody to tell */
        pthread_mutex_unlock(&session->intake);
        err = lead_on(session, taken, word, seen, until_ns);
        pthread_mutex_lock(&session->intake);
    }
    return err;
}

/* Becomes the leader, if nobody is, until its word changes. False: somebody leads. asked: the
 * worker has just been asked for what is waited for. */
static bool
try_lead(struct fdc_session *session, const uint32_t *word, uint32_t seen,
         uint64_t until_ns, bool asked, int *err)
{
    bool free;

    pthread_mutex_lock(&session->intake);
    free = fdc_load_relaxed(&session->leader) == 0;
    if (FDC_LIKELY(free)) {
        fdc_store_relaxed(&session->leader, 1);
        if (asked)
            fdc_link_soon(session->link, FDC_LANE_REPLY);
        *err = lead(session, word, seen, until_ns);
        fdc_store_relaxed(&session->leader, 0);
    }
    pthread_mutex_unlock(&session->intake);
    return free;
}

static int
intake_until(struct fdc_session *session, const uint32_t *word, uint32_t seen,
             int64_t timeout_us, bool asked)
{
    uint64_t until_ns = timeout_us < 0 ? 0 : fdc_now_ns() + (uint64_t)timeout_us * 1000;
    struct fdc_waiter self, **link;
    int err = 0;

    /* pairs with the release in ticket_complete() */
    if (fdc_load_acquire(word) != seen)
        return 0;
    if (FDC_LIKELY(try_lead(session, word, seen, until_ns, asked, &err))) {
        hand_over(session);
        return err;
    }

    self.word = word;
    self.seen = seen;
    self.go = 0;
    pthread_mutex_lock(&session->waiters_lock);
    self.next = session->waiters;
    session->waiters = &self;
    __atomic_add_fetch(&session->waiting, 1, __ATOMIC_SEQ_CST);
    pthread_mutex_unlock(&session->waiters_lock);
    while (fdc_load_acquire(word) == seen) {
        if (fdc_load_ordered(&session->dead)) {
            err = -EPIPE;
            break;
        }
        if (try_lead(session, word, seen, until_ns, false, &err))
            break;
        if (until_ns != 0 && left_us(until_ns) == 0) {
            err = -ETIMEDOUT;
            break;
        }
        fdc_futex_wait(&self.go, 0, until_ns != 0 ? left_us(until_ns) : -1, false);
        fdc_store_relaxed(&self.go, 0);
    }
    pthread_mutex_lock(&session->waiters_lock);
    for (link = &session->waiters; *link != &self; link = &(*link)->next)
        ;
    *link = self.next;
    __atomic_sub_fetch(&session->waiting, 1, __ATOMIC_SEQ_CST);
    pthread_mutex_unlock(&session->waiters_lock);
    hand_over(session);
    if (err == -EPIPE && fdc_load_acquire(word) != seen)
        err = 0;
    return err;
}

int
fdc_intake_until(struct fdc_session *session, const uint32_t *word, uint32_t seen,
                 int64_t timeout_us)
{
    return intake_until(session, word, seen, timeout_us, false);
}

void
fdc_intake_poke(struct fdc_session *session)
{
    wake_changed(session, false);
    if (fdc_load_ordered(&session->leader))
        fdc_link_poke(session->link, FDC_LANE_REPLY);
}

void
fdc_intake_poll(struct fdc_session *session)
{
    if (!fdc_load_relaxed(&session->dead))
        drain(session);
}

CUresult
fdc_session_failure(struct fdc_session *session)
{
    int32_t result;

    if (FDC_LIKELY(fdc_load_relaxed(&session->first_result) == 0))
        return CUDA_SUCCESS;
    result = __atomic_exchange_n(&session->first_result, 0, __ATOMIC_ACQ_REL);
    return (CUresult)result;
}

void
fdc_session_fail(struct fdc_session *session, uint16_t id, CUresult result)
{
    int32_t none = 0;

    fdc_log(FDC_LOG_WARN, "%s failed: %s", fdc_call_name(id), fdc_result_name(result));
    (void)__atomic_compare_exchange_n(&session->first_result, &none, (int32_t)result,
                                      false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

void
fdc_ticket_fail(struct fdc_session *session, const struct fdc_ticket *ticket)
{
    CUresult result = (CUresult)ticket->result;

    /* A device that is lost and a session that is over answer for themselves, and work of
     * a context that went away meanwhile is nobody's. */
    if (result != CUDA_SUCCESS && result != CUDA_ERROR_CONTEXT_IS_DESTROYED &&
        !fdc_result_is_final(result) && fdc_load_relaxed(&session->dead) == 0)
        fdc_session_fail(session, ticket->id, result);
}

/* ---- calls ---- */

CUresult
fdc_call_open(struct fdc_call *call, uint16_t id, unsigned needs)
{
    struct fdc_thread *self;
    CUresult result;

    result = fdc_process_check();
    if (FDC_UNLIKELY(result != CUDA_SUCCESS))
        return result;
    self = fdc_thread_self();
    if (FDC_UNLIKELY(self->in_hostfn))
        return CUDA_ERROR_NOT_PERMITTED;
    if (FDC_UNLIKELY(self->handing != NULL))
        fdc_managed_sent(self); /* the call before failed */
    call->session = fdc_process.session[0];
    call->context = NULL;
    call->id = id;
    call->bound = call->moved = false;
    call->result = CUDA_SUCCESS;
    call->msg = NULL;
    call->work = NULL;
    call->position = 0;
    if (needs & FDC_NEEDS_CONTEXT) {
        if (self->depth == 0)
            return CUDA_ERROR_INVALID_CONTEXT;
        call->context = self->stack[self->depth - 1];
        result = fdc_context_use(call->context);
        if (result != CUDA_SUCCESS)
            return result;
        call->session = call->context->object.session;
        if (FDC_UNLIKELY(fdc_load_relaxed(&call->session->dead) != 0))
            return (CUresult)fdc_load_relaxed(&call->session->dead);
    } else if (self->depth > 0) {
        call->context = self->stack[self->depth - 1];
        call->session = call->context->object.session;
    }
    if (FDC_UNLIKELY((needs & FDC_UNSAFE_IN_CAPTURE) != 0 &&
                     fdc_load_relaxed(&fdc_process.capturing) != 0))
        return fdc_capture_guard();
    return CUDA_SUCCESS;
}

CUresult
fdc_call_open_in(struct fdc_call *call, struct fdc_session *session, uint16_t id)
{
    CUresult result = fdc_call_open(call, id, FDC_NEEDS_INIT);

    if (result != CUDA_SUCCESS)
        return result;
    if (FDC_UNLIKELY(session->stats != NULL))
        fdc_stats_inside();
    if (call->session != session) {
        call->session = session;
        call->context = NULL;
    }
    call->bound = true;
    return CUDA_SUCCESS;
}

void *
fdc_call_begin(struct fdc_call *call, uint32_t size)
{
    struct fdc_session *session = call->session;
    struct fdc_context *context = call->context;
    struct fdc_msg *msg;
    int err = 0;

    size = FDC_ALIGN_UP(size, 8u);
    for (;;) {
        if (FDC_UNLIKELY(fdc_load_relaxed(&session->dead) != 0)) {
            call->result = (CUresult)fdc_load_relaxed(&session->dead);
            return NULL;
        }
        pthread_mutex_lock(&session->order);
        msg = fdc_link_claim(session->link, FDC_LANE_COMMAND, size, &err);
        if (FDC_LIKELY(msg != NULL))
            break;
        pthread_mutex_unlock(&session->order);
        if (err == -EAGAIN) {
            /* The worker may be waiting for room in the reply lane. */
            fdc_intake_poll(session);
            err =
                fdc_link_wait_room(session->link, FDC_LANE_COMMAND, size, ROOM_WAIT_US);
            if (err >= 0 || err == -ETIMEDOUT)
                continue;
        }
        if (err != -EMSGSIZE) {
            fdc_intake_poll(session); /* a goodbye says more than the closed lane */
            fdc_session_kill(session, "the worker has gone");
            call->result = (CUresult)fdc_load_relaxed(&session->dead);
        } else {
            call->result = fdc_result(err);
        }
        return NULL;
    }
    msg->size = size;
    msg->id = call->id;
    msg->ctx = context != NULL && fdc_load_relaxed(&context->active)
                   ? FDC_HANDLE_INDEX(context->object.handle)
                   : 0;
    msg->thread = fdc_thread_self()->number;
    fdc_thread_self()->in_message = true;
    msg->put = 0;
    call->msg = msg;
    call->flags = 0;
    return msg;
}

/* The head's last fields are written here, so that nothing of it is read: its line may have
 * yet to come from the worker. */
static void
commit(struct fdc_call *call, unsigned flags, uint64_t ticket)
{
    struct fdc_session *session = call->session;
    struct fdc_thread *self = fdc_thread_self();
    bool waits = (flags & (FDC_MSG_REPLY | FDC_MSG_WAITS)) != 0;

    call->msg->flags = (uint16_t)(call->flags | flags);
    call->msg->ticket = ticket;
    fdc_link_commit(session->link, FDC_LANE_COMMAND);
    call->position = session->position + 1;
    /* pairs with the acquire of those who ask without the lock (memory.c) */
    fdc_store_release(&session->position, call->position);
    if (call->work != NULL) {
        fdc_store_relaxed(&call->work->issued, call->position);
        fdc_store_relaxed(&call->work->object.context->issued, call->position);
    }
    fdc_store_relaxed(&session->messages, session->messages + 1);
    if (waits)
        fdc_store_relaxed(&session->waits, session->waits + 1);
    if (FDC_UNLIKELY(session->stats != NULL))
        fdc_stats_sent(session, call->id, waits);
    pthread_mutex_unlock(&session->order);
    self->in_message = false;
    if (FDC_UNLIKELY(self->handing != NULL) && call->work != NULL)
        fdc_managed_sent(self);
    call->msg = NULL;
}

void
fdc_call_uses_put(struct fdc_call *call, uint64_t put)
{
    call->msg->put = put;
}

void
fdc_call_comes_first(struct fdc_call *call)
{
    call->flags |= FDC_MSG_FIRST;
}

/* FD_SYNC: the call has an answer, and what it enqueued is finished. */
static __attribute__((noinline)) CUresult
send_sync(struct fdc_call *call)
{
    struct fdc_stream *stream = call->work;
    struct fdc_req_cuStreamSynchronize *req;
    struct fdc_reply reply;
    uint16_t id = call->id;
    uint64_t position;
    CUresult result;

    result = fdc_call_wait(call, &reply, sizeof(reply));
    if (result != CUDA_SUCCESS || stream == NULL || id == FDC_ID_fdcHostFn || id == FDC_ID_fdcGate ||
        id == FDC_ID_cuEventRecordWithFlags || id == FDC_ID_cuStreamWaitEvent)
        return result; /* what only orders work may wait for the program */
    position = call->position;
    call->id = FDC_ID_cuStreamSynchronize;
    call->work = NULL;
    req = fdc_call_begin(call, sizeof(*req));
    if (req == NULL)
        return call->result;
    req->hStream = fdc_stream_wire(stream);
    result = fdc_call_wait(call, &reply, sizeof(reply));
    call->position = position; /* the caller's own message's */
    call->work = stream;
    call->id = id;
    return result;
}

CUresult
fdc_call_send(struct fdc_call *call)
{
    if (FDC_UNLIKELY(call->session->sync))
        return send_sync(call);
    commit(call, 0, 0);
    return CUDA_SUCCESS;
}

void
fdc_call_brings_aside(struct fdc_call *call)
{
    call->flags |= FDC_MSG_ASIDE;
}

static CUresult
send_ticket(struct fdc_call *call, struct fdc_ticket *ticket, unsigned flags)
{
    struct fdc_session *session = call->session;
    uint64_t number = ticket->number;
    bool ours;

    ticket->id = call->id;
    /* pairs with the ordered load in fail_all(): if the session ends now, either that sees
     * the ticket, or this sees the end */
    fdc_store_ordered(&ticket->armed, 1);
    commit(call, flags, number);
    if (FDC_LIKELY(fdc_load_ordered(&session->dead) == 0))
        return CUDA_SUCCESS;
    pthread_mutex_lock(&session->intake);
    ours = ticket_at(session, number) == ticket; /* else it may be gone */
    if (ours)
        ticket_unregister(session, ticket);
    pthread_mutex_unlock(&session->intake);
    return ours ? (CUresult)fdc_load_relaxed(&session->dead) : CUDA_SUCCESS;
}

CUresult
fdc_call_send_done(struct fdc_call *call, struct fdc_ticket *ticket)
{
    return send_ticket(call, ticket, FDC_MSG_DONE);
}

CUresult
fdc_call_send_waited(struct fdc_call *call, struct fdc_ticket *ticket)
{
    return send_ticket(call, ticket, FDC_MSG_DONE | FDC_MSG_WAITS);
}

CUresult
fdc_call_send_reply(struct fdc_call *call, struct fdc_ticket *ticket)
{
    return send_ticket(call, ticket, FDC_MSG_REPLY);
}

CUresult
fdc_call_wait(struct fdc_call *call, void *reply, uint32_t room)
{
    struct fdc_session *session = call->session;
    struct fdc_ticket *ticket = &call->own;
    CUresult result;
    int err;

    ticket->on_done = NULL;
    ticket->reply = reply;
    ticket->room = room;
    /* Nothing here locks the bus: the message's lines have been written to, and the worker
     * should not get to fetch them before they are complete. */
    if (!ticket_register(session, ticket, own_slot(session))) {
        fdc_link_abort(session->link, FDC_LANE_COMMAND);
        pthread_mutex_unlock(&session->order);
        fdc_thread_self()->in_message = false;
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    /* If the session ends now and fail_all() does not see this, then the wait does, since
     * whoever ends it has closed the lanes and says so to all who wait. */
    fdc_store_release(&ticket->armed, 1);
    commit(call, FDC_MSG_REPLY, ticket->number);
    fdc_link_flush(session->link, FDC_LANE_COMMAND);
    err = intake_until(session, &ticket->done, 0, -1, true);
    if (call->id >= PUBLIC)
        fdc_print_out(true);
    if (err == -EPIPE) {
        fdc_ticket_release(session, ticket);
        if (!fdc_load_acquire(&ticket->done))
            return (CUresult)fdc_load_relaxed(&session->dead);
    }
    result = (CUresult)ticket->result;
    if (result == CUDA_SUCCESS && ticket->size < room) {
        fdc_session_kill(session, "a reply that is too short");
        return CUDA_ERROR_DEVICE_UNAVAILABLE;
    }
    if (call->id >= PUBLIC) {
        /* An error of the call's own tells of both. */
        CUresult earlier = fdc_session_failure(session);

        if (result == CUDA_SUCCESS ||
            (result == CUDA_ERROR_NOT_READY && earlier != CUDA_SUCCESS))
            result = earlier;
    }
    return result;
}

CUresult
fdc_refuse(const char *name, uint32_t *said)
{
    CUresult result = fdc_process_check();

    if (__atomic_exchange_n(said, 1, __ATOMIC_RELAXED) == 0)
        fdc_log(FDC_LOG_WARN, "%s is not supported", name);
    return result != CUDA_SUCCESS ? result : CUDA_ERROR_NOT_SUPPORTED;
}

CUresult
fdc_result(int err)
{
    switch (err) {
    case 0:
        return CUDA_SUCCESS;
    case -ENOMEM:
        return CUDA_ERROR_OUT_OF_MEMORY;
    case -EINVAL:
    case -EMSGSIZE:
        return CUDA_ERROR_INVALID_VALUE;
    case -ENOENT:
        return CUDA_ERROR_FILE_NOT_FOUND;
    case -EACCES:
    case -EPERM:
        return CUDA_ERROR_NOT_PERMITTED;
    case -EPIPE:
    case -EPROTO:
    case -ECONNRESET:
        return CUDA_ERROR_DEVICE_UNAVAILABLE;
    case -ETIMEDOUT:
        return CUDA_ERROR_TIMEOUT;
    case -EOPNOTSUPP:
        return CUDA_ERROR_NOT_SUPPORTED;
    default:
        return CUDA_ERROR_UNKNOWN;
    }
}
