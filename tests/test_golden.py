"""The golden set: read under limits, compared in steps, told in words."""

import io
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sim import packages
from sim.packages import Part, archive

from edged.errors import VerifyError
from edged.models.golden import Comparison, Constancy, Golden, read_golden, write_golden
from edged.prediction import FoundObject, Objects


def golden(samples: int = 3) -> Golden:
    generator = np.random.default_rng(1)
    return Golden(
        (
            generator.integers(0, 256, (samples, 1, 4, 4, 3)).astype(np.uint8),
            generator.normal(size=(samples, 1, 8)).astype(np.float32),
        ),
        (
            generator.integers(-128, 128, (samples, 1, 5)).astype(np.int8),
            np.zeros((samples, 1), np.bool_),
            np.arange(samples, dtype=np.int64),
        ),
    )


def test_what_is_written_is_read_by_us_and_by_numpy() -> None:
    data = write_golden(golden())

    found = read_golden(data, 3)
    theirs = np.load(io.BytesIO(data), allow_pickle=False)

    for ours, name, sent in zip(
        (*found.inputs, *found.outputs),
        ("input_0", "input_1", "output_0", "output_1", "output_2"),
        (*golden().inputs, *golden().outputs),
        strict=True,
    ):
        assert ours.dtype == theirs[name].dtype == sent.dtype
        assert np.array_equal(ours, sent)
        assert np.array_equal(theirs[name], sent)
    assert found.samples == 3
    assert data == write_golden(golden())


def npy(array, **kwargs) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, **kwargs)
    return file.getvalue()


def header(text: str, content: bytes = bytes(16), version: bytes = b"\1\0") -> bytes:
    raw = text.encode() + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(raw)) + raw + content


def npz(**files: bytes) -> bytes:
    return archive([Part(f"{name}.npy".encode(), content) for name, content in files.items()])


def facts(descr="'|u1'", shape="(2, 8)", order="False") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"


