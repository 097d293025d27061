"""The inference thread: the only one that touches an interpreter in use.

Takes the newest frame of each camera in turn, runs the camera's model, hands the raw outputs on.
In between it examines a candidate that no other thread or process could run.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from edged.errors import EdgedError, ValidationError
from edged.inference.servable import Outputs, Servable
from edged.pipeline.bell import Bell, Errand
from edged.pipeline.lane import Lane
from edged.pipeline.mailbox import Slot
from edged.pipeline.results import Comparison, Inference, Results


class InferenceWorker:
    """Runs models, camera after camera, as frames arrive.

    Args:
        bell: shared with the mailboxes.
        lanes: one per camera.
        results: where inferences go.
        invoking: told the digest of the model that is about to run, and "" when it has.
    """

    def __init__(
        self,
        bell: Bell,
        lanes: tuple[Lane, ...],
        results: Results,
        invoking: Callable[[str], None] = lambda _sha256: None,
    ) -> None:
        self._bell = bell
        self._lanes = lanes
        self._results = results
        self._invoking = invoking
        self._next = 0
        self._errand_next = False
        self._stopping = False
        self._due_s: float | None = None
        # A daemon thread: an invoke that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Ask the thread to end; return whether it did within the time."""
        with self._bell.lock:
            self._stopping = True
            self._bell.frame.notify_all()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def stuck(self) -> bool:
        """Say whether the present invoke has outlived its model's limit."""
        due = self._due_s
        return due is not None and time.monotonic() > due

    def _run(self) -> None:
        while True:
            with self._bell.lock:
                turn = self._wait()
                if turn is None:
                    return
                if isinstance(turn, Errand):
                    turn.under_way = True
                else:
                    lane, slot = turn
                    servable = lane.model.begin()
            if isinstance(turn, Errand):
                self._run_errand(turn)
                continue
            try:
                self._infer(lane, slot, servable)
            finally:
                lane.model.end()
                lane.mailbox.give_back(slot)

    def _wait(self) -> tuple[Lane, Slot] | Errand | None:
        """Wait for a frame or an errand, by turns, and each camera in turn. Holds the lock."""
        while not self._stopping:
            errand, self._errand_next = self._bell.errand, not self._errand_next
            if errand is not None and not self._errand_next:
                return errand
            for i in range(len(self._lanes)):
                lane = self._lanes[(self._next + i) % len(self._lanes)]
                slot = lane.mailbox.take()
                if slot is not None:
                    self._next = (self._next + i + 1) % len(self._lanes)
                    return lane, slot
            if errand is None:
                self._bell.frame.wait()
        return None

    def _run_errand(self, errand: Errand) -> None:
        self._due_s = time.monotonic() + errand.limit_s
        self._invoking(errand.sha256)
        try:
            more = errand.step()
        finally:
            self._invoking("")
            self._due_s = None
        with self._bell.lock:
            errand.under_way = False
            if not more and self._bell.errand is errand:
                self._bell.errand = None
            self._bell.idle.notify_all()

    def _infer(self, lane: Lane, slot: Slot, servable: Servable | None) -> None:
        if servable is None or not (
            slot.spec is servable.input or slot.spec.same_pixels(servable.input)
        ):
            lane.counters.no_model += 1  # a swap came between capture and this
            return
        if slot.stamp is None or slot.place is None:
            raise AssertionError("a slot was put without its frame")
        self._due_s = time.monotonic() + lane.model.invoke_limit_s
        try:
            state = lane.memory.recall(servable, slot.stamp.opened_mono_s)
            self._invoking(servable.id.sha256)
            outputs = servable.infer(slot.tensor, state)
        except EdgedError as error:
            lane.memory.forget()
            lane.counters.errors[error.reason] += 1
            lane.counters.failed += 1
            lane.model.did_not_run(error)
            if lane.model.trial is not None:
                lane.model.trial.failed(error)
            return
        finally:
            self._invoking("")
            self._due_s = None
        lane.model.ran()
        lane.counters.inferred += 1
        try:
            lane.memory.check(outputs)
        except ValidationError as error:
            lane.counters.errors[error.reason] += 1
        self._results.put(Inference(lane, servable, slot.stamp, slot.place, outputs, slot.sketch))
        self._compare(lane, servable, slot, outputs)

    def _compare(self, lane: Lane, servable: Servable, slot: Slot, outputs: Outputs) -> None:
        """Run the model before a trial on the frame too; nobody waits for what it says."""
        trial = lane.model.trial
        if trial is None or trial.candidate is not servable or slot.place is None:
            return
        self._due_s = time.monotonic() + lane.model.invoke_limit_s
        try:
            self._invoking(trial.previous_sha256)
            beside = trial.beside(slot.tensor, slot.spec)
        finally:
            self._invoking("")
            self._due_s = None
        if beside is not None:
            self._results.put(Comparison(lane.camera, trial, outputs, slot.place, beside))
