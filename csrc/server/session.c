/*
 * One session: its object, and the executor that takes the client's messages in their
 * total order and calls the driver. The executor never blocks: what may take long goes to
 * a helper thread (serve.c), what waits for the device goes through private events
 * (event.c, done.c). Each message is copied out of shared memory before it is looked at,
 * so what was checked is what is used.
 */
#include "server/image.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SPIN_NS 60000           /* how long an idle executor looks at what is unfinished, */
#define CROWDED 3               /* unless so often somebody else wanted its CPU: longer */
#define LULL_MAX 31             /* pauses: half a microsecond or one */

static int
locks_new(struct fdc_serve *serve)
{
    pthread_mutex_init(&serve->context_lock, NULL);
    pthread_mutex_init(&serve->reply_lock, NULL);
    pthread_mutex_init(&serve->pool_lock, NULL);
    pthread_mutex_init(&serve->inbox_lock, NULL);
    pthread_mutex_init(&serve->done_lock, NULL);
    pthread_mutex_init(&serve->print_lock, NULL);
    pthread_mutex_init(&serve->turn_lock, NULL);
    if (pthread_cond_init(&serve->pool_cond, NULL) ||
        pthread_cond_init(&serve->pool_gone, NULL))
        return -ENOMEM;
    return 0;
}

int
fdc_serve_new(const struct fdc_driver *driver, struct fdc_link *link,
              const struct fdc_serve_limits *limits, struct fdc_serve **made)
{
    struct fdc_serve *serve;
    CUresult result;
    int err = -ENOMEM;

    if (limits->devices < 1 || limits->devices > FDC_DEVICES_MAX)
        return -EINVAL;
    serve = calloc(1, sizeof(*serve));
    if (serve == NULL)
        return -ENOMEM;
    serve->driver = driver;
    serve->link = link;
    serve->limits = *limits;
    serve->print_fd = serve->error_fd = -1;
    serve->contexts_first = 1;
    serve->idle = 1;
    serve->cpus = fdc_cpus_allowed();
    if (locks_new(serve))
        goto err_free;

    result = driver->cuInit(0);
    for (int i = 0; i < limits->devices && result == CUDA_SUCCESS; i++)
        result = driver->cuDeviceGet(&serve->device[i], limits->ordinal[i]);
    if (result != CUDA_SUCCESS) {
        fdc_log(FDC_LOG_ERROR, "the driver cannot be used: result %d", result);
        err = -ENODEV;
        goto err_free;
    }

    serve->message_room = fdc_link_max_message(link, FDC_LANE_COMMAND);
    serve->message = aligned_alloc(
        FDC_MESSAGE_ALIGN,
        FDC_ALIGN_UP((size_t)serve->message_room, (size_t)FDC_MESSAGE_ALIGN));
    if (serve->message == NULL)
        goto err_free;
    for (int i = 0; i < FDC_REGIONS; i++)
        serve->region[i] = fdc_link_region(link, i, &serve->region_size[i]);
    err = fdc_handles_new(serve);
    if (err)
        goto err_free;
    err = -ENOMEM;
    serve->board = fdc_board_new(limits);
    if (serve->board == NULL)
        goto err_free;
    serve->monitor = fdc_monitor_new(serve);
    serve->memory = fdc_memory_new(serve);
    serve->host = fdc_host_new(serve);
    serve->images = fdc_images_new();
    serve->cache = fdc_cache_open(limits->cache, limits->cache_room);
    serve->objects = fdc_objects_new();
    serve->order = fdc_order_new();
    serve->greens = fdc_greens_new();
    serve->names = fdc_names_new();
    serve->capture = fdc_captures_new();
    serve->shadows = fdc_shadows_new();
    serve->hostfns = fdc_hostfns_new(serve);
    serve->gates = fdc_gates_new();
    serve->trunks = fdc_trunks_new();
    serve->blobs = fdc_blobs_new();
    serve->ledger = calloc(FDC_IDS, sizeof(*serve->ledger));
    if (serve->monitor == NULL || serve->memory == NULL || serve->host == NULL ||
        serve->images == NULL || serve->hostfns == NULL || serve->blobs == NULL ||
        serve->objects == NULL || serve->names == NULL || serve->capture == NULL ||
        serve->shadows == NULL || serve->greens == NULL || serve->order == NULL ||
        serve->gates == NULL || serve->trunks == NULL || serve->ledger == NULL)
        goto err_free;
    err = fdc_meter_new(serve);
    if (err == 0)
        err = fdc_poller_start(serve);
    if (err == 0)
        err = fdc_side_start(serve);
    if (err)
        goto err_free;
    *made = serve;
    return 0;

err_free:
    fdc_serve_free(serve);
    return err;
}

