"""A candidate on trial, as the threads of the pipeline see it.

The inference thread runs the previous model beside it on some of the frames, the publisher thread
reports what came of each frame, and whoever decides asks for the verdict.
"""

from __future__ import annotations

import threading
import time
import zlib
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from edged.errors import EdgedError, ReleaseError
from edged.inference.preprocess import Geometry, InputSpec
from edged.inference.servable import Outputs, Servable
from edged.models.trial import Fingerprint, Pair, TrialWatch, Verdict, fingerprint
from edged.prediction import essence


@dataclass(frozen=True, slots=True)
class Beside:
    """What the previous model made of a frame, and what the frame looked like."""

    servable: Servable
    outputs: Outputs
    scene: Fingerprint


class LiveTrial:
    """Feeds the statistics of one trial.

    Args:
        candidate: what serves.
        watch: the statistics, and the rules.
        previous: the model before, still loaded; None where memory or the accelerator has no room
            for two: then nothing is compared.
        every: the previous model runs on one frame in so many.
        golden: how well the candidate agreed with its golden set just before, in words; "" where
            it was not asked here.
    """

    def __init__(
        self,
        candidate: Servable,
        watch: TrialWatch,
        previous: Servable | None,
        every: int = 10,
        *,
        golden: str = "",
    ) -> None:
        self.candidate = candidate
        self.not_compared = _why_not(candidate, previous)
        self._previous = None if self.not_compared else previous
        self._every = every
        self._golden = golden
        self._frames = 0
        self._watch = watch
        self._lock = threading.Lock()

    @property
    def previous_sha256(self) -> str:
        """Digest of the model that runs beside, "" without one."""
        previous = self._previous
        return "" if previous is None else previous.id.sha256

    def beside(self, tensor: npt.NDArray[Any], spec: InputSpec) -> Beside | None:
        """Run the previous model on a frame whose turn it is. Inference thread only.

        Args:
            tensor: the input that the candidate ran on.
            spec: what it was written for.
        """
        self._frames += 1
        previous = self._previous
        if previous is None or self._frames % self._every:
            return None
        if not spec.same_pixels(previous.input):
            return None
        try:
            outputs = previous.infer(tensor)
        except EdgedError as error:
            # The candidate is not to blame, and goes on without a comparison.
            self._previous = None
            self.not_compared = error.reason
            return None
        return Beside(previous, outputs, fingerprint(tensor, spec))

    def served(self, outputs: Outputs) -> None:
        """Record a frame whose outputs made sense. Publisher thread only."""
        with self._lock:
            self._watch.served(time.monotonic(), outputs.invoke_s * 1000.0)

    def compared(self, outputs: Outputs, place: Geometry, beside: Beside) -> bool | None:
        """Record what both models say about a frame, where both make sense. Publisher thread only.

        Args:
            outputs: of the candidate.
            place: of the frame in its input.
            beside: of the previous model.

        Returns:
            Whether they say the same; None where one of them makes no sense.
        """
        try:
            before = beside.servable.decode(beside.outputs, place)
            after = self.candidate.decode(outputs, place)
        except EdgedError:
            return None
        pair = Pair(
            beside.scene, essence(before), essence(after), _digest(beside.outputs), _digest(outputs)
        )
        with self._lock:
            self._watch.compared(pair)
        return pair.before == pair.after

    def failed(self, error: EdgedError) -> None:
        """Record a frame that gave nothing, unless this device is at fault."""
        if isinstance(error, ReleaseError):
            with self._lock:
                self._watch.failed(time.monotonic(), error.reason)

    def measured(self, resident_bytes: int) -> None:
        """Record the memory of the process."""
        with self._lock:
            self._watch.measured(resident_bytes)

    def verdict(self) -> Verdict:
        """Say how the trial stands."""
        with self._lock:
            return self._watch.verdict(time.monotonic())

    def health(self) -> dict[str, object]:
        """Return the figures behind the verdict."""
        with self._lock:
            health = self._watch.health()
        if self._golden:
            health["golden"] = self._golden
        if self.not_compared:
            health["compared"] = {"verdict": "insufficient", "reason": self.not_compared}
        return health


def _why_not(candidate: Servable, previous: Servable | None) -> str:
    """Return why two models cannot be compared frame by frame, or "" where they can."""
    if previous is None:
        return "no_room"
    if not candidate.input.same_pixels(previous.input):
        return "other_input"
    if previous.states or previous.keeps_state:
        return "recurrent"  # it would see one frame in many, and remember another scene
    if min(candidate.input.height, candidate.input.width) < 8:
        return "small_input"
    return ""


def _digest(outputs: Outputs) -> int:
    crc = 0
    for array in outputs.arrays:
        crc = zlib.crc32(array.tobytes(), crc)
    return crc
