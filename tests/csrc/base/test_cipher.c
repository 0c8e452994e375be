/* AES-256-GCM against the published examples (McGrew and Viega, the validation suite of
 * NIST has them too), HKDF against RFC 5869, SipHash against its authors' table. */
#include <dlfcn.h>
#include <errno.h>

#include "check.h"
#include "fdc/cipher.h"
#include "fdc/siphash.h"

static struct fdc_crypto *crypto;

static size_t
from_hex(const char *text, uint8_t *bytes)
{
    size_t size = strlen(text) / 2;
    unsigned value;

    for (size_t i = 0; i < size; i++) {
        CHECK_EQ(sscanf(text + 2 * i, "%2x", &value), 1);
        bytes[i] = (uint8_t)value;
    }
    return size;
}

static const struct {
    const char *key, *nonce, *beside, *plain, *sealed, *tag;
} example[] = {
    {"0000000000000000000000000000000000000000000000000000000000000000",
     "000000000000000000000000", "", "", "", "530f8afbc74536b9a963b4f1c4cb738b"},
    {"0000000000000000000000000000000000000000000000000000000000000000",
     "000000000000000000000000", "", "00000000000000000000000000000000",
     "cea7403d4d606b6e074ec5d3baf39d18", "d0d1c8a799996bf0265b98b5d48ab919"},
    {"feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308",
     "cafebabefacedbaddecaf888", "",
     "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
     "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255",
     "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
     "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662898015ad",
     "b094dac5d93471bdec1a502270e3cc6c"},
    {"feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308",
     "cafebabefacedbaddecaf888", "feedfacedeadbeeffeedfacedeadbeefabaddad2",
     "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
     "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
     "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
     "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662",
     "76fc6ece0f4e1768cddf8853bb2d551b"},
};

static void
test_published_examples(void)
{
    uint8_t key[32], nonce[12], beside[64], plain[64], sealed[64], tag[16], out[64], got[16];
    struct fdc_cipher *seals, *opens;

    CHECK_EQ(fdc_cipher_new(crypto, true, &seals), 0);
    CHECK_EQ(fdc_cipher_new(crypto, false, &opens), 0);
    for (size_t i = 0; i < FDC_COUNT(example); i++) {
        size_t size = from_hex(example[i].plain, plain);
        size_t beside_size = from_hex(example[i].beside, beside);

        from_hex(example[i].key, key);
        from_hex(example[i].nonce, nonce);
        from_hex(example[i].sealed, sealed);
        from_hex(example[i].tag, tag);
        /* Whole, and in pieces of every size. */
        for (size_t step = 1; step <= 64; step++) {
            CHECK_EQ(fdc_cipher_key(seals, key), 0);
            CHECK_EQ(fdc_cipher_begin(seals, nonce, beside, beside_size), 0);
            for (size_t at = 0; at < size; at += step)
                CHECK_EQ(fdc_cipher_piece(seals, out + at, plain + at,
                                          size - at < step ? size - at : step),
                         0);
            CHECK_EQ(fdc_cipher_end(seals, got), 0);
            CHECK_BYTES(out, sealed, size);
            CHECK_BYTES(got, tag, 16);
        }
        CHECK_EQ(fdc_cipher_key(opens, key), 0);
        CHECK_EQ(fdc_cipher_begin(opens, nonce, beside, beside_size), 0);
        CHECK_EQ(fdc_cipher_piece(opens, out, sealed, size), 0);
        CHECK_EQ(fdc_cipher_end(opens, tag), 0);
        CHECK_BYTES(out, plain, size);
        /* Any other tag is refused, and the cipher can go on. */
        for (int bit = 0; bit < 128; bit++) {
            tag[bit / 8] ^= (uint8_t)(1 << bit % 8);
            CHECK_EQ(fdc_cipher_begin(opens, nonce, beside, beside_size), 0);
            CHECK_EQ(fdc_cipher_piece(opens, out, sealed, size), 0);
            CHECK_EQ(fdc_cipher_end(opens, tag), -EBADMSG);
            tag[bit / 8] ^= (uint8_t)(1 << bit % 8);
        }
    }
    fdc_cipher_free(seals);
    fdc_cipher_free(opens);
}

