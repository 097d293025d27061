"""What edged is held against, each as a function that handles one frame and returns invoke's time.

`alone` is the model and nothing else, `naive` the loop that people write, `MediaPipe` another
program's classifier, which reads no camera and publishes nothing.
"""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from edged.inference.servable import Servable
from edged.mqtt.client import Session

Handle = Callable[[], float]


def loop(seconds: float, handle: Handle) -> dict[str, float]:
    """Handle frames one after the other for so long."""
    invoke_s, frames = 0.0, 0
    cpu_s, begun_s = time.process_time(), time.perf_counter()
    while (wall_s := time.perf_counter() - begun_s) < seconds:
        invoke_s += handle()
        frames += 1
    cpu_s = time.process_time() - cpu_s
    return {
        "duty": invoke_s / wall_s,
        "fps": frames / wall_s,
        "cpu_ms": 1000 * cpu_s / frames,
        "invoke_ms": 1000 * invoke_s / frames,
    }


def alone(servable: Servable) -> Handle:
    """Invoke, with the input set once."""
    tensor = np.zeros(servable.input.tensor.shape, servable.input.tensor.dtype)
    servable.infer(tensor)
    interpreter = servable._interpreter

    def handle() -> float:
        begun_s = time.perf_counter()
        interpreter.invoke()
        return time.perf_counter() - begun_s

    return handle


def naive(servable: Servable, image: np.ndarray, session: Session) -> Handle:
    """PIL resize, invoke, sort, json, publish, one after the other."""
    size = (servable.input.width, servable.input.height)

    def handle() -> float:
        small = Image.fromarray(image[:, :, ::-1]).resize(size, Image.Resampling.LANCZOS)
        outputs = servable.infer(np.asarray(small, np.uint8)[None])
        scores = outputs.arrays[0].reshape(-1) / 256
        best = np.argsort(scores)[::-1][:5]
        classes = [{"label": servable.labels[i], "score": float(scores[i])} for i in best]
        payload = json.dumps({"classes": classes}).encode()
        session.publish("bench/naive", payload, qos=0)
        return outputs.invoke_s

    return handle


class MediaPipe:
    """MediaPipe's ImageClassifier in image mode, where it is installed; its time counts as invoke.

    It resizes and classifies inside one call, so only its frames a second and CPU say something.
    """

    installed = importlib.util.find_spec("mediapipe") is not None

    def __init__(self, path: str, image: np.ndarray) -> None:
        import mediapipe  # noqa: PLC0415 - no requirement
        from mediapipe.tasks import python as tasks  # noqa: PLC0415
        from mediapipe.tasks.python import vision  # noqa: PLC0415

        options = vision.ImageClassifierOptions(
            base_options=tasks.BaseOptions(model_asset_path=path), max_results=5
        )
        self._classifier: Any = vision.ImageClassifier.create_from_options(options)
        self._mediapipe, self._image = mediapipe, image

    def handle(self) -> float:
        begun_s = time.perf_counter()
        rgb = np.ascontiguousarray(self._image[:, :, ::-1])
        mp = self._mediapipe
        self._classifier.classify(mp.Image(image_format=mp.ImageFormat.SRGB, data=rgb))
        return time.perf_counter() - begun_s

    def close(self) -> None:
        self._classifier.close()
