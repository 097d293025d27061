"""A servable: a loaded, warmed model that predicts.

`load_servable` turns a configured model into one; it does not manage its own life: the daemon
hands it to the inference thread and frees it after the last use.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edged.config import ModelConfig
from edged.errors import AcceleratorError, StoreError, ValidationError
from edged.inference.edgetpu import list_edgetpus
from edged.inference.interpreter import Interpreter, choose_runtime
from edged.inference.modelfile import ModelFile, parse_labels, read_model_file
from edged.inference.postprocess import Cut, Decoder, make_decoder
from edged.inference.preprocess import Geometry, InputSpec, geometry, image_input
from edged.inference.tensors import Array
from edged.prediction import ModelId, Result

MODEL_LIMIT_BYTES = 512 * 1024 * 1024
_BUNDLED = "belt"


@dataclass(frozen=True, slots=True)
class Outputs:
    """What one invoke left: raw outputs for the decoder, and how long it took.

    Attributes:
        arrays: the tensors that `Decoder.outputs` names, copied.
        invoke_s: wall time inside invoke, seconds.
    """

    arrays: list[Array]
    invoke_s: float


class Servable:
    """A model that runs.

    `infer` belongs to the inference thread; `decode` and the facts may be used from any.

    Attributes:
        id: name, version, digest.
        input: how images become its input.
        accelerator: what it runs on: `cpu`, `edgetpu`, `usb:0`...
        requested: what was asked for.
        fallback: why it is not on the accelerator that `auto` would have preferred, or None.
        loaded_s: Unix time of loading, seconds.
    """

    def __init__(
        self,
        model: ModelId,
        interpreter: Interpreter,
        spec: InputSpec,
        decoder: Decoder,
        *,
        requested: str,
        fallback: AcceleratorError | None,
        loaded_s: float,
    ) -> None:
        self.id = model
        self.input = spec
        self.runtime = interpreter.runtime
        self.accelerator = interpreter.accelerator
        self.requested = requested
        self.fallback = fallback
        self.loaded_s = loaded_s
        self._interpreter = interpreter
        self._decoder = decoder

    @property
    def kind(self) -> str:
        """`classification` or `detection`."""
        return self._decoder.kind

    @property
    def labels(self) -> tuple[str, ...]:
        """The name of each class."""
        return self._decoder.labels

    def infer(self, tensor: npt.NDArray[Any]) -> Outputs:
        """Run the model on a prepared input tensor.

        Raises:
            AcceleratorError: the Edge TPU failed.
            ValidationError: `invoke_failed`.
        """
        self._interpreter.set_input(tensor)
        start = time.perf_counter()
        self._interpreter.invoke()
        invoke_s = time.perf_counter() - start
        return Outputs(self._interpreter.read_outputs(self._decoder.outputs), invoke_s)

    def decode(self, outputs: Outputs, place: Geometry) -> Result:
        """Read the outputs of `infer`.

        Raises:
            ValidationError: `output_not_finite`.
        """
        return self._decoder.decode(outputs.arrays, place)

    def warm_up(self) -> None:
        """Run once on zeros: the first invoke is slow, and a model that cannot run says so here.

        Raises:
            AcceleratorError: the Edge TPU failed.
            ValidationError: `invoke_failed`, `output_not_finite`.
        """
        tensor = self.input.tensor
        outputs = self.infer(np.zeros(tensor.shape, tensor.dtype))
        self.decode(outputs, geometry(tensor.shape[1], tensor.shape[2], self.input))

    def close(self) -> None:
        """Free the interpreter. Only after the last `infer`."""
        self._interpreter.close()


def load_servable(config: ModelConfig, *, edgetpu_library: str = "libedgetpu.so.1") -> Servable:
    """Load and warm the model that a configuration names.

    With `accelerator = "auto"` an Edge TPU is used when the file, or its sibling
    `<stem>_edgetpu.tflite`, was compiled for one and the device answers; else the CPU, when a file
    for it is at hand. An explicit accelerator is taken at its word.

    Raises:
        ValidationError: the file is missing, is no model, or cannot run.
        AcceleratorError: the accelerator asked for is not to be had, or no runtime is installed.
        StoreError: `model_unreadable`.
    """
    path = model_path(config.factory)
    if config.accelerator == "cpu":
        return _load(config, _variant(path, edgetpu=False), "cpu", edgetpu_library, None)
    if config.accelerator != "auto":
        variant = _variant(path, edgetpu=True)
        return _load(config, variant, config.accelerator, edgetpu_library, None)
    try:
        compiled = _variant(path, edgetpu=True)
    except ValidationError as error:
        if error.reason != "model_not_compiled":
            raise
        return _load(config, path, "cpu", edgetpu_library, None)
    if compiled != path and not list_edgetpus():
        # The owner named the file for the CPU and has no Edge TPU: nothing to fall back from.
        return _load(config, path, "cpu", edgetpu_library, None)
    try:
        return _load(config, compiled, "edgetpu", edgetpu_library, None)
    except AcceleratorError as error:
        try:
            plain = _variant(path, edgetpu=False)
        except ValidationError:
            raise error from None
        return _load(config, plain, "cpu", edgetpu_library, error)


def model_path(factory: str) -> Path:
    """Return the file that a `factory` names; the bare word `belt` is the bundled model."""
    if factory == _BUNDLED:
        return Path(str(importlib.resources.files("edged") / "data" / "belt.tflite"))
    return Path(factory).expanduser()


def read_model(path: Path) -> bytes:
    """Read a model file, bounded.

    Raises:
        ValidationError: `model_missing`, `model_is_directory`, `model_too_large`.
        StoreError: `model_unreadable`.
    """
    try:
        if path.is_dir():
            raise ValidationError("model_is_directory", f"the model {path} is a directory")
        size = path.stat().st_size
        if size > MODEL_LIMIT_BYTES:
            raise ValidationError(
                "model_too_large", f"the model {path} has {size} bytes, more than 512 MiB"
            )
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ValidationError("model_missing", f"there is no model file {path}") from error
    except (OSError, ValueError) as error:
        raise StoreError("model_unreadable", f"cannot read the model {path}: {error}") from error


def _variant(path: Path, *, edgetpu: bool) -> Path:
    """Return the file, or its sibling, that is made for an Edge TPU or for the CPU."""
    if read_model_file(read_model(path)).needs_edgetpu == edgetpu:
        return path
    stem = path.stem
    sibling = path.with_name(
        f"{stem}_edgetpu.tflite" if edgetpu else f"{stem.removesuffix('_edgetpu')}.tflite"
    )
    if (
        sibling != path
        and sibling.is_file()
        and read_model_file(read_model(sibling)).needs_edgetpu == edgetpu
    ):
        return sibling
    if edgetpu:
        raise ValidationError(
            "model_not_compiled",
            f"the model {path.name} was not compiled for an Edge TPU: all of it would run on the"
            f" CPU. Compile it with edgetpu_compiler and put {sibling.name} beside it",
        )
    raise ValidationError(
        "model_needs_edgetpu",
        f"the model {path.name} was compiled for an Edge TPU and cannot run on the CPU."
        f" Put {sibling.name}, the file it was compiled from, beside it",
    )


def _load(
    config: ModelConfig,
    path: Path,
    accelerator: str,
    library: str,
    fallback: AcceleratorError | None,
) -> Servable:
    data = read_model(path)
    file = read_model_file(data)
    runtime = choose_runtime(config.runtime, edgetpu=accelerator != "cpu")
    interpreter = Interpreter(
        path,
        runtime,
        threads=config.threads,
        accelerator=accelerator,
        edgetpu_library=library,
    )
    spec = InputSpec(
        image_input(interpreter.inputs),
        config.color,
        config.resize,
        config.mean if config.mean is not None else file.mean,
        config.std if config.std is not None else file.std,
    )
    digest = hashlib.sha256(data).hexdigest()
    cut = Cut(config.top_k, config.min_score)
    decoder = make_decoder(file, interpreter.outputs, _labels(config, file), cut)
    servable = Servable(
        ModelId(config.name, f"0.0.0-factory-{digest[:8]}", digest),
        interpreter,
        spec,
        decoder,
        requested=config.accelerator,
        fallback=fallback,
        loaded_s=time.time(),
    )
    servable.warm_up()
    return servable


def _labels(config: ModelConfig, file: ModelFile) -> tuple[str, ...] | None:
    """Return labels from the configured file, else from inside the model, else None."""
    if config.labels is None:
        return file.labels
    path = Path(config.labels).expanduser()
    try:
        return parse_labels(path.read_bytes())
    except (OSError, ValueError) as error:
        raise StoreError("labels_unreadable", f"cannot read the labels {path}: {error}") from error
