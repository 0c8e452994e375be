/* AES-256-GCM of the machine's libcrypto, and HKDF. See fdc/cipher.h. */
#include "fdc/cipher.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* What we need of OpenSSL 3's ABI, which its makers keep within major version 3. */
struct evp_ctx;
struct evp_cipher;
struct ossl_ctx;

enum { CTRL_GET_TAG = 0x10, CTRL_SET_TAG = 0x11 };

struct fdc_crypto {
    void *library;
    struct ossl_ctx *context;
    struct evp_cipher *aes;
    struct ossl_ctx *(*OSSL_LIB_CTX_new)(void);
    void (*OSSL_LIB_CTX_free)(struct ossl_ctx *context);
    struct evp_cipher *(*EVP_CIPHER_fetch)(struct ossl_ctx *context, const char *name,
                                           const char *properties);
    void (*EVP_CIPHER_free)(struct evp_cipher *cipher);
    struct evp_ctx *(*EVP_CIPHER_CTX_new)(void);
    void (*EVP_CIPHER_CTX_free)(struct evp_ctx *ctx);
    int (*EVP_CIPHER_CTX_ctrl)(struct evp_ctx *ctx, int what, int size, void *at);
    int (*EVP_CipherInit_ex2)(struct evp_ctx *ctx, const struct evp_cipher *cipher,
                              const uint8_t *key, const uint8_t *iv, int encrypts,
                              const void *params);
    int (*EVP_CipherUpdate)(struct evp_ctx *ctx, uint8_t *to, int *got,
                            const uint8_t *from, int size);
    int (*EVP_CipherFinal_ex)(struct evp_ctx *ctx, uint8_t *to, int *got);
};

struct fdc_cipher {
    const struct fdc_crypto *crypto;
    struct evp_ctx *ctx;
    bool seals;
};

static int
find_all(struct fdc_crypto *crypto, const char **why)
{
    const struct {
        const char *name;
        void *at;
    } wanted[] = {
#define WANTED(name) {#name, &crypto->name}
        WANTED(OSSL_LIB_CTX_new),    WANTED(OSSL_LIB_CTX_free),
        WANTED(EVP_CIPHER_fetch),    WANTED(EVP_CIPHER_free),
        WANTED(EVP_CIPHER_CTX_new),  WANTED(EVP_CIPHER_CTX_free),
        WANTED(EVP_CIPHER_CTX_ctrl), WANTED(EVP_CipherInit_ex2),
        WANTED(EVP_CipherUpdate),    WANTED(EVP_CipherFinal_ex),
#undef WANTED
    };

    for (size_t i = 0; i < FDC_COUNT(wanted); i++) {
        void *found = dlsym(crypto->library, wanted[i].name);

        if (!found) {
            *why = "libcrypto.so.3 (OpenSSL 3) lacks a function";
            return -ENOSYS;
        }
        memcpy(wanted[i].at, &found, sizeof(found));
    }
    return 0;
}

int
fdc_crypto_open(struct fdc_crypto **made, const char **why)
{
    struct fdc_crypto *crypto = calloc(1, sizeof(*crypto));
    int err = -ENOMEM;

    *why = "no memory";
    if (!crypto)
        return err;
    crypto->library = dlopen("libcrypto.so.3", RTLD_NOW | RTLD_LOCAL);
    if (!crypto->library) {
        *why = "libcrypto.so.3 (OpenSSL 3) cannot be opened";
        err = -ENOSYS;
        goto err_free;
    }
    err = find_all(crypto, why);
    if (err)
        goto err_close;
    crypto->context = crypto->OSSL_LIB_CTX_new();
    if (crypto->context)
        crypto->aes = crypto->EVP_CIPHER_fetch(crypto->context, "AES-256-GCM", NULL);
    if (!crypto->aes) {
        *why = "libcrypto.so.3 (OpenSSL 3) has no AES-256-GCM";
        err = -ENOSYS;
        goto err_context;
    }
    *made = crypto;
    return 0;

err_context:
    crypto->OSSL_LIB_CTX_free(crypto->context);
err_close:
    dlclose(crypto->library);
err_free:
    free(crypto);
    return err;
}

/* The library stays loaded: it has not been made to be taken away. */
void
fdc_crypto_close(struct fdc_crypto *crypto)
{
    if (!crypto)
        return;
    crypto->EVP_CIPHER_free(crypto->aes);
    crypto->OSSL_LIB_CTX_free(crypto->context);
    free(crypto);
}

