/* Sealed records on a stream socket. See seal.h. */
#include "seal.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "fdc/siphash.h"

enum {
    OUT_ROOM = SEAL_BATCH * (SEAL_RECORD + SEAL_EXTRA),
    IN_ROOM = 2 * OUT_ROOM,
};

/* One direction's keys: number counts the records, and every so often the next key is
 * made of the one before it. */
struct sealing {
    struct fdc_cipher *cipher;
    uint8_t chain[32], iv[FDC_NONCE_SIZE];
    uint64_t number, rekey;
    uint64_t head_key[2];
    bool begun; /* the next record has its keys and its head */
};

/* What a record begins with. */
struct head {
    uint32_t size; /* of the plain bytes */
    uint32_t check;
};
_Static_assert(sizeof(struct head) == SEAL_HEAD, "a head is what travels");

struct seal {
    struct fdc_crypto *crypto;
    struct sealing out, in;
    /* Sealed records on their way, and the plain bytes that they stand for. */
    uint8_t *out_bytes;
    size_t out_start, out_end, out_plain;
    /* What has arrived, sealed; and what of a record nobody has asked for yet. */
    uint8_t *in_bytes, *plain;
    size_t in_start, in_end, plain_start, plain_end;
    bool in_bad; /* nothing that comes is good any more */
};

static int
set_key(struct sealing *way)
{
    uint8_t key[FDC_KEY_SIZE + FDC_NONCE_SIZE + sizeof(way->head_key)];
    int err;

    fdc_hkdf_expand(way->chain, "fdcore key", 10, key, sizeof(key));
    memcpy(way->iv, key + FDC_KEY_SIZE, FDC_NONCE_SIZE);
    memcpy(way->head_key, key + FDC_KEY_SIZE + FDC_NONCE_SIZE, sizeof(way->head_key));
    err = fdc_cipher_key(way->cipher, key);
    explicit_bzero(key, sizeof(key));
    return err;
}

/* The next record's keys are there. */
static int
turn_key(struct sealing *way)
{
    uint8_t next[32];

    if (FDC_LIKELY(way->begun || way->number == 0 || way->number % way->rekey != 0))
        return 0;
    fdc_hkdf_expand(way->chain, "fdcore next", 11, next, sizeof(next));
    memcpy(way->chain, next, sizeof(next));
    explicit_bzero(next, sizeof(next));
    return set_key(way);
}

static uint32_t
check_of(const struct sealing *way, uint32_t size)
{
    return (uint32_t)fdc_siphash(way->head_key, way->number, size);
}

static int
begin_record(struct sealing *way, const struct head *head)
{
    uint8_t nonce[FDC_NONCE_SIZE];

    memcpy(nonce, way->iv, sizeof(nonce));
    for (int i = 0; i < 8; i++)
        nonce[FDC_NONCE_SIZE - 1 - i] ^= (uint8_t)(way->number >> 8 * i);
    way->number++;
    way->begun = false;
    return fdc_cipher_begin(way->cipher, nonce, head, sizeof(*head));
}

static int
way_new(struct seal *seal, struct sealing *way, bool seals, bool from_worker,
        const uint8_t key[FDC_KEY_SIZE])
{
    const char *label = from_worker ? "fdcore from worker" : "fdcore from client";
    int err;

    way->rekey = SEAL_REKEY;
    fdc_hkdf_expand(key, label, strlen(label), way->chain, sizeof(way->chain));
    err = fdc_cipher_new(seal->crypto, seals, &way->cipher);
    return err ? err : set_key(way);
}

int
seal_new(const uint8_t key[FDC_KEY_SIZE], bool worker, struct seal **made)
{
    struct seal *seal = calloc(1, sizeof(*seal));
    const char *why = "no memory";
    int err = -ENOMEM;

    if (!seal)
        return err;
    seal->out_bytes = malloc(OUT_ROOM);
    seal->in_bytes = malloc(IN_ROOM);
    seal->plain = malloc(SEAL_RECORD);
    if (!seal->out_bytes || !seal->in_bytes || !seal->plain)
        goto err_free;
    err = fdc_crypto_open(&seal->crypto, &why);
    if (err) {
        fdc_log(FDC_LOG_ERROR, "data cannot be encrypted: %s", why);
        goto err_free;
    }
    err = way_new(seal, &seal->out, true, worker, key);
    if (!err)
        err = way_new(seal, &seal->in, false, !worker, key);
    if (err)
        goto err_free;
    *made = seal;
    return 0;

err_free:
    seal_free(seal);
    return err;
}

