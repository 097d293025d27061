"""Shows a candidate its golden set, a blank image and noise, and judges what it says.

One input at a time, so that whoever runs it can put a limit on each, or do other work in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Literal, NamedTuple

import numpy as np

from edged.errors import ValidationError, VerifyError
from edged.inference.preprocess import Preprocessor
from edged.inference.servable import Servable
from edged.inference.tensors import Array
from edged.models.golden import Comparison, Constancy, Golden
from edged.models.manifest import Manifest
from edged.prediction import Classes, Objects


class Question(NamedTuple):
    """One input: a golden `sample`, or as a `control` the blank image (0) and noise (1)."""

    kind: Literal["sample", "control"]
    number: int


class Examination:
    """The questions to one servable, and its answers so far. One thread, the servable's.

    Args:
        servable: not in use by anybody else.
        golden: the samples.
        manifest: with labels and tolerance.
        named: whether the model's labels are those of the package.

    Raises:
        VerifyError: `golden_invalid`, the samples do not fit the model.
    """

    def __init__(
        self, servable: Servable, golden: Golden, manifest: Manifest, *, named: bool
    ) -> None:
        self._servable, self._golden, self._manifest = servable, golden, manifest
        self._images = control_images(servable)
        _check_inputs(golden, servable.raw_inputs(self._images[0]))
        self._top1 = manifest.golden.top1 if named else None
        self._steps = manifest.golden.tolerance.of(servable.runtime.name, servable.accelerator)
        self._comparison, self._constancy = Comparison(self._steps), Constancy()
        self._left = chain(
            (Question("sample", n) for n in range(golden.samples)),
            (Question("control", n) for n in range(len(self._images))),
        )
        self.next: Question | None = next(self._left)

    def ask(self) -> None:
        """Put the question `next` to the model, and go on to the one behind it.

        Raises:
            VerifyError: `golden_invalid`.
            ValidationError: `output_not_finite`, `invoke_failed`.
            AcceleratorError: the Edge TPU failed.
        """
        question = self.next
        if question is None:
            raise AssertionError("all was asked")
        if question.kind == "sample":
            self._sample(question.number)
        else:
            image = self._images[question.number]
            outputs = self._servable.run(self._servable.raw_inputs(image))
            self._servable.read(outputs)
            self._constancy.add(outputs)
        self.next = next(self._left, None)

    def conclude(self) -> str:
        """Return how well the answers agree with the golden ones, in words.

        Raises:
            ValidationError: `golden_mismatch`, `output_constant`.
        """
        agreement, runtime = self._comparison.agreement, self._servable.runtime
        if not agreement.passed:
            raise ValidationError(
                "golden_mismatch",
                f"with {runtime.name} {runtime.version} on {self._servable.accelerator}:"
                f" {agreement.describe()} (within {self._steps} steps; made with"
                f" {self._manifest.golden.made_with})",
            )
        if self._constancy.constant:
            raise ValidationError(
                "output_constant",
                f"{self._golden.samples} golden samples, a blank image and noise all give the same"
                " output",
            )
        return agreement.describe()

    def _sample(self, number: int) -> None:
        actual = self._servable.run([array[number] for array in self._golden.inputs])
        expected = [array[number] for array in self._golden.outputs]
        if len(actual) != len(expected):
            raise _unfit(f"has {len(expected)} outputs, and the model {len(actual)}")
        self._constancy.add(actual)
        label = self._top1[number] if self._top1 else None
        if label is not None:
            result = self._servable.read(actual) if _finite(actual) else None
            found = (
                result.classes[0].label if isinstance(result, Classes) and result.classes else "-"
            )
            if found != label:
                self._comparison.add_failure(f"'{found}' instead of '{label}'")
                return
        # A graph that ends in a selection of boxes may list them in another order.
        if self._manifest.output.head == "ssd" and _finite(actual):
            wanted, got = self._servable.read(expected), self._servable.read(actual)
            if isinstance(wanted, Objects) and isinstance(got, Objects):
                self._comparison.add_objects(wanted, got)
                return
        self._comparison.add(expected, actual)


def control_images(servable: Servable) -> list[Array]:
    """Return input tensors of a blank image and of noise, the same every time.

    A model that says the same of both and of pictures looks at nothing.
    """
    spec = servable.input
    noise = np.random.Generator(np.random.PCG64(1)).integers(
        0, 256, (spec.height, spec.width, 3), np.uint8
    )
    preprocessor = Preprocessor(spec)
    made = []
    for image in (np.zeros_like(noise), noise):
        tensor = next(preprocessor.slots())
        preprocessor.write(image, spec.color, tensor)
        made.append(tensor)
    return made


def _finite(arrays: Sequence[Array]) -> bool:
    return all(array.dtype.kind != "f" or np.isfinite(array).all() for array in arrays)


def _check_inputs(golden: Golden, inputs: Sequence[Array]) -> None:
    if len(golden.inputs) != len(inputs):
        raise _unfit(f"has {len(golden.inputs)} inputs, and the model {len(inputs)}")
    for n, (samples, own) in enumerate(zip(golden.inputs, inputs, strict=True)):
        if samples.shape[1:] != own.shape or samples.dtype != own.dtype:
            raise _unfit(
                f"has {samples.dtype} {list(samples.shape[1:])} for input {n}, and the model takes"
                f" {own.dtype} {list(own.shape)}"
            )


def _unfit(why: str) -> VerifyError:
    return VerifyError("golden_invalid", f"golden.npz {why}")
