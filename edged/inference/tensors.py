"""Tensors as a model declares them, and the arithmetic of their quantisation. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output tensor.

    Attributes:
        name: as written in the model file.
        index: the runtime's number for it.
        shape: e.g. (1, 224, 224, 3).
        dtype: numpy's name, e.g. `uint8`, `int8`, `float32`.
        scale: quantisation step; 0 where the tensor is not quantised.
        zero_point: the quantised value that stands for 0.
        open_sizes: whether the file leaves a size behind the first axis open; `shape` then has 1.
    """

    name: str
    index: int
    shape: tuple[int, ...]
    dtype: str
    scale: float = 0.0
    zero_point: int = 0
    open_sizes: bool = False

    @property
    def is_float(self) -> bool:
        """Whether the values are real numbers already."""
        return np.issubdtype(np.dtype(self.dtype), np.floating)

    def describe(self) -> str:
        """Return e.g. `'input' uint8 [1, 224, 224, 3]`, for messages."""
        return f"'{self.name}' {self.dtype} {list(self.shape)}"


def dequantise(spec: TensorSpec, values: Array) -> npt.NDArray[np.float32]:
    """Turn raw tensor values into real numbers.

    real = scale * (q - zero_point), the affine scheme of the TFLite quantisation specification;
    a tensor without a scale is taken as it is.

    Args:
        spec: the tensor's declaration.
        values: any shape, of the tensor's dtype.

    Returns:
        float32, same shape.
    """
    real = values.astype(np.float32)
    if spec.is_float or spec.scale == 0.0:
        return real
    real -= np.float32(spec.zero_point)
    real *= np.float32(spec.scale)
    return real


def quantise_table(spec: TensorSpec, pixels: npt.NDArray[np.float64]) -> Array:
    """Turn real numbers into raw values of a tensor, rounded and clipped to its dtype.

    Args:
        spec: the tensor's declaration.
        pixels: real values, any shape.

    Returns:
        Same shape, of the tensor's dtype.
    """
    dtype = np.dtype(spec.dtype)
    if spec.is_float:
        return pixels.astype(dtype)
    limits = np.iinfo(dtype)
    scale = spec.scale or 1.0
    steps = np.rint(pixels / scale + spec.zero_point)
    clipped: Array = np.clip(steps, limits.min, limits.max).astype(dtype)
    return clipped
