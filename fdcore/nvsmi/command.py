"""nvidia-smi's command line: what it understands of the vendor's, and its messages."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO

from fdcore.nvsmi import fields, markup, monitors, report, table
from fdcore.nvsmi.library import Failure, Gpu, Library, NoDriver, chosen

FAILED, BAD_ARGUMENT, NOT_SUPPORTED, NOT_FOUND, NO_DRIVER = 1, 2, 3, 6, 9
SEE_HELP = "Please run 'nvidia-smi -h' for help."
LOOP_SECONDS = 5.0

HELP = """\
NVIDIA System Management Interface, as fdcore has it: the GPUs of this lease.

    nvidia-smi [OPTION1 [ARG1]] [OPTION2 [ARG2]] ...
    nvidia-smi dmon | pmon [-h]  A line for each GPU, or process, again and again.

    -h,   --help                 Print usage information and exit.
          --version              Print version information and exit.
    -L,   --list-gpus            List the GPUs, with their UUIDs.
    -i,   --id=                  Only these: indices, UUIDs or bus ids, with commas.
    -l,   --loop=                Again after so many seconds (5), until Ctrl-C.
    -lms, --loop-ms=             The same in milliseconds.
    -f,   --filename=            Write there, not to standard output.
    -q,   --query                All that is known of each GPU.
    -x,   --xml-format           The same as XML.
    -d,   --display=             Of that only these, with commas: MEMORY, UTILIZATION,
                                 ECC, TEMPERATURE, POWER, CLOCK, COMPUTE, PIDS,
                                 PERFORMANCE.
          --query-gpu=           Fields of each GPU, with commas; see --help-query-gpu.
          --query-compute-apps=  Fields of each process of this lease that has memory;
                                 see --help-query-compute-apps.
          --format=              csv, and with commas: noheader, nounits.

Memory is that of the slice. What is not known of a GPU is N/A. Nothing of a GPU can be
changed from here.
"""


class Mistake(Exception):
    def __init__(self, message: str, status: int = FAILED) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class Given:
    list_gpus: bool = False
    query: bool = False
    xml: bool = False
    gpu_query: str = ""
    app_query: str = ""
    format: str = ""
    ids: str = ""
    display: str = ""
    file: str = ""
    loop: float = 0


FLAGS = {"-L": "list_gpus", "--list-gpus": "list_gpus", "-q": "query",
         "--query": "query", "-x": "xml", "--xml-format": "xml"}  # fmt: skip
VALUES = {
    "-i": "ids", "--id": "ids", "-d": "display", "--display": "display",
    "-f": "file", "--filename": "file", "--format": "format",
    "--query-gpu": "gpu_query", "--query-compute-apps": "app_query",
}  # fmt: skip
LOOPS = {"-l": 1.0, "--loop": 1.0, "-lms": 0.001, "--loop-ms": 0.001}


def understood(words: Sequence[str]) -> Given:
    given = Given()
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if word in FLAGS:
            setattr(given, FLAGS[word], True)
        elif name in LOOPS:
            if not equals and rest and rest[0].replace(".", "", 1).isdigit():
                value = rest.pop(0)
            given.loop = seconds(name, value, LOOPS[name])
        elif name in VALUES:
            if not equals:
                if not rest:
                    raise Mistake(f"Option {word} requires a value. {SEE_HELP}")
                value = rest.pop(0)
            setattr(given, VALUES[name], value)
        else:
            raise Mistake(f"ERROR: Option {word} is not recognized. {SEE_HELP}")
    return checked(given)


def seconds(name: str, value: str, unit: float) -> float:
    if not value:
        return LOOP_SECONDS
    try:
        found = float(value) * unit
    except ValueError:
        found = 0.0
    if not 0 < found < 1e6:
        raise Mistake(f'Value "{value}" of option {name} is not valid. {SEE_HELP}')
    return found


def checked(given: Given) -> Given:
    asked = [given.list_gpus, given.query, bool(given.gpu_query), bool(given.app_query)]
    if sum(asked) > 1 or ((given.display or given.xml) and not given.query):
        raise Mistake(f"ERROR: Invalid combination of input arguments. {SEE_HELP}")
    if given.gpu_query or given.app_query:
        kinds = given.format.split(",")
        if "csv" not in kinds or set(kinds) - {"csv", "noheader", "nounits"}:
            raise Mistake(
                f'"--format=" option is missing or not understood. {SEE_HELP}'
            )
    for word in sections(given):
        if word not in report.SECTIONS or word.islower():
            raise Mistake(f'Section "{word}" is not known. {SEE_HELP}')
    return given


def sections(given: Given) -> list[str]:
    return [word.strip() for word in given.display.split(",") if word]


def shown(library: Library, given: Given, header: bool) -> str:
    """One turn's text."""
    gpus = library.gpus()
    if given.ids:
        gpus = chosen(gpus, given.ids)
    if not gpus:
        raise Mistake("No devices were found", NOT_FOUND)
    if given.list_gpus:
        return "".join(
            f"GPU {gpu.index}: {gpu.name()} (UUID: {gpu.uuid()})\n" for gpu in gpus
        )
    if given.query:
        written = markup.document if given.xml else report.report
        return written(library, gpus, sections(given), time.time())
    if given.gpu_query or given.app_query:
        return "".join(f"{each}\n" for each in rows(gpus, given, header))
    return table.screen(library, gpus, time.time())


