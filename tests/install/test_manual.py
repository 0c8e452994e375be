"""Manual pages are made from the parsers: what there is stands in them."""

import shutil
import subprocess

import pytest

from fdcore.settings import KNOWN
from install import manual
from install.words import commands

PAGES = manual.pages()


def plain(page: str) -> str:
    """A page's text without roff's marks."""
    text = PAGES[page].replace("\\-", "-").replace("\\(aq", "'")
    for mark in ("\\fB", "\\fI", "\\fR", "\\&"):
        text = text.replace(mark, "")
    return text.replace("\\e", "\\")


@pytest.mark.parametrize("command", commands(), ids=lambda command: command.path)
def test_every_option_of_every_command_is_in_its_page(command):
    program = command.path.split()[0]
    page = plain("fdserver.8" if program == "fdserver" else f"{program}.1")
    rest = command.path.partition(" ")[2]
    if rest:
        assert f"\n.SS {rest}\n" in page
    for option in command.options:
        assert option.help in page, option
        for name in option.names:
            assert name in page


def test_every_setting_is_in_the_page_of_its_file():
    page = plain("flexdirect.toml.5")
    for known in KNOWN.values():
        assert known.name in page and known.what in page and known.variable in page


def test_pages_say_nothing_of_the_machine_that_made_them():
    for page in PAGES.values():
        assert "/root" not in page and "/home" not in page and "/tmp" not in page


@pytest.mark.parametrize("page", sorted(PAGES))
def test_man_has_nothing_to_say_about_a_page(page, tmp_path):
    if shutil.which("man") is None or shutil.which("groff") is None:
        pytest.skip("man or groff is not installed")
    (tmp_path / page).write_text(PAGES[page])
    done = subprocess.run(
        ["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", str(tmp_path / page)],
        capture_output=True, text=True, timeout=60, env={"PATH": "/usr/bin:/bin", "MANWIDTH": "100", "LC_ALL": "C.UTF-8"},
    )  # fmt: skip
    assert done.returncode == 0 and done.stderr == ""
