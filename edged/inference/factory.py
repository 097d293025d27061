"""The file that a model starts with: where it is, and its sibling for the other processor."""

from __future__ import annotations

import importlib.resources
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edged.errors import StoreError, ValidationError
from edged.hidden import let_it_be_read
from edged.inference.modelfile import ModelFile, read_model_file
from edged.inference.modellabels import LABELS_LIMIT_BYTES

MODEL_LIMIT_BYTES = 512 * 1024 * 1024
_BUNDLED = "belt"


@dataclass(frozen=True, slots=True)
class FactoryFile:
    """A model file as it was read, once: it has some megabytes.

    Attributes:
        path: where it is.
        data: all of it.
        file: what it says of itself.
    """

    path: Path
    data: bytes
    file: ModelFile


def factory_path(factory: str) -> Path:
    """Return the file that a `factory` names; the bare word `belt` is the bundled model.

    Raises:
        ValidationError: `model_missing`, where `~user` names nobody.
    """
    if factory == _BUNDLED:
        return Path(str(importlib.resources.files("edged") / "data" / "belt.tflite"))
    try:
        return Path(factory).expanduser()
    except RuntimeError as error:
        raise ValidationError("model_missing", "there is no such home directory") from error


def read_model(path: Path) -> bytes:
    """Read a model file.

    Raises:
        ValidationError: `model_missing`, `model_is_directory`, `model_too_large`.
        StoreError: `model_unreadable`.
    """
    try:
        kind = path.stat().st_mode
        if stat.S_ISDIR(kind):
            raise ValidationError("model_is_directory", "this is a directory, not a model file")
        if not stat.S_ISREG(kind):
            raise StoreError("model_unreadable", "this is no regular file")
        data = _read(path, MODEL_LIMIT_BYTES)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValidationError("model_missing", "there is no model file of this name") from error
    except PermissionError as error:
        raise StoreError(
            "model_unreadable",
            f"cannot read the model file: {error}.",
            advice=let_it_be_read(str(path.absolute())),
        ) from error
    except (OSError, ValueError) as error:
        raise StoreError("model_unreadable", f"cannot read the model file: {error}") from error
    if data is None:
        raise ValidationError("model_too_large", "the model file has more than 512 MiB")
    return data


def read_labels(name: str) -> bytes:
    """Read a label file named in the configuration.

    Raises:
        StoreError: `labels_unreadable`.
    """
    try:
        path = Path(name).expanduser()
        data = _read(path, LABELS_LIMIT_BYTES) if path.is_file() else None
    except (OSError, ValueError, RuntimeError) as error:
        raise StoreError("labels_unreadable", f"cannot read the labels {name}: {error}") from error
    if data is None:
        raise StoreError(
            "labels_unreadable", f"the labels {name} are missing, no file, or more than 4 MiB"
        )
    return data


def _read(path: Path, limit_bytes: int) -> bytes | None:
    with path.open("rb") as file:
        # Memory is taken for as much as is asked for, and a small board has not the limit's.
        data = file.read(min(limit_bytes, os.fstat(file.fileno()).st_size) + 1)
    return data if len(data) <= limit_bytes else None


def read_factory(path: Path) -> FactoryFile:
    """Read the file that a factory names.

    Raises:
        ValidationError, StoreError: as `read_model` and `read_model_file`.
    """
    data = read_model(path)
    return FactoryFile(path, data, read_model_file(data))


def variants(path: Path) -> Iterator[FactoryFile]:
    """Read the file, then its sibling for the other processor where there is one.

    `birds.tflite` and `birds_edgetpu.tflite` are siblings.

    Raises:
        ValidationError, StoreError: as `read_factory`, about the file itself.
    """
    first = read_factory(path)
    yield first
    compiled = first.file.needs_edgetpu
    sibling = path.with_name(
        f"{path.stem.removesuffix('_edgetpu')}.tflite"
        if compiled
        else f"{path.stem}_edgetpu.tflite"
    )
    if sibling == path:
        return
    try:
        other = read_factory(sibling)
    except (ValidationError, StoreError):
        return
    if other.file.needs_edgetpu != compiled:
        yield other


def variant(path: Path, *, edgetpu: bool) -> FactoryFile:
    """Return the file, or its sibling, that is made for an Edge TPU or for the CPU.

    Raises:
        ValidationError: `model_not_compiled` or `model_needs_edgetpu` when there is none; what
            `read_factory` raises.
        StoreError: `model_unreadable`.
    """
    for one in variants(path):
        if one.file.needs_edgetpu == edgetpu:
            return one
    if edgetpu:
        raise ValidationError(
            "model_not_compiled",
            "the model was not compiled for an Edge TPU: all of it would run on the CPU."
            f" Compile it with edgetpu_compiler and put {path.stem}_edgetpu.tflite beside it",
        )
    raise ValidationError(
        "model_needs_edgetpu",
        "the model was compiled for an Edge TPU and cannot run on the CPU."
        f" Put {path.stem.removesuffix('_edgetpu')}.tflite, the file it was compiled from, beside"
        " it",
    )
