/*
 * AES-256-GCM and HKDF-SHA256, for what travels beyond this machine. The cipher is
 * OpenSSL's, from the libcrypto.so.3 of the machine, opened when first needed and used in
 * a context of our own: the program that we are a guest of keeps its settings, and may
 * clean up its OpenSSL before us.
 */
#ifndef FDC_CIPHER_H
#define FDC_CIPHER_H

#include "fdc/base.h"

enum { FDC_KEY_SIZE = 32, FDC_NONCE_SIZE = 12, FDC_TAG_SIZE = 16 };

struct fdc_crypto; /* the library */
struct fdc_cipher; /* one key, one direction; one thread at a time */

/* -ENOSYS: there is no such library; *why says what is missing, for people. */
int fdc_crypto_open(struct fdc_crypto **crypto, const char **why);
/* After the last cipher that was made with it. */
void fdc_crypto_close(struct fdc_crypto *crypto);

int fdc_cipher_new(struct fdc_crypto *crypto, bool seals, struct fdc_cipher **cipher);
void fdc_cipher_free(struct fdc_cipher *cipher);
int fdc_cipher_key(struct fdc_cipher *cipher, const uint8_t key[FDC_KEY_SIZE]);

/* One message: begin, any number of pieces (to and from may be the same), end. No nonce
 * may ever begin twice with one key. end gives the tag, or checks it: -EBADMSG, and what
 * came out before is not to be used. */
int fdc_cipher_begin(struct fdc_cipher *cipher, const uint8_t nonce[FDC_NONCE_SIZE],
                     const void *beside, size_t beside_size);
int fdc_cipher_piece(struct fdc_cipher *cipher, void *to, const void *from, size_t size);
int fdc_cipher_end(struct fdc_cipher *cipher, uint8_t tag[FDC_TAG_SIZE]);

/* RFC 5869. size: up to 255 * 32 bytes. */
void fdc_hkdf_sha256(const void *secret, size_t secret_size, const void *salt,
                     size_t salt_size, const void *info, size_t info_size, void *key,
                     size_t size);
void fdc_hkdf_expand(const uint8_t secret[32], const void *info, size_t info_size,
                     void *key, size_t size);

#endif
