/*
 * The worker's dispatcher with the CPU device behind it. An input is a list of messages:
 * which call, flags, how many bytes are given, and those bytes behind the head; in them a
 * word whose top byte is 0xa5 becomes an address in the slice, so that inputs can name
 * memory. At most the session ends.
 */
#include "fuzz.h"

#include "client.h"

enum { MESSAGES = 48 };

static uint16_t ids[CLIENT_IDS];
static uint32_t nids;

static void
not_for_hours(uint8_t *message, uint16_t id)
{
    if (id == FDC_ID_cuMemsetD2D8Async || id == FDC_ID_cuMemsetD2D16Async ||
        id == FDC_ID_cuMemsetD2D32Async)
        ((struct fdc_req_cuMemsetD2D8Async *)(void *)message)->Height &= 63;
    if (id == FDC_ID_fdcLaunch) {
        struct fdc_req_fdcLaunch *req = (void *)message;

        req->grid = (struct fdc_dim3){ req->grid.x & 7, req->grid.y & 1, 1 };
        req->block = (struct fdc_dim3){ req->block.x & 127, 1, 1 };
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct client client;
    static uint8_t message[1024] __attribute__((aligned(128)));
    struct fuzz_bytes bytes = { data, size };
    uint64_t base;

    if (nids == 0) {
        setenv("FD_CPU_THREADS", "1", 1);
        setenv("FD_CPU_KERNEL_MS", "100", 1);
        nids = client_ids(ids);
    }
    client_open_sized(&client, 16 << 20);
    fdc_log_default(FDC_LOG_OFF, "worker");
    base = client_attach(&client);
    client_grow(&client, base, 4 << 20);
    FUZZ_CHECK(CALL(&client, fdcGateWords) == 0);
    FUZZ_CHECK(client_load(&client, FDC_ID_fdcModuleLoad,
                           FDC_HANDLE(FDC_KIND_MODULE, 1, 1), client_ptx) == 0);
    SEND(&client, cuStreamCreateWithPriority, 0,
         .phStream = FDC_HANDLE(FDC_KIND_STREAM, 1, 1), .flags = 1);
    SEND(&client, cuEventCreate, 0, .phEvent = FDC_HANDLE(FDC_KIND_EVENT, 1, 1));
    for (int i = 0; i < MESSAGES && bytes.left > 0; i++) {
        uint16_t id = ids[fuzz_take(&bytes, 2) % nids];
        unsigned flags = (unsigned)fuzz_take(&bytes, 1) % 3;
        uint32_t given = (uint32_t)fuzz_take(&bytes, 1), least, whole;

        least = fdc_serve_entry(id)->min_size;
        whole = FDC_ALIGN_UP(least + (given & 128 ? 64 : 0), 8);
        memset(message, 0, sizeof(message));
        for (uint32_t at = sizeof(struct fdc_msg); at + 8 <= whole; at += 8) {
            uint64_t value = (given & 127) * 8u > at - sizeof(struct fdc_msg)
                                 ? fuzz_take(&bytes, 8) : 0;

            if (value >> 56 == 0xa5)
                value = base + (value & 0x7fffff);
            memcpy(message + at, &value, 8);
        }
        not_for_hours(message, id);
        memset(message, 0, sizeof(struct fdc_msg));
        if (id == FDC_ID_fdcHostFn)
            flags = 0;
        if (fdc_load_acquire(&client.serve_ended) ||
            !client_send(&client, message, whole, id, flags))
            break;
        if (id == FDC_ID_fdcGate) {
            struct fdc_req_fdcGate *req = (void *)message;
            uint16_t other = given & 64 ? (uint16_t)fuzz_take(&bytes, 1) : 0;

            if (other != 0)
                client_side(&client, other, (uint32_t)fuzz_take(&bytes, 1), fuzz_take(&bytes, 8));
            /* Else its stream, and so this, stood still for ever. */
            client_side(&client, FDC_SIDE_GATE, 1, (uint64_t)req->word << 32 | req->value);
        }
        while (client_take(&client, 0) > 0)
            client.dones = client.host_fns = 0;
    }
    fdc_link_free(client.link);
    pthread_join(client.worker, NULL);
    FUZZ_CHECK(client.ended == 0 || client.ended == -EPROTO);
    fdc_serve_free(client.serve);
    fdc_link_free(client.far);
    return 0;
}
