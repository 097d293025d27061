"""Fuzz target: the zip of a package and the golden set in it.

With atheris: `python tests/fuzz/fuzz_package.py -max_total_time=600`.
"""

import io
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from fuzz.runner import run, variations
from sim import packages

from edged.errors import VerifyError
from edged.models.archive import read_directory, read_entry
from edged.models.golden import read_golden

LIMIT_BYTES = 2**20


def TestOneInput(data: bytes) -> None:  # noqa: N802  # the name that atheris asks for
    file = io.BytesIO(data)
    try:
        entries = read_directory(file, most_entries=8, most_bytes=LIMIT_BYTES)
        assert sum(sum(map(len, read_entry(file, entry))) for entry in entries) <= LIMIT_BYTES
    except VerifyError:
        pass
    try:
        golden = read_golden(data, 2)
        assert golden.samples == 2
    except VerifyError:
        pass


def corpus() -> list[bytes]:
    package = packages.archive(packages.parts())
    return variations(package) + variations(packages.contents()["golden.npz"])


if __name__ == "__main__":
    run(TestOneInput, corpus())
