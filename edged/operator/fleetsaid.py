"""What a device says about its deployments, as the desk reads it. Pure.

Texts lose their control characters here, and what is not as a device writes it is left empty.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edged.models.desired import LIMIT_BYTES
from edged.models.strictjson import parse_object
from edged.views import plain

_CHARACTERS = 200

Kind = Literal["available", "state", "progress", "result", "error"]
Fields = dict[str, object]


@dataclass(frozen=True, slots=True)
class Said:
    """Something new that a device said, for people to read.

    Attributes:
        word: `online`, `offline`, a state, or a status.
        percent: of the package that is there; None but in progress.
        about: of an error: the topic that the refused message came on.
    """

    device: str
    kind: Kind
    model: str = ""
    deployment_id: str = ""
    version: str = ""
    word: str = ""
    reason: str = ""
    detail: str = ""
    percent: int | None = None
    about: str = ""


def fields_of(payload: bytes) -> Fields:
    """Return a message.

    Raises:
        StrictJsonError: it is no JSON object.
    """
    return parse_object(payload, LIMIT_BYTES)


def update_said(
    device: str, model: str, kind: Literal["state", "progress", "result"], fields: Fields
) -> Said:
    """Return what stands on `update/<model>/<kind>`."""
    words = {
        "state": text_of(fields, "state"),
        "progress": "DOWNLOADING",
        "result": text_of(fields, "status"),
    }
    return Said(
        device,
        kind,
        model,
        text_of(fields, "deployment_id"),
        text_of(fields, "version"),
        words[kind],
        text_of(fields, "reason"),
        text_of(fields, "detail"),
        _percent(fields) if kind == "progress" else None,
    )


def error_said(device: str, fields: Fields) -> Said:
    """Return what stands on `error`."""
    about = text_of(fields, "topic")
    return Said(
        device,
        "error",
        about.partition("/update/")[2].partition("/")[0],
        word="REFUSED",
        reason=text_of(fields, "reason"),
        detail=text_of(fields, "detail"),
        about=about,
    )


def text_of(fields: object, key: str) -> str:
    """Return one field of an object, printable and short; "" for anything but a text."""
    value = fields.get(key) if isinstance(fields, dict) else None
    return plain(value[:_CHARACTERS]) if isinstance(value, str) else ""


def _percent(fields: Fields) -> int | None:
    there, total = fields.get("bytes"), fields.get("total")
    if type(there) is not int or type(total) is not int or not 0 <= there <= total or not total:
        return None
    return there * 100 // total
