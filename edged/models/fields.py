"""Fields of a JSON object from outside, each asked for by its name and type. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

_MOST_TEXT = 200


class FieldsError(ValueError):
    """A field is missing or not what it must be; the message names it."""


class Fields:
    """A JSON object; fields that nobody asks for are ignored.

    Args:
        values: the object.
        where: its path, e.g. `input.`, for messages.

    All methods raise FieldsError. The `optional_` ones return None for a field that is missing
    or null.
    """

    def __init__(self, values: Mapping[str, object], where: str = "") -> None:
        self._values = values
        self._where = where

    def names(self) -> Iterable[str]:
        """Return the names of all fields."""
        return self._values.keys()

    def table(self, key: str, *, optional: bool = False) -> Fields:
        """Return an object; an empty one where it is missing and may be."""
        value = self._values.get(key)
        if optional and value is None:
            value = {}
        if not isinstance(value, dict):
            raise self._wrong(key, "an object")
        return Fields(value, f"{self._where}{key}.")

    def text(self, key: str) -> str:
        """Return a line of 1 to 200 printable characters."""
        return self._text(key, self._values.get(key))

    def match(self, key: str, pattern: re.Pattern[str], words: str) -> str:
        """Return a text that a pattern describes from end to end; `words` say how it looks."""
        value = self._values.get(key)
        if not isinstance(value, str) or pattern.fullmatch(value) is None:
            raise self._wrong(key, words)
        return value

    def choice(self, key: str, options: Collection[str]) -> str:
        """Return one of several words."""
        value = self._values.get(key)
        if not isinstance(value, str) or value not in options:
            raise self._wrong(key, f"one of {', '.join(options)}")
        return value

    def optional_choice(self, key: str, options: Collection[str]) -> str | None:
        """Return one of several words."""
        return None if self._values.get(key) is None else self.choice(key, options)

    def integer(self, key: str, low: int, high: int) -> int:
        """Return a whole number of a range."""
        return self._integer(key, self._values.get(key), low, high)

    def optional_integer(self, key: str, low: int, high: int) -> int | None:
        """Return a whole number of a range."""
        return None if self._values.get(key) is None else self.integer(key, low, high)

    def integers(self, key: str, low: int, high: int) -> tuple[int, ...]:
        """Return a list of whole numbers of a range."""
        return tuple(self._integer(key, value, low, high) for value in self._list(key))

    def optional_number(self, key: str, low: float, high: float) -> float | None:
        """Return a number of a range."""
        value = self._values.get(key)
        return None if value is None else self._number(key, value, low, high)

    def optional_numbers(self, key: str, low: float, high: float) -> tuple[float, ...] | None:
        """Return a list of numbers of a range."""
        if self._values.get(key) is None:
            return None
        return tuple(self._number(key, value, low, high) for value in self._list(key))

    def optional_texts(self, key: str) -> tuple[str | None, ...] | None:
        """Return a list of texts, as `text`, and nulls."""
        if self._values.get(key) is None:
            return None
        return tuple(None if value is None else self._text(key, value) for value in self._list(key))

    def _list(self, key: str) -> list[object]:
        value = self._values.get(key)
        if not isinstance(value, list):
            raise self._wrong(key, "a list")
        return value

    def _text(self, key: str, value: object) -> str:
        if not isinstance(value, str) or not 1 <= len(value) <= _MOST_TEXT:
            raise self._wrong(key, f"a text of 1 to {_MOST_TEXT} characters")
        if not value.isprintable():
            raise self._wrong(key, "of printable characters only")
        return value

    def _integer(self, key: str, value: object, low: int, high: int) -> int:
        # bool is an int to Python, and to nobody else.
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self._wrong(key, f"a whole number from {low} to {high}")
        return value

    def _number(self, key: str, value: object, low: float, high: float) -> float:
        if (
            not isinstance(value, int | float)
            or isinstance(value, bool)
            or not low <= value <= high
        ):
            raise self._wrong(key, f"a number from {low:g} to {high:g}")
        return float(value)

    def _wrong(self, key: str, words: str) -> FieldsError:
        # The name may be the sender's own: it is quoted and cut.
        name = (self._where + key)[:80]
        missing = "" if key in self._values else ", and it is missing"
        return FieldsError(f"{name!r} must be {words}{missing}")
