"""The configuration: one TOML file, every key checked, every value typed.

Frozen dataclasses, validated by pydantic where they are made. This module knows the rules;
`edged.config_text` turns TOML text into these and explains what is wrong, with line numbers.
Pure: reads no file and no clock.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StringConstraints, model_validator
from pydantic.dataclasses import dataclass

_STRICT = ConfigDict(extra="forbid", str_strip_whitespace=False, allow_inf_nan=False)

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
DeviceId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
# An MQTT topic level or several: no wildcards, no empty level, no leading `$`.
TopicPrefix = Annotated[
    str, StringConstraints(pattern=r"^[^/#+\x00$][^/#+\x00]*(/[^/#+\x00]+)*$", max_length=200)
]
Path = Annotated[str, StringConstraints(min_length=1)]
Accelerator = Annotated[str, StringConstraints(pattern=r"^(auto|cpu|edgetpu|(usb|pci):[0-9]+)$")]
Source = Annotated[
    str,
    StringConstraints(
        pattern=r"^(picamera(:[0-9]+)?|v4l2:.+|rtsps?://.+|https?://.+|file:.+|images:.+|synthetic)$"
    ),
]
Channels = Annotated[tuple[float, ...], Field(min_length=1, max_length=3)]


@dataclass(frozen=True, config=_STRICT)
class MqttConfig:
    """`[mqtt]`: the operator's broker."""

    host: Annotated[str, StringConstraints(min_length=1)] = "127.0.0.1"
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
    stats_s: Annotated[float, Field(ge=1, le=86400)] = 60.0

    @model_validator(mode="after")
    def _pairs(self) -> MqttConfig:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file go together: set both or neither")
        if self.cert_file is not None and self.ca_file is None:
            raise ValueError("a client certificate needs TLS: set ca_file as well")
        if self.password_file is not None and self.username is None:
            raise ValueError("password_file without username: set both")
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
    min_score: Annotated[float, Field(ge=0, le=1)] = 0.0
    labels: Path | None = None
    resize: Literal["stretch", "center_crop", "letterbox"] = "stretch"
    color: Literal["rgb", "bgr"] = "rgb"
    mean: Channels | None = None
    std: Channels | None = None
    invoke_limit_s: Annotated[float, Field(gt=0, le=3600)] = 10.0

    @model_validator(mode="after")
    def _normalisation(self) -> ModelConfig:
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std go together: set both or neither")
        if self.std is not None and any(value <= 0 for value in self.std):
            raise ValueError("std must be greater than 0")
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

    @model_validator(mode="after")
    def _size(self) -> CameraConfig:
        if (self.width is None) != (self.height is None):
            raise ValueError("width and height go together: set both or neither")
        return self


@dataclass(frozen=True, config=_STRICT)
class Config:
    """The whole file."""

    model: Annotated[tuple[ModelConfig, ...], Field(min_length=1)]
    camera: Annotated[tuple[CameraConfig, ...], Field(min_length=1)]
    mqtt: MqttConfig = Field(default_factory=MqttConfig)
    device_id: DeviceId | None = None  # <hostname>-<6 hex of machine-id>
    state_dir: Path = "/var/lib/edged"
    runtime_dir: Path = "/run/edged"
    groups: tuple[Name, ...] = ()
    edgetpu_library: Path = "libedgetpu.so.1"

    @model_validator(mode="after")
    def _references(self) -> Config:
        models = [model.name for model in self.model]
        for kind, names in (("model", models), ("camera", [camera.name for camera in self.camera])):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"two {kind}s of one name: {', '.join(twice)}")
        for camera in self.camera:
            if camera.model not in models:
                raise ValueError(
                    f"camera '{camera.name}' runs model '{camera.model}', "
                    f"which is not configured (there is: {', '.join(models)})"
                )
        return self
