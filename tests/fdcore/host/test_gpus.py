"""What GPUs a driver has, asked in a process of its own: host/gpus.py."""

import os

import pytest

from fdcore.config import CPU_DEVICE, LIBRARIES, SHIM
from fdcore.errors import ConfigError
from fdcore.host import gpus


def test_cpu_device_is_found_and_known_as_one(tmp_path):
    env = dict(os.environ, FD_CPU_DEVICES="3", FD_CPU_MEMORY_MB="512")
    found = gpus.ask(str(LIBRARIES / CPU_DEVICE), env)
    assert [gpu.ordinal for gpu in found] == [0, 1, 2]
    assert {gpu.memory for gpu in found} == {512 << 20}
    assert len({gpu.uuid for gpu in found}) == 3
    assert gpus.is_cpu_device(found)


@pytest.mark.parametrize("path", ["/nonexistent", "/etc/passwd", "libm.so.6"])
def test_library_that_is_no_driver_is_named(path):
    with pytest.raises(ConfigError, match=f"{path} cannot be used: "):
        gpus.ask(path, os.environ)


def test_our_own_shim_is_never_taken_for_the_driver(tmp_path):
    ours, other = tmp_path / "ours", tmp_path / "other"
    ours.mkdir()
    other.mkdir()
    (ours / SHIM).symlink_to(LIBRARIES / SHIM)
    given = {"LD_LIBRARY_PATH": f"{ours}:{other}:", "FD_SESSION": "x", "A": "b"}
    assert gpus.driver_environment(given) == {"LD_LIBRARY_PATH": str(other), "A": "b"}
    assert gpus.driver_environment({"LD_LIBRARY_PATH": str(ours)}) == {}
