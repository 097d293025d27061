"""Program: flips bytes of MobileNet v1 and counts what the golden set says to it.

python byteflips.py DATA FOLDER FIRST LAST; prints a JSON object. Each flipped model runs in a fork.
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections import Counter
from pathlib import Path

import cv2
import numpy as np

from edged.camera.imagefile import decode
from edged.config import ModelConfig
from edged.errors import EdgedError
from edged.inference.loading import load_servable
from edged.inference.preprocess import Preprocessor
from edged.inference.servable import Servable
from edged.models.examination import control_images
from edged.models.golden import Comparison
from edged.models.manifest import Tolerance

IMAGES = ("bird.bmp", "cat.bmp", "dragonfly.bmp", "grace_hopper.bmp", "hot_dog.jpg", "parrot.jpg",
          "squat.bmp", "sunflower.bmp")  # fmt: skip


def load(path: Path) -> Servable:
    return load_servable(ModelConfig(name="m", factory=str(path), accelerator="cpu"))


def tensors(servable: Servable, data: Path) -> list[np.ndarray]:
    preprocessor = Preprocessor(servable.input)
    made = []
    for name in IMAGES:
        tensor = next(preprocessor.slots())
        preprocessor.write(decode((data / "images" / name).read_bytes()), "bgr", tensor)
        made.append(tensor)
    return [*made, *control_images(servable)]


def answers(servable: Servable, inputs: list[np.ndarray]) -> list[np.ndarray]:
    return [servable.run([tensor])[0] for tensor in inputs]


def clear(output: np.ndarray, steps: int) -> bool:
    second, first = np.partition(output.reshape(-1).astype(int), -2)[-2:]
    return bool(first - second > 2 * steps)


def verdict(path: Path, inputs: list[np.ndarray], expected: list[np.ndarray]) -> list[str]:
    """Return what is to be counted for one flipped model."""
    try:
        servable = load(path)
        actual = answers(servable, inputs)
    except EdgedError:
        return ["refused"]
    steps = Tolerance().of(servable.runtime.name, "cpu")
    comparison = Comparison(steps)
    for one, other in zip(expected, actual, strict=True):
        comparison.add([one], [other])
    caught = not comparison.agreement.passed
    found = ["loaded"]
    if any(not np.array_equal(*pair) for pair in zip(expected, actual, strict=True)):
        found += ["changed"] + (["changed, caught"] if caught else [])
    swapped = [
        clear(one, steps)
        for one, other in zip(expected, actual, strict=True)
        if one.argmax() != other.argmax()
    ]
    if any(swapped):
        found += ["top1 changed"] + (["top1 changed, caught"] if caught else [])
    elif swapped:
        found += ["only an unclear top1 changed"]
        found += ["only an unclear top1 changed, caught"] if caught else []
    return found


def main(data: Path, folder: Path, first: int, last: int) -> None:
    cv2.setNumThreads(0)  # no threads across a fork
    sound = (data / "models" / "mobilenet_v1_0.25_128_quant.tflite").read_bytes()
    path = folder / "flipped.tflite"
    path.write_bytes(sound)
    servable = load(path)
    inputs = tensors(servable, data)
    expected = answers(servable, inputs)
    counts: Counter[str] = Counter()
    for seed in range(first, last):
        generator = random.Random(seed)
        changed = bytearray(sound)
        changed[generator.randrange(len(changed))] ^= generator.randrange(1, 256)
        mine = folder / f"{seed}.tflite"  # a file that is mapped is never written again
        mine.write_bytes(changed)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writing, "\n".join(verdict(mine, inputs, expected)).encode())
            os._exit(0)
        os.close(writing)
        said = os.read(reading, 10_000).decode()
        os.close(reading)
        _, status = os.waitpid(child, 0)
        counts["tried"] += 1
        counts.update(said.split("\n") if said and status == 0 else ["crashed"])
        mine.unlink()
    print(json.dumps(counts))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
