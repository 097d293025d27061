"""What inputs and outputs are for: image, states, results; and what is refused by name."""

import pytest
from sim import models, recurrent
from sim.recurrent import Ends

from edged.errors import ValidationError
from edged.inference.modelfile import read_model_file
from edged.inference.signature import Signature, read_signature, stem
from edged.inference.tensors import TensorSpec

IMAGE = ("image", (1, 8, 8, 3), "uint8", 1 / 128, 128)
SCORES = ("scores", (1, 4), "uint8", 1 / 256, 0)


def state(name: str, shape=(1, 16), dtype="float32", scale=0.0, zero_point=0) -> tuple:
    return name, shape, dtype, scale, zero_point


def specs(*tensors: tuple) -> list[TensorSpec]:
    return [
        TensorSpec(name, i, shape, dtype, scale, zero_point)
        for i, (name, shape, dtype, scale, zero_point) in enumerate(tensors)
    ]


@pytest.mark.parametrize(
    ("source", "feeder", "common"),
    [
        ("raw_inputs/init_lstm_c", "raw_outputs/lstm_c", "lstm_c"),
        ("inputs/rnn1", "outputs/rnn1", "rnn1"),
        ("state_in", "state_out", "state"),
        ("prev_h", "new_h", "h"),
        ("initial_h", "next_h", "h"),
        ("serving_default_input_memory:0", "model/output_memory", "memory"),
        ("h_prev", "H", "h"),
        ("a/b/init_state_in:0", "state_out:0", "state"),
    ],
)
def test_both_ends_of_a_state_have_one_stem(source, feeder, common) -> None:
    assert (stem(source), stem(feeder)) == (common, common)


@pytest.mark.parametrize(
    "name",
    ["StatefulPartitionedCall:1", "PartitionedCall:0", "Identity_2", "input_1", "output", "args_0",
     "serving_default_input_1:0", "outputs/3", "", "tensor_7"],
)  # fmt: skip
def test_a_number_is_no_name(name) -> None:
    assert stem(name) == ""


@pytest.mark.parametrize(
    ("inputs", "outputs", "expected"),
    [
        ([IMAGE], [SCORES], Signature(0, (), (0,))),
        # One input is the image, whatever an output looks like.
        ([IMAGE], [IMAGE, SCORES], Signature(0, (), (0, 1))),
        ([state("h_in"), IMAGE], [SCORES, state("h_out")], Signature(1, ((0, 1),), (0,))),
        # Of two of the same content the name tells.
        (
            [IMAGE, state("init_c"), state("init_h")],
            [state("h"), SCORES, state("c")],
            Signature(0, ((1, 2), (2, 0)), (1,)),
        ),
        # Without names the content tells.
        (
            [state("a"), state("b", (1, 32)), IMAGE],
            [state("x", (1, 32)), state("y"), SCORES],
            Signature(2, ((0, 1), (1, 0)), (2,)),
        ),
        # A name pairs one, the content the other.
        (
            [IMAGE, state("init_c"), state("b")],
            [SCORES, state("c"), state("z")],
            Signature(0, ((1, 1), (2, 2)), (0,)),
        ),
        # A name that several have says nothing; their shapes do.
        (
            [IMAGE, state("one/c"), state("two/c", (1, 32))],
            [SCORES, state("x"), state("y", (1, 32))],
            Signature(0, ((1, 1), (2, 2)), (0,)),
        ),
        # A state may look like an image, a number is known by its name.
        (
            [state("mask", (1, 8, 8, 1)), IMAGE, state("init_count", ())],
            [state("x", (1, 8, 8, 1)), SCORES, state("count", ())],
            Signature(1, ((0, 0), (2, 2)), (1,)),
        ),
    ],
)
def test_what_tensors_are_for(inputs, outputs, expected) -> None:
    assert read_signature(specs(*inputs), specs(*outputs)) == expected


def test_the_signature_s_names_come_before_those_of_the_tensors() -> None:
    inputs = specs(IMAGE, state("sum_in"), state("last_in"))
    outputs = specs(state("sum_out"), state("last_out"), SCORES)

    swapped = read_signature(inputs, outputs, ("image", "a", "b"), ("b", "a", "scores"))

    assert read_signature(inputs, outputs).states == ((1, 0), (2, 1))
    assert swapped.states == ((1, 1), (2, 0))


