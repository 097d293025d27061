"""What edged says on MQTT: topics, and payloads as bytes.

Values in, JSON bytes out; every payload begins with `"schema": 1`. Pure: reads no clock, no
file and no network. Key order and rounding are part of the wire: a message sent twice is
the same bytes. Sources and free text pass through `redacted`, so that no payload carries
a camera's password.
"""

from __future__ import annotations

import base64
from dataclasses import asdict, dataclass
from typing import Any, Literal

import orjson

from edged.prediction import Areas, Classes, Keypoints, Objects, Prediction, Result
from edged.redact import redacted

SCHEMA = 1
ONLINE = b"online"
OFFLINE = b"offline"


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of one device.

    Attributes:
        prefix: `[mqtt] topic_prefix`, one or several levels, no wildcards.
        device: the device id.
    """

    prefix: str
    device: str

    @property
    def available(self) -> str:
        """`online` or `offline`; retained, QoS 1, also the will."""
        return self._of("available")

    @property
    def error(self) -> str:
        """What was wrong with an inbound message; QoS 0."""
        return self._of("error")

    @property
    def info(self) -> str:
        """What this device is and runs; retained, QoS 1."""
        return self._of("info")

    @property
    def stats(self) -> str:
        """How it is doing; QoS 0."""
        return self._of("stats")

    def prediction(self, camera: str) -> str:
        """Predictions of one camera; QoS 1."""
        return self._of(f"prediction/{camera}")

    def model(self, model: str) -> str:
        """Versions of one model; retained, QoS 1."""
        return self._of(f"model/{model}")

    def update(self, model: str, what: Literal["state", "progress", "result"]) -> str:
        """What a deployment of one model says; see `edged.mqtt.updates`."""
        return self._of(f"update/{model}/{what}")

    def drift(self, camera: str, what: Literal["window", "state", "command"]) -> str:
        """What drift says of one camera, and is asked; see `edged.drift.voice`."""
        return self._of(f"drift/{camera}/{what}")

    def _of(self, tail: str) -> str:
        return f"{self.prefix}/{self.device}/{tail}"


@dataclass(frozen=True, slots=True)
class Versions:
    """Versions of the software: `runtime` with its name, such as `litert 2.3.0`."""

    edged: str
    python: str
    runtime: str


@dataclass(frozen=True, slots=True)
class CameraInfo:
    """One camera; `reason` is a slug and `detail` a sentence, both "" while all is well."""

    name: str
    source: str
    state: str
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class PartInfo:
    """A part of the device; `reason` is a slug and `detail` a sentence, "" while all is well."""

    reason: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """One model as it runs; `reason` and `detail` say why it does not, or not as asked.

    Attributes:
        sha256: hex digest of the package or bare file, in full.
        kind: `classification`, `detection`...
        accelerator: where it runs; `requested_accelerator`: what the configuration says.
        journal: what was wrong at the start with what the device remembers of the model.
    """

    name: str
    version: str
    sha256: str
    kind: str
    runtime: str
    accelerator: str
    requested_accelerator: str
    reason: str = ""
    detail: str = ""
    journal: PartInfo = PartInfo()


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """Payload of the `info` topic.

    Attributes:
        last_stop: why the daemon last stopped, "" if unknown.
        configuration: why what is on disk was refused, and the one before still runs.
        outbox: on disk.
        updates: over the air: why there are none, or what is wrong with the repository.
        drift: what is wrong with what drift keeps on the disk.
    """

    versions: Versions
    board: str
    accelerators: tuple[str, ...] = ()
    cameras: tuple[CameraInfo, ...] = ()
    models: tuple[ModelInfo, ...] = ()
    groups: tuple[str, ...] = ()
    last_stop: str = ""
    configuration: PartInfo = PartInfo()
    outbox: PartInfo = PartInfo()
    updates: PartInfo = PartInfo()
    drift: PartInfo = PartInfo()


@dataclass(frozen=True, slots=True)
class VersionState:
    """One version of a model; `since` is the Unix time in seconds of its present role."""

    version: str
    sha256: str
    since: float


@dataclass(frozen=True, slots=True)
class Mark:
    """A lasting verdict on a package: `mark` is `good` or `bad`, `reason` a slug."""

    version: str
    sha256: str
    mark: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ModelState:
    """Payload of `model/<model>`; None where there is no such version."""

    model: str
    active: VersionState | None = None
    previous: VersionState | None = None
    trial: VersionState | None = None
    latest: str | None = None
    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True, slots=True)
class CameraStats:
    """One camera and its model: rates over the last interval, counts since the daemon started.

    Attributes:
        captured: frames read.
        replaced: frames that a newer one replaced before the model was free.
        no_model: frames read while there was no model to run.
        inferred: frames the model ran on.
        published: predictions handed to MQTT.
        withheld: predictions that the publish policy held back.
        overrun: inferences dropped because the publisher was behind.
        reconnects: times the camera was opened again.
        errors: by reason slug.
        invoke_ms: `p50`, `p95`, `p99`, `max` of invoke over the interval; empty without any.
        latency_ms: the same from capture to publish.
    """

    name: str
    model: str
    captured_per_s: float
    inferred_per_s: float
    published_per_s: float
    captured: int
    replaced: int
    no_model: int
    inferred: int
    published: int
    withheld: int
    overrun: int
    reconnects: int
    errors: dict[str, int]
    invoke_ms: dict[str, float]
    latency_ms: dict[str, float]


@dataclass(frozen=True, slots=True)
class BrokerStats:
    """The session with the broker: counts since the daemon started; `dropped` by cause.

    Attributes:
        queued: messages in the outbox, and `queued_bytes` what those take.
        stored: messages that are on disk as well.
        in_flight: messages sent and not acknowledged.
    """

    reconnects: int
    queued: int
    queued_bytes: int
    stored: int
    in_flight: int
    dropped: dict[str, int]


@dataclass(frozen=True, slots=True)
class Stats:
    """Payload of the `stats` topic: `t` in Unix seconds, `temperatures` in degrees Celsius."""

    t: float
    uptime_s: float
    cameras: tuple[CameraStats, ...]
    mqtt: BrokerStats
    temperatures: dict[str, float]


def encode_prediction(prediction: Prediction, *, boot: str, seq: int) -> bytes:
    """Return the payload of `prediction/<camera>`.

    Shape: `{"schema","boot","seq","frame","t","camera","model","version","sha256","ms"}` and
    `"classes":[{"label","score"}]`, `"objects":[{"label","score","box":[x0,y0,x1,y1]}]`,
    `"keypoints":[{"label","score","point":[x,y]}]` or `"areas":[{"label","area"}]`, then, where
    asked for, with `"mask":{"png":"<base64>","box":[x0,y0,x1,y1]}`.
    `t` is the capture time in Unix seconds to the millisecond, `ms` the invoke to 1/100 ms,
    `sha256` the first 8 digits; scores and boxes have 4 decimals.

    Args:
        prediction: what to say.
        boot: 8 hex digits, random per daemon start.
        seq: counts published predictions per camera and boot.
    """
    frame, model = prediction.frame, prediction.model
    message: dict[str, object] = {
        "schema": SCHEMA,
        "boot": boot,
        "seq": seq,
        "frame": frame.number,
        "t": round(float(frame.captured_s), 3),
        "camera": frame.camera,
        "model": model.name,
        "version": model.version,
        "sha256": model.sha256[:8],
        "ms": round(float(prediction.invoke_ms), 2),
    }
    message |= said(prediction.result)
    # A copy: what orjson returns holds 4 KiB however short it is, and the outbox keeps thousands.
    return bytes(memoryview(orjson.dumps(message)))


def said(result: Result) -> dict[str, object]:
    """Return what a model said as it stands in a prediction: `classes`, `objects`..."""
    match result:
        case Classes():
            return {
                "classes": [
                    {"label": found.label, "score": _short(found.score)} for found in result.classes
                ]
            }
        case Objects():
            return {
                "objects": [
                    {
                        "label": found.label,
                        "score": _short(found.score),
                        "box": [_short(edge) for edge in found.box],
                    }
                    for found in result.objects
                ]
            }
        case Keypoints():
            return {
                "keypoints": [
                    {
                        "label": found.label,
                        "score": _short(found.score),
                        "point": [_short(edge) for edge in found.point],
                    }
                    for found in result.points
                ]
            }
        case Areas():
            areas: dict[str, object] = {
                "areas": [
                    {"label": found.label, "area": _short(found.area)} for found in result.areas
                ]
            }
            mask = result.mask
            if mask is not None:
                png = base64.b64encode(mask.png).decode("ascii")
                areas["mask"] = {"png": png, "box": [_short(edge) for edge in mask.box]}
            return areas


def encode_info(info: DeviceInfo) -> bytes:
    """Return the payload of `info`: the fields of `DeviceInfo` in order, credentials redacted."""
    message = asdict(info)
    for camera in message["cameras"]:
        source, camera["source"] = camera["source"], redacted(camera["source"])
        camera["detail"] = redacted(camera["detail"].replace(source, camera["source"]))
    for model in message["models"]:
        model["detail"] = redacted(model["detail"])
    for part in ("configuration", "updates"):
        message[part]["detail"] = redacted(message[part]["detail"])
    message["last_stop"] = redacted(message["last_stop"])
    return _dumps({"schema": SCHEMA, **message})


def encode_model_state(state: ModelState) -> bytes:
    """Return the payload of `model/<model>`: the fields of `ModelState` in order."""
    message = asdict(state)
    for role in ("active", "previous", "trial"):
        if message[role] is not None:
            message[role]["since"] = round(float(message[role]["since"]), 3)
    return _dumps({"schema": SCHEMA, **message})


def encode_stats(stats: Stats) -> bytes:
    """Return the payload of `stats`: the fields of `Stats` in order, floats to 3 decimals."""
    return _dumps({"schema": SCHEMA, **_rounded(asdict(stats))})


def _short(value: float) -> float:
    # float() as scores may be numpy's; + 0.0 turns -0.0 into 0.0.
    return round(float(value), 4) + 0.0


def _rounded(fields: dict[str, object]) -> dict[str, object]:
    return {key: _round_any(value) for key, value in fields.items()}


def _round_any(value: object) -> object:
    if isinstance(value, float):
        return round(float(value), 3)
    if isinstance(value, dict):
        return _rounded(value)
    if isinstance(value, tuple | list):
        return [_round_any(part) for part in value]
    return value


def _dumps(message: dict[str, object]) -> bytes:
    try:
        return orjson.dumps(message)
    except TypeError:
        # A file name that is not UTF-8 has become surrogates, which JSON cannot carry.
        clean: dict[str, object] = _printable(message)
        return orjson.dumps(clean)


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_printable(key): _printable(part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return [_printable(part) for part in value]
    return value
