"""The parts that pages are made of: NiceGUI elements around parts/*.js.

Each is told what to show as values and sends them on only where they have changed.
"""

from collections.abc import Callable, Sequence
from typing import Any

from nicegui import ui
from nicegui.events import GenericEventArguments

from fdcore.web.rows import Cells, Column


class Part(ui.element):  # type: ignore[misc]
    """An element whose properties are replaced when they differ."""

    def show(self, name: str, value: object) -> None:
        if self._props.get(name) != value:
            self._props[name] = value
            self.update()


class Tiles(Part, component="parts/tiles.js"):  # type: ignore[call-arg]
    def __init__(self) -> None:
        super().__init__()
        self._props["items"] = []


class PoolMap(Part, component="parts/pool.js"):  # type: ignore[call-arg]
    def __init__(self, drain: Callable[[str], Any]) -> None:
        super().__init__()
        self._props["servers"] = []
        self.on("drain", lambda event: drain(word(event)))


class Rows(Part, component="parts/rows.js"):  # type: ignore[call-arg]
    """actions: their names, labels and tones; act is called with name and row's key."""

    def __init__(
        self,
        caption: str,
        columns: Sequence[Column],
        empty: str,
        actions: Sequence[tuple[str, str, str]] = (),
        act: Callable[[str, str], Any] | None = None,
        search: bool = False,
    ) -> None:
        super().__init__()
        self._props["caption"] = caption
        self._props["columns"] = [column.props() for column in columns]
        self._props["rows"] = []
        self._props["empty"] = empty
        self._props["search"] = search
        self._props["actions"] = [
            {"name": name, "label": label, "tone": tone}
            for name, label, tone in actions
        ]
        if act is not None:
            self.on("act", lambda event: act(*asked(event)))

    def fill(self, rows: Sequence[Cells]) -> None:
        self.show("rows", list(rows))


def word(event: GenericEventArguments) -> str:
    return event.args if isinstance(event.args, str) else ""


def asked(event: GenericEventArguments) -> tuple[str, str]:
    """What a browser sent, which may be anything."""
    said = event.args if isinstance(event.args, dict) else {}
    return str(said.get("action", "")), str(said.get("key", ""))
