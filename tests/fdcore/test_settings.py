"""What is configured and by whom: settings.py, values.py."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from fdcore import values
from fdcore.config import Address
from fdcore.errors import ConfigError
from fdcore.settings import KNOWN, Settings, load, user_folders


@pytest.fixture
def settings(tmp_path):
    """Settings of a user's and a system's folder, and a way to write their files."""

    class Made(Settings):
        def write(self, which, text, name="flexdirect.toml"):
            folder = tmp_path / which
            folder.mkdir(exist_ok=True)
            (folder / name).write_text(text)
            return folder / name

    return Made({}, [tmp_path / "user", tmp_path / "system"])


def test_nearer_ones_win(settings):
    assert settings.find("connect_timeout").origin == "built in"
    file = settings.write("system", 'connect_timeout = "1m"\ntransport = "tcp"\n')
    settings.tables.clear()
    assert settings.get("connect_timeout") == 60
    assert settings.find("connect_timeout").origin == f"{file}:1"
    file = settings.write("user", '\nconnect_timeout = "2m30s"\n')
    settings.tables.clear()
    assert settings.get("connect_timeout") == 150
    assert settings.find("connect_timeout").origin == f"{file}:2"
    assert settings.get("transport") == "tcp"
    settings.environment = {"FD_CONNECT_TIMEOUT": "5"}
    assert (settings.get("connect_timeout"), settings.find("connect_timeout").origin) == (5, "FD_CONNECT_TIMEOUT")
    assert settings.get("connect_timeout", 7.0) == 7


def test_servers_come_from_the_nearest_that_names_some(settings):
    assert settings.servers().origin == "built in"
    settings.write("system", "gpu1\ngpu2\n", "servers.conf")
    assert [str(a) for a in settings.servers().value] == ["gpu1:56001", "gpu2:56001"]
    settings.write("user", "# none\n", "servers.conf")
    assert len(settings.servers().value) == 2
    settings.write("user", "gpu3\n", "servers.conf")
    assert settings.servers().value == (Address("gpu3", 56001),)
    settings.write("user", 'servers = ["gpu4:1", "[::1]:2"]\n')
    settings.tables.clear()
    assert settings.servers().value == (Address("gpu4", 1), Address("::1", 2))
    settings.environment = {"FD_SERVERS": "gpu5;gpu6"}
    assert [str(a) for a in settings.servers().value] == ["gpu5:56001", "gpu6:56001"]
    assert settings.servers([Address("gpu7", 1)]).value == (Address("gpu7", 1),)


def test_share_of_the_nearest_counts(settings):
    settings.write("system", 'memory = "2G"\n')
    assert settings.share(0, 0.0) == (2 << 30, 0.0)
    settings.write("user", "partial = 0.5\n")
    settings.tables.clear()
    assert settings.share(0, 0.0) == (0, 0.5)
    assert settings.share(5, 0.0) == (5, 0.0)
    settings.write("user", "partial = 0.5\nmemory = 100\n")
    settings.tables.clear()
    with pytest.raises(ConfigError, match="keep one of them"):
        settings.share(0, 0.0)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("x =\n", 1, "invalid value"),
        ("\n\nconnect_timeout = 1m\n", 3, "; a line is NAME = VALUE"),
        ('trasport = "tcp"\n', 1, "there is no setting trasport; was transport meant?"),
        ('[server]\nlisten = "x"\nidle = 3\n', 3, "no setting server.idle"),
        ('transport = "pigeon"\n', 1, "transport: 'pigeon' is no way"),
        ('# \n[server]\nhost_memory = "some"\n', 3, "'some' is not an amount"),
        ("servers = []\n", 1, "the list of servers is empty"),
        ('servers = ["a b"]\n', 1, "no host name in it"),
        ("num_gpus = 0\n", 1, "not a number of GPUs, 1 to 64"),
    ],
)
def test_errors_name_file_line_cause_and_cure(settings, text, line, said):
    file = settings.write("user", text)
    with pytest.raises(ConfigError) as raised:
        for name in KNOWN:
            settings.get(name)
        settings.servers()
    assert str(raised.value).startswith(f"{file}:{line}: ")
    assert said in str(raised.value)


def test_wrong_variable_is_named(settings):
    settings.environment = {"FD_TRANSPORT": "pigeon"}
    with pytest.raises(ConfigError, match="FD_TRANSPORT: transport: 'pigeon'"):
        settings.get("transport")


def test_users_folder_is_where_xdg_says(tmp_path):
    env = {"XDG_CONFIG_HOME": str(tmp_path), "HOME": "/home/u"}
    assert [str(f) for f in user_folders(env)] == [f"{tmp_path}/flexdirect",
                                                   "/home/u/.bitfusion"]  # fmt: skip
    # A relative one is to be ignored, says the specification.
    assert str(user_folders({"XDG_CONFIG_HOME": "x", "HOME": "/h"})[0]) == "/h/.config/flexdirect"
    assert load(env).folders[-2].as_posix() == "/etc/bitfusionio"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2m30s", 150), ("90", 90), ("1h", 3600), ("1d2h", 93600), ("1.5m", 90), ("250ms", 0.25)],
)
def test_durations_as_people_write_them(text, seconds):
    assert values.duration(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "2 m", "-1", "1w", "1h-2m", "nan", "1e9", "400d"])
def test_other_durations_are_refused(text):
    with pytest.raises(ConfigError):
        values.duration(text)


@given(some.integers(0, 300 * 86400))
def test_durations_are_written_as_they_are_read(seconds):
    assert values.duration(values.duration_text(seconds)) == seconds
