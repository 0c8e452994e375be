"""Kernels whose control flow a simple scheduler of lanes would hang on or get wrong."""

from __future__ import annotations

from collections.abc import Callable

from tests.conformance.case import Case, Out

LANES = 256


def word(memory: bytes, k: int) -> int:
    return int.from_bytes(memory[4 * k : 4 * k + 4], "little")


def memory_is(*want: int) -> Callable[[bytes], str | None]:
    def check(memory: bytes) -> str | None:
        got = [word(memory, k) for k in range(len(want))]
        return None if got == list(want) else f"memory {got}, wanted {list(want)}"

    return check


def lock_loop() -> Case:
    """while (!done) if (cas == 0) { work; unlock; done }"""
    body = """setp.ne.u32 %done, 0, 0;
        $K_loop: atom.global.cas.b32 %t0, [%mem], 0, 1;
        setp.ne.u32 %p, %t0, 0;
        @%p bra $K_next;
        ld.volatile.global.u32 %t1, [%mem+4]; add.u32 %t1, %t1, 1;
        st.volatile.global.u32 [%mem+4], %t1;
        membar.gl;
        atom.global.exch.b32 %t0, [%mem], 0;
        setp.eq.u32 %done, 0, 0;
        $K_next: @!%done bra $K_loop;
        mov.u32 %d0, 1;"""
    return Case(
        "lock, taken and given back inside a loop", body, [], [Out(32, [1] * LANES)],
        lanes=LANES, regs=".reg .pred %p, %done;", memory=bytes(16),
        memory_want=memory_is(0, LANES),
    )  # fmt: skip


def lock_spin() -> Case:
    """while (cas != 0); work; unlock: the winner leaves the loop, the others spin"""
    body = """$K_loop: atom.global.cas.b32 %t0, [%mem], 0, 1;
        setp.ne.u32 %p, %t0, 0;
        @%p bra $K_loop;
        ld.volatile.global.u32 %t1, [%mem+4]; add.u32 %t1, %t1, 1;
        st.volatile.global.u32 [%mem+4], %t1;
        membar.gl;
        atom.global.exch.b32 %t0, [%mem], 0;
        mov.u32 %d0, 1;"""
    return Case(
        "lock, the winner leaves the loop", body, [], [Out(32, [1] * LANES)],
        lanes=LANES, regs=".reg .pred %p;", memory=bytes(16),
        memory_want=memory_is(0, LANES),
    )  # fmt: skip


def chain() -> Case:
    """Each thread waits until the one before it has passed."""
    body = """$K_loop: ld.volatile.global.u32 %t0, [%mem];
        setp.ne.u32 %p, %t0, %idx;
        @%p bra $K_loop;
        add.u32 %t1, %idx, 1;
        st.volatile.global.u32 [%mem], %t1;
        mul.lo.u32 %d0, %t0, 3;"""
    return Case(
        "chain through all lanes", body, [], [Out(32, [3 * k for k in range(LANES)])],
        lanes=LANES, regs=".reg .pred %p;", memory=bytes(16), memory_want=memory_is(LANES),
    )  # fmt: skip


def chain_backwards() -> Case:
    body = """sub.u32 %t1, 127, %thr; mad.wide.u32 %a, %ctaid_x, 4, %mem;
        $K_loop: ld.volatile.global.u32 %t0, [%a];
        setp.ne.u32 %p, %t0, %t1;
        @%p bra $K_loop;
        add.u32 %t1, %t1, 1;
        st.volatile.global.u32 [%a], %t1;
        mov.u32 %d0, %t0;"""
    body = body.replace("%ctaid_x", "%c")
    return Case(
        "chain backwards in each block", "mov.u32 %c, %ctaid.x;\n" + body, [],
        [Out(32, [127 - k % 128 for k in range(LANES)])], lanes=LANES,
        regs=".reg .pred %p; .reg .b64 %a; .reg .b32 %c;", memory=bytes(16),
        memory_want=memory_is(128, 128),
    )  # fmt: skip


