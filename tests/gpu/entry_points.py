"""python tests/gpu/entry_points.py [DRIVER]: what a driver gives for names and tables.

Compares cuGetProcAddress for every request that CUDA runtimes were seen to make
(tests/specgen/data/procaddress.tsv) with what fdcore's library answers, and says which
private tables there are, and how large. One line a difference; no GPU code runs.
"""

from __future__ import annotations

import ctypes as c
import sys
import uuid
from pathlib import Path

REQUESTS = Path(__file__).resolve().parents[1] / "specgen" / "data" / "procaddress.tsv"
TABLES = (
    "6bd5fb6c-5bf4-e74a-8987-d93912fd9df9", "a094798c-2e74-2e74-93f2-0800200c0a66",
    "42d85a81-23f6-cb47-8298-f6e78a3aecdc", "c693336e-1121-df11-a8c3-68f355d89593",
    "263e8860-7cd2-6143-92f6-bbd5006dfa7e", "d4082055-bde6-704b-8d34-ba123c66e1f2",
    "21318c60-9714-3248-8ca6-41ff7324c8f2", "f8cff951-2146-8b4e-b9e2-fb469e7c0dd9",
    "da9151d3-3ae6-cc41-a5c0-4f26d533e328", "1734dc26-800d-4745-8726-c0f1e7dd8bca",
    "6e163fbe-b958-444d-835c-e182aff1991e",
)


def main() -> int:
    cuda = c.CDLL(sys.argv[1] if len(sys.argv) > 1 else "libcuda.so.1")
    version = c.c_int()
    print("cuInit", cuda.cuInit(0), "version", cuda.cuDriverGetVersion(c.byref(version)),
          version.value)
    differ = asked = 0
    for line in REQUESTS.read_text().splitlines():
        row = line.split("\t")
        if line.startswith("#") or len(row) < 4 or not row[1].isdigit():
            continue
        name, wanted, flags, export = row[0], int(row[1]), int(row[2]), row[3]
        pointer, status = c.c_void_p(), c.c_int(-1)
        result = cuda.cuGetProcAddress_v2(name.encode(), c.byref(pointer), wanted,
                                          c.c_uint64(flags), c.byref(status))
        asked += 1
        symbol = getattr(cuda, export, None) if export.startswith("cu") else None
        known = c.cast(symbol, c.c_void_p).value if symbol is not None else None
        if result or bool(pointer.value) != export.startswith("cu"):
            differ += 1
            print(f"{name} {wanted} {flags}: result {result} status {status.value} "
                  f"{'found' if pointer.value else 'not found'}, expected {export}")
        elif pointer.value != known:
            print(f"note: {name} {wanted} {flags} is not the exported {export}")
    print(f"{asked} requests, {differ} answered differently")
    for text in TABLES:
        table = c.c_void_p()
        raw = (c.c_ubyte * 16).from_buffer_copy(uuid.UUID(text).bytes)
        result = cuda.cuGetExportTable(c.byref(table), raw)
        size = c.cast(table, c.POINTER(c.c_size_t))[0] if table.value else 0
        print(f"table {text[:8]}: result {result}, first slot "
              f"{size if size < 1 << 20 else 'a function'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
