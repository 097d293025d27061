"""Well-formed models that do harm: each classifies colours as `models.classifier` does, until.

All are float32 and take an image of 32 x 32. What happens was found out by experiment with LiteRT
2.3 and tflite-runtime 2.14, and is the same with both: neither notices a graph that contains
itself, and kernels abort on scales that no converter writes.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from sim.models import Quantisation, _colour_logits, _Graph, _pack, _Tensor

Harm = Literal["abort", "endless"]

_SIZE = (32, 32)
_CLASSES = (1, 4)
_ABSURD = Quantisation(1e9, 0)  # beside a step of 1 the kernel of ADD aborts
_NEVER = 1e30


class _Graphs:
    """A model of several subgraphs; the first is the model's own."""

    def __init__(self) -> None:
        self.main = self._added = _Graph()
        self._all = [(self.main, [], [])]

    def branch(self) -> _Graph:
        """Begin a subgraph, of which operators such as IF speak by its number, from 1."""
        graph = _Graph()
        graph._buffers, graph._codes = self.main._buffers, self.main._codes
        return graph

    def close(self, graph: _Graph, inputs: list[_Tensor], outputs: list[_Tensor]) -> None:
        """Say what goes into a branch and comes out."""
        self._all.append((graph, inputs, outputs))

    def finish(self, inputs: list[_Tensor], outputs: list[_Tensor]) -> bytes:
        self._all[0] = (self.main, inputs, outputs)
        subgraphs = [
            schema.SubGraphT(
                tensors=graph._tensors,
                inputs=[tensor.index for tensor in ins],
                outputs=[tensor.index for tensor in outs],
                operators=graph._operators,
                name=f"graph {number}",
            )
            for number, (graph, ins, outs) in enumerate(self._all)
        ]
        return _pack(
            schema.ModelT(
                version=3,
                operatorCodes=self.main._codes,
                subgraphs=subgraphs,
                description="edged test model",
                buffers=self.main._buffers,
            )
        )


def _number(graph: _Graph, name: str, value: float) -> _Tensor:
    return graph.tensor(name, (), content=np.array(value))


def _largest(graph: _Graph, source: _Tensor) -> _Tensor:
    axes = graph.tensor("axes", (2,), "int32", content=np.array([0, 1]))
    largest = graph.tensor("largest", ())
    graph.operator(
        "REDUCE_MAX", [source, axes], [largest], ("ReducerOptions", schema.ReducerOptionsT())
    )
    return largest


def _compare(graph: _Graph, operator: str, source: _Tensor, limit: float) -> _Tensor:
    answer = graph.tensor("answer", (), "bool")
    options = getattr(schema, f"{operator.title()}OptionsT")()
    inputs = [_largest(graph, source), _number(graph, "limit", limit)]
    graph.operator(operator, inputs, [answer], (f"{operator.title()}Options", options))
    return answer


def _sum(graph: _Graph, one: _Tensor, other: _Tensor, name: str) -> _Tensor:
    total = graph.like(name, one, one.shape)
    graph.operator("ADD", [one, other], [total], ("AddOptions", schema.AddOptionsT()))
    return total


def segfault_at_load() -> bytes:
    """Name the graph itself as the body of its loop: the stack overflows, SIGSEGV."""
    graphs = _Graphs()
    image = graphs.main.image("float32", _SIZE)
    left = _loop(graphs.main, image, condition=1, body=0)
    condition = graphs.branch()
    source = condition.tensor("source", image.shape)
    line = condition.reshape(source, (1, 3 * _SIZE[0] * _SIZE[1]))
    graphs.close(condition, [source], [_compare(condition, "LESS", line, _NEVER)])
    return graphs.finish([image], [left])


def abort_at_load() -> bytes:
    """Ask for a ratio of scales that the kernel holds to be impossible: SIGABRT."""
    graph = _Graph()
    image = graph.image("float32", _SIZE)
    logits = _colour_logits(graph, image, 0, "logits")
    return graph.finish([image], [graph.softmax(_aborting(graph, logits))])


