"""The history as charts: what ECharts is to draw, as values."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from fdcore.web.history import History, Point
from fdcore.web.rows import Cells

WINDOWS = (
    ("15 min", 900), ("1 h", 3600), ("6 h", 21600), ("24 h", 86400), ("7 d", 604800),
    ("30 d", 2592000),
)  # fmt: skip
MOST_POINTS = 1500
INK = "#7f8c9d"
GRID = "rgba(127,140,157,.18)"
COLOURS = ("#3f7fd6", "#d9803a", "#2a9a9a")


@dataclass(frozen=True, slots=True)
class Line:
    series: str
    label: str
    scale: float = 1.0
    area: bool = False


@dataclass(frozen=True, slots=True)
class Chart:
    title: str
    unit: str
    lines: tuple[Line, ...]
    most: float | None = None  # of the axis; None: by what is drawn


def charts(where: str) -> list[Chart]:
    """Of the pool, a server or a GPU; who draws leaves out what there is nothing of."""
    made = [
        Chart("GPU use", "%", (Line(f"{where}/use", "busy", 100, True),), 100),
        Chart(
            "Memory", "%",
            (Line(f"{where}/granted", "granted", 100, True),
             Line(f"{where}/used", "in use", 100)), 100,
        ),
    ]  # fmt: skip
    if where.startswith("gpu "):
        return made
    more = (
        ("Waits of programs", "/s", "waits", "messages waited for", 1.0),
        ("Traffic", "MB/s", "traffic", "to and from GPUs", 1e-6),
        ("Requests in line", "", "waiting", "waiting", 1.0),
        ("Time in line", "s", "queue_seconds", "of those granted", 1.0),
    )
    made += [
        Chart(title, unit, (Line(f"{where}/{series}", label, scale),))
        for title, unit, series, label, scale in more
    ]
    return made


# What ECharts is told of a chart, and whether there is anything to see.
Drawing = tuple[Chart, Cells, bool]


def drawings(history: History, where: str, seconds: float, end: float) -> list[Drawing]:
    """All of them, of so long until then. It waits for SQLite."""
    return [
        (chart, *drawing(chart, history, end - seconds, end)) for chart in charts(where)
    ]


def drawing(
    chart: Chart, history: History, begin: float, end: float
) -> tuple[Cells, bool]:
    """ECharts' options, and whether there is anything to see."""
    series, seen = [], False
    for line in chart.lines:
        points = history.read(line.series, begin, end, MOST_POINTS)
        seen = seen or bool(points)
        series.append(
            {
                "name": line.label,
                "type": "line",
                "showSymbol": len(points) < 3,
                "symbolSize": 4,
                "lineStyle": {"width": 1.75},
                "areaStyle": {"opacity": 0.12} if line.area else None,
                "data": with_gaps(points, line.scale),
            }
        )
    return options(chart, series, begin, end), seen


def with_gaps(points: Sequence[Point], scale: float) -> list[list[float | None]]:
    """A time in which nothing was recorded is a gap and no line across."""
    steps = sorted(b.time - a.time for a, b in pairwise(points))
    usual = steps[len(steps) // 2] if steps else 0.0
    data: list[list[float | None]] = []
    for number, point in enumerate(points):
        if number and point.time - points[number - 1].time > 4 * usual:
            data.append([1000 * (points[number - 1].time + usual), None])
        data.append([1000 * point.time, round(point.mean * scale, 4)])
    return data


def options(
    chart: Chart, series: list[dict[str, object]], begin: float, end: float
) -> Cells:
    several = len(chart.lines) > 1
    axis = {"axisLabel": {"color": INK}, "axisLine": {"lineStyle": {"color": GRID}}}
    return {
        "animation": False,
        "color": list(COLOURS),
        "grid": {"left": 44, "right": 16, "top": 14, "bottom": 48 if several else 28},
        "tooltip": {"trigger": "axis", "confine": True},
        "legend": {
            "show": several, "bottom": 0, "icon": "roundRect",
            "itemHeight": 8, "textStyle": {"color": INK},
        },
        "xAxis": {
            "type": "time", "min": 1000 * begin, "max": 1000 * end,
            "splitLine": {"show": False}, "splitNumber": 5, **axis,
        },
        "yAxis": {
            "type": "value", "min": 0, "max": chart.most,
            "interval": 25 if chart.most == 100 else None,
            "minInterval": 0 if chart.unit else 1,
            "splitLine": {"lineStyle": {"color": GRID}}, "splitNumber": 4,
            **axis, "axisLine": {"show": False},
        },
        "series": series,
    }  # fmt: skip
