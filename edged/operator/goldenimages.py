"""Golden samples from images: a folder per label says what the model must see in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import zip_longest
from pathlib import Path

import numpy as np

from edged.camera.imagefile import decode
from edged.errors import CameraError, PackError, ValidationError
from edged.inference.preprocess import Preprocessor
from edged.inference.servable import Servable
from edged.inference.tensors import Array
from edged.models.golden import FLOAT_TOLERANCE, GOLDEN_LIMIT_BYTES, Constancy, Golden
from edged.models.loading import control_images
from edged.models.manifest import Tolerance
from edged.prediction import seen

_MOST_NAMED = 10


@dataclass(frozen=True, slots=True)
class Samples:
    """What the manifest and the package need of a golden set.

    Attributes:
        golden: images, then a blank one and noise.
        top1: best label of each sample; None where the two best are too close to tell.
        notes: what the operator may want to know.
    """

    golden: Golden
    top1: tuple[str | None, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Picture:
    path: Path
    label: str | None


def make_samples(servable: Servable, folder: Path, most: int, tolerance: Tolerance) -> Samples:
    """Run a model on images, a blank one and noise.

    Args:
        servable: the model, told to report all labels.
        folder: with images, or with a folder of images for each label that must be the best.
        most: number of images that are taken, in turn from each folder, by name.
        tolerance: tells which best labels are clear.

    Raises:
        PackError: `golden_no_images`, `golden_label_unknown`, `golden_contradicted`,
            `golden_unreadable`.
        ValidationError: `output_not_finite`, `output_constant`.
    """
    pictures, left_out = _pictures(servable, folder, _affordable(servable, most))
    notes = [f"{left_out} more images were left out"] if left_out else []
    steps = tolerance.of(servable.runtime.name, servable.accelerator)
    preprocessor, constancy = Preprocessor(servable.input), Constancy()
    inputs: list[list[Array]] = []
    outputs: list[list[Array]] = []
    top1: list[str | None] = []
    wrong: list[str] = []
    controls: list[tuple[_Picture | None, Array]] = [(None, t) for t in control_images(servable)]
    for picture, tensor in [*_tensors(preprocessor, pictures), *controls]:
        inputs.append(servable.raw_inputs(tensor))
        outputs.append(servable.run(inputs[-1]))
        constancy.add(outputs[-1])
        best = next((label for label, _ in seen(servable.read(outputs[-1]))), None)
        clear = _is_clear(outputs[-1], len(servable.labels), steps)
        top1.append(best if clear else None)
        if picture is not None and picture.label not in (None, best):
            wrong.append(f"{picture.path} shows {picture.label}, and the model says {best}")
        elif picture is not None and not clear and servable.kind == "classification":
            notes.append(f"{picture.path}: the two best labels are too close to tell")
    if wrong:
        raise _contradicted(wrong, len(pictures))
    if constancy.constant:
        raise ValidationError(
            "output_constant", "the model says the same of all images, a blank one and noise"
        )
    return Samples(Golden(_stacked(inputs), _stacked(outputs)), tuple(top1), tuple(notes))


def _stacked(samples: Sequence[Sequence[Array]]) -> tuple[Array, ...]:
    return tuple(np.stack(arrays) for arrays in zip(*samples, strict=True))


def _affordable(servable: Servable, most: int) -> int:
    """Return how many images fit into golden.npz beside the two controls."""
    inputs = servable.raw_inputs(control_images(servable)[0])
    sample_bytes = sum(array.nbytes for array in (*inputs, *servable.run(inputs)))
    return max(1, min(most, GOLDEN_LIMIT_BYTES // (sample_bytes + 1024) - 2))


def _pictures(servable: Servable, folder: Path, most: int) -> tuple[list[_Picture], int]:
    try:
        here = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        groups = [[_Picture(path, None) for path in here if path.is_file()]]
        for inner in (path for path in here if path.is_dir()):
            if inner.name not in servable.labels:
                raise _unknown(inner.name, servable.labels)
            files = sorted(path for path in inner.iterdir() if path.is_file())
            groups.append([_Picture(path, inner.name) for path in files if path.name[0] != "."])
    except OSError as error:
        raise PackError(
            "golden_unreadable", f"cannot list the golden images in {folder}: {error}."
        ) from error
    turns = zip_longest(*groups)
    found = [picture for turn in turns for picture in turn if picture is not None]
    if not found:
        raise PackError(
            "golden_no_images",
            f"there is no image in {folder}.",
            advice="Put some there that the model sees right, best in a folder for each label.",
        )
    return found[:most], len(found) - len(found[:most])


def _unknown(name: str, labels: Sequence[str]) -> PackError:
    near = get_close_matches(name, labels, 1)
    hint = f" Is it '{near[0]}'?" if near else ""
    return PackError(
        "golden_label_unknown",
        f"the folder '{name}' is none of the model's {len(labels)} labels.{hint}",
        advice="Name each folder of golden images as the label that the model must give them.",
    )


def _tensors(
    preprocessor: Preprocessor, pictures: Sequence[_Picture]
) -> Iterator[tuple[_Picture, Array]]:
    for picture in pictures:
        try:
            image = decode(picture.path.read_bytes())
        except (OSError, CameraError) as error:
            raise PackError("golden_unreadable", f"{picture.path}: {error}.") from error
        tensor = next(preprocessor.slots())
        preprocessor.write(image, "bgr", tensor)
        yield picture, tensor


def _is_clear(outputs: Sequence[Array], classes: int, steps: int) -> bool:
    """Say whether the best class stays the best when both it and the next move by the tolerance."""
    scores = next((output.reshape(-1) for output in outputs if output.size == classes), None)
    if scores is None or classes < 2:
        return False
    second, first = np.partition(scores.astype(np.float64), -2)[-2:]
    if scores.dtype.kind == "f":
        return bool(first - second > 2 * FLOAT_TOLERANCE * np.abs(scores).max())
    return bool(first - second > 2 * steps)


def _contradicted(wrong: Sequence[str], count: int) -> PackError:
    more = f"\n... and {len(wrong) - _MOST_NAMED} more" if len(wrong) > _MOST_NAMED else ""
    lines = "\n".join(wrong[:_MOST_NAMED])
    return PackError(
        "golden_contradicted",
        f"the model contradicts the folders of {len(wrong)} of {count} golden images:\n"
        f"{lines}{more}.",
        advice="Are the labels of this model, in its order? Else take out images it cannot know.",
    )
