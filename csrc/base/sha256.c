/*
 * SHA-256 (FIPS 180-4) and HMAC (RFC 2104), for the attach handshake and content
 * hashes: portable, and with the processor's instructions where it has them. Hashing is
 * never on the path of a small message.
 */
#include <string.h>
#ifdef __x86_64__
#include <immintrin.h>
#endif

#include "fdc/base.h"

enum { BLOCK = 64, DIGEST = 32 };

/* First 32 bits of the fractional parts of the cube roots of the first 64 primes. */
static const uint32_t round_constant[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4,
    0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe,
    0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f,
    0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7,
    0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc,
    0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b,
    0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116,
    0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7,
    0xc67178f2,
};

/* ... and of the square roots of the first 8. */
static const uint32_t first_state[8] = {
    0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
    0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
};

static uint32_t
rotate(uint32_t word, int right)
{
    return word >> right | word << (32 - right);
}

static void
add_plain(uint32_t state[8], const uint8_t *block)
{
    uint32_t w[64], v[8], t1, t2;

    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 |
               (uint32_t)block[4 * i + 2] << 8 | block[4 * i + 3];
    for (int i = 16; i < 64; i++) {
        t1 = rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ w[i - 15] >> 3;
        t2 = rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ w[i - 2] >> 10;
        w[i] = w[i - 16] + t1 + w[i - 7] + t2;
    }
    memcpy(v, state, sizeof(v));
    for (int i = 0; i < 64; i++) {
        t1 = v[7] + (rotate(v[4], 6) ^ rotate(v[4], 11) ^ rotate(v[4], 25)) +
             ((v[4] & v[5]) ^ (~v[4] & v[6])) + round_constant[i] + w[i];
        t2 = (rotate(v[0], 2) ^ rotate(v[0], 13) ^ rotate(v[0], 22)) +
             ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
        memmove(v + 1, v, 7 * sizeof(v[0]));
        v[4] += t1;
        v[0] = t1 + t2;
    }
    for (int i = 0; i < 8; i++)
        state[i] += v[i];
}

#ifdef __x86_64__
/*
 * With the processor's own instructions, which take two rounds at a time and want the state
 * as (a b e f) and (c d g h).
 */
static __attribute__((target("sha,sse4.1"))) void
add_blocks_sha(uint32_t state[8], const uint8_t *bytes, size_t blocks)
{
    const __m128i big_endian =
        _mm_set_epi64x(0x0c0d0e0f08090a0bll, 0x0405060700010203ll);
    __m128i abcd = _mm_loadu_si128((const __m128i *)state);
    __m128i efgh = _mm_loadu_si128((const __m128i *)(state + 4));
    __m128i low = _mm_shuffle_epi32(abcd, 0xb1), high = _mm_shuffle_epi32(efgh, 0x1b);
    __m128i abef = _mm_alignr_epi8(low, high, 8);
    __m128i cdgh = _mm_blend_epi16(high, low, 0xf0);

    for (; blocks > 0; blocks--, bytes += BLOCK) {
        __m128i first = abef, second = cdgh, w[4];

#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) {
            __m128i rounds;

            if (i < 4) {
                w[i] = _mm_loadu_si128((const __m128i *)(bytes + 16 * i));
                w[i] = _mm_shuffle_epi8(w[i], big_endian);
            } else { /* w[i] of w[i - 16], w[i - 15], w[i - 7] and w[i - 2], by fours */
                __m128i next = _mm_sha256msg1_epu32(w[i % 4], w[(i + 1) % 4]);

                next = _mm_add_epi32(
                    next, _mm_alignr_epi8(w[(i + 3) % 4], w[(i + 2) % 4], 4));
                w[i % 4] = _mm_sha256msg2_epu32(next, w[(i + 3) % 4]);
            }
            rounds = _mm_add_epi32(
                w[i % 4], _mm_loadu_si128((const __m128i *)(round_constant + 4 * i)));
            cdgh = _mm_sha256rnds2_epu32(cdgh, abef, rounds);
            rounds = _mm_shuffle_epi32(rounds, 0x0e);
            abef = _mm_sha256rnds2_epu32(abef, cdgh, rounds);
        }
        abef = _mm_add_epi32(abef, first);
        cdgh = _mm_add_epi32(cdgh, second);
    }
    low = _mm_shuffle_epi32(abef, 0x1b);
    high = _mm_shuffle_epi32(cdgh, 0xb1);
    _mm_storeu_si128((__m128i *)state, _mm_blend_epi16(low, high, 0xf0));
    _mm_storeu_si128((__m128i *)(state + 4), _mm_alignr_epi8(high, low, 8));
}
#endif

