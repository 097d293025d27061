"""The child that tries a candidate: `python -m edged.models.probe JOB FD`. Started, never imported.

Loads the model of an unpacked package, holds it against its manifest and its golden set, shows it
a blank image and noise, times it, and writes one JSON object a line to FD as it goes: the parent
judges by them and by how this process ends. Models can kill the process that runs them, some only
when they are freed, so the end is an ordinary one.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import resource
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edged.config import ModelConfig
from edged.errors import DeviceError, EdgedError, ValidationError, VerifyError
from edged.inference.factory import read_model
from edged.inference.kinds.decoder import class_labels
from edged.inference.modelfile import ModelFile, read_model_file
from edged.inference.modellabels import parse_labels
from edged.inference.servable import Servable
from edged.models.examination import Examination, control_images
from edged.models.golden import Golden, read_golden
from edged.models.loading import (
    check_input,
    check_labels,
    load_package,
    read_file,
    read_manifest,
)
from edged.models.manifest import GOLDEN, LABELS, MODEL, MODEL_EDGETPU, Manifest
from edged.models.sandbox import Fence, fence_in

_LEAST_ROUNDS, _MOST_ROUNDS, _TIMING_S = 10, 200, 2.0
REFUSED = 3
"""Exit status after a refusal that was reported."""


@dataclass(frozen=True, slots=True)
class Job:
    """What to try; the parent sends it as JSON.

    Attributes:
        directory: of the unpacked package.
        config: fields of the owner's ModelConfig.
        structure_only: whether to leave the model unloaded: it is for an Edge TPU that is in use.
        memory_bytes: what the model may take; the parent watches it too.
        data_bytes: private memory beyond which allocations fail.
        cpu_s: seconds of CPU.
        parent: process id.
    """

    directory: str
    config: dict[str, Any]
    structure_only: bool
    memory_bytes: int
    data_bytes: int
    cpu_s: int
    parent: int


class _Report:
    """Lines for the parent: where this process is, what it found."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def say(self, stage: str, **facts: object) -> None:
        line = json.dumps({"stage": stage, **facts}, allow_nan=False) + "\n"
        os.write(self._descriptor, line.encode())


def main(arguments: Sequence[str]) -> int:
    """Try a candidate; return the exit status."""
    job, report = Job(**json.loads(arguments[0])), _Report(int(arguments[1]))
    enforced = fence_in(Fence(job.cpu_s, job.data_bytes, job.parent))
    report.say("started", enforced=enforced)
    try:
        _try(job, report)
    except EdgedError as error:
        device = isinstance(error, DeviceError)
        report.say("refused", reason=error.reason, detail=error.explain(), device=device)
        return REFUSED
    except MemoryError:
        detail = "an allocation was refused while the model was tried"
        report.say("refused", reason="validation_memory", detail=detail, device=False)
        return REFUSED
    return 0


def _try(job: Job, report: _Report) -> None:
    directory = Path(job.directory)
    manifest = read_manifest(directory)
    golden = read_golden(read_file(directory, GOLDEN), manifest.golden.samples)
    if LABELS in manifest.files:
        check_labels(read_file(directory, LABELS), manifest)
    if job.structure_only:
        _check_structure(directory, manifest, golden)
        report.say("done")
        return
    _check_largest(read_model_file(read_model(directory / MODEL)), job.memory_bytes)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", "ascii")  # the peak counts from here
    before_bytes = _resident("VmRSS")
    report.say("loading", resident_bytes=before_bytes)
    start = time.perf_counter()
    config = _config(job.config)
    servable = load_package(config, directory, manifest, "")
    load_s = time.perf_counter() - start
    agreement = _examine(servable, golden, manifest, report, named=config.labels is None)
    invoke_ms = _time(servable, report)
    facts = {
        "runtime": f"{servable.runtime.name} {servable.runtime.version}",
        "load_s": load_s,
        "p50_ms": float(np.percentile(invoke_ms, 50)),
        "p95_ms": float(np.percentile(invoke_ms, 95)),
        "memory_bytes": max(0, _resident("VmHWM") - before_bytes),
        "golden": agreement,
    }
    report.say("freeing")
    servable.close()
    report.say("done", **facts)


def _config(fields: dict[str, Any]) -> ModelConfig:
    lists = {key: tuple(value) for key, value in fields.items() if isinstance(value, list)}
    return ModelConfig(**(fields | lists))


def _check_structure(directory: Path, manifest: Manifest, golden: Golden) -> None:
    """Check what can be told without a runtime.

    Raises:
        ValidationError: `model_not_compiled`, `input_mismatch`, `labels_mismatch`, and what
            `read_model_file` raises.
        VerifyError: `golden_invalid`.
    """
    file = read_model_file(read_model(directory / MODEL_EDGETPU))
    if not file.needs_edgetpu:
        raise ValidationError("model_not_compiled", f"{MODEL_EDGETPU} is not for an Edge TPU")
    inputs, outputs = ([file.shapes[t] for t in side] for side in (file.inputs, file.outputs))
    if manifest.input.shape not in inputs:
        check_input(inputs[0] if inputs else (), None, manifest)
    for shapes, samples, side in (
        (inputs, golden.inputs, "input"),
        (outputs, golden.outputs, "output"),
    ):
        if shapes != [array.shape[1:] for array in samples]:
            raise VerifyError(
                "golden_invalid", f"golden.npz has not the {side}s of {MODEL_EDGETPU}: {shapes}"
            )
    if manifest.task == "classification" and LABELS in manifest.files and len(outputs) == 1:
        labels, count = parse_labels(read_file(directory, LABELS)), math.prod(outputs[0])
        class_labels(labels, count, f"has {count} outputs")


def _check_largest(file: ModelFile, memory_bytes: int) -> None:
    # A tensor has at least a byte an element; an allocation beyond all memory fails in many ways.
    largest = max((math.prod(shape) for shape in file.shapes), default=0)
    if largest > memory_bytes:
        raise ValidationError(
            "validation_memory",
            f"one tensor alone has {largest} elements, and the model may take {memory_bytes} bytes",
        )


def _examine(
    servable: Servable, golden: Golden, manifest: Manifest, report: _Report, *, named: bool
) -> str:
    """Hold the model against its golden set; return how well it agrees, in words.

    Raises:
        EdgedError: as `Examination`.
    """
    examination = Examination(servable, golden, manifest, named=named)
    while (question := examination.next) is not None:
        report.say(question.kind, number=question.number)
        examination.ask()
    return examination.conclude()


def _time(servable: Servable, report: _Report) -> list[float]:
    """Run the model as the service will, frame after frame; return milliseconds of each invoke."""
    state = servable.fresh_state()
    taken_ms: list[float] = []
    end_s = time.monotonic() + _TIMING_S
    for image in itertools.cycle(control_images(servable)):
        report.say("timing", number=len(taken_ms))
        taken_ms.append(1000 * servable.infer(image, state).invoke_s)
        enough = len(taken_ms) >= _LEAST_ROUNDS and time.monotonic() > end_s
        if enough or len(taken_ms) >= _MOST_ROUNDS:
            return taken_ms
    raise AssertionError("itertools.cycle ended")


def _resident(key: str) -> int:
    """Return VmRSS or VmHWM of this process, bytes."""
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith(f"{key}:"):
            return 1024 * int(line.split()[1])
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
