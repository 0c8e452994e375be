"""Textures read at single points, and surfaces: every element by its own coordinates."""

from __future__ import annotations

import random
import struct

from tests.conformance.alu import mask, types_of
from tests.conformance.case import SIZES, Case, Out, Untested, maker
from tests.conformance.driver import Image

LANES = 256
WIDTH, HEIGHT, DEPTH, LAYERS = 32, 16, 8, 4
COORDS = {"1d": 1, "2d": 2, "3d": 3, "a1d": 1, "a2d": 2, "cube": 2}
# CUarray_format of an element type
FORMATS = {"f32": 0x20, "u32": 0x03, "s32": 0x0A, "u8": 0x01}


def extent(geometry: str) -> tuple[int, int, int]:
    """Width, height and depth as an array is made: 0 for what it has not."""
    return {
        "1d": (WIDTH, 0, 0), "2d": (WIDTH, HEIGHT, 0), "3d": (WIDTH, HEIGHT, DEPTH),
        "a1d": (WIDTH, 0, LAYERS), "a2d": (WIDTH, HEIGHT, LAYERS), "cube": (WIDTH, WIDTH, 6),
    }[geometry]  # fmt: skip


def at(image: bytes, geometry: str, size: int, x: int, y: int, z: int) -> bytes:
    w, h, _ = extent(geometry)
    k = (z * max(h, 1) + y) * w + x
    return image[k * size : k * size + size]


