/*
 * Copies between servers that do not pass through here (fdc/trunk.h): which pairs of
 * sessions have a trunk, and a copy over one. The client makes the key and says to both
 * workers what the copy is; it waits for both, as the courier does for what it carries.
 *
 * A trunk is opened by the first copy that is worth one. Where it cannot be, or once it is
 * broken, the courier carries (across.c). The courier's thread alone is here.
 */
#include "process.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>

#include "fdc/attach.h"
#include "fdc/copy.h"
#include "fdc/trunk.h"
#include "memory.h"

#define WORTH (64u << 10) /* smaller ones are two messages and no wait for two threads */

#define LOOK_US 100000

enum { FRESH, UP, SHUT };

/* How other servers' workers come to a session's. */
struct fdc_door {
    uint8_t lease[16], session[16];
    uint8_t trunks[32];    /* what keys are made of */
    bool shared;          /* by shared memory: the path is one of this machine */
    bool seal;            /* what travels over tcp for it has to be sealed */
    bool here;            /* its worker is on this machine */
    char path[108];
    uint32_t family, port; /* 0: no address is known */
    uint8_t address[16];
};

struct fdc_way {
    uint8_t state;
    uint64_t trunk; /* its number */
};

struct fdc_trunks {
    struct fdc_way way[FDC_SESSIONS][FDC_SESSIONS]; /* from, to */
    uint64_t copies;                   /* numbers given */
};

struct fdc_trunks *
fdc_trunks_new(void)
{
    return calloc(1, sizeof(struct fdc_trunks));
}

/* ---- how a server is reached ---- */

static bool
is_loopback(const struct fdc_door *door)
{
    static const uint8_t one[16] = {[15] = 1};

    return door->family == FDC_TRUNK_IPV4   ? door->address[0] == 127
           : door->family == FDC_TRUNK_IPV6 ? memcmp(door->address, one, 16) == 0
                                           : false;
}

/* The address that the connection has at its other end. True: it is on this machine. */
static bool
take_peer(struct fdc_door *door, int sock)
{
    union {
        struct sockaddr any;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
    } peer;
    socklen_t size = sizeof(peer);

    if (getpeername(sock, &peer.any, &size) != 0)
        return false;
    if (peer.any.sa_family == AF_INET) {
        door->family = FDC_TRUNK_IPV4;
        door->port = ntohs(peer.in.sin_port);
        memcpy(door->address, &peer.in.sin_addr, 4);
    } else if (peer.any.sa_family == AF_INET6 && peer.in6.sin6_scope_id == 0) {
        door->family = FDC_TRUNK_IPV6;
        door->port = ntohs(peer.in6.sin6_port);
        memcpy(door->address, &peer.in6.sin6_addr, 16);
    }
    return peer.any.sa_family == AF_UNIX || is_loopback(door);
}

/* The same from the session file, if it has numbers: no name is looked up for it. */
static void
take_numbers(struct fdc_door *door, const char *host, const char *port)
{
    long number = strtol(port, NULL, 10);

    if (host[0] == '\0' || number < 1 || number > 65535)
        return;
    if (inet_pton(AF_INET, host, door->address) == 1)
        door->family = FDC_TRUNK_IPV4;
    else if (inet_pton(AF_INET6, host, door->address) == 1)
        door->family = FDC_TRUNK_IPV6;
    door->port = (uint32_t)number;
}

struct fdc_door *
fdc_door_new(const struct fdc_door_facts *facts)
{
    struct fdc_door *door = calloc(1, sizeof(*door));

    if (door == NULL)
        return NULL;
    memcpy(door->lease, facts->lease, sizeof(door->lease));
    memcpy(door->session, facts->session, sizeof(door->session));
    fdc_attach_trunks(facts->secret, door->trunks);
    door->shared = facts->shared;
    door->seal = facts->seal;
    take_numbers(door, facts->host, facts->port);
    if (door->shared)
        strncpy(door->path, facts->path, sizeof(door->path) - 1);
    door->here = take_peer(door, facts->sock) || door->shared;
    return door;
}

