"""Branches, calls, ends, and instructions that only have to let a kernel go on."""

from __future__ import annotations

from tests.conformance.alu import mask
from tests.conformance.case import Case, Out, Untested, maker

LANES = 256


def collatz(n: int) -> int:
    steps = 0
    while n != 1:
        n = n // 2 if n % 2 == 0 else 3 * n + 1
        steps += 1
    return steps


@maker("bra")
def make_bra(form: str, mods: list[str]) -> Case:
    if "uni" in mods:  # the same for all lanes: a counted loop, a jump over, a jump back
        body = f"""mov.u32 %n, 0; mov.u32 %d0, 0;
            $K_loop: add.u32 %d0, %d0, %idx; add.u32 %n, %n, 1;
            setp.lt.u32 %p, %n, 10;
            @%p {form} $K_loop;
            {form} $K_last;
            $K_mid: add.u32 %d0, %d0, 100000;
            {form} $K_end;
            $K_last: add.u32 %d0, %d0, 7;
            {form} $K_mid;
            $K_end:"""
        want = [10 * k + 100007 for k in range(LANES)]
        return Case(form, body, [], [Out(32, want)], lanes=LANES, regs=".reg .b32 %n; .reg .pred %p;")
    body = f"""add.u32 %n, %idx, 1; mov.u32 %d0, 0;
        $K_loop: setp.eq.u32 %p, %n, 1;
        @%p {form} $K_end;
        and.b32 %t0, %n, 1; setp.eq.u32 %q, %t0, 0;
        @!%q {form} $K_odd;
        shr.u32 %n, %n, 1;
        {form} $K_next;
        $K_odd: mad.lo.u32 %n, %n, 3, 1;
        $K_next: add.u32 %d0, %d0, 1;
        {form} $K_loop;
        $K_end: vote.sync.ballot.b32 %d1, 1, -1;"""
    body = body.replace("%d1, 1, -1", "%d1, %p, -1")
    return Case(
        form, body, [], [Out(32, [collatz(k + 1) for k in range(LANES)]),
                         Out(32, [mask(32)] * LANES)],
        lanes=LANES, regs=".reg .b32 %n; .reg .pred %p, %q;",
    )  # fmt: skip


@maker("brx")
def make_brx(form: str, mods: list[str]) -> Case:
    body = f"""and.b32 %n, %idx, 3;
        $K_t: .branchtargets $K_0, $K_1, $K_2, $K_1;
        {form} %n, $K_t;
        $K_0: mov.u32 %d0, 10; bra $K_end;
        $K_1: mov.u32 %d0, 11; bra $K_end;
        $K_2: mov.u32 %d0, 12;
        $K_end:"""
    if "uni" in mods:
        body = body.replace("and.b32 %n, %idx, 3;", "mov.u32 %n, %ctaid.x;")
        want = [10 if k < 128 else 11 for k in range(LANES)]
    else:
        want = [[10, 11, 12, 11][k % 4] for k in range(LANES)]
    return Case(form, body, [], [Out(32, want)], lanes=LANES, regs=".reg .b32 %n;")


FACTORIAL = """.func (.param .b32 r) $K_f(.param .b32 n)
{
    .reg .b32 %n, %m; .reg .pred %p;
    ld.param.u32 %n, [n];
    setp.lt.u32 %p, %n, 2;
    @%p bra one;
    sub.u32 %m, %n, 1;
    { .param .b32 a; .param .b32 b;
      st.param.b32 [a], %m;
      $CALL (b), $K_f, (a);
      ld.param.b32 %m, [b]; }
    mul.lo.u32 %n, %n, %m;
    st.param.b32 [r], %n;
    ret;
one:
    st.param.b32 [r], 1;
    ret;
}
.func (.param .b32 r) $K_g(.param .b32 n)
{
    .reg .b32 %n;
    ld.param.u32 %n, [n];
    add.u32 %n, %n, 1000;
    st.param.b32 [r], %n;
    ret$UNI;
}"""