void
seal_free(struct seal *seal)
{
    if (!seal)
        return;
    fdc_cipher_free(seal->out.cipher);
    fdc_cipher_free(seal->in.cipher);
    fdc_crypto_close(seal->crypto);
    free(seal->out_bytes);
    free(seal->in_bytes);
    free(seal->plain);
    explicit_bzero(seal, sizeof(*seal));
    free(seal);
}

void
seal_rekey_after(struct seal *seal, uint64_t records)
{
    seal->out.rekey = seal->in.rekey = records;
}

/* ---- sending ---- */

/* Where in the parts the next plain byte is. */
struct cursor {
    const struct iovec *part;
    size_t left; /* parts from here on */
    size_t at;   /* in this one */
};

static size_t
bytes_left(const struct cursor *cursor)
{
    size_t sum = 0;

    for (size_t i = 0; i < cursor->left && sum < SEAL_RECORD; i++)
        sum += cursor->part[i].iov_len - (i == 0 ? cursor->at : 0);
    return sum < SEAL_RECORD ? sum : SEAL_RECORD;
}

/* One record behind out_end. 0 or -errno. */
static int
add_record(struct seal *seal, struct cursor *cursor, size_t size)
{
    uint8_t *to = seal->out_bytes + seal->out_end;
    struct head head = {.size = (uint32_t)size};
    size_t part;
    int err;

    err = turn_key(&seal->out);
    if (!err) {
        head.check = check_of(&seal->out, head.size);
        err = begin_record(&seal->out, &head);
    }
    memcpy(to, &head, sizeof(head));
    to += sizeof(head);
    while (!err && size > 0) {
        part = cursor->part->iov_len - cursor->at;
        if (part > size)
            part = size;
        err = fdc_cipher_piece(seal->out.cipher, to,
                               (const uint8_t *)cursor->part->iov_base + cursor->at, part);
        to += part;
        size -= part;
        cursor->at += part;
        if (cursor->at == cursor->part->iov_len) {
            cursor->part++;
            cursor->left--;
            cursor->at = 0;
        }
    }
    if (!err)
        err = fdc_cipher_end(seal->out.cipher, to);
    if (err)
        return err;
    seal->out_end += SEAL_EXTRA + head.size;
    seal->out_plain += head.size;
    return 0;
}

/* Fills the buffer with records of what the parts begin with. */
static int
add_records(struct seal *seal, const struct iovec *parts, size_t count)
{
    struct cursor cursor = {.part = parts, .left = count};
    size_t size;
    int err;

    seal->out_start = seal->out_end = seal->out_plain = 0;
    for (int i = 0; i < SEAL_BATCH; i++) {
        size = bytes_left(&cursor);
        if (size == 0)
            return 0;
        err = add_record(seal, &cursor, size);
        if (err)
            return err;
    }
    return 0;
}

ssize_t
seal_send(struct seal *seal, int fd, const struct iovec *parts, size_t count)
{
    size_t plain;
    ssize_t n;
    int err;

    /* Records that are under way stand for what the parts begin with: nothing is taken
     * before its last byte has left. */
    if (seal->out_plain == 0) {
        err = add_records(seal, parts, count);
        if (err) {
            errno = -err;
            return -1;
        }
    }
    while (seal->out_start < seal->out_end) {
        n = send(fd, seal->out_bytes + seal->out_start, seal->out_end - seal->out_start,
                 MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0)
            return -1;
        seal->out_start += (size_t)n;
    }
    plain = seal->out_plain;
    seal->out_plain = 0;
    return (ssize_t)plain;
}

int
seal_write(struct seal *seal, int fd, const void *bytes, size_t size)
{
    struct iovec part = {.iov_base = (void *)bytes, .iov_len = size};
    struct pollfd poll_fd = {.fd = fd, .events = POLLOUT};
    ssize_t n;

    if (!seal)
        return fdc_sock_write(fd, bytes, size);
    while (part.iov_len > 0) {
        n = seal_send(seal, fd, &part, 1);
        if (n >= 0) {
            part.iov_base = (uint8_t *)part.iov_base + n;
            part.iov_len -= (size_t)n;
        } else if (errno == EAGAIN) {
            poll(&poll_fd, 1, -1);
        } else if (errno == ECONNRESET) {
            return -EPIPE;
        } else if (errno != EINTR) {
            return -errno;
        }
    }
    return 0;
}

/* ---- receiving ---- */

/* The head that the buffer begins with. 1, 0: it is not there whole; -EBADMSG. */
static int
look_at_head(struct seal *seal, struct head *head)
{
    struct sealing *way = &seal->in;

    if (seal->in_end - seal->in_start < sizeof(*head))
        return 0;
    memcpy(head, seal->in_bytes + seal->in_start, sizeof(*head));
    if (way->begun)
        return 1;
    if (turn_key(way) || head->size == 0 || head->size > SEAL_RECORD ||
        head->check != check_of(way, head->size))
        return -EBADMSG;
    way->begun = true;
    return 1;
}

