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
from edged.models.examination import control_images
from edged.models.golden import FLOAT_TOLERANCE, GOLDEN_LIMIT_BYTES, Constancy, Golden
from edged.models.manifest import Tolerance
from edged.prediction import seen

_MOST_NAMED = 10


@dataclass(frozen=True, slots=True)
class Samples:
    """What the manifest and the package need of a golden set.

    Attributes:
        golden: images, then a blank one and noise.
        top1: best label of each image of a classification; None for the others.
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

    An image is a sample of a classification only where its best label stays the best with all
    scores off by the tolerance: then a model with another best label fails by its numbers, too.

    Args:
        servable: the model.
        folder: with images, or with a folder of images for each label that must be the best.
        most: number of images that are taken, in turn from each folder, by name.
        tolerance: tells which best labels are clear, on any device.

    Raises:
        PackError: `golden_no_images`, `golden_label_unknown`, `golden_contradicted`,
            `golden_unclear`, `golden_unreadable`.
        ValidationError: `output_not_finite`, `output_constant`.
    """
    pictures = _pictures(servable, folder)
    most = _affordable(servable, most)
    preprocessor, constancy = Preprocessor(servable.input), Constancy()
    inputs: list[list[Array]] = []
    outputs: list[list[Array]] = []
    top1: list[str | None] = []
    wrong: list[str] = []
    unclear: list[str] = []
    looked_at = 0
    for picture, tensor in _tensors(preprocessor, pictures):
        if len(inputs) == most:
            break
        looked_at += 1
        sample = servable.raw_inputs(tensor)
        answer = servable.run(sample)
        best, clear = _best(servable, answer, tolerance)
        if picture.label not in (None, best):
            wrong.append(f"{picture.path} shows {picture.label}, and the model says {best}")
        elif not clear and servable.kind == "classification":
            unclear.append(str(picture.path))
            continue
        inputs.append(sample)
        outputs.append(answer)
        top1.append(best if servable.kind == "classification" else None)
        constancy.add(answer)
    if wrong:
        raise _contradicted(wrong, looked_at)
    controls = [servable.raw_inputs(tensor) for tensor in control_images(servable)]
    answers = [servable.run(sample) for sample in controls]
    for answer in answers:
        constancy.add(answer)
    if constancy.constant:
        raise ValidationError(
            "output_constant", "the model says the same of all images, a blank one and noise"
        )
    if not inputs:
        raise _unclear(unclear)
    # What they show has no name: their numbers are compared, their best label is nobody's loss.
    labels = (*top1, *(None for _ in controls))
    golden = Golden(_stacked([*inputs, *controls]), _stacked([*outputs, *answers]))
    return Samples(golden, labels, _notes(unclear, len(pictures) - looked_at))


def _best(
    servable: Servable, answer: Sequence[Array], tolerance: Tolerance
) -> tuple[str | None, bool]:
    """Return the best label, and whether it is so on any device."""
    best = next((label for label, _ in seen(servable.read(answer))), None)
    return best, _is_clear(answer, len(servable.labels), tolerance.most)


def _notes(unclear: Sequence[str], not_needed: int) -> tuple[str, ...]:
    notes = []
    if unclear:
        names = ", ".join(unclear[:_MOST_NAMED])
        notes.append(
            f"{len(unclear)} images were left out: the two best labels are too close to tell"
            f" ({names}{', ...' if len(unclear) > _MOST_NAMED else ''})"
        )
    if not_needed:
        notes.append(f"{not_needed} more images were left out")
    return tuple(notes)


def _unclear(paths: Sequence[str]) -> PackError:
    return PackError(
        "golden_unclear",
        f"of none of the {len(paths)} golden images the model is sure enough: its two best labels"
        " are closer than twice the tolerance.",
        advice="Take images that it knows well, or lower the tolerance.",
    )


def _stacked(samples: Sequence[Sequence[Array]]) -> tuple[Array, ...]:
    return tuple(np.stack(arrays) for arrays in zip(*samples, strict=True))


def _affordable(servable: Servable, most: int) -> int:
    """Return how many images fit into golden.npz beside the two controls."""
    inputs = servable.raw_inputs(control_images(servable)[0])
    sample_bytes = sum(array.nbytes for array in (*inputs, *servable.run(inputs)))
    return max(1, min(most, GOLDEN_LIMIT_BYTES // (sample_bytes + 1024) - 2))


def _pictures(servable: Servable, folder: Path) -> list[_Picture]:
    """Return all images, in turn from each folder."""
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
    return found


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
