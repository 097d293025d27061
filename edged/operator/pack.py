"""Makes a package of a model file, at the operator's desk, and looks into packages."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from edged.config import ModelConfig
from edged.errors import PackError, ValidationError
from edged.frame import Color
from edged.inference.factory import read_labels, read_model
from edged.inference.kinds.ssd import ssd_head
from edged.inference.loading import load_servable
from edged.inference.modelfile import ModelFile, read_model_file
from edged.inference.modellabels import packed_labels
from edged.inference.preprocess import Resize
from edged.inference.servable import Servable
from edged.models.golden import write_golden
from edged.models.manifest import (
    GOLDEN,
    LABELS,
    MODEL,
    MODEL_EDGETPU,
    PACKAGE_LIMIT_BYTES,
    REFERENCE,
    GoldenSet,
    Head,
    Manifest,
    ModelInput,
    ModelOutput,
    PackagedFile,
    Requires,
    Task,
    Tolerance,
    TrialTerms,
    encode_manifest,
    parse_manifest,
)
from edged.models.package import read_package, write_package
from edged.models.validation import Limits, Validation, validate
from edged.models.version import Version
from edged.operator.goldenimages import Samples, make_samples
from edged.operator.referenceimages import make_reference

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_USUAL_IMAGES = 32


@dataclass(frozen=True, slots=True)
class Choices:
    """What the operator may say beyond the model; None: as its file or its kind has it.

    Attributes:
        labels: file with a label a line, instead of the labels in the model.
        edgetpu_model: the same model compiled for the Edge TPU.
        color: channel order the model was trained with.
        resize: how images are fitted.
        mean: normalisation, as in the configuration.
        std: the same.
        runtime: `auto`, `litert` or `tflite`: what gives the expected outputs.
        most_images: golden images that are taken.
        tolerance: how far outputs may be from the golden ones.
        requires: what devices must have.
        trial: what is asked of trials.
        texts: LICENSE and README.md, by those names.
        reference_dir: validation images, whose histograms go into the package.
    """

    labels: Path | None = None
    edgetpu_model: Path | None = None
    color: Color | None = None
    resize: Resize | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    runtime: str = "auto"
    most_images: int = _USUAL_IMAGES
    tolerance: Tolerance = field(default_factory=Tolerance)
    requires: Requires = field(default_factory=Requires)
    trial: TrialTerms = field(default_factory=TrialTerms)
    texts: Mapping[str, Path] = field(default_factory=dict)
    reference_dir: Path | None = None


@dataclass(frozen=True, slots=True)
class Packed:
    """A package that was made.

    Attributes:
        path: of the zip.
        sha256: of the zip, hex.
        manifest: what it says.
        tried: how the model did in the child that devices will try it in.
        notes: what the operator may want to know.
    """

    path: Path
    sha256: str
    manifest: Manifest
    tried: Validation
    notes: tuple[str, ...]


def pack(
    model: Path,
    *,
    name: str,
    version: str,
    golden_dir: Path,
    output: Path,
    choices: Choices | None = None,
) -> Packed:
    """Make a package: manifest and golden set come from the model itself.

    The same arguments and files give the same bytes on the same machine: `created` is when the
    model file was written, or SOURCE_DATE_EPOCH where that is set.

    Args:
        model: the .tflite file for the CPU.
        name: of the model, as devices configure it.
        version: Semantic Version.
        golden_dir: images, or a folder of images per label.
        output: the zip to write; replaced when it exists.
        choices: what else is to be said.

    Raises:
        PackError: `pack_name_invalid`, `pack_version_invalid`, `pack_unwritable`, and what
            `make_samples` and `make_reference` raise.
        ValidationError: the model cannot run, or devices would refuse it: their reason.
        DeviceError: this machine cannot run or try it.
        VerifyError: `manifest_too_large`, `manifest_invalid`.
    """
    choices = choices or Choices()
    _check_words(name, version)
    servable = load_servable(_config(model, name, choices))
    try:
        samples = make_samples(servable, golden_dir, choices.most_images, choices.tolerance)
        manifest, files = _content(
            servable, samples, choices, name=name, version=version, created=_created(model)
        )
    finally:
        servable.close()
    # What cannot be read back shall not leave the desk.
    parse_manifest(encode_manifest(manifest))
    sha256, tried = _write(output, manifest, files)
    return Packed(output, sha256, manifest, tried, samples.notes)


def check(package: Path, limits: Limits | None = None) -> Validation:
    """Try a package as a device does, in a child process.

    Raises:
        VerifyError: as `read_package`.
        StoreError: `package_unreadable`.
        DeviceError: as `validate`.
    """
    found = read_package(package)
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    config = ModelConfig(name=found.manifest.name, factory=str(package))
    with tempfile.TemporaryDirectory(prefix="edgectl-") as folder:
        for entry in found.entries:
            (Path(folder) / entry.name).write_bytes(found.read(entry.name))
        edgetpu = "cpu" not in found.manifest.processors()
        return validate(config, Path(folder), limits or Limits(memory_bytes), edgetpu=edgetpu)


def _check_words(name: str, version: str) -> None:
    if _NAME.fullmatch(name) is None:
        raise PackError(
            "pack_name_invalid",
            f"'{name}' is no name of a model: lower-case letters, digits, - and _, at most 64.",
        )
    try:
        Version(version)
    except ValueError as error:
        raise PackError(
            "pack_version_invalid",
            f"'{version}' is no version.",
            advice="Versions are three numbers such as 1.4.0, with -rc.1 for one on the way there.",
        ) from error


def _config(model: Path, name: str, choices: Choices) -> ModelConfig:
    return ModelConfig(
        name=name,
        factory=str(model),
        accelerator="cpu",
        runtime=choices.runtime,  # type: ignore[arg-type]  # checked where it is made
        labels=None if choices.labels is None else str(choices.labels),
        color=choices.color,
        resize=choices.resize,
        mean=choices.mean,
        std=choices.std,
    )


def _content(
    servable: Servable, samples: Samples, choices: Choices, *, name: str, version: str, created: str
) -> tuple[Manifest, dict[str, bytes]]:
    data = read_model(servable.path)
    file = read_model_file(data)
    files = {MODEL: data, GOLDEN: write_golden(samples.golden)}
    if choices.edgetpu_model is not None:
        files[MODEL_EDGETPU] = _compiled(choices.edgetpu_model, file)
    named = choices.labels is not None or packed_labels(data, file.label_name) is not None
    if named:
        files[LABELS] = "".join(f"{label}\n" for label in servable.labels).encode()
    if choices.reference_dir is not None:
        files[REFERENCE] = make_reference(servable, choices.reference_dir)
    for entry, path in choices.texts.items():
        files[entry] = read_labels(str(path))
    spec = servable.input
    manifest = Manifest(
        name=name,
        version=version,
        task=_task(servable),
        files={
            entry: PackagedFile(hashlib.sha256(content).hexdigest(), len(content))
            for entry, content in files.items()
        },
        input=ModelInput(
            spec.tensor.shape,
            spec.tensor.dtype,  # type: ignore[arg-type]  # one of the three that can be fed
            spec.color,
            spec.resize,
            spec.mean,
            spec.std,
        ),
        output=ModelOutput(_head(servable, file)),
        golden=GoldenSet(
            samples.golden.samples,
            f"{servable.runtime.name} {servable.runtime.version}",
            samples.top1 if servable.kind == "classification" else None,
            choices.tolerance,
        ),
        created=created,
        labels=len(servable.labels) if named else None,
        requires=choices.requires,
        trial=choices.trial,
    )
    return manifest, files


def _task(servable: Servable) -> Task:
    return servable.kind  # type: ignore[return-value]  # the kinds are the tasks


def _head(servable: Servable, file: ModelFile) -> Head:
    if servable.kind == "classification":
        heads = {file.head(tensor) for tensor in file.outputs}
        return "softmax" if heads & {"softmax", "logistic"} else "logits"
    if servable.kind == "detection":
        return "yolo" if ssd_head(file) is None else "ssd"
    return "keypoints" if servable.kind == "keypoints" else "mask"


def _compiled(path: Path, plain: ModelFile) -> bytes:
    data = read_model(path)
    file = read_model_file(data)
    if not file.needs_edgetpu:
        raise ValidationError(
            "model_not_compiled",
            f"{path} was not compiled for an Edge TPU.",
            advice="Compile the model with edgetpu_compiler.",
        )
    if [file.shapes[i] for i in file.inputs] != [plain.shapes[i] for i in plain.inputs]:
        raise ValidationError(
            "input_mismatch", f"{path} takes another input than the model for the CPU"
        )
    return data


def _created(model: Path) -> str:
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    moment_s = int(epoch) if epoch.isdecimal() else int(model.stat().st_mtime)
    return datetime.fromtimestamp(moment_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _write(output: Path, manifest: Manifest, files: Mapping[str, bytes]) -> tuple[str, Validation]:
    """Write the zip beside its place, try it, and only then move it there."""
    if sum(map(len, files.values())) > PACKAGE_LIMIT_BYTES:
        raise ValidationError("model_too_large", "the package would exceed 512 MiB")
    beside = output.with_name(f".{output.name}.part")
    try:
        with beside.open("wb") as file:
            write_package(file, manifest, files)
        tried = check(beside)
        if tried.reason is not None:
            raise ValidationError(tried.reason, f"devices would refuse the model: {tried.detail}")
        digest = hashlib.sha256(beside.read_bytes()).hexdigest()
        beside.replace(output)
    except OSError as error:
        raise PackError("pack_unwritable", f"cannot write {output}: {error}.") from error
    finally:
        with suppress(OSError):
            beside.unlink()
    return digest, tried
