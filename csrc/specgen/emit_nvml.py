"""The NVML library: what csrc/nvml/nvml.toml names, exported; the refused ones written."""

from __future__ import annotations

from pathlib import Path

from model import SpecError
from read import load

MADE = "made by csrc/specgen from csrc/nvml/nvml.toml; do not edit"


def outputs(path: Path) -> dict[str, str]:
    says = load(path)
    answered, refused = says.get("answered", []), says.get("refused", [])
    twice = {n for n in [*answered, *refused] if [*answered, *refused].count(n) > 1}
    if twice:
        raise SpecError(path.name, sorted(twice)[0], "named twice")
    return {
        "nvml.map": _map([*answered, *refused]),
        "nvml_calls.c": _calls(refused),
    }


def _map(names: list[str]) -> str:
    lines = "".join(f"        {name};\n" for name in sorted(names))
    return f"/* {MADE} */\n{{\n    global:\n{lines}    local: *;\n}};\n"


def _calls(names: list[str]) -> str:
    """A refusal looks at no argument, so it needs no prototype."""
    out = [f"/* {MADE} */\n\n"
           '#include "fdc/base.h"\n#include "nvml/nvml.h"\n\n']
    for name in names:
        out.append(
            f"nvmlReturn_t {name}(void);\nFDC_EXPORT nvmlReturn_t\n{name}(void)\n{{\n"
            f'    static uint32_t said;\n\n    return fdc_nvml_refuse("{name}", &said);\n}}\n\n'
        )
    return "".join(out)
