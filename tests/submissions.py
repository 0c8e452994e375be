"""Submission logs of the CPU device (FD_CPU_LOG), read and compared.

    python -m tests.submissions DIRECT-PREFIX REMOTE-PREFIX [--loose] [--no-results]
                                [--no-parameters] [--no-functions]

What a program gives to each stream must be the same with and without a server. What is by
design another way of saying the same is brought to one form first, and nothing else:

* a stream is what it does: streams are compared as a collection of sequences, so neither
  their names nor those that do nothing (the worker's own) matter;
* addresses and handles, marked with @, are numbered in the order in which the stream first
  uses them. Which address a freed block's successor gets is the allocator's choice, and the
  two sides have different ones: for programs that free and allocate again (`loose`) the
  numbers are a line's own;
* a server moves a large copy in pieces of 512 KiB, and packs rows: copies that go on where
  the one before ended are one copy, and the hashes of the pieces give the hash of the whole;
* the host's addresses are left out: a server has the bytes in memory of its own;
* a worker clears memory before a program has it, on a stream of its own: streams of the
  remoted log that do nothing but write zeroes over whole granules, and copy zeroes of the
  host into arrays and on from there, are left out;
* structures that kernels are given have gaps, and what lies in these is left over from
  something else: for programs that pass such (`parameters`) only their size counts;
* where a graph copies from or to the program's memory, or has functions of the program's
  behind such copies, a server launches it with functions of its own around: for programs
  that do so functions are left out (`functions`);
* records of events are left out: a server makes its own to know what has finished. That a
  program's events order its streams is what the programs themselves check.
"""

from __future__ import annotations

import difflib
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

GRANULE, PIECE = 2 << 20, 512 << 10
PRIME, BASE = (1 << 61) - 1, 0x1F3D5B79ACE02468

Line = tuple[str, ...]


def read(files: Iterable[Path]) -> list[list[list[str]]]:
    """The lines of each stream of each process, as words."""
    streams: dict[tuple[Path, str], list[list[str]]] = {}
    for file in files:
        for text in file.read_text().splitlines():
            stream, *words = text.split(" ")
            streams.setdefault((file, stream), []).append(words)
    return list(streams.values())


def logs(prefix: Path) -> list[Path]:
    return sorted(prefix.parent.glob(prefix.name + ".*"))


def goes_on(place: str, size: int, following: str) -> bool:
    return place == following == "host" or (
        place != "host" and following != "host" and int(place[1:], 16) + size == int(following[1:], 16)
    )


def joined(lines: list[list[str]], rows: bool, left_out: set[str]) -> list[list[str]]:
    """rows: whatever goes on is joined; else whole pieces alone."""
    out: list[list[str]] = []
    piece = False  # the line before was one
    for words in lines:
        if words[0] in left_out:
            continue
        last = out[-1] if out else []
        joins = piece or rows
        piece = words[0] == "copy" and int(words[3]) == PIECE
        if joins and words[0] == "copy" and last and last[0] == "copy" and all(
            goes_on(last[side], int(last[3]), words[side]) for side in (1, 2)
        ) and "host" in words[1:3] and "@" not in last[4] + words[4]:
            size, value = int(words[3]), int(words[4], 16)
            whole = (int(last[4], 16) * pow(BASE, size, PRIME) + value) % PRIME
            out[-1] = [*last[:3], str(int(last[3]) + size), format(whole, "x")]
        else:
            out.append(list(words))
    return out


@dataclass(frozen=True)
class Form:
    """How the two are brought to one form."""

    rows: bool = False  # copies of rows are joined, not only pieces
    loose: bool = False  # numbers of addresses are a line's own
    results: bool = True  # hashes of what is copied to the host count
    parameters: bool = True  # words of kernels' parameters count, not only how many
    functions: bool = True  # functions of the host count


def canonical(lines: list[list[str]], form: Form) -> tuple[Line, ...]:
    names: dict[str, str] = {}
    out = []
    left_out = {"record"} if form.functions else {"record", "host"}
    for words in joined(lines, form.rows, left_out):
        if form.loose:
            names = {}
        if words[:2] == ["copy", "host"] and not form.results:
            words = words[:-1]
        if words[0] == "kernel" and not form.parameters:
            words = [*words[:7], str(len(words) - 7)]
        out.append(tuple(names.setdefault(word, f"@{len(names)}") if word[:1] == "@" else word
                         for word in words))
    return tuple(out)


def clears_only(lines: list[list[str]]) -> bool:
    cleared = {"host"}  # where zeroes may be copied from
    for words in lines:
        if words[0] == "copy" and words[2] in cleared and words[1] != "host" and (
            words[4] == "0"  # the hash of zeroes
        ):
            cleared.add(words[1])
        elif words[0] != "record" and not (
            words[0] == "set" and words[2:4] == ["1", "0"] and int(words[4]) % GRANULE == 0
        ):
            return False
    return True


def collection(prefix: Path, form: Form, remoted: bool) -> Counter[tuple[Line, ...]]:
    sequences = (canonical(lines, form) for lines in read(logs(prefix))
                 if not (remoted and clears_only(lines)))
    return Counter(sequence for sequence in sequences if sequence)


def difference(direct: Path, remote: Path, loose: bool = False, results: bool = True,
               nothing: bool = False, parameters: bool = True, functions: bool = True) -> str:
    """Empty where the two are the same in some form; else the streams that only one has.

    nothing: that a program gives nothing to any stream is right.
    """
    forms = [Form(rows, each, results, parameters, functions)
             for each in {False, loose} for rows in (False, True)]
    for form in forms:
        one, other = collection(direct, form, False), collection(remote, form, True)
        if one == other and bool(one) != nothing:
            return ""
    if not one:
        return f"{direct}: nothing was submitted"
    only, extra = list((one - other).elements()), list((other - one).elements())
    out = [f"{len(only)} streams only direct, {len(extra)} only remoted"] if only or extra else []
    for here, there in zip(only, extra, strict=False):
        out += list(difflib.unified_diff(
            [" ".join(line)[:200] for line in here], [" ".join(line)[:200] for line in there],
            "direct", "remoted", lineterm="", n=2))[:40]
    for alone, name in ((only[len(extra):], "direct"), (extra[len(only):], "remoted")):
        for sequence in alone:
            out += [f"only {name}:", *(" ".join(line)[:200] for line in sequence[:10])]
    return "\n".join(out)


if __name__ == "__main__":
    told = difference(Path(sys.argv[1]), Path(sys.argv[2]), "--loose" in sys.argv,
                      "--no-results" not in sys.argv,
                      parameters="--no-parameters" not in sys.argv,
                      functions="--no-functions" not in sys.argv)
    count = sum(collection(Path(sys.argv[1]), Form(), False).values())
    print(told or f"{count} streams are the same")
    sys.exit(1 if told else 0)