/* How the one's worker reaches the other server; false: not that we know. An address of
 * this machine's own is nobody else's. */
static bool
find_way(const struct fdc_door *from, const struct fdc_door *to,
         struct fdc_trunk_about *about)
{
    if (from == NULL || to == NULL)
        return false;
    if (from->shared && to->shared) {
        about->family = FDC_TRUNK_UNIX;
        memcpy(about->address, to->path, sizeof(to->path));
        return true;
    }
    if (to->family == 0 || (is_loopback(to) && !from->here))
        return false;
    about->family = to->family;
    about->port = to->port;
    about->seal = from->seal || to->seal;
    memcpy(about->address, to->address, sizeof(to->address));
    return true;
}

/* ---- opening ---- */

static CUresult
ask(struct fdc_session *from, const struct fdc_trunk_about *about, bool *open)
{
    struct fdc_rep_fdcTrunkOpen reply;
    struct fdc_req_fdcTrunkOpen *req;
    struct fdc_call call;
    CUresult result;

    result = fdc_call_open_in(&call, from, FDC_ID_fdcTrunkOpen);
    if (result != CUDA_SUCCESS)
        return result;
    req = fdc_call_begin(&call, sizeof(*req) + sizeof(*about));
    if (req == NULL)
        return call.result;
    req->about = (struct fdc_span){sizeof(*req), sizeof(*about)};
    req->about_size = sizeof(*about);
    memcpy(req + 1, about, sizeof(*about));
    result = fdc_call_wait(&call, &reply, sizeof(reply));
    *open = result == CUDA_SUCCESS && reply.open != 0;
    return result;
}

static bool
open_trunk(struct fdc_session *from, struct fdc_session *to, uint64_t *number)
{
    const struct fdc_door *door = to->door;
    struct fdc_trunk_about about = {0};
    bool open = false;

    if (find_way(from->door, door, &about) &&
        getrandom(about.nonce, sizeof(about.nonce), 0) == sizeof(about.nonce)) {
        memcpy(about.lease, door->lease, sizeof(about.lease));
        memcpy(about.session, door->session, sizeof(about.session));
        fdc_attach_trunk_key(door->trunks, about.nonce, about.key);
        *number = fdc_trunk_number(about.nonce);
        ask(from, &about, &open);
        explicit_bzero(&about, sizeof(about));
    }
    fdc_log(FDC_LOG_INFO, "copies from %s to %s go %s", from->server, to->server,
            open ? "between the two" : "through here: the one cannot reach the other");
    return open;
}

/* ---- copying ---- */

struct side {
    struct fdc_context *context;
    struct fdc_session *session;
    const struct fdc_chunk *chunks;
    struct fdc_ticket ticket;
    struct fdc_rep_fdcTrunkCopy reply;
};

static CUresult
send_side(struct side *side, bool give, uint64_t trunk, uint64_t number,
          const struct fdc_copy3d *copy)
{
    static const struct fdc_copy_end away = {.memory = FDC_COPY_CHUNK};
    const uint32_t size = FDC_ACROSS_LANES * sizeof(struct fdc_chunk);
    struct fdc_req_fdcTrunkCopy *req;
    struct fdc_stream *stream;
    struct fdc_call call;
    CUresult result;

    result = fdc_stream_hidden(side->context, &stream);
    if (result == CUDA_SUCCESS)
        result = fdc_call_open_in(&call, side->session, FDC_ID_fdcTrunkCopy);
    if (result == CUDA_SUCCESS)
        result = fdc_ticket_take(side->session, &side->ticket);
    if (result != CUDA_SUCCESS)
        return result;
    side->ticket.reply = &side->reply;
    side->ticket.room = sizeof(side->reply);
    call.context = side->context;
    req = fdc_call_begin(&call, sizeof(*req) + size);
    if (req == NULL) {
        fdc_ticket_release(side->session, &side->ticket);
        return call.result;
    }
    req->trunk = trunk;
    req->number = number;
    req->copy = *copy;
    if (give)
        req->copy.dst = away;
    else
        req->copy.src = away;
    req->give = give;
    req->stream = fdc_stream_wire(stream);
    req->chunks = (struct fdc_span){sizeof(*req), size};
    req->chunks_size = size;
    memcpy(req + 1, side->chunks, size);
    result = fdc_call_send_reply(&call, &side->ticket);
    fdc_link_flush(side->session->link, FDC_LANE_COMMAND);
    return result;
}

