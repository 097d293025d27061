"""What the threads around one inference thread wait for, under one lock.

Separate conditions, so that a wake-up never goes to a thread that waits for something else.
"""

from __future__ import annotations

import threading


class Bell:
    """One lock and three bells.

    Attributes:
        lock: guards mailboxes and model slots.
        frame: a frame was put into a mailbox; the inference thread waits for it.
        taken: a frame was taken out; a capture thread that goes at the model's pace waits for it.
        idle: a servable is no longer in use; whoever swaps waits for it.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.frame = threading.Condition(self.lock)
        self.taken = threading.Condition(self.lock)
        self.idle = threading.Condition(self.lock)
