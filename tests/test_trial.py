"""The verdict on a candidate: what rolls it back, and what must not."""

import numpy as np
import pytest

from edged.inference.preprocess import InputSpec, Preprocessor
from edged.inference.tensors import TensorSpec
from edged.models.trial import (
    LEAK_BYTES,
    SCENES_NEEDED,
    WARM_UP_FRAMES,
    Pair,
    TrialLimits,
    TrialWatch,
    fingerprint,
)

RNG = np.random.default_rng(7)
SHORT = TrialLimits(frames=40, seconds=10.0)


def watch(limits: TrialLimits = SHORT, p95_before_ms: float | None = 8.0) -> TrialWatch:
    return TrialWatch(limits, began_mono_s=100.0, p95_before_ms=p95_before_ms)


def serve(
    trial: TrialWatch, frames: int = 100, invoke_ms: float = 8.0, step_s: float = 0.2
) -> float:
    """Serve frames in a row; return the time after the last."""
    now = 100.0
    for _ in range(frames):
        now += step_s
        trial.served(now, invoke_ms)
    return now


def scene(number: int) -> np.ndarray:
    return np.random.default_rng(number).uniform(0, 255, 64).astype(np.float32)


def compare(trial: TrialWatch, said, scenes: int = SCENES_NEEDED) -> None:
    """`said(i)` gives before, after and the two digests of scene i."""
    for i in range(scenes):
        before, after, *digests = said(i)
        trial.compared(Pair(scene(i), before, after, *(digests or (i, i + 1000))))


def test_a_healthy_candidate_waits_for_frames_and_for_time() -> None:
    trial = watch()
    assert trial.verdict(100.0).outcome == "wait"
    now = serve(trial, frames=39)
    assert trial.verdict(now + 100).outcome == "wait", "too few frames"
    trial.served(now, 8.0)
    assert trial.verdict(109.9).outcome == "wait", "too early"
    assert trial.verdict(110.0).outcome == "healthy"


def test_without_frames_there_is_no_verdict_at_all() -> None:
    trial = watch(TrialLimits(frames=40, seconds=10.0, no_frames_s=60.0))
    trial.served(130.0, 8.0)

    assert trial.verdict(189.0).outcome == "wait"
    verdict = trial.verdict(190.0)
    assert (verdict.outcome, verdict.reason) == ("no_frames", "no_frames")


@pytest.mark.parametrize(
    ("reason", "slug"),
    [("invoke_failed", "trial_errors"), ("output_not_finite", "trial_not_finite")],
)
def test_errors_end_the_trial_at_once_and_a_hiccup_does_not(reason, slug) -> None:
    trial = watch()
    serve(trial, frames=10)
    for _ in range(2):
        trial.failed(103.0, reason)
        assert trial.verdict(103.0).outcome == "wait"
    trial.failed(103.0, reason)
    assert (trial.verdict(103.0).outcome, trial.verdict(103.0).reason) == ("unhealthy", slug)

    rare = watch()
    serve(rare, frames=400)
    for _ in range(4):
        rare.failed(180.0, reason)
    assert rare.verdict(180.0).outcome == "healthy", "4 in 404 are below the share"


def test_slow_is_judged_against_the_previous_model_and_not_while_it_warms_up() -> None:
    trial = watch()
    serve(trial, frames=WARM_UP_FRAMES, invoke_ms=500.0)
    now = serve(trial, frames=100, invoke_ms=11.9)
    assert trial.verdict(now).outcome == "healthy", "1.49 times"

    trial = watch()
    assert trial.verdict(serve(trial, invoke_ms=12.2)).reason == "trial_slow"

    unknown = watch(p95_before_ms=None)
    assert unknown.verdict(serve(unknown, invoke_ms=900.0)).outcome == "healthy"


def test_a_leak_is_a_line_and_not_a_step_or_noise() -> None:
    def after(memory) -> str:
        trial = watch()
        now = serve(trial)
        for i in range(600):
            trial.measured(int(memory(i)))
        return trial.verdict(now).reason

    noise = RNG.normal(0, 2e6, 600)
    assert after(lambda i: 80e6 + noise[i]) == ""
    assert after(lambda i: 80e6 + noise[i] + i * LEAK_BYTES / 300) == "trial_leak"
    for step in (10, 200, 300, 450):
        loaded = after(lambda i: 80e6 + noise[i] + (60e6 if i > step else 0))  # noqa: B023
        assert loaded == "", "something was loaded once"
    assert after(lambda i: 80e6 + i * LEAK_BYTES / 2000) == "", "too little to tell"


def labels(*names: str) -> list[tuple[str, ...]]:
    return [(name,) for name in names]


def test_a_class_collapse_is_seen_against_the_previous_model() -> None:
    varied = labels("cat", "dog", "fox", "owl")
    trial = watch()
    now = serve(trial, frames=10)
    compare(trial, lambda i: (varied[i % 4], ("cat",)))

    verdict = trial.verdict(now)

    assert (verdict.outcome, verdict.reason) == ("unhealthy", "trial_collapsed")
    assert "cat in 20 of 20" in verdict.detail