@pytest.mark.parametrize(
    ("inputs", "outputs", "reason", "named"),
    [
        ([], [SCORES], "model_inputs_unsupported", "no input"),
        ([IMAGE, ("right", *IMAGE[1:])], [SCORES], "model_inputs_unsupported", "right"),
        ([IMAGE, state("threshold", (1, 2))], [SCORES], "model_inputs_unsupported", "threshold"),
        ([state("a"), state("b")], [state("c"), SCORES], "model_inputs_unsupported", "'b'"),
        # What would be fed back is all there is to read.
        ([IMAGE, state("a", (1, 4))], [state("b", (1, 4))], "model_inputs_unsupported", "'a'"),
        # A threshold and a count are single numbers of the same type.
        ([IMAGE, state("least", (1,))], [SCORES, state("count", (1,))],
         "model_inputs_unsupported", "least"),
        ([IMAGE, state("h_in", (1, 0))], [SCORES, state("h_out", (1, 0))],
         "model_inputs_unsupported", "h_in"),
        ([IMAGE, state("text_in", (1,), "bytes")], [SCORES, state("text_out", (1,), "bytes")],
         "model_inputs_unsupported", "text_in"),
        ([IMAGE, state("a"), state("b")], [SCORES, state("c"), state("d")],
         "state_ambiguous", "'a'.*'b'.*'c'.*'d'"),
        ([IMAGE, state("a")], [SCORES, state("c"), state("d")], "state_ambiguous", "'c'.*'d'"),
        ([IMAGE, ("frame", *IMAGE[1:])], [("x", *IMAGE[1:]), SCORES],
         "state_ambiguous", "'image'.*'frame'"),
        ([IMAGE, state("h_in")], [SCORES, state("h_out", (1, 17))],
         "state_mismatch", "'h_out' float32 .1, 17.*'h_in' float32 .1, 16.*shape"),
        ([IMAGE, state("h_in")], [SCORES, state("h_out", dtype="int8")],
         "state_mismatch", "h_out.*h_in.*type"),
        ([IMAGE, state("h_in", (1, 4), "uint8", 0.5, 3)],
         [SCORES, state("h_out", (1, 4), "uint8", 0.25, 3)],
         "state_mismatch", "h_out.*h_in.*step 0.5, zero point 3; step 0.25, zero point 3"),
        ([IMAGE, state("h_in", (1, 4), "uint8", 0.5, 3)],
         [SCORES, state("h_out", (1, 4), "uint8", 0.5, 4)], "state_mismatch", "zero point 4"),
        ([state("a"), ("i", (1, 128), "float32", 0.0, 0)], [SCORES, state("x")],
         "model_inputs_unsupported", "'i'"),
        ([("input", (1, 128), "float32", 0.0, 0)], [SCORES], "model_input_unsupported", "input"),
        ([("input", (1, 8, 8, 4), "uint8", 0.0, 0)], [SCORES], "model_input_unsupported", "input"),
        ([("input", (2, 8, 8, 3), "uint8", 0.0, 0)], [SCORES], "model_input_unsupported", "input"),
        ([("input", (1, 8, 8, 3), "int64", 0.0, 0)], [SCORES], "model_input_unsupported", "int64"),
        ([("input", (1, 8, 8, 3), "float16", 0.0, 0)], [SCORES],
         "model_input_unsupported", "float16"),
        ([("input", (1, 0, 8, 3), "uint8", 0.0, 0)], [SCORES], "model_input_unsupported", "input"),
    ],
)  # fmt: skip
def test_what_does_not_follow_is_refused_by_name(inputs, outputs, reason, named) -> None:
    with pytest.raises(ValidationError, match=named) as caught:
        read_signature(specs(*inputs), specs(*outputs))

    assert caught.value.reason == reason


@pytest.mark.parametrize("which", ["image", "state", "feeder"])
def test_sizes_left_open_are_refused(which) -> None:
    tensors = {
        "image": TensorSpec("image", 0, (1, 1, 1, 3), "uint8", open_sizes=which == "image"),
        "state": TensorSpec("h_in", 1, (1, 1), "float32", open_sizes=which == "state"),
        "feeder": TensorSpec("h_out", 2, (1, 1), "float32", open_sizes=which == "feeder"),
    }

    with pytest.raises(ValidationError, match=tensors[which].name):
        read_signature([tensors["image"], tensors["state"]], [tensors["feeder"], *specs(SCORES)])


def test_the_file_gives_the_signature_s_names() -> None:
    names = (Ends("total", "total"), Ends("before", "before"))
    file = read_model_file(recurrent.two_states(signature=names))

    assert file.input_names == ("image", "total", "before")
    assert file.output_names == ("before", "scores", "total")
    plain = read_model_file(models.classifier())
    assert (plain.input_names, plain.output_names) == (("",), ("",))


def test_the_file_tells_what_a_model_remembers() -> None:
    hidden = read_model_file(recurrent.hidden_counter())
    resource = read_model_file(recurrent.resource_counter())
    fed = read_model_file(recurrent.counter())

    assert (hidden.keeps_state, hidden.assigns_variables) == (True, False)
    assert (resource.keeps_state, resource.assigns_variables) == (False, True)
    assert (fed.keeps_state, fed.assigns_variables) == (False, False)


def test_the_file_gives_the_size_of_the_input_that_is_asked_for() -> None:
    file = read_model_file(recurrent.counter(size=(16, 32)))

    assert (file.input_size(0), file.input_size(1)) == (None, (16, 32))
