"""How far apart the answers of two machines are, as `sim.answers` wrote them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Apart:
    """One model in one runtime, over all images.

    Attributes:
        images: how many.
        pixels: most levels between the two input tensors.
        given: most steps between the outputs of one and the same input tensor.
        own: the same where each machine prepared the image itself.
        turned: names of images of which the best label is another one, each prepared at home.
        narrow: most steps that the best label was ahead of the second in any of these, 0 if none.
    """

    images: int
    pixels: int
    given: int
    own: int
    turned: tuple[str, ...]
    narrow: int


def compare(here: Arrays, there: Arrays, runtime: str, model: str) -> Apart:
    """Compare all images.

    Args:
        here: without `given/`; there: with it, computed of the tensors from here.
        runtime: which; model: which.

    Raises:
        AssertionError: the two did not see the same images, or answered in other shapes.
    """
    names = _images(here, f"own/{runtime}/{model}/")
    assert names, f"no answers of {model} in {runtime}"
    assert names == _images(there, f"own/{runtime}/{model}/")
    inputs = [f"input/{model}/{name}" for name in names]
    owns = [f"own/{runtime}/{model}/{name}" for name in names]
    givens = [f"given/{runtime}/{model}/{name}" for name in names]
    turned = [
        (name, _lead(here[own]))
        for name, own in zip(names, owns, strict=True)
        if here[own].argmax() != there[own].argmax()
    ]
    return Apart(
        images=len(names),
        pixels=_most((here[key], there[key]) for key in inputs),
        given=_most((here[own], there[key]) for own, key in zip(owns, givens, strict=True)),
        own=_most((here[key], there[key]) for key in owns),
        turned=tuple(name for name, _ in turned),
        narrow=max((lead for _, lead in turned), default=0),
    )


def _images(arrays: Arrays, prefix: str) -> list[str]:
    return sorted(key.removeprefix(prefix) for key in arrays if key.startswith(prefix))


def _most(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> int:
    most = 0
    for one, other in pairs:
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        assert one.dtype.kind in "iu", "steps are counted in integers"
        most = max(most, int(np.abs(one.astype(np.int64) - other).max()))
    return most


def _lead(output: np.ndarray) -> int:
    second, first = np.sort(output.astype(np.int64).ravel())[-2:]
    return int(first - second)