def _aborting(graph: _Graph, source: _Tensor) -> _Tensor:
    step = Quantisation(1.0, 0)
    absurd = graph.tensor("absurd", source.shape, "uint8", _ABSURD)
    graph.operator("QUANTIZE", [source], [absurd], ("QuantizeOptions", schema.QuantizeOptionsT()))
    zeros = graph.tensor("zeros", source.shape, "uint8", step, np.zeros(source.shape))
    total = graph.tensor("total", source.shape, "uint8", step)
    graph.operator("ADD", [absurd, zeros], [total], ("AddOptions", schema.AddOptionsT()))
    return graph.dequantise(total)


def harm_at_frame(frame: int, harm: Harm = "abort") -> bytes:
    """Behave for `frame` frames since the state was set back, and do harm in the next."""
    graphs = _Graphs()
    graph = graphs.main
    image = graph.image("float32", _SIZE)
    logits = _colour_logits(graph, image, 0, "logits")
    count = _counted(graph, logits)
    return _harm_if(graphs, image, logits, _compare(graph, "GREATER", count, frame), harm)


def harm_when_bright(brightness: float, harm: Harm = "abort") -> bytes:
    """Behave, and do harm for an image whose brightest channel's mean is above this, -1..1."""
    graphs = _Graphs()
    graph = graphs.main
    image = graph.image("float32", _SIZE)
    logits = _colour_logits(graph, image, 0, "logits")
    mean = graph.reshape(graph.pool(image, 1), (1, 3))
    return _harm_if(graphs, image, logits, _compare(graph, "GREATER", mean, brightness), harm)


def _counted(graph: _Graph, source: _Tensor) -> _Tensor:
    """Count invokes in the state of a recurrent layer: relu(0 * source + 1 * state + 1)."""
    columns = source.shape[1]
    inputs = [
        source,
        graph.tensor("input weights", (1, columns), content=np.zeros((1, columns))),
        graph.tensor("recurrent weights", (1, 1), content=np.ones((1, 1))),
        graph.tensor("one", (1,), content=np.ones(1)),
        graph.tensor("state", (1, 1), variable=True),
    ]
    count = graph.tensor("count", (1, 1))
    relu = schema.ActivationFunctionType.RELU
    options = ("RNNOptions", schema.RNNOptionsT(fusedActivationFunction=relu))
    graph.operator("RNN", inputs, [count], options)
    return count


def _harm_if(
    graphs: _Graphs, image: _Tensor, logits: _Tensor, condition: _Tensor, harm: Harm
) -> bytes:
    graph = graphs.main
    result = graph.like("result", logits, _CLASSES)
    options = schema.IfOptionsT(thenSubgraphIndex=1, elseSubgraphIndex=2)
    graph.operator("IF", [condition, logits], [result], ("IfOptions", options))
    then = graphs.branch()
    source = then.tensor("source", _CLASSES)
    harmful = _aborting(then, _sized_at_run(then, source)) if harm == "abort" else None
    if harmful is None:
        harmful = _loop(then, source, condition=3, body=4)
    graphs.close(then, [source], [harmful])
    otherwise = graphs.branch()
    source = otherwise.tensor("source", _CLASSES)
    zeros = otherwise.tensor("zeros", _CLASSES, content=np.zeros(_CLASSES))
    graphs.close(otherwise, [source], [_sum(otherwise, source, zeros, "same")])
    if harm == "endless":
        _halving_loop(graphs)
    return graphs.finish([image], [graph.softmax(result)])


def _sized_at_run(graph: _Graph, source: _Tensor) -> _Tensor:
    """Return zeros whose shape only the values tell: what follows is prepared when it runs."""
    flat = graph.tensor("first two", (1, 2))
    begin = graph.tensor("begin", (2,), "int32", content=np.zeros(2))
    size = graph.tensor("size", (2,), "int32", content=np.array([1, 2]))
    graph.operator("SLICE", [source, begin, size], [flat], ("SliceOptions", schema.SliceOptionsT()))
    whole = graph.tensor("whole", (1, 2), "int32")
    graph.operator("CAST", [flat], [whole], ("CastOptions", schema.CastOptionsT(outDataType=2)))
    line = graph.reshape(whole, (2,))
    shape = graph.tensor("clipped", (2,), "int32")
    ones = graph.tensor("ones", (2,), "int32", content=np.ones(2))
    options = ("MaximumMinimumOptions", schema.MaximumMinimumOptionsT())
    graph.operator("MINIMUM", [line, ones], [shape], options)
    at_least = graph.tensor("at least one", (2,), "int32")
    graph.operator("MAXIMUM", [shape, ones], [at_least], options)
    filled = graph.tensor("filled", _CLASSES)
    options = ("FillOptions", schema.FillOptionsT())
    graph.operator("FILL", [at_least, _number(graph, "zero", 0.0)], [filled], options)
    return filled


