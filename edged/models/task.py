"""One long action of a deployment, on a thread of its own, so that whoever started it can go on."""

from __future__ import annotations

import threading
from collections.abc import Callable

from edged.errors import EdgedError
from edged.models.transitions import Action, Event

Outcome = Event | EdgedError | None
Spawn = Callable[[Callable[[], None]], None]


def spawn(run: Callable[[], None]) -> None:
    """Run something on a thread; a daemon one: what hangs must not keep the process from ending."""
    threading.Thread(target=run, name="deployment", daemon=True).start()


class Task:
    """An action under way.

    Attributes:
        deployment_id: what it is for.
        action: what it is.
        done: whether `outcome` is there.
        outcome: what it returned, or the error that it raised.
        progress: bytes there, and bytes in all.

    Args:
        deployment_id: what it is for.
        action: what it is.
        call: does it; may ask `canceled` of the task.
        ring: called at the end, from its thread.
    """

    def __init__(
        self,
        deployment_id: str,
        action: Action,
        call: Callable[[Task], Event | None],
        ring: Callable[[], None],
    ) -> None:
        self.deployment_id = deployment_id
        self.action = action
        self.done = False
        self.outcome: Outcome = None
        self.progress: tuple[int, int] | None = None
        self._call = call
        self._ring = ring
        self._canceled = threading.Event()

    def run(self) -> None:
        """Do it. A bug ends the thread, and with it the process: the journal decides then."""
        try:
            self.outcome = self._call(self)
        except EdgedError as error:
            self.outcome = error
        self.done = True
        self._ring()

    def cancel(self) -> None:
        """Nobody waits for it any more; it ends as soon as it notices."""
        self._canceled.set()

    def canceled(self) -> bool:
        """Say whether somebody canceled it."""
        return self._canceled.is_set()

    def advanced(self, there_bytes: int, total_bytes: int) -> None:
        """Note how far a download is."""
        self.progress = (there_bytes, total_bytes)
