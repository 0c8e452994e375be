"""servers.conf in both of its forms: serverlist.py."""

import pytest

from fdcore.config import Address
from fdcore.errors import ConfigError
from fdcore.serverlist import read_servers_conf

VSPHERE = """\
# written by the appliance
servers:
- reachable: 10.0.0.5:56001
  addresses:
  - 10.0.0.5:56001
  - 192.168.7.5:56001     # the second adapter
- addresses:
    - "[fe80::7]:56001"
- addresses: [10.0.0.9, 10.1.0.9:1234]
"""


def written(folder, text):
    path = folder / "servers.conf"
    path.write_text(text)
    return path


def test_flexdirects_form_has_comments_ports_and_ipv6(tmp_path):
    text = "### V100\n10.0.0.1:56001\n\ngpu2  # the other\n[fe80::1]:99\nfe80::2\n- gpu3\n"
    assert read_servers_conf(written(tmp_path, text)) == (
        Address("10.0.0.1", 56001),
        Address("gpu2", 56001),
        Address("fe80::1", 99),
        Address("fe80::2", 56001),
        Address("gpu3", 56001),
    )


def test_server_that_stands_there_twice_is_asked_once(tmp_path):
    both = (Address("gpu1", 56001), Address("gpu2", 56001))
    assert read_servers_conf(written(tmp_path, "gpu1\ngpu2\ngpu1:56001\n")) == both


def test_vspheres_form_has_servers_of_several_addresses(tmp_path):
    assert read_servers_conf(written(tmp_path, VSPHERE)) == (
        Address("10.0.0.5", 56001, others=(Address("192.168.7.5", 56001),)),
        Address("fe80::7", 56001),
        Address("10.0.0.9", 56001, others=(Address("10.1.0.9", 1234),)),
    )


def test_vspheres_form_may_list_plain_addresses_and_other_keys(tmp_path):
    text = "---\nversion: 4\nservers:\n  - 10.0.0.5:56001\n  - 'gpu2'\nmore:\n  - x y\n"
    assert read_servers_conf(written(tmp_path, text)) == (
        Address("10.0.0.5", 56001),
        Address("gpu2", 56001),
    )


def test_empty_files_name_no_server(tmp_path):
    for text in ("", "# nothing\n", "servers:\n", "servers: []\n"):
        assert read_servers_conf(written(tmp_path, text)) == ()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("good\nbad one\n", 2),
        ("gpu1:\n", 1),
        ("servers:\n- addresses:\n  - a:b\n", 3),
        ("servers:\n- reachable: a\n  addresses: [x, y:1, 'z:']\n", 3),
        ("servers:\n- reachable:\n", 2),
        ("servers:\n-\n", 2),
        ("servers:\n- addresses:\n", 2),
        ("servers:\n  addresses: [a]\n", 2),
        ("servers: gpu1\n", 1),
        ("gpu1\nservers:\n- gpu2\n", 1),
    ],
)
def test_errors_name_file_and_line_and_what_would_do(tmp_path, text, line):
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as raised:
        read_servers_conf(path)
    said = str(raised.value)
    assert said.startswith(f"{path}:{line}: "), said
    assert "\n" not in said


def test_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        read_servers_conf(tmp_path / "none")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="UTF-8"):
        read_servers_conf(tmp_path / "binary")


def test_files_are_never_written(tmp_path):
    path = written(tmp_path, VSPHERE)
    path.chmod(0o444)
    tmp_path.chmod(0o555)
    try:
        before = path.stat()
        read_servers_conf(path)
        assert path.read_text() == VSPHERE
        assert path.stat().st_mtime_ns == before.st_mtime_ns
        assert [entry.name for entry in tmp_path.iterdir()] == ["servers.conf"]
    finally:
        tmp_path.chmod(0o755)
