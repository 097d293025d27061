"""TOML text to a checked `Config`, or everything that is wrong with it, each with its line.

The rules are the types in `edged.config`; this walks the text's tables along them, so that one
mistake hides no other. Values are not repeated in messages, except numbers, closed choices and
names: a path, a URL or an unknown key may hold a secret. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError

from edged.config import Config, MqttConfig
from edged.config_rules import Conflict, ConflictError, provisional
from edged.config_words import (
    fields_of,
    heading,
    label,
    quoted,
    refused,
    table_in,
    unknown,
    unwrap,
    wrong_type,
)
from edged.errors import ConfigError
from edged.toml_lines import KeyPath
from edged.toml_text import TomlTextError, load

_FOUND = 200  # problems after which reading stops
_SHOWN = 50


@dataclass(frozen=True)
class Problem:
    """One mistake in the file.

    Attributes:
        line: counted from 1; None where something is missing from the whole file.
        key: `mqtt.host`; `camera "front": fps`, or `camera #2: fps` (counted from 1) where the
            name is missing or not unique; "" where no key is at fault.
        reason: stable slug.
        message: in plain words.
    """

    line: int | None
    key: str
    reason: str
    message: str

    def __str__(self) -> str:
        line = "" if self.line is None else f"line {self.line}"
        return ": ".join(part for part in (line, self.key, self.message) if part)


class ConfigTextError(ConfigError):
    """The text is no valid configuration.

    Attributes:
        problems: all that was found (200 at most), by line; those without a line come last.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        ordered = sorted(problems, key=lambda problem: (problem.line is None, problem.line or 0))
        self.problems = tuple(ordered)
        lines = [f"  {problem}" for problem in self.problems[:_SHOWN]]
        more = len(self.problems) - len(lines)
        lines += [f"  and {more} more"] if more > 0 else []
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        super().__init__("config_invalid", "\n".join([f"{count} in the configuration:", *lines]))


def parse(text: str) -> Config:
    """Return the configuration in a TOML text.

    Args:
        text: the whole file; decode it with `errors="surrogateescape"` and a byte that is not
            UTF-8 is reported with its line like any other mistake.

    Raises:
        ConfigTextError: with every mistake that was found.
    """
    data, lines = _loaded(text)
    config: Config = _checked(data, lines, Config)
    return config


def from_values(values: dict[str, Any]) -> Config:
    """Return the configuration in values that came from no file, as `tomllib` would give them.

    Raises:
        ConfigTextError: with every mistake that was found; no problem has a line.
    """
    config: Config = _checked(values, {}, Config)
    return config


def parse_mqtt(text: str) -> MqttConfig:
    """Return the table `[mqtt]` of a TOML text, whatever else it holds: the operator's own file.

    Args:
        text: as for `parse`.

    Raises:
        ConfigTextError: with every mistake that was found, or without such a table.
    """
    data, lines = _loaded(text)
    if "mqtt" not in data:
        message = "there is no table [mqtt], which says where the broker is"
        raise ConfigTextError([Problem(None, "", "missing_key", message)])
    return mqtt_from_values(data["mqtt"], lines)


def mqtt_from_values(values: Any, lines: dict[KeyPath, int] | None = None) -> MqttConfig:
    """Return the table `[mqtt]` in values, as `tomllib` would give them.

    Raises:
        ConfigTextError: with every mistake that was found.
    """
    mqtt: MqttConfig = _checked({"mqtt": values}, lines or {}, _MqttOnly).mqtt
    return mqtt


@dataclass(frozen=True)
class _MqttOnly:
    mqtt: MqttConfig


def _loaded(text: str) -> tuple[dict[str, Any], dict[KeyPath, int]]:
    try:
        return load(text)
    except TomlTextError as error:
        raise ConfigTextError([Problem(error.line, "", error.reason, error.message)]) from None


def _checked(data: dict[str, Any], lines: dict[KeyPath, int], kind: type[Any]) -> Any:
    reader = _Reader(data, lines)
    config: Any = None
    with suppress(_EnoughError):
        config = reader.table(kind, data, (), "")
    if reader.problems or config is None:
        raise ConfigTextError(reader.problems)
    return config


class _EnoughError(Exception):
    """There are more problems than anyone reads at once."""


