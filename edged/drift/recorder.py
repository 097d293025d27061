"""Inferences in, windows out: for each camera one window at a time, of one subject. Pure.

A window lasts by the monotonic clock, whatever the wall clock does meanwhile, and ends early where
the subject becomes another one: no window mixes two models, runtimes or accelerators.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from edged.drift.folding import Folding
from edged.drift.signals import Confidence, Gray, look
from edged.drift.window import Subject, Tally, Window

# Slewing a clock moves it by half a millisecond a second; more than this has been a step.
_JUMP_S = 2.0
_LATEST_MS = 253_402_300_799_000  # the end of the year 9999
_LEAST_SIDE = 3

Tau = Callable[[Sequence[float]], float | None]


@dataclass(frozen=True, slots=True)
class Seen:
    """One inference, as the publisher hands it over.

    Attributes:
        subject: camera and model.
        trial: whether the model is on trial.
        invoke_ms: time inside the model.
        best: number of the best class; None where the outputs made no sense.
        confidence: of a sampled inference, else None.
        sketch: of its picture, else None.
    """

    subject: Subject
    trial: bool
    invoke_ms: float
    best: int | None
    confidence: Confidence | None = None
    sketch: Gray | None = None


@dataclass(frozen=True, slots=True)
class Pair:
    """An inference on which the model before a trial was asked as well."""

    subject: Subject
    disagreed: bool


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a camera's counters say, since the daemon started.

    Attributes:
        frames: captured.
        dropped: frames that no model saw.
        failed: frames that the model failed on.
    """

    frames: int
    dropped: int
    failed: int


@dataclass(frozen=True, slots=True)
class Instant:
    """Now: monotonic seconds, and Unix time in ms as the clock stands."""

    mono_s: float
    unix_ms: int


@dataclass(frozen=True, slots=True)
class Ended:
    """A window that has ended.

    Attributes:
        window: it.
        jumped_s: by how much the clock was set meanwhile; 0 where it was not.
        spoilt: sampled inferences that were NaN or infinite, and are in no histogram.
    """

    window: Window
    jumped_s: float
    spoilt: int


@dataclass(frozen=True, slots=True)
class Minute:
    """What was counted since the last one: for what must be told within minutes.

    Attributes:
        subject: whose.
        tally: of the time; its frames are not counted.
        at_ms: Unix time in ms at its end.
        synchronised: whether the clock was known to be right.
    """

    subject: Subject
    tally: Tally
    at_ms: int
    synchronised: bool


@dataclass(slots=True)
class _Open:
    """A window under way."""

    subject: Subject
    trial: bool
    began: Instant
    before: Traffic
    folding: Folding
    minute: Folding
    minute_mono_s: float
    spoilt: int = 0


class Recorder:
    """The windows of a device. One thread.

    Args:
        device: its id.
        boot: of this start.
        window_s: how long a window lasts.
        minute_s: how long a minute lasts.
        traffic: returns the counters of a camera.
        now: the clocks.
        synchronised: whether the wall clock is known to be right; asked at the end of windows and
            minutes.
        tau: the autocorrelation time of a course of scores, in samples.
    """

    def __init__(
        self,
        device: str,
        boot: str,
        window_s: float,
        minute_s: float,
        *,
        traffic: Callable[[str], Traffic],
        now: Callable[[], Instant],
        synchronised: Callable[[], bool],
        tau: Tau,
    ) -> None:
        self._device, self._boot = device, boot
        self._window_s, self._minute_s = window_s, minute_s
        self._traffic = traffic
        self._now = now
        self._synchronised = synchronised
        self._tau = tau
        self._open: dict[str, _Open] = {}
        self._seq = 0

    def add(self, seen: Seen) -> Ended | None:
        """Count an inference; return the window that ended before it."""
        camera = seen.subject.camera
        window, ended = self._open.get(camera), None
        if window is not None and (window.subject, window.trial) != (seen.subject, seen.trial):
            ended = self._end(window, whole=False)
            before = window.before if ended is None else self._traffic(camera)
            window = None
        elif window is None:
            before = Traffic(0, 0, 0)  # since the daemon started
        if window is None:
            now = self._now()
            window = _Open(seen.subject, seen.trial, now, before, Folding(), Folding(), now.mono_s)
            self._open[camera] = window
        self._fold(window, seen)
        return ended

    def _fold(self, window: _Open, seen: Seen) -> None:
        if seen.best is None:
            window.folding.unread()
            window.minute.unread()
            return
        window.folding.inferred_one(seen.invoke_ms, seen.best)
        window.minute.inferred_one(seen.invoke_ms, seen.best)
        confidence, sketch = seen.confidence, seen.sketch
        if confidence is None or sketch is None or min(sketch.shape) < _LEAST_SIDE:
            return
        looked = look(sketch)
        window.spoilt += not window.folding.sampled(confidence, looked)
        window.minute.sampled(confidence, looked)

    def compare(self, pair: Pair) -> None:
        """Count a comparison, which comes after its inference."""
        window = self._open.get(pair.subject.camera)
        if window is not None and window.trial and window.subject == pair.subject:
            window.folding.paired(disagreed=pair.disagreed)

    def minutes(self) -> Iterator[Minute]:
        """Yield what the minutes that are over have counted; none of a model on trial."""
        for window in self._open.values():
            now = self._now()
            if now.mono_s - window.minute_mono_s < self._minute_s:
                continue
            folding, window.minute = window.minute, Folding()
            window.minute_mono_s = now.mono_s
            if not window.trial:
                tally = folding.tally(frames=0, dropped=0, failed=0)
                yield Minute(window.subject, tally, now.unix_ms, self._synchronised())

    def due(self) -> Iterator[Ended]:
        """Yield the windows whose time is over; without a frame as well: that is worth knowing."""
        for camera, window in self._open.items():
            if self._now().mono_s - window.began.mono_s < self._window_s:
                continue
            ended = self._end(window, whole=True)
            window.began, window.before = self._now(), self._traffic(camera)
            window.folding, window.spoilt = Folding(), 0
            if ended is not None:
                yield ended

    def close(self) -> Iterator[Ended]:
        """Yield the windows under way, short as they are: nothing comes any more."""
        while self._open:
            _, window = self._open.popitem()
            ended = self._end(window, whole=False)
            if ended is not None:
                yield ended

    def _end(self, window: _Open, *, whole: bool) -> Ended | None:
        """Return a window's record; None for a beginning in which nothing came to a model."""
        if not whole and not window.folding.inferred:
            return None
        now, began = self._now(), window.began
        seconds = now.mono_s - began.mono_s
        jumped_s = (now.unix_ms - began.unix_ms) / 1000 - seconds
        synchronised = self._synchronised()
        # A clock that was set meanwhile knows better now when the window began.
        began_ms = now.unix_ms - round(seconds * 1000) if synchronised else began.unix_ms
        after, before = self._traffic(window.subject.camera), window.before
        self._seq += 1
        return Ended(
            Window(
                device=self._device,
                boot=self._boot,
                seq=self._seq,
                began_ms=min(max(began_ms, 0), _LATEST_MS),
                seconds=seconds,
                synchronised=synchronised,
                subject=window.subject,
                trial=window.trial,
                tally=window.folding.tally(
                    frames=after.frames - before.frames,
                    dropped=after.dropped - before.dropped,
                    failed=after.failed - before.failed,
                ),
                tau=self._tau(window.folding.series),
            ),
            jumped_s if abs(jumped_s) > _JUMP_S else 0.0,
            window.spoilt,
        )
