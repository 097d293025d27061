"""What drift remembers of a camera, as bytes: its standing, the hours it is judged by. Pure."""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, dataclass

import orjson

from edged.drift.detector import Memory
from edged.drift.records import encode_window, parse_window
from edged.drift.reference import Reference
from edged.drift.segment import MAGIC, pack, unpack
from edged.drift.state import Reason, Standing, State
from edged.drift.window import Subject
from edged.errors import DriftError
from edged.models.fields import Fields, FieldsError
from edged.models.strictjson import StrictJsonError, parse_object

SCHEMA = 1
_LIMIT_BYTES = 64 * 1024
_STATES: tuple[State, ...] = ("warming", "insufficient", "ok", "warn", "drift")
_DIGEST = re.compile(r"[0-9a-f]{12}")
_ANY = re.compile(r".{0,4000}", re.DOTALL)
_LATEST_MS = 2**53


@dataclass(frozen=True, slots=True)
class Page:
    """What is known of a camera besides references.

    Attributes:
        subject: digest of the one that is watched.
        standing: how it stands.
        memory: of the statistical path, hour by hour.
        daily: the same, day by day.
        subjects: digests of those whose references are kept, the latest last.
    """

    subject: str
    standing: Standing
    memory: Memory
    daily: Memory
    subjects: tuple[str, ...]


def digest_of(subject: Subject) -> str:
    """Return 12 hex digits that tell a subject from others in names of files."""
    return hashlib.sha256(orjson.dumps(asdict(subject))).hexdigest()[:12]


def encode_page(page: Page) -> bytes:
    """Return the page as JSON."""
    return orjson.dumps({"schema": SCHEMA, **asdict(page)})


def parse_page(data: bytes) -> Page:
    """Return the page that bytes hold.

    Raises:
        DriftError: `drift_state_damaged`.
    """
    try:
        message = parse_object(data, _LIMIT_BYTES)
        fields = Fields(message)
        fields.integer("schema", SCHEMA, SCHEMA)
        standing = fields.table("standing")
        return Page(
            fields.match("subject", _DIGEST, "a digest"),
            Standing(
                _state(standing.choice("state", _STATES)),
                standing.integer("since_ms", 0, _LATEST_MS),
                tuple(_reason(one) for one in _list(message["standing"], "reasons")),
            ),
            _memory(fields.table("memory")),
            _memory(fields.table("daily")),
            tuple(_digest(one) for one in _list(message, "subjects")),
        )
    except (StrictJsonError, FieldsError) as error:
        raise DriftError("drift_state_damaged", f"not what drift has written: {error}") from error


def encode_reference(reference: Reference) -> bytes:
    """Return the hours of a reference."""
    return pack(encode_window(hour) for hour in reference.hours)


def parse_reference(data: bytes) -> tuple[Reference, bool]:
    """Return the hours that can be read, and whether those are all.

    Raises:
        DriftError: `reference_mixed`.
    """
    contents = unpack(data)
    hours, whole = [], data.startswith(MAGIC) and not contents.torn and not contents.damaged
    for line in contents.lines:
        try:
            hours.append(parse_window(line))
        except DriftError:
            whole = False
    return Reference(tuple(hours)), whole


def _memory(fields: Fields) -> Memory:
    cusum = fields.table("cusum")
    return Memory({name: cusum.optional_number(name, 0.0, 1e9) or 0.0 for name in cusum.names()})


def _state(word: str) -> State:
    return next(state for state in _STATES if state == word)


def _list(table: object, key: str) -> list[object]:
    value = table.get(key) if isinstance(table, dict) else None
    if not isinstance(value, list):
        raise FieldsError(f"{key!r} must be a list")
    return value


def _reason(value: object) -> Reason:
    if not isinstance(value, dict):
        raise FieldsError("'reasons' must be objects")
    fields = Fields(value)
    return Reason(fields.text("kind"), fields.match("detail", _ANY, "a text"))


def _digest(value: object) -> str:
    if not isinstance(value, str) or _DIGEST.fullmatch(value) is None:
        raise FieldsError("'subjects' must be digests")
    return value
