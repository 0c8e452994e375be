/*
 * The attach handshake: what a client says on a fresh data connection before it becomes
 * a link. fdserver (Python) answers it and hands the connected socket to a worker; the
 * worker then sends fdc_attach_ready and the link begins. Little endian, fixed sizes.
 *
 *   server -> client   fdc_attach_hello     its protocol hash and a nonce
 *   client -> server   fdc_attach_request   proves the lease's secret over both nonces
 *   server -> client   fdc_attach_answer    accepted, or why not (then it closes)
 *   worker -> client   fdc_attach_ready     on the command connection only: go
 *
 * Over tcp a second connection with kind BULK and the same session number follows.
 */
#ifndef FDC_ATTACH_H
#define FDC_ATTACH_H

#include <stdbool.h>
#include <stdint.h>

#define FDC_ATTACH_MAGIC 0x31434446u            /* "FDC1" */

/* HOLD is fdrun's own connection: the lease lives while it or a session is open. No worker
 * answers on it; road and session are 0. */
enum { FDC_ATTACH_COMMAND = 1, FDC_ATTACH_BULK = 2, FDC_ATTACH_HOLD = 3 };

struct fdc_attach_hello {
    uint32_t magic;
    uint32_t version;               /* of this handshake, 1 */
    uint8_t protocol[32];           /* FDC_PROTO_HASH of the server's build */
    uint8_t nonce[32];
};

struct fdc_attach_request {
    uint32_t magic;
    uint32_t kind;                  /* FDC_ATTACH_... */
    uint32_t road;                  /* enum fdc_road */
    uint32_t pid;                   /* the client's, for the server's lists */
    uint8_t lease[16];              /* lease id */
    uint8_t session[16];            /* chosen by the client, random; the same for BULK */
    uint8_t protocol[32];
    uint8_t nonce[32];
    uint8_t proof[32];              /* HMAC-SHA256(secret, "fdcore attach" hello.nonce nonce
                                       lease session kind(4) road(4)) */
    char program[64];               /* for lists only, untrusted */
};

struct fdc_attach_answer {
    uint32_t magic;
    int32_t error;                  /* 0, or a positive errno */
    uint8_t proof[32];              /* HMAC-SHA256(secret, "fdcore server" nonce hello.nonce) */
    char reason[216];               /* NUL-terminated, one line, for people */
};

struct fdc_attach_ready {
    uint32_t magic;
    int32_t error;                  /* 0, or a positive errno: the worker cannot serve */
    char reason[248];
};

/* base/attach.c. prove: fills request->proof, from all that it is over. proven: whether
 * the server knows the secret too. */
void fdc_attach_prove(const uint8_t secret[32], const struct fdc_attach_hello *hello,
                      struct fdc_attach_request *request);
bool fdc_attach_proven(const uint8_t secret[32], const struct fdc_attach_hello *hello,
                       const struct fdc_attach_request *request,
                       const struct fdc_attach_answer *answer);

#endif
