/* SHA-256 and HMAC against the published examples (FIPS 180-4, RFC 4231). */
#include "check.h"
#include "base/sha256.c" /* the portable rounds are reached only on old processors */

static void
check_hex(const uint8_t digest[32], const char *want)
{
    char text[65];

    for (int i = 0; i < 32; i++)
        snprintf(text + 2 * i, 3, "%02x", digest[i]);
    CHECK_STR(text, want);
}

static void
test_published_digests(void)
{
    uint8_t digest[32];
    char *million = malloc(1000000);

    CHECK(million);
    fdc_sha256("", 0, digest);
    check_hex(digest,
              "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    fdc_sha256("abc", 3, digest);
    check_hex(digest,
              "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    fdc_sha256("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56, digest);
    check_hex(digest,
              "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    memset(million, 'a', 1000000);
    fdc_sha256(million, 1000000, digest);
    check_hex(digest,
              "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    free(million);
}

static void
test_pieces_hash_like_the_whole(void)
{
    uint8_t bytes[300], whole[32], pieces[32];
    struct fdc_sha256 hash;

    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)(i * 11);
    for (size_t size = 0; size <= sizeof(bytes); size++) {
        fdc_sha256(bytes, size, whole);
        for (size_t step = 1; step < 130; step += 13) {
            fdc_sha256_init(&hash);
            for (size_t at = 0; at < size; at += step)
                fdc_sha256_add(&hash, bytes + at, size - at < step ? size - at : step);
            fdc_sha256_end(&hash, pieces);
            CHECK_BYTES(whole, pieces, 32);
        }
    }
}

static void
test_portable_rounds_do_the_same(void)
{
    uint32_t one[8], two[8];
    uint8_t bytes[4 * BLOCK];

    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)(i * 37 + 5);
    memcpy(one, first_state, sizeof(one));
    memcpy(two, first_state, sizeof(two));
    add_blocks(one, bytes, 4);
    for (int i = 0; i < 4; i++)
        add_plain(two, bytes + i * BLOCK);
    CHECK_BYTES(one, two, sizeof(one));
}

static void
test_published_hmacs(void)
{
    uint8_t digest[32], key[131];

    memset(key, 0x0b, 20);
    fdc_hmac_sha256(key, 20, "Hi There", 8, digest);
    check_hex(digest,
              "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
    fdc_hmac_sha256("Jefe", 4, "what do ya want for nothing?", 28, digest);
    check_hex(digest,
              "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    memset(key, 0xaa, 131);
    fdc_hmac_sha256(key, 131, "Test Using Larger Than Block-Size Key - Hash Key First",
                    54, digest);
    check_hex(digest,
              "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
}

static void
test_secrets_compare(void)
{
    CHECK(fdc_equal_secret("abcd", "abcd", 4));
    CHECK(!fdc_equal_secret("abcd", "abce", 4));
    CHECK(fdc_equal_secret("abcd", "abce", 3));
    CHECK(fdc_equal_secret("", "x", 0));
}

int
main(void)
{
    int failed = 0;

    RUN(test_published_digests);
    RUN(test_pieces_hash_like_the_whole);
    RUN(test_portable_rounds_do_the_same);
    RUN(test_published_hmacs);
    RUN(test_secrets_compare);
    return failed;
}
