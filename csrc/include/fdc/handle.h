/*
 * The client's handles. The shim makes them, programs see them and the worker looks up by
 * them what its driver has: a kind, a generation and an index, and 0x00FD above.
 */
#ifndef FDC_HANDLE_H
#define FDC_HANDLE_H

#include <stdint.h>

enum fdc_kind {
    FDC_KIND_CONTEXT = 1, FDC_KIND_STREAM, FDC_KIND_EVENT, FDC_KIND_MODULE, FDC_KIND_LIBRARY,
    FDC_KIND_FUNCTION, FDC_KIND_KERNEL, FDC_KIND_GRAPH, FDC_KIND_GRAPH_EXEC, FDC_KIND_NODE,
    FDC_KIND_POOL, FDC_KIND_ARRAY, FDC_KIND_MIPMAP, FDC_KIND_TEXTURE, FDC_KIND_SURFACE,
    FDC_KIND_MEMORY, FDC_KIND_LINK, FDC_KIND_USER_OBJECT, FDC_KIND_GREEN_CTX,
    FDC_KIND_SHADOW, FDC_KINDS
};

#define FDC_HANDLE(kind, generation, index) \
    (0x00FDull << 48 | (uint64_t)(kind) << 40 | (uint64_t)((generation) & 0xffff) << 24 | \
     (uint64_t)(index) << 4)
#define FDC_HANDLE_INDEX(value) ((uint32_t)((value) >> 4) & 0xfffff)
#define FDC_HANDLE_KIND(value) ((uint32_t)((value) >> 40) & 0xff)

#endif
