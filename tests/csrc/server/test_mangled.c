/* Messages that nobody would send: whatever they say, at most their session ends, with
 * everything given back. FD_TEST_SEEDS and FD_TEST_SEED choose more, or one. */
#include "client.h"

enum { SEEDS = 24, MESSAGES = 400 };

static uint64_t state, served;

static uint32_t
below(uint32_t limit)
{
    return (uint32_t)(check_random(&state) >> 32) % limit;
}

static uint16_t ids[CLIENT_IDS];
static uint32_t nids;

/* A field's value: now plausible, now not. */
static uint64_t
field(uint64_t base)
{
    switch (below(10)) {
    case 0:
        return check_random(&state);
    case 1:
        return UINT64_MAX - below(64);
    case 2:
        return FDC_HANDLE(1 + below(FDC_KINDS), 1, 1 + below(3));
    case 3:
        return FDC_HANDLE(FDC_KIND_STREAM, 1, 1 + below(2));
    case 4:
        return base + (uint64_t)below(4 << 20);
    case 5:
        return base + ((uint64_t)below(8) << 20);
    case 6:
        return below(4096);
    case 7:
        return (uint64_t)below(256) << 32 | below(4096);
    default:
        return below(3);
    }
}

/* Where spans and chunks are: mostly they are in order, so that a session lasts. */
#define AT(call, member) offsetof(struct fdc_req_##call, member)
static const struct {
    uint16_t id;
    uint32_t at;
    bool chunk;
    uint32_t size_at;                   /* of the field that says the span's size; 0: none */
} parts[] = {
    { FDC_ID_fdcAttach, AT(fdcAttach, blob), true, 0 },
    { FDC_ID_fdcBlobRead, AT(fdcBlobRead, chunk), true, 0 },
    { FDC_ID_fdcCopyUpInline, AT(fdcCopyUpInline, bytes), false,
      AT(fdcCopyUpInline, size) },
    { FDC_ID_fdcCopyUp, AT(fdcCopyUp, chunk), true, 0 },
    { FDC_ID_fdcCopyDown, AT(fdcCopyDown, chunk), true, 0 },
    { FDC_ID_fdcCopy3DUp, AT(fdcCopy3DUp, chunk), true, 0 },
    { FDC_ID_fdcCopy3DDown, AT(fdcCopy3DDown, chunk), true, 0 },
    { FDC_ID_fdcImageChunk, AT(fdcImageChunk, chunk), true, 0 },
    { FDC_ID_fdcModuleLoad, AT(fdcModuleLoad, blob), true, 0 },
    { FDC_ID_fdcModuleLoad, AT(fdcModuleLoad, options), false,
      AT(fdcModuleLoad, options_size) },
    { FDC_ID_fdcLibraryLoad, AT(fdcLibraryLoad, blob), true, 0 },
    { FDC_ID_fdcLibraryLoad, AT(fdcLibraryLoad, options), false,
      AT(fdcLibraryLoad, options_size) },
    { FDC_ID_fdcLibraryLoad, AT(fdcLibraryLoad, library_options), false,
      AT(fdcLibraryLoad, library_options_size) },
    { FDC_ID_fdcGlobal, AT(fdcGlobal, name), false, 0 },
    { FDC_ID_fdcLaunch, AT(fdcLaunch, params), false, AT(fdcLaunch, params_size) },
};

_Static_assert(AT(cuMemsetD2D8Async, Height) == AT(cuMemsetD2D32Async, Height), "memset");

static void
put_in_order(uint8_t *message, uint16_t id, uint32_t size)
{
    for (size_t i = 0; i < FDC_COUNT(parts); i++) {
        struct fdc_span span = { 32, 8 * below(4) };
        struct fdc_chunk chunk = { 8 * below(1 << 17), 8 * below(1 << 13) };

        if (parts[i].id != id)
            continue;
        if (parts[i].chunk) {
            memcpy(message + parts[i].at, &chunk, sizeof(chunk));
            continue;
        }
        if (span.size == 0 && id != FDC_ID_fdcGlobal)
            span.offset = 0;
        if (id == FDC_ID_fdcGlobal) {
            span = (struct fdc_span){ size - 8, 8 };
            memcpy(message + size - 8, below(2) ? "counter" : "nothing", 8);
        }
        memcpy(message + parts[i].at, &span, sizeof(span));
        if (parts[i].size_at)
            memcpy(message + parts[i].size_at, &span.size, 4);
    }
    if (id == FDC_ID_fdcCopy3DUp || id == FDC_ID_fdcCopy3DDown) {
        struct fdc_req_fdcCopy3DUp *req = (void *)message;

        req->copy.width = below(64);
        req->copy.height = below(16);
        req->copy.depth = below(4);
        req->chunk.size = 4096;
    }
    if (id == FDC_ID_cuMemsetD2D8Async || id == FDC_ID_cuMemsetD2D16Async ||
        id == FDC_ID_cuMemsetD2D32Async) {
        uint64_t rows = below(64);      /* not for hours */

        memcpy(message + AT(cuMemsetD2D8Async, Height), &rows, 8);
    }
    if (id == FDC_ID_fdcLaunch) {
        struct fdc_req_fdcLaunch *req = (void *)message;

        req->grid = (struct fdc_dim3){ below(8), 1 + below(2), 1 };
        req->block = (struct fdc_dim3){ below(65), 1, 1 };
    }
}

