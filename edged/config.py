"""The configuration: one TOML file, every key checked, every value typed.

Frozen dataclasses, validated by pydantic where they are made. This module knows the rules;
`edged.config_text` turns TOML text into these and explains what is wrong, with line numbers.
Types are strict: `"1883"` is no port and `true` is no number. What each key does is told in one
place, the shipped `config/edged.toml`. Pure: reads no file and no clock.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StringConstraints, model_validator
from pydantic.dataclasses import dataclass

from edged.config_rules import Conflict, Words, incomplete, pair, refuse

_STRICT = ConfigDict(extra="forbid", strict=True, str_strip_whitespace=False, allow_inf_nan=False)


Name = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$"),
    Words("lower-case letters, digits, - and _, starting with a letter or digit, at most 64"),
]
DeviceId = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"),
    Words("letters, digits, - and _, starting with a letter or digit, at most 64"),
]
# An MQTT topic level or several: no wildcards, no empty level, no leading `$`.
TopicPrefix = Annotated[
    str,
    StringConstraints(pattern=r"^[^/#+\x00$][^/#+\x00]*(/[^/#+\x00]+)*$", max_length=200),
    Words(
        "a topic like 'edged' or 'home/edged': no + or #, no / at either end, no $ in front, "
        "at most 200 characters"
    ),
]
Path = Annotated[str, StringConstraints(pattern=r"^[^\x00]+$"), Words("a path, not empty")]
Host = Annotated[
    str,
    StringConstraints(pattern=r"^[^\s/@\x00]+$"),
    Words(
        "a host name or an address, without mqtt://, without the port, and without a password:"
        " username and password_file have keys of their own"
    ),
]
Accelerator = Annotated[
    str,
    StringConstraints(pattern=r"^(auto|cpu|edgetpu|(usb|pci):[0-9]+)$"),
    Words("one of auto, cpu, edgetpu, usb:N, pci:N (N counts from 0)"),
]
Source = Annotated[
    str,
    StringConstraints(
        pattern=r"^(picamera(:[0-9]+)?|v4l2:/.+|rtsps?://.+|https?://.+|file:.+|images:.+|synthetic)$"
    ),
    Words(
        "one of picamera[:N], v4l2:/dev/videoN, rtsp://..., http://..., file:clip.mp4, "
        "images:DIR, synthetic"
    ),
]
Url = Annotated[
    str,
    StringConstraints(pattern=r"^https?://[^\s/?#@]+(/[^\s?#]*)?$", max_length=2000),
    Words("a web address like https://models.example.org/metadata, without user or password"),
]
Channels = Annotated[tuple[float, ...], Field(min_length=1, max_length=3)]


@dataclass(frozen=True, config=_STRICT)
class MqttConfig:
    """`[mqtt]`: the operator's broker."""

    host: Host = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] | None = None  # 1883, or 8883 with ca_file
    username: str | None = None
    password_file: Path | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    version: Literal["auto", "5", "3.1.1"] = "auto"
    topic_prefix: TopicPrefix = "edged"
    keepalive_s: Annotated[int, Field(ge=5, le=3600)] = 30
    outbox_messages: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    outbox_bytes: Annotated[int, Field(ge=10_000, le=1_000_000_000)] = 16_777_216
    stats_s: Annotated[float, Field(ge=1, le=86400)] = 60.0

    def conflicts(self) -> Iterator[Conflict]:
        """Yield what does not go together in this table."""
        yield from pair(self, "cert_file", "key_file")
        if self.cert_file is not None and self.ca_file is None:
            message = "a client certificate needs TLS: set ca_file as well"
            yield incomplete("cert_file", "ca_file", message)
        if self.password_file is not None and self.username is None:
            message = "a password needs a user: set username as well"
            yield incomplete("password_file", "username", message)

    @model_validator(mode="after")
    def _check(self) -> MqttConfig:
        refuse(self.conflicts())
        return self

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.ca_file is not None

    @property
    def effective_port(self) -> int:
        """The port in use: the configured one, or the usual one for the kind of connection."""
        return self.port if self.port is not None else (8883 if self.tls else 1883)


@dataclass(frozen=True, config=_STRICT)
class ModelConfig:
    """`[[model]]`: a named model and how its results are read."""

    name: Name
    factory: Path
    accelerator: Accelerator = "auto"
    runtime: Literal["auto", "litert", "tflite"] = "auto"
    threads: Annotated[int, Field(ge=1, le=64)] = 1
    top_k: Annotated[int, Field(ge=1, le=100)] = 5
    min_score: Annotated[float, Field(ge=0, le=1)] | None = None  # as the kind is used to
    mask: bool = False
    labels: Path | None = None
    resize: Literal["stretch", "center_crop", "letterbox"] | None = None  # as the kind is used to
    color: Literal["rgb", "bgr"] | None = None  # as the package says, else rgb
    mean: Channels | None = None
    std: Channels | None = None
    invoke_limit_s: Annotated[float, Field(gt=0, le=3600)] = 10.0

    def conflicts(self) -> Iterator[Conflict]:
        """Yield what does not go together in this table."""
        yield from pair(self, "mean", "std")
        for key in ("mean", "std"):
            if len(getattr(self, key) or ()) == 2:
                message = "must be one number for all channels or three, one for each"
                yield Conflict((key,), ((key,),), "wrong_length", message)
        if self.std is not None and any(value <= 0 for value in self.std):
            yield Conflict(("std",), (("std",),), "out_of_range", "must be greater than 0")

    @model_validator(mode="after")
    def _check(self) -> ModelConfig:
        refuse(self.conflicts())
        return self


