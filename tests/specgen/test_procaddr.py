"""cuGetProcAddress, built from the generated table, against what runtimes ask of it."""

import ctypes

import pytest

from tests.specgen.tool import CC, CSRC, HERE, INCLUDE, generate, run

SUCCESS, NOT_FOUND, TOO_OLD = 0, 1, 2
ANSWERS = {"NOT_FOUND": NOT_FOUND, "VERSION_NOT_SUFFICIENT": TOO_OLD}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("procaddr")
    generate(folder)
    path = folder / "libnames.so"
    sources = [folder / "cpudev_calls.c", CSRC / "shim" / "procaddr.c"]
    sources += sorted((CSRC / "base").glob("*.c"))
    paths = [f"-I{INCLUDE}", f"-I{CSRC}", f"-I{folder}"]
    flags = ["-std=gnu11", "-D_GNU_SOURCE=", "-fPIC", "-shared", "-pthread"]
    made = run(CC, *flags, "-Wl,-Bsymbolic", *paths, "-o", path, *sources)
    assert made.returncode == 0, made.stderr
    return ctypes.CDLL(str(path))


def ask(library: ctypes.CDLL, name: str, version: int, flags: int) -> tuple[int, int]:
    pfn, status = ctypes.c_void_p(1), ctypes.c_int(-1)
    result = library.cuGetProcAddress_v2(
        name.encode(), ctypes.byref(pfn), version, ctypes.c_uint64(flags),
        ctypes.byref(status),
    )  # fmt: skip
    assert result == 0
    return status.value, pfn.value or 0


def requests() -> list[tuple[str, int, int, str]]:
    lines = (HERE / "data" / "procaddress.tsv").read_text().splitlines()
    rows = [line.split("\t") for line in lines if not line.startswith("#")][1:]
    return [(n.replace("(empty)", ""), int(v), int(f), s) for n, v, f, s in rows]


def test_every_recorded_request_gets_its_symbol(library: ctypes.CDLL) -> None:
    rows = requests()
    assert len(rows) == 680
    for name, version, flags, symbol in rows:
        status, pfn = ask(library, name, version, flags)
        if symbol in ANSWERS:
            assert (status, pfn) == (ANSWERS[symbol], 0), name
        else:
            wanted = ctypes.cast(getattr(library, symbol), ctypes.c_void_p).value
            assert (status, pfn) == (SUCCESS, wanted), (name, version, flags, symbol)


def test_name_with_a_suffix_is_not_found(library: ctypes.CDLL) -> None:
    assert ask(library, "cuMemAlloc_v2", 13000, 0) == (NOT_FOUND, 0)


def test_twins_are_looked_up_alone(library: ctypes.CDLL) -> None:
    assert ask(library, "cuMemcpy", 6000, 0)[0] == SUCCESS
    assert ask(library, "cuMemcpy", 6000, 2) == (TOO_OLD, 0)


def test_version_above_all_gives_the_newest(library: ctypes.CDLL) -> None:
    newest = ctypes.cast(library.cuCtxCreate_v4, ctypes.c_void_p).value
    assert ask(library, "cuCtxCreate", 99000, 0) == (SUCCESS, newest)


def test_old_form_fails_and_leaves_the_pointer_alone(library: ctypes.CDLL) -> None:
    pfn = ctypes.c_void_p(1)
    result = library.cuGetProcAddress(
        b"cuNothing", ctypes.byref(pfn), 12000, ctypes.c_uint64(0)
    )
    assert (result, pfn.value) == (500, 1)


def test_bad_arguments_are_invalid(library: ctypes.CDLL) -> None:
    pfn = ctypes.c_void_p(1)
    call = library.cuGetProcAddress_v2
    zero = ctypes.c_uint64(0)
    assert call(None, ctypes.byref(pfn), 12000, zero, None) == 1
    assert call(b"cuInit", None, 12000, zero, None) == 1
    assert call(b"cuInit", ctypes.byref(pfn), 12000, ctypes.c_uint64(4), None) == 1
    assert call(b"cuInit", ctypes.byref(pfn), 12000, zero, None) == 0


def test_what_is_not_implemented_answers_not_supported(library: ctypes.CDLL) -> None:
    assert library.cuGreenCtxDestroy(None) == 801
