"""The rules that stand in the configuration's types, and what breaks them. Pure.

Types are strict: `"1883"` is no port, `true` is no number and a list is no tuple; a whole number
may stand where any number may.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, dataclass, fields
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Pattern:
    """Text that matches `regex` as a whole and is at most so long.

    Attributes:
        regex: a regular expression.
        words: what it asks for, as a person would say it.
        most: characters.
    """

    regex: str
    words: str
    most: int | None = None


@dataclass(frozen=True)
class Range:
    """A number within these limits: `ge` and `le` belong to it, `gt` does not."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None

    def holds(self, number: float) -> bool:
        """Say whether the number is within."""
        return (
            (self.ge is None or number >= self.ge)
            and (self.gt is None or number > self.gt)
            and (self.le is None or number <= self.le)
        )


@dataclass(frozen=True)
class Count:
    """A list of so many items."""

    least: int
    most: int | None = None


FaultKind = Literal["missing", "type", "choice", "range", "length", "format"]


@dataclass(frozen=True)
class Fault:
    """A value that breaks a rule of its type.

    Attributes:
        key: of the table.
        item: which item of a list; None where it is the whole value.
        kind: which sort of rule.
        value: what was given; None where it is missing.
    """

    key: str
    item: int | None
    kind: FaultKind
    value: object


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


class FaultError(ValueError):
    """A table with values that break the rules of their types; names every key, and no value."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        super().__init__("; ".join(f"{fault.key}: {fault.kind}" for fault in faults))


class ConflictError(ValueError):
    """A table whose values do not go together; carries every conflict."""

    def __init__(self, conflicts: tuple[Conflict, ...]) -> None:
        super().__init__("; ".join(conflict.message for conflict in conflicts))
        self.conflicts = conflicts


class Table:
    """Base of the frozen dataclasses: checks them when they are made."""

    def __post_init__(self) -> None:
        """Refuse what breaks a rule; make a whole number a float where the type says so.

        Raises:
            FaultError: a value breaks the rules of its type.
            ConflictError: values do not go together.
        """
        values = vars(self)
        if found := faults(type(self), values):
            raise FaultError(found)
        for key, hint in fields_of(type(self)).items():
            object.__setattr__(self, key, _as_float(unwrap(hint)[0], values[key]))
        if conflicts := tuple(self.conflicts()):
            raise ConflictError(conflicts)

    def conflicts(self) -> Iterable[Conflict]:
        """Yield what does not go together in this table."""
        return ()


def fields_of(table: type[Any]) -> dict[str, Any]:
    """Return the keys of a table and their annotated types."""
    if table not in _HINTS:
        _HINTS[table] = get_type_hints(table, include_extras=True)
    return _HINTS[table]


_HINTS: dict[type[Any], dict[str, Any]] = {}


def required_keys(kind: type[Any]) -> list[str]:
    """Return the keys of a table that have no default."""
    return [
        field.name
        for field in fields(kind)
        if field.default is MISSING and field.default_factory is MISSING
    ]


def unwrap(hint: Any) -> tuple[Any, list[Any]]:
    """Return the type inside `X | None` and `Annotated`, and the rules on it."""
    rules: list[Any] = []
    while True:
        if get_origin(hint) is Annotated:
            hint, *more = get_args(hint)
            rules += more
        elif get_origin(hint) in (Union, UnionType):
            hint = next(option for option in get_args(hint) if option is not NoneType)
        else:
            return hint, rules


def faults(kind: type[Any], values: dict[str, Any]) -> list[Fault]:
    """Return what is wrong with each of the values of a table alone, in the order of its keys."""
    found = [Fault(key, None, "missing", None) for key in required_keys(kind) if key not in values]
    for key, hint in fields_of(kind).items():
        if key in values:
            found += _faults_of(key, hint, values[key])
    return found


def _faults_of(key: str, hint: Any, value: object) -> Iterator[Fault]:
    if value is None and get_origin(hint) in (Union, UnionType):
        return
    inner, rules = unwrap(hint)
    if get_origin(inner) is not tuple:
        if (kind := _broken(inner, rules, value)) is not None:
            yield Fault(key, None, kind, value)
        return
    if not isinstance(value, tuple):
        yield Fault(key, None, "type", value)
        return
    each, rules_each = unwrap(get_args(inner)[0])
    wrong = False
    for index, item in enumerate(value):
        if (kind := _broken(each, rules_each, item)) is not None:
            wrong = True
            yield Fault(key, index, kind, item)
    counts = (rule for rule in rules if isinstance(rule, Count))
    if not wrong and any(
        len(value) < count.least or (count.most is not None and len(value) > count.most)
        for count in counts
    ):
        yield Fault(key, None, "length", value)


def _broken(inner: Any, rules: list[Any], value: Any) -> FaultKind | None:
    """Return which sort of rule a single value breaks, if any."""
    if get_origin(inner) is Literal:
        choices = get_args(inner)
        if type(value) not in map(type, choices):
            return "type"
        return None if value in choices else "choice"
    # True is an int to Python, and 1 is a number to a person.
    types = (int, float) if inner is float else inner
    if not isinstance(value, types) or (isinstance(value, bool) and inner is not bool):
        return "type"
    if inner in (int, float):
        ranges = (rule for rule in rules if isinstance(rule, Range))
        return None if _is_finite(value) and all(r.holds(value) for r in ranges) else "range"
    if isinstance(value, str):
        patterns = (rule for rule in rules if isinstance(rule, Pattern))
        fits = _is_text(value) and all(_matches(value, rule) for rule in patterns)
        return None if fits else "format"
    return None


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        return False  # an int beyond all floats


def _is_text(value: str) -> bool:
    """Say whether it is Unicode: arguments that are not UTF-8 come with lone surrogates."""
    return value.isascii() or not any("\ud800" <= char <= "\udfff" for char in value)


def _matches(text: str, rule: Pattern) -> bool:
    return (rule.most is None or len(text) <= rule.most) and (
        re.fullmatch(rule.regex, text) is not None
    )


def _as_float(inner: Any, value: Any) -> Any:
    if inner is float and isinstance(value, int):
        return float(value)
    if get_origin(inner) is tuple and get_args(inner)[0] is float:
        return value if value is None else tuple(map(float, value))
    return value


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
