"""What edged says on MQTT about updates: payloads as bytes. Pure.

All of it is made from the journal as it is written, so that what is said again is the same bytes.
"""

from __future__ import annotations

import orjson

from edged.models.journal import Journal
from edged.models.records import Deployment, Release, Result, State
from edged.mqtt.messages import SCHEMA, Mark, ModelState, VersionState

_SHOWN_MARKS = 16


def encode_state(journal: Journal) -> bytes:
    """Return the payload of `update/<model>/state`.

    Shape: `{"schema","deployment_id","version","state","seq","reason"}`. `state` is IDLE before
    the first deployment; after the last one it says how that ended. `seq` only grows.
    """
    current, last = journal.current, journal.history[-1] if journal.history else None
    said: dict[str, object] = {"deployment_id": None, "version": None, "state": "IDLE"}
    reason = ""
    if current is not None:
        said, reason = _named(current), current.reason
        said["state"] = current.state
    elif last is not None:
        said, reason = _named(last), last.reason
        said["state"] = State.COMMITTED if last.status == "SUCCEEDED" else last.status
    return orjson.dumps({"schema": SCHEMA, **said, "seq": journal.seq, "reason": reason})


def encode_progress(deployment_id: str, there_bytes: int, total_bytes: int) -> bytes:
    """Return the payload of `update/<model>/progress`."""
    return orjson.dumps(
        {
            "schema": SCHEMA,
            "deployment_id": deployment_id,
            "bytes": there_bytes,
            "total": total_bytes,
        }
    )


def encode_result(model: str, result: Result) -> bytes:
    """Return the payload of `update/<model>/result`; `began` and `ended` are Unix seconds."""
    return orjson.dumps(
        {
            "schema": SCHEMA,
            "deployment_id": result.deployment_id,
            "model": model,
            "version": result.version,
            "sha256": result.sha256,
            "status": result.status,
            "reason": result.reason,
            "detail": result.detail,
            "health": orjson.Fragment(result.health) if result.health else None,
            "began": result.began_ms / 1000,
            "ended": result.ended_ms / 1000,
        }
    )


def encode_error(topic: str, reason: str, detail: str) -> bytes:
    """Return the payload of `error`: what was wrong with a message on `topic`."""
    return orjson.dumps({"schema": SCHEMA, "topic": topic, "reason": reason, "detail": detail})


def versions_of(journal: Journal, latest: str | None) -> ModelState:
    """Return what `model/<model>` says: the versions of a model, and the newest marks."""
    current = journal.current
    trial = None
    if current is not None and current.state is State.TRIAL:
        trial = VersionState(current.version, current.sha256, current.began_ms / 1000)
    return ModelState(
        journal.model,
        active=_version(journal.active),
        previous=_version(journal.previous),
        trial=trial,
        latest=latest,
        marks=tuple(
            Mark(mark.version, mark.sha256, "bad" if mark.bad else "good", mark.reason)
            for mark in journal.marks[-_SHOWN_MARKS:]
        ),
    )


def _named(one: Deployment | Result) -> dict[str, object]:
    return {"deployment_id": one.deployment_id, "version": one.version}


def _version(release: Release | None) -> VersionState | None:
    if release is None:
        return None
    return VersionState(release.version, release.sha256, release.since_ms / 1000)