def barrier_in_arms() -> Case:
    """__syncthreads in both arms of a branch that a warp takes both ways."""
    body = """mov.u32 %s, $K_s; mad.lo.u32 %n, %thr, 4, %s;
        and.b32 %t0, %thr, 1; setp.eq.u32 %p, %t0, 0;
        @!%p bra $K_odd;
        st.shared.u32 [%n], %idx;
        barrier.sync 0;
        xor.b32 %t1, %thr, 1; mad.lo.u32 %t1, %t1, 4, %s; ld.shared.u32 %d0, [%t1];
        bra $K_end;
        $K_odd: add.u32 %t1, %idx, 1000; st.shared.u32 [%n], %t1;
        barrier.sync 0;
        xor.b32 %t1, %thr, 1; mad.lo.u32 %t1, %t1, 4, %s; ld.shared.u32 %d0, [%t1];
        $K_end:"""
    want = [k + 1001 if k % 2 == 0 else k - 1 for k in range(LANES)]
    return Case(
        "barriers in both arms", body, [], [Out(32, want)], lanes=LANES,
        regs=".reg .pred %p; .reg .b32 %s, %n; .shared .align 4 .b8 $K_s[512];",
    )  # fmt: skip


def early_exit() -> Case:
    """Whole warps and single lanes leave before the barriers of the others."""
    body = """st.global.u32 [%out], 7;
        setp.ge.u32 %p, %thr, 96; @%p exit;
        rem.u32 %t0, %thr, 5; setp.eq.u32 %p, %t0, 3; @%p exit;
        mov.u32 %n, 0; mov.u32 %d0, 0;
        $K_loop: bar.sync 0;
        bar.red.popc.u32 %t1, 0, %q; add.u32 %d0, %d0, %t1;
        add.u32 %n, %n, 1; setp.lt.u32 %p, %n, 20; @%p bra $K_loop;"""
    live = [t for t in range(96) if t % 5 != 3]
    total = 20 * len([t for t in live if t % 2])
    want = [
        total if k % 128 in set(live) else 7 for k in range(LANES)
    ]
    return Case(
        "exits before barriers",
        "and.b32 %t0, %thr, 1; setp.eq.u32 %q, %t0, 1;\n" + body, [], [Out(32, want)],
        lanes=LANES, regs=".reg .pred %p, %q; .reg .b32 %n;",
    )  # fmt: skip


def look_back() -> Case:
    """A scan over blocks: each waits for its predecessor's sum, blocks number themselves."""
    blocks = 64
    lanes = blocks * 128
    body = """setp.ne.u32 %p, %thr, 0; mov.u32 %s, $K_s;
        @%p bra $K_wait;
        atom.global.add.u32 %n, [%mem], 1; st.shared.u32 [%s], %n;
        $K_wait: bar.sync 0;
        ld.shared.u32 %n, [%s];
        shr.u32 %t0, %thr, 5; add.u32 %t0, %t0, 1; mov.u32 %d1, %n;
        bar.red.popc.u32 %d0, 0, %yes;
        @%p bra $K_rest;
        mul.wide.u32 %a, %n, 8; add.u64 %a, %mem, %a;
        setp.eq.u32 %q, %n, 0; mov.u32 %t1, 0;
        @%q bra $K_first;
        $K_spin: ld.acquire.gpu.global.u32 %t0, [%a];
        setp.eq.u32 %q, %t0, 0; @%q bra $K_spin;
        ld.relaxed.gpu.global.u32 %t1, [%a+4];
        $K_first: st.shared.u32 [%s+4], %t1;
        add.u32 %t1, %t1, %n;
        st.relaxed.gpu.global.u32 [%a+12], %t1;
        st.release.gpu.global.u32 [%a+8], 1;
        $K_rest: bar.sync 0;
        ld.shared.u32 %d0, [%s+4];"""

    def sums(memory: bytes) -> str | None:
        for k in range(1, blocks + 1):
            want = k * (k - 1) // 2
            if word(memory, 2 * k) != 1 or word(memory, 2 * k + 1) != want:
                return f"sum before block {k} is {word(memory, 2 * k + 1)}, wanted {want}"
        return None

    case = Case(
        "look-back over blocks", "setp.eq.u32 %yes, 0, 0;\n" + body, [],
        [Out(32, check=lambda got, k: None), Out(32, check=lambda got, k: None)],
        lanes=lanes, memory=bytes(8 * (blocks + 2)), memory_want=sums,
        regs=".reg .pred %p, %q, %yes; .reg .b32 %s, %n; .reg .b64 %a;"
        " .shared .align 4 .b8 $K_s[16];",
    )  # fmt: skip
    return case


