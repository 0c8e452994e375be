"""The commands. Each file reads its arguments and calls one function of fdcore.

Before anything else is imported: Ctrl-C while a command is still starting ends it
without a word, as it does once there is something to clean up.
"""

import os
import signal
import sys
from types import FrameType


def end_at_once(number: int, frame: FrameType | None) -> None:
    os._exit(130)


def can_clean_up() -> None:
    """From here on Ctrl-C is a KeyboardInterrupt, and somebody catches it."""
    if signal.getsignal(signal.SIGINT) is end_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)


# Not where Ctrl-C is ignored, and not in another program that imports this ("-m": ours,
# since python -m imports the package first).
if (
    os.path.basename(sys.argv[0]) in ("fdrun", "fdserver", "flexdirect", "-m")
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler
):
    signal.signal(signal.SIGINT, end_at_once)
