"""python -m tests.conformance --driver PATH [--only REGEX] [--golden FILE]"""

from __future__ import annotations

import argparse
import base64
import json
import sys
import zlib
from collections import Counter
from pathlib import Path

from tests.conformance import forms, run


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.conformance",
        description="Runs every PTX form on a driver and compares with the PTX manual.",
    )
    parser.add_argument("--driver", required=True, help="libfdcpu.so or libcuda.so.1")
    parser.add_argument("--only", default="", help="forms that match this expression")
    parser.add_argument("--golden", type=Path, help="store the result bits here")
    parser.add_argument("--against", type=Path, help="compare with bits stored earlier")
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
    stored = json.loads(options.against.read_text()) if options.against else {}
    for v in verdicts:
        if v.form in stored and v.bits:
            then = zlib.decompress(base64.b64decode(stored[v.form]))
            if then != v.bits:
                count = sum(x != y for x, y in zip(then, v.bits, strict=False))
                print(f"differs   {v.form}  in {count} bytes")
        if options.verbose or v.state != run.PASS:
            print(f"{v.state:9} {v.form}  {v.why}")
    if options.golden:
        options.golden.write_text(
            json.dumps(
                {
                    v.form: base64.b64encode(zlib.compress(v.bits)).decode()
                    for v in verdicts
                    if v.bits
                },
                indent=0,
            )
        )
    count = Counter(v.state for v in verdicts)
    print(", ".join(f"{n} {state}" for state, n in sorted(count.items())))
    return 0 if set(count) <= {run.PASS} else 1


if __name__ == "__main__":
    sys.exit(main())
