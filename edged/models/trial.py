"""The verdict on a candidate that serves live frames. Pure: samples in, verdict out.

What counts against a candidate is what it does itself (errors, outputs that are no numbers, memory
that grows), and what the previous model does better on the same frames. Consecutive frames of a
camera show one scene: 300 frames of video were worth about 2 independent samples, so comparisons
count distinct scenes, and where there are too few of them the trial says `insufficient` instead of
judging. A reference measured elsewhere never rolls back: sites differ.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edged.inference.preprocess import InputSpec

Fingerprint = npt.NDArray[np.float32]

# Two frames show the same scene when their fingerprints differ by less, in grey levels of 0..255.
# Sensor noise and compression move an 8 x 8 mean by about 1; somebody walking in moves it by 10.
SCENE_DISTANCE = 6.0
# Distinct scenes that a comparison needs, and how many are told apart at all.
SCENES_NEEDED = 20
SCENES_KEPT = 64
# The first invokes after a swap are slower: caches, and the weights on their way to an Edge TPU.
WARM_UP_FRAMES = 20
# A 95th percentile of fewer invokes says little.
INVOKES_NEEDED = 50
# Errors in this share of the frames, and at least so many, are no hiccup.
ERROR_SHARE = 0.02
ERRORS_NEEDED = 3
# A class has collapsed when the candidate gives it to so many of the scenes...
COLLAPSED_SHARE = 0.95
# ...that the previous model told apart: it gave no class more than this share of them.
VARIED_SHARE = 0.7
# Less than this is what a busy board makes of any invoke, however many times longer it is.
SLOWER_MS = 1.0
# Memory that grows by more than this from the first quarter of a trial to the last, leaks.
LEAK_BYTES = 20 * 1024 * 1024
_MEMORY_SAMPLES = 240
_MEMORY_NEEDED = 20


@dataclass(frozen=True, slots=True)
class TrialLimits:
    """What a trial asks.

    Attributes:
        frames: that the candidate must serve, at least.
        seconds: that the trial lasts, at least.
        no_frames_s: a trial in which no frame came for so long ends without a verdict.
        p95_ratio: most that the 95th percentile of invoke may grow.
        max_disagreement: most distinct scenes, 0..1, in which the candidate may say something
            else than the previous model; None where the two cannot be compared.
    """

    frames: int = 300
    seconds: float = 60.0
    no_frames_s: float = 3600.0
    p95_ratio: float = 1.5
    max_disagreement: float | None = 0.5


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the trial says at present.

    Attributes:
        outcome: `wait`, `healthy`, `unhealthy`, or `no_frames`.
        reason: slug when unhealthy, else "".
        detail: the same in words.
    """

    outcome: Literal["wait", "healthy", "unhealthy", "no_frames"]
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Pair:
    """What two models say about the same frame.

    Attributes:
        scene: fingerprint of the frame; see `fingerprint`.
        before: what the previous model says: the best class, or the labels seen.
        after: what the candidate says.
        before_digest: of the previous model's raw outputs.
        after_digest: of the candidate's raw outputs.
    """

    scene: Fingerprint
    before: tuple[str, ...]
    after: tuple[str, ...]
    before_digest: int
    after_digest: int


def fingerprint(tensor: npt.NDArray[Any], spec: InputSpec) -> Fingerprint:
    """Return what a scene looks like, coarsely: means of an 8 x 8 grid.

    Args:
        tensor: the model's input, at least 8 x 8 pixels.
        spec: how the image was written into it.

    Returns:
        float32, shape (64,), in levels of 0..255 of the image, but for a constant.
    """
    image = tensor[0].transpose(1, 2, 0) if spec.channels_first else tensor[0]
    rows, columns = spec.height // 8, spec.width // 8
    cells = image[: rows * 8, : columns * 8].reshape(8, rows, 8, columns, -1)
    grid: Fingerprint = cells.mean(axis=(1, 3, 4), dtype=np.float32).reshape(64)
    # Back from (pixel - mean) / std, and from the quantisation where it is not the pixel itself.
    level = float(np.mean(spec.std)) if spec.std else 1.0
    if not spec.tensor.is_float:
        level = level * spec.tensor.scale if spec.std and spec.tensor.scale else 1.0
    grid *= np.float32(level)
    return grid


