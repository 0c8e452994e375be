/*
 * FD_STATS: what the sessions of this process did, told at its end. 1 says it to people on
 * standard error, json in one line for programs; FD_STATS_FILE has that line appended to a
 * file instead. The worker keeps the same tally (flexdirect stats): both count the messages,
 * and those whose sender waits.
 *
 * While it is on, every call takes the slow way out of fdc_process_check(), where it is
 * counted. A call during which its thread sends nothing was answered here.
 */
#include "code.h"
#include "process.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct fdc_stats {
    struct {
        uint64_t messages, waits; /* under order */
    } call[0x10000];
};

CUresult
fdc_process_odd(int32_t state)
{
    struct fdc_thread *self;

    if (state != FDC_COUNTED)
        return (CUresult)state;
    self = fdc_thread_self();
    self->asked_here++;
    __atomic_add_fetch(&fdc_process.calls, 1, __ATOMIC_RELAXED);
    return CUDA_SUCCESS;
}

void
fdc_stats_inside(void)
{
    fdc_thread_self()->asked_here--;
    __atomic_sub_fetch(&fdc_process.calls, 1, __ATOMIC_RELAXED);
}

void
fdc_stats_sent(struct fdc_session *session, uint16_t id, bool waits)
{
    struct fdc_thread *self = fdc_thread_self();

    session->stats->call[id].messages++;
    session->stats->call[id].waits += waits;
    if (self->told_here != self->asked_here) {
        self->told_here = self->asked_here;
        __atomic_add_fetch(&fdc_process.told, 1, __ATOMIC_RELAXED);
    }
}

/* ---- the report ---- */

/* Text that grows; what does not fit any more is left out. */
struct text {
    char *bytes;
    size_t size, room;
};

static void __attribute__((format(printf, 2, 3)))
say(struct text *text, const char *format, ...)
{
    va_list args;
    int n;

    if (text->room - text->size < 512) {
        char *grown = realloc(text->bytes, text->room + 16384);

        if (grown == NULL)
            return;
        text->bytes = grown;
        text->room += 16384;
    }
    va_start(args, format);
    n = vsnprintf(text->bytes + text->size, text->room - text->size, format, args);
    va_end(args);
    if (n > 0 && (size_t)n < text->room - text->size)
        text->size += (size_t)n;
}

static void
put_out(int fd, const struct text *text)
{
    size_t at = 0;

    while (at < text->size) {
        ssize_t n = write(fd, text->bytes + at, text->size - at);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return; /* nobody listens */
        at += (size_t)n;
    }
}

struct sums {
    uint64_t sent, received, system_calls, sleeps;
};

static struct sums
sums_of(struct fdc_session *session)
{
    struct fdc_link_stats link;
    struct sums sums = {0};

    fdc_link_get_stats(session->link, &link);
    sums.sent = link.bytes[FDC_LANE_COMMAND] + link.bytes[FDC_LANE_SIDE] +
                link.put_bytes[FDC_REGION_UP];
    sums.received =
        link.bytes[FDC_LANE_REPLY] + fdc_load_relaxed(&session->taken);
    for (int lane = 0; lane < FDC_LANES; lane++)
        sums.sleeps += link.sleeps[lane];
    sums.system_calls = link.system_calls;
    return sums;
}

static const char *
road_of(const struct fdc_session *session)
{
    static const char *const names[] = {
        [FDC_ROAD_SHM] = "shm", [FDC_ROAD_TCP] = "tcp", [FDC_ROAD_RDMA] = "rdma"};

    return names[session->road];
}

/* The call with the most waits; 0: none waits. */
static unsigned
most_waits(const struct fdc_stats *stats)
{
    unsigned most = 0;

    for (unsigned id = 1; id < FDC_COUNT(stats->call); id++)
        if (stats->call[id].waits > stats->call[most].waits)
            most = id;
    return most;
}

static void
tell_session(struct fdc_session *session, struct text *text)
{
    const struct fdc_stats *stats = session->stats;
    struct sums sums = sums_of(session);
    unsigned most = most_waits(stats);

    say(text, "fdcore: session %s%sover %s: messages %" PRIu64 " waits %" PRIu64 "\n",
        session->server, session->server[0] != '\0' ? " " : "", road_of(session),
        session->messages, session->waits);
    say(text,
        "fdcore:   bytes sent %" PRIu64 " received %" PRIu64 "; of copies, carried %" PRIu64
        " in place %" PRIu64 "\n",
        sums.sent, sums.received, session->moved, session->in_place);
    say(text, "fdcore:   images %" PRIu64 " bytes, of them sent %" PRIu64 "\n",
        session->codes != NULL ? session->codes->bytes : 0,
        session->codes != NULL ? session->codes->sent : 0);
    say(text,
        "fdcore:   system calls %" PRIu64 " sleeps %" PRIu64 " held back %" PRIu64 "\n",
        sums.system_calls, sums.sleeps, session->holds);
    for (unsigned id = 0; id < FDC_COUNT(stats->call); id++) {
        const char *name = fdc_call_name((uint16_t)id), *seen = fdc_call_seen((uint16_t)id);

        if (stats->call[id].messages != 0)
            say(text, "fdcore:   %-36s messages %-8" PRIu64 " waits %-8" PRIu64 "%s%s%s\n",
                name, stats->call[id].messages, stats->call[id].waits,
                seen != name ? " (" : "", seen != name ? seen : "", seen != name ? ")" : "");
    }
    if (stats->call[most].waits != 0)
        say(text, "fdcore:   most waits: %" PRIu64 " of %" PRIu64 " by %s\n",
            stats->call[most].waits, session->waits, fdc_call_seen((uint16_t)most));
}

