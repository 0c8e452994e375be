"""The description and cuda_abi.h against every real cuda.h that is installed here."""

import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.specgen.tool import CC, CSRC, INCLUDE, ROOT, cuda_includes, generate, run

sys.path.insert(0, str(CSRC / "specgen"))
import minitoml

SPEC = CSRC / "spec"
INCLUDES = cuda_includes()
needs_cuda_h = pytest.mark.skipif(not INCLUDES, reason="no cuda.h is installed")
on_each = pytest.mark.parametrize("real", INCLUDES, ids=lambda p: p.as_posix())
ABI = INCLUDE / "fdc" / "cuda_abi.h"
OURS = int(re.search(r"FDC_CUDA_VERSION (\d+)", ABI.read_text()).group(1))
INTERNAL = "-D__CUDA_API_VERSION_INTERNAL"  # every revision, every twin
NAMED = re.compile(r"CUresult\s+(cu\w+)\s*\(")


def version(real: Path) -> int:
    text = (real / "cuda.h").read_text()
    return int(re.search(r"#define CUDA_VERSION (\d+)", text).group(1))


def preprocessed(real: Path, *flags: str) -> str:
    done = run(CC, "-E", "-P", f"-I{real}", *flags, "-x", "c", real / "cuda.h")
    assert done.returncode == 0, done.stderr
    return done.stdout


def prototypes(folder: Path) -> dict[str, str]:
    text = (generate(folder) / "cuda_calls.h").read_text()
    found = re.findall(r"^CUresult (\w+)\(([^;]*)\);", text, re.M)
    return {name: " ".join(params.split()) for name, params in found}


@needs_cuda_h
@on_each
def test_every_name_of_cuda_h_is_described(real: Path, tmp_path: Path) -> None:
    text = preprocessed(real, INTERNAL)
    missing = sorted(set(NAMED.findall(text)) - set(prototypes(tmp_path)))
    if version(real) > OURS and missing:
        pytest.skip(f"newer than the description, which lacks {', '.join(missing)}")
    assert missing == []


@needs_cuda_h
@on_each
def test_prototypes_are_those_of_cuda_h(real: Path, tmp_path: Path) -> None:
    names = set(NAMED.findall(preprocessed(real, INTERNAL)))
    ours = prototypes(tmp_path)
    again = "".join(f"CUresult {n}({ours[n]});\n" for n in sorted(names & set(ours)))
    assert again.count("\n") > 500
    source = tmp_path / "again.c"
    source.write_text(
        f"#define __CUDA_API_VERSION_INTERNAL\n#include <cuda.h>\n{again}"
    )
    done = run(CC, "-std=gnu11", "-fsyntax-only", f"-I{real}", source)
    assert done.returncode == 0, done.stderr


@needs_cuda_h
@on_each
def test_versions_are_those_of_the_typedef_headers(real: Path, tmp_path: Path) -> None:
    text = (generate(tmp_path) / "procaddr_names.h").read_text()
    rows = re.findall(r'\{ "(\w+)", (\d+), ([01]), "(\w+)"', text)
    ours = {(name, int(since), int(twin)) for name, since, twin, _ in rows}
    wanted = set()
    for header in sorted(real.glob("cuda*Typedefs.h")):
        for name, since, twin in re.findall(
            r"PFN_(cu[A-Za-z0-9]+)_v(\d+)(_ptsz|_ptds)?\)", header.read_text()
        ):
            wanted.add((name, int(since), int(bool(twin))))
    wanted = {row for row in wanted if row[1] <= OURS and row[0] != "cuWGLGetDevice"}
    if not wanted:
        pytest.skip("no typedef headers beside this cuda.h")
    assert sorted(wanted - ours) == []


# ---- what is not there ----


def decided() -> dict[str, dict[str, object]]:
    """Every entry of the description, by name."""
    files = [p for p in SPEC.glob("*.toml") if p.name not in ("types.toml", "reasons.toml")]
    return {name: says for path in files for name, says in load(path).items()}


def load(path: Path) -> dict[str, dict[str, object]]:
    return minitoml.loads(path.read_text())


@needs_cuda_h
@on_each
def test_every_name_of_cuda_h_is_decided(real: Path) -> None:
    """It travels, is answered here, or is refused for a reason on the list."""
    twins = re.compile(r"_pt[sd][sz]$")
    names = {twins.sub("", n) for n in NAMED.findall(preprocessed(real, INTERNAL))}
    entries, reasons = decided(), load(SPEC / "reasons.toml")
    for name in sorted(names & set(entries)):
        says = entries[name]
        assert says["mode"] in ("sync", "async", "local", "refused"), name
        assert says["mode"] != "refused" or says["why"] in reasons, name


def test_few_are_refused_beyond_graphics_and_ipc() -> None:
    reasons = load(SPEC / "reasons.toml")
    refused = {n: str(e["why"]) for n, e in decided().items() if e["mode"] == "refused"}
    listed = sorted(n for n, why in refused.items() if reasons[why]["listed"])
    assert len(listed) <= 60, listed
    assert set(refused.values()) == set(reasons), "a reason without a call"
    for name in (n for n, why in refused.items() if why == "graphics"):
        assert re.match(r"cu(GL|EGL|VDPAU|Graphics|EventCreateFromEGL|Stream\w+ToCig)", name)


