"""Tokens as text, and the list that the founding server keeps."""

import base64
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fdcore.errors import ConfigError, RefusedError
from fdcore.security import files, tokens


def made(folder, uses=1, seconds=60, name=""):
    return tokens.create(
        folder, "p00l", bytes(32), "user", ["h:1", "[::1]:2"],
        int(time.time()) + seconds, uses, name,
    )  # fmt: skip


def test_token_is_one_line_and_reads_back(tmp_path):
    token = made(tmp_path)
    text = token.text()
    assert text == text.strip() and "\n" not in text
    assert tokens.parse(text) == token
    assert tokens.parse(f"  {text[:40]}\n{text[40:]} ") == token


@pytest.mark.parametrize(
    "text", ["", "fd1.", "fd1.AAAA", "x", "fd1." + "A" * 9999, "fd2.abc", "fd1.é"]
)
def test_what_is_no_token_is_refused(text):
    with pytest.raises(ConfigError):
        tokens.parse(text)


@given(st.data())
def test_damaged_token_is_refused(data):
    token = tokens.Token("p", bytes(32), "id", "secret", "user", ("h:1",), 5)
    text = token.text()
    at = data.draw(st.integers(4, len(text) - 1))
    other = data.draw(
        st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0189-_")
    )
    changed = text[:at] + other + text[at + 1 :]
    try:
        assert tokens.parse(changed) == token  # the last letter has idle bits
    except ConfigError:
        pass
    with pytest.raises(ConfigError):
        tokens.parse(text[:at])


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_in_words(payload):
    text = tokens.PREFIX + base64.urlsafe_b64encode(payload).decode()
    with pytest.raises(ConfigError):
        tokens.parse(text)


def test_secret_is_kept_as_its_hash_in_a_private_file(tmp_path):
    token = made(tmp_path)
    kept = tmp_path / tokens.TOKENS
    assert token.secret not in kept.read_text()
    assert kept.stat().st_mode & 0o777 == 0o600


def test_token_is_spent_so_often_and_no_more(tmp_path):
    token = made(tmp_path, uses=2)
    for _ in range(2):
        assert tokens.spend(tmp_path, token.id, token.secret, time.time())["role"] == "user"
    with pytest.raises(RefusedError):
        tokens.spend(tmp_path, token.id, token.secret, time.time())
    assert files.read_json(tmp_path / tokens.TOKENS, []) == []


def test_unknown_expired_and_wrong_are_refused_in_the_same_words(tmp_path):
    token = made(tmp_path)
    words = set()
    for id, secret, now in (
        ("0" * 16, token.secret, 0),
        (token.id, "guess", 0),
        (token.id, token.secret, time.time() + 61),
    ):
        with pytest.raises(RefusedError) as hit:
            tokens.spend(tmp_path, id, secret, now)
        words.add(str(hit.value))
    assert len(words) == 1
