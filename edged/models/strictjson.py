"""JSON that anybody may have written, read strictly. Pure.

What two readers may take differently is refused: duplicate keys, NaN, numbers beyond 64 bits,
lone surrogates, encodings other than UTF-8. Size is checked before anything is parsed.
"""

from __future__ import annotations

import json
import math
from dataclasses import fields, is_dataclass
from enum import StrEnum
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")

_MOST = 2**63 - 1
_DIGITS = 20  # of -2^63; longer ones are not even converted


class StrictJsonError(ValueError):
    """The bytes are not the JSON that was asked for; the message says where and how."""


def parse_object(data: bytes, limit_bytes: int) -> dict[str, object]:
    """Return the JSON object that `data` holds.

    Raises:
        StrictJsonError: it holds none, or more than `limit_bytes`.
    """
    if len(data) > limit_bytes:
        raise StrictJsonError(f"{len(data)} bytes, more than {limit_bytes}")
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_number,
            parse_constant=_constant,
        )
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # finds lone surrogates
    except RecursionError as error:
        raise StrictJsonError("nested too deeply") from error
    except ValueError as error:
        raise StrictJsonError(str(error)[:200]) from error
    if not isinstance(value, dict):
        raise StrictJsonError("no JSON object")
    return value


def build(kind: type[T], value: object) -> T:
    """Return the dataclass that a JSON value describes: its fields, no others, of their types.

    Knows str, int, bool, float, StrEnum, dataclasses, tuples of one type, and `X | None`. What a
    dataclass refuses in `__post_init__` with ValueError is refused here.

    Raises:
        StrictJsonError: the value does not fit; the message begins with the path to it.
    """
    built: T = _build(kind, value, kind.__name__.lower())
    return built


def _build(kind: Any, value: object, where: str) -> Any:
    if get_origin(kind) is UnionType:
        (inner,) = (part for part in get_args(kind) if part is not NoneType)
        return None if value is None else _build(inner, value, where)
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise StrictJsonError(f"{where}: no list")
        return tuple(
            _build(get_args(kind)[0], part, f"{where}[{n}]") for n, part in enumerate(value)
        )
    try:
        if is_dataclass(kind):
            return _dataclass(kind, value, where)
        if issubclass(kind, StrEnum) and isinstance(value, str):
            return kind(value)
    except StrictJsonError:
        raise
    except ValueError as error:
        raise StrictJsonError(f"{where}: {error}") from error
    if type(value) is not kind:
        raise StrictJsonError(f"{where}: no {kind.__name__}")
    return value


def _dataclass(kind: Any, value: object, where: str) -> Any:
    types = _types(kind)
    if not isinstance(value, dict) or value.keys() != types.keys():
        raise StrictJsonError(f"{where}: not exactly the fields {', '.join(types)}")
    return kind(**{key: _build(types[key], part, f"{where}.{key}") for key, part in value.items()})


@cache
def _types(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise StrictJsonError("a key stands twice in the same object")
    return found


def _integer(text: str) -> int:
    value = int(text) if len(text) <= _DIGITS else _MOST + 1
    if not -_MOST <= value <= _MOST:
        raise StrictJsonError("a number beyond 64 bits")
    return value


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise StrictJsonError("a number beyond 64 bits")
    return value


def _constant(text: str) -> float:
    raise StrictJsonError(f"{text} is no JSON")