GOOD = npy(np.zeros((2, 8), np.uint8))
BAD = {
    "nothing": b"",
    "no zip": b"\x93NUMPY" * 20,
    "no input": npz(output_0=GOOD),
    "no output": npz(input_0=GOOD),
    "a gap in the numbers": npz(input_0=GOOD, input_2=GOOD, output_0=GOOD),
    "another name": npz(input_0=GOOD, output_0=GOOD, weights=GOOD),
    "a leading zero": npz(input_00=GOOD, output_0=GOOD),
    "a pickle": npz(input_0=npy(np.array([{}, {}], object), allow_pickle=True), output_0=GOOD),
    "a bare pickle": npz(input_0=b"\x80\x04N.", output_0=GOOD),
    "an object type": npz(input_0=header(facts("'|O'")), output_0=GOOD),
    "a text type": npz(input_0=npy(np.array(["a", "b"])), output_0=GOOD),
    "complex numbers": npz(input_0=npy(np.zeros((2, 1), np.complex64)), output_0=GOOD),
    "big-endian": npz(input_0=npy(np.zeros((2, 1), ">f4")), output_0=GOOD),
    "a record": npz(input_0=npy(np.zeros(2, [("a", "u1")])), output_0=GOOD),
    "other samples": npz(input_0=npy(np.zeros((3, 8), np.uint8)), output_0=GOOD),
    "no samples": npz(input_0=npy(np.zeros((), np.uint8)), output_0=GOOD),
    "columns first": npz(input_0=npy(np.asfortranarray(np.zeros((2, 8), np.uint8))), output_0=GOOD),
    "more than it says": npz(input_0=GOOD + b"x", output_0=GOOD),
    "less than it says": npz(input_0=GOOD[:-1], output_0=GOOD),
    "no content": npz(input_0=b"", output_0=GOOD),
    "a header cut": npz(input_0=GOOD[:20], output_0=GOOD),
    "another width": npz(input_0=header(facts("'<f8'")), output_0=GOOD),
    "a huge shape": npz(input_0=header(facts(shape="(2, 99999999999)")), output_0=GOOD),
    "a product that wraps": npz(
        input_0=header(facts(shape=f"(2, {', '.join(['65536'] * 4)}, 1)"), b""), output_0=GOOD
    ),
    "a negative shape": npz(input_0=header(facts(shape="(2, -8)")), output_0=GOOD),
    "code for a shape": npz(input_0=header(facts(shape="(2, __import__('os'))")), output_0=GOOD),
    "deep brackets": npz(input_0=header(facts(shape="(" * 5000)), output_0=GOOD),
    "version 2": npz(input_0=header(facts(), version=b"\2\0"), output_0=GOOD),
    "NaN": npz(input_0=GOOD, output_0=npy(np.full((2, 1), np.nan, np.float32))),
    "infinite": npz(input_0=npy(np.full((2, 1), np.inf, np.float16)), output_0=GOOD),
    "neither true nor false": npz(input_0=header(facts("'|b1'"), b"\7" * 16), output_0=GOOD),
    "too many": npz(**{f"input_{n}": GOOD for n in range(99)}, output_0=GOOD,
                    **{f"output_{n}": GOOD for n in range(1, 60)}),
    "a bomb": archive([Part(b"input_0.npy", b"", packed=packages.deflate(bytes(2**20)))]),
    "too large": archive(
        [Part(b"input_0.npy", GOOD, local={"size": 2**28}, central={"size": 2**28})]
    ),
    "a link": archive([Part(b"input_0.npy", GOOD, attributes=0o120777 << 16)]),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_golden_set_is_refused(case) -> None:
    with pytest.raises(VerifyError) as caught:
        read_golden(BAD[case], 2)
    assert caught.value.reason == "golden_invalid"


def test_the_good_parts_are_good() -> None:
    """The cases above are refused for what is wrong with them, not for what they share."""
    assert read_golden(npz(input_0=GOOD, output_0=GOOD), 2).samples == 2
    assert read_golden(npz(input_0=header(facts()), output_0=GOOD), 2).samples == 2


def test_a_savez_of_numpy_is_refused_and_says_what_to_do() -> None:
    """numpy writes its archives in zip64, which packages do not have."""
    file = io.BytesIO()
    np.savez(file, input_0=np.zeros((2, 8)), output_0=np.zeros((2, 8)))
    assert zipfile.is_zipfile(file)
    with pytest.raises(VerifyError) as caught:
        read_golden(file.getvalue(), 2)
    assert "edgectl model pack" in caught.value.explain()


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_in_one_way(data) -> None:
    with pytest.raises(VerifyError):
        read_golden(data, 2)


@given(st.binary(max_size=300), st.integers(0, 130))
def test_any_bytes_in_an_array_are_taken_or_refused(tail, keep) -> None:
    try:
        read_golden(npz(input_0=GOOD[:keep] + tail, output_0=GOOD), 2)
    except VerifyError as error:
        assert error.reason == "golden_invalid"


def step(expected, actual, steps=6) -> Comparison:
    comparison = Comparison(steps)
    comparison.add([np.asarray(expected)], [np.asarray(actual)])
    return comparison


def test_agreement_is_told_with_the_worst_sample() -> None:
    comparison = Comparison(6)
    base = np.array([[10, 200, 30]], np.uint8)
    for number in range(16):
        off = np.array([[0, 9 if number == 4 else number % 5, 0]], np.uint8)
        comparison.add([base], [base + off])

    assert comparison.agreement.describe() == "15/16 agree, worst 9 steps, sample 4"
    assert not comparison.agreement.passed


@pytest.mark.parametrize(("actual", "passed"), [(16, True), (17, False), (4, True), (3, False)])
def test_the_tolerance_is_inclusive(actual, passed) -> None:
    assert step(np.uint8([10]), np.uint8([actual])).agreement.passed is passed


def test_steps_do_not_wrap_round() -> None:
    assert step(np.uint8([0]), np.uint8([255])).agreement.describe().endswith("255 steps, sample 0")
    assert "255 steps" in step(np.int8([127]), np.int8([-128])).agreement.describe()
    assert (
        "4294967295 steps" in step(np.int32([2**31 - 1]), np.int32([-(2**31)])).agreement.describe()
    )


def test_no_tolerance_means_equal() -> None:
    assert step(np.uint8([5]), np.uint8([5]), 0).agreement.describe() == "1/1 agree"
    assert not step(np.uint8([5]), np.uint8([6]), 0).agreement.passed


def test_real_outputs_are_held_against_the_largest() -> None:
    expected = np.float32([0.9, 0.05, 0.0])

    assert step(expected, expected + np.float32([0.008, 0, 0.008])).agreement.passed
    far = step(expected, expected + np.float32([0, 0, 0.012])).agreement
    assert (far.passed, far.describe()) == (False, "0/1 agree, worst 1.3 %, sample 0")
    assert not step(np.float32([0.0]), np.float32([1e-9])).agreement.passed


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_never_agrees(value) -> None:
    agreement = step(np.float32([1, 2]), np.float32([1, value])).agreement

    assert (agreement.passed, agreement.worst) == (False, "not finite")


def test_another_shape_or_type_never_agrees() -> None:
    assert not step(np.zeros((1, 4), np.uint8), np.zeros((1, 5), np.uint8)).agreement.passed
    assert not step(np.zeros((1, 4), np.uint8), np.zeros((1, 4), np.int8)).agreement.passed


def found(*rows) -> Objects:
    return Objects(tuple(FoundObject(label, score, box) for label, score, box in rows))


BOX = (0.1, 0.1, 0.5, 0.5)
MOVED = (0.1, 0.1, 0.5, 0.58)


@pytest.mark.parametrize(
    ("actual", "passed"),
    [
        (found(("cat", 0.9, BOX), ("dog", 0.4, BOX)), True),
        (found(("dog", 0.45, BOX), ("cat", 0.85, BOX)), True),  # in another order
        (found(("cat", 0.9, BOX), ("dog", 0.4, BOX), ("hen", 0.1, BOX)), True),
        (found(("cat", 0.9, BOX)), False),
        (found(("cat", 0.9, BOX), ("dog", 0.4, BOX), ("hen", 0.6, BOX)), False),
        (found(("cow", 0.9, BOX), ("dog", 0.4, BOX)), False),
        (found(("cat", 0.9, MOVED), ("dog", 0.4, BOX)), False),
        (found(("cat", 0.7, BOX), ("dog", 0.4, BOX)), False),
    ],
)
def test_objects_are_matched(actual, passed) -> None:
    comparison = Comparison(6)
    comparison.add_objects(found(("cat", 0.9, BOX), ("dog", 0.4, BOX)), actual)

    assert comparison.agreement.passed is passed
    assert passed or "found" in comparison.agreement.describe()


def test_constant_outputs_are_told_from_others() -> None:
    constancy = Constancy()
    same = np.uint8([1, 2, 3])
    for _ in range(3):
        constancy.add([same, np.float32([0.5])])
    assert constancy.constant
    constancy.add([same, np.float32([0.5 + 1e-8])])
    assert constancy.constant
    constancy.add([same, np.float32([0.501])])
    assert not constancy.constant
    constancy.add([same, np.float32([0.5])])
    assert not constancy.constant


def test_not_a_number_for_every_input_is_constant() -> None:
    constancy = Constancy()
    for _ in range(2):
        constancy.add([np.full(3, np.nan, np.float32)])
    assert constancy.constant
