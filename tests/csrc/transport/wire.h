/* What travels over tcp, for tests that are one end of it themselves. */
#ifndef WIRE_H
#define WIRE_H

#include "fdc/transport.h"

struct wire_frame {
    uint32_t size;
    uint16_t kind, lane;
};

struct wire_put {
    struct wire_frame frame;
    uint64_t offset, size, ticket;
};

struct wire_setup {
    uint32_t magic, road;
    uint64_t lane[3], region[2], emulated[2];
};

enum { MESSAGE = 1, PUT = 2, AFTER = 5, FENCE = 6, SETUP_MAGIC = 0x4c434446 };

static const struct wire_setup good_setup = {
    .magic = SETUP_MAGIC,
    .road = FDC_ROAD_TCP,
    .lane = {1 << 20, 1 << 20, 1 << 16},
    .region = {8 << 20, 8 << 20},
};

#endif
