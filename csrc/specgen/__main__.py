"""python3 csrc/specgen --out build/gen: writes everything that csrc/spec/ describes.

--lock writes csrc/spec/wire.lock instead. A file is written only when its content changes.
Needs nothing but Python 3.10.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import check
import emit_driver
import emit_nvml
import emit_server
import emit_shim
import emit_wire
import layout
import read
from model import Spec, SpecError


def outputs(spec: Spec, framing: str) -> dict[str, str]:
    return {
        "proto.h": emit_wire.proto_h(spec),
        "wire.md": emit_wire.wire_md(spec, framing),
        "refused.md": emit_wire.refused_md(spec),
        "protocol.hash": layout.protocol_hash(spec).hex() + "\n",
        "shim_calls.c": emit_shim.shim_calls_c(spec),
        "shim_hooks.h": emit_shim.shim_hooks_h(spec),
        "shim.map": emit_shim.shim_map(spec),
        "server_calls.c": emit_server.server_calls_c(spec),
        "server_hooks.h": emit_server.server_hooks_h(spec),
        "cuda_calls.h": emit_driver.cuda_calls_h(spec),
        "driver_calls.h": emit_driver.driver_calls_h(spec),
        "procaddr_names.h": emit_driver.procaddr_names_h(spec),
        "cpudev_calls.c": emit_driver.cpudev_calls_c(spec),
        "fdc_driver.pxd": emit_driver.fdc_driver_pxd(spec),
    }


def write(path: Path, text: str) -> bool:
    """Whether the file had to be written."""
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)
    return True


def main(argv: list[str]) -> int:
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(
        prog="specgen", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--spec", type=Path, default=here.parent / "spec")
    parser.add_argument("--out", type=Path, help="folder of the generated files")
    parser.add_argument("--lock", action="store_true", help="write wire.lock")
    parser.add_argument(
        "--suggest", action="store_true", help="say what could be better"
    )
    args = parser.parse_args(argv)
    try:
        spec = read.read_spec(args.spec)
        errors = check.check(spec)
        if not errors:
            spec = layout.lay_out(spec)
    except SpecError as wrong:
        errors = [wrong]
    remarks: list[str] = []
    lock = args.spec / "wire.lock"
    if not errors and args.lock:
        write(lock, layout.lock_text(spec))
    elif not errors and lock.exists():
        errors, remarks = layout.against_lock(spec, lock.read_text(encoding="utf-8"))
    nvml: dict[str, str] = {}
    try:
        path = args.spec.parent / "nvml" / "nvml.toml"
        nvml = emit_nvml.outputs(path) if path.exists() else {}
    except SpecError as wrong:
        errors.append(wrong)
    for error in errors:
        print(error, file=sys.stderr)
    if errors:
        return 1
    if args.suggest:
        remarks += check.suggestions(spec)
    for remark in remarks:
        print(remark, file=sys.stderr)
    if args.out:
        prose = args.spec / "framing.md"
        framing = (
            prose.read_text(encoding="utf-8") if prose.exists() else "# The wire\n"
        )
        for name, text in (outputs(spec, framing) | nvml).items():
            write(args.out / name, text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