class _Reader:
    """Builds the types from the tables of one file and collects what is wrong."""

    def __init__(self, data: dict[str, Any], lines: dict[KeyPath, int]) -> None:
        self.problems: list[Problem] = []
        self._data = data
        self._lines = lines
        self._bad: set[KeyPath] = set()

    def table(self, kind: type[Any], table: dict[str, Any], path: KeyPath, title: str) -> Any:
        """Return an instance of `kind`; one of the good keys only, where there are problems."""
        hints = fields_of(kind)
        values: dict[str, Any] = {}
        for key, value in table.items():
            if key not in hints:
                self._add((*path, key), "unknown_key", unknown(key, title))
            else:
                read = self._value(hints[key], value, (*path, key), title)
                if (*path, key) not in self._bad:
                    values[key] = read
        built, conflicts = self._build(kind, values, path)
        for conflict in conflicts:
            if not any((*path, *use) in self._bad for use in conflict.uses):
                self._add((*path, *conflict.path), conflict.reason, conflict.message)
        return built

    def _build(
        self, kind: type[Any], values: dict[str, Any], path: KeyPath
    ) -> tuple[Any, Iterable[Conflict]]:
        hints = fields_of(kind)
        try:
            return kind(**values), ()
        except ValidationError as error:
            for found in error.errors(include_url=False):
                cause = found.get("ctx", {}).get("error")
                if isinstance(cause, ConflictError) and not found["loc"]:
                    return provisional(kind, values), cause.conflicts
                key = str(found["loc"][0])
                if table_in(hints[key])[0] is not None and values.get(key):
                    continue  # a table inside has told its own
                if (*path, key) in self._bad and found["type"] in ("missing", "too_short"):
                    continue  # told already: a bad value was left out, a bad item is not counted
                self._wrong(found, hints[key], (*path, *found["loc"]))
                self._bad.add((*path, key))
                values.pop(key, None)
        partial = provisional(kind, values)
        return partial, partial.conflicts() if hasattr(partial, "conflicts") else ()

    def _value(self, hint: Any, value: Any, path: KeyPath, title: str) -> Any:
        nested, many = table_in(hint)
        inner, _ = unwrap(hint)
        if nested is not None:
            key = str(path[-1])
            inside = f"{title} {key}" if title else heading(key, many=many)
            read = self._tables if many else self._single
            return read(nested, value, path, inside)
        if get_origin(inner) is tuple and isinstance(value, list):
            return tuple(value)
        # pydantic takes False for a literal 0 and 90.0 for 90
        if get_origin(inner) is Literal and type(value) not in map(type, get_args(inner)):
            self._reject(path, wrong_type(hint, value))
        return value

    def _single(self, kind: type[Any], value: Any, path: KeyPath, title: str) -> Any:
        if isinstance(value, dict):
            return self.table(kind, value, path, title)
        written = title if title.endswith("]") else f"{path[-1]} = {{...}}"
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            for index, item in enumerate(value):
                self.table(kind, item, (*path, index), title)
            self._reject(path, f"there is only one; write {written}, single brackets")
        else:
            keys = ", ".join(fields_of(kind))
            self._reject(path, f"must be a table; write {written} with: {keys}")
        return None

    def _tables(self, kind: type[Any], value: Any, path: KeyPath, title: str) -> Any:
        keys = fields_of(kind)
        if isinstance(value, list):
            tables = [
                self.table(kind, item, (*path, index), title) if isinstance(item, dict) else None
                for index, item in enumerate(value)
            ]
            for index, item in enumerate(value):
                if not isinstance(item, dict):
                    self._add((*path, index), "wrong_type", f"must be a table; write {title}")
                    self._bad.add(path)
            return tuple(tables)
        if not isinstance(value, dict):
            message = f"must be tables; write {title} and below it: {', '.join(keys)}"
            self._reject(path, message)
        elif value and all(key not in keys and isinstance(value[key], dict) for key in value):
            for name, item in value.items():
                self.table(kind, {"name": name, **item}, (*path, name), title)
            name = quoted(next(iter(value)))
            message = f'write {title} and below it name = "{name}", not [{path[-1]}.{name}]'
            self._reject(path, message)
        else:
            self.table(kind, value, path, title)
            message = f"there can be several; write {title} with two brackets, not [{path[-1]}]"
            self._reject(path, message)
        return None

    def _wrong(self, found: Any, hint: Any, path: KeyPath) -> None:
        """Add what pydantic found; `path` may lead into a list."""
        if isinstance(path[-1], int):
            hint = get_args(unwrap(hint)[0])[0]
        self._add(path, *refused(found["type"], str(path[-1]), hint, found["input"]))

    def _reject(self, path: KeyPath, message: str) -> None:
        """Add a value of the wrong type and leave it out of the table."""
        self._bad.add(path)
        self._add(path, "wrong_type", message)

    def _add(self, path: KeyPath, reason: str, message: str) -> None:
        line = next(
            (self._lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self._lines),
            None,
        )
        self.problems.append(Problem(line, label(path, self._data), reason, message))
        if len(self.problems) == _FOUND:
            raise _EnoughError
