"""CuPy against NumPy: a few hundred expressions, every kind of dtype.

Prints one line a group, with the number of expressions that agreed; the names of those
that did not come after it.
"""

import sys
import warnings

import cupy as cp
import numpy as np

warnings.simplefilter("ignore")
failures = 0
total = 0
INTS = "bhilBHIL"
FLOATS = "efd"
COMPLEX = "FD"


def sample(dtype: str, n: int = 37):
    """The same values for both; small, so that no integer type overflows."""
    base = np.arange(n) % 11
    if dtype == "?":
        return base % 3 == 0
    if dtype in COMPLEX:
        return (base + 1j * (base % 4) - 2).astype(dtype)
    if dtype in FLOATS:
        return (base * 0.5 + 0.25).astype(dtype)
    return (base + 1).astype(dtype)


def close(got, want) -> bool:
    got, want = cp.asnumpy(got), np.asarray(want)
    if got.shape != want.shape or got.dtype != want.dtype:
        return False
    if want.dtype.kind in "fc":
        loose = {"e": 5e-3, "f": 2e-5, "F": 2e-5}.get(want.dtype.char, 1e-11)
        return np.allclose(got, want, rtol=loose, atol=loose, equal_nan=True)
    return np.array_equal(got, want)


def group(name: str, cases) -> None:
    global failures, total
    good, bad = 0, []
    for label, make in cases:
        total += 1
        try:
            ok = close(make(cp), make(np))
        except Exception as error:
            ok, label = False, f"{label} ({type(error).__name__}: {str(error)[:80]})"
        if ok:
            good += 1
        else:
            bad.append(label)
    failures += len(bad)
    print(f"{name}: {good} of {good + len(bad)}", flush=True)
    for label in bad:
        print(f"  not: {label}")


def cases_creation():
    for dtype in "?" + INTS + FLOATS + COMPLEX:
        yield f"zeros {dtype}", lambda m, d=dtype: m.zeros((3, 5), d)
        yield f"ones {dtype}", lambda m, d=dtype: m.ones(7, d)
        yield f"array {dtype}", lambda m, d=dtype: m.asarray(sample(d))
    yield "arange", lambda m: m.arange(3, 50, 4)
    yield "linspace", lambda m: m.linspace(0, 1, 17)
    yield "eye", lambda m: m.eye(5, 7, 1)
    yield "full", lambda m: m.full((2, 3), 2.5)
    yield "tri", lambda m: m.tri(4)
    yield "logspace", lambda m: m.logspace(0, 2, 9)
    yield "meshgrid", lambda m: m.meshgrid(m.arange(3), m.arange(4))[1]


def cases_unary():
    names = ("negative", "absolute", "square", "sign")
    for dtype in INTS[:4] + FLOATS:
        for name in names:
            yield (f"{name} {dtype}",
                   lambda m, d=dtype, f=name: getattr(m, f)(m.asarray(sample(d))))
    for dtype in FLOATS:
        for name in ("sqrt", "exp", "log", "sin", "cos", "tan", "tanh", "arctan", "floor",
                     "ceil", "rint", "log1p", "expm1", "exp2", "log2", "log10", "sinh",
                     "cosh", "arcsinh", "cbrt", "reciprocal", "trunc"):
            yield (f"{name} {dtype}",
                   lambda m, d=dtype, f=name: getattr(m, f)(m.asarray(sample(d))))
    for dtype in COMPLEX:
        for name in ("exp", "sqrt", "conj", "absolute", "angle", "real", "imag"):
            yield (f"{name} {dtype}",
                   lambda m, d=dtype, f=name: getattr(m, f)(m.asarray(sample(d))))
    for dtype in INTS:
        yield f"invert {dtype}", lambda m, d=dtype: ~m.asarray(sample(d))


