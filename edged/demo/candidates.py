"""Candidates made of the bundled model: one that is as good, and some that are not.

Nothing is trained or converted: the bytes of the FlatBuffer are changed where they stand, so each
is a well-formed file of the same length.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from edged.models.golden import Golden, read_golden, write_golden
from edged.models.manifest import GOLDEN, MANIFEST, PackagedFile
from edged.models.package import read_package, write_package

# Of 127. Of 400 pictures of the scene 398 are told right with and without them; from 12 on, fewer.
_SMALL = 8
A_QUARTER = 64
"""What the model of `constant` answers for each label, in steps of 1/256."""

_WEIGHTS, _BIAS = 1, 2  # places among the inputs of FULLY_CONNECTED


def pruned(model: bytes) -> tuple[bytes, float]:
    """Set the smallest weights to 0, as is done to let models be packed smaller.

    Returns:
        The model and the share of its weights that changed, 0..1.
    """
    data = bytearray(model)
    changed = count = 0
    for weights in _weights(schema.Model.GetRootAs(data)):
        small = (weights != 0) & (np.abs(weights.astype(np.int16)) <= _SMALL)
        weights[small] = 0
        changed, count = changed + int(small.sum()), count + weights.size
    return bytes(data), changed / count


def crashing(model: bytes) -> bytes:
    """Let the last operator's input be quantised in steps of 0, of which LiteRT's XNNPACK dies."""
    data = bytearray(model)
    graph = schema.Model.GetRootAs(data).Subgraphs(0)
    tensor = graph.Operators(graph.OperatorsLength() - 1).Inputs(0)
    graph.Tensors(tensor).Quantization().ScaleAsNumpy()[:] = 0
    return bytes(data)


def constant(model: bytes) -> bytes:
    """Set the last layer to 0: what is left gives every label a quarter, whatever it is shown."""
    data = bytearray(model)
    file = schema.Model.GetRootAs(data)
    for place in (_WEIGHTS, _BIAS):
        _content(file, _last_layer(file).Inputs(place))[:] = 0
    return bytes(data)


def _last_layer(file: Any) -> Any:
    graph = file.Subgraphs(0)
    for number in reversed(range(graph.OperatorsLength())):
        operator = graph.Operators(number)
        code = file.OperatorCodes(operator.OpcodeIndex()).BuiltinCode()
        if code == schema.BuiltinOperator.FULLY_CONNECTED:
            return operator
    raise AssertionError("the bundled model ends in a dense layer")


def _weights(file: Any) -> Iterator[NDArray[np.int8]]:
    graph = file.Subgraphs(0)
    for number in range(graph.TensorsLength()):
        tensor = graph.Tensors(number)
        stored = file.Buffers(tensor.Buffer()).DataLength() > 0
        if stored and tensor.Type() == schema.TensorType.INT8:
            yield _content(file, number)


def _content(file: Any, tensor: int) -> NDArray[np.int8]:
    """Return the bytes of a constant as they stand in the file: writing there changes the file."""
    buffer = file.Buffers(file.Subgraphs(0).Tensors(tensor).Buffer())
    content: NDArray[np.int8] = buffer.DataAsNumpy().view(np.int8)
    return content


def rebuilt(
    package: Path,
    output: Path,
    version: str,
    changes: Mapping[str, bytes],
    answer: int | None = None,
) -> None:
    """Write a package with some files replaced, digests set right, as one could by hand.

    Args:
        package: a sound one.
        output: where to write.
        version: that it calls itself.
        changes: content by name.
        answer: what the golden set expects of every output, 0..255; None: as it is.
    """
    found = read_package(package)
    files = {entry.name: found.read(entry.name) for entry in found.entries}
    del files[MANIFEST]
    files |= changes
    manifest = replace(found.manifest, version=version)
    if answer is not None:
        golden = read_golden(files[GOLDEN], manifest.golden.samples)
        answers = tuple(np.full_like(array, answer) for array in golden.outputs)
        files[GOLDEN] = write_golden(Golden(golden.inputs, answers))
        manifest = replace(manifest, golden=replace(manifest.golden, top1=None))
    declared = {
        name: PackagedFile(hashlib.sha256(content).hexdigest(), len(content))
        for name, content in files.items()
    }
    with output.open("wb") as file:
        write_package(file, replace(manifest, files=declared), files)
