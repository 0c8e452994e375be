"""What the device and the processor both compute, each compiled for itself.

Everything is 64-bit unsigned: Numba turns a signed one beside an unsigned one into a
float.
"""

from numba import cuda, njit, uint64

ODD, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
KINDS = ("zeros", "ones", "0101", "1010", "addresses", "inverted addresses", "random")


def mix(value):
    """Splitmix64: each bit of the result depends on all of the value."""
    x = uint64(value) * uint64(ODD)
    x = (x ^ (x >> uint64(30))) * uint64(FIRST)
    x = (x ^ (x >> uint64(27))) * uint64(SECOND)
    return x ^ (x >> uint64(31))


cpu_mix = njit(inline="always")(mix)
gpu_mix = cuda.jit(device=True, inline="always")(mix)


def pattern_with(mixed):
    def pattern(kind, place, seed):
        """The word of a place, for each of KINDS."""
        x = uint64(place)
        if kind == 0:
            x = uint64(0)
        elif kind == 1:
            x = ~uint64(0)
        elif kind == 2:
            x = uint64(0x5555555555555555)
        elif kind == 3:
            x = uint64(0xAAAAAAAAAAAAAAAA)
        elif kind == 5:
            x = ~x
        elif kind == 6:
            x = mixed(x + uint64(seed))
        return x

    return pattern


cpu_pattern = njit(pattern_with(cpu_mix))
gpu_pattern = cuda.jit(device=True)(pattern_with(gpu_mix))