def grid_sync() -> Case:
    """All blocks meet, three times, over a counter in memory."""
    body = """mov.u32 %g, %nctaid.x; mov.u32 %n, 0; setp.eq.u32 %first, %thr, 0;
        mov.u32 %d0, 0;
        $K_round: atom.global.add.u32 %t0, [%mem+4], 1;
        bar.sync 0;
        @!%first bra $K_in;
        membar.gl;
        atom.global.add.u32 %t0, [%mem], 1;
        add.u32 %t1, %n, 1; mul.lo.u32 %t1, %t1, %g;
        $K_spin: ld.volatile.global.u32 %t0, [%mem];
        setp.lt.u32 %p, %t0, %t1; @%p bra $K_spin;
        membar.gl;
        $K_in: bar.sync 0;
        ld.volatile.global.u32 %t0, [%mem+4];
        add.u32 %n, %n, 1;
        mul.lo.u32 %t1, %n, 1024; setp.ge.u32 %p, %t0, %t1;
        selp.u32 %t1, 1, 0, %p; add.u32 %d0, %d0, %t1;
        setp.lt.u32 %p, %n, 3; @%p bra $K_round;"""
    return Case(
        "grid-wide barrier", body, [], [Out(32, [3] * 1024)], lanes=1024, memory=bytes(16),
        memory_want=memory_is(24, 3072), cooperative=True,
        regs=".reg .pred %p, %first; .reg .b32 %g, %n;",
    )  # fmt: skip


FIBONACCI = """.func (.param .b32 r) $K_fib(.param .b32 n)
{
    .reg .b32 %n, %x, %y; .reg .pred %p;
    ld.param.u32 %n, [n];
    setp.lt.u32 %p, %n, 2;
    @%p bra one;
    sub.u32 %n, %n, 1;
    { .param .b32 a; .param .b32 b; st.param.b32 [a], %n;
      call (b), $K_fib, (a); ld.param.b32 %x, [b]; }
    sub.u32 %n, %n, 1;
    { .param .b32 a; .param .b32 b; st.param.b32 [a], %n;
      call (b), $K_fib, (a); ld.param.b32 %y, [b]; }
    add.u32 %n, %x, %y;
one: st.param.b32 [r], %n;
    ret;
}"""


def recursion() -> Case:
    body = """rem.u32 %t0, %idx, 11;
        { .param .b32 a; .param .b32 b; st.param.b32 [a], %t0;
        call (b), $K_fib, (a); ld.param.b32 %d0, [b]; }
        vote.sync.ballot.b32 %d1, %yes, -1;"""
    fib = [0, 1, 1, 2, 3, 5, 8, 13, 21, 34, 55]
    return Case(
        "recursion of its own depth in each lane", "setp.eq.u32 %yes, 0, 0;\n" + body, [],
        [Out(32, [fib[k % 11] for k in range(LANES)]), Out(32, [0xFFFFFFFF] * LANES)],
        lanes=LANES, decl=FIBONACCI, regs=".reg .pred %yes;",
    )  # fmt: skip


def pointers() -> Case:
    """Each lane calls one of four functions through a table in memory."""
    decl = ""
    for k in range(4):
        decl += f""".func (.param .b32 r) $K_f{k}(.param .b32 n)
{{ .reg .b32 %n; ld.param.u32 %n, [n]; mad.lo.u32 %n, %n, {k + 2}, {k};
  st.param.b32 [r], %n; ret; }}
"""
    decl += ".global .align 8 .u64 $K_table[4] = {$K_f0, $K_f1, $K_f2, $K_f3};"
    body = """and.b32 %t0, %idx, 3; mul.wide.u32 %f, %t0, 8; mov.u64 %a, $K_table;
        add.u64 %a, %a, %f; ld.global.u64 %f, [%a];
        { .param .b32 a; .param .b32 b; st.param.b32 [a], %idx;
        proto: .callprototype (.param .b32 _) _ (.param .b32 _);
        call (b), %f, (a), proto; ld.param.b32 %d0, [b]; }"""
    return Case(
        "function pointers from a table", body, [],
        [Out(32, [k * (k % 4 + 2) + k % 4 for k in range(LANES)])], lanes=LANES, decl=decl,
        regs=".reg .b64 %a, %f;",
    )  # fmt: skip


def uneven_loops() -> Case:
    """Nested loops with breaks; the lanes come together for the vote after them."""
    body = """mov.u32 %i, 0; mov.u32 %d0, 0;
        $K_outer: mov.u32 %j, 0;
        $K_inner: add.u32 %d0, %d0, 1;
        add.u32 %j, %j, 1;
        and.b32 %t0, %thr, 7; setp.gt.u32 %p, %j, %t0; @%p bra $K_break;
        setp.lt.u32 %p, %j, 5; @%p bra $K_inner;
        $K_break: add.u32 %i, %i, 1;
        and.b32 %t0, %thr, 3; setp.le.u32 %p, %i, %t0; @%p bra $K_outer;
        bar.warp.sync -1;
        vote.sync.all.pred %q, %yes, -1; selp.u32 %d1, 1, 0, %q;"""
    want = []
    for k in range(LANES):
        t, n, i = k % 128, 0, 0
        while True:
            j = 0
            while True:
                n += 1
                j += 1
                if j > t % 8 or j >= 5:
                    break
            i += 1
            if i > t % 4:
                break
        want.append(n)
    return Case(
        "loops of uneven length", "setp.eq.u32 %yes, 0, 0;\n" + body, [],
        [Out(32, want), Out(32, [1] * LANES)], lanes=LANES,
        regs=".reg .pred %p, %q, %yes; .reg .b32 %i, %j;",
    )  # fmt: skip


