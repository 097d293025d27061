"""What a recurrent model remembers of one camera's scene, from frame to frame."""

from __future__ import annotations

import numpy as np

from edged.errors import ValidationError
from edged.inference.servable import Outputs, Servable, State


class SceneMemory:
    """The state of one camera's model between two frames. Inference thread only.

    It begins afresh with another servable, and where the camera was opened again: what was before
    the gap says nothing about what comes after it. Frames that were skipped are no gap.
    """

    def __init__(self) -> None:
        self._servable: Servable | None = None
        self._opened_mono_s = 0.0
        self._state: State = []
        self._remembers = False

    def recall(self, servable: Servable, opened_mono_s: float) -> State:
        """Return the state for the next frame; the servable replaces its arrays.

        Args:
            servable: what runs on the frame.
            opened_mono_s: of the frame's stamp.
        """
        if servable is not self._servable or opened_mono_s != self._opened_mono_s:
            self._state = servable.fresh_state()
            self._remembers = bool(self._state) or servable.keeps_state
            self._servable, self._opened_mono_s = servable, opened_mono_s
        return self._state

    def forget(self) -> None:
        """Let the next frame begin afresh."""
        self._servable = None

    def check(self, outputs: Outputs) -> None:
        """Forget a state that has run away: it would spoil every frame to come.

        Args:
            outputs: of the frame; of a model that keeps its state inside they are all there is to
                see of it.

        Raises:
            ValidationError: `state_not_finite`.
        """
        if not self._remembers:
            return
        inside = self._servable is not None and self._servable.keeps_state
        for values in (*self._state, *outputs.arrays) if inside else self._state:
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                self.forget()
                raise ValidationError(
                    "state_not_finite", "the model left a state with NaN or infinite values"
                )
