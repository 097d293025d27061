"""The classifier of `COLOURS` with its numbers kept as converters keep them to save space."""

from __future__ import annotations

from typing import Literal

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from sim.models import Floats, Quantisation, Size, _colour_logits, _Graph, _Tensor

Kind = Literal["float32", "float16", "dynamic", "dynamic_conv", "float16_input"]
KINDS: tuple[Kind, ...] = ("float32", "float16", "dynamic", "dynamic_conv")


class _Half(_Graph):
    """Weights in float16, turned into float32 by an operator, as TFLite's converter writes them."""

    def dense(
        self, source: _Tensor, weights: Floats, bias: Floats, output: Quantisation, name: str
    ) -> _Tensor:
        return _connected(self, source, self._half(weights), self._half(bias), name)

    def _half(self, values: Floats) -> _Tensor:
        half = self.tensor("half", values.shape, "float16", content=values)
        real = self.tensor("real", values.shape)
        options = ("DequantizeOptions", schema.DequantizeOptionsT())
        self.operator("DEQUANTIZE", [half], [real], options, version=3)
        return real


class _Dynamic(_Graph):
    """Weights in int8, all else in float32: the kernel quantises its input as it comes."""

    def dense(
        self, source: _Tensor, weights: Floats, bias: Floats, output: Quantisation, name: str
    ) -> _Tensor:
        matrix = _int8(self, weights, weights.shape)
        offsets = self.tensor("bias", bias.shape, content=bias)
        return _connected(self, source, matrix, offsets, name, version=3)


class _DynamicConvolution(_Graph):
    """The same by a convolution of 1 x 1."""

    def dense(
        self, source: _Tensor, weights: Floats, bias: Floats, output: Quantisation, name: str
    ) -> _Tensor:
        rows, columns = weights.shape
        image = self.reshape(source, (1, 1, 1, columns))
        kernel = _int8(self, weights, (rows, 1, 1, columns))
        offsets = self.tensor("bias", bias.shape, content=bias)
        result = self.tensor("convolved", (1, 1, 1, rows))
        options = schema.Conv2DOptionsT(strideH=1, strideW=1, padding=schema.Padding.VALID)
        self.operator(
            "CONV_2D", [image, kernel, offsets], [result], ("Conv2DOptions", options), version=2
        )
        return self.reshape(result, (1, rows))


def classifier(kind: Kind, size: Size = (32, 32)) -> bytes:
    """Tell the dominant mean colour of the image; classes as in `COLOURS`, scores by softmax.

    Args:
        kind: how weights are kept; `float16_input` takes a float16 image instead.
        size: height, width of the input.
    """
    graph = {"float16": _Half, "dynamic": _Dynamic, "dynamic_conv": _DynamicConvolution}.get(
        kind, _Graph
    )()
    image = seen = graph.image("float32", size)
    if kind == "float16_input":
        image = graph.tensor("half_image", (1, *size, 3), "float16")
        options = ("DequantizeOptions", schema.DequantizeOptionsT())
        graph.operator("DEQUANTIZE", [image], [seen], options, version=3)
    logits = _colour_logits(graph, seen, 0, "logits")
    return graph.finish([image], [graph.softmax(logits)])


def _int8(graph: _Graph, weights: Floats, shape: tuple[int, ...]) -> _Tensor:
    scale = float(np.abs(weights).max()) / 127
    values = np.rint(weights / scale).reshape(shape)
    return graph.tensor("weights", shape, "int8", Quantisation(scale, 0), values)


def _connected(
    graph: _Graph, source: _Tensor, matrix: _Tensor, bias: _Tensor, name: str, version: int = 1
) -> _Tensor:
    result = graph.tensor(name, (source.shape[0], matrix.shape[0]))
    options = ("FullyConnectedOptions", schema.FullyConnectedOptionsT())
    graph.operator("FULLY_CONNECTED", [source, matrix, bias], [result], options, version)
    return result