def test_every_call_that_is_written_by_hand_is_written() -> None:
    """Weak is what stands in until somebody does."""
    library = ROOT / "build" / "lib" / "libcuda.so.1"
    if not library.exists() or shutil.which("nm") is None:
        pytest.skip("the shim is not built, or there is no nm")
    lines = run("nm", "-D", "--defined-only", library).stdout.splitlines()
    assert [words[2] for words in map(str.split, lines) if words[1] == "W"] == []


# ---- numbers and layouts ----


def enumerators() -> list[str]:
    text = re.sub(r"/\*.*?\*/", "", ABI.read_text(), flags=re.S)
    bodies = re.findall(r"enum \{([^}]*)\}", text)
    found = [name for body in bodies for name in re.findall(r"(\w+) = ", body)]
    return found + re.findall(r"#define (CU_\w+) [^(]", text)


def members() -> list[tuple[str, str]]:
    """(type, path of a member) of every structure that is spelled out."""
    found: list[tuple[str, str]] = []
    text = re.sub(r"/\*.*?\*/", "", ABI.read_text(), flags=re.S)
    for start in re.finditer(r"typedef (?:struct|union) (\w+) \{", text):
        path: list[list[str]] = [[]]
        at = start.end()
        while path:
            piece = re.compile(r"[^{};]*[{};]").match(text, at)
            assert piece
            at = piece.end()
            said, sign = piece.group()[:-1].strip(), piece.group()[-1]
            if sign == "{":
                path.append([])
            elif sign == "}":
                inner = path.pop()
                if path:
                    tail = re.compile(r"\s*(\w*)[^;]*;").match(text, at)
                    assert tail
                    at, name = tail.end(), tail.group(1)
                    path[-1] += [f"{name}.{m}" if name else m for m in inner]
                    path[-1] += [name] if name else []
                else:
                    found += [(start.group(1), member) for member in inner]
            elif said:
                names = said.split(",")
                path[-1] += [re.search(r"(\w+)(\[\d+\])*$", n).group(1) for n in names]
    return found


def table(header: str, names: list[str], fields: list[tuple[str, str]]) -> str:
    lines = [f'    SAY("{n}", (long)({n}));\n' for n in names]
    for type_ in dict.fromkeys(t for t, _ in fields):
        lines.append(f'    SAY("sizeof {type_}", (long)sizeof({type_}));\n')
        lines.append(f'    SAY("align {type_}", (long)_Alignof({type_}));\n')
    lines += [f'    SAY("{t}.{m}", (long)offsetof({t}, {m}));\n' for t, m in fields]
    lines += [
        f'    SAY("size {t}.{m}", (long)sizeof((({t} *)0)->{m}));\n' for t, m in fields
    ]
    return (
        f"#include <stddef.h>\n#include <stdio.h>\n#include {header}\n"
        '#define SAY(name, value) printf("%s %ld\\n", name, value)\n'
        "int main(void)\n{\n" + "".join(lines) + "    return 0;\n}\n"
    )


def printed(folder: Path, name: str, text: str, *flags: str) -> list[str]:
    source = folder / f"{name}.c"
    source.write_text(text)
    done = run(CC, "-std=gnu11", *flags, "-o", folder / name, source)
    assert done.returncode == 0, done.stderr
    return run(folder / name).stdout.splitlines()


def unknown_to(real: Path, source: Path) -> set[str]:
    """The names and members that this cuda.h, of another version, does not have."""
    done = run(CC, "-std=gnu11", "-fsyntax-only", f"-I{real}", INTERNAL, source)
    lines = {int(n) for n in re.findall(r"\.c:(\d+):\d+: error", done.stderr)}
    text = source.read_text().splitlines()
    said = (re.search(r'"(?:\w+ )?([^"]+)"', text[n - 1]) for n in lines)
    return {found.group(1) for found in said if found}


@needs_cuda_h
@on_each
def test_numbers_and_layouts_are_those_of_cuda_h(real: Path, tmp_path: Path) -> None:
    words = set(re.findall(r"\w+", (real / "cuda.h").read_text()))
    names = [n for n in dict.fromkeys(enumerators()) if n in words]
    fields = [(t, m) for t, m in members() if t in words]
    if version(real) != OURS:
        # What closes an enumeration moves, older structures lack members, and some
        # have grown, out of their reserved bytes or at their end.
        names = [n for n in names if not n.endswith(("_MAX", "_NUM_OPTIONS"))]
        first = tmp_path / "first.c"
        first.write_text(table("<cuda.h>", names, fields))
        unknown = unknown_to(real, first)
        names = [n for n in names if n not in unknown]
        fields = [(t, m) for t, m in fields if not unknown & {t, f"{t}.{m}"}]
    assert len(names) > 600 and len(fields) > 300
    ours = printed(
        tmp_path, "ours", table('"fdc/cuda_abi.h"', names, fields), f"-I{INCLUDE}"
    )
    theirs = printed(
        tmp_path, "theirs", table("<cuda.h>", names, fields), f"-I{real}", INTERNAL
    )
    if version(real) != OURS:
        grown = re.compile(r"size|align|\w+\.reserved")
        ours = [line for line in ours if not grown.match(line)]
        theirs = [line for line in theirs if not grown.match(line)]
    differ = [f"{a}, not {b}" for a, b in zip(ours, theirs, strict=True) if a != b]
    assert not differ, "\n".join(differ)
