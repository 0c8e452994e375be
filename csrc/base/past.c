/*
 * Copies of bytes that somebody else reads next: another processor, or nobody for long. They
 * go past the caches. A line that one processor has written and another reads is fetched from
 * the one's cache, and where the two share none that takes several times as long as from
 * memory.
 */
#include <emmintrin.h>
#include <string.h>

#include "fdc/base.h"

void
fdc_copy_past(void *to_bytes, const void *from_bytes, size_t size)
{
    const char *from = from_bytes;
    char *to = to_bytes;
    size_t head = -(uintptr_t)to & 63, body;

    if (head > size)
        head = size;
    memcpy(to, from, head);
    to += head;
    from += head;
    body = (size - head) & ~(size_t)63;
    for (size_t at = 0; at < body; at += 64)
        for (size_t part = 0; part < 64; part += 16)
            _mm_stream_si128((__m128i *)(void *)(to + at + part),
                             _mm_loadu_si128((const void *)(from + at + part)));
    _mm_sfence();
    memcpy(to + body, from + body, size - head - body);
}
