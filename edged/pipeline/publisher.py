"""The publisher thread: raw outputs become predictions and leave.

Never waits for the network: `send` puts a message on its way or into the outbox.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from edged.errors import EdgedError
from edged.pipeline.observer import Observer
from edged.pipeline.policy import PublishPolicy
from edged.pipeline.results import Inference, Results
from edged.prediction import Prediction

Send = Callable[[Prediction, int], None]


class PublisherWorker:
    """Decodes, decides and sends.

    Args:
        results: from the inference thread.
        policies: by camera.
        send: takes a prediction and its sequence number.
        observer: is told of every inference; None where nobody records them.
    """

    def __init__(
        self,
        results: Results,
        policies: Mapping[str, PublishPolicy],
        send: Send,
        observer: Observer | None = None,
    ) -> None:
        self._results = results
        self._policies = policies
        self._send = send
        self._observer = observer
        self._seq = dict.fromkeys(policies, 0)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Publish what is queued, then end. Call after the inference thread has ended."""
        self._stopping.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            result = self._results.get(0.2)
            if isinstance(result, Inference):
                self._publish(result)
            elif result is not None:
                same = result.trial.compared(result.outputs, result.place, result.beside)
                if self._observer is not None and same is not None:
                    self._observer.compared(result, disagreed=not same)
            elif self._stopping.is_set():
                return

    def _publish(self, inference: Inference) -> None:
        counters, stamp = inference.lane.counters, inference.stamp
        trial = inference.lane.model.trial
        if trial is not None and trial.candidate is not inference.servable:
            trial = None  # the last frames of the model before
        try:
            result = inference.servable.decode(inference.outputs, inference.place)
        except EdgedError as error:
            counters.errors[error.reason] += 1
            inference.lane.model.was_not_read(error)
            if trial is not None:
                trial.failed(error)
            if self._observer is not None:
                self._observer.unread(inference, trial=trial is not None)
            return
        inference.lane.model.was_read()
        if trial is not None:
            trial.served(inference.outputs)
        else:
            inference.lane.model.invoke.add(inference.outputs.invoke_s)
        counters.invoke.add(inference.outputs.invoke_s)
        if self._observer is not None:
            self._observer.read(inference, result, trial=trial is not None)
        if not self._policies[stamp.camera].wants(result, stamp.captured_mono_s):
            counters.withheld += 1
            return
        self._seq[stamp.camera] += 1
        self._send(
            Prediction(stamp, inference.servable.id, inference.outputs.invoke_s * 1000.0, result),
            self._seq[stamp.camera],
        )
        counters.published += 1
        counters.latency.add(time.monotonic() - stamp.captured_mono_s)
