"""Addresses, servers.conf, folders: config.py."""

import os

import pytest

from fdcore.config import (
    Address,
    parse_address,
    parse_addresses,
    private_folder,
    read_servers_conf,
    road,
    servers,
)
from fdcore.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("gpu1", Address("gpu1", 56001)),
        ("gpu1:1234", Address("gpu1", 1234)),
        ("10.0.0.5:56001", Address("10.0.0.5", 56001)),
        ("[fe80::1]:99", Address("fe80::1", 99)),
        ("[fe80::1]", Address("fe80::1", 56001)),
        ("fe80::1", Address("fe80::1", 56001)),
        ("unix:/run/x", Address(path="/run/x")),
    ],
)
def test_addresses_as_people_write_them(text, address):
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text", ["", ":1", "a:", "a:b", "a:99999", "[::1", "[::1]:", "a b", "unix:", "a/b"]
)
def test_other_things_are_refused(text):
    with pytest.raises(ConfigError):
        parse_address(text)


def test_address_is_written_as_it_is_read():
    for text in ("a:1", "[::1]:2", "unix:/x"):
        assert str(parse_address(text)) == text


def test_list_takes_commas_and_semicolons():
    assert parse_addresses("a:1, b:2;c") == (
        Address("a", 1),
        Address("b", 2),
        Address("c", 56001),
    )
    with pytest.raises(ConfigError):
        parse_addresses(" , ")


def test_servers_conf_has_comments_and_ports(tmp_path):
    path = tmp_path / "servers.conf"
    path.write_text("### V100\n10.0.0.1:56001\n\ngpu2  # the other\n")
    assert read_servers_conf(path) == (
        Address("10.0.0.1", 56001),
        Address("gpu2", 56001),
    )


def test_wrong_line_is_named(tmp_path):
    path = tmp_path / "servers.conf"
    path.write_text("good\nbad one\n")
    with pytest.raises(ConfigError, match=r"servers\.conf:2: "):
        read_servers_conf(path)


def test_own_configuration_comes_first(tmp_path):
    path = tmp_path / "flexdirect" / "servers.conf"
    path.parent.mkdir()
    path.write_text("gpu7\n")
    found = servers({"XDG_CONFIG_HOME": str(tmp_path)})
    assert found == (Address("gpu7", 56001),)


def test_unknown_road_is_refused():
    assert road({}) == "auto"
    assert road({"FD_TRANSPORT": "tcp"}) == "tcp"
    with pytest.raises(ConfigError, match="pigeon"):
        road({"FD_TRANSPORT": "pigeon"})


def test_private_folder_is_closed_to_others(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir(mode=0o755)
    private_folder(folder)
    assert folder.stat().st_mode & 0o777 == 0o700


def test_link_in_the_place_of_the_private_folder_is_refused(tmp_path):
    (tmp_path / "real").mkdir()
    os.symlink(tmp_path / "real", tmp_path / "mine")
    with pytest.raises(ConfigError):
        private_folder(tmp_path / "mine")
