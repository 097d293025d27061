"""Drift's hook in the life of a frame: which frames, what is handed on, and how sure models are."""

from __future__ import annotations

import math
import random
import time
from pathlib import Path

import numpy as np
import pytest

from edged.config import ModelConfig
from edged.drift.recorder import Pair, Seen
from edged.drift.sampling import Sampling
from edged.drift.signals import NOTHING, found
from edged.frame import FrameStamp
from edged.inference.kinds.classification import ClassificationDecoder
from edged.inference.kinds.decoder import Cut
from edged.inference.loading import load_servable
from edged.inference.preprocess import Preprocessor, geometry
from edged.inference.tensors import TensorSpec
from edged.pipeline.bell import Bell
from edged.pipeline.counters import CameraCounters
from edged.pipeline.lane import Lane
from edged.pipeline.mailbox import Mailbox
from edged.pipeline.modelslot import ModelSlot
from edged.pipeline.observer import Observer
from edged.pipeline.results import Inference


def test_samples_come_once_a_period_at_no_fixed_beat() -> None:
    sampling, chance = Sampling(2.0, random.Random(1).random), random.Random(2)
    now_s, taken = 0.0, []
    while now_s < 4000.0:
        now_s += chance.uniform(0.01, 0.05)
        if sampling.due(now_s):
            taken.append(now_s)
    gaps = np.diff(taken)

    assert 1.95 < gaps.mean() < 2.1
    assert gaps.min() >= 1.0
    assert gaps.max() <= 3.1
    assert gaps.std() > 0.4


def test_a_sample_that_was_lost_is_made_up_for() -> None:
    sampling = Sampling(2.0, lambda: 0.5)
    assert sampling.due(10.0)
    assert not sampling.due(10.1)
    sampling.again()
    assert sampling.due(10.2)
    assert not sampling.due(12.1)


def test_a_replaced_sample_is_told_to_whoever_put_the_next() -> None:
    bell = Bell()
    spec = load_servable(ModelConfig(name="m", factory="belt")).input
    mailbox = Mailbox(bell, CameraCounters())
    tensors = Preprocessor(spec).slots()
    first = mailbox.writable(spec, tensors)
    first.sketch = np.zeros((4, 4), np.uint8)
    assert not mailbox.put(first)
    assert mailbox.put(mailbox.writable(spec, tensors))
    assert not mailbox.put(mailbox.writable(spec, tensors))


@pytest.mark.parametrize(
    ("scores", "label", "expected"),
    [
        ([], 3, (0.0, 0.0, 0.0, NOTHING)),
        ([0.0, 0.0], 3, (0.0, 0.0, 0.0, NOTHING)),
        ([0.8], 3, (0.8, 0.8, 0.0, 3)),
        ([0.4, 0.8], 3, (0.8, 0.4, None, 3)),
        ([0.5, 0.5], 1, (0.5, 0.0, math.log(2) / math.log(4), 1)),
        ([1.7], 1, (1.0, 1.0, 0.0, 1)),
    ],
)
def test_how_sure_a_model_is_of_what_it_found(scores, label, expected) -> None:
    one = found(scores, label, 4)
    top1, margin, entropy, number = expected
    assert (one.top1, one.label) == (pytest.approx(top1), number)
    assert one.margin == pytest.approx(margin)
    if entropy is not None:
        assert one.entropy == pytest.approx(entropy)


def test_scores_count_before_any_threshold() -> None:
    spec = TensorSpec("scores", 0, (1, 4), "uint8", 1 / 256, 0)
    decoder = ClassificationDecoder(0, spec, None, Cut(1, 0.99), "softmax")
    outputs = [np.array([[20, 130, 60, 46]], np.uint8)]
    place = geometry(8, 8, load_servable(ModelConfig(name="m", factory="belt")).input)

    result = decoder.decode(outputs, place)
    confidence = decoder.confidence(outputs, place)

    assert result.classes == ()
    assert decoder.best_class(outputs, result) == confidence.label == 1
    assert confidence.top1 == pytest.approx(130 / 256)
    assert confidence.margin == pytest.approx(70 / 256)
    assert 0.0 < confidence.entropy < 1.0


MODELS = [
    ("mobilenet_v2_1.0_224_quant.tflite", "classification"),
    ("tf2_mobilenet_v2_1.0_224_ptq.tflite", "classification"),
    ("deeplabv3_mnv2_dm05_pascal_quant.tflite", "segmentation"),
    ("movenet_single_pose_lightning_ptq.tflite", "keypoints"),
]


@pytest.mark.parametrize(("name", "kind"), MODELS)
def test_every_kind_says_how_sure_it_is(shared_data: Path, name: str, kind: str) -> None:
    servable = load_servable(ModelConfig(name="m", factory=str(shared_data / "models" / name)))
    try:
        assert servable.kind == kind
        preprocessor = Preprocessor(servable.input)
        image = np.random.default_rng(1).integers(0, 256, (120, 160, 3), np.uint8)
        tensor, place = next(preprocessor.slots()), preprocessor.geometry(120, 160)
        preprocessor.write(image, "rgb", tensor)
        outputs = servable.infer(tensor)
        result = servable.decode(outputs, place)

        confidence = servable.confidence(outputs, place)

        figures = (confidence.top1, confidence.margin, confidence.entropy)
        assert all(0.0 <= figure <= 1.0 for figure in figures)
        assert confidence.margin <= max(confidence.top1, 1.0 - confidence.top1)
        assert servable.best_class(outputs, result) == confidence.label
    finally:
        servable.close()


def test_what_the_publisher_tells() -> None:
    servable = load_servable(ModelConfig(name="belt", factory="belt"))
    try:
        told: list[Seen | Pair] = []
        observer = Observer({"front": "ab"}, told.append)
        bell = Bell()
        counters = CameraCounters()
        lane = Lane("front", Mailbox(bell, counters), ModelSlot("belt", bell), counters)
        tensor = np.zeros(servable.input.tensor.shape, servable.input.tensor.dtype)
        outputs = servable.infer(tensor)
        place = geometry(64, 64, servable.input)
        stamp = FrameStamp("front", 1, time.time(), time.monotonic(), 64, 64)
        sketch = np.zeros((16, 16), np.uint8)
        result = servable.decode(outputs, place)

        observer.read(Inference(lane, servable, stamp, place, outputs), result, trial=False)
        observer.read(Inference(lane, servable, stamp, place, outputs, sketch), result, trial=True)
        observer.unread(Inference(lane, servable, stamp, place, outputs, sketch), trial=False)

        plain, sampled, unread = told
        assert isinstance(plain, Seen)
        assert isinstance(sampled, Seen)
        assert isinstance(unread, Seen)
        assert plain.subject is sampled.subject
        assert plain.subject.sha256 == servable.id.sha256
        assert plain.subject.runtime == f"{servable.runtime.name} {servable.runtime.version}"
        assert (plain.confidence, plain.sketch, plain.trial) == (None, None, False)
        assert sampled.confidence is not None
        assert sampled.sketch is sketch
        assert sampled.trial
        assert sampled.best == plain.best == sampled.confidence.label
        assert unread.best is None
        assert unread.confidence is None
    finally:
        servable.close()
