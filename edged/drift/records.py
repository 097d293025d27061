"""Windows as JSON: on the disk, on the wire, and what a fleet reads back. Pure.

Histograms are sparse, bin number to count; all that adds up is whole numbers. What is read may
have been written by anybody, or damaged: it is refused unless all of it makes sense. Fields that
nobody knows are ignored, so that later versions may add some.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import orjson

from edged.drift.histogram import EDGES, SCALES, Counts
from edged.drift.signals import NOTHING
from edged.drift.window import LATENCY_EDGES_MS, MOST_CLASSES, ClassCount, Subject, Tally, Window
from edged.errors import DriftError
from edged.models.fields import Fields, FieldsError
from edged.models.strictjson import StrictJsonError, parse_object

SCHEMA = 1
LIMIT_BYTES = 64 * 1024
"""A window with as many classes and bins as there can be takes a tenth of this."""

_MOST_COUNT = 2**53  # beyond it JSON's numbers are not whole any more
_LATEST_MS = 253_402_300_800_000  # the year 10000
_KEY = re.compile(r"-?(0|[1-9][0-9]{0,6})")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_VIEW = re.compile(r"[0-9a-f]{0,64}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_BOOT = re.compile(r"[0-9a-f]{8,32}")
_COUNTS = (
    *("frames", "inferred", "dropped", "errors", "sampled", "repeated", "paired"),
    "disagreed",
)


def encode_window(window: Window) -> bytes:
    """Return a window as JSON; the same window is the same bytes.

    Shape: `docs/drift-window.schema.json`.
    """
    tally, subject = window.tally, window.subject
    return orjson.dumps(
        {
            "schema": SCHEMA,
            "edges": window.edges,
            "device": window.device,
            "boot": window.boot,
            "seq": window.seq,
            "began": window.began_ms / 1000,
            "seconds": round(window.seconds, 3),
            "synchronised": window.synchronised,
            "camera": subject.camera,
            "model": subject.model,
            "version": subject.version,
            "sha256": subject.sha256,
            "runtime": subject.runtime,
            "accelerator": subject.accelerator,
            "view": subject.view,
            "trial": window.trial,
            "n": {name: getattr(tally, name) for name in _COUNTS},
            "best": {str(number): tally.best[number] for number in sorted(tally.best)},
            "classes": {
                str(number): [tally.classes[number].count, tally.classes[number].score_milli]
                for number in sorted(tally.classes)
            },
            "invoke": _sparse(tally.invoke),
            "histograms": {
                signal: _sparse(counts) for signal, counts in sorted(tally.histograms.items())
            },
            "tau": None if window.tau is None else round(window.tau, 2),
            "n_effective": round(window.n_effective, 1),
        }
    )


def parse_window(data: bytes) -> Window:
    """Return the window that bytes hold.

    Raises:
        DriftError: `window_malformed`; `edges_differ` for a window that was counted with other
            histogram edges, which cannot be added to ours.
    """
    try:
        return _window(parse_object(data, LIMIT_BYTES))
    except (StrictJsonError, FieldsError) as error:
        raise DriftError("window_malformed", f"this is no window: {error}") from error


def encode_validation(tally: Tally) -> bytes:
    """Return what a model said of validation images, for its package: `reference.json`."""
    return orjson.dumps(
        {
            "schema": SCHEMA,
            "edges": EDGES,
            "images": tally.sampled,
            "histograms": {
                signal: _sparse(counts) for signal, counts in sorted(tally.histograms.items())
            },
        }
    )


def parse_validation(data: bytes) -> Tally:
    """Return what `encode_validation` wrote: histograms, and `sampled` for the images.

    Raises:
        DriftError: `window_malformed`, `edges_differ`.
    """
    try:
        message = parse_object(data, LIMIT_BYTES)
        fields = Fields(message)
        _check_edges(fields)
        images = fields.integer("images", 1, _MOST_COUNT)
        return Tally(sampled=images, histograms=_histograms(message))
    except (StrictJsonError, FieldsError) as error:
        raise DriftError("window_malformed", f"no histograms of images: {error}") from error


def _check_edges(fields: Fields) -> str:
    fields.integer("schema", SCHEMA, SCHEMA)
    edges = fields.match("edges", _NAME, "a version of histogram edges")
    if edges != EDGES:
        raise DriftError("edges_differ", f"a record with edges {edges}; here they are {EDGES}.")
    return edges


def _histograms(message: Mapping[str, object]) -> dict[str, Counts]:
    histograms = _table(message, "histograms")
    if histograms.keys() - SCALES.keys():
        raise FieldsError("'histograms' has a signal that is not known")
    return {signal: _dense(histograms, signal, SCALES[signal].bins) for signal in histograms}


def _window(message: dict[str, object]) -> Window:
    fields = Fields(message)
    edges = _check_edges(fields)
    subject = Subject(
        camera=fields.match("camera", _NAME, "the name of a camera"),
        model=fields.match("model", _NAME, "the name of a model"),
        version=fields.text("version"),
        sha256=fields.match("sha256", _SHA256, "64 hex digits"),
        runtime=fields.text("runtime"),
        accelerator=fields.text("accelerator"),
        view=fields.match("view", _VIEW, "up to 64 hex digits"),
    )
    tau = fields.optional_number("tau", 0.0, 1e9)
    return Window(
        device=fields.match("device", _NAME, "the id of a device"),
        boot=fields.match("boot", _BOOT, "8 to 32 hex digits"),
        seq=fields.integer("seq", 1, _MOST_COUNT),
        began_ms=round(_number(fields, "began", _LATEST_MS / 1000) * 1000),
        seconds=_number(fields, "seconds", 1e9),
        synchronised=_flag(message, "synchronised"),
        subject=subject,
        trial=_flag(message, "trial"),
        tally=_tally(fields, message),
        tau=tau,
        edges=edges,
    )


def _tally(fields: Fields, message: dict[str, object]) -> Tally:
    counts = fields.table("n")
    n = {name: counts.integer(name, 0, _MOST_COUNT) for name in _COUNTS}
    return Tally(
        **n,
        best={
            number: _count(f"best.{number}", count)
            for number, count in _numbered(message, "best", NOTHING, MOST_CLASSES - 1).items()
        },
        classes={
            number: _class_count(f"classes.{number}", pair)
            for number, pair in _numbered(message, "classes", NOTHING, MOST_CLASSES - 1).items()
        },
        invoke=_dense(message, "invoke", len(LATENCY_EDGES_MS) + 1),
        histograms=_histograms(message),
    )


def _sparse(counts: Counts) -> dict[str, int]:
    return {str(place): int(counts[place]) for place in np.flatnonzero(counts).tolist()}


def _dense(message: Mapping[str, object], key: str, bins: int) -> Counts:
    counts = np.zeros(bins, np.int64)
    for place, count in _numbered(message, key, 0, bins - 1).items():
        counts[place] = _count(f"{key}.{place}", count)
    return counts


def _table(message: Mapping[str, object], key: str) -> dict[str, object]:
    value = message.get(key)
    if not isinstance(value, dict):
        raise FieldsError(f"{key!r} must be an object")
    return value


def _numbered(message: Mapping[str, object], key: str, low: int, high: int) -> dict[int, object]:
    """Return an object whose keys are whole numbers of a range, each written in one way only."""
    found: dict[int, object] = {}
    for text, value in _table(message, key).items():
        if _KEY.fullmatch(text) is None or text == "-0" or not low <= int(text) <= high:
            raise FieldsError(f"{key!r} has a key that is no number from {low} to {high}")
        found[int(text)] = value
    return found


def _count(where: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MOST_COUNT:
        raise FieldsError(f"{where!r} must be a whole number from 0 to {_MOST_COUNT}")
    return value


def _class_count(where: str, value: object) -> ClassCount:
    if not isinstance(value, list) or len(value) != 2:
        raise FieldsError(f"{where!r} must be a count and a sum")
    return ClassCount(_count(where, value[0]), _count(where, value[1]))


def _number(fields: Fields, key: str, high: float) -> float:
    value = fields.optional_number(key, 0.0, high)
    if value is None:
        raise FieldsError(f"{key!r} is missing")
    return value


def _flag(message: Mapping[str, object], key: str) -> bool:
    value = message.get(key)
    if not isinstance(value, bool):
        raise FieldsError(f"{key!r} must be true or false")
    return value
