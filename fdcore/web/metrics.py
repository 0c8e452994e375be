"""What Prometheus reads: devices under dcgm-exporter's names, ours as fd_*.

Labels are bounded: servers, GPUs, and words of a fixed set. No user, program or process
is in them. What is not known of a GPU has no sample; nothing is made up.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    UnknownMetricFamily,
)

from fdcore import __version__
from fdcore.rpc.watching import Snapshot
from fdcore.sched.slices import MIB, Gpu
from fdcore.watch import BOUNDS
from fdcore.web.model import (
    Station,
    answering,
    counters_by_lease,
    gpu_use,
    name_of,
    one_each,
    snapshot_of,
)

DEVICE_LABELS = ("gpu", "UUID", "pci_bus_id", "device", "modelName", "Hostname")
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Device:
    """One of dcgm-exporter's, and the figure of host/gauges.py that it is."""

    name: str
    figure: str
    what: str
    scale: float = 1.0
    counter: bool = False


DEVICES = (
    Device("DCGM_FI_DEV_MEM_COPY_UTIL", "memory_use", "Memory utilization (in %)."),
    Device("DCGM_FI_DEV_SM_CLOCK", "sm_clock", "SM clock frequency (in MHz)."),
    Device("DCGM_FI_DEV_MEM_CLOCK", "memory_clock", "Memory clock frequency (in MHz)."),
    Device("DCGM_FI_DEV_GPU_TEMP", "temperature", "GPU temperature (in C)."),
    Device("DCGM_FI_DEV_POWER_USAGE", "power", "Power draw (in W)."),
    Device("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "energy",
           "Total energy consumption since boot (in mJ).", 1e3, True),
    Device("DCGM_FI_DEV_PCIE_REPLAY_COUNTER", "replays",
           "Total number of PCIe retries.", counter=True),
    Device("DCGM_FI_DEV_ENC_UTIL", "encoder", "Encoder utilization (in %)."),
    Device("DCGM_FI_DEV_DEC_UTIL", "decoder", "Decoder utilization (in %)."),
)  # fmt: skip

# Of a server, as the server counts it: the total's name, its metric, and what it is.
COUNTERS = (
    ("leases_granted", "fd_leases_granted", "Leases granted."),
    ("leases_ended", "fd_leases_ended", "Leases that have ended."),
    ("requests_refused", "fd_requests_refused", "Requests for GPUs that were refused."),
    ("sessions_begun", "fd_sessions_begun", "Client processes that attached."),
    ("sessions_lost", "fd_sessions_lost", "Sessions whose worker was lost."),
)
# The same, to which sessions that still run add theirs.
FLOWS = (
    ("messages", "fd_messages", "Messages from programs."),
    ("waited", "fd_waits", "Messages that programs waited for."),
    ("launches", "fd_launches", "Kernel launches."),
)
SERVER_GAUGES: tuple[tuple[str, str, Callable[[Snapshot], float]], ...] = (
    ("fd_leases", "Leases at the moment.", lambda now: len(now.leases)),
    ("fd_sessions", "Attached client processes.", lambda now: now.pool.tasks),
    ("fd_queue_length", "Requests that wait.", lambda now: now.pool.waiting),
)
LINKS = (("up_bytes", "to_gpu"), ("down_bytes", "from_gpu"))


