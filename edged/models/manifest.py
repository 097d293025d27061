"""The manifest of a package: what the model is, how it is fed, what it asks of a device. Pure.

The JSON is that of docs/packages.md; `docs/manifest.schema.json` says the same for other tools.
A field that is not known is ignored, a schema that is not known is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal, cast, get_args

from edged.errors import VerifyError
from edged.frame import Color
from edged.inference.preprocess import Resize
from edged.inference.signature import CHANNELS
from edged.models.fields import Fields, FieldsError
from edged.models.strictjson import StrictJsonError, parse_object
from edged.models.version import Version

SCHEMA = 1
MANIFEST_LIMIT_BYTES = 64 * 1024
PACKAGE_LIMIT_BYTES = 512 * 1024 * 1024

MANIFEST = "manifest.json"
MODEL = "model.tflite"
MODEL_EDGETPU = "model_edgetpu.tflite"
LABELS = "labels.txt"
GOLDEN = "golden.npz"
REFERENCE = "reference.json"
FILES = (MODEL, MODEL_EDGETPU, LABELS, GOLDEN, REFERENCE, "LICENSE", "README.md")
"""What a package may carry beside its manifest."""

Task = Literal["classification", "detection", "keypoints", "segmentation"]
Head = Literal["softmax", "logits", "ssd", "yolo", "keypoints", "mask"]
Processor = Literal["cpu", "edgetpu"]

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
AT_LEAST = re.compile(r">=([0-9]{1,6}(?:\.[0-9]{1,6}){0,3})")
_CREATED = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_MOST_LABELS = 100_000
_MOST_SAMPLES = 1000
MOST_STEPS = 64  # a tolerance beyond a quarter of the range would tolerate anything
MOST_MEMORY_BYTES = 2**40
MOST_FRAMES, MOST_SECONDS, MOST_RATIO = 10_000_000, 30 * 86400, 1000.0


@dataclass(frozen=True, slots=True)
class PackagedFile:
    """One file of the package: its digest in hex and its size."""

    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class ModelInput:
    """How images become the model's input; None where the model file or its kind decides.

    Attributes:
        shape: of the image's tensor: 1, height, width, channels, or with the channels second.
        dtype: `uint8`, `int8` or `float32`.
        color: order of the channels.
        resize: how an image of another aspect ratio is fitted.
        mean: one number for all channels or one for each; a pixel enters as (pixel - mean) / std.
        std: the same.
    """

    shape: tuple[int, ...]
    dtype: Literal["uint8", "int8", "float32"]
    color: Color = "rgb"
    resize: Resize | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class ModelOutput:
    """What the model ends in."""

    head: Head


@dataclass(frozen=True, slots=True)
class Requires:
    """What a device must have.

    Attributes:
        accelerator: `cpu` or `edgetpu` where it runs on nothing else.
        runtime: least version by runtime, as `>=2.9`; one that is not named may be of any.
        memory_bytes: what the model needs beside the daemon, 0 where nobody knows.
    """

    accelerator: Literal["any", "cpu", "edgetpu"] = "any"
    runtime: Mapping[str, str] = field(default_factory=dict)
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far outputs may be from the golden ones, in quantised steps, by where the model runs."""

    litert: int = 6
    tflite: int = 6
    edgetpu: int = 8

    def of(self, runtime: str, accelerator: str) -> int:
        """Return the steps for a runtime (`litert`, `tflite`) and an accelerator (`cpu`...)."""
        if accelerator != "cpu":
            return self.edgetpu
        return self.litert if runtime == "litert" else self.tflite

    @property
    def most(self) -> int:
        """The most steps, wherever the model runs."""
        return max(self.litert, self.tflite, self.edgetpu)


@dataclass(frozen=True, slots=True)
class GoldenSet:
    """What golden.npz holds.

    Attributes:
        samples: how many.
        made_with: runtime and version that gave the expected outputs.
        top1: the best label of each sample of a classification, None where it is not asked (the
            two best are too close to tell, as in noise); None for other tasks.
        tolerance: how far outputs may be off.
    """

    samples: int
    made_with: str
    top1: tuple[str | None, ...] | None = None
    tolerance: Tolerance = Tolerance()


