// Votes, matches, shuffles and reductions of a warp, with whole and partial masks.
#include "tour.h"

__global__ void kernel(unsigned *o)
{
    unsigned t = threadIdx.x, lane = t % 32;
    unsigned *r = o + t * 16;
    r[0] = __ballot_sync(~0u, lane % 3 == 0);
    r[1] = __any_sync(~0u, lane == 5) | __all_sync(~0u, lane < 32) << 1 |
           __any_sync(~0u, lane > 40) << 2;
    r[2] = __shfl_sync(~0u, lane * 10, (lane + 1) % 32);
    r[3] = __shfl_up_sync(~0u, lane, 3);
    r[4] = __shfl_down_sync(~0u, lane, 5, 16);
    r[5] = __shfl_xor_sync(~0u, lane, 9);
    r[6] = __match_any_sync(~0u, lane / 5);
    int same;
    r[7] = __match_all_sync(~0u, lane < 64, &same) + same;
    r[8] = __reduce_add_sync(~0u, lane);
    r[9] = __reduce_max_sync(~0u, lane ^ 21);
    r[10] = __activemask();
    if (lane % 2) {
        r[11] = __ballot_sync(0xaaaaaaaa, lane > 16);
        r[12] = __shfl_sync(0xaaaaaaaa, lane, 7);
    } else {
        r[11] = __ballot_sync(0x55555555, lane < 9);
        r[12] = __shfl_sync(0x55555555, lane, 6);
    }
    __syncwarp();
    long long wide = __shfl_sync(~0u, (long long)lane << 40, 31);
    double real = __shfl_xor_sync(~0u, lane * 0.5, 1);
    r[13] = wide >> 40;
    r[14] = (unsigned)(real * 2);
    r[15] = __popc(__ballot_sync(~0u, t & 4));
}

int main()
{
    Array<unsigned> o(64 * 16);
    kernel<<<1, 64>>>(o.device);
    o.down();
    for (unsigned t = 0; t < 64; t++) {
        unsigned lane = t % 32, *r = &o[t * 16], three = 0, group = 0;
        for (unsigned i = 0; i < 32; i++) {
            three |= (i % 3 == 0) << i;
            group |= (unsigned)(i / 5 == lane / 5) << i;
        }
        MUST(r[0] == three && r[1] == 3 && r[2] == (lane + 1) % 32 * 10);
        MUST(r[3] == (lane < 3 ? lane : lane - 3));
        MUST(r[4] == (lane % 16 + 5 < 16 ? lane + 5 : lane) && r[5] == (lane ^ 9));
        MUST(r[6] == group && r[7] == ~0u + 1 && r[8] == 496 && r[9] == 31 && r[10] == ~0u);
        unsigned half = 0;
        for (unsigned i = lane % 2; i < 32; i += 2)
            half |= (unsigned)(lane % 2 ? i > 16 : i < 9) << i;
        MUST(r[11] == half && r[12] == (lane % 2 ? 7u : 6u));
        MUST(r[13] == 31 && r[14] == (lane ^ 1) && r[15] == 16);
    }
    return tour_end();
}
