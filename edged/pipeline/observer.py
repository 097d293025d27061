"""What drift is told of each inference, on the publisher's thread: next to nothing per frame."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from edged.drift.recorder import Pair, Seen
from edged.drift.window import Subject
from edged.inference.servable import Servable
from edged.pipeline.results import Comparison, Inference
from edged.prediction import Result


class Observer:
    """Tells inferences to whoever records them. Publisher thread only.

    Args:
        views: of the cameras, by name; see `Subject.view`.
        take: takes one, without waiting.
    """

    def __init__(self, views: Mapping[str, str], take: Callable[[Seen | Pair], None]) -> None:
        self._views = views
        self._take = take
        self._subjects: dict[str, tuple[Servable, Subject]] = {}

    def read(self, inference: Inference, result: Result, *, trial: bool) -> None:
        """Tell of an inference that was read.

        Args:
            inference: it.
            result: what it said.
            trial: whether its model is on trial.
        """
        servable, outputs = inference.servable, inference.outputs
        confidence = None
        if inference.sketch is not None:
            confidence = servable.confidence(outputs, inference.place)
        self._take(
            Seen(
                self._subject(inference.stamp.camera, inference.servable),
                trial,
                outputs.invoke_s * 1000.0,
                servable.best_class(outputs, result),
                confidence,
                inference.sketch,
            )
        )

    def unread(self, inference: Inference, *, trial: bool) -> None:
        """Tell of an inference whose outputs made no sense."""
        invoke_ms = inference.outputs.invoke_s * 1000.0
        self._take(
            Seen(self._subject(inference.stamp.camera, inference.servable), trial, invoke_ms, None)
        )

    def compared(self, comparison: Comparison, *, disagreed: bool) -> None:
        """Tell of a frame that the model before a trial was asked about as well."""
        subject = self._subject(comparison.camera, comparison.trial.candidate)
        self._take(Pair(subject, disagreed))

    def _subject(self, camera: str, servable: Servable) -> Subject:
        known = self._subjects.get(camera)
        if known is not None and known[0] is servable:
            return known[1]
        model, runtime = servable.id, servable.runtime
        subject = Subject(
            camera,
            model.name,
            model.version,
            model.sha256,
            f"{runtime.name} {runtime.version}",
            servable.accelerator,
            self._views[camera],
        )
        self._subjects[camera] = servable, subject
        return subject
