"""The part of TOML that the description uses, for Python 3.10, which has no tomllib.

Tables (also [a.b]), basic and literal strings (also of several lines), integers, booleans, arrays and
inline tables. Raises ValueError with the line number.
"""

from __future__ import annotations

import re
import sys
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib

_KEY = re.compile(r'[A-Za-z0-9_-]+|"[^"\n]*"')
_NUMBER = re.compile(r"[+-]?(0x[0-9A-Fa-f_]+|0b[01_]+|[0-9][0-9_]*)")
_ESCAPES = {"n": "\n", "t": "\t", '"': '"', "\\": "\\", "r": "\r"}


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def fail(self, what: str) -> ValueError:
        line = self.text.count("\n", 0, self.at) + 1
        return ValueError(f"{what} (at line {line})")

    def blank(self, lines: bool) -> None:
        pattern = r"(?:[ \t\r\n]|#[^\n]*)*" if lines else r"[ \t]*"
        found = re.compile(pattern).match(self.text, self.at)
        assert found
        self.at = found.end()

    def take(self, token: str) -> bool:
        if self.text.startswith(token, self.at):
            self.at += len(token)
            return True
        return False

    def need(self, token: str) -> None:
        if not self.take(token):
            raise self.fail(f"expected {token}")

    def key(self) -> str:
        found = _KEY.match(self.text, self.at)
        if not found:
            raise self.fail("expected a key")
        self.at = found.end()
        return found.group().strip('"')

    def string(self) -> str:
        for quote in ('"""', "'''"):
            if self.take(quote):
                end = self.text.find(quote, self.at)
                if end < 0:
                    raise self.fail("unterminated string")
                body = self.text[self.at : end]
                self.at = end + 3
                body = body[1:] if body.startswith("\n") else body
                return self.escapes(body) if quote == '"""' else body
        quote = self.text[self.at]
        pattern = r'"((?:[^"\\\n]|\\.)*)"' if quote == '"' else r"'([^'\n]*)'"
        found = re.compile(pattern).match(self.text, self.at)
        if not found:
            raise self.fail("unterminated string")
        self.at = found.end()
        return self.escapes(found.group(1)) if quote == '"' else found.group(1)

    def escapes(self, body: str) -> str:
        body = re.sub(r"\\[ \t]*\n\s*", "", body)
        return re.sub(r"\\(.)", lambda m: _ESCAPES.get(m.group(1), m.group(0)), body)

    def value(self) -> Any:
        here = self.text[self.at : self.at + 1]
        if here in ('"', "'"):
            return self.string()
        if here == "[":
            self.at += 1
            items = []
            self.blank(True)
            while not self.take("]"):
                items.append(self.value())
                self.blank(True)
                if not self.take(","):
                    self.blank(True)
                    self.need("]")
                    break
                self.blank(True)
            return items
        if here == "{":
            self.at += 1
            table: dict[str, Any] = {}
            self.blank(False)
            while not self.take("}"):
                self.pair(table)
                self.blank(False)
                if not self.take(","):
                    self.need("}")
                    break
                self.blank(False)
            return table
        for word, meaning in (("true", True), ("false", False)):
            if self.take(word):
                return meaning
        found = _NUMBER.match(self.text, self.at)
        if not found:
            raise self.fail("expected a value")
        self.at = found.end()
        return int(found.group().replace("_", ""), 0)

    def pair(self, table: dict[str, Any]) -> None:
        key = self.key()
        self.blank(False)
        self.need("=")
        self.blank(False)
        if key in table:
            raise self.fail(f"key {key} twice")
        table[key] = self.value()

    def document(self) -> dict[str, Any]:
        root: dict[str, Any] = {}
        table = root
        self.blank(True)
        while self.at < len(self.text):
            if self.take("["):
                table, name = root, self.key()
                while self.take("."):
                    table = table.setdefault(name, {})
                    name = self.key()
                self.need("]")
                if name in table:
                    raise self.fail(f"table {name} twice")
                table[name] = table = {}
            else:
                self.pair(table)
            self.blank(False)
            if self.at < len(self.text) and self.text[self.at] not in "#\r\n":
                raise self.fail("expected the end of the line")
            self.blank(True)
        return root


def small_loads(text: str) -> dict[str, Any]:
    return _Reader(text).document()


def loads(text: str) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        return tomllib.loads(text)
    return small_loads(text)
