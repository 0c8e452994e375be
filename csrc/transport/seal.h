/*
 * Sealed bytes on a stream socket: records of AES-256-GCM in place of plain bytes, for
 * the tcp road beyond this machine. A record is a head (not secret, but sealed with it), as
 * many bytes as that says, and a tag; its nonce is its number. So nothing can be changed,
 * left out, repeated or moved to another place, connection or direction.
 *
 * The head is the length and a keyed hash of it and of the record's number, 4 bytes each,
 * so that nobody waits for a record of a length that was changed on its way: the tag would
 * tell only where all of it had come. To forge a hash gains what holding bytes back does.
 */
#ifndef FDC_TRANSPORT_SEAL_H
#define FDC_TRANSPORT_SEAL_H

#include <sys/types.h>
#include <sys/uio.h>

#include "fdc/cipher.h"

enum {
    SEAL_HEAD = 8,
    SEAL_EXTRA = SEAL_HEAD + FDC_TAG_SIZE,
    SEAL_RECORD = 32 << 10, /* bytes in one record, at most */
    SEAL_BATCH = 8,         /* records that leave together */
};
/* Records under one key: far from where AES-GCM with one key gets weak. */
#define SEAL_REKEY (UINT64_C(1) << 20)

struct seal;

/* key: this connection's, the same on both ends. -ENOSYS where there is no cipher. */
int seal_new(const uint8_t key[FDC_KEY_SIZE], bool worker, struct seal **seal);
void seal_free(struct seal *seal);
/* For tests: both ends alike, before the first record. */
void seal_rekey_after(struct seal *seal, uint64_t records);

/*
 * As sendmsg() with MSG_DONTWAIT | MSG_NOSIGNAL, and as recv(), of the plain bytes. What
 * send has not taken has to be what the next call begins with. receive gives less than
 * was asked for only when the socket is drained; -1 and EBADMSG: what came is not sealed
 * with our key, or not in its place.
 */
ssize_t seal_send(struct seal *seal, int fd, const struct iovec *parts, size_t count);
ssize_t seal_receive(struct seal *seal, int fd, void *to, size_t want, int flags);

/* As fdc_sock_write() and fdc_sock_read(), for the set-up. seal NULL: those. */
int seal_write(struct seal *seal, int fd, const void *bytes, size_t size);
int seal_read(struct seal *seal, int fd, void *bytes, size_t size, int64_t timeout_us);

#endif
