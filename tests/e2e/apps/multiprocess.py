"""multiprocessing's ways of starting processes, before and after the parent's first call."""

import ctypes
import multiprocessing
import os

NOT_INITIALIZED = 3
SIZE = 4096

cuda = ctypes.CDLL("libcuda.so.1")


def check(result: int) -> None:
    if result != 0:
        raise RuntimeError(f"CUDA error {result}")


def work(value: int) -> int:
    """Memory filled on the device and brought back: the sum of its bytes."""
    context, address, back = ctypes.c_void_p(), ctypes.c_uint64(), (ctypes.c_ubyte * SIZE)()
    check(cuda.cuInit(0))
    check(cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0))
    check(cuda.cuCtxSetCurrent(context))
    check(cuda.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(SIZE)))
    check(cuda.cuMemsetD8_v2(address, ctypes.c_ubyte(value), ctypes.c_size_t(SIZE)))
    check(cuda.cuMemcpyDtoH_v2(back, address, ctypes.c_size_t(SIZE)))
    check(cuda.cuMemFree_v2(address))
    return sum(back)


def first_call(_: int) -> int:
    return cuda.cuInit(0)


def pool(way: str, function, values) -> list[int]:
    with multiprocessing.get_context(way).Pool(2) as workers:
        return workers.map(function, values)


def main() -> None:
    values = [1, 2, 3]
    wanted = [SIZE * value for value in values]
    right = True
    for way in ("fork", "spawn", "forkserver"):
        got = pool(way, work, values)
        print(f"{way}, before the parent's first call: {got == wanted}")
        right &= got == wanted
    print("the parent:", work(5))
    told = pool("fork", first_call, values)
    print(f"fork, after it: {told}")
    right &= told == [NOT_INITIALIZED] * 3
    for way in ("spawn", "forkserver"):
        got = pool(way, work, values)
        print(f"{way}, after it: {got == wanted}")
        right &= got == wanted
    child = os.fork()
    if child == 0:
        os._exit(cuda.cuCtxSynchronize())
    right &= os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == NOT_INITIALIZED
    right &= work(7) == 7 * SIZE
    print("PASS" if right else "FAIL")


if __name__ == "__main__":
    main()
