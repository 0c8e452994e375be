"""What belongs to the driver API itself: prototypes, the table of a driver's entry points,
the names that cuGetProcAddress knows, the CPU device's refusals, Cython's declarations."""

from __future__ import annotations

from ctext import banner, prototype
from model import Call, Param, Spec


def public(spec: Spec) -> list[Call]:
    return sorted((c for c in spec.calls if c.public), key=lambda c: c.name)


def cuda_calls_h(spec: Spec) -> str:
    out = [
        banner(),
        "/* Every name of the driver API, all revisions, per-thread twins. */\n",
    ]
    out.append("#ifndef FDC_CUDA_CALLS_H\n#define FDC_CUDA_CALLS_H\n\n")
    out.append('#include "fdc/cuda_abi.h"\n\n')
    for call in public(spec):
        for symbol, _, _ in call.symbols:
            out.append(prototype(call, symbol) + ";\n")
    return "".join([*out, "\n#endif\n"])


def driver_calls_h(spec: Spec) -> str:
    out = [banner(), "/* A driver that was opened: NULL where it lacks a call. */\n"]
    out.append(
        "#ifndef FDC_DRIVER_CALLS_H\n#define FDC_DRIVER_CALLS_H\n\n"
        '#include "fdc/cuda_abi.h"\n\nstruct fdc_driver {\n'
        "    void *dl;               /* of dlopen() */\n"
        "    int version;            /* what cuDriverGetVersion says; 0: nothing */\n"
    )
    for call in public(spec):
        member = prototype(call, f"(*{call.name})").replace("\n", "\n    ")
        out.append(f"    {member};\n")
    out.append("};\n\n/* X(name) for each member, in order. */\n")
    out.append("#define FDC_DRIVER_CALLS(X) \\\n")
    names = [c.name for c in public(spec)]
    out += [
        f"    X({name}){' ' + chr(92) if name != names[-1] else ''}\n" for name in names
    ]
    return "".join([*out, "\n#endif\n"])


def procaddr_names_h(spec: Spec) -> str:
    rows = sorted(
        (call.base_name, per_thread, since, symbol)
        for call in public(spec)
        for symbol, since, per_thread in call.symbols
    )
    out = [banner(), "/* { name, since, per thread, symbol, function }, sorted */\n"]
    for name, per_thread, since, symbol in rows:
        out.append(
            f'{{ "{name}", {since}, {per_thread}, "{symbol}", (void *){symbol} }},\n'
        )
    return "".join(out)


def refusals(calls: list[Call], refuse: str, weak: bool) -> list[str]:
    out = []
    for call in calls:
        for symbol, _, _ in call.symbols:
            attribute = "__attribute__((weak)) " if weak else ""
            out.append(
                f"{attribute}FDC_EXPORT\n{prototype(call, symbol)}\n{{\n"
                f'    static uint32_t said;\n\n    return {refuse}("{symbol}", &said);\n}}\n\n'
            )
    return out


def one_answers(spec: Spec, ready: str, find: str, weak: bool) -> list[str]:
    """Calls whose only answer is said: handles are looked at, and the driver's state."""
    out = []
    for call in public(spec):
        handles = [p for p in call.params if not p.stars and spec.types[p.base].handle]
        for symbol, _, _ in call.symbols if call.gives else ():
            attribute = "__attribute__((weak)) " if weak else ""
            lines = [f"    CUresult result = {ready};\n\n"]
            for param in handles:
                found = find.format(kind=spec.types[param.base].handle, name=param.name)
                lines.append(
                    f"    if (result == CUDA_SUCCESS && {found} == NULL)\n"
                    "        return CUDA_ERROR_INVALID_HANDLE;\n"
                )
            lines.append(
                "    return result != CUDA_SUCCESS ? result "
                f": CUDA_ERROR_{call.gives};\n"
            )
            out.append(
                f"{attribute}FDC_EXPORT\n{prototype(call, symbol)}\n{{\n"
                + "".join(lines)
                + "}\n\n"
            )
    return out


def cpudev_calls_c(spec: Spec) -> str:
    out = [banner()]
    out.append(
        "/* The CPU device's answer to every call that no other file of it defines. */\n"
        '#pragma GCC diagnostic ignored "-Wunused-parameter"\n\n'
        '#include "cuda_calls.h"\n#include "fdc/base.h"\n\n'
        "static CUresult\nrefuse(const char *name, uint32_t *said)\n{\n"
        "    if (!__atomic_exchange_n(said, 1, __ATOMIC_RELAXED))\n"
        '        fdc_log(FDC_LOG_WARN, "%s is not implemented", name);\n'
        "    return CUDA_ERROR_NOT_SUPPORTED;\n}\n\n"
    )
    out += refusals([c for c in public(spec) if not c.gives], "refuse", weak=True)
    out.append(
        "/* ---- one answer, always ---- */\n\n"
        "CUresult cuCtxGetCurrent(CUcontext *pctx);\n\nstatic CUresult\nready(void)\n{\n    CUcontext current;\n\n"
        "    return cuCtxGetCurrent(&current);\n}\n\n"
    )
    return "".join(out + one_answers(spec, "ready()", "{name}", weak=True))


def _without_name(param: Param) -> str:
    """Cython has keywords that C has not: from, in, ..."""
    return param.decl[: -len(param.name)].rstrip()


def fdc_driver_pxd(spec: Spec) -> str:
    plain = {
        "int", "unsigned int", "size_t", "void", "char", "unsigned long long", "uint64_t",
        "cuuint64_t", "CUdevice", "CUdeviceptr", "CUresult",
    }  # fmt: skip
    enums = {
        n for n, t in spec.types.items() if t.kind == "scalar" and n.startswith("CU")
    }
    handles = sorted(n for n, t in spec.types.items() if t.handle and t.size in (8, 16))
    out = [banner("hash"), "from libc.stdint cimport uint64_t\n\n"]
    out.append('cdef extern from "fdc/cuda_abi.h" nogil:\n')
    out.append("    ctypedef int CUresult\n    ctypedef int CUdevice\n")
    out.append("    ctypedef unsigned long long CUdeviceptr\n")
    out.append("    ctypedef uint64_t cuuint64_t\n")
    skip = ("CUresult", "CUdeviceptr")
    numbers = sorted(e for e in enums if e not in skip and e not in handles)
    out += [f"    ctypedef int {name}\n" for name in numbers]
    out += [f"    ctypedef void *{name}\n" for name in handles]
    known = plain | enums | set(handles)
    out.append(
        '\ncdef extern from "driver_calls.h" nogil:\n    cdef struct fdc_driver:\n'
    )
    out.append("        void *dl\n        int version\n")
    for call in public(spec):
        if all(p.base in known and not p.suffix for p in call.params):
            params = ", ".join(_without_name(p) for p in call.params)
            out.append(f"        CUresult (*{call.name})({params}) noexcept\n")
    out.append('\ncdef extern from "fdc/driver.h" nogil:\n')
    out.append("    int fdc_driver_load(const char *path, fdc_driver *driver)\n")
    out.append("    void fdc_driver_unload(fdc_driver *driver)\n")
    return "".join(out)
