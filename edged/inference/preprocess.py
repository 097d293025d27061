"""From a camera's image to the tensor that the model was trained to see. Pure."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from edged.errors import ValidationError
from edged.frame import Color, Image
from edged.inference.resize import resize
from edged.inference.signature import CHANNELS
from edged.inference.tensors import Array, TensorSpec, quantise_table

Resize = Literal["stretch", "center_crop", "letterbox"]
Rotation = Literal[0, 90, 180, 270]
Box = tuple[float, float, float, float]
Point = tuple[float, float]

_ROTATE = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}


@dataclass(frozen=True, slots=True)
class InputSpec:
    """How an image becomes a model's input.

    Attributes:
        tensor: the input, shape (1, height, width, channels) with 1 or 3 channels, or
            (1, channels, height, width) as litert-torch makes it of PyTorch models.
        color: channel order the model was trained with.
        resize: `stretch` ignores the aspect ratio, `center_crop` cuts the longer side,
            `letterbox` fits the whole image between bars.
        mean: per channel or one for all; a pixel enters as (pixel - mean) / std.
        std: the same. Both None: raw pixels.
        pad: value of the pixels in those bars, 0 (black) to 255.
    """

    tensor: TensorSpec
    color: Color = "rgb"
    resize: Resize = "stretch"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    pad: int = 0

    def __post_init__(self) -> None:
        """Refuse a normalisation that does not fit the channels."""
        for values in (self.mean, self.std):
            if values is not None and len(values) not in (1, self.channels):
                raise ValidationError(
                    "normalisation_mismatch",
                    f"{len(values)} values of mean or std for an input of {self.channels} channels",
                )

    @property
    def channels_first(self) -> bool:
        """Whether the tensor has its channels before its rows."""
        return self.tensor.shape[3] not in CHANNELS

    def same_pixels(self, other: InputSpec) -> bool:
        """Say whether a tensor written for this input is right for another model's as well."""
        mine, its = self.tensor, other.tensor
        return (mine.shape, mine.dtype, mine.scale, mine.zero_point) == (
            its.shape,
            its.dtype,
            its.scale,
            its.zero_point,
        ) and replace(self, tensor=its) == other

    @property
    def height(self) -> int:
        """Rows."""
        return self.tensor.shape[2 if self.channels_first else 1]

    @property
    def width(self) -> int:
        """Columns."""
        return self.tensor.shape[3 if self.channels_first else 2]

    @property
    def channels(self) -> int:
        """1 (grey) or 3."""
        return self.tensor.shape[1 if self.channels_first else 3]


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where the pixels of an image go. All in pixels of the upright (rotated) image or the input.

    Attributes:
        source: x0, y0, x1, y1: the part of the image that is used.
        target: x0, y0, x1, y1: the part of the input that it fills; the rest is `InputSpec.pad`.
        source_size: width, height of the image.
        input_size: width, height of the input.
    """

    source: tuple[int, int, int, int]
    target: tuple[int, int, int, int]
    source_size: tuple[int, int]
    input_size: tuple[int, int]

    def box_to_source(self, box: Box) -> Box:
        """Map a box from the model's input to the camera's image.

        Args:
            box: x0, y0, x1, y1 in 0..1 of the input.

        Returns:
            x0, y0, x1, y1 in 0..1 of the upright camera image, clipped to it.
        """
        x0, y0 = self.point_to_source((box[0], box[1]))
        x1, y1 = self.point_to_source((box[2], box[3]))
        return x0, y0, x1, y1

    def point_to_source(self, point: Point) -> Point:
        """Map a point from the model's input to the camera's image.

        Args:
            point: x, y in 0..1 of the input.

        Returns:
            x, y in 0..1 of the upright camera image, clipped to it.
        """
        return self._axis(0, point[0]), self._axis(1, point[1])

    def filled(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Return the part that the image fills of a map of the whole input.

        Args:
            width: of the map, cells.
            height: the same.

        Returns:
            x0, y0, x1, y1 in cells: at least one, to the nearest where an edge cuts a cell.
        """
        x0, x1 = self._cells(0, width)
        y0, y1 = self._cells(1, height)
        return x0, y0, x1, y1

    def _cells(self, axis: int, count: int) -> tuple[int, int]:
        scale = count / self.input_size[axis]
        begin, end = self.target[axis] * scale, self.target[axis + 2] * scale
        if round(begin) < round(end):
            return round(begin), round(end)
        middle = int((begin + end) / 2)
        return middle, middle + 1

    def _axis(self, axis: int, value: float) -> float:
        target0, target1 = self.target[axis], self.target[axis + 2]
        source0, source1 = self.source[axis], self.source[axis + 2]
        part = (value * self.input_size[axis] - target0) / (target1 - target0)
        pixel = source0 + part * (source1 - source0)
        return min(1.0, max(0.0, pixel / self.source_size[axis]))


def geometry(height: int, width: int, spec: InputSpec) -> Geometry:
    """Place an image in a model's input.

    Args:
        height: of the upright image, pixels, at least 1.
        width: the same.
        spec: the input.
    """
    whole, full = (0, 0, width, height), (0, 0, spec.width, spec.height)
    source, target = whole, full
    if spec.resize == "center_crop":
        # The largest part of the image that has the input's aspect ratio.
        scale = min(width / spec.width, height / spec.height)
        w, h = max(1, round(spec.width * scale)), max(1, round(spec.height * scale))
        x, y = (width - w) // 2, (height - h) // 2
        source = (x, y, x + w, y + h)
    elif spec.resize == "letterbox":
        scale = min(spec.width / width, spec.height / height)
        w, h = max(1, round(width * scale)), max(1, round(height * scale))
        x, y = (spec.width - w) // 2, (spec.height - h) // 2
        target = (x, y, x + w, y + h)
    return Geometry(source, target, (width, height), (spec.width, spec.height))


