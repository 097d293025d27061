"""The model edged brings along: as good as its README says, on pictures it never saw."""

import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edged.scene import LABELS, BeltScene, draw_sample

interpreter_module = pytest.importorskip("ai_edge_litert.interpreter")
MODEL = Path(__file__).parents[1] / "edged" / "data" / "belt.tflite"


@pytest.fixture(scope="module")
def interpreter() -> Any:
    loaded = interpreter_module.Interpreter(model_path=str(MODEL), num_threads=1)
    loaded.allocate_tensors()
    return loaded


def predict(interpreter: Any, picture: np.ndarray) -> str:
    # Another anti-aliased filter than in training: the model must not hang on one.
    small = cv2.resize(picture, (96, 96), interpolation=cv2.INTER_AREA)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], small[None])
    interpreter.invoke()
    scores = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0]
    return LABELS[int(scores.argmax())]


def test_raw_pixels_go_in_and_scores_of_1_256_come_out(interpreter: Any) -> None:
    (image,), (scores,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert (image["shape"].tolist(), image["dtype"]) == ([1, 96, 96, 3], np.uint8)
    assert image["quantization"] == (pytest.approx(1 / 255), 0)
    assert (scores["shape"].tolist(), scores["dtype"]) == ([1, len(LABELS)], np.uint8)
    assert scores["quantization"] == (1 / 256, 0)


@pytest.mark.parametrize("lamp", [0.5, 0.8, 1.1])
def test_it_tells_held_back_draws_apart(interpreter: Any, lamp: float) -> None:
    rng = np.random.default_rng((77, round(lamp * 10)))
    right = dict.fromkeys(LABELS, 0)
    for _ in range(50):
        for label in LABELS:
            right[label] += predict(interpreter, draw_sample(rng, label, 640, 480, lamp)) == label
    assert sum(right.values()) / 200 >= 0.95, right
    assert min(right.values()) / 50 >= 0.85, right


def test_it_follows_a_moving_belt(interpreter: Any) -> None:
    scene = BeltScene(seed=4242)
    known = [n for n in range(0, 1800, 5) if scene.truth(n) is not None]
    right = sum(predict(interpreter, scene.frame(n)) == scene.truth(n) for n in known)
    assert len(known) > 200
    assert right / len(known) >= 0.95


def test_it_is_small_and_carries_its_labels_and_metadata() -> None:
    assert MODEL.stat().st_size < 300_000
    with zipfile.ZipFile(MODEL) as archive:
        assert archive.namelist() == ["labels.txt"]
        assert tuple(archive.read("labels.txt").decode().split("\n")[:-1]) == LABELS
    content = MODEL.read_bytes()
    assert content[4:8] == b"TFL3"
    for text in (b"TFLITE_METADATA", b"M001", b"Apache-2.0", b"labels.txt"):
        assert text in content
