"""From a configured model to a servable: which file, which accelerator, which kind."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path

from edged.config import ModelConfig
from edged.errors import AcceleratorError, EdgedError, Trouble, ValidationError
from edged.inference.edgetpu import list_edgetpus
from edged.inference.factory import FactoryFile, factory_path, read_factory, read_labels, variant
from edged.inference.interpreter import Interpreter, choose_runtime
from edged.inference.kinds.decoder import EVERYTHING, Cut
from edged.inference.modellabels import packed_labels, parse_labels
from edged.inference.postprocess import make_decoder
from edged.inference.preprocess import InputSpec
from edged.inference.servable import Servable
from edged.inference.signature import read_signature
from edged.prediction import ModelId


def load_servable(
    config: ModelConfig,
    *,
    edgetpu_library: str = "libedgetpu.so.1",
    cameras: Sequence[str] = (),
) -> Servable:
    """Load and warm the model that a configuration names.

    With `accelerator = "auto"` an Edge TPU is used when the file, or its sibling
    `<stem>_edgetpu.tflite`, was compiled for one and the device answers; else the CPU, when a file
    for it is at hand. An explicit accelerator is taken at its word.

    Args:
        config: which model, and how.
        edgetpu_library: what to load as the delegate.
        cameras: names of those that will run it.

    Raises:
        ValidationError: the file is missing, is no model, or cannot run.
        AcceleratorError: the accelerator asked for is not to be had, or no runtime is installed.
        StoreError: `model_unreadable`, `labels_unreadable`.
    """
    try:
        servable = _choose(config, edgetpu_library)
        try:
            servable.check_cameras(cameras)
        except EdgedError:
            servable.close()
            raise
    except EdgedError as error:
        raise error.about(f"model '{config.name}' ({Path(config.factory).absolute()})") from error
    return servable


def _choose(config: ModelConfig, library: str) -> Servable:
    path = factory_path(config.factory)
    if config.accelerator == "cpu":
        return _load(config, variant(path, edgetpu=False), "cpu", library, None)
    if config.accelerator != "auto":
        return _load(config, variant(path, edgetpu=True), config.accelerator, library, None)
    try:
        compiled = variant(path, edgetpu=True)
    except ValidationError as error:
        if error.reason != "model_not_compiled":
            raise
        return _load(config, read_factory(path), "cpu", library, None)
    if compiled.path != path and not list_edgetpus():
        # The owner named the file for the CPU and has no Edge TPU: nothing to fall back from.
        return _load(config, read_factory(path), "cpu", library, None)
    try:
        return _load(config, compiled, "edgetpu", library, None)
    except AcceleratorError as error:
        try:
            plain = variant(path, edgetpu=False)
        except ValidationError:
            raise error from None
        return _load(config, plain, "cpu", library, Trouble.of(error))


def _load(
    config: ModelConfig,
    source: FactoryFile,
    accelerator: str,
    library: str,
    fallback: Trouble | None,
) -> Servable:
    interpreter = Interpreter(
        source.path,
        choose_runtime(config.runtime, edgetpu=accelerator != "cpu"),
        threads=config.threads,
        accelerator=accelerator,
        edgetpu_library=library,
    )
    try:
        servable = _assemble(config, source, interpreter, fallback)
        servable.warm_up()
    except EdgedError:
        interpreter.close()  # an error keeps its frames alive, and they would keep the accelerator
        raise
    return servable


def _assemble(
    config: ModelConfig, source: FactoryFile, interpreter: Interpreter, fallback: Trouble | None
) -> Servable:
    file = source.file
    if file.assigns_variables:
        raise ValidationError(
            "state_not_resettable",
            "the model remembers earlier frames in a resource variable (ASSIGN_VARIABLE), which no"
            " runtime sets back: after a gap it would go on with what was before.",
            advice="Export it with the state as an input and an output.",
        )
    signature = read_signature(
        interpreter.inputs, interpreter.outputs, file.input_names, file.output_names
    )
    image = interpreter.inputs[signature.image]
    cut = Cut(config.top_k, config.min_score, config.mask)
    labels = _labels(config, source)
    decoder, reader = (
        make_decoder(
            file, interpreter.outputs, signature.results, labels, each, image=signature.image
        )
        for each in (cut, EVERYTHING)
    )
    if config.mask and decoder.kind != "segmentation":
        raise ValidationError(
            "mask_unsupported",
            f"mask = true, but only segmentation has a mask, and this is {decoder.kind}",
        )
    habit = decoder.habit
    usual = (habit.mean, habit.std) if image.is_float else (None, None)
    spec = InputSpec(
        image,
        config.color or "rgb",
        config.resize or habit.resize,
        config.mean or file.mean or usual[0],
        config.std or file.std or usual[1],
        habit.pad,
    )
    digest = hashlib.sha256(source.data).hexdigest()
    return Servable(
        ModelId(config.name, f"0.0.0-factory-{digest[:8]}", digest),
        interpreter,
        spec,
        decoder,
        signature,
        reader=reader,
        keeps_state=file.keeps_state,
        path=source.path,
        file_sha256=digest,
        requested=config.accelerator,
        fallback=fallback,
        loaded_s=time.time(),
    )


def _labels(config: ModelConfig, source: FactoryFile) -> tuple[str, ...] | None:
    """Return labels from the configured file, else from inside the model, else None."""
    if config.labels is not None:
        return parse_labels(read_labels(config.labels))
    return packed_labels(source.data, source.file.label_name)
