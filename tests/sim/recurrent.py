"""Small real .tflite files that remember: states fed back, and states kept inside.

Each counts how much red, green and blue it has seen since it began, and answers the softmax of the
three sums: `FOUND[0]` after more red than green and blue. A colour counts from 0 (none of it) to 1
a frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from sim.models import FOUND, DType, Quantisation, Size, _for_dtype, _Graph, _Tensor

# Sums up to 31 in steps of 1/8, as int8 writes them.
_SUMS = Quantisation(1 / 8, -128)
_SHAPE = (1, len(FOUND))


class Ends(NamedTuple):
    """What the two ends of a state are called."""

    source: str
    feeder: str


NAMED = Ends("raw_inputs/init_sum", "raw_outputs/sum")


def counter(
    dtype: DType = "float32",
    size: Size = (16, 16),
    ends: Ends = NAMED,
    mismatch: Literal["shape", "type", "quantisation", "at_run"] | None = None,
    *,
    open_axes: Sequence[int] = (),
    nan_on_black: bool = False,
) -> bytes:
    """Count in one state, shape (1, 3).

    Args:
        dtype: of image, state and scores.
        size: height, width of the image.
        ends: names of the state's two ends.
        mismatch: what of the output differs from the input: another axis in front, float32 beside
            a quantised input, another step, or a shape that shows only after an invoke.
        open_axes: axes whose size the file leaves open in the image.
        nan_on_black: whether a black image leaves a state of NaN, though the scores are fine;
            float32 only.
    """
    graph = _Graph()
    image = graph.image(dtype, size, open_axes=open_axes)
    before = graph.tensor(ends.source, _SHAPE, dtype, _sums(dtype))
    after = _added(graph, before, _bright(graph, image), "sum")
    left = after
    if mismatch == "shape":
        left = graph.reshape(after, (1, *_SHAPE))
    elif mismatch == "type":
        left = graph.dequantise(after)
    elif mismatch == "quantisation":
        step = _for_dtype(_SUMS._replace(scale=1 / 4), dtype)
        left = graph.tensor("other step", _SHAPE, dtype, step)
        graph.operator("QUANTIZE", [after], [left], version=2)
    elif mismatch == "at_run":
        left = _turned_at_run(graph, after)
    if nan_on_black:
        left = _added(graph, after, _nan_on_black(graph, image), "spoilt")
    _rename(graph, left, ends.feeder)
    return graph.finish([before, image], [_scores(graph, after), left])


def two_states(
    first: Ends = Ends("sum_in", "sum_out"),
    second: Ends = Ends("last_in", "last_out"),
    signature: tuple[Ends, Ends] | None = None,
    *,
    size: Size = (16, 16),
) -> bytes:
    """Count, and count the frame before once more: two float32 states of the same shape.

    Args:
        first: names of the sum's two ends.
        second: names of the two ends of what the last frame had.
        signature: what a SignatureDef calls them.
        size: height, width of the image.
    """
    graph = _Graph()
    image = graph.image("float32", size)
    total = graph.tensor(first.source, _SHAPE)
    last = graph.tensor(second.source, _SHAPE)
    bright = _bright(graph, image)
    both = _added(graph, bright, last, "both")
    after = _added(graph, total, both, first.feeder)
    # An output of its own: the sum below must not see the one that is fed back.
    left = _added(graph, bright, graph.tensor("zero", _SHAPE, content=np.zeros(_SHAPE)), "left")
    _rename(graph, left, second.feeder)
    scores = _scores(graph, after)
    inputs, outputs = [image, total, last], [left, scores, after]
    if signature is None:
        return graph.finish(inputs, outputs)
    names = signature[0], signature[1]
    table = schema.SignatureDefT(
        inputs=_maps(["image", names[0].source, names[1].source], inputs),
        outputs=_maps([names[1].feeder, "scores", names[0].feeder], outputs),
        signatureKey="serving_default",
    )
    return graph.finish(inputs, outputs, signature=table)


def numbered(size: Size = (16, 16)) -> bytes:
    """Classify by how many frames there were, a state without axes: red up to 2, then green."""
    graph = _Graph()
    image = graph.image("float32", size)
    before = graph.tensor("init_frame", ())
    after = graph.tensor("frame", ())
    one = graph.tensor("one", (), content=np.ones(()))
    graph.operator("ADD", [before, one], [after], ("AddOptions", schema.AddOptionsT()))
    # The image has no say, but must not be left out.
    nothing = graph.dense(
        graph.reshape(graph.pool(image, 1), _SHAPE), np.zeros((3, 3)), np.zeros(3), _SUMS, "nothing"
    )
    frames = graph.tensor("frames", _SHAPE)
    graph.operator("ADD", [nothing, after], [frames], ("AddOptions", schema.AddOptionsT()))
    logits = graph.dense(
        frames, np.diag([0.0, 10.0, 0.0]), np.array([0.0, -25.0, -99.0]), _SUMS, "logits"
    )
    return graph.finish([image, before], [_scores(graph, logits), after])


def hidden_counter(size: Size = (16, 16)) -> bytes:
    """Count in a variable tensor, as LSTM operators do; float32. Red counts twice."""
    graph = _Graph()
    image = graph.image("float32", size)
    means = graph.reshape(graph.pool(image, 1), _SHAPE)
    colours, worth = np.eye(len(FOUND)), np.array([2.0, 1.0, 1.0])
    weights = graph.tensor("weights", colours.shape, content=colours * worth / 2)
    recurrent = graph.tensor("recurrent", colours.shape, content=colours)
    bias = graph.tensor("bias", worth.shape, content=worth / 2)
    state = graph.tensor("state", _SHAPE, variable=True)
    after = graph.tensor("after", _SHAPE)
    graph.operator(
        "RNN",
        [means, weights, recurrent, bias, state],
        [after],
        ("RNNOptions", schema.RNNOptionsT()),
    )
    return graph.finish([image], [_scores(graph, after)])


def resource_counter(size: Size = (16, 16)) -> bytes:
    """Count in a resource variable, as models with tf.Variable do; float32."""
    graph = _Graph()
    image = graph.image("float32", size)
    begin = graph.beside()
    zero = begin.tensor("zero", _SHAPE, content=np.zeros(_SHAPE))
    begin.operator("ASSIGN_VARIABLE", [_handle(begin), zero], [])
    once = ("CallOnceOptions", schema.CallOnceOptionsT(initSubgraphIndex=1))
    graph.operator("CALL_ONCE", [], [], once)
    handle = _handle(graph)
    before = graph.tensor("before", _SHAPE)
    graph.operator("READ_VARIABLE", [handle], [before])
    after = _added(graph, before, _bright(graph, image), "after")
    graph.operator("ASSIGN_VARIABLE", [handle, after], [])
    return graph.finish([image], [_scores(graph, after)], [begin.subgraph([], [])])


def _handle(graph: _Graph) -> _Tensor:
    handle = graph.tensor("handle", (), "resource")
    options = schema.VarHandleOptionsT(container="", sharedName="sum")
    graph.operator("VAR_HANDLE", [], [handle], ("VarHandleOptions", options))
    return handle


def _bright(graph: _Graph, image: _Tensor) -> _Tensor:
    """Return how much of each colour the image has, 0..1, as the sums are written."""
    means = graph.reshape(graph.pool(image, 1), _SHAPE)
    colours = np.eye(len(FOUND))
    return graph.dense(means, colours / 2, np.full(len(FOUND), 0.5), _SUMS, "bright")


def _turned_at_run(graph: _Graph, sums: _Tensor) -> _Tensor:
    """Return a column that is declared a row: its shape is worked out, and not a constant."""
    part = np.array(_SHAPE[::-1]) - 1
    halves = [graph.tensor(name, (2,), "int32", content=values)
              for name, values in (("part", part), ("rest", np.ones(2)))]  # fmt: skip
    shape = graph.tensor("worked out", (2,), "int32")
    graph.operator("ADD", halves, [shape], ("AddOptions", schema.AddOptionsT()))
    turned = graph.like("turned", sums, _SHAPE)
    graph.operator("RESHAPE", [sums, shape], [turned])
    return turned


def _nan_on_black(graph: _Graph, image: _Tensor) -> _Tensor:
    """Return zeros, and for a black image NaN."""
    means = graph.reshape(graph.pool(image, 1), _SHAPE)
    any_colour = np.ones((len(FOUND), len(FOUND))) / 2
    bias = np.full(len(FOUND), len(FOUND) / 2 - 0.01)
    total = graph.dense(means, any_colour, bias, _SUMS, "total")
    root = graph.like("root", total, _SHAPE)
    graph.operator("SQRT", [total], [root])
    return graph.dense(root, np.zeros((3, 3)), np.zeros(3), _SUMS, "nothing")


def _added(graph: _Graph, one: _Tensor, other: _Tensor, name: str) -> _Tensor:
    total = graph.like(name, one, _SHAPE)
    version = 2 if one.dtype == "int8" else 1
    options = ("AddOptions", schema.AddOptionsT())
    graph.operator("ADD", [one, other], [total], options, version)
    return total


def _scores(graph: _Graph, sums: _Tensor) -> _Tensor:
    return graph.softmax(sums)


def _sums(dtype: str) -> Quantisation | None:
    return None if dtype == "float32" else _for_dtype(_SUMS, dtype)


def _rename(graph: _Graph, tensor: _Tensor, name: str) -> None:
    graph._tensors[tensor.index].name = name


def _maps(names: Sequence[str], tensors: Sequence[_Tensor]) -> list[schema.TensorMapT]:
    return [
        schema.TensorMapT(name=name, tensorIndex=tensor.index)
        for name, tensor in zip(names, tensors, strict=True)
    ]
