/*
 * What travels: the head of every message. The fields after the head of each call are
 * generated from csrc/spec/ into build/gen/proto.h. Little endian, 8-byte aligned.
 */
#ifndef FDC_WIRE_H
#define FDC_WIRE_H

#include <stdint.h>

/* Head of every message on the command and side lanes (client to worker). */
struct fdc_msg {
    uint32_t size;          /* of the whole message, a multiple of 8 */
    uint16_t id;            /* call, FDC_ID_... */
    uint16_t flags;         /* FDC_MSG_... */
    uint64_t ticket;        /* the client's number for what it waits for; 0: nothing */
    uint32_t ctx;           /* index of the context the call runs in; 0: none */
    uint32_t thread;        /* the client's number of the calling thread, from 1 */
    uint64_t put;           /* fdc_link_put() ticket whose bytes this message uses; 0: none */
};

enum {
    FDC_MSG_REPLY = 1,      /* the caller waits for the reply */
    FDC_MSG_DONE = 2,       /* tell when the work that this message enqueued has finished */
    FDC_MSG_WAITS = 4,      /* ... and the caller waits for that: both sides count it */
    FDC_MSG_FIRST = 8,      /* a copy up: all later work, on any stream, comes after it */
    FDC_MSG_ASIDE = 16,     /* a copy down: its DONE alone tells of its bytes */
};

/* Head of every message on the reply lane (worker to client). */
struct fdc_reply {
    uint32_t size;
    uint16_t id;            /* the call's id, or FDC_REPLY_... */
    uint16_t flags;
    uint64_t ticket;        /* of the message that is answered */
    int32_t result;         /* CUresult of this call */
    int32_t first_result;   /* the session's first failure of a call without reply, else 0 */
    uint16_t first_id;      /* ... and which call that was */
    uint16_t lost;          /* 1 + the device whose context has failed for good last, 0: none */
    uint16_t lost_result;   /* ... with this CUresult */
    uint16_t company;       /* FDC_COMPANY; above it a number that changes with what
                               contexts and code take of the device */
};

#define FDC_COMPANY 1       /* other processes of the lease are attached */

/* Ids of messages of the worker's own. Calls have ids from 0x0100 on. */
enum {
    FDC_REPLY_DONE = 1,     /* ticket's work has finished; result: 0 or what it failed with */
    FDC_REPLY_HOST_FN = 2,  /* run host function number `ticket`, then answer on the side lane */
    FDC_REPLY_BYE = 3,      /* the worker ends the session; result says why */
    FDC_REPLY_NOTE = 5,     /* nothing but its head: others have come */
    FDC_REPLY_PRINT = 4,    /* what kernels printed: `ticket` bytes follow the head */
};
enum {
    FDC_PRINT_ERROR = 1,    /* flags of FDC_REPLY_PRINT: for standard error (assertions) */
};
enum {
    FDC_SIDE_HOST_FN_DONE = 1,      /* ticket: the number from FDC_REPLY_HOST_FN */
    FDC_SIDE_GATE = 2,              /* ctx; ticket: word << 32 | value, see fdcGate */
};

/* Words that streams of one context can stand still at. They only grow, modulo 2^32. */
#define FDC_GATE_WORDS 16384u

/* A piece of a message beyond its fixed fields: offset from the message's start. */
struct fdc_span {
    uint32_t offset, size;
};

/* Bytes in a region, see fdc_link_region(). */
struct fdc_chunk {
    uint64_t offset;
    uint64_t size;
};

/* A kernel: its module's or library's handle, and its place in the table that came with
 * the load (fdc/table.h). */
struct fdc_wire_func {
    uint64_t code;
    uint32_t index;
    uint32_t pad;
};

struct fdc_dim3 {
    uint32_t x, y, z;
};

/* The value of a kernel node's attribute: CUlaunchAttributeValue. */
struct fdc_node_attribute {
    uint64_t word[8];
};

struct fdc_digest {
    uint8_t bytes[32];
};

#endif
