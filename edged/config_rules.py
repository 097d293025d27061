"""What the configuration's types say about themselves: patterns in words, keys at odds. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import MISSING, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Words:
    """What a pattern asks for, as a person would say it."""

    text: str


@dataclass(frozen=True)
class Conflict:
    """Values that are fine alone and wrong together.

    Attributes:
        path: the key to point at, from the table that was checked: `("camera", 1, "model")`.
        uses: all the keys that the finding rests on, `path` included.
        reason: stable slug.
        message: for the person who wrote the file.
    """

    path: tuple[str | int, ...]
    uses: tuple[tuple[str | int, ...], ...]
    reason: str
    message: str


class ConflictError(ValueError):
    """A table whose values do not go together; carries every conflict."""

    def __init__(self, conflicts: tuple[Conflict, ...]) -> None:
        super().__init__("; ".join(conflict.message for conflict in conflicts))
        self.conflicts = conflicts


def refuse(conflicts: Iterable[Conflict]) -> None:
    """Raise ConflictError if there is any conflict."""
    found = tuple(conflicts)
    if found:
        raise ConflictError(found)


def incomplete(given: str, lacking: str, message: str) -> Conflict:
    """Return the conflict of a key that is set without one that it needs."""
    return Conflict((given,), ((given,), (lacking,)), "incomplete_pair", message)


def pair(table: object, one: str, other: str) -> Iterator[Conflict]:
    """Yield a conflict if only one of two keys that go together is set."""
    if (getattr(table, one) is None) != (getattr(table, other) is None):
        given, lacking = (one, other) if getattr(table, other) is None else (other, one)
        yield incomplete(given, lacking, f"set without {lacking}: set both or neither")


def provisional(kind: type[Any], values: dict[str, Any]) -> Any:
    """Return an instance of the good values alone, unchecked, to look for further conflicts."""
    table = object.__new__(kind)
    for field in fields(kind):
        default = "" if field.default is MISSING else field.default
        object.__setattr__(table, field.name, values.get(field.name, default))
    return table
