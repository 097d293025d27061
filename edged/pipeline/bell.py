"""What the threads around one inference thread wait for, under one lock.

Separate conditions, so that a wake-up never goes to a thread that waits for something else.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

_ASKED_S = 0.1  # between two looks at whether somebody still waits


class Errand:
    """Work for the inference thread beside frames, a step at a time, a frame's turn each.

    Attributes:
        sha256: of the model that it runs.
        limit_s: a step that takes longer is stuck; seconds.
        step: does the next piece; returns whether there is more. Must not raise.
        under_way: whether the thread is inside `step`.
    """

    def __init__(self, sha256: str, limit_s: float, step: Callable[[], bool]) -> None:
        self.sha256 = sha256
        self.limit_s = limit_s
        self.step = step
        self.under_way = False


class Bell:
    """One lock and three bells.

    Attributes:
        lock: guards mailboxes, model slots and the errand.
        frame: a frame was put into a mailbox, or an errand given; the inference thread waits.
        taken: a frame was taken out; a capture thread that goes at the model's pace waits for it.
        idle: a servable is no longer in use; whoever swaps waits for it.
        errand: for the inference thread; None for nothing.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.frame = threading.Condition(self.lock)
        self.taken = threading.Condition(self.lock)
        self.idle = threading.Condition(self.lock)
        self.errand: Errand | None = None

    def send(self, errand: Errand, canceled: Callable[[], bool], let_go_s: float) -> bool:
        """Have an errand done, and wait for its end.

        Args:
            errand: no other is under way.
            canceled: asked all the time; true gives up.
            let_go_s: how long to wait then for the step under way.

        Returns:
            Whether the inference thread no longer touches the model, so that it may be freed.
        """
        with self.lock:
            self.errand = errand
            self.frame.notify_all()
            while self.errand is errand and not canceled():
                self.idle.wait(_ASKED_S)
            self.errand = None
            return self.idle.wait_for(lambda: not errand.under_way, let_go_s)
