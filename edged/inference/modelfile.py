"""What a .tflite file says about itself, read without a runtime. Pure: bytes in, facts out.

A .tflite file is a FlatBuffer (identifier `TFL3`); TFLite Metadata is a second FlatBuffer
(identifier `M001`) in one of its buffers; labels are files in a zip appended behind it, see
`modellabels`. Only the few fields that edged needs are read, by their slot in the public schemas:
`tensorflow/lite/schema/schema.fbs` and `tflite_support/metadata/metadata_schema.fbs`.
The file may be hostile: every offset is followed inside the buffer or refused.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import flatbuffers.table
from flatbuffers import number_types

from edged.errors import ValidationError
from edged.inference.modellabels import label_file_name, packed_task

EDGETPU_OPERATOR = "edgetpu-custom-op"

_CUSTOM = 32  # BuiltinOperator.CUSTOM
# The operators that edged tells apart, by BuiltinOperator number.
_BUILTIN = {
    6: "DEQUANTIZE",
    14: "LOGISTIC",
    22: "RESHAPE",
    25: "SOFTMAX",
    53: "CAST",
    56: "ARG_MAX",
    114: "QUANTIZE",
    144: "ASSIGN_VARIABLE",
}
_TENSOR_AXIS_LABELS = 2  # AssociatedFileType
_NORMALIZATION_OPTIONS = 1  # ProcessUnitOptions union


@dataclass(frozen=True, slots=True)
class Operator:
    """One node of the graph. Tensors are numbers within the main subgraph."""

    name: str
    custom: bool
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: bytes = b""  # of a custom operator, usually a FlexBuffer


@dataclass(frozen=True, slots=True)
class ModelFile:
    """The facts of one file.

    Attributes:
        operators: of the main subgraph, in order.
        inputs: tensor numbers.
        outputs: tensor numbers.
        shapes: of every tensor of the main subgraph.
        label_name: of the label file packed inside, or None; `packed_labels` reads it.
        task: what an exporter says the model is for: `detect`, `segment`, `pose`..., or None.
        mean: normalisation per channel from the metadata, or None.
        std: the same; a pixel enters the model as (pixel - mean) / std.
        input_names: of the inputs in the SignatureDef, "" for one that it leaves out.
        output_names: the same.
        keeps_state: whether a tensor keeps its values from one invoke to the next, as those of
            LSTM operators do.
    """

    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]
    label_name: str | None = None
    task: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    input_names: tuple[str, ...] = ()
    output_names: tuple[str, ...] = ()
    keeps_state: bool = False

    @property
    def needs_edgetpu(self) -> bool:
        """Whether the model was compiled for an Edge TPU."""
        return EDGETPU_OPERATOR in self.custom_operators

    @property
    def custom_operators(self) -> tuple[str, ...]:
        """Names of custom operators, in order of first use."""
        return tuple(dict.fromkeys(op.name for op in self.operators if op.custom))

    @property
    def assigns_variables(self) -> bool:
        """Whether the model writes resource variables, which outlive an invoke too."""
        return any(op.name == "ASSIGN_VARIABLE" for op in self.operators)

    def input_size(self, position: int) -> tuple[int, int] | None:
        """Height, width of an input, or None where it is no image."""
        shape = self.shapes[self.inputs[position]]
        if len(shape) != 4:
            return None
        channels_last = shape[3] in (1, 3)
        return (shape[1], shape[2]) if channels_last else (shape[2], shape[3])

    def producer(self, tensor: int) -> Operator | None:
        """Return the operator that writes a tensor."""
        return next((op for op in self.operators if tensor in op.outputs), None)

    def head(self, tensor: int) -> str:
        """Say what an output tensor holds: `softmax`, `logistic` or `logits`.

        Looks through operators that only move or requantise values.
        """
        for _ in range(8):
            operator = self.producer(tensor)
            if operator is None or not operator.inputs:
                break
            if operator.name in {"SOFTMAX", "LOGISTIC"}:
                return operator.name.lower()
            if operator.name not in {"RESHAPE", "QUANTIZE", "DEQUANTIZE"}:
                break
            tensor = operator.inputs[0]
        return "logits"


def read_model_file(data: bytes) -> ModelFile:
    """Read the facts of a .tflite file.

    Args:
        data: the whole file.

    Raises:
        ValidationError: `model_empty`, `not_a_model` (no TFLite FlatBuffer), `model_damaged`
            (one, but cut short or inconsistent).
    """
    if not data:
        raise ValidationError("model_empty", "the model file is empty")
    if len(data) < 8 or data[4:8] != b"TFL3":
        raise ValidationError("not_a_model", f"this is not a .tflite file: {_looks_like(data)}")
    try:
        return _read(data)
    except (
        struct.error,
        IndexError,
        OverflowError,
        ValueError,
        TypeError,
        RecursionError,
    ) as error:
        raise ValidationError(
            "model_damaged", "the model file is cut short or damaged: its structure does not add up"
        ) from error


def _looks_like(data: bytes) -> str:
    kinds = {
        b"PK\x03\x04": "it looks like a zip archive",
        b"\x89HDF": "it looks like a Keras .h5 file; convert it to TFLite first",
        b"\x1f\x8b": "it looks like a gzip file",
        b"\x89PNG": "it is a PNG image",
        b"\xff\xd8\xff": "it is a JPEG image",
        b"\x7fELF": "it is a program or library",
    }
    for magic, words in kinds.items():
        if data.startswith(magic):
            return words
    if (
        data[:64].isascii()
        and data[:64].replace(b"\n", b" ").replace(b"\t", b" ").decode("ascii").isprintable()
    ):
        return "it is text"
    return "its first bytes are no TFLite identifier"


class _Table:
    """A FlatBuffer table read by slot number, every position checked against the buffer."""

    def __init__(self, data: bytes, position: int) -> None:
        if not 0 <= position <= len(data) - 4:
            raise IndexError(position)
        self._data = data
        self._table = flatbuffers.table.Table(data, position)

    @classmethod
    def root(cls, data: bytes) -> _Table:
        return cls(data, int(struct.unpack_from("<I", data)[0]))

    def _offset(self, slot: int) -> int:
        offset = int(self._table.Offset(4 + 2 * slot))
        return offset + int(self._table.Pos) if offset else 0

    def integer(self, slot: int, flags: type, default: int = 0) -> int:
        at = self._offset(slot)
        return int(self._table.Get(flags, at)) if at else default

    def table(self, slot: int) -> _Table | None:
        at = self._offset(slot)
        return _Table(self._data, int(self._table.Indirect(at))) if at else None

    def text(self, slot: int) -> str:
        at = self._offset(slot)
        return self._bytes_at(at).decode("utf-8", "replace") if at else ""

    def raw(self, slot: int) -> bytes:
        """Return a vector of bytes."""
        at = self._offset(slot)
        return self._bytes_at(at) if at else b""

    def _bytes_at(self, at: int) -> bytes:
        start = int(self._table.Indirect(at))
        (length,) = struct.unpack_from("<I", self._data, start)
        if start + 4 + length > len(self._data):
            raise IndexError(start)
        return self._data[start + 4 : start + 4 + length]

    def numbers(self, slot: int, code: str) -> tuple[float, ...]:
        """Return a vector of scalars; `code` as in `struct`."""
        at = self._offset(slot)
        if not at:
            return ()
        start = int(self._table.Indirect(at))
        (length,) = struct.unpack_from("<I", self._data, start)
        if length * struct.calcsize(code) > len(self._data):
            raise IndexError(length)
        return struct.unpack_from(f"<{length}{code}", self._data, start + 4)

    def integers(self, slot: int) -> tuple[int, ...]:
        return tuple(int(value) for value in self.numbers(slot, "i"))

    def tables(self, slot: int) -> Iterator[_Table]:
        at = self._offset(slot)
        if not at:
            return
        start = int(self._table.Indirect(at))
        (length,) = struct.unpack_from("<I", self._data, start)
        if length * 4 > len(self._data):
            raise IndexError(length)
        for i in range(length):
            yield _Table(self._data, int(self._table.Indirect(start + 4 + 4 * i)))


def _read(data: bytes) -> ModelFile:
    # Model: operator_codes 1, subgraphs 2, buffers 4, metadata 6, signature_defs 7.
    model = _Table.root(data)
    names = [_operator_name(code) for code in model.tables(1)]
    graph = next(model.tables(2), None)
    if graph is None:
        raise ValueError
    # SubGraph: tensors 0, inputs 1, outputs 2, operators 3. Operator: opcode_index 0,
    # inputs 1, outputs 2, custom_options 5. Tensor: shape 0, is_variable 5.
    operators = tuple(
        Operator(
            *names[op.integer(0, number_types.Uint32Flags)],
            op.integers(1),
            op.integers(2),
            op.raw(5),
        )
        for op in graph.tables(3)
    )
    shapes = tuple(tensor.integers(0) for tensor in graph.tables(0))
    keeps_state = any(tensor.integer(5, number_types.BoolFlags) for tensor in graph.tables(0))
    inputs, outputs = graph.integers(1), graph.integers(2)
    if any(not 0 <= tensor < len(shapes) for tensor in (*inputs, *outputs)):
        raise ValueError
    metadata = _metadata(model)
    mean, std = _normalisation(metadata) if metadata else (None, None)
    return ModelFile(
        operators,
        inputs,
        outputs,
        shapes,
        label_name=label_file_name(data, _label_files(metadata) if metadata else ()),
        task=packed_task(data),
        mean=mean,
        std=std,
        input_names=_signature_names(model, 0, inputs),
        output_names=_signature_names(model, 1, outputs),
        keeps_state=keeps_state,
    )


def _signature_names(model: _Table, slot: int, tensors: tuple[int, ...]) -> tuple[str, ...]:
    # SignatureDef: inputs 0, outputs 1, subgraph_index 4. TensorMap: name 0, tensor_index 1.
    for signature in model.tables(7):
        if signature.integer(4, number_types.Uint32Flags) == 0:
            names = {
                entry.integer(1, number_types.Uint32Flags): entry.text(0)
                for entry in signature.tables(slot)
            }
            return tuple(names.get(tensor, "") for tensor in tensors)
    return tuple("" for _ in tensors)


def _operator_name(code: _Table) -> tuple[str, bool]:
    # OperatorCode: deprecated_builtin_code 0 (int8), custom_code 1, builtin_code 3 (int32).
    number = max(code.integer(0, number_types.Int8Flags), code.integer(3, number_types.Int32Flags))
    if number == _CUSTOM:
        return code.text(1), True
    return _BUILTIN.get(number, f"builtin {number}"), False


def _metadata(model: _Table) -> _Table | None:
    # Metadata: name 0, buffer 1. Buffer: data 0.
    for entry in model.tables(6):
        if entry.text(0) == "TFLITE_METADATA":
            index = entry.integer(1, number_types.Uint32Flags)
            for i, buffer in enumerate(model.tables(4)):
                if i == index:
                    content = buffer.raw(0)
                    return _Table.root(content) if content[4:8] == b"M001" else None
    return None


def _tensor_metadata(metadata: _Table, slot: int) -> Iterator[_Table]:
    # ModelMetadata: subgraph_metadata 3. SubGraphMetadata: inputs 2, outputs 3.
    graph = next(metadata.tables(3), None)
    if graph is not None:
        yield from graph.tables(slot)


def _normalisation(
    metadata: _Table,
) -> tuple[tuple[float, ...], tuple[float, ...]] | tuple[None, None]:
    # TensorMetadata: process_units 4. ProcessUnit: options_type 0, options 1.
    # NormalizationOptions: mean 0, std 1.
    for tensor in _tensor_metadata(metadata, 2):
        for unit in tensor.tables(4):
            if unit.integer(0, number_types.Uint8Flags) == _NORMALIZATION_OPTIONS:
                options = unit.table(1)
                if options is not None:
                    mean, std = options.numbers(0, "f"), options.numbers(1, "f")
                    if mean and len(mean) == len(std) and all(value > 0 for value in std):
                        return mean, std
    return None, None


def _label_files(metadata: _Table) -> tuple[str, ...]:
    # TensorMetadata: associated_files 6. AssociatedFile: name 0, type 2.
    return tuple(
        file.text(0)
        for tensor in _tensor_metadata(metadata, 3)
        for file in tensor.tables(6)
        if file.integer(2, number_types.Uint8Flags) == _TENSOR_AXIS_LABELS
    )
