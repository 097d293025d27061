"""Brings a model back that stopped running: the Edge TPU dropped off, or came back.

A thread of its own loads models, so that the inference thread goes on with the others and the
main thread keeps answering signals.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping

from edged.config import ModelConfig
from edged.errors import EdgedError
from edged.inference.servable import Servable
from edged.pipeline.modelslot import ModelSlot

log = logging.getLogger(__name__)

_TICK_S = 0.5
_FIRST_WAIT_S = 2.0
_LONGEST_WAIT_S = 60.0
# After this long without an attempt the next one counts as the first.
_SETTLED_S = 60.0
# How long to wait for the inference thread to let go of a servable.
_LET_GO_S = 30.0

Load = Callable[[ModelConfig], Servable]


class ModelRecovery:
    """Watches model slots and loads again what is broken.

    Args:
        slots: by model name.
        configs: by model name.
        load: makes a servable or raises `EdgedError`.
        accelerator_there: whether an Edge TPU is plugged in; asked while a model runs on the CPU
            only because there was none.
        changed: called after every swap.
    """

    def __init__(
        self,
        slots: Mapping[str, ModelSlot],
        configs: Mapping[str, ModelConfig],
        load: Load,
        accelerator_there: Callable[[], bool],
        changed: Callable[[], None],
    ) -> None:
        self._slots = slots
        self._configs = configs
        self._load = load
        self._accelerator_there = accelerator_there
        self._changed = changed
        self._due_s = dict.fromkeys(slots, 0.0)
        self._wait_s = dict.fromkeys(slots, _FIRST_WAIT_S)
        self._begun_s: float | None = None
        self._stopping = threading.Event()
        # A daemon thread: a load that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="recovery", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Make the thread end after the load that is under way; return whether it has in time."""
        self._stopping.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def busy_s(self) -> float:
        """Return for how long the present load has been running, seconds; 0 when idle."""
        begun = self._begun_s
        return 0.0 if begun is None else time.monotonic() - begun

    def _run(self) -> None:
        while not self._stopping.wait(_TICK_S):
            for name, slot in self._slots.items():
                now_s = time.monotonic()
                if now_s > self._due_s[name] + _SETTLED_S:
                    self._wait_s[name] = _FIRST_WAIT_S
                if now_s < self._due_s[name] or not slot.changing.acquire(blocking=False):
                    continue
                try:
                    self._mend(name, slot)
                finally:
                    slot.changing.release()

    def _mend(self, name: str, slot: ModelSlot) -> None:
        """Look at one slot. What goes wrong in a trial is the trial's business."""
        if slot.trial is not None:
            return
        if slot.broken or slot.current is None:
            self._reload(name, slot)
        elif slot.current.fallback is not None and self._accelerator_there():
            self._upgrade(name, slot)

    def _reload(self, name: str, slot: ModelSlot) -> None:
        """Free the broken servable first: the accelerator it holds opens only once."""
        self._back_off(name)
        trouble = slot.trouble
        if slot.current is not None:
            log.warning(
                "model %s: loading it again: %s", name, trouble.detail if trouble else "broken"
            )
            old = slot.swap(None, _LET_GO_S)
            if old is None:
                return  # still inside invoke: the watchdog's case
            old.close()
            self._changed()
        servable = self._try(name, slot)
        if servable is not None:
            self._place(name, slot, servable)

    def _upgrade(self, name: str, slot: ModelSlot) -> None:
        """An Edge TPU is there now: move to it, but keep the CPU until it answers."""
        self._back_off(name)
        servable = self._try(name, None)
        if servable is None:
            return
        if servable.fallback is not None:
            servable.close()
            return
        self._place(name, slot, servable)

    def _try(self, name: str, slot: ModelSlot | None) -> Servable | None:
        self._begun_s = time.monotonic()
        try:
            return self._load(self._configs[name])
        except EdgedError as error:
            if slot is not None:
                slot.did_not_run(error)
                self._changed()
            return None
        finally:
            self._begun_s = None

    def _place(self, name: str, slot: ModelSlot, servable: Servable) -> None:
        if self._stopping.is_set():
            servable.close()  # nobody would run it, and it would hold the accelerator
            return
        old = slot.swap(servable, _LET_GO_S)
        if old is not None:
            old.close()
        log.info("model %s: running on %s", name, servable.accelerator)
        self._changed()

    def _back_off(self, name: str) -> None:
        """Let the next attempt wait, twice as long as the one before, until all is well a while."""
        self._due_s[name] = time.monotonic() + self._wait_s[name]
        self._wait_s[name] = min(2 * self._wait_s[name], _LONGEST_WAIT_S)