static void
slow_run(struct fdc_request *kept, void *user)
{
    struct fdc_turn turn;

    fdc_turn_begin(kept->serve, &turn);
    fdc_entry_run(user, kept);
    fdc_turn_end(kept->serve, &turn);
    fdc_request_free(kept);
}

/* A reply or a note, not both; the caller can only wait for what it is told. */
static bool
flags_sound(unsigned flags)
{
    static const bool sound[] = {
        [0] = true, [FDC_MSG_REPLY] = true, [FDC_MSG_DONE] = true,
        [FDC_MSG_DONE | FDC_MSG_WAITS] = true,
    };

    flags &= ~(unsigned)(FDC_MSG_FIRST | FDC_MSG_ASIDE);
    return flags < FDC_COUNT(sound) && sound[flags];
}

/* Into the ledger; the executor alone writes there. */
static void
note(struct fdc_serve *serve, const struct fdc_msg *msg)
{
    struct fdc_serve_tally *tally = &serve->ledger[msg->id];

    fdc_count_own(serve, messages);
    fdc_store_relaxed(&tally->messages, tally->messages + 1);
    if (msg->flags & (FDC_MSG_REPLY | FDC_MSG_WAITS)) {
        fdc_count_own(serve, waited);
        fdc_store_relaxed(&tally->waits, tally->waits + 1);
    }
}

/* One message, in private memory. 0, or the session ends. */
static int
dispatch(struct fdc_serve *serve, const struct fdc_msg *msg, uint32_t size)
{
    const struct fdc_serve_entry *entry = fdc_serve_entry(msg->id);
    struct fdc_request request = {
        .serve = serve, .driver = serve->driver, .msg = msg, .size = size,
        .id = msg->id, .flags = msg->flags, .ticket = msg->ticket, .ctx = msg->ctx,
    };
    struct fdc_request *kept;
    int err;

    if (FDC_UNLIKELY(entry == NULL || size < entry->min_size || msg->size != size ||
                     !flags_sound(msg->flags))) {
        fdc_serve_break(serve, -EPROTO, "a message of id 0x%04x, %u bytes, flags %u",
                        msg->id, size, msg->flags);
        return -EPROTO;
    }
    note(serve, msg);
    if (msg->put != 0) {
        err = fdc_link_put_wait(serve->link, FDC_REGION_UP, msg->put, -1);
        if (err < 0)
            return err;
    }
    if (FDC_LIKELY(!entry->slow)) {
        err = fdc_entry_run(entry, &request);
        if (request.answered && (request.flags & FDC_MSG_REPLY) && serve->hot == NULL)
            fdc_link_soon(serve->link, FDC_LANE_COMMAND); /* who waited goes on */
        return err;
    }

    fdc_count_own(serve, slow);
    kept = fdc_request_keep(&request);
    err = kept == NULL ? -ENOMEM : fdc_pool_add(serve, kept, slow_run, (void *)entry);
    if (err) {
        free(kept);
        request.kept = false;
        fdc_request_answer(&request, CUDA_ERROR_OUT_OF_MEMORY, NULL, 0);
    }
    return 0;
}

