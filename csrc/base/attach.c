/*
 * The proofs of the attach handshake, which the shim and fdhold make alike:
 * fdc/attach.h says what they are over.
 */
#include <string.h>

#include "fdc/attach.h"
#include "fdc/base.h"
#include "fdc/cipher.h"

static uint8_t *
put(uint8_t *at, const void *bytes, size_t size)
{
    memcpy(at, bytes, size);
    return at + size;
}

void
fdc_attach_prove(const uint8_t secret[32], const struct fdc_attach_hello *hello,
                 struct fdc_attach_request *request)
{
    uint8_t text[256], *at = text;

    at = put(at, "fdcore attach", 13);
    at = put(at, hello->nonce, 32);
    at = put(at, request->nonce, 32);
    at = put(at, request->lease, 16);
    at = put(at, request->session, 16);
    at = put(at, &request->kind, 4);
    at = put(at, &request->road, 4);
    at = put(at, &request->seal, 4);
    if (request->kind == FDC_ATTACH_RESUME)
        at = put(at, &request->more, 4);
    fdc_hmac_sha256(secret, 32, text, (size_t)(at - text), request->proof);
}

void
fdc_attach_seal_key(const uint8_t secret[32], const struct fdc_attach_hello *hello,
                    const struct fdc_attach_request *request, uint8_t key[32])
{
    uint8_t salt[64], info[64], *at = salt;

    at = put(at, hello->nonce, 32);
    put(at, request->nonce, 32);
    at = put(info, "fdcore seal", 11);
    at = put(at, request->lease, 16);
    at = put(at, request->session, 16);
    at = put(at, &request->kind, 4);
    at = put(at, &request->road, 4);
    fdc_hkdf_sha256(secret, 32, salt, sizeof(salt), info, (size_t)(at - info), key, 32);
}

void
fdc_attach_resume_key(const uint8_t secret[32], const uint8_t session[16], uint8_t key[32])
{
    uint8_t all[32];

    fdc_hmac_sha256(secret, 32, "fdcore resume", 13, all);
    fdc_hmac_sha256(all, 32, session, 16, key);
    explicit_bzero(all, sizeof(all));
}

int64_t
fdc_attach_lock(const uint8_t session[16])
{
    uint64_t number;

    memcpy(&number, session, sizeof(number));
    return (int64_t)((number & (UINT64_MAX >> 2)) | UINT64_C(1) << 32);
}

void
fdc_attach_trunks(const uint8_t secret[32], uint8_t trunks[32])
{
    fdc_hmac_sha256(secret, 32, "fdcore trunk", 12, trunks);
}

void
fdc_attach_trunk_key(const uint8_t trunks[32], const uint8_t nonce[32], uint8_t key[32])
{
    fdc_hmac_sha256(trunks, 32, nonce, 32, key);
}

bool
fdc_attach_proven(const uint8_t secret[32], const struct fdc_attach_hello *hello,
                  const struct fdc_attach_request *request,
                  const struct fdc_attach_answer *answer)
{
    uint8_t text[128], want[32], *at = text;

    at = put(at, "fdcore server", 13);
    at = put(at, request->nonce, 32);
    at = put(at, hello->nonce, 32);
    fdc_hmac_sha256(secret, 32, text, (size_t)(at - text), want);
    return fdc_equal_secret(want, answer->proof, 32);
}
