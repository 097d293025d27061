"""Where each key of a TOML text stands.

The standard parser gives no positions and tomlkit keeps none, so this walks the text a second
time. It knows just enough of the grammar to skip values, and relies on `tomllib` having
accepted the text. Pure.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_left
from collections.abc import Iterator

KeyPath = tuple[str | int, ...]
"""Keys and list positions from the top of the file: `("camera", 1, "fps")`."""

_SPACE = re.compile(r"(?:[ \t\r\n]++|#[^\n]*+)*+")
_EQUALS = re.compile(r"[ \t]*+=[ \t]*+")
_CLOSE = re.compile(r"[ \t]*+\]{1,2}")
_OPEN = re.compile(r"[\[{]")
_NEXT = frozenset("]},")
_PART = r"""(?:[A-Za-z0-9_-]++|"(?:[^"\\\n]++|\\.)*+"|'[^'\n]*+')"""
_PARTS = re.compile(_PART)
_KEY = re.compile(rf"{_PART}(?:[ \t]*+\.[ \t]*+{_PART})*+")
_SCALAR = re.compile(
    r'"""(?:[^"\\]++|\\.|"(?!""))*+"{3,5}'
    r"|'''(?:[^']++|'(?!''))*+'{3,5}"
    r'|"(?:[^"\\\n]++|\\.)*+"'
    r"|'[^'\n]*+'"
    r"|\d{4}-\d\d-\d\d \d\d:[^\s,\]}#]++"
    r"|[^\s,\[\]{}#=]++",
    re.DOTALL,
)


def key_lines(text: str) -> dict[KeyPath, int]:
    """Return the line, counted from 1, of each key, table and list item of a valid TOML text.

    A table or list has the line where it is first named. Where the text is not TOML after all,
    the lines up to there are returned.
    """
    lines: dict[KeyPath, int] = {}
    for path, line in walk(text):
        lines.setdefault(path, line)
    return lines


def walk(text: str) -> Iterator[tuple[KeyPath, int]]:
    """Yield each key, table and list item as often as it is named, and the line."""
    return _Walk(text).statements()


class _Walk:
    """One pass over a text, without recursion."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._breaks = [match.start() for match in re.finditer("\n", text)]
        self._tables: dict[KeyPath, int] = {}  # how many so far in each [[array]]

    def statements(self) -> Iterator[tuple[KeyPath, int]]:
        table: KeyPath = ()
        while self._skip(_SPACE) and self._at < len(self._text):
            line = self._line()
            brackets = 0
            while brackets < 2 and self._text.startswith("[", self._at):
                brackets += 1
                self._at += 1
            names = self._names(() if brackets else table)
            if not names:
                return
            yield from ((name, line) for name in names)
            path = names[-1]
            if not brackets and self._skip(_EQUALS):
                yield from self._value(path)
            elif brackets and self._skip(_CLOSE):
                if brackets == 2:
                    self._tables[path] = self._tables.get(path, 0) + 1
                table = self._inside(path)
                if brackets == 2:
                    yield table, line
            else:
                return

    def _names(self, path: KeyPath) -> list[KeyPath]:
        """Skip a key `a.b` and return the paths it names: a, then a.b; none if there is none."""
        self._skip(_SPACE)
        key = _KEY.match(self._text, self._at)
        if key is None:
            return []
        self._at = key.end()
        names = []
        for part in _PARTS.findall(key[0]):
            try:
                name = tomllib.loads(f"k={part}")["k"] if part[0] in "\"'" else part
            except tomllib.TOMLDecodeError:
                return []
            path = (*self._inside(path), name)
            names.append(path)
        return names

    def _value(self, path: KeyPath) -> Iterator[tuple[KeyPath, int]]:
        """Skip a value, yielding what is inside a list or {table}."""
        opened: list[tuple[KeyPath, int | None]] = []  # a list and its next position, or a table
        while self._at < len(self._text):
            if self._skip(_OPEN):
                opened.append((path, 0 if self._text[self._at - 1] == "[" else None))
            elif not self._skip(_SCALAR):
                return
            while self._skip(_SPACE) and opened and self._text[self._at : self._at + 1] in _NEXT:
                (path, index), last = opened.pop(), self._text[self._at : self._at + 1]
                self._at += 1
                if last == ",":
                    opened.append((path, None if index is None else index + 1))
            if not opened:
                return
            path, index = opened[-1]
            line = self._line()
            if index is not None:
                path = (*path, index)
                yield path, line
                continue
            names = self._names(path)
            if not names or not self._skip(_EQUALS):
                return
            yield from ((name, line) for name in names)
            path = names[-1]

    def _inside(self, path: KeyPath) -> KeyPath:
        return (*path, self._tables[path] - 1) if path in self._tables else path

    def _line(self) -> int:
        return bisect_left(self._breaks, self._at) + 1

    def _skip(self, pattern: re.Pattern[str]) -> bool:
        match = pattern.match(self._text, self._at)
        self._at = match.end() if match else self._at
        return match is not None
