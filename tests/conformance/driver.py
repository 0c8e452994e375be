"""The driver API as far as this needs it, and the worker that runs kernels with it.

A worker is a process of its own, so that a crash or a context that is lost costs one
kernel. It reads jobs from its input and answers each before it takes the next.
"""

from __future__ import annotations

import ctypes as c
import os
import pickle
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass

LOG_SIZE = 4096


class Failed(Exception):
    def __init__(self, call: str, result: int, said: str = "") -> None:
        super().__init__(f"{call}: {result} {said}".strip())
        self.result = result


@dataclass
class Image:
    """An array, or linear memory, and the texture or surface object on it."""

    extent: tuple[int, int, int]
    format: int  # CUarray_format
    channels: int
    data: bytes
    linear: bool = False
    layered: bool = False
    cube: bool = False
    surface: bool = False
    integer: bool = False  # elements are read as whole numbers
    after: bool = False  # the array's elements are the memory that the kernel leaves


@dataclass
class Job:
    """One kernel's launch."""

    kernel: str
    lanes: int
    block: int
    input: bytes
    output_size: int
    memory: bytes = b""
    dynamic: int = 0
    cooperative: bool = False
    param: bytes = b""
    grid: int = 0
    image: Image | None = None


@dataclass
class Answer:
    result: int  # CUresult
    said: str = ""
    output: bytes = b""
    memory: bytes = b""