/* Whether the client waits for what the message at hand has brought about. */
static bool
asks(const struct fdc_serve *serve)
{
    const struct fdc_msg *msg = (const struct fdc_msg *)serve->message;

    return (msg->flags & (FDC_MSG_REPLY | FDC_MSG_WAITS)) != 0;
}

/* Nothing to serve: looks at what may finish any moment, then sleeps. */
static int
idle(struct fdc_serve *serve)
{
    uint64_t start = 0, now, most;
    int ready, lent = 0;

    for (;;) {
        bool waits = fdc_wait_turn(serve);

        if (!waits && !fdc_done_any(serve))
            break;
        if (fdc_done_turn(serve) > 0)
            start = 0;
        ready = fdc_link_wait(serve->link, FDC_LANE_COMMAND, 0);
        if (ready != 0)
            return ready;
        now = fdc_now_ns();
        most = waits && lent < CROWDED && serve->cpus > 1 ? FDC_SPIN_WORK_NS : SPIN_NS;
        if (start == 0)
            start = now;
        else if (now - start > most)
            break;
        if (now - start > FDC_SPIN_ALONE_NS)
            lent += fdc_spin_yield();   /* the driver may need this CPU to get done */
        for (int i = 0; i < 8; i++)
            fdc_pause();
    }
    fdc_wait_hand_over(serve);
    return fdc_link_wait(serve->link, FDC_LANE_COMMAND, -1);
}

/* Messages that nobody waits for, taken as fast as they come: whoever looks for the next one
 * while it is being written holds its writer up. The more often that was so in a row, the
 * longer nobody looks, and several are there then. */
static void
lull(const struct fdc_serve *serve, unsigned *pauses)
{
    if (!fdc_link_is_shared(serve->link) || serve->cpus < 2)
        return;
    *pauses = *pauses < LULL_MAX ? 2 * *pauses + 1 : LULL_MAX;
    for (unsigned i = 1; i < *pauses; i++)
        fdc_pause();
}

int
fdc_serve_run(struct fdc_serve *serve)
{
    bool told = false;          /* the last message asked for no answer */
    unsigned pauses = 0;
    int err = 0;

    fdc_meter_executes(true);
    fdc_turns_idle(serve, false);
    while (!fdc_load_relaxed(&serve->stop)) {
        uint32_t size;
        const void *at = fdc_link_peek(serve->link, FDC_LANE_COMMAND, &size, &err);

        if (at == NULL) {
            if (told && serve->hot == NULL)
                lull(serve, &pauses);
            told = false;
            /* Who is about to say more is not worth going idle for. */
            if (err == 0 && serve->hot == NULL && !fdc_done_any(serve) &&
                fdc_link_quick(serve->link, FDC_LANE_COMMAND))
                continue;
            if (err == 0) {
                if (FDC_UNLIKELY(serve->meter != NULL))
                    fdc_meter_idle(serve);
                fdc_turns_idle(serve, true);
                err = idle(serve);
                fdc_turns_idle(serve, false);
            }
            if (err < 0)
                break;
            err = 0;
            continue;
        }
        if (size < sizeof(struct fdc_msg) || size > serve->message_room) {
            fdc_serve_break(serve, -EPROTO, "a message of %u bytes", size);
            break;
        }
        if (FDC_UNLIKELY(serve->hot != NULL) && fdc_wait_turn(serve))
            fdc_wait_hand_over(serve);
        if (FDC_UNLIKELY(fdc_load_relaxed(&serve->turn_asked)))
            fdc_turns_next(serve);
        memcpy(serve->message, at, size);
        fdc_link_release(serve->link, FDC_LANE_COMMAND);
        err = dispatch(serve, (const struct fdc_msg *)serve->message, size);
        if (err)
            break;
        told = !asks(serve);
        if (!told)
            pauses = 0;
    }
    fdc_turns_idle(serve, true);
    fdc_meter_executes(false);
    if (err == -EPROTO)
        fdc_serve_break(serve, err, "the client broke the %s lane", "command");
    fdc_hostfns_cancel(serve);
    fdc_gates_cancel(serve);
    fdc_trunks_cancel(serve);
    if (fdc_load_relaxed(&serve->broken) != 0)
        return -(int)fdc_load_relaxed(&serve->broken); /* it is set once */
    return err == -EPIPE ? 0 : err;
}