int
fdc_cipher_new(struct fdc_crypto *crypto, bool seals, struct fdc_cipher **made)
{
    struct fdc_cipher *cipher = calloc(1, sizeof(*cipher));

    if (!cipher)
        return -ENOMEM;
    cipher->crypto = crypto;
    cipher->seals = seals;
    cipher->ctx = crypto->EVP_CIPHER_CTX_new();
    if (!cipher->ctx ||
        !crypto->EVP_CipherInit_ex2(cipher->ctx, crypto->aes, NULL, NULL, seals, NULL)) {
        fdc_cipher_free(cipher);
        return -ENOMEM;
    }
    *made = cipher;
    return 0;
}

void
fdc_cipher_free(struct fdc_cipher *cipher)
{
    if (!cipher)
        return;
    cipher->crypto->EVP_CIPHER_CTX_free(cipher->ctx);
    free(cipher);
}

int
fdc_cipher_key(struct fdc_cipher *cipher, const uint8_t key[FDC_KEY_SIZE])
{
    return cipher->crypto->EVP_CipherInit_ex2(cipher->ctx, NULL, key, NULL, -1, NULL)
               ? 0
               : -EINVAL;
}

int
fdc_cipher_begin(struct fdc_cipher *cipher, const uint8_t nonce[FDC_NONCE_SIZE],
                 const void *beside, size_t beside_size)
{
    const struct fdc_crypto *crypto = cipher->crypto;
    int got;

    if (beside_size > INT_MAX ||
        !crypto->EVP_CipherInit_ex2(cipher->ctx, NULL, NULL, nonce, -1, NULL))
        return -EINVAL;
    if (beside_size > 0 && !crypto->EVP_CipherUpdate(cipher->ctx, NULL, &got, beside,
                                                     (int)beside_size))
        return -EINVAL;
    return 0;
}

int
fdc_cipher_piece(struct fdc_cipher *cipher, void *to, const void *from, size_t size)
{
    int got = 0;

    if (size == 0)
        return 0;
    if (size > INT_MAX ||
        !cipher->crypto->EVP_CipherUpdate(cipher->ctx, to, &got, from, (int)size) ||
        (size_t)got != size) /* a stream cipher keeps nothing back */
        return -EINVAL;
    return 0;
}

int
fdc_cipher_end(struct fdc_cipher *cipher, uint8_t tag[FDC_TAG_SIZE])
{
    const struct fdc_crypto *crypto = cipher->crypto;
    uint8_t rest[FDC_TAG_SIZE];
    int got;

    if (!cipher->seals &&
        crypto->EVP_CIPHER_CTX_ctrl(cipher->ctx, CTRL_SET_TAG, FDC_TAG_SIZE, tag) <= 0)
        return -EINVAL;
    if (crypto->EVP_CipherFinal_ex(cipher->ctx, rest, &got) <= 0)
        return cipher->seals ? -EINVAL : -EBADMSG;
    if (cipher->seals &&
        crypto->EVP_CIPHER_CTX_ctrl(cipher->ctx, CTRL_GET_TAG, FDC_TAG_SIZE, tag) <= 0)
        return -EINVAL;
    return 0;
}

void
fdc_hkdf_expand(const uint8_t secret[32], const void *info, size_t info_size, void *key,
                size_t size)
{
    uint8_t text[32 + 256 + 1], block[32], *to = key;
    size_t before = 0, part;

    if (info_size > 256) /* ours are short */
        info_size = 256;
    for (uint8_t number = 1; size > 0; number++) {
        memcpy(text, block, before);
        memcpy(text + before, info, info_size);
        text[before + info_size] = number;
        fdc_hmac_sha256(secret, 32, text, before + info_size + 1, block);
        before = sizeof(block);
        part = size < before ? size : before;
        memcpy(to, block, part);
        to += part;
        size -= part;
    }
    explicit_bzero(text, sizeof(text));
    explicit_bzero(block, sizeof(block));
}

void
fdc_hkdf_sha256(const void *secret, size_t secret_size, const void *salt,
                size_t salt_size, const void *info, size_t info_size, void *key,
                size_t size)
{
    static const uint8_t zeros[32];
    uint8_t extracted[32];

    if (salt_size == 0)
        salt = zeros, salt_size = sizeof(zeros);
    fdc_hmac_sha256(salt, salt_size, secret, secret_size, extracted);
    fdc_hkdf_expand(extracted, info, info_size, key, size);
    explicit_bzero(extracted, sizeof(extracted));
}
