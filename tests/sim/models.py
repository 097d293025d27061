"""Small real .tflite files, written without TensorFlow.

Each function returns the bytes of a file that the real runtimes load and invoke. The weights are
chosen by hand, so what a model answers for an image is known beforehand.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import flatbuffers
import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import flexbuffers

DType = Literal["uint8", "int8", "float32"]
Size = tuple[int, int]
Floats = npt.NDArray[np.float64]

COLOURS = ("red", "green", "blue", "dark")
SIDES = ("left", "right", "top", "bottom")
FOUND = ("red", "green", "blue")
POINTS = ("centre", "right", "below")

_TYPES = {
    "uint8": schema.TensorType.UINT8,
    "int8": schema.TensorType.INT8,
    "int32": schema.TensorType.INT32,
    "float16": schema.TensorType.FLOAT16,
    "int64": schema.TensorType.INT64,
    "float32": schema.TensorType.FLOAT32,
    "bool": schema.TensorType.BOOL,
    "resource": schema.TensorType.RESOURCE,
}
_CONFIDENCE = 20.0  # logit of a full colour: softmax over it is as good as 1
_DARK = 0.2  # a colour channel below this mean (of 0..1) counts as dark


def write(path: Path, model: bytes) -> Path:
    """Write a model to a file and return its path."""
    path.write_bytes(model)
    return path


class Quantisation(NamedTuple):
    """real = scale * (q - zero_point)."""

    scale: float
    zero_point: int


@dataclass(frozen=True, slots=True)
class _Tensor:
    index: int
    shape: tuple[int, ...]
    dtype: str
    quantisation: Quantisation | None


class _Buffer(schema.BufferT):  # type: ignore[misc]
    """A buffer whose content starts at a multiple of 16, as the schema's force_align asks.

    The generated class aligns bytes to 1; kernels read them as float32 in place.
    """

    def Pack(self, builder: flatbuffers.Builder) -> int:  # noqa: N802  # the schema's name
        data = b"" if self.data is None else bytes(self.data)
        vector = 0
        if data:
            builder.StartVector(1, len(data), 16)
            builder.head -= len(data)
            builder.Bytes[builder.head : builder.head + len(data)] = data
            vector = builder.EndVector()
        schema.BufferStart(builder)
        if data:
            schema.BufferAddData(builder, vector)
        return int(schema.BufferEnd(builder))


class _Graph:
    """Collects tensors and operators of a model with one subgraph."""

    def __init__(self) -> None:
        # By convention buffer 0 is empty: tensors without content point to it.
        self._buffers = [_Buffer()]
        self._tensors: list[schema.TensorT] = []
        self._operators: list[schema.OperatorT] = []
        self._codes: list[schema.OperatorCodeT] = []

    def tensor(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: str = "float32",
        quantisation: Quantisation | None = None,
        content: npt.NDArray[Any] | None = None,
        *,
        variable: bool = False,
        open_axes: Sequence[int] = (),
    ) -> _Tensor:
        """Add a tensor.

        Args:
            name: of the tensor.
            shape: of the tensor.
            dtype: of the tensor.
            quantisation: of the tensor.
            content: makes it a constant.
            variable: whether it keeps its values from one invoke to the next.
            open_axes: axes whose size the file leaves open.
        """
        buffer = 0
        if content is not None:
            buffer = len(self._buffers)
            self._buffers.append(_Buffer(data=content.astype(dtype).tobytes()))
        parameters = None
        if quantisation is not None:
            parameters = schema.QuantizationParametersT(
                scale=[quantisation.scale], zeroPoint=[quantisation.zero_point]
            )
        self._tensors.append(
            schema.TensorT(
                shape=list(shape),
                type=_TYPES[dtype],
                buffer=buffer,
                name=name,
                quantization=parameters,
                isVariable=variable,
                shapeSignature=[-1 if i in open_axes else size for i, size in enumerate(shape)]
                if open_axes
                else None,
            )
        )
        return _Tensor(len(self._tensors) - 1, shape, dtype, quantisation)

    def like(self, name: str, source: _Tensor, shape: tuple[int, ...]) -> _Tensor:
        """Add a tensor of another one's type."""
        return self.tensor(name, shape, source.dtype, source.quantisation)

    def operator(
        self,
        name: str,
        inputs: Sequence[_Tensor],
        outputs: Sequence[_Tensor],
        options: tuple[str, Any] | None = None,
        version: int = 1,
    ) -> None:
        """Add a built-in operator; `options` is the union member's name and its table."""
        code = schema.OperatorCodeT(
            builtinCode=getattr(schema.BuiltinOperator, name), version=version
        )
        # Old runtimes read the number from this int8; 127 sends them to the other field.
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
        node = self._node(code, inputs, outputs)
        if options is not None:
            node.builtinOptionsType = getattr(schema.BuiltinOptions, options[0])
            node.builtinOptions = options[1]

    def custom_operator(
        self,
        name: str,
        inputs: Sequence[_Tensor],
        outputs: Sequence[_Tensor],
        options: dict[str, Any],
    ) -> None:
        """Add a custom operator; its options become a FlexBuffer map."""
        custom = schema.BuiltinOperator.CUSTOM
        code = schema.OperatorCodeT(
            deprecatedBuiltinCode=custom, builtinCode=custom, customCode=name
        )
        node = self._node(code, inputs, outputs)
        node.customOptions = list(flexbuffers.Dumps(options))

    def _node(
        self, code: schema.OperatorCodeT, inputs: Sequence[_Tensor], outputs: Sequence[_Tensor]
    ) -> schema.OperatorT:
        self._codes.append(code)
        node = schema.OperatorT(
            opcodeIndex=len(self._codes) - 1,
            inputs=[tensor.index for tensor in inputs],
            outputs=[tensor.index for tensor in outputs],
        )
        self._operators.append(node)
        return node

    def beside(self) -> _Graph:
        """Begin another subgraph of the same model."""
        other = _Graph()
        other._buffers, other._codes = self._buffers, self._codes
        return other

    def subgraph(self, inputs: Sequence[_Tensor], outputs: Sequence[_Tensor]) -> schema.SubGraphT:
        """Return the table of this graph."""
        return schema.SubGraphT(
            tensors=self._tensors,
            inputs=[tensor.index for tensor in inputs],
            outputs=[tensor.index for tensor in outputs],
            operators=self._operators,
            name="main",
        )

    def finish(
        self,
        inputs: Sequence[_Tensor],
        outputs: Sequence[_Tensor],
        others: Sequence[schema.SubGraphT] = (),
        signature: schema.SignatureDefT | None = None,
    ) -> bytes:
        """Return the file.

        Args:
            inputs: of the model.
            outputs: of the model.
            others: subgraphs behind this one.
            signature: names of inputs and outputs beside those of the tensors.
        """
        return _pack(
            schema.ModelT(
                version=3,
                operatorCodes=self._codes,
                subgraphs=[self.subgraph(inputs, outputs), *others],
                description="edged test model",
                buffers=self._buffers,
                signatureDefs=[] if signature is None else [signature],
            )
        )

    # What follows are the layers.

    def image(
        self,
        dtype: DType,
        size: Size,
        channels: int = 3,
        name: str = "image",
        open_axes: Sequence[int] = (),
    ) -> _Tensor:
        """Add an input whose real values are -1 (black) to 1."""
        quantisation = {
            "uint8": Quantisation(1 / 128, 128),
            "int8": Quantisation(1 / 128, 0),
            "float32": None,
        }[dtype]
        return self.tensor(name, (1, *size, channels), dtype, quantisation, open_axes=open_axes)

    def pool(self, source: _Tensor, grid: int) -> _Tensor:
        """Average the image over grid x grid cells."""
        _, height, width, channels = source.shape
        cell = height // grid, width // grid
        # Without padding the operator makes as many cells as fit.
        if 0 in cell or (height // cell[0], width // cell[1]) != (grid, grid):
            raise ValueError(f"an image of {height} x {width} does not divide into {grid} cells")
        pooled = self.like("pooled", source, (1, grid, grid, channels))
        options = schema.Pool2DOptionsT(
            padding=schema.Padding.VALID,
            strideH=cell[0],
            strideW=cell[1],
            filterHeight=cell[0],
            filterWidth=cell[1],
        )
        version = 2 if source.dtype == "int8" else 1
        self.operator("AVERAGE_POOL_2D", [source], [pooled], ("Pool2DOptions", options), version)
        return pooled

    def reshape(self, source: _Tensor, shape: tuple[int, ...]) -> _Tensor:
        """Rename the axes."""
        target = self.tensor("shape", (len(shape),), "int32", content=np.array(shape))
        reshaped = self.like("reshaped", source, shape)
        options = schema.ReshapeOptionsT(newShape=list(shape))
        self.operator("RESHAPE", [source, target], [reshaped], ("ReshapeOptions", options))
        return reshaped

    def dense(
        self, source: _Tensor, weights: Floats, bias: Floats, output: Quantisation, name: str
    ) -> _Tensor:
        """Add a fully connected layer: source (rows, n), weights (m, n), bias (m,).

        Args:
            source: rows of real values.
            weights: real values.
            bias: real values.
            output: step and zero point of the result, for an int8 tensor; unused by float32.
            name: of the result.
        """
        count = weights.shape[0]
        result = self.tensor(
            name,
            (source.shape[0], count),
            source.dtype,
            _for_dtype(output, source.dtype) if source.quantisation else None,
        )
        if source.quantisation is None:
            matrix = self.tensor("weights", weights.shape, content=weights)
            offsets = self.tensor("bias", bias.shape, content=bias)
        else:
            scale = float(np.abs(weights).max()) / 127
            quantisation = _for_dtype(Quantisation(scale, 0), source.dtype)
            values = np.rint(weights / scale) + quantisation.zero_point
            matrix = self.tensor("weights", weights.shape, source.dtype, quantisation, values)
            # The kernel adds the bias to its sums: same step, no zero point.
            step = source.quantisation.scale * scale
            offsets = self.tensor(
                "bias", bias.shape, "int32", Quantisation(step, 0), np.rint(bias / step)
            )
        version = 4 if source.dtype == "int8" else 1
        options = ("FullyConnectedOptions", schema.FullyConnectedOptionsT())
        self.operator("FULLY_CONNECTED", [source, matrix, offsets], [result], options, version)
        return result

    def softmax(self, source: _Tensor, name: str = "scores") -> _Tensor:
        """Turn logits into probabilities."""
        quantisation = _for_dtype(Quantisation(1 / 256, -128), source.dtype)
        scores = self.tensor(
            name, source.shape, source.dtype, quantisation if source.quantisation else None
        )
        version = 2 if source.dtype == "int8" else 1
        options = ("SoftmaxOptions", schema.SoftmaxOptionsT(beta=1.0))
        self.operator("SOFTMAX", [source], [scores], options, version)
        return scores

    def arg_max(self, source: _Tensor, dtype: Literal["int32", "int64"]) -> _Tensor:
        """Choose the highest value along the last axis."""
        axis = self.tensor("axis", (), "int32", content=np.array(len(source.shape) - 1))
        chosen = self.tensor("chosen", source.shape[:-1], dtype)
        options = ("ArgMaxOptions", schema.ArgMaxOptionsT(outputType=_TYPES[dtype]))
        version = 2 if source.dtype == "int8" else 1
        self.operator("ARG_MAX", [source, axis], [chosen], options, version)
        return chosen

    def cast(self, source: _Tensor, dtype: str) -> _Tensor:
        """Write the same numbers in another type."""
        result = self.tensor("cast", source.shape, dtype)
        types = schema.CastOptionsT(inDataType=_TYPES[source.dtype], outDataType=_TYPES[dtype])
        self.operator("CAST", [source], [result], ("CastOptions", types))
        return result

    def logistic(self, source: _Tensor) -> _Tensor:
        """Turn each logit into a probability."""
        quantisation = _for_dtype(Quantisation(1 / 256, -128), source.dtype)
        scores = self.tensor(
            "scores", source.shape, source.dtype, quantisation if source.quantisation else None
        )
        self.operator("LOGISTIC", [source], [scores], version=2 if source.dtype == "int8" else 1)
        return scores

    def concatenate(self, sources: Sequence[_Tensor], axis: int) -> _Tensor:
        """Put tensors of the same type and quantisation beside each other."""
        shape = list(sources[0].shape)
        shape[axis] = sum(source.shape[axis] for source in sources)
        joined = self.like("joined", sources[0], tuple(shape))
        options = ("ConcatenationOptions", schema.ConcatenationOptionsT(axis=axis))
        version = 2 if joined.dtype == "int8" else 1
        self.operator("CONCATENATION", sources, [joined], options, version)
        return joined

    def transpose(self, source: _Tensor, order: Sequence[int]) -> _Tensor:
        """Put the axes into another order."""
        target = self.tensor("order", (len(order),), "int32", content=np.array(order))
        turned = self.like("turned", source, tuple(source.shape[axis] for axis in order))
        options = ("TransposeOptions", schema.TransposeOptionsT())
        version = 2 if source.dtype == "int8" else 1
        self.operator("TRANSPOSE", [source, target], [turned], options, version)
        return turned

    def dequantise(self, source: _Tensor) -> _Tensor:
        """Turn quantised values into float32."""
        real = self.tensor("real", source.shape)
        version = 2 if source.dtype == "int8" else 1
        options = ("DequantizeOptions", schema.DequantizeOptionsT())
        self.operator("DEQUANTIZE", [source], [real], options, version)
        return real


def _for_dtype(int8: Quantisation, dtype: str) -> Quantisation:
    # uint8 is int8 moved up by 128.
    return int8._replace(zero_point=int8.zero_point + 128) if dtype == "uint8" else int8


def _pack(model: schema.ModelT) -> bytes:
    builder = flatbuffers.Builder(4096)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _brightness_weights(factors: Floats) -> tuple[Floats, Floats]:
    """Move factors of brightness, 0..1, to the model's pixels, -1..1: weights and bias."""
    return factors / 2, factors.sum(axis=1) / 2


def classifier(
    dtype: DType = "uint8",
    size: Size = (32, 32),
    head: Literal["softmax", "logits"] = "softmax",
    extra_classes: int = 0,
    channels: int = 3,
) -> bytes:
    """Tell the dominant mean colour of the image; classes as in `COLOURS`.

    Args:
        dtype: of input and output.
        size: height, width of the input.
        head: whether the output is probabilities or raw logits.
        extra_classes: outputs behind the four that never win.
        channels: with 1, bright is class 0 and dark class 3; above 3 the others are ignored.
    """
    graph = _Graph()
    image = graph.image(dtype, size, channels)
    logits = _colour_logits(graph, image, extra_classes, "logits")
    return graph.finish([image], [graph.softmax(logits) if head == "softmax" else logits])


def _colour_logits(graph: _Graph, image: _Tensor, extra_classes: int, name: str) -> _Tensor:
    channels = image.shape[-1]
    mean = graph.reshape(graph.pool(image, 1), (1, channels))
    count = len(COLOURS) + extra_classes
    factors = np.zeros((count, channels))
    offsets = np.full(count, -_CONFIDENCE)
    for i in range(min(channels, 3)):
        factors[i, i] = _CONFIDENCE
        offsets[i] = 0.0
    offsets[COLOURS.index("dark")] = _CONFIDENCE * _DARK
    weights, bias = _brightness_weights(factors)
    # Logits are within -20..20; 0.25 steps reach -32..31.75.
    return graph.dense(mean, weights, bias + offsets, Quantisation(0.25, 0), name)


def left_right_classifier(
    dtype: DType = "uint8",
    size: Size = (33, 33),
    head: Literal["softmax", "logits"] = "softmax",
) -> bytes:
    """Tell at which side of the image the bright blob is; classes as in `SIDES`.

    The image is averaged over 3 x 3 cells; a side is the three cells along it, minus the three
    opposite ones. A blob in a corner is at two sides, one in the middle at none.
    """
    graph = _Graph()
    image = graph.image(dtype, size)
    cells = graph.reshape(graph.pool(image, 3), (1, 27))
    column, row = np.meshgrid([-1.0, 0.0, 1.0], [-1.0, 0.0, 1.0])
    sides = np.stack([-column, column, -row, row])
    # All three channels have the same say.
    factors = np.repeat(sides.reshape(4, 9), 3, axis=1) * (12.0 / 3)
    weights, bias = _brightness_weights(factors)
    # Three white cells against three black ones make 36.
    logits = graph.dense(cells, weights, bias, Quantisation(0.5, 0), "logits")
    return graph.finish([image], [graph.softmax(logits) if head == "softmax" else logits])


def detector(
    dtype: DType = "uint8",
    size: Size = (64, 64),
    grid: int = 4,
    max_detections: int = 10,
    output_order: Literal["standard", "shuffled"] = "standard",
    score_threshold: float = 0.1,
    *,
    background: bool = True,
) -> bytes:
    """Find red, green and blue patches; classes as in `FOUND`.

    Each of grid x grid cells is an anchor; a cell with a patch gives one box, the cell itself.
    Outputs are boxes, classes, scores and count, always float32.

    Args:
        dtype: of the input.
        size: height, width of the input.
        grid: cells along each side.
        max_detections: places in the outputs.
        output_order: `standard` as TF1 exports list the outputs; `shuffled` as TF2 exports do:
            scores, boxes, count, classes.
        background: whether the scores have a column for it; else there is a fourth class, dull.
        score_threshold: boxes below are not counted; 0 counts as many as there are places, as
            most published models do.
    """
    graph = _Graph()
    image = graph.image(dtype, size)
    cells = grid * grid
    colours = graph.reshape(graph.pool(image, grid), (cells, 3))
    # The first column is background, as in SSD models; without one the last is a class unseen.
    rows = [np.zeros(3), *np.eye(3) * _CONFIDENCE]
    dull = 0 if background else 3
    factors = np.vstack(rows if background else rows[1:] + rows[:1])
    weights, bias = _brightness_weights(factors)
    bias[dull] = 0.3 * _CONFIDENCE
    logits = graph.dense(colours, weights, bias, Quantisation(0.25, 0), "logits")
    scores = graph.reshape(graph.softmax(logits), (1, cells, 4))
    if dtype == "int8":
        scores = graph.dequantise(scores)  # the operator reads only uint8 and float32
    boxes = graph.tensor("box_encodings", (1, cells, 4), content=np.zeros((1, cells, 4)))
    anchors = graph.tensor("anchors", (cells, 4), content=_anchors(grid))
    outputs = _detection_outputs(graph, max_detections, output_order)
    classes_in_options = len(FOUND) if background else len(FOUND) + 1
    options = _detection_options(max_detections, score_threshold, classes_in_options)
    graph.custom_operator(
        "TFLite_Detection_PostProcess", [boxes, scores, anchors], outputs, options
    )
    if output_order == "shuffled":
        found, classes, values, count = outputs
        outputs = [values, found, count, classes]
    return graph.finish([image], outputs)


def _anchors(grid: int) -> Floats:
    """Return y, x of the centre, height, width of every cell, row by row."""
    centres = (np.arange(grid) + 0.5) / grid
    y, x = np.meshgrid(centres, centres, indexing="ij")
    side = np.full(grid * grid, 1 / grid)
    return np.stack([y.ravel(), x.ravel(), side, side], axis=1)


def _detection_outputs(graph: _Graph, count: int, order: str) -> list[_Tensor]:
    """Add boxes, classes, scores, count: the operator's own order."""
    shapes: list[tuple[int, ...]] = [(1, count, 4), (1, count), (1, count), (1,)]
    if order == "standard":
        name = "TFLite_Detection_PostProcess"
        names = [name, f"{name}:1", f"{name}:2", f"{name}:3"]
    else:
        # TF2 numbers its outputs by the alphabet, and so misleads whoever sorts by name.
        names = [f"StatefulPartitionedCall:{i}" for i in (3, 2, 1, 0)]
    return [graph.tensor(name, shape) for name, shape in zip(names, shapes, strict=True)]


def _detection_options(
    max_detections: int, score_threshold: float, num_classes: int
) -> dict[str, Any]:
    return {
        "max_detections": max_detections,
        "max_classes_per_detection": 1,
        "detections_per_class": 100,
        "use_regular_nms": False,
        "nms_score_threshold": score_threshold,
        "nms_iou_threshold": 0.6,
        "num_classes": num_classes,
        "y_scale": 10.0,
        "x_scale": 10.0,
        "h_scale": 5.0,
        "w_scale": 5.0,
    }


def keypoints(dtype: DType = "uint8", size: Size = (64, 64), grid: int = 8) -> bytes:
    """Follow the one bright cell of grid x grid; points as in `POINTS`.

    Output [1, 1, 3, 3]: y, x, score of the cell's centre, of the point 1/8 of the width to its
    right, and of the one 1/8 of the height below it. Scores are 0.9, 0.6 and 0.3, always.

    Args:
        dtype: of input and output.
        size: height, width of the input.
        grid: cells along each side.
    """
    graph = _Graph()
    image = graph.image(dtype, size)
    cells = grid * grid
    means = graph.reshape(graph.pool(image, grid), (1, cells * 3))
    # A white cell is worth 20, a black one 0: softmax leaves the bright one alone.
    weights, bias = _brightness_weights(np.repeat(np.eye(cells), 3, axis=1) * _CONFIDENCE / 3)
    bright = graph.softmax(graph.dense(means, weights, bias, Quantisation(0.25, 0), "bright"))
    y, x = _anchors(grid)[:, :2].T
    nothing = np.zeros(cells)
    weights = np.stack([y, x, nothing] * len(POINTS))
    bias = np.array([0, 0, 0.9, 0, 0.125, 0.6, 0.125, 0, 0.3])
    points = graph.dense(bright, weights, bias, Quantisation(1 / 256, -128), "points")
    return graph.finish([image], [graph.reshape(points, (1, 1, len(POINTS), 3))])


def segmenter(
    dtype: DType = "uint8",
    size: Size = (64, 64),
    grid: int = 32,
    output: Literal["int64", "int32", "uint8", "scores"] = "int64",
) -> bytes:
    """Tell the colour of each of grid x grid cells; classes as in `COLOURS`.

    Args:
        dtype: of the input, and of scores.
        size: height, width of the input.
        grid: cells along each side; they are the pixels of the output.
        output: the type of the label numbers, shape (1, grid, grid), or scores for each class,
            shape (1, grid, grid, classes).
    """
    graph = _Graph()
    image = graph.image(dtype, size)
    cells = graph.reshape(graph.pool(image, grid), (grid * grid, 3))
    weights, bias = _brightness_weights(np.vstack([np.eye(3), np.zeros(3)]) * _CONFIDENCE)
    bias[COLOURS.index("dark")] = _CONFIDENCE * _DARK
    logits = graph.dense(cells, weights, bias, Quantisation(0.25, 0), "logits")
    maps = graph.reshape(logits, (1, grid, grid, len(COLOURS)))
    if output == "scores":
        return graph.finish([image], [maps])
    if output == "uint8":
        return graph.finish([image], [graph.cast(graph.arg_max(maps, "int32"), "uint8")])
    return graph.finish([image], [graph.arg_max(maps, output)])


_STRIDES = (8, 16, 32)
# Scores of a cell that one colour fills; the larger cell wins over the smaller ones inside it.
_CELL_OFFSETS = (-6.0, -5.0, -4.0)
_CELL_GAIN = 8.0


def yolo(
    dtype: DType = "float32",
    size: Size = (64, 64),
    layout: Literal["scores", "objectness", "rows"] = "scores",
    *,
    pixels: bool = False,
    channels_first: bool = False,
) -> bytes:
    """Find red, green and blue squares; classes as in `FOUND`. Pixels enter as 0..1.

    Each cell of three grids, of 8, 16 and 32 pixels, answers with itself as a box for the colour
    that fills it.

    Args:
        dtype: of input and output.
        size: height, width of the input; multiples of 32.
        layout: `scores` is (1, 4 + 3, cells) as YOLOv8 has it, `rows` its transpose, `objectness`
            (1, 3 x cells, 5 + 3) as YOLOv5 has it: three boxes a cell, each smaller and less sure.
        pixels: whether boxes are in pixels of the input instead of 0..1; not quantised then.
        channels_first: whether the input is (1, 3, height, width).
    """
    graph = _Graph()
    quantisation = {
        "uint8": Quantisation(1 / 255, 0), "int8": Quantisation(1 / 255, -128), "float32": None
    }[dtype]  # fmt: skip
    shape = (1, 3, *size) if channels_first else (1, *size, 3)
    image = source = graph.tensor("image", shape, dtype, quantisation)
    if channels_first:
        source = graph.transpose(image, (0, 2, 3, 1))
    anchors = (1.0, 0.9, 0.8) if layout == "objectness" else (1.0,)
    tables = [
        _yolo_level(graph, source, stride, offset, anchor, layout == "objectness", pixels)
        for stride, offset in zip(_STRIDES, _CELL_OFFSETS, strict=True)
        for anchor in anchors
    ]
    table = graph.concatenate(tables, 0)
    output = graph.reshape(table, (1, *table.shape))
    if layout == "scores":
        output = graph.transpose(output, (0, 2, 1))
    return graph.finish([image], [output])


def _yolo_level(
    graph: _Graph,
    image: _Tensor,
    stride: int,
    offset: float,
    anchor: float,
    objectness: bool,
    pixels: bool,
) -> _Tensor:
    """Add boxes and scores of one grid's cells, a row each."""
    height, width = image.shape[1] // stride, image.shape[2] // stride
    pooled = graph.like("cells", image, (1, height, width, 3))
    options = schema.Pool2DOptionsT(
        padding=schema.Padding.VALID,
        strideH=stride,
        strideW=stride,
        filterHeight=stride,
        filterWidth=stride,
    )
    version = 2 if image.dtype == "int8" else 1
    graph.operator("AVERAGE_POOL_2D", [image], [pooled], ("Pool2DOptions", options), version)
    colours = graph.reshape(pooled, (height * width, 3))
    # Grey of any brightness is no colour: a channel counts against the mean of the other two.
    weights = _CELL_GAIN * (1.5 * np.eye(3) - 0.5)
    bias = np.full(3, offset)
    if objectness:
        weights = np.vstack([np.full(3, _CELL_GAIN), weights])
        bias = np.append(offset - 5 * (1 - anchor), bias)
    scores = graph.logistic(graph.dense(colours, weights, bias, Quantisation(0.25, 0), "logits"))
    y, x = np.meshgrid(np.arange(height) + 0.5, np.arange(width) + 0.5, indexing="ij")
    sides = np.full(height * width, anchor)
    boxes = np.stack([x.ravel(), y.ravel(), sides, sides], axis=1) * stride
    if not pixels:
        boxes = boxes / np.array([image.shape[2], image.shape[1]] * 2)
    if scores.quantisation is not None:
        steps = np.rint(boxes / scores.quantisation.scale) + scores.quantisation.zero_point
        boxes = np.minimum(steps, np.iinfo(scores.dtype).max)
    shape = (height * width, 4)
    content = graph.tensor("boxes", shape, scores.dtype, scores.quantisation, boxes)
    return graph.concatenate([content, scores], 1)


def constant(values: npt.NDArray[Any], size: Size = (64, 64)) -> bytes:
    """Answer these float32 values, of any shape of three axes, for whatever image."""
    graph = _Graph()
    image = graph.image("float32", size)
    mean = graph.reshape(graph.pool(image, 1), (1, 3))
    nothing = graph.dense(mean, np.zeros((1, 3)), np.zeros(1), Quantisation(1.0, 0), "nothing")
    content = graph.tensor("values", values.shape, content=values)
    answer = graph.like("answer", content, values.shape)
    inputs = [content, graph.reshape(nothing, (1, 1, 1))]
    graph.operator("ADD", inputs, [answer], ("AddOptions", schema.AddOptionsT()))
    return graph.finish([image], [answer])


def with_export_metadata(
    model_bytes: bytes,
    names: Sequence[str],
    style: Literal["metadata.json", "temp_meta.txt", "meta.txt"] = "metadata.json",
    task: str = "detect",
) -> bytes:
    """Add what Ultralytics' exporters write behind a model: JSON, or a dictionary as Python's.

    Args:
        model_bytes: a .tflite file.
        names: of the classes.
        style: name of the file, as the newer and older exporters and yolov5's have it.
        task: what the model is for.
    """
    facts: dict[str, Any] = {
        "description": "Ultralytics YOLO model trained on a test", "stride": 32, "task": task,
        "imgsz": [64, 64], "names": dict(enumerate(names)), "args": {"nms": False},
    }  # fmt: skip
    if style == "meta.txt":
        facts = {"stride": 32, "names": list(names)}
    text = json.dumps(facts) if style == "metadata.json" else str(facts)
    return _append_file(model_bytes, style, text.encode())


def nan_classifier(size: Size = (32, 32), *, only_black: bool = False) -> bytes:
    """Classify as `classifier` does, in float32, but answer NaN.

    Args:
        size: height, width of the input.
        only_black: answer NaN for a black image only: a model that passes its tests and fails
            at night.
    """
    graph = _Graph()
    image = graph.image("float32", size)
    logits = _colour_logits(graph, image, 0, "logits")
    mean = graph.reshape(graph.pool(image, 1), (1, 3))
    factors = np.full((4, 3), 1.0 if only_black else 0.0)
    weights, bias = _brightness_weights(factors)
    below_zero = graph.dense(mean, weights, bias - 0.01, Quantisation(1.0, 0), "below_zero")
    root = graph.like("root", below_zero, (1, 4))
    graph.operator("SQRT", [below_zero], [root])
    # Softmax ignores what is added to all logits alike, unless it is NaN.
    total = graph.like("sum", root, (1, 4))
    graph.operator("ADD", [logits, root], [total], ("AddOptions", schema.AddOptionsT()))
    return graph.finish([image], [graph.softmax(total)])


def two_inputs(size: Size = (32, 32)) -> bytes:
    """Classify the sum of two float32 images: a model that edged cannot feed."""
    graph = _Graph()
    left = graph.image("float32", size, name="left")
    right = graph.image("float32", size, name="right")
    both = graph.like("both", left, left.shape)
    graph.operator("ADD", [left, right], [both], ("AddOptions", schema.AddOptionsT()))
    logits = _colour_logits(graph, both, 0, "logits")
    return graph.finish([left, right], [graph.softmax(logits)])


def custom_op(
    name: str, size: Size = (32, 32), classes: int = 4, options: str = "edged tests"
) -> bytes:
    """Return a uint8 classifier that is a single custom operator of that name."""
    graph = _Graph()
    image = graph.image("uint8", size)
    scores = graph.tensor("scores", (1, classes), "uint8", Quantisation(1 / 256, 0))
    graph.custom_operator(name, [image], [scores], {"made_by": options})
    return graph.finish([image], [scores])


def edgetpu_custom_op(size: Size = (32, 32), classes: int = 4, mode: str = "ok") -> bytes:
    """Return what edgetpu_compiler makes of a classifier that fits the accelerator whole.

    Args:
        size: height and width.
        classes: how many.
        mode: what the delegate that stands in for libedgetpu does with it, see delegate.c.
    """
    options = "edged tests" if mode == "ok" else f"mode={mode}"
    return custom_op("edgetpu-custom-op", size, classes, options)


# TFLite Metadata: tables by the slots of tflite_support/metadata/metadata_schema.fbs.

_TENSOR_AXIS_LABELS = 2
_TENSOR_VALUE_LABELS = 3
_NORMALIZATION_OPTIONS = 1
LABELS_FILE = "labels.txt"


def with_metadata(
    model_bytes: bytes,
    labels: Sequence[str] | None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    name: str = "edged test model",
    version: str = "1.0.0",
    *,
    labels_output: int = 0,
) -> bytes:
    """Add TFLite Metadata to a model, and its labels as a zip behind it.

    Args:
        model_bytes: a .tflite file.
        labels: one per class, or None for no label file.
        mean: normalisation of all channels, or one per channel; None for none.
        std: the same.
        name: the model's name in the metadata.
        version: the model's version in the metadata.
        labels_output: which output the label file belongs to; behind a detector's classes it is
            marked as labels of values, else of the axis.
    """
    model = schema.ModelT.InitFromPackedBuf(model_bytes)
    graph = model.subgraphs[0]
    detects = any(
        code.customCode == b"TFLite_Detection_PostProcess" for code in model.operatorCodes
    )
    metadata = _Metadata(name, version)
    image = _TensorInfo("image", mean=_floats(mean), std=_floats(std))
    metadata.inputs = [
        image if len(graph.tensors[i].shape) == 4 else _TensorInfo("state") for i in graph.inputs
    ]
    metadata.outputs = [_TensorInfo(f"output {i}") for i in range(len(graph.outputs))]
    if labels is not None:
        kind = _TENSOR_VALUE_LABELS if detects else _TENSOR_AXIS_LABELS
        metadata.outputs[labels_output] = _TensorInfo("output with labels", labels=kind)
    model.buffers = [_Buffer(data=buffer.data) for buffer in model.buffers]
    model.buffers.append(_Buffer(data=metadata.pack()))
    entry = schema.MetadataT(name="TFLITE_METADATA", buffer=len(model.buffers) - 1)
    model.metadata = [*(model.metadata or []), entry]
    packed = _pack(model)
    return packed if labels is None else _append_labels(packed, labels)


def _append_labels(model: bytes, labels: Sequence[str]) -> bytes:
    return _append_file(model, LABELS_FILE, "".join(f"{label}\n" for label in labels).encode())


def _append_file(model: bytes, name: str, content: bytes) -> bytes:
    file = io.BytesIO(model)
    # Mode "a" leaves the model in front and counts the archive's offsets from its start.
    with zipfile.ZipFile(file, "a", zipfile.ZIP_STORED) as archive:
        # A fixed date: the same arguments give the same bytes.
        archive.writestr(zipfile.ZipInfo(name), content)
    return file.getvalue()


def _floats(value: float | Sequence[float] | None) -> tuple[float, ...]:
    if value is None:
        return ()
    return (float(value),) if isinstance(value, int | float) else tuple(value)


@dataclass(frozen=True, slots=True)
class _TensorInfo:
    name: str
    labels: int | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


# A field of a table: its slot and what writes it into the started table.
_Field = tuple[int, Callable[[int], None]]


class _Metadata:
    """Builds the second FlatBuffer: ModelMetadata, identifier M001."""

    def __init__(self, name: str, version: str) -> None:
        self._builder = flatbuffers.Builder(1024)
        self._name = name
        self._version = version
        self.inputs: list[_TensorInfo] = []
        self.outputs: list[_TensorInfo] = []

    def pack(self) -> bytes:
        """Return the buffer."""
        # SubGraphMetadata: input_tensor_metadata 2, output_tensor_metadata 3.
        graph = self._table(
            [
                self._offset(2, self._vector([self._tensor(info) for info in self.inputs])),
                self._offset(3, self._vector([self._tensor(info) for info in self.outputs])),
            ]
        )
        # ModelMetadata: name 0, description 1, version 2, subgraph_metadata 3,
        # min_parser_version 7.
        root = self._table(
            [
                self._text(0, self._name),
                self._text(1, "made for tests"),
                self._text(2, self._version),
                self._offset(3, self._vector([graph])),
                self._text(7, "1.0.0"),
            ]
        )
        self._builder.Finish(root, b"M001")
        return bytes(self._builder.Output())

    def _tensor(self, info: _TensorInfo) -> int:
        # TensorMetadata: name 0, process_units 4, associated_files 6.
        fields = [self._text(0, info.name)]
        if info.mean or info.std:
            fields.append(self._offset(4, self._vector([self._normalisation(info)])))
        if info.labels is not None:
            fields.append(self._offset(6, self._vector([self._label_file(info.labels)])))
        return self._table(fields)

    def _normalisation(self, info: _TensorInfo) -> int:
        # NormalizationOptions: mean 0, std 1. ProcessUnit: options_type 0, options 1.
        options = self._table(
            [self._offset(0, self._numbers(info.mean)), self._offset(1, self._numbers(info.std))]
        )
        return self._table([self._byte(0, _NORMALIZATION_OPTIONS), self._offset(1, options)])

    def _label_file(self, kind: int) -> int:
        # AssociatedFile: name 0, description 1, type 2, locale 3.
        return self._table(
            [
                self._text(0, LABELS_FILE),
                self._text(1, "one label per line"),
                self._byte(2, kind),
                self._text(3, "en"),
            ]
        )

    # A FlatBuffer is written from its leaves: a field's content comes before its table.

    def _table(self, fields: list[_Field]) -> int:
        self._builder.StartObject(max(slot for slot, _ in fields) + 1)
        for slot, add in fields:
            add(slot)
        return int(self._builder.EndObject())

    def _text(self, slot: int, text: str) -> _Field:
        return self._offset(slot, self._builder.CreateString(text))

    def _offset(self, slot: int, position: int) -> _Field:
        def add(to: int) -> None:
            self._builder.PrependUOffsetTRelativeSlot(to, position, 0)

        return slot, add

    def _byte(self, slot: int, value: int) -> _Field:
        def add(to: int) -> None:
            self._builder.PrependUint8Slot(to, value, 0)

        return slot, add

    def _vector(self, tables: Sequence[int]) -> int:
        self._builder.StartVector(4, len(tables), 4)
        for table in reversed(tables):
            self._builder.PrependUOffsetTRelative(table)
        return int(self._builder.EndVector())

    def _numbers(self, values: Sequence[float]) -> int:
        return int(self._builder.CreateNumpyVector(np.array(values, np.float32)))
