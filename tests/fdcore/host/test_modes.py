"""What a server makes of GPUs in unusual modes: offered, offered whole, or refused with the
reason. The driver and its NVML are stand-ins."""

from __future__ import annotations

import os

import pytest

from fdcore.config import CPU_DEVICE
from fdcore.errors import ConfigError
from fdcore.host.gpus import find, is_cpu_device, serve, some
from fdcore.host.modes import Seen, judge
from tests.support import start_server

GIB = 1 << 30


@pytest.fixture
def look(driver):
    def there(**told):
        return find(str(driver), dict(os.environ) | {n: str(v) for n, v in told.items()})

    return there


def test_a_gpu_that_programs_may_share_is_served_without_a_word(look):
    found = look()
    assert found.served() == found.gpus and not found.gpus[0].whole
    assert found.lines() == [f"GPU 0: a GPU, 81920 MiB, {found.gpus[0].uuid}"]


def test_a_gpu_in_exclusive_process_mode_is_given_whole(look):
    found = look(COUNT=2, MODE="30")
    assert [gpu.whole for gpu in found.served()] == [True, False]
    assert "exclusive-process mode: given whole" in found.lines()[0]


def test_a_prohibited_gpu_is_not_offered_and_the_reason_is_said(look):
    found = look(COUNT=2, MODE="02")
    assert [gpu.ordinal for gpu in found.gpus] == [0, 1]
    assert [gpu.ordinal for gpu in found.served()] == [0]
    assert "not served: its compute mode is prohibited" in found.lines()[1]


def test_a_server_with_prohibited_gpus_alone_does_not_begin(driver):
    env = dict(os.environ, MODE="2")
    with pytest.raises(ConfigError, match=r"no GPU to serve: GPU 0.*prohibited"):
        serve(str(driver), 0, env)


def test_clients_are_not_told_of_a_prohibited_gpu(driver, tmp_path):
    server = start_server(tmp_path, "--driver", str(driver), "--warm", "0",
                          COUNT="3", MODE="230")  # fmt: skip
    try:
        there = [gpu for gpu, _ in server.ask("gpus")]
        assert [(gpu.ordinal, gpu.whole) for gpu in there] == [(1, True), (2, False)]
        assert "not served: its compute mode is prohibited" in server.log
    finally:
        server.stop()


def test_a_vgpu_is_served_with_its_framebuffer(look):
    found = look(VIRTUAL=2, NOVMM=1)
    assert found.served()[0].memory == 80 * GIB
    (line,) = found.lines()
    assert "a vGPU with 81920 MiB of framebuffer; without virtual memory calls" in line


def test_a_mig_instance_is_served_by_its_own_name(look):
    found = look(MIG=1, MIG_THEN=1, INSTANCES=3)
    (gpu,) = found.served()
    assert gpu.uuid == "MIG-10101010-1010-1010-1010-101010101010"
    assert "one of 3 MIG instances" in found.lines()[0]


def test_mig_without_instances_is_why_there_is_no_gpu(look):
    with pytest.raises(ConfigError, match="MIG is on, and there are no instances"):
        look(COUNT=0, MIG=1, MIG_THEN=1)


def test_the_reason_is_told_where_the_cpu_device_is_served_instead(driver, caplog):
    env = dict(os.environ, LD_LIBRARY_PATH=str(driver.parent), COUNT="0", MIG="1", MIG_THEN="1")
    path, found = serve("", 0, env)
    assert os.path.basename(path) == CPU_DEVICE and is_cpu_device(found.gpus)
    assert "serving the CPU device" in caplog.text
    assert "MIG is on, and there are no instances" in caplog.text


def test_a_driver_without_gpus_says_only_that(look):
    with pytest.raises(ConfigError, match="cuInit"):
        look(COUNT=0)


def test_what_a_driver_does_not_know_stands_in_nobodys_way():
    verdict = judge(Seen(compute=-1, vmm=-1), GIB)
    assert (verdict.refused, verdict.whole, verdict.note) == ("", False, "")


def test_no_gpu_at_all_is_an_error_of_its_own(look):
    found = look()
    with pytest.raises(ConfigError, match=r"has no GPU$"):
        some("x", type(found)(()))
