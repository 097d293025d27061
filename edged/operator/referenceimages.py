"""R0: how a model sees validation images, for its package. It informs, and decides nothing."""

from __future__ import annotations

from pathlib import Path

from edged.camera.imagefile import decode
from edged.drift.folding import Folding
from edged.drift.records import encode_validation
from edged.drift.signals import look, sketch
from edged.errors import CameraError, PackError
from edged.inference.preprocess import Preprocessor
from edged.inference.servable import Servable


def make_reference(servable: Servable, folder: Path) -> bytes:
    """Return `reference.json`: the histograms of a model on images.

    Args:
        servable: the model.
        folder: with images, in folders or not.

    Raises:
        PackError: `reference_unreadable`, `reference_no_images`.
        ValidationError: `invoke_failed`, `output_not_finite`.
    """
    folding, preprocessor = Folding(), Preprocessor(servable.input)
    tensor = next(preprocessor.slots())
    count = 0
    for path in _images(folder):
        try:
            image = decode(path.read_bytes())
        except (OSError, CameraError) as error:
            raise PackError("reference_unreadable", f"{path}: {error}.") from error
        # As the capture and the publisher do it on a device.
        seen = preprocessor.write(image, "bgr", tensor)
        place = preprocessor.geometry(*image.shape[:2])
        outputs = servable.infer(tensor)
        servable.decode(outputs, place)
        x0, y0, x1, y1 = place.target
        picture = look(sketch(seen[y0:y1, x0:x1]))
        count += folding.sampled(servable.confidence(outputs, place), picture)
    if not count:
        raise PackError(
            "reference_no_images",
            f"there is no image in {folder}.",
            advice="Put the validation images there, or leave --reference out.",
        )
    return encode_validation(folding.tally(frames=count, dropped=0, failed=0))


def _images(folder: Path) -> list[Path]:
    try:
        found = sorted(path for path in folder.rglob("*") if path.is_file())
    except OSError as error:
        raise PackError("reference_unreadable", f"cannot list {folder}: {error}.") from error
    return [path for path in found if not path.name.startswith(".")]