/* What waits on the trunk there is let go. */
static void
shut(struct fdc_session *session, uint64_t trunk)
{
    struct fdc_req_fdcTrunkShut *req;
    struct fdc_call call;

    if (fdc_call_open_in(&call, session, FDC_ID_fdcTrunkShut) != CUDA_SUCCESS)
        return;
    req = fdc_call_begin(&call, sizeof(*req));
    if (req == NULL)
        return;
    req->trunk = trunk;
    fdc_call_send(&call);
    fdc_link_flush(session->link, FDC_LANE_COMMAND);
}

/* Once its ticket is done. */
static bool
is_broken(const struct side *side)
{
    return side->ticket.result == CUDA_SUCCESS &&
           (side->ticket.size < sizeof(side->reply) || side->reply.broken != 0);
}

static bool
has_failed(struct side *side)
{
    return fdc_load_acquire(&side->ticket.done) != 0 &&
           (side->ticket.result != CUDA_SUCCESS || is_broken(side));
}

/* Waits for the one while it looks after the other: with that gone, nobody on the trunk may
 * know that there is nothing to wait for. */
static CUresult
wait_side(struct side *side, struct side *other, uint64_t trunk)
{
    bool told = false;

    while (!fdc_load_acquire(&side->ticket.done)) {
        if (fdc_intake_until(side->session, &side->ticket.done, 0, LOOK_US) == -EPIPE)
            break;
        fdc_intake_poll(other->session);
        if (!told && has_failed(other)) {
            shut(side->session, trunk);
            told = true;
        }
    }
    return fdc_ticket_wait(side->session, &side->ticket);
}

static CUresult
copy_over(uint64_t trunk, uint64_t number, const struct fdc_copy3d *copy, struct side *to,
          struct side *from, bool *broken)
{
    CUresult gave, took;

    took = send_side(to, false, trunk, number, copy);
    if (took != CUDA_SUCCESS)
        return took;
    gave = send_side(from, true, trunk, number, copy);
    if (gave != CUDA_SUCCESS) {
        shut(to->session, trunk);
        fdc_ticket_wait(to->session, &to->ticket);
        return gave;
    }
    gave = wait_side(from, to, trunk);
    took = wait_side(to, from, trunk);
    *broken = is_broken(from) || is_broken(to);
    return gave != CUDA_SUCCESS ? gave : took;
}

bool
fdc_trunk_copy(struct fdc_trunks *trunks, const struct fdc_copy3d *copy,
              struct fdc_context *to, struct fdc_context *from, CUresult *result)
{
    struct side there = {.context = to, .session = to->object.session};
    struct side here = {.context = from, .session = from->object.session};
    struct fdc_way *way = &trunks->way[here.session->number][there.session->number];
    bool broken = false;

    if (copy->width * copy->height * copy->depth < WORTH)
        return false;
    if (way->state == FRESH)
        way->state = open_trunk(here.session, there.session, &way->trunk) ? UP : SHUT;
    if (way->state != UP)
        return false;
    there.chunks = there.session->memory->across_up;
    here.chunks = here.session->memory->across_down;
    *result = copy_over(way->trunk, ++trunks->copies, copy, &there, &here, &broken);
    if (*result == CUDA_SUCCESS && !broken)
        return true;
    way->state = SHUT;
    fdc_log(FDC_LOG_INFO, "copies from %s to %s go through here from now on",
            here.session->server, there.session->server);
    return *result != CUDA_SUCCESS; /* else once more, from its beginning */
}