static void
setup(struct client *client, uint64_t base)
{
    client_grow(client, base, 4 << 20);
    CHECK_EQ(CALL(client, fdcGateWords), 0);
    CHECK_EQ(client_load(client, FDC_ID_fdcModuleLoad, FDC_HANDLE(FDC_KIND_MODULE, 1, 1),
                         client_ptx), 0);
    for (uint32_t i = 1; i <= 2; i++) {
        SEND(client, cuStreamCreateWithPriority, 0,
             .phStream = FDC_HANDLE(FDC_KIND_STREAM, 1, i), .flags = i & 1);
        SEND(client, cuEventCreate, 0, .phEvent = FDC_HANDLE(FDC_KIND_EVENT, 1, i));
    }
}

/* One session, until it ends or the messages are used up. */
static int
session(int messages)
{
    static struct client client;
    static uint8_t message[1024] __attribute__((aligned(128)));
    struct fdc_serve_counters counters;
    uint64_t base;
    int sent = 0;

    client_open(&client);
    fdc_log_default(FDC_LOG_OFF, "worker");
    base = client_attach(&client);
    setup(&client, base);
    while (sent < messages && !fdc_load_acquire(&client.serve_ended)) {
        uint16_t id = ids[below(nids)];
        uint32_t least = fdc_serve_entry(id)->min_size, size;
        unsigned flags = below(3) | (below(8) ? 0 : FDC_MSG_FIRST);
        struct fdc_msg *head = (void *)message;

        /* With four spans they are rarely in order: not every session is to end there. */
        if ((id == FDC_ID_cuTensorMapEncodeTiled || id == FDC_ID_cuTensorMapEncodeIm2col) &&
            below(20))
            continue;

        size = FDC_ALIGN_UP(least + 8 + (below(4) ? 0 : below(128)), 8);
        for (uint32_t at = sizeof(*head); at < size; at += 8) {
            uint64_t value = field(base);

            memcpy(message + at, &value, 8);
        }
        if (below(200))
            put_in_order(message, id, size);
        if (id == FDC_ID_fdcGate && below(20)) {
            struct fdc_req_fdcGate *req = (void *)message;

            req->word = 1 + (uint32_t)below(3);
            req->value = (uint32_t)below(9);
        }
        if (id == FDC_ID_fdcHostFn)
            flags = 0;
        if (id == FDC_ID_fdcGate && !below(20))
            client_side(&client, (uint16_t)below(4), below(3), check_random(&state));
        memset(head, 0, sizeof(*head));
        if (!client_send(&client, message, size, id, flags))
            break;
        if (id == FDC_ID_fdcGate) { /* else the stream, and so this, stood still for ever */
            struct fdc_req_fdcGate *req = (void *)message;

            client_side(&client, FDC_SIDE_GATE, 1, (uint64_t)req->word << 32 | req->value);
        }
        sent++;
        while (client_take(&client, 0) > 0)
            client.dones = client.host_fns = 0;
    }
    fdc_serve_get_counters(client.serve, &counters);
    served += counters.messages;
    fdc_link_free(client.link);
    pthread_join(client.worker, NULL);
    CHECK(client.ended == 0 || client.ended == -EPROTO);
    fdc_serve_free(client.serve);
    fdc_link_free(client.far);
    return 1 + (int)counters.messages;
}

static void
test_mangled_messages_end_at_most_their_session(void)
{
    const char *seeds = getenv("FD_TEST_SEEDS"), *one = getenv("FD_TEST_SEED");
    int first = one ? atoi(one) : 1, last = one ? first : seeds ? atoi(seeds) : SEEDS;

    nids = client_ids(ids);
    for (int seed = first; seed <= last; seed++) {
        int status = 0;
        pid_t child = fork();

        if (child == 0) {
            alarm(60);
            state = (uint64_t)seed * 0x9e3779b97f4a7c15;
            for (int left = MESSAGES; left > 0;)
                left -= session(left);
            if (one)
                fprintf(stderr, "%llu messages served\n", (unsigned long long)served);
            _exit(0);
        }
        CHECK_EQ(waitpid(child, &status, 0), child);
        if (status != 0)
            fprintf(stderr, "seed %d\n", seed);
        CHECK_EQ(status, WIFEXITED(status) && WEXITSTATUS(status) == 77 ? status : 0);
    }
}

int
main(void)
{
    int failed = 0;

    RUN(test_mangled_messages_end_at_most_their_session);
    return failed;
}