def producer() -> Case:
    """One half of a warp waits for what its other half writes."""
    body = """setp.lt.u32 %p, %lane, 16; mad.wide.u32 %a, %idx, 4, %mem;
        @%p bra $K_make;
        $K_spin: ld.volatile.global.u32 %d0, [%a+-64];
        setp.eq.u32 %q, %d0, 0; @%q bra $K_spin;
        bra $K_end;
        $K_make: add.u32 %d0, %idx, 1; st.volatile.global.u32 [%a], %d0;
        $K_end:"""
    want = [k + 1 if k % 32 < 16 else k - 15 for k in range(LANES)]
    return Case(
        "one half of a warp waits for the other", body, [], [Out(32, want)], lanes=LANES,
        memory=bytes(4 * LANES), memory_want=lambda got: None,
        regs=".reg .pred %p, %q; .reg .b64 %a;",
    )  # fmt: skip


# ---- ends that are errors ----


def failing(name: str, body: str, result: int, regs: str = "") -> Case:
    return Case(
        name, body, [], [Out(32, [0] * LANES)], lanes=LANES, memory=bytes(64),
        result=result, regs=".reg .b64 %a; .reg .pred %p; " + regs,
    )  # fmt: skip


def endless() -> Case:
    body = """setp.eq.u32 %p, %idx, 5; mov.u32 %d0, 0;
        $K_loop: @%p bra $K_loop;"""
    return failing("endless loop of one lane", body, 702)


def endless_volatile() -> Case:
    body = """$K_loop: ld.volatile.global.u32 %d0, [%mem];
        setp.eq.u32 %p, %d0, 0; @%p bra $K_loop;"""
    return failing("endless wait for memory", body, 702)


def past_the_end() -> Case:
    """The CPU device's bounds are exact; a GPU's are those of its pages."""
    body = "mov.u32 %d0, 0; setp.eq.u32 %p, %idx, 200;\n@%p ld.global.u32 %d0, [%mem+64];"
    return failing("one element past the end", body, 700)


def null() -> Case:
    body = "mov.u64 %a, 0; mov.u32 %d0, 0;\nst.u32 [%a], %d0;"
    return failing("store to null", body, 700)


def wild() -> Case:
    body = "mov.u64 %a, 0x123456789abc0; mov.u32 %d0, 0;\nld.u32 %d0, [%a];"
    return failing("load from anywhere", body, 700)


def wild_atomic() -> Case:
    body = "mov.u64 %a, 0x123456789abc0; mov.u32 %d0, 0;\natom.global.add.u32 %d0, [%a], 1;"
    return failing("atomic anywhere", body, 700)


def shared_end() -> Case:
    body = "mov.u32 %s, $K_s; mov.u32 %d0, 0;\nld.shared.u32 %d0, [%s+65536];"
    return failing(
        "past shared memory", body, 700, ".reg .b32 %s; .shared .align 4 .b8 $K_s[64];"
    )


def misaligned() -> Case:
    return failing("misaligned load", "ld.global.u32 %d0, [%mem+2];", 716)


def misaligned_vector() -> Case:
    body = "ld.global.v4.u32 {%d0, %t0, %t0, %t1}, [%mem+8];"
    return failing("misaligned vector", body.replace("%t0, %t0", "%t0, %s"), 716, ".reg .b32 %s;")


def trap() -> Case:
    body = "mov.u32 %d0, 0; setp.eq.u32 %p, %idx, 130;\n@%p trap;"
    return failing("trap of one lane", body, 719)


WORKING = [
    lock_loop, lock_spin, chain, chain_backwards, barrier_in_arms, early_exit, look_back,
    grid_sync, recursion, pointers, uneven_loops, producer,
]  # fmt: skip
FAILING = [
    endless, endless_volatile, past_the_end, null, wild, wild_atomic,
    shared_end, misaligned, misaligned_vector, trap,
]  # fmt: skip