def element(rng: random.Random, t: str) -> bytes:
    if t == "f32":
        return struct.pack("<f", rng.randint(-1000, 1000) / 8)
    return rng.randbytes(SIZES[t] // 8)


@maker("tex")
def make_tex(form: str, mods: list[str]) -> Case:
    geometry = next(m for m in mods if m in COORDS)
    t, ct = types_of(mods)
    if ("level" in mods and geometry != "2d") or "grad" in mods or "v4" not in mods:
        raise Untested("no test for this way to sample")
    rng = random.Random(form)
    w, h, d = extent(geometry)
    image = b"".join(
        element(rng, t) for _ in range(4 * w * max(h, 1) * max(d, 1))
    )
    inside, coords = [], []
    for _ in range(LANES):
        x, y, z = rng.randrange(w), rng.randrange(max(h, 1)), rng.randrange(max(d, 1))
        inside.append((x, y, z))
        if geometry == "cube":  # the middle of an element of one of six faces
            s, u = (x + 0.5) / w * 2 - 1, (y + 0.5) / h * 2 - 1
            # the side axis, and how s and t run on it
            coords.append(
                [(1.0, -u, -s), (-1.0, -u, s), (s, 1.0, u), (s, -1.0, -u),
                 (s, -u, 1.0), (-s, -u, -1.0)][z]
            )  # fmt: skip
            continue
        # somewhere in the element; outside of the first and last clamps
        px: float = x + rng.random() * 0.9 + 0.05
        if ct == "f32" and x == 0:
            px -= 3
        if ct == "f32" and x == w - 1:
            px += 40
        coords.append((px, y + rng.random() * 0.9 + 0.05, z + rng.random() * 0.9 + 0.05))
    ins: list[tuple[int, list[int]]] = []
    count = 3 if geometry == "cube" else COORDS[geometry]
    layered = geometry in ("a1d", "a2d")
    for k in range(count):
        if ct == "f32":
            bits = [
                int.from_bytes(struct.pack("<f", c[k]), "little") for c in coords
            ]
        else:
            bits = [int(i[k]) for i in inside]
        ins.append((32, bits))
    if layered:
        ins.append((32, [i[2] for i in inside]))
    names = [f"%a{k}" for k in range(count)]
    if layered:
        names = [f"%a{count}", *names]
    if len(names) == 3:
        names.append(names[-1])
    where = "{" + ", ".join(names) + "}"
    level = ", %zero" if "level" in mods else ""
    body = f"""ld.param.u64 %o, [p_object]; mov.f32 %zero, 0f00000000;
        {form} {{%d0, %d1, %d2, %d3}}, [%o, {where}]{level};"""
    outs = []
    for k in range(4):
        want = [
            int.from_bytes(at(image, geometry, 16, *i)[4 * k : 4 * k + 4], "little")
            for i in inside
        ]
        outs.append(Out(32, want))
    linear = ct == "s32" and geometry == "1d"
    made = Image(
        (w, h, d), FORMATS[t], 4, image, linear=linear, layered=layered,
        cube=geometry == "cube", integer=t != "f32",
    )  # fmt: skip
    return Case(
        form, body, ins, outs, regs=".reg .b64 %o; .reg .f32 %zero;", param=bytes(8),
        param_decl=".param .u64 p_object", image=made,
    )  # fmt: skip


@maker("suld", "sust")
def make_surface(form: str, mods: list[str]) -> Case:
    """By bytes along x; what lies outside is clamped, zero, or left alone."""
    load = form.startswith("suld")
    geometry = next(m for m in mods if m in COORDS)
    if mods[0] != "b":
        raise Untested("formatted surface stores")
    t = types_of(mods)[-1]
    n = 4 if "v4" in mods else 2 if "v2" in mods else 1
    outside = next(m for m in mods if m in ("trap", "clamp", "zero"))
    rng = random.Random(form)
    w, h, d = extent(geometry)
    size = SIZES[t] // 8 * n
    image = bytearray(rng.randbytes(size * w * max(h, 1) * max(d, 1)))
    places = [
        (x, y, z)
        for z in range(max(d, 1)) for y in range(max(h, 1)) for x in range(w)
    ]  # fmt: skip
    rng.shuffle(places)
    lanes = min(LANES, len(places) // 128 * 128) or 128
    if not load:  # one lane a place
        lanes = min(lanes, len(places))
    places = (places * 4)[:lanes]
    beyond = [outside != "trap" and k % 7 == 0 for k in range(lanes)]
    if not load and outside == "clamp":
        beyond = [False] * lanes  # two lanes would store to one place
    real = [
        (w - 1 if out else x, y, z) for (x, y, z), out in zip(places, beyond, strict=True)
    ]
    xs = [
        (x + (w + 3 if out else 0)) * size
        for (x, _, _), out in zip(places, beyond, strict=True)
    ]
    ins = [(32, xs), (32, [p[1] for p in places]), (32, [p[2] for p in places])]
    where = {"1d": "{%a0}", "2d": "{%a0, %a1}", "3d": "{%a0, %a1, %a2, %a2}",
             "a1d": "{%a2, %a0}", "a2d": "{%a2, %a0, %a1, %a1}"}[geometry]  # fmt: skip
    narrow = max(SIZES[t], 16)
    head = "ld.param.u64 %o, [p_object];\n"
    made = Image(
        (w, h, d), FORMATS["u8" if SIZES[t] == 8 else "u32"], n, bytes(image),
        surface=True, layered=geometry in ("a1d", "a2d"), integer=True,
    )  # fmt: skip
    rest = {
        "regs": ".reg .b64 %o;", "param": bytes(8), "param_decl": ".param .u64 p_object",
        "image": made, "block": min(lanes, 128),
    }  # fmt: skip
    if load:
        names = ", ".join(f"%d{k}" for k in range(n))
        outs = []
        for k in range(n):
            want = []
            for i, out in zip(real, beyond, strict=True):
                part = at(bytes(image), geometry, size, *i)[k * size // n :][: size // n]
                zero = out and outside == "zero"
                want.append(0 if zero else int.from_bytes(part, "little"))
            outs.append(Out(narrow, want))
        return Case(
            form, f"{head}{form} {{{names}}}, [%o, {where}];", ins, outs, **rest,  # type: ignore[arg-type]
        )  # fmt: skip
    values = [[rng.getrandbits(narrow) for _ in range(lanes)] for _ in range(n)]
    names = ", ".join(f"%a{3 + k}" for k in range(n))
    after = bytearray(image)
    for lane, (i, out) in enumerate(zip(real, beyond, strict=True)):
        if out:
            continue
        data = b"".join(
            (v[lane] & mask(SIZES[t])).to_bytes(SIZES[t] // 8, "little") for v in values
        )
        k = ((i[2] * max(h, 1) + i[1]) * w + i[0]) * size
        after[k : k + size] = data
    made.after = True
    return Case(
        form, f"{head}{form} [%o, {where}], {{{names}}};",
        ins + [(narrow, v) for v in values], [], memory=bytes(len(image)),
        memory_want=bytes(after), **rest,  # type: ignore[arg-type]
    )  # fmt: skip
