"""What may import and include what, read from the sources: no build is needed.

Each test is one sentence of style.md's Boundaries; a new boundary gets a new test.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', re.M)


def python_files(*folders: str) -> Iterator[Path]:
    for folder in folders:
        for suffix in ("*.py", "*.pyx", "*.pxd"):
            yield from (ROOT / folder).rglob(suffix)


def c_files(folder: str) -> Iterator[Path]:
    for suffix in ("*.c", "*.h"):
        yield from (ROOT / "csrc" / folder).rglob(suffix)


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and module of each import."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        for number, line in enumerate(text.splitlines(), 1):
            found = re.match(
                r"\s*(?:from\s+([\w.]+)\s+c?import|c?import\s+([\w.]+))", line
            )
            if found:
                yield number, found[1] or found[2]
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield node.lineno, name.name
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.lineno, node.module
            for name in node.names:
                yield node.lineno, f"{node.module}.{name.name}"


def importers(package: str, *folders: str) -> list[str]:
    """Where it is imported, as file:line."""
    return [
        f"{path.relative_to(ROOT)}:{line}"
        for path in python_files(*folders)
        for line, module in imports(path)
        if module == package or module.startswith(package + ".")
    ]


def includers(folder: str, pattern: str) -> list[str]:
    return [
        f"{path.relative_to(ROOT)} includes {name}"
        for path in c_files(folder)
        for name in INCLUDE.findall(path.read_text(encoding="utf-8"))
        if re.search(pattern, name)
    ]


def outside(places: list[str], *folders: str) -> list[str]:
    return [place for place in places if not place.startswith(folders)]


def test_capnp_is_imported_in_rpc_alone():
    assert outside(importers("capnp", "fdcore", "cli"), "fdcore/rpc/") == []


def test_psutil_is_imported_in_host_alone():
    assert outside(importers("psutil", "fdcore", "cli"), "fdcore/host/") == []


def test_numba_is_imported_in_verify_alone():
    assert outside(importers("numba", "fdcore", "cli"), "fdcore/verify/") == []


def test_nicegui_is_imported_in_web_alone():
    assert outside(importers("nicegui", "fdcore", "cli"), "fdcore/web/") == []


def test_cryptography_is_imported_in_security_alone():
    assert outside(importers("cryptography", "fdcore", "cli"), "fdcore/security/") == []


def test_etcd_is_spoken_to_in_etcd_alone():
    assert outside(importers("http.client", "fdcore", "cli"), "fdcore/etcd/") == []
    for upper in ("server", "workers", "launch", "rpc"):
        assert importers(f"fdcore.{upper}", "fdcore/etcd") == []


def test_security_knows_neither_capnp_nor_leases():
    for name in ("rpc", "lease", "sched", "host", "server", "workers", "launch"):
        assert importers(f"fdcore.{name}", "fdcore/security") == []


def test_uvloop_is_imported_nowhere():
    assert importers("uvloop", "fdcore", "cli") == []


def test_sched_imports_nothing_but_itself_and_the_standard_library():
    own = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in python_files("fdcore/sched")
        for line, module in imports(path)
        if module.startswith("fdcore") and not module.startswith("fdcore.sched")
    ]
    assert own == []


def test_nothing_in_fdcore_imports_commands_tests_or_benchmarks():
    for package in ("cli", "fdcore_cli", "tests", "bench"):
        assert importers(package, "fdcore") == []


def test_core_knows_errors_and_nothing_else_of_fdcore():
    others = [
        f"{path.relative_to(ROOT)}:{line} imports {module}"
        for path in python_files("fdcore/_core")
        for line, module in imports(path)
        if re.match(r"fdcore\.(?!_core|errors)\w", module)
    ]
    assert others == []


def test_lower_layers_do_not_import_upper_ones():
    for folder in ("fdcore/rpc", "fdcore/host", "fdcore/sched"):
        for upper in ("server", "worker", "workers", "launch"):
            assert importers(f"fdcore.{upper}", folder) == []


def test_c_code_knows_no_python():
    assert includers("", r"^Python\.h$") == []


def test_no_c_code_includes_the_toolkits_headers():
    # An abi check against an installed cuda.h is made by a test, not by the product.
    assert includers("", r"^(cuda|cuda_runtime|cuda_runtime_api|nvml)\.h$") == []


def test_shim_and_server_never_include_each_other():
    assert includers("shim", r"(^|/)(server|serve)(/|\.h$)") == []
    assert includers("server", r"(^|/)shim(/|\.h$)") == []


def test_base_knows_no_cuda():
    assert includers("base", r"cuda|driver|proto\.h") == []


def test_transport_knows_neither_calls_nor_cuda():
    for folder in ("ring", "transport"):
        assert includers(folder, r"cuda|driver|proto\.h|shim|server") == []


def test_the_driver_is_opened_in_driver_alone():
    # NVML asks the library that stands beside it in the program's own process.
    # What opens a compression library or the program's own symbols is not meant.
    pattern = re.compile(r'dlopen\s*\(\s*"libcuda')
    places = [
        str(path.relative_to(ROOT))
        for path in c_files("")
        if pattern.search(path.read_text(encoding="utf-8"))
    ]
    places = [place for place in places if not place.startswith("csrc/nvml/")]
    assert outside(places, "csrc/driver/") == []


def test_nvml_knows_neither_shim_nor_server():
    assert includers("nvml", r"(^|/)(shim|server|serve|proto|cpudev|cuda_\w+)(/|\.h$)") == []
