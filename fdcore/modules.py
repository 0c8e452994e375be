"""Modules of ours that are run as processes."""

import sys

# As -P does it, which Python 3.10 has not.
ELSEWHERE = (
    "import sys; sys.path[:] = [each for each in sys.path if each]; "
    "from runpy import run_module; "
    "run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)


def command(name: str) -> list[str]:
    """Runs it wherever we are. Python would look in the current folder first, which is
    somebody's own: a random.py or a fdcore in it is not meant."""
    if sys.version_info >= (3, 11):
        return [sys.executable, "-P", "-m", name]
    return [sys.executable, "-c", ELSEWHERE, name]
