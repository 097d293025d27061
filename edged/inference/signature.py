"""What the inputs and outputs of a model are for: image, states fed back, results. Pure.

A recurrent model hands a state on: what it writes to an output it wants to find in an input at the
next frame. Which output feeds which input is written nowhere in the file; it follows from their
names, else from what they hold. What does not follow without doubt is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from edged.errors import ValidationError
from edged.inference.tensors import TensorSpec

CHANNELS = (1, 3)
"""How many an image may have: grey, or three colours."""


@dataclass(frozen=True, slots=True)
class Signature:
    """Which tensors are what, by position among the model's inputs and outputs.

    Attributes:
        image: the input that takes the image.
        states: input and output of each state, in the order of the inputs.
        results: the outputs that say something about the image.
    """

    image: int
    states: tuple[tuple[int, int], ...]
    results: tuple[int, ...]


# What tells the two ends of a state apart and is no part of its name: `init_c` and `c`,
# `state_in` and `state_out`.
_END = "in|out|input|output|inputs|outputs|init|initial|prev|previous|old|new|next|final|updated"
_AFFIX = re.compile(rf"^(?:{_END})_+|_+(?:{_END})$")
# What exporters call a tensor that has no name of its own, numbered or not.
_NAMELESS = re.compile(
    rf"(?:{_END}|args|identity|tensor|statefulpartitionedcall|partitionedcall)?_*\d*"
)


def stem(name: str) -> str:
    """Return what the names of both ends of a state have in common, or "" where there is nothing.

    `raw_inputs/init_lstm_c` and `raw_outputs/lstm_c` have `lstm_c`; `StatefulPartitionedCall:1`
    has nothing.
    """
    name = re.sub(r":\d+$", "", name.lower().rpartition("/")[2]).removeprefix("serving_default_")
    while (shorter := _AFFIX.sub("", name)) != name:
        name = shorter
    return "" if _NAMELESS.fullmatch(name) else name


def read_signature(
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    input_names: Sequence[str] = (),
    output_names: Sequence[str] = (),
) -> Signature:
    """Decide what each tensor is for.

    One input is the image; every other one is a state. The output that feeds it is the one with
    the same `stem`, else the only one of its shape, type and quantisation.

    Args:
        inputs: of the model, in its order.
        outputs: the same.
        input_names: what the file's SignatureDef calls them, "" for nothing: converters number
            the tensors of newer models, and only these names say what is what.
        output_names: the same.

    Raises:
        ValidationError: `model_inputs_unsupported` (an input is neither image nor state),
            `state_ambiguous` (it could be fed by several outputs), `state_mismatch` (the two ends
            do not agree), `model_input_unsupported` (the image is none that edged can make).
    """
    if not inputs:
        raise ValidationError("model_inputs_unsupported", "the model has no input")
    pairs: dict[int, int] = {}
    if len(inputs) > 1:
        pairs = _named_pairs(_stems(inputs, input_names), _stems(outputs, output_names))
    free = [o for o in range(len(outputs)) if o not in pairs.values()]
    lone = [i for i in range(len(inputs)) if i not in pairs]
    image = _image(inputs, lone, [_content(outputs[o]) for o in free])
    check_image(inputs[image])
    lone.remove(image)
    for i in lone:
        pairs[i] = _feeder(inputs, outputs, i, lone, free)
    for i, o in pairs.items():
        _check_pair(inputs[i], outputs[o])
    results = tuple(o for o in range(len(outputs)) if o not in pairs.values())
    if pairs and not results:
        raise ValidationError(
            "model_inputs_unsupported",
            f"besides its image the model has the inputs {_list(inputs[i] for i in pairs)}; if its"
            f" outputs {_list(outputs)} were states fed back into them, none would be left to say"
            " something about the image",
        )
    return Signature(image, tuple(sorted(pairs.items())), results)


def _stems(specs: Sequence[TensorSpec], names: Sequence[str]) -> list[str]:
    return [
        (stem(names[i]) if i < len(names) else "") or stem(spec.name)
        for i, spec in enumerate(specs)
    ]


def _named_pairs(inputs: Sequence[str], outputs: Sequence[str]) -> dict[int, int]:
    """Pair the positions of names that occur once on either side."""
    return {
        i: outputs.index(name)
        for i, name in enumerate(inputs)
        if name and inputs.count(name) == outputs.count(name) == 1
    }


def _content(spec: TensorSpec) -> tuple[object, ...]:
    return spec.shape, spec.dtype, spec.scale, spec.zero_point


def _looks_like_image(spec: TensorSpec) -> bool:
    if len(spec.shape) != 4 or spec.shape[0] != 1:
        return False
    return spec.shape[3] in CHANNELS or spec.shape[1] in CHANNELS


def _image(inputs: Sequence[TensorSpec], lone: list[int], free: list[tuple[object, ...]]) -> int:
    """Return which of the inputs that no name has paired is the image.

    Args:
        inputs: all of the model's.
        lone: positions of those in question.
        free: contents of the outputs that no name has paired.
    """
    if len(lone) == 1:
        return lone[0]
    images = [i for i in lone if _looks_like_image(inputs[i])]
    if len(images) > 1:
        # A state may have the shape of an image, but then an output has it too.
        unfed = [i for i in images if _content(inputs[i]) not in free]
        if not unfed:
            raise ValidationError(
                "state_ambiguous",
                f"which of the model's inputs {_list(inputs[i] for i in images)} is the image, and"
                " which a state fed back, follows neither from their names nor from their shapes",
            )
        images = unfed
    if len(images) != 1:
        raise ValidationError(
            "model_inputs_unsupported",
            "the model must have one image input, and any other must be a state that one of its"
            f" outputs feeds; this one has {len(inputs)} inputs: {_list(inputs)}",
        )
    return images[0]


def _feeder(
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    wanted: int,
    lone: Sequence[int],
    free: Sequence[int],
) -> int:
    """Return the only output that can feed a state without a telling name."""
    spec = inputs[wanted]
    # A single number is too little to know a state by: a threshold looks like a count.
    fitting = [o for o in free if _content(outputs[o]) == _content(spec) and prod(spec.shape) > 1]
    if not fitting:
        raise ValidationError(
            "model_inputs_unsupported",
            f"the model's input {spec.describe()} is not the image, and no output feeds it: none"
            f" of {_list(outputs)} has its name, or its shape, type and quantisation",
        )
    rivals = [i for i in lone if _content(inputs[i]) == _content(spec)]
    if len(fitting) > 1 or len(rivals) > 1:
        raise ValidationError(
            "state_ambiguous",
            f"which outputs feed the model's inputs {_list(inputs[i] for i in rivals)} does not"
            f" follow from their names, and by shape any of {_list(outputs[o] for o in fitting)}"
            " could",
        )
    return fitting[0]


def check_image(spec: TensorSpec) -> None:
    """Refuse an input that is no image, or one of a type that edged does not make.

    Raises:
        ValidationError: `model_input_unsupported`.
    """
    if not _looks_like_image(spec) or spec.open_sizes or min(spec.shape) < 1:
        raise ValidationError(
            "model_input_unsupported",
            f"the model's input {spec.describe()} is no image:"
            " [1, height, width, 3], [1, 3, height, width] or the same with 1, of a fixed size, is"
            " needed",
        )
    if spec.dtype not in ("uint8", "int8", "float32"):
        raise ValidationError(
            "model_input_unsupported",
            f"the model's input {spec.describe()} is not uint8, int8 or float32",
        )


def _check_pair(source: TensorSpec, feeder: TensorSpec) -> None:
    for spec in (source, feeder):
        if spec.open_sizes or min(spec.shape, default=1) < 1:
            raise ValidationError(
                "model_inputs_unsupported",
                f"the model's state {spec.describe()} has no fixed size",
            )
    if np.dtype(source.dtype).kind not in "biuf":
        raise ValidationError(
            "model_inputs_unsupported", f"the model's input {source.describe()} holds no numbers"
        )
    if _content(source) == _content(feeder):
        return
    different = "shape" if source.shape != feeder.shape else "type"
    if (source.shape, source.dtype) == (feeder.shape, feeder.dtype):
        different = (
            f"quantisation (step {source.scale:g}, zero point {source.zero_point};"
            f" step {feeder.scale:g}, zero point {feeder.zero_point})"
        )
    raise ValidationError(
        "state_mismatch",
        f"by its name the model's output {feeder.describe()} feeds its input {source.describe()},"
        f" but they differ in {different}",
    )


def _list(specs: Iterable[TensorSpec]) -> str:
    return ", ".join(spec.describe() for spec in specs)
