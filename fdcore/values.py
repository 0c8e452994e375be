"""What people write in options and files: amounts of memory, times, shares, switches.

Each reader gives the value or raises ConfigError with what was wrong and what would be
right. None of them knows where the text came from: whoever calls adds that.
"""

import re

from fdcore.errors import ConfigError

MIB = 1 << 20
UNITS = {"": 1, "M": 1, "MB": 1, "MIB": 1, "G": 1024, "GB": 1024, "GIB": 1024}
SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|[smhd]))+")
PIECE = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhd])")
LONGEST = 366 * 86400.0
MOST_GPUS = 64


def memory(text: str) -> int:
    """Bytes of a number of MiB, or of what its unit says."""
    digits = text.rstrip("BGIMbgim")
    unit = UNITS.get(text[len(digits) :].upper())
    try:
        size = int(float(digits) * (unit or 0) * MIB)
    except (ValueError, OverflowError):
        size = 0
    if size <= 0 or size >= 1 << 63:
        raise ConfigError(f"'{text}' is not an amount of memory in MiB, or as 2G")
    return size


def workers(text: str) -> int:
    return 0 if text.strip() == "0" else count(text, 64, "workers")


def memory_or_none(text: str) -> int:
    return 0 if text.strip() == "0" else memory(text)


def duration(text: str) -> float:
    """Seconds of 2m30s, 90s, 1h, or a plain number of seconds."""
    plain = text.strip()
    if re.fullmatch(r"\d+(\.\d+)?", plain):
        seconds = float(plain)
    elif DURATION.fullmatch(plain):
        seconds = sum(float(n) * SECONDS[unit] for n, unit in PIECE.findall(plain))
    else:
        raise ConfigError(f"'{text}' is not a time such as 90s, 2m30s or 1h")
    if seconds > LONGEST:
        raise ConfigError(f"'{text}' is longer than a year")
    return seconds


def duration_text(seconds: float) -> str:
    """The way back: 150 is 2m30s."""
    if seconds < 1:
        return f"{seconds * 1000:g}ms" if seconds else "0s"
    left, said = seconds, ""
    for unit in ("d", "h", "m"):
        whole = int(left // SECONDS[unit])
        if whole:
            said += f"{whole}{unit}"
            left -= whole * SECONDS[unit]
    left = round(left, 3)
    return said + (f"{left:g}s" if left or not said else "")


def fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value <= 1.0:
        raise ConfigError(f"'{text}' is not a fraction above 0 and at most 1")
    return value


def percent(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,3}%?", text) or not 1 <= int(text.rstrip("%")) <= 100:
        raise ConfigError(f"'{text}' is not a percentage from 1 to 100")
    return int(text.rstrip("%"))


def count(text: str, most: int = MOST_GPUS, what: str = "GPUs") -> int:
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text) <= most:
        raise ConfigError(f"'{text}' is not a number of {what}, 1 to {most}")
    return int(text)


def switch(text: str) -> bool:
    word = text.strip().lower()
    if word in ("1", "true", "yes", "on"):
        return True
    if word in ("0", "false", "no", "off"):
        return False
    raise ConfigError(f"'{text}' is not true or false")
