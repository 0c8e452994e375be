"""Addresses and folders: config.py."""

import os

import pytest

from fdcore.config import (
    Address,
    parse_address,
    parse_addresses,
    private_folder,
    runtime_folder,
    state_folder,
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
    "text", ["", ":1", "a:", "a:b", "a:99999", "[::1", "[::1]:", "a b", "unix:", "a/b",
             "a..b", ".", f"{'a' * 64}:1", "\u00fc..b"]
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


def test_folder_that_is_named_from_where_somebody_is_now_is_not_taken(tmp_path, monkeypatch):
    """A program that goes elsewhere would not find its session file and libraries."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    for folder in (runtime_folder, state_folder):
        assert folder({"XDG_RUNTIME_DIR": "run", "TMPDIR": "run"}) == folder({})
        assert folder({}).is_absolute()
