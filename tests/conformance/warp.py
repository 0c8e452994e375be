"""What the lanes of a warp and the warps of a block do together."""

from __future__ import annotations

import random

from tests.conformance.alu import mask, types_of, value
from tests.conformance.case import SIZES, Case, Out, Untested, edges, maker, tuples

LANES = 512
FULL = 0xFFFFFFFF


def member_masks(seed: str) -> list[int]:
    """One a warp: all, halves, single lanes, any."""
    rng = random.Random(seed)
    some = [FULL, 0xFFFF0000, 0x0000FFFF, 0x80000001, 0x55555555, 1, 1 << 31]
    return [some[k] if k < len(some) else rng.getrandbits(32) | 1 << 7
            for k in range(LANES // 32)]  # fmt: skip


def by_mask(masks: list[int]) -> list[int]:
    return [masks[k // 32] for k in range(LANES)]


# lanes outside the mask go round the instruction
GUARD = """shr.u32 %t0, %am, %lane; and.b32 %t0, %t0, 1; setp.ne.u32 %in_mask, %t0, 0;"""


@maker("shfl")
def make_shfl(form: str, mods: list[str]) -> Case:
    mode = next(m for m in mods if m in ("up", "down", "bfly", "idx"))
    rng = random.Random(form)
    a = [rng.getrandbits(32) for _ in range(LANES)]
    b, c = [], []
    for warp in range(LANES // 32):
        same = rng.choice([0, 1, 2, 4, 8, 16, 31, 33, 5])
        seg = rng.choice([0, 16, 24, 28, 30, 31])
        clamp = 0 if mode == "up" else rng.choice([31, 31, 31, 7, 15])
        for _ in range(32):
            b.append(rng.getrandbits(6) if warp % 3 == 2 else same)
            c.append(seg << 8 | clamp)

    def source(lane: int, bval: int, cval: int) -> tuple[int, int]:
        seg, clamp = cval >> 8 & 31, cval & 31
        bval &= 31
        top = (lane & seg) | (clamp & ~seg & 31)
        low = lane & seg
        j, ok = {
            "up": (lane - bval, lane - bval >= top),
            "down": (lane + bval, lane + bval <= top),
            "bfly": (lane ^ bval, lane ^ bval <= top),
            "idx": (low | (bval & ~seg & 31), (low | (bval & ~seg & 31)) <= top),
        }[mode]
        return (j, 1) if ok else (lane, 0)

    want, valid = [], []
    for k in range(LANES):
        lane, base = k % 32, k // 32 * 32
        j, p = source(lane, b[k], c[k])
        want.append(a[base + j])
        valid.append(p)
    body = f"{form} %d0|%d1, %a0, %a1, %a2, -1;\n{form} %d2, %a0, %a1, %a2, -1;"
    # with half of the lanes: each reads itself
    body += f"""
        setp.lt.u32 %q, %lane, 16; mov.u32 %d3, 0;
        @%q {form} %d3, %a0, 0, %a3, 0xffff;"""
    if mode == "idx":
        half = [a[k // 32 * 32] if k % 32 < 16 else 0 for k in range(LANES)]
        full = 31
    else:
        half = [a[k] if k % 32 < 16 else 0 for k in range(LANES)]
        full = 0 if mode == "up" else 31
    return Case(
        form, body, [(32, a), (32, b), (32, c), (32, [full] * LANES)],
        [Out(32, want), Out(1, valid), Out(32, want), Out(32, half)], regs=".reg .pred %q;",
    )  # fmt: skip


@maker("vote")
def make_vote(form: str, mods: list[str]) -> Case:
    mode = next(m for m in mods if m in ("all", "any", "uni", "ballot"))
    rng = random.Random(form)
    masks = member_masks(form)
    kinds = [rng.choice(["none", "all", "any", "one"]) for _ in masks]
    kinds[:4] = ["all", "none", "any", "one"]
    p = []
    for warp, kind in enumerate(kinds):
        bits = {"none": 0, "all": FULL, "any": rng.getrandbits(32), "one": 1 << 7}[kind]
        if warp == 8:  # all of the mask, none outside
            bits = masks[warp]
        p += [bits >> lane & 1 for lane in range(32)]
    want, other = [], []
    for k in range(LANES):
        m = masks[k // 32]
        bits = sum(p[k // 32 * 32 + lane] << lane for lane in range(32))
        for out, value_of in ((want, bits), (other, ~bits & FULL)):
            v = value_of & m
            r = {"all": v == m, "any": v != 0, "uni": v in (0, m), "ballot": v}[mode]
            out.append(int(r) if m >> k % 32 & 1 else 0)
    narrow = 32 if mode == "ballot" else 1
    zero = "mov.u32 %d0, 0; mov.u32 %d1, 0;"
    if narrow == 1:
        zero = "setp.ne.u32 %d0, 0, 0; setp.ne.u32 %d1, 0, 0;"
    body = f"""{zero} mov.u32 %am, %a1; {GUARD}
        @%in_mask {form} %d0, %a0, %am;
        @%in_mask {form} %d1, !%a0, %am;"""
    return Case(
        form, body, [(1, p), (32, by_mask(masks))], [Out(narrow, want), Out(narrow, other)],
        regs=".reg .b32 %am; .reg .pred %in_mask;",
    )  # fmt: skip


@maker("match")
def make_match(form: str, mods: list[str]) -> Case:
    t = types_of(mods)[-1]
    rng = random.Random(form)
    masks = member_masks(form)
    a = []
    for warp in range(LANES // 32):
        few = [rng.getrandbits(SIZES[t]) for _ in range(1 if warp % 4 == 1 else 3)]
        a += [rng.choice(few) for _ in range(32)]
    want, all_same = [], []
    for k in range(LANES):
        base, m = k // 32 * 32, masks[k // 32]
        same = sum(1 << j for j in range(32) if m >> j & 1 and a[base + j] == a[k])
        inside = m >> k % 32 & 1
        if "all" in mods:
            want.append(m if same == m and inside else 0)
            all_same.append(int(same == m and inside))
        else:
            want.append(same if inside else 0)
    dest = "%d0|%d1" if "all" in mods else "%d0"
    body = f"""mov.u32 %d0, 0; {"setp.ne.u32 %d1, 0, 0;" if "all" in mods else ""}
        mov.u32 %am, %a1; {GUARD}
        @%in_mask {form} {dest}, %a0, %am;"""
    outs = [Out(32, want)]
    if "all" in mods:
        outs.append(Out(1, all_same))
    return Case(
        form, body, [(SIZES[t], a), (32, by_mask(masks))], outs,
        regs=".reg .b32 %am; .reg .pred %in_mask;",
    )  # fmt: skip


@maker("redux")
def make_redux(form: str, mods: list[str]) -> Case:
    t = types_of(mods)[-1]
    if t == "f32":
        raise Untested("redux of floats")
    op = next(m for m in mods if m in ("add", "min", "max", "and", "or", "xor"))
    masks = member_masks(form)
    a = tuples(form, [t], LANES)[0]
    a[:32] = [v & mask(32) for v in (edges(t) * 2)[:32]]
    want = []
    for k in range(LANES):
        base, m = k // 32 * 32, masks[k // 32]
        values = [a[base + j] for j in range(32) if m >> j & 1]
        if not m >> k % 32 & 1:
            want.append(0)
            continue
        r = values[0]
        for v in values[1:]:
            r = {
                "add": r + v, "and": r & v, "or": r | v, "xor": r ^ v,
                "min": min(r, v, key=lambda x: value(x, t)),
                "max": max(r, v, key=lambda x: value(x, t)),
            }[op]  # fmt: skip
        want.append(r & mask(32))
    body = f"""mov.u32 %d0, 0; mov.u32 %am, %a1; {GUARD}
        @%in_mask {form} %d0, %a0, %am;"""
    return Case(
        form, body, [(32, a), (32, by_mask(masks))], [Out(32, want)],
        regs=".reg .b32 %am; .reg .pred %in_mask;",
    )  # fmt: skip


@maker("activemask")
def make_activemask(form: str, mods: list[str]) -> Case:
    body = f"""and.b32 %t0, %lane, 3; setp.eq.u32 %q, %t0, 1;
        bar.warp.sync -1;
        {form} %d0;
        mov.u32 %d1, 0;
        @!%q bra $K_else;
        {form} %d1;
        $K_else: bar.warp.sync -1;"""
    odd = sum(1 << k for k in range(32) if k % 4 == 1)

    # which lanes run together is the machine's choice, whom it may not name is not
    def inside(got: int, lane: int) -> str | None:
        if lane % 4 != 1:
            return None if got == 0 else "0"
        return None if got >> lane % 32 & 1 and not got & ~odd else f"part of {odd:#x}"

    def itself(got: int, lane: int) -> str | None:
        return None if got >> lane % 32 & 1 else "its own bit"

    return Case(
        form, body, [], [Out(32, check=itself), Out(32, check=inside)], lanes=128,
        regs=".reg .pred %q;",
    )  # fmt: skip


@maker("elect")
def make_elect(form: str, mods: list[str]) -> Case:
    masks = member_masks(form)

    def leader(got: int, k: int) -> str | None:
        m = masks[k // 32]
        if not m >> k % 32 & 1:
            return None if got == 99 else "99"
        return None if got < 32 and m >> got & 1 else f"a lane of {m:#x}"

    body = f"""mov.u32 %d0, 99; mov.u32 %d1, 0; mov.u32 %am, %a0; {GUARD}
        setp.ne.u32 %q, 0, 0;
        @%in_mask {form} %d0|%q, %am;
        selp.u32 %d1, 1, 0, %q;
        bar.warp.sync -1;
        vote.sync.ballot.b32 %d2, %q, -1;"""

    def single(got: int, k: int) -> str | None:
        return None if bin(got).count("1") == 1 and got & masks[k // 32] else "one lane"

    return Case(
        form, body, [(32, by_mask(masks))],
        [Out(32, check=leader), Out(32, check=lambda got, k: None), Out(32, check=single)],
        regs=".reg .b32 %am; .reg .pred %in_mask, %q;", target=90, version="8.0",
    )  # fmt: skip


# ---- barriers ----


@maker("bar", "barrier")
def make_bar(form: str, mods: list[str]) -> Case:
    if "cluster" in mods:
        raise Untested("clusters")
    named = {"form": form}
    if "warp" in mods:
        # a swap through shared memory among the lanes of a warp
        body = f"""mov.u32 %s, $K_s; mad.lo.u32 %t0, %thr, 4, %s;
            st.shared.u32 [%t0], %idx;
            {form} -1;
            xor.b32 %t1, %thr, 21; mad.lo.u32 %t1, %t1, 4, %s;
            ld.shared.u32 %d0, [%t1];
            setp.lt.u32 %q, %lane, 10;
            @!%q bra $K_over;
            add.u32 %t1, %idx, 5; st.shared.u32 [%t0], %t1;
            {form} 0x3ff;
            xor.b32 %t1, %thr, 1; mad.lo.u32 %t1, %t1, 4, %s;
            ld.shared.u32 %d0, [%t1];
            $K_over: {form} -1;"""
        want = [
            (k ^ 1) + 5 if k % 32 < 10 else k ^ 21 for k in range(256)
        ]
        return Case(
            form, body, [], [Out(32, want)], lanes=256,
            regs=".reg .b32 %s; .reg .pred %q; .shared .align 4 .b8 $K_s[512];",
        )  # fmt: skip
    if "red" in mods:
        op = next(m for m in mods if m in ("popc", "and", "or"))
        rng = random.Random(form)
        p = [rng.getrandbits(1) for _ in range(512)]
        p[128:256] = [1] * 128
        p[256:384] = [0] * 128
        want, negated = [], []
        for k in range(512):
            part = p[k // 128 * 128 :][:128]
            n = sum(part)
            want.append({"popc": n, "and": int(n == 128), "or": int(n > 0)}[op])
            n = 128 - n
            negated.append({"popc": n, "and": int(n == 128), "or": int(n > 0)}[op])
        bits = 32 if op == "popc" else 1
        body = f"{form} %d0, 0, %a0;\n{form} %d1, 3, 128, !%a0;"
        return Case(form, body, [(1, p)], [Out(bits, want), Out(bits, negated)])
    if "arrive" in mods:
        sync = form.replace("arrive", "sync")
        # the first two warps make, the others use
        body = f"""mov.u32 %s, $K_s; mov.u32 %d0, 1;
            and.b32 %t0, %thr, 63; mad.lo.u32 %t0, %t0, 4, %s;
            setp.lt.u32 %q, %thr, 64;
            @!%q bra $K_use;
            st.shared.u32 [%t0], %idx;
            {form} 2, 128;
            bra $K_out;
            $K_use: {sync} 2, 128;
            ld.shared.u32 %d0, [%t0];
            $K_out:"""
        want = [1 if k % 128 < 64 else k - 64 for k in range(256)]
        return Case(
            form, body, [], [Out(32, want)], lanes=256,
            regs=".reg .b32 %s; .reg .pred %q; .shared .align 4 .b8 $K_s[256];",
        )  # fmt: skip
    # sync: whole block, by number in a register, and for some warps
    body = f"""mov.u32 %s, $K_s; mad.lo.u32 %t0, %thr, 4, %s;
        st.shared.u32 [%t0], %idx;
        {form} 0;
        sub.u32 %t1, 127, %thr; mad.lo.u32 %t1, %t1, 4, %s;
        ld.shared.u32 %d0, [%t1];
        mov.u32 %n, 5;
        {form} %n;
        add.u32 %t1, %idx, 9; st.shared.u32 [%t0], %t1;
        shr.u32 %n, %thr, 6; add.u32 %n, %n, 1;
        {form} %n, 64;
        xor.b32 %t1, %thr, 63; mad.lo.u32 %t1, %t1, 4, %s;
        ld.shared.u32 %d1, [%t1];
        {form} 0, 128;"""
    del named
    want = [k // 128 * 128 + 127 - k % 128 for k in range(256)]
    return Case(
        form, body, [], [Out(32, want), Out(32, [(k ^ 63) + 9 for k in range(256)])],
        lanes=256, regs=".reg .b32 %s, %n; .shared .align 4 .b8 $K_s[512];",
    )  # fmt: skip


@maker("mbarrier")
def make_mbarrier(form: str, mods: list[str]) -> Case:
    """Two rounds over one barrier, with the form wherever it has its place."""
    op = next(
        m for m in mods
        if m in ("init", "inval", "arrive", "arrive_drop", "test_wait", "try_wait",
                 "pending_count", "expect_tx", "complete_tx")
    )  # fmt: skip
    need: dict[str, object] = {"target": 80}
    if op in ("try_wait", "expect_tx", "complete_tx") or "::" in form or "expect_tx" in mods:
        need = {"target": 90, "version": "8.0"}
    regs = ".reg .b32 %b, %s, %n; .reg .b64 %st; .reg .pred %p, %q;"
    regs += " .shared .align 8 .b64 $K_b; .shared .align 4 .b8 $K_s[1024];"
    if op == "pending_count":
        body = f"""mov.u32 %b, $K_b; setp.eq.u32 %p, %thr, 0; mov.u32 %d0, 77;
            @!%p bra $K_no;
            mbarrier.init.shared.b64 [%b], 9;
            mbarrier.arrive.shared.b64 %st, [%b];
            {form} %d0, %st;
            $K_no:"""
        return Case(form, body, [], [Out(32, [9] + [77] * 127)], regs=regs, lanes=128, **need)  # type: ignore[arg-type]
    if op in ("expect_tx", "complete_tx"):
        raise Untested("transaction counts outside of bulk copies")
    init = form if op == "init" else "mbarrier.init.shared.b64"
    arrive = form if op == "arrive" else "mbarrier.arrive.shared.b64"
    wait = form if op in ("test_wait", "try_wait") else "mbarrier.test_wait.shared.b64"
    parity = "parity" in mods
    if op == "arrive" and "noComplete" in mods:
        body = f"""mov.u32 %b, $K_b; setp.eq.u32 %p, %thr, 0; mov.u32 %d0, 77;
            @!%p bra $K_no;
            mbarrier.init.shared.b64 [%b], 9;
            {form} %st, [%b], 4;
            mbarrier.arrive.shared.b64 %st, [%b];
            mbarrier.pending_count.b64 %d0, %st;
            $K_no:"""
        return Case(form, body, [], [Out(32, [5] + [77] * 127)], regs=regs, lanes=128, **need)  # type: ignore[arg-type]
    expect = ", 0" if "expect_tx" in mods else ""
    rounds = ""
    for k in range(2):
        state = str(k & 1) if parity else "%st"
        rounds += f"""
            add.u32 %t1, %idx, {k * 1000}; st.shared.u32 [%n+{k * 512}], %t1;
            {arrive} %st, [%b]{expect};
            $K_w{k}: {wait} %p, [%b], {state};
            @!%p bra $K_w{k};
            xor.b32 %t1, %thr, 127; mov.u32 %s, $K_s; mad.lo.u32 %s, %t1, 4, %s;
            ld.shared.u32 %d{k}, [%s+{k * 512}];"""
    if op == "arrive_drop":
        # half of the threads leave after the first round
        rounds = f"""
            st.shared.u32 [%n], %idx;
            mov.u32 %d1, 3; setp.lt.u32 %q, %thr, 64;
            @%q {form} %st, [%b];
            @!%q mbarrier.arrive.shared.b64 %st, [%b];
            $K_w0: mbarrier.test_wait.shared.b64 %p, [%b], %st;
            @!%p bra $K_w0;
            xor.b32 %t1, %thr, 127; mov.u32 %s, $K_s; mad.lo.u32 %s, %t1, 4, %s;
            ld.shared.u32 %d0, [%s];
            bar.sync 1;
            @%q bra $K_end;
            mbarrier.arrive.shared.b64 %st, [%b];
            $K_w1: mbarrier.test_wait.shared.b64 %p, [%b], %st;
            @!%p bra $K_w1;
            mov.u32 %d1, 8;
            $K_end:"""
    body = f"""mov.u32 %b, $K_b; mov.u32 %n, $K_s; mad.lo.u32 %n, %thr, 4, %n;
        setp.eq.u32 %p, %thr, 0;
        @%p {init} [%b], 128;
        bar.sync 0;{rounds}
        bar.sync 0;
        setp.eq.u32 %p, %thr, 0;
        @%p {form if op == "inval" else "mbarrier.inval.shared.b64"} [%b];"""
    first = [k // 128 * 128 + (k % 128 ^ 127) for k in range(256)]
    second = [v + 1000 for v in first]
    if op == "arrive_drop":
        second = [3 if k % 128 < 64 else 8 for k in range(256)]
    return Case(
        form, body, [], [Out(32, first), Out(32, second)], lanes=256, regs=regs, **need,  # type: ignore[arg-type]
    )  # fmt: skip
