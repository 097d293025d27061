"""The configuration's types in words: what a key asks for, what was given, what was meant. Pure."""

from __future__ import annotations

import difflib
import re
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic.fields import FieldInfo

from edged.config import Config
from edged.config_rules import Words
from edged.toml_lines import KeyPath

_SECRET = re.compile(r"pass(word|wd|phrase)?|secret|token|credential|\bpw\b", re.IGNORECASE)
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]{1,60}")


def unwrap(hint: Any) -> tuple[Any, list[Any]]:
    """Return the type inside `X | None` and `Annotated`, and the constraints on it."""
    rules: list[Any] = []
    while True:
        if get_origin(hint) is Annotated:
            hint, *more = get_args(hint)
            for rule in more:
                rules += rule.metadata if isinstance(rule, FieldInfo) else [rule]
        elif get_origin(hint) in (Union, UnionType):
            hint = next(option for option in get_args(hint) if option is not NoneType)
        else:
            return hint, rules


def fields_of(table: type[Any]) -> dict[str, Any]:
    """Return the keys of a table and their annotated types."""
    return get_type_hints(table, include_extras=True)


def required_keys(kind: type[Any]) -> list[str]:
    """Return the keys of a table that have no default."""
    return [
        field.name
        for field in fields(kind)
        if field.default is MISSING and field.default_factory is MISSING
    ]


def table_in(hint: Any) -> tuple[type[Any] | None, bool]:
    """Return the dataclass that a key holds, if it does, and whether it holds several."""
    inner, _ = unwrap(hint)
    many = get_origin(inner) is tuple
    inner = unwrap(get_args(inner)[0])[0] if many else inner
    return (inner if is_dataclass(inner) and isinstance(inner, type) else None), many


def _sections(table: type[Any], title: str) -> dict[str, type[Any]]:
    found = {title: table}
    for key, hint in fields_of(table).items():
        nested, many = table_in(hint)
        if nested is not None:
            found |= _sections(nested, f"{title} {key}" if title else heading(key, many=many))
    return found


def heading(key: str, *, many: bool) -> str:
    """Return the line that opens a table."""
    return f"[[{key}]]" if many else f"[{key}]"


SECTIONS = _sections(Config, "")
"""Each table as it is written in the file (the top of the file is ""), and its type."""


def quoted(key: str) -> str:
    """Return a key from a file, fit to be shown on one line."""
    if _BARE_KEY.fullmatch(key):
        return key
    shown = key if len(key) <= 60 else f"{key[:60]}..."
    return f'"{shown}"' if shown.isprintable() else ascii(shown)


def _item(items: list[Any], index: int) -> str:
    """Return how a person tells this item from its neighbours."""
    names = [item.get("name") if isinstance(item, dict) else None for item in items]
    name = names[index]
    if isinstance(name, str) and quoted(name) == name and names.count(name) == 1:
        return f'"{name}"'
    return f"#{index + 1}"


def label(path: KeyPath, data: dict[str, Any]) -> str:
    """Return a key as a person says it: `mqtt.host`, `camera "front": fps`, `groups #2`."""
    text, separator = "", ""
    node: Any = data
    for part in path:
        if isinstance(part, int):
            text += f" {_item(node, part)}"
            separator = ": "
        else:
            text += separator + quoted(part)
            separator = "."
        inside = isinstance(part, int) or (isinstance(node, dict) and part in node)
        node = node[part] if inside else None
    return text


def _listed(values: tuple[Any, ...]) -> str:
    return ", ".join(f'"{value}"' if isinstance(value, str) else str(value) for value in values)


def _range(rules: list[Any]) -> str:
    limits = {
        name: getattr(rule, name)
        for rule in rules
        for name in ("ge", "gt", "le", "lt")
        if getattr(rule, name, None) is not None
    }
    if {"ge", "le"} <= limits.keys():
        return f" from {limits['ge']} to {limits['le']}"
    said = {"ge": "at least", "gt": "greater than", "le": "at most", "lt": "less than"}
    return ",".join(f" {said[name]} {limit}" for name, limit in limits.items())


def _count(rules: list[Any]) -> str:
    low = next((rule.min_length for rule in rules if hasattr(rule, "min_length")), None)
    high = next((rule.max_length for rule in rules if hasattr(rule, "max_length")), None)
    return f" of {low or 0} to {high} items" if high is not None else ""


