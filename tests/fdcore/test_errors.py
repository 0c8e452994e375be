"""What is said at the end."""

import errno

import pytest
from fdcore_cli import options

from fdcore.errors import ConfigError, RefusedError, TransportError, naming
from fdcore.reserve import joined


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


def test_several_failures_share_what_helps_or_have_their_own(capsys):
    one, two = TransportError("a: gone", "start it"), TransportError("b: gone", "start it")
    options.say_error("fdrun", joined([one, two]))
    options.say_error("fdrun", joined([one, RefusedError("b: full", "wait"), ConfigError("c: odd")]))
    options.say_error("fdrun", joined([one, one]))
    assert capsys.readouterr().err.splitlines() == [
        "fdrun: a: gone; b: gone; start it",
        "fdrun: a: gone (start it); b: full (wait); c: odd",
        "fdrun: a: gone; start it",
    ]
