"""Numbers of NVML as nvidia-smi words them. None stays None: what is not known."""

MIB = 1 << 20
COMPUTE_MODES = {
    0: ("Default", "Default"),
    1: ("Exclusive_Thread", "E. Thread"),
    2: ("Prohibited", "Prohibited"),
    3: ("Exclusive_Process", "E. Process"),
}
BRANDS = {
    0: "Unknown", 1: "Quadro", 2: "Tesla", 3: "NVS", 4: "Grid", 5: "GeForce",
    6: "Titan", 14: "NVIDIA", 15: "GeForce RTX", 16: "Titan RTX",
}  # fmt: skip


def mib(size: int | None) -> int | None:
    return None if size is None else size // MIB


def used_mib(total: int, free: int) -> int:
    """Used rounds up, so that used and free make the total."""
    return total // MIB - free // MIB


def enabled(value: int | None) -> str | None:
    return None if value is None else "Enabled" if value else "Disabled"


def active(value: int | None) -> str | None:
    return None if value is None else "Active" if value else "Not Active"


def watts(milliwatts: int | None) -> float | None:
    return None if milliwatts is None else milliwatts / 1000


def pstate(value: int | None) -> str | None:
    return None if value is None or value > 15 else f"P{value}"


def compute_mode(value: int | None, short: bool = False) -> str | None:
    return None if value is None else COMPUTE_MODES.get(value, ("N/A", "N/A"))[short]


def brand(value: int | None) -> str | None:
    return None if value is None else BRANDS.get(value, "Unknown")
