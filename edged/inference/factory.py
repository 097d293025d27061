"""The file that a model starts with: where it is, and its sibling for the other processor."""

from __future__ import annotations

import importlib.resources
import stat
from pathlib import Path

from edged.errors import StoreError, ValidationError
from edged.inference.modelfile import read_model_file
from edged.inference.modellabels import LABELS_LIMIT_BYTES

MODEL_LIMIT_BYTES = 512 * 1024 * 1024
_BUNDLED = "belt"


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
        data = file.read(limit_bytes + 1)
    return data if len(data) <= limit_bytes else None


def variant(path: Path, *, edgetpu: bool) -> Path:
    """Return the file, or its sibling, that is made for an Edge TPU or for the CPU.

    `birds.tflite` and `birds_edgetpu.tflite` are siblings.

    Raises:
        ValidationError: `model_not_compiled` or `model_needs_edgetpu` when there is none; what
            `read_model` and `read_model_file` raise.
        StoreError: `model_unreadable`.
    """
    if read_model_file(read_model(path)).needs_edgetpu == edgetpu:
        return path
    stem = path.stem
    sibling = path.with_name(
        f"{stem}_edgetpu.tflite" if edgetpu else f"{stem.removesuffix('_edgetpu')}.tflite"
    )
    if sibling != path and _fits(sibling, edgetpu=edgetpu):
        return sibling
    if edgetpu:
        raise ValidationError(
            "model_not_compiled",
            "the model was not compiled for an Edge TPU: all of it would run on the CPU."
            f" Compile it with edgetpu_compiler and put {sibling.name} beside it",
        )
    raise ValidationError(
        "model_needs_edgetpu",
        "the model was compiled for an Edge TPU and cannot run on the CPU."
        f" Put {sibling.name}, the file it was compiled from, beside it",
    )


def _fits(sibling: Path, *, edgetpu: bool) -> bool:
    try:
        return read_model_file(read_model(sibling)).needs_edgetpu == edgetpu
    except (ValidationError, StoreError):
        return False