def cases_binary():
    for dtype in INTS + FLOATS + COMPLEX:
        for name in ("add", "subtract", "multiply"):
            yield (f"{name} {dtype}", lambda m, d=dtype, f=name: getattr(m, f)(
                m.asarray(sample(d)), m.asarray(sample(d)[::-1].copy())))
    for dtype in INTS:
        for name in ("floor_divide", "remainder", "bitwise_and", "bitwise_or",
                     "bitwise_xor", "left_shift", "maximum"):
            yield (f"{name} {dtype}", lambda m, d=dtype, f=name: getattr(m, f)(
                m.asarray(sample(d)), m.asarray((sample(d)[::-1] % 5 + 1).astype(d))))
    for dtype in FLOATS:
        for name in ("true_divide", "power", "arctan2", "hypot", "fmod", "minimum", "less",
                     "greater_equal", "copysign", "logaddexp"):
            yield (f"{name} {dtype}", lambda m, d=dtype, f=name: getattr(m, f)(
                m.asarray(sample(d)), m.asarray(sample(d)[::-1].copy())))
    yield "broadcast", lambda m: m.arange(5)[:, None] * m.arange(7)[None, :]
    yield "mixed", lambda m: m.arange(9, dtype="i") * m.asarray(0.5) + m.ones(9, "f")
    yield "where", lambda m: m.where(m.arange(9) % 2 == 0, m.arange(9), -m.arange(9))
    yield "clip", lambda m: m.clip(m.arange(20), 3, 11)


def cases_reduction():
    for dtype in "?" + INTS + FLOATS + COMPLEX:
        for name in ("sum", "prod") if dtype in "fdlFD" else ("sum",):
            yield (f"{name} {dtype}", lambda m, d=dtype, f=name: getattr(m, f)(
                m.asarray(sample(d)[:9])))
    for dtype in INTS + FLOATS:
        for name in ("max", "min", "argmax", "mean"):
            yield (f"{name} {dtype}", lambda m, d=dtype, f=name: getattr(m, f)(
                m.asarray(sample(d))))
    for axis in (0, 1, 2, (0, 2)):
        yield (f"sum axis {axis}", lambda m, a=axis: m.arange(60.0).reshape(3, 4, 5).sum(a))
    yield "std", lambda m: m.arange(100.0).std()
    yield "var", lambda m: m.arange(60.0).reshape(6, 10).var(axis=1)
    yield "any", lambda m: (m.arange(10) > 8).any()
    yield "all", lambda m: (m.arange(10) > 8).all()
    yield "count_nonzero", lambda m: m.asarray(m.count_nonzero(m.arange(10) % 3))
    yield "large sum", lambda m: m.arange(100_000, dtype="l").sum()
    yield "trace", lambda m: m.arange(25).reshape(5, 5).trace()


def cases_sorting():
    values = (np.arange(500) * 7919 % 503).astype("i")
    for dtype in "bilfd":
        yield f"sort {dtype}", lambda m, d=dtype: m.sort(m.asarray(values[:120].astype(d)))
    for dtype in "ilfd":
        yield f"argsort {dtype}", lambda m, d=dtype: m.argsort(m.asarray(values.astype(d)))
    yield "sort axis", lambda m: m.sort(m.asarray(values).reshape(20, 25), axis=0)
    yield "unique", lambda m: m.unique(m.asarray(values % 17))
    yield "partition", lambda m: m.partition(m.asarray(values), 250)[250]
    yield "searchsorted", lambda m: m.searchsorted(m.arange(0, 500, 5), m.asarray(values))
    yield "nonzero", lambda m: m.nonzero(m.asarray(values % 3))[0]
    yield "lexsort", lambda m: m.lexsort(m.asarray(np.stack([values, values % 7])))


def cases_scan():
    for dtype in "ilfd":
        yield f"cumsum {dtype}", lambda m, d=dtype: m.cumsum(m.asarray(sample(d, 300)))
    yield "cumprod", lambda m: m.cumprod(m.asarray(sample("d", 12)))
    yield "cumsum axis", lambda m: m.arange(40).reshape(5, 8).cumsum(axis=1)
    yield "diff", lambda m: m.diff(m.asarray(sample("i")))
    yield "bincount", lambda m: m.bincount(m.asarray(np.arange(50) % 7))
    yield "histogram", lambda m: m.histogram(m.asarray(np.arange(50) % 7), bins=7)[0]