static void
add_blocks(uint32_t state[8], const uint8_t *bytes, size_t blocks)
{
#ifdef __x86_64__
    if (__builtin_cpu_supports("sha") && __builtin_cpu_supports("sse4.1")) {
        add_blocks_sha(state, bytes, blocks);
        return;
    }
#endif
    for (; blocks > 0; blocks--, bytes += BLOCK)
        add_plain(state, bytes);
}

void
fdc_sha256_init(struct fdc_sha256 *hash)
{
    memcpy(hash->state, first_state, sizeof(hash->state));
    hash->bytes = 0;
}

void
fdc_sha256_add(struct fdc_sha256 *hash, const void *bytes, size_t size)
{
    const uint8_t *next = bytes;
    size_t held = hash->bytes % BLOCK, part;

    if (size == 0)
        return;
    hash->bytes += size;
    if (held > 0) {
        part = BLOCK - held < size ? BLOCK - held : size;
        memcpy(hash->block + held, next, part);
        next += part;
        size -= part;
        if (held + part < BLOCK)
            return;
        add_blocks(hash->state, hash->block, 1);
    }
    add_blocks(hash->state, next, size / BLOCK);
    next += size - size % BLOCK;
    size %= BLOCK;
    memcpy(hash->block, next, size);
}

void
fdc_sha256_end(struct fdc_sha256 *hash, uint8_t digest[32])
{
    size_t held = hash->bytes % BLOCK;
    uint64_t bits = hash->bytes * 8;

    hash->block[held++] = 0x80;
    if (held > BLOCK - 8) {
        memset(hash->block + held, 0, BLOCK - held);
        add_blocks(hash->state, hash->block, 1);
        held = 0;
    }
    memset(hash->block + held, 0, BLOCK - 8 - held);
    for (int i = 0; i < 8; i++)
        hash->block[BLOCK - 1 - i] = (uint8_t)(bits >> 8 * i);
    add_blocks(hash->state, hash->block, 1);
    for (int i = 0; i < DIGEST; i++)
        digest[i] = (uint8_t)(hash->state[i / 4] >> (24 - 8 * (i % 4)));
}

void
fdc_sha256(const void *bytes, size_t size, uint8_t digest[32])
{
    struct fdc_sha256 hash;

    fdc_sha256_init(&hash);
    fdc_sha256_add(&hash, bytes, size);
    fdc_sha256_end(&hash, digest);
}

void
fdc_hmac_sha256(const void *key, size_t key_size, const void *bytes, size_t size,
                uint8_t digest[32])
{
    uint8_t block[BLOCK] = {0}, pad[BLOCK], inner[DIGEST];
    struct fdc_sha256 hash;

    if (key_size > BLOCK)
        fdc_sha256(key, key_size, block);
    else if (key_size > 0)
        memcpy(block, key, key_size);

    for (int i = 0; i < BLOCK; i++)
        pad[i] = block[i] ^ 0x36;
    fdc_sha256_init(&hash);
    fdc_sha256_add(&hash, pad, BLOCK);
    fdc_sha256_add(&hash, bytes, size);
    fdc_sha256_end(&hash, inner);

    for (int i = 0; i < BLOCK; i++)
        pad[i] = block[i] ^ 0x5c;
    fdc_sha256_init(&hash);
    fdc_sha256_add(&hash, pad, BLOCK);
    fdc_sha256_add(&hash, inner, DIGEST);
    fdc_sha256_end(&hash, digest);
}

bool
fdc_equal_secret(const void *a, const void *b, size_t size)
{
    const volatile uint8_t *left = a, *right = b;
    uint8_t differ = 0;

    for (size_t i = 0; i < size; i++)
        differ |= left[i] ^ right[i];
    return differ == 0;
}