@dataclass(frozen=True, slots=True)
class TrialTerms:
    """What the publisher asks of a trial; the device's own limits are only ever made stricter.

    Attributes:
        frames: least number of frames.
        seconds: least duration.
        p95_ratio: most that the 95th percentile of the invoke may grow.
        max_disagreement: share of pairs that may differ from the previous model, 0..1; None: 0.5
            where both have the same labels, in whatever order, no limit otherwise.
    """

    frames: int = 0
    seconds: int = 0
    p95_ratio: float = 1.5
    max_disagreement: float | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything a package says about its model.

    Attributes:
        name: of the model, as devices configure it.
        version: text of a Semantic Version.
        task: kind of the model.
        files: by name, those of `FILES` that the package carries.
        input: how it is fed.
        output: what it ends in.
        golden: what golden.npz holds.
        created: UTC, e.g. 2026-11-20T12:00:00Z.
        labels: lines of labels.txt; None without one.
        requires: what a device must have.
        trial: what is asked of a trial.
    """

    name: str
    version: str
    task: Task
    files: Mapping[str, PackagedFile]
    input: ModelInput
    output: ModelOutput
    golden: GoldenSet
    created: str
    labels: int | None = None
    requires: Requires = Requires()
    trial: TrialTerms = TrialTerms()

    def processors(self) -> tuple[Processor, ...]:
        """Return what the package has a model for."""
        both: tuple[tuple[Processor, str], ...] = (("cpu", MODEL), ("edgetpu", MODEL_EDGETPU))
        wanted = self.requires.accelerator
        return tuple(
            processor
            for processor, name in both
            if name in self.files and wanted in ("any", processor)
        )


def parse_manifest(data: bytes) -> Manifest:
    """Read a manifest.

    Args:
        data: the bytes of manifest.json, from anybody.

    Raises:
        VerifyError: `manifest_too_large`, `manifest_schema_unknown`, `manifest_invalid`.
    """
    if len(data) > MANIFEST_LIMIT_BYTES:
        raise VerifyError(
            "manifest_too_large",
            f"manifest.json has {len(data)} bytes, more than {MANIFEST_LIMIT_BYTES}.",
            advice="Make fewer golden samples, or shorter labels of them.",
        )
    try:
        fields = Fields(parse_object(data, MANIFEST_LIMIT_BYTES))
        schema = fields.integer("schema", 1, 2**31)
        if schema != SCHEMA:
            raise VerifyError(
                "manifest_schema_unknown",
                f"manifest.json is of schema {schema}, and this edged knows {SCHEMA}.",
                advice="Update edged on the device before this model.",
            )
        return _manifest(fields)
    except (StrictJsonError, FieldsError) as error:
        raise VerifyError(
            "manifest_invalid",
            f"manifest.json: {error}.",
            advice="Make the package with edgectl model pack.",
        ) from error


def encode_manifest(manifest: Manifest) -> bytes:
    """Return manifest.json; the same manifest always gives the same bytes."""
    facts = asdict(manifest)
    facts["files"] = {name: facts["files"][name] for name in FILES if name in manifest.files}
    text = json.dumps({"schema": SCHEMA, **facts}, ensure_ascii=False, indent=1, allow_nan=False)
    return f"{text}\n".encode()


def _manifest(fields: Fields) -> Manifest:
    files = _files(fields.table("files"))
    requires = _requires(fields.table("requires", optional=True))
    labels = fields.optional_integer("labels", 1, _MOST_LABELS)
    if (labels is None) != (LABELS not in files):
        raise FieldsError(f"labels and {LABELS} go together, and only one of them is there")
    manifest = Manifest(
        name=fields.match("name", _NAME, "a model's name: a-z, 0-9, - and _, at most 64"),
        version=_version(fields),
        task=cast("Task", fields.choice("task", get_args(Task))),
        files=files,
        input=_input(fields.table("input")),
        output=ModelOutput(cast("Head", fields.table("output").choice("head", get_args(Head)))),
        golden=_golden(fields.table("golden")),
        created=_created(fields),
        labels=labels,
        requires=requires,
        trial=_trial(fields.table("trial", optional=True)),
    )
    if not manifest.processors():
        raise FieldsError(f"no model for requires.accelerator = {requires.accelerator!r}")
    return manifest


def _version(fields: Fields) -> str:
    text = fields.text("version")
    try:
        return Version(text).text
    except ValueError as error:
        raise FieldsError("version is no Semantic Version such as 1.4.0") from error


def _created(fields: Fields) -> str:
    text = fields.match("created", _CREATED, "a time such as 2026-11-20T12:00:00Z")
    try:
        datetime.fromisoformat(text)
    except ValueError as error:
        raise FieldsError("created is no date of the calendar") from error
    return text


def _files(table: Fields) -> dict[str, PackagedFile]:
    files = {}
    for name in table.names():
        if name not in FILES:
            raise FieldsError(f"files names {name[:40]!r}; allowed are {', '.join(FILES)}")
        entry = table.table(name)
        files[name] = PackagedFile(
            entry.match("sha256", _SHA256, "64 hex digits in lower case"),
            entry.integer("bytes", 1, PACKAGE_LIMIT_BYTES),
        )
    if MODEL not in files and MODEL_EDGETPU not in files:
        raise FieldsError(f"files has neither {MODEL} nor {MODEL_EDGETPU}")
    if GOLDEN not in files:
        raise FieldsError(f"files has no {GOLDEN}")
    return files


def _input(table: Fields) -> ModelInput:
    shape = table.integers("shape", 1, 16384)
    if len(shape) != 4 or shape[0] != 1 or (shape[3] not in CHANNELS and shape[1] not in CHANNELS):
        raise FieldsError("input.shape is not [1, height, width, 3 or 1]")
    channels = shape[3] if shape[3] in CHANNELS else shape[1]
    mean = table.optional_numbers("mean", -1e6, 1e6)
    std = table.optional_numbers("std", 1e-6, 1e6)
    if (mean is None) != (std is None):
        raise FieldsError("input.mean and input.std go together, and only one of them is there")
    for values in (mean, std):
        if values is not None and len(values) not in (1, channels):
            raise FieldsError(f"input.mean and input.std are not of 1 or {channels} numbers")
    resize = table.optional_choice("resize", get_args(Resize))
    return ModelInput(
        shape,
        cast("Any", table.choice("dtype", ("uint8", "int8", "float32"))),
        cast("Color", table.optional_choice("color", get_args(Color)) or "rgb"),
        cast("Resize | None", resize),
        mean,
        std,
    )


def _requires(table: Fields) -> Requires:
    runtimes = table.table("runtime", optional=True)
    words = "a least version such as >=2.9"
    return Requires(
        cast("Any", table.optional_choice("accelerator", ("any", "cpu", "edgetpu")) or "any"),
        {name: runtimes.match(name, AT_LEAST, words) for name in runtimes.names()},
        table.optional_integer("memory_bytes", 0, MOST_MEMORY_BYTES) or 0,
    )


def _golden(table: Fields) -> GoldenSet:
    samples = table.integer("samples", 1, _MOST_SAMPLES)
    top1 = table.optional_texts("top1")
    if top1 is not None and len(top1) != samples:
        raise FieldsError(f"golden.top1 has {len(top1)} lines for {samples} samples")
    steps = table.table("tolerance", optional=True)
    usual = asdict(Tolerance())
    found = {name: steps.optional_integer(name, 0, MOST_STEPS) for name in usual}
    tolerance = Tolerance(**{k: usual[k] if v is None else v for k, v in found.items()})
    return GoldenSet(samples, table.text("made_with"), top1, tolerance)


def _trial(table: Fields) -> TrialTerms:
    ratio = table.optional_number("p95_ratio", 1.0, MOST_RATIO)
    return TrialTerms(
        table.optional_integer("frames", 0, MOST_FRAMES) or 0,
        table.optional_integer("seconds", 0, MOST_SECONDS) or 0,
        TrialTerms().p95_ratio if ratio is None else ratio,
        table.optional_number("max_disagreement", 0.0, 1.0),
    )
