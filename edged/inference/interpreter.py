"""The seam to the runtimes: LiteRT, tflite-runtime and the Edge TPU delegate.

The only module that imports a runtime, and only when a model is opened. An interpreter belongs to
one thread at a time; runtimes map the model file, so a live file is never written to.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edged.allocator import give_back
from edged.errors import AcceleratorError, EdgedError, ValidationError
from edged.inference.edgetpu import (
    explain_delegate_failure,
    explain_edgetpu_error,
    list_edgetpus,
)
from edged.inference.tensors import Array, TensorSpec

# Module that holds Interpreter and load_delegate, and the distribution that tells its version.
_RUNTIMES = {
    "litert": ("ai_edge_litert.interpreter", "ai-edge-litert"),
    "tflite": ("tflite_runtime.interpreter", "tflite-runtime"),
}


@dataclass(frozen=True, slots=True)
class Runtime:
    """An installed runtime: `litert` or `tflite`, and its version."""

    name: str
    version: str


@functools.cache  # told twice a second in `info`, and the same as long as the process lives
def installed_runtimes() -> tuple[Runtime, ...]:
    """Return the runtimes that are installed, without importing them."""
    found = []
    for name, (module, distribution) in _RUNTIMES.items():
        if importlib.util.find_spec(module.partition(".")[0]) is not None:
            try:
                version = importlib.metadata.version(distribution)
            except importlib.metadata.PackageNotFoundError:
                version = "unknown"
            found.append(Runtime(name, version))
    return tuple(found)


def choose_runtime(wanted: str, *, edgetpu: bool) -> Runtime:
    """Pick the runtime for a model.

    Args:
        wanted: `litert`, `tflite` or `auto`: on the CPU LiteRT first, which is faster; on an
            Edge TPU tflite-runtime first, the one that libedgetpu was built for.
        edgetpu: whether the model goes to an Edge TPU.

    Raises:
        AcceleratorError: `runtime_missing`.
    """
    there = {runtime.name: runtime for runtime in installed_runtimes()}
    order = [wanted] if wanted != "auto" else ["litert", "tflite"]
    if wanted == "auto" and edgetpu:
        order.reverse()
    for name in order:
        if name in there:
            return there[name]
    raise AcceleratorError(
        "runtime_missing",
        f"no TFLite runtime is installed ({' or '.join(_RUNTIMES[name][1] for name in order)}).",
        advice=f"Install one: pip install {_RUNTIMES[order[0]][1]}.",
    )


def edgetpu_library_error(library: str) -> Exception | None:
    """Load the Edge TPU library; return why it is none, or None when it is one.

    Loading it opens no device. The errors are OSError (it does not load) and AttributeError (it
    is no delegate).
    """
    try:
        _ = ctypes.CDLL(library).tflite_plugin_create_delegate
    except (OSError, AttributeError) as error:
        return error
    return None


class Interpreter:
    """A model loaded into a runtime, tensors allocated.

    Args:
        path: the .tflite file; it stays mapped until `close`.
        runtime: from `choose_runtime`.
        threads: CPU threads of one invoke.
        accelerator: `cpu`, `edgetpu` (the first one), `usb:N` or `pci:N`.
        edgetpu_library: what to load as the delegate.

    Raises:
        ValidationError: `not_a_model`, `unsupported_operator`, `model_not_runnable`.
        AcceleratorError: no runtime, or a reason that starts with `edgetpu_`.
    """

    def __init__(
        self,
        path: Path,
        runtime: Runtime,
        *,
        threads: int = 1,
        accelerator: str = "cpu",
        edgetpu_library: str = "libedgetpu.so.1",
    ) -> None:
        self.runtime = runtime
        self.accelerator = accelerator
        try:
            module = importlib.import_module(_RUNTIMES[runtime.name][0])
        except ImportError as error:
            raise AcceleratorError(
                "runtime_broken",
                f"the runtime {runtime.name} is installed but cannot be imported ({error}).",
                advice="tflite-runtime 2.14 needs Python 3.11 and numpy below 2.",
            ) from error
        delegates = []
        if accelerator != "cpu":
            delegates.append(_edgetpu_delegate(module, accelerator, edgetpu_library))
        try:
            self._live: Any = module.Interpreter(
                model_path=str(path),
                num_threads=threads,
                experimental_delegates=delegates or None,
            )
            self._live.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise _load_error(str(error), accelerator) from error
        self.inputs = tuple(_spec(detail) for detail in self._live.get_input_details())
        self.outputs = tuple(_spec(detail) for detail in self._live.get_output_details())
        # Bound once: these calls are made for every frame.
        self._invoke = self._live.invoke
        bind = functools.partial
        self._setters = [bind(self._live.set_tensor, spec.index) for spec in self.inputs]
        self._getters = [
            # Of a tensor without axes the runtime gives a number, not an array.
            bind(self._live.get_tensor if spec.shape else self._number, spec.index)
            for spec in self.outputs
        ]

    def set_input(self, position: int, tensor: npt.NDArray[Any]) -> None:
        """Copy a tensor in.

        Raises:
            ValidationError: `state_mismatch`, when it has not the shape of `inputs[position]`:
                some operators settle the size of what they write only when they run.
        """
        try:
            self._setters[position](tensor)
        except ValueError as error:
            raise ValidationError(
                "state_mismatch",
                f"the model's input {self.inputs[position].describe()} does not take what feeds"
                f" it: {tensor.dtype} {list(tensor.shape)}",
            ) from error

    def invoke(self) -> None:
        """Run the model. Releases the GIL.

        Raises:
            AcceleratorError: `edgetpu_failed` or a clearer reason, when an Edge TPU was at work.
            ValidationError: `invoke_failed` on the CPU.
        """
        try:
            self._invoke()
        except (RuntimeError, ValueError) as error:
            raise _invoke_error(str(error), self.accelerator) from error

    def read_outputs(self, positions: Sequence[int]) -> list[Array]:
        """Copy outputs out.

        Args:
            positions: which of `outputs`.

        Returns:
            Arrays of the tensors' shapes and dtypes, owned by the caller.
        """
        getters = self._getters
        return [getters[i]() for i in positions]

    def _number(self, index: int) -> Array:
        return np.asarray(self._live.get_tensor(index))

    def reset_variables(self) -> None:
        """Set what variable tensors hold back to zero; resource variables stay as they are."""
        self._live.reset_all_variables()

    def close(self) -> None:
        """Free the runtime's memory and the accelerator, and give the memory back."""
        self._live = self._invoke = None
        self._setters, self._getters = [], []
        give_back()


