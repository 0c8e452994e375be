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
 * Over tcp connections with kind BULK and the same session number follow, one or more.
 *
 * Where the request says seal, what follows the ready on the connection is sealed
 * (transport/seal.h). Both ends make the connection's key of the lease's secret, which
 * never travels here. Since the proof covers the word, nobody between can take it away;
 * that the lease has to be sealed both ends know from the control plane.
 *
 * With kind RESUME a client comes again after a tcp connection of its session broke. It
 * proves a key that is made of the lease's secret and is good for this session alone, and
 * the connection's seal is made of that and the new nonces. After the answer the link's two
 * ends speak (transport/tcp_resume.c).
 *
 * While a session's client is away, its server may ask on the lease's HOLD connections
 * whether it lives: fdhold answers by the lock that the client has on the session file.
 *
 * With kind TRUNK another server's worker says the same to reach this server's (fdc/trunk.h).
 * It does not know the secret: the client has given it a key that is good for one
 * connection to one session, and both proofs are made with that.
 */
#ifndef FDC_ATTACH_H
#define FDC_ATTACH_H

#include <stdbool.h>
#include <stdint.h>

#define FDC_ATTACH_MAGIC 0x31434446u            /* "FDC1" */
#define FDC_ATTACH_VERSION 3

/* HOLD is fdrun's own connection: the lease lives while it or a session is open. No worker
 * answers on it; road and session are 0. */
enum {
    FDC_ATTACH_COMMAND = 1,
    FDC_ATTACH_BULK,
    FDC_ATTACH_HOLD,
    FDC_ATTACH_TRUNK,
    FDC_ATTACH_RESUME,
};

struct fdc_attach_hello {
    uint32_t magic;
    uint32_t version;               /* of this handshake and of what the roads do
                                       with a connection: FDC_ATTACH_VERSION */
    uint8_t protocol[32];           /* FDC_PROTO_HASH of the server's build */
    uint8_t nonce[32];
};

struct fdc_attach_request {
    uint32_t magic;
    uint32_t kind;                  /* FDC_ATTACH_... */
    uint32_t road;                  /* enum fdc_road */
    uint32_t pid;                   /* the client's, for the server's lists */
    uint32_t seal;                  /* 1: sealed, 0: not; of HOLD 0, nothing follows it */
    uint32_t more;                  /* COMMAND: 1 if the client has its lock, see
                                       fdc_attach_lock(), and 16 for each BULK but the
                                       first; BULK: its number from 0 on; RESUME: turn << 4
                                       | connection; else 0 */
    uint8_t lease[16];              /* lease id */
    uint8_t session[16];            /* chosen by the client, random; the same for BULK */
    uint8_t protocol[32];
    uint8_t nonce[32];
    uint8_t proof[32];              /* HMAC-SHA256(secret, "fdcore attach" hello.nonce nonce
                                       lease session kind(4) road(4) seal(4)),
                                       of RESUME also more(4), and with its own key */
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

/* On a HOLD connection: from the server with life 0, back with 1 (it lives) or 2. First
 * fdhold says that it is the one who keeps it: over a Unix socket the server learns its
 * process that way, and the next server knows whom it may expect. */
struct fdc_attach_life {
    uint32_t magic;
    uint32_t life;
    uint8_t session[16];
};
enum { FDC_ATTACH_ASKED, FDC_ATTACH_LIVES, FDC_ATTACH_GONE, FDC_ATTACH_KEEPS };

/* base/attach.c. prove: fills request->proof, from all that it is over. proven: whether
 * the server knows the secret too. */
void fdc_attach_prove(const uint8_t secret[32], const struct fdc_attach_hello *hello,
                      struct fdc_attach_request *request);
/* The key of a sealed connection: HKDF-SHA256(secret, salt: hello.nonce request.nonce,
 * info: "fdcore seal" lease session kind(4) road(4)). */
void fdc_attach_seal_key(const uint8_t secret[32], const struct fdc_attach_hello *hello,
                         const struct fdc_attach_request *request, uint8_t key[32]);
/* What a session's RESUME is proved with: HMAC-SHA256(HMAC-SHA256(secret, "fdcore resume"),
 * session). */
void fdc_attach_resume_key(const uint8_t secret[32], const uint8_t session[16],
                           uint8_t key[32]);
/* The byte of the session file that a client has locked (F_OFD_SETLK, F_RDLCK) for as long
 * as it lives. */
int64_t fdc_attach_lock(const uint8_t session[16]);
/* What a trunk's key is made of, which says nothing of the secret; and the key of the one
 * trunk with this nonce, HMAC-SHA256(trunks, nonce). */
void fdc_attach_trunks(const uint8_t secret[32], uint8_t trunks[32]);
void fdc_attach_trunk_key(const uint8_t trunks[32], const uint8_t nonce[32], uint8_t key[32]);
bool fdc_attach_proven(const uint8_t secret[32], const struct fdc_attach_hello *hello,
                       const struct fdc_attach_request *request,
                       const struct fdc_attach_answer *answer);

#endif
