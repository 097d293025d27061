"""Whether a package fits a board, as far as its manifest can tell. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from edged.errors import VerifyError
from edged.models.manifest import Manifest, Processor


@dataclass(frozen=True, slots=True)
class Board:
    """What a device has for a model.

    Attributes:
        processors: what its configuration lets the model run on, of those that are there.
        runtime: `litert` or `tflite`.
        runtime_version: as installed.
        free_bytes: memory that a model may take beside what runs.
    """

    processors: Collection[Processor]
    runtime: str
    runtime_version: str
    free_bytes: int


def check_fit(manifest: Manifest, board: Board) -> None:
    """Refuse a package that cannot run on a board.

    Raises:
        VerifyError: `processor_unsupported`, `runtime_too_old`, `memory_insufficient`.
    """
    if not set(manifest.processors()) & set(board.processors):
        raise VerifyError(
            "processor_unsupported",
            f"the package has a model for {' and '.join(manifest.processors())} only, and this"
            f" device may run it on {' or '.join(board.processors)}.",
        )
    least = manifest.requires.runtime.get(board.runtime, ">=0")
    if _numbers(board.runtime_version) < _numbers(least):
        raise VerifyError(
            "runtime_too_old",
            f"the package asks for {board.runtime} {least}, and {board.runtime_version} is"
            " installed.",
            advice="Update the runtime on the device before this model.",
        )
    if manifest.requires.memory_bytes > board.free_bytes:
        raise VerifyError(
            "memory_insufficient",
            f"the package asks for {manifest.requires.memory_bytes} bytes of memory, and"
            f" {board.free_bytes} are free.",
        )


def _numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version; of one that nobody knows, very high ones."""
    found = re.match(r"(?:>=)?([0-9]+(?:\.[0-9]+)*)", version)
    if found is None:
        return (10**9,)  # not told: nothing that could be refused
    numbers = [int(number) for number in found[1].split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()  # 1.0 is 1
    return tuple(numbers)