def _loop(graph: _Graph, source: _Tensor, condition: int, body: int) -> _Tensor:
    left = graph.like("left", source, source.shape)
    options = schema.WhileOptionsT(condSubgraphIndex=condition, bodySubgraphIndex=body)
    graph.operator("WHILE", [source], [left], ("WhileOptions", options))
    return left


def _halving_loop(graphs: _Graphs) -> None:
    """Add condition and body of a loop that halves its values while they are below 1e30."""
    condition = graphs.branch()
    source = condition.tensor("source", _CLASSES)
    graphs.close(condition, [source], [_compare(condition, "LESS", source, _NEVER)])
    body = graphs.branch()
    source = body.tensor("source", _CLASSES)
    half = body.tensor("half", _CLASSES, content=np.full(_CLASSES, 0.5))
    halved = body.like("halved", source, _CLASSES)
    body.operator("MUL", [source, half], [halved], ("MulOptions", schema.MulOptionsT()))
    graphs.close(body, [source], [halved])


def endless() -> bytes:
    """Loop for ever in the first invoke: a WHILE whose condition stays true."""
    graphs = _Graphs()
    graph = graphs.main
    image = graph.image("float32", _SIZE)
    logits = _colour_logits(graph, image, 0, "logits")
    left = _loop(graph, logits, condition=1, body=2)
    _halving_loop(graphs)
    return graphs.finish([image], [graph.softmax(left)])


def slow(rounds: int) -> bytes:
    """Count to `rounds` in every invoke before answering: some 1 us each."""
    graphs = _Graphs()
    graph = graphs.main
    image = graph.image("float32", _SIZE)
    logits = _colour_logits(graph, image, 0, "logits")
    start = graph.tensor("start", _CLASSES, content=np.zeros(_CLASSES))
    # The loop begins at 0 for every image: the logits times nothing.
    none = graph.like("none", logits, _CLASSES)
    graph.operator("MUL", [logits, start], [none], ("MulOptions", schema.MulOptionsT()))
    counted = _loop(graph, none, condition=1, body=2)
    condition = graphs.branch()
    source = condition.tensor("source", _CLASSES)
    graphs.close(condition, [source], [_compare(condition, "LESS", source, rounds)])
    body = graphs.branch()
    source = body.tensor("source", _CLASSES)
    ones = body.tensor("ones", _CLASSES, content=np.ones(_CLASSES))
    graphs.close(body, [source], [_sum(body, source, ones, "next")])
    # All classes get the same count, which softmax ignores.
    return graphs.finish([image], [graph.softmax(_sum(graph, logits, counted, "total"))])


def huge(gibibytes: float) -> bytes:
    """Need a tensor of this size, though the file is small."""
    graph = _Graph()
    image = graph.image("float32", _SIZE)
    logits = _colour_logits(graph, image, 0, "logits")
    rows = int(gibibytes * 2**30 / 16)
    times = graph.tensor("times", (2,), "int32", content=np.array([rows, 1]))
    large = graph.tensor("large", (rows, 4))
    graph.operator("TILE", [logits, times], [large], ("TileOptions", schema.TileOptionsT()))
    axis = graph.tensor("axis", (1,), "int32", content=np.zeros(1))
    small = graph.tensor("small", _CLASSES)
    options = ("ReducerOptions", schema.ReducerOptionsT(keepDims=True))
    graph.operator("REDUCE_MAX", [large, axis], [small], options)
    return graph.finish([image], [graph.softmax(small)])


