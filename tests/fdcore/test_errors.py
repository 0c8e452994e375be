"""What is said at the end."""

import errno

import pytest
from fdcore_cli import options

from fdcore.errors import ConfigError, naming


def test_full_disk_is_told_with_where_it_is(capsys):
    with (
        pytest.raises(OSError, match="No space left") as raised,
        naming("/here/it/is"),
        open("/dev/full", "w", encoding="ascii") as file,
    ):
        file.write("x")
    assert raised.value.errno == errno.ENOSPC
    options.say_error("fdrun", raised.value)
    assert capsys.readouterr().err == "fdrun: /here/it/is: No space left on device\n"


def test_name_that_an_error_has_is_kept(tmp_path):
    with pytest.raises(FileNotFoundError) as raised, naming("/here/it/is"):
        (tmp_path / "none").read_text(encoding="ascii")
    assert raised.value.filename == str(tmp_path / "none")


def test_what_would_help_is_said_behind_what_is_wrong(capsys):
    options.say_error("fdrun", ConfigError("it is so"))
    options.say_error("fdrun", ConfigError("it is so", "make it otherwise"))
    assert capsys.readouterr().err == "fdrun: it is so\nfdrun: it is so; make it otherwise\n"