def _edgetpu_delegate(module: Any, accelerator: str, library: str) -> Any:
    options = {} if accelerator == "edgetpu" else {"device": accelerator}
    # When the library is missing or wrong, the runtime prints a traceback from a destructor.
    missing = edgetpu_library_error(library)
    if missing is not None:
        raise explain_delegate_failure(missing, library, ())
    try:
        return module.load_delegate(library, options)
    except (ValueError, OSError, RuntimeError) as error:
        raise explain_delegate_failure(error, library, list_edgetpus()) from error


def _spec(detail: dict[str, Any]) -> TensorSpec:
    scale, zero_point = detail["quantization"]
    sizes = zip(detail["shape"], detail["shape_signature"], strict=False)  # of a number: none
    return TensorSpec(
        name=str(detail["name"]),
        index=int(detail["index"]),
        shape=tuple(int(size) for size in detail["shape"]),
        dtype=np.dtype(detail["dtype"]).name,
        scale=float(scale),
        zero_point=int(zero_point),
        open_sizes=any(size == 1 and declared < 0 for size, declared in [*sizes][1:]),
    )


def _load_error(text: str, accelerator: str) -> EdgedError:
    if accelerator != "cpu":
        known = explain_edgetpu_error(text)
        if known is not None:
            return known
    if "unresolved custom op:" in text:
        name = text.partition("unresolved custom op:")[2].split(".")[0].split()[0]
        return ValidationError(
            "unsupported_operator",
            f"the model uses the operator {name}, which this runtime does not have",
        )
    if "Could not open" in text or "identifier" in text:
        return ValidationError("not_a_model", f"the runtime cannot read the model: {_first(text)}")
    return ValidationError("model_not_runnable", f"the runtime refuses the model: {_first(text)}")


def _invoke_error(text: str, accelerator: str) -> EdgedError:
    if accelerator != "cpu":
        return explain_edgetpu_error(text) or AcceleratorError(
            "edgetpu_failed",
            f"the Edge TPU failed while it ran the model: {_first(text)}.",
            advice="Unplugged, too hot or short of power? A powered USB 3 port helps.",
        )
    return ValidationError("invoke_failed", f"the model failed while it ran: {_first(text)}")


def _first(text: str) -> str:
    return " ".join(text.split())[:200] or "no reason given"
