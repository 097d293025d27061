"""Windows as JSON: there and back, refused where damaged, small enough for a month."""

from __future__ import annotations

import json
import random
import zlib
from dataclasses import replace
from pathlib import Path

import cv2
import jsonschema
import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.config import ModelConfig
from edged.drift.folding import Folding
from edged.drift.histogram import EDGES, SCALES
from edged.drift.records import encode_window, parse_window
from edged.drift.signals import EDGE_POINTS, NOTHING, Confidence, classified, look, sketch
from edged.drift.window import LATENCY_EDGES_MS, OTHER, TOP_CLASSES, Subject, Window, add, total
from edged.errors import DriftError
from edged.inference.kinds.classification import ClassificationDecoder
from edged.inference.loading import load_servable
from edged.inference.preprocess import Preprocessor

SCHEMA = json.loads((Path(__file__).parents[1] / "docs/drift-window.schema.json").read_text())
SUBJECT = Subject("front", "birds", "1.4.0", "9f" * 32, "litert 2.3.0", "cpu")


def window(folding: Folding, seq: int = 1, **changes) -> Window:
    tally = folding.tally(frames=9000, dropped=4500, failed=0)
    fields = {
        "device": "porch",
        "boot": "4f1c09ab",
        "seq": seq,
        "began_ms": 1_763_683_200_000 + seq * 300_000,
        "seconds": 300.012,
        "synchronised": True,
        "subject": SUBJECT,
        "trial": False,
        "tally": tally,
        "tau": 12.25,
    }
    return Window(**(fields | changes))


def picture(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (40, 60, 3), np.uint8)


def some() -> Folding:
    folding = Folding()
    for label in (3, 3, 7, NOTHING):
        folding.inferred_one(7.5, label)
        folding.sampled(Confidence(0.75, 0.5, 0.25, label), look(sketch(picture())))
    return folding


def same(one: Window, other: Window) -> bool:
    return encode_window(one) == encode_window(other) and replace(
        one, tally=other.tally
    ) == replace(other)


def test_a_window_comes_back_as_it_was() -> None:
    before = window(some())

    after = parse_window(encode_window(before))

    assert same(after, before)
    assert after.tally.best == {3: 2, 7: 1, NOTHING: 1}
    assert after.tally.classes[3].score_milli == 1500
    assert after.n_effective == before.n_effective
    for signal, counts in before.tally.histograms.items():
        assert (after.tally.histograms[signal] == counts).all()


def test_the_schema_describes_what_is_written() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    for one in (window(some()), window(Folding(), tau=None)):
        jsonschema.validate(orjson.loads(encode_window(one)), SCHEMA)
    properties = SCHEMA["properties"]
    assert set(properties) == set(orjson.loads(encode_window(window(some()))))
    assert properties["edges"]["const"] == EDGES
    bins = {
        signal: len(one["propertyNames"]["enum"])
        for signal, one in properties["histograms"]["properties"].items()
    }
    assert bins == {signal: scale.bins for signal, scale in SCALES.items()}
    assert len(properties["invoke"]["propertyNames"]["enum"]) == len(LATENCY_EDGES_MS) + 1


def changed(**fields: object) -> bytes:
    return orjson.dumps(orjson.loads(encode_window(window(some()))) | fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"schema": 2},
        {"device": ""},
        {"device": "a/b"},
        {"boot": "no"},
        {"seq": 0},
        {"seq": 1.5},
        {"seq": True},
        {"began": -1},
        {"began": "now"},
        {"began": None},
        {"seconds": -0.1},
        {"synchronised": 1},
        {"trial": None},
        {"sha256": "9F" * 32},
        {"n": {}},
        {"best": {"1": -1}},
        {"best": {"-3": 1}},
        {"best": {"01": 1}},
        {"best": []},
        {"classes": {"1": [1]}},
        {"classes": {"1": [1, -1]}},
        {"classes": {"1": 1}},
        {"invoke": {"29": 1}},
        {"histograms": {"top1": {"32": 1}}},
        {"histograms": {"top1": {"x": 1}}},
        {"histograms": {"warmth": {}}},
        {"histograms": {"top1": [0, 1]}},
        {"tau": -1},
        {"tau": "long"},
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused_and_the_schema_says_so(fields: dict) -> None:
    data = changed(**fields)

    with pytest.raises(DriftError) as refused:
        parse_window(data)

    assert refused.value.reason == "window_malformed"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(orjson.loads(data), SCHEMA)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"\xff",
        b'{"schema":1,"schema":1}',
        b"[" * 100_000,
        b" " * 70_000 + b"{}",
        b'{"seq":NaN}',
        changed(best={"1": 1.0}),
        b'{"seq":1' + b"0" * 400 + b"}",
    ],
    ids=lambda data: str(data[:10]),
)
def test_what_is_no_json_of_ours_is_refused(data: bytes) -> None:
    with pytest.raises(DriftError) as refused:
        parse_window(data)
    assert refused.value.reason == "window_malformed"


def test_other_edges_are_refused_by_name() -> None:
    with pytest.raises(DriftError) as refused:
        parse_window(changed(edges="e2"))
    assert refused.value.reason == "edges_differ"
    with pytest.raises(DriftError):
        total([window(some()), window(some(), edges="e2")])


