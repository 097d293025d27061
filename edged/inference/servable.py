"""A servable: a loaded, warmed model that predicts.

It does not manage its own life: the daemon hands it to the inference thread and frees it after the
last use. `edged.inference.loading` makes one of a configured model.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edged.config import ModelConfig
from edged.drift.signals import Confidence
from edged.errors import EdgedError, Trouble, ValidationError
from edged.inference.factory import read_labels, read_model
from edged.inference.interpreter import Interpreter
from edged.inference.kinds.decoder import Decoder
from edged.inference.kinds.ssd import SsdDecoder
from edged.inference.modellabels import parse_labels
from edged.inference.preprocess import Geometry, InputSpec, geometry
from edged.inference.signature import Signature
from edged.inference.tensors import Array
from edged.prediction import ModelId, Result

# What a recurrent model hands on from frame to frame: an array per state, none for most models.
State = list[Array]


@dataclass(frozen=True, slots=True)
class Outputs:
    """What one invoke left: raw outputs for the decoder, and how long it took.

    Attributes:
        arrays: the tensors that `Decoder.outputs` names, copied.
        invoke_s: wall time inside invoke, seconds.
    """

    arrays: list[Array]
    invoke_s: float

    @property
    def size_bytes(self) -> int:
        """Memory of the arrays."""
        return sum(array.nbytes for array in self.arrays)


class Servable:
    """A model that runs.

    `infer` and `fresh_state` belong to the inference thread; `decode` and the facts may be used
    from any.

    Attributes:
        id: name, version, digest.
        path: the file it was loaded from.
        file_sha256: hex digest of that file, which may be one of a package.
        input: how images become its input.
        accelerator: what it runs on: `cpu`, `edgetpu`, `usb:0`...
        requested: what was asked for.
        fallback: why it is not on the accelerator that `auto` would have preferred, or None.
        states: names of input and output of each state that is fed back.
        keeps_state: whether the model also remembers inside, as LSTM operators do, where cameras
            cannot be told apart.
        loaded_s: Unix time of loading, seconds.
        file_sha256: digest of that file, in hex.
    """

    def __init__(
        self,
        model: ModelId,
        interpreter: Interpreter,
        spec: InputSpec,
        decoder: Decoder,
        signature: Signature,
        *,
        reader: Decoder,
        keeps_state: bool,
        path: Path,
        file_sha256: str,
        requested: str,
        fallback: Trouble | None,
        loaded_s: float,
    ) -> None:
        self.id = model
        self.file_sha256 = model.sha256
        self.path = path
        self.file_sha256 = file_sha256
        self.input = spec
        self.runtime = interpreter.runtime
        self.accelerator = interpreter.accelerator
        self.requested = requested
        self.fallback = fallback
        self.keeps_state = keeps_state
        self.loaded_s = loaded_s
        self.states = tuple(
            (interpreter.inputs[i].name, interpreter.outputs[o].name) for i, o in signature.states
        )
        self._image = signature.image
        self._state_inputs = tuple(i for i, _ in signature.states)
        self._state_outputs = tuple(o for _, o in signature.states)
        self._interpreter = interpreter
        self._decoder = decoder
        self._reader = reader

    @property
    def kind(self) -> str:
        """`classification`, `detection`, `keypoints` or `segmentation`."""
        return self._decoder.kind

    @property
    def labels(self) -> tuple[str, ...]:
        """The name of each class, or of each keypoint."""
        return self._decoder.labels

    def fresh_state(self) -> State:
        """Return the state of a model that has seen nothing, and set back what it keeps inside.

        Returns:
            Zeros: arrays of the states' shapes and dtypes, 0 as their quantisation writes it.
        """
        if self.keeps_state:
            self._interpreter.reset_variables()
        specs = [self._interpreter.inputs[i] for i in self._state_inputs]
        return [np.full(spec.shape, spec.zero_point, spec.dtype) for spec in specs]

    def infer(self, tensor: npt.NDArray[Any], state: State | None = None) -> Outputs:
        """Run the model on a prepared input tensor.

        Args:
            tensor: the image, from a `Preprocessor`.
            state: what the frame before left, from `fresh_state` at first; what this one leaves
                replaces its arrays. None: a single image, nothing went before.

        Raises:
            AcceleratorError: the Edge TPU failed.
            ValidationError: `invoke_failed`, `state_mismatch`.
        """
        interpreter = self._interpreter
        interpreter.set_input(self._image, tensor)
        if self._state_inputs:
            state = self.fresh_state() if state is None else state
            for position, value in zip(self._state_inputs, state, strict=True):
                interpreter.set_input(position, value)
        start = time.perf_counter()
        interpreter.invoke()
        invoke_s = time.perf_counter() - start
        if state:
            state[:] = interpreter.read_outputs(self._state_outputs)
        return Outputs(interpreter.read_outputs(self._decoder.outputs), invoke_s)

    def decode(self, outputs: Outputs, place: Geometry) -> Result:
        """Read the outputs of `infer`.

        Raises:
            ValidationError: `output_not_finite`.
        """
        return self._decoder.decode(outputs.arrays, place)

    def confidence(self, outputs: Outputs, place: Geometry) -> Confidence:
        """Return how sure the model was; only of outputs that `decode` could read."""
        return self._decoder.confidence(outputs.arrays, place)

    def best_class(self, outputs: Outputs, result: Result) -> int:
        """Return the number of the best class of what `decode` returned, next to free."""
        return self._decoder.best_class(outputs.arrays, result)

    def raw_inputs(self, tensor: npt.NDArray[Any]) -> list[Array]:
        """Return what all inputs hold for an image that nothing went before.

        Args:
            tensor: the image, from a `Preprocessor`.
        """
        states = iter(self.fresh_state())
        return [
            tensor if position == self._image else next(states)
            for position in range(len(self._interpreter.inputs))
        ]

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """Run the model on raw inputs as if nothing went before; return all its outputs.

        Args:
            inputs: of the shapes and dtypes of its input tensors, in its order.

        Raises:
            AcceleratorError: the Edge TPU failed.
            ValidationError: `invoke_failed`.
        """
        self.fresh_state()
        for position, value in enumerate(inputs):
            self._interpreter.set_input(position, value)
        self._interpreter.invoke()
        outputs = self._interpreter.read_outputs(range(len(self._interpreter.outputs)))
        if isinstance(self._decoder, SsdDecoder):
            self._decoder.clear_padding(outputs)
        return outputs

    def read(self, outputs: Sequence[Array]) -> Result:
        """Read what `run` returned, for an image of just the size of the input.

        All that the model says, whatever its owner wants to be told.

        Raises:
            ValidationError: `output_not_finite`.
        """
        place = geometry(self.input.height, self.input.width, self.input)
        return self._reader.decode([outputs[i] for i in self._reader.outputs], place)

    def warm_up(self) -> None:
        """Run once on zeros: the first invoke is slow, and a model that cannot run says so here.

        Raises:
            AcceleratorError: the Edge TPU failed.
            ValidationError: `invoke_failed`, `output_not_finite`, `state_mismatch`.
        """
        tensor = self.input.tensor
        state = self.fresh_state()
        outputs = self.infer(np.zeros(tensor.shape, tensor.dtype), state)
        self.decode(outputs, geometry(self.input.height, self.input.width, self.input))
        for position, left in zip(self._state_inputs, state, strict=True):
            self._interpreter.set_input(position, left)  # as the second frame will
        self.fresh_state()

    def check_cameras(self, cameras: Sequence[str]) -> None:
        """Refuse cameras that this model would mix up.

        Args:
            cameras: names of those that run it.

        Raises:
            ValidationError: `state_not_shared`.
        """
        if self.keeps_state and len(cameras) > 1:
            raise ValidationError(
                "state_not_shared",
                "the model remembers earlier frames inside, where those of the cameras"
                f" {', '.join(cameras)} would mix.",
                advice="Give each camera a [[model]] of its own with the same factory file.",
            )

    def files_unchanged(self, config: ModelConfig) -> bool:
        """Say whether the files of this configuration still give the same model and labels."""
        try:
            same_model = hashlib.sha256(read_model(self.path)).hexdigest() == self.file_sha256
            if config.labels is None:
                return same_model
            labels = parse_labels(read_labels(config.labels))
        except EdgedError:
            return False
        # A detector leaves out a first line that names the background, all leave out notes.
        count = len(self.labels)
        without_notes = labels[:count] if labels[count : count + 1] == ("",) else labels
        return same_model and self.labels in (without_notes, labels[1:])

    def close(self) -> None:
        """Free the interpreter. Only after the last `infer`."""
        self._interpreter.close()