class Driver:
    """One context on device 0."""

    def __init__(self, path: str) -> None:
        self.lib = c.CDLL(path)
        self.call("cuInit", 0)
        device = c.c_int()
        self.call("cuDeviceGet", c.byref(device), 0)
        self.context = c.c_void_p()
        self.call("cuDevicePrimaryCtxRetain", c.byref(self.context), device)
        self.call("cuCtxSetCurrent", self.context)
        self.sizes: dict[str, tuple[c.c_uint64, int]] = {}

    def call(self, name: str, *arguments: object) -> None:
        result = getattr(self.lib, name)(*arguments)
        if result:
            raise Failed(name, result)

    def describe(self) -> str:
        device, version = c.c_int(), c.c_int()
        parts = (c.c_int * 2)()
        name = c.create_string_buffer(128)
        self.call("cuCtxGetDevice", c.byref(device))
        self.call("cuDeviceGetName", name, 128, device)
        for k in range(2):  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
            at = c.addressof(parts) + 4 * k
            self.call("cuDeviceGetAttribute", c.c_void_p(at), 75 + k, device)
        self.call("cuDriverGetVersion", c.byref(version))
        cuda = f"{version.value // 1000}.{version.value % 1000 // 10}"
        return f"{name.value.decode()} (sm_{parts[0]}{parts[1]}), CUDA {cuda}"

    def load(self, text: str) -> c.c_void_p:
        module = c.c_void_p()
        log = c.create_string_buffer(LOG_SIZE)
        # CU_JIT_ERROR_LOG_BUFFER and its size
        options = (c.c_int * 2)(5, 6)
        values = (c.c_void_p * 2)(c.addressof(log), LOG_SIZE)
        result = self.lib.cuModuleLoadDataEx(
            c.byref(module), c.c_char_p(text.encode()), 2, options, values
        )
        if result:
            raise Failed("cuModuleLoadDataEx", result, log.value.decode(errors="replace"))
        return module

    def unload(self, module: c.c_void_p) -> None:
        self.call("cuModuleUnload", module)

    def buffer(self, name: str, size: int) -> c.c_uint64:
        """Memory that is kept from one kernel to the next, exactly as large as asked."""
        kept = self.sizes.get(name)
        if kept and kept[1] == size:
            return kept[0]
        if kept:
            self.call("cuMemFree_v2", kept[0])
        made = c.c_uint64()
        self.call("cuMemAlloc_v2", c.byref(made), c.c_size_t(size))
        self.sizes[name] = (made, size)
        return made

    def run(self, module: c.c_void_p, job: Job) -> Answer:
        function = c.c_void_p()
        self.call("cuModuleGetFunction", c.byref(function), module, job.kernel.encode())
        source = self.buffer("in", max(len(job.input), 16))
        out = self.buffer("out", max(job.output_size, 16))
        memory = self.buffer("mem", max(len(job.memory), 16))
        if job.input:
            self.call("cuMemcpyHtoD_v2", source, job.input, c.c_size_t(len(job.input)))
        self.call(
            "cuMemsetD8_v2", out, c.c_ubyte(0xEE), c.c_size_t(max(job.output_size, 16))
        )
        if job.memory:
            self.call(
                "cuMemcpyHtoD_v2", memory, job.memory, c.c_size_t(len(job.memory))
            )
        values: list[object] = [source, out, memory]
        array = c.c_void_p()
        number = c.c_uint64()
        if job.image:
            self.make_image(job.image, array, number)
            values.append(number)
        elif job.param:
            values.append(c.create_string_buffer(job.param, len(job.param)))
        pointers = (c.c_void_p * len(values))(*[c.addressof(v) for v in values])  # type: ignore[arg-type]
        grid = job.grid or (job.lanes + job.block - 1) // job.block
        if job.cooperative:
            self.call(
                "cuLaunchCooperativeKernel", function, grid, 1, 1, job.block, 1, 1,
                job.dynamic, None, pointers,
            )  # fmt: skip
        else:
            self.call(
                "cuLaunchKernel", function, grid, 1, 1, job.block, 1, 1,
                job.dynamic, None, pointers, None,
            )  # fmt: skip
        self.call("cuCtxSynchronize")
        if job.image and job.image.after:
            self.copy_image(job.image, array, memory, False)
        if job.image:
            kind = "Surf" if job.image.surface else "Tex"
            self.call(f"cu{kind}ObjectDestroy", number)
            if array:
                self.call("cuArrayDestroy", array)
        return Answer(
            0, "", self.read(out, job.output_size), self.read(memory, len(job.memory))
        )

    def make_image(self, image: Image, array: c.c_void_p, number: c.c_uint64) -> None:
        resource = (c.c_uint32 * 36)()  # CUDA_RESOURCE_DESC
        data = self.buffer("image", len(image.data))
        self.call("cuMemcpyHtoD_v2", data, image.data, c.c_size_t(len(image.data)))
        if image.linear:
            resource[0] = 2  # CU_RESOURCE_TYPE_LINEAR
            struct.pack_into(
                "<QIIQ", resource, 8, data.value, image.format, image.channels,
                len(image.data),
            )  # fmt: skip
        else:
            # CUDA_ARRAY3D_LAYERED 1, SURFACE_LDST 2, CUBEMAP 4
            flags = image.layered | image.surface << 1 | image.cube << 2
            described = c.create_string_buffer(
                struct.pack(
                    "<QQQIII4x", *image.extent, image.format, image.channels, flags
                ),
                40,
            )
            self.call("cuArray3DCreate_v2", c.byref(array), described)
            self.copy_image(image, array, data, True)
            struct.pack_into("<Q", resource, 8, array.value)
        if image.surface:
            self.call("cuSurfObjectCreate", c.byref(number), resource)
            return
        # clamped at the border, points; CU_TRSF_READ_AS_INTEGER 1; cubes: normalized 2
        clamp = 1
        texture = c.create_string_buffer(
            struct.pack("<7I", clamp, clamp, clamp, 0, image.integer | image.cube << 1, 0, 0),
            104,
        )
        self.call("cuTexObjectCreate", c.byref(number), resource, texture, None)

    def copy_image(
        self, image: Image, array: c.c_void_p, data: c.c_uint64, into: bool
    ) -> None:
        _, height, depth = (max(n, 1) for n in image.extent)
        row = len(image.data) // (height * depth)
        # x, y, z, level; kind 2: device memory, 3: an array; host, device, array; pitch
        memory = struct.pack("<QQQQI4xQQQQQQ", 0, 0, 0, 0, 2, 0, data.value, 0, 0, row, height)
        there = struct.pack("<QQQQI4xQQQQQQ", 0, 0, 0, 0, 3, 0, 0, array.value, 0, 0, 0)
        both = memory + there if into else there + memory
        size = struct.pack("<QQQ", row, height, depth)
        self.call("cuMemcpy3D_v2", c.create_string_buffer(both + size, 200))

    def read(self, at: c.c_uint64, size: int) -> bytes:
        if not size:
            return b""
        kept = c.create_string_buffer(size)
        self.call("cuMemcpyDtoH_v2", kept, at, c.c_size_t(size))
        return kept.raw


def serve(path: str) -> None:
    """Answers batches: (text, jobs) -> an Answer a job, in order, each at once."""
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what device code prints is not an answer

    def answer(a: Answer) -> None:
        data = pickle.dumps(a)
        sink.write(len(data).to_bytes(8, "little") + data)
        sink.flush()

    driver = Driver(path)
    answer(Answer(0, driver.describe()))
    while True:
        try:
            text, jobs = pickle.load(source)
        except EOFError:
            return
        batch(driver, text, jobs, answer)


def batch(driver: Driver, text: str, jobs: Sequence[Job], answer) -> None:  # type: ignore[no-untyped-def]
    try:
        module = driver.load(text)
    except Failed as e:
        answer(Answer(e.result, str(e)))
        return
    answer(Answer(0))
    for job in jobs:
        try:
            answer(driver.run(module, job))
        except Failed as e:
            answer(Answer(e.result, str(e)))
    driver.unload(module)