/* The program that we are a guest of may clean its OpenSSL up before its last call. */
static void
test_cipher_outlives_the_programs_openssl(void)
{
    uint8_t key[32] = {1}, nonce[12] = {0}, bytes[64] = {0}, tag[16];
    void *library = dlopen("libcrypto.so.3", RTLD_NOW);
    struct fdc_cipher *seals, *opens;
    void (*cleanup)(void);
    void *found;

    CHECK(library);
    found = dlsym(library, "OPENSSL_cleanup");
    CHECK(found);
    memcpy(&cleanup, &found, sizeof(found));
    CHECK_EQ(fdc_cipher_new(crypto, true, &seals), 0);
    CHECK_EQ(fdc_cipher_new(crypto, false, &opens), 0);
    CHECK_EQ(fdc_cipher_key(seals, key), 0);
    CHECK_EQ(fdc_cipher_key(opens, key), 0);
    for (int round = 0; round < 3; round++) {
        nonce[0] = (uint8_t)round;
        CHECK_EQ(fdc_cipher_begin(seals, nonce, "x", 1), 0);
        CHECK_EQ(fdc_cipher_piece(seals, bytes, bytes, sizeof(bytes)), 0);
        CHECK_EQ(fdc_cipher_end(seals, tag), 0);
        CHECK_EQ(fdc_cipher_begin(opens, nonce, "x", 1), 0);
        CHECK_EQ(fdc_cipher_piece(opens, bytes, bytes, sizeof(bytes)), 0);
        CHECK_EQ(fdc_cipher_end(opens, tag), 0);
        for (size_t i = 0; i < sizeof(bytes); i++)
            CHECK_EQ(bytes[i], 0);
        if (round == 0)
            cleanup();
        if (round == 1) { /* as a new key does, in the midst of a session */
            CHECK_EQ(fdc_cipher_key(seals, key), 0);
            CHECK_EQ(fdc_cipher_key(opens, key), 0);
        }
    }
    fdc_cipher_free(seals);
    fdc_cipher_free(opens);
    _exit(0); /* OpenSSL cannot be cleaned up twice */
}

static void
test_published_keys(void)
{
    uint8_t secret[22], salt[13], info[10], key[42], want[42];

    memset(secret, 0x0b, sizeof(secret));
    for (size_t i = 0; i < sizeof(salt); i++)
        salt[i] = (uint8_t)i;
    for (size_t i = 0; i < sizeof(info); i++)
        info[i] = (uint8_t)(0xf0 + i);
    from_hex("3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"
             "34007208d5b887185865",
             want);
    fdc_hkdf_sha256(secret, sizeof(secret), salt, sizeof(salt), info, sizeof(info), key,
                    sizeof(key));
    CHECK_BYTES(key, want, sizeof(key));
    from_hex("8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d"
             "9d201395faa4b61a96c8",
             want);
    fdc_hkdf_sha256(secret, sizeof(secret), "", 0, "", 0, key, sizeof(key));
    CHECK_BYTES(key, want, sizeof(key));
}

static void
test_published_siphash(void)
{
    const uint64_t key[] = {UINT64_C(0x0706050403020100), UINT64_C(0x0f0e0d0c0b0a0908)};

    CHECK_EQ(fdc_siphash(key, key[0], key[1]), UINT64_C(0x3f2acc7f57c29bdb));
}

int
main(void)
{
    const char *why;
    int failed = 0;

    RUN(test_published_keys);
    RUN(test_published_siphash);
    if (fdc_crypto_open(&crypto, &why)) {
        fprintf(stderr, "%s\n", why);
        return failed ? failed : CHECK_SKIPPED;
    }
    RUN(test_published_examples);
    RUN(test_cipher_outlives_the_programs_openssl);
    fdc_crypto_close(crypto);
    return failed;
}