def constant() -> bytes:
    """Say the same of every image: red."""
    graph = _Graph()
    image = graph.image("float32", _SIZE)
    logits = _colour_logits(graph, image, 0, "logits")
    none = graph.like("none", logits, _CLASSES)
    zeros = graph.tensor("zeros", _CLASSES, content=np.zeros(_CLASSES))
    graph.operator("MUL", [logits, zeros], [none], ("MulOptions", schema.MulOptionsT()))
    red = graph.tensor("red", _CLASSES, content=np.array([[3.0, 0.0, 0.0, 0.0]]))
    return graph.finish([image], [graph.softmax(_sum(graph, none, red, "answer"))])


def abort_at_exit() -> bytes:
    """Spoil the heap: all goes well until memory is freed.

    The kernel of RESHAPE copies the bytes of its input whatever the type of its output. What
    becomes of that depends on what lies behind; with LiteRT 2.3 on x86-64 it is SIGABRT after the
    last line of the program.
    """
    graph = _Graph()
    image = graph.image("float32", _SIZE)
    logits = _colour_logits(graph, image, 0, "logits")
    words = graph.tensor("words", (320,), "int32", content=np.ones(320))
    shape = graph.tensor("shape", (2,), "int32", content=np.array([1, 320]))
    octets = graph.tensor("octets", (1, 320), "uint8", Quantisation(0.5, 0))
    options = ("ReshapeOptions", schema.ReshapeOptionsT(newShape=[1, 320]))
    graph.operator("RESHAPE", [words, shape], [octets], options)
    doubled = graph.like("doubled", octets, octets.shape)
    graph.operator("ADD", [octets, octets], [doubled], ("AddOptions", schema.AddOptionsT()))
    zeros, nothing = np.zeros((4, 320)), np.zeros(4)
    none = graph.dense(graph.dequantise(doubled), zeros, nothing, Quantisation(1.0, 0), "none")
    return graph.finish([image], [graph.softmax(_sum(graph, logits, none, "total"))])


def leaking(mebibytes: int, after: int) -> bytes:
    """Behave for `after` frames, then take so much more memory with each and give none back."""
    graph = _Graph()
    image = graph.image("float32", _SIZE)
    logits = _colour_logits(graph, image, 0, "logits")
    over = graph.tensor("frames over", (1, 1))
    relu = schema.ActivationFunctionType.RELU
    options = ("SubOptions", schema.SubOptionsT(fusedActivationFunction=relu))
    inputs = [_counted(graph, logits), _number(graph, "well behaved", after)]
    graph.operator("SUB", inputs, [over], options)
    wanted = graph.tensor("rows wanted", (1, 1))
    step = _number(graph, "rows a frame", mebibytes * 2**20 / 16)
    graph.operator("MUL", [over, step], [wanted], ("MulOptions", schema.MulOptionsT()))
    rows = _sum(graph, wanted, graph.tensor("one row", (1, 1), content=np.ones((1, 1))), "rows")
    whole = graph.tensor("whole", (1, 1), "int32")
    graph.operator("CAST", [rows], [whole], ("CastOptions", schema.CastOptionsT(outDataType=2)))
    columns = graph.tensor("columns", (1,), "int32", content=np.array([4]))
    shape = graph.tensor("shape", (2,), "int32")
    options = ("ConcatenationOptions", schema.ConcatenationOptionsT())
    graph.operator("CONCATENATION", [graph.reshape(whole, (1,)), columns], [shape], options)
    large = graph.tensor("large", (1, 4))
    value = _number(graph, "zero", 0.0)
    graph.operator("FILL", [shape, value], [large], ("FillOptions", schema.FillOptionsT()))
    first = graph.tensor("first row", _CLASSES)
    begin = graph.tensor("begin", (2,), "int32", content=np.zeros(2))
    size = graph.tensor("size", (2,), "int32", content=np.array(_CLASSES))
    graph.operator("SLICE", [large, begin, size], [first], ("SliceOptions", schema.SliceOptionsT()))
    return graph.finish([image], [graph.softmax(_sum(graph, logits, first, "answer"))])
