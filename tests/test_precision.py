"""The same classifier in float32, float16 and int8 weights, on every runtime that is installed."""

import numpy as np
import pytest
from sim import models, precision

from edged.config import ModelConfig
from edged.errors import ValidationError
from edged.inference.interpreter import installed_runtimes
from edged.inference.loading import load_servable
from edged.inference.preprocess import Preprocessor
from edged.inference.servable import Servable
from edged.prediction import Classes

PIXELS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "dark": (0, 0, 0)}
RUNTIMES = [runtime.name for runtime in installed_runtimes()]
# Mean colours for which the four classes come close: there a lost bit would show.
MIXED = [(150, 120, 100), (60, 70, 65), (40, 30, 35), (200, 205, 190)]


def load(tmp_path, kind: precision.Kind, runtime: str) -> Servable:
    data = models.with_metadata(precision.classifier(kind), models.COLOURS)
    path = models.write(tmp_path / f"{kind}.tflite", data)
    return load_servable(ModelConfig(name="m", factory=str(path), runtime=runtime))


def scores(servable: Servable, pixel: tuple[int, int, int]) -> dict[str, float]:
    preprocessor = Preprocessor(servable.input)
    tensor = next(preprocessor.slots())
    preprocessor.write(np.full((40, 40, 3), pixel, np.uint8), "rgb", tensor)
    result = servable.decode(servable.infer(tensor), preprocessor.geometry(40, 40))
    assert isinstance(result, Classes)
    return {line.label: line.score for line in result.classes}


def expected(pixel: tuple[int, int, int]) -> dict[str, float]:
    logits = np.array([20 * value / 255 for value in pixel] + [20 * 0.2])
    values = np.exp(logits - logits.max())
    return dict(zip(models.COLOURS, values / values.sum(), strict=True))


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("kind", precision.KINDS)
def test_weights_of_every_precision(tmp_path, kind, runtime) -> None:
    servable = load(tmp_path, kind, runtime)

    for colour, pixel in PIXELS.items():
        assert max(scores(servable, pixel).items(), key=lambda line: line[1])[0] == colour
    # A quantised input is rounded to 1/127 of its largest value, a logit is 20 of them.
    within = 0.03 if kind.startswith("dynamic") else 0.001
    for pixel in MIXED:
        found = scores(servable, pixel)
        assert found == {
            label: pytest.approx(expected(pixel)[label], abs=within) for label in found
        }


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_float16_image_is_refused_by_name(tmp_path, runtime) -> None:
    """The runtimes take one; no converter makes one, and edged writes none."""
    with pytest.raises(ValidationError, match="'half_image' float16") as caught:
        load(tmp_path, "float16_input", runtime)

    assert caught.value.reason == "model_input_unsupported"