def pixel_table(spec: InputSpec) -> Array | None:
    """Return the value of the tensor for each of the 256 pixel values, or None where equal.

    Returns:
        Shape (256, 1, channels of mean and std), of the tensor's dtype; None when raw pixels go in.
        A quantised table that differs from the raw pixels by a step at most counts as equal:
        quantised models were trained on raw pixels, the difference is the rounding of the scale.
    """
    raw = np.arange(256, dtype=np.float64)
    mean, std = spec.mean, spec.std
    tensor = spec.tensor
    if tensor.is_float:
        mean, std = mean or (0.0,), std or (1.0,)
    elif mean is None or std is None or tensor.scale == 0.0:
        # Without a normalisation a signed tensor holds the pixel less 128.
        return None if tensor.dtype == "uint8" else (raw - 128).astype(np.int8)[:, None, None]
    table = np.stack(
        [
            quantise_table(tensor, (raw - mean[i % len(mean)]) / std[i % len(std)])
            for i in range(max(len(mean), len(std)))
        ],
        axis=1,
    )
    if not tensor.is_float:
        offset = 0 if tensor.dtype == "uint8" else 128
        if np.abs(table.astype(np.int64) + offset - raw[:, None].astype(np.int64)).max() <= 1:
            return None if tensor.dtype == "uint8" else (raw - 128).astype(np.int8)[:, None, None]
    return table[:, None, :]


def _place(spec: InputSpec, rotate: Rotation, height: int, width: int) -> Geometry:
    if rotate in (90, 270):
        height, width = width, height
    return geometry(height, width, spec)


class Preprocessor:
    """Turns images of one camera into input tensors of one model.

    Holds no tensor: the caller gives the slot. One thread at a time.
    """

    def __init__(self, spec: InputSpec, rotate: Rotation = 0) -> None:
        self.spec = spec
        self._rotate = rotate
        self._table = pixel_table(spec)
        # Nothing that refers to this object: its memory would stay until cycles are looked for.
        self._geometry = functools.lru_cache(maxsize=4)(functools.partial(_place, spec, rotate))

    def geometry(self, height: int, width: int) -> Geometry:
        """Return the placement of a camera image of this size (before its rotation)."""
        return self._geometry(height, width)

    def slots(self) -> Iterator[npt.NDArray[Any]]:
        """Make empty tensors for `write`: the input's shape and dtype, as many as are asked for."""
        while True:
            yield np.zeros(self.spec.tensor.shape, self.spec.tensor.dtype)

    def view(self, image: Image, color: Color) -> Image:
        """Return the image as the model sees it, before normalisation.

        Args:
            image: uint8 (h, w, 3).
            color: its channel order.

        Returns:
            uint8 (input height, input width, channels) in the model's channel order.
        """
        place = self.geometry(*image.shape[:2])
        x0, y0, x1, y1 = place.target
        fitted = self._fit(image, place, x1 - x0, y1 - y0)
        if self.spec.channels == 1:
            code = cv2.COLOR_RGB2GRAY if color == "rgb" else cv2.COLOR_BGR2GRAY
            fitted = cv2.cvtColor(fitted, code)[:, :, None]  # type: ignore[assignment]
        elif color != self.spec.color:
            fitted = cv2.cvtColor(fitted, cv2.COLOR_BGR2RGB)  # type: ignore[assignment]
        if fitted.shape[:2] == (self.spec.height, self.spec.width):
            return fitted
        shape = (self.spec.height, self.spec.width, self.spec.channels)
        canvas = np.full(shape, self.spec.pad, np.uint8)
        canvas[y0:y1, x0:x1] = fitted
        return canvas

    def _fit(self, image: Image, place: Geometry, width: int, height: int) -> Image:
        # The cut is named in the upright image; turning the small result is cheaper than the frame.
        x0, y0, x1, y1 = _unrotate(place.source, place.source_size, self._rotate)
        part = image[y0:y1, x0:x1]
        if self._rotate in (90, 270):
            width, height = height, width
        fitted = resize(part, width, height)
        return cv2.rotate(fitted, _ROTATE[self._rotate]) if self._rotate else fitted  # type: ignore[return-value]

    def write(self, image: Image, color: Color, slot: npt.NDArray[Any]) -> Image:
        """Write the input tensor for an image.

        Args:
            image: uint8 (h, w, 3).
            color: its channel order.
            slot: the tensor to fill, from `slots()`.

        Returns:
            What `view` does; valid as long as the image.
        """
        seen = self.view(image, color)
        pixels = slot[0].transpose(1, 2, 0) if self.spec.channels_first else slot[0]
        if self._table is None:
            pixels[:] = seen
        elif seen.shape[2] == 1:
            pixels[:] = self._table[:, 0, 0][seen]
        elif self.spec.channels_first:
            # A plane at a time: a table over all three and then their parting takes 2.6 times that.
            tables = np.broadcast_to(self._table, (256, 1, 3))
            for channel, plane in enumerate(cv2.split(seen)):
                cv2.LUT(plane, np.ascontiguousarray(tables[:, :, channel]), slot[0, channel])
        else:
            cv2.LUT(seen, self._table, pixels)
        return seen


def _unrotate(
    box: tuple[int, int, int, int], size: tuple[int, int], rotate: int
) -> tuple[int, int, int, int]:
    """Map a box of the upright image back to the image as the camera gave it."""
    x0, y0, x1, y1 = box
    width, height = size
    if rotate == 90:
        return y0, width - x1, y1, width - x0
    if rotate == 180:
        return width - x1, height - y1, width - x0, height - y0
    if rotate == 270:
        return height - y1, x0, height - y0, x1
    return box
