"""python -m tests.conformance --driver PATH [--only REGEX] [--golden FILE] [--against FILE]"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections import Counter
from pathlib import Path

from tests.conformance import forms, golden, run


def about(driver: str) -> list[str]:
    """Where results come from: the device, the commit, the command."""
    git = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(git, cwd=forms.HERE, capture_output=True, text=True).stdout.strip()
    command = " ".join(["python -m tests.conformance", *sys.argv[1:]])
    return [run.device(driver), f"commit {commit or 'unknown'}", command]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.conformance",
        description="Runs every PTX form on a driver and compares with the PTX manual.",
    )
    parser.add_argument("--driver", required=True, help="libfdcpu.so or libcuda.so.1")
    parser.add_argument("--only", default="", help="forms that match this expression")
    parser.add_argument("--golden", type=Path, help="store digests of the results here")
    parser.add_argument("--bits", type=Path, help="store the result bits here, as JSON")
    parser.add_argument(
        "--against", type=Path, help="compare with digests or bits (.json) stored earlier"
    )
    parser.add_argument("--ptx", action="store_true", help="show the kernels, run nothing")
    parser.add_argument("-v", "--verbose", action="store_true", help="passes too")
    options = parser.parse_args()
    listed = forms.forms(options.only)
    if options.ptx:
        for form in listed:
            case = forms.make(form)
            print(run.module_text([case], ["k0"]))
        return 0
    verdicts = run.run_forms(listed, options.driver)
    for v in verdicts:
        if options.verbose or v.state != run.PASS:
            print(f"{v.state:9} {v.form}  {v.why}")
    if options.against:
        for said in golden.compare(verdicts, options.against):
            print(f"differs   {said}")
    if options.golden:
        golden.write(options.golden, verdicts, about(options.driver))
    if options.bits:
        golden.write_bits(options.bits, verdicts)
    count = Counter(v.state for v in verdicts)
    print(", ".join(f"{n} {state}" for state, n in sorted(count.items())))
    return 0 if set(count) <= {run.PASS} else 1


if __name__ == "__main__":
    sys.exit(main())
