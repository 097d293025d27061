"""The golden set: inputs with the outputs that the model gave at the publisher's desk. Pure.

`golden.npz` is a zip of `.npy` files as numpy writes them, read without numpy's own reader: of
its header only what golden sets have is understood, and nothing in it is ever executed.
"""

from __future__ import annotations

import io
import math
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edged.errors import VerifyError
from edged.inference.tensors import Array
from edged.models.archive import Entry, read_directory, read_entry, write_archive
from edged.prediction import FoundObject, Objects

GOLDEN_LIMIT_BYTES = 128 * 1024 * 1024
FLOAT_TOLERANCE = 1e-2
"""Of the largest value in the expected output."""

_MOST_TENSORS = 64
_MAGIC = b"\x93NUMPY\x01\x00"
_NAME = re.compile(r"(input|output)_(0|[1-9][0-9]?)\.npy")
_HEADER = re.compile(
    r"\{'descr': '(\|u1|\|i1|\|b1|<i2|<i4|<i8|<f2|<f4)', 'fortran_order': False,"
    r" 'shape': \(((?:[0-9]{1,9}, ?)*[0-9]{0,9})\), \} *\n"
)


@dataclass(frozen=True, slots=True)
class Golden:
    """Samples, first axis of every array.

    Attributes:
        inputs: raw tensors of the model's inputs, in its order; (samples, ...) each.
        outputs: the same of its outputs.
    """

    inputs: tuple[Array, ...]
    outputs: tuple[Array, ...]

    @property
    def samples(self) -> int:
        """How many there are."""
        return len(self.inputs[0])


def read_golden(data: bytes, samples: int) -> Golden:
    """Read golden.npz.

    Args:
        data: the file, from anybody.
        samples: how many the manifest declares.

    Raises:
        VerifyError: `golden_invalid`.
    """
    file = io.BytesIO(data)
    try:
        entries = read_directory(
            file, most_entries=2 * _MOST_TENSORS, most_bytes=GOLDEN_LIMIT_BYTES
        )
        arrays = {entry.name: _array(file, entry, samples) for entry in entries}
    except VerifyError as error:
        raise _invalid(str(error)) from error
    sides = {"input": 0, "output": 0}
    for name in arrays:
        sides[name.partition("_")[0]] += 1
    wanted = {f"{side}_{n}.npy" for side, count in sides.items() for n in range(count)}
    if wanted != set(arrays) or 0 in sides.values():
        raise _invalid(f"it has not input_0.npy, ..., output_0.npy, ... but {', '.join(arrays)}")
    inputs, outputs = (
        tuple(arrays[f"{side}_{n}.npy"] for n in range(count)) for side, count in sides.items()
    )
    if not all(_finite(array) for array in (*inputs, *outputs)):
        raise _invalid("it holds NaN or infinite values")
    return Golden(inputs, outputs)


def write_golden(golden: Golden) -> bytes:
    """Return golden.npz; the same arrays give the same bytes."""
    file = io.BytesIO()
    sides = (("input", golden.inputs), ("output", golden.outputs))
    write_archive(
        file,
        [
            (f"{side}_{n}.npy", _npy(array))
            for side, arrays in sides
            for n, array in enumerate(arrays)
        ],
    )
    return file.getvalue()


def _array(file: io.BytesIO, entry: Entry, samples: int) -> Array:
    if _NAME.fullmatch(entry.name) is None:
        raise _invalid(f"{entry.name[:40]!r} is neither an input nor an output")
    data = b"".join(read_entry(file, entry))
    if not data.startswith(_MAGIC) or len(data) < 10:
        raise _invalid(f"{entry.name} is no .npy file of version 1")
    (length,) = struct.unpack_from("<H", data, 8)
    header = _HEADER.fullmatch(data[10 : 10 + length].decode("latin-1"))
    if header is None:
        raise _invalid(f"the header of {entry.name} is not one of a golden set")
    dtype = np.dtype(header[1])
    shape = tuple(int(size) for size in header[2].split(",") if size.strip())
    if not shape or shape[0] != samples:
        raise _invalid(f"{entry.name} is of shape {list(shape)}, not of {samples} samples")
    # Python's own integers: the product of a lying header does not wrap round.
    if math.prod(shape) * dtype.itemsize != len(data) - 10 - length:
        raise _invalid(f"{entry.name} holds more or less than its header says")
    if header[1] == "|b1" and max(data[10 + length :], default=0) > 1:
        raise _invalid(f"{entry.name} holds truth values that are neither")
    return np.frombuffer(data, dtype, offset=10 + length).reshape(shape)


def _npy(array: Array) -> bytes:
    shape = ", ".join(str(size) for size in array.shape) + ("," if array.ndim == 1 else "")
    descr = array.dtype.newbyteorder("<").str
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': ({shape}), }}"
    header += " " * (-(len(header) + 11) % 64) + "\n"
    content = np.ascontiguousarray(array, descr).tobytes()
    return _MAGIC + struct.pack("<H", len(header)) + header.encode() + content


def _finite(array: Array) -> bool:
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())


def _invalid(why: str) -> VerifyError:
    return VerifyError(
        "golden_invalid",
        f"golden.npz: {why}",
        advice="Make the package again with edgectl model pack.",
    )


