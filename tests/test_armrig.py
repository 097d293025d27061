"""What is pure of the arm64 rig: two machines' answers compared, boards as the kernel has them."""

from __future__ import annotations

import numpy as np
import pytest
from sim.armboard import PI_4, PI_5
from sim.twoarch import Apart, compare

NAMES = ("cat.png", "dog.png")


def answers(*outputs: list[int], given: bool = False, level: int = 7) -> dict[str, np.ndarray]:
    """As `sim.answers` writes them: model `m` in `litert`, one output for each of NAMES."""
    arrays: dict[str, np.ndarray] = {}
    for name, output in zip(NAMES, outputs, strict=False):
        arrays[f"input/m/{name}"] = np.full((1, 2, 2, 3), level, np.uint8)
        arrays[f"own/litert/m/{name}"] = np.array([output], np.uint8)
        if given:
            arrays[f"given/litert/m/{name}"] = np.array([output], np.uint8)
    return arrays


def test_equal_answers_are_not_apart() -> None:
    here, there = answers([0, 255], [9, 3]), answers([0, 255], [9, 3], given=True)

    assert compare(here, there, "litert", "m") == Apart(2, 0, 0, 0, (), 0)


def test_the_most_of_all_images_counts_and_does_not_wrap_round() -> None:
    here, there = answers([0, 255], [9, 3]), answers([1, 255], [12, 3], given=True, level=9)
    there["given/litert/m/dog.png"] = np.array([[4, 3]], np.uint8)

    assert compare(here, there, "litert", "m") == Apart(2, 2, 5, 3, (), 0)


def test_a_best_label_that_turns_is_told_with_its_lead() -> None:
    here, there = answers([200, 90], [50, 53]), answers([201, 90], [54, 53], given=True)

    assert compare(here, there, "litert", "m") == Apart(2, 0, 4, 4, ("dog.png",), 3)


@pytest.mark.parametrize(
    "there",
    [
        answers([0, 255], given=True),
        answers([0, 255, 1], [9, 3, 1], given=True),
        {},
    ],
    ids=["image missing", "another shape", "nothing"],
)
def test_what_cannot_be_compared_is_no_agreement(there: dict[str, np.ndarray]) -> None:
    with pytest.raises(AssertionError):
        compare(answers([0, 255], [9, 3]), there, "litert", "m")


def test_no_answers_at_all_are_no_agreement() -> None:
    with pytest.raises(AssertionError, match="no answers of m in litert"):
        compare({}, {}, "litert", "m")


def test_real_numbers_have_no_steps() -> None:
    here, there = answers([0, 255], [9, 3]), answers([0, 255], [9, 3], given=True)
    for arrays in (here, there):
        for key in arrays:
            arrays[key] = arrays[key].astype(np.float32)

    with pytest.raises(AssertionError, match="integers"):
        compare(here, there, "litert", "m")


def test_boards_are_described_as_their_kernels_do(tmp_path) -> None:
    # MIDR_EL1 of Cortex-A72 r0p3 and Cortex-A76 r4p1, from Arm's reference manuals.
    assert (PI_4.midr, PI_5.midr) == (0x410FD083, 0x414FD0B1)
    PI_5.write(tmp_path / "pi")
    cores = (tmp_path / "pi/cpuinfo").read_text().split("\n\n")[:-1]
    assert [core.splitlines()[0] for core in cores] == [f"processor\t: {n}" for n in range(4)]
    assert all("CPU part\t: 0xd0b" in core and " asimddp\n" in core for core in cores)
    assert "asimddp" not in PI_4.cpuinfo()
    described = tmp_path / "pi/sys/devices/system/cpu"
    assert (described / "possible").read_text() == "0-3\n"
    assert (described / "cpu3/regs/identification/midr_el1").read_text() == "0x00000000414fd0b1\n"