@given(st.integers(0, 10**9), st.binary(min_size=1, max_size=3))
def test_a_damaged_window_is_refused_or_another_one(where: int, bytes_: bytes) -> None:
    data = bytearray(encode_window(window(some())))
    where %= len(data)
    data[where : where + len(bytes_)] = bytes_
    try:
        read = parse_window(bytes(data))
    except DriftError as error:
        assert error.reason in {"window_malformed", "edges_differ"}
    else:
        assert same(parse_window(encode_window(read)), read)


def test_fields_of_a_later_version_are_ignored() -> None:
    assert same(parse_window(changed(warmth=[1, {}])), window(some()))


# What is counted


def test_a_tally_counts_what_happened() -> None:
    folding = some()
    folding.unread()

    tally = folding.tally(frames=9, dropped=2, failed=1)

    assert (tally.frames, tally.inferred, tally.dropped, tally.errors) == (9, 5, 2, 2)
    assert (tally.sampled, tally.repeated) == (4, 3)
    assert tally.histograms["top1"].sum() == 4
    assert tally.histograms["top1"][24] == 4
    assert abs(int(tally.histograms["edges"].sum()) - 4 * EDGE_POINTS) <= 16
    assert tally.invoke.sum() == 4


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_figure_that_is_none_is_in_no_histogram(bad: float) -> None:
    folding = Folding()

    assert not folding.sampled(Confidence(bad, 0.5, 0.5, 1), look(sketch(picture())))
    assert not folding.sampled(
        Confidence(0.5, 0.5, 0.5, 1), replace(look(sketch(picture())), luma=bad)
    )

    tally = folding.tally(frames=0, dropped=0, failed=0)
    assert tally.sampled == 0
    assert not any(counts.any() for counts in tally.histograms.values())
    assert tally.classes == {}


def test_of_many_classes_the_frequent_ones_have_names() -> None:
    folding = Folding()
    for label in range(100):
        for _ in range(100 - label):
            folding.inferred_one(1.0, label)
            folding.sampled(Confidence(0.5, 0.1, 0.1, label), look(sketch(picture())))

    tally = folding.tally(frames=0, dropped=0, failed=0)

    assert list(tally.best) == [*range(TOP_CLASSES), OTHER]
    assert sum(tally.best.values()) == folding.inferred
    assert sum(one.count for one in tally.classes.values()) == folding.inferred
    twice = add([tally, tally])
    assert twice.best[0] == 200


# How much room a day takes


def day_of(samples: list, classes: int = 5, per_window: int = 150) -> list[bytes]:
    """A day of windows: each camera dwells on a scene, and the light changes."""
    chance, lines = random.Random(1), []
    for seq in range(1, 289):
        folding = Folding()
        scenes = [chance.choice(samples) for _ in range(classes)]
        for _ in range(4500):
            folding.inferred_one(chance.lognormvariate(2.0, 0.1), chance.choice(scenes)[0].label)
        for _ in range(per_window):
            confidence, seen = chance.choice(scenes)
            top1 = min(max(confidence.top1 + chance.gauss(0, 0.05), 0.0), 1.0)
            margin = min(max(confidence.margin + chance.gauss(0, 0.05), 0.0), 1.0)
            entropy = min(max(confidence.entropy + chance.gauss(0, 0.02), 0.0), 1.0)
            luma = seen.luma + 40 * np.sin(seq / 46) + chance.gauss(0, 4)
            folding.sampled(
                Confidence(top1, margin, entropy, confidence.label),
                replace(seen, luma=luma, contrast=seen.contrast + chance.gauss(0, 3)),
            )
        lines.append(encode_window(window(folding, seq, tau=round(chance.uniform(1, 60), 1))))
    return lines


def test_a_day_of_real_windows_takes_90_kilobytes(shared_data: Path) -> None:
    """Outputs of MobileNet V2 on crops of the shared pictures."""
    model = shared_data / "models/mobilenet_v2_1.0_224_quant.tflite"
    servable = load_servable(ModelConfig(name="m", factory=str(model)))
    try:
        decoder = servable._decoder
        assert isinstance(decoder, ClassificationDecoder)
        preprocessor, samples = Preprocessor(servable.input), []
        tensor = next(preprocessor.slots())
        for path in sorted((shared_data / "images").glob("*.*")):
            image = cv2.imread(str(path))
            height, width = image.shape[:2]
            for corner in range(4):
                top, left = (corner // 2) * height // 4, (corner % 2) * width // 4
                part = image[top : top + 3 * height // 4, left : left + 3 * width // 4]
                preprocessor.write(part, "bgr", tensor)
                outputs = servable.infer(tensor)
                scores = decoder.scores(outputs.arrays)
                samples.append((classified(scores), look(sketch(tensor[0]))))
    finally:
        servable.close()

    lines = day_of(samples)

    packed = zlib.compress(b"\n".join(lines), 9)
    print(f"{len(packed)} bytes a day, {sum(map(len, lines)) / len(lines):.0f} a window")
    assert len(packed) <= 90_000
