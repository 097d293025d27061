"""Program: flips bytes of MobileNet v1 and counts what the golden set of its package says to it.

python byteflips.py DATA FOLDER FIRST LAST; prints a JSON object. Each flipped model runs in a fork.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
from collections import Counter
from pathlib import Path

import cv2
import numpy as np

from edged.config import ModelConfig
from edged.errors import EdgedError
from edged.inference.loading import load_servable
from edged.inference.servable import Servable
from edged.models.examination import Examination
from edged.models.golden import Golden
from edged.models.manifest import Manifest, Tolerance, parse_manifest
from edged.operator.goldenimages import make_samples
from sim import packages

IMAGES = ("bird.bmp", "cat.bmp", "dragonfly.bmp", "grace_hopper.bmp", "hot_dog.jpg", "parrot.jpg",
          "squat.bmp", "sunflower.bmp")  # fmt: skip


def load(path: Path) -> Servable:
    return load_servable(ModelConfig(name="m", factory=str(path), accelerator="cpu"))


def golden_set(servable: Servable, data: Path, folder: Path) -> tuple[Golden, Manifest]:
    """Choose the samples as `edgectl model pack` does."""
    images = folder / "images"
    images.mkdir()
    for name in IMAGES:
        shutil.copy(data / "images" / name, images)
    samples = make_samples(servable, images, len(IMAGES), Tolerance())
    said = {"samples": samples.golden.samples, "made_with": "here", "top1": samples.top1}
    facts = packages.facts(packages.contents(), golden=said)
    return samples.golden, parse_manifest(packages.encoded(facts))


def verdict(path: Path, golden: Golden, manifest: Manifest) -> list[str]:
    """Return what is to be counted for one flipped model."""
    expected = golden.outputs[0].reshape(golden.samples, -1)
    try:
        servable = load(path)
        actual = np.stack([servable.run([one])[0].reshape(-1) for one in golden.inputs[0]])
    except EdgedError:
        return ["refused"]
    try:
        examination = Examination(servable, golden, manifest, named=True)
        while examination.next is not None:
            examination.ask()
        examination.conclude()
        caught = False
    except EdgedError:
        caught = True
    changed = np.flatnonzero(expected.argmax(1) != actual.argmax(1))
    images = [n for n in changed if manifest.golden.top1[n] is not None]
    found = ["loaded"]
    for word, true in (
        ("changed", not np.array_equal(expected, actual)),
        ("top1 changed", images),
        ("top1 changed of a blank image or noise only", len(changed) > 0 and not images),
    ):
        if true:
            found += [word] + ([f"{word}, caught"] if caught else [])
    return found


def main(data: Path, folder: Path, first: int, last: int) -> None:
    cv2.setNumThreads(0)  # no threads across a fork
    sound = (data / "models" / "mobilenet_v1_0.25_128_quant.tflite").read_bytes()
    path = folder / "flipped.tflite"
    path.write_bytes(sound)
    golden, manifest = golden_set(load(path), data, folder)
    counts: Counter[str] = Counter(images=golden.samples - 2)
    for seed in range(first, last):
        generator = random.Random(seed)
        changed = bytearray(sound)
        changed[generator.randrange(len(changed))] ^= generator.randrange(1, 256)
        mine = folder / f"{seed}.tflite"  # a file that is mapped is never written again
        mine.write_bytes(changed)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writing, "\n".join(verdict(mine, golden, manifest)).encode())
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