def rows(gpus: Sequence[Gpu], given: Given, header: bool) -> list[str]:
    header = header and "noheader" not in given.format.split(",")
    units = "nounits" not in given.format.split(",")
    try:
        if given.gpu_query:
            wanted = fields.gpu_fields(given.gpu_query)
            return fields.gpu_lines(gpus, wanted, header, units)
        return fields.app_lines(gpus, fields.app_fields(given.app_query), header, units)
    except fields.BadField as bad:
        message = f'Field "{bad}" is not a valid field to query.\n'
        raise Mistake(message, BAD_ARGUMENT) from None


MONITOR_VALUES = {
    "-i": "ids", "--id": "ids", "-d": "delay", "--delay": "delay",
    "-c": "count", "--count": "count", "-s": "select", "--select": "select",
    "-o": "options", "--options": "options", "-f": "file", "--filename": "file",
}  # fmt: skip


def monitor(words: Sequence[str]) -> monitors.Wanted:
    """dmon's and pmon's options."""
    wanted = monitors.Wanted(words[0], select=monitors.USUAL[words[0]])
    rest = list(words[1:])
    while rest:
        name, equals, value = rest.pop(0).partition("=")
        if name not in MONITOR_VALUES:
            raise Mistake(f"ERROR: Option {name} is not recognized. {SEE_HELP}")
        if not equals:
            if not rest:
                raise Mistake(f"Option {name} requires a value. {SEE_HELP}")
            value = rest.pop(0)
        what = MONITOR_VALUES[name]
        if what == "delay":
            wanted.delay = seconds(name, value, 1.0)
        elif what == "count":
            if not value.isdigit() or not 0 < int(value) < 10**9:
                message = f'Value "{value}" of option {name} is not valid. {SEE_HELP}'
                raise Mistake(message)
            wanted.count = int(value)
        else:
            setattr(wanted, what, value)
    unknown = set(wanted.select) - set(monitors.KINDS[wanted.command])
    unknown |= set(wanted.options) - {"D", "T"}
    if unknown or not wanted.select:
        raise Mistake(f"ERROR: Option {''.join(sorted(unknown))} is not recognized.")
    return wanted


def run_monitor(wanted: monitors.Wanted) -> None:
    with contextlib.ExitStack() as files:
        out: TextIO = sys.stdout
        if wanted.file:
            out = files.enter_context(open(wanted.file, "w", encoding="utf-8"))
        monitors.watch(wanted, out)


def run(given: Given) -> None:
    library = Library()
    first = True
    with contextlib.ExitStack() as files:
        out: TextIO = sys.stdout
        if given.file:
            out = files.enter_context(open(given.file, "w", encoding="utf-8"))
        while True:
            out.write(shown(library, given, first))
            out.flush()
            if not given.loop:
                break
            first = False
            time.sleep(given.loop)
    library.close()


def helped(words: Sequence[str]) -> str:
    """What is only about this program."""
    if words and words[0] in monitors.TURNS:
        asked = any(word in ("-h", "--help") for word in words)
        texts = {"dmon": monitors.DMON_HELP, "pmon": monitors.PMON_HELP}
        return texts[words[0]] if asked else ""
    if any(word in ("-h", "--help") for word in words):
        return HELP
    if "--version" in words:
        from fdcore import __version__

        return f"NVIDIA-SMI of fdcore version : {__version__}\n"
    if "--help-query-gpu" in words:
        return "".join(
            f'"{field.name}"\n    {field.about}\n' for field in fields.GPU_FIELDS
        )
    if "--help-query-compute-apps" in words:
        return "".join(f'"{name}"\n' for name in fields.APP_FIELDS)
    return ""


def main(words: Sequence[str]) -> int:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    text = helped(words)
    if text:
        sys.stdout.write(text)
        return 0
    try:
        if words and words[0] in monitors.TURNS:
            run_monitor(monitor(words))
        else:
            run(understood(words))
        return 0
    except Mistake as mistake:
        print(mistake)
        return mistake.status
    except NoDriver:
        print(
            "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA "
            "driver. Here that is fdcore's: FD_LOG=error in the environment says why "
            "it has no session."
        )
        return NO_DRIVER
    except Failure as failure:
        print(f"NVIDIA-SMI: {failure}")
        return FAILED
    except OSError as error:
        print(f"{error.filename or 'nvidia-smi'}: {error.strerror}", file=sys.stderr)
        return FAILED


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    # The session's lanes end with the process; Python has nothing to tidy up.
    os._exit(status)
