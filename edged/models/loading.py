"""A package in a directory becomes a servable."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edged.config import ModelConfig
from edged.errors import StoreError, ValidationError
from edged.inference.loading import load_servable
from edged.inference.modellabels import parse_labels
from edged.inference.servable import Servable
from edged.models.manifest import LABELS, MANIFEST, MODEL, MODEL_EDGETPU, Manifest, parse_manifest
from edged.prediction import ModelId


def read_manifest(directory: Path) -> Manifest:
    """Return the manifest of an unpacked package.

    Raises:
        VerifyError: as `parse_manifest`.
        StoreError: `package_unreadable`.
    """
    return parse_manifest(read_file(directory, MANIFEST))


def read_file(directory: Path, name: str) -> bytes:
    """Return a file of an unpacked package.

    Raises:
        StoreError: `package_unreadable`.
    """
    try:
        return (directory / name).read_bytes()
    except OSError as error:
        raise StoreError("package_unreadable", f"cannot read {name}: {error}.") from error


def package_config(config: ModelConfig, directory: Path, manifest: Manifest) -> ModelConfig:
    """Return the configuration with which an unpacked package is loaded.

    What the owner configured comes first, then the manifest; what both leave open is settled by
    the model file or the habits of its kind.
    """
    said = manifest.input
    labels = str(directory / LABELS) if LABELS in manifest.files else None
    return replace(
        config,
        factory=str(directory / (MODEL if MODEL in manifest.files else MODEL_EDGETPU)),
        labels=config.labels or labels,
        color=config.color or said.color,
        resize=config.resize or said.resize,
        mean=config.mean or said.mean,
        std=config.std or said.std,
    )


def load_package(
    config: ModelConfig,
    directory: Path,
    manifest: Manifest,
    sha256: str,
    *,
    edgetpu_library: str = "libedgetpu.so.1",
    cameras: tuple[str, ...] = (),
) -> Servable:
    """Load and warm the model of an unpacked package, and hold it against the manifest.

    Args:
        config: the owner's; its `factory` is not looked at.
        directory: with the package's files.
        manifest: from that directory.
        sha256: of the package, in hex.
        edgetpu_library: what to load as the delegate.
        cameras: names of those that will run it.

    Raises:
        ValidationError: as `load_servable`, and `input_mismatch`, `task_mismatch`.
        AcceleratorError, StoreError: as `load_servable`.
    """
    servable = load_servable(
        package_config(config, directory, manifest),
        edgetpu_library=edgetpu_library,
        cameras=cameras,
    )
    try:
        check_servable(servable, manifest)
        if config.labels is None and LABELS in manifest.files:
            check_labels(read_file(directory, LABELS), manifest)
    except (ValidationError, StoreError):
        servable.close()
        raise
    servable.id = ModelId(config.name, manifest.version, sha256)
    return servable


def check_servable(servable: Servable, manifest: Manifest) -> None:
    """Refuse a model that is not what its manifest says.

    Raises:
        ValidationError: `input_mismatch`, `task_mismatch`.
    """
    check_input(servable.input.tensor.shape, servable.input.tensor.dtype, manifest)
    if servable.kind != manifest.task:
        raise ValidationError(
            "task_mismatch",
            f"the manifest says {manifest.task}, and the model is one of {servable.kind}",
        )


def check_input(shape: tuple[int, ...], dtype: str | None, manifest: Manifest) -> None:
    """Refuse an input that is not as the manifest says.

    Args:
        shape: of the image's tensor in the model.
        dtype: the same; None where it is not known.
        manifest: what should be.

    Raises:
        ValidationError: `input_mismatch`.
    """
    said = manifest.input
    if shape != said.shape or dtype not in (None, said.dtype):
        raise ValidationError(
            "input_mismatch",
            f"the manifest says that the input is {said.dtype} {list(said.shape)}, and the model"
            f" has {dtype or 'one of'} {list(shape)}",
        )


def check_labels(content: bytes, manifest: Manifest) -> None:
    """Refuse a label file that has not as many lines as the manifest says.

    Raises:
        ValidationError: `labels_mismatch`, `labels_unreadable`.
    """
    count = len(parse_labels(content))
    if count != manifest.labels:
        raise ValidationError(
            "labels_mismatch",
            f"the manifest says {manifest.labels} labels, and {LABELS} has {count}",
        )