def cases_indexing():
    a = np.arange(60).reshape(5, 12)
    yield "slice", lambda m: m.asarray(a)[1:4, ::3].copy()
    yield "negative step", lambda m: m.asarray(a)[::-1, ::-2].copy()
    yield "integers", lambda m: m.asarray(a)[m.asarray([0, 2, 2, 4])]
    yield "two arrays", lambda m: m.asarray(a)[m.asarray([0, 2]), m.asarray([3, 5])]
    yield "mask", lambda m: m.asarray(a)[m.asarray(a % 5 == 0)]
    yield "take", lambda m: m.take(m.asarray(a), m.asarray([3, 1]), axis=1)
    yield "transpose", lambda m: m.ascontiguousarray(m.asarray(a).T)
    yield "concatenate", lambda m: m.concatenate([m.asarray(a), m.asarray(a) + 1])
    yield "stack", lambda m: m.stack([m.asarray(a), m.asarray(a)], axis=1)
    yield "roll", lambda m: m.roll(m.asarray(a), 3, axis=1)
    yield "tile", lambda m: m.tile(m.asarray(a), (2, 2))
    yield "repeat", lambda m: m.repeat(m.asarray(a), 2, axis=0)
    yield "flip", lambda m: m.flip(m.asarray(a), 0).copy()
    yield "pad", lambda m: m.pad(m.asarray(a), 2)
    yield "astype", lambda m: m.asarray(a).astype("e").astype("f")
    yield "view", lambda m: m.asarray(a.astype("f")).view("i")

    def assign(m):
        b = m.asarray(a.copy())
        b[1:3, 4] = -1
        b[b % 7 == 0] = 99
        b[m.asarray([0, 4])] += 5
        return b

    yield "assignment", assign


def cases_own_kernels():
    def raw(m):
        x = np.arange(100, dtype="f")
        if m is np:
            return x * x + 1
        kernel = cp.RawKernel(
            'extern "C" __global__ void k(const float *x, float *y, int n) {'
            "int i = blockIdx.x * blockDim.x + threadIdx.x; if (i < n) y[i] = x[i] * x[i] + 1; }",
            "k")
        out = cp.empty(100, "f")
        kernel((4,), (32,), (cp.asarray(x), out, np.int32(100)))
        return out

    def raw_module(m):
        if m is np:
            return np.arange(64, dtype="i") * 3 + 7
        module = cp.RawModule(code=r"""
            __constant__ int c[1];
            template <typename T> __global__ void fill(T *x) { x[threadIdx.x] = threadIdx.x * 3 + c[0]; }
            """, options=("-std=c++11",), name_expressions=("fill<int>",))
        memory = module.get_global("c")
        cp.ndarray((1,), "i", memory)[0] = 7
        out = cp.zeros(64, "i")
        module.get_function("fill<int>")((1,), (64,), (out,))
        return out

    def elementwise(m):
        x, y = np.arange(50.0), np.arange(50.0)[::-1]
        if m is np:
            return (x - y) ** 2
        kernel = cp.ElementwiseKernel("T x, T y", "T z", "z = (x - y) * (x - y)", "squares")
        return kernel(cp.asarray(x), cp.asarray(y.copy()))

    def reduction(m):
        x = np.arange(1000.0)
        if m is np:
            return np.asarray((x * x).sum())
        kernel = cp.ReductionKernel("T x", "T y", "x * x", "a + b", "y = a", "0", "norm2")
        return kernel(cp.asarray(x))

    def fused(m):
        x = np.arange(40.0)
        if m is np:
            return np.sin(x) * 2 + x

        @cp.fuse()
        def wave(v):
            return cp.sin(v) * 2 + v

        return wave(cp.asarray(x))

    def streams(m):
        if m is np:
            return np.arange(1000) * 6
        first, second = cp.cuda.Stream(non_blocking=True), cp.cuda.Stream(non_blocking=True)
        with first:
            a = cp.arange(1000) * 2
            event = first.record()
        with second:
            second.wait_event(event)
            b = a * 3
        second.synchronize()
        return b

    def random(m):
        if m is np:
            return np.asarray(True)
        generator = cp.random.default_rng(3)    # RandomState needs cuRAND's machine code
        x = generator.random(20_000)
        y = generator.integers(0, 10, 5000)
        return ((x.min() >= 0) & (x.max() < 1) & (abs(x.mean() - 0.5) < 0.02) &
                (y.min() == 0) & (y.max() == 9))

    yield "RawKernel", raw
    yield "RawModule", raw_module
    yield "ElementwiseKernel", elementwise
    yield "ReductionKernel", reduction
    yield "fuse", fused
    yield "streams", streams
    yield "random", random


group("creation", cases_creation())
group("unary", cases_unary())
group("binary", cases_binary())
group("reduction", cases_reduction())
group("sorting", cases_sorting())
group("scan", cases_scan())
group("indexing", cases_indexing())
group("own kernels", cases_own_kernels())
print(f"{total} expressions, {failures} wrong")
print("FAIL" if failures else "PASS")
sys.exit(failures != 0)
