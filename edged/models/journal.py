"""What a device remembers about one model, and the bytes of its file `state.json`. Pure.

A journal is a value: every change makes a new one, which is written before anything is done
about it. The file carries the digest of its own text: half a file, or one flipped bit, is told
from a good one before anything is believed, the schema included.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace

import orjson

from edged.errors import StoreError
from edged.models.desired import Source
from edged.models.records import (
    Crashes,
    Deployment,
    Held,
    Mark,
    Release,
    Result,
    check,
)
from edged.models.strictjson import build, parse_object

SCHEMA = 1
LIMIT_BYTES = 1024 * 1024
HISTORY = 64
MARKS = 128
UNDATED = 1024
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_FILE = re.compile(rb'\{"sha256":"([0-9a-f]{64})","journal":(\{.*\})\}\n', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Journal:
    """Everything about one model.

    Attributes:
        model: its name.
        seq: counts what has been said on `update/<model>/state`, so that reordered ones show.
        serial: the last number given to an `auto-<n>` or `local-<n>`.
        active: what runs; None after even the factory model had to go.
        previous: what ran before.
        factory: what the device starts with.
        crashes: of the model that runs, after its commit.
        marks: oldest first, one per digest.
        current: the deployment under way; None is IDLE.
        desired: one per source.
        history: finished deployments, oldest first.
        undated: Desired without an order, as `fingerprint`, oldest first: nothing else says of one
            that comes again that it is old, long after its result is forgotten.
    """

    model: str
    seq: int = 0
    serial: int = 0
    active: Release | None = None
    previous: Release | None = None
    factory: Release | None = None
    crashes: Crashes | None = None
    marks: tuple[Mark, ...] = ()
    current: Deployment | None = None
    desired: tuple[Held, ...] = ()
    history: tuple[Result, ...] = ()
    undated: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check(_NAME.fullmatch(self.model), "model")
        ids = [result.deployment_id for result in self.history]
        if self.current is not None:
            ids.append(self.current.deployment_id)
        check(min(self.seq, self.serial) >= 0, "count")
        check(len(set(ids)) == len(ids), "deployment_id twice")
        ranks = [_precedence(held) for held in self.desired]
        check(ranks == sorted(set(ranks)), "order of sources")
        check(len({mark.sha256 for mark in self.marks}) == len(self.marks), "mark twice")
        check(len(self.history) <= HISTORY and len(self.marks) <= MARKS, "size")
        check(len(self.undated) <= UNDATED, "size")

    def is_bad(self, sha256: str) -> bool:
        """Say whether a digest is marked bad."""
        return any(mark.bad and mark.sha256 == sha256 for mark in self.marks)

    def held(self, source: Source) -> Held | None:
        """Return the latest that a source wants."""
        return next((held for held in self.desired if held.source is source), None)

    def result(self, deployment_id: str) -> Result | None:
        """Return how a deployment ended, or None while it has not."""
        return next((past for past in self.history if past.deployment_id == deployment_id), None)

    def unreported(self) -> tuple[Result, ...]:
        """Return the results that are not in the outbox yet, oldest first."""
        return tuple(result for result in self.history if not result.reported)

    def kept(self) -> frozenset[tuple[str, str]]:
        """Return version and digest of what must stay on disk."""
        kept = (self.active, self.previous, self.factory, self.current)
        return frozenset((one.version, one.sha256) for one in kept if one and one.sha256)

    def digests(self) -> frozenset[str]:
        """Return the digests of what must stay on disk."""
        return frozenset(sha256 for _, sha256 in self.kept())

    def numbered(self, prefix: str) -> tuple[Journal, str]:
        """Return an id that was never used, and the journal that remembers so."""
        serial = self.serial + 1
        return replace(self, serial=serial), f"{prefix}-{serial}"

    def marked(self, mark: Mark) -> Journal:
        """Return the journal with a mark in place of the old one; good ones make room."""
        marks = [known for known in self.marks if known.sha256 != mark.sha256]
        if len(marks) == MARKS:
            marks.remove(next((known for known in marks if not known.bad), marks[0]))
        return replace(self, marks=(*marks, mark))

    def unmarked(self, sha256: str) -> Journal:
        """Return the journal without the mark on a digest."""
        return replace(self, marks=tuple(mark for mark in self.marks if mark.sha256 != sha256))

    def holding(self, held: Held) -> Journal:
        """Return the journal with the latest that a source wants."""
        others = [known for known in self.desired if known.source is not held.source]
        return replace(self, desired=tuple(sorted([*others, held], key=_precedence)))

    def heard_undated(self, deployment_id: str, version: str | None) -> bool:
        """Say whether this was wanted before in a message without an order."""
        return fingerprint(deployment_id, version) in self.undated

    def hearing_undated(self, deployment_id: str, version: str | None) -> Journal:
        """Return the journal that remembers so for longer than a result."""
        heard = (*self.undated, fingerprint(deployment_id, version))
        return replace(self, undated=heard[-UNDATED:])

    def recorded(self, result: Result) -> Journal:
        """Return the journal with one more finished deployment.

        To make room, the oldest goes that is reported and that no source still wants; else the
        oldest that no source wants. So re-delivery starts none of them again.
        """
        history = list(self.history)
        if len(history) == HISTORY:
            wanted = {held.deployment_id for held in self.desired}
            free = [past for past in history if past.deployment_id not in wanted]
            history.remove(next((past for past in free if past.reported), free[0]))
        return replace(self, history=(*history, result))

    def reported(self, deployment_id: str) -> Journal:
        """Return the journal after a result got into the outbox."""
        history = [
            replace(past, reported=True) if past.deployment_id == deployment_id else past
            for past in self.history
        ]
        return replace(self, history=tuple(history))


def fingerprint(deployment_id: str, version: str | None) -> str:
    """Return what `undated` has of a Desired: 64 bits in hexadecimal."""
    return hashlib.sha256(f"{deployment_id}:{version}".encode()).hexdigest()[:16]


def encode_journal(journal: Journal) -> bytes:
    """Return the content of `state.json`: the same bytes for equal journals."""
    body = b'{"schema":%d,%s' % (SCHEMA, orjson.dumps(journal)[1:])
    return b'{"sha256":"%s","journal":%s}\n' % (_digest(body), body)


def parse_journal(data: bytes) -> Journal:
    """Return the journal that `encode_journal` wrote.

    Raises:
        StoreError: `journal_damaged`: not as it was written; `journal_newer`: a later edged wrote
            it, which this one must not overwrite.
    """
    match = _FILE.fullmatch(data) if len(data) <= LIMIT_BYTES else None
    if match is None or _digest(match[2]) != match[1]:
        raise StoreError("journal_damaged", "the journal is not as it was written")
    try:
        body = parse_object(match[2], LIMIT_BYTES)
        schema = body.pop("schema", None)
        if type(schema) is int and schema > SCHEMA:
            raise StoreError(
                "journal_newer",
                f"the journal has schema {schema}, and this edged knows {SCHEMA}.",
                advice="Install the edged that wrote it, or move the file away.",
            )
        check(type(schema) is int and schema == SCHEMA, "schema")
        return build(Journal, body)
    except ValueError as error:
        raise StoreError("journal_damaged", f"the journal makes no sense: {error}") from error


def active_of(data: bytes) -> Release | None:
    """Return what runs by the journal of an edged of any age, where that can be told."""
    match = _FILE.fullmatch(data) if len(data) <= LIMIT_BYTES else None
    if match is None or _digest(match[2]) != match[1]:
        return None
    try:
        active = parse_object(match[2], LIMIT_BYTES).get("active")
        known = ("version", "sha256", "since_ms")
        if not isinstance(active, dict):
            return None
        return build(Release, {name: active.get(name) for name in known})
    except ValueError:
        return None


def _digest(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest().encode()


def _precedence(held: Held) -> int:
    return list(Source).index(held.source)
