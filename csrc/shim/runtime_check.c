/*
 * The runtime's self-test. CUDA runtimes ask the driver for 16 bytes three times at
 * start-up and refuse to work (error 103) if they are not what they have computed
 * themselves: two constants, and a keyed hash (RFC 2104) over MD2 (RFC 1319) of facts
 * that both know: versions, process, thread, time, table addresses, devices. It is an
 * interoperability measure, stands alone in this file, and can be left out of a build
 * with FD_RUNTIME_CHECK=0; programs that use the driver API alone work without it.
 */
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "fdc/private.h"

enum { BLOCK = 16 };

/* RFC 1319: a permutation of 0 to 255 made from the digits of pi. */
static const uint8_t pi[256] = {
    41,  46,  67,  201, 162, 216, 124, 1,   61,  54,  84,  161, 236, 240, 6,   19,
    98,  167, 5,   243, 192, 199, 115, 140, 152, 147, 43,  217, 188, 76,  130, 202,
    30,  155, 87,  60,  253, 212, 224, 22,  103, 66,  111, 24,  138, 23,  229, 18,
    190, 78,  196, 214, 218, 158, 222, 73,  160, 251, 245, 142, 187, 47,  238, 122,
    169, 104, 121, 145, 21,  178, 7,   63,  148, 194, 16,  137, 11,  34,  95,  33,
    128, 127, 93,  154, 90,  144, 50,  39,  53,  62,  204, 231, 191, 247, 151, 3,
    255, 25,  48,  179, 72,  165, 181, 209, 215, 94,  146, 42,  172, 86,  170, 198,
    79,  184, 56,  210, 150, 164, 125, 182, 118, 252, 107, 226, 156, 116, 4,   241,
    69,  157, 112, 89,  100, 113, 135, 32,  134, 91,  207, 101, 230, 45,  168, 2,
    27,  96,  37,  173, 174, 176, 185, 246, 28,  70,  97,  105, 52,  64,  126, 15,
    85,  71,  163, 35,  221, 81,  175, 58,  195, 92,  249, 206, 186, 197, 234, 38,
    44,  83,  13,  110, 133, 40,  132, 9,   211, 223, 205, 244, 65,  129, 77,  82,
    106, 220, 55,  200, 108, 193, 171, 250, 36,  225, 123, 8,   12,  189, 177, 74,
    120, 136, 149, 139, 227, 99,  232, 109, 233, 203, 213, 254, 59,  0,   29,  57,
    242, 239, 183, 14,  102, 88,  208, 228, 166, 119, 114, 248, 235, 117, 75,  10,
    49,  68,  80,  180, 143, 237, 31,  26,  219, 153, 141, 51,  159, 17,  131, 20,
};

struct md2 {
    uint8_t state[BLOCK], sum[BLOCK], pending[BLOCK];
    unsigned int npending;
};

static void
md2_block(struct md2 *md, const uint8_t block[BLOCK])
{
    uint8_t x[3 * BLOCK];
    unsigned int i, round, t = 0;

    for (i = 0; i < BLOCK; i++) {
        x[i] = md->state[i];
        x[BLOCK + i] = block[i];
        x[2 * BLOCK + i] = md->state[i] ^ block[i];
    }
    for (round = 0; round < 18; round++) {
        for (i = 0; i < sizeof(x); i++) {
            x[i] ^= pi[t];
            t = x[i];
        }
        t = (t + round) & 0xFF;
    }
    memcpy(md->state, x, BLOCK);
}

static void
md2_sum(struct md2 *md, const uint8_t block[BLOCK])
{
    unsigned int i;
    uint8_t last = md->sum[BLOCK - 1];

    for (i = 0; i < BLOCK; i++) {
        md->sum[i] ^= pi[block[i] ^ last];
        last = md->sum[i];
    }
}

static void
md2_add(struct md2 *md, const void *bytes, size_t size)
{
    const uint8_t *p = bytes;

    while (size-- > 0) {
        md->pending[md->npending++] = *p++;
        if (md->npending == BLOCK) {
            md2_block(md, md->pending);
            md2_sum(md, md->pending);
            md->npending = 0;
        }
    }
}

static void
md2_end(struct md2 *md, uint8_t digest[BLOCK])
{
    uint8_t padding[BLOCK], sum[BLOCK];
    unsigned int n = BLOCK - md->npending;

    memset(padding, (int)n, sizeof(padding));
    md2_add(md, padding, n);
    memcpy(sum, md->sum, BLOCK);
    md2_block(md, sum);
    memcpy(digest, md->state, BLOCK);
}

/* Begins one of the two hashes of RFC 2104. */
static void
keyed(struct md2 *md, uint8_t mask)
{
    static const uint8_t key[BLOCK] = {
        0x14, 0x6a, 0xdd, 0xae, 0x53, 0xa9, 0xa7, 0x52,
        0xaa, 0x08, 0x41, 0x36, 0x0b, 0xf5, 0x5a, 0x9f,
    };
    uint8_t block[BLOCK];
    unsigned int i;

    for (i = 0; i < BLOCK; i++)
        block[i] = key[i] ^ mask;
    memset(md, 0, sizeof(*md));
    md2_add(md, block, BLOCK);
}

void
fdc_runtime_check(const struct fdc_runtime_check *check,
                  const struct fdc_private_device *devices, int count,
                  uint64_t result[2])
{
    struct {
        uint32_t driver, version, pid, thread;
        uint64_t table_runtime, table_check, function, seconds;
    } facts = {
        check->driver_version,
        check->version,
        (uint32_t)getpid(),
        (uint32_t)(uintptr_t)pthread_self(),
        (uint64_t)(uintptr_t)check->table_runtime,
        (uint64_t)(uintptr_t)check->table_check,
        (uint64_t)(uintptr_t)check->function,
        check->seconds,
    };
    uint8_t inner[BLOCK];
    struct md2 md;
    int i;

    if (check->version % 10 < 2) {
        result[0] =
            check->version % 10 == 0 ? 0x3341181C03CB675Cull : 0x1841181C03CB675Cull;
        result[1] = 0x8ED383AA1F4CD1E8ull;
        return;
    }
    keyed(&md, 0x36);
    md2_add(&md, &facts, sizeof(facts));
    for (i = 0; i < count; i++) {
        md2_add(&md, devices[i].uuid, sizeof(devices[i].uuid));
        md2_add(&md, &devices[i].pci_domain, 4);
        md2_add(&md, &devices[i].pci_bus, 4);
        md2_add(&md, &devices[i].pci_device, 4);
    }
    md2_end(&md, inner);
    keyed(&md, 0x5c);
    md2_add(&md, inner, sizeof(inner));
    md2_end(&md, (uint8_t *)result);
}
