/* A short keyed hash of two words: who does not know the key can make none that fits. */
#ifndef FDC_SIPHASH_H
#define FDC_SIPHASH_H

#include <stdint.h>

/* SipHash-2-4 of the 16 bytes that both are, little endian. */
uint64_t fdc_siphash(const uint64_t key[2], uint64_t first, uint64_t second);

#endif
