"""The memory of a slice is the lease's: all processes of a program have it once, over every
kind of allocation, and what a killed one had comes back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import ROADS, Run, Server, run

pytestmark = pytest.mark.cpu_device

BLOCK = 2 << 20
SLICE_MIB = 128
BLOCKS = (SLICE_MIB << 20) // BLOCK
SECONDS = 60.0

# A process of the program: takes blocks of one kind until there are no more, or as many as
# it is told to, and says how many; then what is free, and it keeps them until it is told to go.
TAKER = """
import ctypes, sys
BLOCK = 2 << 20
cuda = ctypes.CDLL("libcuda.so.1")
u64, size = ctypes.c_uint64, ctypes.c_size_t

def call(name, *arguments):
    code = getattr(cuda, name)(*arguments)
    assert code == 0, (name, code)

class Prop(ctypes.Structure):
    _fields_ = [("type", ctypes.c_int), ("handles", ctypes.c_int), ("where", ctypes.c_int),
                ("device", ctypes.c_int), ("win", ctypes.c_void_p), ("flags", u64)]

class Array(ctypes.Structure):
    _fields_ = [("width", size), ("height", size), ("format", ctypes.c_int),
                ("channels", ctypes.c_uint)]

class Array3d(ctypes.Structure):
    _fields_ = [("width", size), ("height", size), ("depth", size), ("format", ctypes.c_int),
                ("channels", ctypes.c_uint), ("flags", ctypes.c_uint)]

class Pool(ctypes.Structure):
    _fields_ = [("type", ctypes.c_int), ("handles", ctypes.c_int), ("where", ctypes.c_int),
                ("device", ctypes.c_int), ("win", ctypes.c_void_p), ("rest", u64 * 8)]

class Node(ctypes.Structure):
    _fields_ = [("pool", Pool), ("access", ctypes.c_void_p), ("count", size),
                ("bytes", size), ("address", u64)]

made, pitch = u64(), size()
def linear():
    return cuda.cuMemAlloc_v2(ctypes.byref(made), size(BLOCK))
def pool():
    return cuda.cuMemAllocAsync(ctypes.byref(made), size(BLOCK), None)
def managed():
    return cuda.cuMemAllocManaged(ctypes.byref(made), size(BLOCK), 1)
def vmm():
    prop = Prop(1, 0, 1, 0, None, 0)
    return cuda.cuMemCreate(ctypes.byref(made), size(BLOCK), ctypes.byref(prop), u64(0))
def array():
    what = Array(1024, 512, 0x20, 1)
    return cuda.cuArrayCreate_v2(ctypes.byref(made), ctypes.byref(what))