@dataclass(frozen=True, slots=True)
class Agreement:
    """How well outputs agree with the expected ones.

    Attributes:
        samples: compared.
        agreeing: within the tolerance.
        worst: largest difference, in words: `9 steps`, `3.2 %`; "" where all are equal.
        worst_sample: where it was, from 0.
    """

    samples: int
    agreeing: int
    worst: str
    worst_sample: int

    @property
    def passed(self) -> bool:
        """Whether all agree."""
        return self.agreeing == self.samples

    def describe(self) -> str:
        """Return e.g. `15/16 agree, worst 9 steps, sample 4`."""
        text = f"{self.agreeing}/{self.samples} agree"
        return f"{text}, worst {self.worst}, sample {self.worst_sample}" if self.worst else text


@dataclass(frozen=True, slots=True)
class _Difference:
    """`share` is of the tolerance: above 1 is too far."""

    share: float
    words: str


_SAME = _Difference(0.0, "")


class Comparison:
    """Compares sample by sample, so that only one need be in memory.

    Args:
        steps: tolerance of quantised outputs.
    """

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._samples = self._agreeing = self._worst_sample = 0
        self._worst = _SAME

    def add(self, expected: Sequence[Array], actual: Sequence[Array]) -> None:
        """Compare the outputs of the next sample, number for number.

        Integers are counted in steps of their quantisation, real numbers against the largest
        value that is expected in the same output.
        """
        self._add([self._difference(e, a) for e, a in zip(expected, actual, strict=True)])

    def add_objects(self, expected: Objects, actual: Objects) -> None:
        """Compare what a detector found in the next sample.

        For graphs that end in a selection of boxes: a step's difference before it may change
        their order and number, so boxes are matched instead of numbers.
        """
        self._add([_missed(expected, actual), _missed(actual, expected)])

    def add_failure(self, words: str) -> None:
        """Count the next sample as one that does not agree."""
        self._add([_Difference(math.inf, words)])

    @property
    def agreement(self) -> Agreement:
        """What came out so far."""
        return Agreement(self._samples, self._agreeing, self._worst.words, self._worst_sample)

    def _add(self, differences: Sequence[_Difference]) -> None:
        worst = max(differences, key=lambda difference: difference.share)
        if worst.share > self._worst.share:
            self._worst, self._worst_sample = worst, self._samples
        self._samples += 1
        self._agreeing += worst.share <= 1.0

    def _difference(self, expected: Array, actual: Array) -> _Difference:
        if expected.shape != actual.shape or expected.dtype != actual.dtype:
            return _Difference(math.inf, f"{actual.dtype} {list(actual.shape)}")
        if expected.dtype.kind != "f":
            if (steps := int(np.abs(expected.astype(np.int64) - actual).max(initial=0))) == 0:
                return _SAME
            share = steps / self._steps if self._steps else math.inf
            return _Difference(share, f"{steps} steps")
        if not _finite(actual):
            return _Difference(math.inf, "not finite")
        far = float(np.abs(expected.astype(np.float64) - actual).max(initial=0.0))
        largest = float(np.abs(expected).max(initial=0.0))
        if far == 0.0:
            return _SAME
        part = far / largest if largest else math.inf
        return _Difference(part / FLOAT_TOLERANCE, f"{100 * part:.2g} %")


# Objects of at least this score must be found again, with a score and corners this near.
_CLEAR_SCORE, _SCORE_TOLERANCE, _CORNER_TOLERANCE = 0.3, 0.1, 0.05


def _missed(wanted: Objects, there: Objects) -> _Difference:
    """Return how far the best match of each clear object is, and the worst of these."""
    worst = _SAME
    for found in wanted.objects:
        if found.score < _CLEAR_SCORE:
            continue
        shares = [_far(found, other) for other in there.objects if other.label == found.label]
        share = min(shares, default=math.inf)
        if share > worst.share:
            words = f"{found.label} {found.score:.2f} " + ("moved" if share <= 1 else "not found")
            worst = _Difference(share, words)
    return worst


def _far(one: FoundObject, other: FoundObject) -> float:
    corners = max(abs(a - b) for a, b in zip(one.box, other.box, strict=True))
    score = abs(one.score - other.score)
    return max(corners / _CORNER_TOLERANCE, score / _SCORE_TOLERANCE)


class Constancy:
    """Tells a model whose outputs do not depend on its input. Keeps one sample in memory."""

    def __init__(self) -> None:
        self._first: list[Array] | None = None
        self._differ = False

    def add(self, outputs: Sequence[Array]) -> None:
        """Take the outputs for another input."""
        if self._first is None:
            self._first = [output.copy() for output in outputs]
        elif not self._differ:
            self._differ = not all(map(_alike, self._first, outputs))

    @property
    def constant(self) -> bool:
        """Whether all outputs were the same so far."""
        return not self._differ


def _alike(one: Array, other: Array) -> bool:
    if one.dtype.kind != "f" or one.shape != other.shape:
        return np.array_equal(one, other)
    # Real numbers may wobble in their last digits; what is not finite is alike in the same places.
    numbers = np.isfinite(one)
    if not np.array_equal(numbers, np.isfinite(other)):
        return False
    first, second = one[numbers].astype(np.float64), other[numbers].astype(np.float64)
    largest = np.abs(first).max(initial=0.0)
    return bool(np.abs(first - second).max(initial=0.0) <= 1e-6 * largest)
