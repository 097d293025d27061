"""One camera's way through the pipeline."""

from __future__ import annotations

from dataclasses import dataclass, field

from edged.drift.sampling import Sampling
from edged.pipeline.counters import CameraCounters
from edged.pipeline.mailbox import Mailbox
from edged.pipeline.memory import SceneMemory
from edged.pipeline.modelslot import ModelSlot


@dataclass(frozen=True, slots=True)
class Lane:
    """A camera's mailbox, the model it runs, its counters, what the model remembers of it.

    `sampling` says which frames drift looks at, None for none.
    """

    camera: str
    mailbox: Mailbox
    model: ModelSlot
    counters: CameraCounters
    memory: SceneMemory = field(default_factory=SceneMemory)
    sampling: Sampling | None = None
