/*
 * Sealed records against somebody in between, who leaves out, repeats, changes, cuts and
 * makes up what passes. Whatever comes out is the beginning of what was sent.
 */
#include "fuzz.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "transport/seal.h"

enum { ROOM = 1 << 16, RECORD = 4096, RECORDS = 16 };

struct between {
    uint8_t record[RECORDS][RECORD];
    size_t size[RECORDS];
    int count;
};

static const uint8_t key[FDC_KEY_SIZE] = { 1, 2, 3 };

/* One record of the sender's. */
static void
say(struct seal *seal, int from, int to, const uint8_t *bytes, size_t size,
    struct between *between)
{
    struct iovec part = { (void *)bytes, size };
    ssize_t n;

    if (size == 0 || between->count == RECORDS)
        return;
    FUZZ_CHECK(seal_send(seal, from, &part, 1) == (ssize_t)size);
    n = recv(to, between->record[between->count], RECORD, MSG_DONTWAIT);
    FUZZ_CHECK(n == (ssize_t)(size + SEAL_EXTRA));
    between->size[between->count++] = (size_t)n;
}

static void
pass(int to, const void *bytes, size_t size)
{
    if (size > 0 && send(to, bytes, size, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
        /* full: then that is cut off */
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t sent[ROOM], got[ROOM];
    static struct between between;
    size_t sent_size = 0, got_size = 0, at = 0, part;
    struct seal *out, *in;
    int near[2], far[2];
    uint8_t op, word;
    ssize_t n;

    fdc_log_default(FDC_LOG_OFF, "fuzz");
    between.count = 0;
    if (seal_new(key, false, &out) != 0)
        return 0; /* no cipher on this machine */
    FUZZ_CHECK(seal_new(key, true, &in) == 0);
    seal_rekey_after(out, 3);
    seal_rekey_after(in, 3);
    FUZZ_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, near) == 0);
    FUZZ_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, far) == 0);
    while (at + 2 <= size) {
        op = data[at++];
        word = data[at++];
        part = word < size - at ? word : size - at;
        switch (op % 8) {
        case 0: /* something is said, and waits in between */
            if (sent_size + part <= ROOM && between.count < RECORDS) {
                say(out, near[0], near[1], data + at, part, &between);
                memcpy(sent + sent_size, data + at, part);
                sent_size += part;
            }
            at += part;
            break;
        case 1: /* one of them passes, whichever */
        case 2:
            if (between.count > 0)
                pass(far[0], between.record[word % between.count],
                     between.size[word % between.count]);
            break;
        case 3: /* all of them, in order */
            for (int i = 0; i < between.count; i++)
                pass(far[0], between.record[i], between.size[i]);
            between.count = 0;
            break;
        case 4: /* changed */
            if (between.count > 0)
                between.record[0][word % between.size[0]] ^= (uint8_t)(1 << op / 32);
            break;
        case 5: /* cut */
            if (between.count > 0)
                between.size[0] = word % between.size[0] + 1;
            break;
        case 6: /* made up */
            pass(far[0], data + at, part);
            at += part;
            break;
        default: /* taken in */
            n = seal_receive(in, far[1], got + got_size,
                             word + 1u < ROOM - got_size ? word + 1u : ROOM - got_size,
                             MSG_DONTWAIT);
            if (n > 0)
                got_size += (size_t)n;
            else if (n < 0 && errno != EAGAIN)
                goto out;
        }
    }
    while (got_size < ROOM &&
           (n = seal_receive(in, far[1], got + got_size, ROOM - got_size,
                             MSG_DONTWAIT)) > 0)
        got_size += (size_t)n;
out:
    FUZZ_CHECK(got_size <= sent_size && memcmp(got, sent, got_size) == 0);
    seal_free(out);
    seal_free(in);
    for (int i = 0; i < 2; i++) {
        close(near[i]);
        close(far[i]);
    }
    return 0;
}