static void
tell_people(struct text *text)
{
    struct fdc_session *session;

    say(text, "fdcore: calls %" PRIu64 ", of them answered here %" PRIu64 "\n",
        fdc_process.calls, fdc_process.calls - fdc_process.told);
    for (int i = 0; (session = fdc_session_at(i)) != NULL; i++)
        if (session->stats != NULL)
            tell_session(session, text);
}

/* A name of ours or a server's: what a string of JSON cannot hold is left out. */
static void
say_string(struct text *text, const char *string)
{
    say(text, "\"");
    for (; *string != '\0'; string++)
        if ((unsigned char)*string >= ' ' && *string != '"' && *string != '\\')
            say(text, "%c", *string);
    say(text, "\"");
}

static void
tell_session_json(struct fdc_session *session, struct text *text)
{
    const struct fdc_stats *stats = session->stats;
    struct sums sums = sums_of(session);
    bool first = true;

    say(text, "{\"server\": ");
    say_string(text, session->server);
    say(text,
        ", \"road\": \"%s\", \"messages\": %" PRIu64 ", \"waits\": %" PRIu64
        ", \"held_back\": %" PRIu64 ", \"bytes_sent\": %" PRIu64
        ", \"bytes_received\": %" PRIu64 ", \"copied_bytes\": %" PRIu64
        ", \"in_place_bytes\": %" PRIu64 ", \"image_bytes\": %" PRIu64
        ", \"image_bytes_sent\": %" PRIu64 ", \"system_calls\": %" PRIu64
        ", \"sleeps\": %" PRIu64 ", \"calls\": {",
        road_of(session), session->messages, session->waits, session->holds, sums.sent,
        sums.received, session->moved, session->in_place,
        session->codes != NULL ? session->codes->bytes : 0,
        session->codes != NULL ? session->codes->sent : 0, sums.system_calls, sums.sleeps);
    for (unsigned id = 0; id < FDC_COUNT(stats->call); id++) {
        if (stats->call[id].messages == 0)
            continue;
        say(text,
            "%s\"%s\": {\"seen\": \"%s\", \"messages\": %" PRIu64 ", \"waits\": %" PRIu64 "}",
            first ? "" : ", ", fdc_call_name((uint16_t)id), fdc_call_seen((uint16_t)id),
            stats->call[id].messages, stats->call[id].waits);
        first = false;
    }
    say(text, "}}");
}

static void
tell_programs(struct text *text)
{
    struct fdc_session *session;

    say(text, "{\"program\": ");
    say_string(text, program_invocation_short_name);
    say(text, ", \"pid\": %d, \"calls\": %" PRIu64 ", \"answered_here\": %" PRIu64
        ", \"sessions\": [", (int)getpid(), fdc_process.calls,
        fdc_process.calls - fdc_process.told);
    for (int i = 0; (session = fdc_session_at(i)) != NULL; i++) {
        if (session->stats == NULL)
            continue;
        say(text, "%s", i > 0 ? ", " : "");
        tell_session_json(session, text);
    }
    say(text, "]}\n");
}

static void
report(void)
{
    const char *file = getenv("FD_STATS_FILE"), *how = getenv("FD_STATS");
    struct text text = {0};
    int fd = 2;

    if (fdc_process.forked)
        return;
    if (file != NULL && file[0] != '\0') {
        fd = open(file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
        if (fd < 0) {
            fdc_log(FDC_LOG_ERROR, "FD_STATS_FILE: %s: %s", file, strerror(errno));
            return;
        }
    }
    if (fd != 2 || (how != NULL && strcmp(how, "json") == 0))
        tell_programs(&text);
    else
        tell_people(&text);
    put_out(fd, &text);
    free(text.bytes);
    if (fd != 2)
        close(fd);
}

static bool
wanted(void)
{
    const char *how = getenv("FD_STATS"), *file = getenv("FD_STATS_FILE");

    if (how != NULL && strcmp(how, "0") == 0)
        return false;
    return (how != NULL && how[0] != '\0') || (file != NULL && file[0] != '\0');
}

void
fdc_stats_setup(struct fdc_session *session)
{
    if (!wanted())
        return;
    session->stats = calloc(1, sizeof(*session->stats));
    if (session->stats == NULL || fdc_process.counted)
        return;
    fdc_process.counted = true;
    atexit(report);
}
