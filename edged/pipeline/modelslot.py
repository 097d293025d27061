"""The place of a named model: which servable runs now, and when an old one may be freed."""

from __future__ import annotations

import threading
from collections.abc import Callable

from edged.errors import EdgedError, Trouble
from edged.inference.servable import Servable
from edged.models.examination import Examination
from edged.pipeline.bell import Bell, Errand
from edged.pipeline.counters import Times
from edged.pipeline.trial import LiveTrial

# A single failed invoke may be a hiccup; as many as this in a row are a broken accelerator.
_FAILURES_IN_A_ROW = 3


class ModelSlot:
    """One configured model.

    `current` is read by the inference thread once per frame, so a swap is one assignment between
    two frames. `trial` is set while `current` is a candidate on trial, and `invoke` are the latest
    times of what served before. Whoever replaces `current` holds `changing`.

    Args:
        name: the configured name.
        bell: of the inference thread that runs this model.
        invoke_limit_s: an invoke that takes longer is stuck; seconds.
    """

    def __init__(self, name: str, bell: Bell, invoke_limit_s: float = 10.0) -> None:
        self.name = name
        self.invoke_limit_s = invoke_limit_s
        self.current: Servable | None = None
        self._bell = bell
        self.changing = threading.Lock()
        self.invoke = Times()
        self.trial: LiveTrial | None = None
        self._in_use: Servable | None = None
        self._turns = 0
        self._failures = 0
        self._not_run: Trouble | None = None
        self._not_read: Trouble | None = None

    @property
    def trouble(self) -> Trouble | None:
        """Why the model gives no predictions at present, or None."""
        return self._not_run or self._not_read

    def begin(self) -> Servable | None:
        """Return the servable for the next frame and mark it in use. The caller holds the lock."""
        self._in_use = self.current
        return self._in_use

    def end(self) -> None:
        """Say that the servable of `begin` is no longer touched. Inference thread only."""
        with self._bell.lock:
            self._in_use = None
            self._turns += 1
            self._bell.idle.notify_all()

    def swap(self, servable: Servable | None, timeout_s: float) -> Servable | None:
        """Put another servable in place and wait until the old one is out of use.

        Returns:
            The old servable, for the caller to close; None when there was none, or when it is
            still inside invoke after `timeout_s`: it must then be left alone.
        """
        with self._bell.lock:
            old, self.current = self.current, servable
            if servable is not None:
                self._failures, self._not_run, self._not_read = 0, None, None
            idle = self._bell.idle.wait_for(
                lambda: old is None or self._in_use is not old, timeout_s
            )
        return old if idle else None

    def set_trial(self, trial: LiveTrial | None, timeout_s: float) -> bool:
        """Begin or end a trial and wait until no thread is inside the one before.

        Returns:
            Whether that came within `timeout_s`: only then may what it held be freed.
        """
        with self._bell.lock:
            self.trial = trial
            turn = self._turns
            return self._bell.idle.wait_for(
                lambda: self._in_use is None or self._turns != turn, timeout_s
            )

    def examine(
        self, sha256: str, examination: Examination, canceled: Callable[[], bool], let_go_s: float
    ) -> tuple[bool, EdgedError | None]:
        """Have the inference thread put all questions to a candidate, one between two frames.

        Args:
            sha256: of the candidate, which must not be `current`.
            examination: of it.
            canceled: asked all the time; true gives up.
            let_go_s: how long to wait then for the question under way.

        Returns:
            Whether the candidate is out of use, and what ended the examination early.
        """
        failed: list[EdgedError] = []

        def step() -> bool:
            try:
                examination.ask()
            except EdgedError as error:
                failed.append(error)
            return not failed and examination.next is not None

        idle = self._bell.send(Errand(sha256, self.invoke_limit_s, step), canceled, let_go_s)
        return idle, failed[0] if failed else None

    def ran(self) -> None:
        """Record an invoke that went well. Inference thread only."""
        if self._not_run is not None:
            self._failures = 0
            self._not_run = None

    def did_not_run(self, error: EdgedError) -> None:
        """Record an invoke, or a load, that failed. Whoever tried; never two at a time."""
        self._failures += 1
        self._not_run = Trouble.of(error)

    def was_read(self) -> None:
        """Record outputs that made sense. Publisher thread only."""
        self._not_read = None

    def was_not_read(self, error: EdgedError) -> None:
        """Record outputs that made no sense. Publisher thread only."""
        self._not_read = Trouble.of(error)

    @property
    def broken(self) -> bool:
        """Whether so many invokes failed in a row that the model should be loaded again."""
        return self._failures >= _FAILURES_IN_A_ROW