def expected(hint: Any) -> str:
    """Return what a value of this type is: "a whole number from 1 to 65535"."""
    inner, rules = unwrap(hint)
    words = next((rule.text for rule in rules if isinstance(rule, Words)), None)
    if words is not None:
        return str(words)
    if get_origin(inner) is Literal:
        return f"one of {_listed(get_args(inner))}"
    if get_origin(inner) is tuple:
        return f"a list [...]{_count(rules)}, each {expected(get_args(inner)[0])}"
    name = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    return name.get(inner, "a table") + _range(rules)


def given(value: object) -> str:
    """Return what kind of TOML value this is; never the value."""
    names = {
        bool: "a true/false value",
        int: "a whole number",
        float: "a number with a decimal point",
    }
    names |= {str: "text in quotes", list: "a list", tuple: "a list", dict: "a table"}
    return names.get(type(value), "a date or time")


def wrong_type(hint: Any, value: object) -> str:
    """Return why a value of another type does not fit; never echoes it."""
    inner, _ = unwrap(hint)
    types = (
        {type(choice) for choice in get_args(inner)} if get_origin(inner) is Literal else {inner}
    )
    advice = ""
    if isinstance(value, str) and types & {int, float, bool}:
        advice = "; write it without quotes"
    elif isinstance(value, str) and get_origin(inner) is tuple:
        advice = "; put it in [ ]"
    elif type(value) in (int, float) and str in types:
        advice = "; put it in quotes"
    return f"must be {expected(hint)}; this is {given(value)}{advice}"


def _not_allowed(hint: Any, value: object) -> str:
    """Return what may stand instead of a value outside a closed choice."""
    choices = get_args(unwrap(hint)[0])
    near = difflib.get_close_matches(str(value), [c for c in choices if isinstance(c, str)], 1)
    meant = f'; did you mean "{near[0]}"?' if near else ""
    shown = f'"{value}"' if isinstance(value, str) and quoted(value) == value else "this"
    shown = str(value) if isinstance(value, int) else shown
    return f"{shown} is not allowed; must be {expected(hint)}{meant}"


def refused(kind: str, key: str, hint: Any, value: object) -> tuple[str, str]:
    """Return the slug and the words for a value that pydantic refused with an error `kind`."""
    nested, many = table_in(hint)
    if nested is not None:
        keys = ", ".join(required_keys(nested))
        message = f"there must be at least one {heading(key, many=many)} with: {keys}"
        return "missing_key", message
    if kind == "missing":
        return "missing_key", f"missing; must be {expected(hint)}"
    if kind == "literal_error":
        return "not_allowed", _not_allowed(hint, value)
    if kind.endswith("_type"):
        return "wrong_type", wrong_type(hint, value)
    if isinstance(value, int | float):
        shown = value if isinstance(value, float) or abs(value) < 10**18 else "this"
        return "out_of_range", f"{shown} is out of range; must be {expected(hint)}"
    reason = "wrong_length" if isinstance(value, tuple) else "bad_format"
    return reason, f"must be {expected(hint)}"


def unknown(key: str, title: str) -> str:
    """Return what was probably meant by an unknown key in the table `title` of SECTIONS."""
    here = fields_of(SECTIONS[title])
    near = difflib.get_close_matches(key, here, 1)
    sure = difflib.get_close_matches(key, here, 1, 0.8)
    if _SECRET.search(key) and not sure:
        place = "password_file" if "password_file" in here else "[mqtt] password_file"
        return f"unknown key; secrets go into a file: {place}"
    elsewhere = [name for name, table in SECTIONS.items() if key in fields_of(table)]
    if "" in elsewhere:
        nested, many = table_in(fields_of(Config)[key])
        top = heading(key, many=many) if nested else key
        return f"unknown key here; {top} belongs to the top of the file, before the first [table]"
    near = near or [name for name in here if name.startswith(f"{key}_")][:1]
    if elsewhere:
        options = [f"'{name}'" for name in sure] + [f"{name} {key}" for name in elsewhere]
        return f"unknown key here; did you mean {' or '.join(options)}?"
    if near:
        nested, many = table_in(here[near[0]])
        table = nested is not None and title == ""
        meant = heading(near[0], many=many) if table else f"'{near[0]}'"
        return f"unknown key; did you mean {meant}?"
    for name, other in SECTIONS.items():
        there = difflib.get_close_matches(key, fields_of(other), 1, 0.75)
        if there:
            return f"unknown key; did you mean {name} {there[0]}?"
    return f"unknown key; known here: {', '.join(here)}"
