"""flexdirect stats: what running programs send, and what they wait for."""

import csv
import io
import json
from collections.abc import Sequence

from fdcore.config import Address, protocol_hash
from fdcore.rpc import client
from fdcore.rpc.client import Activity

HEADS = (
    "SERVER", "SESSION", "PROGRAM", "PID", "ROAD", "MESSAGES", "WAITS", "UP", "DOWN",
    "LAUNCHES",
)  # fmt: skip
COUNTED = ("messages", "waited", "up_bytes", "down_bytes", "launches")
# So many calls are named under a session, those with the most waits.
NAMED = 3


def report(addresses: Sequence[Address], how: str) -> str:
    """The sessions of this user on all these servers, as text."""
    found = ask(addresses)
    if how == "json":
        return json.dumps([described(one) for one in found], indent=2) + "\n"
    if how == "csv":
        return as_csv(found)
    return as_table(found)


def ask(addresses: Sequence[Address]) -> list[Activity]:
    """Every one of them has to answer: sessions that are left out would mislead."""
    protocol = protocol_hash()
    return [one for each in addresses for one in client.sessions(each, protocol)]


def waiting(one: Activity) -> list[tuple[str, int]]:
    """Waits by what the program called, the most first."""
    sums: dict[str, int] = {}
    for call in one.calls:
        if call.waits:
            sums[call.seen] = sums.get(call.seen, 0) + call.waits
    return sorted(sums.items(), key=lambda row: (-row[1], row[0]))


def row(one: Activity) -> tuple[str, ...]:
    values = [str(one.counters.get(name, "?")) for name in COUNTED]
    return (
        str(one.address), one.session, one.program, str(one.pid), one.road, *values,
    )  # fmt: skip


def as_table(found: Sequence[Activity]) -> str:
    if not found:
        return "no program of yours has a session\n"
    rows = [HEADS, *(row(one) for one in found)]
    widths = [max(len(line[i]) for line in rows) for i in range(len(HEADS))]

    def line(values: Sequence[str]) -> str:
        cells = [
            value.rjust(width) if i >= 5 else value.ljust(width)
            for i, (value, width) in enumerate(zip(values, widths, strict=True))
        ]
        return "  ".join(cells).rstrip() + "\n"

    text = line(HEADS)
    for one in found:
        text += line(row(one))
        text += "".join(f"    {said}\n" for said in advice(one))
    return text


def advice(one: Activity) -> list[str]:
    """Where to look: what the program waits for most."""
    waits = waiting(one)
    total = sum(count for _, count in waits)
    return [f"{count} of {total} waits by {name}" for name, count in waits[:NAMED]]


def described(one: Activity) -> dict[str, object]:
    return {
        "server": str(one.address),
        "session": one.session,
        "user": one.user,
        "host": one.host,
        "pid": one.pid,
        "program": one.program,
        "road": one.road,
        "counters": one.counters,
        "calls": {
            call.name: {
                "seen": call.seen, "messages": call.messages, "waits": call.waits,
            }
            for call in one.calls
        },
    }  # fmt: skip


def as_csv(found: Sequence[Activity]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([name.lower() for name in HEADS])
    writer.writerows(row(one) for one in found)
    return text.getvalue()
