"""The metrics: names, labels, what promtool says, and the dashboard that draws them."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fdcore.config import Address
from fdcore.rpc.client import Activity
from fdcore.web import metrics
from fdcore.web.model import DEAD
from tests.fdcore.web.test_model import GIB, MIB, lease, snapshot, station

DASHBOARD = Path(__file__).resolve().parents[3] / "docs" / "grafana.json"
# All that host/gauges.py may know.
FIGURES = {
    "use": 42.0, "memory_use": 7.0, "temperature": 61.0, "power": 250.0, "energy": 12.5,
    "sm_clock": 1410.0, "memory_clock": 1215.0, "encoder": 1.0, "decoder": 2.0,
    "replays": 3.0, "memory_used": 2.0 * GIB, "memory_free": 2.0 * GIB,
}  # fmt: skip
TOTALS = {
    "leases_granted": 5.0, "leases_ended": 4.0, "requests_refused": 1.0, "waited": 10.0,
    "up_bytes": 1000.0, "queue_seconds": 12.0, "queue_le_0.1": 3.0, "queue_le_1": 3.0,
    "queue_le_5": 4.0, "queue_le_15": 5.0, "queue_le_60": 5.0, "queue_le_300": 5.0,
    "queue_le_1800": 5.0, "queue_le_7200": 5.0,
}  # fmt: skip


def running(number=1, **counters):
    counted = {"up_bytes": 24, "waited": 2, **counters}
    return Activity(Address(), "s", "ann", "laptop", 42, "secret.py", "tcp", counted, (), bytes([number]) * 16)


def everything():
    now = snapshot(
        [lease(1, program="secret.py", used=(512 * MIB,))], at=1001.0, figures={0: FIGURES, 1: {}},
        totals=TOTALS, sessions=[running()])
    return [station(now), station(None, key="gpu2:56001", state=DEAD, server=b"2")]


def samples(stations):
    """By name, as labels and values; whatever a scraper would not take fails here."""
    text = metrics.text(lambda: stations)().decode()
    found = {}
    for family in text_string_to_metric_families(text):
        for one in family.samples:
            assert (one.name, one.labels) not in [(one.name, labels) for labels, _ in found.get(one.name, [])]
            found.setdefault(one.name, []).append((one.labels, one.value))
    return found


def test_devices_have_the_names_and_units_of_dcgm_exporter():
    found = samples(everything())
    assert {name: rows[0][1] for name, rows in found.items() if name.startswith("DCGM_")} == {
        "DCGM_FI_DEV_GPU_UTIL": 42.0, "DCGM_FI_DEV_MEM_COPY_UTIL": 7.0,
        "DCGM_FI_DEV_FB_USED": 2048.0, "DCGM_FI_DEV_FB_FREE": 2048.0,
        "DCGM_FI_DEV_SM_CLOCK": 1410.0, "DCGM_FI_DEV_MEM_CLOCK": 1215.0,
        "DCGM_FI_DEV_GPU_TEMP": 61.0, "DCGM_FI_DEV_POWER_USAGE": 250.0,
        "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": 12500.0, "DCGM_FI_DEV_PCIE_REPLAY_COUNTER": 3.0,
        "DCGM_FI_DEV_ENC_UTIL": 1.0, "DCGM_FI_DEV_DEC_UTIL": 2.0,
    }  # fmt: skip
    labels, _ = found["DCGM_FI_DEV_GPU_TEMP"][0]
    assert labels == {
        "gpu": "0", "UUID": "GPU-0", "pci_bus_id": "0000:00:00.0", "device": "nvidia0",
        "modelName": "GPU of tests", "Hostname": "gpu1",
    }  # fmt: skip


def test_what_is_not_known_of_a_gpu_is_not_made_up():
    found = samples([station(snapshot(figures={0: {}, 1: {}}))])
    known = {name for name in found if name.startswith("DCGM_")}
    assert known == {"DCGM_FI_DEV_FB_USED", "DCGM_FI_DEV_FB_FREE"}


def test_ours_have_their_values():
    found = samples(everything())
    assert found["fd_up"] == [({"server": "gpu1"}, 1.0), ({"server": "gpu2:56001"}, 0.0)]
    assert found["fd_leases"] == [({"server": "gpu1"}, 1.0)]
    assert found["fd_gpu_allocated_ratio"][0][1] == 0.25
    assert found["fd_leases_granted_total"] == [({"server": "gpu1"}, 5.0)]
    assert ({"server": "gpu1", "direction": "to_gpu"}, 1024.0) in found["fd_link_bytes_total"]
    assert found["fd_waits_total"] == [({"server": "gpu1"}, 12.0)]
    assert ({"server": "gpu1", "le": "5"}, 4.0) in found["fd_queue_seconds_bucket"]
    assert found["fd_queue_seconds_sum"] == [({"server": "gpu1"}, 12.0)]
    assert found["fd_queue_seconds_count"] == [({"server": "gpu1"}, 5.0)]


def test_counters_never_go_back_when_a_session_ends():
    shown = everything()
    collector = metrics.text(lambda: shown)
    assert b"fd_waits_total{server=\"gpu1\"} 12.0" in collector()
    shown = [station(snapshot(totals=TOTALS))]  # it is in neither count for a moment
    assert b"fd_waits_total{server=\"gpu1\"} 12.0" in collector()
    shown = [station(snapshot(totals={"waited": 1.0}, since=2000.0))]  # it was restarted
    assert b"fd_waits_total{server=\"gpu1\"} 1.0" in collector()


def test_labels_are_bounded():
    names = {name for rows in samples(everything()).values() for labels, _ in rows for name in labels}
    assert names == {
        "server", "gpu", "uuid", "UUID", "pci_bus_id", "device", "modelName", "Hostname",
        "version", "direction", "le",
    }  # fmt: skip
    text = metrics.text(everything)().decode()
    for word in ("ann", "laptop", "secret"):
        assert word not in text


def test_several_servers_of_one_host_have_no_sample_twice():
    two = [station(snapshot(), key="a:1", server=b"1"), station(snapshot(), key="a:2", server=b"2")]
    assert len(samples(two)["fd_up"]) == 2


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool (apt prometheus) is not there")
def test_promtool_has_nothing_to_say_of_ours():
    # Of dcgm-exporter's names it has: their labels are written in camel case.
    lines = metrics.text(everything)().decode().splitlines(keepends=True)
    ours = "".join(line for line in lines if "DCGM_" not in line)
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=ours, text=True, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def expressions(node):
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("expr", "query", "definition") and isinstance(value, str):
                yield value
            else:
                yield from expressions(value)
    elif isinstance(node, list):
        for one in node:
            yield from expressions(one)


def test_dashboard_draws_what_there_is():
    said = "\n".join(expressions(json.loads(DASHBOARD.read_text(encoding="utf-8"))))
    wanted = set(re.findall(r"\b(?:fd_|DCGM_FI_)\w+", said))
    assert len(wanted) > 10
    assert wanted - set(samples(everything())) == set()


def test_dashboard_has_no_address_of_ours_and_one_source():
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    assert "http" not in json.dumps(dashboard)
    sources = {json.dumps(panel["datasource"]) for panel in dashboard["panels"] if panel["type"] != "row"}
    assert sources == {'{"type": "prometheus", "uid": "${source}"}'}
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
