"""What a run of the benchmarks found: JSON, a table for people, a plot; and two runs
compared (python -m bench.report OLD.json NEW.json)."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# A ratio that has grown by more than this is pointed out by compare().
WORSE = 1.25


@dataclass(slots=True)
class Figure:
    """One figure over one road: nanoseconds of each round, from each source."""

    name: str
    road: str
    taken: dict[str, list[float]]
    busy: list[float]  # percent of the processors that others used

    def summary(self) -> dict[str, dict[str, float]]:
        return {
            source: {"median": round(statistics.median(values), 1),
                     "min": round(min(values), 1), "max": round(max(values), 1)}
            for source, values in self.taken.items()
        }

    def ratio(self, to: str, of: Callable[[Sequence[float]], float] = statistics.median
              ) -> float | None:
        below = of(self.taken[to])
        return round(of(self.taken["road"]) / below, 3) if below else None

    def line(self) -> str:
        return (f"{self.name} over {self.road}: {text(self.summary()['road']['median'])}, "
                f"x floor {self.ratio('floor')}, x direct {self.ratio('direct')}")

    def row(self) -> dict[str, Any]:
        return {
            "name": self.name, "road": self.road, "ns": self.summary(),
            "ratio_to_floor": self.ratio("floor"), "ratio_to_direct": self.ratio("direct"),
            "best_ratio_to_floor": self.ratio("floor", min),
            "best_ratio_to_direct": self.ratio("direct", min),
            "others_percent": round(statistics.median(self.busy), 1),
        }


def text(ns: float) -> str:
    for unit, size in (("ms", 1e6), ("us", 1e3)):
        if ns >= size:
            return f"{ns / size:.2f} {unit}"
    return f"{ns:.0f} ns"


def machine() -> dict[str, Any]:
    model = ""
    with open("/proc/cpuinfo") as lines:
        for line in lines:
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return {"processor": model, "cpus": os.cpu_count(), "kernel": platform.release(),
            "python": platform.python_version(), "load": os.getloadavg()}


def write(figures: Sequence[Figure], folder: Path) -> None:
    """results.json, results.md and, where matplotlib is there, results.png."""
    folder.mkdir(parents=True, exist_ok=True)
    told = {"when": time.strftime("%Y-%m-%d"), "machine": machine(),
            "figures": [figure.row() for figure in figures]}
    (folder / "results.json").write_text(json.dumps(told, indent=1) + "\n")
    (folder / "results.md").write_text(table(told))
    print(f"\n{folder / 'results.md'}, results.json", end="")
    if plot(told, folder / "results.png"):
        print(", results.png", end="")
    print()


def names_of(told: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(row["name"] for row in told["figures"]))


def roads_of(told: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(row["road"] for row in told["figures"]))


def table(told: dict[str, Any]) -> str:
    """A row a figure; each road has its median, and what that is of the floor's and of
    the direct run's in the same rounds."""
    roads = roads_of(told)
    rows = {(row["name"], row["road"]): row for row in told["figures"]}
    others = [row["others_percent"] for row in told["figures"]]
    about = told["machine"]
    out = [
        f"{told['when']}, {about['processor']}, {about['cpus']} CPUs, kernel "
        f"{about['kernel']}. Others used {statistics.median(others):.0f} % of the processors "
        f"(median of the figures; at most {max(others):.0f} %).",
        "",
        "| figure | direct | " + " | ".join(roads) + " |",
        "|---|" + "---|" * (len(roads) + 1),
    ]
    for name in names_of(told):
        here = [rows[name, road] for road in roads if (name, road) in rows]
        direct = statistics.median(row["ns"]["direct"]["median"] for row in here)
        cells = [text(direct)]
        for road in roads:
            row = rows.get((name, road))
            if row is None:
                cells.append("-")
                continue
            floor = f"{row['ratio_to_floor']:.2f}" if row["ratio_to_floor"] else "-"
            cells.append(f"{text(row['ns']['road']['median'])} ({floor}, "
                         f"{row['ratio_to_direct']:.2f})")
        out.append(f"| {name} | " + " | ".join(cells) + " |")
    out += ["", "In brackets: times the floor, times the direct run, of the same rounds."]
    return "\n".join(out) + "\n"


def plot(told: dict[str, Any], file: Path) -> bool:
    """Bars of every figure and road, as a multiple of the floor and of the direct run."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot

    names, roads = names_of(told), roads_of(told)
    rows = {(row["name"], row["road"]): row for row in told["figures"]}
    height = 0.8 / len(roads)
    figure, both = pyplot.subplots(
        1, 2, sharey=True, figsize=(10, 0.36 * len(names) + 1.2), dpi=80)
    panels = (("ratio_to_floor", "times the same movement of bytes in plain C"),
              ("ratio_to_direct", "times the same program without a server"))
    for axes, (key, what) in zip(both, panels, strict=True):
        for number, road in enumerate(roads):
            at = [i + number * height for i in range(len(names))]
            values = [(rows.get((name, road)) or {}).get(key) or float("nan")
                      for name in names]
            axes.barh(at, values, height, label=road)
        axes.set_xscale("log")
        axes.axvline(1.0, color="black", linewidth=0.8)
        axes.set_xlabel(what, fontsize=8)
        axes.tick_params(axis="x", labelsize=7)
        axes.grid(axis="x", linewidth=0.3)
    both[0].set_yticks([i + 0.4 - height / 2 for i in range(len(names))], names, fontsize=7)
    both[0].set_ylim(len(names), -0.4)
    both[1].legend(fontsize=7, loc="lower right")
    figure.tight_layout()
    figure.savefig(file)
    pyplot.close(figure)
    return True


def compare(old: dict[str, Any], new: dict[str, Any]) -> tuple[str, int]:
    """Ratios to the direct run, old and new, and how many have become worse. Judged by
    the best rounds: a busy machine makes medians worse, hardly ever the best."""
    before = {(row["name"], row["road"]): row for row in old["figures"]}
    out, worse = [], 0
    for row in new["figures"]:
        known = before.get((row["name"], row["road"]))
        if known is None:
            continue
        a, b = known["best_ratio_to_direct"], row["best_ratio_to_direct"]
        if not a or not b:
            continue
        bad = b > WORSE * a
        worse += bad
        out.append(f"{'WORSE ' if bad else '      '}{row['name']} over {row['road']}: "
                   f"x direct {a:.2f} -> {b:.2f}, median "
                   f"{text(known['ns']['road']['median'])} -> "
                   f"{text(row['ns']['road']['median'])}")
    return "\n".join(out) + "\n", worse


def main() -> int:
    missing = [name for name in sys.argv[1:3] if not Path(name).exists()]
    if missing or len(sys.argv) != 3:
        print(f"{' and '.join(missing) or 'two files'}: not there "
              "(make bench writes results, make bench-keep keeps them)", file=sys.stderr)
        return 2
    old, new = (json.loads(Path(name).read_text()) for name in sys.argv[1:3])
    said, worse = compare(old, new)
    print(said, end="")
    print(f"{worse} of {len(new['figures'])} figures are worse by more than {WORSE}")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