void
fdc_serve_stop(struct fdc_serve *serve)
{
    __atomic_store_n(&serve->stop, 1, __ATOMIC_RELEASE);
    fdc_link_shutdown(serve->link);
}

void
fdc_serve_grace(struct fdc_serve *serve, uint32_t grace_ms)
{
    serve->grace_ms = grace_ms;
}

void
fdc_serve_free(struct fdc_serve *serve)
{
    if (serve == NULL)
        return;
    if (serve->hostfns != NULL)
        fdc_hostfns_cancel(serve);
    if (serve->gates != NULL)
        fdc_gates_cancel(serve);
    if (serve->trunks != NULL)
        fdc_trunks_cancel(serve);
    fdc_wait_hand_over(serve);
    fdc_pool_stop(serve);
    fdc_poller_stop(serve);
    fdc_meter_stop(serve);
    if (serve->slots != NULL)
        fdc_handles_cleanup(serve);
    fdc_done_cancel(serve, NULL, CUDA_ERROR_DEINITIALIZED);
    if (serve->memory != NULL)
        fdc_memory_free(serve);
    if (serve->slots != NULL)
        fdc_contexts_close(serve);
    fdc_retired_free(serve);
    fdc_greens_free(serve);
    if (serve->host != NULL)
        fdc_host_free(serve);
    if (serve->hostfns != NULL)
        fdc_hostfns_free(serve);
    fdc_meter_free(serve);
    fdc_gates_free(serve->gates);
    fdc_trunks_free(serve->trunks);
    fdc_print_stop(serve);
    fdc_images_free(serve->images);
    fdc_cache_close(serve->cache);
    fdc_objects_free(serve->objects);
    fdc_order_free(serve->order);
    fdc_names_free(serve->names);
    fdc_captures_free(serve->capture);
    fdc_shadows_free(serve);
    fdc_blobs_free(serve->blobs);
    fdc_handles_free(serve);
    fdc_send_drop(serve);
    fdc_monitor_free(serve);
    fdc_board_free(serve->board);
    free(serve->message);
    free(serve->ledger);
    pthread_mutex_destroy(&serve->context_lock);
    pthread_mutex_destroy(&serve->reply_lock);
    pthread_mutex_destroy(&serve->pool_lock);
    pthread_mutex_destroy(&serve->inbox_lock);
    pthread_mutex_destroy(&serve->done_lock);
    pthread_mutex_destroy(&serve->print_lock);
    pthread_mutex_destroy(&serve->turn_lock);
    pthread_cond_destroy(&serve->pool_cond);
    pthread_cond_destroy(&serve->pool_gone);
    free(serve);
}

void
fdc_serve_get_counters(struct fdc_serve *serve, struct fdc_serve_counters *counters)
{
    const uint64_t *from = (const void *)&serve->counters;
    uint64_t *to = (void *)counters;

    _Static_assert(sizeof(*counters) % sizeof(*to) == 0, "they are 64 bits each");
    for (size_t i = 0; i < sizeof(*counters) / sizeof(*to); i++)
        to[i] = fdc_load_relaxed(&from[i]); /* other threads count on */
    counters->memory_used = 0;
    for (int i = 0; i < serve->limits.devices; i++)
        counters->memory_used += fdc_memory_used(serve, i);
    counters->host_memory_used = fdc_host_used(serve->host);
    counters->device_ns = fdc_meter_spent(serve);
}

const struct fdc_serve_entry *
fdc_serve_get_tally(struct fdc_serve *serve, uint16_t id, struct fdc_serve_tally *tally)
{
    tally->messages = fdc_load_relaxed(&serve->ledger[id].messages);
    tally->waits = fdc_load_relaxed(&serve->ledger[id].waits);
    return tally->messages != 0 ? fdc_serve_entry(id) : NULL;
}