@maker("call", "ret")
def make_call(form: str, mods: list[str]) -> Case:
    """Recursion to different depths in one warp, and a call by address."""
    call = form if form.startswith("call") else "call"
    ret = ".uni" if form == "ret.uni" else ""
    decl = FACTORIAL.replace("$CALL", "call").replace("$UNI", ret)
    uniform = call == "call.uni"
    if uniform:
        decl = FACTORIAL.replace("$CALL", "call.uni").replace("$UNI", ret)
    body = f"""{"mov.u32 %t0, 6;" if uniform else "rem.u32 %t0, %idx, 9;"}
        {{ .param .b32 a; .param .b32 b;
        st.param.b32 [a], %t0;
        {call} (b), $K_f, (a);
        ld.param.b32 %d0, [b]; }}
        mov.u64 %f, $K_g; setp.eq.u32 %p, %thr, 9999;
        {"" if uniform else "setp.lt.u32 %p, %lane, 7;"}
        @%p mov.u64 %f, $K_f;
        rem.u32 %t0, %idx, 5;
        {{ .param .b32 a; .param .b32 b;
        $K_p: .callprototype (.param .b32 _) _ (.param .b32 _);
        st.param.b32 [a], %t0;
        {call} (b), %f, (a), $K_p;
        ld.param.b32 %d1, [b]; }}"""
    if uniform:  # all lanes do the same
        body = body.replace("rem.u32 %t0, %idx, 5;", "mov.u32 %t0, 4;")
    fact = [1, 1, 2, 6, 24, 120, 720, 5040, 40320]
    if uniform:
        want = [720] * LANES
        second = [1004] * LANES
    else:
        want = [fact[k % 9] for k in range(LANES)]
        second = [fact[k % 5] if k % 32 < 7 else k % 5 + 1000 for k in range(LANES)]
    return Case(
        form, body, [], [Out(32, want), Out(32, second)], lanes=LANES, decl=decl,
        regs=".reg .b64 %f; .reg .pred %p;",
    )  # fmt: skip


@maker("exit")
def make_exit(form: str, mods: list[str]) -> Case:
    """Some leave early; those who stay still meet at a barrier and vote."""
    body = f"""and.b32 %t0, %thr, 3; setp.eq.u32 %p, %t0, 2;
        setp.lt.u32 %q, %thr, 96;
        mov.u32 %d0, 5; st.global.u32 [%out], 4660;
        @%p {form};
        @!%q {form};
        bar.sync 0;
        mov.u32 %d0, %idx;"""
    kept = [k % 128 < 96 and k % 4 != 2 for k in range(LANES)]
    return Case(
        form, body, [], [Out(32, [k if kept[k] else 4660 for k in range(LANES)])],
        lanes=LANES, regs=".reg .pred %p, %q;",
    )  # fmt: skip


@maker("trap")
def make_trap(form: str, mods: list[str]) -> Case:
    body = f"""setp.eq.u32 %p, %idx, 77;
        @%p {form};
        mov.u32 %d0, 1;"""
    return Case(
        form, body, [], [Out(32, [1] * LANES)], lanes=LANES, regs=".reg .pred %p;",
        result=719,
    )  # fmt: skip


@maker("nanosleep", "pmevent", "griddepcontrol", "setmaxnreg")
def make_quiet(form: str, mods: list[str]) -> Case:
    op = form.split(".")[0]
    operand = {"nanosleep": " 40", "pmevent": " 3"}.get(op, "")
    if op == "setmaxnreg":
        raise Untested("needs a whole warpgroup and sm_90a")
    if form == "pmevent.mask":
        operand = " 9"
    body = f"{form}{operand};\nmov.u32 %d0, %idx;"
    if op == "nanosleep":
        body += f"\nand.b32 %t0, %idx, 31;\n{form} %t0;"
    return Case(
        form, body, [], [Out(32, list(range(LANES)))], lanes=LANES,
        target=90 if op == "griddepcontrol" else 80,
    )  # fmt: skip


@maker("alloca", "stacksave", "stackrestore")
def make_stack(form: str, mods: list[str]) -> Case:
    body = """stacksave.u64 %sv;
        alloca.u64 %p, 64, 16;
        cvta.local.u64 %q, %p;
        st.local.u32 [%p+4], %idx; st.u32 [%q+8], %lane;
        alloca.u64 %r, 16;
        st.local.u32 [%r], %thr;
        ld.u32 %d0, [%q+4]; ld.local.u32 %d1, [%p+8];
        stackrestore.u64 %sv;"""
    return Case(
        form, body, [], [Out(32, list(range(LANES))), Out(32, [k % 32 for k in range(LANES)])],
        lanes=LANES, regs=".reg .b64 %p, %q, %r, %sv;", version="8.0",
    )  # fmt: skip

