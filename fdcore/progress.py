"""What run says on standard error while it gets GPUs: the lines that FlexDirect's users
know. Standard output is the program's."""

import sys
import time


class Progress:
    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet

    def info(self, text: str) -> None:
        self.write(f"[INFO] {now()} {text}")

    def warn(self, text: str) -> None:
        self.write(f"[WARN] {now()} {text}")

    def plain(self, text: str = "") -> None:
        self.write(text)

    def write(self, line: str) -> None:
        if not self.quiet:
            print(line, file=sys.stderr, flush=True)


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
