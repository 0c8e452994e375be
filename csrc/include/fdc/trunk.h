/*
 * A trunk: a connection from one server's worker to another's, on which the bytes of copies
 * between their GPUs go without passing through the client. The client arranges it: it
 * knows both, and each of them trusts only what the client says.
 *
 *   client -> worker A    fdc_trunk_about, in fdcTrunkOpen: whom to dial, and the key
 *   worker A -> server B  the handshake of fdc/attach.h with kind TRUNK, proven by the key
 *   worker B -> worker A  fdc_attach_ready
 *   worker A -> worker B  fdc_trunk_frame and bytes, as often as there are pieces
 *
 * Which copy is on its way, how large it is and where its bytes go both workers know from
 * the client (fdcTrunkCopy). So a frame says only what has to be true anyway,
 * and one that says anything else ends the trunk.
 */
#ifndef FDC_TRUNK_H
#define FDC_TRUNK_H

#include <stdbool.h>
#include <stdint.h>

#define FDC_TRUNK_MAGIC 0x4b4e5254u             /* "TRNK" */
#define FDC_TRUNK_PIECE_MAX (1u << 20)
#define FDC_TRUNK_DIAL_US 2000000        /* all of dialling and the handshake */

enum { FDC_TRUNK_UNIX = 1, FDC_TRUNK_IPV4, FDC_TRUNK_IPV6 };

struct fdc_trunk_about {
    uint8_t lease[16], session[16];     /* of the client's session with the other server */
    uint8_t nonce[32];                  /* fresh; its first 8 bytes are the trunk's number */
    uint8_t key[32];                    /* fdc_attach_trunk_key() */
    uint32_t family;                    /* FDC_TRUNK_... */
    uint32_t port;
    uint32_t seal;                      /* 1: what goes over it is sealed */
    uint32_t unused;                    /* 0 */
    uint8_t address[112];               /* 4 or 16 bytes, or a path that ends with NUL */
};

struct fdc_trunk_frame {
    uint32_t magic;
    uint32_t size;                      /* of the bytes behind it */
    uint64_t copy;                      /* the client's number */
    uint64_t offset;                    /* bytes of this copy before these */
};

/* One end of it. */
struct seal;
struct fdc_trunk {
    int fd;
    struct seal *seal;                  /* NULL: bytes go as they are */
};

/* The trunk's number. */
uint64_t fdc_trunk_number(const uint8_t nonce[32]);
/* Dials, proves and is proven to, and hears that the other worker is ready. 0, or -errno;
 * nothing is said to who does not greet as an fdserver does. */
int fdc_trunk_dial(const struct fdc_trunk_about *about, const uint8_t protocol[32],
                  struct fdc_trunk *trunk);
/* The other end: the server has handed the socket over, and says its key if it is sealed
 * (else NULL). 0, or -errno and the socket is closed. ready: tells the dialling side, once
 * a copy would find the trunk here. 0 or -errno. */
int fdc_trunk_accept(int fd, const uint8_t key[32], struct fdc_trunk *trunk);
int fdc_trunk_ready(int fd);
void fdc_trunk_close(struct fdc_trunk *trunk);
/* One piece. 0 or -errno. receive: -EPROTO where the frame is not the one that must come. */
int fdc_trunk_send(struct fdc_trunk *trunk, uint64_t copy, uint64_t offset, const void *bytes,
                  uint32_t size);
int fdc_trunk_receive(struct fdc_trunk *trunk, uint64_t copy, uint64_t offset, void *bytes,
                     uint32_t size);

#endif
