"""What the description says, as plain records. Nothing here reads or writes files."""

from __future__ import annotations

from dataclasses import dataclass, field

MODES = ("sync", "async", "local", "refused")
HOOKS = ("shim.before", "shim.after", "server.call")
NEEDS = ("none", "init", "context")


class SpecError(Exception):
    """A mistake in the description; says where it is."""

    def __init__(self, where: str, entry: str, message: str) -> None:
        super().__init__(
            f"{where}: {entry}: {message}" if entry else f"{where}: {message}"
        )


@dataclass(frozen=True)
class Type:
    """A type that the wire knows, or (kind "host") one that never travels."""

    name: str
    kind: str  # scalar, handle, stream, function, device, struct, host
    wire: str = ""  # how a value travels, as a C type
    size: int = 0
    align: int = 0
    handle: str = ""  # FDC_KIND_ suffix of a handle
    object: str = ""  # the shim's struct behind a handle


@dataclass(frozen=True)
class Param:
    name: str
    decl: str  # as it stands in the prototype
    base: str  # type name without const and *
    stars: int
    const: bool
    suffix: str  # array brackets of the declaration

    @property
    def ctype(self) -> str:
        """The type that a variable of this parameter has."""
        const = "const " if self.const else ""
        return f"{const}{self.base} " + "*" * self.stars


@dataclass(frozen=True)
class Word:
    """One word for one pointer: `in[count <= limit]?` and so on."""

    text: str
    kind: str  # new in out inout dev cstr opaque callback path null hook
    count: str = ""  # C expression over the call's parameters
    limit: int = 0
    optional: bool = False


@dataclass(frozen=True)
class Call:
    name: str
    where: str  # file of the description
    mode: str
    params: tuple[Param, ...]
    words: dict[str, Word]
    id: int = 0
    since: int = 0
    twin: str = ""  # ptsz or ptds
    twin_since: int = 0
    shim_hand: bool = False
    like: str = ""
    hooks: frozenset[str] = frozenset()
    needs: str = "context"
    slow: bool = False
    work: bool = False
    unsafe: bool = False
    moves: bool = False
    internal: bool = False
    drops: str = ""
    fails: tuple[str, ...] = ()
    note: str = ""
    seen: str = ""  # internal: what the program called, for people
    why: str = ""  # the reason of a refusal
    gives: str = ""  # the one CUresult that a local call ever has

    @property
    def travels(self) -> bool:
        return self.mode in ("sync", "async")

    @property
    def public(self) -> bool:
        """It is a name of cuda.h."""
        return not self.internal

    @property
    def base_name(self) -> str:
        """The name that cuGetProcAddress knows it by."""
        stem, _, number = self.name.rpartition("_v")
        return stem if stem and number.isdigit() else self.name

    @property
    def symbols(self) -> list[tuple[str, int, int]]:
        """(exported symbol, since, per thread) of the call and its twin."""
        rows = [(self.name, self.since, 0)]
        if self.twin:
            rows.append((f"{self.name}_{self.twin}", self.twin_since, 1))
        return rows

    def param(self, name: str) -> Param | None:
        return next((p for p in self.params if p.name == name), None)


@dataclass(frozen=True)
class Reason:
    """Why calls are refused: a section of reasons.toml."""

    name: str
    text: str
    listed: bool  # its calls count among those that are allowed to be missing


@dataclass(frozen=True)
class Field:
    """One member of a message's struct."""

    name: str
    ctype: str
    offset: int
    size: int


@dataclass(frozen=True)
class Span:
    """Bytes after the struct: the field of the same name says where."""

    param: Param
    word: Word
    element: int  # bytes an element


@dataclass(frozen=True)
class Layout:
    request: tuple[Field, ...]
    request_size: int
    spans: tuple[Span, ...]
    reply: tuple[Field, ...]
    reply_size: int


@dataclass(frozen=True)
class Spec:
    types: dict[str, Type]
    calls: tuple[Call, ...]
    files: tuple[str, ...] = ()
    layouts: dict[str, Layout] = field(default_factory=dict)
    reasons: tuple[Reason, ...] = ()

    def find(self, name: str) -> Call | None:
        return next((c for c in self.calls if c.name == name), None)
