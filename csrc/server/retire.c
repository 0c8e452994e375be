/*
 * What has been taken out of the tables while others may be looking at it. The executor and
 * the helper threads look things up without a lock, and keep what they found until the end
 * of their message. So things end later: once the executor has been between two messages,
 * and no slow call is under way that began before. A context goes back to the driver only
 * then, too, unless that takes too long.
 */
#include "server/serve.h"

#include <stdlib.h>
#include <unistd.h>

#define LOOK_US 50

struct fdc_retired {
    struct fdc_retired *next;
    uint64_t number;
    void (*end)(struct fdc_serve *serve, void *value, void *aux);
    void *value, *aux;
};

/* The slow call that this thread serves. */
static __thread struct fdc_turn *mine;

/* ---- turns ---- */

/* Under the lock. */
static void
link_in(struct fdc_serve *serve, struct fdc_turn *turn)
{
    turn->number = ++serve->turn_number;
    turn->next = serve->turns;
    serve->turns = turn;
}

static void
take_out(struct fdc_serve *serve, struct fdc_turn *turn)
{
    struct fdc_turn **at = &serve->turns;

    while (*at != turn)
        at = &(*at)->next;
    *at = turn->next;
}

void
fdc_turn_begin(struct fdc_serve *serve, struct fdc_turn *turn)
{
    pthread_mutex_lock(&serve->turn_lock);
    link_in(serve, turn);
    pthread_mutex_unlock(&serve->turn_lock);
    mine = turn;
}

void
fdc_turn_end(struct fdc_serve *serve, struct fdc_turn *turn)
{
    mine = NULL;
    pthread_mutex_lock(&serve->turn_lock);
    take_out(serve, turn);
    pthread_mutex_unlock(&serve->turn_lock);
}

void
fdc_context_lock(struct fdc_serve *serve)
{
    if (mine != NULL) {
        pthread_mutex_lock(&serve->turn_lock);
        take_out(serve, mine);
        pthread_mutex_unlock(&serve->turn_lock);
    }
    pthread_mutex_lock(&serve->context_lock);
    if (mine != NULL) {
        pthread_mutex_lock(&serve->turn_lock);
        link_in(serve, mine);
        pthread_mutex_unlock(&serve->turn_lock);
    }
}

/* Under the lock: whether a slow call but this thread's own began before. */
static bool
older(const struct fdc_serve *serve, uint64_t number)
{
    for (const struct fdc_turn *turn = serve->turns; turn != NULL; turn = turn->next)
        if (turn != mine && turn->number < number)
            return true;
    return false;
}

void
fdc_turns_idle(struct fdc_serve *serve, bool idle)
{
    /* Both ways: who finds it idle has emptied slots that are looked at only after this,
     * and what was looked at before is no longer. Pairs with fdc_turns_wait(). */
    __atomic_exchange_n(&serve->idle, idle, __ATOMIC_ACQ_REL);
}

/* ---- what is to end ---- */

/* Under the lock: takes out what nobody can be holding, the executor apart. */
static struct fdc_retired *
due(struct fdc_serve *serve, uint64_t before)
{
    struct fdc_retired **at = &serve->retired, *list = NULL, *one;

    while ((one = *at) != NULL) {
        if (one->number >= before || older(serve, one->number)) {
            at = &one->next;
            continue;
        }
        *at = one->next;
        one->next = list;
        list = one;
    }
    return list;
}

static void
end_all(struct fdc_serve *serve, struct fdc_retired *list)
{
    struct fdc_retired *next;

    for (; list != NULL; list = next) {
        next = list->next;
        list->end(serve, list->value, list->aux);
        free(list);
    }
}

void
fdc_retire(struct fdc_serve *serve, void *value, void *aux,
           void (*end)(struct fdc_serve *serve, void *value, void *aux))
{
    struct fdc_retired *one = malloc(sizeof(*one));
    bool alone;

    pthread_mutex_lock(&serve->turn_lock);
    alone = mine == NULL && serve->turns == NULL;       /* the executor, or nobody is left */
    if (!alone && one != NULL) {
        *one = (struct fdc_retired){
            .next = serve->retired, .number = ++serve->turn_number, .end = end,
            .value = value, .aux = aux,
        };
        serve->retired = one;
        fdc_store_relaxed(&serve->turn_asked, 1);
        one = NULL;
    } else if (!alone) {
        fdc_log(FDC_LOG_WARN, "no memory to remember what is to be freed");
    }
    pthread_mutex_unlock(&serve->turn_lock);
    free(one);
    if (alone)
        end(serve, value, aux);
}

void
fdc_turns_next(struct fdc_serve *serve)
{
    struct fdc_retired *list;

    pthread_mutex_lock(&serve->turn_lock);
    serve->turn_passed = serve->turn_number;
    list = due(serve, UINT64_MAX);
    fdc_store_relaxed(&serve->turn_asked, serve->retired != NULL);
    pthread_mutex_unlock(&serve->turn_lock);
    end_all(serve, list);
}

bool
fdc_turns_wait(struct fdc_serve *serve, uint64_t until_ns)
{
    struct fdc_retired *list = NULL;
    bool passed = false, over = false;
    uint64_t number;

    pthread_mutex_lock(&serve->turn_lock);
    number = ++serve->turn_number;
    fdc_store_relaxed(&serve->turn_asked, 1);
    for (;;) {
        /* Not a load: the executor's leaving idleness is to come after what was done here. */
        passed = passed || serve->turn_passed >= number ||
                 __atomic_fetch_or(&serve->idle, 0, __ATOMIC_ACQ_REL) != 0;
        over = passed && !older(serve, number);
        if (over || fdc_now_ns() >= until_ns)
            break;
        pthread_mutex_unlock(&serve->turn_lock);
        usleep(LOOK_US);
        pthread_mutex_lock(&serve->turn_lock);
    }
    if (over)
        list = due(serve, number);
    pthread_mutex_unlock(&serve->turn_lock);
    end_all(serve, list);
    return over;
}

void
fdc_retired_free(struct fdc_serve *serve)
{
    end_all(serve, serve->retired);
    serve->retired = NULL;
}