@dataclass(frozen=True, config=_STRICT)
class PublishConfig:
    """`publish = {...}` of a camera: which predictions go out."""

    mode: Literal["every", "change", "rate"] = "every"
    per_second: Annotated[float, Field(gt=0, le=1000)] = 5.0


@dataclass(frozen=True, config=_STRICT)
class CameraConfig:
    """`[[camera]]`: a source of frames and the model it runs."""

    name: Name
    source: Source
    model: Name
    width: Annotated[int, Field(ge=16, le=8192)] | None = None
    height: Annotated[int, Field(ge=16, le=8192)] | None = None
    fps: Annotated[float, Field(ge=0, le=1000)] | None = None
    rotate: Literal[0, 90, 180, 270] = 0
    stall_s: Annotated[float, Field(ge=0.5, le=600)] = 10.0
    publish: PublishConfig = Field(default_factory=PublishConfig)

    def conflicts(self) -> Iterator[Conflict]:
        """Yield what does not go together in this table."""
        yield from pair(self, "width", "height")

    @model_validator(mode="after")
    def _check(self) -> CameraConfig:
        refuse(self.conflicts())
        return self


@dataclass(frozen=True, config=_STRICT)
class UpdateConfig:
    """`[update]`: where new models come from, and what a trial asks."""

    metadata_url: Url | None = None
    targets_url: Url | None = None
    root: Path = "/etc/edged/tuf/root.json"
    poll_s: Annotated[float, Field(ge=1, le=2_592_000)] = 21_600.0
    deadline_s: Annotated[float, Field(ge=1, le=2_592_000)] = 86_400.0
    trial_frames: Annotated[int, Field(ge=1, le=1_000_000)] = 300
    trial_seconds: Annotated[float, Field(ge=0, le=604_800)] = 60.0
    no_frames_s: Annotated[float, Field(ge=1, le=604_800)] = 3600.0

    def conflicts(self) -> Iterator[Conflict]:
        """Yield what does not go together in this table."""
        yield from pair(self, "metadata_url", "targets_url")

    @model_validator(mode="after")
    def _check(self) -> UpdateConfig:
        refuse(self.conflicts())
        return self


@dataclass(frozen=True, config=_STRICT)
class DriftConfig:
    """`[drift]`: what is recorded to know when predictions no longer look as they did."""

    enabled: bool = True
    sample_period_s: Annotated[float, Field(ge=0.01, le=3600)] = 2.0
    window_s: Annotated[float, Field(ge=1, le=3600)] = 300.0
    warm_up_days: Annotated[int, Field(ge=2, le=28)] = 7
    patience: Annotated[float, Field(ge=0.5, le=10)] = 1.0
    trust_clock: bool = False
    keep_days: Annotated[int, Field(ge=1, le=365)] = 30
    keep_bytes: Annotated[int, Field(ge=1_000_000, le=1_000_000_000)] = 20_000_000


@dataclass(frozen=True, config=_STRICT)
class Config:
    """The whole file."""

    model: Annotated[tuple[ModelConfig, ...], Field(min_length=1)]
    camera: Annotated[tuple[CameraConfig, ...], Field(min_length=1)]
    mqtt: MqttConfig = Field(default_factory=MqttConfig)
    update: UpdateConfig = Field(default_factory=UpdateConfig)
    drift: DriftConfig = Field(default_factory=DriftConfig)
    device_id: DeviceId | None = None  # <hostname>-<6 hex of machine-id>
    state_dir: Path = "/var/lib/edged"
    runtime_dir: Path = "/run/edged"
    groups: tuple[Name, ...] = ()
    edgetpu_library: Path = "libedgetpu.so.1"

    def cameras_of(self, model: str) -> tuple[str, ...]:
        """Return the names of the cameras that run a model."""
        return tuple(camera.name for camera in self.camera if camera.model == model)

    def conflicts(self) -> Iterator[Conflict]:
        """Yield names given twice and models that are not configured."""
        models = [model.name for model in self.model]
        for kind, names in (("model", models), ("camera", [camera.name for camera in self.camera])):
            for index, name in enumerate(names):
                first = names.index(name)
                if first < index:
                    here = (kind, index, "name")
                    uses = (here, (kind, first, "name"))
                    yield Conflict(here, uses, "duplicate", f"there is a {kind} '{name}' already")
        named = tuple(("model", index, "name") for index in range(len(models)))
        for index, camera in enumerate(self.camera):
            if models and camera.model not in models:
                here = ("camera", index, "model")
                message = f"no [[model]] is called '{camera.model}' (there is: {', '.join(models)})"
                yield Conflict(here, (here, *named), "bad_reference", message)

    @model_validator(mode="after")
    def _check(self) -> Config:
        refuse(self.conflicts())
        return self