@dataclass
class TrialWatch:
    """Running statistics of one trial. One thread at a time.

    Attributes:
        limits: what is asked.
        began_mono_s: when the trial began, monotonic seconds.
        p95_before_ms: 95th percentile of the previous model's invoke in the minutes before, or
            None where it is not known.
    """

    limits: TrialLimits
    began_mono_s: float
    p95_before_ms: float | None = None
    frames: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    _last_frame_mono_s: float | None = None
    _invoke_ms: deque[float] = field(default_factory=lambda: deque(maxlen=4096))
    _scenes: list[Pair] = field(default_factory=list)
    _pairs: int = 0
    _memory: list[int] = field(default_factory=list)
    _memory_calls: int = 0
    _memory_every: int = 1

    def served(self, now_mono_s: float, invoke_ms: float) -> None:
        """Record a frame that the candidate ran on and whose outputs made sense."""
        self.frames += 1
        self._last_frame_mono_s = now_mono_s
        if self.frames > WARM_UP_FRAMES:
            self._invoke_ms.append(invoke_ms)

    def failed(self, now_mono_s: float, reason: str) -> None:
        """Record a frame that the candidate failed on."""
        self.errors[reason] += 1
        self._last_frame_mono_s = now_mono_s

    def compared(self, pair: Pair) -> None:
        """Record what both models say about a frame; kept when the scene is a new one."""
        self._pairs += 1
        if len(self._scenes) < SCENES_KEPT and all(
            np.abs(pair.scene - known.scene).mean() >= SCENE_DISTANCE for known in self._scenes
        ):
            self._scenes.append(pair)

    def measured(self, resident_bytes: int) -> None:
        """Record the memory of the process, at even intervals, some times a minute."""
        self._memory_calls += 1
        if self._memory_calls % self._memory_every == 0:
            self._memory.append(resident_bytes)
        if len(self._memory) == _MEMORY_SAMPLES:
            # Twice as coarse over the same span, and as even.
            del self._memory[::2]
            self._memory_every *= 2

    def verdict(self, now_mono_s: float) -> Verdict:
        """Say how the trial stands.

        Args:
            now_mono_s: monotonic seconds.
        """
        trouble = self._own_trouble() or self._collapse() or self._frozen()
        if trouble is not None:
            return trouble
        lasted_s = now_mono_s - self.began_mono_s
        if self.frames < self.limits.frames or lasted_s < self.limits.seconds:
            return self._wait(now_mono_s)
        return self._slow() or self._leak() or self._disagreement() or Verdict("healthy")

    def health(self) -> dict[str, object]:
        """Return the figures behind the verdict, for the deployment's result."""
        compared: dict[str, object] = {"pairs": self._pairs, "scenes": len(self._scenes)}
        if len(self._scenes) < SCENES_NEEDED:
            compared["verdict"] = "insufficient"
        else:
            compared["disagreement"] = round(self._disagreeing(), 3)
        return {
            "frames": self.frames,
            "errors": dict(self.errors),
            "p95_ms": _rounded(self._p95_ms()),
            "p95_before_ms": _rounded(self.p95_before_ms),
            "compared": compared,
        }

    def _wait(self, now_mono_s: float) -> Verdict:
        quiet_s = now_mono_s - (self._last_frame_mono_s or self.began_mono_s)
        if quiet_s >= self.limits.no_frames_s:
            return Verdict("no_frames", "no_frames", f"no frame came for {quiet_s:.0f} s")
        return Verdict("wait")

    def _own_trouble(self) -> Verdict | None:
        count = sum(self.errors.values())
        total = count + self.frames
        if count < ERRORS_NEEDED or count < ERROR_SHARE * total:
            return None
        reason, most = self.errors.most_common(1)[0]
        detail = f"{count} of {total} frames failed, {most} of them with {reason}"
        if reason == "output_not_finite":
            return Verdict("unhealthy", "trial_not_finite", detail)
        return Verdict("unhealthy", "trial_errors", detail)

    def _p95_ms(self) -> float | None:
        if not self._invoke_ms:
            return None
        return float(np.percentile(np.array(self._invoke_ms), 95))

    def _slow(self) -> Verdict | None:
        now_ms, before_ms = self._p95_ms(), self.p95_before_ms
        if (
            len(self._invoke_ms) < INVOKES_NEEDED
            or now_ms is None
            or not before_ms
            or now_ms <= before_ms + SLOWER_MS
        ):
            return None
        if now_ms <= before_ms * self.limits.p95_ratio:
            return None
        return Verdict(
            "unhealthy",
            "trial_slow",
            f"95 % of invokes within {now_ms:.1f} ms, against {before_ms:.1f} ms before:"
            f" more than {self.limits.p95_ratio:g} times",
        )

    def _leak(self) -> Verdict | None:
        if len(self._memory) < _MEMORY_NEEDED:
            return None
        used = np.array(self._memory, np.float64)
        steps = np.diff([np.median(part) for part in np.array_split(used, 4)])
        grown_bytes = float(steps.sum())
        # A leak grows all the time; a step is something that was loaded once.
        if grown_bytes < LEAK_BYTES or steps.min() < grown_bytes / 6:
            return None
        return Verdict(
            "unhealthy", "trial_leak", f"memory grew by {grown_bytes / 1e6:.0f} MB in the trial"
        )

    def _collapse(self) -> Verdict | None:
        if len(self._scenes) < SCENES_NEEDED:
            return None
        after, count = Counter(pair.after for pair in self._scenes).most_common(1)[0]
        _, before_count = Counter(pair.before for pair in self._scenes).most_common(1)[0]
        scenes = len(self._scenes)
        if count < COLLAPSED_SHARE * scenes or before_count > VARIED_SHARE * scenes:
            return None
        return Verdict(
            "unhealthy",
            "trial_collapsed",
            f"it says {', '.join(after) or 'nothing'} in {count} of {scenes} distinct scenes",
        )

    def _frozen(self) -> Verdict | None:
        """Outputs that stay the same to the last bit while the picture and the old model change."""
        if len(self._scenes) < SCENES_NEEDED:
            return None
        after = {pair.after_digest for pair in self._scenes}
        before = {pair.before_digest for pair in self._scenes}
        if len(after) > 1 or len(before) == 1:
            return None
        scenes = len(self._scenes)
        return Verdict(
            "unhealthy", "trial_frozen", f"its outputs are the same in {scenes} distinct scenes"
        )

    def _disagreeing(self) -> float:
        return sum(pair.before != pair.after for pair in self._scenes) / len(self._scenes)

    def _disagreement(self) -> Verdict | None:
        limit = self.limits.max_disagreement
        if limit is None or len(self._scenes) < SCENES_NEEDED or self._disagreeing() <= limit:
            return None
        return Verdict(
            "unhealthy",
            "trial_disagrees",
            f"it says something else than the previous model in {self._disagreeing():.0%} of"
            f" {len(self._scenes)} distinct scenes, more than {limit:.0%}",
        )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