def pitched():
    return cuda.cuMemAllocPitch_v2(ctypes.byref(made), ctypes.byref(pitch), size(1000),
                                   size(BLOCK // 1024), 4)
def mipmap():  # one level, so that it is a block
    what = Array3d(1024, 512, 0, 0x20, 1, 0)
    return cuda.cuMipmappedArrayCreate(ctypes.byref(made), ctypes.byref(what), 1)
def graph():  # the memory is there with the node
    graph, node = ctypes.c_void_p(), ctypes.c_void_p()
    call("cuGraphCreate", ctypes.byref(graph), 0)
    what = Node((1, 0, 1, 0, None), None, 0, BLOCK, 0)
    return cuda.cuGraphAddMemAllocNode(ctypes.byref(node), graph, None, size(0),
                                       ctypes.byref(what))

kind, most = globals()[sys.argv[1]], int(sys.argv[2])
context = ctypes.c_void_p()
call("cuInit", 0)
call("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0)
call("cuCtxSetCurrent", context)

def free():
    free, total = size(), size()
    call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
    return free.value

print("ready", free(), flush=True)
for line in sys.stdin:
    if line == "take\\n":
        count, code = 0, 0
        while count < most and (code := kind()) == 0:
            count += 1
        call("cuCtxSynchronize")
        print(count, code, flush=True)
    else:
        print("free", free(), flush=True)
"""

KINDS = ("linear", "pool", "vmm", "array", "managed", "graph", "mipmap", "pitched")


class Program:
    """A lease with a shell as its program, which starts what is asked for as processes."""

    def __init__(self, server: Server, road: str, folder: Path) -> None:
        self.script = folder / "taker.py"
        self.script.write_text(TAKER)
        self.takers: list[subprocess.Popen[str]] = []
        command = server.command("/bin/sh", "-c", "env; echo ENV; read x",
                                 options=("-n", "1", "-m", str(SLICE_MIB)))
        self.process = subprocess.Popen(
            [str(word) for word in command], text=True,
            env={**os.environ, "FD_TRANSPORT": road},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        lines = []
        while (line := self.process.stdout.readline()) not in ("ENV\n", ""):
            lines.append(line.rstrip("\n"))
        self.env = dict(line.split("=", 1) for line in lines if "=" in line)

    def taker(self, kind: str, most: int = 1 << 20) -> subprocess.Popen[str]:
        """A process that has attached."""
        made = subprocess.Popen(
            [sys.executable, str(self.script), kind, str(most)], text=True, env=self.env,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        self.takers.append(made)
        assert first(made)[0] == "ready"
        return made

    def end(self) -> None:
        for taker in self.takers:
            taker.kill()
            taker.communicate()
        self.process.communicate("go\n", timeout=SECONDS)


def first(taker: subprocess.Popen[str]) -> list[str]:
    assert taker.stdout is not None
    return taker.stdout.readline().split()


def tell(taker: subprocess.Popen[str], word: str) -> None:
    assert taker.stdin is not None
    taker.stdin.write(word + "\n")
    taker.stdin.flush()


def free(taker: subprocess.Popen[str]) -> int:
    tell(taker, "free")
    return int(first(taker)[1])


@pytest.mark.parametrize("road", ROADS)
def test_processes_of_a_program_share_the_slice(server: Server, road: str,
                                                tmp_path: Path) -> None:
    program = Program(server, road, tmp_path)
    try:
        takers = [program.taker(kind) for kind in KINDS]
        for taker in takers:
            tell(taker, "take")
        took = [first(taker) for taker in takers]
        # Exactly the slice, whoever was faster, and out of memory is what each of them got.
        assert sum(int(count) for count, _ in took) == BLOCKS, took
        assert all(code == "2" for _, code in took), took
        assert all(free(taker) == 0 for taker in takers)

        # One more gets nothing, until one of them is killed: then what that one had.
        late = program.taker("linear")
        tell(late, "take")
        assert first(late) == ["0", "2"]
        count = max(int(count) for count, _ in took)
        killed = takers[[int(count) for count, _ in took].index(count)]
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        deadline = time.monotonic() + SECONDS
        while free(late) != count * BLOCK:
            assert time.monotonic() < deadline, "its bytes do not come back"
            time.sleep(0.02)
        tell(late, "take")
        assert first(late) == [str(count), "2"]
    finally:
        program.end()


def test_what_a_process_has_freed_is_there_for_others(server: Server, tmp_path: Path) -> None:
    """Its library keeps none of it, as it would if the process were alone."""
    script = TAKER.replace('    else:\n', '''    elif line == "drop\\n":
        call("cuMemFree_v2", made)
        call("cuCtxSynchronize")
        print("free", free(), flush=True)
    else:
''')
    program = Program(server, ROADS[0], tmp_path)
    try:
        program.script.write_text(script)
        one, two = program.taker("linear", 3), program.taker("linear")
        tell(one, "take")
        assert first(one) == ["3", "0"]
        tell(one, "drop")
        assert first(one) == ["free", str((BLOCKS - 2) * BLOCK)]
        tell(two, "take")
        assert first(two) == [str(BLOCKS - 2), "2"]
    finally:
        program.end()


def test_another_server_goes_on_counting(tmp_path: Path) -> None:
    """Who died while there was none is not counted any more, who lives is."""
    server = Server(tmp_path / "server", devices=1)
    program = Program(server, "shm", tmp_path)
    again = None
    try:
        one, two = program.taker("linear", 5), program.taker("array", 7)
        for taker in (one, two):
            tell(taker, "take")
            assert first(taker)[1] == "0"
        server.process.kill()
        server.process.wait()
        two.kill()
        two.wait()
        again = Server(tmp_path / "server", devices=1)
        late = program.taker("pool")
        deadline = time.monotonic() + SECONDS
        while free(late) != (BLOCKS - 5) * BLOCK:
            assert time.monotonic() < deadline, again.text()
            time.sleep(0.02)
        tell(late, "take")
        assert first(late) == [str(BLOCKS - 5), "2"]
    finally:
        program.end()
        (again or server).stop()


# 8 MiB of variables: in nobody's allocation, and yet on the device.
CODE = """
import ctypes, sys
cuda = ctypes.CDLL("libcuda.so.1")
PTX = b".version 7.0\\n.target sm_52\\n.address_size 64\\n.visible .global .align 4 .b8 big[8388608];\\n\\0"
context, module, made = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_uint64()
free, total = ctypes.c_size_t(), ctypes.c_size_t()
def call(name, *arguments):
    code = getattr(cuda, name)(*arguments)
    if code:
        print(name, code)
call("cuInit", 0)
call("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0)
call("cuCtxSetCurrent", context)
def left():
    call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
    print("free", round(free.value / 2**20))
left()
call("cuModuleLoadData", ctypes.byref(module), PTX)
left()
call("cuModuleUnload", module)
left()
blocks = 0
while cuda.cuMemAlloc_v2(ctypes.byref(made), ctypes.c_size_t(4 << 20)) == 0:
    blocks += 1
print("blocks", blocks)
call("cuModuleLoadData", ctypes.byref(module), PTX)
call("cuMemFree_v2", made)
call("cuModuleLoadData", ctypes.byref(module), PTX)
left()
"""


@pytest.mark.parametrize("road", ROADS)
def test_code_counts_too(road: str, remote: Run) -> None:
    done = remote(sys.executable, "-c", CODE, road=road, options=("-n", "1", "-m", "32"))
    assert done.out.splitlines() == [
        "free 32", "free 24", "free 32", "blocks 8", "cuModuleLoadData 2",
        "cuModuleLoadData 2", "free 4",
    ], done.out + done.err  # fmt: skip


# Contexts of 16 MiB and heaps: the driver's own, and yet the slice's.
CONTEXTS = """
import ctypes
cuda = ctypes.CDLL("libcuda.so.1")
context, more, made = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_uint64()
free, total, limit = ctypes.c_size_t(), ctypes.c_size_t(), ctypes.c_size_t()
def say(what, code):
    assert cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)) == 0
    print(what, code, free.value / 2**20, flush=True)
def heap(mib):
    return cuda.cuCtxSetLimit(2, ctypes.c_size_t(mib << 20))
def blocks():
    count = 0
    while cuda.cuMemAlloc_v2(ctypes.byref(made), ctypes.c_size_t(2 << 20)) == 0:
        count += 1
    return count
cuda.cuInit(0)
cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0)
cuda.cuCtxSetCurrent(context)
say("primary", 0)
say("another", cuda.cuCtxCreate_v2(ctypes.byref(more), 0, 0))
say("heap", heap(8 + 11))
say("blocks", blocks())
say("third", cuda.cuCtxCreate_v2(ctypes.byref(context), 0, 0))
say("larger heap", heap(8 + 13))
cuda.cuCtxGetLimit(ctypes.byref(limit), 2)
print("it stays", limit.value >> 20)
say("larger heap", heap(8 + 12))
say("small heap", heap(8))
say("blocks", blocks())
say("without it", cuda.cuCtxDestroy_v2(more))
cuda.cuCtxSetCurrent(context)
"""


def test_contexts_and_heaps_count_too(tmp_path: Path, direct: Run) -> None:
    """As they do on a device of that size, and to the byte."""
    context = {"FD_CPU_CONTEXT_MB": "16"}
    server = Server(tmp_path / "server", devices=1, env=context)
    try:
        done = run(server.command(sys.executable, "-c", CONTEXTS, options=("-m", "64")),
                   {"FD_TRANSPORT": ROADS[0]})
    finally:
        server.stop()
    assert done.out.splitlines() == [
        "primary 0 48.0", "another 0 32.0", "heap 0 21.0", "blocks 10 1.0", "third 2 1.0",
        "larger heap 2 1.0", "it stays 19", "larger heap 0 0.0", "small heap 0 12.0",
        "blocks 6 0.0", "without it 0 48.0"], done.out + done.err  # fmt: skip
    assert direct(sys.executable, "-c", CONTEXTS, env=context, memory=64).out == done.out
