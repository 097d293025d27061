"""Byte flips in a real model that load and lie: the golden set catches every one.

Every one, that is, that changes the best label of an image: pack takes only images of which that is
further from the next than any device may be off. A blank image and noise show nothing that has a
name; most changes there are caught as well.
A flip that a hash would catch is made on purpose behind it: this is about models that were damaged
or quantised wrongly before they were signed.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FLIPS = Path(__file__).parent / "sim" / "byteflips.py"


def flipped(data: Path, folder: Path, first: int, last: int) -> dict[str, int]:
    """Flip bytes with these seeds, in a child: flipped models may crash what runs them."""
    done = subprocess.run(
        [sys.executable, FLIPS, data, folder, str(first), str(last)],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": f"{FLIPS.parents[2]}:{FLIPS.parents[1]}"},
    )
    counts: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    print(counts)  # shown with -s
    return counts


def check(counts: dict[str, int], tried: int) -> None:
    assert counts["tried"] == tried
    assert counts["loaded"] > tried // 2
    assert counts["images"] >= 2
    assert counts["top1 changed"] > 0
    assert counts["top1 changed, caught"] == counts["top1 changed"]


def test_some_flips(shared_data, tmp_path) -> None:
    check(flipped(shared_data, tmp_path, 0, 60), 60)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_many_flips(shared_data, tmp_path) -> None:
    check(flipped(shared_data, tmp_path, 0, 3000), 3000)