def test_an_empty_yard_at_night_is_no_collapse() -> None:
    trial = watch()
    compare(trial, lambda i: (("empty",), ("empty",)), scenes=50)

    assert trial.verdict(serve(trial)).outcome == "healthy"


def test_one_scene_a_thousand_times_is_one_scene() -> None:
    """A still camera: whatever the models say, there is nothing to judge by."""
    trial = watch()
    still = scene(1)
    for _ in range(1000):
        noisy = still + RNG.normal(0, 2.0, 64).astype(np.float32)
        trial.compared(Pair(noisy, ("cat",), ("dog",), 1, 2))

    assert trial.verdict(serve(trial)).outcome == "healthy"
    assert trial.health()["compared"] == {"pairs": 1000, "scenes": 1, "verdict": "insufficient"}


@pytest.mark.parametrize(
    ("limit", "different", "outcome"),
    [(0.5, 10, "healthy"), (0.5, 11, "unhealthy"), (None, 20, "healthy"), (0.0, 1, "unhealthy")],
)
def test_disagreement_beyond_the_limit(limit, different, outcome) -> None:
    names = labels("cat", "dog", "fox", "owl")
    trial = watch(TrialLimits(frames=40, seconds=10.0, max_disagreement=limit))

    def said(i: int):
        return names[i % 4], names[(i + (i < different)) % 4]

    compare(trial, said)
    verdict = trial.verdict(serve(trial))

    assert verdict.outcome == outcome
    assert verdict.reason in ("", "trial_disagrees")


def test_frozen_outputs_are_seen_while_the_previous_model_s_move() -> None:
    one = ("cat",)
    frozen = watch()
    compare(frozen, lambda i: (one, one, i, 7))
    assert frozen.verdict(serve(frozen)).reason == "trial_frozen"

    both = watch()  # e.g. a detector that sees nothing, before and after
    compare(both, lambda i: ((), (), 3, 7))
    assert both.verdict(serve(both)).outcome == "healthy"


def test_too_few_scenes_are_said_and_not_judged() -> None:
    trial = watch()
    compare(trial, lambda i: (("cat",), ("dog",), i, 7), scenes=SCENES_NEEDED - 1)

    assert trial.verdict(serve(trial)).outcome == "healthy"
    assert trial.health()["compared"]["verdict"] == "insufficient"


def test_the_figures_behind_the_verdict() -> None:
    trial = watch()
    compare(trial, lambda i: (("cat",), ("cat" if i else "dog",)))
    serve(trial, invoke_ms=6.0)
    trial.failed(130.0, "invoke_failed")

    assert trial.health() == {
        "frames": 100,
        "errors": {"invoke_failed": 1},
        "p95_ms": 6.0,
        "p95_before_ms": 8.0,
        "compared": {"pairs": 20, "scenes": 20, "disagreement": 0.05},
    }


@pytest.mark.parametrize(
    "spec",
    [
        InputSpec(TensorSpec("i", 0, (1, 96, 100, 3), "uint8", 1 / 128, 128)),
        InputSpec(TensorSpec("i", 0, (1, 96, 100, 3), "int8", 1 / 128, 0)),
        InputSpec(
            TensorSpec("i", 0, (1, 96, 100, 3), "int8", 0.02, -10), mean=(120.0,), std=(58.0,)
        ),
        InputSpec(TensorSpec("i", 0, (1, 96, 100, 3), "float32"), mean=(127.5,), std=(127.5,)),
        InputSpec(TensorSpec("i", 0, (1, 3, 96, 100), "float32"), mean=(0.0,), std=(255.0,)),
        InputSpec(TensorSpec("i", 0, (1, 96, 100, 1), "float32")),
    ],
    ids=["uint8", "int8", "normalised", "float", "channels first", "grey"],
)
def test_fingerprints_tell_scenes_apart_and_not_noise(spec: InputSpec) -> None:
    """The same levels, whatever the model's input is like."""
    preprocessor = Preprocessor(spec)

    def seen(image: np.ndarray) -> np.ndarray:
        tensor = next(preprocessor.slots())
        preprocessor.write(np.clip(image, 0, 255).astype(np.uint8), "rgb", tensor)
        return fingerprint(tensor, spec)

    yard = np.full((96, 100, 3), 90.0)
    visitor = yard.copy()
    visitor[24:96, 36:60] = 190.0
    prints = [seen(yard), seen(yard + RNG.normal(0, 8.0, yard.shape)), seen(visitor)]
    trial = watch()
    for number, each in enumerate(prints):
        trial.compared(Pair(each, (str(number),), (str(number),), 0, 0))

    assert all(each.shape == (64,) for each in prints)
    assert trial.health()["compared"] == {"pairs": 3, "scenes": 2, "verdict": "insufficient"}
    step = np.abs(prints[2] - prints[0]).max()
    assert step == pytest.approx(100.0, abs=2.0), "levels of the image"


def test_a_long_trial_keeps_few_and_even_samples_of_memory() -> None:
    trial = watch()
    for i in range(10_000):
        trial.measured(i)

    gaps = set(np.diff(trial._memory))
    assert len(trial._memory) < 240
    assert len(gaps) == 1
