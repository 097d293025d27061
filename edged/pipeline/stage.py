"""Where models change places: a candidate comes on beside what runs, stays, or goes again.

One caller at a time for each model, on a thread that may wait: loading takes seconds, and what is
replaced is freed only after the inference thread has let go of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from edged.errors import AcceleratorError, DeviceError, EdgedError
from edged.inference.servable import Servable
from edged.models.examination import Examination
from edged.models.trial import INVOKES_NEEDED, TrialLimits, TrialWatch, Verdict
from edged.pipeline.counters import Times
from edged.pipeline.modelslot import ModelSlot
from edged.pipeline.trial import LiveTrial

# How long to wait for the inference thread to let go, and for a recovery that loads.
_LET_GO_S = 30.0
_CHANGING_S = 150.0
_SAME_LABELS_DISAGREEMENT = 0.5

Load = Callable[[], Servable]
Examine = Callable[[Servable], Examination | None]


class Stage:
    """The model slots, as updates see them.

    Args:
        slots: by model name.
    """

    def __init__(self, slots: Mapping[str, ModelSlot]) -> None:
        self._slots = slots
        self._previous: dict[str, Servable] = {}

    def try_out(
        self,
        name: str,
        load: Load,
        limits: TrialLimits,
        *,
        alone: bool,
        examine: Examine = lambda _: None,
        canceled: Callable[[], bool] = lambda: False,
    ) -> None:
        """Load a candidate and let it serve, on trial.

        Args:
            name: of the model.
            load: loads the candidate.
            limits: what is asked; without `max_disagreement` the labels decide about it.
            alone: the accelerator has no room for two: what runs is freed first, and frames are
                counted as `no_model` until the candidate serves.
            examine: what the loaded candidate is asked on the inference thread before it serves;
                None for nothing.
            canceled: asked while it is examined; true gives up.

        Raises:
            EdgedError: from `load`, `examine` and the examination; what ran before goes on,
                unless it had to be freed.
            DeviceError: `validation_canceled`.
            AcceleratorError: `model_busy`.
        """
        slot = self._slots[name]
        with _Changing(slot):
            p95_ms = _p95_ms(slot)
            if alone:
                self._free(slot)
            candidate = load()
            golden = _examined(slot, candidate, examine, canceled)
            previous = slot.current
            agreed = limits
            if limits.max_disagreement is None and previous is not None:
                # In whatever order: what is compared are names, and swapped ones are to be found.
                same = set(candidate.labels) == set(previous.labels)
                agreed = replace(
                    limits, max_disagreement=_SAME_LABELS_DISAGREEMENT if same else None
                )
            watch = TrialWatch(agreed, time.monotonic(), p95_ms)
            trial = LiveTrial(candidate, watch, previous, golden=golden)
            if previous is not None:
                self._previous[name] = previous
            slot.swap(candidate, _LET_GO_S)
            slot.set_trial(trial, _LET_GO_S)

    def verdict(self, name: str) -> tuple[Verdict, dict[str, object]]:
        """Return how the trial of a model stands, and the figures behind it."""
        slot = self._slots[name]
        trial = slot.trial
        if trial is None:
            raise AssertionError(f"{name} is not on trial")
        verdict, trouble = trial.verdict(), slot.trouble
        if verdict.outcome != "unhealthy" and slot.broken and trouble is not None:
            # By the device's fault, or the trial had said so: nothing more can be learnt.
            verdict = Verdict("no_frames", trouble.reason, trouble.detail)
        return verdict, trial.health()

    def measured(self, name: str, resident_bytes: int) -> None:
        """Record the memory of the process for the trial of a model."""
        trial = self._slots[name].trial
        if trial is not None:
            trial.measured(resident_bytes)

    def commit(self, name: str) -> None:
        """End the trial; the candidate stays, and what ran before is freed."""
        slot = self._slots[name]
        with _Changing(slot):
            idle = slot.set_trial(None, _LET_GO_S)
            slot.invoke = Times()
            previous = self._previous.pop(name, None)
            if previous is not None and idle:
                previous.close()

    def restore(self, name: str, sha256: str | None, load: Load, *, alone: bool) -> None:
        """Let a version serve that is not on trial: at once where it is still loaded.

        Args:
            name: of the model.
            sha256: of the version; None for no model at all.
            load: loads that version.
            alone: whether what runs must be freed first.

        Raises:
            EdgedError: from `load`.
            AcceleratorError: `model_busy`.
        """
        slot = self._slots[name]
        with _Changing(slot):
            idle = slot.set_trial(None, _LET_GO_S)
            previous = self._previous.pop(name, None)
            if previous is not None and previous.id.sha256 != sha256:
                if idle:
                    previous.close()
                previous = None
            if previous is not None:
                self._replace(slot, previous)
                return
            current = slot.current
            if current is not None and current.id.sha256 == sha256:
                return
            if alone or sha256 is None:
                self._free(slot)
            if sha256 is not None:
                self._replace(slot, load())
            slot.invoke = Times()

    def give_up(self, name: str) -> None:
        """End a trial for a reload: what ran before stands in its place again, the rest is freed.

        Only while no thread runs models.
        """
        slot = self._slots[name]
        slot.trial = None
        previous = self._previous.pop(name, None)
        if previous is not None:
            self._replace(slot, previous)

    def _replace(self, slot: ModelSlot, servable: Servable) -> None:
        old = slot.swap(servable, _LET_GO_S)
        if old is not None:
            old.close()

    def _free(self, slot: ModelSlot) -> None:
        current = slot.current
        old = slot.swap(None, _LET_GO_S)
        if old is not None:
            old.close()
        elif current is not None:
            raise _busy(slot)


class _Changing:
    """Keeps the recovery away from a slot."""

    def __init__(self, slot: ModelSlot) -> None:
        self._slot = slot

    def __enter__(self) -> None:
        if not self._slot.changing.acquire(timeout=_CHANGING_S):
            raise _busy(self._slot)

    def __exit__(self, *_: object) -> None:
        self._slot.changing.release()


def _examined(
    slot: ModelSlot, candidate: Servable, examine: Examine, canceled: Callable[[], bool]
) -> str:
    """Return how well a candidate agrees with its golden set; one that does not is freed."""
    idle = True
    try:
        examination = examine(candidate)
        if examination is None:
            return ""
        idle, error = slot.examine(candidate.id.sha256, examination, canceled, _LET_GO_S)
        if error is not None:
            raise error
        if examination.next is not None:
            raise DeviceError("validation_canceled", "the examination of the model was given up")
        return examination.conclude()
    except EdgedError:
        if idle:
            candidate.close()
        raise


def _busy(slot: ModelSlot) -> AcceleratorError:
    return AcceleratorError("model_busy", f"model {slot.name} does not come to rest")


def _p95_ms(slot: ModelSlot) -> float | None:
    """Return the 95th percentile of what serves; None where too little is known."""
    return slot.invoke.percentiles_ms()["p95"] if slot.invoke.count >= INVOKES_NEEDED else None
