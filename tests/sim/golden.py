"""Golden sets and unpacked packages of real models."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edged.config import ModelConfig
from edged.inference.loading import load_servable
from edged.inference.servable import Servable
from edged.models.golden import Golden, write_golden
from sim import packages

COLOURS = ("red", "green", "blue", "dark")


def colour_inputs(size: tuple[int, int] = (32, 32), dtype: str = "float32") -> np.ndarray:
    """Return an input tensor for each of `COLOURS`, first axis sample."""
    pixels = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [0, 0, 0]], np.uint8)
    images = np.broadcast_to(pixels[:, None, None, None, :], (4, 1, *size, 3))
    return images / np.float32(127.5) - 1 if dtype == "float32" else images.copy()


def golden_of(servable: Servable, inputs: np.ndarray) -> Golden:
    """Return what a model answers to these inputs as its golden set."""
    answers = [servable.run([sample]) for sample in inputs]
    return Golden((inputs,), tuple(np.stack(arrays) for arrays in zip(*answers, strict=True)))


def unpacked(
    directory: Path,
    model: bytes,
    golden: Golden,
    /,
    *,
    lines: Sequence[str] | None = COLOURS,
    model_name: str = "model.tflite",
    **changes: Any,
) -> Path:
    """Write the files of a package of this model; the manifest describes a colour classifier."""
    directory.mkdir(exist_ok=True)
    files = {model_name: model, "golden.npz": write_golden(golden)}
    if lines is not None:
        files["labels.txt"] = "".join(f"{line}\n" for line in lines).encode()
    shape = list(golden.inputs[0].shape[1:])
    dtype = golden.inputs[0].dtype.name
    facts = packages.facts(files) | {
        "input": {"shape": shape, "dtype": dtype},
        "labels": None if lines is None else len(lines),
        "golden": {"samples": golden.samples, "made_with": "litert 2.3.0"},
    }
    for name, content in (files | {"manifest.json": packages.encoded(facts | changes)}).items():
        (directory / name).write_bytes(content)
    return directory


def load(path: Path, **settings: Any) -> Servable:
    return load_servable(ModelConfig(name="m", factory=str(path), **settings))


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