/* The whole record that the buffer begins with is opened into to. 0 or -EBADMSG. */
static int
open_record(struct seal *seal, const struct head *head, uint8_t *to)
{
    uint8_t *sealed = seal->in_bytes + seal->in_start + sizeof(*head);
    int err;

    err = begin_record(&seal->in, head);
    if (!err)
        err = fdc_cipher_piece(seal->in.cipher, to, sealed, head->size);
    if (!err)
        err = fdc_cipher_end(seal->in.cipher, sealed + head->size);
    seal->in_start += SEAL_EXTRA + head->size;
    return err ? -EBADMSG : 0;
}

/* Opens what has arrived whole, as far as it is wanted. -EBADMSG, got are those that are
 * good; 0. */
static int
take_records(struct seal *seal, uint8_t *to, size_t want, size_t *got)
{
    struct head head;
    size_t part;
    int err = 0;

    if (seal->in_bad)
        return -EBADMSG;
    while (*got < want) {
        if (seal->plain_start < seal->plain_end) {
            part = seal->plain_end - seal->plain_start;
            if (part > want - *got)
                part = want - *got;
            memcpy(to + *got, seal->plain + seal->plain_start, part);
            seal->plain_start += part;
            *got += part;
            continue;
        }
        err = look_at_head(seal, &head);
        if (err == 0 ||
            (err > 0 && seal->in_end - seal->in_start < SEAL_EXTRA + head.size))
            return 0;
        if (err > 0 && head.size <= want - *got) {
            err = open_record(seal, &head, to + *got);
            if (!err)
                *got += head.size;
        } else if (err > 0) {
            err = open_record(seal, &head, seal->plain);
            seal->plain_start = 0;
            seal->plain_end = head.size;
        }
        if (err) {
            seal->plain_end = seal->plain_start = 0;
            seal->in_bad = true;
            return err;
        }
    }
    return 0;
}

ssize_t
seal_receive(struct seal *seal, int fd, void *to, size_t want, int flags)
{
    size_t got = 0, room;
    bool drained = false;
    ssize_t n;
    int err;

    for (;;) {
        err = take_records(seal, to, want, &got);
        if (err && got > 0)
            return (ssize_t)got; /* what is good counts; the next call says it again */
        if (err) {
            errno = -err;
            return -1;
        }
        if (got == want || (got > 0 && drained))
            return (ssize_t)got;
        if (seal->in_start == seal->in_end) {
            seal->in_start = seal->in_end = 0;
        } else if (IN_ROOM - seal->in_end < SEAL_RECORD + SEAL_EXTRA) {
            memmove(seal->in_bytes, seal->in_bytes + seal->in_start,
                    seal->in_end - seal->in_start);
            seal->in_end -= seal->in_start;
            seal->in_start = 0;
        }
        room = IN_ROOM - seal->in_end;
        n = recv(fd, seal->in_bytes + seal->in_end, room,
                 got > 0 ? flags | MSG_DONTWAIT : flags);
        if (n <= 0)
            return got > 0 ? (ssize_t)got : n;
        seal->in_end += (size_t)n;
        drained = (size_t)n < room;
        if (drained && got == 0 && flags & MSG_DONTWAIT) {
            err = take_records(seal, to, want, &got);
            if (got > 0)
                return (ssize_t)got;
            errno = err ? -err : EAGAIN;
            return -1;
        }
    }
}

int
seal_read(struct seal *seal, int fd, void *bytes, size_t size, int64_t timeout_us)
{
    struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
    uint64_t limit_ns = fdc_now_ns() + (uint64_t)timeout_us * 1000, now_ns;
    int wait_ms = -1;
    size_t got = 0;
    ssize_t n;

    if (!seal)
        return fdc_sock_read(fd, bytes, size, timeout_us);
    while (got < size) {
        n = seal_receive(seal, fd, (uint8_t *)bytes + got, size - got, MSG_DONTWAIT);
        if (n == 0 || (n < 0 && errno == ECONNRESET))
            return -EPIPE;
        if (n > 0) {
            got += (size_t)n;
        } else if (errno == EAGAIN) {
            now_ns = fdc_now_ns();
            if (timeout_us >= 0 && now_ns >= limit_ns)
                return -ETIMEDOUT;
            if (timeout_us >= 0)
                wait_ms = (int)((limit_ns - now_ns) / 1000000) + 1;
            poll(&poll_fd, 1, wait_ms);
        } else if (errno != EINTR) {
            return -errno;
        }
    }
    return 0;
}
