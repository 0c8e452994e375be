"""GPUs, what is free on them, and what somebody asks for."""

from collections.abc import Mapping
from dataclasses import dataclass, field

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU of the driver that a server serves. whole: only one process at a time can
    have it, so it is not given in parts."""

    ordinal: int
    name: str
    uuid: str
    memory: int
    pci: str = ""
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Pool:
    """A server as its clients see it; what is free and how many leases share it, by
    ordinal. tasks: attached client processes; waiting: requests in its queue; used:
    bytes that programs have; figures: what is known of the moment; ending: leases whose
    programs are over."""

    hostname: str = ""
    release: str = ""
    cuda: str = ""
    driver: str = ""
    rdma: bool = False
    tasks: int = 0
    waiting: int = 0
    gpus: tuple[Gpu, ...] = ()
    free: Mapping[int, int] = field(default_factory=dict)
    leases: Mapping[int, int] = field(default_factory=dict)
    used: Mapping[int, int] = field(default_factory=dict)
    figures: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    draining: bool = False
    since: float = 0.0
    now: float = 0.0  # its clock
    ending: int = 0
    kept: Mapping[int, int] = field(default_factory=dict)  # percent of their time


@dataclass(frozen=True, slots=True)
class Slice:
    """The part of one GPU that a lease has. compute: percent of its time, or 0."""

    ordinal: int
    memory: int
    compute: int = 0


@dataclass(frozen=True, slots=True)
class Ask:
    """count GPUs with this much of each: bytes, or a fraction of each one's memory.
    only: the ordinals it may be; empty: any. idle: seconds without a CUDA program after
    which the lease is free again; 0: never. priority: who has more of it waits less.
    compute: percent of each one's time; 0: no share of it is kept."""

    count: int = 1
    memory: int = 0
    fraction: float = 0.0
    only: frozenset[int] = frozenset()
    idle: int = 0
    priority: int = 0
    compute: int = 0

    def chooses(self, gpu: Gpu) -> bool:
        return not self.only or gpu.ordinal in self.only

    def allows(self, gpu: Gpu) -> bool:
        whole = not gpu.whole or self.share(gpu) == gpu.memory
        return whole and self.chooses(gpu)

    def problem(self) -> str:
        """What is wrong with the numbers themselves; empty when nothing is."""
        if not 1 <= self.count <= 64:
            return f"{self.count} GPUs cannot be asked for; 1 to 64 can"
        if self.memory and self.fraction:
            return "memory is asked for twice, in MiB and as a fraction"
        if self.memory < 0 or self.memory >= 1 << 63:
            return "the amount of memory is not a possible one"
        if not 0.0 <= self.fraction <= 1.0:  # also refuses NaN
            return f"the fraction {self.fraction:g} is not above 0 and at most 1"
        if not 0 <= self.compute <= 100:
            return (
                f"{self.compute} percent of the time cannot be asked for; 1 to 100 can"
            )
        return ""

    def share(self, gpu: Gpu) -> int:
        """Bytes of this GPU's memory. A fraction is rounded down to whole MiB."""
        if self.memory:
            return self.memory
        if 0.0 < self.fraction < 1.0:
            return int(gpu.memory * self.fraction) // MIB * MIB
        return gpu.memory

    def __str__(self) -> str:
        kind = "GPU" if self.count == 1 else "GPUs"
        gpus = f"{self.count} {kind}"
        each = " each" if self.count != 1 else ""
        time = f" and {self.compute} % of the time" if self.compute else ""
        if self.memory:
            return f"{gpus} with {mib(self.memory)} MiB{time}{each}"
        if 0.0 < self.fraction < 1.0:
            return f"{gpus} with {self.fraction:g} of the memory{time}{each}"
        if self.compute:
            return f"{gpus} with all memory{time}{each}"
        return f"{self.count} whole {kind}"


def mib(size: int) -> str:
    """Whole MiB, else with one decimal: what people compare is not rounded."""
    return str(size // MIB) if size % MIB == 0 else f"{size / MIB:.1f}"
