"""Files that list servers: FlexDirect's servers.conf and vSphere Bitfusion's YAML form.

They are read and never rewritten. Both are recognised by what is in them:

    # FlexDirect: a server a line          servers:              # vSphere Bitfusion
    10.0.0.1:56001                         - reachable: 10.0.0.5:56001
    gpu2                                     addresses:
    [fe80::7]:56001                          - 10.0.0.5:56001
                                             - 192.168.7.5:56001

A server of several addresses is one server with several ways to it. Of YAML this is the
part that such files use; what is beyond it is refused by its line.
"""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path

from fdcore.config import Address, parse_address
from fdcore.errors import ConfigError

KEY = re.compile(r"([A-Za-z_][\w.-]*):(?:\s+(.*))?")
ITEM = re.compile(r"-(?:\s+(.*))?")


@dataclass(frozen=True, slots=True)
class Line:
    number: int
    indent: int
    text: str


@dataclass(slots=True)
class Entry:
    """One server of a YAML file while it is read."""

    line: int
    reachable: list[Address] = field(default_factory=list)
    addresses: list[Address] = field(default_factory=list)
    list_open: bool = False  # lines of 'addresses:' come


def read_servers_conf(path: Path) -> tuple[Address, ...]:
    """The servers of a file, in its order. Errors name file, line, cause and cure."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError(
            f"{path} is not text in UTF-8; write one server a line"
        ) from None
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise ConfigError(f"{path} cannot be read: {why}") from None
    lines = [
        Line(number, len(bare) - len(bare.lstrip(" ")), bare.strip())
        for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1)
        if (bare := without_comment(line)).strip()
    ]
    if any(line.text == "---" or line.text.startswith("servers:") for line in lines):
        return of_yaml(path, lines)
    found = (
        address_of(path, line.number, re.sub(r"^-\s+", "", line.text)) for line in lines
    )
    return tuple(dict.fromkeys(found))  # one that stands there twice is asked once


def without_comment(line: str) -> str:
    return re.sub(r"(^|\s)#.*", "", line).rstrip()


def address_of(path: Path, number: int, text: str) -> Address:
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    try:
        return parse_address(text[1:-1] if quoted else text)
    except ConfigError as error:
        raise at(
            path, number, f"{error}; write HOST, HOST:PORT or [IPV6]:PORT"
        ) from None


def at(path: Path, number: int, what: str) -> ConfigError:
    return ConfigError(f"{path}:{number}: {what}")


def of_yaml(path: Path, lines: list[Line]) -> tuple[Address, ...]:
    entries: list[Entry] = []
    inside = False
    for line in lines:
        if line.text == "---":
            continue
        key = KEY.fullmatch(line.text)
        if line.indent == 0 and key:
            inside = key[1] == "servers"
            if inside and key[2] not in (None, "", "[]"):
                raise at(path, line.number, "after 'servers:' come lines with '- '")
            continue
        if inside:
            yaml_line(path, line, entries)
        elif not (line.indent or ITEM.fullmatch(line.text)):
            raise at(path, line.number, f"'{line.text}' is not understood")
    for entry in entries:
        if not entry.reachable and not entry.addresses:
            raise at(
                path, entry.line, "the server has no address; add 'addresses:' to it"
            )
    return tuple(dict.fromkeys(together(entry) for entry in entries))


def yaml_line(path: Path, line: Line, entries: list[Entry]) -> None:
    """A line below 'servers:'."""
    item = ITEM.fullmatch(line.text)
    text = (item[1] or "").strip() if item else line.text
    key = KEY.fullmatch(text)
    if item and not key:
        if entries and entries[-1].list_open:
            entries[-1].addresses.append(address_of(path, line.number, text))
        elif text:  # a list of plain addresses
            address = address_of(path, line.number, text)
            entries.append(Entry(line.number, [address]))
        else:
            entries.append(Entry(line.number))
        return
    if item:
        entries.append(Entry(line.number))
    if not key or not entries:
        raise at(
            path, line.number,
            f"'{line.text}' is not understood; a server is written as "
            "'- addresses:' with '- HOST:PORT' in the lines below",
        )  # fmt: skip
    entry, value = entries[-1], (key[2] or "").strip()
    entry.list_open = key[1] == "addresses" and not value
    if key[1] == "reachable":
        entry.reachable = [address_of(path, line.number, value)]
    elif key[1] == "addresses" and value:
        inner = value.removeprefix("[").removesuffix("]")
        parts = [part.strip() for part in inner.split(",") if part.strip()]
        entry.addresses += [address_of(path, line.number, part) for part in parts]


def together(entry: Entry) -> Address:
    """One address that knows the others of its server."""
    ways = list(dict.fromkeys(entry.reachable + entry.addresses))
    return replace(ways[0], others=tuple(ways[1:]))