class Collector:
    def __init__(self, stations: Callable[[], Sequence[Station]]) -> None:
        self.stations = stations
        # Counters never go back, though a session may be in neither count for a moment.
        self.most: dict[tuple[str, str, str], float] = {}

    def collect(self) -> Iterator[Metric]:
        known = one_each(self.stations())
        yield from self.servers(known)
        live = answering(known)
        yield from self.devices(live)
        yield from self.gpus(live)
        yield from self.counters(live)
        yield self.queue(live)

    def servers(self, known: Sequence[Station]) -> Iterator[Metric]:
        up = GaugeMetricFamily(
            "fd_up", "Whether the server answers.", labels=("server",)
        )
        for station in known:
            up.add_metric([name_of(station)], float(station in answering([station])))
        yield up
        about = GaugeMetricFamily(
            "fd_build_info", "Releases; always 1.", labels=("server", "version")
        )
        draining = GaugeMetricFamily(
            "fd_draining", "Whether nothing new is granted.", labels=("server",)
        )
        for station in answering(known):
            now, name = snapshot_of(station), name_of(station)
            about.add_metric([name, now.pool.release or __version__], 1.0)
            draining.add_metric([name], float(now.pool.draining))
        yield from (about, draining)
        for metric, what, value in SERVER_GAUGES:
            made = GaugeMetricFamily(metric, what, labels=("server",))
            for station in answering(known):
                made.add_metric([name_of(station)], value(snapshot_of(station)))
            yield made

    def devices(self, live: Sequence[Station]) -> Iterator[Metric]:
        """As dcgm-exporter has them."""
        use = GaugeMetricFamily(
            "DCGM_FI_DEV_GPU_UTIL", "GPU utilization (in %).", labels=DEVICE_LABELS
        )
        used = GaugeMetricFamily(
            "DCGM_FI_DEV_FB_USED", "Framebuffer memory used (in MiB).",
            labels=DEVICE_LABELS,
        )  # fmt: skip
        free = GaugeMetricFamily(
            "DCGM_FI_DEV_FB_FREE", "Framebuffer memory free (in MiB).",
            labels=DEVICE_LABELS,
        )  # fmt: skip
        for station in live:
            now = snapshot_of(station)
            for gpu in now.pool.gpus:
                labels = device_labels(station, gpu)
                share = gpu_use(now, station.before, gpu.ordinal)
                if share is not None:
                    use.add_metric(labels, round(share * 100, 1))
                figures = now.pool.figures.get(gpu.ordinal, {})
                had = figures.get("memory_used", now.pool.used.get(gpu.ordinal, 0))
                left = figures.get("memory_free", gpu.memory - had)
                used.add_metric(labels, had // MIB)
                free.add_metric(labels, left // MIB)
        yield from (use, used, free)
        for device in DEVICES:
            # A counter's name would be made to end in _total, which theirs do not.
            kind = UnknownMetricFamily if device.counter else GaugeMetricFamily
            made = kind(device.name, device.what, labels=DEVICE_LABELS)
            for station in live:
                now = snapshot_of(station)
                for gpu in now.pool.gpus:
                    figure = now.pool.figures.get(gpu.ordinal, {}).get(device.figure)
                    if figure is not None:
                        made.add_metric(
                            device_labels(station, gpu), figure * device.scale
                        )
            if made.samples:
                yield made

    def gpus(self, live: Sequence[Station]) -> Iterator[Metric]:
        labels = ("server", "gpu", "uuid")
        made = [
            GaugeMetricFamily("fd_gpu_memory_bytes", "Memory of a GPU.", labels=labels),
            GaugeMetricFamily(
                "fd_gpu_allocated_bytes", "Memory that leases have.", labels=labels
            ),
            GaugeMetricFamily(
                "fd_gpu_allocated_ratio", "Share that leases have.", labels=labels
            ),
            GaugeMetricFamily(
                "fd_gpu_used_bytes", "Memory that programs of leases have.",
                labels=labels,
            ),
            GaugeMetricFamily(
                "fd_gpu_leases", "Leases that have a part of it.", labels=labels
            ),
        ]  # fmt: skip
        for station in live:
            pool = snapshot_of(station).pool
            for gpu in pool.gpus:
                granted = gpu.memory - pool.free[gpu.ordinal]
                where = [name_of(station), str(gpu.ordinal), gpu.uuid]
                values = (
                    gpu.memory, granted, granted / gpu.memory if gpu.memory else 0.0,
                    pool.used.get(gpu.ordinal, 0), pool.leases.get(gpu.ordinal, 0),
                )  # fmt: skip
                for metric, value in zip(made, values, strict=True):
                    metric.add_metric(where, value)
        yield from made

    def counters(self, live: Sequence[Station]) -> Iterator[Metric]:
        for total, name, what in COUNTERS:
            made = CounterMetricFamily(name, what, labels=("server",))
            for station in live:
                value = snapshot_of(station).totals.get(total, 0.0)
                made.add_metric([name_of(station)], value)
            yield made
        for total, name, what in FLOWS:
            made = CounterMetricFamily(name, what, labels=("server",))
            for station in live:
                made.add_metric([name_of(station)], self.flow(station, total))
            yield made
        made = CounterMetricFamily(
            "fd_link_bytes", "Bytes between programs and GPUs.",
            labels=("server", "direction"),
        )  # fmt: skip
        for station in live:
            for total, way in LINKS:
                made.add_metric([name_of(station), way], self.flow(station, total))
        yield made

    def flow(self, station: Station, name: str) -> float:
        now = snapshot_of(station)
        running = counters_by_lease(now.sessions).values()
        value = now.totals.get(name, 0.0) + sum(one.get(name, 0) for one in running)
        key = (station.key, str(now.pool.since), name)
        self.most = {
            k: v for k, v in self.most.items() if k[0] != key[0] or k[1] == key[1]
        }
        self.most[key] = max(self.most.get(key, 0.0), value)
        return self.most[key]

    def queue(self, live: Sequence[Station]) -> Metric:
        made = HistogramMetricFamily(
            "fd_queue_seconds", "How long who was granted something had waited.",
            labels=("server",),
        )  # fmt: skip
        for station in live:
            totals = snapshot_of(station).totals
            count = totals.get("leases_granted", 0.0)
            buckets = [(f"{b:g}", totals.get(f"queue_le_{b:g}", 0.0)) for b in BOUNDS]
            made.add_metric(
                [name_of(station)],
                [*buckets, ("+Inf", count)],
                totals.get("queue_seconds", 0.0),
            )
        return made


def device_labels(station: Station, gpu: Gpu) -> list[str]:
    number = str(gpu.ordinal)
    name = f"nvidia{gpu.ordinal}"
    return [number, gpu.uuid, gpu.pci, name, gpu.name, name_of(station)]


def text(stations: Callable[[], Sequence[Station]]) -> Callable[[], bytes]:
    """A function that writes the metrics as they are."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collector(stations))
    return lambda: bytes(generate_latest(registry))
