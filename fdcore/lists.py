"""Lists as people and scripts want them: a table, JSON, CSV. Rows are dictionaries."""

import csv
import io
import json
from collections.abc import Mapping, Sequence

Row = Mapping[str, object]


def written(rows: Sequence[Row], columns: Sequence[str], form: str) -> str:
    """The rows in one of the formats, with a line's end where there is a line."""
    if form == "json":
        return (
            json.dumps([{c: row[c] for c in columns} for row in rows], indent=2) + "\n"
        )
    if form == "csv":
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([row[column] for column in columns] for row in rows)
        return out.getvalue()
    return table(rows, columns)


def table(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """Columns as wide as they must be; numbers stand on the right."""
    cells = [[printable(row[column]) for column in columns] for row in rows]
    heads = [column.replace("_", " ").upper() for column in columns]
    wide = [max(len(line[i]) for line in [heads, *cells]) for i in range(len(columns))]
    right = [
        bool(rows) and all(isinstance(row[column], (int, float)) for row in rows)
        for column in columns
    ]

    def line(words: Sequence[str]) -> str:
        placed = (
            word.rjust(wide[i]) if right[i] else word.ljust(wide[i])
            for i, word in enumerate(words)
        )
        return "  ".join(placed).rstrip() + "\n"

    return "".join(line(words) for words in [heads, *cells])


def printable(value: object) -> str:
    """A cell. Names come from other machines: nothing in them moves the cursor."""
    return "".join(c if c.isprintable() else "?" for c in str(value))
